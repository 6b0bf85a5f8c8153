"""How the process keeps memory that was freed.

By default the C library hands large freed pieces back to the system at once. A model frees and asks for the same sizes
over and over, and the pages that are fetched anew each time cost as much as its arithmetic on a CPU.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Numbers of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Keep freed memory for the next need; where the C library has no such switch, nothing happens."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, _LARGE)
        library.mallopt(_ARENA_MAX, 2)
