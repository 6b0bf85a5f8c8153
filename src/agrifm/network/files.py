"""Whole files from disk or any address that fsspec opens; remote ones are fetched again after passing failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec.core
from fsspec.asyn import AsyncFileSystem

from agrifm.addresses import is_address, normalized
from agrifm.errors import InputError

WAITS = (1.0, 4.0, 16.0, 64.0)  # seconds before a remote file is asked for again
PASSING = (408, 425, 429)  # the client errors of HTTP that go away by themselves
PATIENCE = 30.0  # seconds that all attempts may take together, beyond the pauses and the time for the bytes themselves
SLOWEST = 200_000  # bytes per second; what arrives slower counts as not arriving
MOST = 2 * 2**30  # bytes for which time is given at most, whatever a manifest claims
# Storage that a user may name. Others, such as 'simplecache' or 'github', lead to further places.
SCHEMES = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "memory")


class NotRead(OSError):
    """A file that cannot be read, or is not what it should be; the text says why and how often it was tried."""


def read_whole(place: str, flaw: Callable[[bytes], str | None] = lambda data: None, size: int = 0) -> bytes:
    """All bytes of a file; a remote one is fetched again, after pauses, until it arrives without a flaw.

    Args:
        place: path or address.
        flaw: what is wrong with the bytes, or None.
        size: bytes that are expected, which give a slow network more time.

    Raises:
        NotRead: it is missing, refused, too slow, or still flawed at the last attempt.
    """
    remote = is_address(place)
    waits = (*(WAITS if remote else ()), None)
    left, arriving = PATIENCE, min(size, MOST) / SLOWEST
    for attempt, wait in enumerate(waits, 1):
        began = time.monotonic()
        try:
            data = _fetch(place, left + arriving, size)
            why, final = flaw(data), False
        except Exception as error:  # every kind of storage has errors of its own
            why, final = f"it cannot be read: {_told(error)}", _final(error)
        if why is None:
            return data
        left -= max(0.0, time.monotonic() - began - arriving)
        if final or wait is None or left <= 0:
            raise NotRead(why + (f"; tried {attempt} times" if attempt > 1 else ""))
        time.sleep(wait)
    raise AssertionError


def _fetch(place: str, seconds: float, size: int) -> bytes:
    """The bytes of a file; of a remote one within a time limit, which counts for the whole of it."""
    if not is_address(place):
        return _read(Path(place), size)
    system, path = fsspec.core.url_to_fs(normalized(place, place, SCHEMES))
    limits: dict[str, Any] = {"timeout": seconds} if isinstance(system, AsyncFileSystem) else {}
    return system.cat_file(path, **limits)


def _read(path: Path, size: int) -> bytes:
    """The bytes of a local file, whose size is checked before it is read."""
    if path.exists() and not path.is_file():
        raise ValueError("no plain file")
    held = path.stat().st_size
    if size and held != size:
        raise ValueError(f"truncated or overlong: {held} of {size} bytes")
    return path.read_bytes()


def _told(error: Exception) -> str:
    if isinstance(error, InputError):
        return error.found
    return f"{type(error).__name__} {error}".strip()


def _final(error: Exception) -> bool:
    """Whether asking again is of no use."""
    status = getattr(error, "status", None) or 0
    refused = 400 <= status < 500 and status not in PASSING
    return refused or isinstance(error, (FileNotFoundError, PermissionError, ImportError, ValueError))
