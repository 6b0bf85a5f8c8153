"""Which classes a task has: chosen from a class table, so that one data set of coded labels serves many tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from agrifm.errors import InputError, nearest
from agrifm.tasks.class_table import Row, Table

OTHER = "other"
OTHER_COLOR = "#9a9a9a"


@dataclass(frozen=True)
class ClassChoice:
    """Classes chosen from a class table.

    Args:
        table: Name of a table that comes with the package, or path of a file.
        only: Names of the classes: one, a list, or parts by the name of the class that they make up. By default, every
            code that includes no other code is a class.
        other: Name of the class of everything that ``only`` does not name; null for none.
    """

    table: str
    only: str | list[str] | dict[str, str | list[str]] | None = None
    other: str | None = OTHER


KEYS = tuple(entry.name for entry in fields(ClassChoice))
Leaves = frozenset[str]
ClassesOfRows = Mapping[Row, frozenset[str | None]]  # the classes that each code may mean


def chosen(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``task`` with ``classes: {table, only, other}`` replaced by a list of classes.

    ``table`` is a shipped table or a file. ``only`` names the classes: one, a list, or parts by the name of the class
    that they make up, ``{cropland: [arable_crops, permanent_crops_perennial]}``; without it, every code that includes
    no other code is a class. ``other`` is the class of everything that was not named: ``other``, or null for none.

    A code means those of its parts for which the table has codes. If all of them are of one class, the code means that
    class. If they are of some classes, it means their group and teaches that one of them is right. If they may be
    anything, or are of no class, its pixels do not count.

    Raises:
        InputError: If a name is not in the table, two classes overlap, or no code means a class.
    """
    choice = task["classes"]
    _check_keys(choice)
    table = Table.read(choice["table"])
    rows = [row for row in table.rows if row.number is not None]
    finest = _finest_classes(table, rows)
    wanted = finest
    other = choice.get("other")
    if choice.get("only"):
        wanted = _named_classes(table, choice["only"])
        other = choice.get("other", OTHER)

    # Each leaf for which the table has a code belongs to one class, to the class of all others, or to none.
    class_of_wanted = _class_of_leaf(wanted, table.source)
    class_of_leaf: dict[str, str | None] = {}
    for leaves in finest.values():
        for leaf in leaves:
            class_of_leaf[leaf] = class_of_wanted.get(leaf, other)

    classes_of_rows: dict[Row, frozenset[str | None]] = {}
    for row in rows:
        leaves = table.leaves_of(row) & class_of_leaf.keys()
        classes_of_rows[row] = frozenset(class_of_leaf[leaf] for leaf in leaves)
    names = list(wanted)
    if other is not None and {other} in classes_of_rows.values():
        names.insert(0, other)
    for row, classes in classes_of_rows.items():
        if not classes <= set(names):
            classes_of_rows[row] = frozenset()

    entries = [_entry(table, name, wanted.get(name, frozenset()), classes_of_rows) for name in names]
    groups = _groups_of_tree(table, names, class_of_leaf, other)
    unlabeled = _add_codes(groups, names, classes_of_rows)
    return {
        **task,
        "classes": entries,
        "groups": [*_in_order(groups, names), *task.get("groups", ())],
        "unlabeled": [*unlabeled, *task.get("unlabeled", ())],
    }


def _check_keys(choice: Mapping[str, Any]) -> None:
    for key in choice:
        if key not in KEYS:
            raise InputError("task.classes", found=f"key '{key}'", expected=", ".join(KEYS), repair=nearest(key, KEYS))
    if "table" not in choice:
        repair = "add e.g. 'table: worldcereal', or list the classes."
        raise InputError("task.classes", found=f"{choice}", expected="a table to choose from", repair=repair)


def _named_classes(table: Table, only: Any) -> dict[str, Leaves]:
    """Return the finest crops and covers of each class that ``only`` names."""
    parts_of_class: dict[str, list[Any]] = {}
    if isinstance(only, Mapping):
        for name, parts in only.items():
            parts_of_class[str(name)] = parts if isinstance(parts, list) else [parts]
    else:
        name_of_code = {row.code: row.name for row in table.rows}
        for name in only if isinstance(only, list) else [only]:
            class_name = name_of_code.get(str(name), str(name)).replace("_", " ")
            parts_of_class[class_name] = [name]
    classes: dict[str, Leaves] = {}
    for name, parts in parts_of_class.items():
        classes[name] = frozenset().union(*(table.find(str(part)) for part in parts))
    return classes


