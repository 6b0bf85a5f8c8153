"""Spatial split: chips on a lattice, assigned to train, val and test by blocks of ground.

Every pixel belongs to one cell of the lattice, and only the chip of that cell has its label. If the scene is not a
multiple of the chip size, the last row and column of chips are shifted inward so that they are full. The ground that
they then share with their neighbors has no labels in them, and they are always in the block of their neighbors, so that
chips of different splits share no pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from agrifm.chips.classes import IGNORE
from agrifm.errors import InputError, counted
from agrifm.scenes.scene import Area

SPLITS = ("train", "val", "test")
NO_SPLIT = -1
FEWEST_BLOCKS = 24  # blocks with labels that the default block size gives
MOST_TRIALS = 4000  # assignments that are tried
FEWEST_TRIALS = 200
MOST_EVALUATIONS = 400_000_000  # of pieces of parcels, in all trials
UNTRAINED_COST = 10.0  # of a class without training pixels; other costs are at most 1 for each split


@dataclass(frozen=True)
class Cell:
    """One cell of the lattice.

    Args:
        row: Row in the lattice.
        column: Column in the lattice.
        area: Ground that its chip shows.
        core: Part of the area that belongs to this cell alone, and whose labels its chip has.
        block: Number of the block.
    """

    row: int
    column: int
    area: Area
    core: Area
    block: int

    def labels_of(self, raster: np.ndarray) -> np.ndarray:
        """Return a view of the core of the cell in a raster of the scene."""
        return raster[window(self.core)]

    def has_labels(self, label: np.ndarray) -> bool:
        """Whether any pixel of the core has a label."""
        return bool((self.labels_of(label) != IGNORE).any())


def window(area: Area) -> tuple[slice, slice]:
    """Return the rows and columns of an area."""
    return slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)


def lattice(shape: tuple[int, int], size: int, block: int) -> list[Cell]:
    """Return all cells from the upper left corner, in blocks of about ``block`` chips a side."""
    rows = _intervals(shape[0], size, block)
    columns = _intervals(shape[1], size, block)
    blocks_across = columns[-1].block + 1
    cells = []
    for i, vertical in enumerate(rows):
        for j, horizontal in enumerate(columns):
            area = Area(vertical.start, horizontal.start, vertical.length, horizontal.length)
            core = Area(vertical.core_start, horizontal.core_start, vertical.core_length, horizontal.core_length)
            cells.append(Cell(i, j, area, core, vertical.block * blocks_across + horizontal.block))
    return cells


class _Interval(NamedTuple):
    """A chip along one axis: its extent, its core, and the number of its block."""

    start: int
    length: int
    core_start: int
    core_length: int
    block: int


def _intervals(length: int, size: int, block: int) -> list[_Interval]:
    """Return all chips along one axis."""
    side = min(size, length)
    whole_chips = max(1, length // size)
    blocks = max(1, round(whole_chips / block))
    intervals = []
    for i in range(math.ceil(length / size)):
        core_start = i * size
        core_length = min(side, length - core_start)
        start = min(core_start, length - side)
        # A chip that was shifted inward is in the block of its neighbor.
        number = min(i, whole_chips - 1) * blocks // whole_chips
        intervals.append(_Interval(start, side, core_start, core_length, number))
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
        for number, cell in enumerate(cells):
            labels = cell.labels_of(label).ravel()
            parcels = cell.labels_of(parcel).ravel()
            is_labeled = labels != IGNORE
            if is_labeled.any():
                # Parcel and class become one number, so that equal pairs can be counted.
                pairs = parcels[is_labeled].astype(np.int64) * classes + labels[is_labeled]
                unique_pairs, counts = np.unique(pairs, return_counts=True)
                cell_numbers = np.full(len(unique_pairs), number)
                rows.append(np.stack([cell_numbers, unique_pairs // classes, unique_pairs % classes, counts]))
        return cls(*np.concatenate(rows, 1), classes)

    @property
    def cells(self) -> np.ndarray:
        """Numbers of the cells with labels."""
        return np.unique(self.cell)

    def main_splits(self, splits: np.ndarray) -> np.ndarray:
        """Return the split with most pixels of each parcel, by parcel number; ``splits`` are those of the cells."""
        parcels = int(self.parcel.max(initial=0)) + 1
        parcel_and_split = self.parcel * len(SPLITS) + splits[self.cell]
        counts = np.bincount(parcel_and_split, self.pixels, parcels * len(SPLITS))
        pixels = counts.reshape(parcels, len(SPLITS))
        return np.where(pixels.any(1), pixels.argmax(1), NO_SPLIT)

    def kept_pixels(self, splits: np.ndarray) -> np.ndarray:
        """Return the number of pixels ``(split, class)`` that keep their label."""
        split = splits[self.cell]
        main_split = self.main_splits(splits)[self.parcel]
        is_kept = (self.parcel == 0) | (main_split == split)
        split_and_class = split * self.classes + self.label
        counts = np.bincount(split_and_class[is_kept], self.pixels[is_kept], len(SPLITS) * self.classes)
        return counts.reshape(len(SPLITS), self.classes)


def default_block(shape: tuple[int, int], size: int, pieces: Pieces) -> int:
    """Return the largest side of a block, in chips, that gives enough blocks with labels."""
    largest = math.ceil(max(shape) / size)
    rows, columns = np.divmod(pieces.cells, math.ceil(shape[1] / size))
    for block in range(largest, 1, -1):
        # Small chips are many; the numbers of blocks along the two axes are enough.
        block_of_row = np.array([interval.block for interval in _intervals(shape[0], size, block)])
        block_of_column = np.array([interval.block for interval in _intervals(shape[1], size, block)])
        pairs = np.stack([block_of_row[rows], block_of_column[columns]])
        if np.unique(pairs, axis=1).shape[1] >= FEWEST_BLOCKS:
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
    labeled_blocks, index = np.unique(blocks[pieces.cells], return_inverse=True)
    wanted = sum(share > 0 for share in shares)
    if len(labeled_blocks) < wanted:
        raise InputError(
            "splits",
            found=f"{counted(len(labeled_blocks), 'block')} with labels for {counted(wanted, 'split')}",
            expected="at least one block for each split",
            repair="use a smaller --size or --block, so that there are more blocks; 24 or more make a fair split.",
        )
    # Blocks with labels are numbered from 0, and take the place of cells in the search.
    block_of_cell = np.full(len(cells), -1)
    block_of_cell[pieces.cells] = index
    by_block = replace(pieces, cell=block_of_cell[pieces.cell])
    splits = np.full(blocks.max() + 1, NO_SPLIT)
    splits[labeled_blocks] = _search(by_block, len(labeled_blocks), shares, np.random.default_rng(seed))
    return splits[blocks]


def _search(pieces: Pieces, blocks: int, shares: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Return the best of many random assignments of blocks, improved by moving and swapping single blocks."""
    total = np.bincount(pieces.label, pieces.pixels, pieces.classes)

    def cost(splits: np.ndarray) -> float:
        return _shortfall(pieces.kept_pixels(splits), total, np.array(shares))

    trials = min(MOST_TRIALS, MOST_EVALUATIONS // max(1, len(pieces.cell)))
    trials = max(FEWEST_TRIALS, trials)
    draws = [_draw(blocks, shares, rng) for _ in range(trials // 4)]
    best = min(draws, key=cost)
    lowest_cost = cost(best)
    for _ in range(trials - len(draws)):
        one, other = rng.integers(blocks, size=2)
        changed = best.copy()
        if rng.random() < 0.5:
            changed[[one, other]] = best[[other, one]]
        else:
            changed[one] = rng.choice(np.flatnonzero(shares))
        changed_cost = cost(changed)
        if changed_cost < lowest_cost:
            best = changed
            lowest_cost = changed_cost
    return best


def _draw(blocks: int, shares: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Return a random assignment with about the wanted shares of blocks, and at least one block for each split."""
    _, val_share, test_share = shares
    val = 0
    test = 0
    if val_share:
        val = max(1, int(blocks * val_share + rng.random()))
    if test_share:
        test = max(1, int(blocks * test_share + rng.random()))
    # At least one block stays for train, and one for val if it is wanted.
    fewest_val = 1 if val_share > 0 else 0
    test = min(test, blocks - 1 - fewest_val)
    val = min(val, blocks - 1 - test)
    counts = (blocks - val - test, val, test)
    return rng.permutation(np.repeat(np.arange(len(SPLITS)), counts))


def _shortfall(kept_pixels: np.ndarray, total: np.ndarray, shares: np.ndarray) -> float:
    """Return the cost of an assignment: what splits miss of their shares, over all labels and as a mean over classes.

    Args:
        kept_pixels: Pixels ``(split, class)`` that keep their label.
        total: Pixels ``(class)``.
        shares: Wanted shares ``(split)``.
    """
    is_used = shares > 0
    is_present = total > 0
    pixels = kept_pixels[is_used][:, is_present]
    shares = shares[is_used]
    # Squares make one missing class cost more than small deficits of several classes. The mean over classes makes
    # rare classes count as much as others.
    wanted_of_class = shares[:, None] * total[is_present]
    of_classes = (np.maximum(0, 1 - pixels / wanted_of_class) ** 2).sum(0).mean()
    wanted = shares * total.sum()
    overall = (np.maximum(0, 1 - pixels.sum(1) / wanted) ** 2).sum()
    classes_without_training = np.count_nonzero(pixels[0] == 0)
    empty_splits = np.count_nonzero(pixels.sum(1) == 0)
    untrained = classes_without_training + len(total) * empty_splits
    return float(of_classes + overall + UNTRAINED_COST * untrained)


def keep_parcels_whole(
    label: np.ndarray, parcel: np.ndarray, pieces: Pieces, cells: Sequence[Cell], splits: np.ndarray
) -> tuple[np.ndarray, int]:
    """Remove labels so that no parcel is in two splits; a parcel stays in the split with most of its pixels.

    Returns:
        The remaining labels, and the number of parcels that were in several splits.
    """
    main_splits = pieces.main_splits(splits)
    is_elsewhere = main_splits[pieces.parcel] != splits[pieces.cell]
    crossing_parcels = np.unique(pieces.parcel[(pieces.parcel > 0) & is_elsewhere])
    # The raster also holds the numbers of parcels without a labeled pixel, which have no split.
    split_of_parcel = np.full(int(parcel.max()) + 1, NO_SPLIT)
    split_of_parcel[: len(main_splits)] = main_splits
    remaining = np.full_like(label, IGNORE)
    for cell, split in zip(cells, splits, strict=True):
        if split != NO_SPLIT:
            parcels = cell.labels_of(parcel)
            is_kept = (parcels == 0) | (split_of_parcel[parcels] == split)
            cell.labels_of(remaining)[:] = np.where(is_kept, cell.labels_of(label), IGNORE)
    return remaining, len(crossing_parcels)


def keep_distance(label: np.ndarray, cells: Sequence[Cell], splits: np.ndarray, distance: float) -> np.ndarray:
    """Remove labels nearer than ``distance`` pixels, between centers, to labels of another split.

    Labels of train are removed near those of val and test, labels of val near those of test.
    """
    remaining = label.copy()
    if distance <= 0:
        return remaining
    split_raster = np.full(label.shape, NO_SPLIT, np.int8)
    for cell, split in zip(cells, splits, strict=True):
        has_label = cell.labels_of(label) != IGNORE
        cell.labels_of(split_raster)[has_label] = split
    # Labels of val go first, so that labels of train near removed ones can stay.
    for split in (1, 0):
        for cell, split_of_cell in zip(cells, splits, strict=True):
            if split_of_cell == split and cell.has_labels(remaining):
                is_near = _near_later_split(split_raster, split, cell.core, distance)
                cell.labels_of(remaining)[is_near] = IGNORE
                cell.labels_of(split_raster)[is_near] = NO_SPLIT
    return remaining


def _near_later_split(split_raster: np.ndarray, split: int, area: Area, distance: float) -> np.ndarray:
    """Return the mask of an area: pixels nearer than ``distance`` to a label of a split after ``split``."""
    margin = math.ceil(distance)
    top = max(0, area.row - margin)
    left = max(0, area.column - margin)
    bottom = area.row + area.height + margin
    right = area.column + area.width + margin
    is_later_split = split_raster[top:bottom, left:right] > split
    if not is_later_split.any():
        return np.zeros((area.height, area.width), bool)
    distances = np.asarray(distance_transform_edt(~is_later_split))
    inside = window(Area(area.row - top, area.column - left, area.height, area.width))
    return distances[inside] < distance
