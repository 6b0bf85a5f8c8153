"""Cells of a table as text and as numbers, whoever wrote the table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from agrifm.errors import InputError

BLANK = ("", "nan", "na", "n/a", "null", "none")  # in lower case


def texts(column: pd.Series) -> np.ndarray:
    """Values as text without surrounding spaces; empty where a value is missing. Whole numbers have no point."""
    if pd.api.types.is_float_dtype(column):
        is_whole = (column.dropna() % 1 == 0).all()
        column = column.astype("Int64") if is_whole else column
    return column.astype("string").fillna("").str.strip().to_numpy(dtype=object).astype(str)


def numbers(column: pd.Series, where: str, *, expected: str, repair: str) -> np.ndarray:
    """Values as float64; NaN where a value is missing.

    Args:
        column: Column of a table.
        where: Name of the column in messages.
        expected: What every cell should hold.
        repair: What to do about a cell that holds something else.

    Raises:
        InputError: If a value is text; names the first one and its row.
    """
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    text = texts(column)
    values = pd.to_numeric(pd.Series(text), errors="coerce")
    if values.isna().any():
        # Decimal commas, as spreadsheets of many countries write them.
        with_points = pd.Series(text).str.replace(",", ".", regex=False)
        values = values.fillna(pd.to_numeric(with_points, errors="coerce"))
    is_missing = np.isin(np.char.lower(text), BLANK)
    wrong = np.flatnonzero(values.isna().to_numpy() & ~is_missing)
    if len(wrong):
        row = int(wrong[0])
        more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise InputError(
            f"{where}, {row_name(row)}", found=f"the text '{text[row]}'{more}", expected=expected, repair=repair
        )
    return values.to_numpy(dtype=np.float64)


def row_name(row: int) -> str:
    """How errors name a row, counted from 1 without the line of the column names."""
    return f"row {row + 1}"
