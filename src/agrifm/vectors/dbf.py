"""The encoding of text in a Shapefile's table: what the bytes show, beside what the file states."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agrifm.errors import InputError

UTF8 = "utf-8"
MOST = 1 << 26  # bytes of the table that are looked at
CODE_PAGE = 29  # byte of the header that may name one
ASIAN = (0x13, 0x4D, 0x4E, 0x4F, 0x78, 0x79, 0x7A, 0x7B)  # code pages whose characters have two bytes


def text_encoding(path: Path) -> str | None:
    """The encoding to read the table of a Shapefile with; None leaves the choice to GDAL.

    Text in UTF-8 is told by its bytes: they can hardly be anything else. Many programs write it without saying so, and
    GDAL takes a table that says nothing for ISO-8859-1.

    Args:
        path: Path of the ``.shp`` file.

    Raises:
        InputError: If the ``.cpg`` file says UTF-8, and the text is not.
    """
    table = _beside(path, ".dbf")
    if table is None:
        return None
    stated, sidecar = _stated(path)
    try:
        texts = set(_texts(table))
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return None  # GDAL says what is wrong with it
    if not texts:
        return None
    if all(map(_is_utf8, texts)):
        return None if _several_bytes(stated) else UTF8
    if stated == UTF8:
        example = next(text for text in texts if not _is_utf8(text))
        raise InputError(
            sidecar,
            found=f"UTF-8, but the table holds {example[:40]!r}, which is no UTF-8",
            expected="the encoding that the table was written in",
            repair="write its name into that file, e.g. ISO-8859-1, or CP1252 for a table from Windows.",
        )
    return None


def _beside(path: Path, suffix: str) -> Path | None:
    places = (path.with_suffix(suffix), path.with_suffix(suffix.upper()))
    return next((place for place in places if place.is_file()), None)


def _stated(path: Path) -> tuple[str | None, Path | None]:
    """The encoding that the ``.cpg`` file or the table's header names, and the ``.cpg`` file."""
    sidecar = _beside(path, ".cpg")
    if sidecar is not None:
        name = sidecar.read_text(encoding="ascii", errors="replace").strip()
        number = re.search(r"\d+", name)
        for code in (name, f"cp{number[0]}") if number else (name,):
            try:
                return codecs.lookup(code).name, sidecar
            except (LookupError, ValueError):
                continue
        return None, sidecar
    table = _beside(path, ".dbf")
    with (table or path).open("rb") as file:
        header = file.read(CODE_PAGE + 1)
    return ("gbk" if len(header) > CODE_PAGE and header[CODE_PAGE] in ASIAN else None), None


def _several_bytes(encoding: str | None) -> bool:
    """Whether an encoding is one of those, other than UTF-8, that write characters with several bytes."""
    return encoding not in (None, UTF8) and not re.match(r"cp(437|7|8|125)|iso|latin|mac|koi|ascii", str(encoding))


def _is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8; the last character may be cut off by the width of the column."""
    try:
        codecs.getincrementaldecoder(UTF8)().decode(text, final=False)
    except UnicodeDecodeError:
        return False
    return True


def _texts(table: Path) -> Iterator[bytes]:
    """Names of columns and cells of text with other characters than those of ASCII."""
    with table.open("rb") as file:
        header = file.read(32)
        start, length = int.from_bytes(header[8:10], "little"), int.from_bytes(header[10:12], "little")
        fields = file.read(max(0, start - 32))
        body = file.read(MOST)
    columns = [fields[at : at + 32] for at in range(0, len(fields) - 31, 32)]
    rows = np.frombuffer(body[: len(body) // length * length], np.uint8).reshape(-1, length)
    first = 1  # a mark of deleted rows comes before the columns
    for column in columns:
        name, kind, width = column[:11].split(b"\0")[0], column[11:12], column[16]
        if not name.isascii():
            yield name
        cells = rows[:, first : first + width]
        first += width
        if kind == b"C" and (cells > 127).any():
            cells = cells[(cells > 127).any(1)]
            found = {bytes(row).split(b"\0")[0].rstrip() for row in np.unique(cells, axis=0)}
            yield from (text for text in found if not text.isascii())
