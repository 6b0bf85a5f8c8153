"""Tables of scores, for the screen and in files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from agrifm.io import write_whole

Values = dict[str, Any]
CLASS = "F "  # before the name of a class whose F-score a column holds


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores.

    Args:
        keys: Columns that say which images were used. The others are scores; those of classes begin with ``F``.
        rows: A value for every column in each.
    """

    keys: tuple[str, ...]
    rows: tuple[Values, ...]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the columns with scores."""
        return tuple(key for key in self.rows[0] if key not in self.keys)

    def show(self, title: str, width: int) -> Table:
        """Build the table for the screen, without keys that are the same in every row.

        Args:
            title: Title of the table.
            width: Width of the screen in characters. If it is too small, the columns of classes are left out.
        """
        columns = {key: [key.removeprefix(CLASS), *self._cells(key, 2)] for key in self._varying_columns()}
        classes = [key for key in columns if key.startswith(CLASS)]
        needed_width = 2 + sum(1 + max(map(len, column)) for column in columns.values())
        caption = None
        if classes and needed_width > width:
            columns = {key: column for key, column in columns.items() if key not in classes}
            caption = "the window is too narrow for the classes: see the files"
        table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
        for key, column in columns.items():
            table.add_column(column[0], justify="left" if key in self.keys else "right", overflow="fold")
        for i in range(len(self.rows)):
            table.add_row(*(column[1 + i] for column in columns.values()))
        return table

    def _varying_columns(self) -> list[str]:
        """All columns with scores, and those keys that differ between rows."""
        if len(self.rows) == 1:
            return list(self.rows[0])
        return [key for key in self.rows[0] if key not in self.keys or len({row[key] for row in self.rows}) > 1]

    def _cells(self, key: str, digits: int) -> list[str]:
        if key in self.keys:
            return [str(row[key]) for row in self.rows]
        return [_text(row[key], digits) for row in self.rows]

    def markdown(self) -> str:
        """Return the table for a report."""
        columns = [self._cells(key, 3) for key in self.rows[0]]
        alignment = ["---" if key in self.keys else "---:" for key in self.rows[0]]
        lines = [list(self.rows[0]), alignment, *zip(*columns, strict=True)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def write(self, stem: Path, **more: Any) -> None:
        """Write the table as ``.csv``, ``.md`` and ``.json``; values that do not exist are empty or null.

        Args:
            stem: Path of the files without their suffix.
            more: Further entries of the JSON file.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, tuple(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})
        # JSON has no NaN, so it becomes null.
        document = json.loads(json.dumps({"rows": self.rows, **more}), parse_constant=lambda _: None)
        write_whole(stem.with_suffix(".csv"), text.getvalue())
        write_whole(stem.with_suffix(".md"), self.markdown())
        write_whole(stem.with_suffix(".json"), json.dumps(document, indent=2))


def _is_nan(value: Any) -> bool:
    return value != value


def _text(value: Any, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if _is_nan(value) else f"{value:.{digits}f}"
