"""Bands become frames: to which sensor they belong, which band each is, and whether every date has all of them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from agrifm.errors import InputError, Unreadable, nearest
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.description import Source
from agrifm.scenes.discovery.files import FoundFiles
from agrifm.scenes.naming.products import BandSource, hinted, infer_sensors, known_names
from agrifm.scenes.naming.safe import product_units
from agrifm.scenes.quality import Quality, rule_of
from agrifm.scenes.scene import Frame, Layer, Raster
from agrifm.scenes.units import Units, common_units
from agrifm.sensors import S2, SENSORS, Sensor

# Roles beside the band ids of a sensor.
QUALITY = "quality layer"
ALL_BANDS = "all bands"  # of a file that does not open

BandsByRole = dict[str, BandSource]  # of one observation


@dataclass(frozen=True)
class FrameBuilder:
    """Builds the frames of one source from the bands in its files.

    Args:
        source: Source, with what the user states about its files.
        files: Files that were found.
        skip_unreadable: Leave out dates with a file that does not open or is missing.
    """

    source: Source
    files: FoundFiles
    skip_unreadable: bool

    def layers(self) -> tuple[list[Layer], list[str]]:
        """Build one layer for each sensor.

        Returns:
            The layers, and what was left out of them.

        Raises:
            InputError: If the sensor of a file is not clear, or a date lacks a band.
            Unreadable: If a file does not open.
        """
        skipped = self._unused_broken_files()
        bands_of_sensor: dict[str, list[tuple[str, BandSource]]] = defaultdict(list)
        for sensor, bands in self._groups():
            bands_of_sensor[sensor.name] += self._assign_roles(sensor, bands)
        layers = []
        for name, sensor in SENSORS.items():
            if name not in bands_of_sensor:
                continue
            frames, incomplete = self._frames(sensor, bands_of_sensor[name])
            skipped += incomplete
            if frames:
                layers.append(Layer(sensor, tuple(frames)))
        return layers, list(dict.fromkeys(skipped))

    def _unused_broken_files(self) -> list[str]:
        """Return files that do not open and of which no band is known."""
        hrefs = {band.raster.href for band in self.files.bands}
        broken = [href for href in self.files.broken if href not in hrefs]
        if broken and not self.skip_unreadable:
            raise self.files.broken[broken[0]]
        return broken

    # Sensors

    def _groups(self) -> list[tuple[Sensor, list[BandSource]]]:
        """Return the groups of bands with their sensors; files that are no images of a known sensor are left out."""
        by_group: dict[str, list[BandSource]] = defaultdict(list)
        for band in self.files.bands:
            by_group[band.group].append(band)
        recognized = []
        unclear = []
        for bands in by_group.values():
            sensors = self._possible_sensors(bands)
            if len(sensors) == 1:
                recognized.append((sensors[0], bands))
            else:
                unclear.append((sensors, bands))
        for sensors, bands in unclear:
            if sensors or self._must_have_sensor(bands, others=bool(recognized)):
                raise self._unclear_sensor(sensors, bands)
        return recognized

    def _possible_sensors(self, bands: Sequence[BandSource]) -> list[Sensor]:
        given = self.source.sensor
        of_scheme = bands[0].scheme.sensor
        if given and of_scheme and given != of_scheme:
            return []
        if given or of_scheme:
            return [SENSORS[given or of_scheme]]
        names = {band.name for band in bands if band.name}
        names |= {self._given_bands[name.lower()] for name in names if name.lower() in self._given_bands}
        hints = bands[0].label if hinted(bands[0].label) else self.files.root.name
        return infer_sensors(names, hints)

    def _must_have_sensor(self, bands: Sequence[BandSource], *, others: bool) -> bool:
        """Whether it is an error that no sensor fits a group; ``others`` says whether some fits another group."""
        if not others:
            return True
        if self.source.sensor:
            return False
        return bool(hinted(bands[0].label)) or all(band.name == "" for band in bands)

    def _unclear_sensor(self, sensors: Sequence[Sensor], bands: Sequence[BandSource]) -> InputError:
        if not sensors:
            for band in bands:
                if band.raster.href in self.files.broken:
                    return self.files.broken[band.raster.href]
        names = sorted({band.name for band in bands})
        owners = "of no known sensor"
        if sensors:
            owners = f"they may be of {' or '.join(sensor.name for sensor in sensors)}"
        repair = (
            "say whose images they are with 'sensor: ...' in scene.yaml or --set sensor=..., and if need be what "
            "the bands are called with --set bands='{name in the files: band id}'."
        )
        if names == ["1"]:
            repair = "say how the files are named, e.g. --set pattern='{date}_{band}_{res}.tif'."
        return InputError(
            f"{self.files.root}: sensor",
            found=f"bands {', '.join(names[:16])}, {owners} (e.g. {bands[0].label})",
            expected="; ".join(f"{sensor.name}: {', '.join(sensor.band_ids)}" for sensor in SENSORS.values()),
            repair=repair,
        )

    # Roles of bands

    @cached_property
    def _given_bands(self) -> dict[str, str]:
        """Band ids that the user gives, by name in lower case."""
        if not isinstance(self.source.bands, Mapping):
            return {}
        return {name.lower(): band for name, band in self.source.bands.items()}

    def _assign_roles(self, sensor: Sensor, bands: Sequence[BandSource]) -> list[tuple[str, BandSource]]:
        """Return the bands that are needed, each with its band id or other role."""
        roles = self._roles_by_name(sensor, bands)
        roles |= {name.lower(): QUALITY for name in self._quality_names(bands)}
        assigned = []
        files_hold_several = False
        for band in bands:
            role = roles.get(band.name.lower())
            if role is not None:
                assigned.append((role, band))
                if isinstance(band.raster, FileBand) and band.raster.index > 1:
                    files_hold_several = True
        # A file that does not open may hold all bands, if the others hold several.
        for band in bands:
            if band.raster.href in self.files.broken and (files_hold_several or not band.name):
                assigned.append((ALL_BANDS, band))
        return assigned

    def _roles_by_name(self, sensor: Sensor, bands: Sequence[BandSource]) -> dict[str, str]:
        """Return the band ids by name in lower case."""
        given = self.source.bands if isinstance(self.source.bands, Mapping) else {}
        for band_id in given.values():
            if band_id not in sensor.band_ids and not rule_of(band_id):
                raise InputError(
                    f"{self.source.path}: bands",
                    found=f"'{band_id}' for {sensor.name}",
                    expected=f"one of {', '.join(sensor.band_ids)}",
                    repair=nearest(band_id, sensor.band_ids),
                )
        names = {band.name.lower() for band in bands}
        # Files whose bands have no names: positions stand for the bands of the sensor, in order.
        if not given and all(name.isdigit() for name in names if name):
            return {str(position): band_id for position, band_id in enumerate(sensor.band_ids, start=1)}
        # A band that the user names has no other name.
        roles = {name: band_id for name, band_id in known_names(sensor).items() if band_id not in given.values()}
        roles |= {name.lower(): band_id for name, band_id in bands[0].scheme.bands.items()}
        # A name that no file has may still be known by its band id.
        for name, band_id in given.items():
            key = name if name.lower() in names else band_id
            roles[key.lower()] = band_id
        return roles

    def _quality_names(self, bands: Sequence[BandSource]) -> set[str]:
        """Return the names of the quality layer; they differ in case only."""
        names = {band.name for band in bands if band.name}
        wanted = self.source.quality
        if wanted is False:
            return set()
        if wanted is not None:
            return {name for name in names if name.lower() == wanted.lower()}
        quality_names = {name for name in names if self._rule_by_name(name)}
        if len({name.lower() for name in quality_names}) > 1:
            raise InputError(
                f"{self.files.root}: quality",
                found=f"several quality layers: {', '.join(sorted(quality_names))}",
                expected="one",
                repair=f"say which with --set quality={shlex.quote(min(quality_names))}.",
            )
        return quality_names

    def _rule_by_name(self, name: str) -> str | None:
        return rule_of(self._given_bands.get(name.lower(), name))

    # Frames

    def _frames(self, sensor: Sensor, bands: Sequence[tuple[str, BandSource]]) -> tuple[list[Frame], list[str]]:
        """Build the frames of a sensor, and name what is incomplete."""
        observations: dict[tuple, BandsByRole] = defaultdict(dict)
        for role, band in bands:
            observation = observations[band.day, band.scheme.title, band.tile, band.sequence]
            observation[role] = self._finer(band, observation.get(role), sensor)
        self._refuse_missing_quality(sensor, observations.values())
        by_scheme: dict[str, list[BandsByRole]] = defaultdict(list)
        for (_, title, *_), observation in observations.items():
            by_scheme[title].append(observation)
        frames = []
        skipped = []
        for key in sorted(observations):
            observation = observations[key]
            problems = self._problems(sensor, observation, by_scheme[key[1]])
            for problem in problems:
                if not (self.skip_unreadable and isinstance(problem, Unreadable)):
                    raise problem
                skipped.append(problem.where)
            if not problems:
                frames.append(self._frame(sensor, observation))
        return frames, skipped

    def _finer(self, band: BandSource, other: BandSource | None, sensor: Sensor) -> BandSource:
        """Return the one with the smaller pixels of two files for the same band."""
        if other is None or (band.resolution and band.resolution < other.resolution):
            return band
        if band.resolution > other.resolution:
            return other
        raise InputError(
            f"{self.files.root}: {sensor.name}, {band.day}",
            found=f"two files for band {band.name}: {other.label} and {band.label}",
            expected="one for each date and tile",
            repair="remove one, say in which part of the name they differ, e.g. "
            "--set pattern='{tile}/{date}_{band}.tif', or open them as two sources of a scene.yaml.",
        )

    def _refuse_missing_quality(self, sensor: Sensor, observations: Iterable[BandsByRole]) -> None:
        wanted = self.source.quality
        if not wanted or any(QUALITY in observation for observation in observations):
            return
        names = {band.name for band in self.files.bands if band.name}
        raise InputError(
            f"{self.source.path}: quality",
            found=f"no band '{wanted}' of {sensor.name}",
            expected=f"one of {', '.join(sorted(names))}",
            repair=nearest(str(wanted), names),
        )

    def _problems(self, sensor: Sensor, observation: BandsByRole, alike: Sequence[BandsByRole]) -> list[InputError]:
        """Return the errors of files that do not open, or that of missing bands."""
        hrefs = {band.raster.href for band in observation.values()}
        errors = [error for href, error in self.files.broken.items() if href in hrefs]
        missing = self._missing_bands(sensor, observation, alike)
        if not errors and missing is not None:
            errors.append(missing)
        return errors

    def _missing_bands(
        self, sensor: Sensor, observation: BandsByRole, alike: Sequence[BandsByRole]
    ) -> Unreadable | None:
        """Return the error for an observation that lacks bands which it needs.

        Args:
            sensor: Sensor of the observation.
            observation: Bands of one date.
            alike: Observations of all dates under the same naming scheme.
        """
        missing = [band for band in sensor.band_ids if band not in observation]
        if QUALITY not in observation and any(QUALITY in other for other in alike):
            missing.append(QUALITY)
        if not missing:
            return None
        role = missing[0]
        name = role
        band = next(iter(observation.values()))
        found = f"on {band.day}, but {', '.join(band.name for band in observation.values())}"
        examples = [other[role] for other in alike if role in other]
        if examples:
            if role == QUALITY:
                name = examples[0].name
            expected = examples[0].label.replace(examples[0].stamp, band.stamp)
            repair = "add the file, delete that date's files, or leave the date out with --skip-unreadable."
        else:
            found += f"; none of the {len(alike)} dates has it"
            expected = band.label.replace(band.name, role)
            repair = "add the band, or say what it is called with --set bands='{name in the files: band id}'."
        others = f", nor {', '.join(missing[1:])}" if len(missing) > 1 else ""
        return Unreadable(
            f"{self.files.root}: {sensor.name}, {band.day}: band {name}",
            found=f"no {name}{others} {found}",
            expected=expected,
            repair=repair,
        )

    def _frame(self, sensor: Sensor, observation: BandsByRole) -> Frame:
        bands = {band_id: self._raster(observation[band_id], sensor) for band_id in sensor.band_ids}
        quality = None
        if QUALITY in observation:
            layer = observation[QUALITY]
            quality = Quality(layer.raster, self._rule(layer))
        first = observation[sensor.band_ids[0]]
        return Frame(first.product, first.day, bands, quality, self._units(sensor, observation))

    def _raster(self, band: BandSource, sensor: Sensor) -> Raster:
        """Return the band; if neither file nor user state a no-data value, that of the product counts, or NaN."""
        dtype, stated = self.files.storage(band)
        nodata = self.source.nodata
        if nodata is None and stated is None and "float" not in dtype:
            nodata = sensor.nodata if band.scheme.nodata is None else band.scheme.nodata
        return replace(band.raster, nodata=nodata)

    def _rule(self, layer: BandSource) -> str:
        rule = self.source.rule or self._rule_by_name(layer.name)
        if rule is None:
            raise InputError(
                f"{self.source.path}: rule",
                found=f"the quality layer {layer.name}, which has no rule of its own",
                expected="the rule that reads it",
                repair="add e.g. --set rule=mask, for a layer in which 0 means not clear.",
            )
        return rule

    # Units

    def _units(self, sensor: Sensor, observation: BandsByRole) -> Units:
        """Return the units of a frame: what the user gives, or else what all bands share."""
        if self.source.scale is not None and self.source.offset is not None:
            return self.source.override(Units())  # whatever files and products state
        units = []
        for band_id in sensor.band_ids:
            stated = self._stated_units(sensor, observation[band_id], band_id)
            units.append(stated or Units(sensor.scale, sensor.offset))
        where = f"{self.files.root}: {sensor.name}, {observation[sensor.band_ids[0]].day}"
        return self.source.override(common_units(units, where))

    def _stated_units(self, sensor: Sensor, band: BandSource, band_id: str) -> Units | None:
        """Return the units by the product, the file, or the metadata of the product from which the file was made."""
        if band.units or not isinstance(band.raster, FileBand):
            return band.units
        path = Path(band.raster.href)
        # The guide of a known product is more reliable than the scale in its files.
        if band.scheme.units:
            return band.scheme.units(path, band_id)
        scaling = self.files.scaling(band)
        if scaling:
            return Units(*scaling, f"scale in {Path(band.label).name}")
        # Floating-point numbers were converted from the product's own, whose units no longer apply.
        dtype, _ = self.files.storage(band)
        if "float" in dtype:
            return band.scheme.float_units
        return product_units(path, band_id) if sensor.name == S2.name else None
