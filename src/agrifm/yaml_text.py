"""YAML of unknown origin: plain values or one error, in little time and memory."""

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
MOST_NODES = 200_000  # with every alias written out, because what reads the values follows each of them
LONGEST_NUMBER = 100  # characters; Python converts long numbers slowly, or not at all

_STANDARD = "tag:yaml.org,2002:"
_PLAIN = {"null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge", "value"}
REPAIR = "correct the file."


def read_yaml(path: Path, expected: str = "YAML") -> Any:
    """Plain values of a YAML file.

    Args:
        path: of the file.
        expected: what the file should hold, e.g. ``an experiment in YAML``.

    Raises:
        InputError: the file is missing, too large, or no YAML of plain values.
    """
    if not os.path.isfile(path):  # unlike the method, it also answers for names that no file can have
        found = "a folder" if os.path.isdir(path) else "no such file"
        raise InputError(path, found=found, expected=expected, repair="check the path.")
    with refusing(path, expected=expected, repair="check the file and its permissions."), path.open("rb") as file:
        content = file.read(LARGEST + 1)  # one more, so that a large file is recognized without reading it all
    return load_yaml(content, path, expected)


def load_yaml(text: str | bytes, where: object, expected: str = "YAML") -> Any:
    """Plain values of a YAML text. Aliases are followed within limits; keys may not repeat; no object is built.

    Args:
        text: bytes are read as UTF-8, or as UTF-16 if they begin with its byte-order mark.
        where: the text comes from; named in errors.
        expected: what the text should hold.

    Raises:
        InputError: for everything that is wrong with the text.
    """
    if len(text) > LARGEST:
        raise _refusal(where, f"more than {LARGEST / 1e6:g} MB", expected, "shorten it, or name the right file.")
    try:
        loader = _Loader(_decoded(text, where, expected))
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        raise _refusal(where, _marked(error), expected, "correct the syntax at that line.") from error
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


def _check(node: Node, sizes: dict[int, int]) -> int:
    """Refuse what is not plain or too much; returns how many nodes there are with aliases written out.

    Args:
        node: to look at.
        sizes: of nodes that were looked at before, by identity; 0 marks those that are being looked at.
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
    if isinstance(node, ScalarNode) and tag in ("int", "float") and len(node.value) > LONGEST_NUMBER:
        raise _wrong(node, f"a number of {len(node.value)} characters")
    for child in _children(node):
        size += _check(child, sizes)
        if size > MOST_NODES:
            raise _wrong(node, f"more than {MOST_NODES:,} values, aliases written out")
    sizes[id(node)] = size
    return size


def _children(node: Node) -> list[Node]:
    """The nodes inside a node; keys may not repeat."""
    if isinstance(node, SequenceNode):
        return node.value
    if not isinstance(node, MappingNode):
        return []
    seen: set[Hashable] = set()
    children: list[Node] = []
    for key, value in node.value:
        name = (key.tag, key.value) if isinstance(key, ScalarNode) else None
        if name in seen and key.tag != f"{_STANDARD}merge":
            raise _wrong(key, f"the key '{key.value}' twice")
        if name is not None:
            seen.add(name)
        children += [key, value]
    return children


def _wrong(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return ComposerError(None, None, problem, node.start_mark)


def _marked(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context or "a syntax error")
    mark = error.problem_mark or error.context_mark
    return problem if mark is None else f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def _refusal(where: object, found: str, expected: str, repair: str) -> InputError:
    return InputError(where, found=found, expected=expected, repair=repair)
