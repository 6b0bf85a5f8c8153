"""JSON of unknown origin, within limits of size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_FILE = 256 * 2**20  # bytes of one file


def read_file(path: Path) -> bytes:
    """Read a JSON file if it is a regular file of a sensible size.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is larger than ``MOST_FILE``, or a device.
    """
    if path.exists() and not path.is_file():
        raise ValueError("no plain file")
    if path.stat().st_size > MOST_FILE:
        raise ValueError(f"{path.stat().st_size:,} bytes; JSON files of up to {MOST_FILE:,} are read")
    return path.read_bytes()


def text_of(data: bytes) -> str:
    """Decode JSON: UTF-8 with or without a byte order mark, or UTF-16 or 32 with one.

    Raises:
        ValueError: If it is none of them.
    """
    return data.decode(json.detect_encoding(data))


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: If there is none, it is nested too deeply, or a number is too long.
    """
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"JSON that is no object: {str(value)[:80]}")
    return value
