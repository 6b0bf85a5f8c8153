"""Classes of labels: which code means which class, and the name and color of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from agrifm.errors import InputError, nearest
from agrifm.tasks.class_names import same_names
from agrifm.tasks.class_table import SHIPPED, Row, agree, read_rows
from agrifm.tasks.segmentation import PALETTE, CropClass

IGNORE = -1
MOST_CLASSES = 255  # a map has one byte for the class, and 255 is no data


@dataclass(frozen=True)
class ClassTable:
    """Which code of the labels means which class. Several codes may mean one class.

    Args:
        classes: Classes in the order of their numbers.
        codes: Number of the class by code; codes are compared as text.
        source: Source of the table, for messages.
        silent: Codes of a shipped table that say nothing; there a code that is not listed is a mistake.
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
        if str(path) not in SHIPPED:
            return cls.of(rows, str(path))
        known = [row._replace(code=code) for row in rows for code in (row.code, row.name)]
        silent = frozenset(row.code for row in known if not row.hcat)
        return cls.of([row for row in known if row.hcat], str(path), silent)

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]], source: str, silent: frozenset[str] | None = None) -> ClassTable:
        """The table of rows (where, code, name, color, parent, hcat).

        Raises:
            InputError: If rows contradict each other, or there are too few or too many classes.
        """
        listed = [Row(*row) for row in rows]
        colors, names = agree(listed), {row.code: row.name for row in listed}
        first = {row.name: row for row in reversed(listed)}
        ordered = [
            first[name]._replace(color=color, parent=names.get(first[name].parent, first[name].parent))
            for name, color in colors.items()
        ]
        position = {name: i for i, name in enumerate(colors)}
        codes = {row.code: position[row.name] for row in listed}
        if silent is None:
            _check_count(ordered, source)
        return cls(tuple(_class(source, row, i) for i, row in enumerate(ordered)), codes, source, silent)

    @classmethod
    def of_codes(cls, found: Iterable[str], source: str) -> ClassTable:
        """Every code a class of its own, sorted; numbers by size."""
        return cls.of(((source, code, code, "") for code in sorted(set(found), key=by_size)), source)

    def numbers(self, codes: Sequence[str]) -> np.ndarray:
        """Number of the class of each code; the count of classes where the table does not list it."""
        return np.array([self.codes.get(code, len(self.classes)) for code in codes], np.int64)

    def among(self, codes: Iterable[str], where: str) -> ClassTable:
        """The table to use for labels with these codes; of a shipped one, only the classes that occur.

        Raises:
            InputError: If the table lists none of them, or it is a shipped one and lacks one of them.
        """
        present = sorted(set(codes), key=by_size)
        listed = [code for code in present if code in self.codes]
        if self.silent is None and listed:
            return self
        strange = [code for code in present if code not in self.codes and code not in (self.silent or ())]
        if strange or not listed:
            hint = "name the column that holds these codes"
            if strange and self.silent is not None:
                hint = nearest(strange[0], self.codes)
            raise InputError(
                where,
                found=f"codes {', '.join((strange or present)[:6]) or '(none)'}",
                expected=f"codes of {self.source}: {', '.join(list(self.codes)[:6])}",
                repair=f"{hint.rstrip('.')}; or list the labels' codes in a table of your own.",
            )
        numbers = sorted({self.codes[code] for code in listed})
        classes = tuple(self.classes[number] for number in numbers)
        _check_count(classes, where)
        return replace(self, classes=classes, codes={code: numbers.index(self.codes[code]) for code in listed})


def _class(source: str, row: Row, number: int) -> CropClass:
    try:
        color = row.color or PALETTE[number % len(PALETTE)]
        return CropClass(row.name, color, parent=row.parent or None, hcat=row.hcat or None)
    except ValueError as error:
        raise InputError(source, found=str(error), expected="#rrggbb", repair="correct it, or leave it out.") from error


def _check_count(classes: Sequence[Any], source: str) -> None:
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            source,
            found=f"{len(classes)} class(es)",
            expected=f"2 to {MOST_CLASSES}",
            repair="give a class table (--classes FILE) that sorts the codes into classes"
            + (", and check the class column." if len(classes) > MOST_CLASSES else "; one class leaves no choice."),
        )


def by_size(code: str) -> tuple[float, str]:
    """Numbers by size, then other codes by letter; "NaN" and "inf" are no numbers."""
    try:
        number = float(code)
    except ValueError:
        number = math.inf
    return number if math.isfinite(number) else math.inf, code


def alike(names: Iterable[str], table: Path | None = None) -> list[str]:
    """A sentence for every group of classes whose names differ in case, accents or spaces only.

    Args:
        names: Names of the classes.
        table: Table that named them; without one, codes are the names.
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
    """A value as YAML in one line, whatever characters it holds."""
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.strip()[1:-1]
