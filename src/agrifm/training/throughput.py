"""How fast training goes: tokens per second, and the share of the device's arithmetic that the model makes use of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from agrifm.nn.model import CropModel
from agrifm.sample import Batch
from agrifm.training.module import TrainingModule

_SIDE, _SECONDS = {"cpu": 1024, "cuda": 8192}, 0.2  # of the matrix product that is the yardstick


def _attention_flops(query: torch.Size, key: torch.Size, *_: object, out_shape: object = None, **__: object) -> int:
    b, heads, count, channels = query
    return 4 * b * heads * count * key[2] * channels


def _linear_flops(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * x.numel() * weight[0]


def uncounted() -> dict[Any, Callable[..., int]]:
    """Operations that PyTorch does not count: its attention kernel for CPUs, and oneDNN's linear layer.

    Builds of PyTorch without oneDNN lack the second.
    """
    kinds = (
        (torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", _attention_flops),
        (torch.ops.mkldnn, "_linear_pointwise", _linear_flops),
    )
    return {getattr(group, name): count for group, name, count in kinds if hasattr(group, name)}


def tokens(model: CropModel, batch: Batch) -> int:
    """Tokens of a batch at the finest level, over all sensors and samples."""
    t, h, w = model.config.patch
    total = 0
    for name, frames in batch.frames.items():
        if model.config.time_steps is not None:
            frames = (frames > 0) * model.config.time_steps
        rows, columns = (-(-size // step) for size, step in zip(batch.images[name].shape[-2:], (h, w), strict=True))
        total += int((-(-frames // t)).sum()) * rows * columns
    return total


@torch.no_grad()
def forward_flops(model: CropModel, batch: Batch) -> int:
    """Floating-point operations of one pass forward, counted as it runs."""
    training = model.training
    model.eval()
    with FlopCounterMode(display=False, custom_mapping=uncounted()) as counter:
        model(batch)
    model.train(training)
    return counter.get_total_flops()


def largest_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product here: what the model could at most reach."""
    side = _SIDE.get(device.type, 2048)
    a = torch.ones(side, side, device=device, dtype=dtype)

    def once() -> float:
        return float((a @ a)[0, 0])  # reading a number waits for the device

    once()
    begun, count = time.monotonic(), 0
    while (spent := time.monotonic() - begun) < _SECONDS:
        once()
        count += 1
    return count * 2 * side**3 / spent


class Throughput(pl.Callback):
    """Log ``tokens_per_second`` of all processes, and ``flop_utilization`` of this device, over the steps of an epoch.

    A step counts as three passes forward for what is learned and one for a teacher; what checkpointing computes again
    does not count (Chowdhery et al., "PaLM", 2022). The yardstick is measured, not read off a data sheet.
    """

    def __init__(self) -> None:
        self.per_token = self.rate = 0.0
        self.begun, self.tokens = 0.0, 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.begun, self.tokens = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step; operations per token are counted once, on the first."""
        assert isinstance(pl_module, TrainingModule)
        given, passes = pl_module.work(batch)
        if not self.per_token:
            dtype = torch.bfloat16 if str(trainer.precision).startswith("bf16") else torch.float32
            self.rate = largest_rate(pl_module.device, dtype)
            self.per_token = passes * forward_flops(pl_module.model, given) / max(1, tokens(pl_module.model, given))
            return self.on_train_epoch_start(trainer, pl_module)
        self.tokens += tokens(pl_module.model, given)
        pace = self.tokens / (time.monotonic() - self.begun)
        used = pace * self.per_token / self.rate
        pl_module.log_dict({"tokens_per_second": pace * trainer.world_size, "flop_utilization": used})
        return None
