"""From the confusion matrices of single folds to one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from agrifm.tasks.scores import Scores, scores

MODEL, FOREST, MAJORITY = "AgriFM, tiny", "random forest", "majority class"
MODELS = (MODEL, FOREST, MAJORITY)
KEYS = ("aAcc", "mFscore", "mIoU", "kappa")
Key = tuple[str, str]  # title of the row, name of the model
Confusions = dict[Key, np.ndarray]


@dataclass(frozen=True)
class Row:
    """Test scores of one row and model: over the pixels of all folds, and how far single folds lie apart."""

    row: str
    model: str
    pooled: Scores
    spread: dict[str, float]

    def cell(self, key: str) -> str:
        """A score with its standard deviation over folds."""
        return f"{self.pooled.summary[key]:.3f} ± {self.spread[key]:.3f}"


def pool(results: Sequence[tuple[tuple[str, ...], Confusions]], order: Sequence[Key]) -> list[Row]:
    """Add up the folds of each row and model, in this order; a result is class names and confusion matrices."""
    rows = []
    for key in order:
        folds = [(names, found[key]) for names, found in results if key in found]
        if folds:
            single = [scores(confusion, names).summary for names, confusion in folds]
            spread = {name: float(np.std([summary[name] for summary in single])) for name in KEYS}
            rows.append(Row(*key, scores(np.sum([confusion for _, confusion in folds], axis=0), folds[0][0]), spread))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table for the documentation, and one of F-scores by class."""
    lines = [f"| trained on | model | {' | '.join(KEYS)} | pixels |", "|---|---|" + "---:|" * (len(KEYS) + 1)]
    for row in rows:
        cells = " | ".join(row.cell(key) for key in KEYS)
        lines.append(f"| {row.row} | {row.model} | {cells} | {np.sum(row.pooled.confusion)} |")
    lines += ["", "| trained on | model | F-score by class (test pixels) |", "|---|---|---|"]
    for row in (row for row in rows if row.model != MAJORITY):
        single = ", ".join(f"{entry.name} {entry.Fscore:.2f} ({entry.pixels})" for entry in row.pooled.classes)
        lines.append(f"| {row.row} | {row.model} | {single} |")
    return "\n".join(lines) + "\n"


def show(rows: Sequence[Row]) -> Table:
    """The table for the screen."""
    table = Table("trained on", "model", *KEYS, title="test blocks of all folds, pooled ± deviation over folds")
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].row != row.row
        table.add_row(row.row, row.model, *(row.cell(key) for key in KEYS), end_section=last)
    return table


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the scores of all rows as JSON."""
    saved = [{"row": row.row, "model": row.model, "spread": row.spread, **row.pooled.to_dict()} for row in rows]
    path.write_text(json.dumps(saved, indent=2))
