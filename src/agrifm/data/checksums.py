"""Checksums of chips, so that a resumed run finds the pixels and labels with which it began.

Checksums cover the content of whole files, not their times: data are often copied to another disk between two parts of
a run. Reading a data set once takes about as long as the first epoch, so checksums are kept, and only files whose size
or time has changed are read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agrifm.io import sha256

READERS = 8  # files read at the same time; the threads mostly wait for the disk


@dataclass(frozen=True)
class Checksum:
    """Size, time and content of a file when it was read.

    Args:
        size: Size in bytes.
        mtime: Modification time in nanoseconds. A file with the same size and time is not read again.
        sha256: Checksum of the content; empty if there was no file.
    """

    size: int
    mtime: int
    sha256: str


def checksums(paths: Mapping[str, Path], known: Mapping[str, Checksum] | None = None) -> dict[str, Checksum]:
    """Return the checksums of files by name.

    Args:
        paths: Paths of the files by name.
        known: Checksums of an earlier call.
    """
    known = known or {}
    with ThreadPoolExecutor(READERS) as pool:
        results = pool.map(lambda name: _checksum(paths[name], known.get(name)), paths)
        return dict(zip(paths, results, strict=True))


def _checksum(path: Path, known: Checksum | None) -> Checksum:
    try:
        state = path.stat()
        if known is not None and (known.size, known.mtime) == (state.st_size, state.st_mtime_ns):
            return known
        return Checksum(state.st_size, state.st_mtime_ns, sha256(path))
    except OSError:
        return Checksum(0, 0, "")


def digest(entries: Mapping[str, Checksum]) -> str:
    """Return one checksum of names, their order and all contents."""
    total = hashlib.sha256()
    for name, entry in entries.items():
        total.update(f"{name}\n{entry.sha256}\n".encode())
    return total.hexdigest()


def changed(before: Mapping[str, Checksum], after: Mapping[str, Checksum]) -> dict[str, Sequence[str]]:
    """Return the names of files that were ``added``, ``removed`` or ``changed``; empty kinds are left out."""
    changes = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name].sha256 != before[name].sha256],
    }
    return {kind: names for kind, names in changes.items() if names}
