"""Addresses of files: told from local paths, checked and brought into one form, before anything opens them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from agrifm.errors import InputError, printable

SCHEMES = ("http", "https", "s3", "gs")

# A name of two or more characters before the colon: a single one is a drive of Windows. One slash, or a backslash, is
# enough to be meant as an address, because some libraries repair such addresses and open them.
_MEANT = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]|(?:https?|ftps?|s3|gs|az|oss|file|vrt|zip|tar|gzip):", re.IGNORECASE
)
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^\s\[\]/\\?#@%<>\"'|{}^`:]+")
# What GDAL opens by a prefix of the name, or takes for a description of a raster, e.g. '<VRTDataset'.
_GDAL = re.compile(
    r"\s*[<{]|/+vsi|"
    r"(?:GTI|GTIFF_DIR|GTIFF_RAW|HDF[45]\w*|NETCDF|ZARR|WMS|WMTS|WCS|VRT|DERIVED_\w+|SENTINEL2_\w+|STACTA|STACIT|EEDAI?|"
    r"PLMOSAIC|OGCAPI|MVT|MEM|JP2\w*|NITF_\w+|GPKG|RASTERLITE|MRF|IRIS|COG|PG|DODS|GRIB|BAG|S10[24]|S111|KEA|TILEDB):",
    re.IGNORECASE,
)


def is_address(place: str) -> bool:
    """Whether a text is meant as an address; local paths may hold a colon in a file name."""
    return bool(_MEANT.match(place.strip()))


def normalized(address: str, where: object, schemes: Sequence[str] = SCHEMES) -> str:
    """Return an address in the one form that is opened: known scheme in lower case, a host, no fragment.

    Args:
        address: As a user or a file gives it.
        where: It stands, for the error.
        schemes: Schemes that are allowed.

    Raises:
        InputError: If it has another scheme, no host, a user name, a backslash or control characters.
    """
    text = address.strip()
    flaw = _flaw(text, schemes)
    if flaw:
        raise InputError(
            _without_password(str(where)),
            found=f"{_without_password(address)}: {flaw}",
            expected=f"an address that begins with {', '.join(f'{name}://' for name in schemes)} and a host",
            repair="correct the address, or delete the entry that holds it.",
        )
    return urlsplit(text)._replace(fragment="").geturl()


def _without_password(text: str) -> str:
    return re.sub("//[^/]*@", "//...@", text)


def _flaw(text: str, schemes: Sequence[str]) -> str | None:
    """What is wrong with an address, if anything is."""
    if _holds_controls(text):
        return "it holds control characters"
    if "\\" in text:
        return "it holds a backslash"
    try:
        parts = urlsplit(text)
        return _flaw_of(parts, schemes)
    except ValueError as error:  # of brackets and ports
        return str(error)


def _flaw_of(parts: SplitResult, schemes: Sequence[str]) -> str | None:
    if parts.scheme not in schemes:
        return f"the scheme '{parts.scheme}' is not opened"
    if "@" in parts.netloc:
        return "it holds a user name; credentials do not belong in addresses"
    host = parts.netloc if parts.port is None else parts.netloc.rpartition(":")[0]
    if not _HOST.fullmatch(host.removesuffix(":")):
        return "it has no valid host"
    return None


def local(href: str, where: object) -> str:
    """Return a path that was read from a file, if no library can take it for anything else.

    Raises:
        InputError: If it is empty, holds control characters, or names one of GDAL's drivers or virtual file systems.
    """
    if not href.strip() or _holds_controls(href) or _GDAL.match(href):
        raise InputError(
            where,
            found=href or "an empty path",
            expected="a path of a file",
            repair="correct the item, or delete it from the list.",
        )
    return href


def _holds_controls(text: str) -> bool:
    return any(printable(character) != character for character in text)
