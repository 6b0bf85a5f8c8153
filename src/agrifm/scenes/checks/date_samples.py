"""Pixels of all dates of a layer at fixed places, so that dates can be compared."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.errors import Unreadable
from agrifm.scenes.checks.pixels import FrameSample, center_window, overview
from agrifm.scenes.frame_pixels import MissingPixels
from agrifm.scenes.scene import READERS, Frame, Layer, Scene
from agrifm.sensors import Sensor

MIN_GROUND = 100  # pixels of ground; below, a date is not judged
MAX_PIXELS = 4096  # of a frame that are kept
MAX_BYTES = 64 * 2**20  # that all frames of a sensor may take


@dataclass(frozen=True)
class FrameGrid:
    """Pixels of a frame at fixed places of the scene, so that frames can be compared.

    Args:
        frame: Frame of the pixels.
        reflectance: Reflectance ``(c, n)``, NaN where there are no data.
        clear: Mask ``(n)`` of what the quality layer calls clear.
    """

    frame: Frame
    reflectance: np.ndarray
    clear: np.ndarray

    def clear_pixels(self, sensor: Sensor) -> FrameSample:
        """Return the clear pixels with data."""
        selected = self.clear & np.isfinite(self.reflectance).all(0)
        return FrameSample(self.frame, sensor, self.reflectance[:, selected].astype(np.float64))


FrameGrids = Mapping[int, FrameGrid]  # by position of the frame in its layer


@dataclass(frozen=True)
class DateSamples:
    """Pixels of the frames of a sensor.

    Args:
        center: Frames with clear ground in the center of the scene, read there.
        overview: The other frames, and the dates around them, read on a coarse grid of the whole scene.
    """

    center: dict[int, FrameGrid]
    overview: dict[int, FrameGrid]

    @classmethod
    def read(cls, layer: Layer, scene: Scene, positions: Sequence[int], *, skip_unreadable: bool) -> DateSamples:
        """Read the pixels.

        Args:
            layer: Layer of the sensor.
            scene: Scene of the layer.
            positions: Positions of the frames in the layer.
            skip_unreadable: Leave out frames that cannot be read.

        Raises:
            InputError: If a file cannot be read.
        """
        center_box = center_window(scene, layer.sensor)
        overview_box = overview(scene, layer.sensor)
        center = _read_grids(layer, positions, center_box, skip_unreadable)
        clouded = [position for position in positions if position not in center]
        if not clouded or center_box == overview_box:
            return cls(center, {})
        coarse = _read_grids(layer, clouded, overview_box, skip_unreadable)
        # The dates around them are what they are compared with, and are read on the same grid.
        neighbors: set[int] = set()
        for position in coarse:
            neighbors.update(_neighbors(position, sorted(center)))
        coarse |= _read_grids(layer, sorted(neighbors), overview_box, skip_unreadable)
        return cls(center, coarse)

    def clear_pixels(self, positions: Sequence[int], sensor: Sensor) -> list[FrameSample]:
        """Return the clear pixels of frames: those in the center if there are any, or else those of the overview."""
        in_center = any(position in self.center for position in positions)
        grids = self.center if in_center else self.overview
        return [grids[position].clear_pixels(sensor) for position in positions if position in grids]

    def impossible_shares(self, sensor: Sensor) -> dict[dt.date, float]:
        """Return the share of clear pixels that reflect as no land does, by day.

        Frames without a quality layer are left out: clouds under a low sun reflect that much.
        """
        impossible: dict[dt.date, float] = {}
        total: dict[dt.date, float] = {}
        for grid in (self.overview | self.center).values():
            sample = grid.clear_pixels(sensor)
            if grid.frame.quality is None or not sample.size:
                continue
            day = grid.frame.day
            impossible[day] = impossible.get(day, 0.0) + sample.impossible_share * sample.size
            total[day] = total.get(day, 0.0) + sample.size
        return {day: impossible[day] / count for day, count in total.items()}


def _neighbors(position: int, known: Sequence[int]) -> list[int]:
    """Return the two nearest known positions on each side."""
    before = [other for other in known if other < position]
    after = [other for other in known if other > position]
    return before[-2:] + after[:2]


def _read_grids(layer: Layer, positions: Sequence[int], box: GeoBox, skip_unreadable: bool) -> dict[int, FrameGrid]:
    """Read the frames that show some clear ground in a box."""
    bytes_per_pixel = 4 * len(layer.sensor.bands) * max(1, len(positions))
    # The longer the series, the fewer pixels of each frame.
    max_pixels = min(MAX_PIXELS, max(256, MAX_BYTES // bytes_per_pixel))
    stride = max(1, int(np.ceil(np.sqrt(box.shape[0] * box.shape[1] / max_pixels))))

    def read(position: int) -> FrameGrid | None:
        try:
            return _read_grid(layer.frames[position], layer.sensor, box, stride)
        except Unreadable:
            if skip_unreadable:
                return None
            raise

    grids = {}
    with ThreadPoolExecutor(READERS) as pool:
        for position, grid in zip(positions, pool.map(read, positions), strict=True):
            if grid is not None:
                grids[position] = grid
    return grids


def _read_grid(frame: Frame, sensor: Sensor, box: GeoBox, stride: int) -> FrameGrid | None:
    """Read every ``stride``-th pixel of a frame along rows and columns; None if no clear pixel is among them."""
    clear = frame.clear_mask(box)[::stride, ::stride].ravel()
    if not clear.any():
        return None
    missing = MissingPixels(sensor, box)
    stored = []
    for band in sensor.band_ids:
        pixels = frame.bands[band].read(box)
        missing.add(pixels)
        stored.append(pixels.filled(0)[::stride, ::stride].ravel().astype(np.float32))
    has_data = missing.has_data()[::stride, ::stride].ravel()
    if not (clear & has_data).any():
        return None
    reflectance = np.stack(stored) * np.float32(frame.units.scale) + np.float32(frame.units.offset)
    reflectance[:, ~has_data] = np.nan
    return FrameGrid(frame, reflectance, clear)
