"""Computation of one tile: a model applied to overlapping windows, whose outputs are blended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agrifm.checkpoint import Checkpoint
from agrifm.data.transforms import resize
from agrifm.errors import InputError
from agrifm.maps.files.writer import NODATA
from agrifm.maps.windows import Windows
from agrifm.nn.memory import keep_freed_memory
from agrifm.nn.model import device_of
from agrifm.sample import Batch, collate
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area, Scene, Stack, Tile
from agrifm.tasks.calibration import Calibration
from agrifm.tasks.fields import LAYERS, Fields

BATCH = 4  # windows of a map in one forward pass
EXTRAS = ("probabilities", "confidence", "entropy", "observations", "sets")

ComputedTile = tuple[Area, dict[str, np.ndarray]]  # a tile and its layers

_BUILDING = Lock()  # threads of one process share the model of a job


@dataclass(frozen=True)
class TileJob(ABC):
    """Everything that decides the pixels of a product; it is sent to workers.

    Args:
        checkpoint: The model.
        scene: The scene, with the model's sensors only.
        windows: Windows in which the model is applied.
        device: ``auto`` takes a GPU if there is one; otherwise ``cpu``, ``cuda`` or ``cuda:1``.
    """

    checkpoint: Checkpoint
    scene: Scene
    windows: Windows
    device: str = "auto"

    batch: ClassVar[int]  # windows in one forward pass; rounding depends on it, so it is part of the result

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model, which every process builds for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_model"}

    @property
    def model(self) -> nn.Module:
        """The model on the device of this process."""
        with _BUILDING:
            return self._model

    @cached_property
    def _model(self) -> nn.Module:
        return self._build().to(own_device() if self.device == "auto" else self.device)

    def _build(self) -> nn.Module:
        """Build the model on the CPU."""
        return self.checkpoint.model()

    @property
    @abstractmethod
    def products(self) -> list[str]:
        """Names of what a tile holds, by which finished tiles are recognized."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of outputs of the model for each pixel."""

    @abstractmethod
    def make(self, tile: Area, data: Tile, threads: Executor) -> dict[str, np.ndarray]:
        """Compute a tile.

        Args:
            tile: Pixels of the product.
            data: Images under the windows over the tile.
            threads: Threads on which windows are computed.

        Returns:
            The products by name, and counts of pixels with impossible reflectance by date.

        Raises:
            InputError: If outputs of the model are not finite.
        """

    @abstractmethod
    def _predict(self, data: Tile, numbers: Sequence[tuple[int, int]]) -> np.ndarray:
        """Outputs ``(n, channels, window, window)`` of the model for some windows."""

    def read(self, tile: Area) -> Tile:
        """Read the images under all windows over a tile."""
        return self.scene.read(self.windows.reach(tile))

    def blend(self, tile: Area, data: Tile, threads: Executor) -> tuple[np.ndarray, np.ndarray]:
        """Add up the outputs of all windows over a tile that have a clear pixel, with the weights of the windows.

        Windows are computed in groups that follow from the tile alone, each on one thread, and added up in a fixed
        order, so that the numbers do not depend on the number of threads or processes.

        Returns:
            Sums ``(channels, h, w)``, and the sum of the weights ``(h, w)``, which is below 1 where a window has no
            clear pixel.
        """
        numbers = [number for number in self.windows.over(tile) if data.has_clear_pixels(self.windows.area(number))]
        groups = [numbers[i : i + self.batch] for i in range(0, len(numbers), self.batch)]
        total = np.zeros((self.channels, tile.height, tile.width), np.float32)
        weights = np.zeros((tile.height, tile.width), np.float32)
        outputs = threads.map(lambda group: self._predict(data, group), groups)
        for group, of_group in zip(groups, outputs, strict=True):
            for number, values in zip(group, of_group, strict=True):
                part = self.windows.part(number, tile)
                total[:, *part.in_tile] += part.weight * values[:, *part.in_window]
                weights[part.in_tile] += part.weight
        return total, weights

    def apply(
        self, data: Tile, numbers: Sequence[tuple[int, int]], outputs_of: Callable[[nn.Module, Batch], Tensor]
    ) -> np.ndarray:
        """Apply a function of the model and a batch to some windows, and return its outputs at full resolution."""
        areas = [self.windows.with_margin(number) for number in numbers]
        sizes = dict(self.checkpoint.experiment.data.resize)
        batch = collate([resize(cut_sample(data, area, str(area)), sizes) for area in areas])
        batch = batch.to(device_of(self.model))
        with torch.inference_mode():
            values = outputs_of(self.model, batch)
            size = (areas[0].height, areas[0].width)
            if values.shape[-2:] != size:
                values = F.interpolate(values, size, mode="bilinear")
        windows = [self.windows.area(number) for number in numbers]
        margin = self.windows.margin
        array = values.cpu().numpy()
        array = array[..., margin : margin + windows[0].height, margin : margin + windows[0].width]
        self.refuse_infinite(array, windows)
        return array

    def refuse_infinite(self, values: np.ndarray, areas: Sequence[Area]) -> None:
        """Refuse outputs that are not finite, of which ``argmax`` would make class 0.

        Raises:
            InputError: If there are any.
        """
        for area, part in zip(areas, values, strict=True):
            if not np.isfinite(part).all():
                raise InputError(
                    f"{self.scene.name}: the window at row {area.row}, column {area.column}",
                    found="outputs of the model that are infinite or not a number",
                    expected="finite numbers",
                    repair="inspect the images there with 'agrifm scene show', or use another checkpoint.",
                )


