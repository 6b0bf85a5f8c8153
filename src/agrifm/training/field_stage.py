"""Fields without a network in a run: edges are chosen before training, and compared with the network afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agrifm.checkpoint import Checkpoint
from agrifm.checks.choice import evenly
from agrifm.config import Experiment
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.errors import counted
from agrifm.pixels.fitting import Comparison
from agrifm.tasks.edges import EdgeChoice
from agrifm.tasks.fields import Fields
from agrifm.training.pixel_stage import fit_pixels, labeled_batches

MOST_CHIPS = 40  # chips of each split on which edges are chosen
CLEARLY_BETTER = 0.02  # score that a candidate must gain over a simpler one
LOWER = (0, 10, 20)  # percent by which ground of the mean may be open below the boundary of the watershed


@dataclass(frozen=True)
class Candidate:
    """One way to find fields, and what it finds on each chip of the validation split.

    Args:
        name: Its name in tables.
        share: Weight of the edges; the rest is that of the network.
        task: The task, with the watershed of this candidate.
        chips: Sums and confusion matrix of each chip, as the metric of the task computes them.
    """

    name: str
    share: float
    task: Fields
    chips: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, network: Tensor, edges: Tensor, label: Tensor) -> None:
        """Add the chips of a batch, from the outputs of network and edges."""
        output = self.task.mean(network, edges, self.share)
        for index in range(len(output)):
            metric = self.task.metric()
            self.task.update(metric, output[index : index + 1], label[index : index + 1])
            self.chips.append(metric.compute())

    def scores(self) -> dict[str, float]:
        """Scores of all chips together."""
        return self._summary(*self._sums())

    def score(self) -> float:
        """The score by which candidates are chosen."""
        return self.scores()[self.task.best_score]

    def scores_without_each(self) -> list[float]:
        """The score by which candidates are chosen, of all chips but one, for each chip."""
        # What is additive is summed once, so that the work grows with the number of chips, not with its square.
        sums, confusion = self._sums()
        scores = []
        for chip_sums, chip_confusion in self.chips:
            rest = self._summary(sums - chip_sums, confusion - chip_confusion)
            scores.append(rest[self.task.best_score])
        return scores

    def _sums(self) -> tuple[Tensor, Tensor]:
        """Sums and confusion matrix of all chips."""
        sums = torch.stack([sums for sums, _ in self.chips]).sum(0)
        confusion = torch.stack([confusion for _, confusion in self.chips]).sum(0)
        return sums, confusion

    def _summary(self, sums: Tensor, confusion: Tensor) -> dict[str, float]:
        metric = self.task.metric()
        metric.update(sums, confusion)
        return self.task.scores(metric).summary


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
        # The edges are chosen on both splits, so the classifiers must not have learned from the second one.
        fitted = fit_pixels(experiment, sources["train"], None, console)
        pixels, comparison = fitted.ensemble, fitted.comparison
    choice = EdgeChoice(task, experiment.data.sensors)
    with console.status("choosing edges"), torch.inference_mode():
        for source in sources.values():
            rows = evenly(len(source), MOST_CHIPS)
            for batch, _ in labeled_batches(experiment, SampleSubset(source, tuple(rows))):
                choice.add(batch, pixels)
        rule, best = choice.best()
    console.print(
        f"edges: {rule}; {task.best_score} {best:.4f} on {counted(len(choice.chips), 'chip')} of train and val",
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
    edge_fields, *means, network_fields = candidates = _candidates(network.experiment)
    _add_chips(candidates, network, edges, val)
    mean = max(means, key=Candidate.score)
    # The simplest comes first: the validation split chose the epoch of the network, which flatters it and the mean.
    compared = (edge_fields, mean, network_fields)
    chosen = clearly_best(compared)
    _print(compared, chosen, console)
    return replace(
        network,
        experiment=network.experiment.model_copy(update={"task": chosen.task}),
        pixels=edges.pixels,
        edges=edges.edges,
        pixel_share=chosen.share,
        scores=chosen.scores(),
        compared={candidate.name: candidate.score() for candidate in compared},
    )


def _candidates(experiment: Experiment) -> list[Candidate]:
    """Edges, means of edges and network, and the network.

    Where only one of the two is sure of a boundary, their mean stays low, so that a lower one may already be enough.
    """
    task = experiment.task
    assert isinstance(task, Fields)
    candidates = [Candidate("edges", 1.0, task)]
    for lower in LOWER:
        watershed = replace(task.watershed, boundary=max(1, task.watershed.boundary - lower))
        candidates.append(Candidate("mean of both", 0.5, replace(task, watershed=watershed)))
    candidates.append(Candidate("network", 0.0, task))
    return candidates


def _add_chips(candidates: Sequence[Candidate], network: Checkpoint, edges: Checkpoint, val: SampleSource) -> None:
    """Let every candidate find the fields of the validation split."""
    first, second = network.model(), edges.model()
    with torch.inference_mode():
        for batch, _ in labeled_batches(network.experiment, val):
            assert batch.label is not None
            of_network, of_edges = first(batch), second(batch)
            for candidate in candidates:
                candidate.add(of_network, of_edges, batch.label)


def clearly_best(candidates: Sequence[Candidate]) -> Candidate:
    """Return the simplest candidate, which comes first, or one that is clearly better than the simpler ones.

    It is clearly better if it gains more than ``CLEARLY_BETTER`` on all chips, and still does without any one of them.
    """
    best, *others = candidates
    # A single chip shows nothing clearly.
    if len(best.chips) < 2:
        return best
    best_scores = [best.score(), *best.scores_without_each()]
    for candidate in others:
        scores = [candidate.score(), *candidate.scores_without_each()]
        gains = [own > simpler + CLEARLY_BETTER for own, simpler in zip(scores, best_scores, strict=True)]
        if all(gains):
            best = candidate
            best_scores = scores
    return best


def _print(compared: Sequence[Candidate], chosen: Candidate, console: Console) -> None:
    """Print the table of the candidates."""
    shown = chosen.task.shown
    table = Table(title="validation split", title_justify="left", box=None, header_style="bold")
    table.add_column("fields from")
    for name in ("open below", *shown):
        table.add_column(name, justify="right")
    table.add_column("")
    for candidate in compared:
        scores = candidate.scores()
        values = [f"{scores[key]:.4f}" for key in shown]
        note = "chosen" if candidate is chosen else ""
        table.add_row(candidate.name, f"{candidate.task.watershed.boundary} %", *values, note)
    console.print(table)
