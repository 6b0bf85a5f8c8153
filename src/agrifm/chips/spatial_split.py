"""Spatial split: chips on a lattice, assigned to train, val and test by blocks of ground.

Every pixel belongs to one cell of the lattice, and only the chip of that cell has its label. If the scene is not a
multiple of the chip size, the last row and column of chips are shifted inward so that they are full. The ground that
they then share with their neighbors has no labels in them, and they are always in the block of their neighbors, so that
chips of different splits share no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from agrifm.chips.classes import IGNORE
from agrifm.errors import InputError
from agrifm.scenes.scene import Area

SPLITS = ("train", "val", "test")
NOWHERE = -1
FEWEST_BLOCKS = 24  # blocks with labels that a default block size gives
TRIALS = 4000  # random assignments that are tried
WORK = 400_000_000  # pieces of parcels that all trials may evaluate
UNTAUGHT = 10.0  # cost of a class without training pixels; other costs are at most 1 for each split


@dataclass(frozen=True)
class Cell:
    """One cell of the lattice.

    Args:
        row: Row in the lattice.
        column: Column in the lattice.
        area: Ground that its chip shows.
        own: Part of the area that belongs to this cell alone, and whose labels its chip has.
        block: Number of the block.
    """

    row: int
    column: int
    area: Area
    own: Area
    block: int

    def labels_of(self, raster: np.ndarray) -> np.ndarray:
        """View of the cell's own part of a raster of the scene."""
        return raster[window(self.own)]


def window(area: Area) -> tuple[slice, slice]:
    """Rows and columns of an area."""
    return slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)


def lattice(shape: tuple[int, int], size: int, block: int) -> list[Cell]:
    """Cells from the upper left corner, in blocks of about ``block`` chips a side."""
    rows = _intervals(shape[0], size, block)
    columns = _intervals(shape[1], size, block)
    blocks_across = columns[-1].block + 1
    cells = []
    for i, vertical in enumerate(rows):
        for j, horizontal in enumerate(columns):
            area = Area(vertical.start, horizontal.start, vertical.length, horizontal.length)
            own = Area(vertical.own_start, horizontal.own_start, vertical.own_length, horizontal.own_length)
            cells.append(Cell(i, j, area, own, vertical.block * blocks_across + horizontal.block))
    return cells


class _Interval(NamedTuple):
    """A chip along one axis: its extent, the part of it that is its own, and the number of its block."""

    start: int
    length: int
    own_start: int
    own_length: int
    block: int


