"""The classifiers of single pixels in a run: fitted before the network is trained, and averaged with it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from agrifm.checkpoint import Checkpoint
from agrifm.config import Experiment
from agrifm.data.chips import read_block
from agrifm.data.folder import ChipFolder, SampleSource
from agrifm.data.georeference import read_grid
from agrifm.data.transforms import Augment
from agrifm.errors import InputError
from agrifm.io import write_csv
from agrifm.nn.ensemble import mean_of_classes
from agrifm.pixels.draw import PixelDraw
from agrifm.pixels.ensemble import PixelEnsemble
from agrifm.pixels.features import PixelFeatures
from agrifm.pixels.fitting import Comparison, compare_members, fit_ensemble
from agrifm.sample import Batch
from agrifm.tasks.fields import Fields
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.samples.sources import batches_in_order

MEMBERS = "members.csv"
BLOCKS_PER_FOLD = 4  # blocks of ground that the cross-validation deals out to its folds
CLEARLY_BETTER = 0.02  # mean F-score that the pixel classifiers must gain to stand alone


@dataclass(frozen=True)
class FittedPixels:
    """Pixel classifiers of a run.

    Args:
        ensemble: The classifiers that make maps.
        held_out: The same members without the validation split; None if the ensemble did not learn from it either.
        comparison: The members in cross-validation.
    """

    ensemble: PixelEnsemble
    held_out: PixelEnsemble | None
    comparison: Comparison


def fit_pixels(experiment: Experiment, train: SampleSource, val: SampleSource | None, console: Console) -> FittedPixels:
    """Choose the pixel classifiers of an experiment on its training split, then fit them to both splits.

    Args:
        experiment: A resolved experiment with a section ``pixels``.
        train: The training split.
        val: The validation split, from which the chosen classifiers learn too; None where they must not.
        console: Shows progress and the table of members.

    Raises:
        InputError: If nothing is labeled, or labels hold one class only.
    """
    config, task = experiment.pixels, experiment.task
    assert config is not None
    assert isinstance(task, Segmentation | Fields)
    classes = task.pixel_classes if isinstance(task, Fields) else task.outputs
    # Series that end early teach the classifiers to map early, as they teach the network.
    truncate = experiment.augment.truncate
    augment = Augment(flips=False, rot90=False, truncate=truncate) if truncate else None
    with console.status("reading labeled pixels") as status, torch.inference_mode():
        draw = draw_pixels(experiment, train, augment, config.max_pixels, status.update)
        pixels = draw.pixels()
        blocks = blocks_of(train, experiment.seed, config.folds)[pixels.sample]
        sensors = [sensor.name for sensor in experiment.data.sensors]
        comparison = compare_members(pixels, blocks, sensors, config, experiment.seed, status.update)
    _print(comparison, draw.labeled, console)

    names = comparison.chosen or config.members
    fit = partial(fit_ensemble, features=draw.features, classes=classes, names=names, seed=experiment.seed)
    with console.status("fitting pixel classifiers") as status, torch.inference_mode():
        ensemble = fit(pixels, progress=status.update)
        if val is None or not config.learn_from_val:
            return FittedPixels(ensemble, None, comparison)
        before = draw.labeled
        _add_pixels(draw, experiment, val, augment, status.update)
        if draw.labeled == before:
            return FittedPixels(ensemble, None, comparison)
        return FittedPixels(fit(draw.pixels(), progress=status.update), ensemble, comparison)


def draw_pixels(
    experiment: Experiment,
    source: SampleSource,
    augment: Augment | None,
    most: int,
    progress: Callable[[str], object],
) -> PixelDraw:
    """Draw labeled pixels of a split with their features.

    Args:
        experiment: A resolved experiment with a section ``pixels``.
        source: The split.
        augment: Random changes of the samples.
        most: Largest number of pixels.
        progress: Receives a line about the current step.

    Raises:
        InputError: If nothing is labeled, or the feature ``context`` meets pixels that are no neighbors.
    """
    config, task = experiment.pixels, experiment.task
    assert config is not None
    assert config.season is not None
    assert isinstance(task, Segmentation | Fields)
    features = PixelFeatures(
        tuple(experiment.data.sensors),
        config.season,
        config.time_steps,
        indices="indices" in config.features,
        statistics="statistics" in config.features,
        context="context" in config.features,
    )
    if features.context:
        _refuse_pixels_without_neighbors(source)
    draw = PixelDraw(features, most, experiment.seed)
    _add_pixels(draw, experiment, source, augment, progress)
    if not draw.parts:
        raise InputError(
            "train split",
            found="no labeled pixel",
            expected="labels to learn from",
            repair="check task.ignore_index and the lists.",
        )
    return draw


def _refuse_pixels_without_neighbors(source: SampleSource) -> None:
    """Refuse chips of samples of a table, whose pixels lie side by side but come from anywhere.

    Raises:
        InputError: If there is one.
    """
    if not isinstance(source, ChipFolder):
        return
    for index in range(len(source)):
        path = source.path(index)
        if read_block(path, allow_links=source.allow_links) is None:
            continue
        if read_grid(path, allow_links=source.allow_links) is None:
            raise InputError(
                f"{path}: pixels.features",
                found="context, and a chip with a block but without a georeference, as chips of a table are",
                expected="chips whose pixels are neighbors on the ground",
                repair="leave out 'context', or make chips from images with 'agrifm chips'.",
            )


def _add_pixels(
    draw: PixelDraw,
    experiment: Experiment,
    source: SampleSource,
    augment: Augment | None,
    progress: Callable[[str], object],
) -> None:
    """Draw labeled pixels of one more split."""
    assert isinstance(experiment.task, Segmentation | Fields)
    ignore_index = experiment.task.ignore_index
    before = draw.samples
    for batch, labels in labeled_batches(experiment, source, augment):
        draw.add(batch, labels, ignore_index)
        progress(f"reading labeled pixels: sample {draw.samples - before} of {len(source)}")


def labeled_batches(
    experiment: Experiment, source: SampleSource, augment: Augment | None = None
) -> Iterator[tuple[Batch, Int[Tensor, "b h w"]]]:
    """Samples in order, with their classes."""
    task = experiment.task
    assert isinstance(task, Segmentation | Fields)
    for batches in batches_in_order(experiment, source, augment):
        for batch in batches:
            if batch.label is not None:
                yield batch, task.classes_of(batch.label)


def blocks_of(source: SampleSource, seed: int, folds: int) -> np.ndarray:
    """Block of ground ``(samples)`` of each sample: the one that its chip names, else neighboring chips.

    Samples without a name or a place form blocks in the order of their list, in which samples of one field often follow
    each other.
    """
    from sklearn.cluster import KMeans

    named = _named_blocks(source)
    if named is not None:
        return named
    count = BLOCKS_PER_FOLD * folds
    places = _places(source)
    if places is None:
        return np.arange(len(source)) * count // len(source)
    count = min(count, len(np.unique(places, axis=0)))
    return KMeans(count, n_init=1, random_state=seed).fit_predict(places)


def _named_blocks(source: SampleSource) -> np.ndarray | None:
    """Block ``(samples)`` that each chip names; None if one of them names none."""
    if not isinstance(source, ChipFolder):
        return None
    blocks = []
    for index in range(len(source)):
        block = read_block(source.path(index), allow_links=source.allow_links)
        if block is None:
            return None
        blocks.append(block)
    return np.unique(blocks, return_inverse=True)[1]


def _places(source: SampleSource) -> np.ndarray | None:
    """Coordinates ``(samples, 2)`` of the chips; None if one has no place, or their CRS differ."""
    if not isinstance(source, ChipFolder):
        return None
    places = []
    systems = set()
    for index in range(len(source)):
        grid = read_grid(source.path(index), allow_links=source.allow_links)
        if grid is None:
            return None
        georeference, _ = grid
        places.append((georeference.transform[2], georeference.transform[5]))
        systems.add(georeference.crs)
    return np.array(places) if len(systems) == 1 else None


def _print(comparison: Comparison, labeled: int, console: Console) -> None:
    """Print the table of the members."""
    if not comparison.members:
        console.print(
            f"pixel classifiers: fitted to {comparison.pixels:,} pixels; too few blocks of ground to compare them",
            highlight=False,
        )
        return
    title = f"pixel classifiers, cross-validated on {comparison.pixels:,} of {labeled:,} labeled pixels"
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("classifier")
    for name in ("accuracy", "mean F-score", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("")
    for member in comparison.members:
        values = (f"{member.accuracy:.3f}", f"{member.f_score:.3f}", f"{member.seconds:.1f}")
        table.add_row(member.name, *values, "chosen" if member.chosen else "")
    assert comparison.mean is not None
    accuracy, f_score = comparison.mean
    table.add_row("mean of the chosen", f"{accuracy:.3f}", f"{f_score:.3f}", "", "")
    console.print(table)
    console.print(f"{comparison.folds} folds of {comparison.blocks} blocks of ground", highlight=False)


def write_members(comparison: Comparison, path: Path) -> None:
    """Write the table of the members."""
    rows: list[Sequence[object]] = [("classifier", "accuracy", "mFscore", "seconds", "chosen")]
    for member in comparison.members:
        seconds = round(member.seconds, 2)
        rows.append((member.name, member.accuracy, member.f_score, seconds, int(member.chosen)))
    if comparison.mean is not None:
        rows.append(("mean of the chosen", *comparison.mean, "", ""))
    write_csv(path, rows)


def score(model: nn.Module, experiment: Experiment, source: SampleSource) -> dict[str, float]:
    """Scores of a model on a labeled split; empty if nothing is labeled."""
    task = experiment.task
    metric = task.metric()
    with torch.inference_mode():
        for batch, _ in labeled_batches(experiment, source):
            assert batch.label is not None
            task.update(metric, model(batch), batch.label)
    return dict(task.scores(metric).summary)


def blend(network: Checkpoint, of_pixels: Checkpoint, val: SampleSource, console: Console) -> Checkpoint:
    """Average the network with the pixel classifiers.

    The network counts as one more member of the ensemble, unless the pixel classifiers alone are clearly better on the
    validation split. The network never stands alone: the split chose its epoch, which flatters it.

    Args:
        network: The best checkpoint of the training.
        of_pixels: The checkpoint of the pixel classifiers.
        val: The validation split.
        console: Shows the scores.
    """
    experiment, task = network.experiment, network.experiment.task
    model = network.model()
    # The network did not learn from this split, so neither may the classifiers it is compared with.
    pixels = of_pixels.for_split("val").pixels
    assert pixels is not None
    equal = equal_share(pixels)
    metrics = {share: task.metric() for share in (0.0, equal, 1.0)}
    with torch.inference_mode():
        for batch, _ in labeled_batches(experiment, val):
            assert batch.label is not None
            of_network = model(batch)
            of_classifiers = pixels(batch)
            for share, metric in metrics.items():
                task.update(metric, mean_of_classes(of_network, of_classifiers, share), batch.label)
    scores = {share: dict(task.scores(metric).summary) for share, metric in metrics.items()}
    f_scores = {share: summary["mFscore"] for share, summary in scores.items()}
    share = 1.0 if f_scores[1.0] > f_scores[equal] + CLEARLY_BETTER else equal
    chosen = "pixel classifiers" if share == 1 else "both"
    console.print(
        f"validation mFscore: network {f_scores[0.0]:.4f}, pixel classifiers {f_scores[1.0]:.4f}, "
        f"both {f_scores[equal]:.4f}; chosen: {chosen}",
        highlight=False,
        soft_wrap=True,
    )
    return replace(
        network,
        pixels=of_pixels.pixels,
        held_out=of_pixels.held_out,
        pixel_share=share,
        scores=scores[share],
    )


def equal_share(pixels: PixelEnsemble) -> float:
    """Weight of the pixel classifiers if the network counts as one more member."""
    members = len({member.name for member in pixels.members})
    return members / (members + 1)
