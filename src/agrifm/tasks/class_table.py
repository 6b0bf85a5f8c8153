"""Class tables: which code means which crop or cover, and which is part of which.

A table is a CSV or YAML file. It says by ``parent`` what is part of what, or by ``hcat`` what each code means in HCAT,
the crop taxonomy of EuroCrops (Schneider et al., Scientific Data 10, 2023), of which an extract is shipped. So tables
of different products share one hierarchy. The column ``cover`` of shipped tables gives the land cover for pre-training.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
SEPARATOR = "|"  # between the possible meanings of one code
LONGEST_NAME = 200  # characters
LONGEST_NUMBER = 19  # digits; integers of 64 bits hold all shorter numbers
MOST_BITS = 600  # of a code that is a number
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


@dataclass(frozen=True)
class Table:
    """Codes, and a tree of what they mean.

    Args:
        source: Source of the table, for messages.
        rows: Codes of the table.
        parents: Name of what a crop or cover is part of, by its name; empty at the top.
        uses_hcat: Whether the names in the tree are those of HCAT.
        colors: Colors by these names; empty where none is given.
    """

    source: str
    rows: tuple[Row, ...]
    parents: Mapping[str, str]
    uses_hcat: bool
    colors: Mapping[str, str]

    @classmethod
    def read(cls, name: str | Path) -> Table:
        """Read a shipped table by its name, or a file.

        Raises:
            InputError: If it cannot be read, rows contradict each other, or a parent or meaning does not exist.
        """
        rows = read_rows(name)
        colors = checked_colors(rows)
        uses_hcat = any(row.hcat for row in rows)
        if uses_hcat:
            nodes = read_rows("hcat")
            tree = _hcat_tree(nodes)
            colors = checked_colors(nodes)
        else:
            tree = _parent_tree(rows)
        table = cls(str(name), tuple(rows), tree, uses_hcat, colors)
        for row in rows:
            for meaning in table.meanings(row):
                if meaning not in tree:
                    raise InputError(
                        row.where, found=f"hcat '{meaning}'", expected="a name of HCAT", repair=nearest(meaning, tree)
                    )
        return table

    @cached_property
    def leaves(self) -> dict[str, frozenset[str]]:
        """The finest crops and covers below each name of the tree; of a leaf, itself."""
        leaves_by_name: dict[str, set[str]] = {name: set() for name in self.parents}
        for leaf in set(self.parents) - set(self.parents.values()):
            name = leaf
            while name:
                leaves_by_name[name].add(leaf)
                name = self.parents[name]
        return {name: frozenset(leaves) for name, leaves in leaves_by_name.items()}

    def meanings(self, row: Row) -> list[str]:
        """Return the names in the tree of which one holds; none for a code without a meaning."""
        if self.uses_hcat:
            return row.hcat.split(SEPARATOR) if row.hcat else []
        return [row.name]

    def leaves_of(self, row: Row) -> frozenset[str]:
        """Return the finest crops and covers that a code may mean."""
        return _union(self.leaves[name] for name in self.meanings(row))

    def find(self, text: str) -> frozenset[str]:
        """Return the finest crops and covers that a name or code of the table means, or a name in its tree.

        Raises:
            InputError: If the name is unknown or has no meaning, or an earlier name has the same meaning.
        """
        wanted = _normalized(text)
        rows = [row for row in self.rows if wanted in (_normalized(row.code), _normalized(row.name))]
        if not rows:
            return self._leaves_of_node(text)
        leaves = _union(self.leaves_of(row) for row in rows)
        where = f"{self.source}: '{text}'"
        if not leaves:
            raise InputError(
                where,
                found="a code without a meaning",
                expected="a crop or cover of its own",
                repair=f"list the codes yourself: classes: [{{name: {text}, codes: [{rows[0].code}]}}, ...].",
            )
        same_meaning = [row.name for row in self.rows if self.leaves_of(row) == leaves]
        if same_meaning and same_meaning[0] not in {row.name for row in rows}:
            raise InputError(
                where,
                found=f"the same meaning in HCAT as '{same_meaning[0]}'",
                expected="a crop or cover of its own",
                repair=f"write '{same_meaning[0]}', which includes both, or list classes with their codes.",
            )
        return leaves

    def _leaves_of_node(self, text: str) -> frozenset[str]:
        nodes = {_normalized(name): name for name in self.parents}
        node = nodes.get(_normalized(text))
        if node is not None:
            return self.leaves[node]
        valid = {row.name for row in self.rows} | {row.code for row in self.rows} | set(self.parents)
        raise InputError(
            self.source, found=f"'{text}'", expected="a name or code of this table", repair=nearest(text, valid)
        )


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


def _normalized(text: str) -> str:
    return text.replace("_", " ").casefold().strip()


def _hcat_tree(rows: Iterable[Row]) -> dict[str, str]:
    """Return the name of the parent of each name in HCAT, whose codes have two digits for each level."""
    names = {row.code: row.name for row in rows if row.hcat == row.name}
    return {name: names.get(_parent_code(code), "") for code, name in names.items()}


def _parent_code(code: str) -> str:
    """Return the code one level up: its last two digits that are not 00 become 00."""
    pairs = [code[i : i + 2] for i in range(0, len(code), 2)]
    last = 0
    for i, pair in enumerate(pairs):
        if pair != "00":
            last = i
    pairs[last] = "00"
    return "".join(pairs)


def _parent_tree(rows: Sequence[Row]) -> dict[str, str]:
    """Return the name of the parent of each name, from the column ``parent`` with codes or names.

    Raises:
        InputError: If a parent does not exist, or something is a part of itself.
    """
    names = {row.code: row.name for row in rows} | {row.name: row.name for row in rows}
    parents: dict[str, str] = {}
    for row in rows:
        if row.parent and row.parent not in names:
            repair = nearest(row.parent, names)
            raise InputError(row.where, found=f"parent '{row.parent}'", expected="a code or name", repair=repair)
        # Of several rows of one name, the last one with a parent counts.
        parent = names.get(row.parent, "") or parents.get(row.name, "")
        parents[row.name] = "" if parent == row.name else parent
    for row in rows:
        name = parents[row.name]
        steps = 0
        while name:
            steps += 1
            if steps > len(parents):
                raise InputError(
                    row.where,
                    found=f"'{row.name}' as a part of itself",
                    expected="parents up to a class without one",
                    repair="leave out one 'parent' of the circle.",
                )
            name = parents[name]
    return parents


def checked_colors(rows: Iterable[Row]) -> dict[str, str]:
    """Return the color of each name, in the order of the names.

    Raises:
        InputError: If a row is not complete, or two rows contradict each other.
    """
    colors: dict[str, str] = {}
    names: dict[str, str] = {}
    for row in rows:
        if not row.name or not row.code:
            raise InputError(
                row.where,
                found=f"code '{row.code}' with the name '{row.name}'",
                expected="a code and a name",
                repair="complete it, or delete it: codes that are not listed are ignored.",
            )
        _check_same(row.where, f"code {row.code}", names.get(row.code), row.name)
        _check_same(row.where, row.name, colors.get(row.name), row.color)
        names[row.code] = row.name
        colors[row.name] = colors.get(row.name) or row.color
    return colors


def _check_same(where: str, what: str, known: str | None, new: str) -> None:
    if known and new and known != new:
        raise InputError(
            where, found=f"{what} as {new}, before as {known}", expected="one of them", repair="delete one."
        )


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
            yield Row(where, code, name, color, parent, hcat, _number(code), cover)


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
        name, color, parent, hcat = [_text_of(entry.get(key), where) for key in ("name", *COLUMNS[2:])]
        codes = entry.get("codes", entry["name"])
        if not isinstance(codes, list):
            codes = [codes]
        for value in codes:
            code = _text_of(value, where)
            number = _number(code) if "codes" in entry else position
            yield Row(where, code, name, color, parent, hcat, number)


def _text_of(value: Any, where: str) -> str:
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


def _number(code: str) -> int | None:
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
