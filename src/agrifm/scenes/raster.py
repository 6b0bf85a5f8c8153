"""One band of one date, wherever it is stored, read onto the grid that is asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from rasterio._err import CPLE_BaseError  # ty: ignore[import-not-found] (compiled)
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from agrifm.addresses import is_address
from agrifm.errors import InputError, Unreadable
from agrifm.scenes.gdal import opened
from agrifm.scenes.grid import check_grid, meters_per_unit

EXACT = 0.001  # largest error of re-projection in pixels, so that neighboring reads agree
COARSER = 1.5  # from this ratio of pixel sizes on, pixels are averaged instead of picked
MOST_WINDOW = 1 << 26  # pixels that are held in memory to find out whether some of them are no reflectance
MOST_BLOCK = 1 << 30  # bytes; GDAL decodes whole blocks, so a small file that claims a huge one would fill the memory

CACHE = {"GDAL_CACHEMAX": 256 * 2**20}  # bytes; GDAL would take a twentieth of the machine's memory in every process
# Sidecar files (.aux.xml, .msk, .ovr, ENVI's .hdr) are looked for by name; no folder is listed, however large it is.
LOCAL = CACHE | {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
# Over the network GDAL asks again after short failures, and does not look for files beside the one that is named.
READING = CACHE | {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "CPL_VSIL_CURL_USE_HEAD": "NO",
    "VSI_CACHE": "TRUE",
}
# GDAL asks again after bad answers only: of a cut connection it keeps what came, as if the file ended there.
AFRESH = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/"}
WAITS = (0.5, 2.0)  # seconds before a file is read afresh
PATIENCE = 30.0  # seconds after which a file that failed is not read afresh

# What rasterio raises on damaged files; the second kind escapes from GDAL without rasterio's own name.
DAMAGED = (RasterioError, CPLE_BaseError, CRSError, UnicodeError, MemoryError)
OWN_MASK = {MaskFlags.per_dataset, MaskFlags.alpha}

Seen = TypeVar("Seen")


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


@dataclass(frozen=True)
class FileBand:
    """One band of a raster file that GDAL opens.

    Args:
        href: path or address.
        index: number of the band, from 1.
        nodata: overrides what the file says, or says it where the file does not.
        kind: ``listed`` for a local file that an item list names, which must hold its own pixels.
    """

    href: str
    index: int = 1
    nodata: float | None = None
    kind: Literal["file", "listed"] = "file"

    def read(self, box: GeoBox, *, average: bool = True, limits: tuple[float, float] | None = None) -> Pixels:
        """The band on another grid.

        Pixels are picked (nearest neighbor), or averaged where the grid is coarser and ``average`` is set.

        Args:
            box: the grid.
            average: allow averages.
            limits: stored numbers below and above which pixels are left out of averages.

        Raises:
            InputError: the file does not open or ends too early.
        """

        return self._opened(lambda file: self._read(file, box, average, limits))

    def _read(
        self, file: rasterio.DatasetReader, box: GeoBox, average: bool, limits: tuple[float, float] | None
    ) -> Pixels:
        marker = self.nodata if self.nodata is not None else file.nodatavals[self.index - 1]
        own = _own_grid(file, self.href)
        part = own[compute_reproject_roi(own, box).roi_src]
        averaging = average and _coarser(own, box)
        if OWN_MASK & set(file.mask_flag_enums[self.index - 1]):
            # GDAL ignores a mask of the file's own where a marker is known too, so both are applied before.
            return resampled(_pixels(file, self.index, part, marker), part, box, average=average, limits=limits)
        found = warped(file, self.index, box, marker, average=averaging)
        if not averaging or limits is None or math.prod(part.shape) > MOST_WINDOW:
            return found
        pixels = _pixels(file, self.index, part, marker)
        odd = pixels.outside(limits).any()
        return resampled(pixels, part, box, average=average, limits=limits) if odd else found

    def grid(self) -> GeoBox:
        """The file's own grid.

        Raises:
            InputError: the file does not open or has no place on the ground.
        """
        return self._opened(lambda file: located(file, self.href))

    def _opened(self, look: Callable[[rasterio.DatasetReader], Seen]) -> Seen:
        """What ``look`` finds in the open file; over the network it looks again after a cut connection."""
        afresh, waits = False, iter(WAITS if is_address(self.href) else ())
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with open_raster(self.href, afresh=afresh, listed=self.kind == "listed") as file:
                    return look(file)
            except IndexError as error:  # the file has fewer bands than before
                raise unreadable(self.href, error) from error
            except Unreadable as error:
                wait = next(waits, None)
                # GDAL has asked again itself after bad answers; a file of another kind stays one.
                final = any(text in str(error) for text in ("HTTP response code", "not recognized as being"))
                cut_off = isinstance(error.__cause__, RasterioError) and not final
                if wait is None or not cut_off or time.monotonic() > end:
                    raise
                time.sleep(wait)
                afresh = True


@dataclass(frozen=True)
class CubeBand:
    """One date of one variable of a netCDF or Zarr cube.

    Args:
        href: path of the cube.
        variable: its name.
        step: position along the time axis; None where there is no such axis.
        nodata: overrides what the cube says.
        band: entry of the band axis, where the variable has one.
    """

    href: str
    variable: str
    step: int | None = None
    nodata: float | None = None
    band: str | None = None
    kind: Literal["cube"] = "cube"

    def read(self, box: GeoBox, *, average: bool = True, limits: tuple[float, float] | None = None) -> Pixels:
        """The band on another grid, as ``FileBand.read`` does.

        Raises:
            InputError: the cube does not open.
        """
        from agrifm.scenes.cubes import read_band

        return read_band(self, box, average=average, limits=limits)

    def grid(self) -> GeoBox:
        """The cube's own grid.

        Raises:
            InputError: the cube does not open or has no place on the ground.
        """
        from agrifm.scenes.cubes import grid_of

        return grid_of(Path(self.href), self.variable)


@contextmanager
def open_raster(href: str, *, afresh: bool = False, listed: bool = False) -> Generator[rasterio.DatasetReader]:
    """Open a raster, header or pixels, under the settings that fit its place.

    Beside local files, sidecars such as ``.aux.xml`` and ``.msk`` are read with them.

    Args:
        href: path or address.
        afresh: forget what the network gave before.
        listed: an item list names the file, so that it must hold its own pixels.

    Yields:
        The open file.

    Raises:
        Unreadable: it does not open, or GDAL fails while it is read inside the ``with`` block.
    """
    from agrifm.scenes.providers import signed

    settings = (READING if is_address(href) else LOCAL) | (AFRESH if afresh else {})
    try:
        with opened(signed(href), settings, listed=listed) as file:
            _refuse_odd_layouts(file, href)
            yield file
    except DAMAGED as error:
        raise unreadable(href, error) from error


def _refuse_odd_layouts(file: rasterio.DatasetReader, href: str) -> None:
    """Refuse complex numbers and blocks that are too large, before anything is decoded."""
    if any(kind.startswith("complex") for kind in file.dtypes):
        raise unreadable(href, ValueError("complex numbers, as radar products hold"))
    together = file.count if file.interleaving and file.interleaving.value == "PIXEL" else 1
    for (rows, columns), kind in zip(file.block_shapes, file.dtypes, strict=True):
        size = rows * columns * np.dtype(kind).itemsize * together
        if size > MOST_BLOCK:
            raise unreadable(href, ValueError(f"a block of {rows:,} x {columns:,} pixels, which takes {size:,} bytes"))


def located(file: rasterio.DatasetReader, href: str) -> GeoBox:
    """The grid of an open file.

    Raises:
        InputError: it has no place on the ground.
    """
    if file.crs is None:
        raise InputError(
            href,
            found="no CRS",
            expected="a georeferenced raster",
            repair="write the CRS into it, e.g. 'gdal_edit.py -a_srs EPSG:32631 FILE'.",
        )
    return named(_own_grid(file, href))


def _own_grid(file: rasterio.DatasetReader, href: str) -> GeoBox:
    try:
        box = GeoBox.from_rio(file)
    except (ValueError, RuntimeError) as error:  # the second is pyproj's
        raise unreadable(href, error) from error
    check_grid(box, href)
    return box


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


def _pixels(file: rasterio.DatasetReader, index: int, part: GeoBox, marker: float | None) -> Pixels:
    """Part of a band as it is stored, missing where its mask or the marker says so."""
    column, row = ~file.transform @ (part.affine.c, part.affine.f)
    top, left = round(row), round(column)
    window = ((top, top + part.shape[0]), (left, left + part.shape[1]))
    values = file.read(index, window=window)
    own = OWN_MASK & set(file.mask_flag_enums[index - 1])
    missing = marked(values, (marker,))
    if own:
        missing |= file.read_masks(index, window=window) == 0
    return Pixels(values, missing, zero_marks=marker == 0 and not own)


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
    averaging = average and _coarser(grid, box)
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


def _coarser(grid: GeoBox, box: GeoBox) -> bool:
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
