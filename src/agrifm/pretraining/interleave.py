"""Interleaving of several series in fixed proportions, e.g. three samples of one source for each of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agrifm.errors import InputError

LONGEST_PERIOD = 100_000  # positions, which are held in memory


@dataclass(frozen=True, eq=False)
class Interleaving:
    """An endless periodic choice among several series.

    Args:
        proportions: Whole numbers in a ratio, one for each series ``(n)``.
    """

    proportions: np.ndarray

    @cached_property
    def period(self) -> np.ndarray:
        """Number of the series at each position of a period.

        Every prefix is within one position of the proportions. The next position of a series may come once its share
        has reached the positions that it has, and is due before its share has passed them by one; the series that is
        due first gets the position (proportionate fairness: Baruah et al., 1996).

        Raises:
            InputError: If the period is too long to be held in memory.
        """
        total = sum(int(proportion) for proportion in self.proportions)
        if total > LONGEST_PERIOD:
            raise InputError(
                "sampling weights",
                found=f"a ratio of {' to '.join(str(proportion) for proportion in self.proportions)}",
                expected=f"whole numbers that sum to at most {LONGEST_PERIOD}",
                repair="give the ratio in smaller numbers, e.g. 3 and 1.",
            )
        taken = np.zeros(len(self.proportions), np.int64)
        period = np.empty(total, np.int64)
        for position in range(total):
            due = -(-(taken + 1) * total // self.proportions)  # rounded up
            is_ready = taken * total < (position + 1) * self.proportions
            chosen = np.where(is_ready, due, total + 1).argmin()
            period[position] = chosen
            taken[chosen] += 1
        return period

    def slice(self, start: int, count: int) -> Iterator[tuple[int, np.ndarray, int]]:
        """Split the positions ``start`` to ``start + count`` by series.

        Yields:
            Number of the series, its positions counted from ``start``, and how many it has before ``start``.
        """
        whole_periods, remainder = divmod(start, len(self.period))
        positions = np.arange(remainder, remainder + count) % len(self.period)
        series = self.period[positions]
        in_open_period = np.bincount(self.period[:remainder], minlength=len(self.proportions)).tolist()
        for number, proportion in enumerate(self.proportions.tolist()):
            before = whole_periods * proportion + in_open_period[number]
            yield number, np.flatnonzero(series == number), before
