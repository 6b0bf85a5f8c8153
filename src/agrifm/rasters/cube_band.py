"""One band of one date of a cube: a netCDF or Zarr file with a time axis, read by rows, columns and date."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi

from agrifm.errors import InputError, Unreadable
from agrifm.rasters.cube_file import axes_of, changed_at, locked, read_coordinate, refused, variable_of
from agrifm.rasters.cube_grid import grid_of
from agrifm.rasters.pixels import Pixels, integer_range, marked, resampled, unreadable

if TYPE_CHECKING:
    import xarray as xr


MARKERS = ("_FillValue", "missing_value", "nodata", "NoData")  # attributes whose values mark missing pixels


def read_band(
    band: CubeBand, box: GeoBox, *, average: bool = True, limits: tuple[float, float] | None = None
) -> Pixels:
    """Read one date of one variable onto another grid; only the part under that grid is read.

    Raises:
        InputError: If the cube does not open, or a part of it cannot be read.
    """
    path = Path(band.href)
    array = variable_of(path, band.variable)
    source = grid_of(path, band.variable)
    declared = Declared.of(array, path, band.nodata)
    overlap = compute_reproject_roi(source, box)
    under = tuple(slice(part.start, part.stop) for part in overlap.roi_src)
    into = tuple(slice(part.start, part.stop) for part in overlap.roi_dst)
    if 0 in source[under].shape:
        return Pixels(np.zeros(box.shape, declared.dtype), np.ones(box.shape, bool))
    stored = declared.pixels(_load(path, array, band, under))
    if not (overlap.paste_ok and overlap.read_shrink == 1):
        return resampled(stored, source[under], box, average=average, limits=limits)
    # Both grids have the same pixels, so that they can be copied.
    values = np.zeros(box.shape, stored.values.dtype)
    missing = np.ones(box.shape, bool)
    values[into] = stored.values
    missing[into] = stored.missing
    return Pixels(values, missing, stored.zero_marks)


@dataclass(frozen=True)
class Declared:
    """Declaration of a variable's stored numbers: their type and which of them are missing.

    Args:
        dtype: Data type of the numbers, after ``_Unsigned``.
        markers: Every value of ``_FillValue`` and ``missing_value``, or what the user says instead.
        lowest, highest: Of ``valid_range``, ``valid_min`` and ``valid_max``, as stored.
    """

    dtype: np.dtype
    markers: tuple[float, ...]
    lowest: float = -math.inf
    highest: float = math.inf

    @classmethod
    def of(cls, array: xr.DataArray, path: Path, nodata: float | None = None) -> Declared:
        """Read the attributes of a variable; ``nodata`` replaces its markers.

        Raises:
            InputError: If the variable holds no numbers, or an attribute is none.
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
        markers = []
        for name in MARKERS:
            for number in numbers_in(array.attrs.get(name)):
                # Fill values are written with the signed type, which turns 255 into -1.
                markers.append(_reinterpreted(number, stored, dtype))
        low, high = _valid_range(array, where)
        return cls(dtype, tuple(markers) if nodata is None else (nodata,), low, high)

    def pixels(self, stored: np.ndarray) -> Pixels:
        """Combine stored numbers with a mask of missing ones."""
        values = stored.view(self.dtype)
        missing = marked(values, self.markers)
        if math.isfinite(self.lowest):
            missing |= values < self.lowest
        if math.isfinite(self.highest):
            missing |= values > self.highest
        return Pixels(values, missing, zero_marks=set(self.markers) == {0})


def stored_as(path: Path, variable: str) -> tuple[str, float | None]:
    """Data type of a variable, and the marker of its missing pixels, if the cube states one."""
    return _stored(str(path), changed_at(path), variable)


@lru_cache(maxsize=256)
def _stored(path: str, changed: int, variable: str) -> tuple[str, float | None]:
    declared = Declared.of(variable_of(Path(path), variable), Path(path))
    return declared.dtype.name, next(iter(declared.markers), None)


def numbers_in(attribute: Any) -> list[float]:
    """Numbers of an attribute, which may be a number, an array or text; anything else is ignored."""
    numbers = []
    for value in np.ravel(np.asarray(attribute, object) if attribute is not None else []):
        for entry in np.ravel(value):
            with suppress(TypeError, ValueError):
                numbers.append(float(entry))
    return numbers


