"""Dates of a series whose numbers contradict those of the other dates: an offset, a factor or the order of bands.

One ground seen on many days tells what a single image cannot. Its darkest pixels stay dark, so a date on which they are
brighter by the same 0.1 in every band has an offset left in. Clouds and haze raise the dark pixels too, but not all
bands alike, seldom by just that amount, and they wipe out the pattern of the fields. The limits were set on four real
series of Sentinel-2 and Landsat (Belgium, France, Tanzania); ``docs/scenes.md`` states the rates that came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np

from agrifm.sensors import Sensor

CLOUD = 0.3  # blue reflectance from which on a pixel is no ground: cloud, snow, salt
WET = 0.12  # infrared reflectance below which a pixel may be water
PLAUSIBLE = (0.1, 1.6)  # of the brightest band of land; outside, a factor may be wrong
FACTOR = 5.0  # by which all bands of a date must differ from other dates to be a wrong factor
AROUND = 3  # dates before, and after, that a date is compared with
GAP = 0.08  # reflectance by which two bands must differ to be told apart
OFFSETS = {"S2": 0.1, "Landsat": 0.2}  # that products add before they store reflectance

Kind = Literal["offset", "scale", "order"]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a date.

    Args:
        step: Position of the date in the series.
        kind: ``offset``, ``scale`` or ``order`` of bands.
        amount: Reflectance that is too much (negative: too little), or the factor by which it is too large.
        seen, others: The number on this date, and on the dates it was compared with.
        bands: Bands that look exchanged.
        sure: Whether haze cannot explain it.
    """

    step: int
    kind: Kind
    amount: float = 0.0
    seen: float = 0.0
    others: float = 0.0
    bands: tuple[str, str] | None = None
    sure: bool = True


@dataclass(frozen=True)
class Series:
    """Some pixels of one ground on many days, in the order of time.

    Args:
        sensor: Whose bands they are.
        reflectance: ``(t, c, n)``, NaN where there are no data.
        clear: ``(t, n)``, what the quality layer calls clear.
        masked: ``(t)``, whether a date has a quality layer.
        least: Pixels of ground that a date must have to be judged.
        orbits: Relative orbit of each date, empty where it is unknown; dates of the same orbit are compared first.
    """

    sensor: Sensor
    reflectance: np.ndarray
    clear: np.ndarray
    masked: np.ndarray
    least: int = 100
    orbits: Sequence[str] = ()

    @cached_property
    def there(self) -> np.ndarray:
        """Where there are data ``(t, n)``."""
        return np.logical_not(np.isnan(self.reflectance).any(1))

    @cached_property
    def infrared(self) -> list[int]:
        """Positions of the infrared bands."""
        return [i for i, band in enumerate(self.sensor.bands) if band.wavelength > 0.75]

    @cached_property
    def veiled(self) -> np.ndarray:
        """Pixels ``(t, n)`` as bright as cloud or snow in blue, or in all bands where there is no blue one."""
        blue = self.sensor.index("blue")
        with np.errstate(invalid="ignore"):
            return (self.reflectance.min(1) if blue is None else self.reflectance[:, blue]) > CLOUD

    @cached_property
    def wet(self) -> np.ndarray:
        """Pixels ``(t, n)`` that may be water: bright nowhere, dark in the infrared."""
        with np.errstate(invalid="ignore"):
            dark = self.reflectance[:, self.infrared].max(1) < WET
            # Clearly negative numbers are no water, but an offset taken out twice.
            return dark & (self.reflectance.max(1) < CLOUD) & (self.reflectance.min(1) > -0.05)

    @cached_property
    def ground(self) -> np.ndarray:
        """Clear pixels ``(t, n)`` of land."""
        return self.there & self.clear & ~self.veiled & ~self.wet

    @cached_property
    def judged(self) -> list[int]:
        """Dates with enough ground, of which not much is clouded."""
        # A quality layer finds most clouds. Without one, any bright pixel warns of haze around it.
        enough = self.share >= np.where(self.masked, 0.5, 0.9)
        return [int(step) for step in np.flatnonzero(enough & (self.ground.sum(1) >= self.least))]

    @cached_property
    def share(self) -> np.ndarray:
        """Clear land as a part of all pixels with data ``(t)``."""
        return self.ground.sum(1) / np.maximum(1, self.there.sum(1))

    @cached_property
    def dark(self) -> dict[int, float]:
        """First percentile of the pixels of each judged date in their darkest band."""
        return {step: float(np.percentile(self._of(step).min(0), 1)) for step in self.judged}

    @cached_property
    def low(self) -> dict[int, np.ndarray]:
        """Second percentile of each band of each judged date."""
        return {step: np.percentile(self._of(step), 2, axis=1) for step in self.judged}

    def _of(self, step: int) -> np.ndarray:
        return self.reflectance[step][:, self.ground[step]]

    def near(self, step: int, among: Sequence[int]) -> list[int]:
        """The nearest dates before and after, of those that show some of the same ground."""
        shared = [one for one in among if one != step and self.shared(step, one).sum() >= min(30, self.least)]
        # Sorting keeps the order of time among dates of one orbit.
        before = sorted((one for one in shared if one < step), key=lambda one: (self._other_orbit(step, one), -one))
        after = sorted((one for one in shared if one > step), key=lambda one: (self._other_orbit(step, one), one))
        return [*before[:AROUND], *after[:AROUND]]

    def _other_orbit(self, step: int, one: int) -> bool:
        return bool(self.orbits) and abs(step - one) <= AROUND and self.orbits[step] != self.orbits[one]

    def shared(self, step: int, other: int) -> np.ndarray:
        """Pixels ``(n)`` of land on both dates."""
        return self.ground[step] & self.ground[other]


