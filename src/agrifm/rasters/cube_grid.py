"""Where the pixels of a cube lie: the CRS and the coordinates of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from agrifm.errors import InputError
from agrifm.rasters.cube_file import Axes, axes_of, changed_at, open_cube, read_coordinate, refused, variable_of
from agrifm.rasters.grid import check_grid
from agrifm.rasters.pixels import named

if TYPE_CHECKING:
    import xarray as xr

DEGREES = ("lon", "longitude")


def grid_of(path: Path, variable: str) -> GeoBox:
    """The grid of a variable.

    Raises:
        InputError: If the cube does not open, or the variable has no place on the ground.
    """
    return _grid(str(path), changed_at(path), variable)


@lru_cache(maxsize=256)
def _grid(path: str, changed: int, variable: str) -> GeoBox:
    array = variable_of(Path(path), variable)
    axes = axes_of(array)
    crs = _crs(open_cube(Path(path)), array, axes) if axes else None
    if axes is None or crs is None:
        raise InputError(
            f"{path}: {variable}",
            found="no CRS",
            expected="a grid mapping (spatial_ref) or an attribute 'crs'",
            repair="write it, e.g. with rioxarray: cube.rio.write_crs('EPSG:32631').to_netcdf(...).",
        )
    (left, dx), (top, dy) = (_line(path, array, name) for name in (axes.x, axes.y))
    affine = Affine(dx, 0, left, 0, dy, top)
    box = named(GeoBox((array.sizes[axes.y], array.sizes[axes.x]), affine, crs))
    check_grid(box, f"{path}: {variable}")
    return box


def _line(path: str, array: xr.DataArray, axis: str) -> tuple[float, float]:
    """Outer border of the first pixel and the step along an axis of pixel centers."""
    with refused(path):
        stored = read_coordinate(path, array[axis]) if axis in array.coords else np.zeros(1)
        centers = stored.astype(np.float64)
    step = (centers[-1] - centers[0]) / max(1, len(centers) - 1) if len(centers) else 0
    # Degrees in single precision are rounded to some tenths of a pixel.
    rounding = float(np.spacing(np.abs(stored).max())) if stored.dtype.kind == "f" and len(centers) else 0.0
    allowed = 0.01 * abs(step) + rounding
    if not abs(step) > 4 * rounding or not np.abs(np.diff(centers) - step).max() <= allowed:
        raise InputError(
            f"{path}: axis {axis} of {array.name}",
            found=f"{len(centers)} coordinate(s) that are not evenly spaced"
            if len(centers) > 1
            else "no two coordinates",
            expected="coordinates of pixel centers on a regular grid",
            repair="re-grid the cube, or write the coordinates in double precision.",
        )
    first = centers[0]
    if rounding > 1e-3 * abs(step):
        # The line through all centers is truer than the one through two that are rounded.
        numbers = np.arange(len(centers))
        step, first = np.polyfit(numbers, centers, 1)
    return float(round(first - step / 2, 9)), float(round(step, 9))


def _crs(cube: xr.Dataset, array: xr.DataArray, axes: Axes) -> CRS | None:
    """CRS of a variable: that of its grid mapping, of its attributes, or degrees by the names of its axes."""
    mapping = None
    for attributes in (array.attrs, array.encoding, cube.attrs):
        stated = attributes.get("grid_mapping")
        if isinstance(stated, str) and stated:
            mapping = stated
            break
    holders = [cube[name].attrs for name in (mapping, "spatial_ref", "crs") if name in cube.variables]
    for attributes in (*holders, array.attrs, cube.attrs):
        crs = _crs_in(attributes)
        if crs:
            return crs
    return CRS("EPSG:4326") if axes.x.lower() in DEGREES else None


def _crs_in(attributes: Mapping[Any, Any]) -> CRS | None:
    """CRS that attributes state, in any of the usual ways."""
    for name in ("crs_wkt", "spatial_ref", "crs", "proj4", "epsg"):
        text = str(attributes.get(name, "")).removeprefix("+init=")
        if text.isdecimal():
            text = f"EPSG:{text}"
        try:
            if text:
                return CRS(text.upper() if text.lower().startswith("epsg:") else text)
        except (ValueError, RuntimeError):  # the second is pyproj's
            continue
    if "grid_mapping_name" in attributes:
        import pyproj

        with suppress(ValueError, KeyError, TypeError, RuntimeError):  # an incomplete grid mapping is no CRS
            return CRS(pyproj.CRS.from_cf(dict(attributes)))
    return None
