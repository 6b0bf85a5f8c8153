"""One sensor of a scene through one year, from which samples with land-cover shares are cut."""

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
from agrifm.errors import InputError, counted, printable
from agrifm.pretraining.landcover import LandCover, transformer
from agrifm.scenes.scene import Area, Scene, Stack, sub_box
from agrifm.tasks.class_table import LONGEST_NAME

TILE_BYTES = 1 << 28  # of images that are read at once
MIN_CLEAR_SHARE = 0.05  # dates on which less of the chip is clear are dropped
MIN_DATES = 4
LARGEST_CHIP = 1 << 14  # pixels along a side
DEFAULT_SIZE = 48  # pixels along a chip
BIOMES = ((23.5, "tropical"), (50.0, "temperate"), (66.5, "boreal"), (90.0, "polar"))  # largest latitude of each

# Names of the filters in the report.
UNKNOWN_COVER = "land cover unknown"
FEW_DATES = f"fewer than {MIN_DATES} dates"
TOO_CLOUDY = "too cloudy"


@dataclass(frozen=True)
class FractionPlan:
    """How samples are cut and chosen.

    Args:
        sizes: Pixels along a chip, by sensor; ``""`` is for all others.
        cells: Cells along a chip.
        min_clear: Smallest mean clear share of the dates that are kept.
        max_unknown: Largest share of a chip without land cover.
        samples: Number of samples; None takes all.
        balance: From 0, the frequencies as they are, to 1, every dominant cover and biome equally frequent.
        biome: Biome of the scenes; None takes it from the latitude.
        year: Year of all dates; None takes the one with the most dates.
        seed: Seed of the random choice.
    """

    sizes: Mapping[str, int] = field(default_factory=lambda: {"": DEFAULT_SIZE, "Modis": 16})
    cells: int = 8
    min_clear: float = 0.2
    max_unknown: float = 0.5
    samples: int | None = None
    balance: float = 0.5
    biome: str | None = None
    year: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("cells", 1 <= self.cells <= LARGEST_CHIP, f"1 to {LARGEST_CHIP}"),
            ("min-clear", 0 <= self.min_clear <= 1, "a share from 0 to 1"),
            ("max-unknown", 0 <= self.max_unknown <= 1, "a share from 0 to 1"),
            ("samples", self.samples is None or self.samples >= 1, "1 or more"),
            ("balance", 0 <= self.balance <= 1, "a number from 0 to 1"),
            ("biome", self.biome is None or _is_label(self.biome), "a short label"),
            ("seed", self.seed >= 0, "0 or more"),
        )
        for name, is_valid, expected in checks:
            if not is_valid:
                value = getattr(self, name.replace("-", "_"))
                raise InputError(f"--{name}", found=repr(value), expected=expected, repair="give another value.")

    def size(self, sensor: str) -> int:
        """Pixels along a chip of a sensor.

        Raises:
            InputError: If the cells do not hold whole numbers of pixels.
        """
        size = self.sizes.get(sensor, self.sizes.get("", DEFAULT_SIZE))
        if size % self.cells or not 0 < size <= LARGEST_CHIP:
            suggestion = max(1, round(min(size, 96) / self.cells)) * self.cells
            raise InputError(
                f"--size, for {sensor}",
                found=f"{size} pixels for {counted(self.cells, 'cell')}",
                expected="a whole number of pixels in each cell",
                repair=f"give --size {sensor}={suggestion}, or another --cells.",
            )
        return size


def _is_label(text: str) -> bool:
    """Whether a text is fit for tables and file names."""
    return bool(text.strip()) and len(text) <= LONGEST_NAME and printable(text) == text


class ChipPosition(NamedTuple):
    """A chip: number of its view, row and column counted in chips."""

    view: int
    row: int
    column: int


