"""One band of one date, wherever it is stored, read onto the grid that is asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
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
from agrifm.network.tokens import signed
from agrifm.rasters.gdal import opened
from agrifm.rasters.grid import check_grid
from agrifm.rasters.pixels import DAMAGED, MOST_BLOCK, Pixels, coarser, marked, named, resampled, unreadable, warped

MOST_WINDOW = 1 << 26  # pixels that are held in memory to find out whether some of them are no reflectance

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
OWN_MASK = {MaskFlags.per_dataset, MaskFlags.alpha}

Seen = TypeVar("Seen")


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
        averaging = average and coarser(own, box)
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