def _finest_classes(table: Table, rows: Iterable[Row]) -> dict[str, Leaves]:
    """Return the leaves of every code that includes no other code; codes of one meaning share the first one's name."""
    names: dict[Leaves, str] = {}
    for row in rows:
        names.setdefault(table.leaves_of(row), row.name)
    classes: dict[str, Leaves] = {}
    for leaves, name in names.items():
        includes_others = any(others and others < leaves for others in names)
        if leaves and not includes_others:
            classes[name] = leaves
    return classes


def _class_of_leaf(classes: Mapping[str, Leaves], source: str) -> dict[str, str]:
    class_of_leaf: dict[str, str] = {}
    for name, leaves in classes.items():
        for leaf in sorted(leaves):
            if class_of_leaf.setdefault(leaf, name) != name:
                raise InputError(
                    f"task.classes of {source}",
                    found=f"'{leaf}' in both {class_of_leaf[leaf]} and {name}",
                    expected="classes without common parts",
                    repair="leave one of them out; scores of groups of classes are given anyway.",
                )
    return class_of_leaf


def _entry(table: Table, name: str, leaves: Leaves, classes_of_rows: ClassesOfRows) -> dict[str, Any]:
    """Return one class with its codes; ``leaves`` are empty for the class of all others."""
    rows = [row for row, classes in classes_of_rows.items() if classes == {name}]
    if not rows:
        possible = [f"{row.number} {row.name}" for row, classes in classes_of_rows.items() if name in classes]
        listed = f"; it may be {', '.join(possible[:4])}" if possible else ""
        raise InputError(
            f"{table.source}: {name}",
            found=f"no code that always means it{listed}",
            expected="at least one",
            repair="use the name in the table, or choose classes that the codes distinguish.",
        )
    color = "" if leaves else OTHER_COLOR
    for row in rows:
        if table.leaves_of(row) == leaves:
            color = row.color or table.colors[table.meanings(row)[0]]
            break
    hcat = None
    if table.uses_hcat:
        for node, leaves_of_node in table.leaves.items():
            if leaves_of_node == leaves:
                hcat = node  # the last one is the finest
    return {"name": name, "color": color, "codes": _numbers(rows), "hcat": hcat}


Groups = dict[frozenset[str | None], dict[str, Any]]  # by their classes


def _groups_of_tree(
    table: Table, names: list[str], class_of_leaf: Mapping[str, str | None], other: str | None
) -> Groups:
    """Return the parts of the table's tree that consist of several whole classes, but not of all."""
    groups: Groups = {}
    for node, leaves in table.leaves.items():
        classes = {class_of_leaf[leaf] for leaf in leaves & class_of_leaf.keys()} & set(names)
        are_whole = all(leaf in leaves for leaf, name in class_of_leaf.items() if name in classes)
        if other not in classes and are_whole and 1 < len(classes) < len(names):
            groups[frozenset(classes)] = {"name": node.replace("_", " "), "codes": []}
    return groups


def _add_codes(groups: Groups, names: list[str], classes_of_rows: ClassesOfRows) -> list[int]:
    """Add the codes that may mean several classes to their groups, and return the codes that mean nothing."""
    unlabeled = []
    for row, classes in classes_of_rows.items():
        if not 0 < len(classes) < len(names):
            unlabeled.append(row)
        elif len(classes) > 1:
            group = groups.setdefault(classes, {"name": row.name, "codes": [], "scored": False})
            group["codes"].append(row.number)
    return _numbers(unlabeled)


def _in_order(groups: Groups, names: list[str]) -> list[dict[str, Any]]:
    """Return the groups with their classes in the order of ``names``."""
    ordered = []
    for classes, group in groups.items():
        ordered.append({**group, "classes": [name for name in names if name in classes]})
    return ordered


def _numbers(rows: Iterable[Row]) -> list[int]:
    return sorted({row.number for row in rows if row.number is not None})
