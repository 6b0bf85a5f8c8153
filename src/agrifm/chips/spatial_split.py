"""Which ground trains, which validates and which tests: chips on a lattice, shared out by spatial blocks.

Every pixel belongs to one cell of the lattice, and only that cell's chip holds its label. Where the scene is no
whole number of chips, the last row and column of chips are shifted inward so that they are full; the ground they
then share with their neighbors is context without labels there, and they always lie in their neighbors' block. So
chips of different splits share no pixel at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from agrifm.chips.classes import IGNORE
from agrifm.errors import InputError
from agrifm.scenes.scene import Area

SPLITS = ("train", "val", "test")
NOWHERE = -1
FEWEST_BLOCKS = 24  # of the blocks with labels, where nothing else is asked for
TRIALS = 4000
WORK = 400_000_000  # pieces of parcels looked at over all trials
UNTAUGHT = 10.0  # what a class without training pixels costs, beside shortfalls of at most 1 for each split


@dataclass(frozen=True)
class Cell:
    """One cell of the lattice.

    Args:
        row, column: Counted in chips.
        area: What its chip shows.
        own: The part that belongs to this cell alone and whose labels its chip holds.
        block: Number of the block.
    """

    row: int
    column: int
    area: Area
    own: Area
    block: int

    def labels_of(self, raster: np.ndarray) -> np.ndarray:
        """View of its own part of a raster of the scene."""
        return raster[window(self.own)]


def window(area: Area) -> tuple[slice, slice]:
    """Rows and columns of an area."""
    return slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)


def lattice(shape: tuple[int, int], size: int, block: int) -> list[Cell]:
    """Cells from the upper left corner, in blocks of about ``block`` chips a side."""
    rows, columns = (list(_line(length, size, block)) for length in shape)
    across = columns[-1][4] + 1
    return [
        Cell(i, j, Area(top, left, tall, wide), Area(own_top, own_left, own_tall, own_wide), down * across + right)
        for i, (top, tall, own_top, own_tall, down) in enumerate(rows)
        for j, (left, wide, own_left, own_wide, right) in enumerate(columns)
    ]


def _line(length: int, size: int, block: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Along one axis: start and length of the chip, of its own part, and number of the block."""
    side, whole = min(size, length), max(1, length // size)
    blocks = max(1, round(whole / block))
    for i in range(-(-length // size)):
        own = min(side, length - i * size)
        yield min(i * size, length - side), side, i * size, own, min(i, whole - 1) * blocks // whole


@dataclass(frozen=True)
class Pieces:
    """Labeled pixels by cell, parcel and class, one row for each combination that occurs.

    Args:
        cell, parcel, label, pixels: ``(n)`` each; parcel 0 is ground that belongs to no known parcel.
        classes: How many there are.
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
            mine, owner = cell.labels_of(label).ravel(), cell.labels_of(parcel).ravel()
            kept = mine != IGNORE
            if kept.any():
                keys, n = np.unique(owner[kept].astype(np.int64) * classes + mine[kept], return_counts=True)
                rows.append(np.stack([np.full(len(keys), i), keys // classes, keys % classes, n]))
        return cls(*np.concatenate(rows, 1), classes)

    @property
    def cells(self) -> np.ndarray:
        """Numbers of the cells with labels."""
        return np.unique(self.cell)

    def winner(self, splits: np.ndarray) -> np.ndarray:
        """The split that holds most of each parcel, by parcel number, where ``splits`` are those of the cells."""
        parcels = int(self.parcel.max(initial=0)) + 1
        place = self.parcel * len(SPLITS) + splits[self.cell]
        pixels = np.bincount(place, self.pixels, parcels * len(SPLITS)).reshape(parcels, len(SPLITS))
        return np.where(pixels.any(1), pixels.argmax(1), NOWHERE)

    def kept(self, splits: np.ndarray) -> np.ndarray:
        """Pixels ``(split, class)`` that keep their label."""
        mine = splits[self.cell]
        stays = (self.parcel == 0) | (self.winner(splits)[self.parcel] == mine)
        place = mine * self.classes + self.label
        counts = np.bincount(place[stays], self.pixels[stays], len(SPLITS) * self.classes)
        return counts.reshape(len(SPLITS), self.classes)


def sensible_block(shape: tuple[int, int], size: int, pieces: Pieces) -> int:
    """The largest number of chips a side with which enough blocks hold labels."""
    for block in range(max(-(-length // size) for length in shape), 1, -1):
        blocks = np.array([cell.block for cell in lattice(shape, size, block)])
        if len(set(blocks[pieces.cells].tolist())) >= FEWEST_BLOCKS:
            return block
    return 1


def choose_splits(pieces: Pieces, cells: Sequence[Cell], shares: tuple[float, float, float], seed: int) -> np.ndarray:
    """Split ``(cell)`` of every cell, -1 where its block has no labels.

    Blocks are shared out so that every class comes near to its wanted shares, counting only the labels that parcels
    in several splits leave over. Images are never looked at.

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
    wanted = sum(share > 0 for share in shares)
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
    """The best of many random ways to share out blocks, then made better by moving or swapping blocks."""
    total = np.bincount(pieces.label, pieces.pixels, pieces.classes)

    def cost(splits: np.ndarray) -> float:
        return _shortfall(pieces.kept(splits), total, np.array(shares))

    trials = max(200, min(TRIALS, WORK // max(1, len(pieces.cell))))
    best = min((_draw(blocks, shares, rng) for _ in range(trials // 4)), key=cost)
    lowest = cost(best)
    for _ in range(trials - trials // 4):
        one, other = rng.integers(blocks, size=2)
        changed = best.copy()
        if rng.random() < 0.5:
            changed[[one, other]] = best[[other, one]]
        else:
            changed[one] = rng.choice(np.flatnonzero(shares))
        if (now := cost(changed)) < lowest:
            best, lowest = changed, now
    return best


def _draw(blocks: int, shares: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    val, test = (max(1, int(blocks * share + rng.random())) if share else 0 for share in shares[1:])
    test = min(test, blocks - 1 - (shares[1] > 0))
    val = min(val, blocks - 1 - test)
    return rng.permutation(np.repeat(np.arange(len(SPLITS)), (blocks - val - test, val, test)))


def _shortfall(kept: np.ndarray, total: np.ndarray, shares: np.ndarray) -> float:
    """What splits lack of their shares: mean over the classes, so that rare ones count as much, and over all labels."""
    wanted, there = shares > 0, total > 0
    have, shares = kept[wanted][:, there], shares[wanted]
    # Squares: to lack a class costs more than to have a little less of several.
    by_class = (np.maximum(0, 1 - have / (shares[:, None] * total[there])) ** 2).sum(0).mean()
    overall = (np.maximum(0, 1 - have.sum(1) / (shares * total.sum())) ** 2).sum()
    untaught = (have[0] == 0).sum() + len(total) * (have.sum(1) == 0).sum()
    return float(by_class + overall + UNTAUGHT * untaught)


def keep_parcels_whole(
    label: np.ndarray, parcel: np.ndarray, pieces: Pieces, cells: Sequence[Cell], splits: np.ndarray
) -> tuple[np.ndarray, int]:
    """Labels of which no parcel is in two splits, and how many parcels lost some.

    A parcel stays in the split that holds most of it.
    """
    winner = pieces.winner(splits)
    crossing = np.unique(pieces.parcel[(pieces.parcel > 0) & (winner[pieces.parcel] != splits[pieces.cell])])
    # Parcel 0 is no parcel; parcels without a labeled pixel do not matter.
    allowed = np.full(int(parcel.max()) + 1, NOWHERE)
    allowed[: len(winner)] = winner
    left = np.full_like(label, IGNORE)
    for cell, split in zip(cells, splits, strict=True):
        if split != NOWHERE:
            owner = cell.labels_of(parcel)
            stays = (owner == 0) | (allowed[owner] == split)
            cell.labels_of(left)[:] = np.where(stays, cell.labels_of(label), IGNORE)
    return left, len(crossing)


def keep_distance(label: np.ndarray, cells: Sequence[Cell], splits: np.ndarray, reach: float) -> np.ndarray:
    """Labels without those nearer than ``reach`` pixels, center to center, to labels of another split.

    Training gives way to val and test, val to test.
    """
    left = label.copy()
    if reach <= 0:
        return left
    place = np.full(label.shape, NOWHERE, np.int8)
    for cell, split in zip(cells, splits, strict=True):
        cell.labels_of(place)[cell.labels_of(label) != IGNORE] = split
    for split in (1, 0):
        for cell in (cell for cell, mine in zip(cells, splits, strict=True) if mine == split):
            near = _near(place, split, cell.own, reach)
            cell.labels_of(left)[near] = IGNORE
            cell.labels_of(place)[near] = NOWHERE
    return left


def _near(place: np.ndarray, split: int, area: Area, reach: float) -> np.ndarray:
    """Pixels ``(height, width)`` of an area that lie nearer than ``reach`` to a label of a split after ``split``."""
    margin = int(np.ceil(reach))
    top, left = max(0, area.row - margin), max(0, area.column - margin)
    around = place[top : area.row + area.height + margin, left : area.column + area.width + margin] > split
    if not around.any():
        return np.zeros((area.height, area.width), bool)
    away = np.asarray(distance_transform_edt(~around))
    return away[window(Area(area.row - top, area.column - left, area.height, area.width))] < reach


def gaps(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Smallest distance ``(n)`` between pixel centers of one rectangle and each of many (row, column, height, width).

    It is 0 where they share pixels.
    """
    end, ends = one[:2] + one[2:] - 1, many[:, :2] + many[:, 2:] - 1
    apart = np.maximum(0, np.maximum(many[:, :2] - end, one[:2] - ends))
    return np.hypot(apart[:, 0], apart[:, 1])
