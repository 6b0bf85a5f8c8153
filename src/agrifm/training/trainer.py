"""Lightning's trainer for an experiment, and how it runs and stops."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from rich.console import Console

from agrifm.config import Experiment
from agrifm.errors import Terminated
from agrifm.nn.memory import keep_freed_memory
from agrifm.training.callbacks import ProgressPrinter, ScoreAndSave
from agrifm.training.linear_probe import LinearProbe
from agrifm.training.loggers import make_loggers
from agrifm.training.module import TrainingModule
from agrifm.training.parallel import on_gpu, strategy
from agrifm.training.samples.loaders import Loaders
from agrifm.training.state import RESUME, SameExperiment, WholeFiles
from agrifm.training.throughput import Throughput

# Warnings of Lightning that do not apply here: values are equal in all processes, and so on.
IGNORED_WARNINGS = ("does not have many workers", "LeafSpec", "Checkpoint directory", "sync_dist", "WeightAveraging")


def make_trainer(experiment: Experiment, out: Path, console: Console, probe: LinearProbe | None = None) -> pl.Trainer:
    """Build the trainer of an experiment.

    Args:
        experiment: Says how to train.
        out: Folder of the results.
        console: Shows progress.
        probe: Adds its scores after each epoch.
    """
    config = experiment.training
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return pl.Trainer(
        default_root_dir=out,
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=strategy(config),
        precision=_precision(config.precision, config.accelerator),
        gradient_clip_val=config.gradient_clip_val or None,
        accumulate_grad_batches=config.accumulate_grad_batches,
        limit_train_batches=config.limit_train_batches if config.limit_train_batches is not None else 1.0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=_callbacks(experiment, out, console, probe),
        logger=make_loggers(experiment, out),
        plugins=[WholeFiles()],
    )


def _callbacks(experiment: Experiment, out: Path, console: Console, probe: LinearProbe | None) -> list[pl.Callback]:
    config = experiment.training
    # Scoring comes before weight averaging, which swaps the averaged weights in for those that are scored and saved.
    callbacks: list[pl.Callback] = [
        ScoreAndSave(out, probe),
        SameExperiment(),
        Throughput(),
        ProgressPrinter(console),
        LearningRateMonitor("step"),
    ]
    if config.ema_decay is not None:
        # Averages of buffers would be rounded where these are whole numbers, such as the index of relative positions.
        callbacks.append(EMAWeightAveraging(use_buffers=False, decay=config.ema_decay))
    if config.patience is not None:
        callbacks.append(EarlyStopping(experiment.task.best_score, mode="max", patience=config.patience))
    callbacks.append(ModelCheckpoint(out, RESUME.removesuffix(".ckpt"), save_top_k=1, enable_version_counter=False))
    return callbacks


def _precision(precision: str, accelerator: str) -> Any:
    if precision != "auto":
        return precision
    if on_gpu(accelerator) and torch.cuda.is_bf16_supported():
        return "bf16-mixed"
    return "32-true"


def run(trainer: pl.Trainer, module: TrainingModule, loaders: Loaders, state: Path | None) -> None:
    """Train until the last epoch.

    Args:
        trainer: From :func:`make_trainer`.
        module: The model to train.
        loaders: Its data.
        state: File to resume from, if any.

    Raises:
        KeyboardInterrupt: On Ctrl-C, and as ``Terminated`` on SIGTERM.
    """
    keep_freed_memory()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*({'|'.join(IGNORED_WARNINGS)}).*")
        try:
            trainer.fit(module, datamodule=loaders, ckpt_path=state, weights_only=True)
        except SystemExit as end:
            # Lightning turns Ctrl-C into an exit.
            if trainer.interrupted and isinstance(end.__context__, KeyboardInterrupt):
                raise end.__context__ from None
            raise
        except RuntimeError as error:
            # A signal to the whole process group also ends the workers of the data loader, which PyTorch reports.
            if trainer.received_sigterm:
                raise Terminated from error
            raise
