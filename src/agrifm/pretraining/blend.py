"""Several sources of pre-training as one, in fixed proportions, e.g. synthetic land beside shards of real scenes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource
from agrifm.pretraining.interleave import Interleaving
from agrifm.pretraining.stream import Order
from agrifm.sample import Sample

_SPAN = 1 << 41  # indices that each source has


@dataclass(frozen=True)
class SequentialOrder:
    """The order of samples that are rendered on request: each one once, by its index."""

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at positions ``start`` to ``start + count``."""
        return [(0, position) for position in range(start, start + count)]

    def spread(self, indices: list[int]) -> np.ndarray:
        """Rank of each sample of a batch in 0..1; neighbors show all sensors."""
        return (np.arange(len(indices)) + 0.5) / max(1, len(indices))


@dataclass(frozen=True)
class Blend:
    """The samples of several sources, numbered one source after the other; a ``SampleSource``."""

    sources: tuple[SampleSource, ...]

    def __len__(self) -> int:
        return len(self.sources) * _SPAN

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample, only the chosen frames."""
        number, index_in_source = divmod(index, _SPAN)
        return self.sources[number].read(index_in_source, frames)


@dataclass(frozen=True)
class BlendOrder:
    """The order of a blend: each source in its own order, and of every stretch its share.

    Args:
        orders: Orders of the sources.
        sampling_weights: How many samples of each source are drawn, as whole numbers in a ratio.
    """

    orders: tuple[Order, ...]
    sampling_weights: tuple[int, ...]

    @cached_property
    def _interleaving(self) -> Interleaving:
        return Interleaving(np.array(self.sampling_weights) // gcd(*self.sampling_weights))

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at positions ``start`` to ``start + count``."""
        samples: list[tuple[int, int]] = [(0, 0)] * count
        for number, positions, before in self._interleaving.slice(start, count):
            samples_of_source = self.orders[number].order(before, len(positions))
            first_index = number * _SPAN
            for position, (pass_number, index) in zip(positions, samples_of_source, strict=True):
                samples[position] = (pass_number, first_index + index)
        return samples

    def spread(self, indices: list[int]) -> np.ndarray:
        """Rank of each sample of a batch in 0..1, as its source spreads it."""
        numbers, indices_in_source = np.divmod(np.array(indices), _SPAN)
        ranks = np.empty(len(indices))
        for number, order in enumerate(self.orders):
            of_source = numbers == number
            ranks[of_source] = order.spread(indices_in_source[of_source].tolist())
        return ranks
