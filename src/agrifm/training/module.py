"""The model as Lightning trains it: losses exact over processes, learning rates per layer, seeds per step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import Bool
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from agrifm.checkpoint import build
from agrifm.config import Experiment, TrainingConfig
from agrifm.errors import InputError
from agrifm.nn.finite import refuse_not_finite_output
from agrifm.sample import Batch
from agrifm.tasks.fractions import Fractions
from agrifm.tensor_files import write_safetensors
from agrifm.training.parallel import shard

MAX_STEP_PIXELS = 2048  # pixels from which a network of single pixels learns in one step
BAD = "bad_batch.safetensors"
LAYER = re.compile(r"backbones\.\w+\.layers\.(\d+)\.(?:blocks\.(\d+))?")
BEHIND_ALL = 1_000  # place behind all layers of a backbone, or behind all blocks of a layer


def draw_pixels(labeled: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Draw at most ``MAX_STEP_PIXELS`` labeled pixels; neighbors are alike, so that more teach little in a step."""
    places = labeled.flatten().nonzero().flatten()
    if len(places) <= MAX_STEP_PIXELS:
        return labeled
    chosen = places[torch.randperm(len(places), device=places.device)[:MAX_STEP_PIXELS]]
    drawn = torch.zeros_like(labeled).flatten()
    drawn[chosen] = True
    return drawn.view_as(labeled)


class TrainingModule(pl.LightningModule):
    """The model of an experiment with its task, optimizer and schedule.

    Args:
        experiment: A resolved experiment, whose sensors have their statistics.
    """

    metric: Metric

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.experiment, self.task = experiment, experiment.task
        self.inputs: dict[str, str] = {}  # fingerprints of the data, which a resumed run compares
        torch.manual_seed(experiment.seed)
        self.model = build(experiment)
        self.metric = experiment.task.metric()

    def configure_model(self) -> None:
        """Split the model over the processes if the strategy asks for it."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.model, self.trainer.strategy.device_mesh["data_parallel"])

    def forward(self, batch: Batch) -> Tensor:
        """Return the output of the model for a batch."""
        return self.model(batch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed each step by its position, so that a resumed run continues exactly."""
        position = [self.experiment.seed, self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, normalized over all processes."""
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            self._keep(batch)
            raise InputError(
                f"samples {', '.join(batch.names)}",
                found=f"a loss of {loss.item()} in epoch {self.current_epoch}, step {self.global_step}",
                expected="a finite loss",
                repair="lower training.learning_rate, set training.gradient_clip_val, or use precision 32-true; check "
                f"these samples, which are saved in {BAD}.",
            )
        self.log("loss", loss.detach(), on_step=True, on_epoch=False)
        return loss

    @property
    def judged(self) -> nn.Module:
        """The model that is scored and saved."""
        return self.model

    def work(self, batch: Batch) -> tuple[Batch, int]:
        """The part of a batch that the model reads, and the cost of a step on it in forward passes."""
        return batch, 3

    def _loss(self, batch: Batch) -> Tensor:
        assert not isinstance(self.task, Fractions), "a mean teacher learns fractions"
        labeled = self.task.labeled(_labels(batch))
        if not self.model.config.has_pyramid:
            labeled = draw_pixels(labeled)
            label = torch.where(labeled, _labels(batch), self.task.ignore_index)
            batch = replace(batch, label=label)
        return self._supervised(self.model(batch, labeled), batch)

    def _supervised(self, output: Tensor, batch: Batch) -> Tensor:
        parts = self.task.losses(output, _labels(batch))
        terms = [weight * part.total / self._everywhere(part.count) for weight, part in parts]
        return torch.stack(terms).sum()

    def _keep(self, batch: Batch) -> None:
        """Save a batch for inspection."""
        tensors: dict[str, Tensor] = {}
        for name, image in batch.images.items():
            tensors[f"images.{name}"] = image.contiguous().cpu()
        for name, mask in batch.valid.items():
            tensors[f"valid.{name}"] = mask.to(torch.uint8).contiguous().cpu()
        write_safetensors(Path(self.trainer.default_root_dir) / BAD, tensors, {})

    def _everywhere(self, count: Tensor) -> Tensor:
        """Mean count over processes. Dividing by it makes the averaged gradient that of the whole batch."""
        count = count.detach().clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
        return count.clamp(min=1e-8)

    def on_validation_epoch_start(self) -> None:
        """Let all processes score, and save, the same running statistics: the mean of theirs."""
        if not torch.distributed.is_initialized():
            return
        for name, buffer in self.model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                torch.distributed.all_reduce(buffer)
                buffer /= torch.distributed.get_world_size()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the scores."""
        output = self.judged(batch)
        refuse_not_finite_output(output, batch)
        self.task.update(self.metric, output, _labels(batch))

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay, per step."""
        config = self.experiment.training
        optimizer = AdamW(parameter_groups(self.model, config), lr=config.learning_rate)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: rate(step, total_steps, config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
    """Return the factor on the learning rate: linear from 1 % during warm-up, then cosine down to the minimum."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return 0.01 + 0.99 * step / warmup
    minimum = config.min_learning_rate / config.learning_rate
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Group trainable parameters by learning rate and weight decay.

    Norms, biases and position tables are not decayed. With ``layer_decay`` the rate of a backbone block falls
    by that factor for each block between it and the top (Bao et al., BEiT, ICLR 2022).
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    depths = _depths(trainable)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        factor = 1.0
        if name in depths:
            factor = config.encoder_lr_scale * config.layer_decay ** depths[name]
        is_decayed = parameter.ndim >= 2 and "relative_position" not in name
        weight_decay = config.weight_decay if is_decayed else 0.0
        groups.setdefault((config.learning_rate * factor, weight_decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Number of blocks between each encoder parameter and the top of its backbone."""
    places: dict[str, tuple[int, int]] = {}  # layer and block
    for name in names:
        layer = LAYER.match(name)
        if name.startswith("embeddings."):
            places[name] = (-1, 0)
        elif layer is not None:
            # Downsampling belongs to the layer before it, behind the last block.
            places[name] = (int(layer[1]), int(layer[2]) if layer[2] else BEHIND_ALL)
        elif name.startswith("backbones."):
            places[name] = (BEHIND_ALL, 0)
    from_the_top = sorted(set(places.values()), reverse=True)
    return {name: from_the_top.index(place) for name, place in places.items()}
