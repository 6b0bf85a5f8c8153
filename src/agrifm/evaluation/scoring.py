"""Score a checkpoint on a split, and write what survives review: JSON, tables, a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from agrifm.checkpoint import Checkpoint, write_provenance
from agrifm.config import Experiment
from agrifm.data.folder import SampleSource
from agrifm.data.loader import EpochBatches, Split, collate_by_shape, load
from agrifm.figures import save_png
from agrifm.io import whole, write_whole
from agrifm.memory import keep_freed_memory
from agrifm.sample import Batch
from agrifm.tasks.field_scores import FieldScores
from agrifm.tasks.fractions import FractionScores
from agrifm.tasks.scores import Scores
from agrifm.training.module import refuse_not_finite_output


def outputs(
    checkpoint: Checkpoint, source: SampleSource, *, device: str | None = None, console: Console | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of a source with the model's raw output for each, without random steps."""
    keep_freed_memory()
    experiment = checkpoint.experiment
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = checkpoint.model().to(device)
    workers = experiment.training.workers if len(source) > 8 else 0
    loader = load(*_in_order(experiment, source), workers, collate_by_shape)
    quiet = console is None
    shown = console or Console(quiet=True)
    for several in track(loader, "predicting", console=shown, disable=quiet, transient=True):
        for batch in several:
            batch = batch.to(device)
            with torch.inference_mode():  # left before the batch is handed out: else the caller would run in it
                output = model(batch)
            refuse_not_finite_output(output, batch)
            yield batch, output


def _in_order(experiment: Experiment, source: SampleSource) -> tuple[Split, EpochBatches]:
    data = experiment.data
    split = Split(source, data.frames, data.resize, prepare=experiment.prepare)
    return split, EpochBatches(len(source), experiment.training.batch_size, shuffle=False)


def evaluate(
    checkpoint: Checkpoint, source: SampleSource, out: Path | None = None, *, console: Console | None = None
) -> Scores | FractionScores | FieldScores:
    """Score a checkpoint on a source of labeled samples.

    Args:
        checkpoint: Says by itself how to read and what to predict.
        source: The samples.
        out: Folder for ``scores.json``, ``classes.csv``, ``confusion.csv`` and ``confusion.png``, with what they were
            made with; None writes nothing.
        console: Where progress is shown.
    """
    task = checkpoint.experiment.task
    metric = task.metric()
    for batch, output in outputs(checkpoint, source, console=console):
        assert batch.label is not None
        metric.to(output.device)
        task.update(metric, output, batch.label)
    result = task.scores(metric)
    if out is not None:
        write_scores(result, out)
        write_provenance(checkpoint.experiment, out)
    return result


def write_scores(result: Scores | FractionScores | FieldScores, out: Path) -> None:
    """Write JSON; of a map of classes also two tables and a picture of the confusion matrix."""
    write_whole(out / "scores.json", json.dumps(result.to_dict(), indent=2))
    crops = result.crops if isinstance(result, FieldScores) else result
    if isinstance(crops, Scores):
        _write_classes(crops, out)


def _write_classes(result: Scores, out: Path) -> None:
    names = [entry.name for entry in result.classes]
    keys = ("IoU", "Acc", "Fscore", "Precision", "Recall", "pixels")
    with whole(out / "classes.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *keys])
        writer.writerows([[entry.name, *(getattr(entry, key) for key in keys)] for entry in result.classes])
    with whole(out / "confusion.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["truth \\ prediction", *names])
        writer.writerows([[name, *row] for name, row in zip(names, result.confusion, strict=True)])
    draw_confusion(result, out / "confusion.png")


def draw_confusion(result: Scores, path: Path) -> None:
    """Draw the confusion matrix, shares of the true class, with counts."""
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array(result.confusion)
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    names = [entry.name for entry in result.classes]
    side = 2.2 + 0.75 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="truth")
    for i, j in np.ndindex(share.shape):
        value = float(share[i, j])
        text = f"{value:.0%}\n{counts[i, j]:,}" if counts[i, j] else ""
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if value > 0.55 else "black")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    save_png(figure, path, dpi=140)
