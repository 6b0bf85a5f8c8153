"""A short summary of a checkpoint."""

from __future__ import annotations

from typing import Any

from agrifm.checkpoint.checkpoint import Checkpoint
from agrifm.errors import counted
from agrifm.nn.model import ModelConfig
from agrifm.pixels.ensemble import PixelEnsemble


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a short summary; it says nothing about parts that the model does not have."""
    experiment = checkpoint.experiment
    facts: dict[str, Any] = {
        "name": experiment.name,
        "sensors": ", ".join(sensor.name for sensor in experiment.data.sensors),
        "classes": ", ".join(experiment.task.names),
    }
    if experiment.network:
        facts["epoch"] = checkpoint.epoch
        facts["model"] = _architecture(experiment.model)
        facts["weights"] = sum(tensor.numel() for tensor in checkpoint.weights.values())
    if checkpoint.pixels is not None:
        facts |= _classifiers(checkpoint.pixels, checkpoint.pixel_share)
    if checkpoint.edges is not None:
        facts["edges"] = f"{checkpoint.edges}: {checkpoint.pixel_share:.0%} of the boundary"
    if checkpoint.scores:
        facts["scores"] = _rounded(checkpoint.scores)
    if checkpoint.compared:
        facts["compared"] = _rounded(checkpoint.compared)
    if checkpoint.flips or checkpoint.others:
        count = 1 + len(checkpoint.others)
        flips = ", each in eight orientations" if checkpoint.flips else ""
        facts["averages"] = f"{counted(count, 'model')}{flips}"
    if checkpoint.calibration is not None:
        facts["calibration"] = str(checkpoint.calibration)
    if checkpoint.versions:
        facts["versions"] = checkpoint.versions
    return facts


def _classifiers(pixels: PixelEnsemble, share: float) -> dict[str, str]:
    """Share of the pixel classifiers, their members for each set of sensors, and the classes that they tell apart."""
    names = dict.fromkeys(member.name for member in pixels.members)
    members_of: dict[tuple[str, ...], list[str]] = {}
    for member in pixels.members:
        members_of.setdefault(member.sensors, []).append(member.name)
    lines = []
    for sensors, members in members_of.items():
        features = len(pixels.features.names(sensors))
        shown = " + ".join(dict.fromkeys(members))
        lines.append(f"{', '.join(sensors)}: {shown} on {counted(features, 'feature')}")
    known = len(pixels.known)
    return {
        "pixels": f"{', '.join(names)}: {share:.0%} of the probabilities",
        "pixel classifiers": "; ".join(lines),
        "pixel classes": f"{known} of {counted(pixels.classes, 'class', 'classes')} in training labels",
    }


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in scores.items()}


def _architecture(model: ModelConfig) -> str:
    pixel = f"series of single pixels at {counted(model.pixel_steps, 'date')}"
    if not model.has_pyramid:
        return pixel
    pyramid = f"{model.size}, patch {model.patch}, decoder {model.decoder}"
    return f"{pyramid}, and {pixel}" if model.has_pixel_branch else pyramid
