"""Bands in cubes: netCDF and Zarr files with a time axis, one band of one date at a time.

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
from agrifm.rasters.cube_file import TIMES, Axes, axes_of, open_cube, read_coordinate
from agrifm.scenes.naming.dates import parse_day
from agrifm.scenes.naming.products import CUBE, BandSource
from agrifm.scenes.units import Units

if TYPE_CHECKING:
    import xarray as xr


def find_cube_bands(path: Path, day: dt.date | None = None) -> list[BandSource]:
    """Find every band of every date in a cube.

    Args:
        path: Path of the cube.
        day: Day of variables that have no time; without it they are left out.

    Raises:
        InputError: If the cube does not open, or its time axis holds no dates.
    """
    cube = open_cube(path)
    bands: list[BandSource] = []
    for name in cube.data_vars:
        bands += _bands_of_variable(path, cube[name], day)
    return bands


def _bands_of_variable(path: Path, array: xr.DataArray, day_of_file: dt.date | None) -> Iterator[BandSource]:
    axes = axes_of(array)
    if axes is None or array.dtype.kind not in "iufb":
        return
    variable = str(array.name)
    bands: list[str | None] = [None]
    if axes.band:
        bands = [str(value) for value in read_coordinate(path, array[axes.band])]
    steps_of_day: Counter[dt.date] = Counter()
    for step, day in enumerate(_days(path, array, axes, day_of_file)):
        for band in bands:
            yield BandSource(
                raster=CubeBand(str(path), variable, step if axes.time else None, band=band),
                name=band or variable,
                day=day,
                group=str(path),
                scheme=CUBE,
                label=f"{variable} in {path.name}",
                stamp=day.isoformat(),
                # Several times of one day are frames of their own.
                sequence=str(steps_of_day[day]),
                units=_stated_units(array, path),
            )
        steps_of_day[day] += 1


def _days(path: Path, array: xr.DataArray, axes: Axes, day_of_file: dt.date | None) -> list[dt.date]:
    """Return the days along the time axis; without one, the day of a scalar time, or that of the file."""
    time = axes.time or _scalar_time(array)
    if time is None:
        return [] if day_of_file is None else [day_of_file]
    values = np.arange(array.sizes.get(time, 0))
    if time in array.coords:
        values = np.atleast_1d(read_coordinate(path, array[time]))
    days = []
    for value in values:
        day = _parse_time(value)
        if day is None:
            raise InputError(
                f"{path}: axis {time} of {array.name}",
                found=f"values such as {value}",
                expected="dates of the standard calendar",
                repair="write the axis as CF times, e.g. with the attribute units = 'days since 1970-01-01'.",
            )
        days.append(day)
    return days


def _scalar_time(array: xr.DataArray) -> str | None:
    """Return the name of a coordinate that is one time for the whole variable."""
    for name, coordinate in array.coords.items():
        is_time = str(name).lower() in TIMES or coordinate.dtype.kind == "M"
        if coordinate.ndim == 0 and is_time:
            return str(name)
    return None


def _parse_time(value: Any) -> dt.date | None:
    # Dates of other calendars are objects of types of their own.
    if not isinstance(value, (np.datetime64, np.integer, str)):
        return None
    return parse_day(str(value)[:10])


def _stated_units(array: xr.DataArray, path: Path) -> Units | None:
    """Return the units that a variable states, unless they change nothing."""
    scaling = scaling_of(array, path)
    if scaling is None:
        return None
    attribute = "scale_factor" if "scale_factor" in array.attrs else "add_offset"
    return Units(*scaling, f"{attribute} in {path.name}")
