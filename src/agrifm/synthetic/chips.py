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
from agrifm.synthetic.farmland_growth import Growth
from agrifm.synthetic.observation import (
    CLOUD_LAYERS,
    SHADOW_OFFSET,
    add_clouds,
    add_haze,
    add_pixel_noise,
    clear_mask,
    cloud_density,
    cloud_opacity,
    cloud_thresholds,
    date_errors,
    digital_numbers,
    haze_opacity,
    together,
)
from agrifm.synthetic.optics import GRID, REGISTRATION, averaging_weights, margin_pixels
from agrifm.synthetic.phenology import MEMBERS
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
        noise: Factor of the scatter of growth within fields and of the errors of measurement; 0 gives clean images.
        cloudiness: Share of the dates that are not clear; half of these are nearly overcast.
        paddy: Whether rice grows too, in flooded fields; its label is one more class.
    """

    seed: int = 0
    rows: int = 4
    columns: int = 19
    size: int = 96
    year: int = 2023
    frames: tuple[tuple[str, int], ...] = (("S2", 36), ("Landsat", 15), ("Modis", 20))
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
        return farm_ground(self.seed, *self._positions(row, column), len(self.classes))

    def _positions(self, row: int, column: int, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Position of the columns and rows of a chip in meters, with ``margin`` more pixels on each side."""
        steps = (np.arange(-margin, self.size + margin) + 0.5) * GRID
        return column * self.size * GRID + steps, row * self.size * GRID + steps

    def sky(self, row: int, column: int, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
        """Opacity of clouds with haze, and of shadows, in 0..1 ``(t, h, w)`` on the grid of the label."""
        cloud, haze, shadow = self._sky(*self._positions(row, column), column, sensor)
        return together(cloud, haze), shadow

    def _sky(self, xs: np.ndarray, ys: np.ndarray, column: int, sensor: Sensor) -> tuple[np.ndarray, ...]:
        """Opacity of clouds, of haze and of shadows ``(t, h, w)`` at positions in meters."""
        keys = self._date_keys(column, sensor)
        kind = uniform(self.seed, 31, keys)
        degree = uniform(self.seed, 32, keys)
        thresholds = cloud_thresholds(self.cloudiness, kind, degree)[:, None, None]
        density = self._cloud_density(xs, ys, keys)
        hazy = uniform(self.seed, 36, keys)[:, None, None]
        haze_degree = uniform(self.seed, 37, keys)[:, None, None]
        haze = haze_opacity(self.cloudiness, density, hazy, haze_degree)
        cloud = cloud_opacity(density, thresholds)
        east, south = SHADOW_OFFSET
        shadow = cloud_opacity(self._cloud_density(xs + east, ys + south, keys), thresholds)
        return cloud, haze, shadow

    def _date_keys(self, column: int, sensor: Sensor) -> np.ndarray:
        """One key for each date of a sensor over a column of chips ``(t)``."""
        orbit = column // ORBIT
        return np.array([key(sensor.name, orbit, int(day)) for day in self.days(sensor, column)])

    def _cloud_density(self, xs: np.ndarray, ys: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Density of clouds ``(t, h, w)`` from one random field for each size of clouds."""
        layers = []
        for number, (size, _) in enumerate(CLOUD_LAYERS, start=33):
            layers.append(field(xs, ys, size, self.seed, number, keys))
        return cloud_density(layers)

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
            image, clear = self._observe(row, column, sensor)
            images[sensor.name] = torch.from_numpy(image)
            dates[sensor.name] = torch.from_numpy(new_year + self.days(sensor, column) - 1)
            valid[sensor.name] = torch.from_numpy(clear)
        return Sample(images, dates, valid, label=torch.from_numpy(ground.label), name=self.name(row, column))

    def _observe(self, row: int, column: int, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
        """Stored numbers ``(t, c, h, w)`` and mask ``(t, h, w)`` of one sensor."""
        keys = self._date_keys(column, sensor)
        xs, ys = self._positions(row, column, margin_pixels(sensor))
        still = averaging_weights(self.size, sensor, np.zeros(1))[0]
        sky = self._sky(xs, ys, column, sensor)
        cloud, haze, shadow = (still @ fine @ still.T for fine in sky)

        image = self._clear_sky(xs, ys, column, sensor)
        factor, addition = self._date_errors(sensor, keys)
        image = image * factor[..., None, None] + addition[..., None, None]
        cloud_spectrum = spectra(sensor.bands, ["cloud"])[0]
        image = add_haze(image, haze, sensor, cloud_spectrum)
        image = add_clouds(image, cloud, shadow, cloud_spectrum)
        rng = np.random.default_rng([self.seed, row, column, key(sensor.name)])
        image = add_pixel_noise(image, rng, self.noise)
        uncertainty = uniform(self.seed, 38, keys)[:, None, None]
        return digital_numbers(image, sensor), clear_mask(together(cloud, haze), shadow, uncertainty)

    def _clear_sky(self, xs: np.ndarray, ys: np.ndarray, column: int, sensor: Sensor) -> np.ndarray:
        """Reflectance of the ground ``(t, c, h, w)``, seen through optics and slightly displaced on each date."""
        ground = farm_ground(self.seed, xs, ys, len(self.classes))
        members = Growth(self.seed, ground, self.noise).members(self.days(sensor, column))
        keys = self._date_keys(column, sensor)
        south, east = (self.noise * REGISTRATION * normal(self.seed, number, keys) for number in (39, 40))
        rows = averaging_weights(self.size, sensor, south)
        columns = averaging_weights(self.size, sensor, east)
        averages = rows @ members @ columns.swapaxes(-1, -2)
        return np.einsum("mthw,mc->tchw", averages, spectra(sensor.bands, MEMBERS), optimize=True)

    def _date_errors(self, sensor: Sensor, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Factor and addition of the reflectance of each date and band ``(t, c)``."""
        bands = np.arange(len(sensor.bands))
        return date_errors(
            sensor,
            gain=self.noise * normal(self.seed, 51, keys),
            band_gain=self.noise * normal(self.seed, 52, keys[:, None], bands),
            aerosol=self.noise * normal(self.seed, 53, keys),
        )


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
