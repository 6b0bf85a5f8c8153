"""Groups of classes, and scores at the levels that they make: soft and durum wheat, then wheat, then cereals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class Group:
    """Classes of which one is right, but not known which: a level of the hierarchy, or the meaning of a code.

    Args:
        name: Name of the group.
        classes: Names of its classes.
        codes: Numbers in the labels that mean the group.
        scored: Whether scores are also given with its classes as one.
    """

    name: str
    classes: tuple[str, ...]
    codes: tuple[int, ...] = ()
    scored: bool = True


def check_groups(groups: Sequence[Group], names: Sequence[str]) -> None:
    """Refuse groups that are not possible.

    Raises:
        ValueError: If a group names an unknown class, has only one class or all of them, or overlaps another.
    """
    for group in groups:
        unknown = set(group.classes) - set(names)
        if unknown:
            raise ValueError(f"group {group.name} holds '{min(unknown)}', which is no class: {', '.join(names)}")
        if not 1 < len(set(group.classes)) < len(names):
            raise ValueError(
                f"group {group.name} holds {len(group.classes)} of {len(names)} classes: some, not all, are needed"
            )
    for a, b in combinations(_scored(groups), 2):
        common = set(a.classes) & set(b.classes)
        one_includes_other = common == set(a.classes) or common == set(b.classes)
        if common and not one_includes_other:
            raise ValueError(f"groups {a.name} and {b.name} share some classes: set 'scored: false' on one of them")


def _scored(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if group.scored]


def levels(groups: Sequence[Group], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the name of each class at every level above the classes, from fine to coarse."""
    groups = sorted(_scored(groups), key=lambda group: len(group.classes))
    heights: dict[Group, int] = {}
    for group in groups:
        heights_inside = [height for other, height in heights.items() if set(other.classes) < set(group.classes)]
        heights[group] = 1 + max(heights_inside, default=0)
    names_at_levels = []
    for level in range(1, max(heights.values(), default=0) + 1):
        name_at_level = {name: name for name in names}
        for group in groups:  # small groups first, so that a larger one replaces their names
            if heights[group] <= level:
                name_at_level |= dict.fromkeys(group.classes, group.name)
        names_at_levels.append(tuple(name_at_level[name] for name in names))
    return names_at_levels


def confusion_at_level(
    counts: np.ndarray, groups: Sequence[Group], names: Sequence[str], level: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the confusion matrix at a level, and the names at that level.

    Args:
        counts: Pixels ``(k + g, k)`` by label, which is a class or a group, and by predicted class.
        groups: Groups of the classes.
        names: Names of the classes.
        level: Name of each class at the level. Labels that may have several of these names do not count.
    """
    level_names = tuple(dict.fromkeys(level))
    position: dict[str, int] = {}
    for name, level_name in zip(names, level, strict=True):
        position[name] = level_names.index(level_name)
    columns = [position[name] for name in names]
    classes_of_labels = [(name,) for name in names] + [group.classes for group in groups]
    matrix = np.zeros((len(level_names), len(level_names)), counts.dtype)
    for classes, pixels in zip(classes_of_labels, counts, strict=True):
        rows = {position[name] for name in classes}
        if len(rows) == 1:
            np.add.at(matrix[rows.pop()], columns, pixels)
    return matrix, level_names
