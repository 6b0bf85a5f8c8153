"""Reflectance that land cannot have: how much of it is on each date, and which dates are not used for it.

``Frame.read`` leaves such pixels out everywhere and exactly; here they are counted in a sample.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.errors import InputError
from agrifm.scenes.look import coarse
from agrifm.scenes.scene import READERS, Absent, Frame, Scene
from agrifm.sensors import Sensor


def impossible_shares(scene: Scene) -> dict[str, dict[dt.date, float]]:
    """Share of pixels that no land reflects among the clear ones, by sensor and day; days without any are left out.

    At most 128 x 128 pixels of each date are looked at; they are picked, not averaged. ``Stack.impossible_pixels``
    counts exactly, where all pixels are read anyway.

    Raises:
        InputError: a file cannot be read.
    """
    shares: dict[str, dict[dt.date, float]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for layer in scene.layers:
            sensor, box = layer.sensor, coarse(scene, layer.sensor)
            found = pool.map(lambda frame, sensor=sensor, box=box: _counted(frame, sensor, box), layer.frames)
            counts = {day: np.zeros(2) for day in layer.days}
            for frame, pixels in zip(layer.frames, found, strict=True):
                counts[frame.day] += pixels
            shares[sensor.name] = {day: float(odd / clear) for day, (odd, clear) in counts.items() if clear}
    return shares


def _counted(frame: Frame, sensor: Sensor, box: GeoBox) -> tuple[int, int]:
    """Impossible pixels among those that the quality layer calls clear, and all of those."""
    clear = np.ones(box.shape, bool) if frame.quality is None else frame.quality.clear(box)
    if not clear.any():
        return 0, 0
    absent, odd, limits = Absent(sensor, box), np.zeros(box.shape, bool), frame.possible.stored(frame.units)
    for band in sensor.band_ids:
        pixels = frame.bands[band].read(box, average=False)
        absent.add(pixels)
        odd |= pixels.outside(limits)
    clear = clear & absent.there()
    return int((clear & odd).sum()), int(clear.sum())


def refuse_impossible(scene: Scene, sensor: Sensor, shares: Mapping[dt.date, float]) -> None:
    """Refuse dates on which too many of the clear pixels are no reflectance of land.

    Args:
        scene: holds the limit.
        sensor: one of the scene's.
        shares: by day, as ``impossible_shares`` gives them.

    Raises:
        InputError: names the dates.
    """
    frames = {frame.day: frame for layer in scene.layers if layer.sensor == sensor for frame in layer.frames}
    bad = {day: share for day, share in shares.items() if share > frames[day].possible.most}
    if not bad:
        return
    frame = frames[min(bad)]
    limits, units = frame.possible, frame.units
    percent = ", ".join(f"{share:.0%}" for share in bad.values())
    raise InputError(
        f"{scene.name}: {sensor.name}, {', '.join(map(str, bad))}",
        found=f"a reflectance outside {limits.low:g}..{limits.high:g} on {percent} of the clear pixels "
        f"(scale {units.scale:g}, offset {units.offset:g}: {units.source})",
        expected=f"that on at most {limits.most:.0%} of them; such pixels are no land and do not count as seen",
        repair="get the files of these dates again or remove them; if their numbers mean something else, give "
        "--set scale=... --set offset=... or, for missing pixels, --set nodata=...; use what is left of these dates "
        "with '--set impossible=1'.",
    )
