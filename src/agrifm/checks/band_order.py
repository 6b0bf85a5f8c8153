"""Whether bands are in the order of the sensor, judged by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from agrifm.checks.ground import CLOUD, infrared_bands, may_be_water, near_infrared_band
from agrifm.errors import InputError
from agrifm.sensors import Sensor

MIN_LAND = 16  # pixels of land; below, the order of bands is not judged


class BandOrder(InputError):
    """Bands that seem exchanged, or numbers in another unit than the sensor's; a setting leaves this check out."""


def check_band_order(
    sensor: Sensor,
    pixels: Sequence[np.ndarray],
    where: str,
    *,
    single: bool,
    named: bool | Callable[[], bool] = True,
) -> list[str]:
    """Refuse values in the wrong unit and bands in the wrong order.

    On land the near infrared is brighter than red and blue, the red edge rises towards it, and through a season
    red varies more than blue. One chip may be unusual, so on a single one only gross cases count. Pixels that may be
    water, cloud or snow have an order of their own and are left out.

    Args:
        sensor: Sensor of the bands.
        pixels: Stored numbers ``(n, c)`` of some valid pixels, in any number of parts.
        where: Where the pixels come from, for the error.
        single: Whether all pixels are of one chip.
        named: Whether the files name their bands; without names, weak evidence is only a warning.

    Returns:
        Warnings.

    Raises:
        BandOrder: If bands seem exchanged, or the unit is wrong.
    """
    parts = [part for part in pixels if len(part)]
    if not parts:
        return []
    reflectance = np.concatenate(parts).astype(np.float64) * sensor.scale + sensor.offset
    brightest = float(np.median(reflectance, axis=0).max())
    if not 0.005 < brightest < 3.0:
        raise BandOrder(
            where,
            found=f"a median reflectance of {brightest:.4g} with scale {sensor.scale:g} and offset {sensor.offset:g}",
            expected="values whose reflectance lies between 0 and 1",
            repair="store digital numbers (reflectance = number * scale + offset), or define a sensor with your scale.",
        )
    land = reflectance[_is_land(reflectance, sensor)]
    if len(land) < MIN_LAND:
        return []
    lower_quartiles, medians, upper_quartiles = np.percentile(land, (25, 50, 75), axis=0)
    spreads = upper_quartiles - lower_quartiles
    gross = exchanged_bands(sensor, medians, spreads, slack=0.6)
    pair = gross
    if pair is None and not single:
        pair = exchanged_bands(sensor, medians, spreads, slack=1.0)
    if pair is None:
        return []
    error = _wrong_order(sensor, pair, medians, spreads, where)
    if gross is None and not (named() if callable(named) else named):
        return [
            f"{where}: {error.found}. The files do not name their bands, and this is weak evidence: check that they "
            f"are {', '.join(sensor.band_ids)}"
        ]
    raise error


def _is_land(reflectance: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Return the mask ``(n)`` of pixels ``(n, c)`` that seem to be neither water nor cloud or snow."""
    if not infrared_bands(sensor):
        return np.ones(len(reflectance), bool)
    water = may_be_water(reflectance.T, sensor)
    blue_and_green = [i for i, band in enumerate(sensor.bands) if 0 < band.wavelength < 0.6]
    if not blue_and_green:
        return ~water
    # Bright in blue and green: where only one of them is, bands may be exchanged.
    cloudy = reflectance[:, blue_and_green].min(1) > CLOUD
    return ~water & ~cloudy


def _wrong_order(
    sensor: Sensor, pair: tuple[str, str], medians: np.ndarray, spreads: np.ndarray, where: str
) -> BandOrder:
    first = sensor.band_ids.index(pair[0])
    second = sensor.band_ids.index(pair[1])
    return BandOrder(
        where,
        found=f"{pair[0]} darker or steadier than {pair[1]}, which land never shows: medians of {medians[first]:.3f} "
        f"and {medians[second]:.3f}, middle halves {spreads[first]:.3f} and {spreads[second]:.3f} wide",
        expected=f"bands in the order {', '.join(sensor.band_ids)}",
        repair="reorder the bands, or set 'check_bands: false' in the data section if they are right.",
    )


def exchanged_bands(sensor: Sensor, medians: np.ndarray, spreads: np.ndarray, slack: float) -> tuple[str, str] | None:
    """Return the first pair of bands (brighter, darker) that are in the wrong order.

    Args:
        sensor: Sensor of the bands.
        medians: Median reflectance of each band.
        spreads: Spread of the reflectance of each band.
        slack: Factor by which the brighter band may be darker after all; below 1 where only gross cases count.
    """
    position = {band.common_name: i for i, band in enumerate(sensor.bands)}
    infrared = near_infrared_band(sensor)
    if infrared is None or medians.max() < 0.08:
        return None
    pairs = []
    for name in ("red", "blue", "green", "rededge071"):
        if name in position:
            pairs.append((infrared, position[name]))
    for brighter, darker in (("rededge078", "rededge071"), ("nir08", "rededge071")):
        if brighter in position and darker in position:
            pairs.append((position[brighter], position[darker]))
    for brighter, darker in pairs:
        if medians[brighter] < slack * medians[darker]:
            return sensor.bands[brighter].id, sensor.bands[darker].id
    red = position.get("red")
    blue = position.get("blue")
    if slack == 1.0 and red is not None and blue is not None and spreads[blue] > 1.3 * spreads[red]:
        return sensor.bands[red].id, sensor.bands[blue].id
    return None


def unequal_infrared(sensor: Sensor, medians: np.ndarray) -> tuple[str, str] | None:
    """Return the two bands of the near infrared if their brightness differs, as after sorting files by name."""
    wide = sensor.index("nir")
    narrow = sensor.index("nir08")
    if wide is None or narrow is None or medians[[wide, narrow]].max() < 0.1:
        return None
    if 0.7 < medians[wide] / medians[narrow] < 1.4:
        return None
    return sensor.bands[wide].id, sensor.bands[narrow].id
