"""Accuracy and area from a stratified random sample, each with its standard error.

One estimator serves all quantities: the ratio of two stratified totals of indicators, with its variance by
linearization. Where the strata are the classes of the map, it is that of Olofsson et al. 2014 (eqs. 1 to 11), who leave
out the finite population correction; otherwise it is that of Stehman 2014, who includes it. A region is a domain of the
population (Särndal et al. 1992, Model assisted survey sampling, ch. 10): indicators are zero outside of it.

Pixels count by their area on the ground within their stratum (Cochran 1977, 6.10), which changes nothing where all
pixels of a stratum have the same area.

Sources: Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57. Stehman 2014, Estimating area and map accuracy
for stratified random sampling when the strata are different from the map classes, International Journal of Remote
Sensing 35, 4923-4939.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Value:
    """An estimate with its standard error, and half width and limits of its interval; all NaN if it does not exist."""

    value: float
    se: float
    margin: float
    low: float
    high: float

    def times(self, factor: float) -> Value:
        """Convert to another unit."""
        return Value(factor * self.value, factor * self.se, factor * self.margin, factor * self.low, factor * self.high)


@dataclass(frozen=True)
class Observed:
    """An interpreted sample.

    Args:
        stratum: Position ``(n)`` of the stratum in ``pixels`` and ``hectares``.
        mapped: Position ``(n)`` of the class on the map.
        reference: Position ``(n)`` of the true class.
        area: Area ``(n)`` of the pixels.
        pixels: Number ``(h)`` of pixels in each stratum.
        hectares: Area ``(h)`` of each stratum.
        corrected: Whether the finite population correction is applied; strata that were sampled in full always have it.
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
        """Number of units in each stratum ``(h)``."""
        return np.bincount(self.stratum, minlength=len(self.pixels))

    def ratio(self, part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
        """Estimate the area where ``part (n)`` holds over the area where ``whole (n)`` holds.

        Returns:
            The ratio and its standard error; both NaN if ``whole`` holds nowhere.
        """
        counts = self.counts
        # Within a stratum, a pixel counts by its area relative to the mean of the sample.
        weight = self.area / self._stratum_means(self.area)[self.stratum]
        part_means = self._stratum_means(weight * part)
        whole_means = self._stratum_means(weight * whole)
        total = self.hectares @ whole_means
        if total == 0:
            return float("nan"), float("nan")
        ratio = self.hectares @ part_means / total
        part_deviation = part - part_means[self.stratum]
        whole_deviation = whole - whole_means[self.stratum]
        residual = weight * (part_deviation - ratio * whole_deviation)
        sums_of_squares = np.bincount(self.stratum, residual**2, len(counts))
        variance = sums_of_squares / np.maximum(counts - 1, 1)
        finite_population = self.corrected | (counts == self.pixels)
        correction = np.where(finite_population, 1 - counts / self.pixels, 1.0)
        standard_error = sqrt(float(self.hectares**2 @ (correction * variance / counts))) / float(total)
        return float(ratio), standard_error

    def _stratum_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of the values ``(n)`` of the units in each stratum ``(h)``."""
        counts = self.counts
        return np.bincount(self.stratum, values, len(counts)) / counts


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
    """Estimates of a region, or of the whole population.

    Args:
        region: Name of the region; empty for the whole population.
        units: Number of units of the sample in it.
        level: Level of the confidence intervals.
        overall: Overall accuracy.
        classes: Estimates of the classes, in their order.
        confusion: ``confusion[i][j]`` is the share of the area that is mapped as class i and is class j.
        units_mapped: Number of units by class on the map.
        units_true: Number of units by true class.
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
    """Estimate accuracy and areas of the population, or of a region.

    Intervals are those of the normal distribution, cut at 0 and 1 where no share can lie beyond.

    Args:
        observed: Interpreted sample.
        names: Names of the classes.
        level: Level of the confidence intervals.
        region: Name of the region.
        inside: Mask ``(n)`` of the units that lie in the region; None for the whole population.
    """
    domain = np.ones(len(observed.stratum), bool) if inside is None else inside
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def value(part: np.ndarray, whole: np.ndarray) -> Value:
        ratio, se = observed.ratio((part & domain).astype(float), whole.astype(float))
        low, high = np.clip((ratio - z * se, ratio + z * se), 0, 1).tolist()
        return Value(ratio, se, z * se, low, high)

    mapped = [observed.mapped == i for i in range(len(names))]
    true = [observed.reference == i for i in range(len(names))]
    everywhere = np.ones_like(domain)
    total = float(observed.hectares.sum())
    classes = []
    for name, is_mapped, is_true in zip(names, mapped, true, strict=True):
        is_right = is_mapped & is_true
        classes.append(
            ClassEstimate(
                name,
                hectares=value(is_true, everywhere).times(total),
                share=value(is_true, domain),
                user=value(is_right, is_mapped & domain),
                producer=value(is_right, is_true & domain),
            )
        )
    confusion = []
    for is_mapped in mapped:
        confusion.append(tuple(value(is_mapped & is_true, domain).value for is_true in true))
    return Estimate(
        region,
        units=int(domain.sum()),
        level=level,
        overall=value(observed.mapped == observed.reference, domain),
        classes=tuple(classes),
        confusion=tuple(confusion),
        units_mapped=tuple(int((mask & domain).sum()) for mask in mapped),
        units_true=tuple(int((mask & domain).sum()) for mask in true),
    )
