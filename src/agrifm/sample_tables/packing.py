"""Chips of samples: pixels of one block, split and season side by side, although they are no neighbors on the ground.

One file for each sample would take longer to open than to read. Models of single pixels do not look at neighbors, so
that pixels of a chip may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import torch

from agrifm.chips.classes import IGNORE
from agrifm.chips.spatial_split import SPLITS
from agrifm.data.growing_season import date_of
from agrifm.sample import Sample, Season
from agrifm.sample_tables.splits import Division
from agrifm.sample_tables.table import SampleTable

FEWEST_BINS = 20  # of a split, which are the blocks of a cross-validation
MOST_BINS = 100  # more blocks are put together, so that there are few files
SAMPLES_IN_BIN = 8
LARGEST_SIDE = 16  # pixels along the side of a chip


@dataclass(frozen=True)
class PackedChip:
    """A chip and the samples that it holds.

    Args:
        name: Name of the chip.
        split: Name of its split.
        block: Name of its block; chips of one block stay in one fold.
        samples: Number of the sample of each pixel, row by row; the pixels after the last one are empty.
        side: Rows and columns of the chip.
    """

    name: str
    split: str
    block: str
    samples: np.ndarray
    side: int

    def sample(self, table: SampleTable, classes: np.ndarray) -> Sample:
        """Return the series and the labels of the chip.

        Args:
            table: All samples.
            classes: Number of the class of each of them ``(n)``.
        """
        first = np.searchsorted(table.sample, self.samples)
        last = np.searchsorted(table.sample, self.samples, side="right")
        pixel = np.repeat(np.arange(len(self.samples)), last - first)
        rows = np.concatenate([np.arange(start, end) for start, end in zip(first, last, strict=True)])
        days, frame = np.unique(table.days[rows], return_inverse=True)
        pixels = self.side**2
        image = np.zeros((len(days), pixels, table.values.shape[1]), np.float32)
        seen = np.zeros((len(days), pixels), bool)
        image[frame, pixel] = table.values[rows]
        seen[frame, pixel] = True
        label = np.full(pixels, IGNORE, np.int64)
        label[: len(self.samples)] = classes[self.samples]
        shape = (self.side, self.side)
        name = table.sensor.name
        bands_second = np.ascontiguousarray(image.transpose(0, 2, 1))
        return Sample(
            images={name: torch.from_numpy(bands_second).unflatten(-1, shape)},
            dates={name: torch.from_numpy(days)},
            valid={name: torch.from_numpy(seen).unflatten(-1, shape)},
            label=torch.from_numpy(label).unflatten(-1, shape),
            name=self.name,
        )


def pack(table: SampleTable, division: Division, seed: int) -> list[PackedChip]:
    """Put samples into chips of one size.

    Args:
        table: The samples.
        division: Their splits and blocks.
        seed: Seed of the order of the blocks.
    """
    bins = _bins(division, seed)
    begin = _season_begins(table)
    keys = np.stack([division.split, bins, begin])
    groups, group = np.unique(keys, axis=1, return_inverse=True)
    sizes = np.bincount(group.ravel())
    side = min(LARGEST_SIDE, ceil(sqrt(np.median(sizes))))
    chips = []
    for number, (split, bin_number, day) in enumerate(groups.T):
        members = np.flatnonzero(group.ravel() == number)
        block = f"{SPLITS[split]}_{bin_number:03d}"
        for part, samples in enumerate(_parts(members, side**2)):
            name = f"{block}_{date_of(float(day)).year}_{part:02d}"
            chips.append(PackedChip(name, SPLITS[split], block, samples, side))
    return chips


def _bins(division: Division, seed: int) -> np.ndarray:
    """Number of the bin of each sample ``(n)`` within its split; a bin holds whole blocks."""
    rng = np.random.default_rng(seed)
    bins = np.zeros(len(division.split), np.int64)
    for split in np.unique(division.split):
        members = np.flatnonzero(division.split == split)
        blocks, block = np.unique(division.block[members], return_inverse=True)
        count = min(max(len(members) // SAMPLES_IN_BIN, FEWEST_BINS), MOST_BINS)
        bins[members] = rng.permutation(len(blocks))[block] % count
    return bins


def _season_begins(table: SampleTable) -> np.ndarray:
    """Day on which the season of each sample begins ``(n)``: the samples of a chip share it."""
    spans = table.spans
    season = Season.of([(float(first), float(last)) for first, last in spans])
    begins = season.begin(torch.from_numpy(spans[:, 0]).double()).round().long().numpy()
    # Days of one season differ by rounding; those of two seasons lie a year apart.
    return np.round((begins - begins.min()) / 365.25).astype(np.int64) * 365 + begins.min()


def _parts(members: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(members), size):
        yield members[start : start + size]
