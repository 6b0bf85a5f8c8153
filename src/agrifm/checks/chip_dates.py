"""Dates of chips whose numbers contradict the other dates: each chip is judged by itself, then they vote by day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agrifm.checks.band_order import BandOrder
from agrifm.checks.date_faults import Fault, find_faults
from agrifm.checks.series import Series
from agrifm.checks.survey import Survey
from agrifm.errors import counted
from agrifm.sample import Sample
from agrifm.sensors import Sensor

PIXELS_PER_FRAME = 256  # of a chip by which its dates are compared
MIN_CHIPS = 3  # that must show a date before it is refused
MAX_NAMES = 6  # of dates in the first line of an error

FaultKind = tuple  # kind, amount and bands of a fault: what chips must agree on


@dataclass(frozen=True)
class DayVotes:
    """How many chips contradict their other dates on a day.

    Args:
        day: Days since 1970, or name of the frame.
        faulty: Number of chips with the fault.
        judged: Number of chips that could be judged.
    """

    day: int | str
    faulty: int
    judged: int

    @property
    def name(self) -> str:
        """The date, or the frame where chips have no dates."""
        return self.day if isinstance(self.day, str) else str(np.datetime64(self.day, "D"))


def count_votes(survey: Survey, sample: Sample, sensor: Sensor) -> None:
    """Note for every date of a chip whether it can be judged, and its fault."""
    if sensor.name not in sample.images:
        return
    series, days = _series(sample, sensor)
    for day in days:
        survey.votes_on(sensor.name, day)["shown"] += 1
    for step in series.judged:
        survey.votes_on(sensor.name, days[step])["judged"] += 1
    for fault in find_faults(series):
        votes = survey.votes_on(sensor.name, days[fault.step])
        # A date with a wrong factor has a fault though it has too little ground to be judged.
        votes["judged"] += int(fault.step not in series.judged)
        votes[_kind(fault)] += 1
        votes["sure", *_kind(fault)] += int(fault.sure)


def _kind(fault: Fault) -> FaultKind:
    return fault.kind, fault.amount, fault.bands


def _series(sample: Sample, sensor: Sensor) -> tuple[Series, list[int | str]]:
    """Return some pixels of a chip on its dates, and the dates: days since 1970, or names of frames."""
    image = sample.images[sensor.name]
    mask = sample.mask(sensor.name)
    frames, bands, height, width = image.shape
    stride = max(1, height * width // PIXELS_PER_FRAME)
    is_empty = _is_empty(image, sensor)
    stored = image.reshape(frames, bands, -1)[:, :, ::stride].numpy().astype(np.float32)
    clear = mask.reshape(frames, -1)[:, ::stride].numpy()
    reflectance = stored * np.float32(sensor.scale) + np.float32(sensor.offset)
    bands_first = np.moveaxis(reflectance, 1, 0)
    bands_first[:, is_empty.reshape(frames, -1)[:, ::stride].numpy()] = np.nan
    # A mask that leaves out pixels with data is more than a mask of missing pixels: it knows clouds.
    has_quality = bool((~mask & ~is_empty).any())
    masked = np.full(frames, has_quality)
    if sensor.name not in sample.dates:
        names: list[int | str] = [f"frame {i + 1}" for i in range(frames)]
        return Series(sensor, reflectance, clear, masked, min_ground=30), names
    days = sample.dates[sensor.name].tolist()
    order = np.argsort(days, kind="stable")
    series = Series(sensor, reflectance[order], clear[order], masked, min_ground=30)
    return series, [days[i] for i in order]


def _is_empty(image: torch.Tensor, sensor: Sensor) -> torch.Tensor:
    """Return the mask ``(t, h, w)`` of pixels without data in any band."""
    return (image == (0 if sensor.nodata is None else sensor.nodata)).all(1)


def contradicting_days(survey: Survey, sensor: Sensor) -> Iterator[BandOrder]:
    """Iterate over the errors of dates on which most chips contradict their other dates, one for each kind of fault.

    What haze may explain becomes a warning of the survey instead.
    """
    days_by_kind: dict[FaultKind, list[DayVotes]] = {}
    for day, votes in survey.votes.get(sensor.name, {}).items():
        kinds = [key for key in votes if isinstance(key, tuple) and key[0] != "sure"]
        if not kinds:
            continue
        kind = max(kinds, key=lambda kind: votes[kind])
        day_votes = DayVotes(day, votes[kind], votes["judged"])
        # Haze comes with clouds, which keep chips from being judged, and hides the fields.
        well_judged = day_votes.judged >= MIN_CHIPS and day_votes.judged >= votes["shown"] / 2
        if well_judged and votes["sure", *kind] >= 0.6 * day_votes.judged:
            days_by_kind.setdefault(kind, []).append(day_votes)
        elif day_votes.faulty > day_votes.judged / 2:
            error = _contradiction(kind, [day_votes], sensor)
            survey.warnings.append(f"{error.where}: {error.found}: haze, or wrong numbers")
    for kind, days in days_by_kind.items():
        days.sort(key=lambda day_votes: str(day_votes.day))
        yield _contradiction(kind, days, sensor)


def _contradiction(kind: FaultKind, days: Sequence[DayVotes], sensor: Sensor) -> BandOrder:
    """Return the error for days with one kind of fault."""
    names = [day_votes.name for day_votes in days]
    listed = ", ".join(names[:MAX_NAMES])
    if len(names) > MAX_NAMES:
        listed += " and more"
    repair = "write these frames again"
    if not any(isinstance(day_votes.day, str) for day_votes in days):
        repair = f"cut the chips again, e.g. by 'agrifm chips' with {_settings(kind, names)}"
    first = days[0]
    shown = counted(first.judged, f"chip that shows {first.name}", f"chips that show {first.name}")
    return BandOrder(
        f"all chips: {sensor.name}, {listed}",
        found=f"{_describe(kind)} ({first.faulty} of {shown} without clouds)",
        expected="the same scale, offset and order of bands on every date",
        repair=f"{repair}; or set 'check_bands: false' in the data section if the numbers are right.",
    )


def _describe(kind: FaultKind) -> str:
    fault, amount, bands = kind
    if fault == "offset":
        side = "above" if amount > 0 else "below"
        return f"reflectance lies {abs(amount):g} {side} that of the other dates in every band"
    if fault == "scale":
        return f"reflectance is about {amount:g} times that of the other dates in every band"
    return f"{' and '.join(bands)} seem exchanged, and all other bands are as on the other dates"


def _settings(kind: FaultKind, names: Sequence[str]) -> str:
    """Return the settings of ``agrifm chips`` that leave dates out, or give them another offset or scale."""
    fault, amount, _ = kind
    skip = f"--set skip_dates='[{', '.join(names)}]'"
    if fault == "offset":
        value = round(-amount, 6)
    elif fault == "scale":
        value = 1e-4 / amount
    else:
        return skip
    values = ", ".join(f"{name}: {value:g}" for name in names)
    return f"{skip}, or with --set {fault}s='{{{values}}}'"
