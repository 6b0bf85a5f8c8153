"""The samples of a split as they were known on a day of the season."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf

from torch import Tensor

from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.data.growing_season import USUAL, GrowingSeason, date_of, day_number, growing_season_of
from agrifm.errors import InputError, counted
from agrifm.sample import DAYS_PER_YEAR, Season

DAYS_PER_MONTH = DAYS_PER_YEAR / 12
MONTHLY = "monthly"
ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class SeasonSamples:
    """Samples of one growing season.

    Args:
        source: Source of the samples.
        rows: Their numbers in the source.
        days: The days of all images of each sample.
        growing_season: Their season. None if the series are longer than a year and no season is configured.
    """

    source: SampleSource
    rows: tuple[int, ...]
    days: tuple[Tensor, ...]
    growing_season: GrowingSeason | None

    @classmethod
    def of(cls, source: SampleSource, seasons: Sequence[GrowingSeason] = ()) -> list[SeasonSamples]:
        """Group samples by growing season; without any, group all samples under the season that they cover.

        Raises:
            InputError: If a sample has no dates, or no season.
        """
        days: list[Tensor] = []
        groups: dict[GrowingSeason | None, list[int]] = {}
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
            if seasons:
                groups.setdefault(growing_season_of(seasons, sample.name), []).append(row)
        if not seasons:
            groups[_covered_season(days)] = list(range(len(source)))
        samples = []
        for growing_season, rows in groups.items():
            days_of_group = tuple(days[row] for row in rows)
            samples.append(cls(source, tuple(rows), days_of_group, growing_season))
        return samples

    @property
    def name(self) -> str:
        """Name of the season."""
        return "season" if self.growing_season is None else self.growing_season.name

    @cached_property
    def first_days(self) -> tuple[int, ...]:
        """The day on which the season of each sample begins."""
        if self.growing_season is None:
            return tuple(int(days.min()) for days in self.days)
        first_days = []
        for row, days in zip(self.rows, self.days, strict=True):
            first, _ = self.growing_season.of(days, f"sample {row}")
            first_days.append(first)
        return tuple(first_days)

    @property
    def length(self) -> int:
        """Number of days of the season."""
        if self.growing_season is None:
            longest = max(int(days.max() - days.min()) for days in self.days)
            return longest + 1
        first, last = self.growing_season.span(USUAL)
        return last - first + 1

    def moments(self, text: str) -> list[str]:
        """Return the days that a text names, each as ``YYYY-MM-DD``, or as ``MM-DD`` of every season.

        Args:
            text: A list of days, ``monthly``, or FIRST:LAST:STEP.

        Raises:
            InputError: If the text names no days.
        """
        if text == MONTHLY:
            season = self._season_for(text)
            text = f"{season.start}:{season.end}:{MONTHLY}"
        if ":" not in text:
            return [_checked(part.strip(), text) for part in text.split(",")]
        first, last, step = _range_parts(text)
        if _has_year(first) != _has_year(last):
            raise _no_days(text, "a year at one end only")
        if _has_year(first):
            days = _days_between(dt.date.fromisoformat(first), dt.date.fromisoformat(last), step, text)
            return [str(day) for day in days]
        season = self._season_for(text)
        begin, _ = season.span(USUAL)
        first_date = date_of(season.on(first, begin))
        last_date = date_of(season.on(last, begin))
        days = _days_between(first_date, last_date, step, text)
        return [f"{day:%m-%d}" for day in days]

    def _season_for(self, text: str) -> GrowingSeason:
        if self.growing_season is None:
            raise InputError(
                f"--as-of {text}",
                found="series that are longer than a year, so a day of the year names several days",
                expected="days with their year, or a calendar in data.seasons",
                repair="write e.g. 2018-03-31:2018-10-31:monthly.",
            )
        return self.growing_season

    def last_days(self, moment: str) -> tuple[int, ...]:
        """Return the day that a moment, ``YYYY-MM-DD`` or ``MM-DD``, means for each sample, since 1970-01-01."""
        if _has_year(moment):
            day = day_number(dt.date.fromisoformat(moment))
            return (day,) * len(self.rows)
        season = self._season_for(moment)
        return tuple(season.on(moment, first_day) for first_day in self.first_days)

    def as_of(self, moment: str) -> SampleSubset:
        """Return the samples as they were known at a moment."""
        hidden_days = tuple((last_day + 1, inf) for last_day in self.last_days(moment))
        return SampleSubset(self.source, self.rows, hidden_days)

    def images(self, moment: str) -> float:
        """Return the mean number of images of a sample by a moment."""
        total = 0
        for days, last_day in zip(self.days, self.last_days(moment), strict=True):
            total += int((days <= last_day).sum())
        return total / len(self.rows)

    def gaps(self, months: int) -> dict[str, SampleSubset]:
        """Return the samples without any image for some months, by the day on which the gap begins.

        Args:
            months: Length of the gap, which may begin in each month of the season.

        Raises:
            InputError: If the season is not longer than the gap.
        """
        season_months = max(1, ceil(self.length / DAYS_PER_MONTH - 0.25))  # a week more is not a month
        if not 1 <= months < season_months:
            raise InputError(
                f"--gaps {months}",
                found=f"a season of {counted(season_months, 'month')} ({counted(self.length, 'day')})",
                expected=f"gaps of 1 to {season_months - 1} months",
                repair="ask for shorter gaps." if season_months > 1 else "leave --gaps out.",
            )
        views = {}
        for month in range(season_months - months + 1):
            start = round(month * DAYS_PER_MONTH)
            end = round((month + months) * DAYS_PER_MONTH)
            hidden_days = tuple((first_day + start, first_day + end - 1) for first_day in self.first_days)
            gap_begins = date_of(self.first_days[0] + start)
            views[f"{gap_begins:%m-%d}"] = SampleSubset(self.source, self.rows, hidden_days)
        return views


def as_of_day(source: SampleSource, seasons: Sequence[GrowingSeason], day: str) -> SampleSubset:
    """Return all samples of a source as they were known on a day.

    Args:
        source: The samples.
        seasons: Their growing seasons, if any are configured.
        day: ``YYYY-MM-DD``, or ``MM-DD`` of the season of each sample.

    Raises:
        InputError: If it is not a day, or there is no image up to then.
    """
    groups = SeasonSamples.of(source, seasons)
    for group in groups:
        group.moments(day)  # checks the day
    refuse_unseen(groups, [day], day)
    last_days: dict[int, int] = {}
    for group in groups:
        last_days.update(zip(group.rows, group.last_days(day), strict=True))
    rows = tuple(range(len(source)))
    hidden_days = tuple((last_days[row] + 1, inf) for row in rows)
    return SampleSubset(source, rows, hidden_days)


def refuse_unseen(groups: Sequence[SeasonSamples], moments: Sequence[str], text: str) -> None:
    """Refuse moments before the first image.

    Raises:
        InputError: If there is no image up to any of them.
    """
    if any(group.images(moment) for group in groups for moment in moments):
        return
    all_days = [days for group in groups for days in group.days]
    first = min(float(days.min()) for days in all_days)
    last = max(float(days.max()) for days in all_days)
    raise InputError(
        f"--as-of {text}",
        found=f"no image up to then; there are images from {date_of(first)} to {date_of(last)}",
        expected="at least one image",
        repair="give a later day.",
    )


def _covered_season(days: Sequence[Tensor]) -> GrowingSeason | None:
    """The growing season that series cover; None if they cover a year or more."""
    season = Season.of([(float(each.min()), float(each.max())) for each in days])
    if season.length >= 365:
        return None
    first = float(season.begin(days[0].min()))
    last = first + season.length
    return GrowingSeason(_day_of_year(first), _day_of_year(last))


def _day_of_year(day: float) -> str:
    date = date_of(round(day))
    # A growing season cannot begin or end on a day that most years lack.
    return "02-28" if (date.month, date.day) == (2, 29) else f"{date:%m-%d}"


def _has_year(day: str) -> bool:
    return len(day) > len("MM-DD")


def _checked(day: str, text: str) -> str:
    """The day, once it is certain that it is ``YYYY-MM-DD`` or ``MM-DD``."""
    try:
        dt.date.fromisoformat(f"{USUAL}-{day}" if len(day) == len("MM-DD") else day)
    except ValueError as error:
        raise _no_days(text, f"'{day}'") from error
    return day


def _range_parts(text: str) -> tuple[str, str, str]:
    """First day, last day and step of a range."""
    parts = text.split(":")
    if len(parts) != 3 or not _is_step(parts[2]):
        raise _no_days(text, f"'{text}'")
    first, last, step = parts
    return _checked(first, text), _checked(last, text), step


def _is_step(text: str) -> bool:
    return text == MONTHLY or (text.isdecimal() and int(text) > 0)


def _no_days(text: str, found: str) -> InputError:
    return InputError(
        f"--as-of {text}",
        found=found,
        expected="a day (2018-06-30, or 06-30 of every season), a list of them, FIRST:LAST:DAYS, FIRST:LAST:monthly, "
        "or monthly",
        repair="write e.g. 04-30:10-31:15.",
    )


def _days_between(first: dt.date, last: dt.date, step: str, text: str) -> list[dt.date]:
    """Every so many days, or the ends of months, from the first to the last day, which is always included."""
    if first > last:
        raise _no_days(text, f"an end ({last}) before the start ({first})")
    count = (last - first).days + 1
    days = [first + dt.timedelta(number) for number in range(count)]
    chosen = _month_ends(days) if step == MONTHLY else days[:: int(step)]
    if not chosen or chosen[-1] != last:
        chosen.append(last)
    return chosen


def _month_ends(days: list[dt.date]) -> list[dt.date]:
    return [day for day in days if (day + ONE_DAY).day == 1]
