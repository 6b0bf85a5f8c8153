"""From YAML to an experiment. Errors name the key, with the nearest valid one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agrifm.config.experiment import TASK_KINDS, Experiment
from agrifm.config.migration import migrate, migrate_override
from agrifm.errors import InputError
from agrifm.settings.overrides import override
from agrifm.settings.problems import explain
from agrifm.yaml_text import read_yaml


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
