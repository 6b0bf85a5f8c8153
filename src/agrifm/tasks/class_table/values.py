"""Codes and names in a class table and in labels, as text and as numbers."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from agrifm.errors import InputError, printable

LONGEST_NAME = 200  # characters
LONGEST_NUMBER = 19  # digits; integers of 64 bits hold all shorter numbers
MOST_BITS = 600  # of a code that is a number


def text_of(value: Any, where: str) -> str:
    """Return a value of an entry as text; empty for no value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        words = "yes, on or true" if value else "no, off or false"
        raise InputError(
            where,
            found=f"{words} without quotes, which YAML reads as a truth value",
            expected="a code or name",
            repair="put it into quotes, e.g. 'no'.",
        )
    if not isinstance(value, str | int | float | datetime.date):
        raise InputError(where, found=_shown(value), expected="a code or name", repair="write text or a number.")
    return clean_name(as_code(value), where)


def _shown(value: Any) -> str:
    """Return a value of YAML in a few words; anchors may make its text endless."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict | set | tuple) else repr(value)[:80]


def number_of(code: str) -> int | None:
    """Return the number that a code is, if labels can hold it."""
    return int(code) if code.removeprefix("-").isdecimal() and len(code) < LONGEST_NUMBER else None


def as_code(value: Any) -> str:
    """Return a code as text, in the form in which codes are compared: 12 and 12.0 are the same."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, int) and value.bit_length() > MOST_BITS:  # Python refuses to write very long numbers
        return f"a number of {value.bit_length()} bits"
    return str(value).strip()


def clean_name(text: str, where: object) -> str:
    """Return a code or name in one line, with single spaces.

    Raises:
        InputError: If it contains control characters, or is longer than any name.
    """
    name = " ".join(text.split())
    if len(name) > LONGEST_NAME or printable(name) != name:
        length = f"... ({len(name)} characters)" if len(name) > LONGEST_NAME else ""
        raise InputError(
            where,
            found=f"'{name[:80]}'{length}",
            expected=f"a code or name of at most {LONGEST_NAME} characters, without control characters",
            repair="shorten or retype it.",
        )
    return name
