"""Whether bands stand in the order that a sensor says, judged by their numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agrifm.checks.series import CLOUD
from agrifm.checks.survey import Survey
from agrifm.errors import InputError
from agrifm.sensors import Sensor

FEW = 16  # pixels of land; below, the order of bands is not judged


class BandOrder(InputError):
    """Bands that look exchanged, or numbers in another unit than the sensor's; a setting leaves this check out."""


def look_at_bands(
    sensor: Sensor, seen: Survey, where: str, *, single: bool, named: bool | Callable[[], bool] = True
) -> list[str]:
    """Refuse values in the wrong unit and bands in the wrong order.

    On land the near infrared is brighter than red and blue, the red edge rises towards it, and through a season
    red varies more than blue. One chip may be unusual, so on a single one only gross cases count. Pixels that look
    like water, cloud or snow have an order of their own and are left out.

    Args:
        sensor: Whose bands they are.
        seen: Pixels.
        where: Where for the error.
        single: They are of one chip.
        named: Whether the files name their bands; without names, weak evidence is only a warning.

    Returns:
        Warnings.

    Raises:
        BandOrder: with the bands that look swapped.
    """
    parts = [part for part in seen.pixels.get(sensor.name, []) if len(part)]
    if not parts:
        return []
    reflectance = np.concatenate(parts).astype(np.float64) * sensor.scale + sensor.offset
    top = float(np.median(reflectance, axis=0).max())
    if not 0.005 < top < 3.0:
        raise BandOrder(
            where,
            found=f"a median reflectance of {top:.4g} with scale {sensor.scale:g} and offset {sensor.offset:g}",
            expected="values whose reflectance lies between 0 and 1",
            repair="store digital numbers (reflectance = number * scale + offset), or define a sensor with your scale.",
        )
    land = reflectance[_is_land(reflectance, sensor)]
    if len(land) < FEW:
        return []
    low, middle, high = np.percentile(land, (25, 50, 75), axis=0)
    gross = swapped(sensor, middle, high - low, slack=0.6)
    pair = gross or (None if single else swapped(sensor, middle, high - low, slack=1.0))
    if pair is None:
        return []
    error = _wrong_order(sensor, pair, middle, high - low, where)
    if gross is None and not (named() if callable(named) else named):
        return [
            f"{where}: {error.found}. The files do not name their bands, and this is weak evidence: check that they "
            f"are {', '.join(sensor.band_ids)}"
        ]
    raise error


def _is_land(reflectance: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Pixels ``(n)`` that look like neither water nor cloud or snow, of ``(n, c)``."""
    infrared = [i for i, band in enumerate(sensor.bands) if band.wavelength > 0.75]
    if not infrared:
        return np.ones(len(reflectance), bool)
    water = (reflectance[:, infrared].max(1) < 0.12) & (reflectance.max(1) < CLOUD)
    short = [i for i, band in enumerate(sensor.bands) if 0 < band.wavelength < 0.6]
    # Bright in blue and green: where only one of them is, bands may be exchanged.
    bright = reflectance[:, short].min(1) > CLOUD if short else np.zeros(len(reflectance), bool)
    return ~water & ~bright


def _wrong_order(
    sensor: Sensor, pair: tuple[str, str], middle: np.ndarray, spread: np.ndarray, where: str
) -> BandOrder:
    one, other = (sensor.band_ids.index(band) for band in pair)
    return BandOrder(
        where,
        found=f"{pair[0]} darker or steadier than {pair[1]}, which land never shows: medians of {middle[one]:.3f} and "
        f"{middle[other]:.3f}, middle halves {spread[one]:.3f} and {spread[other]:.3f} wide",
        expected=f"bands in the order {', '.join(sensor.band_ids)}",
        repair="reorder the bands, or set 'check_bands: false' in the data section if they are right.",
    )


def swapped(sensor: Sensor, middle: np.ndarray, spread: np.ndarray, slack: float) -> tuple[str, str] | None:
    """The first pair of bands (brighter, darker) that stands the wrong way round.

    Args:
        sensor: Whose bands they are.
        middle, spread: Median and spread of the reflectance of each band.
        slack: Factor by which the brighter band may be darker after all; below 1 where only gross cases count.
    """
    index = {band.common_name: i for i, band in enumerate(sensor.bands)}
    near = index.get("nir", index.get("nir08"))
    if near is None or middle.max() < 0.08:
        return None
    darker = [index[name] for name in ("red", "blue", "green", "rededge071") if name in index]
    pairs = [(near, other) for other in darker]
    pairs += [
        (index[a], index[b])
        for a, b in (("rededge078", "rededge071"), ("nir08", "rededge071"))
        if a in index and b in index
    ]
    for brighter, other in pairs:
        if middle[brighter] < slack * middle[other]:
            return sensor.bands[brighter].id, sensor.bands[other].id
    if slack == 1.0 and {"red", "blue"} <= set(index) and spread[index["blue"]] > 1.3 * spread[index["red"]]:
        return sensor.bands[index["red"]].id, sensor.bands[index["blue"]].id
    return None


def unequal_infrared(sensor: Sensor, middle: np.ndarray) -> tuple[str, str] | None:
    """Two bands of the same stretch of the near infrared that are not equally bright; sorting by name breaks that."""
    wide, narrow = sensor.index("nir"), sensor.index("nir08")
    if wide is None or narrow is None or middle[[wide, narrow]].max() < 0.1:
        return None
    if 0.7 < middle[wide] / middle[narrow] < 1.4:
        return None
    return sensor.bands[wide].id, sensor.bands[narrow].id
