"""Do window borders show in a map? Two numbers say so, after every map.

Transitions: how often neighboring pixels differ in class across lines where windows begin or end, against other lines
on which patches of the model meet as well: classes change there more often, in the middle of windows too.
Agreement: how many pixels of some areas keep their class when the windows are moved by half their distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import gcd
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from agrifm.maps.files.writer import NODATA
from agrifm.maps.runner import one_thread
from agrifm.maps.tiles import MapJob
from agrifm.maps.windows import Axis, common_unit
from agrifm.scenes.scene import Area

SIGNIFICANT = 4.0  # standard errors
OTHER, ALIKE, BORDER = range(3)  # kinds of lines
AREAS = 3  # at most, whose windows are moved


@dataclass(frozen=True)
class Seams:
    """What the audit found.

    Args:
        ratio: rate of transitions on window borders over that on alike lines; 1 is no seam; None without borders.
        errors: how many standard errors the rate on borders lies above that on alike lines.
        agreement: share of pixels with the same class under moved windows; None where no pixel was seen.
        pixels: how many pixels that share is of.
    """

    ratio: float | None
    errors: float
    agreement: float | None
    pixels: int

    def visible(self, limit: float) -> bool:
        """Whether borders show: more transitions than ``limit`` allows, and not by chance."""
        return self.ratio is not None and self.ratio > limit and self.errors > SIGNIFICANT

    def __str__(self) -> str:
        ratio = "no window borders" if self.ratio is None else f"{self.ratio:.3f} times the transitions of alike lines"
        moved = "" if self.agreement is None else f"; {self.agreement:.1%} of pixels agree under moved windows"
        return ratio + moved

    def to_dict(self) -> dict[str, float | int | None]:
        """For the passport."""
        return asdict(self)


def audit(path: Path, job: MapJob) -> Seams:
    """Look for window borders in a finished class map."""
    ratio, errors = _transitions(path, job)
    agreement, pixels = _agreement(path, job)
    return Seams(ratio, errors, agreement, pixels)


def _transitions(path: Path, job: MapJob) -> tuple[float | None, float]:
    """Ratio of the rates on borders and on alike lines, and by how many standard errors they differ."""
    height, width = job.windows.size
    changes = [np.zeros((2, height)), np.zeros((2, width))]  # of neighbors across each line: different, all
    with rasterio.open(path) as file:
        for tile in job.windows.tiles():
            rows, columns = min(tile.height + 1, height - tile.row), min(tile.width + 1, width - tile.column)
            part = file.read(1, window=Window(tile.column, tile.row, columns, rows))  # ty: ignore[too-many-positional-arguments]
            for axis, first in ((0, tile.row), (1, tile.column)):
                counted = _count(part, axis, (tile.width, tile.height)[axis])
                changes[axis][:, first + 1 : first + 1 + counted.shape[1]] += counted
    kinds = [_kinds(axis, job.pitch) for axis in (job.windows.rows, job.windows.columns)]
    on, off = _lines(changes, kinds, BORDER), _lines(changes, kinds, ALIKE)
    if not len(on) or len(off) < 2 or not off[:, 0].sum():
        return None, 0.0
    rates = off[:, 0] / off[:, 1]
    rate_on, rate_off = on[:, 0].sum() / on[:, 1].sum(), off[:, 0].sum() / off[:, 1].sum()
    spread = max(float(rates.std()), 1e-9) / len(on) ** 0.5
    return float(rate_on / rate_off), float((rate_on - rate_off) / spread)


def _count(part: np.ndarray, axis: int, across: int) -> np.ndarray:
    """Different and all pairs of seen neighbors along an axis ``(2, n)``; each pair belongs to one tile."""
    part = np.moveaxis(part, axis, 0)[:, :across]
    both = (part[1:] != NODATA) & (part[:-1] != NODATA)
    return np.stack([((part[1:] != part[:-1]) & both).sum(1), both.sum(1)])


def _kinds(axis: Axis, pitch: int) -> np.ndarray:
    """Which lines are window borders, and which of the others lie where patches meet in every window."""
    period = gcd(pitch, axis.window, *np.diff(axis.starts[:-1]).tolist())
    kinds = np.full(axis.size, OTHER)
    kinds[axis.starts[0] % period :: period] = ALIKE
    kinds[axis.borders()] = BORDER
    return kinds


def _lines(changes: Sequence[np.ndarray], kinds: Sequence[np.ndarray], kind: int) -> np.ndarray:
    """Counts ``(n, 2)`` of the lines of one kind that have any."""
    together = np.concatenate([counts[:, chosen == kind].T for counts, chosen in zip(changes, kinds, strict=True)])
    return together[together[:, 1] > 0]


def _agreement(path: Path, job: MapJob) -> tuple[float | None, int]:
    """Share of pixels that keep their class under moved windows, and of how many."""
    factors = [job.scene.factor(sensor) for sensor in job.scene.sensors]
    moved = replace(job, windows=job.windows.shifted(common_unit(job.windows.rows.window, factors)), extras=())
    same = total = 0
    with one_thread(), ThreadPoolExecutor() as threads, rasterio.open(path) as file:
        for area in _areas(job):
            before = file.read(1, window=Window(area.column, area.row, area.width, area.height))  # ty: ignore[too-many-positional-arguments]
            after = moved.make(area, moved.read(area), threads)["classes"]
            seen = (before != NODATA) & (after != NODATA)
            same, total = same + int((before == after)[seen].sum()), total + int(seen.sum())
    return (same / total if total else None), total


def _areas(job: MapJob) -> list[Area]:
    """Areas of two windows' width in the middle of some tiles, evenly spread."""
    tiles = job.windows.tiles()
    count, side = min(AREAS, max(1, len(tiles) // 8)), 2 * job.windows.rows.window
    chosen = [tiles[round((i + 0.5) * len(tiles) / count - 0.5)] for i in range(count)]
    return [
        Area(
            tile.row + max(0, tile.height - side) // 2,
            tile.column + max(0, tile.width - side) // 2,
            min(side, tile.height),
            min(side, tile.width),
        )
        for tile in chosen
    ]
