"""Do probabilities come true? Calibration errors, proper scores, coverage of class sets, and the diagram.

Sources: Guo et al., ICML 2017 (expected calibration error, diagram); Nixon et al., CVPR workshops 2019 (bins of equal
mass); Brier, Monthly Weather Review 1950.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agrifm.errors import printable
from agrifm.figures import save_png
from agrifm.tasks.calibration import TINY, Calibration

BINS = 15


class Pixels(NamedTuple):
    """Labeled pixels: probabilities ``(k, n)``, true class ``(n)`` and number of the chip ``(n)``."""

    chances: np.ndarray
    truth: np.ndarray
    chip: np.ndarray


@dataclass(frozen=True)
class Reliability:
    """How probabilities agree with what was true.

    Args:
        accuracy, confidence: Share of right pixels, and mean probability of the chosen class.
        ECE: mean difference of both in 15 bins of equal width.
        adaptive_ECE: The same in 15 bins of equal numbers of pixels.
        Brier: mean squared error of all probabilities of a pixel, summed over classes: 0 to 2.
        NLL: mean negative logarithm of the true class's probability.
        bins: Bins of equal width: share of the pixels, mean confidence, accuracy; empty ones are left out.
    """

    accuracy: float
    confidence: float
    ECE: float
    adaptive_ECE: float
    Brier: float
    NLL: float
    bins: tuple[tuple[float, float, float], ...]


def measure_reliability(chances: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
    """Hold probabilities ``(k, n)`` against true classes ``(n)``."""
    sure, own = chances.max(0).astype(float), chances[truth, np.arange(len(truth))].astype(float)
    right = (chances.argmax(0) == truth).astype(float)
    order = np.argsort(sure, kind="stable")
    equal = _binned(sure, right, np.minimum((sure * bins).astype(int), bins - 1))
    ranks = _binned(sure[order], right[order], np.arange(len(order)) * bins // len(order))
    brier = float((chances.astype(float) ** 2).sum(0).mean() - 2 * own.mean() + 1)
    likelihood = float(-np.log(np.maximum(own, TINY)).mean())
    return Reliability(
        float(right.mean()), float(sure.mean()), _error(equal), _error(ranks), brier, likelihood, tuple(equal)
    )


def _binned(sure: np.ndarray, right: np.ndarray, number: np.ndarray) -> list[tuple[float, float, float]]:
    """Share, mean confidence and accuracy of each bin that is not empty."""
    count, confidence, accuracy = (np.bincount(number, weight) for weight in (None, sure, right))
    some = count > 0
    parts = count[some] / len(sure), confidence[some] / count[some], accuracy[some] / count[some]
    return [(float(n), float(c), float(a)) for n, c, a in zip(*parts, strict=True)]


def _error(bins: list[tuple[float, float, float]]) -> float:
    return sum(share * abs(confidence - accuracy) for share, confidence, accuracy in bins)


@dataclass(frozen=True)
class Coverage:
    """How class sets did.

    Args:
        chips: Share of pixels whose set holds the true class, mean over chips.
        pixels: The same over all pixels.
        size: Mean number of classes in a set.
        single: Share of pixels whose set is one class.
        classes: Coverage of each class, by name.
    """

    chips: float
    pixels: float
    size: float
    single: float
    classes: dict[str, float]


def measure_coverage(calibration: Calibration, pixels: Pixels, names: tuple[str, ...]) -> Coverage:
    """Class sets held against the truth; probabilities are the model's own."""
    sets = calibration.sets(calibration.probabilities(pixels.chances))
    size, held = sets.sum(0), sets[pixels.truth, np.arange(len(pixels.truth))]
    places = np.unique(pixels.chip, return_inverse=True)[1]
    by_chip = np.bincount(places, held) / np.bincount(places)
    classes = {name: float(held[pixels.truth == k].mean()) for k, name in enumerate(names) if (pixels.truth == k).any()}
    return Coverage(float(by_chip.mean()), float(held.mean()), float(size.mean()), float((size == 1).mean()), classes)


def draw_diagram(found: Mapping[str, tuple[Reliability, Reliability]], path: Path) -> None:
    """Draw a reliability diagram for each split, before and after; the file appears whole."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(found), 4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axis, (split, pair) in zip(panels, found.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        for one, name, color in zip(pair, ("as trained", "calibrated"), ("#cc6677", "#332288"), strict=True):
            share, confidence, accuracy = np.array(one.bins).T
            axis.plot(confidence, accuracy, color=color, linewidth=1)
            label = f"{name}: ECE {one.ECE:.3f}"
            axis.scatter(confidence, accuracy, 6 + 300 * share, color=color, alpha=0.75, linewidths=0, label=label)
        axis.set_title(printable(Path(split).name)[:40], parse_math=False)
        axis.set(xlabel="probability of the chosen class", xlim=(0, 1.02), ylim=(0, 1.02))
        legend = axis.legend(
            loc="upper left", fontsize=8, frameon=False, title="area: share of pixels", title_fontsize=8
        )
        for handle in legend.legend_handles:
            handle.set_sizes([30])
    panels[0].set_ylabel("share of pixels that are right")
    save_png(figure, path, dpi=140)
