"""Classes of labels: the codes that mean each class, and its name and color."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from agrifm.errors import InputError, counted, nearest
from agrifm.tasks.class_names import same_names
from agrifm.tasks.class_table import SHIPPED, Row, checked_colors, read_rows
from agrifm.tasks.segmentation import PALETTE, CropClass

IGNORE = -1
MOST_CLASSES = 255  # a map has one byte for the class, and 255 is no data


@dataclass(frozen=True)
class ClassTable:
    """Classes, and the codes of the labels that mean them. Several codes may mean one class.

    Args:
        classes: Classes in the order of their numbers.
        codes: Number of the class by code; codes are compared as text.
        source: Source of the table, for messages.
        silent: Codes without a meaning in a shipped table; any other code that it does not list is a mistake. None for
            tables of users, which may leave out codes.
    """

    classes: tuple[CropClass, ...]
    codes: Mapping[str, int]
    source: str
    silent: frozenset[str] | None = None

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read a CSV ``code,name[,color]``, a YAML list of ``{name, color, codes}``, or a shipped table by its name.

        Raises:
            InputError: If the file is missing or a row cannot be used; it is named.
        """
        rows = read_rows(path)
        source = str(path)
        if source not in SHIPPED:
            return cls.of(rows, source)
        # Labels may have the codes of a shipped table, or its names.
        listed: list[Row] = []
        silent: set[str] = set()
        for row in rows:
            for code in (row.code, row.name):
                if row.hcat:
                    listed.append(row._replace(code=code))
                else:
                    silent.add(code)
        return cls.of(listed, source, frozenset(silent))

    @classmethod
    def of(cls, rows: Sequence[Row], source: str, silent: frozenset[str] | None = None) -> ClassTable:
        """Make a table of rows.

        Raises:
            InputError: If rows contradict each other, or there are too few or too many classes.
        """
        colors = checked_colors(rows)
        names = {row.code: row.name for row in rows}
        first_rows: dict[str, Row] = {}
        for row in rows:
            first_rows.setdefault(row.name, row)
        if silent is None:
            _check_count(first_rows, source)
        classes = []
        for number, row in enumerate(first_rows.values()):
            parent = names.get(row.parent, row.parent)
            row = row._replace(color=colors[row.name], parent=parent)
            classes.append(_crop_class(source, row, number))
        number_of_name = {name: number for number, name in enumerate(first_rows)}
        codes = {row.code: number_of_name[row.name] for row in rows}
        return cls(tuple(classes), codes, source, silent)

    @classmethod
    def of_codes(cls, codes: Iterable[str], source: str) -> ClassTable:
        """Make every code a class of its own, in the order of ``by_size``."""
        return cls.of([Row(source, code, code) for code in sorted(set(codes), key=by_size)], source)

    def numbers(self, codes: Sequence[str]) -> np.ndarray:
        """Return the number of the class of each code; the count of classes for codes that are not listed."""
        return np.array([self.codes.get(code, len(self.classes)) for code in codes], np.int64)

    def among(self, codes: Iterable[str], where: str) -> ClassTable:
        """Return the table to use for labels with these codes; of a shipped one, only the classes that occur.

        Raises:
            InputError: If the table lists none of the codes, or a shipped table does not list all of them.
        """
        present = sorted(set(codes), key=by_size)
        listed = [code for code in present if code in self.codes]
        if self.silent is None and listed:
            return self
        unknown = [code for code in present if code not in self.codes and code not in (self.silent or ())]
        if unknown or not listed:
            raise self._unlisted(present, unknown, where)
        numbers = sorted({self.codes[code] for code in listed})
        classes = tuple(self.classes[number] for number in numbers)
        _check_count([entry.name for entry in classes], where)
        return replace(self, classes=classes, codes={code: numbers.index(self.codes[code]) for code in listed})

    def _unlisted(self, present: Sequence[str], unknown: Sequence[str], where: str) -> InputError:
        hint = "name the column that holds these codes"
        if unknown and self.silent is not None:
            hint = nearest(unknown[0], self.codes).rstrip(".")
        return InputError(
            where,
            found=f"codes {', '.join((unknown or present)[:6]) or '(none)'}",
            expected=f"codes of {self.source}: {', '.join(list(self.codes)[:6])}",
            repair=f"{hint}; or list the labels' codes in a table of your own.",
        )


def _crop_class(source: str, row: Row, number: int) -> CropClass:
    try:
        color = row.color or PALETTE[number % len(PALETTE)]
        return CropClass(row.name, color, parent=row.parent or None, hcat=row.hcat or None)
    except ValueError as error:
        raise InputError(source, found=str(error), expected="#rrggbb", repair="correct it, or leave it out.") from error


def _check_count(classes: Collection[str], source: str) -> None:
    count = len(classes)
    if count == 1:
        raise InputError(
            source,
            found=f"one class only, '{next(iter(classes))}'",
            expected=f"2 to {MOST_CLASSES} classes",
            repair="add labels of other ground, e.g. of other crops, or give a class table (--classes FILE) that sorts "
            "the codes into classes; one class leaves no choice.",
        )
    if not 2 <= count <= MOST_CLASSES:
        raise InputError(
            source,
            found=counted(count, "class", "classes"),
            expected=f"2 to {MOST_CLASSES}",
            repair="give a class table (--classes FILE) that sorts the codes into classes, and check the class column.",
        )


def by_size(code: str) -> tuple[float, str]:
    """Sorting key of a code: numbers by size, then other codes by letter; "NaN" and "inf" are no numbers."""
    try:
        number = float(code)
    except ValueError:
        number = math.inf
    return number if math.isfinite(number) else math.inf, code


def alike(names: Iterable[str], table: Path | None = None) -> list[str]:
    """Return a sentence for every group of classes whose names differ in case, accents or spaces only.

    Args:
        names: Names of the classes.
        table: Table with these names; without one, the codes of the labels are the names.
    """
    sentences = []
    for group in same_names(names):
        line = f"- {in_line({'name': group[0], 'codes': list(group)})}"
        repair = f"copy classes.yaml, replace their lines with '{line}', and give it as --classes"
        if table is not None:
            repair = f"write '{group[0]}' for all of them in {table}"
        differing = ", ".join(map(repr, group))
        sentences.append(f"classes {differing} differ in case, accents or spaces only; if they are one, {repair}")
    return sentences


def in_line(value: Any) -> str:
    """Return a value as YAML in one line, whatever characters it contains."""
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.strip()[1:-1]
