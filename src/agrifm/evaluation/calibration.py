"""Calibrate a checkpoint on ground that it was not trained on: one temperature, and thresholds for class sets.

Temperature: Guo et al., ICML 2017. Sets: split-conformal prediction with the true class's probability as score
(Sadinle et al., JASA 2019). Neighboring pixels are alike, so single pixels are not exchangeable; chips are the units
instead, each with the same weight, and one more chip than was seen stands for what is not known (Dunn et al., JASA
2022; Lee et al., 2023). Then a pixel drawn from a new, exchangeable chip is covered as often as was asked for.
"""

from __future__ import annotations

import json
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
from agrifm.errors import InputError
from agrifm.evaluation.reliability import Pixels, covered, draw, measure
from agrifm.evaluation.scoring import outputs
from agrifm.io import write_whole
from agrifm.tasks.calibration import TINY, Calibration
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.sources import open_sources

MOST = 1000  # pixels of a chip that are looked at
RANGE = (0.05, 20.0)  # of temperatures
Unit = Literal["chips", "pixels"]


def gather(
    checkpoint: Checkpoint, source: SampleSource, *, most: int = MOST, seed: int = 0, console: Console | None = None
) -> Pixels:
    """The model's own probabilities at labeled pixels, at most so many of each chip, drawn at random.

    Raises:
        InputError: nothing is labeled.
    """
    task, rng = checkpoint.experiment.task, np.random.default_rng(seed)
    assert isinstance(task, Segmentation)
    parts: list[Pixels] = []
    for batch, output in outputs(checkpoint, source, console=console):
        chances = task.probabilities(output).cpu().numpy()
        if not np.isfinite(chances).all():
            raise InputError(
                "checkpoint",
                found="probabilities that are no numbers (NaN or infinity)",
                expected="finite ones on every chip",
                repair="check the chips with 'agrifm data check', and train again with a lower learning rate.",
            )
        labels = np.full((len(batch), 0), task.ignore_index)
        if batch.label is not None:
            labels = task.classes_of(batch.label).cpu().numpy()
        for chance, label in zip(chances, labels, strict=True):
            places = np.flatnonzero(label != task.ignore_index)
            places = places if len(places) <= most else np.sort(rng.choice(places, most, replace=False))
            truth = label.ravel()[places]
            parts.append(Pixels(chance.reshape(len(chance), -1)[:, places], truth, np.full(len(truth), len(parts))))
    if not any(len(part.truth) for part in parts):
        raise InputError(
            "chips to calibrate on", found="no labeled pixel", expected="labels", repair="name a list of labeled chips."
        )
    return Pixels(*(np.concatenate(arrays, -1) for arrays in zip(*parts, strict=True)))


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
    """Calibrate a checkpoint, and look at what came of it on every split that is there.

    Args:
        checkpoint: with the flips and others that it is to be used with.
        out: the new checkpoint; ``OUT.json`` with all numbers and ``OUT.png``, the diagram, lie beside it.
        split: ``val``, or a list file of other chips in the same folder.
        coverage, by_class, unit: see :func:`calibrate`.
        console: where progress is shown.

    Returns:
        The calibration, and for each split ``before``, ``after``, ``sets``, ``chips`` and ``pixels``.

    Raises:
        InputError: the model was trained on these chips, or is to be tested on them; too few; no labels.
    """
    data, names = checkpoint.experiment.data, checkpoint.experiment.task.names
    sources = _open(checkpoint, data, split)
    found = {name: gather(checkpoint, source, console=console) for name, source in sources.items()}
    calibration = calibrate(found[split], names, coverage, split=split, by_class=by_class, unit=unit)
    pairs, table = {}, {}
    for name, pixels in found.items():
        after = calibration.probabilities(pixels.chances)
        pairs[name] = measure(pixels.chances, pixels.truth), measure(after, pixels.truth)
        table[name] = {
            "before": asdict(pairs[name][0]),
            "after": asdict(pairs[name][1]),
            "sets": asdict(covered(calibration, pixels, names)),
            "chips": len(np.unique(pixels.chip)),
            "pixels": len(pixels.truth),
        }
    replace(checkpoint, calibration=calibration).save(out)
    text = json.dumps({"calibration": asdict(calibration), "splits": table}, indent=1)
    write_whole(out.with_suffix(".json"), text)
    draw(pairs, out.with_suffix(".png"))
    return calibration, table


