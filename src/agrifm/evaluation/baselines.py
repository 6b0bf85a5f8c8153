"""Simple models that a deep model should beat: the most frequent class, and a random forest.

The random forest classifies gap-filled time series, the usual first choice in crop mapping (Belgiu and Dragut, 2016).
Both functions return the confusion matrix ``(classes, classes)`` of the test pixels: rows are the truth, columns the
prediction.
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
    """Predict the most frequent class of training everywhere.

    Raises:
        InputError: If a label is missing or is not a class, or nothing is labeled.
    """
    train_counts = _class_counts(train, classes, ignore_index).sum(axis=0)
    test_counts = _class_counts(test, classes, ignore_index).sum(axis=0)
    confusion = np.zeros((classes, classes), np.int64)
    confusion[:, train_counts.argmax()] = test_counts
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

    Bands are interpolated over valid dates and brought to the grid of the label by nearest neighbor. Features that were
    never observed take the median of training.

    Args:
        train: Training samples. They are read three times; an iterator is kept in memory.
        test: Test samples.
        classes: Number of classes.
        sensors: Names of the sensors to use; a sample may lack some.
        ignore_index: Label of pixels that count neither in training nor in the score.
        seed: Seed of the drawn pixels and of the forest.
        pixels: Largest number of training pixels, drawn at random from all samples.
        steps: Number of dates to interpolate to, evenly spaced over the season of training.
        trees: Number of trees.
        jobs: Number of threads; -1 uses all cores.

    Raises:
        InputError: If a label is missing or is not a class, nothing is labeled, or no training sample has a sensor.
    """
    samples = tuple(train) if isinstance(train, Iterator) else train
    series = SeriesFeatures.of(samples, sensors, steps)
    rng = np.random.default_rng(seed)
    forest = RandomForestClassifier(trees, n_jobs=jobs, random_state=seed)
    model = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), forest)
    features, truth = _draw_pixels(samples, series, classes, ignore_index, pixels, rng)
    model.fit(features, truth)
    confusion = np.zeros((classes, classes), np.int64)
    for sample in test:
        label = _label(sample, classes, ignore_index)
        labeled = np.flatnonzero(label != ignore_index)
        if len(labeled):
            predicted = model.predict(series.features(sample, label, labeled))
            np.add.at(confusion, (label.ravel()[labeled], predicted), 1)
    return confusion


def _draw_pixels(
    samples: Iterable[Sample],
    series: SeriesFeatures,
    classes: int,
    ignore_index: int,
    pixels: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(n, f)`` and classes ``(n)`` of pixels drawn at random from all labeled ones."""
    counts = _class_counts(samples, classes, ignore_index).sum(axis=1)
    ends = np.cumsum(counts)  # labeled pixels are numbered through all samples
    total = ends[-1]
    drawn = np.sort(rng.choice(total, min(pixels, total), replace=False))
    features = []
    truth = []
    for sample, count, end in zip(samples, counts, ends, strict=True):
        first = end - count
        drawn_of_sample = drawn[(drawn >= first) & (drawn < end)] - first
        if not len(drawn_of_sample):
            continue
        label = _label(sample, classes, ignore_index)
        labeled = np.flatnonzero(label != ignore_index)
        chosen = labeled[drawn_of_sample]
        features.append(series.features(sample, label, chosen))
        truth.append(label.ravel()[chosen])
    return np.concatenate(features), np.concatenate(truth)


def _class_counts(samples: Iterable[Sample], classes: int, ignore_index: int) -> np.ndarray:
    """Labeled pixels of each class in each sample ``(samples, classes)``."""
    counts = []
    for sample in samples:
        label = _label(sample, classes, ignore_index)
        counts.append(np.bincount(label[label != ignore_index], minlength=classes))
    if not np.any(counts):
        raise InputError(
            "labels of the training or test samples",
            found="no labeled pixel",
            expected="at least one",
            repair="check ignore_index and the lists.",
        )
    return np.stack(counts)


def _label(sample: Sample, classes: int, ignore_index: int) -> np.ndarray:
    expected = f"classes 0 to {classes - 1}, or {ignore_index} where unknown"
    repair = "correct the label, the number of classes or ignore_index."
    if sample.label is None:
        raise InputError(f"sample {sample.name}: label", found="no label", expected=expected, repair=repair)
    label = sample.label.numpy()
    is_class = (label >= 0) & (label < classes)
    unknown = np.unique(label[~is_class & (label != ignore_index)])
    if len(unknown):
        found = f"the values {unknown[:8].tolist()}"
        raise InputError(f"sample {sample.name}: label", found=found, expected=expected, repair=repair)
    return label
