"""Dates of a series whose numbers contradict those of the other dates: an offset, a factor or the order of bands.

Many dates of one place show what a single image cannot. Its darkest pixels stay dark, so a date on which they are
brighter by the same 0.1 in every band has an offset left in. Clouds and haze raise the dark pixels too, but not all
bands alike, seldom by just that amount, and they wipe out the pattern of the fields. The limits were set on four real
series of Sentinel-2 and Landsat (Belgium, France, Tanzania); ``docs/scenes.md`` states the resulting error rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from agrifm.checks.ground import has_vegetation, infrared_bands, median_visible, visible_bands
from agrifm.checks.series import NEIGHBORS, Series
from agrifm.sensors import Sensor

PLAUSIBLE = (0.1, 1.6)  # reflectance of the brightest band of land; outside, a factor may be wrong
MIN_FACTOR = 5.0  # by which all bands of a date must differ from those of other dates to be a wrong factor
MIN_GAP = 0.08  # reflectance by which two bands must differ for their order to be judged
OFFSETS = {"S2": 0.1, "Landsat": 0.2}  # that products add before they store reflectance

Kind = Literal["offset", "scale", "order"]


@dataclass(frozen=True)
class Fault:
    """A contradiction of a date to the other dates.

    Args:
        step: Position of the date in the series.
        kind: ``offset``, ``scale`` or ``order`` of bands.
        amount: Reflectance that is too much (negative: too little), or the factor by which it is too large.
        observed: Reflectance on this date.
        usual: Reflectance on the dates with which it was compared.
        bands: Bands that seem exchanged.
        sure: Whether haze cannot explain it.
    """

    step: int
    kind: Kind
    amount: float = 0.0
    observed: float = 0.0
    usual: float = 0.0
    bands: tuple[str, str] | None = None
    sure: bool = True


def find_faults(series: Series) -> list[Fault]:
    """Return the faults of dates in the order of time; a date has one fault at most."""
    if len(series.sensor.bands) < 4 or not infrared_bands(series.sensor):
        return []
    faults = {fault.step: fault for fault in _scale_faults(series)}
    for find in (_order_faults, _offset_faults):
        steps = [step for step in series.judged if step not in faults]
        for fault in find(series, steps):
            faults.setdefault(fault.step, fault)
    return [faults[step] for step in sorted(faults)]


# Scale


def _scale_faults(series: Series) -> list[Fault]:
    """Find dates that are some 10, 100 or 10,000 times brighter or darker than the others in every band."""
    # A date that is too dark looks like water, so water is where most dates show it.
    times_observed = np.maximum(1, series.observed.sum(0))
    water = (series.water & series.observed).sum(0) / times_observed > 0.5
    land = series.observed & ~water
    medians: dict[int, np.ndarray] = {}
    plausible = []
    suspects = []
    for step in np.flatnonzero(land.sum(1) >= series.min_ground).tolist():
        medians[step] = np.median(series.reflectance[step][:, land[step]], axis=1)
        cloudless = land[step] & ~series.cloudy[step]
        if not PLAUSIBLE[0] <= medians[step].max() <= PLAUSIBLE[1]:
            suspects.append(step)
        elif cloudless.sum() > land[step].sum() / 2:
            plausible.append(step)
    faults = []
    for step in suspects:
        nearest = sorted(plausible, key=lambda other: abs(other - step))[: 2 * NEIGHBORS]
        if nearest:
            usual = np.median([medians[other] for other in nearest], axis=0)
            faults.append(_scale_fault(step, medians[step], usual))
    return [fault for fault in faults if fault is not None]


def _scale_fault(step: int, observed: np.ndarray, usual: np.ndarray) -> Fault | None:
    """Return the fault of a date if all its bands differ from the usual ones by a large factor."""
    comparable = usual > 0.02  # the ratio of darker bands is mostly noise
    if comparable.sum() < 3:
        return None
    ratio = np.abs(observed[comparable]) / usual[comparable]
    if not ((ratio < 1 / MIN_FACTOR).all() or (ratio > MIN_FACTOR).all()):
        return None
    typical = float(np.median(np.maximum(ratio, 1e-9)))
    power_of_ten = float(10.0 ** round(np.log10(typical)))
    brightest = int(usual.argmax())
    return Fault(step, "scale", power_of_ten, float(observed[brightest]), float(usual[brightest]))


# Order of bands


def _order_faults(series: Series, steps: Sequence[int]) -> list[Fault]:
    """Find dates on which two bands have each other's values, while all other bands are as on the dates around."""
    faults: list[Fault] = []
    for step in steps:
        neighbors = series.neighbors(step, steps)
        if not neighbors:
            continue
        medians = []
        medians_around = []
        for other in neighbors:
            ground = series.shared_ground(step, other)
            medians.append(np.median(series.reflectance[step][:, ground], axis=1))
            medians_around.append(np.median(series.reflectance[other][:, ground], axis=1))
        observed = np.median(medians, axis=0)
        usual = np.median(medians_around, axis=0)
        exchanged = _exchanged_bands(observed, usual)
        if exchanged is not None:
            first, second = exchanged
            ids = series.sensor.bands[first].id, series.sensor.bands[second].id
            faults.append(Fault(step, "order", observed=float(observed[first]), usual=float(usual[first]), bands=ids))
    # Where bands are exchanged on one date, the dates around may seem so too: the rare order is the wrong one.
    return faults if len(faults) <= len(steps) / 2 else []


