"""Whole files from disk or any address that fsspec opens, with patience where a network lies in between."""

from __future__ import annotations

import time
from collections.abc import Callable

import fsspec.core

WAITS = (1.0, 4.0, 16.0, 64.0)  # seconds before a remote file is asked for again
PASSING = (408, 425, 429)  # the client errors of HTTP that go away by themselves


class NotRead(OSError):
    """A file that cannot be read, or is not what it should be; the text says why and how often it was tried."""


def is_remote(place: str) -> bool:
    """Whether it is an address, no local path."""
    return "://" in place


def read_whole(place: str, flaw: Callable[[bytes], str | None] = lambda data: None) -> bytes:
    """All bytes of a file; a remote one is fetched again, after pauses, until it arrives without a flaw.

    Args:
        place: path or address.
        flaw: what is wrong with the bytes, or None.

    Raises:
        NotRead: it is missing, refused, or still flawed at the last attempt.
    """
    waits = (*(WAITS if is_remote(place) else ()), None)
    for attempt, wait in enumerate(waits, 1):
        try:
            system, path = fsspec.core.url_to_fs(place)
            data = system.cat_file(path)
            why, final = flaw(data), False
        except Exception as error:  # every kind of storage has errors of its own
            why, final = f"it cannot be read: {type(error).__name__} {error}", _final(error)
        if why is None:
            return data
        if final or wait is None:
            raise NotRead(why + (f"; tried {attempt} times" if attempt > 1 else ""))
        time.sleep(wait)
    raise AssertionError


def _final(error: Exception) -> bool:
    """Whether asking again is of no use."""
    status = getattr(error, "status", None) or 0
    refused = 400 <= status < 500 and status not in PASSING
    return refused or isinstance(error, (FileNotFoundError, PermissionError, ImportError, ValueError))
