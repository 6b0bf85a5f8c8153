"""Bands become frames: one for each date, which has all bands of its sensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from agrifm.errors import InputError, Unreadable, nearest
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.description import Source
from agrifm.scenes.discovery.band_roles import QUALITY, BandRoles
from agrifm.scenes.discovery.files import FoundFiles
from agrifm.scenes.naming.products import BandSource
from agrifm.scenes.naming.safe import product_units
from agrifm.scenes.quality import Quality
from agrifm.scenes.scene import Frame, Layer, Raster
from agrifm.scenes.units import Units, common_units
from agrifm.sensors import S2, SENSORS, Sensor

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

    @cached_property
    def _roles(self) -> BandRoles:
        """What is known about the bands of the files."""
        return BandRoles(self.source, self.files)

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
        for sensor, bands in self._roles.groups():
            bands_of_sensor[sensor.name] += self._roles.assigned(sensor, bands)
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
        rule = self.source.rule or self._roles.rule_by_name(layer.name)
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
