"""Columns that hold bands: which sensor they are of, and in which units their numbers are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agrifm.errors import InputError, nearest
from agrifm.sample_tables.reading import listed
from agrifm.sensors import SENSORS, Band, Sensor

# Vegetation and water indices that tables often hold, and other names of bands.
INDICES = ("ndvi", "evi", "evi2", "ndwi", "lswi", "savi", "gndvi", "ndre", "nbr", "kndvi", "ndmi", "gcvi")
ALIASES = {
    "swir1": "swir16",
    "swir2": "swir22",
    "mir": "swir22",
    "rededge1": "rededge071",
    "rededge2": "rededge075",
    "rededge3": "rededge078",
    "re1": "rededge071",
    "re2": "rededge075",
    "re3": "rededge078",
    "nirnarrow": "nir08",
}
OF_TABLE = "Table"  # name of a sensor that only a table defines
UNKNOWN_SIZE = 10.0  # meters; the pixel size of such a sensor, with which nothing is computed
LANDSAT_C2 = (2.75e-5, -0.2)  # Landsat Collection 2 Level 2, whose bands Earth Engine calls SR_B2 and so on
LARGEST_REFLECTANCE = 2.0
SMALLEST_NUMBER = 200.0
LARGEST_NUMBER = 20_000.0
PERCENTILE = 95


def _normalized(name: str) -> str:
    """Name of a band in one form: ``B2``, ``b02`` and ``SR_B2`` are ``b02``."""
    text = re.sub(r"[\s_.-]", "", name.lower())
    text = re.sub(r"^sr(?=b\d)", "", text)
    return re.sub(r"^b(\d)$", r"b0\1", text)


def _wavelengths() -> dict[str, float]:
    wavelengths = {}
    for sensor in SENSORS.values():
        for band in sensor.bands:
            wavelengths.setdefault(band.common_name, band.wavelength)
    return wavelengths


WAVELENGTHS = _wavelengths()


def common_name(column: str) -> str | None:
    """The common name of a band, or the name of an index, that a column is called by."""
    name = _normalized(column)
    name = ALIASES.get(name, name)
    return name if name in WAVELENGTHS or name in INDICES else None


def is_band(column: str) -> bool:
    """Whether a column is called like a band of a known sensor, like a part of the spectrum, or like an index."""
    if common_name(column):
        return True
    return any(_normalized(column) in _ids(sensor) for sensor in SENSORS.values())


def _ids(sensor: Sensor) -> dict[str, int]:
    return {_normalized(band.id): i for i, band in enumerate(sensor.bands)}


@dataclass(frozen=True)
class BandColumns:
    """The bands of a table.

    Args:
        sensor: Their sensor.
        columns: Column of each band, in the order of the sensor.
    """

    sensor: Sensor
    columns: tuple[str, ...]

    def only(self, chosen: np.ndarray) -> BandColumns:
        """Return some of the bands, by a mask ``(c)``."""
        positions = np.flatnonzero(chosen)
        bands = tuple(self.sensor.bands[i] for i in positions)
        sensor = replace(self.sensor, bands=bands, statistics=None)
        return BandColumns(sensor, tuple(self.columns[i] for i in positions))

    @property
    def is_preset(self) -> bool:
        """Whether the sensor is a known one, maybe with some of its bands only."""
        return self.sensor.name in SENSORS


def find_bands(candidates: Sequence[str], path: Path, sensor: str | None, bands: Sequence[str]) -> BandColumns:
    """Find the sensor whose bands a table holds.

    Args:
        candidates: Columns that may be bands.
        path: Path of the table.
        sensor: Name of the sensor; by default it follows from the names of the columns.
        bands: Columns to take as bands, whatever they are called.

    Raises:
        InputError: If a name is unknown, no column is a band, or several sensors are possible.
    """
    for column in bands:
        if column not in candidates:
            raise InputError(
                f"{path}: --bands {column}",
                found=f"columns {listed(candidates)}",
                expected="the names of columns with the values of bands",
                repair=nearest(column, candidates),
            )
    if sensor in SENSORS:
        return _of_preset(SENSORS[sensor], bands or candidates, path)
    if bands:
        return _of_table(bands, sensor or OF_TABLE)
    if sensor is not None:
        raise InputError(
            f"--sensor {sensor}",
            found="no known sensor",
            expected=f"{', '.join(SENSORS)}, or any name together with --bands",
            repair=nearest(sensor, SENSORS),
        )
    return _detected(candidates, path)


def _detected(candidates: Sequence[str], path: Path) -> BandColumns:
    """Find the sensor by the names of the columns."""
    matches = {sensor.name: _matches(sensor, candidates) for sensor in SENSORS.values()}
    complete = [name for name, found in matches.items() if len(found) == len(SENSORS[name].bands)]
    if complete:
        best = max(complete, key=lambda name: len(matches[name]))
        return _chosen(SENSORS[best], matches[best])
    by_id = {sensor.name: _matches_by_id(sensor, candidates) for sensor in SENSORS.values()}
    most = max(len(found) for found in by_id.values())
    best = [name for name, found in by_id.items() if len(found) == most]
    if most and len(best) > 1:
        raise InputError(
            f"{path}: columns {', '.join(by_id[best[0]].values())}",
            found=f"bands that {' and '.join(best)} both have",
            expected="one sensor",
            repair=f"name it, e.g. --sensor {best[0]}.",
        )
    if most:
        return _chosen(SENSORS[best[0]], by_id[best[0]])
    named = [column for column in candidates if common_name(column)]
    if named:
        return _of_table(named, OF_TABLE)
    raise unknown_bands(candidates, path)


def unknown_bands(seen: Sequence[str], path: Path) -> InputError:
    """Return the error for a table none of whose columns is a band."""
    known = []
    for sensor in SENSORS.values():
        known.append(f"{', '.join(sensor.band_ids)} ({sensor.name})")
    return InputError(
        path,
        found=f"no column that is called like a band; columns {listed(seen)}",
        expected=f"{'; '.join(known)}; {', '.join(WAVELENGTHS)}; or {', '.join(INDICES)}",
        repair="rename the columns, or name those with bands, e.g. --bands "
        f"{','.join([*seen][:2]) or 'B04,B08'}; several dates in one row look like B04_2018-03-01.",
    )


def _matches(sensor: Sensor, candidates: Sequence[str]) -> dict[int, str]:
    """Column of each band, by the ids of the sensor, or else by common names."""
    by_id = _matches_by_id(sensor, candidates)
    if len(by_id) == len(sensor.bands):
        return by_id
    names = {common_name(column): column for column in reversed(candidates)}
    by_name = {i: names[band.common_name] for i, band in enumerate(sensor.bands) if band.common_name in names}
    return max(by_id, by_name, key=len)


def _matches_by_id(sensor: Sensor, candidates: Sequence[str]) -> dict[int, str]:
    ids = _ids(sensor)
    found = {}
    for column in candidates:
        position = ids.get(_normalized(column))
        if position is not None:
            found.setdefault(position, column)
    return found


def _of_preset(sensor: Sensor, candidates: Sequence[str], path: Path) -> BandColumns:
    found = _matches(sensor, candidates)
    if not found:
        raise InputError(
            path,
            found=f"columns {listed(candidates)}",
            expected=f"bands of {sensor.name}: {', '.join(sensor.band_ids)}",
            repair="rename the columns, or leave --sensor out.",
        )
    return _chosen(sensor, found)


def _chosen(sensor: Sensor, found: Mapping[int, str]) -> BandColumns:
    """The sensor with the bands that were found, in its own order."""
    positions = sorted(found)
    bands = tuple(sensor.bands[i] for i in positions)
    if len(bands) < len(sensor.bands):
        sensor = replace(sensor, bands=bands, statistics=None)
    return BandColumns(sensor, tuple(found[i] for i in positions))


def _of_table(columns: Sequence[str], name: str) -> BandColumns:
    """A sensor with these columns as bands, in reflectance."""
    bands = []
    for column in columns:
        common = common_name(column) or column
        bands.append(Band(column, common, WAVELENGTHS.get(common, 0.0)))
    return BandColumns(Sensor(name, tuple(bands), UNKNOWN_SIZE, scale=1.0), tuple(columns))


def to_stored(
    values: np.ndarray, bands: BandColumns, path: Path, scale: float | None, offset: float | None
) -> tuple[np.ndarray, str]:
    """Convert values of a table to the stored numbers of its sensor.

    Args:
        values: Values ``(n, c)``; NaN where there is no data.
        bands: Columns and sensor.
        path: Path of the table.
        scale: Factor from values to reflectance; by default it follows from the values.
        offset: Offset that is added after scaling.

    Returns:
        Stored numbers ``(n, c)``, and a sentence about the units that were found.

    Raises:
        InputError: If the values are neither reflectance nor digital numbers.
    """
    sensor = bands.sensor
    if scale is not None or offset is not None:
        scale = 1.0 if scale is None else scale
        units = [(scale, offset or 0.0)] * len(bands.columns)
        sentence = f"units: value x {scale:g} + {offset or 0.0:g} as given"
    elif bands.is_preset:
        found, sentence = _units(values, bands.columns, path)
        units = [found] * len(bands.columns)
    else:
        units, sentence = _units_by_column(values, bands, path)
    factors = np.array([unit[0] for unit in units])
    offsets = np.array([unit[1] for unit in units])
    reflectance = values * factors + offsets
    return (reflectance - sensor.offset) / sensor.scale, sentence


def _units(values: np.ndarray, columns: Sequence[str], path: Path) -> tuple[tuple[float, float], str]:
    """Scale and offset of values, judged by how large they are."""
    size = np.abs(values[~np.isnan(values)])
    largest = float(np.percentile(size, PERCENTILE)) if len(size) else 0.0
    if largest <= LARGEST_REFLECTANCE:
        return (1.0, 0.0), f"units: reflectance (95 % of the values are below {largest:.3g})"
    if all(column.upper().startswith("SR_B") for column in columns) and largest > SMALLEST_NUMBER:
        scale, offset = LANDSAT_C2
        return LANDSAT_C2, f"units: value x {scale:g} - {-offset:g}, those of Landsat Collection 2, as the names say"
    if SMALLEST_NUMBER <= largest <= LARGEST_NUMBER:
        return (1e-4, 0.0), f"units: reflectance x 10,000 (95 % of the values are below {largest:,.0f})"
    raise InputError(
        f"{path}: columns {listed(columns)}",
        found=f"values up to about {largest:,.4g}",
        expected="reflectance (0 to 1), or reflectance x 10,000",
        repair="give --scale and --offset, with which value x scale + offset is reflectance, "
        "and --nodata for values that mark missing data.",
    )


def _units_by_column(values: np.ndarray, bands: BandColumns, path: Path) -> tuple[list[tuple[float, float]], str]:
    """Units of each column: indices and reflectance may have different ones. Unknown quantities stay as they are."""
    units = []
    divided = []
    for i, column in enumerate(bands.columns):
        unit = (1.0, 0.0)
        if common_name(column):
            unit, _ = _units(values[:, i], [column], path)
        units.append(unit)
        if unit != (1.0, 0.0):
            divided.append(column)
    sentence = "units: values as they are"
    if divided:
        sentence += f"; divided by 10,000: {', '.join(divided)}"
    return units, sentence
