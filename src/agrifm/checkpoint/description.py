"""A short summary of a checkpoint."""

from __future__ import annotations

from typing import Any

from agrifm.checkpoint.checkpoint import Checkpoint
from agrifm.nn.model import ModelConfig


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a short summary."""
    experiment = checkpoint.experiment
    model = experiment.model
    facts: dict[str, Any] = {
        "name": experiment.name,
        "epoch": checkpoint.epoch,
        "sensors": ", ".join(sensor.name for sensor in experiment.data.sensors),
        "classes": ", ".join(experiment.task.names),
        "model": _architecture(model),
        "weights": sum(tensor.numel() for tensor in checkpoint.weights.values()),
        "scores": {key: round(value, 4) for key, value in checkpoint.scores.items()},
        "versions": checkpoint.versions,
    }
    if checkpoint.pixels is not None:
        names = dict.fromkeys(member.name for member in checkpoint.pixels.members)
        facts["pixels"] = f"{', '.join(names)}: {checkpoint.pixel_share:.0%} of the probabilities"
    if checkpoint.edges is not None:
        facts["edges"] = f"{checkpoint.edges}: {checkpoint.pixel_share:.0%} of the boundary"
    if checkpoint.compared:
        facts["compared"] = {key: round(value, 4) for key, value in checkpoint.compared.items()}
    if not experiment.network:
        del facts["model"]
    if checkpoint.flips or checkpoint.others:
        flips = ", each in eight orientations" if checkpoint.flips else ""
        facts["averages"] = f"{1 + len(checkpoint.others)} model(s){flips}"
    if checkpoint.calibration is not None:
        facts["calibration"] = str(checkpoint.calibration)
    return facts


def _architecture(model: ModelConfig) -> str:
    pixel = f"series of single pixels at {model.pixel_steps} dates"
    if not model.has_pyramid:
        return pixel
    pyramid = f"{model.size}, patch {model.patch}, decoder {model.decoder}"
    return f"{pyramid}, and {pixel}" if model.has_pixel_branch else pyramid
