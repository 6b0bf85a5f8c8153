"""Honest yardsticks: what the same pixels give without a deep model.

A model's score means little alone. It is printed beside the most frequent class and beside a random forest on
gap-filled time series, the usual first choice in crop mapping (Belgiu and Dragut, 2016). Both return the
confusion matrix ``(classes, classes)`` of the test pixels: rows are the truth, columns the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from agrifm.errors import InputError
from agrifm.evaluation.series import SeriesFeatures
from agrifm.sample import Sample


def majority(train: Iterable[Sample], test: Iterable[Sample], classes: int, ignore_index: int = -1) -> np.ndarray:
    """Predict everywhere the class that is most frequent in training.

    Raises:
        InputError: If a label is missing or is no class, or nothing is labeled.
    """
    confusion = np.zeros((classes, classes), np.int64)
    frequent = np.sum(_counts(train, classes, ignore_index), axis=0).argmax()
    confusion[:, frequent] = np.sum(_counts(test, classes, ignore_index), axis=0)
    return confusion


def random_forest(
    train: Iterable[Sample],
    test: Iterable[Sample],
    classes: int,
    *,
    sensors: Sequence[str],
    ignore_index: int = -1,
    seed: int = 0,
    pixels: int = 40_000,
    steps: int = 12,
    trees: int = 200,
    jobs: int = -1,
) -> np.ndarray:
    """Classify each pixel by its own time series.

    Bands are interpolated over valid dates and brought to the label's grid by nearest neighbor; what was never
    seen takes the median of training. ``train`` is gone through thrice: an iterator is kept in memory.

    Args:
        sensors: Names of the sensors to use; a sample may lack some.
        ignore_index: Label of pixels that count neither in training nor in the score.
        pixels: Pixels at most so many training pixels, drawn at random from all samples.
        steps: Dates to interpolate to, evenly spaced over the season seen in training.

    Raises:
        InputError: If a label is missing or is no class, nothing is labeled, or no training sample has a sensor.
    """
    samples = tuple(train) if isinstance(train, Iterator) else train
    season, rng = SeriesFeatures.of(samples, sensors, steps), np.random.default_rng(seed)
    forest = RandomForestClassifier(trees, n_jobs=jobs, random_state=seed)
    model = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), forest)
    model.fit(*_draw(samples, season, classes, ignore_index, pixels, rng))
    confusion = np.zeros((classes, classes), np.int64)
    for sample in test:
        label = _label(sample, classes, ignore_index)
        chosen = np.flatnonzero(label != ignore_index)
        if len(chosen):
            predicted = model.predict(season.features(sample, label, chosen))
            np.add.at(confusion, (label.ravel()[chosen], predicted), 1)
    return confusion


def _draw(
    samples: Iterable[Sample],
    season: SeriesFeatures,
    classes: int,
    ignore_index: int,
    pixels: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(n, f)`` and classes ``(n)`` of pixels drawn at random from all labeled ones."""
    totals = np.cumsum([0, *(counts.sum() for counts in _counts(samples, classes, ignore_index))])
    drawn = np.sort(rng.choice(totals[-1], min(pixels, totals[-1]), replace=False))
    features, truth = [], []
    for sample, first, end in zip(samples, totals, totals[1:], strict=False):
        if not len(mine := drawn[(drawn >= first) & (drawn < end)] - first):
            continue
        label = _label(sample, classes, ignore_index)
        chosen = np.flatnonzero(label != ignore_index)[mine]
        features.append(season.features(sample, label, chosen))
        truth.append(label.ravel()[chosen])
    return np.concatenate(features), np.concatenate(truth)


def _counts(samples: Iterable[Sample], classes: int, ignore_index: int) -> list[np.ndarray]:
    """Labeled pixels of each class, for every sample."""
    labels = (_label(sample, classes, ignore_index) for sample in samples)
    counts = [np.bincount(label[label != ignore_index], minlength=classes) for label in labels]
    if not np.any(counts):
        raise InputError(
            "labels of the training or test samples",
            found="no labeled pixel",
            expected="at least one",
            repair="check ignore_index and the lists.",
        )
    return counts


def _label(sample: Sample, classes: int, ignore_index: int) -> np.ndarray:
    label = np.empty(0, np.int64) if sample.label is None else sample.label.numpy()
    wrong = np.unique(label[(label != ignore_index) & ((label < 0) | (label >= classes))])
    if sample.label is None or len(wrong):
        raise InputError(
            f"sample {sample.name}: label",
            found=f"the values {wrong[:8].tolist()}" if len(wrong) else "no label",
            expected=f"classes 0 to {classes - 1}, or {ignore_index} where unknown",
            repair="correct the label, the number of classes or ignore_index.",
        )
    return label