def _reinterpreted(number: float, stored: np.dtype, dtype: np.dtype) -> float:
    """Convert a fill value of the stored type to the type that ``_Unsigned`` names."""
    if stored == dtype or not math.isfinite(number) or number != int(number):
        return number
    lowest, highest = integer_range(stored)
    return float(np.array(int(number), stored).view(dtype)) if lowest <= number <= highest else number


def _valid_range(array: xr.DataArray, where: str) -> tuple[float, float]:
    """Lowest and highest valid number, as stored.

    By the netCDF conventions, limits of a wider type than the stored numbers are limits after scaling.
    """
    valid_range = numbers_in(array.attrs.get("valid_range"))
    lows = valid_range[:1] or numbers_in(array.attrs.get("valid_min"))
    highs = valid_range[1:2] or numbers_in(array.attrs.get("valid_max"))
    low = lows[0] if lows else -math.inf
    high = highs[0] if highs else math.inf
    kinds = [np.asarray(array.attrs.get(name, 0)).dtype.kind for name in ("valid_range", "valid_min", "valid_max")]
    scaling = scaling_of(array, Path(where))
    if "f" in kinds and array.dtype.kind in "iu" and scaling is not None:
        scale, offset = scaling
        low, high = sorted(((low - offset) / scale, (high - offset) / scale))
    return low, high


def _load(path: Path, array: xr.DataArray, band: CubeBand, part: tuple[slice, ...]) -> np.ndarray:
    """Rows and columns of one date, rows first, in native byte order."""
    axes = axes_of(array)
    if axes is None:
        raise unreadable(path, ValueError(f"{band.variable} is no image"))
    where: dict[str, Any] = {axes.y: part[0], axes.x: part[1]}
    where |= {axes.time: band.step} if axes.time else {}
    if axes.band:
        entries = [str(value) for value in read_coordinate(path, array[axes.band])]
        with refused(path):
            where[axes.band] = entries.index(str(band.band))
    with refused(path), locked(path):
        values = array.isel(where).transpose(axes.y, axes.x).values
    return values.astype(values.dtype.newbyteorder("="))


@dataclass(frozen=True)
class CubeBand:
    """One date of one variable of a netCDF or Zarr cube, as a band.

    Args:
        href: Path of the cube.
        variable: Its name.
        step: Position along the time axis; None where there is no such axis.
        nodata: Overrides what the cube says.
        band: Entry of the band axis, where the variable has one.
    """

    href: str
    variable: str
    step: int | None = None
    nodata: float | None = None
    band: str | None = None
    kind: Literal["cube"] = "cube"

    def read(self, box: GeoBox, *, average: bool = True, limits: tuple[float, float] | None = None) -> Pixels:
        """Read the band onto another grid, as ``FileBand.read`` does.

        Raises:
            InputError: If the cube does not open.
        """
        return read_band(self, box, average=average, limits=limits)

    def grid(self) -> GeoBox:
        """Grid of the cube.

        Raises:
            InputError: If the cube does not open or has no place on the ground.
        """
        return grid_of(Path(self.href), self.variable)


def scaling_of(array: xr.DataArray, path: Path) -> tuple[float, float] | None:
    """Scale and offset of a variable, unless they change nothing; an offset may stand without a scale.

    Raises:
        InputError: If they are not finite, or the scale is 0.
    """
    scales = numbers_in(array.attrs.get("scale_factor"))
    offsets = numbers_in(array.attrs.get("add_offset"))
    if not scales and (not offsets or offsets == [0.0]):
        return None
    scale = scales[0] if scales else 1.0
    offset = offsets[0] if offsets else 0.0
    if math.isfinite(scale) and math.isfinite(offset) and scale != 0:
        return scale, offset
    raise InputError(
        f"{path}: {array.name}",
        found=f"scale_factor {scale:g} and add_offset {offset:g}",
        expected="finite numbers, and a scale other than 0",
        repair="correct these attributes of the variable, e.g. with ncatted or xarray.",
    )
