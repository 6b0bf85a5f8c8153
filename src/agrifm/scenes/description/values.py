"""Values in a description as users write them: names, dates, lists and texts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agrifm.errors import nearest
from agrifm.scenes.naming.dates import parse_day
from agrifm.scenes.naming.patterns import normalized


def band_names(value: Any) -> Any:
    """Convert positions and band ids to text; YAML takes some of them for numbers."""
    if isinstance(value, Mapping):
        names = {_text(name): _text(band) for name, band in value.items()}
        bands = list(names.values())
        for band in bands:
            if bands.count(band) > 1:
                raise ValueError(f"each band once; {band} is given twice")
        return names
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_text(name) for name in value]
    return value


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return normalized(str(value))
    raise ValueError("names and band ids, such as {b1: B02}")


def no_boolean(value: Any) -> Any:
    """Refuse yes and no, which count as 1 and 0 in Python."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def as_day(value: Any) -> Any:
    """Parse numbers as dates of file names; pydantic would take them for seconds."""
    if value is None or isinstance(value, dt.date):
        return value
    if isinstance(value, str):
        return parse_day(value) or value
    day = None
    if isinstance(value, int) and not isinstance(value, bool):
        day = parse_day(str(value))
    if day is None:
        raise ValueError("a date such as 2018-03-01")
    return day


def date_names(value: Any) -> Any:
    """Convert dates as keys or entries to text; YAML turns them into dates."""
    if isinstance(value, Mapping):
        return {_date_name(name): entry for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_date_name(name) for name in value]
    return value


def _date_name(value: Any) -> str:
    return str(parse_day(str(value)) or value)


def as_list(value: Any) -> Any:
    """Return one path as a list of one."""
    return [value] if isinstance(value, str | Path) else value


def split_at_commas(value: Any) -> Any:
    """Return the parts of a text between commas."""
    return value.split(",") if isinstance(value, str) else value


def known_name(value: str | None, valid: Mapping[str, Any]) -> str | None:
    """Return a name as it is spelled among the valid ones, whatever its case."""
    if value is None:
        return None
    for name in valid:
        if name.lower() == value.lower():
            return name
    raise ValueError(nearest(value, valid))