def faults(series: Series) -> list[Fault]:
    """Dates that contradict the others, in the order of time; a date has one fault at most."""
    if len(series.sensor.bands) < 4 or not series.infrared:
        return []
    found = {fault.step: fault for fault in scale_faults(series)}
    for kind in (_order_faults, _offset_faults):
        for fault in kind(series, [step for step in series.judged if step not in found]):
            found.setdefault(fault.step, fault)
    return [found[step] for step in sorted(found)]


def scale_faults(series: Series) -> list[Fault]:
    """Dates that are some 10, 100 or 10,000 times brighter or darker than the others in every band."""
    # A date that is too dark looks like water, so water is where most dates see it.
    views = np.maximum(1, (series.there & series.clear).sum(0))
    water = (series.wet & series.there & series.clear).sum(0) / views > 0.5
    land = series.there & series.clear & ~water
    middle, right = {}, []
    for step in np.flatnonzero(land.sum(1) >= series.least):
        middle[int(step)] = np.median(series.reflectance[step][:, land[step]], axis=1)
        plain = land[step] & ~series.veiled[step]
        usual = PLAUSIBLE[0] <= middle[int(step)].max() <= PLAUSIBLE[1]
        if usual and plain.sum() > land[step].sum() / 2:
            right.append(int(step))
    found = []
    for step in middle:
        if not PLAUSIBLE[0] <= middle[step].max() <= PLAUSIBLE[1]:
            fault = _scale_fault(step, middle, sorted(right, key=lambda one: abs(one - step))[: 2 * AROUND])
            found += [fault] if fault else []
    return found


def _scale_fault(step: int, middle: dict[int, np.ndarray], near: Sequence[int]) -> Fault | None:
    if not near:
        return None
    usual = np.median([middle[one] for one in near], axis=0)
    told = usual > 0.02  # darker bands say nothing of a factor
    if told.sum() < 3:
        return None
    ratio = np.abs(middle[step][told]) / usual[told]
    if not ((ratio < 1 / FACTOR).all() or (ratio > FACTOR).all()):
        return None
    typical = float(np.median(np.maximum(ratio, 1e-9)))
    power = float(10.0 ** round(np.log10(typical)))
    bright = int(usual.argmax())
    return Fault(step, "scale", power, float(middle[step][bright]), float(usual[bright]))


def _order_faults(series: Series, judged: Sequence[int]) -> list[Fault]:
    """Dates on which two bands have each other's values, while all other bands are as on the dates around."""
    found: list[Fault] = []
    for step in judged:
        near = series.near(step, judged)
        if not near:
            continue
        pairs = [(series.shared(step, one), one) for one in near]
        seen = np.median([np.median(series.reflectance[step][:, both], axis=1) for both, _ in pairs], axis=0)
        usual = np.median([np.median(series.reflectance[one][:, both], axis=1) for both, one in pairs], axis=0)
        exchanged = _exchanged(seen, usual)
        if exchanged:
            one, other = exchanged
            ids = series.sensor.bands[one].id, series.sensor.bands[other].id
            found.append(Fault(step, "order", seen=float(seen[one]), others=float(usual[one]), bands=ids))
    # Where bands are exchanged on one date, the dates around may seem so too: the rare order is the wrong one.
    return found if len(found) <= len(judged) / 2 else []


def _exchanged(seen: np.ndarray, usual: np.ndarray) -> tuple[int, int] | None:
    """The two bands that fit the usual spectrum when exchanged, if nothing else has changed much."""
    best: tuple[float, tuple[int, int]] | None = None
    for one, other in combinations(range(len(seen)), 2):
        gap = abs(usual[one] - usual[other])
        crossed = max(abs(seen[one] - usual[other]), abs(seen[other] - usual[one]))
        rest = np.delete(np.abs(seen - usual), [one, other])
        straight = min(abs(seen[one] - usual[one]), abs(seen[other] - usual[other]))
        if gap < GAP or straight < 0.6 * gap or crossed > 0.3 * gap or rest.max() > 0.4 * gap:
            continue
        if best is None or gap > best[0]:
            best = gap, (one, other)
    return best[1] if best else None


