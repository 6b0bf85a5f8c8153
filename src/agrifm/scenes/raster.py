"""One band of one date, wherever it is stored, read onto the grid that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from agrifm.addresses import is_address
from agrifm.errors import InputError, Unreadable
from agrifm.scenes.gdal import opened

EXACT = 0.001  # largest error of re-projection in pixels, so that neighboring reads agree
COARSER = 1.5  # from this ratio of pixel sizes on, pixels are averaged instead of picked

# What GDAL is told when it reads: ask again after short failures, do not list folders, keep little.
READING = {
    "GDAL_CACHEMAX": 256 * 2**20,  # bytes; GDAL would take a twentieth of the machine's memory in every process
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

    def read(self, box: GeoBox, fill: float, *, average: bool = True) -> np.ndarray:
        """The band on another grid ``(h, w)``; ``fill`` where the file has no pixel.

        Pixels are picked (nearest neighbor), or averaged where the grid is coarser and ``average`` is set.

        Raises:
            InputError: the file does not open or ends too early.
        """

        def look(file: rasterio.DatasetReader) -> np.ndarray:
            nodata = self.nodata if self.nodata is not None else file.nodata
            return warped(file, self.index, box, fill, nodata=nodata, average=average)

        return self._opened(look)

    def grid(self) -> GeoBox:
        """The file's own grid.

        Raises:
            InputError: the file does not open or has no place on the ground.
        """
        return self._opened(lambda file: located(file, self.href))

    def _opened(self, look: Callable[[rasterio.DatasetReader], Seen]) -> Seen:
        """What ``look`` finds in the open file; over the network it looks again after a cut connection."""
        from agrifm.scenes.providers import signed

        settings, waits = READING, iter(WAITS if is_address(self.href) else ())
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with opened(signed(self.href), settings, listed=self.kind == "listed") as file:
                    return look(file)
            except (RasterioError, IndexError) as error:
                wait = next(waits, None)
                # GDAL has asked again itself after bad answers; a file of another kind stays one.
                final = any(text in str(error) for text in ("HTTP response code", "not recognized as being"))
                if wait is None or final or time.monotonic() > end:
                    raise unreadable(self.href, error) from error
                time.sleep(wait)
                settings = READING | AFRESH


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

    def read(self, box: GeoBox, fill: float, *, average: bool = True) -> np.ndarray:
        """The band on another grid ``(h, w)``, as ``FileBand.read`` does.

        Raises:
            InputError: the cube does not open.
        """
        from agrifm.scenes.cubes import read_band

        return read_band(self, box, fill, average=average)

    def grid(self) -> GeoBox:
        """The cube's own grid.

        Raises:
            InputError: the cube does not open or has no place on the ground.
        """
        from agrifm.scenes.cubes import grid_of

        return grid_of(Path(self.href), self.variable)


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
    return named(GeoBox.from_rio(file))


def warped(
    file: rasterio.DatasetReader, index: int, box: GeoBox, fill: float, *, nodata: float | None, average: bool
) -> np.ndarray:
    """One band of an open file on another grid ``(h, w)``, as ``FileBand.read`` does; NaN is no pixel."""
    if nodata is None and "float" in file.dtypes[index - 1]:
        nodata = float("nan")
    with WarpedVRT(
        file,
        crs=str(box.crs),
        transform=box.affine,
        height=box.shape[0],
        width=box.shape[1],
        resampling=Resampling.average if average and _coarser(file, box) else Resampling.nearest,
        src_nodata=nodata,
        nodata=fill,
        dtype=wide_enough(file.dtypes[index - 1], fill),
        tolerance=EXACT,
    ) as view:
        return view.read(index)


def _coarser(file: rasterio.DatasetReader, box: GeoBox) -> bool:
    same = file.crs is not None and file.crs.is_projected == (box.crs is not None and box.crs.projected)
    return same and abs(box.affine.a) > COARSER * abs(file.transform.a)


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
