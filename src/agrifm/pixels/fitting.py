"""Choice of pixel classifiers by cross-validation over blocks of ground, and their fit to all pixels."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from agrifm.errors import InputError
from agrifm.pixels.config import MemberName, PixelsConfig
from agrifm.pixels.draw import LabeledPixels, smallest_keys
from agrifm.pixels.ensemble import Fitted, PixelEnsemble
from agrifm.pixels.features import PixelFeatures
from agrifm.pixels.learners import fit_member
from agrifm.pixels.members import Member, widen

CLEARLY_WORSE = 0.02  # macro F-score; members that are this much worse than the best one are left out
ALL_SUBSETS = 3  # sensors up to which members are fitted for every subset
FEWER_PIXELS = 4_000  # pixels of the cross-validation and of fallbacks; more take longer and change little
LEAST_PIXELS = 20  # labeled pixels below which a set of sensors gets no members

Progress = Callable[[str], object]


@dataclass(frozen=True)
class MemberScore:
    """Scores of a member in the cross-validation.

    Args:
        name: Name of the member.
        accuracy: Share of pixels whose class is right.
        f_score: Mean of the F-scores of the classes.
        seconds: Time of all fits and predictions.
        chosen: Whether it belongs to the ensemble.
    """

    name: MemberName
    accuracy: float
    f_score: float
    seconds: float
    chosen: bool


@dataclass(frozen=True)
class Comparison:
    """Members compared by cross-validation.

    Args:
        members: Scores of every member; none without a cross-validation.
        mean: Accuracy and mean F-score of the mean of the chosen members.
        folds: Number of folds; 0 without a cross-validation.
        blocks: Number of blocks of ground.
        pixels: Number of labeled pixels.
    """

    members: tuple[MemberScore, ...]
    mean: tuple[float, float] | None
    folds: int
    blocks: int
    pixels: int

    @property
    def chosen(self) -> tuple[MemberName, ...]:
        """Names of the chosen members, the best one first."""
        best_first = sorted(self.members, key=lambda member: -member.f_score)
        return tuple(member.name for member in best_first if member.chosen)


def refuse_one_class(classes: np.ndarray) -> None:
    """Refuse labels that hold fewer than two classes.

    Raises:
        InputError: If they do.
    """
    count = len(np.unique(classes))
    if count < 2:
        raise InputError(
            "labels of the training samples",
            found=f"{count} class in {len(classes):,} labeled pixels",
            expected="at least two classes",
            repair="add labels of another class, or check the class column and the lists of chips.",
        )


def fit_ensemble(
    pixels: LabeledPixels,
    features: PixelFeatures,
    classes: int,
    names: Sequence[MemberName],
    seed: int,
    progress: Progress,
) -> PixelEnsemble:
    """Fit members to all pixels, for every set of sensors.

    Args:
        pixels: Labeled pixels.
        features: How the features were computed.
        classes: Number of classes of the task.
        names: Members, the best one first; it alone classifies samples that lack a sensor.
        seed: Seed of all random choices.
        progress: Receives a line about the current step.

    Returns:
        The mean of the members.

    Raises:
        InputError: If the labels hold fewer than two classes.
    """
    refuse_one_class(pixels.classes)
    known = np.unique(pixels.classes)
    subsets = _subsets(pixels, [sensor.name for sensor in features.sensors])
    members = []
    for sensors in subsets:
        rows = pixels.with_all(sensors)
        chosen = names
        # Members for a missing sensor are a fallback, and there are up to six sets of them.
        if sensors != subsets[0]:
            rows = _fewer(rows, pixels.classes, seed)
            chosen = names[:1]
        of_rows = pixels.features(sensors)[rows]
        for name in chosen:
            progress(f"fitting {name} to {' and '.join(sensors)}")
            module = _fit(name, of_rows, pixels.classes[rows], known, seed)
            members.append(Fitted(name, sensors, 1 / len(chosen), module))
    return PixelEnsemble(features, classes, known.tolist(), members)


def _subsets(pixels: LabeledPixels, sensors: Sequence[str]) -> list[tuple[str, ...]]:
    """Sets of sensors to fit members for, the one with all usable sensors first.

    A set is left out if too few pixels have all of its sensors, or one class only.
    """
    sizes = range(len(sensors), 0, -1)
    if len(sensors) > ALL_SUBSETS:
        sizes = [len(sensors), len(sensors) - 1, 1]
    subsets = []
    for size in sizes:
        for subset in combinations(sensors, size):
            rows = pixels.with_all(subset)
            if len(rows) >= min(LEAST_PIXELS, len(pixels)) and len(np.unique(pixels.classes[rows])) > 1:
                subsets.append(subset)
    if not subsets:
        raise InputError(
            "labels of the training samples",
            found="no sensor that observed two classes",
            expected="at least two classes among the samples of a sensor",
            repair="add samples, so that every class is observed by the same sensor.",
        )
    return subsets


def _fewer(rows: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """Draw rows at random if there are many, as :func:`smallest_keys` does; ``classes`` are those of all pixels."""
    if len(rows) <= FEWER_PIXELS:
        return rows
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(rows), FEWER_PIXELS, replace=False)
    key = rng.random(len(rows))
    key[drawn] -= 1  # before all others, which only make up for rare classes
    return rows[smallest_keys(key, classes[rows], FEWER_PIXELS)]


def _fit(name: MemberName, features: np.ndarray, classes: np.ndarray, known: np.ndarray, seed: int) -> Member:
    """Fit a member whose classes are numbered among all known ones."""
    present = np.unique(classes)
    module = fit_member(name, features, np.searchsorted(present, classes), seed)
    return widen(module, np.searchsorted(known, present), len(known)) if len(present) < len(known) else module


def compare_members(
    pixels: LabeledPixels,
    blocks: np.ndarray,
    sensors: Sequence[str],
    config: PixelsConfig,
    seed: int,
    progress: Progress,
) -> Comparison:
    """Cross-validate every member over blocks of ground, with the sensors that most pixels have.

    Args:
        pixels: Labeled pixels of the training samples.
        blocks: Block of ground ``(n)`` of each pixel; a block is never divided between folds.
        sensors: Names of all sensors.
        config: Members and folds.
        seed: Seed of all random choices.
        progress: Receives a line about the current step.

    Raises:
        InputError: If the labels hold fewer than two classes.
    """
    refuse_one_class(pixels.classes)
    usable = _subsets(pixels, sensors)[0]
    rows = _fewer(pixels.with_all(usable), pixels.classes, seed)
    features, classes, blocks = pixels.features(usable)[rows], pixels.classes[rows], blocks[rows]
    count = len(np.unique(blocks))
    if len(config.members) < 2:
        return Comparison((), None, 0, count, len(rows))
    validation = cross_validate(features, classes, blocks, config, seed, progress)
    if not validation.folds:
        return Comparison((), None, 0, count, len(rows))
    scores = validation.scores()
    chosen = validation.chosen()
    members = []
    for name, (accuracy, f_score) in scores.items():
        members.append(MemberScore(name, accuracy, f_score, validation.seconds[name], name in chosen))
    tested = validation.tested
    mean = _scores(validation.mean()[tested], classes[tested])
    return Comparison(tuple(members), mean, validation.folds, count, len(rows))


@dataclass(frozen=True)
class CrossValidation:
    """Probabilities of pixels by members that were fitted without the blocks of these pixels.

    Args:
        classes: Class of each pixel ``(n)``.
        probabilities: Probabilities ``(n, k)`` by member.
        fold: Number of the fold in which each pixel was tested ``(n)``; -1 where that fold could not be used.
        seconds: Time of all fits and predictions by member.
        folds: Number of folds; 0 if there are too few blocks.
    """

    classes: np.ndarray
    probabilities: dict[MemberName, np.ndarray]
    fold: np.ndarray
    seconds: dict[MemberName, float]
    folds: int

    @property
    def tested(self) -> np.ndarray:
        """Numbers of the pixels that were tested."""
        return np.flatnonzero(self.fold >= 0)

    def scores(self) -> dict[MemberName, tuple[float, float]]:
        """Accuracy and mean F-score by member."""
        tested = self.tested
        return {name: _scores(of[tested], self.classes[tested]) for name, of in self.probabilities.items()}

    def chosen(self) -> tuple[MemberName, ...]:
        """Members that are not clearly worse than the best one."""
        return choose({name: f_score for name, (_, f_score) in self.scores().items()})

    def mean(self) -> np.ndarray:
        """Mean probabilities ``(n, k)`` of the chosen members."""
        return np.mean([self.probabilities[name] for name in self.chosen()], 0)


def cross_validate(
    features: np.ndarray, classes: np.ndarray, blocks: np.ndarray, config: PixelsConfig, seed: int, progress: Progress
) -> CrossValidation:
    """Fit every member without some blocks of ground, and predict the pixels of these blocks.

    Args:
        features: Features ``(n, f)``; NaN where a value is missing.
        classes: Class of each pixel ``(n)``.
        blocks: Block of ground of each pixel ``(n)``; a block is never divided between folds.
        config: Members and folds.
        seed: Seed of all random choices.
        progress: Receives a line about the current step.
    """
    folds = list(_folds(features, classes, blocks, config.folds, seed))
    fold = np.full(len(classes), -1)
    if len(folds) < 2:
        return CrossValidation(classes, {}, fold, {}, 0)
    for number, (_, test) in enumerate(folds):
        fold[test] = number
    predictions = {}
    seconds = {}
    for name in config.members:
        started = time.monotonic()
        predictions[name] = np.zeros((len(classes), classes.max() + 1), np.float32)
        for number, (train, test) in enumerate(folds, 1):
            progress(f"cross-validation: {name}, fold {number} of {len(folds)}")
            present = np.unique(classes[train])
            module = fit_member(name, features[train], np.searchsorted(present, classes[train]), seed)
            with torch.inference_mode():
                predicted = module(torch.from_numpy(features[test])).numpy()
            predictions[name][np.ix_(test, present)] = predicted
        seconds[name] = time.monotonic() - started
    return CrossValidation(classes, predictions, fold, seconds, len(folds))


def choose(f_scores: Mapping[MemberName, float]) -> tuple[MemberName, ...]:
    """Members that are not clearly worse than the best one."""
    best = max(f_scores.values())
    return tuple(name for name, score in f_scores.items() if score >= best - CLEARLY_WORSE)


def _folds(
    features: np.ndarray, classes: np.ndarray, blocks: np.ndarray, folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Divide whole blocks into folds with similar shares of the classes; training always holds two classes."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(folds, len(np.unique(blocks)))
    if folds < 2:
        return
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Classes with fewer pixels than folds are tested in some of the folds.
        warnings.filterwarnings("ignore", message="The least populated class")
        divided = list(splitter.split(features, classes, blocks))
    for train, test in divided:
        if len(test) and len(np.unique(classes[train])) > 1:
            yield train, test


def _scores(probabilities: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Accuracy, and the mean F-score of the classes that occur."""
    from sklearn.metrics import f1_score

    predicted = probabilities.argmax(1)
    f_score = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0.0)
    return float((predicted == truth).mean()), float(f_score)
