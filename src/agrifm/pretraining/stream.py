"""The endless order in which training meets samples: mixed by sensor, shuffled in windows, found at any position.

Within a window only a few shards are needed, so that each is fetched once in a pass. Everything follows from the seed
and the position: any slice of the order is the same in every process and after every restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isfinite, lcm
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from agrifm.data.loader import Key
from agrifm.data.randomness import key
from agrifm.errors import InputError, nearest
from agrifm.pretraining.shards import Groups

_FINEST = 1000  # largest denominator of a weight
LONGEST = 100_000  # positions of a period, which is held in memory


@dataclass(frozen=True)
class SensorPass:
    """One pass over the samples of a sensor.

    Args:
        seed: Seed of all windows.
        sizes: Samples of each shard ``(n)``.
        first: Index of each shard's first sample ``(n)``.
        window: Samples after whose number a window ends, with the shard that is open then.
    """

    seed: tuple[int, ...]
    sizes: np.ndarray
    first: np.ndarray
    window: int

    @cached_property
    def shards(self) -> np.ndarray:
        """The shards in their order."""
        return np.random.default_rng(self.seed).permutation(len(self.sizes))

    @cached_property
    def starts(self) -> np.ndarray:
        """Place in the pass at which each shard of the order starts."""
        return np.cumsum(self.sizes[self.shards]) - self.sizes[self.shards]

    @cached_property
    def windows(self) -> np.ndarray:
        """Place in the order of the first shard of each window, and the number of shards."""
        changes = np.flatnonzero(np.diff(self.starts // self.window)) + 1
        return np.concatenate([[0], changes, [len(self.sizes)]])

    def indices(self, start: int, stop: int) -> np.ndarray:
        """Indices of the samples at these places in the pass."""
        begin = np.append(self.starts[self.windows[:-1]], self.sizes.sum())
        low, high = np.searchsorted(begin, start, "right") - 1, np.searchsorted(begin, stop, "left")
        parts = [self._shuffled(number) for number in range(low, high)]
        return np.concatenate(parts)[start - begin[low] : stop - begin[low]]

    def _shuffled(self, number: int) -> np.ndarray:
        """The samples of a window: those of each shard in random order, spread evenly over the window."""
        shards = self.shards[self.windows[number] : self.windows[number + 1]]
        draw = np.random.default_rng([*self.seed, number])
        samples = np.concatenate([self.first[i] + draw.permutation(self.sizes[i]) for i in shards])
        turns = np.concatenate([(np.arange(size) + draw.random(size)) / size for size in self.sizes[shards]])
        return samples[turns.argsort()]


class Stream:
    """The order of samples, without end.

    Args:
        groups: Groups by sensor, index of its first sample and how many samples each of its shards holds.
        weights: How often sensors are drawn, as a ratio; equal if not given. Their thousandths count.
        window: Samples that are shuffled together, about.
        seed: Seed of everything.

    Raises:
        InputError: If a weight names no sensor that is there, lacks or is negative, or the window is empty.
    """

    def __init__(
        self, groups: Groups, weights: Mapping[str, float] | None = None, window: int = 2048, seed: int = 0
    ) -> None:
        weights = dict.fromkeys(groups, 1.0) if weights is None else weights
        _check(groups, weights, window)
        self.sensors = tuple(sensor for sensor in groups if weights[sensor] > 0)
        self.groups, self.window, self.seed = dict(groups), window, seed
        self.totals = {sensor: sum(sizes) for sensor, (_, sizes) in groups.items()}
        parts = [
            Fraction(weights[sensor] / max(weights.values())).limit_denominator(_FINEST) for sensor in self.sensors
        ]
        scale = lcm(*(part.denominator for part in parts))
        if scale > 10 * _FINEST:
            parts, scale = [Fraction(max(1, round(part * _FINEST)), _FINEST) for part in parts], _FINEST
        self.shares = np.array([int(part * scale) for part in parts])
        self.pattern = pattern(self.shares)
        self._laps: dict[str, tuple[int, SensorPass]] = {}

    @property
    def held(self) -> int:
        """How many shards of a sensor a window may touch."""
        sizes = [np.sort(self.groups[sensor][1]) for sensor in self.sensors]
        return max(min(len(x), int(np.searchsorted(np.cumsum(x), self.window)) + 1) for x in sizes)

    def kept(self, world: int) -> int:
        """How many shards of a sensor one of several processes holds: its share of a window, and neighbors."""
        return min(self.held, 2 * self.held // world + 2)

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at positions ``start`` to ``start + count``."""
        turns, rest = divmod(start, len(self.pattern))
        which = self.pattern[np.arange(start, start + count) % len(self.pattern)]
        found = np.empty((count, 2), np.int64)
        for number, sensor in enumerate(self.sensors):
            before = turns * int(self.shares[number]) + int((self.pattern[:rest] == number).sum())
            mine = which == number
            found[mine] = self._walk(sensor, before, int(mine.sum()))
        return [(int(lap), int(index)) for lap, index in found]

    def spread(self, indices: list[int]) -> np.ndarray:
        """Rank of each sample of a batch among those of its sensor ``(n)``, 0..1: where it is alike, so are shards."""
        found, ranks = np.array(indices), np.empty(len(indices))
        for sensor in self.sensors:
            first = self.groups[sensor][0]
            mine = (found >= first) & (found < first + self.totals[sensor])
            ranks[mine] = (found[mine].argsort().argsort() + 0.5) / mine.sum()
        return ranks

    def _walk(self, sensor: str, start: int, count: int) -> np.ndarray:
        """Pass and index ``(count, 2)`` of a sensor's samples from its own position ``start`` on."""
        parts, total, end = [np.empty((0, 2), np.int64)], self.totals[sensor], start + count
        while start < end:
            number, place = divmod(start, total)
            indices = self._lap(sensor, number).indices(place, min(total, place + end - start))
            parts.append(np.stack([np.full_like(indices, number), indices], 1))
            start += len(indices)
        return np.concatenate(parts)

    def _lap(self, sensor: str, number: int) -> SensorPass:
        if sensor not in self._laps or self._laps[sensor][0] != number:
            first, sizes = self.groups[sensor]
            lengths = np.array(sizes)
            seed = (self.seed, key(sensor), number)
            self._laps[sensor] = number, SensorPass(seed, lengths, first + np.cumsum(lengths) - lengths, self.window)
        return self._laps[sensor][1]


