"""Samples of pre-training: their sources, their endless order, and their views for student and teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from agrifm.config import Experiment, ShardsConfig
from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.data.loader import Key
from agrifm.data.transforms import Augment, perturb, pick_frames
from agrifm.pretraining.blend import Blend, BlendOrder, SequentialOrder
from agrifm.pretraining.shards import Shards
from agrifm.pretraining.stream import Order, Stream, StreamBatches
from agrifm.sample import Batch, Sample, collate
from agrifm.sensors import Sensor
from agrifm.synthetic.landcover import SyntheticLandCover

SYNTHETIC = "synthetic"
VALIDATION_SEED = 1 << 30  # added to the seed of the experiment for the synthetic samples of validation


@dataclass(frozen=True)
class Views:
    """Two views of the same samples; only one without a teacher."""

    student: Batch
    teacher: Batch | None = None

    @classmethod
    def of(cls, samples: Sequence[tuple[Sample, ...]]) -> Views:
        """Collate the views of several samples."""
        batches = [collate(views) for views in zip(*samples, strict=True)]
        return cls(*batches)

    def __len__(self) -> int:
        return len(self.student)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the samples."""
        return self.student.names

    def to(self, device: torch.device | str) -> Views:
        """Move every tensor."""
        teacher = None if self.teacher is None else self.teacher.to(device)
        return Views(self.student.to(device), teacher)


@dataclass(frozen=True)
class AugmentedViews(Dataset):
    """Views of samples for training; keys are (position, index).

    All views of a sample have the same flips and rotations, so that they show the same ground. Each one has frames,
    noise and masked frames of its own.

    Args:
        source: Samples.
        frames: Largest number of frames; None keeps all.
        augment: Augmentation.
        seed: Seed of everything random.
        views: Number of views of each sample.
    """

    source: SampleSource
    frames: int | None
    augment: Augment
    seed: int
    views: int

    def __getitem__(self, index: Key) -> tuple[Sample, ...]:
        sample = self.source.read(index[1])
        return tuple(self._view(sample, [self.seed, *index], view) for view in range(self.views))

    def _view(self, sample: Sample, seed: list[int], view: int) -> Sample:
        shared_rng = np.random.default_rng([*seed, 0])
        view_rng = np.random.default_rng([*seed, 1 + view])
        sample = pick_frames(sample, self.augment.frames(self.frames, view_rng))
        return perturb(self.augment(sample, shared_rng), self.augment, view_rng)


@dataclass(frozen=True)
class Unlabeled:
    """A source whose samples have no label."""

    source: SampleSource

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample."""
        return replace(self.source.read(index, frames), label=None)


def open_pretraining_sources(experiment: Experiment, shards: ShardsConfig) -> dict[str, SampleSource]:
    """Open the samples for training and validation.

    Raises:
        InputError: If a data set is missing or damaged.
    """
    sensors = experiment.data.sensors
    train = Blend(tuple(_open(place, shards, sensors, experiment.seed) for place in shards.train))
    val = _open(shards.val, shards, sensors, experiment.seed + VALIDATION_SEED)
    first = range(min(shards.val_samples, len(val)))
    return {"train": train, "val": SampleSubset(val, tuple(first))}


def _open(place: str, shards: ShardsConfig, sensors: Sequence[Sensor], seed: int) -> SampleSource:
    if place == SYNTHETIC:
        return SyntheticLandCover(seed=seed, sensors=tuple(sensors))
    return Shards.open(place, damaged=shards.damaged)


def training_shards(sources: Mapping[str, SampleSource]) -> list[Shards]:
    """The data sets of shards among the sources of training."""
    train = sources["train"]
    if not isinstance(train, Blend):
        return []
    return [source for source in train.sources if isinstance(source, Shards)]


def fingerprint(sources: Mapping[str, SampleSource]) -> str:
    """Checksums of the shards of training, which a resumed run compares."""
    return " ".join(shards.fingerprint for shards in training_shards(sources))


def with_order(experiment: Experiment, train: Blend, world: int = 1) -> tuple[Blend, BlendOrder]:
    """The samples and their order.

    Args:
        experiment: A pre-training experiment.
        train: Sources of training.
        world: Number of processes, which decides how many shards each one holds in memory.
    """
    shards = experiment.data.shards
    assert shards is not None
    sources: list[SampleSource] = []
    orders: list[Order] = []
    for source in train.sources:
        if isinstance(source, Shards):
            stream = Stream(source.groups, _sensor_weights(shards, source), shards.shuffle_window, experiment.seed)
            source = replace(source, keep=stream.shards_to_cache(world))
            orders.append(stream)
        else:
            orders.append(SequentialOrder())
        sources.append(source)
    weights = shards.sampling_weights or (1,) * len(orders)
    return Blend(tuple(sources)), BlendOrder(tuple(orders), weights)


def _sensor_weights(config: ShardsConfig, shards: Shards) -> dict[str, float] | None:
    """Sampling weights of the sensors of a data set; None if all are equal."""
    if not config.sensor_sampling_weights:
        return None
    return {sensor: config.sensor_sampling_weights.get(sensor, 0.0) for sensor in shards.groups}


def train_loader(experiment: Experiment, train: Blend, rank: int, world: int) -> DataLoader[Views]:
    """Batches in the endless order; an epoch is a stretch of it."""
    shards = experiment.data.shards
    assert shards is not None
    training = experiment.training
    source, order = with_order(experiment, train, world)
    view_count = 2 if experiment.teacher else 1
    views = AugmentedViews(source, experiment.data.frames, experiment.augment, experiment.seed, view_count)
    batches = StreamBatches(order, shards.epoch_size, training.batch_size, rank=rank, world=world)
    return DataLoader(
        views,
        batch_sampler=batches,
        collate_fn=Views.of,
        num_workers=training.workers,
        persistent_workers=training.workers > 0,
    )
