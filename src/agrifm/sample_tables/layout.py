"""Layouts of tables: one row for each sample and date (long), or one row for each sample (wide)."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from agrifm.data.chip_values import parse_days
from agrifm.errors import InputError, counted, refusing
from agrifm.io import size_of
from agrifm.sample_tables.bands import BandColumns, find_bands, is_band, unknown_bands
from agrifm.sample_tables.columns import Roles, TableOptions
from agrifm.sample_tables.reading import listed
from agrifm.vectors.cells import numbers, row_name, texts

DATE = r"(?:19|20)\d\d(?:-\d\d-\d\d|_\d\d_\d\d|\d{4}|-\d\d|_\d\d)"
AFTER = re.compile(rf"(?P<band>.*?[^\d])[_.\- ]?(?P<date>{DATE})|(?P<band2>.+?)[_.\- ](?P<date2>{DATE})")
# Earth Engine puts the id of the image before the band: 20180301T105021_20180301T105022_T31TEJ_B02, or
# LC08_198030_20180301_SR_B4.
SCENE_ID = r"(?:\d+_)*(?:L[A-Z]\d\d_\d{6}_)?"
REST_OF_ID = r"(?:T\d{6})?(?:_\d{8}T\d{6})?(?:_T\d\d[A-Z]{3})?"
BEFORE = re.compile(rf"{SCENE_ID}(?P<date>{DATE}){REST_OF_ID}[_.\- ](?P<band>.+)")
STEP_AFTER = re.compile(r"(?P<band>.+?)[_.\- ]?t?(?P<step>\d{1,3})")
STEP_BEFORE = re.compile(r"t?(?P<step>\d{1,3})[_.\- ](?P<band>.+)")
INTERVAL = re.compile(r"(\d{4}-\d\d-\d\d)/(\d{1,3})")
MIDDLE = 15  # day of a month that stands for the month


@dataclass(frozen=True)
class Observations:
    """Values of samples on dates, one row for each pair.

    Args:
        layout: A sentence about the layout that was found.
        bands: Bands of the values.
        sample: Number of the sample ``(m)``.
        days: Days since 1970-01-01 ``(m)``.
        values: Values ``(m, c)`` as the table has them; NaN in empty cells.
        sample_of_row: Number of the sample of each row of the table.
        first_row: Row in which each sample begins ``(n)``.
        unused: Columns, or bands of a wide table, that are not used.
    """

    layout: str
    bands: BandColumns
    sample: np.ndarray
    days: np.ndarray
    values: np.ndarray
    sample_of_row: np.ndarray
    first_row: np.ndarray
    unused: tuple[str, ...]


def read_observations(frame: pandas.DataFrame, roles: Roles, path: Path, options: TableOptions) -> Observations:
    """Recognize the layout, and read all values with their dates.

    Raises:
        InputError: If no column is a band, a date or a number cannot be read, or a sample has a date twice.
    """
    candidates = roles.others(list(frame.columns))
    wide = _dated_columns(candidates, options.bands)
    dates = {date for _, date in wide.values()}
    if len(dates) > 1 or (dates and roles.date is None):
        return _read_wide(frame, roles, path, options, wide)
    if roles.date is None:
        raise _no_dates(candidates, path)
    return _read_long(frame, roles, path, options)


def _no_dates(candidates: Sequence[str], path: Path) -> InputError:
    if not any(is_band(column) for column in candidates):
        return unknown_bands(candidates, path)
    return InputError(
        path,
        found=f"bands without dates; columns {listed(candidates)}",
        expected="a column 'date' and a row for each sample and date, or columns such as B04_2018-03-01",
        repair="name the column of the dates with --date-column.",
    )


def _read_long(frame: pandas.DataFrame, roles: Roles, path: Path, options: TableOptions) -> Observations:
    assert roles.date is not None
    if roles.id is None:
        raise InputError(
            path,
            found=f"dates in rows, but no column that names the sample; columns {listed(list(frame.columns))}",
            expected="a column 'id' that tells which rows belong together",
            repair="name it with --id-column.",
        )
    ids = texts(frame[roles.id])
    if (ids == "").any():
        row = int(np.flatnonzero(ids == "")[0])
        raise InputError(
            f"{path}: column '{roles.id}', {row_name(row)}",
            found="an empty cell",
            expected="the name of the sample",
            repair="fill it in, or delete the row.",
        )
    candidates = roles.others(list(frame.columns))
    bands = find_bands(candidates, path, options.sensor, options.bands)
    values = np.stack([_values(frame, column, path) for column in bands.columns], 1)
    days = read_days(texts(frame[roles.date]), f"{path}: column '{roles.date}'")
    _, first_row, sample = np.unique(ids, return_index=True, return_inverse=True)
    # Samples are numbered in the order of the table.
    rank = np.argsort(np.argsort(first_row))
    sample = rank[sample]
    _refuse_repeated(ids, sample, days, path)
    unused = [column for column in candidates if column not in bands.columns]
    layout = f"long: one row for each sample ('{roles.id}') and date ('{roles.date}')"
    return Observations(layout, bands, sample, days, values, sample, np.sort(first_row), tuple(unused))


def _values(frame: pandas.DataFrame, column: str, path: Path) -> np.ndarray:
    """The numbers of a column of a band."""
    return numbers(
        frame[column],
        f"{path}: column '{column}'",
        expected="a number, or an empty cell where there is no data",
        repair="correct the cell, or name the columns of the bands with --bands.",
    )


def _refuse_repeated(ids: np.ndarray, sample: np.ndarray, days: np.ndarray, path: Path) -> None:
    order = np.lexsort((days, sample))
    is_repeated = (np.diff(sample[order]) == 0) & (np.diff(days[order]) == 0)
    if is_repeated.any():
        first, second = np.sort(order[np.flatnonzero(is_repeated)[0] :][:2])
        date = dt.date(1970, 1, 1) + dt.timedelta(int(days[first]))
        raise InputError(
            path,
            found=f"sample {ids[first]} twice on {date}, in {row_name(first)} and {row_name(second)}",
            expected="one row for each sample and date",
            repair="keep one of the rows or their mean, or give samples of different places different names.",
        )


def read_days(text: np.ndarray, where: str) -> np.ndarray:
    """Read dates as days since 1970-01-01; a month stands for its 15th day.

    Raises:
        InputError: If one is no date; names its row.
    """
    unique, inverse = np.unique(text, return_inverse=True)
    days = np.zeros(len(unique), np.int64)
    for number, value in enumerate(unique):
        try:
            days[number] = parse_days(np.array([_as_date(value)]), where)[0]
        except InputError as error:
            row = int(np.flatnonzero(text == value)[0])
            raise InputError(
                f"{where}, {row_name(row)}",
                found=f"the text '{value}'",
                expected="a date such as 2018-03-01, from 1970 on",
                repair="write all dates in this form.",
            ) from error
    return days[inverse]


def _as_date(text: str) -> str:
    text = re.sub(r"^(\d{4})[/_.](\d\d)(?:[/_.](\d\d))?", _with_hyphens, text)
    return f"{text}-{MIDDLE}" if re.fullmatch(r"\d{4}-\d\d", text) else text


def _with_hyphens(match: re.Match[str]) -> str:
    return "-".join(part for part in match.groups() if part)


def _dated_columns(candidates: Sequence[str], bands: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Band and date, or band and number of a step, by column, for columns whose names hold both."""
    found = {}
    for column in candidates:
        match = BEFORE.fullmatch(column)
        if match:
            found[column] = (match["band"], match["date"])
            continue
        match = AFTER.fullmatch(column)
        if match:
            found[column] = (_tidy(match["band"] or match["band2"]), match["date"] or match["date2"])
    return found or _numbered_columns(candidates, bands)


