"""Input files of a map: time stamps and checksums by which changed files are recognized."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from agrifm.addresses import is_address
from agrifm.scenes.scene import Scene

ENDS = 1 << 20  # bytes at the beginning and at the end of a file that its checksum covers
# Files beside a raster in which GDAL looks for masks, no-data values, coordinates, headers and overviews.
SIDECARS = (".aux.xml", ".msk", ".ovr")
SIDECAR_SUFFIXES = (".hdr", ".prj", ".tfw", ".wld")
MARKUP_BYTES = 1 << 20  # a VRT is a short text; a longer file is an image

Stamp = tuple[int, int]  # size and time of the last change


def hrefs_of(scene: Scene) -> list[str]:
    """Paths and addresses of all files that a scene reads."""
    hrefs: set[str] = set()
    for layer in scene.layers:
        for frame in layer.frames:
            hrefs |= frame.hrefs
    return sorted(hrefs)


def stamps(scene: Scene) -> dict[str, Stamp | None]:
    """Size and modification time of every local file that a scene reads or has left out.

    Missing files have None. Addresses are not included, because that would need the network.
    """
    by_path: dict[str, Stamp | None] = {}
    for href in (*hrefs_of(scene), *scene.skipped):
        if elsewhere(href):
            continue
        path = Path(href)
        by_path[href] = _stamp(path)
        for other in _sidecars(path):
            stamp = _stamp(other)
            if stamp is not None:
                by_path[str(other)] = stamp
    return by_path


def elsewhere(href: str) -> bool:
    """Whether GDAL would not read a file from a folder of this machine."""
    return is_address(href) or href.startswith("/vsi")


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; names that no file can have do not."""
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def _stamp(path: Path) -> Stamp | None:
    """Size and modification time of a file, or of everything below a folder such as a Zarr store."""
    if not is_there(path):
        return None
    try:
        if not path.is_dir():
            state = path.stat()
            return state.st_size, state.st_mtime_ns
        size = 0
        latest = 0
        for below in _files_below(path):
            state = below.stat()
            size += state.st_size
            latest = max(latest, state.st_mtime_ns)
        return size, latest
    except OSError:
        return None


def _files_below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            yield Path(root, name)


def _sidecars(path: Path) -> Iterator[Path]:
    """Files that may exist beside a raster and influence how it is read."""
    if not path.name:
        return
    for ending in SIDECARS:
        yield path.with_name(path.name + ending)
    for suffix in SIDECAR_SUFFIXES:
        if path.suffix != suffix:
            yield path.with_suffix(suffix)
    if markup(path) is not None:
        yield from _named_by(path)


def markup(path: Path) -> str | None:
    """Text of a raster that is described in XML, such as a VRT; None for any other file."""
    try:
        if not is_there(path) or path.is_dir() or path.stat().st_size > MARKUP_BYTES:
            return None
        with path.open("rb") as file:
            if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _named_by(path: Path) -> Iterator[Path]:
    """Files that a VRT reads."""
    try:
        with rasterio.open(path) as file:
            names = list(file.files)
    except RasterioError:  # reported when its pixels are read
        return
    for name in names:
        if not elsewhere(name):
            yield Path(name)


def changed(before: dict[str, Stamp | None], now: dict[str, Stamp | None]) -> list[str]:
    """Files that differ between two sets of stamps."""
    return sorted(path for path in {*before, *now} if before.get(path) != now.get(path))


def checksums(scene: Scene) -> dict[str, str | None]:
    """Quick checksums of all local input files, from their size, beginning and end."""
    hrefs = hrefs_of(scene)
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(hrefs, pool.map(_quick_sum, hrefs), strict=True))


def _quick_sum(href: str) -> str | None:
    path = Path(href)
    if not is_there(path) or path.is_dir():
        return None
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(ENDS, size - ENDS))
        digest.update(file.read(ENDS))
    return f"{size}:{digest.hexdigest()[:32]}"
