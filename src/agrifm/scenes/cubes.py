"""Cubes: netCDF and Zarr files with a time axis, read by rows, columns and date.

Variables are bands, or one variable has a band axis. Several files may share the bands of a sensor.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agrifm.errors import InputError
from agrifm.rasters.cube_band import CubeBand, scaling_of
from agrifm.rasters.cube_file import TIMES, Axes, axes_of, loaded, open_cube
from agrifm.scenes.naming.products import CUBE, BandSource, parse_day
from agrifm.scenes.units import Units

if TYPE_CHECKING:
    import xarray as xr


def find_pieces(path: Path, day: dt.date | None = None) -> list[BandSource]:
    """Every band of every date in a cube; none if nothing in it has a time.

    Args:
        path: Path of the cube.
        day: Day of variables without a time.

    Raises:
        InputError: If it does not open, or its time axis holds no dates.
    """
    cube = open_cube(path)
    return [piece for name in cube.data_vars for piece in _pieces(path, cube[name], day)]


def _pieces(path: Path, array: xr.DataArray, named: dt.date | None) -> Iterator[BandSource]:
    axes = axes_of(array)
    if axes is None or array.dtype.kind not in "iufb":
        return
    bands = [str(value) for value in loaded(path, array[axes.band])] if axes.band else [None]
    seen: Counter = Counter()
    for step, day in enumerate(_days(path, array, axes, named)):
        for band in bands:
            yield BandSource(
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
    values = loaded(path, array[time]) if time in array.coords else np.arange(array.sizes[time])
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
    """The units that a variable states, unless they say nothing."""
    scaling = scaling_of(array, path)
    if scaling is None:
        return None
    stated = "scale_factor" if "scale_factor" in array.attrs else "add_offset"
    return Units(*scaling, f"{stated} in {path.name}")