def _open(checkpoint: Checkpoint, data: DataConfig, split: str) -> dict[str, SampleSource]:
    """The splits that are there, by name, once it is sure that nothing was learned on the one to calibrate on."""
    if not isinstance(checkpoint.experiment.task, Segmentation):
        raise InputError(
            "checkpoint",
            found=f"a model of {checkpoint.experiment.task.kind}",
            expected="a model of classes: only a class is right or wrong",
            repair="calibrate a fine-tuned checkpoint.",
        )
    if split in ("train", "test"):
        why = "the model was trained on it" if split == "train" else "it would no longer tell how good the result is"
        raise InputError(
            f"--split {split}",
            found=f"the {split} split: {why}",
            expected="ground of its own",
            repair="use --split val, or give the path of a list of other labeled chips.",
        )
    if data.dataset is not None:
        return open_sources(checkpoint.experiment, ("train", split))
    chips = {name: data.split(name) for name in ("train", "val", "test") if data.list_file(name).is_file()}
    own = data.model_copy(update={"val": data.list_file("val") if split == "val" else Path(split)}).split("val")
    others = {name: source for name, source in chips.items() if name != "val"}
    for error in splits_overlap({**others, split: own}):
        raise error
    return {**chips, split: own}


def calibrate(
    pixels: Pixels,
    names: tuple[str, ...],
    coverage: float = 0.9,
    *,
    split: str = "val",
    by_class: bool = False,
    unit: Unit = "chips",
) -> Calibration:
    """Learn temperature and thresholds.

    Args:
        pixels: of ground that the model was not trained on; probabilities are the model's own.
        names: of the classes.
        coverage: share of pixels whose set should hold the true class.
        split: name of the chips.
        by_class: ask for this share in every class alone (Vovk, 2012); a class with too few chips gets the threshold of
            all together.
        unit: ``pixels`` counts each as new ground, which it is not: sets are smaller, and nothing is promised.

    Raises:
        InputError: coverage is no share, or too few chips for it.
    """
    if not 0 < coverage < 1:
        raise InputError(
            "--coverage", found=f"{coverage:g}", expected="a share between 0 and 1", repair="give e.g. 0.9."
        )
    temperature = fit_temperature(pixels)
    found = Calibration(temperature, (), coverage, by_class, (), split, unit, 0, len(pixels.truth), (0.0, 0.0))
    chances = found.probabilities(pixels.chances)
    own, group = chances[pixels.truth, np.arange(len(pixels.truth))], pixels.chip
    units = group if unit == "chips" else np.arange(len(group))
    everywhere = threshold(own, units, coverage)
    if everywhere is None:
        raise _too_few(len(np.unique(units)), coverage, split)
    chosen = [pixels.truth == k for k in range(len(names))]
    single = [threshold(own[part], units[part], coverage) if by_class else everywhere for part in chosen]
    lacking = [part is None or not mask.any() for part, mask in zip(single, chosen, strict=True)]
    return replace(
        found,
        thresholds=tuple(everywhere if part is None else part for part in single),
        shared=tuple(name for name, lacks in zip(names, lacking, strict=True) if lacks),
        chips=len(np.unique(group)),
        ece=(measure(pixels.chances, pixels.truth).ECE, measure(chances, pixels.truth).ECE),
    )


def fit_temperature(pixels: Pixels) -> float:
    """The temperature with the least negative log-likelihood."""
    logs = np.log(np.maximum(pixels.chances.astype(float), TINY))
    own = logs[pixels.truth, np.arange(len(pixels.truth))]

    def loss(logarithm: float) -> float:
        return float(np.mean(logsumexp(logs / exp(logarithm), axis=0) - own / exp(logarithm)))

    best = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-5})
    return exp(best.x)


def threshold(own: np.ndarray, units: np.ndarray, coverage: float) -> float | None:
    """The largest probability that the true class of a pixel of a new unit reaches with this chance.

    Args:
        own: probability of the true class ``(n)``.
        units: which of the exchangeable units each pixel belongs to ``(n)``.
        coverage: that chance.

    Returns:
        None where there are fewer units than coverage / (1 - coverage).
    """
    _, place, size = np.unique(units, return_inverse=True, return_counts=True)
    weight = 1 / size[place] / (len(size) + 1)  # the new unit may lie below all that were seen
    order = np.argsort(-own, kind="stable")
    reached = np.cumsum(weight[order]) >= coverage - 1e-9
    return float(own[order[reached.argmax()]]) if reached.any() else None


def _too_few(count: int, coverage: float, split: str) -> InputError:
    least = ceil(coverage / (1 - coverage) - 1e-9)
    most = count / (count + 1)
    return InputError(
        f"--coverage {coverage:g}",
        found=f"{count} labeled chips in {split}",
        expected=f"at least {least}: so many it takes to promise {coverage:g} for new ground",
        repair=f"ask for at most {int(most * 100) / 100:g}, add chips, or give --unit pixels, which promises nothing.",
    )
