"""Class tables: which code means which crop or cover, and which is part of which.

A table is a CSV or YAML file. It says by ``parent`` what is part of what, or by ``hcat`` what each code means in HCAT,
the crop taxonomy of EuroCrops (Schneider et al., Scientific Data 10, 2023), of which an extract is shipped. So tables
of different products share one hierarchy.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agrifm.errors import InputError, nearest, printable, refusing
from agrifm.yaml_text import load_yaml

SHIPPED = ("hcat", "worldcereal", "cdl", "rpg", "example")
COLUMNS = ("code", "name", "color", "parent", "hcat")
SEVERAL = "|"  # stands between meanings of which one holds
LONGEST_NAME = 200  # characters
LONGEST_NUMBER = 19  # digits, with which an integer of 64 bits is full
MOST_BITS = 600  # of a code that is a number
LARGEST = 1 << 24  # bytes of a table


class Row(NamedTuple):
    """A code of a table: where it stands, code, name, color, what it is part of, what it means in HCAT.

    ``number`` is how chips write it: the code, or the position in a list that has none.
    """

    where: str
    code: str
    name: str
    color: str = ""
    parent: str = ""
    hcat: str = ""
    number: int | None = None


@dataclass(frozen=True)
class Table:
    """Codes, and a tree of what they mean.

    Args:
        source: Source of the table, for messages.
        rows: Its codes.
        above: Above by name of a crop or cover, the name of what it is part of; empty at the top.
        crosswalk: Whether these names are those of HCAT.
        colors: Colors by these names; empty where none is given.
    """

    source: str
    rows: tuple[Row, ...]
    above: Mapping[str, str]
    crosswalk: bool
    colors: Mapping[str, str]

    @classmethod
    def read(cls, name: str | Path) -> Table:
        """Read a shipped table by its name, or a file.

        Raises:
            InputError: If it cannot be read, rows contradict each other, or name what is not there.
        """
        rows = read_rows(name)
        agree(rows)
        crosswalk = any(row.hcat for row in rows)
        nodes = read_rows("hcat") if crosswalk else rows
        tree = _digits(nodes) if crosswalk else _parents(nodes)
        table = cls(str(name), tuple(rows), tree, crosswalk, agree(nodes))
        for row in rows:
            for meaning in table.meanings(row):
                if meaning not in tree:
                    raise InputError(
                        row.where, found=f"hcat '{meaning}'", expected="a name of HCAT", repair=nearest(meaning, tree)
                    )
        return table

    @cached_property
    def below(self) -> dict[str, frozenset[str]]:
        """By name, the finest crops and covers that are part of it, or itself where there are none."""
        found: dict[str, set[str]] = {name: set() for name in self.above}
        for tip in set(self.above) - set(self.above.values()):
            name = tip
            while name:
                found[name].add(tip)
                name = self.above[name]
        return {name: frozenset(tips) for name, tips in found.items()}

    def meanings(self, row: Row) -> list[str]:
        """Names in the tree, of which one holds; none where a code says nothing."""
        if self.crosswalk:
            return row.hcat.split(SEVERAL) if row.hcat else []
        return [row.name]

    def tips(self, row: Row) -> frozenset[str]:
        """The finest crops and covers that a code leaves open."""
        return frozenset().union(*(self.below[name] for name in self.meanings(row)))

    def find(self, text: str) -> frozenset[str]:
        """The finest crops and covers that a name or code stands for.

        Raises:
            InputError: If there is none of that name, or the table's meaning is that of another name too.
        """
        wanted = _plain(text)
        same = [row for row in self.rows if wanted in (_plain(row.code), _plain(row.name))]
        if not same:
            named = {_plain(name): name for name in self.above}
            if wanted in named:
                return self.below[named[wanted]]
            valid = {row.name for row in self.rows} | {row.code for row in self.rows} | set(self.above)
            raise InputError(
                self.source, found=f"'{text}'", expected="a name or code of it", repair=nearest(text, valid)
            )
        tips = frozenset().union(*map(self.tips, same))
        first = next((row for row in self.rows if tips and self.tips(row) == tips), same[0] if tips else None)
        if first is None or first.name not in {row.name for row in same}:
            raise InputError(
                f"{self.source}: '{text}'",
                found="a code that says nothing" if first is None else f"the same meaning in HCAT as '{first.name}'",
                expected="a crop or cover of its own",
                repair=f"list the codes yourself: classes: [{{name: {text}, codes: [{same[0].code}]}}, ...]."
                if first is None
                else f"write '{first.name}', which holds both, or list classes with their codes.",
            )
        return tips


def _plain(text: str) -> str:
    return text.replace("_", " ").casefold().strip()


def _digits(rows: Iterable[Row]) -> dict[str, str]:
    """HCAT as a tree: two digits of a code for each level."""
    names = {row.code: row.name for row in rows if row.hcat == row.name}
    return {name: names.get(_shorter(code), "") for code, name in names.items()}


def _shorter(code: str) -> str:
    """The code one level up: its last two digits that are not 00 become 00."""
    pairs = [code[i : i + 2] for i in range(0, len(code), 2)]
    last = max((i for i, pair in enumerate(pairs) if pair != "00"), default=0)
    return "".join([*pairs[:last], "00", *pairs[last + 1 :]])


def _parents(rows: Iterable[Row]) -> dict[str, str]:
    """The tree that the column ``parent`` draws; it holds codes or names."""
    names = {row.code: row.name for row in rows} | {row.name: row.name for row in rows}
    above: dict[str, str] = {}
    for row in rows:
        if row.parent and row.parent not in names:
            repair = nearest(row.parent, names)
            raise InputError(row.where, found=f"parent '{row.parent}'", expected="a code or name", repair=repair)
        above[row.name] = names.get(row.parent, "") or above.get(row.name, "")
        above[row.name] = "" if above[row.name] == row.name else above[row.name]
    for row in rows:
        name, steps = row.name, 0
        while name := above[name]:
            steps += 1
            if steps > len(above):
                raise InputError(
                    row.where,
                    found=f"'{row.name}' as a part of itself",
                    expected="parents up to a class without one",
                    repair="leave out one 'parent' of the circle.",
                )
    return above


def agree(rows: Iterable[Row]) -> dict[str, str]:
    """The color of each name, in order.

    Raises:
        InputError: If a row is not complete, or two rows contradict each other.
    """
    colors: dict[str, str] = {}
    codes: dict[str, str] = {}
    for where, code, name, color, *_ in rows:
        if not name or not code:
            raise InputError(
                where,
                found=f"code '{code}' with the name '{name}'",
                expected="a code and a name",
                repair="complete it, or delete it: codes that are not listed are ignored.",
            )
        for known, new, what in ((codes.get(code), name, f"code {code}"), (colors.get(name), color, name)):
            if known and new and known != new:
                raise InputError(
                    where, found=f"{what} as {new}, before as {known}", expected="one of them", repair="delete one."
                )
        codes[code] = name
        colors[name] = colors.get(name) or color
    return colors


def read_rows(name: str | Path) -> list[Row]:
    """Rows of a shipped table, of a CSV with the columns ``COLUMNS``, or of a YAML list of ``{name, codes, ...}``.

    Raises:
        InputError: If the file is missing or a row cannot be used; it is named.
    """
    shipped = str(name) in SHIPPED
    path = files("agrifm.tasks").joinpath("tables", f"{name}.csv") if shipped else Path(name)
    text = _text(name, path)
    if str(path).endswith((".yaml", ".yml")):
        return list(_yaml_rows(str(name), text))
    with refusing(name, expected="a table as CSV", repair="save it again as CSV, e.g. from a spreadsheet."):
        return list(_csv_rows(str(name), text))


def _text(name: str | Path, path: Traversable) -> str:
    """The text of a table; spreadsheets also write UTF-16, with a mark at its beginning."""
    try:
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise OSError("no file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(
            name,
            found=str(error),
            expected=f"a class table in UTF-8, or one of {', '.join(SHIPPED)}",
            repair=nearest(str(name), SHIPPED)
            if not Path(name).suffix
            else "check the path; from a spreadsheet, save it as 'CSV UTF-8'.",
        ) from error
    if len(data) > LARGEST:
        raise InputError(
            name, found=f"more than {LARGEST:,} bytes", expected="a class table", repair="check the path of the table."
        )
    return text


def _csv_rows(source: str, text: str) -> Iterator[Row]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = lines[0]
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=first.count))
    columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
    for wanted in ("code", "name"):
        if wanted not in columns:
            raise InputError(
                source,
                found=f"columns {', '.join(columns) or '(none)'}",
                expected="code,name[,color][,parent][,hcat]",
                repair=f"write 'code,name,color' as first line; the column '{wanted}' is missing.",
            )
    for row in rows:
        where = f"{source}: line {rows.line_num}"
        *texts, hcat = [row.get(columns.get(key, "")) or "" for key in COLUMNS]
        code, *more = [clean_name(text, where) for text in texts]
        if any((code, *more, hcat.strip())):
            yield Row(where, code, *more, hcat=hcat.strip(), number=_number(code))


def _yaml_rows(source: str, text: str) -> Iterator[Row]:
    entries = load_yaml(text, source, "a class table in YAML")
    keys = ("name", "codes", *COLUMNS[2:])
    for position, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        where = f"{source}: entry {position + 1}"
        if not isinstance(entry, Mapping) or "name" not in entry:
            form = "- {name: wheat, color: '#e0b83e', codes: [110, 111]}"
            raise InputError(where, found=_shortly(entry), expected=form, repair="write a list of such entries.")
        for key in entry:
            if key not in keys:
                raise InputError(
                    where, found=f"key '{key}'"[:80], expected=", ".join(keys), repair=nearest(str(key)[:80], keys)
                )
        more = [_value(entry.get(key), where) for key in ("name", *COLUMNS[2:])]
        codes = entry.get("codes", entry["name"])
        for code in codes if isinstance(codes, list) else [codes]:
            as_text = _value(code, where)
            yield Row(where, as_text, *more, number=_number(as_text) if "codes" in entry else position)


def _value(value: Any, where: str) -> str:
    """A value of an entry as text; empty where there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        word = {True: "yes, on or true", False: "no, off or false"}[value]
        raise InputError(
            where,
            found=f"{word} without quotes, which YAML reads as a truth value",
            expected="a code or name",
            repair="put it into quotes, e.g. 'no'.",
        )
    if not isinstance(value, str | int | float | datetime.date):
        raise InputError(where, found=_shortly(value), expected="a code or name", repair="write text or a number.")
    return clean_name(as_code(value), where)


def _shortly(value: Any) -> str:
    """A value of YAML in a few words; anchors may make its text endless."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict | set | tuple) else repr(value)[:80]


def _number(code: str) -> int | None:
    """The number that a code is, as far as labels can hold it."""
    return int(code) if code.removeprefix("-").isdecimal() and len(code) < LONGEST_NUMBER else None


def as_code(value: Any) -> str:
    """A code as text, the way it is compared: 12 and 12.0 are the same."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, int) and value.bit_length() > MOST_BITS:  # Python refuses to write very long ones
        return f"a number of {value.bit_length()} bits"
    return str(value).strip()


def clean_name(text: str, where: object) -> str:
    """A code or name in one line, with single spaces.

    Raises:
        InputError: If it holds control characters, or is longer than any name.
    """
    name = " ".join(text.split())
    if len(name) > LONGEST_NAME or printable(name) != name:
        raise InputError(
            where,
            found=f"'{name[:80]}'" + (f"... ({len(name)} characters)" if len(name) > LONGEST_NAME else ""),
            expected=f"a code or name of at most {LONGEST_NAME} characters, without control characters",
            repair="shorten or retype it.",
        )
    return name
