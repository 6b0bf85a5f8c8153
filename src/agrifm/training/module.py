"""The model as Lightning trains it: losses that are exact over processes, rates per layer, seeds per step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from agrifm.checkpoint import build
from agrifm.config import Experiment, TrainingConfig
from agrifm.errors import InputError
from agrifm.sample import Batch
from agrifm.tensor_files import write_safetensors
from agrifm.training.parallel import shard

BAD = "bad_batch.safetensors"


class TrainingModule(pl.LightningModule):
    """One experiment's model with its task, optimizer and schedule.

    Args:
        experiment: Resolved; sensors carry their statistics.
    """

    metric: Metric

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.experiment, self.task = experiment, experiment.task
        self.inputs: dict[str, str] = {}  # fingerprints of what it learns from, which a resumed run must find again
        torch.manual_seed(experiment.seed)
        self.model = build(experiment)
        self.metric = experiment.task.metric()

    def configure_model(self) -> None:
        """Split the model over the processes, where the strategy asks for it."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.model, self.trainer.strategy.device_mesh["data_parallel"])

    def forward(self, batch: Batch) -> Tensor:
        """The model's output for a batch."""
        return self.model(batch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed each step by its place, so that a resumed run goes on as if it had never stopped."""
        place = [self.experiment.seed, self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, normalized by what all processes hold together."""
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            self._keep(batch)
            raise InputError(
                f"samples {', '.join(batch.names)}",
                found=f"a loss of {loss.item()} in epoch {self.current_epoch}, step {self.global_step}",
                expected="a finite loss",
                repair="lower training.learning_rate, set training.gradient_clip_val, use precision 32-true; look at "
                f"these samples, kept in {BAD}.",
            )
        self.log("loss", loss.detach(), on_step=True, on_epoch=False)
        return loss

    @property
    def judged(self) -> nn.Module:
        """The model that is scored and saved."""
        return self.model

    def work(self, batch: Batch) -> tuple[Batch, int]:
        """What the model sees of a batch, and to how many passes forward a step on it amounts."""
        return batch, 3

    def _loss(self, batch: Batch) -> Tensor:
        return self._supervised(self.model(batch), batch)

    def _supervised(self, output: Tensor, batch: Batch) -> Tensor:
        parts = self.task.losses(output, _labels(batch))
        terms = [weight * part.total / self._everywhere(part.count) for weight, part in parts]
        return torch.stack(terms).sum()

    def _keep(self, batch: Batch) -> None:
        """Save a batch for study."""
        path = Path(self.trainer.default_root_dir) / BAD
        images = {f"images.{name}": image for name, image in batch.images.items()}
        valid = {f"valid.{name}": mask.to(torch.uint8) for name, mask in batch.valid.items()}
        write_safetensors(path, {key: value.contiguous().cpu() for key, value in (images | valid).items()}, {})

    def _everywhere(self, count: Tensor) -> Tensor:
        """Mean count per process: dividing by it makes the averaged gradient that of the whole batch."""
        count = count.detach().clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
        return count.clamp(min=1e-8)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the scores."""
        output = self.judged(batch)
        refuse_not_finite_output(output, batch)
        self.task.update(self.metric, output, _labels(batch))

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay, per step."""
        config = self.experiment.training
        optimizer = AdamW(parameter_groups(self.model, config), lr=config.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: rate(step, steps, config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def refuse_not_finite_output(output: Tensor, batch: Batch) -> None:
    """Refuse output of a model that is not finite: taken for a class, it would be class 0.

    Raises:
        InputError: names the samples.
    """
    if bool(torch.isfinite(output).all()):
        return
    for name, one in zip(batch.names, torch.isfinite(output), strict=True):
        if count := int((~one.all(0)).sum()):
            raise InputError(
                f"sample {name}",
                found=f"output of the model that is not finite on {count} pixels",
                expected="finite numbers: any others would count as the first class",
                repair="look for impossible values with 'agrifm data check'; if all samples fail, the weights are "
                "damaged, or training needs a lower training.learning_rate or training.precision 32-true.",
            )


def _labels(batch: Batch) -> Tensor:
    if batch.label is None:
        raise InputError(
            f"samples {', '.join(batch.names)}",
            found="no label",
            expected="a label (H, W) for training and evaluation",
            repair="add labels, or use 'agrifm predict', which needs none.",
        )
    return batch.label


def rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Factor on the learning rate: linear from 1 % during warm-up, then cosine down to the minimum."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return 0.01 + 0.99 * step / warmup
    low = config.min_learning_rate / config.learning_rate
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Group trainable parameters by learning rate and weight decay.

    Norms, biases and position tables are not decayed. With ``layer_decay`` the rate of a backbone block falls
    by that factor for each block between it and the top (Bao et al., BEiT, ICLR 2022).
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    depths = _depths(name for name, _ in named)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        factor = 1.0
        if name in depths:
            factor = config.encoder_lr_scale * config.layer_decay ** depths[name]
        plain = parameter.ndim < 2 or "relative_position" in name
        key = (config.learning_rate * factor, 0.0 if plain else config.weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Blocks between each encoder parameter and the top of its backbone."""
    place: dict[str, tuple[int, int]] = {}
    for name in names:
        if name.startswith("embeddings."):
            place[name] = (-1, 0)
        elif found := re.match(r"backbones\.\w+\.layers\.(\d+)\.(?:blocks\.(\d+))?", name):
            place[name] = (int(found[1]), int(found[2]) if found[2] else 1_000)
        elif name.startswith("backbones."):
            place[name] = (1_000, 0)
    order = sorted(set(place.values()), reverse=True)
    return {name: order.index(where) for name, where in place.items()}
