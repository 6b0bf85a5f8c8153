"""Views: one sensor of a scene through one year, from which samples with shares of land cover are cut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agrifm.data.records import Record
from agrifm.errors import InputError, printable
from agrifm.pretraining.landcover import LandCover, between
from agrifm.scenes.scene import Area, Scene, Stack, sub_box
from agrifm.tasks.class_table import LONGEST_NAME

TILE_BYTES = 1 << 28  # of images that are read at once
SEEN = 0.05  # a date on which less of the chip is clear is dropped
FEWEST = 4  # dates
LARGEST = 1 << 14  # pixels along a chip
BELTS = ((23.5, "tropical"), (50.0, "temperate"), (66.5, "boreal"), (90.0, "polar"))

DARK = "land cover unknown"
FEW = f"fewer than {FEWEST} dates"
CLOUDY = "too cloudy"


@dataclass(frozen=True)
class FractionPlan:
    """How samples are cut and chosen.

    Args:
        sizes: Pixels along a chip, by sensor; ``""`` stands for all others.
        cells: Cells along a chip.
        min_clear: Smallest mean clear share of the kept dates.
        max_unknown: Largest share of a chip without land cover.
        samples: How many are wanted; None takes all.
        balance: Balance from 0, as they come, to 1, every dominant cover and biome equally often.
        biome: Label of the scenes; None goes by latitude.
        year: Year of all dates; None takes the one with the most.
        seed: Decides which are drawn.
    """

    sizes: Mapping[str, int] = field(default_factory=lambda: {"": 48, "Modis": 16})
    cells: int = 8
    min_clear: float = 0.2
    max_unknown: float = 0.5
    samples: int | None = None
    balance: float = 0.5
    biome: str | None = None
    year: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("cells", 1 <= self.cells <= LARGEST, f"1 to {LARGEST}"),
            ("min-clear", 0 <= self.min_clear <= 1, "a share from 0 to 1"),
            ("max-unknown", 0 <= self.max_unknown <= 1, "a share from 0 to 1"),
            ("samples", self.samples is None or self.samples >= 1, "1 or more"),
            ("balance", 0 <= self.balance <= 1, "a number from 0 to 1"),
            ("biome", self.biome is None or _is_label(self.biome), "a short label"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not good:
                value = getattr(self, name.replace("-", "_"))
                raise InputError(f"--{name}", found=repr(value), expected=expected, repair="give another value.")

    def size(self, sensor: str) -> int:
        """Pixels along a chip of a sensor.

        Raises:
            InputError: If they are no whole number of cells.
        """
        size = self.sizes.get(sensor, self.sizes.get("", 48))
        if size % self.cells or not 0 < size <= LARGEST:
            fitting = max(1, round(min(size, 96) / self.cells)) * self.cells
            raise InputError(
                f"--size, for {sensor}",
                found=f"{size} pixels for {self.cells} cells",
                expected="a whole number of pixels in each cell",
                repair=f"give --size {sensor}={fitting}, or another --cells.",
            )
        return size


def _is_label(text: str) -> bool:
    """Whether a text may stand in tables and file names."""
    return bool(text.strip()) and len(text) <= LONGEST_NAME and printable(text) == text


class FractionCell(NamedTuple):
    """A chip: number of its view, row and column counted in chips."""

    view: int
    row: int
    column: int


@dataclass(frozen=True)
class SensorYear:
    """One sensor of a scene in one year, on the sensor's own grid.

    Args:
        scene: Scene of that sensor alone.
        name: Goes into the names of the samples.
        size: Pixels along a chip.
        year: Year of all dates.
        biome: None goes by latitude.
    """

    scene: Scene
    name: str
    size: int
    year: int
    biome: str | None

    @classmethod
    def of(cls, scene: Scene, prefix: str, plan: FractionPlan) -> Iterator[SensorYear]:
        """The views of a scene."""
        for layer in scene.layers:
            sensor = layer.sensor.name
            year = plan.year or Counter(day.year for day in layer.days).most_common(1)[0][0]
            alone = scene.only((sensor,))
            kept = replace(layer, frames=tuple(frame for frame in layer.frames if frame.day.year == year))
            name = re.sub(r"[^A-Za-z0-9-]+", "_", f"{prefix}{scene.name}_{sensor}_{year}")
            yield cls(replace(alone, layers=(kept,)), name, plan.size(sensor), year, plan.biome)

    @property
    def sensor(self) -> str:
        """Who looked."""
        return self.scene.layers[0].sensor.name

    @property
    def chips(self) -> list[tuple[int, int]]:
        """Rows and columns, counted in chips, of all that lie inside."""
        rows, columns = (length // self.size for length in self.scene.grid.shape)
        return [(row, column) for row in range(rows) for column in range(columns)]

    @property
    def tile(self) -> int:
        """How many chips a side may be read together."""
        layer = self.scene.layers[0]
        pixel = max(1, len(layer.days)) * (2 * len(layer.sensor.bands) + 1)
        return max(1, isqrt(TILE_BYTES // pixel) // self.size)

    def shares(self, chip: FractionCell, ground: LandCover, cells: int) -> np.ndarray:
        """Shares of the covers and of what is unknown ``(9, y, x)`` in the cells of a chip."""
        row, column = chip.row * self.size, chip.column * self.size
        box = sub_box(self.scene.grid, 1, (row, column), (row + self.size, column + self.size))
        return ground.shares(box, cells)

    def place(self, chip: FractionCell) -> tuple[float, float, str]:
        """Longitude and latitude of the middle of a chip, and its biome."""
        x, y = self.scene.grid.affine @ ((chip.column + 0.5) * self.size, (chip.row + 0.5) * self.size)
        lon, lat = between(str(self.scene.grid.crs), "EPSG:4326").transform(x, y)
        return lon, lat, self.biome or next(name for limit, name in BELTS if abs(lat) <= limit)

    def read(self, chips: Sequence[FractionCell]) -> Stack:
        """The images under several chips."""
        rows, columns = {chip.row for chip in chips}, {chip.column for chip in chips}
        top, left = min(rows) * self.size, min(columns) * self.size
        area = Area(top, left, (max(rows) + 1) * self.size - top, (max(columns) + 1) * self.size - left)
        return self.scene.read(area).stacks[self.sensor]

    def record(self, chip: FractionCell, stack: Stack, ground: LandCover, plan: FractionPlan) -> Record | str:
        """The sample of a chip with all dates that show enough of it; or the filter that rejects it."""
        rows, columns = stack.under(Area(chip.row * self.size, chip.column * self.size, self.size, self.size))
        clear = stack.clear[:, rows, columns]
        share = clear.mean((1, 2))
        kept = np.flatnonzero(share >= SEEN)
        if len(kept) < FEWEST:
            return FEW
        if share[kept].mean() < plan.min_clear:
            return CLOUDY
        shares = self.shares(chip, ground, plan.cells).astype(np.float32)
        lon, lat, biome = self.place(chip)
        return Record(
            sensor=self.sensor,
            name=f"{self.name}_r{chip.row:04d}_c{chip.column:04d}",
            image=stack.images[:, :, rows, columns][kept],
            days=stack.days[kept].astype(np.int32),
            clear=clear[kept].astype(np.uint8),
            fractions=shares[:-1],
            unknown=shares[-1],
            lon=lon,
            lat=lat,
            year=self.year,
            biome=biome,
            source=f"{Path(ground.file.name).name}, {Path(ground.crosswalk.name).name}",
        )
