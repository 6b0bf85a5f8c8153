"""Repeated attempts: pauses between them, a limit of their time, and failures after which another one is worthwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Attempt:
    """One of several attempts.

    Args:
        number: Number of the attempt, from 1.
        seconds: Time that it may take.
    """

    number: int
    seconds: float


class TemporaryFailure(Exception):
    """Failure of an attempt that may succeed if it is repeated; any other exception ends the attempts.

    Args:
        error: Exception to raise if there is no further attempt.
        wait: Seconds to wait before the next attempt, if a server asks for them.
    """

    def __init__(self, error: Exception, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


def retry(work: Callable[[Attempt], Result], waits: Sequence[float], patience: float, transfer: float = 0.0) -> Result:
    """Call a function until it succeeds, fails for good, or has used up its attempts or its time.

    Args:
        work: Function to call. It raises ``TemporaryFailure`` if another attempt is worthwhile.
        waits: Seconds before the second and each further attempt.
        patience: Seconds that all attempts may take together, without the pauses between them.
        transfer: Seconds of each attempt that do not count.

    Returns:
        The result of the first attempt that succeeds.

    Raises:
        Exception: The error of the last attempt.
    """
    left = patience
    for number, wait in enumerate((*waits, None), start=1):
        start = time.monotonic()
        try:
            return work(Attempt(number, left + transfer))
        except TemporaryFailure as failure:
            left -= max(0.0, time.monotonic() - start - transfer)
            if wait is None or left <= 0:
                raise failure.error from failure.error.__cause__
            time.sleep(wait if failure.wait is None else failure.wait)
    raise AssertionError
