"""Description of the model of a product in a STAC item, by the extension for machine-learning models (MLM)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agrifm.checkpoint import Checkpoint
from agrifm.maps.files.legend import Legend
from agrifm.maps.files.stac_item import CLASSIFICATION, classes, schemas
from agrifm.sensors import Sensor

MLM = "mlm/v1.4.0"
FILE = "file/v2.1.0"
WORLD = (-180.0, -90.0, 180.0, 90.0)  # degrees west, south, east and north
TASKS = ("similarity-search",)  # the task of the extension that comes closest to features for any later use
MAP_TASKS = ("semantic-segmentation",)
ARCHITECTURE = "Video Swin Transformer"
CLASSIFIERS = "classifiers of single pixels"
FRAMEWORK_VERSION = re.compile(r"\d+\.\d+\.\d+")


def model_properties(checkpoint: Checkpoint, sensors: Sequence[Sensor], features: int) -> dict[str, Any]:
    """Properties of an item whose pixels are features of a model.

    Args:
        checkpoint: The model.
        sensors: Sensors that were read.
        features: Number of features of a pixel.

    Source: STAC extension MLM 1.4.0.
    """
    return _properties(checkpoint, sensors, ARCHITECTURE, _output("embedding", TASKS, features))


def model_item(checkpoint: Checkpoint, name: str, sha256: str, href: str) -> dict[str, Any]:
    """Create the STAC 1.1 item of a model of classes, for a catalog of models.

    A checkpoint does not say where its training data lay, so the item covers the whole world at any time.

    Args:
        checkpoint: The model.
        name: Id of the item.
        sha256: Checksum of the file of the checkpoint.
        href: Where that file lies, seen from the item.

    Source: STAC 1.1.0; extensions MLM 1.4.0, classification 2.0.0 and file 2.1.0.
    """
    data = checkpoint.experiment.data
    legend = Legend.of(checkpoint.experiment.task)
    architecture = ARCHITECTURE if checkpoint.uses_network else CLASSIFIERS
    output = _output("probabilities", MAP_TASKS, len(legend.labels))
    output["classification:classes"] = classes(legend)[:-1]  # without no data
    properties = {
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        **_properties(checkpoint, data.sensors, architecture, output),
    }
    west, south, east, north = WORLD
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    asset = model_asset(sha256, data.sensors)
    # A multihash: the code of SHA-256, the number of bytes, the checksum.
    asset |= {"href": href, "title": "checkpoint", "file:checksum": f"1220{sha256}"}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": schemas((MLM, CLASSIFICATION, FILE)),
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": list(WORLD),
        "properties": properties,
        "links": [],
        "assets": {"model": asset},
    }


def _properties(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], architecture: str, output: dict[str, Any]
) -> dict[str, Any]:
    name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", checkpoint.experiment.name).strip("-._")
    properties: dict[str, Any] = {
        "mlm:name": f"agrifm-{name or 'model'}",
        "mlm:architecture": architecture,
        "mlm:framework": "PyTorch",
        "mlm:tasks": output["tasks"],
    }
    if checkpoint.weights:
        properties["mlm:total_parameters"] = sum(value.numel() for value in checkpoint.weights.values())
    properties["mlm:input"] = [_input(sensor) for sensor in sensors]
    properties["mlm:output"] = [output]
    version = FRAMEWORK_VERSION.match(checkpoint.versions.get("torch", ""))
    if version is not None:
        properties["mlm:framework_version"] = version[0]
    return properties


def _output(name: str, tasks: Sequence[str], channels: int) -> dict[str, Any]:
    """Maps with some channels, of any size."""
    return {
        "name": name,
        "tasks": list(tasks),
        "result": {
            "shape": [-1, channels, -1, -1],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [],
        "post_processing_function": None,
    }


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
