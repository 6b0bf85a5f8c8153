"""Chips as the viewer shows them: where they lie, what is labeled, their pictures and series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agrifm.chips.classes import IGNORE
from agrifm.chips.spatial_split import SPLITS
from agrifm.config import Experiment
from agrifm.config import load as load_experiment
from agrifm.data.folder import ChipFolder
from agrifm.data.hdf5 import open_chip
from agrifm.errors import InputError, printable
from agrifm.scenes.frame_pixels import FramePixels
from agrifm.scenes.quicklook import TRUE_COLOR, composite_bands, stretch_limits, stretched
from agrifm.sensors import SENSORS, Sensor
from agrifm.tasks.segmentation import PALETTE, Segmentation, rgb
from agrifm.viewer.chip import Chip, class_series, days_of, opaque, reflectance
from agrifm.viewer.images import ndvi_of

EXPERIMENT = "crops.yaml"  # beside the lists of chips that were cut from a scene


@dataclass(frozen=True)
class ChipSet:
    """Chips of all splits of a data set.

    Args:
        title: Name of the data set.
        splits: Chips by split.
        task: Says what the labels mean; None if no experiment states it, and every number is a class.
    """

    title: str
    splits: dict[str, ChipFolder]
    task: Segmentation | None

    @classmethod
    def open(cls, folder: Path) -> ChipSet:
        """Open a folder with ``h5_samples`` and ``data_lists``; what its labels mean is read from ``crops.yaml``.

        Raises:
            InputError: If lists or chips are missing, or no known sensor is in them.
        """
        file = folder / EXPERIMENT
        if file.is_file():
            experiment = load_experiment(file)
            # The paths in it start where training is run, which may be elsewhere.
            return cls.of(experiment.model_copy(update={"data": experiment.data.model_copy(update={"root": folder})}))
        splits = {}
        for split in SPLITS:
            list_file = folder / "data_lists" / f"{split}.txt"
            if list_file.is_file():
                splits[split] = ChipFolder.from_list(folder / "h5_samples", list_file, (), allow_missing=True)
        _refuse_empty(folder, splits)
        sensors = _sensors_of(splits)
        folders = {}
        for split, chips in splits.items():
            folders[split] = ChipFolder(chips.folder, chips.names, sensors, allow_missing=True)
        return cls(printable(folder.absolute().name), folders, None)

    @classmethod
    def of(cls, experiment: Experiment) -> ChipSet:
        """Open the chips of an experiment.

        Raises:
            InputError: If it learns from other data than chips, or lists or chips are missing.
        """
        data = experiment.data
        if data.shards is not None or data.dataset is not None:
            raise InputError(
                f"experiment {experiment.name}",
                found="shards or a data set of its own",
                expected="a folder of chips",
                repair="view the run without its data.",
            )
        splits = {split: data.split(split) for split in SPLITS if data.list_file(split).is_file()}
        _refuse_empty(data.root, splits)
        task = experiment.task if isinstance(experiment.task, Segmentation) else None
        return cls(printable(data.root.absolute().name), splits, task)

    @cached_property
    def chips(self) -> tuple[Chip, ...]:
        """All chips, split by split."""
        found = []
        for split, folder in self.splits.items():
            found += [Chip(folder, index, split) for index in range(len(folder))]
        return tuple(found)

    @cached_property
    def contents(self) -> dict[str, Any]:
        """Where each chip lies and how many pixels of each class it has, for the page; every chip is read once.

        A chip that cannot be read has the reason in place of these.
        """
        labels: list[np.ndarray | None] = []
        listed: list[dict[str, Any]] = []
        for chip in self.chips:
            entry: dict[str, Any] = {"name": printable(chip.name), "split": chip.split, "footprint": None, "pixels": {}}
            label = None
            try:
                entry["footprint"] = chip.footprint()
                label = self.classes_of(chip.label())
            except InputError as error:
                entry["problem"] = error.sentence
            labels.append(label)
            listed.append(entry)
        names, colors = self._classes(labels)
        for entry, label in zip(listed, labels, strict=True):
            if label is not None:
                counts = np.bincount(label[label >= 0].ravel(), minlength=len(names))
                entry["pixels"] = {name: int(count) for name, count in zip(names, counts, strict=True) if count}
        classes = [{"name": name, "color": color} for name, color in zip(names, colors, strict=True)]
        return {"title": self.title, "classes": classes, "splits": list(self.splits), "chips": listed}

    def _classes(self, labels: Sequence[np.ndarray | None]) -> tuple[list[str], list[str]]:
        """Names and colors of the classes: those of the task, or the numbers that occur."""
        if self.task is not None:
            return [printable(name) for name in self.task.names], list(self.task.colors)
        highest = max((int(label.max(initial=-1)) for label in labels if label is not None), default=-1)
        names = [f"class {number}" for number in range(highest + 1)]
        return names, [PALETTE[number % len(PALETTE)] for number in range(highest + 1)]

    def classes_of(self, label: np.ndarray | None) -> np.ndarray | None:
        """Return the number of the class of each pixel ``(h, w)``, -1 without one; None for labels of other kinds."""
        if label is None or label.ndim != 2 or label.dtype.kind not in "iu":
            return None
        if self.task is None:
            return np.where((label >= 0) & (label < 255), label, IGNORE).astype(np.int64)
        classes = self.task.classes_of(torch.from_numpy(label.astype(np.int64))).numpy()
        return np.where((classes >= 0) & (classes < self.task.outputs), classes, IGNORE)

    def chip(self, number: int) -> dict[str, Any]:
        """Return dates, clear shares and the mean NDVI of each class of a chip, for the page.

        Raises:
            IndexError: If there is no such chip.
            InputError: If it cannot be read.
        """
        chip = self.chips[number]
        sample = chip.read()
        label = self.classes_of(chip.label())
        sensors = []
        for sensor in chip.sensors_of(sample):
            clear = sample.valid[sensor.name].numpy()
            series = [] if label is None else class_series(sample, sensor, label)
            shares = [round(float(share), 3) for share in clear.mean((1, 2))]
            sensors.append({"name": sensor.name, "days": days_of(sample, sensor), "clear": shares, "series": series})
        labeled = None if label is None else {"height": label.shape[0], "width": label.shape[1]}
        return {"name": printable(chip.name), "split": chip.split, "label": labeled, "sensors": sensors}

    def series(self, number: int, x: float, y: float) -> dict[str, Any]:
        """Return class and series of a pixel.

        Args:
            number: Number of the chip.
            x: Place from the left edge of the chip, as a share of its width.
            y: Place from the upper edge, as a share of its height.

        Raises:
            IndexError: If there is no such chip.
            InputError: If it cannot be read.
        """
        chip = self.chips[number]
        sample = chip.read()
        label = self.classes_of(chip.label())
        found = None
        if label is not None:
            found = int(label[int(y * label.shape[0]), int(x * label.shape[1])])
        lines = []
        for sensor in chip.sensors_of(sample):
            stored = sample.images[sensor.name].numpy()
            row, column = int(y * stored.shape[2]), int(x * stored.shape[3])
            clear = sample.valid[sensor.name][:, row, column].numpy()
            values = ndvi_of(sensor, reflectance(sensor, stored[:, :, row, column]))
            if values is not None:
                line = {"sensor": sensor.name, "days": days_of(sample, sensor), "clear": clear.tolist(), "ndvi": values}
                lines.append(line)
        return {"class": None if found in (None, IGNORE) else found, "series": lines}

    def picture(self, number: int, sensor: int, step: int) -> np.ndarray:
        """Return a date of a chip in true color ``(h, w, 4)`` uint8; all dates of a sensor have one stretch.

        Raises:
            IndexError: If there is no such chip, sensor or date.
            InputError: If it cannot be read, or the sensor has no red, green and blue.
        """
        chip = self.chips[number]
        sample = chip.read()
        shown = chip.sensors_of(sample)[sensor]
        bands = composite_bands(shown, TRUE_COLOR)
        if len(bands) < 3:
            raise InputError(
                f"chip {chip.name}",
                found=f"the sensor {shown.name}, which lacks red, green or blue",
                expected="a sensor with these bands",
                repair="choose another sensor.",
            )
        positions = [list(shown.band_ids).index(band) for band in bands]
        stored = sample.images[shown.name].numpy()[:, positions]
        clear = sample.valid[shown.name].numpy()
        if not 0 <= step < len(stored):
            raise IndexError(step)
        composites = []
        for image, mask in zip(stored, clear, strict=True):
            pixels = reflectance(shown, image)
            has_data = np.isfinite(pixels[0])  # a missing pixel is missing in all bands
            composites.append(FramePixels(pixels, has_data, mask, np.zeros_like(mask)))
        image = stretched(np.nan_to_num(composites[step].image), stretch_limits(composites))
        return opaque(np.rint(image * 255).astype(np.uint8))

    def label_picture(self, number: int) -> np.ndarray:
        """Return the label of a chip ``(h, w, 4)`` uint8 in the colors of its classes; the rest is transparent.

        Raises:
            IndexError: If there is no such chip.
            InputError: If it cannot be read.
        """
        label = self.classes_of(self.chips[number].label())
        if label is None:
            return np.zeros((1, 1, 4), np.uint8)
        entries = self.contents["classes"]
        colors = np.zeros((len(entries) + 1, 4), np.uint8)  # the last one is that of -1
        for value, entry in enumerate(entries):
            colors[value] = (*rgb(entry["color"]), 255)
        return colors[label]

    def clearest(self, number: int) -> tuple[int, int]:
        """Return the sensor and date of a chip that a thumbnail shows: the clearest date of a sensor with colors."""
        chip = self.chips[number]
        sample = chip.read()
        for position, sensor in enumerate(chip.sensors_of(sample)):
            if len(composite_bands(sensor, TRUE_COLOR)) == 3:
                return position, int(sample.valid[sensor.name].float().mean((1, 2)).argmax())
        return 0, 0

    def __str__(self) -> str:
        parts = [f"{len(folder):,} {split}" for split, folder in self.splits.items()]
        return f"{self.title}: {', '.join(parts)} {'chip' if len(self.chips) == 1 else 'chips'}"


def _refuse_empty(folder: Path, splits: dict[str, ChipFolder]) -> None:
    if not splits:
        raise InputError(
            folder,
            found="no list of chips",
            expected="data_lists/train.txt, val.txt or test.txt",
            repair="make the chips again, e.g. with 'agrifm chips'.",
        )


def _sensors_of(splits: dict[str, ChipFolder]) -> tuple[Sensor, ...]:
    """Return the known sensors of the first chip that opens; the page tells what is wrong with others."""
    refusal = None
    for folder in splits.values():
        for index in range(len(folder)):
            path = folder.path(index)
            try:
                with open_chip(path) as file:
                    names = file.datasets()
            except InputError as error:
                refusal = refusal or error
                continue
            found = tuple(sensor for name, sensor in SENSORS.items() if name in names)
            if found:
                return found
            refusal = _unknown_sensor(path, names)
    assert refusal is not None
    raise refusal


def _unknown_sensor(path: Path, names: Sequence[str]) -> InputError:
    return InputError(
        path,
        found=f"the datasets {', '.join(names)[:200]}",
        expected=f"a known sensor ({', '.join(SENSORS)}), or an experiment '{EXPERIMENT}' that describes another",
        repair=f"put the experiment of these chips into their folder as '{EXPERIMENT}'.",
    )
