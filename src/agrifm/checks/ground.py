"""Rules of reflectance that recognize water, vegetation and the darkest ground, whatever the sensor."""

from __future__ import annotations

import numpy as np

from agrifm.sensors import Sensor

CLOUD = 0.3  # reflectance in visible light above which a pixel is cloud, snow or salt rather than ground
WATER = 0.12  # infrared reflectance below which a pixel may be water


def infrared_bands(sensor: Sensor) -> list[int]:
    """Return the positions of the infrared bands."""
    return [i for i, band in enumerate(sensor.bands) if band.wavelength > 0.75]


def visible_bands(sensor: Sensor) -> list[int]:
    """Return the positions of the visible bands."""
    return [i for i, band in enumerate(sensor.bands) if band.wavelength < 0.7]


def may_be_water(reflectance: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Return the mask ``(...)`` of pixels ``(c, ...)`` that may be water: bright nowhere, dark in the infrared."""
    infrared = infrared_bands(sensor)
    if not infrared:
        return np.zeros(reflectance.shape[1:], bool)
    with np.errstate(invalid="ignore"):  # NaN where there are no data
        return (reflectance[infrared].max(0) < WATER) & (reflectance.max(0) < CLOUD)


def has_vegetation(reflectance: np.ndarray, sensor: Sensor) -> bool:
    """Whether some of the pixels ``(c, n)`` surely are vegetation.

    Their visible bands are dark, and an offset that was left in does not hide that.
    """
    infrared = near_infrared_band(sensor)
    red = sensor.index("red")
    if infrared is None or red is None:
        return False
    difference = reflectance[infrared] - reflectance[red]
    total = reflectance[infrared] + reflectance[red]
    is_vegetation = difference > 0.4 * np.abs(total)
    return float(is_vegetation.mean()) >= 0.01


def near_infrared_band(sensor: Sensor) -> int | None:
    """Return the position of the wide band of the near infrared, or else of the narrow one."""
    wide = sensor.index("nir")
    return sensor.index("nir08") if wide is None else wide


def dark_end(reflectance: np.ndarray) -> float:
    """Return the first percentile over the pixels ``(c, n)`` of their darkest band."""
    return float(np.percentile(reflectance.min(0), 1))


def median_visible(reflectance: np.ndarray, sensor: Sensor) -> float:
    """Return the median over the pixels ``(c, n)`` of their darkest visible band."""
    return float(np.median(reflectance[visible_bands(sensor)].min(0)))
