"""Small samples of frames: where in a scene they are taken, and what the clear pixels of a frame show."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.checks.ground import may_be_water
from agrifm.errors import InputError
from agrifm.scenes.scene import Frame, Scene
from agrifm.scenes.tile import sub_box
from agrifm.sensors import Sensor

WINDOW = 128  # pixels along a side of the window that is read
MIN_PIXELS = 16  # below, bands are not judged


@dataclass(frozen=True)
class FrameSample:
    """Clear pixels of a frame.

    Args:
        frame: Frame of the pixels.
        sensor: Sensor of the frame.
        reflectance: Reflectance ``(c, n)``, not clipped.
    """

    frame: Frame
    sensor: Sensor
    reflectance: np.ndarray

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.reflectance.shape[1]

    @property
    def impossible_share(self) -> float:
        """Share of pixels that have, in some band, a reflectance that no land has."""
        limits = self.frame.possible
        outside = (self.reflectance < limits.low) | (self.reflectance > limits.high)
        return float(outside.any(0).mean())

    def is_constant(self) -> bool:
        """Whether every band has one value only."""
        return self.size >= MIN_PIXELS and bool((np.ptp(self.reflectance, axis=1) == 0).all())

    def identical_bands(self) -> tuple[str, str] | None:
        """Return two bands that have the same values everywhere, if there are any."""
        if self.size < MIN_PIXELS:
            return None
        ids = self.sensor.band_ids
        for i, band in enumerate(self.reflectance):
            if np.ptp(band) == 0:
                continue
            for j in range(i):
                if np.array_equal(band, self.reflectance[j]):
                    return ids[j], ids[i]
        return None

    def land(self) -> np.ndarray:
        """Return reflectance ``(c, n)`` without pixels that may be water."""
        return self.reflectance[:, ~may_be_water(self.reflectance, self.sensor)]


def refuse_impossible(scene: Scene, sensor: Sensor, shares: Mapping[dt.date, float]) -> None:
    """Refuse dates on which too many of the clear pixels reflect as no land does.

    Args:
        scene: Scene, whose frames hold the limit.
        sensor: One of its sensors.
        shares: Share of such pixels by day.

    Raises:
        InputError: If there are such dates; the error names them.
    """
    frames = {}
    for layer in scene.layers:
        if layer.sensor == sensor:
            frames |= {frame.day: frame for frame in layer.frames}
    excessive = {day: share for day, share in shares.items() if share > frames[day].possible.most}
    if not excessive:
        return
    frame = frames[min(excessive)]
    limits = frame.possible
    percentages = ", ".join(f"{share:.0%}" for share in excessive.values())
    raise InputError(
        f"{scene.name}: {sensor.name}, {', '.join(map(str, excessive))}",
        found=f"a reflectance outside {limits.low:g}..{limits.high:g} on {percentages} of the clear pixels "
        f"({frame.units})",
        expected=f"that on at most {limits.most:.0%} of them; such pixels are no land and do not count as clear",
        repair="get the files of these dates again or remove them; if their numbers mean something else, give "
        "--set scale=... --set offset=... or, for missing pixels, --set nodata=...; use what is left of these dates "
        "with '--set impossible=1'.",
    )


def center_window(scene: Scene, sensor: Sensor) -> GeoBox:
    """Return at most 128 x 128 pixels of the sensor in the center of the scene."""
    factor = scene.factor(sensor)
    first = []
    end = []
    for length in scene.grid.shape:
        pixels = max(1, length // factor)
        start = max(0, (pixels - WINDOW) // 2)
        first.append(start)
        end.append(start + min(pixels, WINDOW))
    return sub_box(scene.grid, factor, (first[0], first[1]), (end[0], end[1]))


def overview(scene: Scene, sensor: Sensor, size: int = WINDOW) -> GeoBox:
    """Return a coarse grid of the scene, without an incomplete pixel at two edges.

    It has at most ``size`` pixels along a side, none finer than those of the sensor.
    """
    rows, columns = scene.grid.shape
    factor = max(scene.factor(sensor), math.ceil(max(rows, columns) / size))
    end = max(1, rows // factor), max(1, columns // factor)
    return sub_box(scene.grid, factor, (0, 0), end)
