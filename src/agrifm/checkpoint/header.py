"""Entries in the header of a checkpoint, which is untrusted text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agrifm.config import Experiment, parse
from agrifm.errors import InputError, counted, refusing
from agrifm.tasks.calibration import Calibration
from agrifm.tensor_files import DAMAGED


def read_experiment(text: str, path: Path) -> Experiment:
    """Read an experiment from a header; its chips may not refer to other files, because no file grants itself that."""
    with refusing(f"{path}: experiment", expected="an experiment in JSON", repair=DAMAGED):
        values = json.loads(text)
    return parse(values, path, warn=False).with_links(False)


def read_entry(header: Mapping[str, str], key: str, kind: Any, default: Any, path: Path) -> Any:
    """Read an entry of a header, which is JSON of this type; return the default if there is none."""
    if key not in header:
        return default
    with refusing(f"{path}: {key}", expected="what 'agrifm train' writes there", repair=DAMAGED):
        return TypeAdapter(kind).validate_json(header[key])


def read_calibration(header: Mapping[str, str], experiment: Experiment, path: Path) -> Calibration | None:
    """Read the calibration, if there is one.

    Raises:
        InputError: If it gives no probabilities, or is of other classes.
    """
    calibration = read_entry(header, "calibration", Calibration | None, None, path)
    if calibration is None:
        return None
    numbers = (calibration.temperature, calibration.coverage, *calibration.thresholds)
    if not all(map(isfinite, numbers)) or calibration.temperature <= 0:
        raise damaged(f"{path}: calibration", "numbers that are no calibration", "finite ones, temperature above 0")
    count = len(experiment.task.names)
    if len(calibration.thresholds) != count:
        found = f"thresholds of {counted(len(calibration.thresholds), 'class', 'classes')}"
        raise damaged(f"{path}: calibration", found, f"those of the {count} classes of the model")
    return calibration


def damaged(where: str, found: str, expected: str) -> InputError:
    """Return the error of a file that was damaged or changed."""
    return InputError(where, found=found, expected=expected, repair=DAMAGED)
