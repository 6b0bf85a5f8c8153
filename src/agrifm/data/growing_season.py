"""Growing seasons by days of the year: any month, across the new year, two a year."""

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
USUAL = 2001  # neither it nor the next is a leap year


def date_of(day: float) -> dt.date:
    """The date of a day since 1970-01-01."""
    return dt.date.fromordinal(EPOCH + int(day))


def number_of(date: dt.date) -> int:
    """Days since 1970-01-01."""
    return date.toordinal() - EPOCH


@dataclass(frozen=True)
class GrowingSeason:
    """A growing season: where it ends on an earlier day of the year than it begins, it crosses the new year.

    Args:
        start, end: its first and last day, as ``MM-DD``.
        name: for people.
        chips: pattern of the names of chips and scenes whose season it is, e.g. ``north*``.
    """

    start: str
    end: str
    name: str = "season"
    chips: str = "*"

    def __post_init__(self) -> None:
        for text in (self.start, self.end):
            try:
                if not re.fullmatch(r"\d\d-\d\d", text):  # Python also reads weeks: W10-1
                    raise ValueError(text)
                dt.date.fromisoformat(f"{USUAL}-{text}")
            except ValueError as error:
                raise ValueError(f"a day of every year as MM-DD, e.g. 10-01; '{text}' is none") from error

    def span(self, year: int) -> tuple[int, int]:
        """First and last day, since 1970-01-01, of the season that begins in a year."""
        end = dt.date.fromisoformat(f"{year + (self.end < self.start)}-{self.end}")
        return number_of(dt.date.fromisoformat(f"{year}-{self.start}")), number_of(end)

    def of(self, days: Tensor, where: str) -> tuple[int, int]:
        """First and last day of the season that holds most of these days; the first of several that hold equally many.

        Raises:
            InputError: no day lies in any season; ``where`` says of what.
        """
        first, last = date_of(float(days.min())), date_of(float(days.max()))
        spans = [self.span(year) for year in range(first.year - 1, last.year + 1)]
        counts = [int(((days >= begin) & (days <= end)).sum()) for begin, end in spans]
        if not max(counts):
            raise InputError(
                f"{where}: calendar '{self.name}'",
                found=f"images from {first} to {last}",
                expected=f"at least one between {self.start} and {self.end}",
                repair="correct the days in data.seasons, or the pattern that says whose season it is.",
            )
        return spans[counts.index(max(counts))]

    def cut(self, sample: Sample) -> Sample:
        """Only the frames of the season.

        Raises:
            InputError: there are none.
        """
        begin, end = self.of(sample.all_days(), f"sample {sample.name}")
        return sample.hide(-float("inf"), begin - 1).hide(end + 1, float("inf"))

    def on(self, text: str, begin: int) -> int:
        """The day ``MM-DD`` of the season that begins on day ``begin``; days off season belong to the nearer one."""
        length = self.span(USUAL)[1] - self.span(USUAL)[0]
        year = date_of(begin).year
        days = [number_of(dt.date.fromisoformat(f"{year + more}-{text}")) for more in (-1, 0, 1)]
        return next(day for day in days if day >= begin - (365 - length) // 2)


def growing_season_of(calendars: Sequence[GrowingSeason], name: str) -> GrowingSeason:
    """The calendar of a chip or scene: the first whose pattern fits its name, with or without folders.

    Raises:
        InputError: none does.
    """
    written = (name, name.rpartition("/")[2])
    found = next((one for one in calendars if any(fnmatchcase(text, one.chips) for text in written)), None)
    if found is None:
        raise InputError(
            f"data.seasons: {name}",
            found="no calendar for it",
            expected=f"a name like {' or '.join(calendar.chips for calendar in calendars)}",
            repair="add a calendar whose 'chips' fits this name, or rename it.",
        )
    return found
