"""Tables of samples of any format, as text and numbers in a data frame."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from agrifm.errors import InputError, refusing
from agrifm.io import size_of
from agrifm.vectors.parquet import is_parquet, read_parquet
from agrifm.vectors.reading import read_table

EXPECTED = "a table of samples: CSV, Parquet, GeoPackage or another vector file of points"
REPAIR = "save it again as CSV in UTF-8, with the names of the columns in the first line."
TEXT = (".csv", ".txt", ".tsv")
HEAD = 1 << 16  # characters in which the separator is looked for
SEPARATORS = ",;\t|"
MOST_LISTED = 12  # names in a sentence


def read_frame(path: Path) -> pandas.DataFrame:
    """Read a table; points of a vector file become the columns ``lon`` and ``lat``.

    Raises:
        InputError: If there is no such file, it cannot be read, or it has no rows.
    """
    size_of(path, expected=EXPECTED, repair="check the path.")
    if path.suffix.lower() in TEXT:
        frame = _read_text(path)
    elif is_parquet(path):
        with refusing(path, expected=EXPECTED, repair=REPAIR):
            table = read_parquet(path)
        frame = _with_places(table, path)
    else:
        frame = _with_places(read_table(path), path)
    frame.columns = [str(name).strip() for name in frame.columns]
    _refuse_repeated_names(frame, path)
    if frame.empty:
        raise InputError(
            path, found="no rows", expected="one row for each sample, or for each sample and date", repair=REPAIR
        )
    return frame.reset_index(drop=True)


def _read_text(path: Path) -> pandas.DataFrame:
    """Read CSV as text; numbers are converted where a column is known to hold numbers."""
    with refusing(path, expected=EXPECTED, repair=REPAIR):
        with path.open(encoding="utf-8-sig", newline="") as file:
            first_line = file.readline(HEAD)
        separator = max(SEPARATORS, key=first_line.count)
        if not first_line.strip():
            return pandas.DataFrame()
        return pandas.read_csv(
            path, sep=separator, dtype=str, encoding="utf-8-sig", skipinitialspace=True, quoting=csv.QUOTE_MINIMAL
        )


def _with_places(table: Any, path: Path) -> pandas.DataFrame:
    """Replace geometries by the columns ``lon`` and ``lat`` of a point inside each of them."""
    if not hasattr(table, "geometry"):
        return pandas.DataFrame(table)
    frame = pandas.DataFrame(table.drop(columns=table.geometry.name))
    if table.crs is None:
        raise InputError(
            path, found="geometries without a CRS", expected="a CRS such as EPSG:4326", repair="write it into the file."
        )
    with refusing(path, expected="geometries that can be projected to degrees"):
        points = table.geometry.representative_point().to_crs("EPSG:4326")
    is_empty = points.is_empty | points.isna()
    frame["lon"] = np.where(is_empty, np.nan, points.x)
    frame["lat"] = np.where(is_empty, np.nan, points.y)
    return frame


def _refuse_repeated_names(frame: pandas.DataFrame, path: Path) -> None:
    names = list(frame.columns)
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                path, found=f"two columns '{name}'", expected="columns of different names", repair="rename one of them."
            )


def listed(names: Sequence[str] | np.ndarray, most: int = MOST_LISTED) -> str:
    """Names in a sentence, of which the first few are shown."""
    if not len(names):
        return "(none)"
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(map(str, names[:most]))}{more}"
