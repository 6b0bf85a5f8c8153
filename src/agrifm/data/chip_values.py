"""Numbers and dates of chips in the types that models take. Nothing is wrapped, guessed or truncated silently."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import torch
from torch import Tensor

from agrifm.errors import InputError

# A date with or without hyphens. A time after it is ignored: 2023-05-14, 20230514, 2023-05-14T10:50:31Z.
DATE = re.compile(r"(\d{4})(-?)(\d{2})\2(\d{2})([T ].*)?")
# No satellite imaged the land before 1972 (Landsat 1); a date in the far future is a mistake.
FIRST = dt.date(1970, 1, 1)
LAST = dt.date(2099, 12, 31)
# Types in which torch cannot calculate, and the smallest type that holds all of their numbers.
WIDER_TYPES: dict[str, type] = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "float16": np.float32}
LARGEST_INT = np.iinfo(np.int64).max


def to_torch(values: np.ndarray, where: str) -> Tensor:
    """Convert numbers to a type in which torch can calculate and that holds all of them.

    Raises:
        InputError: If a whole number is larger than any such type.
    """
    if values.dtype == np.uint64 and values.size and values.max() > LARGEST_INT:
        raise InputError(
            where,
            found=f"the number {values.max()}",
            expected=f"numbers up to {LARGEST_INT}",
            repair="write the values in a signed type, e.g. int16 with -1 for unknown.",
        )
    dtype = WIDER_TYPES.get(values.dtype.name, values.dtype)
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        dtype = np.float64
    return torch.from_numpy(np.ascontiguousarray(values, dtype=dtype))


def parse_days(values: np.ndarray, where: str) -> np.ndarray:
    """Convert dates as text to days since 1970-01-01 ``(t)`` int64.

    Raises:
        InputError: If they are no text, no dates, or of years without satellites.
    """
    if values.dtype.kind == "M":
        values = np.datetime_as_string(values.astype("datetime64[D]"))
    return np.array([_parse_day(value, where) for value in values.tolist()], np.int64)


def _parse_day(value: object, where: str) -> int:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    date = _parse_date(text) if isinstance(text, str) else None
    if date is None or not FIRST <= date <= LAST:
        raise InputError(
            where,
            found=f"the date {text!r}"[:200],
            expected=f"dates as text like 2023-05-14, from {FIRST} to {LAST}",
            repair="write the day of each frame as text in this form.",
        )
    return (date - FIRST).days


def _parse_date(text: str) -> dt.date | None:
    match = DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return dt.date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:  # e.g. February 30
        return None


def check_days(days: Tensor, where: str) -> None:
    """Refuse days since 1970-01-01 of years without satellites.

    Raises:
        InputError: If there are any.
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
    """Return the numbers of the frames in the order of their days; frames of one day keep their order."""
    return days.argsort(kind="stable")
