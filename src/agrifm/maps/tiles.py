"""Tiles of a map: how one is computed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from agrifm.checkpoint import Checkpoint
from agrifm.data.transforms import resize
from agrifm.errors import InputError
from agrifm.maps.files.writer import NODATA
from agrifm.maps.windows import Windows
from agrifm.memory import keep_freed_memory
from agrifm.sample import collate
from agrifm.scenes.scene import Area, Scene, Stack, Tile
from agrifm.tasks.calibration import Calibration
from agrifm.tasks.fields import LAYERS, Fields

BATCH = 4  # windows in one pass; part of the result, as rounding depends on it
EXTRAS = ("probabilities", "confidence", "entropy", "observations", "sets")

ComputedTile = tuple[Area, dict[str, np.ndarray]]  # a tile and its layers

_BUILDING = Lock()  # threads that share a job share its model


@dataclass(frozen=True)
class MapJob:
    """Everything that decides the pixels of a map; it travels to workers.

    Args:
        checkpoint: the model.
        scene: with the model's sensors only.
        windows: where the model looks.
        extras: products beside the classes.
        device: ``auto`` takes a GPU where there is one; ``cpu``, ``cuda``, ``cuda:1``.
    """

    checkpoint: Checkpoint
    scene: Scene
    windows: Windows
    extras: tuple[str, ...] = ()
    device: str = "auto"

    def __getstate__(self) -> dict[str, Any]:
        """The model is built anew wherever the job arrives."""
        return {key: value for key, value in self.__dict__.items() if key != "_model"}

    @property
    def model(self) -> nn.Module:
        """The model, ready to run, on the device of this process."""
        with _BUILDING:
            return self._model

    @cached_property
    def _model(self) -> nn.Module:
        return self.checkpoint.model().to(own_device() if self.device == "auto" else self.device)

    @property
    def pitch(self) -> int:
        """Pixels of the map from one of the model's largest patches to the next."""
        config, factors = self.checkpoint.experiment.model, [self.scene.factor(s) for s in self.scene.sensors]
        return max(config.swin.strides(config.patch)[-1][1:]) * min(factors)

    def read(self, tile: Area) -> Tile:
        """Read what the windows over a tile look at."""
        return self.scene.read(self.windows.reach(tile))

    def make(self, tile: Area, data: Tile, threads: Executor) -> dict[str, np.ndarray]:
        """Compute a tile: ``classes (h, w)`` and the extras, all uint8, and what was left out as impossible, by date.

        Windows are computed in groups that follow from the tile alone and added up in a fixed order, each group on
        one thread, so that the numbers do not depend on how many threads or processes there are.
        """
        counts = _observations(data, tile)
        numbers = [number for number in self.windows.over(tile) if data.seen(self.windows.area(number))]
        groups = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
        task = self.checkpoint.experiment.task
        classes, layers = len(task.names), len(LAYERS) if isinstance(task, Fields) else 0
        total = np.zeros((classes + layers, tile.height, tile.width), np.float32)
        for group, chances in zip(groups, threads.map(lambda group: self._predict(data, group), groups), strict=True):
            for number, chance in zip(group, chances, strict=True):
                self._add(total, tile, number, chance)
        made = self._products(tile, total[:classes], counts)
        if "fields" in self.extras:
            made["fields"] = np.where(counts.any(0), _percent(total[classes:]), NODATA).astype(np.uint8)
        return made | _impossible(data, tile)

    def _predict(self, data: Tile, numbers: Sequence[tuple[int, int]]) -> np.ndarray:
        """Class probabilities ``(n, k, window, window)`` of some windows; of fields the layers come after them."""
        task = self.checkpoint.experiment.task
        areas = [self.windows.area(number) for number in numbers]
        sizes = dict(self.checkpoint.experiment.data.resize)
        batch = collate([resize(data.cut(area, name=str(area)), sizes) for area in areas])
        batch = batch.to(next(self.model.parameters()).device)
        with torch.inference_mode():
            output = self.model(batch)
            chances = task.probabilities(output)
            if isinstance(task, Fields):
                chances = torch.cat([chances, task.layers(output)], 1)
            if chances.shape[-2:] != (areas[0].height, areas[0].width):
                chances = F.interpolate(chances, (areas[0].height, areas[0].width), mode="bilinear")
        made = chances.cpu().numpy()
        self._refuse_infinite(made, areas)
        return made

    def _refuse_infinite(self, made: np.ndarray, areas: Sequence[Area]) -> None:
        """Refuse outputs that are no numbers: the largest of them would be class 0."""
        for area, part in zip(areas, made, strict=True):
            if not np.isfinite(part).all():
                raise InputError(
                    f"{self.scene.name}: the window at row {area.row}, column {area.column}",
                    found="outputs of the model that are infinite or not a number",
                    expected="finite numbers",
                    repair="look at the images of that place with 'agrifm scene show', or use another checkpoint.",
                )

    def _add(self, total: np.ndarray, tile: Area, number: tuple[int, int], chance: np.ndarray) -> None:
        area = self.windows.area(number)
        top, bottom = max(area.row, tile.row), min(area.row + area.height, tile.row + tile.height)
        left, right = max(area.column, tile.column), min(area.column + area.width, tile.column + tile.width)
        share = self.windows.rows.weight(number[0], top, bottom)[:, None]
        share = share * self.windows.columns.weight(number[1], left, right)
        part = chance[:, top - area.row : bottom - area.row, left - area.column : right - area.column]
        total[:, top - tile.row : bottom - tile.row, left - tile.column : right - tile.column] += share * part

    def _products(self, tile: Area, chances: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        unseen, classes = ~counts.any(0), chances.argmax(0).astype(np.uint8)
        calibration = self.checkpoint.calibration
        if calibration is not None:  # after blending: so no class changes
            chances = calibration.probabilities(chances)
            self._refuse_infinite(chances[None], [tile])
        entropy = -(chances * np.log(np.maximum(chances, 1e-12))).sum(0) / np.log(max(2, len(chances)))
        parts = {"probabilities": chances, "confidence": chances.max(0), "entropy": entropy}
        made = {"classes": classes} | {key: _percent(part) for key, part in parts.items() if key in self.extras}
        if calibration is not None and "sets" in self.extras:
            made["sets"] = calibration.bands(chances)
        for part in made.values():
            part[..., unseen] = NODATA
        return made | ({"observations": counts} if "observations" in self.extras else {})


def calibration_for(checkpoint: Checkpoint, extras: Sequence[str]) -> Calibration | None:
    """The checkpoint's calibration.

    Raises:
        InputError: it has none, and sets cannot be had without.
    """
    if "sets" in extras and checkpoint.calibration is None:
        raise InputError(
            "--sets",
            found="a checkpoint whose probabilities were never held against the truth",
            expected="a calibrated one",
            repair="run 'agrifm calibrate CKPT' and use the file it writes.",
        )
    return checkpoint.calibration


def own_device() -> str:
    """A GPU where there is one; dask workers of one machine, which are numbered, take one each."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return "cpu"
    from distributed import get_worker

    try:
        return f"cuda:{int(get_worker().name) % gpus}"
    except ValueError:  # no worker, or one with a name of its own, which was given its GPU by whoever started it
        return "cuda"


def _percent(share: np.ndarray) -> np.ndarray:
    return np.rint(100 * share.clip(0, 1)).astype(np.uint8)


def impossible_key(sensor: str) -> str:
    """Name under which the counts of ``_impossible`` are kept with a tile."""
    return f"impossible {sensor}"


def _impossible(data: Tile, tile: Area) -> dict[str, np.ndarray]:
    """By sensor and date ``(t, 2)``: pixels that no land reflects, and those with all clear ones, on the map's grid."""
    counts = {}
    for name, stack in data.stacks.items():
        rows, columns = _under(stack, tile)
        odd, clear = (mask[:, rows[:, None], columns].sum((1, 2)) for mask in (stack.impossible, stack.clear))
        counts[impossible_key(name)] = np.stack([odd, odd + clear], 1)
    return counts


def _under(stack: Stack, tile: Area) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a sensor's pixels under each of the map's pixels."""
    rows = np.arange(tile.row, tile.row + tile.height) // stack.factor - stack.first[0]
    columns = np.arange(tile.column, tile.column + tile.width) // stack.factor - stack.first[1]
    return rows, columns


def _observations(data: Tile, tile: Area) -> np.ndarray:
    """Number of clear dates per sensor ``(s, h, w)`` uint8, on the grid of the map."""
    counts = []
    for stack in data.stacks.values():
        total = stack.clear.sum(0).clip(0, NODATA - 1).astype(np.uint8)
        rows, columns = _under(stack, tile)
        counts.append(total[rows[:, None], columns])
    return np.stack(counts)


@contextmanager
def one_thread() -> Generator[None]:
    """Every operation of torch runs on the thread that calls it: sums then have one order, however many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)
