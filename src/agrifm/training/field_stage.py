"""Fields without a network in a run: edges are chosen before training, and compared with the network afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint
from agrifm.checks.chips import evenly
from agrifm.config import Experiment
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.pixels.fitting import Comparison
from agrifm.tasks.edges import EdgeChoice
from agrifm.tasks.fields import Fields, FieldSums
from agrifm.training.pixel_stage import fit_pixels, labeled_batches

MOST_CHIPS = 40  # chips of each split on which edges are chosen
CLEARLY_BETTER = 0.02  # score that a candidate must gain over a simpler one
# Candidates with the weight of the edges, the simplest first. The validation split has chosen the epoch of the network,
# which flatters it and every mean with it.
EDGES, BOTH, NETWORK = "edges", "mean of both", "network"
SHARES = {EDGES: 1.0, BOTH: 0.5, NETWORK: 0.0}


def fit_edges(
    experiment: Experiment, sources: Mapping[str, SampleSource], console: Console
) -> tuple[Checkpoint, Comparison | None]:
    """Fit classifiers of pixels to the training split, and choose the numbers of the edges on both splits.

    Args:
        experiment: A resolved experiment of fields without a network.
        sources: The splits train and val.
        console: Shows progress and tables.

    Returns:
        A checkpoint that finds fields without a network, and the comparison of its classifiers, if there are any.
    """
    task = experiment.task
    assert isinstance(task, Fields)
    pixels = comparison = None
    if task.classes or _shows_ground_outside(experiment, sources["train"]):
        pixels, comparison = fit_pixels(experiment, sources["train"], console)
    choice = EdgeChoice(task, experiment.data.sensors)
    with console.status("choosing edges"), torch.inference_mode():
        for source in sources.values():
            rows = evenly(len(source), MOST_CHIPS)
            for batch, _ in labeled_batches(experiment, SampleSubset(source, tuple(rows))):
                choice.add(batch, pixels)
        rule, best = choice.best()
    console.print(
        f"edges: {rule}; {task.best_score} {best:.4f} on {len(choice.chips)} chips of train and val",
        highlight=False,
        soft_wrap=True,
    )
    return Checkpoint(experiment, {}, pixels=pixels, pixel_share=1.0, edges=rule), comparison


def _shows_ground_outside(experiment: Experiment, source: SampleSource) -> bool:
    """Whether some chip shows ground without a field, so that there is an extent to learn."""
    task = experiment.task
    assert isinstance(task, Fields)
    if task.partial_labels:
        return False
    for batch, _ in labeled_batches(experiment, source):
        assert batch.label is not None
        if bool((batch.label[:, 0] == 0).any()):
            return True
    return False


def choose(network: Checkpoint, edges: Checkpoint, val: SampleSource, console: Console) -> Checkpoint:
    """Choose between edges, network, and the mean of both, by the scores of the fields on the validation split.

    Args:
        network: The best checkpoint of the training.
        edges: The checkpoint without a network.
        val: The validation split.
        console: Shows the scores.
    """
    experiment = network.experiment
    task = experiment.task
    assert isinstance(task, Fields)
    parts = _score_chips(network, edges, val)
    scores = {name: _summary(task, metrics) for name, metrics in parts.items()}
    compared = {name: summary[task.best_score] for name, summary in scores.items()}
    chosen = clearly_best(task, parts)
    _print(scores, task.shown, chosen, console)
    return replace(
        network,
        pixels=edges.pixels,
        edges=edges.edges,
        pixel_share=SHARES[chosen],
        scores=scores[chosen],
        compared=compared,
    )


def _score_chips(network: Checkpoint, edges: Checkpoint, val: SampleSource) -> dict[str, list[FieldSums]]:
    """Sums of every candidate on every chip of the validation split."""
    experiment, task = network.experiment, network.experiment.task
    assert isinstance(task, Fields)
    first, second = network.model(), edges.model()
    parts: dict[str, list[FieldSums]] = {name: [] for name in SHARES}
    with torch.inference_mode():
        for batch, _ in labeled_batches(experiment, val):
            assert batch.label is not None
            of_network, of_edges = first(batch), second(batch)
            for name, share in SHARES.items():
                output = task.mean(of_network, of_edges, share)
                for index in range(len(batch)):
                    metric = task.metric()
                    task.update(metric, output[index : index + 1], batch.label[index : index + 1])
                    parts[name].append(metric)
    return parts


def clearly_best(task: Fields, parts: Mapping[str, Sequence[FieldSums]]) -> str:
    """Return the name of the simplest candidate, or of one that is clearly better than the simpler ones.

    It is clearly better if it gains more than ``CLEARLY_BETTER`` on all chips, and still does without any one of them.

    Args:
        task: The task.
        parts: Sums of every candidate on every chip, the simplest candidate first.
    """
    best, *others = parts
    for name in others:
        if all(_gains(task, parts[name], parts[best], left_out) for left_out in range(-1, len(parts[name]))):
            best = name
    return best


def _gains(task: Fields, candidate: Sequence[FieldSums], simpler: Sequence[FieldSums], left_out: int) -> bool:
    """Whether a candidate is better by more than the margin without one chip; -1 leaves none out."""
    kept = [index for index in range(len(candidate)) if index != left_out]
    score = _summary(task, [candidate[index] for index in kept])[task.best_score]
    of_simpler = _summary(task, [simpler[index] for index in kept])[task.best_score]
    return score > of_simpler + CLEARLY_BETTER


def _summary(task: Fields, metrics: Sequence[FieldSums]) -> dict[str, float]:
    """Scores of several chips together."""
    total = task.metric()
    for metric in metrics:
        total.update(*metric.compute())
    return task.scores(total).summary


def _print(scores: Mapping[str, Mapping[str, float]], shown: tuple[str, ...], chosen: str, console: Console) -> None:
    table = Table(title="validation split", title_justify="left", box=None, header_style="bold")
    table.add_column("fields from")
    for name in shown:
        table.add_column(name, justify="right")
    table.add_column("")
    for name, summary in scores.items():
        values = [f"{summary[key]:.4f}" for key in shown]
        table.add_row(name, *values, "chosen" if name == chosen else "")
    console.print(table)
