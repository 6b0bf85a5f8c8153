"""Several sources of pre-training as one, in fixed shares: synthetic land beside real shards, say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource
from agrifm.pretraining.stream import Order, pattern
from agrifm.sample import Sample

_SPAN = 1 << 41  # indices of one source


@dataclass(frozen=True)
class SequentialOrder:
    """The order of samples that are made as they are asked for: each once."""

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at these positions."""
        return [(0, position) for position in range(start, start + count)]

    def spread(self, indices: list[int]) -> np.ndarray:
        """Processes get neighbors, and with them every sensor."""
        return (np.arange(len(indices)) + 0.5) / max(1, len(indices))


@dataclass(frozen=True)
class Blend:
    """The samples of several sources, numbered one source after the other; a ``SampleSource``."""

    sources: tuple[SampleSource, ...]

    def __len__(self) -> int:
        return len(self.sources) * _SPAN

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames."""
        number, inner = divmod(index, _SPAN)
        return self.sources[number].read(inner, frames)


@dataclass(frozen=True)
class BlendOrder:
    """The order of a blend: each source in its own order, and of every stretch its share.

    Args:
        orders: Orders of the sources.
        shares: How many samples of each are drawn, as whole numbers in a ratio.
    """

    orders: tuple[Order, ...]
    shares: tuple[int, ...]

    @cached_property
    def pattern(self) -> np.ndarray:
        """Which source is at each position of a period."""
        return pattern(np.array(self.shares) // gcd(*self.shares))

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at these positions."""
        turns, rest = divmod(start, len(self.pattern))
        which = self.pattern[np.arange(start, start + count) % len(self.pattern)]
        found: list[tuple[int, int]] = [(0, 0)] * count
        for number, own in enumerate(self.orders):
            mine = np.flatnonzero(which == number)
            before = turns * int((self.pattern == number).sum()) + int((self.pattern[:rest] == number).sum())
            for place, (lap, index) in zip(mine, own.order(before, len(mine)), strict=True):
                found[place] = (lap, number * _SPAN + index)
        return found

    def spread(self, indices: list[int]) -> np.ndarray:
        """As each source spreads its own samples of the batch."""
        numbers, inner = np.divmod(np.array(indices), _SPAN)
        found = np.empty(len(indices))
        for number, own in enumerate(self.orders):
            found[numbers == number] = own.spread(inner[numbers == number].tolist())
        return found
