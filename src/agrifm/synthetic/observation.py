"""The sky and the detector of both synthetic worlds: clouds, haze, shadows, imperfect masks, noise, stored numbers.

The constants were set by statistics of real series (``benchmarks/realism.py``), never by the score of a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agrifm.data.randomness import smooth
from agrifm.sensors import Sensor

CLOUD_LAYERS = ((2400, 0.5), (800, 0.32), (260, 0.18))  # size of the features in meters, weight of the layer
SHADOW_OFFSET = (130, 190)  # meters to the east and along the meridian between a shadow and its cloud
PATCH_METERS = (35.0, 110.0)  # size of patches within fields
_NO_CLOUDS = 2.0  # no cloud density reaches this threshold
_SHADOW_STRENGTH = 0.55
_HAZY = 0.45  # share of dates with haze, as a part of the cloudiness
_HAZE = 0.07  # mean opacity of haze at 0.5 micrometers
_HAZE_EXPONENT = 0.5  # by which it falls with wavelength; 0 for thin clouds, 1 and more for smoke
_GAIN, _BAND_GAIN = 0.06, 0.03  # deviation of the brightness of a date, and of each of its bands
_AEROSOL = 0.008  # deviation of reflectance at 0.5 micrometers that the correction of the atmosphere leaves
_RELATIVE_NOISE, _NOISE = 0.01, 0.002  # deviation of a pixel: part of its reflectance, and reflectance


def cloud_thresholds(cloudiness: float, kind: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """Compute the density above which there are clouds on each date.

    Args:
        cloudiness: Share of the dates that are not clear; half of these are nearly overcast.
        kind: Random numbers in 0..1 that decide whether a date is overcast, cloudy or clear.
        degree: Random numbers in 0..1 that decide how many clouds there are.
    """
    overcast = 0.05 + 0.25 * degree
    scattered = 0.42 + 0.28 * degree
    thresholds = np.where(kind < 0.5 * cloudiness, overcast, scattered)
    return np.where(kind < cloudiness, thresholds, _NO_CLOUDS)


def cloud_density(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Density of clouds in 0..1 ``(t, h, w)`` from one random field in 0..1 for each of ``CLOUD_LAYERS``."""
    density = np.zeros_like(layers[0])
    for (_, weight), layer in zip(CLOUD_LAYERS, layers, strict=True):
        density += weight * layer
    return density


def cloud_opacity(density: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Opacity of clouds in 0..1 ``(t, h, w)``."""
    return smooth((density - thresholds) / 0.1)


def haze_opacity(cloudiness: float, density: np.ndarray, kind: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """Opacity of haze in 0..1 ``(t, h, w)``: thin clouds over everything, which cloud masks mostly miss.

    Args:
        cloudiness: Share of the dates that are not clear.
        density: Density of clouds in 0..1 ``(t, h, w)``; haze is denser where they are.
        kind: Random numbers in 0..1 that decide which dates are hazy.
        degree: Random numbers in 0..1 that decide how dense haze is.
    """
    mean_opacity = np.where(kind < _HAZY * cloudiness, -_HAZE * np.log1p(-degree), 0)
    return np.minimum(mean_opacity * 2 * density, 0.9)


def together(cloud: np.ndarray, haze: np.ndarray) -> np.ndarray:
    """Opacity of clouds and haze, one above the other."""
    return 1 - (1 - cloud) * (1 - haze)


def add_haze(reflectance: np.ndarray, haze: np.ndarray, sensor: Sensor, cloud_spectrum: np.ndarray) -> np.ndarray:
    """Cover the ground with haze.

    Args:
        reflectance: Reflectance of the ground ``(t, c, h, w)``.
        haze: Opacity of haze ``(t, h, w)``.
        sensor: Sensor with the bands.
        cloud_spectrum: Reflectance of clouds ``(c)``.
    """
    wavelengths = np.array([band.wavelength for band in sensor.bands])
    of_band = np.minimum((0.5 / wavelengths) ** _HAZE_EXPONENT, 1).astype(np.float32)
    opacity = haze[:, None] * of_band[:, None, None]
    return reflectance + opacity * (cloud_spectrum[:, None, None] - reflectance)


def add_clouds(
    reflectance: np.ndarray, cloud: np.ndarray, shadow: np.ndarray, cloud_spectrum: np.ndarray
) -> np.ndarray:
    """Darken the ground by shadows and cover it with clouds.

    Args:
        reflectance: Reflectance of the ground ``(t, c, h, w)``.
        cloud: Opacity of clouds ``(t, h, w)``.
        shadow: Opacity of the clouds that cast a shadow on each pixel ``(t, h, w)``.
        cloud_spectrum: Reflectance of clouds ``(c)``.
    """
    light = 1 - _SHADOW_STRENGTH * shadow * (1 - cloud)
    shaded = reflectance * light[:, None]
    return shaded + cloud[:, None] * (cloud_spectrum[:, None, None] - shaded)


def clear_mask(cloud: np.ndarray, shadow: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Pixels that a cloud mask calls clear ``(t, h, w)``; as real masks do, it misses haze and thin clouds.

    Args:
        cloud: Opacity of clouds and haze ``(t, h, w)``.
        shadow: Opacity of the clouds that cast a shadow on each pixel ``(t, h, w)``.
        uncertainty: Random numbers in 0..1, one for each date: how much its mask misses ``(t, 1, 1)``.
    """
    return (cloud < 0.06 + 0.2 * uncertainty) & (shadow < 0.2 + 0.4 * uncertainty)


def date_errors(
    sensor: Sensor, gain: np.ndarray, band_gain: np.ndarray, aerosol: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What light, angles and the correction of the atmosphere do to all pixels of a date.

    Args:
        sensor: Sensor with the bands.
        gain: Standard normal numbers ``(t)``.
        band_gain: Standard normal numbers ``(t, c)``.
        aerosol: Standard normal numbers ``(t)``.

    Returns:
        Factor and addition of reflectance, both ``(t, c)``.
    """
    wavelengths = np.array([band.wavelength for band in sensor.bands])
    factor = 1 + _GAIN * gain[:, None] + _BAND_GAIN * band_gain
    addition = _AEROSOL * aerosol[:, None] * (0.5 / wavelengths) ** 2
    return factor, addition


def add_pixel_noise(reflectance: np.ndarray, rng: np.random.Generator, factor: float = 1.0) -> np.ndarray:
    """Add the noise of the detector to each number, more or less of it by a factor."""
    deviation = factor * (_NOISE + _RELATIVE_NOISE * abs(reflectance))
    return reflectance + deviation * rng.standard_normal(reflectance.shape, np.float32)


def nodata_value(sensor: Sensor) -> float:
    """Stored number of pixels without data; 0 for a sensor that states none."""
    return 0 if sensor.nodata is None else sensor.nodata


def digital_numbers(reflectance: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Convert reflectance to stored numbers, never no-data itself.

    They are unsigned unless the no-data value of the sensor is negative.
    """
    dtype = np.uint16 if nodata_value(sensor) >= 0 else np.int16
    numbers = (reflectance - sensor.offset) / sensor.scale
    numbers = 16 * np.rint(numbers / 16)  # finer steps are noise on disk
    return np.clip(numbers, 1, np.iinfo(dtype).max).astype(dtype)