@dataclass(frozen=True)
class MapJob(TileJob):
    """A map of classes.

    Args:
        extras: Layers beside the classes.
    """

    extras: tuple[str, ...] = ()

    batch: ClassVar[int] = BATCH

    @property
    def products(self) -> list[str]:
        """The extras; the classes are part of every map."""
        return list(self.extras)

    @property
    def channels(self) -> int:
        """Number of classes and of layers of fields."""
        task = self.checkpoint.experiment.task
        return len(task.names) + (len(LAYERS) if isinstance(task, Fields) else 0)

    @property
    def pitch(self) -> int:
        """Pixels of the map from one of the model's largest patches, or of its single pixels, to the next."""
        strides = [1]
        for member in (self.checkpoint, *self.checkpoint.others):
            config = member.experiment.model
            if member.uses_network and config.has_pyramid:
                strides += config.swin.strides(config.patch)[-1][1:]
        return max(strides) * min(self.scene.factor(sensor) for sensor in self.scene.sensors)

    def make(self, tile: Area, data: Tile, threads: Executor) -> dict[str, np.ndarray]:
        """Compute ``classes (h, w)`` and the extras, all uint8; see :meth:`TileJob.make`."""
        observations = clear_dates(data, tile)
        classes = len(self.checkpoint.experiment.task.names)
        total, _ = self.blend(tile, data, threads)
        arrays = self._products(tile, total[:classes], observations)
        if "fields" in self.extras:
            seen = observations.any(0)
            arrays["fields"] = np.where(seen, _percent(total[classes:]), NODATA).astype(np.uint8)
        return arrays | impossible_counts(data, tile)

    def _predict(self, data: Tile, numbers: Sequence[tuple[int, int]]) -> np.ndarray:
        """Class probabilities of some windows, followed by the layers of fields."""
        return self.apply(data, numbers, self._probabilities)

    def _probabilities(self, model: nn.Module, batch: Batch) -> Tensor:
        task = self.checkpoint.experiment.task
        output = model(batch)
        values = task.probabilities(output)
        if isinstance(task, Fields):
            values = torch.cat([values, task.layers(output)], 1)
        return values

    def _products(self, tile: Area, probabilities: np.ndarray, observations: np.ndarray) -> dict[str, np.ndarray]:
        """The classes and the extras of a tile; pixels that no sensor saw are no data."""
        classes = probabilities.argmax(0).astype(np.uint8)
        calibration = self.checkpoint.calibration
        if calibration is not None:  # after the classes were chosen, so that no class changes
            probabilities = calibration.probabilities(probabilities)
            self.refuse_infinite(probabilities[None], [tile])
        arrays = {"classes": classes}
        if "probabilities" in self.extras:
            arrays["probabilities"] = _percent(probabilities)
        if "confidence" in self.extras:
            arrays["confidence"] = _percent(probabilities.max(0))
        if "entropy" in self.extras:
            arrays["entropy"] = _percent(_normalized_entropy(probabilities))
        if calibration is not None and "sets" in self.extras:
            arrays["sets"] = calibration.bands(probabilities)
        unseen = ~observations.any(0)
        for array in arrays.values():
            array[..., unseen] = NODATA
        if "observations" in self.extras:
            arrays["observations"] = observations
        return arrays


def calibration_for(checkpoint: Checkpoint, extras: Sequence[str]) -> Calibration | None:
    """Return the calibration of a checkpoint, if it has one.

    Raises:
        InputError: If it has none although prediction sets, which need it, are wanted.
    """
    if "sets" in extras and checkpoint.calibration is None:
        raise InputError(
            "--sets",
            found="a checkpoint that is not calibrated",
            expected="a calibrated one",
            repair="run 'agrifm calibrate CKPT' and use the file it writes.",
        )
    return checkpoint.calibration


def own_device() -> str:
    """Choose a GPU if there is one; the numbered dask workers of one machine take one each."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return "cpu"
    from distributed import get_worker

    try:
        return f"cuda:{int(get_worker().name) % gpus}"
    except ValueError:  # no worker, or one with a name, which got its GPU from the environment
        return "cuda"


def _normalized_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy ``(h, w)`` as a share of the largest possible."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(0)
    return entropy / np.log(max(2, len(probabilities)))


def _percent(share: np.ndarray) -> np.ndarray:
    return np.rint(100 * share.clip(0, 1)).astype(np.uint8)


def impossible_key(sensor: str) -> str:
    """Name under which a tile stores the counts of pixels with impossible reflectance of a sensor."""
    return f"impossible {sensor}"


def impossible_counts(data: Tile, tile: Area) -> dict[str, np.ndarray]:
    """Counts ``(t, 2)`` by sensor and date: pixels with impossible reflectance, and their sum with the clear ones."""
    counts = {}
    for name, stack in data.stacks.items():
        rows, columns = _under(stack, tile)
        impossible = stack.impossible[:, rows[:, None], columns].sum((1, 2))
        clear = stack.clear[:, rows[:, None], columns].sum((1, 2))
        counts[impossible_key(name)] = np.stack([impossible, impossible + clear], 1)
    return counts


def _under(stack: Stack, tile: Area) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of a sensor's pixel under each row and column of a tile."""
    rows = np.arange(tile.row, tile.row + tile.height) // stack.factor - stack.first[0]
    columns = np.arange(tile.column, tile.column + tile.width) // stack.factor - stack.first[1]
    return rows, columns


def clear_dates(data: Tile, tile: Area) -> np.ndarray:
    """Number of clear dates of each sensor ``(s, h, w)`` uint8, on the grid of the map."""
    counts = []
    for stack in data.stacks.values():
        total = stack.clear.sum(0).clip(0, NODATA - 1).astype(np.uint8)
        rows, columns = _under(stack, tile)
        counts.append(total[rows[:, None], columns])
    return np.stack(counts)


@contextmanager
def one_thread() -> Generator[None]:
    """Run every operation of torch on the calling thread, so that sums have the same order on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)