@dataclass(frozen=True)
class SensorYear:
    """One sensor of a scene in one year, on the sensor's own grid.

    Args:
        scene: Scene of that sensor alone.
        name: Prefix of the names of the samples.
        size: Pixels along a chip.
        year: Year of all dates.
        biome: Biome of all chips; None takes it from the latitude.
    """

    scene: Scene
    name: str
    size: int
    year: int
    biome: str | None

    @classmethod
    def of(cls, scene: Scene, prefix: str, plan: FractionPlan) -> Iterator[SensorYear]:
        """The views of a scene, one for each sensor."""
        for layer in scene.layers:
            sensor = layer.sensor.name
            frames_by_year = Counter(day.year for day in layer.days)
            year = plan.year or frames_by_year.most_common(1)[0][0]
            frames = tuple(frame for frame in layer.frames if frame.day.year == year)
            layer_of_year = replace(layer, frames=frames)
            scene_of_year = replace(scene.only((sensor,)), layers=(layer_of_year,))
            name = re.sub(r"[^A-Za-z0-9-]+", "_", f"{prefix}{scene.name}_{sensor}_{year}")
            yield cls(scene_of_year, name, plan.size(sensor), year, plan.biome)

    @property
    def sensor(self) -> str:
        """Name of the sensor."""
        return self.scene.layers[0].sensor.name

    @property
    def date_count(self) -> int:
        """Number of dates."""
        return len(self.scene.layers[0].days)

    @property
    def chips(self) -> list[tuple[int, int]]:
        """Rows and columns, counted in chips, of all that lie inside."""
        height, width = self.scene.grid.shape
        return list(np.ndindex(height // self.size, width // self.size))

    @property
    def chips_per_tile(self) -> int:
        """Number of chips along a side that may be read together."""
        bands = len(self.scene.layers[0].sensor.bands)
        bytes_per_pixel = max(1, self.date_count) * (2 * bands + 1)  # 16 bits for each band, a byte for the mask
        return max(1, isqrt(TILE_BYTES // bytes_per_pixel) // self.size)

    def shares(self, chip: ChipPosition, ground: LandCover, cells: int) -> np.ndarray:
        """Shares of the covers and of what is unknown ``(9, y, x)`` in the cells of a chip."""
        top = chip.row * self.size
        left = chip.column * self.size
        box = sub_box(self.scene.grid, 1, (top, left), (top + self.size, left + self.size))
        return ground.shares(box, cells)

    def place(self, chip: ChipPosition) -> tuple[float, float, str]:
        """Longitude and latitude of the center of a chip, and its biome."""
        grid = self.scene.grid
        center_column = (chip.column + 0.5) * self.size
        center_row = (chip.row + 0.5) * self.size
        x, y = grid.affine @ (center_column, center_row)
        lon, lat = transformer(str(grid.crs), "EPSG:4326").transform(x, y)
        return lon, lat, self.biome or _biome_at(lat)

    def read(self, chips: Sequence[ChipPosition]) -> Stack:
        """Read the images under several chips."""
        rows = [chip.row for chip in chips]
        columns = [chip.column for chip in chips]
        top = min(rows) * self.size
        left = min(columns) * self.size
        bottom = (max(rows) + 1) * self.size
        right = (max(columns) + 1) * self.size
        area = Area(top, left, bottom - top, right - left)
        return self.scene.read(area).stacks[self.sensor]

    def record(self, chip: ChipPosition, stack: Stack, ground: LandCover, plan: FractionPlan) -> Record | str:
        """The sample of a chip with all dates that show enough of it, or the name of the filter that rejects it."""
        area = Area(chip.row * self.size, chip.column * self.size, self.size, self.size)
        rows, columns = stack.under(area)
        clear = stack.clear[:, rows, columns]
        clear_share = clear.mean((1, 2))
        dates = np.flatnonzero(clear_share >= MIN_CLEAR_SHARE)
        if len(dates) < MIN_DATES:
            return FEW_DATES
        if clear_share[dates].mean() < plan.min_clear:
            return TOO_CLOUDY
        shares = self.shares(chip, ground, plan.cells).astype(np.float32)
        lon, lat, biome = self.place(chip)
        return Record(
            sensor=self.sensor,
            name=f"{self.name}_r{chip.row:04d}_c{chip.column:04d}",
            image=stack.images[:, :, rows, columns][dates],
            days=stack.days[dates].astype(np.int32),
            clear=clear[dates].astype(np.uint8),
            fractions=shares[:-1],
            unknown=shares[-1],
            lon=lon,
            lat=lat,
            year=self.year,
            biome=biome,
            source=f"{Path(ground.file.name).name}, {Path(ground.crosswalk.name).name}",
        )


def _biome_at(lat: float) -> str:
    for limit, name in BIOMES:
        if abs(lat) <= limit:
            return name
    raise ValueError(f"latitude {lat}")
