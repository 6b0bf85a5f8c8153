"""Options of pixel classifiers: the ``pixels`` section of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agrifm.errors import InputError
from agrifm.sample import Season

MemberName = Literal["lda", "logistic", "kernel", "lda_kernel", "forest", "extra_trees", "boosting"]
FeatureName = Literal["series", "indices", "statistics", "context"]


@dataclass(frozen=True)
class PixelsConfig:
    """Options of the classifiers of single pixels: the ``pixels`` section of an experiment.

    Args:
        members: Classifiers that are fitted and compared: ``lda`` (linear discriminant analysis with shrinkage),
            ``logistic`` regression, ``kernel`` (logistic regression on Gaussian kernels), ``lda_kernel`` (the same on
            the axes of ``lda``), ``forest``, ``extra_trees``, ``boosting`` (gradient-boosted trees).
        features: ``series`` are the bands, interpolated to regular dates; ``indices`` adds normalized differences of
            bands at the same dates, ``statistics`` the mean, deviation, minimum, maximum and median over the season.
            ``context`` adds the series of the mean of the valid pixels in the 3 x 3 neighborhood, on the grid of the
            sensor: its bands, and its indices if ``indices`` is listed. It is no default, because cross-validation on
            real series showed no gain from such means.
        time_steps: Number of dates to interpolate to, evenly spaced over the season of the training data.
        season: The season that the dates cover; by default that of the training data.
        folds: Number of folds of the cross-validation, which divides the training ground into blocks.
        max_pixels: Largest number of training pixels; of more, some are drawn at random. Every class keeps at least 2 %
            of this number, or all of its pixels.
        learn_from_val: Once the members are chosen, fit them to the training and validation splits together. Scores and
            calibration on the validation split use members that were fitted without it. With task ``fields``, members
            never learn from it, because the edges beside them are chosen on it.
    """

    members: tuple[MemberName, ...] = ("lda", "logistic", "kernel", "lda_kernel", "extra_trees")
    features: tuple[FeatureName, ...] = ("series", "indices", "statistics")
    time_steps: int = 24
    season: Season | None = None
    folds: int = 5
    max_pixels: int = 10_000
    learn_from_val: bool = True

    def __post_init__(self) -> None:
        if not self.members or len(set(self.members)) < len(self.members):
            raise InputError(
                "pixels.members",
                found=", ".join(self.members) or "an empty list",
                expected="at least one member, and each once",
                repair="list the members to compare, or leave the key out.",
            )
        if "series" not in self.features:
            raise InputError(
                "pixels.features",
                found=", ".join(self.features) or "an empty list",
                expected="series, and optionally indices, statistics and context",
                repair="add 'series'; the other features are computed from it.",
            )
