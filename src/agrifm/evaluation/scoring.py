"""Scores of a checkpoint on a split: as JSON, as tables and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from agrifm.checkpoint import Checkpoint, write_provenance
from agrifm.data.folder import SampleSource
from agrifm.figures import save_png
from agrifm.io import write_csv, write_whole
from agrifm.nn.finite import refuse_not_finite_output
from agrifm.nn.memory import keep_freed_memory
from agrifm.sample import Batch
from agrifm.tasks.field_scores import FieldScores
from agrifm.tasks.fractions import FractionScores
from agrifm.tasks.scores import Scores
from agrifm.training.samples.sources import batches_in_order


def outputs(
    checkpoint: Checkpoint, source: SampleSource, *, device: str | None = None, console: Console | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """Run a model on samples in order, without augmentation.

    Args:
        checkpoint: The model.
        source: The samples.
        device: Where to run. The default is a GPU if there is one.
        console: Shows progress.

    Yields:
        Batches, and the raw output of the model for each.
    """
    keep_freed_memory()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = checkpoint.model().to(device)
    loader = batches_in_order(checkpoint.experiment, source)
    progress_console = console or Console(quiet=True)
    for batches in track(loader, "predicting", console=progress_console, disable=console is None, transient=True):
        for batch in batches:
            batch = batch.to(device)
            # The mode ends before the batch is handed out: otherwise the caller would run in it, too.
            with torch.inference_mode():
                output = model(batch)
            refuse_not_finite_output(output, batch)
            yield batch, output


def evaluate(
    checkpoint: Checkpoint, source: SampleSource, out: Path | None = None, *, console: Console | None = None
) -> Scores | FractionScores | FieldScores:
    """Score a checkpoint on labeled samples.

    Args:
        checkpoint: The model.
        source: The samples.
        out: Folder for ``scores.json``, ``classes.csv``, ``confusion.csv`` and ``confusion.png``, with their
            provenance. Without it, nothing is written.
        console: Shows progress.
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
    """Write JSON and, for a map of classes, two tables and a picture of the confusion matrix."""
    write_whole(out / "scores.json", json.dumps(result.to_dict(), indent=2))
    crops = result.crops if isinstance(result, FieldScores) else result
    if isinstance(crops, Scores):
        _write_classes(crops, out)


def _write_classes(result: Scores, out: Path) -> None:
    names = [entry.name for entry in result.classes]
    keys = ("IoU", "Acc", "Fscore", "Precision", "Recall", "pixels")
    classes: list[list[object]] = [["class", *keys]]
    for entry in result.classes:
        values = [getattr(entry, key) for key in keys]
        classes.append([entry.name, *values])
    write_csv(out / "classes.csv", classes)
    confusion: list[list[object]] = [["truth \\ prediction", *names]]
    for name, counts in zip(names, result.confusion, strict=True):
        confusion.append([name, *counts])
    write_csv(out / "confusion.csv", confusion)
    draw_confusion(result, out / "confusion.png")


def draw_confusion(result: Scores, path: Path) -> None:
    """Draw the confusion matrix with counts, colored by the share of the true class."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

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
        if counts[i, j]:
            value = float(share[i, j])
            text = f"{value:.0%}\n{counts[i, j]:,}"
            color = "white" if value > 0.55 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    save_png(figure, path, dpi=140)
