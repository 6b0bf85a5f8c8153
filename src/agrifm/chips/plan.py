"""The plan of chips, and the ground shared out as it says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agrifm.chips.classes import IGNORE
from agrifm.chips.labels import Labels
from agrifm.chips.spatial_split import (
    NOWHERE,
    SPLITS,
    Cell,
    Pieces,
    choose_splits,
    keep_distance,
    keep_parcels_whole,
    lattice,
    sensible_block,
    window,
)
from agrifm.errors import InputError
from agrifm.scenes.scene import Area

LARGEST = 4096  # rows and columns of a chip


@dataclass(frozen=True)
class ChipPlan:
    """How labels become chips.

    Args:
        class_column: Class column of a vector file; may be left out where it has only one.
        classes: Table of codes, names and colors; without it every code is a class.
        layer: Layer of a vector file; may be left out where it has only one.
        size: Rows and columns of a chip, in the scene's pixels.
        buffer: Meters by which polygons shrink on all sides.
        distance: Meters between labels of different splits; parcels are never shared anyway.
        val: Share of the labeled area for validation.
        test: Share of the labeled area for the test split.
        block: Chips along the side of a block of ground; by default as many as leave two dozen blocks with labels.
        seed: Other seeds give other splits.

    Raises:
        InputError: If a number is out of range.
    """

    class_column: str | None = None
    classes: Path | None = None
    layer: str | None = None
    size: int = 96
    buffer: float = 0.0
    distance: float = 0.0
    val: float = 0.2
    test: float = 0.2
    block: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("size", 8 <= self.size <= LARGEST, f"8 to {LARGEST} pixels"),
            ("buffer", 0 <= self.buffer < math.inf, "meters, 0 or more"),
            ("distance", 0 <= self.distance < math.inf, "meters, 0 or more"),
            ("val", 0 < self.val < 1, "a share between 0 and 1"),
            ("test", 0 <= self.test < 1 and self.val + self.test < 1, "a share that leaves some ground for training"),
            ("block", self.block is None or self.block >= 1, "at least 1 chip"),
            ("seed", self.seed >= 0, "0 or more"),
            ("class_column", self.class_column != "", "the name of a column"),
            ("layer", self.layer != "", "the name of a layer"),
        ):
            if not good:
                value = getattr(self, name)
                raise InputError(
                    f"--{name.replace('_', '-')}",
                    found=str(value),
                    expected=expected,
                    repair="give another value, or leave it out.",
                )

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of train, val and test."""
        return 1 - self.val - self.test, self.val, self.test


@dataclass(frozen=True)
class SplitAssignment:
    """Ground shared out to splits.

    Args:
        cells: Cells of the lattice.
        splits: Splits of the cells, -1 where their block has no labels.
        label: ``(h, w)`` what is left of the labels.
        block: Chips along the side of a block.
        crossing: Parcels that lay in several splits.
        lost: Pixels that lost their label, by reason.
    """

    cells: tuple[Cell, ...]
    splits: np.ndarray
    label: np.ndarray
    block: int
    crossing: int
    lost: dict[str, int]

    @classmethod
    def of(cls, labels: Labels, plan: ChipPlan, pixel: float) -> SplitAssignment:
        """Share out the ground; ``pixel`` is its size in meters.

        Raises:
            InputError: If a split gets no labels.
        """
        shape, classes = labels.label.shape, len(labels.classes)
        fine = lattice(shape, plan.size, 1)
        pieces = Pieces.count(labels.label, labels.parcel, fine, classes)
        block = plan.block or sensible_block(shape, plan.size, pieces)
        cells = lattice(shape, plan.size, block)
        splits = choose_splits(pieces, cells, plan.shares, plan.seed)
        whole, crossing = keep_parcels_whole(labels.label, labels.parcel, pieces, cells, splits)
        left = keep_distance(whole, cells, splits, plan.distance / pixel)
        n = [int((array != IGNORE).sum()) for array in (labels.label, whole, left)]
        lost = {
            "belonged to parcels that lie mostly in another split": n[0] - n[1],
            f"lay within {plan.distance:g} m of labels of another split": n[1] - n[2],
        }
        division = cls(tuple(cells), splits, left, block, crossing, lost)
        division._check(plan)
        return division

    def _check(self, plan: ChipPlan) -> None:
        for number, share in enumerate(plan.shares):
            if share and not any((cell.labels_of(self.label) != IGNORE).any() for cell in self.of_split(number)):
                raise InputError(
                    f"{SPLITS[number]} split",
                    found=f"no labels left; lost pixels: {self.lost}",
                    expected="labels in every split",
                    repair="use smaller chips (--size), a smaller --distance, or another --seed.",
                )

    def of_split(self, number: int) -> Iterator[Cell]:
        """Cells of a split."""
        return (cell for cell, split in zip(self.cells, self.splits, strict=True) if split == number)

    def chips(self, prefix: str) -> list[Chip]:
        """Cells with labels, as chips to write."""
        return [
            Chip(f"{prefix}_r{cell.row:03d}_c{cell.column:03d}", SPLITS[split], cell)
            for cell, split in zip(self.cells, self.splits, strict=True)
            if split != NOWHERE and (cell.labels_of(self.label) != IGNORE).any()
        ]


@dataclass(frozen=True)
class Chip:
    """A chip to write."""

    name: str
    split: str
    cell: Cell

    def label(self, raster: np.ndarray) -> np.ndarray:
        """Its label ``(h, w)``: only ground that is its own has one."""
        area, own = self.cell.area, self.cell.own
        label = np.full((area.height, area.width), IGNORE, np.int64)
        inside = Area(own.row - area.row, own.column - area.column, own.height, own.width)
        label[window(inside)] = raster[window(own)]
        return label
