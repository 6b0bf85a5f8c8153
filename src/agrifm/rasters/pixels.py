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
    """Stored numbers of one band, and where there are none.

    Args:
        values: ``(h, w)`` as stored; what stands at missing pixels means nothing.
        missing: ``(h, w)`` where the file has no pixel or declares it missing.
        zero_marks: whether nothing but 0 marks missing pixels, so that a single 0 may also be very dark ground.
    """

    values: np.ndarray
    missing: np.ndarray
    zero_marks: bool = False

    def outside(self, limits: tuple[float, float]) -> np.ndarray:
        """Where there are values below or above limits."""
        return beyond(self.values, limits) & ~self.missing

    def filled(self, fill: float) -> np.ndarray:
        """The values, with ``fill`` where they are missing."""
        wide = wide_enough(self.values.dtype.name, fill)
        return np.where(self.missing, np.asarray(fill, wide), self.values.astype(wide))


def warped(file: rasterio.DatasetReader, index: int, box: GeoBox, marker: float | None, *, average: bool) -> Pixels:
    """One band of an open file on another grid.

    Args:
        file: where it is.
        index: of the band, from 1.
        box: the grid.
        marker: stored number that marks a missing pixel; NaN does anyway.
        average: whether pixels are averaged; they are picked otherwise.
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
    """A data type that holds the stored numbers, and a number in it that no valid pixel has."""
    kind = np.dtype(stored)
    if kind.kind == "f":
        return np.promote_types(kind, np.float32).name, math.nan
    fitting = _holds(stored, marker)
    if fitting is not None:
        return stored, fitting
    if kind.itemsize <= 2:
        wide = np.dtype(np.int16 if kind.itemsize == 1 else np.int32)
        return wide.name, float(whole_numbers(wide)[0])
    return "float64", math.nan


def _holds(stored: str, marker: float | None) -> float | None:
    """The marker, if the data type can hold it."""
    kind = np.dtype(stored)
    if marker is None or kind.kind == "f":
        return marker
    if kind.kind not in "iu" or not math.isfinite(marker) or marker != int(marker):
        return None
    lowest, highest = whole_numbers(kind)
    return marker if lowest <= marker <= highest else None


def whole_numbers(kind: np.dtype) -> tuple[int, int]:
    """Lowest and highest number of an integer type."""
    bits = 8 * kind.itemsize
    return (0, 2**bits - 1) if kind.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def beyond(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Where values lie outside limits."""
    low, high = limits
    if values.dtype.kind in "iu":  # in whole numbers, which need no other type
        lowest, highest = whole_numbers(values.dtype)
        low, high = max(math.ceil(low), lowest), min(math.floor(high), highest)
        if low > high:
            return np.ones(values.shape, bool)
    return (values < low) | (values > high)


def marked(values: np.ndarray, markers: tuple[float | None, ...]) -> np.ndarray:
    """Where values are missing: not finite, or one of the markers."""
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for marker in markers:
        fitting = _holds(values.dtype.name, marker)
        if fitting is not None:
            missing |= values == np.asarray(fitting).astype(values.dtype)
    return missing


def resampled(
    pixels: Pixels, grid: GeoBox, box: GeoBox, *, average: bool, limits: tuple[float, float] | None = None
) -> Pixels:
    """Pixels in memory on another grid; GDAL does it, as it does for files.

    Where pixels are averaged, those outside the limits are left out, unless there are no others.
    """
    if 0 in grid.shape:
        return Pixels(np.zeros(box.shape, pixels.values.dtype), np.ones(box.shape, bool))
    averaging = average and coarser(grid, box)
    found = _warped_in_memory(pixels, grid, box, averaging)
    odd = pixels.outside(limits) if averaging and limits is not None else None
    if odd is None or not odd.any():
        return found
    rest = _warped_in_memory(replace(pixels, missing=pixels.missing | odd), grid, box, averaging)
    return replace(found, values=np.where(rest.missing, found.values, rest.values))


def _warped_in_memory(pixels: Pixels, grid: GeoBox, box: GeoBox, averaging: bool) -> Pixels:
    kind, filler = filler_for(pixels.values.dtype.name, 0 if pixels.zero_marks else None)
    values = np.where(pixels.missing, np.asarray(filler, kind), pixels.values.astype(kind))
    if grid.affine.e > 0:
        values, grid = values[::-1], grid.flipy()
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": 1}
    try:
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", dtype=kind, crs=str(grid.crs), transform=grid.affine, **shape) as file:
                file.write(values, 1)
            with memory.open() as file:
                found = warped(file, 1, box, filler, average=averaging)
    except DAMAGED as error:
        raise unreadable("a part of an image", error) from error
    return Pixels(found.values, found.missing, pixels.zero_marks)


def coarser(grid: GeoBox, box: GeoBox) -> bool:
    """Whether pixels of a grid are so much larger than a file's that one stands for several."""
    if grid.crs is None or box.crs is None or grid.crs.projected != box.crs.projected:
        return False
    unit = meters_per_unit(box.crs) / meters_per_unit(grid.crs)
    return math.sqrt(abs(box.affine.determinant / grid.affine.determinant)) * unit > COARSER


def named(box: GeoBox) -> GeoBox:
    """The same grid; its CRS by EPSG code where it has one."""
    code = box.crs.to_epsg() if box.crs is not None else None
    return box if code is None else GeoBox(box.shape, box.affine, f"EPSG:{code}")


def wide_enough(stored: str, fill: float) -> str:
    """A data type that holds the stored numbers and the filler."""
    if np.dtype(stored).kind == "f" or fill != fill:
        return np.promote_types(stored, np.float32).name
    return np.promote_types(stored, np.min_scalar_type(int(fill))).name


def unreadable(href: object, error: Exception) -> Unreadable:
    """The one sentence for rasters that cannot be read."""
    return Unreadable(
        href,
        found=f"a raster that cannot be read: {error.__cause__ or error}",
        expected="a complete raster file",
        repair="copy or download it again, or leave it out with --skip-unreadable.",
    )
