"""What happens around training: scores and best weights, a history, progress with time left."""

from __future__ import annotations

import csv
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
from agrifm.io import whole
from agrifm.nn.model import CropModel
from agrifm.tensor_files import refuse_not_finite
from agrifm.training.linear_probe import LinearProbe
from agrifm.training.module import TrainingModule
from agrifm.training.parallel import whole_state

BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.csv"


class ScoreAndSave(pl.Callback):
    """Score each epoch, keep the best and the last weights, write one line of history.

    Must stand before weight averaging, so that the averaged weights are those scored and saved.

    Args:
        out: Folder of the results.
        probe: Adds its scores.
    """

    def __init__(self, out: Path, probe: LinearProbe | None = None) -> None:
        self.out, self.probe = out, probe
        self.best, self.losses = -1.0, torch.zeros(2)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what the results are made with; only now it is certain that the run goes on, or begins."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_global_zero:
            write_provenance(pl_module.experiment, self.out)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sum up the loss of the epoch."""
        self.losses += torch.tensor([float(outputs["loss"]) * trainer.accumulate_grad_batches, 1.0])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the scores of all processes; the first process writes."""
        assert isinstance(pl_module, TrainingModule)
        task = pl_module.task
        summary = task.scores(pl_module.metric).summary
        pl_module.metric.reset()
        if self.probe is not None:
            summary = {**summary, **self.probe(cast(CropModel, pl_module.judged), pl_module.device)}
        pl_module.log_dict({key: torch.tensor(value) for key, value in summary.items()}, rank_zero_only=False)
        total, steps = trainer.strategy.reduce(self.losses.to(pl_module.device), reduce_op="sum").tolist()
        loss, self.losses = total / max(steps, 1), torch.zeros(2)
        # Without any label there is no score: then the last weights are as good as any.
        better = not summary[task.best_score] <= self.best
        self.best = max(self.best, summary[task.best_score])
        weights = whole_state(pl_module.judged)
        _refuse_useless(loss, weights, trainer.current_epoch)
        if trainer.is_global_zero:
            checkpoint = Checkpoint(pl_module.experiment, weights, summary, trainer.current_epoch)
            checkpoint.save(self.out / LAST)
            if better:
                checkpoint.save(self.out / BEST)
            write_history(self.out / HISTORY, trainer.current_epoch, {"loss": loss, **summary})

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self.best = state_dict["best"]


def _refuse_useless(loss: float, weights: dict[str, Tensor], epoch: int) -> None:
    """Refuse to save a model that gives every pixel the same class; the files of the epoch before stay.

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


def write_history(path: Path, epoch: int, values: dict[str, float]) -> None:
    """Append an epoch to the history; epochs from this one on, left by a run that was killed, are replaced."""
    rows = read_history(path, epoch)
    with whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", *values], restval="nan", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, {"epoch": epoch, **values}])


def read_history(path: Path, epoch: int) -> list[dict[str, str]]:
    """Rows of a history before an epoch. What is damaged is left out: it is shown to people and decides nothing."""
    if not path.is_file():
        return []
    lines = path.read_bytes().decode("utf-8", "replace").replace("\0", "").splitlines()
    rows = {}
    for row in csv.DictReader(lines):
        number = row.get("epoch") or ""
        whole_row = None not in row and None not in row.values()
        if whole_row and number.isascii() and number.isdecimal() and int(number[:9]) < epoch:
            rows[int(number[:9])] = row
    return [rows[number] for number in sorted(rows)]


class ProgressPrinter(pl.Callback):
    """One live line while training: epoch, loss, samples per second, time left; one lasting line per epoch."""

    def __init__(self, console: Console | None) -> None:
        self.console, self.bar, self.samples, self.started, self.done = console, None, 0, 0.0, 0

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned process gets: it opens its own console."""
        return {**self.__dict__, "console": None}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; only the first process speaks."""
        self.console = (self.console or Console()) if trainer.is_global_zero else Console(quiet=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self.first = self.done = int(trainer.num_training_batches) * trainer.current_epoch
        self.task = self.bar.add_task("training", total=self.total, completed=self.done)
        self.started, self.samples = time.monotonic(), 0
        self.bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        assert self.bar is not None
        self.samples += len(batch) * trainer.world_size
        self.done += 1
        pace = self.samples / (time.monotonic() - self.started)
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {float(outputs['loss']):.4f}"
        self.bar.update(self.task, completed=self.done, description=f"{text}  {pace:.1f} samples/s")
        pl_module.log("samples_per_second", pace)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how the epoch went."""
        assert isinstance(pl_module, TrainingModule)
        assert self.console is not None
        spent = time.monotonic() - self.started
        left = spent / max(1, self.done - self.first) * (self.total - self.done)
        names = (*pl_module.task.shown, *(key for key in trainer.callback_metrics if key.startswith("probe_")))
        scores = "  ".join(f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in names)
        loss = float(trainer.callback_metrics["loss"])
        pace = f"{self.samples / spent:.1f} samples/s"
        if "flop_utilization" in trainer.callback_metrics:
            many, used = (float(trainer.callback_metrics[key]) for key in ("tokens_per_second", "flop_utilization"))
            pace += f"  {many / 1000:.1f}k tokens/s  {used:.0%} of peak"
        self.console.print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {loss:.4f}  {scores}  "
            f"{pace}  {timedelta(seconds=round(left))} left",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take the bar away, also on Ctrl-C."""
        self.on_train_end(trainer, pl_module)
