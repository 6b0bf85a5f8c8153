"""A part of a scene in memory: one stack of images for each sensor, from which samples are cut.

Every sensor keeps a grid of its own: its pixels are as many times larger than those of the scene as its ground sampling
distance asks for (Landsat 3, MODIS 50 on a grid of 10 m), all counted from the upper left corner of the scene.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from agrifm.scenes.frame_pixels import FramePixels, fill_value, stored_dtype
from agrifm.sensors import Sensor

EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True)
class Area:
    """Rectangle of the grid of a scene, in pixels; it may reach beyond the scene."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class Stack:
    """Images of one sensor over a tile, one for each day.

    Args:
        images: Numbers of the sensor ``(t, c, h, w)``.
        clear: Mask ``(t, h, w)`` of clear ground.
        days: Days ``(t)`` since 1970-01-01.
        first: Row and column of the first pixel on the grid of the sensor.
        factor: Number of pixels of the scene along one pixel of the sensor.
        has_data: Mask ``(t, h, w)`` of pixels with data.
        impossible: Mask ``(t, h, w)`` of pixels that would be clear, but reflect as no land does.
    """

    images: np.ndarray
    clear: np.ndarray
    days: np.ndarray
    first: tuple[int, int]
    factor: int
    has_data: np.ndarray
    impossible: np.ndarray

    @classmethod
    def empty(cls, sensor: Sensor, days: Sequence[dt.date], box: GeoBox, first: tuple[int, int], factor: int) -> Stack:
        """Allocate the images of all days, filled with no-data."""
        shape = (len(days), *box.shape)
        image_shape = (len(days), len(sensor.bands), *box.shape)
        return cls(
            images=np.full(image_shape, fill_value(sensor), stored_dtype(sensor)),
            clear=np.zeros(shape, bool),
            days=np.array([(day - EPOCH).days for day in days], np.int64),
            first=first,
            factor=factor,
            has_data=np.zeros(shape, bool),
            impossible=np.zeros(shape, bool),
        )

    def day(self, step: int) -> FramePixels:
        """Return the pixels of a day; changing them changes the stack."""
        return FramePixels(self.images[step], self.has_data[step], self.clear[step], self.impossible[step])

    def impossible_pixels(self) -> dict[dt.date, tuple[int, int]]:
        """Count pixels by day.

        Returns:
            For each day, the number of impossible pixels, and that of impossible and clear pixels together.
        """
        impossible = self.impossible.sum((1, 2)).tolist()
        clear = self.clear.sum((1, 2)).tolist()
        counts = {}
        for step, days in enumerate(self.days.tolist()):
            day = EPOCH + dt.timedelta(days)
            counts[day] = impossible[step], impossible[step] + clear[step]
        return counts

    def under(self, area: Area) -> tuple[np.ndarray, np.ndarray]:
        """Return rows ``(n, 1)`` and columns ``(m)`` of the pixels under an area."""
        rows = self._positions(area.row, area.height, axis=0)
        columns = self._positions(area.column, area.width, axis=1)
        return rows[:, None], columns

    def _positions(self, start: int, count: int, axis: int) -> np.ndarray:
        """Return positions of the sensor's pixels under ``count`` pixels of the scene from ``start`` on.

        There are as many as a chip of that size has; each is the pixel under the center of its share.
        """
        # An area of a few pixels still has one pixel of a coarse sensor.
        n = max(1, round(count / self.factor))
        centers = start + (np.arange(n) + 0.5) * (count / n)
        return np.floor(centers / self.factor).astype(int) - self.first[axis]


@dataclass(frozen=True)
class Tile:
    """Part of a scene in memory, from which samples are cut.

    Args:
        area: Area that the tile covers.
        stacks: Images by name of the sensor.
    """

    area: Area
    stacks: dict[str, Stack] = field(default_factory=dict)

    def has_clear_pixels(self, area: Area) -> bool:
        """Whether an area inside the tile has a clear pixel of any sensor."""
        for stack in self.stacks.values():
            rows, columns = stack.under(area)
            if stack.clear[:, rows, columns].any():
                return True
        return False


def sub_box(grid: GeoBox, factor: int, first: tuple[int, int], end: tuple[int, int]) -> GeoBox:
    """Return a part of the grid whose pixels are ``factor`` times larger.

    Args:
        grid: Grid of the scene.
        factor: Number of its pixels along one pixel of the result.
        first: First row and column of the part, in pixels of the result.
        end: Row and column behind the last ones.
    """
    first_row, first_column = first
    end_row, end_column = end
    affine = grid.affine @ Affine.scale(factor) @ Affine.translation(first_column, first_row)
    return GeoBox((end_row - first_row, end_column - first_column), affine, grid.crs)
