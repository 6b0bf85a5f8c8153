"""One chip as the viewer shows it: its images, its label and its place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from rasterio.warp import transform

from agrifm.data.chips import read_chip
from agrifm.data.folder import ChipFolder
from agrifm.data.georeference import read_grid
from agrifm.data.growing_season import date_of
from agrifm.data.hdf5 import open_chip
from agrifm.sample import Sample
from agrifm.sensors import Sensor
from agrifm.viewer.images import ndvi_of
from agrifm.viewer.place import DEGREES

KEPT = 16  # chips in memory


@dataclass(frozen=True)
class Chip:
    """A chip of a split."""

    folder: ChipFolder
    index: int
    split: str

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.names[self.index]

    def read(self) -> Sample:
        """Read its images; the latest chips stay in memory.

        Raises:
            InputError: If it cannot be read.
        """
        return _read(self.folder, self.index)

    def sensors_of(self, sample: Sample) -> list[Sensor]:
        """Return the sensors that the chip has."""
        return [sensor for sensor in self.folder.sensors if sensor.name in sample.images]

    def label(self) -> np.ndarray | None:
        """Read its label, if there is one.

        Raises:
            InputError: If it cannot be read.
        """
        key = self.folder.label_key
        if not isinstance(key, str):
            return None
        with open_chip(self.folder.path(self.index), allow_links=self.folder.allow_links) as file:
            stored = file.find(key)
            return None if stored is None or stored.ndim != 2 else file.read(key, stored)

    def footprint(self) -> list[list[float]] | None:
        """Return its corners in degrees, closed; None if it has no place.

        Raises:
            InputError: If its place is invalid.
        """
        found = read_grid(self.folder.path(self.index), allow_links=self.folder.allow_links)
        if found is None:
            return None
        georeference, (rows, columns) = found
        a, b, c, d, e, f = georeference.transform
        corners = ((0, 0), (0, columns), (rows, columns), (rows, 0), (0, 0))
        xs = [a * column + b * row + c for row, column in corners]
        ys = [d * column + e * row + f for row, column in corners]
        longitudes, latitudes = transform(georeference.crs, DEGREES, xs, ys)
        places = [[longitude, latitude] for longitude, latitude in zip(longitudes, latitudes, strict=True)]
        return places if np.isfinite(places).all() else None


@lru_cache(maxsize=KEPT)
def _read(folder: ChipFolder, index: int) -> Sample:
    """Read the images of a chip with all frames."""
    path = folder.path(index)
    return read_chip(path, folder.sensors, label_key=None, allow_missing=True, allow_links=folder.allow_links)


def reflectance(sensor: Sensor, stored: np.ndarray) -> np.ndarray:
    """Return reflectance of stored numbers; bands lie along the axis before the pixels, or the last one."""
    axis = 0 if stored.ndim == 3 else 1
    missing = sensor.missing(torch.from_numpy(stored), axis).numpy()
    values = stored.astype(np.float64) * sensor.scale + sensor.offset
    return np.where(np.expand_dims(missing, axis), np.nan, values)


def class_series(sample: Sample, sensor: Sensor, label: np.ndarray) -> list[dict[str, Any]]:
    """Return the mean NDVI of the clear pixels of each class and date."""
    stored = sample.images[sensor.name].numpy()
    clear = sample.valid[sensor.name].numpy()
    height, width = stored.shape[2:]
    rows = np.arange(height) * label.shape[0] // height
    columns = np.arange(width) * label.shape[1] // width
    on_sensor = label[np.ix_(rows, columns)]
    lines = []
    for value in np.unique(on_sensor[on_sensor >= 0]).tolist():
        is_class = on_sensor == value
        means = np.full(stored.shape[:2], np.nan)
        for step in range(len(stored)):
            mask = is_class & clear[step]
            if mask.any():
                means[step] = reflectance(sensor, stored[step, :, mask]).mean(0)
        values = ndvi_of(sensor, means)
        if values is not None:
            lines.append({"class": value, "ndvi": values})
    return lines


def days_of(sample: Sample, sensor: Sensor) -> list[str] | None:
    """Return ISO dates of the frames; None if the chip has none."""
    days = sample.dates.get(sensor.name)
    if days is None:
        return None
    return [date_of(day).isoformat() for day in days.tolist()]


def opaque(image: np.ndarray) -> np.ndarray:
    """Add an alpha channel."""
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    return np.concatenate([image, alpha], axis=2)
