"""Rasters of codes, labels or land cover: one band, whose data lie in local files or at an address that was named."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from agrifm.addresses import is_address
from agrifm.errors import InputError, Unreadable, refusing
from agrifm.rasters.file_band import FileBand, located, open_raster
from agrifm.rasters.pixels import Pixels

# A mosaic (VRT) names its sources. GDAL would follow these over the network, whoever wrote the file.
SOURCES = re.compile(rb"<Source(?:Filename|Dataset|DataSource)[^>]*>\s*([^<]*)", re.IGNORECASE)
ELSEWHERE = re.compile(r"/vsi(?!zip|gzip|tar|mem)|://|^\s*\w{2,}:|GDAL_WMS|WMTS", re.IGNORECASE)
DEEPEST = 4  # mosaics of mosaics
LARGEST = 1 << 26  # bytes of a mosaic

# Whatever else may lead to the network finds none: no suffix is allowed there, and the proxy does not exist.
OFFLINE = {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none", "GDAL_HTTP_PROXY": "http://127.0.0.1:9"}


def read_codes(href: str, box: GeoBox) -> Pixels:
    """Codes on another grid, each that of the pixel which holds the center.

    Raises:
        InputError: as ``open_codes`` does.
    """
    _refuse_elsewhere(href)
    with rasterio.Env(**{} if is_address(href) else OFFLINE):
        return FileBand(href).read(box, average=False)


def grid_of(href: str) -> GeoBox:
    """The raster's own grid.

    Raises:
        InputError: as ``open_codes`` does, or it has no place on the ground.
    """
    with open_codes(href) as file:
        return located(file, href)


@contextmanager
def open_codes(href: str) -> Generator[rasterio.DatasetReader]:
    """Open a raster of codes.

    Raises:
        InputError: If it does not open, has several bands, or is a mosaic of files elsewhere.
    """
    _refuse_elsewhere(href)
    with open_raster(href) as file:
        bands = [kind for kind in file.colorinterp if kind != ColorInterp.alpha]
        if len(bands) != 1 or file.colorinterp[0] == ColorInterp.alpha:
            raise InputError(
                href,
                found=f"{file.count} bands",
                expected="one band of class numbers",
                repair="write that band alone, e.g. 'gdal_translate -b 1 OLD NEW'.",
            )
        yield file


def check_codes(path: Path) -> None:
    """Refuse labels that are no raster of codes.

    Raises:
        InputError: as ``open_codes`` does.
    """
    try:
        with open_codes(str(path)):
            pass
    except Unreadable as error:
        raise InputError(
            path,
            found=f"neither a layer of polygons or points nor a raster ({error.found})",
            expected="e.g. GeoPackage, Shapefile, GeoJSON, FlatGeobuf or GeoTIFF",
            repair="copy it again with the files that belong to it, or convert it with ogr2ogr.",
        ) from error


def _refuse_elsewhere(href: str) -> None:
    if not is_address(href):
        refuse_sources_elsewhere(Path(href))


def refuse_sources_elsewhere(path: Path, depth: int = 0) -> None:
    """Refuse a mosaic with sources that are no local files; those that are mosaics again are looked at too.

    Raises:
        InputError: names the source.
    """
    if not path.is_file():
        return
    with refusing(path, expected="a file that can be read", repair="check its permissions."), path.open("rb") as file:
        text = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not text.startswith((b"<", b"{", b"[")):
            return
        if not text.startswith(b"<VRTDataset"):
            raise InputError(
                path,
                found="XML or JSON, by which GDAL finds rasters elsewhere",
                expected="a raster that holds its pixels itself, e.g. GeoTIFF, or a mosaic (VRT) of such",
                repair="convert it if you trust it, e.g. 'gdal_translate OLD NEW.tif', and name the new file.",
            )
        text += file.read(LARGEST)
    for found in SOURCES.findall(text):
        source = found.decode("utf-8", "replace").strip()
        if depth == DEEPEST or ELSEWHERE.search(source):
            raise InputError(
                path,
                found=f"a mosaic of files elsewhere: {source[:200]}" if depth < DEEPEST else "mosaics in mosaics",
                expected="a mosaic of local files",
                repair="download the files and make the mosaic again, e.g. 'gdalbuildvrt all.vrt TILES'.",
            )
        refuse_sources_elsewhere(path.parent / source, depth + 1)
