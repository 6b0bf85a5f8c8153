"""The files that a map is made of: what tells a changed one from the one before."""

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

ENDS = 1 << 20  # bytes at either end of an input file that its checksum covers
# Files beside a raster in which GDAL looks for masks, no-data values, coordinates, headers and overviews.
SIDECARS = (".aux.xml", ".msk", ".ovr")
SIDECAR_SUFFIXES = (".hdr", ".prj", ".tfw", ".wld")
MARKUP_BYTES = 1 << 20  # a VRT is a small text; what is longer is an image

Stamp = tuple[int, int]  # size and time of the last change


def hrefs_of(scene: Scene) -> list[str]:
    """Paths and addresses of every file that a scene reads."""
    found = set()
    for layer in scene.layers:
        for frame in layer.frames:
            found |= frame.hrefs
    return sorted(found)


def stamps(scene: Scene) -> dict[str, Stamp | None]:
    """Size and time of change of every local file that a scene reads, those that were left out included.

    None stands for a file that is not there. Addresses are left out: nothing is known of them without the network.
    """
    found: dict[str, Stamp | None] = {}
    for href in (*hrefs_of(scene), *scene.skipped):
        if elsewhere(href):
            continue
        path = Path(href)
        found[href] = _stamp(path)
        for other in _sidecars(path):
            stamp = _stamp(other)
            if stamp is not None:
                found[str(other)] = stamp
    return found


def elsewhere(href: str) -> bool:
    """Whether GDAL would look for a file elsewhere than in the folders of this machine."""
    return is_address(href) or href.startswith("/vsi")


def is_there(path: Path) -> bool:
    """Whether a file or folder is there; a name that no file can have is none."""
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def _stamp(path: Path) -> Stamp | None:
    """Size and time of change of a file; of a folder, such as a Zarr store, of everything below it."""
    if not is_there(path):
        return None
    try:
        if not path.is_dir():
            state = path.stat()
            return state.st_size, state.st_mtime_ns
        size, latest = 0, 0
        for below in _files_below(path):
            state = below.stat()
            size, latest = size + state.st_size, max(latest, state.st_mtime_ns)
        return size, latest
    except OSError:
        return None


def _files_below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            yield Path(root, name)


def _sidecars(path: Path) -> Iterator[Path]:
    """Files that may lie beside a raster and decide how it is read."""
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
    """The text of a raster that is described in XML, such as a VRT; None where it is none."""
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
    except RasterioError:  # told when its pixels are read
        return
    for name in names:
        if not elsewhere(name):
            yield Path(name)


def changed(before: dict[str, Stamp | None], now: dict[str, Stamp | None]) -> list[str]:
    """Files of either that are not the same in both."""
    return sorted(path for path in {*before, *now} if before.get(path) != now.get(path))


def checksums(scene: Scene) -> dict[str, str | None]:
    """A quick checksum of every input file that lies on this machine: its size and both ends."""
    hrefs = hrefs_of(scene)
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(hrefs, pool.map(_quick_sum, hrefs), strict=True))


def _quick_sum(href: str) -> str | None:
    path = Path(href)
    if not is_there(path) or path.is_dir():
        return None
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(ENDS, size - ENDS))
        digest.update(file.read(ENDS))
    return f"{size}:{digest.hexdigest()[:32]}"
