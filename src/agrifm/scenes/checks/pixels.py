"""A small look at frames: where to look in a scene, and what the clear pixels of a frame have to say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.errors import InputError
from agrifm.scenes.scene import READERS, Frame, MissingPixels, Scene, sub_box
from agrifm.sensors import Sensor

WINDOW = 128  # pixels along a side that are looked at
FEW = 16  # pixels; below, bands are not judged


@dataclass(frozen=True)
class FrameSample:
    """Clear pixels of a frame: reflectance ``(c, n)``, not clipped."""

    frame: Frame
    sensor: Sensor
    reflectance: np.ndarray

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.reflectance.shape[1]

    @property
    def impossible(self) -> float:
        """Share of pixels with a reflectance in some band that no land has."""
        low, high = self.frame.possible.low, self.frame.possible.high
        return float(((self.reflectance < low) | (self.reflectance > high)).any(0).mean())

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


def look_at(
    frame: Frame, sensor: Sensor, box: GeoBox, pool: ThreadPoolExecutor, *, average: bool = True
) -> FrameSample | None:
    """The clear pixels of a frame on a grid, with those that no land reflects; None if there are none.

    Raises:
        InputError: If a file cannot be read.
    """
    clear = np.ones(box.shape, bool) if frame.quality is None else frame.quality.clear(box)
    if not clear.any():
        return None
    absent, stored = MissingPixels(sensor, box), []
    for pixels in pool.map(lambda band: frame.bands[band].read(box, average=average), sensor.band_ids):
        absent.add(pixels)
        stored.append(pixels.filled(0)[clear])
    there = absent.there()[clear]
    if not there.any():
        return None
    return FrameSample(
        frame, sensor, np.stack(stored)[:, there].astype(np.float64) * frame.units.scale + frame.units.offset
    )


def impossible_shares(scene: Scene) -> dict[str, dict[dt.date, float]]:
    """Share of pixels that no land reflects among the clear ones, by sensor and day; days without any are left out.

    At most 128 x 128 pixels of each date are looked at; they are picked, not averaged. ``Stack.impossible_pixels``
    counts exactly, where all pixels are read anyway.

    Raises:
        InputError: If a file cannot be read.
    """
    shares: dict[str, dict[dt.date, float]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for layer in scene.layers:
            box, counts = coarse(scene, layer.sensor), dict.fromkeys(layer.days, (0.0, 0))
            for frame in layer.frames:
                look = look_at(frame, layer.sensor, box, pool, average=False)
                odd, size = counts[frame.day]
                counts[frame.day] = (odd + look.impossible * look.size, size + look.size) if look else (odd, size)
            shares[layer.sensor.name] = {day: odd / size for day, (odd, size) in counts.items() if size}
    return shares


def refuse_impossible(scene: Scene, sensor: Sensor, shares: Mapping[dt.date, float]) -> None:
    """Refuse dates on which too many of the clear pixels are no reflectance of land.

    Args:
        scene: Holds the limit.
        sensor: One of the scene's.
        shares: Shares by day, as ``impossible_shares`` gives them.

    Raises:
        InputError: names the dates.
    """
    frames = {frame.day: frame for layer in scene.layers if layer.sensor == sensor for frame in layer.frames}
    bad = {day: share for day, share in shares.items() if share > frames[day].possible.most}
    if not bad:
        return
    frame = frames[min(bad)]
    limits, units = frame.possible, frame.units
    raise InputError(
        f"{scene.name}: {sensor.name}, {', '.join(map(str, bad))}",
        found=f"a reflectance outside {limits.low:g}..{limits.high:g} on "
        f"{', '.join(f'{share:.0%}' for share in bad.values())} of the clear pixels "
        f"(scale {units.scale:g}, offset {units.offset:g}: {units.source})",
        expected=f"that on at most {limits.most:.0%} of them; such pixels are no land and do not count as seen",
        repair="get the files of these dates again or remove them; if their numbers mean something else, give "
        "--set scale=... --set offset=... or, for missing pixels, --set nodata=...; use what is left of these dates "
        "with '--set impossible=1'.",
    )


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
