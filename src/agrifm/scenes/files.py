"""Frames from files: names are read, every header is opened, and every date must have every band."""

from __future__ import annotations

import datetime as dt
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from agrifm.errors import InputError, Unreadable
from agrifm.scenes.cubes import find_pieces, is_cube
from agrifm.scenes.names import CUBE, LAYOUTS, STACKED, Layout, Piece, hinted, layout_of, parse_day
from agrifm.scenes.raster import FileBand, named, unreadable
from agrifm.scenes.scene import READERS, Raster
from agrifm.sensors import MODIS

if TYPE_CHECKING:
    from agrifm.scenes.open import Source

HDF4 = 'HDF4_EOS:EOS_GRID:"{path}":MOD_Grid_500m_Surface_Reflectance:{band}'


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    grid: GeoBox
    count: int
    names: tuple[str, ...]
    nodata: tuple[float | None, ...]
    factors: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Found:
    """What the files of a source are.

    Args:
        pieces: every band of every date.
        headers: of the files that open, by address.
        broken: files that do not, and why.
        names: some of the other files' names.
    """

    pieces: list[Piece]
    headers: dict[str, Header] = field(default_factory=dict)
    broken: dict[str, Unreadable] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def grid(self, raster: Raster) -> GeoBox:
        """The grid of one of the rasters."""
        return self.headers[raster.href].grid if isinstance(raster, FileBand) else raster.grid()


def look(source: Source, start: dt.date | None = None, end: dt.date | None = None) -> Found:
    """Find the files of a source and open their headers.

    Raises:
        InputError: nothing is there, nothing is recognized, or a file has no place on the ground.
    """
    root, pattern = split_path(source.path, source.pattern)
    paths = list(_walk(root))
    if not paths:
        raise InputError(
            root,
            found="no such file or folder" if not root.exists() else "an empty folder",
            expected="satellite images",
            repair="correct the path.",
        )
    pieces, broken = _recognize(root, paths, pattern)
    if not pieces and not broken:
        raise _nothing(root, paths, pattern)
    pieces = [piece for piece in pieces if (start or piece.day) <= piece.day <= (end or piece.day)]
    headers, unread = _headers(pieces)
    pieces = [part for piece in pieces for part in _stacked(piece, headers)]
    return Found(pieces, headers, broken | unread, tuple(path.name for path in paths))


def split_path(path: Path, pattern: str | None) -> tuple[Path, str | None]:
    """The folder without any pattern in it, and the pattern."""
    parts = path.absolute().parts
    first = next((i for i, part in enumerate(parts) if set(part) & set("{*?")), len(parts))
    rest = "/".join(parts[first:])
    return Path(*parts[:first]), f"{rest}/{pattern}" if rest and pattern else rest or pattern


def _walk(root: Path) -> Iterator[Path]:
    """Files and Zarr stores below a folder, by name."""
    if root.is_file() or is_cube(root):
        yield root
        return
    for folder, inner, names in os.walk(root, followlinks=True):
        here = Path(folder)
        stores = [name for name in inner if is_cube(here / name)]
        inner[:] = sorted(name for name in inner if name not in stores and not name.startswith("."))
        yield from (here / name for name in sorted([*names, *stores]) if not name.startswith("."))


def _recognize(root: Path, paths: Sequence[Path], pattern: str | None) -> tuple[list[Piece], dict[str, Unreadable]]:
    base = root if root.is_dir() and not is_cube(root) else root.parent
    layouts = (layout_of(pattern),) if pattern else LAYOUTS
    pieces: list[Piece] = []
    broken: dict[str, Unreadable] = {}
    for path in paths:
        if is_cube(path) and not pattern:
            try:
                pieces += find_pieces(path)
            except Unreadable as error:
                broken[str(path)] = error
        else:
            pieces += _matches(path, path.relative_to(base).as_posix(), layouts)
    if not pieces and not broken and not pattern:
        pieces = [piece for path in paths for piece in _matches(path, path.relative_to(base).as_posix(), (STACKED,))]
    return pieces, broken


def _matches(path: Path, shown: str, layouts: Sequence[Layout]) -> list[Piece]:
    """The pieces of a file by the first layout that its name follows."""
    for address, name in _addresses(path, shown):
        for layout in layouts:
            match = layout.pattern.fullmatch(name)
            day = match and parse_day(match["date"])
            if match and day:
                return [_piece(path, part, layout) for part in _addresses(path, shown)] if False else [
                    _piece(path, address, name, layout)
                ]
    return []
