"""Limits of the numbers in an experiment: numbers that are not finite or far out of range are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from pydantic import BaseModel

from agrifm.errors import InputError, counted
from agrifm.nn.swin import SwinSize
from agrifm.settings.problems import shown

INFINITY = math.inf
SHARE = (0.0, 1.0)
MOST_STAGES = 8
# Least and largest value by key, without positions in lists. Numbers that are not listed only have to be finite.
# The upper limits are far above any use; they keep a typing error, or a damaged file, from asking for all memory.
LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "data.sensors.gsd": (1e-3, 1e6),
    "data.frames": (1, 100_000),
    "data.footprint": (1e-3, 1e7),
    "data.resize": (1, 100_000),
    "data.shards.epoch_size": (1, 1e12),
    "data.shards.shuffle_window": (1, 1e9),
    "data.shards.sensor_sampling_weights": (0, 1e12),
    "augment.crop": (1, 1e6),
    "augment.drop_frames": SHARE,
    "augment.drop_sensors": SHARE,
    "augment.truncate": SHARE,
    "augment.noise": (0, 10),
    "augment.mask_frames": SHARE,
    "model.patch": (1, 64),
    "model.time_steps": (1, 10_000),
    "model.branch_steps": (1, 10_000),
    "model.size.width": (1, 8_192),
    "model.size.depths": (1, 200),
    "model.size.heads": (1, 8_192),
    "model.size.window": (1, 256),
    "model.size.mlp_ratio": (0.01, 64),
    "model.size.drop_path": (0, 0.99),
    "model.size.steps": (1, 16),
    "pixels.time_steps": (2, 1_000),
    "pixels.folds": (2, 100),
    "pixels.max_pixels": (20, 10_000_000),
    "task.loss.weight": (0, 1e9),
    "task.loss.class_weights": (0, 1e9),
    "task.loss.label_smoothing": (0, 1),
    "task.loss.gamma": (0, 100),
    "task.loss.smooth": (0, 1e9),
    "task.distance_weight": (0, 1e9),
    "task.edge_weight": (1, 1e9),
    "training.epochs": (1, 1e7),
    "training.batch_size": (1, 1e6),
    "training.accumulate_grad_batches": (1, 1e6),
    "training.devices": (1, 1_024),
    "training.nodes": (1, 100_000),
    "training.workers": (0, 1_024),
}
# Below these keys users choose names, such as those of sensors; all of their values have the limits of the key.
MAPPINGS = ("data.shards.sensor_sampling_weights", "data.resize")
UNLIMITED = ("data.sensors.nodata",)  # NaN marks missing pixels in many files


def refuse_nonsense(experiment: BaseModel) -> None:
    """Check every number of an experiment.

    Raises:
        InputError: If a number is outside its limits; names the key, and the least and largest value.
    """
    for place, value in _numbers(experiment, ""):
        key = re.sub(r"\.\d+", "", place)
        if key in UNLIMITED:
            continue
        low, high = LIMITS.get(_limited_key(key), (-INFINITY, INFINITY))
        # Comparisons, unlike math.isfinite, also hold for integers that are too large for a float.
        if low <= value <= high and abs(value) != INFINITY:
            continue
        span = f"a number from {low:g} to {high:g}" if high < INFINITY else "a finite number"
        raise InputError(place, found=shown(value), expected=span, repair="correct the value.")


def refuse_size(size: SwinSize) -> None:
    """Check that the numbers of a backbone fit together.

    Raises:
        InputError: If they do not; names the key.
    """
    stages = len(size.depths)
    if not 1 <= stages <= MOST_STAGES:
        raise _size_error("depths", counted(stages, "stage"), f"blocks of 1 to {MOST_STAGES} stages, e.g. [2, 2, 6, 2]")
    if len(size.steps) < stages - 1:
        raise _size_error("steps", counted(len(size.steps), "step"), f"one after each stage but the last: {stages - 1}")
    if size.heads is not None and len(size.heads) != stages:
        raise _size_error(
            "heads", f"heads of {len(size.heads)} stages", f"one number for each of {counted(stages, 'stage')}"
        )
    for width, heads in zip(size.widths, size.stage_heads, strict=True):
        if width % heads:
            found = f"{counted(heads, 'head')} for {counted(width, 'channel')}"
            raise _size_error("heads", found, "a number of heads that divides the channels")


def _size_error(key: str, found: str, expected: str) -> InputError:
    return InputError(f"model.size.{key}", found=found, expected=expected, repair="correct the value.")


def _limited_key(key: str) -> str:
    """Return the key whose limits apply."""
    for mapping in MAPPINGS:
        if key.startswith(f"{mapping}."):
            return mapping
    return key


def _numbers(value: object, place: str) -> Iterator[tuple[str, float]]:
    """Yield every number in a value with its place, ``section.key.position``."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield place, value
        return
    for name, inner in _parts(value):
        yield from _numbers(inner, f"{place}.{name}" if place else name)


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield what a value holds, by name or position."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield name, getattr(value, name)
    elif is_dataclass(value):
        for entry in fields(value):
            yield entry.name, getattr(value, entry.name)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name), inner
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield str(position), inner
