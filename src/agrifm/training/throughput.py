"""Speed of training: tokens per second, and the share of the device's peak arithmetic that the model uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from agrifm.nn.model import CropModel
from agrifm.sample import Batch
from agrifm.training.module import TrainingModule

# The matrix product that measures the peak: rows and columns by type of device, and seconds of measurement.
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
MEASURED_SECONDS = 0.2


def _attention_flops(query: torch.Size, key: torch.Size, *_: object, out_shape: object = None, **__: object) -> int:
    b, heads, count, channels = query
    return 4 * b * heads * count * key[2] * channels


def _linear_flops(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * x.numel() * weight[0]


def uncounted() -> dict[Any, Callable[..., int]]:
    """Operations that PyTorch does not count: its attention kernel for CPUs, and the linear layer of oneDNN."""
    counters = {}
    if hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        counters[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = _attention_flops
    # PyTorch may be built without oneDNN.
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        counters[torch.ops.mkldnn._linear_pointwise] = _linear_flops
    return counters


def tokens(model: CropModel, batch: Batch) -> int:
    """Count the tokens of a batch at the finest level, over all sensors and samples."""
    config = model.config
    patch_frames, patch_rows, patch_columns = config.patch
    total = 0
    for name, frames in batch.frames.items():
        if config.time_steps is not None:
            frames = (frames > 0) * config.time_steps
        height, width = batch.images[name].shape[-2:]
        time_tokens = int(_ceil_divide(frames, patch_frames).sum())
        total += time_tokens * _ceil_divide(height, patch_rows) * _ceil_divide(width, patch_columns)
    return total


def _ceil_divide(value: Any, divisor: int) -> Any:
    return -(-value // divisor)


@torch.no_grad()
def forward_flops(model: CropModel, batch: Batch) -> int:
    """Count the floating-point operations of a forward pass."""
    training = model.training
    model.eval()
    with FlopCounterMode(display=False, custom_mapping=uncounted()) as counter:
        model(batch)
    model.train(training)
    return counter.get_total_flops()


@cache
def largest_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure, once in a process, the operations per second of a large matrix product, which no model can exceed."""
    side = MATRIX_SIDE.get(device.type, 2048)
    a = torch.ones(side, side, device=device, dtype=dtype)

    def multiply() -> float:
        return float((a @ a)[0, 0])  # reading a number waits for the device

    multiply()  # the first product includes start-up
    started = time.monotonic()
    count = 0
    elapsed = 0.0
    while elapsed < MEASURED_SECONDS:
        multiply()
        count += 1
        elapsed = time.monotonic() - started
    return count * 2 * side**3 / elapsed


class Throughput(pl.Callback):
    """Log ``tokens_per_second`` of all processes, and ``flop_utilization`` of this device, over the steps of an epoch.

    A step costs three forward passes of the trained model and one of a teacher. What checkpointing computes again
    does not count (Chowdhery et al., "PaLM", 2022). The peak is measured, not taken from a data sheet.
    """

    def __init__(self) -> None:
        self.flops_per_token = self.peak = 0.0
        self.started, self.tokens = 0.0, 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started, self.tokens = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step."""
        assert isinstance(pl_module, TrainingModule)
        if not pl_module.model.config.has_pyramid:
            return  # a network of single pixels has no tokens, and sees some of the pixels of a batch only
        model_batch, passes = pl_module.work(batch)
        batch_tokens = tokens(pl_module.model, model_batch)
        if not self.flops_per_token:
            # The first step only measures, and the clock starts after it.
            dtype = torch.bfloat16 if str(trainer.precision).startswith("bf16") else torch.float32
            self.peak = largest_rate(pl_module.device, dtype)
            self.flops_per_token = passes * forward_flops(pl_module.model, model_batch) / max(1, batch_tokens)
            self.on_train_epoch_start(trainer, pl_module)
            return
        self.tokens += batch_tokens
        tokens_per_second = self.tokens / (time.monotonic() - self.started)
        utilization = tokens_per_second * self.flops_per_token / self.peak
        all_processes = tokens_per_second * trainer.world_size
        pl_module.log_dict({"tokens_per_second": all_processes, "flop_utilization": utilization})
