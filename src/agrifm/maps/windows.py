"""Where windows lie on a scene and how much each counts: weights that sum to one on every pixel.

Windows overlap; towards its border each fades out linearly. Seen along one axis, the fading weights of all
windows over a pixel are divided by their sum, and a pixel's weight is the product over both axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np

from agrifm.errors import InputError
from agrifm.scenes.scene import Area

OVERLAP = 4  # a quarter of a window
MOST_TILES = 10_000_000  # of one map: a country at 10 m has some 100,000
LARGEST = 4096  # pixels along a window; models learn from some 100
FINEST = 8  # sensors with fewer than so many pixels along a window are picked anew for each window


@dataclass(frozen=True)
class Axis:
    """Windows along one axis.

    Args:
        size: pixels of the scene.
        window: pixels of a window.
        starts: first pixel of each window; the last window may end beyond the scene.
    """

    size: int
    window: int
    starts: tuple[int, ...]

    @classmethod
    def regular(cls, size: int, window: int, stride: int, unit: int = 1, shift: int = 0) -> Axis:
        """Windows every ``stride`` pixels from ``-shift`` on; the last is moved inward to the scene's end.

        All starts are multiples of ``unit`` if stride and shift are, so that they fall on whole pixels of
        coarser sensors.
        """
        last = max(0, -(-(size - window) // unit) * unit)
        inner = range(-shift, last, stride)
        return cls(size, window, (*inner, last) if not shift else (*inner, *([last] if last > inner[-1] else [])))

    def over(self, first: int, end: int) -> list[int]:
        """Numbers of the windows that touch the pixels from ``first`` to before ``end``."""
        return [i for i, start in enumerate(self.starts) if start < end and start + self.window > first]

    def weight(self, number: int, first: int, end: int) -> np.ndarray:
        """Share of a window in each pixel from ``first`` to before ``end``; 0 where it does not reach."""
        pixels = np.arange(first, end)
        total = sum(self._fade(i, pixels) for i in self.over(first, end))
        return (self._fade(number, pixels) / total).astype(np.float32)

    def _fade(self, number: int, pixels: np.ndarray) -> np.ndarray:
        inside = pixels - self.starts[number] + 0.5
        edge = np.minimum(inside, self.window - inside)
        return np.clip(edge / max(1.0, self.window / OVERLAP), 0.0, 1.0)

    def borders(self) -> np.ndarray:
        """Pixels before which a window begins or ends, inside the scene."""
        lines = {line for start in self.starts for line in (start, start + self.window)}
        return np.array(sorted(line for line in lines if 0 < line < self.size), int)


@dataclass(frozen=True)
class Windows:
    """Windows on a scene and the tiles in which they are worked off.

    A tile is a rectangle of the map; every window over it is computed with it, so a tile's pixels do not depend
    on how the map is cut into tiles, in which order they are made, or by whom.

    Args:
        rows, columns: windows along both axes.
        tile: side of a tile in pixels.
    """

    rows: Axis
    columns: Axis
    tile: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        return self.rows.size, self.columns.size

    def tiles(self) -> list[Area]:
        """All tiles, row by row; those at the end are smaller."""
        height, width = self.size
        return [
            Area(row, column, min(self.tile, height - row), min(self.tile, width - column))
            for row in range(0, height, self.tile)
            for column in range(0, width, self.tile)
        ]

    def over(self, tile: Area) -> list[tuple[int, int]]:
        """Numbers (row, column) of the windows over a tile, in a fixed order."""
        rows = self.rows.over(tile.row, tile.row + tile.height)
        columns = self.columns.over(tile.column, tile.column + tile.width)
        return [(i, j) for i in rows for j in columns]

    def area(self, number: tuple[int, int]) -> Area:
        """The pixels of a window."""
        return Area(self.rows.starts[number[0]], self.columns.starts[number[1]], self.rows.window, self.columns.window)

    def reach(self, tile: Area) -> Area:
        """All pixels that the windows over a tile look at."""
        areas = [self.area(number) for number in self.over(tile)]
        row, column = min(area.row for area in areas), min(area.column for area in areas)
        bottom, right = max(a.row + a.height for a in areas), max(a.column + a.width for a in areas)
        return Area(row, column, bottom - row, right - column)

    def shifted(self, unit: int) -> Windows:
        """The same windows moved by half their distance, to see what depends on where they lie."""
        axes = [
            Axis.regular(axis.size, axis.window, stride, unit, shift=max(unit, stride // 2 // unit * unit))
            for axis, stride in ((axis, _stride(axis.window, unit)) for axis in (self.rows, self.columns))
        ]
        return Windows(axes[0], axes[1], self.tile)


def lay_out(size: tuple[int, int], window: int, factors: list[int], pixel_bytes: float, budget: float) -> Windows:
    """Windows of ``window`` pixels with a quarter of overlap, in tiles that fit into memory.

    Args:
        size: rows and columns of the scene.
        window: side of a window in pixels.
        factors: pixels of the scene along one pixel of each sensor.
        pixel_bytes: what one pixel of the scene takes in memory, all dates and sensors.
        budget: bytes that a tile may take.

    Raises:
        InputError: windows are too large to compute, or the scene has too many pixels.
    """
    if window > LARGEST:
        raise InputError(
            "--window",
            found=f"windows of {window} pixels",
            expected=f"at most {LARGEST}, what a model can look at together",
            repair="give a smaller --window, or map the scene at a coarser resolution.",
        )
    unit = common_unit(window, factors)
    window = max(unit, round(window / unit) * unit)
    stride = _stride(window, unit)
    # Budgets far beyond any need are the same as the largest.
    steps = int(min((budget / pixel_bytes) ** 0.5, 1e9) - window) // stride
    tile = stride * min(max(steps, 2), 12)
    if -(-size[0] // tile) * -(-size[1] // tile) > MOST_TILES:
        raise InputError(
            "the scene's grid",
            found=f"{size[0]} x {size[1]} pixels, in tiles of {tile} x {tile}",
            expected=f"at most {MOST_TILES:,} tiles",
            repair="map it in parts, e.g. with --set bbox=..., or at a coarser resolution.",
        )
    axes = [Axis.regular(length, window, stride, unit) for length in size]
    return Windows(axes[0], axes[1], tile)


def common_unit(window: int, factors: list[int]) -> int:
    """Pixels on which windows may begin so that they fall on whole pixels of the finer sensors."""
    return lcm(*[factor for factor in factors if factor * FINEST <= window]) if factors else 1


def _stride(window: int, unit: int) -> int:
    return max(unit, (window - window // OVERLAP) // unit * unit)
