"""One band of a raster file, local or remote, read onto any grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError

from agrifm.addresses import is_address
from agrifm.errors import InputError, Unreadable
from agrifm.network.retry import Attempt, TemporaryFailure, retry
from agrifm.network.tokens import signed
from agrifm.rasters.gdal import opened
from agrifm.rasters.grid import check_grid
from agrifm.rasters.matching import Matching
from agrifm.rasters.pixels import (
    DAMAGED,
    MOST_BLOCK,
    Pixels,
    is_coarser,
    mask_missing,
    resample,
    unreadable,
    warp_band,
    with_epsg_code,
)

MOST_WINDOW = 1 << 26  # pixels that are loaded to exclude impossible reflectance from averages

CACHE = {"GDAL_CACHEMAX": 256 * 2**20}  # bytes; GDAL would take a twentieth of the machine's memory in every process
# Sidecar files (.aux.xml, .msk, .ovr, ENVI's .hdr) are opened by name, so that no folder is listed.
LOCAL = CACHE | {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
# Over the network GDAL retries after short failures, and does not look for sidecar files.
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
# GDAL retries after error statuses only. It caches what a cut connection delivered, as if the file ended there.
UNCACHED = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/"}
WAITS = (0.5, 2.0)  # seconds before a file is read again
PATIENCE = 30.0  # seconds that all attempts may take together, without the pauses between them
# GDAL has already retried after error statuses, and a file of another format stays one.
FINAL = ("HTTP response code", "not recognized as being")

Result = TypeVar("Result")


@dataclass(frozen=True)
class FileBand:
    """One band of a raster file that GDAL opens.

    Args:
        href: Path or address.
        index: Number of the band, from 1.
        nodata: Overrides what the file says, or says it where the file does not.
        kind: ``listed`` for a local file that an item list names, which must hold its own pixels.
    """

    href: str
    index: int = 1
    nodata: float | None = None
    kind: Literal["file", "listed"] = "file"

    def read(self, box: GeoBox, *, average: bool = True, limits: tuple[float, float] | None = None) -> Pixels:
        """Read the band onto another grid.

        Pixels are resampled by nearest neighbor, or averaged if the grid is coarser and ``average`` is set.

        Args:
            box: The grid.
            average: Allow averages.
            limits: Stored numbers below and above which pixels are left out of averages.

        Raises:
            InputError: If the file does not open or ends too early.
        """
        return self._with_file(lambda file: next(_read(file, [self], box, average, limits)))

    def grid(self) -> GeoBox:
        """Grid of the file.

        Raises:
            InputError: If the file does not open or has no place on the ground.
        """
        return self._with_file(lambda file: located(file, self.href))

    def _with_file(self, work: Callable[[rasterio.DatasetReader], Result]) -> Result:
        """Apply a function to the open file; a remote file is read again after a cut connection."""

        def attempt_work(attempt: Attempt) -> Result:
            try:
                with open_raster(self.href, uncached=attempt.number > 1, listed=self.kind == "listed") as file:
                    return work(file)
            except IndexError as error:  # the file has fewer bands than before
                raise unreadable(self.href, error) from error
            except Unreadable as error:
                if _is_cut_off(error):
                    raise TemporaryFailure(error) from error
                raise

        waits = WAITS if is_address(self.href) else ()
        return retry(attempt_work, waits, PATIENCE)


def read_bands(
    bands: Mapping[int, FileBand],
    box: GeoBox,
    use: Callable[[int, Pixels], None],
    limits: tuple[float, float] | None = None,
) -> None:
    """Read several bands of one file onto another grid, as ``FileBand.read`` does.

    The file is opened once. Its blocks often hold all bands, and are decoded once.

    Args:
        bands: Bands of the file, by a number of the caller's choice.
        box: The grid.
        use: Receives the number of each band and its pixels. If the connection to a remote file is cut, the file is
            read again, and bands that were passed before are passed again.
        limits: Stored numbers below and above which pixels are left out of averages.

    Raises:
        InputError: If the file does not open or ends too early.
    """
    listed = tuple(bands.values())

    def read_all(file: rasterio.DatasetReader) -> None:
        for number, pixels in zip(bands, _read(file, listed, box, True, limits), strict=True):
            use(number, pixels)

    listed[0]._with_file(read_all)


@contextmanager
def open_raster(href: str, *, uncached: bool = False, listed: bool = False) -> Generator[rasterio.DatasetReader]:
    """Open a raster with the settings for its place.

    Sidecar files of local rasters, such as ``.aux.xml`` and ``.msk``, are read with them.

    Args:
        href: Path or address.
        uncached: Do not use what GDAL has cached of the address.
        listed: An item list names the file, so that it must hold its own pixels.

    Yields:
        The open file.

    Raises:
        Unreadable: If it does not open, or GDAL fails while it is read inside the ``with`` block.
    """
    settings = (READING if is_address(href) else LOCAL) | (UNCACHED if uncached else {})
    try:
        with opened(signed(href), settings, listed=listed) as file:
            _refuse_unsupported(file, href)
            yield file
    except DAMAGED as error:
        raise unreadable(href, error) from error


def located(file: rasterio.DatasetReader, href: str) -> GeoBox:
    """Grid of an open file.

    Raises:
        InputError: If it has no place on the ground.
    """
    if file.crs is None:
        raise InputError(
            href,
            found="no CRS",
            expected="a georeferenced raster",
            repair="write the CRS into it, e.g. 'gdal_edit.py -a_srs EPSG:32631 FILE'.",
        )
    return with_epsg_code(_grid_of(file, href))


def _is_cut_off(error: Unreadable) -> bool:
    """Whether GDAL failed because the connection ended too early."""
    if not isinstance(error.__cause__, RasterioError):
        return False
    return not any(text in str(error) for text in FINAL)


def _refuse_unsupported(file: rasterio.DatasetReader, href: str) -> None:
    """Refuse complex numbers and blocks that are too large, before anything is decoded."""
    if any(dtype.startswith("complex") for dtype in file.dtypes):
        raise unreadable(href, ValueError("complex numbers, as radar products hold"))
    interleaved = file.interleaving is not None and file.interleaving.value == "PIXEL"
    bands_per_block = file.count if interleaved else 1
    for (rows, columns), dtype in zip(file.block_shapes, file.dtypes, strict=True):
        size = rows * columns * np.dtype(dtype).itemsize * bands_per_block
        if size > MOST_BLOCK:
            raise unreadable(href, ValueError(f"a block of {rows:,} x {columns:,} pixels, which takes {size:,} bytes"))


def _grid_of(file: rasterio.DatasetReader, href: str) -> GeoBox:
    """Grid of an open file, with or without a CRS."""
    try:
        box = GeoBox.from_rio(file)
    except (ValueError, RuntimeError) as error:  # the second is pyproj's
        raise unreadable(href, error) from error
    check_grid(box, href)
    return box


def _read(
    file: rasterio.DatasetReader,
    bands: Sequence[FileBand],
    box: GeoBox,
    average: bool,
    limits: tuple[float, float] | None,
) -> Iterator[Pixels]:
    """Read bands of an open file onto another grid, one after the other."""
    file_grid = _grid_of(file, bands[0].href)
    averaging = average and is_coarser(file_grid, box)
    matching = None if averaging else Matching.of(file_grid, box)
    if matching is not None:
        for pixels in _stored_pixels(file, bands, matching.part):
            yield matching.place(pixels, box)
        return
    rows, columns = compute_reproject_roi(file_grid, box).roi_src
    roi = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
    part = file_grid[roi]
    excluding = averaging and limits is not None and math.prod(part.shape) <= MOST_WINDOW
    for band in bands:
        if excluding or _has_mask(file, band.index):
            # GDAL ignores the mask of a file if a marker is known, too, so both are applied before.
            pixels = next(_stored_pixels(file, [band], roi))
            yield resample(pixels, part, box, average=average, limits=limits)
        else:
            yield warp_band(file, band.index, box, _marker(file, band), average=averaging)


def _marker(file: rasterio.DatasetReader, band: FileBand) -> float | None:
    """Stored number that marks missing pixels of a band."""
    return file.nodatavals[band.index - 1] if band.nodata is None else band.nodata


def _has_mask(file: rasterio.DatasetReader, index: int) -> bool:
    """Whether a band has a mask of its own, beside its no-data value."""
    flags = file.mask_flag_enums[index - 1]
    return MaskFlags.per_dataset in flags or MaskFlags.alpha in flags


def _stored_pixels(
    file: rasterio.DatasetReader, bands: Sequence[FileBand], part: tuple[slice, slice]
) -> Iterator[Pixels]:
    """Read a part of some bands as it is stored, with their masks and markers."""
    rows, columns = part
    window = ((rows.start, rows.stop), (columns.start, columns.stop))
    markers = [_marker(file, band) for band in bands]
    # All bands at once, because their numbers often lie in the same blocks.
    stored = file.read([band.index for band in bands], window=window)
    mask = None
    for band, marker, values in zip(bands, markers, stored, strict=True):
        missing = mask_missing(values, (marker,))
        has_mask = _has_mask(file, band.index)
        if has_mask:
            if mask is None:  # one mask for all bands
                mask = file.read_masks(band.index, window=window) == 0
            missing |= mask
        yield Pixels(values, missing, zero_marks=marker == 0 and not has_mask)
