"""Bands of files are recognized: of which sensor they are, and which of its bands each one is."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from agrifm.errors import InputError, nearest
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.description import Source
from agrifm.scenes.discovery.files import FoundFiles
from agrifm.scenes.naming.products import BandSource, hinted, infer_sensors, known_names
from agrifm.scenes.quality import rule_of
from agrifm.sensors import SENSORS, Sensor

# Roles beside the band ids of a sensor.
QUALITY = "quality layer"
ALL_BANDS = "all bands"  # of a file that does not open


@dataclass(frozen=True)
class BandRoles:
    """Finds the sensor and the role of each band in the files of one source.

    Args:
        source: Source, with what the user states about its files.
        files: Files that were found.
    """

    source: Source
    files: FoundFiles

    def groups(self) -> list[tuple[Sensor, list[BandSource]]]:
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

    def assigned(self, sensor: Sensor, bands: Sequence[BandSource]) -> list[tuple[str, BandSource]]:
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
        quality_names = {name for name in names if self.rule_by_name(name)}
        if len({name.lower() for name in quality_names}) > 1:
            raise InputError(
                f"{self.files.root}: quality",
                found=f"several quality layers: {', '.join(sorted(quality_names))}",
                expected="one",
                repair=f"say which with --set quality={shlex.quote(min(quality_names))}.",
            )
        return quality_names

    def rule_by_name(self, name: str) -> str | None:
        """Return the rule that reads a quality layer of this name, if there is one."""
        return rule_of(self._given_bands.get(name.lower(), name))
