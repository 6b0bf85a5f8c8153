"""The endless order in which training reads samples: mixed by sensor, shuffled in windows, known at any position.

Within a window only a few shards are needed, so each is fetched once in a pass. Everything follows from the seed and
the position: any slice of the order is the same in every process and after every restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isfinite, lcm
from typing import Protocol

import numpy as np

from agrifm.data.loader import BatchesOfProcess, Key
from agrifm.data.randomness import key
from agrifm.errors import InputError, nearest
from agrifm.pretraining.interleave import Interleaving
from agrifm.pretraining.shards import Groups

_LARGEST_DENOMINATOR = 1000  # of a sampling weight


@dataclass(frozen=True, eq=False)
class SensorPass:
    """One pass over the samples of a sensor.

    Args:
        seed: Seed of the order of the shards and of all windows.
        sizes: Number of samples of each shard ``(n)``.
        first_index: Index of the first sample of each shard ``(n)``.
        window: Number of samples after which a window ends, together with the shard that is open then.
    """

    seed: tuple[int, ...]
    sizes: np.ndarray
    first_index: np.ndarray
    window: int

    @cached_property
    def shards(self) -> np.ndarray:
        """The shards in random order."""
        return np.random.default_rng(self.seed).permutation(len(self.sizes))

    @cached_property
    def shard_starts(self) -> np.ndarray:
        """Position in the pass at which each shard of the order starts."""
        sizes = self.sizes[self.shards]
        return np.cumsum(sizes) - sizes

    @cached_property
    def window_bounds(self) -> np.ndarray:
        """Place in the order of the first shard of each window; the last entry is the number of shards."""
        changes = np.flatnonzero(np.diff(self.shard_starts // self.window)) + 1
        return np.concatenate([[0], changes, [len(self.sizes)]])

    def indices(self, start: int, stop: int) -> np.ndarray:
        """Indices of the samples at positions ``start`` to ``stop`` of the pass."""
        window_starts = self.shard_starts[self.window_bounds[:-1]]
        first_window = np.searchsorted(window_starts, start, "right") - 1
        end_window = np.searchsorted(window_starts, stop, "left")
        windows = [self._shuffled(number) for number in range(first_window, end_window)]
        offset = window_starts[first_window]
        return np.concatenate(windows)[start - offset : stop - offset]

    def _shuffled(self, number: int) -> np.ndarray:
        """The samples of a window: those of each shard in random order, spread evenly over the window."""
        first, end = self.window_bounds[number : number + 2]
        shards = self.shards[first:end]
        rng = np.random.default_rng([*self.seed, number])
        # All permutations are drawn before all positions: the order of the draws decides the order of the samples.
        samples = []
        for shard in shards:
            permutation = rng.permutation(self.sizes[shard])
            samples.append(self.first_index[shard] + permutation)
        # Positions in the window from 0 to 1: one in each of as many equal parts as the shard has samples.
        positions = []
        for size in self.sizes[shards]:
            parts = np.arange(size) + rng.random(size)
            positions.append(parts / size)
        order = np.concatenate(positions).argsort()
        return np.concatenate(samples)[order]


class Order(Protocol):
    """An endless order of samples."""

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at positions ``start`` to ``start + count``."""
        ...

    def spread(self, indices: list[int]) -> np.ndarray:
        """A number for each sample of a batch ``(n)``; each process gets samples whose numbers are neighbors."""
        ...


