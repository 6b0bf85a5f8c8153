"""Bands in the files of a source: names are parsed and headers are read, but no pixels."""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from agrifm.errors import InputError, Unreadable
from agrifm.rasters.cube_band import stored_as
from agrifm.rasters.cube_file import SUFFIXES, is_cube
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.description import Source
from agrifm.scenes.discovery.cubes import find_cube_bands
from agrifm.scenes.discovery.headers import Header, read_headers, split_bands
from agrifm.scenes.discovery.unsupported import (
    level_1_days,
    nothing_recognized,
    refuse_hdf4,
    refuse_level_1,
    refuse_special_sidecars,
)
from agrifm.scenes.folders import files_below, kind_of, names_upward, refuse_special
from agrifm.scenes.naming.dates import acquisition, days_in
from agrifm.scenes.naming.patterns import normalized
from agrifm.scenes.naming.products import (
    NAMING_SCHEMES,
    STACKED,
    BandSource,
    NamingScheme,
    hinted,
    infer_sensors,
    scheme_of_pattern,
)
from agrifm.scenes.naming.safe import forget_metadata_paths


@dataclass(frozen=True)
class FoundFiles:
    """Bands that the files of a source hold.

    Args:
        root: Folder or file, without any pattern.
        bands: Every band of every date.
        headers: Headers of raster files, by path.
        broken: Errors of files that do not open, by path.
    """

    root: Path
    bands: tuple[BandSource, ...]
    headers: Mapping[str, Header] = field(default_factory=dict)
    broken: Mapping[str, InputError] = field(default_factory=dict)

    def storage(self, band: BandSource) -> tuple[str, float | None]:
        """Return the data type of a band, and its no-data value if the file states one."""
        raster = band.raster
        if isinstance(raster, FileBand):
            header = self.headers[raster.href]
            return header.dtypes[raster.index - 1], header.nodata[raster.index - 1]
        return stored_as(Path(raster.href), raster.variable)

    def scaling(self, band: BandSource) -> tuple[float, float] | None:
        """Return scale and offset in a raster file, unless they change nothing."""
        raster = band.raster
        if not isinstance(raster, FileBand):
            return None
        scaling = self.headers[raster.href].scaling[raster.index - 1]
        return None if scaling == (1, 0) else scaling


def find_files(source: Source, start: dt.date | None = None, end: dt.date | None = None) -> FoundFiles:
    """Find the files of a source and read their headers.

    Args:
        source: Path, and what the user states about its files.
        start, end: First and last day.

    Raises:
        InputError: If there is no file, none is recognized, or an image is no surface reflectance.
    """
    forget_metadata_paths()
    root, pattern = split_path(source.path, source.pattern)
    paths = list(files_below(root))
    if not paths:
        raise InputError(
            root,
            found="an empty folder" if kind_of(root) else "no such file or folder",
            expected="satellite images",
            repair="correct the path.",
        )
    bands, broken = _Recognition(source, root, pattern).run(paths)
    # Converted HDF4 files may lie outside the period, so they are checked before it is applied.
    refuse_hdf4(paths, bands)
    if not bands and not broken:
        raise nothing_recognized(root, paths, pattern)
    bands = [band for band in bands if (start or band.day) <= band.day <= (end or band.day)]
    refuse_special_sidecars(paths, bands)
    refuse_level_1(bands, root)
    broken |= level_1_days(paths, bands, root, start, end)
    headers, unopened = read_headers(bands)
    single_bands: list[BandSource] = []
    for band in bands:
        single_bands += split_bands(band, headers, source)
    return FoundFiles(root, tuple(single_bands), headers, broken | unopened)


def split_path(path: Path, pattern: str | None) -> tuple[Path, str | None]:
    """Split a path into the folder before any pattern and the pattern; names that exist are no patterns.

    Args:
        path: Path that may contain a pattern.
        pattern: Pattern that is given apart from the path.
    """
    parts = path.absolute().parts
    if kind_of(path) is not None:
        return Path(*parts), pattern
    for position, part in enumerate(parts):
        has_wildcards = bool(set(part) & set("{*?"))
        if has_wildcards and kind_of(Path(*parts[: position + 1])) is None:
            pattern_in_path = "/".join(parts[position:])
            folder = Path(*parts[:position])
            return folder, f"{pattern_in_path}/{pattern}" if pattern else pattern_in_path
    return Path(*parts), pattern


