"""The plan of chips, and the assignment of the scene to splits that follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agrifm.chips.classes import IGNORE
from agrifm.chips.labels import Labels
from agrifm.chips.spatial_split import (
    NO_SPLIT,
    SPLITS,
    Cell,
    Pieces,
    choose_splits,
    default_block,
    keep_distance,
    keep_parcels_whole,
    lattice,
    window,
)
from agrifm.errors import InputError
from agrifm.scenes.scene import Area

LARGEST = 4096  # rows and columns of a chip
LARGEST_RADIUS = 1000  # meters; ground farther away is not what a point was taken for
SIZE = 96
SIZE_OF_POINTS = 24  # most of a larger chip around scattered points is written and read for nothing


@dataclass(frozen=True)
class ChipPlan:
    """How labels become chips.

    Args:
        class_column: Column of a vector file or table with the class; optional if there is only one column.
        classes: Table of codes, names and colors; without it every code is a class.
        layer: Layer of a vector file; optional if there is only one layer.
        size: Rows and columns of a chip, in pixels of the scene; by default 96, or 24 if all labels are points.
        buffer: Meters by which polygons are shrunk on all sides.
        distance: Meters between labels of different splits, which never share parcels.
        val: Share of the labeled area for validation.
        test: Share of the labeled area for the test split.
        block: Chips along the side of a block of ground; by default the largest that gives two dozen blocks with
            labels.
        seed: Seed of the random choice of splits.
        radius: Meters around a point within which it labels pixels, by their centers, besides the one it lies in.
        group_column: Column whose equal values, e.g. a village, never fall into different splits.
        crs: CRS of the coordinates, for tables and files that state none, e.g. EPSG:32631.

    Raises:
        InputError: If a number is out of range.
    """

    class_column: str | None = None
    classes: Path | None = None
    layer: str | None = None
    size: int | None = None
    buffer: float = 0.0
    distance: float = 0.0
    val: float = 0.2
    test: float = 0.2
    block: int | None = None
    seed: int = 0
    radius: float = 0.0
    group_column: str | None = None
    crs: str | None = None

    def __post_init__(self) -> None:
        self._check("size", self.size is None or 8 <= self.size <= LARGEST, f"8 to {LARGEST} pixels")
        self._check("buffer", 0 <= self.buffer < math.inf, "meters, 0 or more")
        self._check("distance", 0 <= self.distance < math.inf, "meters, 0 or more")
        self._check("val", 0 < self.val < 1, "a share between 0 and 1")
        leaves_training = self.val + self.test < 1
        self._check("test", 0 <= self.test < 1 and leaves_training, "a share that leaves some ground for training")
        self._check("block", self.block is None or self.block >= 1, "at least 1 chip")
        self._check("seed", self.seed >= 0, "0 or more")
        self._check("class_column", self.class_column != "", "the name of a column")
        self._check("radius", 0 <= self.radius <= LARGEST_RADIUS, f"meters, 0 to {LARGEST_RADIUS}")
        self._check("group_column", self.group_column != "", "the name of a column")
        self._check("layer", self.layer != "", "the name of a layer")

    def _check(self, name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise InputError(
                f"--{name.replace('_', '-')}",
                found=str(getattr(self, name)),
                expected=expected,
                repair="give another value, or leave it out.",
            )

    def side(self, labels: Labels) -> int:
        """Return the rows and columns of a chip for these labels."""
        if self.size is not None:
            return self.size
        return SIZE_OF_POINTS if labels.are_points else SIZE

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of train, val and test."""
        return 1 - self.val - self.test, self.val, self.test


@dataclass(frozen=True)
class SplitAssignment:
    """Assignment of the cells of a scene to splits.

    Args:
        cells: Cells of the lattice.
        splits: Splits of the cells, -1 where their block has no labels.
        label: Remaining labels ``(h, w)``.
        block: Chips along the side of a block.
        crossing: Number of parcels that were in several splits.
        lost: Number of pixels that lost their label, by reason.
    """

    cells: tuple[Cell, ...]
    splits: np.ndarray
    label: np.ndarray
    block: int
    crossing: int
    lost: dict[str, int]

    @classmethod
    def of(cls, labels: Labels, plan: ChipPlan, resolution: float) -> SplitAssignment:
        """Assign a scene with pixels of ``resolution`` meters.

        Raises:
            InputError: If a split gets no labels.
        """
        shape = labels.label.shape
        size = plan.side(labels)
        # Blocks do not change the cells, so that the pieces of this lattice are also those of the next one.
        pieces = Pieces.count(labels.label, labels.group, lattice(shape, size, 1), len(labels.classes))
        block = plan.block or default_block(shape, size, pieces)
        cells = lattice(shape, size, block)
        splits = choose_splits(pieces, cells, plan.shares, plan.seed)
        in_whole_parcels, crossing = keep_parcels_whole(labels.label, labels.group, pieces, cells, splits)
        remaining = keep_distance(in_whole_parcels, cells, splits, plan.distance / resolution)
        before = _labeled_pixels(labels.label)
        between = _labeled_pixels(in_whole_parcels)
        noun = "group" if plan.group_column else labels.account.noun
        lost = {
            f"belonged to {noun}s that lie mostly in another split": before - between,
            f"lay within {plan.distance:g} m of labels of another split": between - _labeled_pixels(remaining),
        }
        assignment = cls(tuple(cells), splits, remaining, block, crossing, lost)
        assignment._check(plan)
        return assignment

    def _check(self, plan: ChipPlan) -> None:
        for number, share in enumerate(plan.shares):
            has_labels = any(cell.has_labels(self.label) for cell in self.of_split(number))
            if share and not has_labels:
                raise InputError(
                    f"{SPLITS[number]} split",
                    found=f"no labels left; lost pixels: {self.lost}",
                    expected="labels in every split",
                    repair="use smaller chips (--size), a smaller --distance, or another --seed.",
                )

    def of_split(self, number: int) -> Iterator[Cell]:
        """Return the cells of a split."""
        return (cell for cell, split in zip(self.cells, self.splits, strict=True) if split == number)

    def chips(self, prefix: str) -> list[Chip]:
        """Return the cells with labels as chips to write."""
        chips = []
        for cell, split in zip(self.cells, self.splits, strict=True):
            if split != NO_SPLIT and cell.has_labels(self.label):
                name = f"{prefix}_r{cell.row:03d}_c{cell.column:03d}"
                chips.append(Chip(name, SPLITS[split], cell))
        return chips


def _labeled_pixels(label: np.ndarray) -> int:
    return int((label != IGNORE).sum())


@dataclass(frozen=True)
class Chip:
    """A chip to write."""

    name: str
    split: str
    cell: Cell

    def label(self, raster: np.ndarray) -> np.ndarray:
        """Return the values ``(h, w)`` of a raster of the scene in the core of the chip, and -1 around it."""
        area = self.cell.area
        core = self.cell.core
        label = np.full((area.height, area.width), IGNORE, np.int64)
        inside = Area(core.row - area.row, core.column - area.column, core.height, core.width)
        label[window(inside)] = raster[window(core)]
        return label
