"""The experiment that trains on the chips of a scene, as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import ceil, gcd, lcm
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
    side = _crop(scene, chip)
    crop = "" if side is None else f"  crop: {side}\n"
    start = ""
    if all(_is_known(sensor) for sensor in scene.sensors):
        start = "start_from: agrifm-tiny    # weights that come along; without this line, random ones\n"
    return (
        f"# Crop types on the chips in {printable(out.as_posix())}. "
        "Train with 'agrifm train'; paths start where it is run.\n"
        f"name: {in_line(out.absolute().name or 'crops')}\nseed: 0\n{start}"
        f"data:\n  root: {in_line(out.as_posix())}\n  sensors: {sensors}\n"
        f"  statistics: data    # mean and deviation of the training chips, clouds left out\n"
        f"  cache: {'true' if is_small else 'false'}\n"
        f"task:\n  kind: segmentation\n  classes:\n{listed}"
        f"augment:\n  flips: true\n  rot90: true\n{crop}"
        f"  drop_frames: 0.3    # elsewhere clouds hide other dates\n"
        f"model:\n  size: tiny\n"
        f"training:\n  epochs: 50\n  batch_size: {min(4, chips['train'])}\n  learning_rate: 1.0e-3\n"
        f"  warmup: 0.1\n  workers: {0 if is_small else 2}\n"
    )


def _bytes(scene: Scene, chip: Area, chips: int) -> float:
    """Return the bytes of all images as 32-bit numbers."""
    values_per_pixel = 0.0
    for layer in scene.layers:
        values_per_pixel += len(layer.days) * len(layer.sensor.bands) / scene.factor(layer.sensor) ** 2
    return 4 * values_per_pixel * chip.height * chip.width * chips


def _crop(scene: Scene, chip: Area) -> int | None:
    """Return the side of the random square of training, None for whole chips.

    It is half a chip, at least 32 pixels, and a whole number of pixels of every sensor.
    """
    steps = [1]
    for sensor in scene.sensors:
        factor = scene.factor(sensor)
        for length in (chip.height, chip.width):
            sensor_pixels = max(1, round(length / factor))
            steps.append(length // gcd(length, sensor_pixels))
    step = lcm(*steps)
    smallest = min(chip.height, chip.width)
    side = ceil(max(32, smallest // 2) / step) * step
    return side if side < smallest else None


def _is_known(sensor: Sensor) -> bool:
    return SENSORS.get(sensor.name) == sensor


def _sensor(sensor: Sensor) -> Any:
    """Return the name of a known sensor, or all values of another one."""
    if _is_known(sensor):
        return sensor.name
    return TypeAdapter(Sensor).dump_python(sensor, mode="json", exclude_none=True)
