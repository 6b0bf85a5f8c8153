"""Cubes: netCDF and Zarr files with a time axis, read by rows, columns and date.

Variables are bands, or one variable has a band axis. Several files may share the bands of a sensor.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
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

from agrifm.errors import InputError, Unreadable, refusing
from agrifm.scenes.grid import LONGEST_SIDE, check_grid
from agrifm.scenes.names import CUBE, Piece, parse_day
from agrifm.scenes.raster import MOST_BLOCK, CubeBand, Pixels, marked, named, resampled, unreadable, whole_numbers
from agrifm.scenes.scene import Units

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (".nc", ".nc4", ".cdf", ".zarr")
TIMES = ("time", "t", "timestamp", "date")
ACROSS = ("x", "lon", "longitude", "easting")
DOWN = ("y", "lat", "latitude", "northing")
DEGREES = ("lon", "longitude")
MARKERS = ("_FillValue", "missing_value", "nodata", "NoData")  # attributes whose values mark missing pixels
METADATA = ("zarr.json", ".zmetadata")  # of a Zarr store; a folder does not change with the files in it
CHUNKS = 64 * 2**20  # bytes of decompressed chunks kept for each variable: chunks often span many dates

_LOCK = Lock()


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


def read_band(
    band: CubeBand, box: GeoBox, *, average: bool = True, limits: tuple[float, float] | None = None
) -> Pixels:
    """One date of one variable on another grid, as ``FileBand.read`` does; only what lies under it is read.

    Raises:
        InputError: the cube does not open, or a part of it cannot be read.
    """
    path = Path(band.href)
    array, source = _variable(path, band.variable), grid_of(path, band.variable)
    declared = Declared.of(array, path, band.nodata)
    way = compute_reproject_roi(source, box)
    under, into = (tuple(slice(part.start, part.stop) for part in roi) for roi in (way.roi_src, way.roi_dst))
    if 0 in source[under].shape:
        return Pixels(np.zeros(box.shape, declared.dtype), np.ones(box.shape, bool))
    stored = declared.pixels(_load(path, array, band, under))
    if not (way.paste_ok and way.read_shrink == 1):
        return resampled(stored, source[under], box, average=average, limits=limits)
    values, missing = np.zeros(box.shape, stored.values.dtype), np.ones(box.shape, bool)
    values[into], missing[into] = stored.values, stored.missing
    return Pixels(values, missing, stored.zero_marks)


@dataclass(frozen=True)
class Declared:
    """What a variable says of its stored numbers: their type and which of them are missing.

    Args:
        dtype: of the numbers, after ``_Unsigned``.
        markers: every value of ``_FillValue`` and ``missing_value``, or what the user says instead.
        lowest, highest: of ``valid_range``, ``valid_min`` and ``valid_max``, as stored.
    """

    dtype: np.dtype
    markers: tuple[float, ...]
    lowest: float = -math.inf
    highest: float = math.inf

    @classmethod
    def of(cls, array: xr.DataArray, path: Path, nodata: float | None = None) -> Declared:
        """Read the attributes of a variable; ``nodata`` replaces its markers.

        Raises:
            InputError: the variable holds no numbers, or an attribute is none.
        """
        where = f"{path}: {array.name}"
        stored = array.dtype.newbyteorder("=")
        if stored.kind not in "iuf":
            raise Unreadable(
                where,
                found=f"values of type {stored}",
                expected="integers or floating point numbers",
                repair="write the cube again with numbers.",
            )
        unsigned = str(array.attrs.get("_Unsigned", "")).lower()
        dtype = stored
        if stored.kind in "iu" and unsigned in ("true", "false"):
            dtype = np.dtype(f"{'u' if unsigned == 'true' else 'i'}{stored.itemsize}")
        markers = [number for name in MARKERS for number in _numbers(array.attrs.get(name))]
        # Fill values are written with the signed type, so that 255 may stand there as -1.
        markers = [_reinterpreted(number, stored, dtype) for number in markers]
        low, high = _valid_range(array, where)
        return cls(dtype, tuple(markers) if nodata is None else (nodata,), low, high)

    def pixels(self, stored: np.ndarray) -> Pixels:
        """Stored numbers, and which of them are missing."""
        values = stored.view(self.dtype)
        missing = marked(values, self.markers)
        if math.isfinite(self.lowest):
            missing |= values < self.lowest
        if math.isfinite(self.highest):
            missing |= values > self.highest
        return Pixels(values, missing, zero_marks=set(self.markers) == {0})


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
    declared = Declared.of(_variable(Path(path), variable), Path(path))
    return declared.dtype.name, next(iter(declared.markers), None)


def _open(path: Path) -> xr.Dataset:
    changed = _changed(path)
    with _locked(path):
        return _opened(str(path), changed, os.getpid())


def _changed(path: Path) -> int:
    files = [path, *(path / name for name in METADATA if (path / name).is_file())]
    try:
        return max(file.stat().st_mtime_ns for file in files)
    except OSError as error:
        raise unreadable(path, error) from error


@lru_cache(maxsize=8)
def _opened(path: str, changed: int, process: int) -> xr.Dataset:
    """The open cube; an open file must not be shared with another process."""
    import xarray as xr

    with _refused(path):
        if Path(path).is_dir():
            _check_zarr(path)
            return xr.open_dataset(path, engine="zarr", mask_and_scale=False, consolidated=_consolidated(Path(path)))
        with open(path, "rb") as file:
            classic = file.read(3) == b"CDF"
        if classic:
            return xr.open_dataset(path, engine="scipy", mask_and_scale=False)
        _check_hdf5(path)
        keep = {"rdcc_nbytes": CHUNKS}
        return xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False, driver_kwds=keep)


def _refused(path: str | Path) -> AbstractContextManager[None]:
    """Turn whatever the libraries raise on a damaged cube into one sentence."""
    return refusing(
        path,
        expected="a complete netCDF file or Zarr store",
        repair="copy or download it again, or leave it out with --skip-unreadable.",
        kind=Unreadable,
    )


def _check_zarr(path: str) -> None:
    """Refuse arrays whose axes or chunks would fill the memory; xarray loads whole axes as soon as it opens."""
    import zarr

    for name, array in zarr.open_group(path, mode="r").arrays():
        problem = _too_large(path, name, array.shape, array.shards or array.chunks, array.dtype.itemsize)
        if problem:
            raise problem


def _check_hdf5(path: str) -> None:
    """Refuse links to other files, and data sets whose axes or chunks would fill the memory."""
    import h5py

    # What a visitor returns ends the visit; an exception would lose its kind on the way through the library.
    def check_link(name: str, link: object) -> Unreadable | None:
        return _elsewhere(path, name) if isinstance(link, h5py.ExternalLink) else None

    def check_object(name: str, found: object) -> Unreadable | None:
        if not isinstance(found, h5py.Dataset):
            return None
        if found.external or found.is_virtual:
            return _elsewhere(path, name)
        return _too_large(path, name, found.shape or (), found.chunks or (), found.dtype.itemsize)

    with h5py.File(path, "r") as file:
        problem = file.visititems_links(check_link) or file.visititems(check_object)
    if problem:
        raise problem


def _elsewhere(path: str, name: str) -> Unreadable:
    return Unreadable(
        path,
        found=f"{name}, whose data lie in another file",
        expected="a cube that holds all of its data",
        repair="write the cube into one file, e.g. with 'nccopy' or xarray.",
    )


def _too_large(
    path: str, name: str, shape: tuple[int, ...], chunk: tuple[int, ...], itemsize: int
) -> Unreadable | None:
    if max(shape, default=0) <= LONGEST_SIDE and math.prod(chunk) * itemsize <= MOST_BLOCK:
        return None
    return Unreadable(
        path,
        found=f"{name} of shape {shape} in chunks of {chunk}",
        expected=f"axes of at most {LONGEST_SIDE:,} entries and chunks of at most {MOST_BLOCK:,} bytes",
        repair="write the cube again with smaller chunks, or get it again if it is damaged.",
    )


def _consolidated(store: Path) -> bool:
    """Whether the metadata of a Zarr store, of format 2 or 3, are in one place."""
    whole = store / "zarr.json"
    if not whole.is_file():
        return (store / ".zmetadata").is_file()
    return json.loads(whole.read_text(encoding="utf-8")).get("consolidated_metadata") is not None


def _loaded(path: str | Path, array: xr.DataArray) -> np.ndarray:
    """The values of a coordinate."""
    with _refused(path), _locked(path):
        return array.values


def _locked(path: str | Path) -> AbstractContextManager[Any]:
    """HDF5 and classic netCDF take one thread at a time; Zarr reads its chunks side by side."""
    return nullcontext() if Path(path).is_dir() else _LOCK


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
    bands = [str(value) for value in _loaded(path, array[axes.band])] if axes.band else [None]
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
    values = _loaded(path, array[time]) if time in array.coords else np.arange(array.sizes[time])
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
    """Scale and offset, unless they say nothing; an offset may stand without a scale."""
    scale, offset = (_numbers(array.attrs.get(name)) for name in ("scale_factor", "add_offset"))
    if not scale and (not offset or offset == [0.0]):
        return None
    source = "scale_factor" if scale else "add_offset"
    units = Units((scale or [1.0])[0], (offset or [0.0])[0], f"{source} in {path.name}")
    if not (math.isfinite(units.scale) and math.isfinite(units.offset) and units.scale):
        raise InputError(
            f"{path}: {array.name}",
            found=f"scale_factor {units.scale:g} and add_offset {units.offset:g}",
            expected="finite numbers, and a scale other than 0",
            repair="correct these attributes of the variable, e.g. with ncatted or xarray.",
        )
    return units


def _numbers(attribute: Any) -> list[float]:
    """The numbers of an attribute, which may be a number, an array or text; what is no number is left out."""
    numbers = []
    for value in np.ravel(np.asarray(attribute, object) if attribute is not None else []):
        for entry in np.ravel(value):
            with suppress(TypeError, ValueError):
                numbers.append(float(entry))
    return numbers


def _reinterpreted(number: float, stored: np.dtype, dtype: np.dtype) -> float:
    """A fill value of the stored type as a number of the type that ``_Unsigned`` names."""
    if stored == dtype or not math.isfinite(number) or number != int(number):
        return number
    lowest, highest = whole_numbers(stored)
    return float(np.array(int(number), stored).view(dtype)) if lowest <= number <= highest else number


def _valid_range(array: xr.DataArray, where: str) -> tuple[float, float]:
    """Lowest and highest valid number, as stored.

    By the netCDF conventions, limits of a wider type than the stored numbers are meant after scaling.
    """
    both = _numbers(array.attrs.get("valid_range"))
    low, high = _numbers(array.attrs.get("valid_min")), _numbers(array.attrs.get("valid_max"))
    limits = [*(both[:1] or low[:1] or [-math.inf]), *(both[1:2] or high[:1] or [math.inf])]
    kinds = [np.asarray(array.attrs.get(name, 0)).dtype.kind for name in ("valid_range", "valid_min", "valid_max")]
    units = _units(array, Path(where))
    if "f" in kinds and array.dtype.kind in "iu" and units is not None:
        limits = sorted((limit - units.offset) / units.scale for limit in limits)
    return limits[0], limits[1]


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
    box = named(GeoBox((array.sizes[axes.y], array.sizes[axes.x]), affine, crs))
    check_grid(box, f"{path}: {variable}")
    return box


def _line(path: str, array: xr.DataArray, axis: str) -> tuple[float, float]:
    """Outer border of the first pixel and the step along an axis of pixel centers."""
    with _refused(path):
        stored = _loaded(path, array[axis]) if axis in array.coords else np.zeros(1)
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
    stated = (holder.get("grid_mapping") for holder in (array.attrs, array.encoding, cube.attrs))
    mapping = next((name for name in stated if isinstance(name, str) and name), None)
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

        with suppress(ValueError, KeyError, TypeError, RuntimeError):  # an incomplete grid mapping is no CRS
            return CRS(pyproj.CRS.from_cf(dict(attributes)))
    return None


def _load(path: Path, array: xr.DataArray, band: CubeBand, part: tuple[slice, ...]) -> np.ndarray:
    """Rows and columns of one date, rows first, in native byte order."""
    axes = _axes(array)
    if axes is None:
        raise unreadable(path, ValueError(f"{band.variable} is no image"))
    where: dict[str, Any] = {axes.y: part[0], axes.x: part[1]}
    where |= {axes.time: band.step} if axes.time else {}
    if axes.band:
        entries = [str(value) for value in _loaded(path, array[axes.band])]
        with _refused(path):
            where[axes.band] = entries.index(str(band.band))
    with _refused(path), _locked(path):
        values = array.isel(where).transpose(axes.y, axes.x).values
    return values.astype(values.dtype.newbyteorder("="))
