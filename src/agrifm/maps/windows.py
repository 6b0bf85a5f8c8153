"""Overlapping windows on a scene, with weights that sum to one on every pixel.

A window fades out linearly toward its border. Along one axis, the fading weights of all windows over a pixel are
divided by their sum; the weight of a pixel is the product over both axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from agrifm.errors import InputError
from agrifm.scenes.scene import Area

OVERLAP = 4  # windows overlap by a quarter of their side
MOST_TILES = 10_000_000  # tiles of one map; a country at 10 m has some 100,000
LARGEST = 4096  # pixels along a window; models are trained on some 100
FINEST = 8  # a sensor with fewer pixels along a window is resampled for each window
MOST_STEPS = 12  # strides along a tile


@dataclass(frozen=True)
class Axis:
    """Windows along one axis.

    Args:
        size: Pixels of the scene.
        window: Pixels of a window.
        starts: First pixel of each window; the last window may end beyond the scene.
    """

    size: int
    window: int
    starts: tuple[int, ...]

    @classmethod
    def regular(cls, size: int, window: int, stride: int, unit: int = 1, shift: int = 0) -> Axis:
        """Place a window every ``stride`` pixels from ``-shift`` on; the last one is moved inward to the scene's end.

        All starts are multiples of ``unit`` if stride and shift are, so that windows begin on whole pixels of coarser
        sensors.
        """
        last = max(0, -(-(size - window) // unit) * unit)
        starts = list(range(-shift, last, stride))
        if not shift or last > starts[-1]:
            starts.append(last)
        return cls(size, window, tuple(starts))

    def over(self, first: int, end: int) -> list[int]:
        """Numbers of the windows that touch the pixels from ``first`` to before ``end``."""
        return [i for i, start in enumerate(self.starts) if start < end and start + self.window > first]

    def weight(self, number: int, first: int, end: int) -> np.ndarray:
        """Weights of a window on the pixels from ``first`` to before ``end``; 0 outside of the window."""
        pixels = np.arange(first, end)
        total = sum(self._fade(i, pixels) for i in self.over(first, end))
        return (self._fade(number, pixels) / total).astype(np.float32)

    def _fade(self, number: int, pixels: np.ndarray) -> np.ndarray:
        """Weights of a window before they are normalized: 1 in its middle, falling to 0 at its border."""
        inside = pixels - self.starts[number] + 0.5
        distance = np.minimum(inside, self.window - inside)
        return np.clip(distance / max(1.0, self.window / OVERLAP), 0.0, 1.0)

    def borders(self) -> np.ndarray:
        """Pixels inside the scene before which a window begins or ends."""
        lines = set()
        for start in self.starts:
            lines.add(start)
            lines.add(start + self.window)
        return np.array(sorted(line for line in lines if 0 < line < self.size), int)


@dataclass(frozen=True, eq=False)
class WindowPart:
    """The part of a window that lies in a tile.

    Args:
        in_window: Rows and columns of the part, counted from the corner of the window.
        in_tile: The same rows and columns, counted from the corner of the tile.
        weight: Weights ``(h, w)`` of the window on these pixels.
    """

    in_window: tuple[slice, slice]
    in_tile: tuple[slice, slice]
    weight: np.ndarray


@dataclass(frozen=True)
class Windows:
    """Windows on a scene, and the tiles in which they are computed.

    A tile is a rectangle of the map. Every window over it is computed with it, so that the pixels of a tile do not
    depend on how the map is cut into tiles or on the order in which they are computed.

    Args:
        rows: Windows along the rows.
        columns: Windows along the columns.
        tile: Side of a tile in pixels.
        stride: Pixels from one window to the next.
        margin: Pixels on each side of a window that a model is given besides it, for its view of neighbors only.
    """

    rows: Axis
    columns: Axis
    tile: int
    stride: int
    margin: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        return self.rows.size, self.columns.size

    def tiles(self) -> list[Area]:
        """All tiles, row by row; those at the end are smaller."""
        height, width = self.size
        tiles = []
        for row in range(0, height, self.tile):
            for column in range(0, width, self.tile):
                tiles.append(Area(row, column, min(self.tile, height - row), min(self.tile, width - column)))
        return tiles

    def over(self, tile: Area) -> list[tuple[int, int]]:
        """Numbers (row, column) of the windows over a tile, in a fixed order."""
        rows = self.rows.over(tile.row, tile.row + tile.height)
        columns = self.columns.over(tile.column, tile.column + tile.width)
        return [(i, j) for i in rows for j in columns]

    def area(self, number: tuple[int, int]) -> Area:
        """Pixels of a window."""
        row, column = number
        return Area(self.rows.starts[row], self.columns.starts[column], self.rows.window, self.columns.window)

    def with_margin(self, number: tuple[int, int]) -> Area:
        """Pixels of a window and of its margin."""
        area = self.area(number)
        both = 2 * self.margin
        return Area(area.row - self.margin, area.column - self.margin, area.height + both, area.width + both)

    def part(self, number: tuple[int, int], tile: Area) -> WindowPart:
        """The part of a window that lies in a tile, with its weights."""
        area = self.area(number)
        top = max(area.row, tile.row)
        bottom = min(area.row + area.height, tile.row + tile.height)
        left = max(area.column, tile.column)
        right = min(area.column + area.width, tile.column + tile.width)
        row_weights = self.rows.weight(number[0], top, bottom)
        column_weights = self.columns.weight(number[1], left, right)
        return WindowPart(
            in_window=(slice(top - area.row, bottom - area.row), slice(left - area.column, right - area.column)),
            in_tile=(slice(top - tile.row, bottom - tile.row), slice(left - tile.column, right - tile.column)),
            weight=row_weights[:, None] * column_weights,
        )

    def reach(self, tile: Area) -> Area:
        """Smallest rectangle that holds all windows over a tile, with their margins."""
        return self.around(self.over(tile))

    def around(self, numbers: Sequence[tuple[int, int]]) -> Area:
        """Smallest rectangle that holds some windows, with their margins."""
        areas = [self.with_margin(number) for number in numbers]
        row = min(area.row for area in areas)
        column = min(area.column for area in areas)
        bottom = max(area.row + area.height for area in areas)
        right = max(area.column + area.width for area in areas)
        return Area(row, column, bottom - row, right - column)

    def shifted(self, unit: int) -> Windows:
        """The same windows moved by half their distance, to measure what depends on their position."""
        shift = max(unit, self.stride // 2 // unit * unit)
        rows = Axis.regular(self.rows.size, self.rows.window, self.stride, unit, shift)
        columns = Axis.regular(self.columns.size, self.columns.window, self.stride, unit, shift)
        return replace(self, rows=rows, columns=columns)


def lay_out(
    size: tuple[int, int],
    window: int,
    factors: list[int],
    pixel_bytes: float,
    budget: float,
    *,
    overlap: bool = True,
    margin: int = 0,
) -> Windows:
    """Lay out windows with a quarter of overlap, in tiles that fit into memory.

    Args:
        size: Rows and columns of the scene.
        window: Side of a window in pixels.
        factors: Pixels of the scene along one pixel of each sensor.
        pixel_bytes: Memory that one pixel of the scene takes, with all dates and sensors.
        budget: Memory that a tile may take, in bytes.
        overlap: Whether windows overlap; those of a model that sees single pixels need not.
        margin: Least margin of a window in pixels; it becomes a whole number of pixels of the finer sensors.

    Raises:
        InputError: If windows are too large to compute, or the scene has too many pixels.
    """
    if window > LARGEST:
        raise InputError(
            "--window",
            found=f"windows of {window} pixels",
            expected=f"at most {LARGEST} pixels, which a model can process at once",
            repair="give a smaller --window, or map the scene at a coarser resolution.",
        )
    unit = common_unit(window, factors)
    window = max(unit, round(window / unit) * unit)
    stride = _stride(window, unit) if overlap else window
    margin = -(-margin // unit) * unit
    # The bound keeps budgets far beyond any need from overflowing an integer.
    side = int(min((budget / pixel_bytes) ** 0.5, 1e9))
    steps = (side - window - 2 * margin) // stride
    tile = stride * min(max(steps, 2), MOST_STEPS)
    rows, columns = size
    if -(-rows // tile) * -(-columns // tile) > MOST_TILES:
        raise InputError(
            "the scene's grid",
            found=f"{rows} x {columns} pixels, in tiles of {tile} x {tile}",
            expected=f"at most {MOST_TILES:,} tiles",
            repair="map it in parts, e.g. with --set bbox=..., or at a coarser resolution.",
        )
    of_rows = Axis.regular(rows, window, stride, unit)
    of_columns = Axis.regular(columns, window, stride, unit)
    return Windows(of_rows, of_columns, tile, stride, margin)


def common_unit(window: int, factors: list[int]) -> int:
    """Number of pixels of whose multiples windows begin, so that they begin on whole pixels of the finer sensors."""
    fine = [factor for factor in factors if factor * FINEST <= window]
    return lcm(*fine)


def _stride(window: int, unit: int) -> int:
    return max(unit, (window - window // OVERLAP) // unit * unit)
