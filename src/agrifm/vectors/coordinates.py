"""Coordinates in two columns of a table, and the CRS that the table states for them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from agrifm.errors import InputError
from agrifm.vectors.cells import BLANK, numbers, row_name
from agrifm.vectors.crs import known_crs

# Pairs of columns that hold longitude and latitude, the first of those that occur; TH and GPS are those of LUCAS.
GEOGRAPHIC = (
    ("lon", "lat"),
    ("longitude", "latitude"),
    ("long", "lat"),
    ("lng", "lat"),
    ("th_long", "th_lat"),
    ("gps_long", "gps_lat"),
)
PROJECTED = (("x", "y"), ("easting", "northing"))  # their CRS has to be given
HEMISPHERES = {"th_long": "th_ew", "gps_long": "gps_ew"}  # in early years of LUCAS, longitudes have no sign
WEST = ("w", "2", "2.0")
CRS_COLUMNS = ("crs", "epsg", "srid")
FULL_TURN = 360.0
EXPECTED = "coordinates as numbers"
REPAIR = "write decimal degrees such as 3.25, not degrees and minutes, or meters with --crs."


def find_pair(table: pd.DataFrame) -> tuple[Hashable, Hashable] | None:
    """Return the two columns of coordinates, if there are any."""
    by_name = {_plain(name): name for name in table.columns}
    for first, second in (*GEOGRAPHIC, *PROJECTED):
        if first in by_name and second in by_name:
            return by_name[first], by_name[second]
    return None


def is_geographic(pair: tuple[Hashable, Hashable]) -> bool:
    """Whether two columns hold longitude and latitude by their names."""
    return (_plain(pair[0]), _plain(pair[1])) in GEOGRAPHIC


def columns_of_places(table: pd.DataFrame) -> tuple[str, ...]:
    """Names of all columns that hold coordinates, a hemisphere or a CRS."""
    names = {*CRS_COLUMNS, *HEMISPHERES.values()}
    for pair in (*GEOGRAPHIC, *PROJECTED):
        names |= set(pair)
    return tuple(str(name) for name in table.columns if _plain(name) in names)


def coordinates(
    table: pd.DataFrame, pair: tuple[Hashable, Hashable], where: object
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both coordinates of all rows, and which rows have none.

    Raises:
        InputError: If a cell holds something else than a number.
    """
    x = numbers(table[pair[0]], f"{where}: {pair[0]}", expected=EXPECTED, repair=REPAIR)
    y = numbers(table[pair[1]], f"{where}: {pair[1]}", expected=EXPECTED, repair=REPAIR)
    return _signed(table, pair[0], x), y, ~(np.isfinite(x) & np.isfinite(y))


def crs_of_rows(table: pd.DataFrame, missing: np.ndarray, where: object) -> Any:
    """Return the one CRS that a table states, an array of names where rows differ, or None where nothing states it.

    Args:
        table: Table with coordinates.
        missing: Rows without coordinates, whose CRS does not matter.
        where: Name of the table in messages.

    Raises:
        InputError: If some rows have no CRS, or one that is not known.
    """
    column = _column(table, CRS_COLUMNS)
    if column is None:
        return None
    names = table[column].astype(str).str.strip().str.removesuffix(".0")
    blank = np.flatnonzero((table[column].isna() | names.str.lower().isin(BLANK)) & ~missing)
    if len(blank) == np.count_nonzero(~missing):
        return None
    if len(blank):
        raise InputError(
            f"{where}: {column}",
            found=f"nothing in {row_name(blank[0])}",
            expected="the CRS of every row, e.g. EPSG:32631",
            repair="fill the column, or give one CRS for all rows with --crs.",
        )
    names = names.to_numpy(object)
    kinds = sorted(set(names[~missing]))
    known = [known_crs(name, f"{where}: {column}") for name in kinds]
    return known[0] if len(known) == 1 else names


def check_degrees(where: object, pair: tuple[Hashable, Hashable], x: np.ndarray, y: np.ndarray) -> None:
    """Refuse coordinates that are no longitudes and latitudes; rows without coordinates are NaN.

    Raises:
        InputError: If there are some; it says whether they look like meters, or exchanged.
    """
    beyond = np.flatnonzero((np.abs(x) > FULL_TURN) | (np.abs(y) > 90))
    if not len(beyond):
        return
    row = beyond[0]
    found = f"{pair[0]} {x[row]:.10g} and {pair[1]} {y[row]:.10g} in {row_name(row)}, which are no degrees"
    repair = "correct this row."
    if (np.maximum(np.abs(x[beyond]), np.abs(y[beyond])) > FULL_TURN).all() and len(beyond) * 2 > len(x):
        found += "; the coordinates look like meters"
        repair = "state their CRS with --crs, e.g. --crs EPSG:32631."
    elif ((np.abs(x[beyond]) <= 90) & (np.abs(y[beyond]) <= 180)).all():
        found += "; longitude and latitude seem to be exchanged"
        repair = "exchange the two columns."
    raise InputError(
        where,
        found=found,
        expected="longitudes from -180 to 180 and latitudes from -90 to 90",
        repair=repair,
    )


def _plain(name: Hashable) -> str:
    """The name of a column without spaces around it, in lower case."""
    return str(name).strip().lower()


def _column(table: pd.DataFrame, wanted: Sequence[str]) -> Hashable | None:
    return next((name for name in table.columns if _plain(name) in wanted), None)


def _signed(table: pd.DataFrame, longitude: Hashable, values: np.ndarray) -> np.ndarray:
    """Make longitudes negative where another column of LUCAS says that they are west of Greenwich."""
    hemisphere = _column(table, [HEMISPHERES.get(_plain(longitude), "")])
    if hemisphere is None:
        return values
    west = table[hemisphere].astype(str).str.strip().str.lower().isin(WEST)
    return np.where(west, -np.abs(values), values)
