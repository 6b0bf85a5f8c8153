"""Calibrated probabilities as tensors."""

from __future__ import annotations

from torch import Tensor

from agrifm.nn.probabilities import LEAST_PROBABILITY
from agrifm.tasks.calibration import Calibration


def calibrated(probabilities: Tensor, calibration: Calibration | None) -> Tensor:
    """Return the probabilities at the temperature of the calibration, if there is one. Classes lie along axis 1."""
    if calibration is None:
        return probabilities
    logits = probabilities.clamp(min=LEAST_PROBABILITY).log() / calibration.temperature
    return logits.softmax(1)
