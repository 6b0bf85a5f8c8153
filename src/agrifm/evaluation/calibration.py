"""Calibration of a checkpoint on ground that it was not trained on: a temperature, and thresholds for class sets.

Temperature: Guo et al., ICML 2017. Sets: split-conformal prediction with the probability of the true class as score
(Sadinle et al., JASA 2019). Neighboring pixels are alike, so single pixels are not exchangeable. The units are chips
instead, each with the same weight, and one more chip accounts for what was not seen (Dunn et al., JASA 2022; Lee et
al., 2023). Then a pixel drawn from a new, exchangeable chip is covered as often as requested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import ceil, exp
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from agrifm.checkpoint import Checkpoint
from agrifm.checks.chips import splits_overlap
from agrifm.config import DataConfig
from agrifm.data.folder import SampleSource
from agrifm.errors import InputError, counted
from agrifm.evaluation.reliability import Pixels, draw_diagram, measure_coverage, measure_reliability
from agrifm.evaluation.scoring import outputs
from agrifm.io import write_whole
from agrifm.nn.probabilities import LEAST_PROBABILITY
from agrifm.tasks.calibration import Calibration
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.samples.sources import open_sources

MAX_PIXELS = 1000  # of a chip
TEMPERATURES = (0.05, 20.0)  # range of the search
ROUNDING = 1e-9  # tolerance where sums and quotients are compared with a requested share
Unit = Literal["chips", "pixels"]


def gather(
    checkpoint: Checkpoint,
    source: SampleSource,
    *,
    most: int = MAX_PIXELS,
    seed: int = 0,
    console: Console | None = None,
) -> Pixels:
    """Collect uncalibrated probabilities at labeled pixels.

    Args:
        checkpoint: The model.
        source: Labeled samples.
        most: Largest number of pixels of a chip, drawn at random.
        seed: Seed of the draw.
        console: Shows progress.

    Raises:
        InputError: If nothing is labeled, or a probability is not finite.
    """
    task = checkpoint.experiment.task
    assert isinstance(task, Segmentation)
    rng = np.random.default_rng(seed)
    parts: list[Pixels] = []
    for batch, output in outputs(checkpoint, source, console=console):
        probabilities = task.probabilities(output).cpu().numpy()
        _refuse_not_finite(probabilities)
        labels = np.full((len(batch), 0), task.ignore_index)
        if batch.label is not None:
            labels = task.classes_of(batch.label).cpu().numpy()
        for sample_probabilities, label in zip(probabilities, labels, strict=True):
            labeled = np.flatnonzero(label != task.ignore_index)
            if len(labeled) > most:
                labeled = np.sort(rng.choice(labeled, most, replace=False))
            flat = sample_probabilities.reshape(len(sample_probabilities), -1)
            chip = np.full(len(labeled), len(parts))
            parts.append(Pixels(flat[:, labeled], label.ravel()[labeled], chip))
    if not any(len(part.truth) for part in parts):
        raise InputError(
            "chips to calibrate on", found="no labeled pixel", expected="labels", repair="name a list of labeled chips."
        )
    return Pixels(
        np.concatenate([part.probabilities for part in parts], -1),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.chip for part in parts]),
    )


def _refuse_not_finite(probabilities: np.ndarray) -> None:
    if not np.isfinite(probabilities).all():
        raise InputError(
            "checkpoint",
            found="probabilities that are not finite (NaN or infinity)",
            expected="finite ones on every chip",
            repair="check the chips with 'agrifm data check', and train again with a lower learning rate.",
        )


def calibrate_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    split: str = "val",
    coverage: float = 0.9,
    *,
    by_class: bool = False,
    unit: Unit = "chips",
    console: Console | None = None,
) -> tuple[Calibration, dict[str, Any]]:
    """Calibrate a checkpoint, and measure the result on every split that exists.

    Args:
        checkpoint: The model, with the test-time augmentation and ensemble that it will be used with.
        out: Path of the new checkpoint. ``OUT.json`` with all numbers and ``OUT.png``, the diagram, appear beside it.
        split: ``val``, or a list file of other chips in the same folder.
        coverage: See :func:`calibrate`.
        by_class: See :func:`calibrate`.
        unit: See :func:`calibrate`.
        console: Shows progress.

    Returns:
        The calibration, and for each split ``before``, ``after``, ``sets``, ``chips`` and ``pixels``.

    Raises:
        InputError: If the model was trained on these chips or will be tested on them, there are too few, or they have
            no labels.
    """
    names = checkpoint.experiment.task.names
    sources = _open_splits(checkpoint, checkpoint.experiment.data, split)
    pixels = {name: gather(checkpoint.for_split(name), source, console=console) for name, source in sources.items()}
    calibration = calibrate(pixels[split], names, coverage, split=split, by_class=by_class, unit=unit)
    table = _write_results(calibration, pixels, names, out, checkpoint)
    return calibration, table


def _write_results(
    calibration: Calibration, splits: Mapping[str, Pixels], names: tuple[str, ...], out: Path, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Measure a calibration on every split, and write the checkpoint, the numbers and the diagram."""
    reliabilities = {}
    table = {}
    for name, pixels in splits.items():
        before = measure_reliability(pixels.probabilities, pixels.truth)
        after = measure_reliability(calibration.probabilities(pixels.probabilities), pixels.truth)
        reliabilities[name] = before, after
        table[name] = {
            "before": asdict(before),
            "after": asdict(after),
            "sets": asdict(measure_coverage(calibration, pixels, names)),
            "chips": len(np.unique(pixels.chip)),
            "pixels": len(pixels.truth),
        }
    replace(checkpoint, calibration=calibration).save(out)
    text = json.dumps({"calibration": asdict(calibration), "splits": table}, indent=1)
    write_whole(out.with_suffix(".json"), text)
    draw_diagram(reliabilities, out.with_suffix(".png"))
    return table


