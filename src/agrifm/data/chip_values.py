"""Numbers and dates of chips, as the model takes them: nothing is wrapped, guessed or cut off in silence."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import torch
from torch import Tensor

from agrifm.errors import InputError

# A date with or without hyphens, and perhaps a time, which is left out: 2023-05-14, 20230514, 2023-05-14T10:50:31Z.
DATE = re.compile(r"(\d{4})(-?)(\d{2})\2(\d{2})([T ].*)?")
# No satellite saw the land before 1972 (Landsat 1); a date far ahead is a mistake.
FIRST, LAST = dt.date(1970, 1, 1), dt.date(2099, 12, 31)
_WIDER: dict[str, type] = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "float16": np.float32}
_LARGEST = np.iinfo(np.int64).max


def torch_numbers(values: np.ndarray, where: str) -> Tensor:
    """Numbers in a type in which torch can calculate and that holds all of them.

    Raises:
        InputError: a whole number is larger than any such type.
    """
    if values.dtype == np.uint64 and values.size and values.max() > _LARGEST:
        raise InputError(
            where,
            found=f"the number {values.max()}",
            expected=f"numbers up to {_LARGEST}",
            repair="write the values in a type with sign, e.g. int16 with -1 for unknown.",
        )
    kind = _WIDER.get(values.dtype.name, values.dtype)
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        kind = np.float64
    return torch.from_numpy(np.ascontiguousarray(values, dtype=kind))


def days_of(values: np.ndarray, where: str) -> np.ndarray:
    """Dates as text to days since 1970-01-01 ``(t)`` int64.

    Raises:
        InputError: they are no text, no dates, or of years without satellites.
    """
    if values.dtype.kind == "M":
        values = np.datetime_as_string(values.astype("datetime64[D]"))
    return np.array([_day(value, where) for value in values.tolist()], np.int64)


def _day(value: object, where: str) -> int:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    try:
        found = DATE.fullmatch(text.strip()) if isinstance(text, str) else None
        date = None if found is None else dt.date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:  # e.g. February 30
        date = None
    if date is None or not FIRST <= date <= LAST:
        raise InputError(
            where,
            found=f"the date {text!r}"[:200],
            expected=f"dates as text like 2023-05-14, from {FIRST} to {LAST}",
            repair="write the day of each frame as text in this form.",
        )
    return (date - FIRST).days


def check_days(days: Tensor, where: str) -> None:
    """Refuse days since 1970-01-01 of years without satellites.

    Raises:
        InputError: there are some.
    """
    wrong = (days < 0) | (days > (LAST - FIRST).days)
    if bool(wrong.any()):
        raise InputError(
            where,
            found=f"day {int(days[wrong][0])} since 1970-01-01",
            expected=f"days from {FIRST} to {LAST}",
            repair="give dates as text like 2023-05-14, or as days since 1970-01-01.",
        )


def chronological(days: np.ndarray) -> np.ndarray:
    """Numbers of the frames in the order of their days; frames of one day keep their order."""
    return days.argsort(kind="stable")
