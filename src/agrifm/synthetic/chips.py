"""A synthetic farmland with known truth, written as chips for tests, first steps and comparisons without downloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from agrifm.data.chips import Georeference, write_chip
from agrifm.data.randomness import field, key, normal, uniform
from agrifm.errors import InputError
from agrifm.io import write_whole
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, MODIS, S2, Sensor
from agrifm.synthetic.farmland_ground import FarmGround, farm_ground
from agrifm.synthetic.observation import (
    CLOUD_LAYERS,
    SHADOW_OFFSET,
    add_clouds,
    clear_mask,
    cloud_opacity,
    cloud_thresholds,
    digital_numbers,
)
from agrifm.synthetic.phenology import MEMBERS, mixture
from agrifm.synthetic.spectra import spectra

CLASSES: tuple[tuple[str, str], ...] = (
    ("other", "#9a9a9a"),
    ("winter wheat", "#e3b23c"),
    ("maize", "#e8743b"),
    ("rapeseed", "#f4e409"),
    ("sugar beet", "#b0508f"),
    ("grassland", "#6fb556"),
)
RICE = ("paddy rice", "#44aa99")  # one more class, in landscapes with paddy fields
GRID = 10.0  # meters per pixel of the label
ORBIT = 4  # columns of chips that are observed on the same dates
_FIRST_DAY, _LAST_DAY = 64, 302  # early March to late October
_CHIP_FOLDER, _LIST_FOLDER = "h5_samples", "data_lists"


@dataclass(frozen=True)
class Landscape:
    """A farmland of ``rows`` by ``columns`` chips; equal seeds give equal land.

    Args:
        seed: Seed of everything random.
        rows: Chips from north to south.
        columns: Chips from west to east.
        size: Pixels of 10 m along one side of a chip.
        year: Year of all dates, which lie between early March and late October.
        frames: Number of dates by sensor name; 16 for other sensors.
        noise: Factor of the pixel-to-pixel scatter of growth and of measurement; 0 gives clean images.
        cloudiness: Share of the dates that are not clear; half of these are nearly overcast.
        paddy: Whether rice grows too, in flooded fields; its label is one more class.
    """

    seed: int = 0
    rows: int = 4
    columns: int = 19
    size: int = 96
    year: int = 2023
    frames: tuple[tuple[str, int], ...] = (("S2", 22), ("Landsat", 12), ("Modis", 20))
    noise: float = 1.0
    cloudiness: float = 0.6
    paddy: bool = False

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """Names and colors of the labels 0, 1, 2..."""
        return (*CLASSES, RICE) if self.paddy else CLASSES

    def name(self, row: int, column: int) -> str:
        """Name of a chip."""
        return f"r{row:02d}c{column:02d}"

    def place(self, row: int, column: int) -> Georeference:
        """Georeference of the label of a chip, in UTM zone 31 north."""
        step = self.size * GRID
        return Georeference("EPSG:32631", (GRID, 0.0, 480_000 + column * step, 0.0, -GRID, 5_530_000 - row * step))

    def splits(self) -> dict[str, list[tuple[int, int]]]:
        """Chips ``(row, column)`` of train, val and test: blocks of whole columns, from west to east.

        One column of chips between two blocks stays unused, so that no parcel lies in two of them. Of the
        remaining columns train gets ten, val three and test four parts of seventeen.

        Raises:
            InputError: If there are fewer than five columns.
        """
        if self.columns < 5:
            raise InputError(
                "Landscape: columns",
                found=str(self.columns),
                expected="at least 5: train, a gap, val, a gap, test",
                repair="ask for more columns.",
            )
        available = self.columns - 2
        val = max(1, round(available * 3 / 17))
        test = max(1, round(available * 4 / 17))
        train = available - val - test
        columns = {
            "train": range(train),
            "val": range(train + 1, train + 1 + val),
            "test": range(train + val + 2, self.columns),
        }
        return {split: list(product(range(self.rows), columns[split])) for split in columns}

    def days(self, sensor: Sensor, column: int) -> np.ndarray:
        """Days of the year ``(t)`` on which a sensor observes a column of chips.

        Raises:
            InputError: If more dates are asked for than the season has days.
        """
        count = dict(self.frames).get(sensor.name, 16)
        rng = np.random.default_rng([self.seed, key(sensor.name), column // ORBIT])
        # At most eight days between passes, and about two passes for each date.
        revisit = (_LAST_DAY - _FIRST_DAY) // count // 2
        revisit = max(1, min(8, revisit))
        first_pass = _FIRST_DAY + rng.integers(revisit)
        passes = np.arange(first_pass, _LAST_DAY, revisit)
        if not 1 <= count <= len(passes):
            raise InputError(
                f"Landscape: frames of {sensor.name}",
                found=str(count),
                expected=f"1 to {len(passes)}",
                repair="ask for fewer dates.",
            )
        return np.sort(rng.choice(passes, count, replace=False))

    def ground(self, row: int, column: int) -> FarmGround:
        """Parcels and their covers on the grid of the label of a chip."""
        steps = (np.arange(self.size) + 0.5) * GRID
        xs = column * self.size * GRID + steps
        ys = row * self.size * GRID + steps
        return farm_ground(self.seed, xs, ys, len(self.classes))

    def sky(self, row: int, column: int, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
        """Opacity of the clouds and of their shadows in 0..1 ``(t, h, w)`` on the grid of the label."""
        ground = self.ground(row, column)
        orbit = column // ORBIT
        keys = np.array([key(sensor.name, orbit, int(day)) for day in self.days(sensor, column)])
        kind = uniform(self.seed, 31, keys)
        degree = uniform(self.seed, 32, keys)
        thresholds = cloud_thresholds(self.cloudiness, kind, degree)[:, None, None]
        east, south = SHADOW_OFFSET
        cloud = cloud_opacity(self._cloud_layers(ground.xs, ground.ys, keys), thresholds)
        shadow = cloud_opacity(self._cloud_layers(ground.xs + east, ground.ys + south, keys), thresholds)
        return cloud, shadow

    def _cloud_layers(self, xs: np.ndarray, ys: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
        """One random field ``(t, h, w)`` for each size of clouds."""
        layers = []
        for number, (size, _) in enumerate(CLOUD_LAYERS, start=33):
            layers.append(field(xs, ys, size, self.seed, number, keys))
        return layers

    def sample(self, row: int, column: int, sensors: Sequence[Sensor]) -> Sample:
        """Render one chip: stored numbers, dates, imperfect masks and the true label.

        The number of pixels along a side is the whole number that comes nearest to the pixel size of the sensor.

        Raises:
            InputError: If the chip lies outside the landscape.
        """
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise InputError(
                "Landscape.sample",
                found=f"row {row}, column {column}",
                expected=f"rows below {self.rows} and columns below {self.columns}",
                repair="ask for a chip inside, or for a larger landscape.",
            )
        ground = self.ground(row, column)
        new_year = np.datetime64(f"{self.year}-01-01", "D").astype(int)
        images = {}
        dates = {}
        valid = {}
        for sensor in sensors:
            image, clear = self._observe(row, column, ground, sensor)
            images[sensor.name] = torch.from_numpy(image)
            dates[sensor.name] = torch.from_numpy(new_year + self.days(sensor, column) - 1)
            valid[sensor.name] = torch.from_numpy(clear)
        return Sample(images, dates, valid, label=torch.from_numpy(ground.label), name=self.name(row, column))

    def _observe(self, row: int, column: int, ground: FarmGround, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
        """Stored numbers ``(t, c, h, w)`` and mask ``(t, h, w)`` of one sensor."""
        weights = _averaging_weights(self.size, sensor.gsd)
        fine_cloud, fine_shadow = self.sky(row, column, sensor)
        cloud = weights @ fine_cloud @ weights.T
        shadow = weights @ fine_shadow @ weights.T

        delay, vigor, soil = self._growth(row, column, ground)
        day = self.days(sensor, column)[:, None, None] - delay
        fine_members = mixture(ground.cover, ground.parcel, day, vigor, soil)
        members = weights @ fine_members @ weights.T
        image = np.einsum("mthw,mc->tchw", members, spectra(sensor.bands, MEMBERS), optimize=True)
        image = add_clouds(image, cloud, shadow, spectra(sensor.bands, ["cloud"])[0])

        rng = np.random.default_rng([self.seed, row, column, key(sensor.name)])
        noise = self.noise * min(1.0, GRID / sensor.gsd) ** 0.5  # larger pixels average the scatter away
        pixel_noise = rng.standard_normal(cloud.shape)
        image *= 1 + 0.10 * noise * pixel_noise[:, None]
        image += 0.016 * noise * rng.standard_normal(image.shape)
        image += 0.026 * noise * rng.standard_normal(image.shape[1:])  # of the place, the same on all dates
        uncertainty = rng.random(cloud.shape)
        return digital_numbers(image, sensor), clear_mask(cloud, shadow, uncertainty)

    def _growth(self, row: int, column: int, ground: FarmGround) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Days of delay, vigor and brightness of the ground ``(h, w)``: by region, parcel, gradient and pixel."""
        xs = ground.xs
        ys = ground.ys
        parcel = ground.parcel
        along = ground.along - 0.5
        rng = np.random.default_rng([self.seed, row, column])
        noise = self.noise * rng.standard_normal((3, *parcel.shape))

        delay = 0.0003 * (xs - ys[:, None])
        delay += 6 * (field(xs, ys, 5000, self.seed, 41) - 0.5)
        delay += 4 * normal(parcel, 2)
        delay += 5 * along * normal(parcel, 3)
        delay += 28 * noise[0]

        vigor = 0.92 + 0.08 * normal(parcel, 4)
        vigor += 0.1 * along * normal(parcel, 5)
        vigor += 0.25 * (field(xs, ys, 300, self.seed, 42) - 0.5)
        vigor += 0.16 * noise[1]

        soil = 0.7 + 0.6 * field(xs, ys, 1500, self.seed, 43)
        soil += 0.08 * normal(parcel, 6)
        soil += 0.1 * noise[2]
        return delay, np.clip(vigor, 0.3, 1.05), np.clip(soil, 0.4, 1.6)


