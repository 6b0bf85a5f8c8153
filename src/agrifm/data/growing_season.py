"""Growing seasons by days of the year: any months, also across the new year, and several a year."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from agrifm.errors import InputError
from agrifm.sample import Sample

EPOCH = dt.date(1970, 1, 1).toordinal()
USUAL = 2001  # stands for any year: neither it nor the year after is a leap year


def date_of(day: float) -> dt.date:
    """The date of a day since 1970-01-01."""
    return dt.date.fromordinal(EPOCH + int(day))


def day_number(date: dt.date) -> int:
    """Days since 1970-01-01."""
    return date.toordinal() - EPOCH


@dataclass(frozen=True)
class GrowingSeason:
    """A growing season. If its end is earlier in the year than its start, it crosses the new year.

    Args:
        start: First day, as ``MM-DD``.
        end: Last day, as ``MM-DD``.
        name: Name of the season in tables and messages.
        chips: Pattern of the names of chips and scenes that have this season, e.g. ``north*``.
    """

    start: str
    end: str
    name: str = "season"
    chips: str = "*"

    def __post_init__(self) -> None:
        for text in (self.start, self.end):
            if not _is_month_and_day(text):
                raise ValueError(f"a day of every year as MM-DD, e.g. 10-01; '{text}' is none")

    def span(self, year: int) -> tuple[int, int]:
        """First and last day, since 1970-01-01, of the season that begins in a year."""
        end_year = year + 1 if self.end < self.start else year
        first = dt.date.fromisoformat(f"{year}-{self.start}")
        last = dt.date.fromisoformat(f"{end_year}-{self.end}")
        return day_number(first), day_number(last)

    def of(self, days: Tensor, where: str) -> tuple[int, int]:
        """First and last day of the season that holds most of some days; the first one where several hold equally many.

        Args:
            days: Days since 1970-01-01.
            where: Chip or scene that the days belong to; named in errors.

        Raises:
            InputError: If no day lies in any season.
        """
        first = date_of(float(days.min()))
        last = date_of(float(days.max()))
        best_span, best_count = (0, 0), 0
        for year in range(first.year - 1, last.year + 1):
            begin, end = self.span(year)
            count = int(((days >= begin) & (days <= end)).sum())
            if count > best_count:
                best_span, best_count = (begin, end), count
        if not best_count:
            raise InputError(
                f"{where}: season '{self.name}'",
                found=f"images from {first} to {last}",
                expected=f"at least one between {self.start} and {self.end}",
                repair="correct the days in data.seasons, or the pattern 'chips' that assigns the season.",
            )
        return best_span

    def cut(self, sample: Sample) -> Sample:
        """Keep only the frames of the season.

        Raises:
            InputError: If there are none.
        """
        begin, end = self.of(sample.all_days(), f"sample {sample.name}")
        return sample.hide(-float("inf"), begin - 1).hide(end + 1, float("inf"))

    def on(self, text: str, begin: int) -> int:
        """The day ``MM-DD`` of the season that begins on day ``begin``; days off season belong to the nearer one."""
        first, last = self.span(USUAL)
        days_off_season = 365 - (last - first)
        earliest = begin - days_off_season // 2
        year = date_of(begin).year
        day = day_number(dt.date.fromisoformat(f"{year - 1}-{text}"))
        while day < earliest:
            year += 1
            day = day_number(dt.date.fromisoformat(f"{year - 1}-{text}"))
        return day


def _is_month_and_day(text: str) -> bool:
    if not re.fullmatch(r"\d\d-\d\d", text):  # fromisoformat also reads weeks, such as W10-1
        return False
    try:
        dt.date.fromisoformat(f"{USUAL}-{text}")
    except ValueError:
        return False
    return True


def growing_season_of(seasons: Sequence[GrowingSeason], name: str) -> GrowingSeason:
    """The season of a chip or scene: the first whose pattern matches its name, with or without folders.

    Raises:
        InputError: If no pattern matches.
    """
    last_part = name.rpartition("/")[2]
    for season in seasons:
        if fnmatchcase(name, season.chips) or fnmatchcase(last_part, season.chips):
            return season
    raise InputError(
        f"data.seasons: {name}",
        found="no season for it",
        expected=f"a name like {' or '.join(season.chips for season in seasons)}",
        repair="add a season whose 'chips' matches this name, or rename it.",
    )
