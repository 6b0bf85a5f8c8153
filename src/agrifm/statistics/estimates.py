"""Accuracy and area from a stratified random sample, each with its standard error.

One estimator does all: the ratio of two stratified totals of indicators, its variance by linearization. Where the
strata are the classes of the map it is that of Olofsson et al. 2014 (eqs. 1 to 11), who leave out the finite population
correction; where they are not, that of Stehman 2014, who has it. A region is a domain of the population (Särndal et
al. 1992, Model assisted survey sampling, ch. 10): indicators are zero outside of it.

Pixels count by their area on the ground within their stratum (Cochran 1977, 6.10); where all pixels of a stratum have
one area that changes nothing.

Sources: Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57. Stehman 2014, Estimating area and map accuracy
for stratified random sampling when the strata are different from the map classes, International Journal of Remote
Sensing 35, 4923-4939.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Value:
    """An estimate with standard error, half width and limits of its interval; all NaN where it does not exist."""

    value: float
    se: float
    margin: float
    low: float
    high: float

    def times(self, factor: float) -> Value:
        """The same in another unit."""
        return Value(*(factor * x for x in astuple(self)))


@dataclass(frozen=True)
class Observed:
    """An interpreted sample.

    Args:
        stratum: ``(n)`` position in ``pixels`` and ``hectares``.
        mapped: ``(n)`` position of the class on the map.
        reference: ``(n)`` position of the true class.
        area: ``(n)`` of the pixels.
        pixels: ``(h)`` in each stratum.
        hectares: ``(h)`` of each stratum.
        corrected: whether the finite population correction is made; strata counted in full always have it.
    """

    stratum: np.ndarray
    mapped: np.ndarray
    reference: np.ndarray
    area: np.ndarray
    pixels: np.ndarray
    hectares: np.ndarray
    corrected: bool

    @property
    def counts(self) -> np.ndarray:
        """Units in each stratum ``(h)``."""
        return np.bincount(self.stratum, minlength=len(self.pixels))

    def ratio(self, part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
        """Area where ``part (n)`` holds over area where ``whole (n)`` holds, and the standard error."""
        n, h = self.counts, self.stratum

        def mean(values: np.ndarray) -> np.ndarray:
            return np.bincount(h, values, len(n)) / n

        weight = self.area / mean(self.area)[h]
        means = mean(weight * part), mean(weight * whole)
        total = self.hectares @ means[1]
        if total == 0:
            return float("nan"), float("nan")
        found = self.hectares @ means[0] / total
        residual = weight * (part - means[0][h] - found * (whole - means[1][h]))
        unseen = np.where(self.corrected | (n == self.pixels), 1 - n / self.pixels, 1.0)
        spread = np.bincount(h, residual**2, len(n)) / np.maximum(n - 1, 1)
        return float(found), sqrt(float(self.hectares**2 @ (unseen * spread / n))) / float(total)


@dataclass(frozen=True)
class ClassEstimate:
    """One class: area in hectares, share of the region, user's and producer's accuracy."""

    name: str
    hectares: Value
    share: Value
    user: Value
    producer: Value


@dataclass(frozen=True)
class Estimate:
    """A region, or everything.

    Args:
        region: its name; empty for everything.
        units: of the sample in it.
        level: of the confidence intervals.
        overall: accuracy.
        classes: in their order.
        confusion: ``confusion[i][j]`` is the share of area mapped as class i that is class j.
        units_mapped, units_true: of the sample, by class.
    """

    region: str
    units: int
    level: float
    overall: Value
    classes: tuple[ClassEstimate, ...]
    confusion: tuple[tuple[float, ...], ...]
    units_mapped: tuple[int, ...]
    units_true: tuple[int, ...]


def estimate(
    observed: Observed, names: Sequence[str], level: float = 0.95, region: str = "", inside: np.ndarray | None = None
) -> Estimate:
    """Estimate accuracy and areas of everything, or of the region whose units are ``inside (n)``.

    Intervals are those of the normal distribution; their limits are cut where no share can lie, below 0 and above 1.
    """
    domain = np.ones(len(observed.stratum), bool) if inside is None else inside
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def value(part: np.ndarray, whole: np.ndarray) -> Value:
        found, se = observed.ratio((part & domain).astype(float), whole.astype(float))
        low, high = np.clip((found - z * se, found + z * se), 0, 1).tolist()
        return Value(found, se, z * se, low, high)

    mapped = [observed.mapped == i for i in range(len(names))]
    true = [observed.reference == i for i in range(len(names))]
    everywhere, total = np.ones_like(domain), float(observed.hectares.sum())
    classes = tuple(
        ClassEstimate(
            name,
            value(is_true, everywhere).times(total),
            value(is_true, domain),
            value(is_mapped & is_true, is_mapped & domain),
            value(is_mapped & is_true, is_true & domain),
        )
        for name, is_mapped, is_true in zip(names, mapped, true, strict=True)
    )
    return Estimate(
        region,
        int(domain.sum()),
        level,
        value(observed.mapped == observed.reference, domain),
        classes,
        tuple(tuple(value(a & b, domain).value for b in true) for a in mapped),
        tuple(int((each & domain).sum()) for each in mapped),
        tuple(int((each & domain).sum()) for each in true),
    )
