"""Scene: dated rasters of several sensors over one footprint, read only where and when they are needed.

Every sensor keeps a grid of its own: pixels as many times larger than the scene's as its ground sampling
distance asks for (Landsat 3, MODIS 50 on a grid of 10 m), all counted from the scene's upper left corner.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import Field

from agrifm.data.chips import Georeference
from agrifm.errors import InputError
from agrifm.rasters.cube_band import CubeBand
from agrifm.rasters.file_band import FileBand
from agrifm.rasters.grid import check_grid, pixel_size
from agrifm.rasters.pixels import Pixels, whole_numbers
from agrifm.sample import Sample, days_since_epoch
from agrifm.scenes.quality import Quality
from agrifm.scenes.units import OF_SENSOR, Units
from agrifm.sensors import Sensor

READERS = 8  # files read at the same time; they wait for disk and network, not for the processor

Raster = Annotated[FileBand | CubeBand, Field(discriminator="kind")]


@dataclass(frozen=True)
class ReflectanceLimits:
    """Reflectance that land can have; pixels with any other do not count as seen.

    Args:
        low, high: Limits of reflectance.
        most: Largest share of such pixels, among those with data, on a date that is used at all.
    """

    low: float = -0.2
    high: float = 1.6
    most: float = 0.2

    def stored(self, units: Units) -> tuple[float, float]:
        """The limits as stored numbers."""
        low, high = sorted((limit - units.offset) / units.scale for limit in (self.low, self.high))
        return round(low, 6), round(high, 6)


@dataclass(frozen=True)
class FramePixels:
    """What a frame saw on a grid.

    Args:
        image: ``(c, h, w)`` in the sensor's numbers, its no-data value where nothing is there.
        there: ``(h, w)`` where there are data.
        clear: ``(h, w)`` where the ground was seen clearly.
        impossible: ``(h, w)`` where it would be clear, but no land reflects like that.
    """

    image: np.ndarray
    there: np.ndarray
    clear: np.ndarray
    impossible: np.ndarray


class MissingPixels:
    """Which pixels are not there, gathered band by band.

    One missing band is enough, except where nothing but 0 marks missing pixels: very dark ground is 0 in single bands
    too, so there all bands must be. ``Sensor.unseen`` is the same rule for chips.
    """

    def __init__(self, sensor: Sensor, box: GeoBox) -> None:
        self.dark = no_data(sensor) == 0
        self.any_band, self.all_bands = np.zeros(box.shape, bool), np.ones(box.shape, bool)

    def add(self, pixels: Pixels) -> None:
        """Take in another band."""
        self.all_bands &= pixels.missing
        if not (self.dark and pixels.zero_marks):
            self.any_band |= pixels.missing

    def there(self) -> np.ndarray:
        """Where all that must be there is."""
        return ~(self.any_band | self.all_bands)


@dataclass(frozen=True)
class Frame:
    """One look of a sensor at one day.

    Args:
        name: Name of the product or item, for people and for the provenance.
        day: Day of the acquisition.
        bands: Bands by the sensor's band ids.
        quality: What tells clear ground from cloud; without it all that is not no-data counts as clear.
        units: Units of the stored numbers.
        possible: Limits of reflectance.
    """

    name: str
    day: dt.date
    bands: dict[str, Raster]
    quality: Quality | None = None
    units: Units = OF_SENSOR
    possible: ReflectanceLimits = ReflectanceLimits()

    def read(self, sensor: Sensor, box: GeoBox) -> FramePixels:
        """What the frame saw, in the sensor's numbers.

        Raises:
            InputError: If a file cannot be read.
        """
        fill, shape = no_data(sensor), (len(sensor.bands), *box.shape)
        image, absent = np.empty(shape, stored_dtype(sensor)), MissingPixels(sensor, box)
        limits, odd = self.possible.stored(self.units), np.zeros(box.shape, bool)
        for i, band in enumerate(sensor.band_ids):
            pixels = self.bands[band].read(box, limits=limits)
            absent.add(pixels)
            odd |= pixels.outside(limits)
            # Under a missing pixel anything may stand; a 0 there is dark ground if other bands have data.
            image[i] = _to_sensor(pixels.filled(0), self.units, sensor)
        there = absent.there()
        image[:, ~there] = fill
        clear = there if self.quality is None else np.logical_and(there, self.quality.clear(box))
        return FramePixels(image, there, clear & ~odd, clear & odd)

    @property
    def hrefs(self) -> frozenset[str]:
        """All files of this frame."""
        quality = () if self.quality is None else (self.quality.raster,)
        return frozenset(raster.href for raster in (*self.bands.values(), *quality))


@dataclass(frozen=True)
class Layer:
    """All frames of one sensor, by day. Frames of one day are parts of one picture."""

    sensor: Sensor
    frames: tuple[Frame, ...]

    @cached_property
    def days(self) -> tuple[dt.date, ...]:
        """The days on which the sensor looked."""
        return tuple(sorted({frame.day for frame in self.frames}))

    def on(self, day: dt.date) -> Iterator[Frame]:
        """The frames of a day."""
        return (frame for frame in self.frames if frame.day == day)

    def within(self, possible: ReflectanceLimits) -> Layer:
        """The layer with other limits of reflectance."""
        return replace(self, frames=tuple(replace(frame, possible=possible) for frame in self.frames))

    def until(self, day: dt.date) -> Layer:
        """Only what was there on that day."""
        return replace(self, frames=tuple(frame for frame in self.frames if frame.day <= day))


@dataclass(frozen=True)
class Area:
    """A rectangle of the scene's grid, in pixels; it may reach beyond the scene."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class Scene:
    """Dated rasters of several sensors over one footprint.

    Args:
        layers: One for each sensor.
        grid: Grid of the finest sensor, or as asked for; maps lie on it.
        name: Name for people.
        skipped: Files that could not be read and were left out on request.
    """

    layers: tuple[Layer, ...]
    grid: GeoBox
    name: str = "scene"
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_grid(self.grid, f"scene {self.name}")

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Who looks."""
        return tuple(layer.sensor for layer in self.layers)

    @property
    def resolution(self) -> float:
        """Meters per pixel of the grid; the mean of both directions where they differ, as they do in degrees."""
        across, down = pixel_size(self.grid)
        return across if across == down else math.sqrt(across * down)

    @property
    def pixel_bytes(self) -> float:
        """Memory that one pixel of the grid takes while it is read: all frames and bands, and their masks."""
        layers = ((layer, self.factor(layer.sensor)) for layer in self.layers)
        return sum(len(layer.frames) * (2 * len(layer.sensor.bands) + 1) / factor**2 for layer, factor in layers)

    def factor(self, sensor: Sensor) -> int:
        """How many of the scene's pixels lie along one of the sensor's."""
        return max(1, round(sensor.gsd / self.resolution))

    def until(self, day: dt.date) -> Scene:
        """The scene as it was known on that day.

        Raises:
            InputError: If there is no image up to that day.
        """
        layers = tuple(layer for layer in (layer.until(day) for layer in self.layers) if layer.frames)
        if not layers:
            first = min(layer.days[0] for layer in self.layers)
            raise InputError(
                f"--as-of {day}",
                found=f"no image up to that day; the first is of {first}",
                expected="at least one image",
                repair="give a later date.",
            )
        return replace(self, layers=layers)

    def only(self, names: tuple[str, ...]) -> Scene:
        """The scene with these sensors, as far as they are there, on the grid of the finest of them."""
        layers = tuple(layer for layer in self.layers if layer.sensor.name in names)
        factor = min((self.factor(layer.sensor) for layer in layers), default=1)
        height, width = self.grid.shape
        grid = (
            self.grid
            if factor == 1
            else sub_box(self.grid, factor, (0, 0), (-(-height // factor), -(-width // factor)))
        )
        return replace(self, layers=layers, grid=grid)

    def without(self, href: str) -> Scene:
        """The scene without the frames that need a file, which is noted."""
        layers = [
            replace(layer, frames=tuple(frame for frame in layer.frames if href not in frame.hrefs))
            for layer in self.layers
        ]
        kept = tuple(layer for layer in layers if layer.frames)
        return replace(self, layers=kept, skipped=(*self.skipped, href))

    def place(self, area: Area) -> Georeference:
        """Where an area lies, as chips and maps store it."""
        affine = self.grid.affine @ Affine.translation(area.column, area.row)
        return Georeference(str(self.grid.crs), tuple(affine)[:6])

    def read(self, area: Area) -> Tile:
        """Read an area of every sensor; the tile covers it, and a little more where pixels are large.

        Raises:
            InputError: If a file cannot be read.
        """
        with ThreadPoolExecutor(READERS) as pool:
            return Tile(area, {layer.sensor.name: self._read(layer, area, pool) for layer in self.layers})

    def _read(self, layer: Layer, area: Area, pool: ThreadPoolExecutor) -> Stack:
        sensor, factor = layer.sensor, self.factor(layer.sensor)
        first = area.row // factor, area.column // factor
        end = -(-(area.row + area.height) // factor), -(-(area.column + area.width) // factor)
        box = sub_box(self.grid, factor, first, end)
        looks = pool.map(lambda frame: frame.read(sensor, box), layer.frames)
        stack = Stack.empty(layer, box, first, factor)
        for frame, seen in zip(layer.frames, looks, strict=True):
            stack.add(layer.days.index(frame.day), seen)
        return stack


@dataclass(frozen=True)
class Stack:
    """What one sensor saw of a tile.

    Args:
        images: ``(t, c, h, w)`` in the sensor's numbers.
        clear: ``(t, h, w)``.
        days: ``(t)`` since 1970-01-01.
        first: Row and column of its first pixel on the sensor's grid.
        factor: How many of the scene's pixels lie along one of its own.
        there: ``(t, h, w)`` where there are data.
        impossible: ``(t, h, w)`` where it would be clear, but no land reflects like that.
    """

    images: np.ndarray
    clear: np.ndarray
    days: np.ndarray
    first: tuple[int, int]
    factor: int
    there: np.ndarray
    impossible: np.ndarray

    @classmethod
    def empty(cls, layer: Layer, box: GeoBox, first: tuple[int, int], factor: int) -> Stack:
        """All days of a layer, of which nothing has been read yet."""
        sensor, count = layer.sensor, len(layer.days)
        images = np.full((count, len(sensor.bands), *box.shape), no_data(sensor), stored_dtype(sensor))
        clear, there, impossible = (np.zeros((count, *box.shape), bool) for _ in range(3))
        days = days_since_epoch([day.isoformat() for day in layer.days]).numpy()
        return cls(images, clear, days, first, factor, there, impossible)

    def add(self, step: int, seen: FramePixels) -> None:
        """Put a frame into the picture of its day; clear pixels come before others, whatever the order of frames."""
        there, clear = self.there[step], self.clear[step]
        new = (seen.there & ~there) | (seen.clear & ~clear)
        self.images[step][:, new] = seen.image[:, new]
        self.impossible[step][new] = seen.impossible[new]
        clear[new], there[new] = seen.clear[new], True

    def impossible_pixels(self) -> dict[dt.date, tuple[int, int]]:
        """By day: pixels that would be clear if land could reflect like that, and those with all that are clear."""
        odd, clear = (mask.sum((1, 2)) for mask in (self.impossible, self.clear))
        counts = zip(odd.tolist(), (odd + clear).tolist(), strict=True)
        return dict(zip(map(_date, self.days.tolist()), counts, strict=True))

    def under(self, area: Area) -> tuple[np.ndarray, np.ndarray]:
        """Rows ``(n, 1)`` and columns ``(m)`` of the pixels under an area."""
        return self._positions(area.row, area.height, 0)[:, None], self._positions(area.column, area.width, 1)

    def _positions(self, start: int, count: int, axis: int) -> np.ndarray:
        """Positions of the sensor's pixels under ``count`` of the scene's pixels from ``start`` on.

        Their number is the one a chip of that size has; each is the pixel under the center of its share.
        """
        n = max(1, round(count / self.factor))
        centers = start + (np.arange(n) + 0.5) * (count / n)
        return np.floor(centers / self.factor).astype(int) - self.first[axis]


@dataclass(frozen=True)
class Tile:
    """A part of a scene in memory, from which samples are cut."""

    area: Area
    stacks: dict[str, Stack] = field(default_factory=dict)

    def cut(self, area: Area, name: str = "") -> Sample:
        """The sample of an area inside the tile: each sensor with the number of pixels a chip of that size has."""
        images, dates, valid = {}, {}, {}
        for key, stack in self.stacks.items():
            rows, columns = stack.under(area)
            image = stack.images[:, :, rows, columns]
            images[key] = torch.from_numpy(image.astype(np.int32) if image.dtype == np.uint16 else image)
            valid[key] = torch.from_numpy(stack.clear[:, rows, columns])
            dates[key] = torch.from_numpy(stack.days)
        return Sample(images, dates, valid, name=name)

    def seen(self, area: Area) -> bool:
        """Whether any sensor saw any of an area inside the tile."""
        return any(bool(stack.clear[:, *stack.under(area)].any()) for stack in self.stacks.values())


def sub_box(grid: GeoBox, factor: int, first: tuple[int, int], end: tuple[int, int]) -> GeoBox:
    """Rows and columns from ``first`` to before ``end`` of the grid whose pixels are ``factor`` times larger."""
    affine = grid.affine @ Affine.scale(factor) @ Affine.translation(first[1], first[0])
    return GeoBox((end[0] - first[0], end[1] - first[1]), affine, grid.crs)


def no_data(sensor: Sensor) -> float:
    """What stands where the sensor has no pixel."""
    return 0 if sensor.nodata is None else sensor.nodata


def stored_dtype(sensor: Sensor) -> type:
    """What holds the sensor's numbers."""
    if np.isnan(no_data(sensor)):
        return np.float32
    return np.uint16 if no_data(sensor) >= 0 else np.int16


def _date(day: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(day)


def _to_sensor(stored: np.ndarray, units: Units, sensor: Sensor) -> np.ndarray:
    """Stored numbers to the sensor's; what would fall on no-data or out of range stays just inside."""
    scale, shift = units.scale / sensor.scale, (units.offset - sensor.offset) / sensor.scale
    plain, fill = abs(scale - 1) < 1e-9 and abs(shift) < 1e-9, no_data(sensor)
    if np.isnan(fill):
        return stored if plain else stored * scale + shift
    kind = np.dtype(stored_dtype(sensor))
    lowest, highest = whole_numbers(kind)
    lowest = max(lowest, int(fill) + 1) if fill <= 0 else lowest
    if not (plain and stored.dtype.kind in "iu"):
        stored = np.rint(stored.astype(np.float64) * scale + shift)
    elif stored.dtype != kind:
        stored = stored.astype(np.int64)
    found = np.clip(stored, lowest, highest)
    if fill > 0:
        found[found == fill] -= 1
    return found
