"""From YAML to an experiment. Errors name the key, with the nearest valid one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agrifm.config.experiment import TASK_KINDS, Experiment
from agrifm.config.migration import migrate, migrate_override
from agrifm.config.problems import explain
from agrifm.errors import InputError
from agrifm.yaml_text import load_yaml, read_yaml

DEEPEST_KEY = 20  # parts of the key of an override


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML.

    Args:
        path: Path of the file.
        overrides: Values that replace those of the file, each as ``section.key=value``.

    Raises:
        InputError: If the file is missing or is no YAML, or a key or value is wrong.
    """
    values = read_yaml(path, "an experiment in YAML")
    if not isinstance(values, Mapping):
        raise InputError(
            path,
            found="no keys",
            expected="an experiment: sections such as 'data:' and 'task:'",
            repair="name the right file, or start from the 'crops.yaml' that 'agrifm chips' writes.",
        )
    values = migrate(values, path)
    current_overrides = [migrate_override(text) for text in overrides]
    return parse(override(values, current_overrides), path)


def parse(values: Any, source: object = "experiment", *, warn: bool = True) -> Experiment:
    """Turn plain values into an experiment.

    Args:
        values: Values by section and key, with present or earlier names of keys.
        source: Where the values come from; named in errors.
        warn: Warn of earlier names of keys.

    Raises:
        InputError: If a key or value is wrong; names the key, what was found, what was expected and the repair.
    """
    values = migrate(values, source, warn=warn)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise explain(error, source, Experiment, tags=TASK_KINDS) from error


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