def _open_splits(checkpoint: Checkpoint, data: DataConfig, split: str) -> dict[str, SampleSource]:
    """Open the splits that exist, after a check that the model was not trained on the one to calibrate on."""
    _refuse_split(checkpoint, split)
    if data.dataset is not None:
        return open_sources(checkpoint.experiment, ("train", split))
    existing = [name for name in ("train", "val", "test") if data.list_file(name).is_file()]
    chips = {name: data.split(name) for name in existing}
    list_file = data.list_file("val") if split == "val" else Path(split)
    calibration_chips = data.model_copy(update={"val": list_file}).split("val")
    # Other chips than those of val may overlap with it, unless the model learned from it.
    may_overlap = "val" if split == "val" or not checkpoint.learned_from_val else None
    other_chips = {name: source for name, source in chips.items() if name != may_overlap}
    for error in splits_overlap({**other_chips, split: calibration_chips}):
        raise error
    return {**chips, split: calibration_chips}


def _refuse_split(checkpoint: Checkpoint, split: str) -> None:
    task = checkpoint.experiment.task
    if not isinstance(task, Segmentation):
        raise InputError(
            "checkpoint",
            found=f"a model of {task.kind}",
            expected="a model of classes: only a class is right or wrong",
            repair="calibrate a fine-tuned checkpoint.",
        )
    reasons = {
        "train": "the model was trained on it",
        "test": "its scores would no longer be independent of the model",
    }
    if split in reasons:
        raise InputError(
            f"--split {split}",
            found=f"the {split} split: {reasons[split]}",
            expected="chips of other ground",
            repair="use --split val, or give the path of a list of other labeled chips.",
        )


