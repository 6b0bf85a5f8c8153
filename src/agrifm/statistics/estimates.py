"""Accuracy and area from a stratified random sample, each with its standard error.

A single estimator serves all cases: the ratio of two stratified totals of indicators, with its variance by
linearization. If the strata are the classes of the map, it equals that of Olofsson et al. 2014 (eqs. 1 to 11), who
leave out the finite population correction; otherwise it equals that of Stehman 2014, who includes it. A region is a
domain of the population (Särndal et al. 1992, Model assisted survey sampling, ch. 10): indicators are zero outside it.

Pixels are weighted by their area on the ground within their stratum (Cochran 1977, 6.10). This changes nothing if all
pixels of a stratum have the same area.

Sources: Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57. Stehman 2014, Estimating area and map accuracy
for stratified random sampling when the strata are different from the map classes, International Journal of Remote
Sensing 35, 4923-4939.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import nan, sqrt
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Value:
    """An estimate with the standard error, half width and limits of its interval; all NaN if it does not exist."""

    value: float
    se: float
    margin: float
    low: float
    high: float

    def times(self, factor: float) -> Value:
        """Return the estimate in another unit."""
        return Value(*(factor * x for x in astuple(self)))


@dataclass(frozen=True)
class Observed:
    """An interpreted sample of n units in h strata.

    Args:
        stratum: Position ``(n)`` of the stratum in ``pixels`` and ``hectares``.
        mapped: Position ``(n)`` of the class on the map.
        reference: Position ``(n)`` of the true class.
        area: Area ``(n)`` of the pixels.
        pixels: Number of pixels ``(h)`` in each stratum.
        hectares: Area ``(h)`` of each stratum.
        corrected: Whether to make the finite population correction; strata that were drawn entirely always have it.
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
        """Return the ratio of two areas, and its standard error.

        Args:
            part: Indicator ``(n)`` of the area in the numerator.
            whole: Indicator ``(n)`` of the area in the denominator.
        """
        n = self.counts
        strata = len(n)

        def stratum_means(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.stratum, values, strata) / n

        weight = self.area / stratum_means(self.area)[self.stratum]
        part_means = stratum_means(weight * part)
        whole_means = stratum_means(weight * whole)
        total = self.hectares @ whole_means
        if total == 0:
            return nan, nan
        ratio = self.hectares @ part_means / total
        part_deviation = part - part_means[self.stratum]
        whole_deviation = whole - whole_means[self.stratum]
        residual = weight * (part_deviation - ratio * whole_deviation)
        variance = np.bincount(self.stratum, residual**2, strata) / np.maximum(n - 1, 1)
        is_corrected = self.corrected | (n == self.pixels)
        correction = np.where(is_corrected, 1 - n / self.pixels, 1.0)
        error = sqrt(float(self.hectares**2 @ (correction * variance / n)))
        return float(ratio), error / float(total)


@dataclass(frozen=True)
class ClassEstimate:
    """Estimates for one class: area in hectares, share of the region, user's and producer's accuracy."""

    name: str
    hectares: Value
    share: Value
    user: Value
    producer: Value


@dataclass(frozen=True)
class Estimate:
    """Estimates for a region or for the whole population.

    Args:
        region: Name of the region; empty for the whole population.
        units: Number of units in it.
        level: Level of the confidence intervals.
        overall: Overall accuracy.
        classes: Estimates for each class, in order.
        confusion: ``confusion[i][j]`` is the share of area that is mapped as class i and belongs to class j.
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
    """Estimate accuracy and areas of the whole population, or of the region with the units ``inside (n)``.

    Intervals assume a normal distribution. Their limits are cut at 0 and 1, beyond which no share can lie.
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
    hectares = float(observed.hectares.sum())
    classes = []
    for name, is_mapped, is_true in zip(names, mapped, true, strict=True):
        entry = ClassEstimate(
            name,
            hectares=value(is_true, everywhere).times(hectares),
            share=value(is_true, domain),
            user=value(is_mapped & is_true, is_mapped & domain),
            producer=value(is_mapped & is_true, is_true & domain),
        )
        classes.append(entry)
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
        units_mapped=_count_inside(mapped, domain),
        units_true=_count_inside(true, domain),
    )


def _count_inside(masks: Sequence[np.ndarray], domain: np.ndarray) -> tuple[int, ...]:
    return tuple(int((mask & domain).sum()) for mask in masks)