def _intervals(length: int, size: int, block: int) -> list[_Interval]:
    """All chips along one axis."""
    side = min(size, length)
    whole_chips = max(1, length // size)
    blocks = max(1, round(whole_chips / block))
    intervals = []
    for i in range(-(-length // size)):
        start = min(i * size, length - side)
        own_length = min(side, length - i * size)
        # A chip that was shifted inward is in the block of its neighbor.
        number = min(i, whole_chips - 1) * blocks // whole_chips
        intervals.append(_Interval(start, side, i * size, own_length, number))
    return intervals


@dataclass(frozen=True)
class Pieces:
    """Labeled pixels by cell, parcel and class, one row for each combination that occurs.

    Args:
        cell: Number of the cell ``(n)``.
        parcel: Number of the parcel ``(n)``; 0 is ground outside of known parcels.
        label: Number of the class ``(n)``.
        pixels: Number of pixels ``(n)``.
        classes: Number of classes.
    """

    cell: np.ndarray
    parcel: np.ndarray
    label: np.ndarray
    pixels: np.ndarray
    classes: int

    @classmethod
    def count(cls, label: np.ndarray, parcel: np.ndarray, cells: Sequence[Cell], classes: int) -> Pieces:
        """Count the pixels of every cell."""
        rows = [np.empty((4, 0), np.int64)]
        for i, cell in enumerate(cells):
            labels = cell.labels_of(label).ravel()
            parcels = cell.labels_of(parcel).ravel()
            labeled = labels != IGNORE
            if labeled.any():
                # Parcel and class become one number, so that equal pairs can be counted.
                pairs = parcels[labeled].astype(np.int64) * classes + labels[labeled]
                keys, counts = np.unique(pairs, return_counts=True)
                rows.append(np.stack([np.full(len(keys), i), keys // classes, keys % classes, counts]))
        return cls(*np.concatenate(rows, 1), classes)

    @property
    def cells(self) -> np.ndarray:
        """Numbers of the cells with labels."""
        return np.unique(self.cell)

    def winner(self, splits: np.ndarray) -> np.ndarray:
        """Split with most pixels of each parcel, by parcel number; ``splits`` are those of the cells."""
        parcels = int(self.parcel.max(initial=0)) + 1
        parcel_and_split = self.parcel * len(SPLITS) + splits[self.cell]
        counts = np.bincount(parcel_and_split, self.pixels, parcels * len(SPLITS))
        pixels = counts.reshape(parcels, len(SPLITS))
        return np.where(pixels.any(1), pixels.argmax(1), NOWHERE)

    def kept(self, splits: np.ndarray) -> np.ndarray:
        """Number of pixels ``(split, class)`` that keep their label."""
        split = splits[self.cell]
        stays = (self.parcel == 0) | (self.winner(splits)[self.parcel] == split)
        split_and_class = split * self.classes + self.label
        counts = np.bincount(split_and_class[stays], self.pixels[stays], len(SPLITS) * self.classes)
        return counts.reshape(len(SPLITS), self.classes)


def sensible_block(shape: tuple[int, int], size: int, pieces: Pieces) -> int:
    """Largest side of a block, in chips, that gives enough blocks with labels."""
    for block in range(max(-(-length // size) for length in shape), 1, -1):
        blocks = np.array([cell.block for cell in lattice(shape, size, block)])
        if len(set(blocks[pieces.cells].tolist())) >= FEWEST_BLOCKS:
            return block
    return 1


def choose_splits(pieces: Pieces, cells: Sequence[Cell], shares: tuple[float, float, float], seed: int) -> np.ndarray:
    """Choose the split of every cell ``(cell)``; -1 if its block has no labels.

    Blocks are assigned so that every class comes near to its wanted shares, counting only labels that are left after
    parcels in several splits were assigned to one of them. Images have no influence.

    Args:
        pieces: The labels.
        cells: Cells of the lattice.
        shares: Shares of train, val and test.
        seed: The same seed gives the same splits.

    Raises:
        InputError: If there are fewer blocks with labels than splits.
    """
    blocks = np.array([cell.block for cell in cells])
    labeled, index = np.unique(blocks[pieces.cells], return_inverse=True)
    wanted = np.count_nonzero(shares)
    if len(labeled) < wanted:
        raise InputError(
            "splits",
            found=f"{len(labeled)} block(s) with labels for {wanted} splits",
            expected="at least one block for each split",
            repair="use a smaller --size or --block, so that there are more blocks; 24 or more make a fair split.",
        )
    number = np.full(len(cells), NOWHERE)
    number[pieces.cells] = index
    by_block = Pieces(number[pieces.cell], pieces.parcel, pieces.label, pieces.pixels, pieces.classes)
    split_of = np.full(blocks.max() + 1, NOWHERE)
    split_of[labeled] = _best(by_block, len(labeled), shares, np.random.default_rng(seed))
    return split_of[blocks]


def _best(pieces: Pieces, blocks: int, shares: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Best of many random assignments of blocks, improved by moving and swapping single blocks."""
    total = np.bincount(pieces.label, pieces.pixels, pieces.classes)

    def cost(splits: np.ndarray) -> float:
        return _shortfall(pieces.kept(splits), total, np.array(shares))

    trials = max(200, min(TRIALS, WORK // max(1, len(pieces.cell))))
    draws = [_draw(blocks, shares, rng) for _ in range(trials // 4)]
    best = min(draws, key=cost)
    lowest = cost(best)
    for _ in range(trials - trials // 4):
        one, other = rng.integers(blocks, size=2)
        changed = best.copy()
        if rng.random() < 0.5:
            changed[[one, other]] = best[[other, one]]
        else:
            changed[one] = rng.choice(np.flatnonzero(shares))
        changed_cost = cost(changed)
        if changed_cost < lowest:
            best = changed
            lowest = changed_cost
    return best


def _draw(blocks: int, shares: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """A random assignment with about the wanted shares of blocks, and at least one block for each split."""
    val = 0
    test = 0
    if shares[1]:
        val = max(1, int(blocks * shares[1] + rng.random()))
    if shares[2]:
        test = max(1, int(blocks * shares[2] + rng.random()))
    test = min(test, blocks - 1 - (shares[1] > 0))
    val = min(val, blocks - 1 - test)
    counts = (blocks - val - test, val, test)
    return rng.permutation(np.repeat(np.arange(len(SPLITS)), counts))


def _shortfall(kept: np.ndarray, total: np.ndarray, shares: np.ndarray) -> float:
    """Cost of an assignment: what splits miss of their shares, as a mean over classes and over all labels."""
    used = shares > 0
    present = total > 0
    pixels = kept[used][:, present]
    shares = shares[used]
    # Squares make one missing class cost more than small deficits of several classes. The mean over classes makes
    # rare classes count as much as others.
    wanted_of_class = shares[:, None] * total[present]
    of_classes = (np.maximum(0, 1 - pixels / wanted_of_class) ** 2).sum(0).mean()
    wanted = shares * total.sum()
    overall = (np.maximum(0, 1 - pixels.sum(1) / wanted) ** 2).sum()
    classes_without_training = np.count_nonzero(pixels[0] == 0)
    empty_splits = np.count_nonzero(pixels.sum(1) == 0)
    untaught = classes_without_training + len(total) * empty_splits
    return float(of_classes + overall + UNTAUGHT * untaught)


def keep_parcels_whole(
    label: np.ndarray, parcel: np.ndarray, pieces: Pieces, cells: Sequence[Cell], splits: np.ndarray
) -> tuple[np.ndarray, int]:
    """Remove labels so that no parcel is in two splits, and count the parcels that lost some.

    A parcel stays in the split with most of its pixels.
    """
    winner = pieces.winner(splits)
    elsewhere = winner[pieces.parcel] != splits[pieces.cell]
    crossing = np.unique(pieces.parcel[(pieces.parcel > 0) & elsewhere])
    # Parcel 0 is no parcel; parcels without a labeled pixel do not matter.
    allowed = np.full(int(parcel.max()) + 1, NOWHERE)
    allowed[: len(winner)] = winner
    left = np.full_like(label, IGNORE)
    for cell, split in zip(cells, splits, strict=True):
        if split != NOWHERE:
            parcels = cell.labels_of(parcel)
            stays = (parcels == 0) | (allowed[parcels] == split)
            cell.labels_of(left)[:] = np.where(stays, cell.labels_of(label), IGNORE)
    return left, len(crossing)


def keep_distance(label: np.ndarray, cells: Sequence[Cell], splits: np.ndarray, reach: float) -> np.ndarray:
    """Remove labels nearer than ``reach`` pixels, between centers, to labels of another split.

    Labels of train are removed near those of val and test, labels of val near those of test.
    """
    left = label.copy()
    if reach <= 0:
        return left
    place = np.full(label.shape, NOWHERE, np.int8)
    for cell, split in zip(cells, splits, strict=True):
        cell.labels_of(place)[cell.labels_of(label) != IGNORE] = split
    for split in (1, 0):
        for cell, split_of_cell in zip(cells, splits, strict=True):
            if split_of_cell == split:
                near = _near(place, split, cell.own, reach)
                cell.labels_of(left)[near] = IGNORE
                cell.labels_of(place)[near] = NOWHERE
    return left


def _near(place: np.ndarray, split: int, area: Area, reach: float) -> np.ndarray:
    """Mask ``(height, width)`` of an area: pixels nearer than ``reach`` to a label of a split after ``split``."""
    margin = int(np.ceil(reach))
    top = max(0, area.row - margin)
    left = max(0, area.column - margin)
    around = place[top : area.row + area.height + margin, left : area.column + area.width + margin] > split
    if not around.any():
        return np.zeros((area.height, area.width), bool)
    distance = np.asarray(distance_transform_edt(~around))
    inside = window(Area(area.row - top, area.column - left, area.height, area.width))
    return distance[inside] < reach


def gaps(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Smallest distance ``(n)`` between pixel centers of one rectangle and each of many (row, column, height, width).

    It is 0 for rectangles that share pixels.
    """
    end = one[:2] + one[2:] - 1
    ends = many[:, :2] + many[:, 2:] - 1
    apart = np.maximum(0, np.maximum(many[:, :2] - end, one[:2] - ends))
    return np.hypot(apart[:, 0], apart[:, 1])
