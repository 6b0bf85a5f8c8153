"""How well probabilities agree with the truth: calibration errors, proper scores, coverage of class sets.

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
from agrifm.nn.probabilities import LEAST_PROBABILITY
from agrifm.tasks.calibration import Calibration

BINS = 15


class Pixels(NamedTuple):
    """Labeled pixels: probabilities ``(k, n)``, true class ``(n)`` and number of the chip ``(n)``."""

    probabilities: np.ndarray
    truth: np.ndarray
    chip: np.ndarray


class Bin(NamedTuple):
    """Pixels of similar confidence: their share of all pixels, mean confidence and accuracy."""

    share: float
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How well probabilities agree with the truth.

    Args:
        accuracy: Share of correct pixels.
        confidence: Mean probability of the predicted class.
        ECE: Expected calibration error: mean difference of the two in 15 bins of equal width.
        adaptive_ECE: The same in 15 bins of equal numbers of pixels.
        Brier: Mean squared error of all probabilities of a pixel, summed over classes: 0 to 2.
        NLL: Mean negative logarithm of the probability of the true class.
        bins: The bins of equal width that are not empty.
    """

    accuracy: float
    confidence: float
    ECE: float
    adaptive_ECE: float
    Brier: float
    NLL: float
    bins: tuple[Bin, ...]


def measure_reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
    """Compare probabilities ``(k, n)`` with true classes ``(n)``."""
    confidence = probabilities.max(0).astype(float)
    of_true_class = probabilities[truth, np.arange(len(truth))].astype(float)
    correct = (probabilities.argmax(0) == truth).astype(float)

    # A confidence of exactly 1 belongs to the last bin.
    bin_of_width = np.minimum((confidence * bins).astype(int), bins - 1)
    equal_width = _bins(confidence, correct, bin_of_width)
    order = np.argsort(confidence, kind="stable")
    bin_of_rank = np.arange(len(order)) * bins // len(order)
    equal_mass = _bins(confidence[order], correct[order], bin_of_rank)

    # The squared error of a pixel is sum(p^2) - 2 p_true + 1.
    squares = (probabilities.astype(float) ** 2).sum(0)
    brier = squares.mean() - 2 * of_true_class.mean() + 1
    log_likelihood = np.log(np.maximum(of_true_class, LEAST_PROBABILITY)).mean()
    return Reliability(
        accuracy=float(correct.mean()),
        confidence=float(confidence.mean()),
        ECE=_calibration_error(equal_width),
        adaptive_ECE=_calibration_error(equal_mass),
        Brier=float(brier),
        NLL=float(-log_likelihood),
        bins=tuple(equal_width),
    )


def _bins(confidence: np.ndarray, correct: np.ndarray, bin_of_pixel: np.ndarray) -> list[Bin]:
    """All bins that are not empty."""
    counts = np.bincount(bin_of_pixel)
    confidence_sums = np.bincount(bin_of_pixel, confidence)
    correct_sums = np.bincount(bin_of_pixel, correct)
    bins = []
    for i in np.flatnonzero(counts):
        share = counts[i] / len(confidence)
        mean_confidence = confidence_sums[i] / counts[i]
        accuracy = correct_sums[i] / counts[i]
        bins.append(Bin(float(share), float(mean_confidence), float(accuracy)))
    return bins


def _calibration_error(bins: list[Bin]) -> float:
    """Mean difference of confidence and accuracy, weighted by the pixels of the bins."""
    return sum(part.share * abs(part.confidence - part.accuracy) for part in bins)


@dataclass(frozen=True)
class Coverage:
    """How often class sets hold the true class, and how large they are.

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
    """Compare class sets with the truth.

    Args:
        calibration: Makes the sets.
        pixels: The pixels, with uncalibrated probabilities.
        names: Names of the classes.
    """
    sets = calibration.sets(calibration.probabilities(pixels.probabilities))
    sizes = sets.sum(0)
    is_covered = sets[pixels.truth, np.arange(len(pixels.truth))]
    _, chip = np.unique(pixels.chip, return_inverse=True)
    coverage_of_chips = np.bincount(chip, is_covered) / np.bincount(chip)
    classes: dict[str, float] = {}
    for k, name in enumerate(names):
        of_class = pixels.truth == k
        if of_class.any():
            classes[name] = float(is_covered[of_class].mean())
    return Coverage(
        chips=float(coverage_of_chips.mean()),
        pixels=float(is_covered.mean()),
        size=float(sizes.mean()),
        single=float((sizes == 1).mean()),
        classes=classes,
    )


def draw_diagram(splits: Mapping[str, tuple[Reliability, Reliability]], path: Path) -> None:
    """Draw a reliability diagram for each split, before and after calibration; the file appears whole."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(3.6 * len(splits), 4), layout="constrained")
    panels = figure.subplots(1, len(splits), squeeze=False, sharey=True)[0]
    for axis, (split, (before, after)) in zip(panels, splits.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        _draw_curve(axis, before, "as trained", "#cc6677")
        _draw_curve(axis, after, "calibrated", "#332288")
        axis.set_title(printable(Path(split).name)[:40], parse_math=False)
        axis.set(xlabel="probability of the chosen class", xlim=(0, 1.02), ylim=(0, 1.02))
        legend = axis.legend(
            loc="upper left", fontsize=8, frameon=False, title="area: share of pixels", title_fontsize=8
        )
        for handle in legend.legend_handles:
            handle.set_sizes([30])
    panels[0].set_ylabel("share of correct pixels")
    save_png(figure, path, dpi=140)


def _draw_curve(axis, reliability: Reliability, name: str, color: str) -> None:
    share, confidence, accuracy = np.array(reliability.bins).T
    axis.plot(confidence, accuracy, color=color, linewidth=1)
    areas = 6 + 300 * share
    label = f"{name}: ECE {reliability.ECE:.3f}"
    axis.scatter(confidence, accuracy, areas, color=color, alpha=0.75, linewidths=0, label=label)
