"""From the grid of the label to the pixels of a sensor: which ground each pixel sees, and how sharply."""

from __future__ import annotations

import numpy as np

from agrifm.sensors import Sensor

GRID = 10.0  # meters per pixel of the label
REGISTRATION = 3.0  # meters; deviation of the position of a date
_FARTHEST = 3 * REGISTRATION
_OVERLAP = 0.65  # half of the width of what a pixel sees, in pixels
_SPREAD = ((-1.732, 1 / 6), (0.0, 2 / 3), (1.732, 1 / 6))  # Gauss-Hermite nodes of the point spread, and their weights


def blur_meters(sensor: Sensor) -> float:
    """Deviation of the point spread beyond the area of a pixel; 0.6 pixels leave 0.2 of the contrast at Nyquist."""
    return min(0.6 * sensor.gsd, 12.0)


def margin_pixels(sensor: Sensor) -> int:
    """Pixels of the label around a chip that a sensor sees in its pixels at the border."""
    overlap = (_OVERLAP - 0.5) * sensor.gsd
    spread = _SPREAD[-1][0] * blur_meters(sensor)
    return int(np.ceil((overlap + spread + _FARTHEST) / GRID))


def averaging_weights(size: int, sensor: Sensor, shifts: np.ndarray) -> np.ndarray:
    """Weights ``(t, n, size + 2 * margin)`` that average pixels of the label to those of a sensor.

    Pixels overlap with their neighbors and are blurred by the point spread.

    Args:
        size: Pixels of the label along a chip, without the margin on each side.
        sensor: The sensor.
        shifts: Displacement of each date in meters ``(t)``.
    """
    margin = margin_pixels(sensor)
    count = max(1, round(size * GRID / sensor.gsd))
    width = size / count
    middle = margin + (np.arange(count)[:, None] + 0.5) * width
    centers = middle + shifts[:, None, None] / GRID
    pixel = np.arange(size + 2 * margin)
    weights = np.zeros((len(shifts), count, len(pixel)))
    for deviations, share in _SPREAD:
        center = centers + deviations * blur_meters(sensor) / GRID
        low = np.maximum(center - _OVERLAP * width, pixel)
        high = np.minimum(center + _OVERLAP * width, pixel + 1)
        weights += share * np.clip(high - low, 0, None)
    return weights / weights.sum(-1, keepdims=True)
