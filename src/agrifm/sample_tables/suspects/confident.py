"""Labels that contradict the probabilities of models that did not see them: confident learning.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of
Artificial Intelligence Research 70, 2021.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MOST_IN_ONE_FOLD = 0.8  # of the labels of a class


class Contradictions(NamedTuple):
    """Labels that another class contradicts, worst first.

    Args:
        unit: Number of the labeled unit ``(s)``.
        suggested: Class that its series looks like ``(s)``.
        given_confidence: Probability of the given class ``(s)``.
        suggested_confidence: Probability of the suggested class ``(s)``.
    """

    unit: np.ndarray
    suggested: np.ndarray
    given_confidence: np.ndarray
    suggested_confidence: np.ndarray


def thresholds(probabilities: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Mean probability ``(k)`` of each class among the units that are labeled with it; infinite without any.

    Args:
        probabilities: Out-of-sample probabilities ``(n, k)``.
        given: Class of each label ``(n)``.
    """
    classes = probabilities.shape[1]
    count = np.bincount(given, minlength=classes)
    own = probabilities[np.arange(len(given)), given]
    total = np.bincount(given, own, classes)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def unlearned(given: np.ndarray, fold: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Find classes most of whose labels lie in one fold, so that the models for this fold hardly know them.

    Args:
        given: Class of each label ``(n)``.
        fold: Fold in which it was predicted ``(n)``.
        classes: Number of classes.

    Returns:
        Whether a class is such a class ``(k)``, and whether a label of it lies in that fold ``(n)``.
    """
    counts = np.zeros((classes, int(fold.max()) + 1))
    np.add.at(counts, (given, fold), 1)
    is_class = counts.max(1) > MOST_IN_ONE_FOLD * counts.sum(1)
    is_label = is_class[given] & (fold == counts.argmax(1)[given])
    return is_class, is_label


def contradictions(probabilities: np.ndarray, given: np.ndarray, fold: np.ndarray) -> Contradictions:
    """Find labels whose own class lies below its threshold while another, likelier class reaches its own.

    Labels that models could not learn elsewhere are not judged, and classes that they could not learn not suggested.

    Args:
        probabilities: Out-of-sample probabilities ``(n, k)``.
        given: Class of each label ``(n)``.
        fold: Fold in which each label was predicted ``(n)``.
    """
    limit = thresholds(probabilities, given)
    is_class, is_label = unlearned(given, fold, probabilities.shape[1])
    # The few labels of such a class in other folds are judged by the usual threshold.
    usual = limit[~is_class & np.isfinite(limit)]
    limit_of_own = np.where(is_class, usual.mean() if len(usual) else 0.0, limit)
    reached = np.where((probabilities >= limit) & ~is_class, probabilities, -1.0)
    suggested = reached.argmax(1)
    rows = np.arange(len(given))
    own = probabilities[rows, given]
    # Rare classes that are hardly recognized have low thresholds, so the suggested class must be the likelier one, too.
    is_suspect = ~is_label & (own < limit_of_own[given]) & (reached[rows, suggested] > own)
    unit = np.flatnonzero(is_suspect)
    best = probabilities[unit, suggested[unit]]
    order = np.argsort(own[unit] - best, kind="stable")
    unit = unit[order]
    return Contradictions(unit, suggested[unit], own[unit], best[order])
