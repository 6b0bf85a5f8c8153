"""Cubes: netCDF and Zarr files with a time axis, read by rows, columns and date.

Variables are bands, or one variable has a band axis. Several files may share the bands of a sensor.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from agrifm.errors import InputError
from agrifm.scenes.names import CUBE, Piece, parse_day
from agrifm.scenes.raster import CubeBand, named, unreadable, warped, wide_enough
from agrifm.scenes.scene import Units

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (".nc", ".nc4", ".cdf", ".zarr")
TIMES = ("time", "t", "timestamp", "date")
ACROSS = ("x", "lon", "longitude", "easting")
DOWN = ("y", "lat", "latitude", "northing")
DEGREES = ("lon", "longitude")
CHUNKS = 64 * 2**20  # bytes of decompressed chunks kept for each variable: chunks often span many dates

_LOCK = Lock()  # HDF5 takes one thread at a time


@dataclass(frozen=True)
class Axes:
    """Names of a variable's axes."""

    y: str
    x: str
    time: str | None = None
    band: str | None = None


def is_cube(path: Path) -> bool:
    """Whether a path is a netCDF file or a Zarr store."""
    return path.suffix.lower() in SUFFIXES or any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def find_pieces(path: Path, day: dt.date | None = None) -> list[Piece]:
    """Every band of every date in a cube; none if nothing in it has a time.

    Args:
        path: of the cube.
        day: of variables without a time.

    Raises:
        InputError: it does not open, or its time axis holds no dates.
    """
    cube = _open(path)
    return [piece for name in cube.data_vars for piece in _pieces(path, cube[name], day)]


def read_band(band: CubeBand, box: GeoBox, fill: float, *, average: bool = True) -> np.ndarray:
    """One date of one variable on another grid ``(h, w)``, as ``FileBand.read`` does; only what lies under it is read.

    Raises:
        InputError: the cube does not open, or a part of it cannot be read.
    """
    path = Path(band.href)
    array, source = _variable(path, band.variable), grid_of(path, band.variable)
    nodata = band.nodata if band.nodata is not None else _filler(array)
    way = compute_reproject_roi(source, box)
    under, into = (tuple(slice(part.start, part.stop) for part in roi) for roi in (way.roi_src, way.roi_dst))
    out = np.full(box.shape, fill, wide_enough(array.dtype.name, fill))
    if 0 in source[under].shape:
        return out
    values = _load(path, array, band, under)
    if not (way.paste_ok and way.read_shrink == 1):
        return _resample(values, source[under], box, fill, nodata, average)
    missing = np.isnan(values) if nodata is None or np.isnan(nodata) else values == nodata
    out[into] = np.where(missing, np.asarray(fill, out.dtype), values.astype(out.dtype))
    return out


def grid_of(path: Path, variable: str) -> GeoBox:
    """The grid of a variable.

    Raises:
        InputError: the cube does not open, or the variable has no place on the ground.
    """
    return _grid(str(path), _changed(path), variable)


def stored_as(path: Path, variable: str) -> tuple[str, float | None]:
    """The data type of a variable, and what marks a missing pixel in it, if the cube says so."""
    return _stored(str(path), _changed(path), variable)


@lru_cache(maxsize=256)
def _stored(path: str, changed: int, variable: str) -> tuple[str, float | None]:
    array = _variable(Path(path), variable)
    return array.dtype.name, _filler(array)


def _open(path: Path) -> xr.Dataset:
    changed = _changed(path)
    with _LOCK:
        return _opened(str(path), changed, os.getpid())


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise unreadable(path, error) from error


@lru_cache(maxsize=8)
def _opened(path: str, changed: int, process: int) -> xr.Dataset:
    """The open cube; an open file must not be shared with another process."""
    import xarray as xr

    try:
        if Path(path).is_dir():
            return xr.open_dataset(path, engine="zarr", mask_and_scale=False, consolidated=_consolidated(Path(path)))
        with open(path, "rb") as file:
            classic = file.read(3) == b"CDF"
        if classic:
            return xr.open_dataset(path, engine="scipy", mask_and_scale=False)
        keep = {"rdcc_nbytes": CHUNKS}
        return xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False, driver_kwds=keep)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise unreadable(path, error) from error


