"""Bands in files: names are read, headers are opened, nothing of the pixels."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from agrifm.errors import InputError, Unreadable
from agrifm.scenes.cubes import SUFFIXES, find_pieces, is_cube, stored_as
from agrifm.scenes.names import LAYOUTS, STACKED, Layout, Piece, hinted, layout_of, parse_day
from agrifm.scenes.raster import FileBand, located, open_raster
from agrifm.scenes.scene import READERS
from agrifm.sensors import MODIS

if TYPE_CHECKING:
    from agrifm.scenes.description import Source

HDF4 = re.compile(r"(M[OY]D09A1)\.A(?P<date>\d{7})\..*\.hdf", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What a file says of each of its bands.

    Args:
        names: empty where there is none.
        kinds: data types.
        nodata: None where it does not say.
        factors: scale and offset.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    nodata: tuple[float | None, ...]
    factors: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Found:
    """What the files of a source are.

    Args:
        root: folder or file without any pattern.
        pieces: every band of every date.
        headers: of the raster files that open, by path.
        broken: files that do not, and why.
    """

    root: Path
    pieces: tuple[Piece, ...]
    headers: Mapping[str, Header] = field(default_factory=dict)
    broken: Mapping[str, InputError] = field(default_factory=dict)

    def stored(self, piece: Piece) -> tuple[str, float | None]:
        """The data type of a band, and what marks a missing pixel in it, if the file says so."""
        raster = piece.raster
        if isinstance(raster, FileBand):
            header = self.headers[raster.href]
            return header.kinds[raster.index - 1], header.nodata[raster.index - 1]
        return stored_as(Path(raster.href), raster.variable)

    def factors(self, piece: Piece) -> tuple[float, float] | None:
        """Scale and offset in a raster file, unless they say nothing."""
        raster = piece.raster
        stated = self.headers[raster.href].factors[raster.index - 1] if isinstance(raster, FileBand) else (1, 0)
        return None if stated == (1, 0) else stated


def look(source: Source, start: dt.date | None = None, end: dt.date | None = None) -> Found:
    """Find the files of a source and open their headers.

    Raises:
        InputError: nothing is there, or nothing is recognized.
    """
    root, pattern = split_path(source.path, source.pattern)
    paths = list(_walk(root))
    if not paths:
        raise InputError(
            root,
            found="an empty folder" if root.exists() else "no such file or folder",
            expected="satellite images",
            repair="correct the path.",
        )
    pieces, broken = _recognize(root, paths, pattern)
    _no_hdf4(paths, pieces)
    if not pieces and not broken:
        raise _nothing(root, paths, pattern)
    pieces = [piece for piece in pieces if (start or piece.day) <= piece.day <= (end or piece.day)]
    headers, unread = _headers(pieces)
    pieces = [part for piece in pieces for part in _stacked(piece, headers, source)]
    return Found(root, tuple(pieces), headers, broken | unread)


def split_path(path: Path, pattern: str | None) -> tuple[Path, str | None]:
    """The folder without any pattern in it, and the pattern."""
    parts = path.absolute().parts
    first = next((i for i, part in enumerate(parts) if set(part) & set("{*?")), len(parts))
    rest = "/".join(parts[first:])
    return Path(*parts[:first]), f"{rest}/{pattern}" if rest and pattern else rest or pattern


def _walk(root: Path) -> Iterator[Path]:
    """Files and Zarr stores below a folder, by name."""
    if root.is_file() or is_cube(root):
        yield from [root] if root.exists() else []
        return
    for folder, inner, names in os.walk(root, followlinks=True):
        here = Path(folder)
        stores = [name for name in inner if is_cube(here / name)]
        inner[:] = sorted(name for name in inner if name not in stores and not name.startswith("."))
        yield from (here / name for name in sorted([*names, *stores]) if not name.startswith("."))


def _recognize(root: Path, paths: Sequence[Path], pattern: str | None) -> tuple[list[Piece], dict[str, InputError]]:
    base = root if root.is_dir() and not is_cube(root) else root.parent
    shown = {path: path.relative_to(base).as_posix() for path in paths}
    of_cubes = pattern is not None and pattern.lower().endswith(SUFFIXES)
    pieces: list[Piece] = []
    broken: dict[str, InputError] = {}
    for path in filter(is_cube, paths):
        try:
            wanted = pattern is None or (of_cubes and fnmatchcase(shown[path], pattern))
            pieces += find_pieces(path) if wanted else []
        except Unreadable as error:
            broken[str(path)] = error
    if of_cubes:
        return pieces, broken
    files = [path for path in paths if not is_cube(path)]
    layouts = (layout_of(pattern),) if pattern else LAYOUTS
    pieces += [piece for path in files if (piece := _piece(path, shown[path], layouts))]
    if not pieces and not broken and not pattern:
        pieces = [piece for path in files if (piece := _piece(path, shown[path], (STACKED,)))]
    return pieces, broken


def _piece(path: Path, shown: str, layouts: Sequence[Layout]) -> Piece | None:
    """What a file is by the first layout that its name follows."""
    for layout in layouts:
        match = layout.pattern.fullmatch(shown)
        day = parse_day(match["date"]) if match else None
        if match is None or day is None:
            continue
        parts = {key: value for key, value in match.groupdict().items() if value}
        return Piece(
            raster=FileBand(str(path)),
            name=parts.get("band", ""),
            day=day,
            group=f"{layout.title} {[sensor.name for sensor in hinted(shown)]}",
            layout=layout,
            shown=shown,
            stamp="T".join(parts[key] for key in ("date", "time") if key in parts),
            tile=parts.get("tile", ""),
            order=parts.get("time", ""),
            res=float(parts.get("res", 0)),
            units=layout.units(path) if layout.units else None,
        )
    return None


def _no_hdf4(paths: Sequence[Path], pieces: Sequence[Piece]) -> None:
    """Refuse HDF4 files whose bands do not lie beside them."""
    there = {piece.day for piece in pieces if piece.layout.sensor == MODIS.name}
    for path in paths:
        match = HDF4.fullmatch(path.name)
        if match and parse_day(match["date"]) not in there:
            grid = f'HDF4_EOS:EOS_GRID:"{path.name}":MOD_Grid_500m_Surface_Reflectance:$band'
            raise InputError(
                path,
                found="an HDF4 file",
                expected="one GeoTIFF for each band; the GDAL inside the Python wheels reads no HDF4",
                repair="convert it with a GDAL that does, e.g. of conda: for band in sur_refl_b0{1..7} "
                f"sur_refl_state_500m; do gdal_translate '{grid}' {path.stem}_$band.tif; done".replace("'", ""),
            )


def _nothing(root: Path, paths: Sequence[Path], pattern: str | None) -> InputError:
    names = ", ".join(path.name for path in paths[:3])
    examples = {layout.title: layout.example for layout in (*LAYOUTS, STACKED)}
    forms = "; ".join(f"{title}: {example}" for title, example in examples.items())
    return InputError(
        root,
        found=f"{len(paths)} file(s) that are not recognized: {names}{', ...' if len(paths) > 3 else ''}",
        expected=f"names that follow '{pattern}'" if pattern else f"{forms}; or netCDF or Zarr with a time axis",
        repair="say how the files are named, e.g. --set pattern='{date}_{band}_{res}.jp2', or {date}.tif for files "
        "with several bands.",
    )


def _headers(pieces: Sequence[Piece]) -> tuple[dict[str, Header], dict[str, InputError]]:
    hrefs = sorted({piece.raster.href for piece in pieces if isinstance(piece.raster, FileBand)})
    with ThreadPoolExecutor(READERS) as pool:
        answers = dict(zip(hrefs, pool.map(_header, hrefs), strict=True))
    read = {href: answer for href, answer in answers.items() if isinstance(answer, Header)}
    return read, {href: answer for href, answer in answers.items() if isinstance(answer, InputError)}


def _header(href: str) -> Header | InputError:
    try:
        with open_raster(href) as file:
            located(file, href)
            factors = tuple(zip(map(float, file.scales), map(float, file.offsets), strict=True))
            return Header(tuple(name or "" for name in file.descriptions), file.dtypes, file.nodatavals, factors)
    except InputError as error:
        return error


def _stacked(piece: Piece, headers: Mapping[str, Header], source: Source) -> Iterator[Piece]:
    """The bands of a file that holds several; any other piece as it is."""
    header = headers.get(piece.raster.href)
    listed = None if isinstance(source.bands, Mapping) else source.bands
    several = not piece.name or (header is not None and len(header.names) > 1 and not piece.layout.sensor)
    if header is None or not (several or listed):
        yield piece
        return
    if listed and len(listed) != len(header.names):
        raise InputError(
            piece.raster.href,
            found=f"{len(header.names)} band(s)",
            expected=f"{len(listed)}, as many as are listed in bands: {', '.join(listed)}",
            repair="list all bands of the file in order, or name those that are used by position: "
            "--set bands='{1: B02, 2: B03}'.",
        )
    for position, name in enumerate(header.names, start=1):
        given = source.bands.get(str(position)) if isinstance(source.bands, Mapping) else None
        told = listed[position - 1] if listed else given or name or str(position)
        yield replace(piece, raster=FileBand(piece.raster.href, position), name=told, stamp=Path(piece.shown).stem)
