"""Configurations that are Python files, as users of mmengine write them.

Such a file is a program, and **reading it runs it** with the rights of whoever reads it: open only files that you
would run. Supported are ``_base_`` (a path or a list of them, relative to the file), ``_delete_=True`` in a
dictionary that replaces its base instead of joining it, and overrides of the form ``a.b.0.c=value``.
"""

from __future__ import annotations

import ast
import runpy
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from agrifm.errors import InputError

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_CODE = ModuleType | FunctionType | BuiltinFunctionType | type


def read(path: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Run a file and return its variables.

    Args:
        path: The file; its ``_base_`` files are merged.
        options: Overrides ``a.b=c``.

    Raises:
        InputError: If the file is missing or fails (with its line), or an option does not fit.
    """
    values = merge({}, _run(path, ()))
    for option in options:
        values = merge(values, _nested(option), option)
    return values


def _run(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    """Run a file and its bases; ``parents`` are the files whose base it is."""
    if path.resolve() in parents:
        raise InputError(path, found="a file that is its own base", expected="no circle", repair="correct _base_.")
    values = _execute(path)
    bases = values.pop("_base_", ())
    base_values: dict[str, Any] = {}
    for name in [bases] if isinstance(bases, str) else bases:
        base = _run(path.parent / name, (*parents, path.resolve()))
        duplicates = sorted(set(base) & set(base_values))
        if duplicates:
            raise InputError(
                f"{path}: _base_",
                found=f"'{duplicates[0]}' in two base files",
                expected="each key in one base file",
                repair=f"delete it from {name} or from another.",
            )
        base_values |= base
    return merge(base_values, values)


def _execute(path: Path) -> dict[str, Any]:
    """Run one file. This executes the user's own program."""
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a configuration in Python", repair="check the path.")
    try:
        variables = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:  # a program may also end itself, even with exit code 0
        raise InputError(
            f"{path}:{_line(error, path)}",
            found=f"{type(error).__name__}: {error}",
            expected="a Python file that runs",
            repair="correct that line; imports of mmengine, mmseg and AgriFM are not needed, and not available.",
        ) from error
    values = {}
    for name, value in variables.items():
        if not name.startswith("__") and not isinstance(value, _CODE):
            values[name] = value
    return values


def _line(error: BaseException, path: Path) -> int:
    """Number of the line that failed."""
    if isinstance(error, SyntaxError):
        return error.lineno or 1
    line = 1
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            line = frame.lineno or 1
    return line


def merge(base: Any, child: Any, source: str = "_base_") -> Any:
    """Lay a child over its base; dictionaries join, everything else is replaced.

    A dictionary whose keys are numbers changes entries of a list.

    Raises:
        InputError: If a number lies beyond the list.
    """
    if isinstance(child, list | tuple):
        return [merge({}, entry, source) for entry in child]
    if not isinstance(child, Mapping):
        return child
    if isinstance(base, list | tuple) and child and all(str(key).isdigit() for key in child):
        return _merge_list(list(base), child, source)
    if child.get("_delete_") or not isinstance(base, Mapping):
        base = {}
    merged = dict(base)
    for key, value in child.items():
        if key != "_delete_":
            merged[key] = merge(base.get(key, {}), value, source)
    return merged


def _merge_list(entries: list[Any], child: Mapping[Any, Any], source: str) -> list[Any]:
    for key, value in child.items():
        if int(key) >= len(entries):
            raise InputError(
                source,
                found=f"entry {key} of a list with {len(entries)}",
                expected=f"0 to {len(entries) - 1}",
                repair="count from 0.",
            )
        entries[int(key)] = merge(entries[int(key)], value, source)
    return entries


def _nested(option: str) -> dict[str, Any]:
    """An override ``a.b=c`` as nested dictionaries."""
    keys, equals, text = option.partition("=")
    if not equals or not keys:
        raise InputError(option, found="no '='", expected="a.b=value", repair="write e.g. train_cfg.max_epochs=5.")
    value = parse_value(text)
    for key in reversed(keys.split(".")):
        value = {key: value}
    return value


def parse_value(text: str) -> Any:
    """Parse a Python literal, a bare word, or a list as ``[a,b]``, ``(a,b)`` or ``a,b``."""
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return _parse_words(text)
    return list(value) if isinstance(value, tuple) else value


def _parse_words(text: str) -> Any:
    """Parse bare words, which Python cannot evaluate."""
    has_brackets = (text[:1], text[-1:]) in (("[", "]"), ("(", ")"))
    parts = _split_at_commas(text[1:-1] if has_brackets else text)
    if len(parts) == 1 and not has_brackets:
        return text
    return [parse_value(part) for part in parts if part.strip()]


def _split_at_commas(text: str) -> list[str]:
    """Split a text at the commas that are not inside brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "[(":
            depth += 1
        elif character in "])":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
