"""Balanced choice of samples among groups of sensor, dominant cover and biome."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from agrifm.pretraining.views import ChipPosition


class Group(NamedTuple):
    """A group among which samples are balanced."""

    sensor: str
    cover: str
    biome: str


class BalancedQueues:
    """Chips of several groups in random order, drawn group by group in proportion to their weights.

    Args:
        queues: Chips of each group, in the order in which they are drawn.
        balance: From 0, weights by the size of a group, to 1, equal weights.
        samples: Number of samples to draw; None draws all chips.
    """

    def __init__(self, queues: dict[Group, Sequence[ChipPosition]], balance: float, samples: int | None) -> None:
        self.queues = queues
        self.sizes = np.array([len(queue) for queue in queues.values()], int)
        total = int(self.sizes.sum())
        frequencies = (1 - balance) * self.sizes / total
        self.weights = frequencies + balance / max(1, len(queues))
        self.wanted = total if samples is None else samples
        self.drawn = np.zeros_like(self.sizes)
        self.rejected = np.zeros_like(self.sizes)

    @property
    def total(self) -> int:
        """Largest number of samples that can be drawn."""
        return min(self.wanted, int(self.sizes.sum()))

    def draw(self) -> dict[ChipPosition, int]:
        """Draw as many chips as are missing, with the number of their group; empty at the end."""
        accepted = self.drawn - self.rejected
        missing = self.wanted - int(accepted.sum())
        counts = apportion(self.weights, accepted, self.sizes - self.drawn, missing)
        group_of = {}
        for number, queue in enumerate(self.queues.values()):
            start = self.drawn[number]
            for chip in queue[start : start + counts[number]]:
                group_of[chip] = number
        self.drawn += counts
        return group_of

    def reject(self, group: int) -> None:
        """Count a drawn chip that became no sample; the next draw replaces it."""
        self.rejected[group] += 1

    def spare(self) -> dict[Group, int]:
        """Number of chips of each group that were not drawn."""
        return dict(zip(self.queues, (self.sizes - self.drawn).tolist(), strict=True))


def apportion(weights: np.ndarray, accepted: np.ndarray, available: np.ndarray, wanted: int) -> np.ndarray:
    """Number of chips to draw from each group ``(n)``; together ``wanted``, or all that are available.

    The groups take turns by weight (Sainte-Laguë method), so that a larger total never takes a chip back.

    Args:
        weights: Weight of each group.
        accepted: Number of samples that each group has.
        available: Number of chips that each group has left.
        wanted: Number of chips to draw.
    """
    if wanted >= available.sum():
        return available
    counts = np.zeros_like(available)
    turns: list[tuple[float, int]] = []  # the group whose turn is the earliest comes first
    for group in np.flatnonzero(available):
        heappush(turns, ((2 * accepted[group] + 1) / weights[group], group))
    for _ in range(wanted):
        _, group = heappop(turns)
        counts[group] += 1
        if counts[group] < available[group]:
            samples = accepted[group] + counts[group]
            heappush(turns, ((2 * samples + 1) / weights[group], group))
    return counts
