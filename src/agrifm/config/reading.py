"""From YAML to an experiment; what is wrong is named by key, with the nearest valid one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agrifm.config.sections import KINDS, Experiment
from agrifm.errors import InputError, nearest


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML; ``overrides`` are ``section.key=value``.

    Raises:
        InputError: the file is missing, is no YAML, or a key or value is wrong.
    """
    if not path.is_file():
        raise InputError(path, found="no such file", expected="an experiment in YAML", repair="check the path.")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(path, found=str(error), expected="YAML", repair="mend the syntax at that line.") from error
    return parse(override(values, overrides), path)


def override(values: Any, overrides: Sequence[str]) -> Any:
    """Return the values with ``a.b=c`` applied; c is read as YAML."""
    for text in overrides:
        keys, found, value = text.partition("=")
        if not found or not isinstance(values, Mapping):
            raise InputError(text, found="no '='", expected="section.key=value", repair="write e.g. training.epochs=5.")
        values = _set(values, keys.split("."), yaml.safe_load(value))
    return values


def _set(values: Any, keys: list[str], value: Any) -> dict:
    inner = values if isinstance(values, Mapping) else {}
    below = value if len(keys) == 1 else _set(inner.get(keys[0]), keys[1:], value)
    return {**inner, keys[0]: below}


def parse(values: Any, source: object = "experiment") -> Experiment:
    """Turn plain values into an experiment.

    Raises:
        InputError: names the key, what was found, what was expected and the repair.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise _explain(error, source) from error


def _explain(error: ValidationError, source: object) -> InputError:
    problems = error.errors()
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden" and p["type"] != "unexpected_keyword_argument")
    location = [str(part) for part in problem["loc"] if part not in KINDS]
    where = f"{source}: {'.'.join(location) or '(top level)'}"
    if isinstance(known := problem.get("ctx", {}).get("error"), InputError):
        return InputError(f"{where}: {known.where}", found=known.found, expected=known.expected, repair=known.repair)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        valid = _siblings(location)
        return InputError(
            where, found="an unknown key", expected=f"one of {', '.join(valid)}", repair=nearest(location[-1], valid)
        )
    if problem["type"] == "missing":
        return InputError(where, found="nothing", expected="a value: this key is required", repair=f"add {where}.")
    repair = "correct the value."
    if len(problems) > 1:
        repair += f" ({len(problems) - 1} more problem(s) in this file)"
    return InputError(
        where, found=repr(problem["input"])[:80], expected=problem["msg"].removeprefix("Value error, "), repair=repair
    )


def _siblings(location: Sequence[str]) -> list[str]:
    """Valid keys beside the last part of a location, read from the JSON schema."""
    schema = Experiment.model_json_schema()
    nodes = _options(schema, schema)
    for part in location[:-1]:
        inner = [node.get("properties", {}).get(part, node.get("items", node)) for node in nodes]
        nodes = [option for node in inner for option in _options(schema, node)]
    return sorted({key for node in nodes for key in node.get("properties", {})})


def _options(schema: dict, node: dict) -> list[dict]:
    """What a node of the schema may be: itself, or each of its alternatives."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    alternatives = node.get("anyOf") or node.get("oneOf")
    return [option for each in alternatives for option in _options(schema, each)] if alternatives else [node]
