"""The experiment that trains on the chips of a scene, as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agrifm.chips.classes import in_line
from agrifm.errors import printable
from agrifm.scenes.scene import Area, Scene
from agrifm.sensors import SENSORS, Sensor
from agrifm.tasks.segmentation import CropClass

CACHE_BYTES = 1 << 30  # chips that need less than this stay in memory while training


def class_list(classes: Sequence[CropClass]) -> str:
    """Return classes as YAML, in the form of the section ``task.classes`` of an experiment."""
    lines = []
    for entry in classes:
        values = {key: value for key, value in asdict(entry).items() if value is not None}
        lines.append(f"- {in_line(values)}\n")
    return "".join(lines)


def experiment(scene: Scene, classes: Sequence[CropClass], out: Path, chip: Area, chips: dict[str, int]) -> str:
    """Return an experiment in YAML that trains a small model on the chips of a scene.

    Args:
        scene: Scene from which the chips were cut.
        classes: Classes of the labels.
        out: Folder of the chips.
        chip: Area of one chip.
        chips: Number of chips, by split.
    """
    is_small = _bytes(scene, chip, sum(chips.values())) < CACHE_BYTES
    listed = "".join(f"    {line}\n" for line in class_list(classes).splitlines())
    if any(entry.parent or entry.hcat for entry in classes):
        table = in_line((out / "classes.yaml").as_posix())
        listed = f"    table: {table}    # 'only: NAME' maps one class against the rest\n"
    sensors = in_line([_sensor(sensor) for sensor in scene.sensors])
    lines = [
        f"# Crop types on the chips in {printable(out.as_posix())}.",
        "# Train with 'agrifm train', or within minutes with 'agrifm train --quick'. Paths start where it is run.",
        f"name: {in_line(out.absolute().name or 'crops')}",
        "seed: 0",
        "data:",
        f"  root: {in_line(out.as_posix())}",
        f"  sensors: {sensors}",
        "  statistics: data    # mean and deviation of the training chips, clouds left out",
        f"  cache: {'true' if is_small else 'false'}",
        f"task:\n  kind: segmentation\n  classes:\n{listed}augment:",
        "  drop_frames: 0.3    # elsewhere clouds hide other dates",
        f"training:\n  learning_rate: 1.0e-3\n  warmup: 0.1\n  workers: {0 if is_small else 2}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _bytes(scene: Scene, chip: Area, chips: int) -> float:
    """Return the bytes of all images as 32-bit numbers."""
    values_per_pixel = 0.0
    for layer in scene.layers:
        values_per_pixel += len(layer.days) * len(layer.sensor.bands) / scene.factor(layer.sensor) ** 2
    return 4 * values_per_pixel * chip.height * chip.width * chips


def _sensor(sensor: Sensor) -> Any:
    """Return the name of a known sensor, or all values of another one."""
    if _is_known(sensor):
        return sensor.name
    return TypeAdapter(Sensor).dump_python(sensor, mode="json", exclude_none=True)


def _is_known(sensor: Sensor) -> bool:
    return SENSORS.get(sensor.name) == sensor