def _consolidated(store: Path) -> bool:
    """Whether the metadata of a Zarr store, of format 2 or 3, are in one place."""
    whole = store / "zarr.json"
    if not whole.is_file():
        return (store / ".zmetadata").is_file()
    return json.loads(whole.read_text(encoding="utf-8")).get("consolidated_metadata") is not None


def _variable(path: Path, name: str) -> xr.DataArray:
    cube = _open(path)
    if name in cube.data_vars:
        return cube[name]
    raise InputError(
        path,
        found=f"variables {', '.join(map(str, cube.data_vars))}",
        expected=name,
        repair="open the scene again; the file has changed since.",
    )


def _axes(array: xr.DataArray) -> Axes | None:
    """The axes; None if the variable is no image or has an axis that nobody knows."""
    lower = {str(name).lower(): str(name) for name in array.dims}
    x, y = (next((lower[name] for name in names if name in lower), None) for names in (ACROSS, DOWN))
    rest = [str(name) for name in array.dims if name not in (x, y)]
    dates = [name for name in rest if name.lower() in TIMES or (name in array.coords and array[name].dtype.kind == "M")]
    time = dates[0] if dates else None
    bands = [name for name in rest if name != time]
    if x is None or y is None or len(bands) > 1 or any(name not in array.coords for name in bands):
        return None
    return Axes(y, x, time, bands[0] if bands else None)


def _pieces(path: Path, array: xr.DataArray, named: dt.date | None) -> Iterator[Piece]:
    axes = _axes(array)
    if axes is None or array.dtype.kind not in "iufb":
        return
    bands = [str(value) for value in array[axes.band].values] if axes.band else [None]
    seen: Counter = Counter()
    for step, day in enumerate(_days(path, array, axes, named)):
        for band in bands:
            yield Piece(
                raster=CubeBand(str(path), str(array.name), step if axes.time else None, band=band),
                name=band or str(array.name),
                day=day,
                group=str(path),
                layout=CUBE,
                shown=f"{array.name} in {path.name}",
                stamp=day.isoformat(),
                order=str(seen[day]),
                units=_units(array, path),
            )
        seen[day] += 1


def _days(path: Path, array: xr.DataArray, axes: Axes, named: dt.date | None) -> list[dt.date]:
    """Days along the time axis; without one, that of a single time, or ``named``."""
    time = axes.time or _moment(array)
    if time is None:
        return [] if named is None else [named]
    values = array[time].values if time in array.coords else np.arange(array.sizes[time])
    values = np.atleast_1d(values)
    days = [_day(value) for value in values]
    if None in days:
        raise InputError(
            f"{path}: axis {time} of {array.name}",
            found=f"values such as {values[days.index(None)]}",
            expected="dates of the standard calendar",
            repair="write the axis as CF times, e.g. with the attribute units = 'days since 1970-01-01'.",
        )
    return [day for day in days if day is not None]


def _moment(array: xr.DataArray) -> str | None:
    """The name of a coordinate that is one time for the whole variable."""
    names = [str(name) for name in array.coords if array.coords[name].ndim == 0]
    return next((name for name in names if name.lower() in TIMES or array.coords[name].dtype.kind == "M"), None)


def _day(value: Any) -> dt.date | None:
    # Dates of other calendars are objects of their own type.
    known = isinstance(value, (np.datetime64, np.integer, str))
    return parse_day(str(value)[:10]) if known else None


def _units(array: xr.DataArray, path: Path) -> Units | None:
    scale, offset = array.attrs.get("scale_factor"), array.attrs.get("add_offset", 0.0)
    return None if scale is None else Units(float(scale), float(offset), f"scale_factor in {path.name}")


def _filler(array: xr.DataArray) -> float | None:
    found = (array.attrs.get(name) for name in ("_FillValue", "missing_value", "nodata", "NoData"))
    return next((float(value) for value in found if value is not None), None)