def write_example(
    root: Path,
    landscape: Landscape | None = None,
    sensors: Sequence[Sensor] = (S2, LANDSAT, MODIS),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``h5_samples/<name>.h5`` and ``data_lists/{train,val,test}.txt``, split by ``Landscape.splits``.

    Args:
        root: Folder to write into.
        landscape: Landscape to write; the default one gives 40, 12 and 16 chips.
        sensors: Sensors of the chips.
        progress: Called after every chip with the number of written chips and the total.

    Raises:
        InputError: If the landscape has too few columns to split.
    """
    landscape = landscape or Landscape()
    splits = landscape.splits()
    chips = [chip for split in splits.values() for chip in split]
    for count, chip in enumerate(chips, start=1):
        path = root / _CHIP_FOLDER / f"{landscape.name(*chip)}.h5"
        sample = landscape.sample(*chip, sensors)
        write_chip(path, sample, sensors, landscape.place(*chip), landscape.ground(*chip).fields)
        if progress is not None:
            progress(count, len(chips))
    # The lists come last: they promise that their chips exist.
    for split, members in splits.items():
        lines = [f"{landscape.name(*chip)}\n" for chip in members]
        write_whole(root / _LIST_FOLDER / f"{split}.txt", "".join(lines))


def _averaging_weights(size: int, gsd: float) -> np.ndarray:
    """Weights ``(n, size)`` that average label pixels to those of a sensor, which overlap with their neighbors."""
    count = max(1, round(size * GRID / gsd))
    width = size / count
    centers = (np.arange(count)[:, None] + 0.5) * width
    low = centers - 0.65 * width
    high = centers + 0.65 * width
    pixel = np.arange(size)
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return overlap / overlap.sum(1, keepdims=True)
