"""Checksums of chips: a run that goes on must find the pixels and labels with which it began.

The content of whole files counts, not their times: data are often copied to another disk between two parts of a run.
To read a data set once takes about as long as the first epoch does, so checksums are kept, and only files whose size
or time has changed are read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agrifm.io import sha256

READERS = 8  # files read at the same time; they wait for the disk


@dataclass(frozen=True)
class Checksum:
    """What a file held when it was read.

    Args:
        size: in bytes.
        mtime: in nanoseconds; where size and time are the same, the file is not read again.
        sha256: of the content; empty where there was no file.
    """

    size: int
    mtime: int
    sha256: str


def checksums(paths: Mapping[str, Path], known: Mapping[str, Checksum] | None = None) -> dict[str, Checksum]:
    """Checksums of files by name.

    Args:
        paths: of the files.
        known: checksums of an earlier call.
    """
    known = known or {}
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: _checksum(paths[name], known.get(name)), paths)
        return dict(zip(paths, found, strict=True))


def _checksum(path: Path, known: Checksum | None) -> Checksum:
    try:
        state = path.stat()
        if known is not None and (known.size, known.mtime) == (state.st_size, state.st_mtime_ns):
            return known
        return Checksum(state.st_size, state.st_mtime_ns, sha256(path))
    except OSError:
        return Checksum(0, 0, "")


def digest(found: Mapping[str, Checksum]) -> str:
    """One checksum of names, their order and all contents."""
    lines = [f"{name}\n{entry.sha256}\n" for name, entry in found.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def changed(before: Mapping[str, Checksum], after: Mapping[str, Checksum]) -> dict[str, Sequence[str]]:
    """Names by what became of them: ``added``, ``removed`` or ``changed``; kinds without a name are left out."""
    kinds = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name].sha256 != before[name].sha256],
    }
    return {kind: names for kind, names in kinds.items() if names}
