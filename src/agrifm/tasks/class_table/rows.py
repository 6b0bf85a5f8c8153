"""Rows of a class table: CSV or YAML, shipped or of the user."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from agrifm.errors import InputError, nearest, refusing
from agrifm.tasks.class_table.values import _shown, clean_name, number_of, text_of
from agrifm.yaml_text import load_yaml

SHIPPED = ("hcat", "worldcereal", "cdl", "rpg", "example")
COLUMNS = ("code", "name", "color", "parent", "hcat")
LARGEST = 1 << 24  # bytes of a table


class Row(NamedTuple):
    """A code of a table.

    Args:
        where: Place in the file, for messages.
        code: Code as text.
        name: Name of the crop or cover.
        color: Color as ``#rrggbb``; may be empty, like all that follow.
        parent: Code or name of what it is part of.
        hcat: Meaning in HCAT; several possible ones are separated by ``|``.
        number: How chips write the code: the code itself, or the position in a list without codes.
        cover: Land cover, in shipped tables of land-cover products.
    """

    where: str
    code: str
    name: str
    color: str = ""
    parent: str = ""
    hcat: str = ""
    number: int | None = None
    cover: str = ""


def read_rows(name: str | Path, shipped: Collection[str] = SHIPPED) -> list[Row]:
    """Read the rows of a CSV with the columns ``COLUMNS``, or of a YAML list of ``{name, codes, ...}``.

    Args:
        name: Name of a shipped table, or path of a file.
        shipped: Names of the shipped tables that are accepted.

    Raises:
        InputError: If the file is missing or a row cannot be used; it is named.
    """
    is_shipped = str(name) in shipped
    path = files("agrifm.tasks").joinpath("tables", f"{name}.csv") if is_shipped else Path(name)
    text = _read_text(name, path)
    if str(path).endswith((".yaml", ".yml")):
        return list(_yaml_rows(str(name), text))
    with refusing(name, expected="a table as CSV", repair="save it again as CSV, e.g. from a spreadsheet."):
        return list(_csv_rows(str(name), text))


def _read_text(name: str | Path, path: Traversable) -> str:
    """Read the text of a table; spreadsheets also write UTF-16, with a byte-order mark."""
    try:
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise OSError("no file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except (OSError, ValueError) as error:
        repair = "check the path; from a spreadsheet, save it as 'CSV UTF-8'."
        if not Path(name).suffix:
            repair = nearest(str(name), SHIPPED)
        raise InputError(
            name,
            found=str(error),
            expected=f"a class table in UTF-8, or one of {', '.join(SHIPPED)}",
            repair=repair,
        ) from error
    if len(data) > LARGEST:
        raise InputError(
            name, found=f"more than {LARGEST:,} bytes", expected="a class table", repair="check the path of the table."
        )
    return text


def _csv_rows(source: str, text: str) -> Iterator[Row]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.DictReader(lines, delimiter=delimiter)
    columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
    for wanted in ("code", "name"):
        if wanted not in columns:
            raise InputError(
                source,
                found=f"columns {', '.join(columns) or '(none)'}",
                expected="code,name[,color][,parent][,hcat]",
                repair=f"write 'code,name,color' as first line; the column '{wanted}' is missing.",
            )
    for values in reader:
        where = f"{source}: line {reader.line_num}"
        cells = {key: values[name] or "" for key, name in columns.items()}
        code, name, color, parent = [clean_name(cells.get(key, ""), where) for key in COLUMNS[:4]]
        # A code may have many possible meanings, so that these are longer than any name.
        hcat = cells.get("hcat", "").strip()
        if code or name or color or parent or hcat:
            cover = cells.get("cover", "").strip()
            yield Row(where, code, name, color, parent, hcat, number_of(code), cover)


def _yaml_rows(source: str, text: str) -> Iterator[Row]:
    entries = load_yaml(text, source, "a class table in YAML")
    if not isinstance(entries, list):
        entries = [entries]
    keys = ("name", "codes", *COLUMNS[2:])
    for position, entry in enumerate(entries):
        where = f"{source}: entry {position + 1}"
        if not isinstance(entry, Mapping) or "name" not in entry:
            form = "- {name: wheat, color: '#e0b83e', codes: [110, 111]}"
            raise InputError(where, found=_shown(entry), expected=form, repair="write a list of such entries.")
        for key in entry:
            if key not in keys:
                raise InputError(
                    where, found=f"key '{key}'"[:80], expected=", ".join(keys), repair=nearest(str(key)[:80], keys)
                )
        name, color, parent, hcat = [text_of(entry.get(key), where) for key in ("name", *COLUMNS[2:])]
        codes = entry.get("codes", entry["name"])
        if not isinstance(codes, list):
            codes = [codes]
        for value in codes:
            code = text_of(value, where)
            number = number_of(code) if "codes" in entry else position
            yield Row(where, code, name, color, parent, hcat, number)
