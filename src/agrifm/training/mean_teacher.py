"""Pre-training on land-cover fractions with a mean teacher.

The teacher is a moving average of the student (Tarvainen and Valpola, "Mean teachers", NeurIPS 2017). Both see the
same ground with other frames, noise and masked frames. Where the teacher is confident, the student should agree with
it, which evens out the errors of land-cover products.
"""

from __future__ import annotations

import copy
import math

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from agrifm.config import Experiment
from agrifm.errors import InputError
from agrifm.sample import Batch
from agrifm.training.module import TrainingModule
from agrifm.training.parallel import shard, whole_norm
from agrifm.training.samples.pretraining_data import Views

MAX_NOT_FINITE = 20  # gradients in a row that are not finite and left out, until training stops


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
