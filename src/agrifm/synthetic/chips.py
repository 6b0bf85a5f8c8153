"""A made-up farmland with known truth, written as chips: tests, first steps and comparisons without downloads.

Everything on the ground is a function of position and seed, not of the chip that asks: parcels, woods and rivers
run on across chip borders. ``x`` grows east and ``y`` grows south, in meters from the north-west corner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from agrifm.data.chips import Georeference, write_chip
from agrifm.data.randomness import cut, field, key, mix, normal, smooth, uniform
from agrifm.errors import InputError
from agrifm.io import write_whole
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, MODIS, S2, Sensor
from agrifm.synthetic.phenology import BUILT, BY_COVER, FIRST_FIELD, WATER, WOODS, mixture, spectra

CLASSES: tuple[tuple[str, str], ...] = (
    ("other", "#9a9a9a"),
    ("winter wheat", "#e3b23c"),
    ("maize", "#e8743b"),
    ("rapeseed", "#f4e409"),
    ("sugar beet", "#b0508f"),
    ("grassland", "#6fb556"),
)
RICE = ("paddy rice", "#44aa99")  # one more class, on land that has it
GRID = 10.0  # meters per pixel of the label
_FIRST_DAY, _LAST_DAY = 64, 302  # early March to late October
ORBIT = 4  # columns of chips that see the same dates


@dataclass(frozen=True)
class Ground:
    """What lies on a chip ``(h, w)``: number of the parcel, cover (see ``phenology``), position along the parcel."""

    xs: np.ndarray
    ys: np.ndarray
    parcel: np.ndarray
    cover: np.ndarray
    along: np.ndarray

    @property
    def label(self) -> np.ndarray:
        """Indices into ``Landscape.classes`` ``(h, w)``."""
        return BY_COVER["label"][self.cover]

    @property
    def fields(self) -> np.ndarray:
        """Numbers of fields ``(h, w)``: connected pieces of parcels, from 1; 0 where there is none."""
        found, count = np.zeros(self.parcel.shape, np.int32), 0
        for number in np.unique(self.parcel[self.parcel != 0]):
            part, more = ndimage.label(self.parcel == number)
            found[part > 0] = part[part > 0] + count
            count += more
        return found


@dataclass(frozen=True)
class Landscape:
    """A farmland of ``rows`` by ``columns`` chips; equal seeds give equal land.

    Args:
        seed: Decides everything random.
        rows: Chips from north to south.
        columns: Chips from west to east.
        size: Pixels of 10 m along one side of a chip.
        year: Year of all dates, which lie between early March and late October.
        frames: How many dates a sensor has, by name; one that is not named has 16.
        noise: Scales the pixel-to-pixel scatter of growth and of measurement; 0 is a clean picture.
        cloudiness: Share of the dates that are not clear, half of which are nearly overcast.
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
        """Where the label of a chip lies: UTM zone 31 north, north up."""
        step = self.size * GRID
        return Georeference("EPSG:32631", (GRID, 0.0, 480_000 + column * step, 0.0, -GRID, 5_530_000 - row * step))

    def splits(self) -> dict[str, list[tuple[int, int]]]:
        """Chips ``(row, column)`` of train, val and test: blocks of whole columns, west to east.

        One column of chips between two blocks stays unused, so that no parcel lies in two of them. Of the
        remaining columns train gets ten, val three and test four parts of seventeen.

        Raises:
            InputError: If fewer than five columns.
        """
        if self.columns < 5:
            raise InputError(
                "Landscape: columns",
                found=str(self.columns),
                expected="at least 5: train, a gap, val, a gap, test",
                repair="ask for more columns.",
            )
        val, test = (max(1, round((self.columns - 2) * part / 17)) for part in (3, 4))
        train = self.columns - 2 - val - test
        first = {"train": (0, train), "val": (train + 1, val), "test": (train + val + 2, test)}
        return {
            split: [(row, column) for row in range(self.rows) for column in range(start, start + count)]
            for split, (start, count) in first.items()
        }

    def days(self, sensor: Sensor, column: int) -> np.ndarray:
        """Days of the year ``(t)`` on which the orbit over a column of chips passes; an orbit is four wide.

        Raises:
            InputError: If the season has fewer days than dates are wanted.
        """
        count = dict(self.frames).get(sensor.name, 16)
        rng = np.random.default_rng([self.seed, key(sensor.name), column // ORBIT])
        revisit = max(1, min(8, (_LAST_DAY - _FIRST_DAY) // count // 2))
        passes = np.arange(_FIRST_DAY + rng.integers(revisit), _LAST_DAY, revisit)
        if not 1 <= count <= len(passes):
            raise InputError(
                f"Landscape: frames of {sensor.name}",
                found=str(count),
                expected=f"1 to {len(passes)}",
                repair="ask for fewer dates.",
            )
        return np.sort(rng.choice(passes, count, replace=False))

    def ground(self, row: int, column: int) -> Ground:
        """Parcels and what covers them on the label's grid of a chip.

        Districts around villages each have a direction; strips along it are cut into parcels.
        """
        steps = (np.arange(self.size) + 0.5) * GRID
        xs, ys = column * self.size * GRID + steps, row * self.size * GRID + steps
        x, y = np.meshgrid(xs, ys)
        district, village, border = _districts(self.seed, x, y)
        angle = np.pi * uniform(self.seed, 11, *district)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        strip, _, edge = cut(v / 210, self.seed, 12, *district)
        length = 300 + 260 * uniform(self.seed, 13, *district, strip)
        piece, along, _ = cut(u / length, self.seed, 14, *district, strip)
        parcel = mix(self.seed, *district, strip, piece).view(np.int64)
        shares = np.cumsum(BY_COVER["share"] * (BY_COVER["label"] < len(self.classes)))
        cover = np.searchsorted(shares, uniform(parcel, 1) * shares[-1], side="right")
        lane = (border < 14) | ((edge * 210 < 10) & (uniform(self.seed, 15, *district, strip) < 0.4))
        lined = lane & (uniform(self.seed, 16, *district) < 0.5)  # with trees
        woods = field(xs, ys, 1900, self.seed, 21) + 0.35 * field(xs, ys, 350, self.seed, 22) > 1.0
        river = field(xs, ys, 2600, self.seed, 23) + 0.15 * field(xs, ys, 500, self.seed, 24)
        built = village < (90 + 190 * uniform(self.seed, 17, *district)) * (0.5 + field(xs, ys, 120, self.seed, 25))
        for kind, where in ((BUILT, lane), (WOODS, woods | lined), (BUILT, built), (WATER, abs(river - 0.58) < 0.008)):
            cover = np.where(where, kind, cover)
        tilled = cover >= FIRST_FIELD
        return Ground(xs, ys, np.where(tilled, parcel, 0), cover, np.where(tilled, along, 0.5))

    def sky(self, row: int, column: int, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
        """Opacity of the clouds and of their shadows in 0..1 ``(t, h, w)`` on the label's grid."""
        days, ground = self.days(sensor, column), self.ground(row, column)
        keys = np.array([key(sensor.name, column // ORBIT, int(day)) for day in days])
        kind, degree = uniform(self.seed, 31, keys), uniform(self.seed, 32, keys)
        threshold = np.where(kind < 0.5 * self.cloudiness, 0.05 + 0.25 * degree, 0.42 + 0.28 * degree)
        threshold = np.where(kind < self.cloudiness, threshold, 2.0)[:, None, None]

        def opacity(east: float, south: float) -> np.ndarray:
            xs, ys = ground.xs + east, ground.ys + south
            sizes = ((2400, 0.5, 33), (800, 0.32, 34), (260, 0.18, 35))
            cloud = sum(part * field(xs, ys, size, self.seed, number, keys) for size, part, number in sizes)
            return smooth((cloud - threshold) / 0.10)

        return opacity(0, 0), opacity(130, 190)  # the sun stands in the south-east

    def sample(self, row: int, column: int, sensors: Sequence[Sensor]) -> Sample:
        """One chip as the sensors see it, in stored digital numbers, with dates, imperfect masks and the truth.

        A sensor has the whole number of pixels along a side that comes nearest to its own pixel size.

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
        ground, new_year = self.ground(row, column), np.datetime64(f"{self.year}-01-01", "D").astype(int)
        seen = {sensor.name: self._observe(row, column, ground, sensor) for sensor in sensors}
        return Sample(
            images={name: torch.from_numpy(image) for name, (image, _) in seen.items()},
            dates={s.name: torch.from_numpy(new_year + self.days(s, column) - 1) for s in sensors},
            valid={name: torch.from_numpy(clear) for name, (_, clear) in seen.items()},
            label=torch.from_numpy(ground.label),
            name=self.name(row, column),
        )

    def _observe(self, row: int, column: int, ground: Ground, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
        """Digital numbers ``(t, c, h, w)`` and mask ``(t, h, w)`` of one sensor."""
        area = _averaging(self.size, sensor.gsd)
        cloud, shadow = (area @ part @ area.T for part in self.sky(row, column, sensor))
        late, vigor, soil = self._growth(row, column, ground)
        day = self.days(sensor, column)[:, None, None] - late
        parts = area @ mixture(ground.cover, ground.parcel, day, vigor, soil) @ area.T
        seen = np.einsum("mthw,mc->tchw", parts, spectra(sensor.bands), optimize=True)
        seen *= (1 - 0.55 * shadow * (1 - cloud))[:, None]
        seen += cloud[:, None] * (spectra(sensor.bands, ["cloud"])[0][:, None, None] - seen)
        rng = np.random.default_rng([self.seed, row, column, key(sensor.name)])
        noise = self.noise * min(1.0, GRID / sensor.gsd) ** 0.5  # larger pixels average the scatter away
        seen *= 1 + 0.10 * noise * rng.standard_normal(cloud.shape)[:, None]
        seen += 0.016 * noise * rng.standard_normal(seen.shape)  # of each date
        seen += 0.026 * noise * rng.standard_normal(seen.shape[1:])  # of the place
        doubt = 0.12 * rng.random(cloud.shape)
        return stored(seen, sensor), (cloud < 0.04 + doubt) & (shadow < 0.20 + doubt)

    def _growth(self, row: int, column: int, ground: Ground) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Days of delay, vigor and brightness of the ground ``(h, w)``: by region, parcel, gradient and pixel."""
        xs, ys, parcel = ground.xs, ground.ys, ground.parcel
        rng = np.random.default_rng([self.seed, row, column])
        scatter = self.noise * rng.standard_normal((3, *parcel.shape))
        slope = ground.along - 0.5
        late = 0.0003 * (xs - ys[:, None]) + 6 * (field(xs, ys, 5000, self.seed, 41) - 0.5)
        late = late + 4 * normal(parcel, 2) + 5 * slope * normal(parcel, 3) + 28 * scatter[0]
        vigor = 0.92 + 0.08 * normal(parcel, 4) + 0.1 * slope * normal(parcel, 5)
        vigor = vigor + 0.25 * (field(xs, ys, 300, self.seed, 42) - 0.5) + 0.16 * scatter[1]
        soil = 0.7 + 0.6 * field(xs, ys, 1500, self.seed, 43) + 0.08 * normal(parcel, 6) + 0.1 * scatter[2]
        return late, np.clip(vigor, 0.3, 1.05), np.clip(soil, 0.4, 1.6)


def write_example(
    root: Path,
    landscape: Landscape | None = None,
    sensors: Sequence[Sensor] = (S2, LANDSAT, MODIS),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``h5_samples/<name>.h5`` and ``data_lists/{train,val,test}.txt``, split by ``Landscape.splits``.

    Args:
        root: Folder to write into.
        landscape: What to write; the default one gives 40, 12 and 16 chips.
        sensors: Who looks at it.
        progress: Called after every chip with the number written and the number of all.

    Raises:
        InputError: If the landscape has too few columns to split.
    """
    landscape = landscape or Landscape()
    splits = landscape.splits()
    chips = [chip for split in splits.values() for chip in split]
    for done, chip in enumerate(chips, start=1):
        path = root / "h5_samples" / f"{landscape.name(*chip)}.h5"
        write_chip(
            path, landscape.sample(*chip, sensors), sensors, landscape.place(*chip), landscape.ground(*chip).fields
        )
        if progress is not None:
            progress(done, len(chips))
    for split, members in splits.items():  # last: a list promises that its chips are there
        write_whole(root / "data_lists" / f"{split}.txt", "".join(f"{landscape.name(*chip)}\n" for chip in members))


def _districts(
    seed: int, x: np.ndarray, y: np.ndarray, step: float = 1500.0
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Nearest of scattered villages, and distances to it and to the border with the next one, in meters."""
    i, j = (part.ravel()[:, None, None] for part in np.mgrid[-1:2, -1:2])
    i, j = i + np.floor(x / step).astype(int), j + np.floor(y / step).astype(int)
    east, south = (i + uniform(seed, 1, i, j)) * step, (j + uniform(seed, 2, i, j)) * step
    distance = np.hypot(east - x, south - y)
    order = np.argsort(distance, axis=0)[:2]
    near, second = np.take_along_axis(distance, order, 0)
    i, j = (np.take_along_axis(part, order[:1], 0)[0] for part in (i, j))
    return (i, j), near, (second - near) / 2


def _averaging(size: int, gsd: float) -> np.ndarray:
    """Weights ``(n, size)`` that average label pixels to a sensor's; each sees a little of its neighbors."""
    count = max(1, round(size * GRID / gsd))
    width = size / count
    centers, pixel = (np.arange(count)[:, None] + 0.5) * width, np.arange(size)
    low, high = centers - 0.65 * width, centers + 0.65 * width
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return overlap / overlap.sum(1, keepdims=True)


def stored(reflectance: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Digital numbers: unsigned unless the sensor's no-data is negative, and never no-data itself."""
    dtype = np.uint16 if (sensor.nodata or 0) >= 0 else np.int16
    numbers = 16 * np.rint((reflectance - sensor.offset) / sensor.scale / 16)  # finer steps are noise on disk
    return np.clip(numbers, 1, np.iinfo(dtype).max).astype(dtype)