@dataclass(frozen=True)
class _Recognition:
    """Recognizes files of a source by their names.

    Args:
        source: Source, with what the user states about it.
        root: Folder or file, without any pattern.
        pattern: Pattern of the user, if any.
    """

    source: Source
    root: Path
    pattern: str | None

    def run(self, paths: Sequence[Path]) -> tuple[list[BandSource], dict[str, InputError]]:
        """Return the bands of all files that are recognized, and the errors of cubes that do not open."""
        cubes = [path for path in paths if is_cube(path)]
        known_cubes = set(cubes)
        files = [path for path in paths if path not in known_cubes]
        pattern_of_cubes = self.pattern is not None and self.pattern.lower().endswith(SUFFIXES)
        scheme = None
        if self.pattern and ("{" in self.pattern or not pattern_of_cubes):
            scheme = scheme_of_pattern(self.pattern)
        bands: list[BandSource] = []
        broken: dict[str, InputError] = {}
        if pattern_of_cubes or self.pattern is None:
            for path in cubes:
                if scheme is None and self.pattern and not fnmatchcase(self._label(path), self.pattern):
                    continue
                try:
                    bands += self._bands_of_cube(path, scheme)
                except Unreadable as error:
                    broken[str(path)] = error
        if not pattern_of_cubes:
            bands += self._bands_of_files(files, [scheme] if scheme else NAMING_SCHEMES)
        if not bands and not broken and not self.pattern:
            bands = self._bands_of_files(files, [STACKED])
        return _without_duplicates(bands), broken

    def _label(self, path: Path) -> str:
        """Return the path below the scene's folder."""
        return path.relative_to(self._folder).as_posix()

    @cached_property
    def _folder(self) -> Path:
        is_folder = kind_of(self.root) == stat.S_IFDIR and not is_cube(self.root)
        return self.root if is_folder else self.root.parent

    def _bands_of_files(self, files: Sequence[Path], schemes: Sequence[NamingScheme]) -> list[BandSource]:
        bands = []
        for path in files:
            band = self._band_of_file(path, schemes)
            if band is not None:
                bands.append(band)
        return bands

    def _band_of_file(self, path: Path, schemes: Sequence[NamingScheme]) -> BandSource | None:
        """Return the band of a file by the first scheme that its name follows."""
        label = self._label(path)
        names = names_upward(path, self.root)
        for scheme in schemes:
            parsed = scheme.parse(normalized(label), names, path)
            if parsed is None:
                continue
            day, parts = parsed
            stamp = parts.get("date", day.isoformat())
            stamp_with_time = f"{stamp}T{parts.get('time')}"
            if "time" in parts and stamp_with_time in normalized(label):
                stamp = stamp_with_time
            time = parts.get("time", parts.get("clock", ""))
            return BandSource(
                raster=FileBand(str(path)),
                name=parts.get("band", ""),
                day=day,
                group=f"{scheme.title} {[sensor.name for sensor in hinted(label)]}",
                scheme=scheme,
                label=label,
                stamp=stamp,
                tile=parts.get("tile", ""),
                sequence=re.sub(r"\D", "", time),
                resolution=float(parts.get("res", 0)),
            )
        return None

    def _bands_of_cube(self, path: Path, scheme: NamingScheme | None) -> list[BandSource]:
        """Return the bands of a cube; without a time axis, they are of the date that its name states."""
        refuse_special(path)
        label = self._label(path)
        names = names_upward(path, self.root)
        days = days_in(path.name)
        if scheme is not None:
            parsed = scheme.parse(label, names, path)
            if parsed is None:
                return []
            days = (parsed[0],)
        bands = find_cube_bands(path)
        if bands or not days:
            return bands
        bands = find_cube_bands(path, days[0])
        # Other files that state a date, such as labels, are no images of that date.
        band_names = {band.name for band in bands}
        described = self.source.sensor or self.source.bands
        if not bands or not (described or infer_sensors(band_names, f"{self.root.name}/{label}")):
            return []
        if scheme is not None:
            return bands
        return find_cube_bands(path, acquisition(days, names, path))


def _without_duplicates(bands: Iterable[BandSource]) -> list[BandSource]:
    """Leave out bands that are the same band of the same file, reached by another path."""
    unique: dict[tuple, BandSource] = {}
    for band in bands:
        raster = band.raster
        if isinstance(raster, FileBand):
            position: tuple = (raster.index,)
        else:
            position = (raster.variable, raster.step, raster.band)
        try:
            # Links have other paths, but the same device and inode.
            file = os.stat(raster.href)
        except (OSError, ValueError):
            unique[raster.href, position, band.name, band.day] = band
            continue
        unique.setdefault((file.st_dev, file.st_ino, position, band.name.lower(), band.day), band)
    return list(unique.values())
