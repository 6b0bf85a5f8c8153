"""Complete files from disk or any address that fsspec opens; remote ones are retried after temporary failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec.core
from fsspec.asyn import AsyncFileSystem

from agrifm.addresses import is_address, normalized
from agrifm.errors import InputError
from agrifm.network.retry import Attempt, TemporaryFailure, retry

WAITS = (1.0, 4.0, 16.0, 64.0)  # seconds before a remote file is requested again
TEMPORARY = (408, 425, 429)  # client errors of HTTP that are temporary
PATIENCE = 30.0  # seconds that all attempts may take together, without the pauses and the transfer itself
SLOWEST = 200_000  # bytes per second; slower transfers count as failed
MOST = 2 * 2**30  # largest size for which transfer time is granted, whatever a manifest claims
# Kinds of storage that a user may name. Others, such as 'simplecache' or 'github', refer to further places.
SCHEMES = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "memory")


class NotRead(OSError):
    """A file that cannot be read or has wrong content; the text gives the reason and the number of attempts."""


def read_whole(place: str, flaw: Callable[[bytes], str | None] = lambda data: None, size: int = 0) -> bytes:
    """Read a file; a remote one is fetched again, after pauses, until it arrives without a flaw.

    Args:
        place: Path or address.
        flaw: What is wrong with the bytes, or None.
        size: Bytes that are expected, which give a slow network more time.

    Raises:
        NotRead: If it is missing, refused, too slow, or still flawed at the last attempt.
    """

    def fetch(attempt: Attempt) -> bytes:
        try:
            data = _fetch(place, attempt.seconds, size)
            problem = flaw(data)
            final = False
        except Exception as error:  # every kind of storage has its own exceptions
            problem = f"it cannot be read: {_message(error)}"
            final = _final(error)
        if problem is None:
            return data
        if attempt.number > 1:
            problem += f"; tried {attempt.number} times"
        raise NotRead(problem) if final else TemporaryFailure(NotRead(problem))

    waits = WAITS if is_address(place) else ()
    return retry(fetch, waits, PATIENCE, transfer=min(size, MOST) / SLOWEST)


def _fetch(place: str, seconds: float, size: int) -> bytes:
    """Read a file once; a remote one within a time limit for the whole file."""
    if not is_address(place):
        return _read(Path(place), size)
    system, path = fsspec.core.url_to_fs(normalized(place, place, SCHEMES))
    limits: dict[str, Any] = {"timeout": seconds} if isinstance(system, AsyncFileSystem) else {}
    return system.cat_file(path, **limits)


def _read(path: Path, size: int) -> bytes:
    """Read a local file after its size was checked."""
    if path.exists() and not path.is_file():
        raise ValueError("no plain file")
    actual = path.stat().st_size
    if size and actual != size:
        raise ValueError(f"truncated or overlong: {actual} of {size} bytes")
    return path.read_bytes()


def _message(error: Exception) -> str:
    if isinstance(error, InputError):
        return error.found
    return f"{type(error).__name__} {error}".strip()


def _final(error: Exception) -> bool:
    """Whether another attempt is pointless."""
    status = getattr(error, "status", None) or 0
    refused = 400 <= status < 500 and status not in TEMPORARY
    return refused or isinstance(error, (FileNotFoundError, PermissionError, ImportError, ValueError))