def _offset_faults(series: Series, judged: Sequence[int]) -> list[Fault]:
    """Dates that lie higher or lower than the others by what products add before they store reflectance."""
    size = OFFSETS.get(series.sensor.name, 0.1)
    below = [step for step in judged if _negative(series, step)]
    rest = [step for step in judged if step not in below]
    # Dates with dark ground are right; of the others, the darker ones are asked first.
    right = [step for step in rest if series.dark[step] < 0.8 * size]
    surely, high = sorted(right), []
    for step in sorted((step for step in rest if step not in right), key=lambda step: series.dark[step]):
        found = [_offset_fault(series, step, series.near(step, among), size) for among in (surely, sorted(right))]
        faulty = sorted((fault for fault in found if fault), key=lambda fault: not fault.sure)
        if faulty:
            high.append(faulty[0])
        else:
            right.append(step)
    for step in right:
        fault = _offset_fault(series, step, series.near(step, sorted(set(right) - {step})), -size)
        below += [step] if fault and fault.sure else []
    right = [step for step in right if step not in below]
    low = [Fault(step, "offset", -size, series.dark[step], _median(series.dark, right)) for step in below if right]
    return low + _which(series, _surer(high, len(judged)), right, size)


def _surer(found: list[Fault], judged: int) -> list[Fault]:
    """Haze is rare on dates without a bright pixel: what is seen on a quarter of the dates is no haze."""
    many = len(found) >= 2 and len(found) >= judged / 4
    return [replace(fault, sure=True) for fault in found] if many else found


def _negative(series: Series, step: int) -> bool:
    """Whether most of the ground has no positive reflectance in its darkest visible band."""
    visible = [i for i, band in enumerate(series.sensor.bands) if band.wavelength < 0.7]
    if not visible:
        return series.dark[step] < -0.05
    ground = series.reflectance[step][:, series.ground[step]][visible]
    return float(np.median(ground.min(0))) < -0.03


def _median(values: dict[int, float], steps: Sequence[int]) -> float:
    return float(np.median([values[step] for step in steps]))


def _which(series: Series, high: list[Fault], right: Sequence[int], size: float) -> list[Fault]:
    """Of two groups of dates the brighter one is wrong, unless that is nearly all of them and nothing proves it."""
    proved = any(series.dark[step] < 0.3 * size for step in right) or any(_green(series, fault.step) for fault in high)
    if proved or len(high) <= 2 * len(right):
        return high
    usual = _median(series.dark, [fault.step for fault in high])
    sure = any(fault.sure for fault in high)
    return [Fault(step, "offset", -size, series.dark[step], usual, sure=sure) for step in right]


def _green(series: Series, step: int) -> bool:
    """Whether some of it is surely vegetation, whose visible bands are dark; an offset does not hide that."""
    near = series.sensor.index("nir")
    near = series.sensor.index("nir08") if near is None else near
    red = series.sensor.index("red")
    if near is None or red is None:
        return False
    ground = series.reflectance[step][:, series.ground[step]]
    return float((ground[near] - ground[red] > 0.4 * np.abs(ground[near] + ground[red])).mean()) >= 0.01


def _offset_fault(series: Series, step: int, near: Sequence[int], size: float) -> Fault | None:
    """The fault of a date that lies ``size`` (negative: below) from the dates near it, in all bands."""
    if not near:
        return None
    usual = _median(series.dark, near)
    change = (series.low[step] - np.median([series.low[one] for one in near], axis=0)) / size
    rise, spread = (series.dark[step] - usual) / size, float(np.ptp(change))
    # Where few clouds were seen, and a quality layer took them out, bands may have changed as fields do.
    free = bool(series.masked[step]) and series.share[step] >= 0.7 and not _hazy(series.sensor, change)
    lowest, highest, widest = (-0.2, 2.0, 2.0) if free else (0.2, 1.7, 1.2)
    if not (0.7 < rise < 1.5 and change.min() > lowest and change.max() < highest and spread < widest):
        return None
    tight = change.min() > 0.7 and change.max() < 1.4 and spread < 0.6 and rise < 1.3
    sure = free or (tight and _same_pattern(series, step, near))
    return Fault(step, "offset", size, series.dark[step], usual, sure=sure)


def _hazy(sensor: Sensor, change: np.ndarray) -> bool:
    """Whether short waves have changed more than long ones, as they do in haze; an offset changes all alike."""
    short = [i for i, band in enumerate(sensor.bands) if band.wavelength < 0.7]
    long = [i for i, band in enumerate(sensor.bands) if band.wavelength > 1.5]
    if not short or not long:
        return bool(change.min() < 0.65)
    return float(np.median(change[long])) < 0.7 * float(np.median(change[short]))


def _same_pattern(series: Series, step: int, near: Sequence[int]) -> bool:
    """Whether the fields show as they do on the dates around; haze hides them."""
    alike, contrast = [], []
    for one in near:
        both = series.shared(step, one)
        for mine, other in zip(series.reflectance[step][:, both], series.reflectance[one][:, both], strict=True):
            if mine.std() > 0 and other.std() > 0:
                alike.append(np.corrcoef(mine, other)[0, 1])
                contrast.append(mine.std() / other.std())
    return bool(alike) and float(np.median(alike)) > 0.4 and float(np.median(contrast)) > 0.6
