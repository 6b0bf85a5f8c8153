"""The experiment that trains on the chips of a scene, as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import gcd, lcm
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agrifm.chips.classes import in_line
from agrifm.errors import printable
from agrifm.scenes.scene import Area, Scene
from agrifm.sensors import SENSORS, Sensor
from agrifm.tasks.segmentation import CropClass

CACHE_BYTES = 1 << 30  # chips that need less than this may stay in memory while training


def class_list(classes: Sequence[CropClass]) -> str:
    """Classes as YAML, as the section ``task.classes`` of an experiment wants them."""
    rows = ({key: value for key, value in asdict(entry).items() if value is not None} for entry in classes)
    return "".join(f"- {in_line(row)}\n" for row in rows)


def experiment(scene: Scene, classes: Sequence[CropClass], out: Path, chip: Area, chips: dict[str, int]) -> str:
    """An experiment in YAML that trains a small model on the chips of a scene."""
    side = _crop(scene, chip)
    values = sum(len(layer.days) * len(layer.sensor.bands) / scene.factor(layer.sensor) ** 2 for layer in scene.layers)
    small = 4 * values * chip.height * chip.width * sum(chips.values()) < CACHE_BYTES
    listed = "".join(f"    {line}\n" for line in class_list(classes).splitlines())
    if any(entry.parent or entry.hcat for entry in classes):
        place = in_line((out / "classes.yaml").as_posix())
        listed = f"    table: {place}    # 'only: NAME' maps one class against the rest\n"
    sensors = in_line([_sensor(sensor) for sensor in scene.sensors])
    crop = f"  crop: {side}\n" if side else ""
    known = all(SENSORS.get(sensor.name) == sensor for sensor in scene.sensors)
    start = "start_from: agrifm-tiny    # weights that come along; without this line, random ones\n" if known else ""
    return (
        f"# Crop types on the chips in {printable(out.as_posix())}. "
        "Train with 'agrifm train'; paths start where it is run.\n"
        f"name: {in_line(out.absolute().name or 'crops')}\nseed: 0\n{start}"
        f"data:\n  root: {in_line(out.as_posix())}\n  sensors: {sensors}\n"
        f"  statistics: data    # mean and deviation of the training chips, clouds left out\n"
        f"  cache: {'true' if small else 'false'}\n"
        f"task:\n  kind: segmentation\n  classes:\n{listed}"
        f"augment:\n  flips: true\n  rot90: true\n{crop}"
        f"  drop_frames: 0.3    # elsewhere clouds hide other dates\n"
        f"model:\n  size: tiny\n"
        f"training:\n  epochs: 50\n  batch_size: {min(4, chips['train'])}\n  learning_rate: 1.0e-3\n"
        f"  warmup: 0.1\n  workers: {0 if small else 2}\n"
    )


def _crop(scene: Scene, chip: Area) -> int | None:
    """Side of the random square of training: half a chip, at least 32 pixels, whole pixels of every sensor."""
    steps = [1]
    for sensor in scene.sensors:
        factor = scene.factor(sensor)
        steps += [n // gcd(n, max(1, round(n / factor))) for n in (chip.height, chip.width)]
    step, smallest = lcm(*steps), min(chip.height, chip.width)
    side = -(-max(32, smallest // 2) // step) * step
    return side if side < smallest else None


def _sensor(sensor: Sensor) -> Any:
    known = SENSORS.get(sensor.name) == sensor
    return sensor.name if known else TypeAdapter(Sensor).dump_python(sensor, mode="json", exclude_none=True)
