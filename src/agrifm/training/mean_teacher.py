"""Pre-training on fractions: a student learns from land cover and from a slower teacher that sees other frames.

The teacher is a moving average of the student (Tarvainen and Valpola, "Mean teachers", NeurIPS 2017). Both see the
same ground under other choices of frames, noise and hidden parts; where the teacher is sure, the student should agree
with it, which evens out the errors of land-cover products.
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
MAX_NOT_FINITE = 20  # gradients in a row, which are left out, until training stops
HELD_OUT = 1 << 30  # seed of the synthetic samples that scores are computed on, beside the experiment's own


@dataclass(frozen=True)
class Views:
    """Two views of the same samples; without a teacher there is one."""

    student: Batch
    teacher: Batch | None = None

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sample, ...]]) -> Views:
        """Collate the views of several samples."""
        return cls(*(collate(views) for views in zip(*pairs, strict=True)))

    def __len__(self) -> int:
        return len(self.student)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the samples."""
        return self.student.names

    def to(self, device: torch.device | str) -> Views:
        """Move every tensor."""
        return Views(self.student.to(device), None if self.teacher is None else self.teacher.to(device))


@dataclass(frozen=True)
class AugmentedViews(Dataset):
    """Samples as training sees them; keys are (position, index).

    Both views have the same ground, and frames, noise and hidden parts of their own.
    """

    source: SampleSource
    frames: int | None
    augment: Augment
    seed: int
    views: int

    def __getitem__(self, index: Key) -> tuple[Sample, ...]:
        sample = self.source.read(index[1])
        return tuple(self._view(sample, [self.seed, *index], view) for view in range(self.views))

    def _view(self, sample: Sample, place: list[int], view: int) -> Sample:
        same, own = (np.random.default_rng([*place, part]) for part in (0, 1 + view))
        sample = pick_frames(sample, self.augment.frames(self.frames, own))
        return perturb(self.augment(sample, same), self.augment, own)


