"""Which of many things are looked at."""

from __future__ import annotations

import numpy as np


def evenly(count: int, limit: int) -> list[int]:
    """Return at most ``limit`` numbers spread evenly over ``range(count)``; a limit of 0 returns all."""
    if limit == 0 or limit >= count:
        return list(range(count))
    return np.linspace(0, count - 1, limit).astype(int).tolist()
