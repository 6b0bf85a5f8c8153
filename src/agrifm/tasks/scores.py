"""Scores from a confusion matrix, with the original's definitions plus kappa.

The original's precision adds 1e-8 to its denominator and its F-score another 1e-8; a class that occurs
neither in labels nor in predictions has no IoU, one without labels no recall and no F-score. What does not
exist is NaN and left out of the means.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

EPSILON = 1e-8


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, in 0..1 or NaN."""

    name: str
    IoU: float
    Acc: float
    Fscore: float
    Precision: float
    Recall: float
    pixels: int


@dataclass(frozen=True)
class Scores:
    """Scores of a map: ``summary`` by name (aAcc, mIoU, mAcc, mFscore, mPrecision, mRecall, kappa), per class, counts.

    ``confusion[i][j]`` counts the pixels of true class i that were called j. ``levels`` are the scores where groups of
    classes count as one, from fine to coarse.
    """

    columns: ClassVar[tuple[str, ...]] = ("IoU", "Fscore", "Precision", "Recall", "pixels")

    summary: dict[str, float]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    levels: tuple[Scores, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what does not exist is null."""
        text = json.dumps(asdict(self))
        return json.loads(text, parse_constant=lambda _: None)


def scores(confusion: np.ndarray, names: tuple[str, ...]) -> Scores:
    """Score a confusion matrix.

    Args:
        confusion: ``(classes, classes)`` counts, truth along rows, prediction along columns.
        names: Names of the classes.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    hit, truth, guess = counts.diagonal(), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hit / truth
        precision = hit / (guess + EPSILON)
        table = {
            "IoU": hit / (truth + guess - hit),
            "Acc": recall,
            "Fscore": 2 * precision * recall / (precision + recall + EPSILON),
            "Precision": precision,
            "Recall": recall,
        }
        summary = {"aAcc": float(hit.sum() / truth.sum())}
    summary |= {f"m{key}": _mean(values) for key, values in table.items()}
    summary["kappa"] = _kappa(counts)
    classes = tuple(
        ClassScores(name, **{key: float(values[i]) for key, values in table.items()}, pixels=int(truth[i]))
        for i, name in enumerate(names)
    )
    return Scores(summary, classes, tuple(tuple(int(n) for n in row) for row in counts))


def _mean(values: np.ndarray) -> float:
    exist = values[~np.isnan(values)]
    return float(exist.mean()) if exist.size else math.nan


def _kappa(counts: np.ndarray) -> float:
    """Cohen's kappa: agreement beyond that of chance."""
    total = counts.sum()
    if not total:
        return math.nan
    chance = float((counts.sum(0) * counts.sum(1)).sum() / total**2)
    return math.nan if chance == 1 else float((counts.trace() / total - chance) / (1 - chance))
