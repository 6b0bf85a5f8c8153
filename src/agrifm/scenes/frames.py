"""Bands become frames: whose they are, what they are called there, and that every date has every band."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agrifm.errors import InputError, Unreadable, nearest
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.naming.products import BandSource, hinted, infer, known_names, rule_of
from agrifm.scenes.naming.safe import product_units
from agrifm.scenes.quality import Quality
from agrifm.scenes.scene import Frame, Layer, Raster
from agrifm.scenes.units import Units, refuse_unknown_offset
from agrifm.sensors import S2, SENSORS, Sensor

if TYPE_CHECKING:
    from agrifm.scenes.description import Source
    from agrifm.scenes.files import FoundFiles

QUALITY = "quality layer"
WHOLE = "all bands"  # of a file that does not open

Look = dict[str, BandSource]  # by band id, QUALITY or WHOLE


@dataclass(frozen=True)
class Reading:
    """How the files of a source are read, and what of them may be left out."""

    source: Source
    found: FoundFiles
    skip: bool

    def layers(self) -> tuple[list[Layer], list[str]]:
        """Layers, and what was left out of them.

        Raises:
            InputError: If it is not clear whose images they are, or a date lacks a band.
            Unreadable: If a file does not open.
        """
        named = {piece.raster.href for piece in self.found.pieces}
        layers, skipped = [], [href for href in self.found.broken if href not in named]
        if skipped and not self.skip:
            raise self.found.broken[skipped[0]]
        pieces: dict[str, list[tuple[BandSource, str]]] = defaultdict(list)
        for sensor, group in self._groups():
            pieces[sensor.name] += self._roles(sensor, group)
        for sensor in (SENSORS[name] for name in SENSORS if name in pieces):
            frames, left_out = self._frames(sensor, pieces[sensor.name])
            layers += [Layer(sensor, tuple(frames))] if frames else []
            skipped += left_out
        return layers, list(dict.fromkeys(skipped))

    def _groups(self) -> list[tuple[Sensor, list[BandSource]]]:
        """Pieces that belong together, and whose they are; files that are no images of a known sensor are left out."""
        groups: dict[str, list[BandSource]] = defaultdict(list)
        for piece in self.found.pieces:
            groups[piece.group].append(piece)
        told = [(self._sensors(group), group) for group in groups.values()]
        clear = [(sensors[0], group) for sensors, group in told if len(sensors) == 1]
        for sensors, group in told:
            if len(sensors) > 1 or (not sensors and self._expects(group, bool(clear))):
                raise self._unclear(sensors, group)
        return clear

    def _sensors(self, group: Sequence[BandSource]) -> list[Sensor]:
        given, own = self.source.sensor, group[0].layout.sensor
        if given or own:
            return [SENSORS[given or own]] if not (given and own) or given == own else []
        names = {piece.name for piece in group}
        if isinstance(self.source.bands, Mapping):
            given = {name.lower(): band for name, band in self.source.bands.items()}
            names |= {given[name.lower()] for name in names if name.lower() in given}
        text = group[0].shown if hinted(group[0].shown) else self.found.root.name
        return infer(names - {""}, text)

    def _expects(self, group: Sequence[BandSource], others: bool) -> bool:
        """Whether a group without a sensor should have had one."""
        if self.source.sensor:
            return not others
        return not others or bool(hinted(group[0].shown)) or all(piece.name == "" for piece in group)

    def _unclear(self, sensors: Sequence[Sensor], group: Sequence[BandSource]) -> InputError:
        unread = [self.found.broken[piece.raster.href] for piece in group if piece.raster.href in self.found.broken]
        if unread and not sensors:
            return unread[0]
        names = sorted({piece.name for piece in group})
        fits = f"they may be of {' or '.join(sensor.name for sensor in sensors)}" if sensors else "of no known sensor"
        repair = (
            "say how the files are named, e.g. --set pattern='{date}_{band}_{res}.tif'."
            if names == ["1"]
            else "say whose images they are with 'sensor: ...' in scene.yaml or --set sensor=..., and if need be what "
            "the bands are called with --set bands='{name in the files: band id}'."
        )
        return InputError(
            f"{self.found.root}: sensor",
            found=f"bands {', '.join(names[:16])}, {fits} (e.g. {group[0].shown})",
            expected="; ".join(f"{sensor.name}: {', '.join(sensor.band_ids)}" for sensor in SENSORS.values()),
            repair=repair,
        )

    def _roles(self, sensor: Sensor, group: Sequence[BandSource]) -> list[tuple[BandSource, str]]:
        """The pieces that are needed, with the band ids they stand for."""
        given = self.source.bands if isinstance(self.source.bands, Mapping) else {}
        wrong = next((band for band in given.values() if band not in sensor.band_ids and not rule_of(band)), None)
        if wrong is not None:
            raise InputError(
                f"{self.source.path}: bands",
                found=f"'{wrong}' for {sensor.name}",
                expected=f"one of {', '.join(sensor.band_ids)}",
                repair=nearest(wrong, sensor.band_ids),
            )
        names = {name: band for name, band in known_names(sensor).items() if band not in given.values()}
        names |= {name.lower(): band for name, band in group[0].layout.bands.items()}
        present = {piece.name.lower() for piece in group}
        names |= {(name if name.lower() in present else band).lower(): band for name, band in given.items()}
        if all(piece.name.isdigit() for piece in group if piece.name) and not given:
            names = {str(i): band for i, band in enumerate(sensor.band_ids, start=1)}
        names |= {name.lower(): QUALITY for name in self._quality(group, given)}
        roles = [(piece, names[piece.name.lower()]) for piece in group if piece.name.lower() in names]
        stacked = any(isinstance(piece.raster, FileBand) and piece.raster.index > 1 for piece, _ in roles)
        unread = [piece for piece in group if piece.raster.href in self.found.broken]
        return roles + [(piece, WHOLE) for piece in unread if stacked or not piece.name]

    def _quality(self, group: Sequence[BandSource], given: Mapping[str, str]) -> set[str]:
        """What the quality layer is called."""
        names, wanted = {piece.name for piece in group if piece.name}, self.source.quality
        if wanted is False:
            return set()
        if wanted is not None:
            return {name for name in names if name.lower() == wanted.lower()}
        given = {name.lower(): band for name, band in given.items()}
        found = {name for name in names if rule_of(given.get(name.lower(), name))}
        if len({name.lower() for name in found}) > 1:
            raise InputError(
                f"{self.found.root}: quality",
                found=f"several quality layers: {', '.join(sorted(found))}",
                expected="one",
                repair=f"say which with --set quality={shlex.quote(min(found))}.",
            )
        return found

    def _frames(self, sensor: Sensor, pieces: Sequence[tuple[BandSource, str]]) -> tuple[list[Frame], list[str]]:
        looks: dict[tuple, Look] = defaultdict(dict)
        for piece, role in pieces:
            look = looks[piece.day, piece.layout.title, piece.tile, piece.order]
            look[role] = self._finer(piece, look.get(role), sensor)
        self._has_quality(sensor, looks)
        frames, skipped = [], []
        by_title: dict[str, list[Look]] = defaultdict(list)
        for key, look in looks.items():
            by_title[key[1]].append(look)
        for (_, title, *_), look in sorted(looks.items(), key=lambda entry: entry[0]):
            alike = by_title[title]
            missing = self._missing(sensor, look, alike)
            problems = self._unread(look) or ([missing] if missing else [])
            for problem in problems:
                if not (self.skip and isinstance(problem, Unreadable)):
                    raise problem
                skipped.append(problem.where)
            frames += [] if problems else [self._frame(sensor, look)]
        return frames, skipped

    def _has_quality(self, sensor: Sensor, looks: Mapping[tuple, Look]) -> None:
        wanted = self.source.quality
        if wanted and not any(QUALITY in look for look in looks.values()):
            names = {piece.name for piece in self.found.pieces if piece.name}
            raise InputError(
                f"{self.source.path}: quality",
                found=f"no band '{wanted}' of {sensor.name}",
                expected=f"one of {', '.join(sorted(names))}",
                repair=nearest(str(wanted), names),
            )

    def _finer(self, piece: BandSource, other: BandSource | None, sensor: Sensor) -> BandSource:
        if other is None or (piece.res and piece.res < other.res):
            return piece
        if piece.res > other.res:
            return other
        raise InputError(
            f"{self.found.root}: {sensor.name}, {piece.day}",
            found=f"two files for band {piece.name}: {other.shown} and {piece.shown}",
            expected="one for each date and tile",
            repair="remove one, say what tells them apart, e.g. --set pattern='{tile}/{date}_{band}.tif', or open them "
            "as two sources of a scene.yaml.",
        )

    def _unread(self, look: Look) -> list[InputError]:
        hrefs = {piece.raster.href for piece in look.values()}
        return [error for href, error in self.found.broken.items() if href in hrefs]

    def _missing(self, sensor: Sensor, look: Look, alike: Sequence[Look]) -> Unreadable | None:
        lacking = [band for band in sensor.band_ids if band not in look]
        if QUALITY not in look and any(QUALITY in other for other in alike):
            lacking.append(QUALITY)
        if not lacking:
            return None
        piece, role = next(iter(look.values())), lacking[0]
        sample = next((other[role] for other in alike if role in other), None)
        expected = sample.shown.replace(sample.stamp, piece.stamp) if sample else piece.shown.replace(piece.name, role)
        more = f", nor {', '.join(lacking[1:])}" if len(lacking) > 1 else ""
        dates = "" if sample else f"; none of the {len(alike)} dates has it"
        name = sample.name if sample and role == QUALITY else role
        return Unreadable(
            f"{self.found.root}: {sensor.name}, {piece.day}: band {name}",
            found=f"no {name}{more} on {piece.day}, but {', '.join(p.name for p in look.values())}{dates}",
            expected=expected,
            repair="add the file, delete that date's files, or leave the date out with --skip-unreadable."
            if sample
            else "add the band, or say what it is called with --set bands='{name in the files: band id}'.",
        )

    def _frame(self, sensor: Sensor, look: Look) -> Frame:
        bands = {band: self._raster(look[band], sensor) for band in sensor.band_ids}
        quality = None
        if QUALITY in look:
            layer = look[QUALITY]
            quality = Quality(layer.raster, self._rule(layer))
        first = look[sensor.band_ids[0]]
        return Frame(first.product, first.day, bands, quality, self._units(sensor, look))

    def _rule(self, layer: BandSource) -> str:
        given = self.source.bands if isinstance(self.source.bands, Mapping) else {}
        given = {name.lower(): band for name, band in given.items()}
        rule = self.source.rule or rule_of(given.get(layer.name.lower(), layer.name))
        if rule is None:
            raise InputError(
                f"{self.source.path}: rule",
                found=f"the quality layer {layer.name}, which has no rule of its own",
                expected="the rule that reads it",
                repair="add e.g. --set rule=mask, for a layer in which 0 means not seen.",
            )
        return rule

    def _raster(self, piece: BandSource, sensor: Sensor) -> Raster:
        """The band; where neither file nor user say what marks a missing pixel, the product does, or NaN."""
        kind, stated = self.found.stored(piece)
        of_product = sensor.nodata if piece.layout.nodata is None else piece.layout.nodata
        missing = None if stated is not None or "float" in kind else of_product
        return replace(piece.raster, nodata=missing if self.source.nodata is None else self.source.nodata)

    def _units(self, sensor: Sensor, look: Look) -> Units:
        if self.source.scale is not None and self.source.offset is not None:
            return given_units(Units(), self.source)  # whatever files and products say
        own = Units(sensor.scale, sensor.offset)
        units = [self._stated(sensor, look[band], band) or own for band in sensor.band_ids]
        stated = {(one.scale, one.offset): one for one in reversed(units)}
        if len(stated) > 1:
            told = ", ".join(f"{one.scale:g} and {one.offset:g} ({one.source})" for one in stated.values())
            raise InputError(
                f"{self.found.root}: {sensor.name}, {look[sensor.band_ids[0]].day}",
                found=f"several scales and offsets among the bands: {told}",
                expected="one for all bands",
                repair="correct the files, or say what holds for all, e.g. with "
                f"--set scale={units[0].scale:g} --set offset={units[0].offset:g}.",
            )
        found = given_units(units[0], self.source)
        refuse_unknown_offset(found, f"{self.found.root}: {sensor.name}, {look[sensor.band_ids[0]].day}")
        return found

    def _stated(self, sensor: Sensor, piece: BandSource, band: str) -> Units | None:
        """The units by the product, the file, or the metadata of the product that the file was taken from."""
        if piece.units or not isinstance(piece.raster, FileBand):
            return piece.units
        path, real = Path(piece.raster.href), "float" in self.found.stored(piece)[0]
        if piece.layout.units:
            return piece.layout.units(path, band)
        factors = self.found.factors(piece)
        if factors:
            return Units(*factors, f"scale in {Path(piece.shown).name}")
        if real:
            return piece.layout.real
        return product_units(path, band) if sensor.name == S2.name else None


def given_units(units: Units, source: Source) -> Units:
    """The units, unless the user gives others."""
    if source.scale is None and source.offset is None:
        return units
    scale = units.scale if source.scale is None else source.scale
    return Units(scale, units.offset if source.offset is None else source.offset, "given by the user")
