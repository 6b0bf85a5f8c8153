"""The sky and the sensor of both synthetic worlds: clouds, their shadows, imperfect cloud masks, stored numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agrifm.data.randomness import smooth
from agrifm.sensors import Sensor

CLOUD_LAYERS = ((2400, 0.5), (800, 0.32), (260, 0.18))  # size of the features in meters, weight of the layer
SHADOW_OFFSET = (130, 190)  # meters to the east and along the meridian between a shadow and its cloud
_NO_CLOUDS = 2.0  # no cloud density reaches this threshold
_SHADOW_STRENGTH = 0.55


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


def cloud_opacity(layers: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Opacity of clouds in 0..1 ``(t, h, w)`` from one random field in 0..1 for each of ``CLOUD_LAYERS``."""
    density = sum(weight * layer for (_, weight), layer in zip(CLOUD_LAYERS, layers, strict=True))
    return smooth((density - thresholds) / 0.1)


def add_clouds(
    reflectance: np.ndarray, cloud: np.ndarray, shadow: np.ndarray, cloud_spectrum: np.ndarray
) -> np.ndarray:
    """Darken the ground by shadows and cover it with clouds.

    Args:
        reflectance: Reflectance of the ground ``(t, c, h, w)``.
        cloud: Opacity of the clouds ``(t, h, w)``.
        shadow: Opacity of the clouds that cast a shadow on each pixel ``(t, h, w)``.
        cloud_spectrum: Reflectance of clouds ``(c)``.
    """
    light = 1 - _SHADOW_STRENGTH * shadow * (1 - cloud)
    shaded = reflectance * light[:, None]
    return shaded + cloud[:, None] * (cloud_spectrum[:, None, None] - shaded)


def clear_mask(cloud: np.ndarray, shadow: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Pixels that a cloud mask calls clear ``(t, h, w)``; as real masks do, it misses some thin clouds.

    Args:
        cloud: Opacity of the clouds ``(t, h, w)``.
        shadow: Opacity of the clouds that cast a shadow on each pixel ``(t, h, w)``.
        uncertainty: Random numbers in 0..1 ``(t, h, w)``.
    """
    tolerance = 0.12 * uncertainty
    return (cloud < 0.04 + tolerance) & (shadow < 0.20 + tolerance)


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
