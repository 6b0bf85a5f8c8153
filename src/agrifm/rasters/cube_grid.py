"""Where the pixels of a cube lie: the CRS and the coordinates of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from agrifm.errors import InputError, counted
from agrifm.rasters.cube_file import Axes, axes_of, changed_at, open_cube, read_coordinate, refusing_damage, variable_of
from agrifm.rasters.grid import check_grid
from agrifm.rasters.pixels import with_epsg_code

if TYPE_CHECKING:
    import xarray as xr

DEGREES = ("lon", "longitude")  # names of axes in degrees


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
    left, dx = _edge_and_step(path, array, axes.x)
    top, dy = _edge_and_step(path, array, axes.y)
    affine = Affine(dx, 0, left, 0, dy, top)
    box = with_epsg_code(GeoBox((array.sizes[axes.y], array.sizes[axes.x]), affine, crs))
    check_grid(box, f"{path}: {variable}")
    return box


def _edge_and_step(path: str, array: xr.DataArray, axis: str) -> tuple[float, float]:
    """Outer border of the first pixel, and the step along an axis of pixel centers."""
    with refusing_damage(path):
        stored = read_coordinate(path, array[axis]) if axis in array.coords else np.zeros(1)
        centers = stored.astype(np.float64)
    count = len(centers)
    if count < 2:
        raise _irregular(path, array, axis, "no two coordinates")
    step = (centers[-1] - centers[0]) / (count - 1)
    # Degrees in single precision are rounded to some tenths of a pixel.
    rounding = float(np.spacing(np.abs(stored).max())) if stored.dtype.kind == "f" else 0.0
    largest_deviation = np.abs(np.diff(centers) - step).max()
    # Written so that NaN is refused, too.
    if not (abs(step) > 4 * rounding and largest_deviation <= 0.01 * abs(step) + rounding):
        raise _irregular(path, array, axis, f"{counted(count, 'coordinate')} that are not evenly spaced")
    first = centers[0]
    if rounding > 1e-3 * abs(step):
        # A line through all centers is more accurate than one through two rounded ones.
        step, first = np.polyfit(np.arange(count), centers, 1)
    return float(round(first - step / 2, 9)), float(round(step, 9))


def _irregular(path: str, array: xr.DataArray, axis: str, found: str) -> InputError:
    return InputError(
        f"{path}: axis {axis} of {array.name}",
        found=found,
        expected="coordinates of pixel centers on a regular grid",
        repair="re-grid the cube, or write the coordinates in double precision.",
    )


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
        with suppress(ValueError, KeyError, TypeError, RuntimeError):  # an incomplete grid mapping is no CRS
            return CRS(pyproj.CRS.from_cf(dict(attributes)))
    return None
