"""Pixels of one place on many dates, and which of them show ground that dates can be compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agrifm.checks.ground import CLOUD, dark_end, may_be_water
from agrifm.sensors import Sensor

NEIGHBORS = 3  # dates before, and after, that a date is compared with


@dataclass(frozen=True)
class Series:
    """Some pixels of one place on many dates, in the order of time.

    Args:
        sensor: Sensor of the pixels.
        reflectance: Reflectance ``(t, c, n)``, NaN where there are no data.
        clear: Mask ``(t, n)`` of what the quality layer calls clear.
        masked: Whether a date has a quality layer ``(t)``.
        min_ground: Number of pixels of ground that a date must have to be judged.
        orbits: Relative orbit of each date, empty where it is unknown; dates of the same orbit are compared first.
    """

    sensor: Sensor
    reflectance: np.ndarray
    clear: np.ndarray
    masked: np.ndarray
    min_ground: int = 100
    orbits: Sequence[str] = ()

    @cached_property
    def has_data(self) -> np.ndarray:
        """Mask ``(t, n)`` of pixels with data."""
        return np.logical_not(np.isnan(self.reflectance).any(1))

    @cached_property
    def observed(self) -> np.ndarray:
        """Mask ``(t, n)`` of clear pixels with data."""
        return self.has_data & self.clear

    @cached_property
    def cloudy(self) -> np.ndarray:
        """Mask ``(t, n)`` of pixels as bright as cloud or snow in blue, or in all bands where there is no blue one."""
        blue = self.sensor.index("blue")
        brightness = self.reflectance.min(1) if blue is None else self.reflectance[:, blue]
        with np.errstate(invalid="ignore"):
            return brightness > CLOUD

    @cached_property
    def water(self) -> np.ndarray:
        """Mask ``(t, n)`` of pixels that may be water."""
        bands_first = np.moveaxis(self.reflectance, 1, 0)
        with np.errstate(invalid="ignore"):
            # Clearly negative numbers are no water, but an offset that was removed twice.
            return may_be_water(bands_first, self.sensor) & (bands_first.min(0) > -0.05)

    @cached_property
    def ground(self) -> np.ndarray:
        """Mask ``(t, n)`` of clear pixels of land."""
        return self.observed & ~self.cloudy & ~self.water

    @cached_property
    def ground_share(self) -> np.ndarray:
        """Share of ground among the pixels with data ``(t)``."""
        return self.ground.sum(1) / np.maximum(1, self.has_data.sum(1))

    @cached_property
    def judged(self) -> list[int]:
        """Dates with enough ground, and few clouds."""
        # A quality layer finds most clouds. Without one, any bright pixel warns of haze around it.
        min_share = np.where(self.masked, 0.5, 0.9)
        is_judged = (self.ground_share >= min_share) & (self.ground.sum(1) >= self.min_ground)
        return np.flatnonzero(is_judged).tolist()

    @cached_property
    def dark_ends(self) -> dict[int, float]:
        """First percentile over the ground of its darkest band, by judged date."""
        return {step: dark_end(self.ground_pixels(step)) for step in self.judged}

    @cached_property
    def low_reflectance(self) -> dict[int, np.ndarray]:
        """Second percentile over the ground of each band, by judged date."""
        return {step: np.percentile(self.ground_pixels(step), 2, axis=1) for step in self.judged}

    def ground_pixels(self, step: int) -> np.ndarray:
        """Return the reflectance ``(c, n)`` of the ground of a date."""
        return self.reflectance[step][:, self.ground[step]]

    def shared_ground(self, step: int, other: int) -> np.ndarray:
        """Return the mask ``(n)`` of ground on both dates."""
        return self.ground[step] & self.ground[other]

    def neighbors(self, step: int, candidates: Sequence[int]) -> list[int]:
        """Return the nearest dates before and after a date, of those that show some of the same ground."""

        def preference(other: int) -> tuple[bool, int]:
            return self._near_in_other_orbit(step, other), abs(other - step)

        min_shared = min(30, self.min_ground)
        before = []
        after = []
        for other in candidates:
            if other == step or self.shared_ground(step, other).sum() < min_shared:
                continue
            side = before if other < step else after
            side.append(other)
        before.sort(key=preference)
        after.sort(key=preference)
        return before[:NEIGHBORS] + after[:NEIGHBORS]

    def _near_in_other_orbit(self, step: int, other: int) -> bool:
        """Whether a near date is of another orbit; orbits of dates far off do not count."""
        if not self.orbits or abs(step - other) > NEIGHBORS:
            return False
        return self.orbits[step] != self.orbits[other]
