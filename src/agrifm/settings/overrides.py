"""Single settings that replace those of a file: ``--set section.key=value``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agrifm.errors import InputError
from agrifm.yaml_text import load_yaml

DEEPEST_KEY = 20  # parts of the key of an override


def override(values: Any, overrides: Sequence[str], *, as_text: Collection[str] = ()) -> Any:
    """Return the values with overrides of the form ``a.b=c`` applied.

    Args:
        values: Values of a file.
        overrides: Overrides, each as ``section.key=value`` with a value in YAML.
        as_text: Keys whose unquoted values are taken literally, e.g. because they hold braces.

    Raises:
        InputError: If an override has no ``=``, no key, or a value that is no YAML.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        keys = key.strip().split(".")
        has_keys = all(keys) and len(keys) <= DEEPEST_KEY
        if not equals or not has_keys or not isinstance(values, Mapping):
            raise InputError(
                f"--set {text}",
                found=f"the key '{key}'" if equals else "no '='",
                expected="section.key=value",
                repair="write e.g. training.epochs=5.",
            )
        values = _with_value(values, keys, _parse_value(value, text, literal=key in as_text))
    return values


def _parse_value(value: str, text: str, *, literal: bool) -> Any:
    if literal and not value.startswith(("'", '"')):
        return value
    return load_yaml(value, f"--set {text}", "a value in YAML, with quotes around text that begins with [ or {")


def _with_value(values: Any, keys: Sequence[str], value: Any) -> dict:
    """Return a copy of nested mappings with a value set; other values on the way become mappings."""
    current = values if isinstance(values, Mapping) else {}
    key, *deeper_keys = keys
    if deeper_keys:
        value = _with_value(current.get(key), deeper_keys, value)
    return {**current, key: value}