def _exchanged_bands(observed: np.ndarray, usual: np.ndarray) -> tuple[int, int] | None:
    """Return the two bands that fit the usual spectrum when exchanged, if nothing else has changed much."""
    exchanged = None
    widest_gap = 0.0
    for first, second in combinations(range(len(observed)), 2):
        gap = abs(usual[first] - usual[second])
        if gap < MIN_GAP or gap <= widest_gap:
            continue
        crossed = max(abs(observed[first] - usual[second]), abs(observed[second] - usual[first]))
        straight = min(abs(observed[first] - usual[first]), abs(observed[second] - usual[second]))
        other_bands = np.delete(np.abs(observed - usual), [first, second])
        if straight >= 0.6 * gap and crossed <= 0.3 * gap and other_bands.max() <= 0.4 * gap:
            exchanged = first, second
            widest_gap = gap
    return exchanged


# Offset


def _offset_faults(series: Series, steps: Sequence[int]) -> list[Fault]:
    """Find dates that lie higher or lower than the others by what products add before they store reflectance."""
    size = OFFSETS.get(series.sensor.name, 0.1)
    low = [step for step in steps if _is_negative(series, step)]
    high, right = _compare_with_dark_dates(series, [step for step in steps if step not in low], size)
    for step in right:
        fault = _offset_fault(series, step, series.neighbors(step, right), -size)
        if fault is not None and fault.sure:
            low.append(step)
    right = [step for step in right if step not in low]
    faults = []
    if right:
        usual = _median(series.dark_ends, right)
        faults = [Fault(step, "offset", -size, series.dark_ends[step], usual) for step in low]
    # Haze is rare on dates without a bright pixel: what a quarter of the dates show is no haze.
    if len(high) >= 2 and len(high) >= len(steps) / 4:
        high = [replace(fault, sure=True) for fault in high]
    return faults + _wrong_group(series, high, right, size)


def _is_negative(series: Series, step: int) -> bool:
    """Whether most of the ground has no positive reflectance in its darkest visible band."""
    if not visible_bands(series.sensor):
        return series.dark_ends[step] < -0.05
    return median_visible(series.ground_pixels(step), series.sensor) < -0.03


