"""Scores of a confusion matrix, as the original defines them, and Cohen's kappa.

The original adds 1e-8 to the denominator of precision, and another 1e-8 to that of the F-score. A class that occurs
neither in labels nor in predictions has no IoU; a class without labels has no recall and no F-score. Scores that do not
exist are NaN and do not enter the means.
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
    """Scores of one class, from 0 to 1 or NaN."""

    name: str
    IoU: float
    Acc: float
    Fscore: float
    Precision: float
    Recall: float
    pixels: int


@dataclass(frozen=True)
class Scores:
    """Scores of a map.

    Args:
        summary: Scores by name: aAcc, mIoU, mAcc, mFscore, mPrecision, mRecall and kappa.
        classes: Scores of each class.
        confusion: ``confusion[i][j]`` is the number of pixels of class i that were predicted as j.
        levels: Scores with groups of classes taken as one, from fine to coarse.
    """

    columns: ClassVar[tuple[str, ...]] = ("IoU", "Fscore", "Precision", "Recall", "pixels")

    summary: dict[str, float]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    levels: tuple[Scores, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return json_values(self)


def json_values(record: Any) -> dict[str, Any]:
    """Return a dataclass as plain values for JSON. NaN becomes null."""
    return json.loads(json.dumps(asdict(record)), parse_constant=lambda _: None)


def scores(confusion: np.ndarray, names: tuple[str, ...]) -> Scores:
    """Score a confusion matrix.

    Args:
        confusion: Counts ``(classes, classes)``, with the truth along rows and the prediction along columns.
        names: Names of the classes.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    hits = counts.diagonal()
    true = counts.sum(1)
    predicted = counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / true
        precision = hits / (predicted + EPSILON)
        table = {
            "IoU": hits / (true + predicted - hits),
            "Acc": recall,
            "Fscore": 2 * precision * recall / (precision + recall + EPSILON),
            "Precision": precision,
            "Recall": recall,
        }
        summary = {"aAcc": float(hits.sum() / true.sum())}
    for key, values in table.items():
        summary[f"m{key}"] = _mean(values)
    summary["kappa"] = _kappa(counts)
    classes = []
    for i, name in enumerate(names):
        row = {key: float(values[i]) for key, values in table.items()}
        classes.append(ClassScores(name, **row, pixels=int(true[i])))
    matrix = tuple(tuple(row) for row in counts.astype(int).tolist())
    return Scores(summary, tuple(classes), matrix)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def _kappa(counts: np.ndarray) -> float:
    """Cohen's kappa: agreement beyond that expected by chance."""
    total = counts.sum()
    if not total:
        return math.nan
    products = counts.sum(0) * counts.sum(1)
    chance = float(products.sum() / total**2)
    if chance == 1:
        return math.nan
    agreement = counts.trace() / total
    return float((agreement - chance) / (1 - chance))
