"""How GDAL opens rasters: only what the user named, with the drivers that its place allows.

Many of GDAL's drivers read other files that a file names, or ask services. What may be followed depends on who named
the file: a raster in a folder of the user may be a VRT over local files; one that an item list or a server names holds
its own pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio.env import ensure_env_with_credentials
from rasterio.io import DatasetReader

from agrifm.addresses import is_address, local, normalized
from agrifm.errors import InputError, Unreadable, refusing

PIXELS = ("GTiff", "JP2OpenJPEG")  # drivers of files that hold their own pixels, COG among them
# Drivers whose files are descriptions: of services, or of files that lie elsewhere.
FOLLOWING = (
    *("HTTP", "WMS", "WMTS", "WCS", "OGCAPI", "NGW", "EEDA", "EEDAI", "PLMOSAIC", "DAAS", "STACTA", "STACIT", "GTI"),
    *("MRF", "KMLSUPEROVERLAY", "DERIVED", "PostGISRaster", "GeoRaster"),
)
# No file of another place is opened. rasterio gives settings of the main thread to all threads, so only those are
# here that every opening sets for itself.
SILENT = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "none", "GDAL_VRT_ENABLE_PYTHON": "NO"}
SIDECARS = (".ovr", ".OVR", ".msk", ".MSK")  # rasters beside a raster, which GDAL opens with any driver
VSI = {"http": "/vsicurl/http:/", "https": "/vsicurl/https:/", "s3": "/vsis3", "gs": "/vsigs"}
# A server that sends less is taken for dead; GDAL itself does not repeat a request that ends so.
SLOWEST = {"GDAL_HTTP_LOW_SPEED_LIMIT": "1000", "GDAL_HTTP_LOW_SPEED_TIME": "10"}  # bytes per second, seconds

MOST_VRT = 64 * 2**20  # bytes
DEEPEST = 16  # VRTs over VRTs
SOURCES = ("sourcefilename", "sourcedataset", "dempath")  # elements of a VRT that name files, in lower case
KEYS = ("X_DATASET", "Y_DATASET", "OVERVIEW_FILE", "RPC_DEM")  # its metadata that do


@contextmanager
def opened(href: str, settings: Mapping[str, Any], *, listed: bool = False) -> Generator[DatasetReader]:
    """Open a raster.

    Args:
        href: Path or address.
        settings: Settings of GDAL, beside those that keep it from other places.
        listed: An item list names the file, so that it must hold its own pixels.

    Raises:
        InputError: If an address that is not opened, or a VRT over files that it must not reach.
        RasterioError: the file does not open.
    """
    if is_address(href):
        place = normalized(href, href.partition("?")[0])
        scheme, _, rest = place.partition("://")
        limits, drivers = SLOWEST | {"CPL_VSIL_CURL_ALLOWED_FILENAME": f"{VSI[scheme]}/{rest}"}, PIXELS
    else:
        # An absolute path cannot be taken for one of GDAL's prefixes, such as 'GTI:'.
        place, limits, drivers = str(Path(href).absolute()), SILENT, PIXELS if listed else _local_drivers()
        if place.startswith("/vsi"):
            local(place, href)
        if listed:  # without sidecars
            limits = SILENT | {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
        else:
            check_vrt(Path(place))
            for suffix in SIDECARS:
                check_vrt(Path(place + suffix), (Path(place),))
    with rasterio.Env(**{**settings, **limits}), _open(place, drivers) as file:
        if _leads_away(file.tags(ns="OVERVIEWS").get("OVERVIEW_FILE"), drivers == PIXELS):
            raise Unreadable(
                href.partition("?")[0],
                found="a raster whose overviews lie in another file",
                expected="a file that holds all of its pixels",
                repair="write it again with 'gdal_translate -of COG'.",
            )
        yield file


def _leads_away(overviews: str | None, listed: bool) -> bool:
    """Whether overviews lie where they must not: of a user's file, beyond its folder; of another, anywhere else."""
    if overviews is None:
        return False
    beside = overviews.removeprefix(":::BASE:::")
    return listed or beside == overviews or "/" in beside or "\\" in beside or is_address(beside)


@ensure_env_with_credentials
def _open(place: str, drivers: tuple[str, ...]) -> DatasetReader:
    """Open with no other driver; ``rasterio.open`` takes only one name."""
    return DatasetReader(place, driver=list(drivers), sharing=False)


@lru_cache
def _local_drivers() -> tuple[str, ...]:
    with rasterio.Env() as env:
        return tuple(sorted(set(env.drivers()) - set(FOLLOWING)))


def check_vrt(path: Path, above: tuple[Path, ...] = ()) -> None:
    """Refuse a VRT that leads to an address, a service or a virtual file system; other files pass.

    Args:
        path: Path of any file, which need not exist.
        above: VRTs over this one.

    Raises:
        InputError: If it does, or it cannot be read.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(1024)
    if b"<VRTDataset" not in head:
        if above and head.lstrip()[:1] in (b"<", b"{"):
            raise _refused(above[-1], f"the source {path}, which describes a service")
        return
    if path.stat().st_size > MOST_VRT or len(above) > DEEPEST or path in above:
        raise _refused(path, f"more than {MOST_VRT:,} bytes, or a long chain of VRTs")
    with refusing(path, expected="a VRT in XML", kind=Unreadable):
        text = path.read_bytes()
        root = ElementTree.fromstring(text)
    if b"<!DOCTYPE" in text:
        raise _refused(path, "a document type definition")
    for element in root.iter():
        # GDAL does not distinguish upper and lower case here.
        if element.tag.lower() in SOURCES or str(element.get("key")).upper() in KEYS:
            _check_source(path, "".join(element.itertext()).strip(), element.get("relativeToVRT") == "1", above)


def _check_source(path: Path, source: str, relative: bool, above: tuple[Path, ...]) -> None:
    try:
        if not source:
            return
        if is_address(source):
            raise _refused(path, f"the source {source}")
        local(source, path)
    except InputError as error:
        raise _refused(path, f"the source {source}") from error
    check_vrt((path.parent / source if relative else Path(source)).absolute(), (*above, path))


def _refused(path: Path, found: str) -> Unreadable:
    return Unreadable(
        path,
        found=f"a VRT with {found}",
        expected="a VRT over local files; nothing is read over the network that you did not name",
        repair="download the files and build it again over the copies, or leave it out with --skip-unreadable.",
    )
