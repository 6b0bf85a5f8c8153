"""Pre-training on land-cover fractions with a mean teacher.

The teacher is a moving average of the student (Tarvainen and Valpola, "Mean teachers", NeurIPS 2017). Both see the
same ground with other frames, noise and masked frames. Where the teacher is confident, the student should agree with
it, which evens out the errors of land-cover products.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from agrifm.config import Experiment, ShardsConfig
from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.data.loader import Key
from agrifm.data.transforms import Augment, perturb, pick_frames
from agrifm.errors import InputError
from agrifm.pretraining.blend import Blend, BlendOrder, SequentialOrder
from agrifm.pretraining.shards import Shards
from agrifm.pretraining.stream import Order, Stream, StreamBatches
from agrifm.sample import Batch, Sample, collate
from agrifm.sensors import Sensor
from agrifm.synthetic.landcover import SyntheticLandCover
from agrifm.training.module import TrainingModule
from agrifm.training.parallel import shard, whole_norm

SYNTHETIC = "synthetic"
MAX_NOT_FINITE = 20  # gradients in a row that are not finite and left out, until training stops
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


class MeanTeacher(TrainingModule):
    """The student, and the teacher if the experiment has one.

    Args:
        experiment: An experiment whose task is fractions.
    """

    usual_norm: Tensor

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.teacher = copy.deepcopy(self.model).requires_grad_(False) if experiment.teacher else None
        self.register_buffer("usual_norm", torch.zeros(()))
        self.not_finite = 0  # gradients in a row

    @property
    def judged(self) -> nn.Module:
        """The model that is scored and saved: the teacher if there is one."""
        return self.model if self.teacher is None else self.teacher

    def configure_model(self) -> None:
        """Split the teacher over the processes like the student."""
        super().configure_model()
        if self.teacher is not None and isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.teacher, self.trainer.strategy.device_mesh["data_parallel"])

    def forward(self, batch: Batch) -> Tensor:
        """Return the output of the model that is scored."""
        return self.judged(batch)

    def _keep(self, batch: Views) -> None:  # ty: ignore[incompatible-method-override]
        super()._keep(batch.student)

    def work(self, batch: Views) -> tuple[Batch, int]:  # ty: ignore[incompatible-method-override]
        """The view of the student, and the cost of a step in forward passes; the teacher adds one."""
        return batch.student, 3 if self.teacher is None else 4

    def train(self, mode: bool = True) -> MeanTeacher:
        """Switch training on or off; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def _loss(self, batch: Views) -> Tensor:  # ty: ignore[incompatible-method-override]
        output = self.model(batch.student)
        loss = self._supervised(output, batch.student)
        self.log("loss_fractions", loss.detach())
        config = self.experiment.teacher
        if config is None or batch.teacher is None or self.teacher is None:
            return loss
        with torch.no_grad():
            target = self.task.probabilities(self.teacher(batch.teacher))
            if config.confidence_weighting:
                weight = confidence(target)
            else:
                weight = target.new_ones(target[:, :1].shape)
        difference = (self.task.probabilities(output) - target).abs()
        disagreement = (difference * weight).sum() / self._everywhere(weight.sum())
        self.log("loss_teacher", disagreement.detach())
        return loss + config.weight * self._ramp(config.ramp_up) * disagreement

    def _ramp(self, share: float) -> float:
        """Factor of the teacher's loss, which rises from 0 to 1 over the first share of all steps."""
        steps = share * int(self.trainer.estimated_stepping_batches)
        if self.global_step >= steps:
            return 1.0
        return math.exp(-5 * (1 - self.global_step / steps) ** 2)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave out a step whose gradient is not finite or many times larger than usual.

        The usual norm also follows the large gradients that are left out, but each one only counts as the limit: after
        a lasting rise it takes some dozen steps to reach the new level, while a single gradient hardly changes it.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = whole_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        self.log("gradient_norm", norm)
        factor = self.experiment.training.gradient_spike_factor
        usual = self.usual_norm
        is_finite = bool(norm.isfinite())
        is_spike = factor is not None and float(usual) > 0 and bool(norm > factor * usual)
        if factor is not None and (is_spike or not is_finite):
            for parameter in parameters:
                parameter.grad = None  # with zeros in its place, momentum and weight decay would move the weights
            self.log("steps_left_out", 1.0, reduce_fx="sum")
            self._count_not_finite(norm)
            norm = factor * usual if is_finite else usual
        else:
            self.not_finite = 0
        usual.copy_(norm if float(usual) == 0 else 0.95 * usual + 0.05 * norm)

    def _count_not_finite(self, norm: Tensor) -> None:
        """Stop a run whose gradients stay not finite, which would learn nothing without a message."""
        if bool(norm.isfinite()):
            self.not_finite = 0
            return
        self.not_finite += 1
        if self.not_finite == MAX_NOT_FINITE:
            raise InputError(
                f"step {self.global_step}",
                found=f"{MAX_NOT_FINITE} gradients in a row that are not finite",
                expected="finite gradients",
                repair="lower training.learning_rate, or use training.precision 32-true.",
            )

    def on_train_batch_end(self, outputs: object, batch: Views, batch_idx: int) -> None:
        """Update the teacher after each optimizer step."""
        if self.teacher is None or (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        config = self.experiment.teacher
        assert config is not None
        # The first steps change the student most, so the teacher follows faster then.
        decay = min(config.decay, (1 + self.global_step) / (10 + self.global_step))
        update_teacher(self.teacher, self.model, decay)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the weights of the teacher towards those of the student: ``decay * teacher + (1 - decay) * student``."""
    for averaged, current in zip(teacher.parameters(), student.parameters(), strict=True):
        averaged.lerp_(current, 1 - decay)


def confidence(shares: Tensor) -> Tensor:
    """Confidence in the shares of each cell ``(b, 1, h, w)``: 1 for a single class, 0 for equal shares of all."""
    entropy = -(shares * shares.clamp(min=1e-8).log()).sum(1, keepdim=True) / math.log(shares.shape[1])
    return (1 - entropy).clamp(min=0)