class Order(Protocol):
    """Which sample is at which position."""

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at positions ``start`` to ``start + count``."""
        ...

    def spread(self, indices: list[int]) -> np.ndarray:
        """A number for each sample of a batch ``(n)``: one process gets those whose numbers are next to each other."""
        ...


class StreamBatches(Sampler[list[Key]]):
    """This process's share of each batch; keys are (position, index).

    An epoch is a lap of the stream. Each global batch is dealt out over the processes, so that together they do the
    same steps as one process, each sees its share of every sensor, and a shard is wanted by few of them.

    Args:
        stream: Order of the samples.
        lap: Samples of an epoch, a multiple of the batch.
        batch_size: Samples of a batch over all processes.
        rank, world: This process and how many there are.

    Raises:
        InputError: If a lap is no whole number of batches, or a batch holds less than one sample for each process.
    """

    def __init__(self, stream: Order, lap: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        if batch_size < world or lap < batch_size or lap % batch_size:
            raise InputError(
                "training: batch_size",
                found=f"{batch_size} for {world} processes and epochs of {lap} samples",
                expected="at least one sample for each process, and epochs of whole batches",
                repair="set an epoch to a multiple of batch_size, and batch_size to at least the processes.",
            )
        self.stream, self.lap, self.batch_size = stream, lap, batch_size
        self.rank, self.world, self.epoch = rank, world, 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.lap // self.batch_size

    @property
    def _part(self) -> tuple[int, int]:
        """First place of this process's share of a batch, and the one after its last."""
        return self.rank * self.batch_size // self.world, (self.rank + 1) * self.batch_size // self.world

    def __iter__(self) -> Iterator[list[Key]]:
        first = self.epoch * self.lap
        for start in range(first, first + self.lap, self.batch_size):
            indices = [index for _, index in self.stream.order(start, self.batch_size)]
            mine = self.stream.spread(indices).argsort(kind="stable")[slice(*self._part)]
            yield [(start + int(i), indices[i]) for i in np.sort(mine)]


def _check(groups: Groups, weights: Mapping[str, float], window: int) -> None:
    wrong = next((sensor for sensor in weights if sensor not in groups), None)
    if wrong is not None:
        raise InputError(
            "weights", found=f"'{wrong}'", expected="sensors of the data set", repair=nearest(wrong, groups)
        )
    finite = all(isfinite(weight) and weight >= 0 for weight in weights.values())
    if window < 1 or set(groups) - set(weights) or not finite or not any(weights.values()):
        raise InputError(
            "weights and window",
            found=f"weights {dict(weights)} and a window of {window}",
            expected=f"a window of at least 1; for each of {', '.join(groups)} a weight, 0 or more, and not all 0",
            repair="set them.",
        )


def pattern(shares: np.ndarray) -> np.ndarray:
    """Which of several is at each position of a period: every prefix is within one sample of the shares ``(n)``.

    The next sample of one may come once its share has reached the one before it, and is due before its share has
    passed it by one; the one due first is taken (proportionate fairness: Baruah et al., 1996).
    """
    total, taken = sum(int(share) for share in shares), np.zeros(len(shares), np.int64)
    if total > LONGEST:
        raise InputError(
            "shares",
            found=f"a ratio of {' to '.join(str(share) for share in shares)}",
            expected=f"whole numbers that sum to at most {LONGEST}",
            repair="give the ratio in smaller numbers, e.g. 3 and 1.",
        )
    pattern = np.empty(total, np.int64)
    for position in range(total):
        due = -(-(taken + 1) * total // shares)
        ready = taken * total < (position + 1) * shares
        pattern[position] = np.where(ready, due, total + 1).argmin()
        taken[pattern[position]] += 1
    return pattern
