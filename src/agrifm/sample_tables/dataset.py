"""The texts of a data set of samples: where each sample is, the lists, the classes and the experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from agrifm.chips.classes import in_line
from agrifm.chips.experiment import class_list
from agrifm.chips.spatial_split import SPLITS
from agrifm.errors import printable
from agrifm.io import write_csv, write_whole
from agrifm.sample_tables.packing import PackedChip
from agrifm.sample_tables.splits import Division
from agrifm.sample_tables.table import SampleTable
from agrifm.sensors import SENSORS, Sensor
from agrifm.tasks.segmentation import CropClass

CACHE_BYTES = 1 << 30  # chips that need less than this stay in memory while training
INDEX = "samples.csv"
INDEX_COLUMNS = ("sample_id", "chip", "row", "column", "split", "class", "group", "lon", "lat")


@dataclass(frozen=True)
class SampleData:
    """Samples with their classes and splits, packed into chips.

    Args:
        table: The samples.
        classes: Classes in the order of their numbers.
        numbers: Number of the class of each sample ``(n)``.
        division: Splits and blocks of the samples.
        chips: Chips that hold them.
    """

    table: SampleTable
    classes: tuple[CropClass, ...]
    numbers: np.ndarray
    division: Division
    chips: tuple[PackedChip, ...]

    @property
    def counts(self) -> np.ndarray:
        """Samples ``(split, class)``."""
        counts = np.zeros((len(SPLITS), len(self.classes)), np.int64)
        np.add.at(counts, (self.division.split, self.numbers), 1)
        return counts

    def write_texts(self, folder: Path, out: Path) -> None:
        """Write everything except the chips into a folder that will be called ``out``."""
        write_csv(folder / INDEX, self._index())
        write_whole(folder / "classes.yaml", class_list(self.classes))
        write_whole(folder / "crops.yaml", self._experiment(out))
        for split in SPLITS:
            names = [chip.name for chip in self.chips if chip.split == split]
            if names:
                write_whole(folder / "data_lists" / f"{split}.txt", "\n".join(names) + "\n")

    def _index(self) -> list[Sequence[object]]:
        """Rows that say where each sample is, in the order of the table."""
        table = self.table
        place: dict[int, tuple[str, int, int]] = {}
        for chip in self.chips:
            for pixel, sample in enumerate(chip.samples):
                place[int(sample)] = (chip.name, pixel // chip.side, pixel % chip.side)
        groups = [""] * len(table) if table.groups is None else table.groups
        lonlat: Any = [("", "")] * len(table)
        if table.places is not None and table.places.lonlat is not None:
            lonlat = table.places.lonlat.round(7)
        rows: list[Sequence[object]] = [INDEX_COLUMNS]
        for i in range(len(table)):
            name = self.classes[self.numbers[i]].name
            rows.append((table.ids[i], *place[i], SPLITS[self.division.split[i]], name, groups[i], *lonlat[i]))
        return rows

    def _experiment(self, out: Path) -> str:
        """The experiment in YAML that trains on the samples."""
        sensor = self.table.sensor
        lines = [
            f"# Crop types on the samples in {printable(out.as_posix())}.",
            "# Train with 'agrifm train', or within seconds with 'agrifm train --quick'. Paths start where it is run.",
            f"name: {in_line(out.absolute().name or 'crops')}",
            "seed: 0",
            "data:",
            f"  root: {in_line(out.as_posix())}",
            f"  sensors: {in_line([_sensor(sensor)])}",
            f"  cache: {'true' if self._bytes() < CACHE_BYTES else 'false'}",
        ]
        if any(band.wavelength == 0 for band in sensor.bands):
            lines.append("  check_bands: false    # some bands are no reflectance")
        lines += ["task:", "  kind: segmentation", "  classes:"]
        lines += [f"    {line}" for line in class_list(self.classes).splitlines()]
        lines += ["augment:", "  drop_frames: 0.3    # elsewhere clouds hide other dates", "training:", "  workers: 0"]
        return "".join(f"{line}\n" for line in lines)

    def _bytes(self) -> int:
        """Bytes of all images as 32-bit numbers, if every chip had all dates."""
        pixels = len(self.chips) * self.chips[0].side ** 2
        return 4 * pixels * len(np.unique(self.table.days)) * len(self.table.sensor.bands)


def _sensor(sensor: Sensor) -> Any:
    """The name of a known sensor, or all values of another one."""
    if SENSORS.get(sensor.name) == sensor:
        return sensor.name
    return TypeAdapter(Sensor).dump_python(sensor, mode="json", exclude_none=True)
