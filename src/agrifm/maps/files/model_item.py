"""Description of the model of a product in a STAC item, by the extension for machine-learning models (MLM)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agrifm.checkpoint import Checkpoint
from agrifm.sensors import Sensor

MLM = "mlm/v1.4.0"
TASKS = ("similarity-search",)  # the task of the extension that comes closest to features for any later use
ARCHITECTURE = "Video Swin Transformer"
FRAMEWORK_VERSION = re.compile(r"\d+\.\d+\.\d+")


def model_properties(checkpoint: Checkpoint, sensors: Sequence[Sensor], features: int) -> dict[str, Any]:
    """Properties of an item whose pixels are features of a model.

    Args:
        checkpoint: The model.
        sensors: Sensors that were read.
        features: Number of features of a pixel.

    Source: STAC extension MLM 1.4.0.
    """
    name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", checkpoint.experiment.name).strip("-._")
    properties: dict[str, Any] = {
        "mlm:name": f"agrifm-{name or 'model'}",
        "mlm:architecture": ARCHITECTURE,
        "mlm:framework": "PyTorch",
        "mlm:tasks": list(TASKS),
        "mlm:total_parameters": sum(value.numel() for value in checkpoint.weights.values()),
        "mlm:input": [_input(sensor) for sensor in sensors],
        "mlm:output": [
            {
                "name": "embedding",
                "tasks": list(TASKS),
                "result": {
                    "shape": [-1, features, -1, -1],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": [],
                "post_processing_function": None,
            }
        ],
    }
    version = FRAMEWORK_VERSION.match(checkpoint.versions.get("torch", ""))
    if version is not None:
        properties["mlm:framework_version"] = version[0]
    return properties


def _input(sensor: Sensor) -> dict[str, Any]:
    """Series of one sensor, of any length and size."""
    entry: dict[str, Any] = {
        "name": sensor.name,
        "bands": list(sensor.band_ids),
        "input": {
            "shape": [-1, -1, len(sensor.bands), -1, -1],
            "dim_order": ["batch", "time", "channel", "height", "width"],
            "data_type": "float32",
        },
        "resize_type": None,
        "pre_processing_function": None,
    }
    if sensor.statistics is not None:
        scaling = []
        for mean, deviation in zip(sensor.statistics.mean, sensor.statistics.std, strict=True):
            scaling.append({"type": "z-score", "mean": mean, "stddev": deviation})
        entry["value_scaling"] = scaling
    return entry


def model_asset(sha256: str, sensors: Sequence[Sensor]) -> dict[str, Any]:
    """The checkpoint, named by its checksum: its path on this machine says nothing to others.

    Args:
        sha256: Checksum of the checkpoint.
        sensors: Sensors that were read.
    """
    bands = []
    for sensor in sensors:
        bands += [{"name": band} for band in sensor.band_ids]
    return {
        "href": f"urn:sha256:{sha256}",
        "type": "application/vnd.safetensors",
        "title": "checkpoint, by its sha256",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": "safetensors.torch.save_file",
        "bands": bands,
    }
