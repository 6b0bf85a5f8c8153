"""From YAML to an experiment; what is wrong is named by key, with the nearest valid one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agrifm.config.migration import migrate, migrate_override
from agrifm.config.problems import explain
from agrifm.config.sections import KINDS, Experiment
from agrifm.errors import InputError
from agrifm.yaml_text import load_yaml, read_yaml

DEEPEST_KEY = 20  # parts of the key of an override


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML; ``overrides`` are ``section.key=value``.

    Raises:
        InputError: the file is missing, is no YAML, or a key or value is wrong.
    """
    values = read_yaml(path, "an experiment in YAML")
    if not isinstance(values, Mapping):
        raise InputError(
            path,
            found="no keys",
            expected="an experiment: sections such as 'data:' and 'task:'",
            repair="name the right file, or start from configs/example.yaml.",
        )
    values = migrate(values, path)
    current_overrides = [migrate_override(text) for text in overrides]
    return parse(override(values, current_overrides), path)


def override(values: Any, overrides: Sequence[str], *, as_text: Collection[str] = ()) -> Any:
    """Return the values with ``a.b=c`` applied.

    Args:
        values: of the file.
        overrides: each ``section.key=value``; the value is read as YAML.
        as_text: keys whose values are text as it stands unless it is quoted, e.g. because they hold braces.

    Raises:
        InputError: an override has no ``=``, no key, or a value that is no YAML.
    """
    for text in overrides:
        key, found, value = text.partition("=")
        keys = key.strip().split(".")
        if not found or not all(keys) or len(keys) > DEEPEST_KEY or not isinstance(values, Mapping):
            raise InputError(
                f"--set {text}",
                found="no '='" if not found else f"the key '{key}'",
                expected="section.key=value",
                repair="write e.g. training.epochs=5.",
            )
        values = _set(values, keys, _value(value, text, as_text=key in as_text))
    return values


def _value(value: str, text: str, *, as_text: bool) -> Any:
    if as_text and not value.startswith(("'", '"')):
        return value
    return load_yaml(value, f"--set {text}", "a value in YAML; text that begins with [ or { stands in quotes")


def _set(values: Any, keys: list[str], value: Any) -> dict:
    inner = values if isinstance(values, Mapping) else {}
    below = value if len(keys) == 1 else _set(inner.get(keys[0]), keys[1:], value)
    return {**inner, keys[0]: below}


def parse(values: Any, source: object = "experiment", *, warn: bool = True) -> Experiment:
    """Turn plain values into an experiment.

    Raises:
        InputError: names the key, what was found, what was expected and the repair.
    """
    try:
        return Experiment.model_validate(migrate(values, source, warn=warn))
    except ValidationError as error:
        raise explain(error, source, valid_keys=_siblings, left_out=KINDS) from error


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
