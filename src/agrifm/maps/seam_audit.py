"""Audit of window borders in a map, by two numbers.

Transitions: how often neighboring pixels differ in class across lines where windows begin or end, compared with other
lines on which patches of the model meet. Classes change more often on all of those, even in the middle of windows.
Agreement: the share of pixels in some areas that keep their class when the windows are moved by half their distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import gcd, isqrt
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from agrifm.maps.files.writer import NODATA
from agrifm.maps.runner import one_thread
from agrifm.maps.tiles import MapJob
from agrifm.maps.windows import Axis, Windows, common_unit
from agrifm.scenes.scene import Area

SIGNIFICANT = 4.0  # standard errors from which on a difference is no chance
OTHER, PATCH, BORDER = 0, 1, 2  # kinds of lines: any, where patches meet, where windows begin or end
AREAS = 3  # largest number of areas whose windows are moved
MOST_WINDOWS = 3  # along a side of such an area
SHARE = 20  # at most one in so many windows is computed again


@dataclass(frozen=True)
class Seams:
    """Result of the audit.

    Args:
        ratio: Rate of transitions on window borders over that on comparable lines; 1 without seams, None without
            borders.
        errors: Number of standard errors by which the rate on borders exceeds that on comparable lines.
        agreement: Share of pixels with the same class under moved windows; None if no pixel was seen.
        pixels: Number of pixels of that share.
    """

    ratio: float | None
    errors: float
    agreement: float | None
    pixels: int

    def visible(self, limit: float) -> bool:
        """Whether borders are visible: more transitions than ``limit`` allows, and not by chance.

        If moved windows change no pixel, as with models of single pixels, windows cannot be the cause.
        """
        if self.ratio is None or self.agreement == 1:
            return False
        return self.ratio > limit and self.errors > SIGNIFICANT

    def __str__(self) -> str:
        text = "no window borders"
        if self.ratio is not None:
            text = f"{self.ratio:.3f} times the transitions of comparable lines"
        if self.agreement is not None:
            text += f"; {self.agreement:.1%} of pixels agree under moved windows"
        return text

    def to_dict(self) -> dict[str, float | int | None]:
        """Values for the provenance."""
        return asdict(self)


def audit(path: Path, job: MapJob) -> Seams:
    """Audit the window borders of a finished map of classes."""
    ratio, errors = _transitions(path, job)
    agreement, pixels = _agreement(path, job)
    return Seams(ratio, errors, agreement, pixels)


def _transitions(path: Path, job: MapJob) -> tuple[float | None, float]:
    """Ratio of the rates on borders and on comparable lines, and their difference in standard errors."""
    height, width = job.windows.size
    # For each line, the number of pairs of neighbors across it that differ, and of all pairs.
    changes = [np.zeros((2, height)), np.zeros((2, width))]
    with rasterio.open(path) as file:
        for tile in job.windows.tiles():
            # One more row and column: a pair of pixels belongs to the tile of its first pixel.
            rows = min(tile.height + 1, height - tile.row)
            columns = min(tile.width + 1, width - tile.column)
            part = file.read(1, window=Window(tile.column, tile.row, columns, rows))  # ty: ignore[too-many-positional-arguments]
            for axis, first, across in ((0, tile.row, tile.width), (1, tile.column, tile.height)):
                counts = _count(part, axis, across)
                changes[axis][:, first + 1 : first + 1 + counts.shape[1]] += counts
    kinds = [_kinds(axis, job.pitch) for axis in (job.windows.rows, job.windows.columns)]
    borders = _lines(changes, kinds, BORDER)
    comparable = _lines(changes, kinds, PATCH)
    if not len(borders) or len(comparable) < 2 or not comparable[:, 0].sum():
        return None, 0.0
    border_rate = borders[:, 0].sum() / borders[:, 1].sum()
    comparable_rate = comparable[:, 0].sum() / comparable[:, 1].sum()
    deviation = float((comparable[:, 0] / comparable[:, 1]).std())
    standard_error = max(deviation, 1e-9) / len(borders) ** 0.5
    return float(border_rate / comparable_rate), float((border_rate - comparable_rate) / standard_error)


def _count(part: np.ndarray, axis: int, across: int) -> np.ndarray:
    """Number ``(2, n)`` of different and of all pairs of neighbors with data along an axis."""
    lines = np.moveaxis(part, axis, 0)[:, :across]
    first = lines[:-1]
    second = lines[1:]
    valid = (first != NODATA) & (second != NODATA)
    different = (first != second) & valid
    return np.stack([different.sum(1), valid.sum(1)])


def _kinds(axis: Axis, pitch: int) -> np.ndarray:
    """Kind of each line: a window border, a line where patches meet in every window, or any other."""
    # Windows begin at different positions of their patches. Only lines at a common period lie between patches in each
    # of them. The last window is left out: it was moved inward to the end of the scene.
    strides = np.diff(axis.starts[:-1]).tolist()
    period = gcd(pitch, axis.window, *strides)
    kinds = np.full(axis.size, OTHER)
    kinds[axis.starts[0] % period :: period] = PATCH
    kinds[axis.borders()] = BORDER
    return kinds


def _lines(changes: Sequence[np.ndarray], kinds: Sequence[np.ndarray], kind: int) -> np.ndarray:
    """Counts ``(n, 2)`` of the lines of one kind that have data."""
    parts = []
    for counts, kind_of_line in zip(changes, kinds, strict=True):
        parts.append(counts[:, kind_of_line == kind].T)
    lines = np.concatenate(parts)
    return lines[lines[:, 1] > 0]


def _agreement(path: Path, job: MapJob) -> tuple[float | None, int]:
    """Share of pixels that keep their class under moved windows, and the number of those pixels."""
    factors = [job.scene.factor(sensor) for sensor in job.scene.sensors]
    moved = replace(job, windows=job.windows.shifted(common_unit(job.windows.rows.window, factors)), extras=())
    same = 0
    total = 0
    with one_thread(), ThreadPoolExecutor() as threads, rasterio.open(path) as file:
        for area in audited_areas(job.windows, moved.windows):
            before = file.read(1, window=Window(area.column, area.row, area.width, area.height))  # ty: ignore[too-many-positional-arguments]
            after = moved.make(area, moved.read(area), threads)["classes"]
            valid = (before != NODATA) & (after != NODATA)
            same += int((before == after)[valid].sum())
            total += int(valid.sum())
    return (same / total if total else None), total


def audited_areas(windows: Windows, moved: Windows) -> list[Area]:
    """Areas in which the audit computes a map again: squares of a few moved windows, along the diagonal of the scene.

    Args:
        windows: Windows of the map.
        moved: The same windows moved.

    Returns:
        At most three areas. Unless the scene is small, their windows are at most a twentieth of those of the map.
    """
    rows, columns = moved.rows, moved.columns
    budget = len(windows.rows.starts) * len(windows.columns.starts) // SHARE
    side = min(MOST_WINDOWS, max(1, isqrt(budget)), len(rows.starts), len(columns.starts))
    count = min(AREAS, max(1, budget // side**2))
    areas = []
    for number in range(count):
        place = (number + 0.5) / count
        top, bottom = _span(rows, place, side)
        left, right = _span(columns, place, side)
        areas.append(Area(top, left, bottom - top, right - left))
    return areas


def _span(axis: Axis, place: float, count: int) -> tuple[int, int]:
    """First pixel of ``count`` windows and the one after the last, without what they share with windows beside them.

    Args:
        axis: Windows along an axis.
        place: Position among them, from 0 to 1.
        count: Number of windows.
    """
    # The first window begins outside of the scene, and the last one is moved inward to its end.
    regular = len(axis.starts) - 1
    lowest = 1 if regular > count else 0
    first = lowest + round(place * max(0, regular - count - lowest))
    shared = max(0, axis.starts[0] + axis.window - axis.starts[1]) if regular > 1 else 0
    begin = axis.starts[first] + shared
    end = axis.starts[first + count - 1] + axis.window - shared
    return max(0, begin), min(axis.size, end)
