"""How growth varies on the synthetic farmland: by region, by parcel, within parcels and in time.

The deviations were set by statistics of real fields (``benchmarks/realism.py``), never by the score of a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agrifm.data.randomness import field, normal, smooth
from agrifm.synthetic.farmland_ground import FarmGround
from agrifm.synthetic.observation import PATCH_METERS
from agrifm.synthetic.phenology import MEMBERS, mixture

_PARCEL_DELAY, _PATCH_DELAY = 5.0, 5.0  # days
_PARCEL_VIGOR, _PATCH_VIGOR = 0.12, 0.10
_PARCEL_LEAF, _PATCH_LEAF = 0.08, 0.05  # brightness of the plants
_PARCEL_SOIL, _PATCH_SOIL = 0.09, 0.08  # brightness of the ground
_HEADLAND, _HEADLAND_METERS = 0.25, 8.0  # vigor that is lost at the border of a parcel, and how far into it
_WEATHER, _WEATHER_DAYS = 0.08, 25.0  # vigor that a parcel gains or loses for some weeks
_WETNESS = 0.10  # darkening of the ground by rain
_GREEN = [MEMBERS.index(name) for name in ("leaf", "flower", "canopy")]


@dataclass(frozen=True)
class Growth:
    """Growth on a part of the farmland.

    Args:
        seed: Seed of everything random. The small integers beside it keep the random numbers apart.
        ground: Parcels and covers.
        scatter: Factor of the variation within parcels and in time.
    """

    seed: int
    ground: FarmGround
    scatter: float

    def members(self, days: np.ndarray) -> np.ndarray:
        """Shares of the end members ``(m, t, h, w)`` on days of the year ``(t)``, scaled by their brightness."""
        delayed = days[:, None, None] - self.delay()
        ground = self.ground
        members = mixture(ground.cover, ground.parcel, delayed, self.vigor(days), self.soil(days))
        members[_GREEN] *= self.leaf()
        return members

    def delay(self) -> np.ndarray:
        """Days by which seasons come late ``(h, w)``."""
        ground = self.ground
        delay = 0.0003 * (ground.xs - ground.ys[:, None])
        delay += 6 * (self._field(5000, 41) - 0.5)
        delay += _PARCEL_DELAY * normal(ground.parcel, 2)
        delay += 5 * (ground.along - 0.5) * normal(ground.parcel, 3)
        delay += _PATCH_DELAY * self._patches(44)
        return delay

    def vigor(self, days: np.ndarray) -> np.ndarray:
        """Factor of the green cover ``(t, h, w)``."""
        ground = self.ground
        vigor = 0.92 + _PARCEL_VIGOR * normal(ground.parcel, 4)
        vigor += 0.1 * (ground.along - 0.5) * normal(ground.parcel, 5)
        vigor += 0.1 * (self._field(300, 42) - 0.5)
        vigor += _PATCH_VIGOR * self._patches(46)
        headland = np.exp(-ground.border / _HEADLAND_METERS) * (ground.parcel != 0)
        vigor -= self.scatter * _HEADLAND * headland
        return np.clip(vigor + self._weather(days), 0.3, 1.05)

    def leaf(self) -> np.ndarray:
        """Brightness of the plants ``(h, w)``: dense ones scatter more light."""
        of_parcel = _PARCEL_LEAF * normal(self.ground.parcel, 10)
        return np.clip(1 + of_parcel + _PATCH_LEAF * self._patches(46), 0.6, 1.4)

    def soil(self, days: np.ndarray) -> np.ndarray:
        """Brightness of the ground ``(t, h, w)``; rain makes it darker."""
        soil = 0.7 + 0.6 * self._field(1500, 43)
        soil += _PARCEL_SOIL * normal(self.ground.parcel, 6)
        soil += _PATCH_SOIL * self._patches(48)
        wetness = self.scatter * _WETNESS * normal(self.seed, 54, days)
        return np.clip(soil * (1 - wetness[:, None, None]), 0.4, 1.6)

    def _field(self, size: float, number: int) -> np.ndarray:
        """Smooth random field in 0..1 ``(h, w)`` with features of ``size`` meters."""
        return field(self.ground.xs, self.ground.ys, size, self.seed, number)

    def _patches(self, number: int) -> np.ndarray:
        """Patches of two sizes ``(h, w)``, with a deviation of about one."""
        small, large = PATCH_METERS
        patches = self._field(small, number) + self._field(large, number + 1) - 1
        return self.scatter * 3.5 * patches

    def _weather(self, days: np.ndarray) -> np.ndarray:
        """Vigor that a parcel gains or loses for some weeks ``(t, h, w)``: drought, pests, irrigation."""
        numbers, inverse = np.unique(self.ground.parcel, return_inverse=True)
        position = days / _WEATHER_DAYS
        before = np.floor(position).astype(int)
        part = smooth(position - before)[:, None]
        first = normal(numbers, 9, before[:, None])
        second = normal(numbers, 9, before[:, None] + 1)
        change = self.scatter * _WEATHER * (first * (1 - part) + second * part)
        of_pixels = change[:, inverse.reshape(self.ground.parcel.shape)]
        return of_pixels * (1 + self._patches(50))