class Stream:
    """The endless order of the samples of shards; an ``Order``.

    Args:
        groups: By sensor, the index of its first sample and the number of samples of each of its shards.
        weights: Sampling weights of the sensors, as a ratio that is rounded to thousandths; equal if None.
        window: Approximate number of samples that are shuffled together.
        seed: Seed of everything random.

    Raises:
        InputError: If a weight is missing, negative or of an unknown sensor, or the window is empty.
    """

    def __init__(
        self, groups: Groups, weights: Mapping[str, float] | None = None, window: int = 2048, seed: int = 0
    ) -> None:
        if weights is None:
            weights = dict.fromkeys(groups, 1.0)
        _check(groups, weights, window)
        self.groups = dict(groups)
        self.window = window
        self.seed = seed
        self.sensors = tuple(sensor for sensor in groups if weights[sensor] > 0)
        self.totals = {sensor: sum(sizes) for sensor, (_, sizes) in groups.items()}
        self._interleaving = Interleaving(_proportions([weights[sensor] for sensor in self.sensors]))
        self._passes: dict[str, tuple[int, SensorPass]] = {}  # the last one of each sensor, with its number

    @property
    def shards_per_window(self) -> int:
        """Largest number of shards of a sensor that a window touches."""
        most = 0
        for sensor in self.sensors:
            sizes = np.sort(self.groups[sensor][1])
            shards = int(np.searchsorted(np.cumsum(sizes), self.window)) + 1
            most = max(most, min(len(sizes), shards))
        return most

    def shards_to_cache(self, world: int) -> int:
        """Number of shards of a sensor that each of several processes should hold: its part of a window, and two."""
        return min(self.shards_per_window, 2 * self.shards_per_window // world + 2)

    def order(self, start: int, count: int) -> list[tuple[int, int]]:
        """Pass and index of the samples at positions ``start`` to ``start + count``."""
        samples = np.empty((count, 2), np.int64)
        for number, positions, before in self._interleaving.slice(start, count):
            sensor = self.sensors[number]
            samples[positions] = self._samples_of(sensor, before, len(positions))
        return [(pass_number, index) for pass_number, index in samples.tolist()]

    def spread(self, indices: list[int]) -> np.ndarray:
        """Rank of each sample of a batch among those of its sensor ``(n)``, in 0..1.

        Samples with similar ranks come from the same shards.
        """
        samples = np.array(indices)
        ranks = np.empty(len(indices))
        for sensor in self.sensors:
            first, _ = self.groups[sensor]
            of_sensor = (samples >= first) & (samples < first + self.totals[sensor])
            rank = samples[of_sensor].argsort().argsort()  # the position of each sample in ascending order
            ranks[of_sensor] = (rank + 0.5) / of_sensor.sum()
        return ranks

    def _samples_of(self, sensor: str, start: int, count: int) -> np.ndarray:
        """Pass and index ``(count, 2)`` of the samples of a sensor from its own position ``start`` on."""
        total = self.totals[sensor]
        samples = np.empty((count, 2), np.int64)
        done = 0
        while done < count:
            pass_number, position = divmod(start + done, total)
            stop = min(total, position + count - done)
            indices = self._pass(sensor, pass_number).indices(position, stop)
            part = samples[done : done + len(indices)]
            part[:, 0] = pass_number
            part[:, 1] = indices
            done += len(indices)
        return samples

    def _pass(self, sensor: str, number: int) -> SensorPass:
        cached = self._passes.get(sensor)
        if cached is not None and cached[0] == number:
            return cached[1]
        first, shard_sizes = self.groups[sensor]
        sizes = np.array(shard_sizes)
        first_index = first + np.cumsum(sizes) - sizes
        sensor_pass = SensorPass((self.seed, key(sensor), number), sizes, first_index, self.window)
        self._passes[sensor] = number, sensor_pass
        return sensor_pass


class StreamBatches(BatchesOfProcess):
    """The part of each batch that one process reads; keys are (position, index).

    An epoch is a stretch of the stream. Each global batch is dealt out over the processes, so that together they take
    the same steps as one process, each sees its share of every sensor, and few of them need the same shard.

    Args:
        stream: Order of the samples.
        epoch_size: Samples of an epoch, a multiple of the batch.
        batch_size: Samples of a batch over all processes.
        rank: Number of this process.
        world: Number of processes.

    Raises:
        InputError: If an epoch is no whole number of batches, or a batch holds less than one sample for each process.
    """

    def __init__(self, stream: Order, epoch_size: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        if batch_size < world or epoch_size < batch_size or epoch_size % batch_size:
            raise InputError(
                "training: batch_size",
                found=f"{batch_size} for {world} processes and epochs of {epoch_size} samples",
                expected="at least one sample for each process, and epochs of whole batches",
                repair="set an epoch to a multiple of batch_size, and batch_size to at least the processes.",
            )
        super().__init__(rank, world)
        self.stream = stream
        self.epoch_size = epoch_size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.epoch_size // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        begin = self.rank * self.batch_size // self.world
        end = (self.rank + 1) * self.batch_size // self.world
        first = self.epoch * self.epoch_size
        for start in range(first, first + self.epoch_size, self.batch_size):
            samples = self.stream.order(start, self.batch_size)
            indices = [index for _, index in samples]
            ranking = self.stream.spread(indices).argsort(kind="stable")
            positions = np.sort(ranking[begin:end]).tolist()
            yield [(start + position, indices[position]) for position in positions]


def _check(groups: Groups, weights: Mapping[str, float], window: int) -> None:
    for sensor in weights:
        if sensor not in groups:
            raise InputError(
                "weights", found=f"'{sensor}'", expected="sensors of the data set", repair=nearest(sensor, groups)
            )
    is_valid = all(isfinite(weight) and weight >= 0 for weight in weights.values())
    missing = set(groups) - set(weights)
    if window < 1 or missing or not is_valid or not any(weights.values()):
        raise InputError(
            "weights and window",
            found=f"weights {dict(weights)} and a window of {window}",
            expected=f"a window of at least 1; for each of {', '.join(groups)} a weight, 0 or more, and not all 0",
            repair="set them.",
        )


def _proportions(weights: list[float]) -> np.ndarray:
    """Whole numbers in the ratio of the weights ``(n)``, whose sum stays small."""
    largest = max(weights)
    fractions = [Fraction(weight / largest).limit_denominator(_LARGEST_DENOMINATOR) for weight in weights]
    scale = lcm(*[fraction.denominator for fraction in fractions])
    if scale > 10 * _LARGEST_DENOMINATOR:
        # The common denominator is too large: round to thousandths, so that no sensor disappears.
        return np.array([max(1, round(fraction * _LARGEST_DENOMINATOR)) for fraction in fractions])
    return np.array([int(fraction * scale) for fraction in fractions])
