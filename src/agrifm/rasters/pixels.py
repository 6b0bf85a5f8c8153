"""Stored numbers of one band and where they are missing, and how they come onto another grid."""

from __future__ import annotations

import math
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

EXACT = 0.001  # largest error of re-projection in pixels, so that neighboring reads agree
COARSER = 1.5  # from this ratio of pixel sizes on, pixels are averaged instead of picked
MOST_BLOCK = 1 << 30  # bytes; GDAL decodes whole blocks, so a small file that claims a huge one would fill the memory


# What rasterio raises on damaged files; the second kind escapes from GDAL without rasterio's own name.
DAMAGED = (RasterioError, CPLE_BaseError, CRSError, UnicodeError, MemoryError)


@dataclass(frozen=True)
class Pixels:
    """Stored numbers of one band, with a mask of missing pixels.

    Args:
        values: ``(h, w)`` as stored; what stands at missing pixels means nothing.
        missing: ``(h, w)`` where the file has no pixel or declares it missing.
        zero_marks: Whether nothing but 0 marks missing pixels, so that a single 0 may also be very dark ground.
    """

    values: np.ndarray
    missing: np.ndarray
    zero_marks: bool = False

    def outside(self, limits: tuple[float, float]) -> np.ndarray:
        """Mask of values below or above limits."""
        return beyond(self.values, limits) & ~self.missing

    def filled(self, fill: float) -> np.ndarray:
        """Values with missing pixels replaced."""
        dtype = wide_enough(self.values.dtype.name, fill)
        return np.where(self.missing, np.asarray(fill, dtype), self.values.astype(dtype))


def warped(file: rasterio.DatasetReader, index: int, box: GeoBox, marker: float | None, *, average: bool) -> Pixels:
    """One band of an open file on another grid.

    Args:
        file: Where it is.
        index: Index of the band, from 1.
        box: The grid.
        marker: Stored number that marks a missing pixel; NaN does anyway.
        average: Whether pixels are averaged; they are picked otherwise.
    """
    kind, filler = filler_for(file.dtypes[index - 1], marker)
    with WarpedVRT(
        file,
        crs=str(box.crs),
        transform=box.affine,
        height=box.shape[0],
        width=box.shape[1],
        resampling=Resampling.average if average else Resampling.nearest,
        src_nodata=filler if _holds(file.dtypes[index - 1], marker) is None else marker,
        nodata=filler,
        dtype=kind,
        tolerance=EXACT,
    ) as view:
        values = view.read(index)
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else values == filler
    return Pixels(values, missing, zero_marks=marker == 0)


def filler_for(stored: str, marker: float | None) -> tuple[str, float]:
    """Choose a data type that holds the stored numbers, and a number in it that no valid pixel has."""
    kind = np.dtype(stored)
    if kind.kind == "f":
        return np.promote_types(kind, np.float32).name, math.nan
    usable_marker = _holds(stored, marker)
    if usable_marker is not None:
        return stored, usable_marker
    if kind.itemsize <= 2:
        wide = np.dtype(np.int16 if kind.itemsize == 1 else np.int32)
        return wide.name, float(integer_range(wide)[0])
    return "float64", math.nan


def _holds(stored: str, marker: float | None) -> float | None:
    """Return the marker if the data type can hold it."""
    kind = np.dtype(stored)
    if marker is None or kind.kind == "f":
        return marker
    if kind.kind not in "iu" or not math.isfinite(marker) or marker != int(marker):
        return None
    lowest, highest = integer_range(kind)
    return marker if lowest <= marker <= highest else None


def integer_range(kind: np.dtype) -> tuple[int, int]:
    """Lowest and highest number of an integer type."""
    bits = 8 * kind.itemsize
    return (0, 2**bits - 1) if kind.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def beyond(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Mask of values outside limits."""
    low, high = limits
    if values.dtype.kind in "iu":  # compare whole numbers, so that large arrays need no conversion
        lowest, highest = integer_range(values.dtype)
        low = max(math.ceil(low), lowest)
        high = min(math.floor(high), highest)
        if low > high:
            return np.ones(values.shape, bool)
    return (values < low) | (values > high)


def marked(values: np.ndarray, markers: tuple[float | None, ...]) -> np.ndarray:
    """Mask of missing values: not finite, or one of the markers."""
    missing = np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
    for marker in markers:
        usable_marker = _holds(values.dtype.name, marker)
        if usable_marker is not None:
            missing |= values == np.asarray(usable_marker).astype(values.dtype)
    return missing


def resampled(
    pixels: Pixels, grid: GeoBox, box: GeoBox, *, average: bool, limits: tuple[float, float] | None = None
) -> Pixels:
    """Resample pixels in memory with GDAL, as files are.

    Pixels outside the limits are left out of averages, unless there are no others.
    """
    if 0 in grid.shape:
        return Pixels(np.zeros(box.shape, pixels.values.dtype), np.ones(box.shape, bool))
    averaging = average and coarser(grid, box)
    result = _warped_in_memory(pixels, grid, box, averaging)
    if not averaging or limits is None:
        return result
    outside = pixels.outside(limits)
    if not outside.any():
        return result
    inside = _warped_in_memory(replace(pixels, missing=pixels.missing | outside), grid, box, averaging)
    return replace(result, values=np.where(inside.missing, result.values, inside.values))


def _warped_in_memory(pixels: Pixels, grid: GeoBox, box: GeoBox, averaging: bool) -> Pixels:
    kind, filler = filler_for(pixels.values.dtype.name, 0 if pixels.zero_marks else None)
    values = np.where(pixels.missing, np.asarray(filler, kind), pixels.values.astype(kind))
    if grid.affine.e > 0:
        values = values[::-1]
        grid = grid.flipy()
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": 1}
    try:
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", dtype=kind, crs=str(grid.crs), transform=grid.affine, **shape) as file:
                file.write(values, 1)
            with memory.open() as file:
                result = warped(file, 1, box, filler, average=averaging)
    except DAMAGED as error:
        raise unreadable("a part of an image", error) from error
    return Pixels(result.values, result.missing, pixels.zero_marks)


def coarser(grid: GeoBox, box: GeoBox) -> bool:
    """Whether pixels of a grid are large enough to average several pixels of a file."""
    if grid.crs is None or box.crs is None or grid.crs.projected != box.crs.projected:
        return False
    unit_ratio = meters_per_unit(box.crs) / meters_per_unit(grid.crs)
    area_ratio = abs(box.affine.determinant / grid.affine.determinant)
    return math.sqrt(area_ratio) * unit_ratio > COARSER


def named(box: GeoBox) -> GeoBox:
    """The same grid, with its CRS by EPSG code if it has one."""
    code = box.crs.to_epsg() if box.crs is not None else None
    return box if code is None else GeoBox(box.shape, box.affine, f"EPSG:{code}")


def wide_enough(stored: str, fill: float) -> str:
    """Choose a data type that holds the stored numbers and the fill value."""
    if np.dtype(stored).kind == "f" or fill != fill:
        return np.promote_types(stored, np.float32).name
    return np.promote_types(stored, np.min_scalar_type(int(fill))).name


def unreadable(href: object, error: Exception) -> Unreadable:
    """The error for rasters that cannot be read."""
    return Unreadable(
        href,
        found=f"a raster that cannot be read: {error.__cause__ or error}",
        expected="a complete raster file",
        repair="copy or download it again, or leave it out with --skip-unreadable.",
    )
