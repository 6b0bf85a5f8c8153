"""Scenes and a land-cover raster to samples for pre-training: one sensor, one place, one year, shares of land cover."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyproj import Transformer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from agrifm.data.shards import Record, ShardWriter
from agrifm.errors import InputError
from agrifm.scenes.landcover import LandCover
from agrifm.scenes.report import write_whole
from agrifm.scenes.scene import Area, Scene, Tile, sub_box
from agrifm.tasks.fractions import COVERS

TILE_BYTES = 1 << 28  # of images that are read at once
SEEN = 0.05  # a date on which less of the chip is clear is dropped
FEWEST = 4  # dates
BELTS = ((23.5, "tropical"), (50.0, "temperate"), (66.5, "boreal"), (90.0, "polar"))

DARK = "land cover unknown"
FEW = f"fewer than {FEWEST} dates"
CLOUDY = "too cloudy"


@dataclass(frozen=True)
class FractionPlan:
    """How samples are cut and chosen.

    Args:
        sizes: pixels along a chip, by sensor; ``""`` stands for all others.
        cells: along a chip.
        min_clear: smallest mean clear share of the kept dates.
        max_unknown: largest share of a chip without land cover.
        samples: how many are wanted; None takes all.
        balance: from 0, as they come, to 1, every dominant cover and biome equally often.
        biome: label of the scenes; None goes by latitude.
        year: of all dates; None takes the one with the most.
        seed: decides which are drawn.
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

    def size(self, sensor: str) -> int:
        """Pixels along a chip of a sensor.

        Raises:
            InputError: they are no whole number of cells.
        """
        size = self.sizes.get(sensor, self.sizes.get("", 48))
        if size % self.cells or size <= 0:
            raise InputError(
                f"--size, for {sensor}",
                found=f"{size} pixels for {self.cells} cells",
                expected="a whole number of pixels in each cell",
                repair=f"give e.g. --size {sensor}={max(1, round(size / self.cells)) * self.cells}, or another --cells.",
            )
        return size


class Group(NamedTuple):
    """What samples are balanced over."""

    sensor: str
    cover: str
    biome: str


@dataclass(frozen=True)
class View:
    """One sensor of a scene in one year, on the sensor's own grid.

    Args:
        scene: of that sensor alone.
        name: goes into the names of the samples.
        size: pixels along a chip.
        year: of all dates.
        biome: None goes by latitude.
    """

    scene: Scene
    name: str
    size: int
    year: int
    biome: str | None

    @classmethod
    def of(cls, scene: Scene, prefix: str, plan: FractionPlan) -> Iterator[View]:
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

    def area(self, row: int, column: int) -> Area:
        """Pixels of a chip."""
        return Area(row * self.size, column * self.size, self.size, self.size)

    def shares(self, row: int, column: int, ground: LandCover, cells: int) -> np.ndarray:
        """Shares of the covers and of what is unknown ``(9, y, x)`` in the cells of a chip."""
        first, end = (row * self.size, column * self.size), ((row + 1) * self.size, (column + 1) * self.size)
        return ground.shares(sub_box(self.scene.grid, 1, first, end), cells)

    def place(self, row: int, column: int) -> tuple[float, float, str]:
        """Longitude and latitude of the middle of a chip, and its biome."""
        x, y = self.scene.grid.affine @ ((column + 0.5) * self.size, (row + 0.5) * self.size)
        lon, lat = Transformer.from_crs(str(self.scene.grid.crs), "EPSG:4326", always_xy=True).transform(x, y)
        return lon, lat, self.biome or next(name for limit, name in BELTS if abs(lat) <= limit)

    def tiles(self, chips: Sequence[tuple[int, int]]) -> Iterator[tuple[Tile, list[tuple[int, int]]]]:
        """Chips that are near each other, with their images; as many at once as memory allows."""
        layer = self.scene.layers[0]
        pixel = max(1, len(layer.frames)) * (2 * len(layer.sensor.bands) + 1)
        side = max(1, isqrt(TILE_BYTES // pixel) // self.size)
        groups = defaultdict(list)
        for row, column in sorted(chips):
            groups[row // side, column // side].append((row, column))
        for several in groups.values():
            (top, left), (bottom, right) = np.min(several, 0).tolist(), (np.max(several, 0) + 1).tolist()
            step = self.size
            area = Area(top * step, left * step, (bottom - top) * step, (right - left) * step)
            yield self.scene.read(area), several
