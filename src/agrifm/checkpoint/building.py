"""The network of an experiment."""

from __future__ import annotations

from agrifm.config import Experiment
from agrifm.nn.model import CropModel


def build(experiment: Experiment) -> CropModel:
    """Return a model for an experiment, with random weights.

    Raises:
        InputError: If a sensor has no statistics yet.
    """
    return CropModel(experiment.data.sensors, experiment.task.outputs, experiment.model, frames=experiment.data.frames)
