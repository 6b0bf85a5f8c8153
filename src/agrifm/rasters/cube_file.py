"""netCDF files and Zarr stores of any origin: opened within limits, with the axes of their variables."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from agrifm.errors import InputError, Unreadable, refusing
from agrifm.rasters.grid import LONGEST_SIDE
from agrifm.rasters.pixels import MOST_BLOCK, unreadable

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (".nc", ".nc4", ".cdf", ".zarr")
MARKS = ("zarr.json", ".zgroup")  # files by which a folder is recognized as a Zarr store
METADATA = ("zarr.json", ".zmetadata")  # metadata of a Zarr store, whose time stamps show changes
# Names of axes, in lower case.
TIMES = ("time", "t", "timestamp", "date")
ACROSS = ("x", "lon", "longitude", "easting")
DOWN = ("y", "lat", "latitude", "northing")
CHUNK_CACHE = 64 * 2**20  # bytes of decompressed chunks for each variable: chunks often span many dates

_LOCK = Lock()
_ZARR_TASK = re.compile(r"Task exception was never retrieved\nfuture: .*[\\/]zarr[\\/]core[\\/]")


@dataclass(frozen=True)
class Axes:
    """Names of the axes of a variable."""

    y: str
    x: str
    time: str | None = None
    band: str | None = None


def is_cube(path: Path) -> bool:
    """Whether a path is a netCDF file or a Zarr store."""
    return path.suffix.lower() in SUFFIXES or any((path / name).is_file() for name in MARKS)


def open_cube(path: Path) -> xr.Dataset:
    """Open a cube, or return it as it was opened before, unless it has changed since.

    Raises:
        InputError: If it is damaged, refers to other files, or has axes or chunks that would fill the memory.
    """
    changed = changed_at(path)
    with lock_for(path):
        return _opened(str(path), changed, os.getpid())


def variable_of(path: Path, name: str) -> xr.DataArray:
    """A variable of a cube, with numbers as they are stored.

    Raises:
        InputError: If the cube does not open, or has no such variable.
    """
    cube = open_cube(path)
    if name in cube.data_vars:
        return cube[name]
    raise InputError(
        path,
        found=f"variables {', '.join(map(str, cube.data_vars))}",
        expected=name,
        repair="open the scene again; the file has changed since.",
    )


def axes_of(array: xr.DataArray) -> Axes | None:
    """Axes of a variable; None if it is no image or has an unknown axis."""
    x = _axis_named(array, ACROSS)
    y = _axis_named(array, DOWN)
    if x is None or y is None:
        return None
    others = [str(name) for name in array.dims if name not in (x, y)]
    times = [name for name in others if _is_time(array, name)]
    time = times[0] if times else None
    bands = [name for name in others if name != time]
    if len(bands) > 1 or any(name not in array.coords for name in bands):
        return None
    return Axes(y, x, time, bands[0] if bands else None)


def read_coordinate(path: str | Path, array: xr.DataArray) -> np.ndarray:
    """Values of a coordinate.

    Raises:
        InputError: If they cannot be read.
    """
    with refusing_damage(path), lock_for(path):
        return array.values


def changed_at(path: Path) -> int:
    """Time of the last change of a cube in nanoseconds, by which results about it are cached.

    Raises:
        InputError: If there is no such cube.
    """
    files = [path, *(path / name for name in METADATA if (path / name).is_file())]
    try:
        return max(file.stat().st_mtime_ns for file in files)
    except OSError as error:
        raise unreadable(path, error) from error


def refusing_damage(path: str | Path) -> AbstractContextManager[None]:
    """Turn any error of the libraries on a damaged cube into one refusal."""
    return refusing(
        path,
        expected="a complete netCDF file or Zarr store",
        repair="copy or download it again, or leave it out with --skip-unreadable.",
        kind=Unreadable,
    )


def lock_for(path: str | Path) -> AbstractContextManager[Any]:
    """Lock for one cube: HDF5 and classic netCDF allow one thread at a time, Zarr reads chunks in parallel."""
    return nullcontext() if Path(path).is_dir() else _LOCK


@lru_cache(maxsize=8)
def _opened(path: str, changed: int, process: int) -> xr.Dataset:
    """Open a cube; ``process`` is part of the key because an open file must not be shared with another process."""
    import xarray as xr  # slow to import

    with refusing_damage(path):
        if Path(path).is_dir():
            _check_zarr(path)
            return xr.open_dataset(path, engine="zarr", mask_and_scale=False, consolidated=_consolidated(Path(path)))
        with open(path, "rb") as file:
            classic = file.read(3) == b"CDF"
        if classic:
            return xr.open_dataset(path, engine="scipy", mask_and_scale=False)
        _check_hdf5(path)
        options = {"rdcc_nbytes": CHUNK_CACHE}
        return xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False, driver_kwds=options)


def _consolidated(store: Path) -> bool:
    """Whether the metadata of a Zarr store, of format 2 or 3, are consolidated."""
    whole = store / "zarr.json"
    if not whole.is_file():
        return (store / ".zmetadata").is_file()
    return json.loads(whole.read_text(encoding="utf-8")).get("consolidated_metadata") is not None


def _check_zarr(path: str) -> None:
    """Refuse arrays whose axes or chunks would fill the memory; xarray loads all axes when it opens a store."""
    import zarr  # slow to import

    for name, array in zarr.open_group(path, mode="r").arrays():
        problem = _too_large(path, name, array.shape, array.shards or array.chunks, array.dtype.itemsize)
        if problem:
            raise problem


def _check_hdf5(path: str) -> None:
    """Refuse links to other files, and data sets whose axes or chunks would fill the memory."""
    import h5py  # slow to import

    # A value that the visitor returns ends the visit; an exception would lose its class in the library.
    def check_link(name: str, link: object) -> Unreadable | None:
        return _elsewhere(path, name) if isinstance(link, h5py.ExternalLink) else None

    def check_object(name: str, item: object) -> Unreadable | None:
        if not isinstance(item, h5py.Dataset):
            return None
        if item.external or item.is_virtual:
            return _elsewhere(path, name)
        return _too_large(path, name, item.shape or (), item.chunks or (), item.dtype.itemsize)

    with h5py.File(path, "r") as file:
        problem = file.visititems_links(check_link) or file.visititems(check_object)
    if problem:
        raise problem


def _elsewhere(path: str, name: str) -> Unreadable:
    return Unreadable(
        path,
        found=f"{name}, whose data are in another file",
        expected="a cube that contains all of its data",
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


def _axis_named(array: xr.DataArray, names: tuple[str, ...]) -> str | None:
    """The axis with the first of these names, in any case."""
    by_lower_case = {str(name).lower(): str(name) for name in array.dims}
    for name in names:
        if name in by_lower_case:
            return by_lower_case[name]
    return None


def _is_time(array: xr.DataArray, axis: str) -> bool:
    return axis.lower() in TIMES or (axis in array.coords and array[axis].dtype.kind == "M")


def _not_of_zarr(record: logging.LogRecord) -> bool:
    return _ZARR_TASK.match(record.getMessage()) is None


# Zarr reads the metadata of all arrays at once and raises the first error. If more of them are damaged, asyncio prints
# their tracebacks some time later, beside the one refusal that the user needs.
logging.getLogger("asyncio").addFilter(_not_of_zarr)
