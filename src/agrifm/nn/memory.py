"""Keeping freed memory in the process.

By default the C library returns large freed blocks to the system at once. A model frees and allocates the same sizes
over and over, and mapping these pages each time costs as much as the model's arithmetic on a CPU.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8
_LARGE = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Keep freed memory for later allocations. Does nothing if the C library has no such setting."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, _LARGE)
        library.mallopt(_ARENA_MAX, 2)
