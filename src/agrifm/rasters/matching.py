"""Grids on which the pixels of another grid are found by counting, without a warp.

That is so for most scenes: their bands lie on one lattice, and those of 20 m are read onto a grid of 10 m. Every pixel
of the finer grid then is the pixel of the coarser one under its center, as the nearest neighbor of a warp is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.rasters.pixels import Pixels

# A center nearer than this to a border, in pixels of the source, may be rounded to either side of it. It is well above
# the rounding of coordinates, and below the distance of centers from borders where one pixel covers 50 x 50 others.
MARGIN = 0.005
LARGER = 1e-3  # share of a pixel by which one of the grid may be larger; others would need more memory than a warp


@dataclass(frozen=True, eq=False)
class Line:
    """Pixels of a source under the pixels of a grid, along one axis.

    Args:
        target: Pixels of the grid under which the source has pixels.
        source: Pixels of the source that are needed.
        index: Position in ``source`` for each pixel of ``target``; None if both have the same pixels.
    """

    target: slice
    source: slice
    index: np.ndarray | None

    @classmethod
    def of(cls, first: float, step: float, count: int, size: int) -> Line | None:
        """Find the pixels under evenly spaced centers; None where one of them lies on the border of two pixels.

        Args:
            first: First center, in pixels of the source.
            step: Distance of two centers in pixels of the source.
            count: Number of centers.
            size: Number of pixels of the source.
        """
        centers = first + step * np.arange(count)
        pixels = np.floor(centers)
        if np.abs(centers - np.rint(centers)).min() < MARGIN:
            return None
        inside = np.flatnonzero((pixels >= 0) & (pixels < size))
        if not len(inside):
            return cls(slice(0, 0), slice(0, 0), None)
        index = pixels[inside].astype(np.intp)
        start = int(index.min())
        source = slice(start, int(index.max()) + 1)
        index -= start
        same_pixels = np.array_equal(index, np.arange(len(index)))
        return cls(slice(int(inside[0]), int(inside[-1]) + 1), source, None if same_pixels else index)

    def spread(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Return the values of ``source`` at every pixel of ``target``."""
        return values if self.index is None else values.take(self.index, axis)


@dataclass(frozen=True, eq=False)
class Matching:
    """Pixels of a source under the pixels of a grid.

    Args:
        rows: Matching rows.
        columns: Matching columns.
    """

    rows: Line
    columns: Line

    @classmethod
    def of(cls, source: GeoBox, box: GeoBox) -> Matching | None:
        """Match a source with a grid.

        Returns:
            None where a warp has to decide: for another CRS, rotated grids, larger pixels than those of the source,
            and centers on the border of two pixels.
        """
        if source.crs is None or source.crs != box.crs or 0 in source.shape or 0 in box.shape:
            return None
        steps = ~source.affine @ box.affine
        if max(abs(steps.b), abs(steps.d)) > 1e-9 or max(abs(steps.a), abs(steps.e)) > 1 + LARGER:
            return None
        if not all(map(math.isfinite, tuple(steps)[:6])):
            return None
        columns = Line.of(steps.c + steps.a / 2, steps.a, box.shape[1], source.shape[1])
        rows = Line.of(steps.f + steps.e / 2, steps.e, box.shape[0], source.shape[0])
        return None if rows is None or columns is None else cls(rows, columns)

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns of the source that are needed; none where it has no pixel of the grid."""
        if self.rows.source.stop == 0 or self.columns.source.stop == 0:
            return slice(0, 0), slice(0, 0)
        return self.rows.source, self.columns.source

    def place(self, pixels: Pixels, box: GeoBox) -> Pixels:
        """Return the pixels of ``part`` on the grid."""
        # Rows are copied whole, so the columns are spread first, while there are few rows.
        values = self.rows.spread(self.columns.spread(pixels.values, 1), 0)
        missing = self.rows.spread(self.columns.spread(pixels.missing, 1), 0)
        if values.shape == box.shape:
            return Pixels(values, missing, pixels.zero_marks)
        placed = Pixels.empty(box, values.dtype)
        if values.size:
            placed.values[self.rows.target, self.columns.target] = values
            placed.missing[self.rows.target, self.columns.target] = missing
        return Pixels(placed.values, placed.missing, pixels.zero_marks)
