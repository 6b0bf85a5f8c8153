"""Callbacks of training: scores and best weights, the history, progress with time left."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from agrifm.checkpoint import Checkpoint, write_provenance
from agrifm.errors import InputError
from agrifm.nn.model import CropModel
from agrifm.tensor_files import refuse_not_finite
from agrifm.training.history import HISTORY, write_history
from agrifm.training.linear_probe import LinearProbe
from agrifm.training.module import TrainingModule
from agrifm.training.parallel import whole_state

BEST, LAST = "best.safetensors", "last.safetensors"


class ScoreAndSave(pl.Callback):
    """Score each epoch, save the best and the last weights, and append a line to the history.

    It must come before weight averaging among the callbacks, so that averaged weights are scored and saved.

    Args:
        out: Folder of the results.
        probe: Adds its scores.
    """

    def __init__(self, out: Path, probe: LinearProbe | None = None) -> None:
        self.out, self.probe = out, probe
        self.best = -1.0
        self.losses = torch.zeros(2)  # sum over the steps of the epoch, and their number

    @property
    def state_key(self) -> str:
        """The key of the state of this callback, under which older versions saved it, too."""
        return "Judge"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the provenance, now that the run is certain to start."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_global_zero:
            write_provenance(pl_module.experiment, self.out)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss of a step."""
        # Lightning divides the loss by the number of accumulated batches.
        self.losses += torch.tensor([float(outputs["loss"]) * trainer.accumulate_grad_batches, 1.0])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the scores over all processes; the first process writes the files."""
        assert isinstance(pl_module, TrainingModule)
        task = pl_module.task
        summary = task.scores(pl_module.metric).summary
        pl_module.metric.reset()
        if self.probe is not None:
            summary = {**summary, **self.probe(cast(CropModel, pl_module.judged), pl_module.device)}
        pl_module.log_dict({key: torch.tensor(value) for key, value in summary.items()}, rank_zero_only=False)
        loss = self._mean_loss(trainer, pl_module)

        score = summary[task.best_score]
        # The score is NaN if nothing is labeled. Then the latest weights count as the best.
        is_best = not score <= self.best
        self.best = max(self.best, score)

        weights = whole_state(pl_module.judged)
        _refuse_not_finite(loss, weights, trainer.current_epoch)
        if trainer.is_global_zero:
            checkpoint = Checkpoint(pl_module.experiment, weights, summary, trainer.current_epoch)
            checkpoint.save(self.out / LAST)
            if is_best:
                checkpoint.save(self.out / BEST)
            write_history(self.out / HISTORY, trainer.current_epoch, {"loss": loss, **summary})

    def _mean_loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float:
        """Return the mean loss of the epoch over all processes, and start anew."""
        total, steps = trainer.strategy.reduce(self.losses.to(pl_module.device), reduce_op="sum").tolist()
        self.losses = torch.zeros(2)
        return total / max(steps, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a run."""
        self.best = state_dict["best"]


def _refuse_not_finite(loss: float, weights: dict[str, Tensor], epoch: int) -> None:
    """Refuse to save a model that would give every pixel the same class. The files of the previous epoch stay.

    Raises:
        InputError: If the loss or a weight is not finite.
    """
    where = f"epoch {epoch + 1}"
    refuse_not_finite(
        weights, where, "lower training.learning_rate, or set training.gradient_clip_val; the epoch before is kept."
    )
    if not math.isfinite(loss):
        raise InputError(
            where,
            found=f"a loss of {loss}",
            expected="a finite loss",
            repair="lower training.learning_rate, set training.gradient_clip_val, or use training.precision 32-true.",
        )


class ProgressPrinter(pl.Callback):
    """Print a live line with epoch, loss, samples per second and time left, and a lasting line for each epoch.

    Args:
        console: Where to print. The default is a new console.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.started = 0.0
        self.samples = 0  # since the start
        self.first_batch = self.batches = 0  # number of batches at the start, and now

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the console, which cannot be sent to a spawned process; it opens its own."""
        return {**self.__dict__, "console": None}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock and, in the first process, the live line."""
        if trainer.is_global_zero:
            self.console = self.console or Console()
        else:
            self.console = Console(quiet=True)
        batches_per_epoch = int(trainer.num_training_batches)
        self.total = batches_per_epoch * (trainer.max_epochs or 1)
        self.first_batch = self.batches = batches_per_epoch * trainer.current_epoch
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("training", total=self.total, completed=self.batches)
        self.started = time.monotonic()
        self.samples = 0
        self.bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the live line."""
        assert self.bar is not None
        self.samples += len(batch) * trainer.world_size
        self.batches += 1
        rate = self.samples / (time.monotonic() - self.started)
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {float(outputs['loss']):.4f}"
        self.bar.update(self.task, completed=self.batches, description=f"{text}  {rate:.1f} samples/s")
        pl_module.log("samples_per_second", rate)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the epoch."""
        assert isinstance(pl_module, TrainingModule)
        assert self.console is not None
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        probe_scores = [key for key in metrics if key.startswith("probe_")]
        scores = "  ".join(f"{name} {metrics[name]:.4f}" for name in (*pl_module.task.shown, *probe_scores))
        elapsed = time.monotonic() - self.started
        seconds_per_batch = elapsed / max(1, self.batches - self.first_batch)
        left = timedelta(seconds=round(seconds_per_batch * (self.total - self.batches)))
        speed = f"{self.samples / elapsed:.1f} samples/s"
        if "flop_utilization" in metrics:
            speed += f"  {metrics['tokens_per_second'] / 1000:.1f}k tokens/s  {metrics['flop_utilization']:.0%} of peak"
        self.console.print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {metrics['loss']:.4f}  {scores}  "
            f"{speed}  {left} left",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the live line."""
        if self.bar is not None:
            self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the live line after an error or Ctrl-C."""
        self.on_train_end(trainer, pl_module)
