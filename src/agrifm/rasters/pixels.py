"""Stored numbers of one band, their mask of missing pixels, and how both are resampled to another grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # ty: ignore[import-not-found] (compiled)
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from agrifm.errors import Unreadable
from agrifm.rasters.grid import meters_per_unit

TOLERANCE = 0.001  # largest error of re-projection in pixels, so that neighboring reads agree
COARSER = 1.5  # ratio of pixel sizes from which pixels are averaged
MOST_BLOCK = 1 << 30  # bytes; GDAL decodes whole blocks, so a small file that claims a huge one would fill the memory

# Errors of rasterio on damaged files; the second is an error of GDAL that rasterio does not translate.
DAMAGED = (RasterioError, CPLE_BaseError, CRSError, UnicodeError, MemoryError)


@dataclass(frozen=True)
class Pixels:
    """Stored numbers of one band, with a mask of missing pixels.

    Args:
        values: Numbers ``(h, w)`` as stored; those of missing pixels have no meaning.
        missing: Mask ``(h, w)`` of pixels that the file does not have or declares missing.
        zero_marks: Whether nothing but 0 marks missing pixels, so that a single 0 may also be very dark ground.
    """

    values: np.ndarray
    missing: np.ndarray
    zero_marks: bool = False

    @classmethod
    def empty(cls, box: GeoBox, dtype: np.dtype) -> Pixels:
        """Pixels of a grid on which a file has no data."""
        return cls(np.zeros(box.shape, dtype), np.ones(box.shape, bool))

    def outside(self, limits: tuple[float, float]) -> np.ndarray:
        """Mask of values below or above limits."""
        low, high = limits
        if self.values.dtype.kind in "iu":  # compare whole numbers, so that large arrays need no conversion
            lowest, highest = integer_range(self.values.dtype)
            # Limits may be infinite, so they are brought near the range of the type before they are rounded.
            low = math.ceil(min(max(low, lowest), highest + 1))
            high = math.floor(max(min(high, highest), lowest - 1))
            if low > high:
                return ~self.missing
            low, high = max(low, lowest), min(high, highest)
            # Hardly any image has such values, and extremes are found faster than masks.
            if self.values.size and self.values.min() >= low and self.values.max() <= high:
                return np.zeros(self.values.shape, bool)
        return ((self.values < low) | (self.values > high)) & ~self.missing

    def filled(self, fill: float) -> np.ndarray:
        """Values with missing pixels replaced, in a data type that holds the stored numbers and the fill value.

        Where no pixel is missing, these may be the values themselves, so callers must not change them.
        """
        if self.values.dtype.kind == "f" or math.isnan(fill):
            dtype = np.promote_types(self.values.dtype, np.float32)
        else:
            dtype = np.promote_types(self.values.dtype, np.min_scalar_type(int(fill)))
        values = self.values.astype(dtype, copy=False)
        if not self.missing.any():
            return values
        return np.where(self.missing, np.asarray(fill, dtype), values)


def warp_band(file: rasterio.DatasetReader, index: int, box: GeoBox, marker: float | None, *, average: bool) -> Pixels:
    """Read one band of an open file onto another grid.

    Args:
        file: Open file.
        index: Number of the band, from 1.
        box: The grid.
        marker: Stored number that marks missing pixels, beside NaN.
        average: Average pixels instead of the nearest neighbor.
    """
    stored = np.dtype(file.dtypes[index - 1])
    dtype, filler = _type_with_filler(stored, marker)
    with WarpedVRT(
        file,
        crs=str(box.crs),
        transform=box.affine,
        height=box.shape[0],
        width=box.shape[1],
        resampling=Resampling.average if average else Resampling.nearest,
        src_nodata=filler if _as_stored(marker, stored) is None else marker,
        nodata=filler,
        dtype=dtype.name,
        tolerance=TOLERANCE,
    ) as view:
        values = view.read(index)
    return Pixels(values, mask_missing(values, [filler]), zero_marks=marker == 0)


def resample(
    pixels: Pixels, grid: GeoBox, box: GeoBox, *, average: bool, limits: tuple[float, float] | None = None
) -> Pixels:
    """Resample pixels in memory as GDAL resamples files.

    Args:
        pixels: Pixels to resample.
        grid: Their grid.
        box: The other grid.
        average: Average pixels if the other grid is coarser.
        limits: Stored numbers below and above which pixels are left out of averages, unless there are no others.
    """
    if 0 in grid.shape:
        return Pixels.empty(box, pixels.values.dtype)
    averaging = average and is_coarser(grid, box)
    result = _warp_in_memory(pixels, grid, box, averaging)
    if not averaging or limits is None:
        return result
    outside = pixels.outside(limits)
    if not outside.any():
        return result
    inside = _warp_in_memory(replace(pixels, missing=pixels.missing | outside), grid, box, averaging)
    return replace(result, values=np.where(inside.missing, result.values, inside.values))


def is_coarser(grid: GeoBox, box: GeoBox) -> bool:
    """Whether pixels of ``box`` are large enough to average several pixels of ``grid``."""
    if grid.crs is None or box.crs is None or grid.crs.projected != box.crs.projected:
        return False
    unit_ratio = meters_per_unit(box.crs) / meters_per_unit(grid.crs)
    area_ratio = abs(box.affine.determinant / grid.affine.determinant)
    return math.sqrt(area_ratio) * unit_ratio > COARSER


def with_epsg_code(box: GeoBox) -> GeoBox:
    """The same grid, with its CRS by EPSG code if it has one."""
    code = box.crs.to_epsg() if box.crs is not None else None
    return box if code is None else GeoBox(box.shape, box.affine, f"EPSG:{code}")


def mask_missing(values: np.ndarray, markers: Sequence[float | None]) -> np.ndarray:
    """Mask of missing values: not finite, or one of the markers."""
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for marker in markers:
        usable_marker = _as_stored(marker, values.dtype)
        if usable_marker is not None:
            missing |= values == np.asarray(usable_marker).astype(values.dtype)
    return missing


def integer_range(dtype: np.dtype) -> tuple[int, int]:
    """Lowest and highest number of an integer type."""
    info = np.iinfo(dtype)
    return info.min, info.max


def unreadable(href: object, error: Exception) -> Unreadable:
    """The error for rasters that cannot be read."""
    return Unreadable(
        href,
        found=f"a raster that cannot be read: {error.__cause__ or error}",
        expected="a complete raster file",
        repair="copy or download it again, or leave it out with --skip-unreadable.",
    )


def _type_with_filler(stored: np.dtype, marker: float | None) -> tuple[np.dtype, float]:
    """Choose a data type that holds the stored numbers, and a number in it that no valid pixel has."""
    if stored.kind == "f":
        return np.promote_types(stored, np.float32), math.nan
    usable_marker = _as_stored(marker, stored)
    if usable_marker is not None:
        return stored, usable_marker
    if stored.itemsize <= 2:
        wider = np.dtype(np.int16 if stored.itemsize == 1 else np.int32)
        return wider, float(integer_range(wider)[0])
    return np.dtype(np.float64), math.nan


def _as_stored(marker: float | None, dtype: np.dtype) -> float | None:
    """Return the marker if the data type can hold it."""
    if marker is None or dtype.kind == "f":
        return marker
    if dtype.kind not in "iu" or not math.isfinite(marker) or marker != int(marker):
        return None
    lowest, highest = integer_range(dtype)
    return marker if lowest <= marker <= highest else None


def _warp_in_memory(pixels: Pixels, grid: GeoBox, box: GeoBox, averaging: bool) -> Pixels:
    dtype, filler = _type_with_filler(pixels.values.dtype, 0 if pixels.zero_marks else None)
    values = np.where(pixels.missing, np.asarray(filler, dtype), pixels.values.astype(dtype))
    if grid.affine.e > 0:
        # GDAL expects the first row in the north.
        values = values[::-1]
        grid = grid.flipy()
    rows, columns = grid.shape
    profile = {"driver": "GTiff", "dtype": dtype.name, "height": rows, "width": columns, "count": 1}
    try:
        with MemoryFile() as memory:
            with memory.open(crs=str(grid.crs), transform=grid.affine, **profile) as file:
                file.write(values, 1)
            with memory.open() as file:
                result = warp_band(file, 1, box, filler, average=averaging)
    except DAMAGED as error:
        raise unreadable("a part of an image", error) from error
    return Pixels(result.values, result.missing, pixels.zero_marks)
