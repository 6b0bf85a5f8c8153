"""A small look at frames: where to look in a scene, and what the clear pixels of a frame have to say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.scenes.scene import Frame, Scene, sub_box
from agrifm.sensors import Sensor

WINDOW = 128  # pixels along a side that are looked at
FEW = 16  # pixels; below, bands are not judged


@dataclass(frozen=True)
class Look:
    """Clear pixels of a frame: reflectance ``(c, n)``, not clipped."""

    frame: Frame
    sensor: Sensor
    reflectance: np.ndarray

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.reflectance.shape[1]

    def darkest(self) -> float:
        """First percentile over the pixels of their darkest band."""
        return float(np.percentile(self.reflectance.min(0), 1))

    def visible(self) -> float:
        """Median over the pixels of their darkest visible band."""
        return float(np.median(self._visible().min(0)))

    def green(self) -> bool:
        """Whether some of it is surely vegetation, whose blue and red are dark; an offset does not hide that."""
        near, red = self._band("nir", "nir08"), self._band("red")
        return float((near - red > 0.4 * np.abs(near + red)).mean()) >= 0.01

    def constant(self) -> bool:
        """Whether every band has one value only."""
        return self.size >= FEW and bool((np.ptp(self.reflectance, axis=1) == 0).all())

    def twins(self) -> tuple[str, str] | None:
        """Two bands with the same values everywhere."""
        ids = self.sensor.band_ids
        for i, one in enumerate(self.reflectance if self.size >= FEW else ()):
            for j in range(i):
                if np.ptp(one) > 0 and np.array_equal(one, self.reflectance[j]):
                    return ids[j], ids[i]
        return None

    def land(self) -> np.ndarray:
        """Reflectance ``(c, n)`` without pixels that look like water: bright nowhere, least so in the infrared."""
        infrared = [i for i, band in enumerate(self.sensor.bands) if band.wavelength > 0.75]
        water = (self.reflectance[infrared].max(0) < 0.12) & (self.reflectance.max(0) < 0.3)
        return self.reflectance[:, ~water]

    def _band(self, *names: str) -> np.ndarray:
        return next(self.reflectance[i] for name in names if (i := self.sensor.index(name)) is not None)

    def _visible(self) -> np.ndarray:
        return np.stack([self._band(name) for name in ("blue", "green", "red")])


def middle(scene: Scene, sensor: Sensor) -> GeoBox:
    """At most 128 x 128 of the sensor's pixels in the middle of the scene."""
    factor = scene.factor(sensor)
    size = [max(1, n // factor) for n in scene.grid.shape]
    first = [max(0, (n - WINDOW) // 2) for n in size]
    end = [start + min(n, WINDOW) for start, n in zip(first, size, strict=True)]
    return sub_box(scene.grid, factor, (first[0], first[1]), (end[0], end[1]))


def coarse(scene: Scene, sensor: Sensor, size: int = WINDOW) -> GeoBox:
    """All of the scene but a rest at two edges, at most ``size`` pixels along a side, none finer than the sensor's."""
    factor = max(scene.factor(sensor), -(-max(scene.grid.shape) // size))
    rows, columns = (max(1, n // factor) for n in scene.grid.shape)
    return sub_box(scene.grid, factor, (0, 0), (rows, columns))
