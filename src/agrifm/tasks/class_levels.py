"""Groups of classes, and scores at the levels that they make: soft and durum wheat, then wheat, then cereals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Group:
    """Classes of which one holds, unknown which: a level of the hierarchy, or what a code leaves open.

    Args:
        name: Name of the group.
        classes: Names of its classes.
        codes: Numbers in the labels that mean it.
        scored: Whether scores are also given with its classes as one.
    """

    name: str
    classes: tuple[str, ...]
    codes: tuple[int, ...] = ()
    scored: bool = True


def check(groups: Sequence[Group], names: Sequence[str]) -> None:
    """Refuse groups that cannot be.

    Raises:
        ValueError: If a group names a class that is not there, holds none or all, or crosses another.
    """
    for group in groups:
        strange = set(group.classes) - set(names)
        if strange:
            raise ValueError(f"group {group.name} holds '{min(strange)}', which is no class: {', '.join(names)}")
        if not 1 < len(set(group.classes)) < len(names):
            raise ValueError(
                f"group {group.name} holds {len(group.classes)} of {len(names)} classes: some, not all, are needed"
            )
    kept = [group for group in groups if group.scored]
    for a in kept:
        for b in kept:
            if set(a.classes) & set(b.classes) and not (
                set(a.classes) <= set(b.classes) or set(b.classes) <= set(a.classes)
            ):
                raise ValueError(f"groups {a.name} and {b.name} share some classes: set 'scored: false' on one of them")


def levels(groups: Sequence[Group], names: Sequence[str]) -> list[tuple[str, ...]]:
    """For every level above the classes, from fine to coarse: what each class is called there."""
    kept = sorted((group for group in groups if group.scored), key=lambda group: len(group.classes))
    height: dict[Group, int] = {}
    for group in kept:
        height[group] = 1 + max(
            (height[other] for other in height if set(other.classes) < set(group.classes)), default=0
        )
    found = []
    for level in range(1, max(height.values(), default=0) + 1):
        called = {name: name for name in names}
        for group in kept:
            if height[group] <= level:
                called |= dict.fromkeys(group.classes, group.name)
        found.append(tuple(called[name] for name in names))
    return found


def lifted(
    counts: np.ndarray, groups: Sequence[Group], names: Sequence[str], level: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Confusion matrix at a level, and its names.

    Args:
        counts: ``(k + g, k)`` pixels by label, a class or a group, and by prediction.
        groups: Groups of the classes.
        names: Names of the classes.
        level: What each class is called there; labels that leave open what they are called do not count.
    """
    called = tuple(dict.fromkeys(level))
    place = dict(zip(names, (called.index(name) for name in level), strict=True))
    columns = [place[name] for name in names]
    matrix = np.zeros((len(called), len(called)), counts.dtype)
    for row, of in zip(counts, [*((name,) for name in names), *(group.classes for group in groups)], strict=True):
        rows = {place[name] for name in of}
        if len(rows) == 1:
            np.add.at(matrix[rows.pop()], columns, row)
    return matrix, called
