"""What a day of the season means for each sample of a split, and the split as it was known on that day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf

from torch import Tensor

from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.data.growing_season import USUAL, GrowingSeason, date_of, day_number, growing_season_of
from agrifm.errors import InputError
from agrifm.sample import DAYS_PER_YEAR, Season

MONTH = DAYS_PER_YEAR / 12
MONTHLY = "monthly"


@dataclass(frozen=True)
class SeasonSamples:
    """Samples of one growing season.

    Args:
        source: Where they are read.
        rows: Their numbers in the source.
        days: Days of the images of each, of all sensors.
        calendar: The season; None where the series are longer than a year and no calendar is given.
    """

    source: SampleSource
    rows: tuple[int, ...]
    days: tuple[Tensor, ...]
    calendar: GrowingSeason | None

    @classmethod
    def of(cls, source: SampleSource, calendars: Sequence[GrowingSeason] = ()) -> list[SeasonSamples]:
        """The samples of each calendar; without calendars all samples, with the season that they cover.

        Raises:
            InputError: If a sample has no dates, or no calendar.
        """
        groups: dict[GrowingSeason | None, list[int]] = {}
        days = []
        for row in range(len(source)):
            sample = source.read(row)
            undated = [name for name in sample.images if name not in sample.dates]
            if undated:
                raise InputError(
                    f"sample {sample.name}",
                    found=f"images of {', '.join(undated)} without dates",
                    expected="dates: what was known on a day depends on them",
                    repair="write '<sensor>_dates' into the chips (docs/data.md).",
                )
            days.append(sample.all_days())
            groups.setdefault(growing_season_of(calendars, sample.name) if calendars else None, []).append(row)
        if not calendars:
            groups = {_covered(days): list(range(len(source)))}
        return [cls(source, tuple(rows), tuple(days[i] for i in rows), key) for key, rows in groups.items()]

    @property
    def name(self) -> str:
        """Of the season."""
        return "season" if self.calendar is None else self.calendar.name

    @cached_property
    def begins(self) -> tuple[int, ...]:
        """The day on which the season of each sample begins."""
        if self.calendar is None:
            return tuple(int(days.min()) for days in self.days)
        return tuple(self.calendar.of(days, f"sample {i}")[0] for i, days in zip(self.rows, self.days, strict=True))

    @property
    def length(self) -> int:
        """Days of the season."""
        if self.calendar is None:
            return max(int(days.max() - days.min()) for days in self.days) + 1
        first, last = self.calendar.span(USUAL)
        return last - first + 1

    def moments(self, text: str) -> list[str]:
        """Days named by ``text``: a list, ``monthly`` or FIRST:LAST:STEP; each with its year or as ``MM-DD``.

        Raises:
            InputError: If it names no days.
        """
        if text == MONTHLY:
            calendar = self._needs_calendar(text)
            text = f"{calendar.start}:{calendar.end}:{MONTHLY}"
        if ":" not in text:
            return [_checked(part.strip(), text) for part in text.split(",")]
        first, last, step = _three(text)
        if len(first) != len(last):
            raise _no_days(text, "a year at one end only")
        if len(first) > len("MM-DD"):
            return [str(day) for day in _spread(dt.date.fromisoformat(first), dt.date.fromisoformat(last), step, text)]
        calendar = self._needs_calendar(text)
        begin = calendar.span(USUAL)[0]
        ends = (date_of(calendar.on(day, begin)) for day in (first, last))
        return [f"{day:%m-%d}" for day in _spread(*ends, step, text)]

    def _needs_calendar(self, text: str) -> GrowingSeason:
        if self.calendar is None:
            raise InputError(
                f"--as-of {text}",
                found="series that are longer than a year, so a day of the year names several days",
                expected="days with their year, or a calendar in data.seasons",
                repair="write e.g. 2018-03-31:2018-10-31:monthly.",
            )
        return self.calendar

    def last_days(self, moment: str) -> tuple[int, ...]:
        """What a moment, ``YYYY-MM-DD`` or ``MM-DD``, means for each sample, as days since 1970-01-01."""
        if len(moment) > len("MM-DD"):
            return (day_number(dt.date.fromisoformat(moment)),) * len(self.rows)
        calendar = self._needs_calendar(moment)
        return tuple(calendar.on(moment, begin) for begin in self.begins)

    def as_of(self, moment: str) -> SampleSubset:
        """The samples as they were known on that day."""
        return SampleSubset(self.source, self.rows, tuple((day + 1, inf) for day in self.last_days(moment)))

    def images(self, moment: str) -> float:
        """Images of a sample by that day, on average over samples."""
        seen = (int((days <= day).sum()) for days, day in zip(self.days, self.last_days(moment), strict=True))
        return sum(seen) / len(self.rows)

    def gaps(self, months: int) -> dict[str, SampleSubset]:
        """The samples without any image for some months, for every month of the season in which that may begin.

        Raises:
            InputError: If the season is not that long.
        """
        steps = max(1, ceil(self.length / MONTH - 0.25))  # a week more makes no month
        if not 1 <= months < steps:
            raise InputError(
                f"--gaps {months}",
                found=f"a season of {steps} months ({self.length} days)",
                expected=f"gaps of 1 to {steps - 1} months",
                repair="ask for shorter gaps." if steps > 1 else "leave --gaps out.",
            )
        found = {}
        for start in range(steps - months + 1):
            first, end = round(start * MONTH), round((start + months) * MONTH)
            hidden = tuple((begin + first, begin + end - 1) for begin in self.begins)
            found[f"{date_of(self.begins[0] + first):%m-%d}"] = SampleSubset(self.source, self.rows, hidden)
        return found


def as_of_day(source: SampleSource, calendars: Sequence[GrowingSeason], day: str) -> SampleSubset:
    """All samples of a source as they were known on a day, ``YYYY-MM-DD`` or ``MM-DD`` of the season of each.

    Raises:
        InputError: If it is no day, or nothing had been seen by then.
    """
    timelines = SeasonSamples.of(source, calendars)
    for line in timelines:
        line.moments(day)
    refuse_unseen(timelines, [day], day)
    days = {row: last for line in timelines for row, last in zip(line.rows, line.last_days(day), strict=True)}
    rows = tuple(range(len(source)))
    return SampleSubset(source, rows, tuple((days[row] + 1, inf) for row in rows))


def refuse_unseen(timelines: Sequence[SeasonSamples], moments: Sequence[str], text: str) -> None:
    """Refuse days before the first image of all.

    Raises:
        InputError: If no image was acquired up to any of them.
    """
    if not any(line.images(moment) for line in timelines for moment in moments):
        first = min(float(days.min()) for line in timelines for days in line.days)
        last = max(float(days.max()) for line in timelines for days in line.days)
        raise InputError(
            f"--as-of {text}",
            found=f"no image up to then; there are images from {date_of(first)} to {date_of(last)}",
            expected="at least one image",
            repair="give a later day.",
        )


def _covered(days: Sequence[Tensor]) -> GrowingSeason | None:
    """The season that series cover, as a calendar; None where it is no part of a year."""
    spans = [(float(one.min()), float(one.max())) for one in days]
    season = Season.of(spans)
    if season.length >= 365:
        return None
    first = float(season.begin(days[0].min()))
    return GrowingSeason(*(_usual(date_of(round(day))) for day in (first, first + season.length)))


def _usual(day: dt.date) -> str:
    return "02-28" if (day.month, day.day) == (2, 29) else f"{day:%m-%d}"


def _checked(day: str, text: str) -> str:
    """A day as ``YYYY-MM-DD`` or ``MM-DD``."""
    try:
        dt.date.fromisoformat(f"{USUAL}-{day}" if len(day) == len("MM-DD") else day)
    except ValueError as error:
        raise _no_days(text, f"'{day}'") from error
    return day


def _three(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    if len(parts) != 3 or not (parts[2] == MONTHLY or (parts[2].isdigit() and int(parts[2]))):
        raise _no_days(text, f"'{text}'")
    return _checked(parts[0], text), _checked(parts[1], text), parts[2]


def _no_days(text: str, found: str) -> InputError:
    return InputError(
        f"--as-of {text}",
        found=found,
        expected="a day (2018-06-30, or 06-30 of every season), a list of them, FIRST:LAST:DAYS, FIRST:LAST:monthly, "
        "or monthly",
        repair="write e.g. 04-30:10-31:15.",
    )


def _spread(first: dt.date, last: dt.date, step: str, text: str) -> list[dt.date]:
    """Every so many days, or the ends of months, from the first to the last day; the last is always there."""
    if first > last:
        raise _no_days(text, f"an end ({last}) before the start ({first})")
    every = [first + dt.timedelta(n) for n in range((last - first).days + 1)]
    chosen = [day for day in every if (day + dt.timedelta(1)).day == 1] if step == MONTHLY else every[:: int(step)]
    return chosen if chosen and chosen[-1] == last else [*chosen, last]
