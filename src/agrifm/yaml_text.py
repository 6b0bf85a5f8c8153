"""YAML of unknown origin, read to plain values or refused, within limits of time and memory."""

from __future__ import annotations

import codecs
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agrifm.errors import InputError, reason, refusing

LARGEST = 1_000_000  # bytes; a written-out experiment has some 5,000
DEEPEST = 50
MOST_NODES = 200_000  # with every alias expanded, because readers of the values follow each of them
LONGEST_NUMBER = 100  # characters; Python converts long numbers slowly, or not at all

_STANDARD = "tag:yaml.org,2002:"
_PLAIN = {"null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge", "value"}
REPAIR = "correct the file."


def read_yaml(path: Path, expected: str = "YAML") -> Any:
    """Read the plain values of a YAML file.

    Args:
        path: Path of the file.
        expected: What the file should hold, e.g. ``an experiment in YAML``.

    Raises:
        InputError: If the file is missing, too large, or no YAML of plain values.
    """
    if not os.path.isfile(path):  # unlike the method of Path, it also accepts names that no file can have
        found = "a folder" if os.path.isdir(path) else "no such file"
        raise InputError(path, found=found, expected=expected, repair="check the path.")
    with refusing(path, expected=expected, repair="check the file and its permissions."), path.open("rb") as file:
        content = file.read(LARGEST + 1)  # one more, so that a large file is recognized without reading it all
    return load_yaml(content, path, expected)


def load_yaml(text: str | bytes, where: object, expected: str = "YAML") -> Any:
    """Read the plain values of a YAML text. Aliases are limited, keys may not repeat, and no object is built.

    Args:
        text: Text, or bytes in UTF-8 or in UTF-16 with a byte-order mark.
        where: Source of the text, for messages.
        expected: What the text should hold.

    Raises:
        InputError: If anything is wrong with the text.
    """
    if len(text) > LARGEST:
        raise _refusal(where, f"more than {LARGEST / 1e6:g} MB", expected, "shorten it, or name the right file.")
    try:
        loader = _Loader(_decoded(text, where, expected))
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, {})
        return loader.construct_document(node)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        raise _refusal(where, _describe(error), expected, "correct the syntax at that line.") from error
    except yaml.YAMLError as error:
        raise _refusal(where, str(error), expected, "correct the syntax.") from error
    except Exception as error:
        raise _refusal(where, f"a value that cannot be read: {reason(error)}", expected, REPAIR) from error


class _Loader(yaml.SafeLoader):
    """Builds plain values, down to a limited depth."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, f"more than {DEEPEST} levels inside each other", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _decoded(text: str | bytes, where: object, expected: str) -> str:
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    wide = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return text.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        found = f"bytes that are no UTF-8 text in line {line}"
        raise _refusal(where, found, expected, "save the file as UTF-8 text, or name the right file.") from error


def _check_node(node: Node, sizes: dict[int, int]) -> int:
    """Refuse values that are not plain or too many.

    Args:
        node: Node to check.
        sizes: Sizes of nodes that have been checked, by identity; 0 marks those that are being checked.

    Returns:
        Number of nodes in the node, with aliases expanded.
    """
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise _wrong(node, "a value that contains itself")
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    tag = node.tag.removeprefix(_STANDARD)
    if tag not in _PLAIN:
        raise _wrong(node, f"a value of type '{tag}', which is no plain value")
    is_number = isinstance(node, ScalarNode) and tag in ("int", "float")
    if is_number and len(node.value) > LONGEST_NUMBER:
        raise _wrong(node, f"a number of {len(node.value)} characters")
    for child in _children(node):
        size += _check_node(child, sizes)
        if size > MOST_NODES:
            raise _wrong(node, f"more than {MOST_NODES:,} values, aliases expanded")
    sizes[id(node)] = size
    return size


def _children(node: Node) -> list[Node]:
    """Return the nodes inside a node. Keys may not repeat."""
    if isinstance(node, SequenceNode):
        return node.value
    if not isinstance(node, MappingNode):
        return []
    names: set[Hashable] = set()
    children: list[Node] = []
    for key, value in node.value:
        if isinstance(key, ScalarNode):
            name = (key.tag, key.value)
            is_merge = key.tag == f"{_STANDARD}merge"  # '<<' may repeat
            if name in names and not is_merge:
                raise _wrong(key, f"the key '{key.value}' twice")
            names.add(name)
        children += [key, value]
    return children


def _wrong(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return ComposerError(None, None, problem, node.start_mark)


def _describe(error: yaml.MarkedYAMLError) -> str:
    """Return the problem with its line and column."""
    problem = str(error.problem or error.context or "a syntax error")
    mark = error.problem_mark or error.context_mark
    return problem if mark is None else f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def _refusal(where: object, found: str, expected: str, repair: str) -> InputError:
    return InputError(where, found=found, expected=expected, repair=repair)
