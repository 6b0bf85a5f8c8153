"""Classes of labels: which code means which class, and the name and color of each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from agrifm.errors import InputError, nearest
from agrifm.tasks.segmentation import PALETTE, CropClass

IGNORE = -1
MOST_CLASSES = 255  # a map has one byte for the class, and 255 is no data
Row = tuple[str, str, str, str]  # where it stands, code, name, color


@dataclass(frozen=True)
class ClassTable:
    """Which code of the labels means which class. Several codes may mean one class.

    Args:
        classes: in the order of their numbers.
        codes: number of the class by code; codes are compared as text.
        source: of the table, for messages.
    """

    classes: tuple[CropClass, ...]
    codes: Mapping[str, int]
    source: str

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read a CSV ``code,name[,color]`` or a YAML list of ``{name, color, codes}``.

        Raises:
            InputError: the file is missing or a row cannot be used; it is named.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeError) as error:
            raise InputError(
                path, found=str(error), expected="a class table in UTF-8", repair="check the path and the file."
            ) from error
        rows = _yaml_rows if path.suffix in (".yaml", ".yml") else _csv_rows
        return cls.of(rows(path, text), str(path))

    @classmethod
    def of(cls, rows: Iterable[Row], source: str) -> ClassTable:
        """The table of rows (where, code, name, color).

        Raises:
            InputError: rows contradict each other, or there are too few or too many classes.
        """
        colors: dict[str, str] = {}
        codes: dict[str, str] = {}
        for where, code, name, color in rows:
            if not name or not code:
                problem = f"code '{code}' with the name '{name}'"
                raise InputError(
                    where,
                    found=problem,
                    expected="a code and a name",
                    repair="complete it, or delete it: codes that are not listed are ignored.",
                )
            for known, new, what in ((codes.get(code), name, f"code {code}"), (colors.get(name), color, name)):
                if known and new and known != new:
                    raise InputError(
                        where, found=f"{what} as {new}, before as {known}", expected="one of them", repair="delete one."
                    )
            codes[code] = name
            colors[name] = colors.get(name) or color
        classes = tuple(_class(source, name, color, i) for i, (name, color) in enumerate(colors.items()))
        _check_count(classes, source)
        return cls(classes, {code: list(colors).index(name) for code, name in codes.items()}, source)

    @classmethod
    def of_codes(cls, found: Iterable[str], source: str) -> ClassTable:
        """Every code a class of its own, sorted; numbers by size."""
        return cls.of(((source, code, code, "") for code in sorted(set(found), key=by_size)), source)

    def numbers(self, codes: Sequence[str]) -> np.ndarray:
        """Number of the class of each code; the count of classes where the table does not list it."""
        return np.array([self.codes.get(code, len(self.classes)) for code in codes], np.int64)

    def must_know_one(self, codes: Iterable[str], where: str) -> None:
        """Refuse labels of which the table lists nothing.

        Raises:
            InputError: with codes of both.
        """
        present = sorted(set(codes))
        if not any(code in self.codes for code in present):
            raise InputError(
                where,
                found=f"codes {', '.join(present[:6]) or '(none)'}",
                expected=f"codes of {self.source}: {', '.join(list(self.codes)[:6])}",
                repair="name the column that holds these codes, or list the labels' codes in the table.",
            )


def _class(where: str, name: str, color: str, number: int) -> CropClass:
    try:
        return CropClass(name, color or PALETTE[number % len(PALETTE)])
    except ValueError as error:
        raise InputError(where, found=str(error), expected="#rrggbb", repair="mend it, or leave it out.") from error


def _check_count(classes: Sequence[CropClass], source: str) -> None:
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            source,
            found=f"{len(classes)} class(es)",
            expected=f"2 to {MOST_CLASSES}",
            repair="give a class table (--classes FILE) that sorts the codes into classes"
            + (", and check the class column." if len(classes) > MOST_CLASSES else "; one class leaves no choice."),
        )


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    first = text.splitlines()[0] if text.strip() else ""
    rows = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
    for wanted in ("code", "name"):
        if wanted not in columns:
            raise InputError(
                path,
                found=f"columns {', '.join(columns) or '(none)'}",
                expected="code,name[,color]",
                repair=f"write 'code,name,color' as first line; the column '{wanted}' is missing.",
            )
    for row in rows:
        values = [(row.get(columns.get(key, "")) or "").strip() for key in ("code", "name", "color")]
        if any(values):
            yield f"{path}: line {rows.line_num}", values[0], values[1], values[2]


def _yaml_rows(path: Path, text: str) -> Iterator[Row]:
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(path, found=str(error), expected="YAML", repair="mend the syntax at that line.") from error
    if not isinstance(entries, list):
        entries = [entries]
    for number, entry in enumerate(entries, 1):
        where, keys = f"{path}: entry {number}", ("name", "color", "codes")
        if not isinstance(entry, Mapping) or "name" not in entry:
            form = "- {name: wheat, color: '#e0b83e', codes: [110, 111]}"
            raise InputError(where, found=repr(entry)[:80], expected=form, repair="write a list of such entries.")
        for key in entry:
            if key not in keys:
                raise InputError(where, found=f"key '{key}'", expected=", ".join(keys), repair=nearest(str(key), keys))
        codes = entry.get("codes", entry["name"])
        for code in codes if isinstance(codes, list) else [codes]:
            yield where, as_code(code), str(entry["name"]).strip(), str(entry.get("color") or "")


def as_code(value: Any) -> str:
    """A code as text, the way it is compared: 12 and 12.0 are the same."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def by_size(code: str) -> tuple[float, str]:
    """Numbers by size, then other codes by letter."""
    try:
        return float(code), code
    except ValueError:
        return float("inf"), code
