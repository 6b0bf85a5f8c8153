"""Which classes a task has: chosen from a class table, so that one data set of coded labels serves many tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from agrifm.errors import InputError, nearest
from agrifm.tasks.class_table import Row, Table

OTHER = ("other", "#9a9a9a")


@dataclass(frozen=True)
class ClassChoice:
    """Classes chosen from a class table.

    Args:
        table: Name of a table that comes with the package, or path of a file.
        only: Names of the classes: one, a list, or parts by the name of the class that they make up. Every code that
            holds no other code is a class by default.
        other: Name of the class of everything that ``only`` does not name; null for none.
    """

    table: str
    only: str | list[str] | dict[str, str | list[str]] | None = None
    other: str | None = OTHER[0]


KEYS = tuple(entry.name for entry in fields(ClassChoice))
Tips = frozenset[str]


def chosen(task: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``task`` with ``classes: {table, only, other}`` spelled out.

    ``table`` is a shipped table or a file. ``only`` names the classes: one, a list, or parts under a name of one's own,
    ``{cropland: [arable_crops, permanent_crops_perennial]}``; left out, every code that holds no other code is a class.
    ``other`` is the class of all that was not named: ``other``, or null for none.

    A code stands for those of its parts that the table has codes for. Where all are of one class the code means it;
    where they are of some classes it means their group, and teaches that it is one of them; where they may be anything,
    or are of no class, its pixels do not count.

    Raises:
        InputError: If a name is not in the table, two classes overlap, or no code means a class.
    """
    choice = task["classes"]
    for key in choice:
        if key not in KEYS:
            raise InputError("task.classes", found=f"key '{key}'", expected=", ".join(KEYS), repair=nearest(key, KEYS))
    if "table" not in choice:
        repair = "add e.g. 'table: worldcereal', or list the classes."
        raise InputError("task.classes", found=f"{choice}", expected="a table to choose from", repair=repair)
    table = Table.read(choice["table"])
    rows = [row for row in table.rows if row.number is not None]
    finest = _finest(table, rows)
    wanted = _named(table, choice["only"]) if choice.get("only") else finest
    rest = choice.get("other", OTHER[0] if choice.get("only") else None)
    owner = _owners(wanted, table.source)
    owner = {tip: owner.get(tip, rest) for tips in finest.values() for tip in tips}
    means = {row: frozenset(owner[tip] for tip in table.tips(row) & owner.keys()) for row in rows}
    names = [rest] if rest is not None and {rest} in means.values() else []
    names += list(wanted)
    means = {row: found if found <= set(names) else frozenset() for row, found in means.items()}
    classes = [_entry(table, name, wanted.get(name, frozenset()), means) for name in names]
    groups, silent = _groups(table, names, means, owner, rest)
    more = {"groups": [*groups, *task.get("groups", ())], "unlabeled": [*silent, *task.get("unlabeled", ())]}
    return {**task, "classes": classes, **more}


def _named(table: Table, only: Any) -> dict[str, Tips]:
    """The finest crops and covers of each class that is asked for."""
    if isinstance(only, Mapping):
        asked = {str(name): parts if isinstance(parts, list) else [parts] for name, parts in only.items()}
    else:
        names = {row.code: row.name for row in table.rows}
        listed = [str(name) for name in (only if isinstance(only, list) else [only])]
        asked = {names.get(name, name).replace("_", " "): [name] for name in listed}
    return {name: frozenset().union(*(table.find(str(part)) for part in parts)) for name, parts in asked.items()}


def _finest(table: Table, rows: Iterable[Row]) -> dict[str, Tips]:
    """Every code that holds no other code; codes of one meaning share the first one's name."""
    names: dict[Tips, str] = {}
    for row in rows:
        names.setdefault(table.tips(row), row.name)
    return {name: tips for tips, name in names.items() if tips and not any(other and other < tips for other in names)}


def _owners(wanted: Mapping[str, Tips], source: str) -> dict[str, str]:
    owner: dict[str, str] = {}
    for name, tips in wanted.items():
        for tip in sorted(tips):
            if owner.setdefault(tip, name) != name:
                raise InputError(
                    f"task.classes of {source}",
                    found=f"'{tip}' in both {owner[tip]} and {name}",
                    expected="classes without common parts",
                    repair="leave one of them out; scores of what holds several classes are given anyway.",
                )
    return owner


def _entry(table: Table, name: str, tips: Tips, means: Mapping[Row, frozenset]) -> dict[str, Any]:
    """One class, with the numbers that mean it."""
    mine = [row for row, found in means.items() if found == {name}]
    if not mine:
        perhaps = [f"{row.number} {row.name}" for row, found in means.items() if name in found]
        raise InputError(
            f"{table.source}: {name}",
            found="no code that means it for sure" + (f"; it may be {', '.join(perhaps[:4])}" if perhaps else ""),
            expected="at least one",
            repair="name it as the table does, or choose what the codes tell apart.",
        )
    same = next((row for row in mine if table.tips(row) == tips), None)
    color = "" if tips else OTHER[1]
    if same is not None:
        color = same.color or table.colors[table.meanings(same)[0]]
    own = [node for node, below in table.below.items() if below == tips]
    hcat = own[-1] if own and table.crosswalk else None
    return {"name": name, "color": color, "codes": _numbers(mine), "hcat": hcat}


def _groups(
    table: Table, names: list[str], means: Mapping[Row, frozenset], owner: Mapping[str, str | None], rest: str | None
) -> tuple[list[dict[str, Any]], list[int]]:
    """Groups of classes: parts of the table's tree, and what codes leave open. Also the numbers that say nothing."""
    groups: dict[frozenset, dict[str, Any]] = {}
    for node, tips in table.below.items():
        found = frozenset(owner[tip] for tip in tips & owner.keys()) & frozenset(names)
        whole = all(tip in tips for tip, name in owner.items() if name in found)
        if rest not in found and whole and 1 < len(found) < len(names):
            groups[found] = {"name": node.replace("_", " "), "codes": []}
    silent = []
    for row, found in means.items():
        if not 0 < len(found) < len(names):
            silent.append(row)
        elif len(found) > 1:
            groups.setdefault(found, {"name": row.name, "codes": [], "scored": False})["codes"].append(row.number)
    ordered = [{**group, "classes": [name for name in names if name in found]} for found, group in groups.items()]
    return ordered, _numbers(silent)


def _numbers(rows: Iterable[Row]) -> list[int]:
    return sorted({row.number for row in rows if row.number is not None})
