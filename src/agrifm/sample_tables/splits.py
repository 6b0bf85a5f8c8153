"""Splits of samples: by blocks of ground, by groups, or at random where neither is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agrifm.chips.spatial_split import Cell, Pieces, choose_splits
from agrifm.errors import InputError, counted
from agrifm.sample_tables.table import SampleTable
from agrifm.scenes.scene import Area

MOST_BLOCKS = 60  # of ground; a block stays in one split and in one fold
NOWHERE = Area(0, 0, 1, 1)


@dataclass(frozen=True)
class Division:
    """Samples divided into splits.

    Args:
        split: Split of each sample ``(n)``, 0 train, 1 val, 2 test.
        block: Block of each sample ``(n)``, which lies in one split.
        sentence: How they were divided.
        warning: Why scores may be too good; empty if there is no reason.
    """

    split: np.ndarray
    block: np.ndarray
    sentence: str
    warning: str = ""


def divide(table: SampleTable, classes: np.ndarray, shares: tuple[float, float, float], seed: int) -> Division:
    """Divide samples into train, val and test.

    Args:
        table: The samples.
        classes: Number of the class of each sample ``(n)``.
        shares: Shares of train, val and test.
        seed: Seed of random choices.

    Raises:
        InputError: If there are fewer blocks than splits.
    """
    if table.places is None and table.groups is None:
        warning = (
            "the table has neither places nor groups (--group-column), so samples are divided at random: neighbors may "
            "be learned and tested, and scores are then too good"
        )
        split = _at_random(classes, shares, seed)
        return Division(split, np.arange(len(classes)), "split: at random, by class", warning)
    unit = np.arange(len(classes))
    if table.groups is not None:
        unit = np.unique(table.groups, return_inverse=True)[1]
    block = unit
    sentence = f"split: {counted(unit.max() + 1, 'group')}, each in one split"
    if table.places is not None:
        block = _blocks_of_ground(table.places.plane, unit, seed)
        sentence = f"split: {counted(block.max() + 1, 'block')} of ground, each in one split"
    return Division(_by_block(block, classes, shares, seed), block, sentence)


def _at_random(classes: np.ndarray, shares: tuple[float, float, float], seed: int) -> np.ndarray:
    """Random splits with the same classes in each."""
    rng = np.random.default_rng(seed)
    split = np.zeros(len(classes), np.int64)
    for number in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == number))
        val = max(1, round(len(members) * shares[1]))
        test = max(1, round(len(members) * shares[2])) if shares[2] else 0
        split[members[:val]] = 1
        split[members[val : val + test]] = 2
    return split


def _blocks_of_ground(plane: np.ndarray, unit: np.ndarray, seed: int) -> np.ndarray:
    """Number of the block of each sample; neighbors, and samples of one unit, share a block."""
    from sklearn.cluster import KMeans

    count = np.bincount(unit)
    x = np.bincount(unit, plane[:, 0]) / count
    y = np.bincount(unit, plane[:, 1]) / count
    centers = np.stack([x, y], 1)
    blocks = min(MOST_BLOCKS, len(np.unique(centers, axis=0)))
    block = KMeans(blocks, n_init=1, random_state=seed).fit_predict(centers)[unit]
    return np.unique(block, return_inverse=True)[1]


def _by_block(block: np.ndarray, classes: np.ndarray, shares: tuple[float, float, float], seed: int) -> np.ndarray:
    """Splits of whole blocks, in which every class comes near to its shares."""
    blocks = int(block.max()) + 1
    wanted = sum(share > 0 for share in shares)
    if blocks < wanted:
        raise InputError(
            "splits",
            found=f"{counted(blocks, 'block')} of places or groups for {counted(wanted, 'split')}",
            expected="samples from several places or groups",
            repair="add samples from elsewhere, or name a column with more groups with --group-column.",
        )
    pairs, counts = np.unique(np.stack([block, classes]), axis=1, return_counts=True)
    pieces = Pieces(pairs[0], np.zeros_like(counts), pairs[1], counts, int(classes.max()) + 1)
    cells = [Cell(0, number, NOWHERE, NOWHERE, number) for number in range(blocks)]
    return choose_splits(pieces, cells, shares, seed)[block]
