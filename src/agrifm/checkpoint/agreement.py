"""Whether two models may be averaged: they read the same data and tell the same classes apart."""

from __future__ import annotations

from pathlib import Path

from agrifm.config import Experiment
from agrifm.errors import InputError


def refuse_other_data(first: Experiment, other: Experiment, path: Path | str) -> None:
    """Refuse to average models of different inputs or classes.

    Args:
        first: Experiment of the first model.
        other: Experiment of another model.
        path: File of the other model, for errors.

    Raises:
        InputError: If they differ; it names the first difference.
    """
    expected = _interface(first)
    found = _interface(other)
    for key, value in expected.items():
        if found[key] != value:
            raise InputError(
                f"--ensemble {path}: {key}",
                found=found[key],
                expected=f"{value}, as in the first checkpoint",
                repair="average only models that were trained for the same classes on the same kind of data.",
            )


def _interface(experiment: Experiment) -> dict[str, str]:
    """What a model reads and what its outputs mean."""
    sensors = [f"{s.name} ({', '.join(s.band_ids)}) x {s.scale:g}" for s in experiment.data.sensors]
    return {
        "classes": ", ".join(experiment.task.names),
        "sensors": "; ".join(sensors),
        "frames": str(experiment.data.frames),
        "resize": str(experiment.data.resize),
    }
