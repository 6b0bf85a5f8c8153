"""Codes, and a tree of what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agrifm.errors import InputError, nearest
from agrifm.tasks.class_table.rows import Row, read_rows

SEPARATOR = "|"  # between the possible meanings of one code


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
