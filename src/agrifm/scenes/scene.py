"""Scene: dated rasters of several sensors over one footprint, read only where and when they are needed."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import Field

from agrifm.addresses import is_address
from agrifm.data.georeference import Georeference
from agrifm.errors import InputError
from agrifm.rasters.bands import read_rasters
from agrifm.rasters.cube_band import CubeBand
from agrifm.rasters.file_band import FileBand
from agrifm.rasters.grid import check_grid, pixel_size
from agrifm.rasters.pixels import Pixels
from agrifm.scenes.frame_pixels import (
    LAND,
    FramePixels,
    MissingPixels,
    ReflectanceLimits,
    fill_value,
    stored_dtype,
    to_sensor_numbers,
)
from agrifm.scenes.quality import Quality
from agrifm.scenes.tile import Area, Stack, Tile, sub_box
from agrifm.scenes.units import OF_SENSOR, Units
from agrifm.sensors import Sensor

READERS = 8  # files read at the same time, if threads wait for the network
LOCAL_READERS = 4  # local files are mostly decoded, so that more threads would only take more memory

Raster = Annotated[FileBand | CubeBand, Field(discriminator="kind")]


@dataclass(frozen=True)
class Frame:
    """One observation of a sensor: the bands of one product on one day.

    Args:
        name: Name of the product or item, for people and for the provenance.
        day: Day of the acquisition.
        bands: Rasters by band id of the sensor.
        quality: Quality layer; without it all pixels with data count as clear.
        units: Units of the stored numbers.
        possible: Limits of reflectance.
    """

    name: str
    day: dt.date
    bands: dict[str, Raster]
    quality: Quality | None = None
    units: Units = OF_SENSOR
    possible: ReflectanceLimits = LAND

    def read(self, sensor: Sensor, box: GeoBox, into: FramePixels | None = None) -> FramePixels:
        """Read the frame on a grid, in the numbers of the sensor.

        Args:
            sensor: The sensor.
            box: The grid.
            into: Receives the pixels; by default new memory does.

        Raises:
            InputError: If a file cannot be read.
        """
        if into is None:
            into = FramePixels.empty((len(sensor.bands), *box.shape), fill_value(sensor), stored_dtype(sensor))
        limits = self.possible.stored(self.units)
        missing = MissingPixels(sensor, box)
        outside = np.zeros(box.shape, bool)

        def add(position: int, pixels: Pixels) -> None:
            nonlocal outside
            missing.add(pixels)
            outside |= pixels.outside(limits)
            # A missing pixel may hold any number; a 0 there is dark ground if other bands have data.
            to_sensor_numbers(pixels.filled(0), self.units, sensor, out=into.image[position])

        # Where pixels are averaged, those outside the limits are left out.
        read_rasters([self.bands[band] for band in sensor.band_ids], box, add, limits)
        has_data = missing.has_data()
        np.copyto(into.image, fill_value(sensor), where=~has_data, casting="unsafe")
        clear = has_data & self.clear_mask(box)
        into.has_data[...] = has_data
        np.logical_and(clear, ~outside, out=into.clear)
        np.logical_and(clear, outside, out=into.impossible)
        return into

    def clear_mask(self, box: GeoBox) -> np.ndarray:
        """Return what the quality layer calls clear on a grid ``(h, w)``; everything if there is none.

        Raises:
            InputError: If a file cannot be read.
        """
        if self.quality is None:
            return np.ones(box.shape, bool)
        return self.quality.clear(box)

    @property
    def hrefs(self) -> frozenset[str]:
        """Paths and addresses of all files of the frame."""
        rasters = list(self.bands.values())
        if self.quality is not None:
            rasters.append(self.quality.raster)
        return frozenset(raster.href for raster in rasters)


@dataclass(frozen=True)
class Layer:
    """All frames of one sensor, by day. Frames of one day are parts of one image."""

    sensor: Sensor
    frames: tuple[Frame, ...]

    @cached_property
    def days(self) -> tuple[dt.date, ...]:
        """Days with at least one frame, in order."""
        return tuple(sorted({frame.day for frame in self.frames}))

    def on(self, day: dt.date) -> Iterator[Frame]:
        """Iterate over the frames of a day."""
        return (frame for frame in self.frames if frame.day == day)

    def with_limits(self, limits: ReflectanceLimits) -> Layer:
        """Return the layer with other limits of reflectance."""
        frames = [replace(frame, possible=limits) for frame in self.frames]
        return replace(self, frames=tuple(frames))

    def until(self, day: dt.date) -> Layer:
        """Return the layer without frames after a day."""
        frames = [frame for frame in self.frames if frame.day <= day]
        return replace(self, frames=tuple(frames))

    def without(self, href: str) -> Layer:
        """Return the layer without the frames that need a file."""
        frames = [frame for frame in self.frames if href not in frame.hrefs]
        return replace(self, frames=tuple(frames))


@dataclass(frozen=True)
class Scene:
    """Dated rasters of several sensors over one footprint.

    Args:
        layers: Frames of each sensor.
        grid: Grid of the finest sensor, or the one that the user asked for; maps lie on it.
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
        """Sensors of the scene."""
        return tuple(layer.sensor for layer in self.layers)

    @property
    def resolution(self) -> float:
        """Meters per pixel of the grid; the mean of both directions where they differ, as they do in degrees."""
        across, down = pixel_size(self.grid)
        return across if across == down else math.sqrt(across * down)

    @property
    def pixel_bytes(self) -> float:
        """Memory that one pixel of the grid takes while it is read: all frames and bands, and their masks."""
        total = 0.0
        for layer in self.layers:
            bytes_per_frame = 2 * len(layer.sensor.bands) + 1
            total += len(layer.frames) * bytes_per_frame / self.factor(layer.sensor) ** 2
        return total

    def factor(self, sensor: Sensor) -> int:
        """Return the number of pixels of the scene along one pixel of the sensor."""
        return max(1, round(sensor.gsd / self.resolution))

    def until(self, day: dt.date) -> Scene:
        """Return the scene as it was known on a day.

        Raises:
            InputError: If there is no image up to that day.
        """
        layers = [layer.until(day) for layer in self.layers]
        layers = [layer for layer in layers if layer.frames]
        if not layers:
            first = min(layer.days[0] for layer in self.layers)
            raise InputError(
                f"--as-of {day}",
                found=f"no image up to that day; the first is of {first}",
                expected="at least one image",
                repair="give a later date.",
            )
        return replace(self, layers=tuple(layers))

    def only(self, names: tuple[str, ...]) -> Scene:
        """Return the scene with those of the named sensors that it has, on the grid of the finest of them."""
        layers = tuple(layer for layer in self.layers if layer.sensor.name in names)
        factor = min((self.factor(layer.sensor) for layer in layers), default=1)
        grid = self.grid
        if factor > 1:
            rows, columns = grid.shape
            end = (math.ceil(rows / factor), math.ceil(columns / factor))
            grid = sub_box(grid, factor, (0, 0), end)
        return replace(self, layers=layers, grid=grid)

    def without(self, href: str) -> Scene:
        """Return the scene without the frames that need a file, which ``skipped`` then names."""
        layers = [layer.without(href) for layer in self.layers]
        layers = [layer for layer in layers if layer.frames]
        return replace(self, layers=tuple(layers), skipped=(*self.skipped, href))

    def georeference(self, area: Area) -> Georeference:
        """Return the georeference of an area, as chips and maps store it."""
        affine = self.grid.affine @ Affine.translation(area.column, area.row)
        return Georeference(str(self.grid.crs), tuple(affine)[:6])

    def read(self, area: Area) -> Tile:
        """Read an area of every sensor; the tile covers it, and a little more where pixels are large.

        Raises:
            InputError: If a file cannot be read.
        """
        with ThreadPoolExecutor(READERS if self._remote else LOCAL_READERS) as pool:
            stacks = {layer.sensor.name: self._read_layer(layer, area, pool) for layer in self.layers}
        return Tile(area, stacks)

    @property
    def _remote(self) -> bool:
        """Whether a file of the scene is read over the network."""
        return any(is_address(href) for layer in self.layers for frame in layer.frames for href in frame.hrefs)

    def _read_layer(self, layer: Layer, area: Area, pool: ThreadPoolExecutor) -> Stack:
        factor = self.factor(layer.sensor)
        # All pixels of the sensor that the area touches, counted from the corner of the scene.
        first = (area.row // factor, area.column // factor)
        end_row = math.ceil((area.row + area.height) / factor)
        end_column = math.ceil((area.column + area.width) / factor)
        box = sub_box(self.grid, factor, first, (end_row, end_column))
        stack = Stack.empty(layer.sensor, layer.days, box, first, factor)
        frames_on = Counter(frame.day for frame in layer.frames)

        def read(frame: Frame) -> FramePixels:
            # The only frame of its day is read to its place, without a copy.
            day = stack.day(layer.days.index(frame.day)) if frames_on[frame.day] == 1 else None
            return frame.read(layer.sensor, box, day)

        for frame, pixels in zip(layer.frames, pool.map(read, layer.frames), strict=True):
            if frames_on[frame.day] > 1:
                stack.day(layer.days.index(frame.day)).merge(pixels)
        return stack