def calibrate(
    pixels: Pixels,
    names: tuple[str, ...],
    coverage: float = 0.9,
    *,
    split: str = "val",
    by_class: bool = False,
    unit: Unit = "chips",
) -> Calibration:
    """Fit a temperature, and thresholds of class sets.

    Args:
        pixels: Pixels of ground that the model was not trained on, with uncalibrated probabilities.
        names: Names of the classes.
        coverage: Share of pixels whose set should hold the true class.
        split: Name of the chips.
        by_class: Request this share in every class (Vovk, 2012). A class with too few chips gets the threshold of all
            classes.
        unit: ``pixels`` counts each pixel as new ground, which it is not: sets are smaller, without any guarantee.

    Raises:
        InputError: If coverage is not a share, or there are too few chips for it.
    """
    if not 0 < coverage < 1:
        raise InputError(
            "--coverage", found=f"{coverage:g}", expected="a share between 0 and 1", repair="give e.g. 0.9."
        )
    # The temperature comes first, because the thresholds are calibrated probabilities.
    temperature = fit_temperature(pixels)
    calibration = Calibration(temperature, (), coverage, by_class, (), split, unit, 0, len(pixels.truth), (0.0, 0.0))
    probabilities = calibration.probabilities(pixels.probabilities)
    of_true_class = probabilities[pixels.truth, np.arange(len(pixels.truth))]
    units = pixels.chip if unit == "chips" else np.arange(len(pixels.chip))
    common_threshold = threshold(of_true_class, units, coverage)
    if common_threshold is None:
        raise _too_few(len(np.unique(units)), coverage, split)

    thresholds = []
    classes_that_share = []
    for k, name in enumerate(names):
        of_class = pixels.truth == k
        class_threshold = common_threshold
        if by_class:
            class_threshold = threshold(of_true_class[of_class], units[of_class], coverage)
        if class_threshold is None or not of_class.any():
            classes_that_share.append(name)
        thresholds.append(common_threshold if class_threshold is None else class_threshold)
    return replace(
        calibration,
        thresholds=tuple(thresholds),
        shared=tuple(classes_that_share),
        chips=len(np.unique(pixels.chip)),
        ece=(
            measure_reliability(pixels.probabilities, pixels.truth).ECE,
            measure_reliability(probabilities, pixels.truth).ECE,
        ),
    )


def fit_temperature(pixels: Pixels) -> float:
    """Return the temperature with the least negative log-likelihood."""
    logs = np.log(np.maximum(pixels.probabilities.astype(float), LEAST_PROBABILITY))
    of_true_class = logs[pixels.truth, np.arange(len(pixels.truth))]

    def loss(log_temperature: float) -> float:
        temperature = exp(log_temperature)
        normalization = logsumexp(logs / temperature, axis=0)
        return float(np.mean(normalization - of_true_class / temperature))

    # On the logarithm, halving and doubling the temperature are steps of equal length.
    bounds = tuple(np.log(TEMPERATURES))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return exp(best.x)


def threshold(probabilities: np.ndarray, units: np.ndarray, coverage: float) -> float | None:
    """Return the largest probability that the true class of a pixel of a new unit reaches with a given chance.

    Args:
        probabilities: Probability of the true class ``(n)``.
        units: The exchangeable unit of each pixel ``(n)``.
        coverage: The chance.

    Returns:
        The probability, or None if there are fewer units than coverage / (1 - coverage).
    """
    _, unit_of_pixel, sizes = np.unique(units, return_inverse=True, return_counts=True)
    # Each unit has the same weight, and the new one may lie below all that were seen.
    weights = 1 / sizes[unit_of_pixel] / (len(sizes) + 1)
    order = np.argsort(-probabilities, kind="stable")
    is_reached = np.cumsum(weights[order]) >= coverage - ROUNDING
    if not is_reached.any():
        return None
    first_reached = order[is_reached.argmax()]
    return float(probabilities[first_reached])


def _too_few(count: int, coverage: float, split: str) -> InputError:
    needed = ceil(coverage / (1 - coverage) - ROUNDING)
    possible = count / (count + 1)
    return InputError(
        f"--coverage {coverage:g}",
        found=f"{counted(count, 'labeled chip')} in {split}",
        expected=f"at least {needed}: a coverage of {coverage:g} on new ground requires that many",
        repair=f"ask for at most {int(possible * 100) / 100:g}, add chips, or give --unit pixels, "
        "which guarantees nothing.",
    )