@dataclass(frozen=True)
class Unlabeled:
    """A source whose samples have no label."""

    source: SampleSource

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample."""
        return replace(self.source.read(index, frames), label=None)


def open_pretraining_sources(experiment: Experiment, shards: ShardsConfig) -> dict[str, SampleSource]:
    """The sources of pre-training.

    Raises:
        InputError: If a data set is missing or damaged.
    """
    sensors = experiment.data.sensors
    train = Blend(tuple(_open(place, shards, sensors, experiment.seed) for place in shards.train))
    val = _open(shards.val, shards, sensors, experiment.seed + HELD_OUT)
    return {"train": train, "val": SampleSubset(val, tuple(range(min(shards.val_samples, len(val)))))}


def _open(place: str, shards: ShardsConfig, sensors: Sequence[Sensor], seed: int) -> SampleSource:
    if place == SYNTHETIC:
        return SyntheticLandCover(seed=seed, sensors=tuple(sensors))
    return Shards.open(place, damaged=shards.damaged)


def training_shards(sources: Mapping[str, SampleSource]) -> list[Shards]:
    """The shards that are trained on."""
    train = sources["train"]
    return [part for part in train.sources if isinstance(part, Shards)] if isinstance(train, Blend) else []


def fingerprint(sources: Mapping[str, SampleSource]) -> str:
    """What a resumed run must find again."""
    return " ".join(part.fingerprint for part in training_shards(sources))


def with_order(experiment: Experiment, train: Blend, world: int = 1) -> tuple[Blend, BlendOrder]:
    """The samples, with as much memory as their order needs in one of several processes, and the order."""
    shards = experiment.data.shards
    assert shards is not None
    sources, orders = [], []
    for source in train.sources:
        order: Order = SequentialOrder()
        if isinstance(source, Shards):
            mix = (
                {sensor: shards.sensor_sampling_weights.get(sensor, 0.0) for sensor in source.groups}
                if shards.sensor_sampling_weights
                else None
            )
            order = Stream(source.groups, mix, shards.shuffle_window, experiment.seed)
            source = replace(source, keep=order.shards_to_cache(world))
        sources.append(source)
        orders.append(order)
    return Blend(tuple(sources)), BlendOrder(tuple(orders), shards.sampling_weights or (1,) * len(orders))


def train_loader(experiment: Experiment, train: Blend, rank: int, world: int) -> DataLoader[Views]:
    """Batches of the endless order; an epoch is a lap of it."""
    shards, training = experiment.data.shards, experiment.training
    assert shards is not None
    source, order = with_order(experiment, train, world)
    pairs = AugmentedViews(
        source, experiment.data.frames, experiment.augment, experiment.seed, 2 if experiment.teacher else 1
    )
    batches = StreamBatches(order, shards.epoch_size, training.batch_size, rank=rank, world=world)
    workers = training.workers
    return DataLoader(
        pairs, batch_sampler=batches, collate_fn=Views.of, num_workers=workers, persistent_workers=workers > 0
    )


class MeanTeacher(TrainingModule):
    """The student and its teacher.

    Args:
        experiment: With a task of fractions.
    """

    usual_norm: Tensor

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.teacher = copy.deepcopy(self.model).requires_grad_(False) if experiment.teacher else None
        self.register_buffer("usual_norm", torch.zeros(()))
        self.not_finite = 0  # gradients in a row

    @property
    def judged(self) -> nn.Module:
        """The teacher, where there is one."""
        return self.model if self.teacher is None else self.teacher

    def configure_model(self) -> None:
        """Split the teacher like the student."""
        super().configure_model()
        if self.teacher is not None and isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.teacher, self.trainer.strategy.device_mesh["data_parallel"])

    def forward(self, batch: Batch) -> Tensor:
        """The output of the model that is scored."""
        return self.judged(batch)

    def _keep(self, batch: Views) -> None:  # ty: ignore[incompatible-method-override]
        super()._keep(batch.student)

    def work(self, batch: Views) -> tuple[Batch, int]:  # ty: ignore[incompatible-method-override]
        """The student's view; the teacher adds a pass."""
        return batch.student, 3 if self.teacher is None else 4

    def train(self, mode: bool = True) -> MeanTeacher:
        """Switch training on or off; the teacher never trains."""
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
            goal = self.task.probabilities(self.teacher(batch.teacher))
            trust = confidence(goal) if config.confidence_weighting else goal.new_ones(goal[:, :1].shape)
        guess = self.task.probabilities(output)
        gap = ((guess - goal).abs() * trust).sum() / self._everywhere(trust.sum())
        self.log("loss_teacher", gap.detach())
        return loss + config.weight * self._ramp(config.ramp_up) * gap

    def _ramp(self, share: float) -> float:
        """From 0 to 1 over the first share of all steps."""
        steps = share * int(self.trainer.estimated_stepping_batches)
        return 1.0 if self.global_step >= steps else math.exp(-5 * (1 - self.global_step / steps) ** 2)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave out a step whose gradient is many times larger than usual.

        The usual norm follows also those that are left out, each as if it were at the limit: after a lasting rise it
        takes some dozen steps to be the new usual, while one gradient of any size moves it little.
        """
        parameters = [x for x in self.model.parameters() if x.grad is not None]
        norm = whole_norm([x.grad for x in parameters if x.grad is not None])
        self.log("gradient_norm", norm)
        limit, usual = self.experiment.training.gradient_spike_factor, self.usual_norm
        if limit is not None and float(usual) > 0 and not bool(norm <= limit * usual):
            for parameter in parameters:
                parameter.grad = None  # optimizers pass over parameters without one; with zeros, momentum moves them
            self.log("steps_left_out", 1.0, reduce_fx="sum")
            self._refuse_endless(norm)
            norm = limit * usual if bool(norm.isfinite()) else usual
        else:
            self.not_finite = 0
        usual.copy_(norm if float(usual) == 0 else 0.95 * usual + 0.05 * norm)

    def _refuse_endless(self, norm: Tensor) -> None:
        """Stop where no gradient is finite any more: nothing would be learned, without a word."""
        self.not_finite = 0 if bool(norm.isfinite()) else self.not_finite + 1
        if self.not_finite == MAX_NOT_FINITE:
            raise InputError(
                f"step {self.global_step}",
                found=f"{MAX_NOT_FINITE} gradients in a row that are not finite",
                expected="finite gradients",
                repair="lower training.learning_rate, or use training.precision 32-true.",
            )

    def on_train_batch_end(self, outputs: object, batch: Views, batch_idx: int) -> None:
        """Let the teacher follow after each optimizer step."""
        if self.teacher is None or (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        config = self.experiment.teacher
        assert config is not None
        decay = min(config.decay, (1 + self.global_step) / (10 + self.global_step))
        update_teacher(self.teacher, self.model, decay)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the teacher's weights towards the student's: ``decay * teacher + (1 - decay) * student``."""
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        ours.lerp_(theirs, 1 - decay)


def confidence(shares: Tensor) -> Tensor:
    """How sure a teacher is of a cell ``(b, 1, h, w)``: 1 where all is one class, 0 where nothing is known."""
    entropy = -(shares * shares.clamp(min=1e-8).log()).sum(1, keepdim=True) / math.log(shares.shape[1])
    return (1 - entropy).clamp(min=0)
