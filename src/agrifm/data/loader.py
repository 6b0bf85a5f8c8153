"""From a source of samples to batches, the same in one process or many.

Randomness is drawn from (seed, epoch, index), so that neither the number of workers nor that of processes
nor a restart changes what a sample looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource
from agrifm.data.transforms import Augment, resize, spread_frames
from agrifm.sample import Batch, Sample, collate

Key = tuple[int, int]


@dataclass(frozen=True)
class Split(Dataset):
    """A source as training or evaluation sees it; keys are (epoch, index).

    Args:
        source: where samples are read.
        frames: at most this many frames of every series.
        resize: rows and columns by sensor and for ``label``.
        augment: random steps of training; None in evaluation.
        seed: of the random steps.
        prepare: makes targets of the label of a whole chip, before any crop.
    """

    source: SampleSource
    frames: int | None = None
    resize: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    augment: Augment | None = None
    seed: int = 0
    prepare: Callable[[Sample], Sample] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Key) -> Sample:
        epoch, number = index
        if self.augment is None:
            choose = None if self.frames is None else spread_frames(self.frames)
            return self._read(number, choose)
        rng = np.random.default_rng([self.seed, epoch, number])
        needs_choice = self.frames is not None or self.augment.drop_frames > 0
        choose = self.augment.frames(self.frames, rng) if needs_choice else None
        return self.augment(self._read(number, choose), rng)

    def _read(self, number: int, choose: FrameChoice | None) -> Sample:
        sample = resize(self.source.read(number, choose), dict(self.resize))
        return sample if self.prepare is None else self.prepare(sample)


class EpochBatches(Sampler[list[Key]]):
    """This process's share of each batch.

    Shuffled by (seed, epoch). Each global batch is dealt out over the processes, so that together they do the
    same steps as one process; a last batch smaller than the number of processes is left out of training.

    Args:
        length: number of samples.
        batch_size: samples of a batch over all processes.
        shuffle: training; else in order, and every sample exactly once over all processes.
        seed: of the shuffle.
        rank, world: this process and how many there are.
    """

    def __init__(
        self, length: int, batch_size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world, self.epoch = rank, world, 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(1 for _ in self._shares())

    def __iter__(self) -> Iterator[list[Key]]:
        for share in self._shares():
            yield [(self.epoch, int(index)) for index in share]

    def _shares(self) -> Iterator[np.ndarray]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for start in range(0, self.length, self.batch_size):
            batch = order[start : start + self.batch_size]
            share = batch[self.rank :: self.world]
            if len(share) and (len(batch) >= self.world or not self.shuffle):
                yield share


def alike(samples: Sequence[Sample]) -> list[Batch]:
    """Batches of samples that have the same sensors with the same rows and columns, and labels of one shape.

    The output of a model has the size of the label or of the finest sensor in a batch, so that what becomes of a sample
    must not depend on which others are in it.
    """
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        sizes = tuple((name, tuple(image.shape[1:])) for name, image in sorted(sample.images.items()))
        label = None if sample.label is None else tuple(sample.label.shape)
        groups.setdefault((sizes, label), []).append(sample)
    return [collate(group) for group in groups.values()]


def load(split: Split, batches: EpochBatches, workers: int, collate: Callable = collate) -> DataLoader:
    """Batches of a split, as ``collate`` makes them of samples."""
    return DataLoader(
        split,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
