"""From a source of samples to batches, identical for any number of processes.

Random numbers are drawn from (seed, epoch, index), so that neither the number of workers nor that of processes nor a
restart changes the augmentation of a sample.
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
    """The samples of a source, prepared for training or evaluation. Keys are (epoch, index).

    Args:
        source: Source of the samples.
        frames: Largest number of frames of a series.
        resize: Rows and columns by sensor and for ``label``.
        augment: Augmentations of training; None in evaluation.
        seed: Seed of the augmentations.
        prepare: Function that computes targets from the label of a whole chip, before any crop.
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
        sample = self.source.read(number, choose)
        sample = resize(sample, dict(self.resize))
        return sample if self.prepare is None else self.prepare(sample)


class BatchesOfProcess(Sampler[list[Key]]):
    """Batches of one process, which know the epoch.

    Args:
        rank: Number of this process.
        world: Number of processes.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the trainer calls this before each one."""
        self.epoch = epoch


class EpochBatches(BatchesOfProcess):
    """The part of each batch that this process computes.

    Samples are shuffled by (seed, epoch). Each global batch is distributed over the processes, so that together they
    take the same steps as a single process. In training, a last batch smaller than the number of processes is left
    out; in evaluation, every sample comes exactly once.

    Args:
        length: Number of samples.
        batch_size: Samples of a batch over all processes.
        shuffle: Whether to shuffle (training) or to keep the order (evaluation).
        seed: Seed of the shuffle.
        rank: Number of this process.
        world: Number of processes.
    """

    def __init__(
        self, length: int, batch_size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(rank, world)
        self.length = length
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed

    def __len__(self) -> int:
        return sum(1 for _ in self._local_batches())

    def __iter__(self) -> Iterator[list[Key]]:
        for indices in self._local_batches():
            yield [(self.epoch, int(index)) for index in indices]

    def _local_batches(self) -> Iterator[np.ndarray]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for start in range(0, self.length, self.batch_size):
            batch = order[start : start + self.batch_size]
            if self.shuffle and len(batch) < self.world:
                continue
            local = batch[self.rank :: self.world]
            if len(local):
                yield local


def collate_by_shape(samples: Sequence[Sample]) -> list[Batch]:
    """Return batches of samples that share sensors, rows and columns, and the shape of the label.

    The output of a model has the size of the label or of the finest sensor in a batch, so that otherwise the output
    for a sample would depend on the other samples in its batch.
    """
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        sizes = tuple((name, tuple(image.shape[1:])) for name, image in sorted(sample.images.items()))
        label_size = None if sample.label is None else tuple(sample.label.shape)
        groups.setdefault((sizes, label_size), []).append(sample)
    return [collate(group) for group in groups.values()]


def load(split: Split, batches: EpochBatches, workers: int, collate: Callable = collate) -> DataLoader:
    """Return a loader of the batches of a split, put together by ``collate``."""
    return DataLoader(
        split,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