def _compare_with_dark_dates(series: Series, steps: Sequence[int], size: float) -> tuple[list[Fault], list[int]]:
    """Return the faults of dates that lie higher than others, and the dates that do not."""
    with_dark_ground = [step for step in steps if series.dark_ends[step] < 0.8 * size]
    others = [step for step in steps if step not in with_dark_ground]
    high = []
    right = list(with_dark_ground)
    # The darker a date, the sooner it is judged: if it is right, brighter ones are compared with it.
    for step in sorted(others, key=lambda step: series.dark_ends[step]):
        faults = []
        for candidates in (with_dark_ground, right):
            fault = _offset_fault(series, step, series.neighbors(step, candidates), size)
            if fault is not None:
                faults.append(fault)
        if faults:
            high.append(max(faults, key=lambda fault: fault.sure))
        else:
            right.append(step)
    return high, right


def _offset_fault(series: Series, step: int, neighbors: Sequence[int], size: float) -> Fault | None:
    """Return the fault of a date that lies ``size`` (negative: below) from its neighbors, in all bands."""
    if not neighbors:
        return None
    usual = _median(series.dark_ends, neighbors)
    rise = (series.dark_ends[step] - usual) / size
    usual_bands = np.median([series.low_reflectance[other] for other in neighbors], axis=0)
    change = (series.low_reflectance[step] - usual_bands) / size
    spread = float(np.ptp(change))
    # Where a quality layer removed the clouds, and they were few, bands may have changed as fields do.
    few_clouds = bool(series.masked[step]) and series.ground_share[step] >= 0.7
    is_cloudless = few_clouds and not _is_hazy(series.sensor, change)
    lowest, highest, widest = (-0.2, 2.0, 2.0) if is_cloudless else (0.2, 1.7, 1.2)
    if not 0.7 < rise < 1.5 or change.min() <= lowest or change.max() >= highest or spread >= widest:
        return None
    is_uniform = change.min() > 0.7 and change.max() < 1.4 and spread < 0.6 and rise < 1.3
    sure = is_cloudless or (is_uniform and _same_pattern(series, step, neighbors))
    return Fault(step, "offset", size, series.dark_ends[step], usual, sure=sure)


def _is_hazy(sensor: Sensor, change: np.ndarray) -> bool:
    """Whether short waves have changed more than long ones, as they do in haze; an offset changes all alike."""
    visible = visible_bands(sensor)
    shortwave_infrared = [i for i, band in enumerate(sensor.bands) if band.wavelength > 1.5]
    if not visible or not shortwave_infrared:
        return bool(change.min() < 0.65)
    return float(np.median(change[shortwave_infrared])) < 0.7 * float(np.median(change[visible]))


def _same_pattern(series: Series, step: int, neighbors: Sequence[int]) -> bool:
    """Whether the fields show as they do on the dates around; haze hides them."""
    correlations = []
    contrasts = []
    for other in neighbors:
        ground = series.shared_ground(step, other)
        bands = series.reflectance[step][:, ground]
        bands_of_other = series.reflectance[other][:, ground]
        for band, band_of_other in zip(bands, bands_of_other, strict=True):
            if band.std() > 0 and band_of_other.std() > 0:
                correlations.append(np.corrcoef(band, band_of_other)[0, 1])
                contrasts.append(band.std() / band_of_other.std())
    return bool(correlations) and float(np.median(correlations)) > 0.4 and float(np.median(contrasts)) > 0.6


def _wrong_group(series: Series, high: list[Fault], right: Sequence[int], size: float) -> list[Fault]:
    """Return the faults of the brighter of two groups, unless it is the larger one and nothing proves it wrong."""
    has_dark_ground = any(series.dark_ends[step] < 0.3 * size for step in right)
    has_bright_vegetation = any(has_vegetation(series.ground_pixels(fault.step), series.sensor) for fault in high)
    if has_dark_ground or has_bright_vegetation or len(high) <= 2 * len(right):
        return high
    usual = _median(series.dark_ends, [fault.step for fault in high])
    sure = any(fault.sure for fault in high)
    return [Fault(step, "offset", -size, series.dark_ends[step], usual, sure=sure) for step in right]


def _median(values: Mapping[int, float], steps: Sequence[int]) -> float:
    return float(np.median([values[step] for step in steps]))
