"""Bands in files: names are read, headers are opened, nothing of the pixels."""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from rasterio.enums import ColorInterp

from agrifm.errors import InputError, Unreadable
from agrifm.rasters.cube_band import stored_as
from agrifm.rasters.cube_file import SUFFIXES, is_cube
from agrifm.rasters.file_band import FileBand, located, open_raster
from agrifm.scenes.cubes import find_pieces
from agrifm.scenes.folders import files_below, kind_of, refuse_special, stand_in
from agrifm.scenes.naming.dates import acquisition, days_in, is_top_of_atmosphere, no_surface, parse_day, product_of
from agrifm.scenes.naming.patterns import normalized
from agrifm.scenes.naming.products import NAMING_SCHEMES, STACKED, BandSource, NamingScheme, hinted, infer, layout_of
from agrifm.scenes.naming.safe import look_again, refuse_top_of_atmosphere
from agrifm.scenes.scene import READERS
from agrifm.sensors import MODIS, S2

if TYPE_CHECKING:
    from agrifm.scenes.description import Source

IMAGES = (".tif", ".tiff", ".jp2", ".img", ".vrt")
HDF4 = re.compile(r"(M[OY]D09A1)\.A(?P<date>\d{7})\..*\.hdf", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What a file says of each of its bands.

    Args:
        names: Empty where there is none.
        kinds: Data types.
        nodata: None where it does not say.
        factors: Scale and offset.
        alpha: Whether it is no band but says which pixels are there.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    nodata: tuple[float | None, ...]
    factors: tuple[tuple[float, float], ...]
    alpha: tuple[bool, ...] = ()


@dataclass(frozen=True)
class FoundFiles:
    """What the files of a source are.

    Args:
        root: Folder or file without any pattern.
        pieces: Every band of every date.
        headers: Headers of the raster files that open, by path.
        broken: Files that do not, and why.
    """

    root: Path
    pieces: tuple[BandSource, ...]
    headers: Mapping[str, Header] = field(default_factory=dict)
    broken: Mapping[str, InputError] = field(default_factory=dict)

    def stored(self, piece: BandSource) -> tuple[str, float | None]:
        """The data type of a band, and what marks a missing pixel in it, if the file says so."""
        raster = piece.raster
        if isinstance(raster, FileBand):
            header = self.headers[raster.href]
            return header.kinds[raster.index - 1], header.nodata[raster.index - 1]
        return stored_as(Path(raster.href), raster.variable)

    def factors(self, piece: BandSource) -> tuple[float, float] | None:
        """Scale and offset in a raster file, unless they say nothing."""
        raster = piece.raster
        stated = self.headers[raster.href].factors[raster.index - 1] if isinstance(raster, FileBand) else (1, 0)
        return None if stated == (1, 0) else stated


def look(source: Source, start: dt.date | None = None, end: dt.date | None = None) -> FoundFiles:
    """Find the files of a source and open their headers.

    Raises:
        InputError: If nothing is there, nothing is recognized, or it is no surface reflectance.
    """
    look_again()
    root, pattern = split_path(source.path, source.pattern)
    paths = list(files_below(root))
    if not paths:
        raise InputError(
            root,
            found="an empty folder" if kind_of(root) else "no such file or folder",
            expected="satellite images",
            repair="correct the path.",
        )
    pieces, broken = _recognize(root, paths, pattern, source)
    _no_hdf4(paths, pieces)
    if not pieces and not broken:
        raise _nothing(root, paths, pattern)
    pieces = [piece for piece in pieces if (start or piece.day) <= piece.day <= (end or piece.day)]
    _no_special_sidecars(paths, pieces)
    broken |= _top_of_atmosphere(root, paths, pieces, start, end)
    headers, unread = _headers(pieces)
    pieces = [part for piece in pieces for part in _stacked(piece, headers, source)]
    return FoundFiles(root, tuple(pieces), headers, broken | unread)


def split_path(path: Path, pattern: str | None) -> tuple[Path, str | None]:
    """The folder without any pattern in it, and the pattern; names that exist are no patterns."""
    parts = path.absolute().parts
    if kind_of(path) is not None:
        return Path(*parts), pattern
    first = next(
        (i for i, part in enumerate(parts) if set(part) & set("{*?") and kind_of(Path(*parts[: i + 1])) is None),
        len(parts),
    )
    rest = "/".join(parts[first:])
    return Path(*parts[:first]), f"{rest}/{pattern}" if rest and pattern else rest or pattern


def _recognize(
    root: Path, paths: Sequence[Path], pattern: str | None, source: Source
) -> tuple[list[BandSource], dict[str, InputError]]:
    base = root if kind_of(root) == stat.S_IFDIR and not is_cube(root) else root.parent
    shown = {path: path.relative_to(base).as_posix() for path in paths}
    cubes = [path for path in paths if is_cube(path)]
    apart = set(cubes)
    files = [path for path in paths if path not in apart]
    of_cubes = pattern is not None and pattern.lower().endswith(SUFFIXES)
    layout = layout_of(pattern) if pattern and ("{" in pattern or not of_cubes) else None
    pieces: list[BandSource] = []
    broken: dict[str, InputError] = {}
    for path in cubes if of_cubes or pattern is None else ():
        if of_cubes and layout is None and not fnmatchcase(shown[path], str(pattern)):
            continue
        try:
            pieces += _of_cube(path, shown[path], root, layout, source)
        except Unreadable as error:
            broken[str(path)] = error
    if not of_cubes:
        pieces += _of_files(files, shown, root, (layout,) if layout else NAMING_SCHEMES)
    if not pieces and not broken and not pattern:
        pieces = _of_files(files, shown, root, (STACKED,))
    return _once(pieces), broken


def _of_files(
    files: Sequence[Path], shown: Mapping[Path, str], root: Path, layouts: Sequence[NamingScheme]
) -> list[BandSource]:
    pieces = (_piece(path, shown[path], root, layouts) for path in files)
    return [piece for piece in pieces if piece is not None]


def _of_cube(path: Path, shown: str, root: Path, layout: NamingScheme | None, source: Source) -> list[BandSource]:
    """Bands of a cube; where it has no time axis, of the date that its name states."""
    refuse_special(path)
    parts = _parts(path, root)
    named = layout.parts(shown, parts, path) if layout else None
    if layout and named is None:
        return []
    pieces, days = find_pieces(path), (named[0],) if named else days_in(path.name)
    if pieces or not days:
        return pieces
    pieces = find_pieces(path, days[0])
    names = {piece.name for piece in pieces}
    # Other files that state a date, such as labels, are no images of that date.
    if not pieces or not (source.sensor or source.bands or infer(names, f"{root.name}/{shown}")):
        return []
    return pieces if named else find_pieces(path, acquisition(days, parts, path))


def _once(pieces: Sequence[BandSource]) -> list[BandSource]:
    """Pieces without those that are the same band of the same file, reached by another way."""
    found: dict[tuple, BandSource] = {}
    for piece in pieces:
        raster = piece.raster
        where = (raster.index,) if isinstance(raster, FileBand) else (raster.variable, raster.step, raster.band)
        try:
            place = os.stat(raster.href)
        except (OSError, ValueError):
            found[raster.href, where, piece.name, piece.day] = piece
            continue
        found.setdefault((place.st_dev, place.st_ino, where, piece.name.lower(), piece.day), piece)
    return list(found.values())


def _parts(path: Path, root: Path) -> list[str]:
    """Names from the file up to the scene's folder; further up to that of the product in which the scene lies."""
    names = [path.name, *(folder.name for folder in path.parents)]
    inside = len(path.parts) - len(root.parts) + 1
    above = next(
        (i for i, name in enumerate(names[inside : inside + 5], start=inside) if name.upper().endswith(".SAFE")), 0
    )
    return names[: max(inside, above + 1)]


def _piece(path: Path, shown: str, root: Path, layouts: Sequence[NamingScheme]) -> BandSource | None:
    """What a file is by the first layout that its name follows."""
    names = _parts(path, root)
    for layout in layouts:
        found = layout.parts(normalized(shown), names, path)
        if found is None:
            continue
        day, parts = found
        time = re.sub(r"\D", "", parts.get("time", parts.get("clock", "")))
        stamp = parts.get("date", day.isoformat())
        if "time" in parts and f"{stamp}T{parts['time']}" in normalized(shown):
            stamp = f"{stamp}T{parts['time']}"
        return BandSource(
            raster=FileBand(str(path)),
            name=parts.get("band", ""),
            day=day,
            group=f"{layout.title} {[sensor.name for sensor in hinted(shown)]}",
            layout=layout,
            shown=shown,
            stamp=stamp,
            tile=parts.get("tile", ""),
            order=time,
            res=float(parts.get("res", 0)),
        )
    return None


def _top_of_atmosphere(
    root: Path, paths: Sequence[Path], pieces: Sequence[BandSource], start: dt.date | None, end: dt.date | None
) -> dict[str, InputError]:
    """Refuse images of Level 1C; those of dates that have no other image are returned, one for each date.

    Raises:
        InputError: If an image that would be read is not corrected for the atmosphere.
    """
    used, folders = {piece.raster.href for piece in pieces}, set()
    for piece in pieces:
        path = Path(piece.raster.href)
        if is_top_of_atmosphere(_parts(path, root)):
            raise no_surface(path, "a Level-1 product, by its name")
        if path.parent not in folders and piece.layout.sensor in ("", S2.name):
            refuse_top_of_atmosphere(path)
            folders.add(path.parent)
    days = {piece.day for piece in pieces}
    found: dict[dt.date, Path] = {}
    for path in paths:
        if path.suffix.lower() in IMAGES and str(path) not in used and is_top_of_atmosphere(_parts(path, root)):
            product = product_of(_parts(path, root))
            day = product.day if product else next(iter(days_in(path.name)), None)
            if day is not None and day not in days and (start or day) <= day <= (end or day):
                found.setdefault(day, path)
    return {
        str(path): no_surface(path, f"the only image of {day}, of a Level-1 product") for day, path in found.items()
    }


def _no_special_sidecars(paths: Sequence[Path], pieces: Sequence[BandSource]) -> None:
    """Refuse pipes and devices beside an image whose name they share: GDAL would open them with it."""
    stems = {str(Path(piece.raster.href).with_suffix("")) for piece in pieces if isinstance(piece.raster, FileBand)}
    images = {piece.raster.href for piece in pieces}
    for path in paths:
        stem = str(path.with_name(path.name.partition(".")[0]))
        if str(path) not in images and (stem in stems or str(path.with_suffix("")) in images):
            refuse_special(path)


def _no_hdf4(paths: Sequence[Path], pieces: Sequence[BandSource]) -> None:
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
    top = next((path for path in paths if is_top_of_atmosphere(_parts(path, root))), None)
    if top is not None:
        return no_surface(top, "a Level-1 product, by its name")
    names = ", ".join(path.name for path in paths[:3])
    examples = {layout.title: layout.example for layout in (*NAMING_SCHEMES, STACKED)}
    forms = "; ".join(f"{title}: {example}" for title, example in examples.items())
    return InputError(
        root,
        found=f"{len(paths)} file(s) that are not recognized: {names}{', ...' if len(paths) > 3 else ''}",
        expected=f"names that follow '{pattern}'" if pattern else f"{forms}; or netCDF or Zarr with a time axis",
        repair="say how the files are named, e.g. --set pattern='{date}_{band}_{res}.jp2', or --set "
        "pattern='{date}.tif' for files with several bands.",
    )


def _headers(pieces: Sequence[BandSource]) -> tuple[dict[str, Header], dict[str, InputError]]:
    hrefs = sorted({piece.raster.href for piece in pieces if isinstance(piece.raster, FileBand)})
    with ThreadPoolExecutor(READERS) as pool:
        answers = dict(zip(hrefs, pool.map(_header, hrefs), strict=True))
    read = {href: answer for href, answer in answers.items() if isinstance(answer, Header)}
    return read, {href: answer for href, answer in answers.items() if isinstance(answer, InputError)}


def _header(href: str) -> Header | InputError:
    try:
        refuse_special(Path(href))
    except Unreadable as error:
        return error
    try:
        with open_raster(href) as file:
            located(file, href)
            factors = tuple(zip(map(float, file.scales), map(float, file.offsets), strict=True))
            return Header(
                names=tuple(normalized(name or "") for name in file.descriptions),
                kinds=file.dtypes,
                nodata=file.nodatavals,
                factors=factors,
                alpha=tuple(kind == ColorInterp.alpha for kind in file.colorinterp),
            )
    except Unreadable as error:
        return stand_in(Path(href)) or error
    except InputError as error:
        return error


def _stacked(piece: BandSource, headers: Mapping[str, Header], source: Source) -> Iterator[BandSource]:
    """The bands of a file that holds several; any other piece as it is."""
    header = headers.get(piece.raster.href)
    listed = None if isinstance(source.bands, Mapping) else source.bands
    count = 0 if header is None else len(header.names) - sum(header.alpha)
    several = not piece.name or (count > 1 and not piece.layout.sensor)
    if header is None or not (several or listed):
        yield piece
        return
    if listed and len(listed) not in (count, len(header.names)):
        raise InputError(
            piece.raster.href,
            found=f"{count} band(s)",
            expected=f"{len(listed)}, as many as are listed in bands: {', '.join(listed)}",
            repair="list all bands of the file in order, or name those that are used by position, e.g. "
            "--set bands='{1: B02, 2: B03}'.",
        )
    for position, name in enumerate(header.names, start=1):
        given = source.bands.get(str(position)) if isinstance(source.bands, Mapping) else None
        is_listed = listed is not None and position <= len(listed)
        if header.alpha[position - 1] and not given and not (listed and len(listed) == len(header.names)):
            continue
        told = listed[position - 1] if listed and is_listed else given or name or str(position)
        yield replace(piece, raster=FileBand(piece.raster.href, position), name=told, stamp=Path(piece.shown).stem)
