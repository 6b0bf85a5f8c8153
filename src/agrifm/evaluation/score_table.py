"""Tables of scores, for the screen and in files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
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
        keys = self._varying_keys()
        caption = None
        if self._width(keys) > width and any(key.startswith(CLASS) for key in keys):
            keys = [key for key in keys if not key.startswith(CLASS)]
            caption = "the window is too narrow for the classes: see the files"
        table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
        for key in keys:
            justify = "left" if key in self.keys else "right"
            table.add_column(key.removeprefix(CLASS), justify=justify, overflow="fold")
        for row in self.rows:
            cells = [self._cell(row, key, 2) for key in keys]
            table.add_row(*cells)
        return table

    def _varying_keys(self) -> list[str]:
        """All columns but those keys that are the same in several rows."""
        if len(self.rows) == 1:
            return list(self.rows[0])
        keys = []
        for key in self.rows[0]:
            values = {row[key] for row in self.rows}
            if key in self.scores or len(values) > 1:
                keys.append(key)
        return keys

    def _width(self, keys: Sequence[str]) -> int:
        """Width of the table on the screen: a space before each column, and the margins."""
        total = 2
        for key in keys:
            cells = [key.removeprefix(CLASS)]
            cells += [self._cell(row, key, 2) for row in self.rows]
            total += 1 + max(len(cell) for cell in cells)
        return total

    def _cell(self, row: Values, key: str, digits: int) -> str:
        value = row[key]
        if key in self.keys or not isinstance(value, float):
            return str(value)
        return "–" if _is_nan(value) else f"{value:.{digits}f}"

    def markdown(self) -> str:
        """Return the table for a report."""
        columns = list(self.rows[0])
        alignments = ["---" if key in self.keys else "---:" for key in columns]
        lines = [columns, alignments]
        for row in self.rows:
            lines.append([self._cell(row, key, 3) for key in row])
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
            cells = {key: "" if _is_nan(value) else value for key, value in row.items()}
            writer.writerow(cells)
        # JSON has no NaN, so it becomes null.
        encoded = json.dumps({"rows": self.rows, **more})
        document = json.loads(encoded, parse_constant=lambda _: None)
        write_whole(stem.with_suffix(".csv"), text.getvalue())
        write_whole(stem.with_suffix(".md"), self.markdown())
        write_whole(stem.with_suffix(".json"), json.dumps(document, indent=2))


def _is_nan(value: Any) -> bool:
    return value != value