@lru_cache(maxsize=256)
def _grid(path: str, changed: int, variable: str) -> GeoBox:
    array = _variable(Path(path), variable)
    axes = _axes(array)
    crs = _crs(_open(Path(path)), array, axes) if axes else None
    if axes is None or crs is None:
        raise InputError(
            f"{path}: {variable}",
            found="no CRS",
            expected="a grid mapping (spatial_ref) or an attribute 'crs'",
            repair="write it, e.g. with rioxarray: cube.rio.write_crs('EPSG:32631').to_netcdf(...).",
        )
    (left, dx), (top, dy) = (_line(path, array, name) for name in (axes.x, axes.y))
    affine = Affine(dx, 0, left, 0, dy, top)
    return named(GeoBox((array.sizes[axes.y], array.sizes[axes.x]), affine, crs))


def _line(path: str, array: xr.DataArray, axis: str) -> tuple[float, float]:
    """Outer border of the first pixel and the step along an axis of pixel centers."""
    centers = array[axis].values.astype(np.float64) if axis in array.coords else np.zeros(1)
    step = (centers[-1] - centers[0]) / max(1, len(centers) - 1)
    if step == 0 or np.abs(np.diff(centers) - step).max() > 0.01 * abs(step):
        raise InputError(
            f"{path}: axis {axis} of {array.name}",
            found=f"{len(centers)} coordinate(s) that are not evenly spaced"
            if len(centers) > 1
            else "no two coordinates",
            expected="coordinates of pixel centers on a regular grid",
            repair="re-grid the cube, or write the coordinates.",
        )
    return float(round(centers[0] - step / 2, 9)), float(round(step, 9))


def _crs(cube: xr.Dataset, array: xr.DataArray, axes: Axes) -> CRS | None:
    mapping = array.attrs.get("grid_mapping") or array.encoding.get("grid_mapping") or cube.attrs.get("grid_mapping")
    holders = [cube[name].attrs for name in (mapping, "spatial_ref", "crs") if name in cube.variables]
    found = (_crs_in(attributes) for attributes in (*holders, array.attrs, cube.attrs))
    return next((crs for crs in found if crs), CRS("EPSG:4326") if axes.x.lower() in DEGREES else None)


def _crs_in(attributes: Mapping[Any, Any]) -> CRS | None:
    for name in ("crs_wkt", "spatial_ref", "crs", "proj4", "epsg"):
        text = re.sub(r"^\+init=|^(?=\d+$)", lambda match: "" if match[0] else "EPSG:", str(attributes.get(name, "")))
        try:
            if text:
                return CRS(text.upper() if text.lower().startswith("epsg:") else text)
        except (ValueError, RuntimeError):  # the second is pyproj's
            continue
    if "grid_mapping_name" in attributes:
        import pyproj

        return CRS(pyproj.CRS.from_cf(dict(attributes)))
    return None


def _load(path: Path, array: xr.DataArray, band: CubeBand, part: tuple[slice, ...]) -> np.ndarray:
    """Rows and columns of one date, rows first, in native byte order."""
    axes = _axes(array)
    if axes is None:
        raise unreadable(path, ValueError(f"{band.variable} is no image"))
    where: dict[str, Any] = {axes.y: part[0], axes.x: part[1]}
    where |= {axes.time: band.step} if axes.time else {}
    where |= {axes.band: [str(value) for value in array[axes.band].values].index(str(band.band))} if axes.band else {}
    try:
        with _LOCK:
            values = array.isel(where).transpose(axes.y, axes.x).values
    except (OSError, ValueError, IndexError, RuntimeError) as error:
        raise unreadable(path, error) from error
    return values.astype(values.dtype.newbyteorder("="))


def _resample(
    values: np.ndarray, grid: GeoBox, box: GeoBox, fill: float, nodata: float | None, average: bool
) -> np.ndarray:
    """Let GDAL do it, as it does for files."""
    if grid.affine.e > 0:
        values, grid = values[::-1], grid.flipy()
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": 1}
    try:
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff", dtype=values.dtype, crs=str(grid.crs), transform=grid.affine, **shape
            ) as file:
                file.write(values, 1)
            with memory.open() as file:
                return warped(file, 1, box, fill, nodata=nodata, average=average)
    except RasterioError as error:
        raise unreadable("a part of a cube", error) from error
