"""Loss and scores of a run by epoch, as a table that people and the viewer read."""

from __future__ import annotations

import csv
from pathlib import Path

from agrifm.io import whole

HISTORY = "history.csv"


def write_history(path: Path, epoch: int, values: dict[str, float]) -> None:
    """Append an epoch to the history, in place of this and later epochs that a killed run may have written."""
    rows = read_history(path, epoch)
    with whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", *values], restval="nan", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, {"epoch": epoch, **values}])


def read_history(path: Path, epoch: int) -> list[dict[str, str]]:
    """Read the rows of a history before an epoch.

    Damaged rows are left out: the history is shown to people, and nothing depends on it.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().decode("utf-8", "replace").replace("\0", "").splitlines()
    rows: dict[int, dict[str, str]] = {}
    for row in csv.DictReader(lines):
        number = row.get("epoch") or ""
        # DictReader puts surplus cells under None, and None into cells that are missing.
        is_complete = None not in row and None not in row.values()
        is_number = number.isascii() and number.isdecimal()
        # Python refuses to convert very long numbers, which only a damaged file has.
        if is_complete and is_number and int(number[:9]) < epoch:
            rows[int(number[:9])] = row
    return [rows[number] for number in sorted(rows)]