def _tidy(band: str) -> str:
    return band.rstrip("_.- ")


def _numbered_columns(candidates: Sequence[str], bands: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Band and number of the step, by column. Without dates, only names of bands tell what a number means."""
    found: dict[str, tuple[str, str]] = {}
    for column in candidates:
        for pattern in (STEP_AFTER, STEP_BEFORE):
            match = pattern.fullmatch(column)
            if match and (is_band(match["band"]) or match["band"] in bands):
                found[column] = (match["band"], match["step"])
                break
    # Names of bands may end with a number, too: NIR_12 is a step among many, or the band at 1.2 micrometers.
    counts = Counter(band for band, _ in found.values())
    return {column: pair for column, pair in found.items() if counts[pair[0]] > 2 or not is_band(column)}


def _read_wide(
    frame: pandas.DataFrame,
    roles: Roles,
    path: Path,
    options: TableOptions,
    wide: dict[str, tuple[str, str]],
) -> Observations:
    names = list(dict.fromkeys(band for band, _ in wide.values()))
    bands = find_bands(names, path, options.sensor, options.bands)
    steps = list(dict.fromkeys(step for _, step in wide.values()))
    days, dated = _days_of_steps(steps, path, options.dates)
    column_of = {pair: column for column, pair in wide.items()}
    samples = len(frame)
    values = np.full((samples, len(steps), len(bands.columns)), np.nan)
    for i, step in enumerate(steps):
        for j, band in enumerate(bands.columns):
            column = column_of.get((band, step))
            if column is not None:
                values[:, i, j] = _values(frame, column, path)
    if len(np.unique(days)) < len(days) or len(column_of) < len(wide):
        raise InputError(
            path, found="two columns for one band and date", expected="one", repair="delete or rename one of them."
        )
    if roles.id is not None:
        _refuse_repeated_ids(texts(frame[roles.id]), roles.id, path)
    unused = [name for name in names if name not in bands.columns]
    unused += [column for column in roles.others(list(frame.columns)) if column not in wide]
    return Observations(
        f"wide: one row for each sample, {counted(len(steps), dated)} in the names of the columns",
        bands,
        np.repeat(np.arange(samples), len(steps)),
        np.tile(days, samples),
        values.reshape(samples * len(steps), len(bands.columns)),
        np.arange(samples),
        np.arange(samples),
        tuple(unused),
    )


def _refuse_repeated_ids(ids: np.ndarray, column: str, path: Path) -> None:
    unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
    if (counts > 1).any():
        number = int(np.flatnonzero(counts > 1)[0])
        raise InputError(
            f"{path}: column '{column}'",
            found=f"sample {unique[number] or '(empty)'} in {counts[number]} rows, first in {row_name(first[number])}",
            expected="one row for each sample",
            repair="give every sample a name of its own, or name another column with --id-column.",
        )


def _days_of_steps(steps: Sequence[str], path: Path, dates: str | None) -> tuple[np.ndarray, str]:
    """Days since 1970-01-01 of the dates or step numbers in the names of columns."""
    if not all(len(step) <= 3 for step in steps):
        return read_days(np.array(steps), f"{path}: names of columns"), "date"
    order = np.argsort([int(step) for step in steps], kind="stable")
    if dates is None:
        raise InputError(
            path,
            found=f"{counted(len(steps), 'step')} with numbers from {steps[order[0]]} to {steps[order[-1]]}, "
            "but no dates",
            expected="the date of each step",
            repair="give them with --dates FILE (one date a line), or --dates START/DAYS, e.g. 2018-01-01/16.",
        )
    listed = _listed_dates(dates, len(steps))
    if len(listed) != len(steps):
        raise InputError(
            f"--dates {dates}",
            found=counted(len(listed), "date"),
            expected=f"{len(steps)}, one for each step of the table",
            repair="list one date for each step, in order.",
        )
    days = np.zeros(len(steps), np.int64)
    days[order] = listed
    return days, "numbered step"


def _listed_dates(dates: str, steps: int) -> np.ndarray:
    """Days from a file with one date a line, from dates with commas, or from a first day and an interval."""
    interval = INTERVAL.fullmatch(dates)
    if interval:
        start = read_days(np.array([interval[1]]), f"--dates {dates}")[0]
        return start + int(interval[2]) * np.arange(steps)
    text = dates.replace(",", "\n")
    if "," not in dates and not re.fullmatch(DATE, dates):
        text = _text_of(Path(dates))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return read_days(np.array(lines), f"--dates {dates}")


def _text_of(path: Path) -> str:
    """Text of a small file."""
    expected = "a text file with one date a line, dates with commas, or START/DAYS"
    repair = "give the dates in one of these forms, e.g. --dates 2018-01-01/16."
    size_of(path, expected=expected, repair=repair)
    with refusing(path, expected=expected, repair=repair):
        return path.read_text(encoding="utf-8-sig")
