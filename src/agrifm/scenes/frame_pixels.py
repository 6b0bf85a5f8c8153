"""Pixels of one frame on a grid, in the numbers of the sensor, with masks of missing, clear and impossible ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.rasters.pixels import Pixels, integer_range
from agrifm.scenes.units import Units
from agrifm.sensors import Sensor


@dataclass(frozen=True)
class ReflectanceLimits:
    """Range of reflectance that land can have; pixels outside it do not count as clear.

    Args:
        low, high: Lowest and highest reflectance.
        most: Largest share of pixels outside the range, among those with data, at which a date is still used.
    """

    low: float = -0.2
    high: float = 1.6
    most: float = 0.2

    def stored(self, units: Units) -> tuple[float, float]:
        """Return the limits as stored numbers, the lower one first."""
        limits = [(limit - units.offset) / units.scale for limit in (self.low, self.high)]
        return round(min(limits), 6), round(max(limits), 6)


LAND = ReflectanceLimits()


@dataclass(frozen=True)
class FramePixels:
    """Pixels of a frame, or of all frames of a day, on a grid.

    Args:
        image: Numbers of the sensor ``(c, h, w)``, its no-data value where pixels are missing.
        has_data: Mask ``(h, w)`` of pixels with data.
        clear: Mask ``(h, w)`` of clear ground.
        impossible: Mask ``(h, w)`` of pixels that would be clear, but reflect as no land does.
    """

    image: np.ndarray
    has_data: np.ndarray
    clear: np.ndarray
    impossible: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...], fill: float, dtype: type) -> FramePixels:
        """Allocate pixels ``(c, h, w)`` of which all are missing."""
        masks = [np.zeros(shape[1:], bool) for _ in range(3)]
        return cls(np.full(shape, fill, dtype), *masks)

    def merge(self, other: FramePixels) -> None:
        """Merge another frame of the day in place; clear pixels replace others, whatever the order of frames."""
        better = (other.has_data & ~self.has_data) | (other.clear & ~self.clear)
        np.copyto(self.image, other.image, where=better)
        np.copyto(self.impossible, other.impossible, where=better)
        np.copyto(self.clear, other.clear, where=better)
        np.copyto(self.has_data, other.has_data, where=better)

    @property
    def clear_share(self) -> float:
        """Share of clear pixels among all."""
        return float(self.clear.mean())

    @property
    def impossible_share(self) -> float:
        """Share of impossible pixels among those that would be clear."""
        impossible = self.impossible.sum()
        return float(impossible / max(1, self.clear.sum() + impossible))


class MissingPixels:
    """Mask of missing pixels, gathered band by band.

    One missing band is enough, except where nothing but 0 marks missing pixels: very dark ground is 0 in single bands
    too, so there all bands must be 0. ``Sensor.unseen`` is the same rule for chips.
    """

    def __init__(self, sensor: Sensor, box: GeoBox) -> None:
        self.zero_is_missing = fill_value(sensor) == 0
        self.in_any_band = np.zeros(box.shape, bool)
        self.in_all_bands = np.ones(box.shape, bool)

    def add(self, pixels: Pixels) -> None:
        """Add the missing pixels of another band."""
        self.in_all_bands &= pixels.missing
        if not (self.zero_is_missing and pixels.zero_marks):
            self.in_any_band |= pixels.missing

    def has_data(self) -> np.ndarray:
        """Return the mask of pixels with data."""
        return ~(self.in_any_band | self.in_all_bands)


def fill_value(sensor: Sensor) -> float:
    """Return the number that marks missing pixels of a sensor."""
    return 0 if sensor.nodata is None else sensor.nodata


def stored_dtype(sensor: Sensor) -> type:
    """Return the data type that holds the numbers of a sensor."""
    fill = fill_value(sensor)
    if np.isnan(fill):
        return np.float32
    return np.uint16 if fill >= 0 else np.int16


def to_sensor_numbers(stored: np.ndarray, units: Units, sensor: Sensor, out: np.ndarray) -> None:
    """Convert stored numbers to those of the sensor.

    Numbers that would fall on the no-data value, or out of the range of the data type, stay just inside.

    Args:
        stored: Stored numbers ``(h, w)``.
        units: Their units.
        sensor: The sensor.
        out: Array ``(h, w)`` of its data type that receives the numbers.
    """
    scale = units.scale / sensor.scale
    shift = (units.offset - sensor.offset) / sensor.scale
    same_units = abs(scale - 1) < 1e-9 and abs(shift) < 1e-9
    fill = fill_value(sensor)
    if np.isnan(fill):
        out[...] = stored if same_units else stored * scale + shift
        return
    dtype = np.dtype(stored_dtype(sensor))
    lowest, highest = integer_range(dtype)
    if fill <= 0:
        lowest = max(lowest, int(fill) + 1)
    if not (same_units and stored.dtype.kind in "iu"):
        stored = np.rint(stored.astype(np.float64) * scale + shift)
    elif stored.dtype != dtype:
        stored = stored.astype(np.int64)
    np.clip(stored, lowest, highest, out=out, casting="unsafe")
    if fill > 0:
        out[out == fill] -= 1
