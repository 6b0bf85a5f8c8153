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
from agrifm.rasters.cube_file import axes_of, changed_at, lock_for, read_coordinate, refusing_damage, variable_of
from agrifm.rasters.cube_grid import grid_of
from agrifm.rasters.matching import Matching
from agrifm.rasters.pixels import Pixels, integer_range, is_coarser, mask_missing, resample, unreadable

if TYPE_CHECKING:
    import xarray as xr

MARKERS = ("_FillValue", "missing_value", "nodata", "NoData")  # attributes whose values mark missing pixels
LIMITS = ("valid_range", "valid_min", "valid_max")  # attributes with the lowest or highest valid number


@dataclass(frozen=True)
class CubeBand:
    """One date of one variable of a netCDF or Zarr cube, as a band.

    Args:
        href: Path of the cube.
        variable: Name of the variable.
        step: Position along the time axis; None if there is no such axis.
        nodata: Number that marks missing pixels, instead of those that the cube states.
        band: Entry of the band axis, if the variable has one.
    """

    href: str
    variable: str
    step: int | None = None
    nodata: float | None = None
    band: str | None = None
    kind: Literal["cube"] = "cube"

    def read(self, box: GeoBox, *, average: bool = True, limits: tuple[float, float] | None = None) -> Pixels:
        """Read the band onto another grid, as ``FileBand.read`` does; only the part under that grid is read.

        Raises:
            InputError: If the cube does not open, or a part of it cannot be read.
        """
        path = Path(self.href)
        array = variable_of(path, self.variable)
        grid = self.grid()
        encoding = Encoding.of(array, path, self.nodata)
        averaging = average and is_coarser(grid, box)
        matching = None if averaging else Matching.of(grid, box)
        rows, columns = compute_reproject_roi(grid, box).roi_src if matching is None else matching.part
        source = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        if 0 in grid[source].shape:
            return Pixels.empty(box, encoding.dtype)
        pixels = encoding.decode(self._load(array, source))
        if matching is not None:
            return matching.place(pixels, box)
        return resample(pixels, grid[source], box, average=average, limits=limits)

    def grid(self) -> GeoBox:
        """Grid of the cube.

        Raises:
            InputError: If the cube does not open or has no place on the ground.
        """
        return grid_of(Path(self.href), self.variable)

    def _load(self, array: xr.DataArray, part: tuple[slice, ...]) -> np.ndarray:
        """Read rows and columns of one date, rows first, in native byte order."""
        path = Path(self.href)
        axes = axes_of(array)
        if axes is None:
            raise unreadable(path, ValueError(f"{self.variable} is no image"))
        selection: dict[str, Any] = {axes.y: part[0], axes.x: part[1]}
        if axes.time:
            selection[axes.time] = self.step
        if axes.band:
            entries = [str(value) for value in read_coordinate(path, array[axes.band])]
            with refusing_damage(path):
                selection[axes.band] = entries.index(str(self.band))
        with refusing_damage(path), lock_for(path):
            values = array.isel(selection).transpose(axes.y, axes.x).values
        return values.astype(values.dtype.newbyteorder("="))


@dataclass(frozen=True)
class Encoding:
    """Encoding of a variable: the type of its stored numbers, and which of them are missing.

    Args:
        dtype: Data type of the numbers, after ``_Unsigned``.
        markers: Numbers that mark missing pixels.
        lowest, highest: Lowest and highest valid number, as stored.
    """

    dtype: np.dtype
    markers: tuple[float, ...]
    lowest: float = -math.inf
    highest: float = math.inf

    @classmethod
    def of(cls, array: xr.DataArray, path: Path, nodata: float | None = None) -> Encoding:
        """Read the attributes of a variable; ``nodata`` replaces its markers.

        Raises:
            InputError: If the variable holds no numbers, or an attribute cannot be used.
        """
        stored = array.dtype.newbyteorder("=")
        if stored.kind not in "iuf":
            raise Unreadable(
                f"{path}: {array.name}",
                found=f"values of type {stored}",
                expected="integers or floating point numbers",
                repair="write the cube again with numbers.",
            )
        dtype = stored
        unsigned = str(array.attrs.get("_Unsigned", "")).lower()
        if stored.kind in "iu" and unsigned in ("true", "false"):
            dtype = np.dtype(f"{'u' if unsigned == 'true' else 'i'}{stored.itemsize}")
        markers = []
        for name in MARKERS:
            for number in _numbers(array.attrs.get(name)):
                # Fill values are written with the signed type, which turns 255 into -1.
                markers.append(_reinterpret(number, stored, dtype))
        if nodata is not None:
            markers = [nodata]
        lowest, highest = _valid_range(array, path)
        return cls(dtype, tuple(markers), lowest, highest)

    def decode(self, stored: np.ndarray) -> Pixels:
        """Combine stored numbers with a mask of missing ones."""
        values = stored.view(self.dtype)
        missing = mask_missing(values, self.markers)
        if math.isfinite(self.lowest):
            missing |= values < self.lowest
        if math.isfinite(self.highest):
            missing |= values > self.highest
        return Pixels(values, missing, zero_marks=set(self.markers) == {0})


def stored_as(path: Path, variable: str) -> tuple[str, float | None]:
    """Data type of a variable, and the marker of its missing pixels, if the cube states one."""
    return _stored_as(str(path), changed_at(path), variable)


def scaling_of(array: xr.DataArray, path: Path) -> tuple[float, float] | None:
    """Scale and offset of a variable, unless they change nothing; either may be stated alone.

    Raises:
        InputError: If they are not finite, or the scale is 0.
    """
    scales = _numbers(array.attrs.get("scale_factor"))
    offsets = _numbers(array.attrs.get("add_offset"))
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


@lru_cache(maxsize=256)
def _stored_as(path: str, changed: int, variable: str) -> tuple[str, float | None]:
    encoding = Encoding.of(variable_of(Path(path), variable), Path(path))
    marker = encoding.markers[0] if encoding.markers else None
    return encoding.dtype.name, marker


def _numbers(attribute: Any) -> list[float]:
    """Numbers of an attribute, which may be a number, an array or text; anything else is ignored."""
    numbers = []
    for value in np.ravel(np.asarray(attribute, object) if attribute is not None else []):
        for entry in np.ravel(value):
            with suppress(TypeError, ValueError):
                numbers.append(float(entry))
    return numbers


def _reinterpret(number: float, stored: np.dtype, dtype: np.dtype) -> float:
    """Convert a fill value of the stored type to the type that ``_Unsigned`` names."""
    if stored == dtype or not math.isfinite(number) or number != int(number):
        return number
    lowest, highest = integer_range(stored)
    if not lowest <= number <= highest:
        return number
    return float(np.array(int(number), stored).view(dtype))


def _valid_range(array: xr.DataArray, path: Path) -> tuple[float, float]:
    """Lowest and highest valid number, as stored.

    By the netCDF conventions, limits of a wider type than the stored numbers are limits after scaling.
    """
    valid_range = _numbers(array.attrs.get("valid_range"))
    lows = valid_range[:1] or _numbers(array.attrs.get("valid_min"))
    highs = valid_range[1:2] or _numbers(array.attrs.get("valid_max"))
    low = lows[0] if lows else -math.inf
    high = highs[0] if highs else math.inf
    kinds = [np.asarray(array.attrs.get(name, 0)).dtype.kind for name in LIMITS]
    scaling = scaling_of(array, path)
    if "f" in kinds and array.dtype.kind in "iu" and scaling is not None:
        scale, offset = scaling
        low, high = sorted(((low - offset) / scale, (high - offset) / scale))
    return low, high
