"""A scene as the viewer shows it: composites of any date on any grid, and the series of a pixel."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.checks.ground import near_infrared_band
from agrifm.errors import InputError, printable
from agrifm.pixels.features import LEAST_SUM
from agrifm.scenes.checks.pixels import overview
from agrifm.scenes.quicklook import (
    INFRARED,
    SHARE_PIXELS,
    TRUE_COLOR,
    composite_bands,
    read_composite,
    stretch_limits,
    stretched,
    veiled,
)
from agrifm.scenes.scene import Layer, Scene
from agrifm.scenes.tile import Area
from agrifm.sensors import Sensor
from agrifm.viewer.place import bounds_of, position_on, zoom_of

COMPOSITES = {"true color": TRUE_COLOR, "infrared": INFRARED}
REFERENCE_DATES = 6  # from which the stretch of a sensor is computed

Limits = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Images:
    """A scene, and what is computed from it once.

    Args:
        scene: The scene.
        note: Where the images come from, for the page.
    """

    scene: Scene
    note: str = ""
    _limits: dict[tuple[int, str], Limits] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """West, south, east and north in degrees.

        Raises:
            InputError: If the scene has no place in degrees.
        """
        return bounds_of(self.scene.grid, self.scene.name)

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of the scene: title, bounds, and the dates and composites of each sensor."""
        sensors = []
        for layer in self.scene.layers:
            days = [day.isoformat() for day in layer.days]
            composites = [name for name in COMPOSITES if _has_bands(layer.sensor, name)]
            sensors.append({"name": printable(layer.sensor.name), "days": days, "composites": composites})
        return {
            "title": printable(self.scene.name),
            "bounds": self.bounds,
            "zoom": zoom_of(self.scene.grid, self.bounds),
            "note": self.note,
            "composites": list(COMPOSITES),
            "sensors": sensors,
        }

    def layer(self, sensor: int, step: int) -> tuple[Layer, dt.date]:
        """Return a layer and one of its days by their numbers.

        Raises:
            IndexError: If there is none of that number.
        """
        layer = self.scene.layers[sensor]
        return layer, layer.days[step]

    def composite(self, sensor: int, step: int, name: str, box: GeoBox, *, veil: bool) -> np.ndarray:
        """Read a date as an image; all dates of a sensor have one stretch.

        Args:
            sensor: Number of the sensor.
            step: Number of the date.
            name: Composite, a key of ``COMPOSITES``.
            box: Grid of the image.
            veil: Draw a blue veil over pixels that are not clear.

        Returns:
            Red, green, blue and alpha ``(h, w, 4)`` uint8; pixels without data are transparent.

        Raises:
            InputError: If a file cannot be read.
        """
        layer, day = self.layer(sensor, step)
        pixels = read_composite(layer, day, box, COMPOSITES[name])
        image = stretched(np.nan_to_num(pixels.image), self.limits(sensor, name))
        if veil:
            image = veiled(image, pixels.clear)
        rgba = np.empty((*box.shape, 4), np.uint8)
        rgba[..., :3] = np.rint(image * 255)
        rgba[..., 3] = np.where(pixels.has_data, 255, 0)
        return rgba

    def limits(self, sensor: int, name: str) -> Limits:
        """Return the darkest and brightest reflectance of a composite, from a few dates of the season.

        Raises:
            InputError: If a file cannot be read.
        """
        with self._lock:  # tiles that are asked for at the same time wait for one computation
            if (sensor, name) not in self._limits:
                layer = self.scene.layers[sensor]
                box = overview(self.scene, layer.sensor, SHARE_PIXELS)
                composites = [read_composite(layer, day, box, COMPOSITES[name]) for day in _spread(layer.days)]
                self._limits[sensor, name] = stretch_limits(composites)
        return self._limits[sensor, name]

    def clear_share(self, sensor: int, step: int) -> float:
        """Return the share of clear pixels of a date, from a coarse grid.

        Raises:
            InputError: If a file cannot be read.
        """
        layer, day = self.layer(sensor, step)
        return read_composite(layer, day, overview(self.scene, layer.sensor, SHARE_PIXELS)).clear_share

    def series(self, longitude: float, latitude: float) -> list[dict[str, Any]] | None:
        """Return the series of every sensor at a place.

        Args:
            longitude: Degrees east.
            latitude: Degrees north.

        Returns:
            For each sensor its days, whether each is clear, and reflectance by band with None where data are missing;
            NDVI comes first if the sensor has its bands. None outside of the scene.

        Raises:
            InputError: If a file cannot be read.
        """
        position = position_on(self.scene.grid, longitude, latitude)
        if position is None:
            return None
        tile = self.scene.read(Area(position.row, position.column, 1, 1))
        found = []
        for layer in self.scene.layers:
            sensor = layer.sensor
            stack = tile.stacks[sensor.name]
            has_data = stack.has_data[:, 0, 0]
            stored = stack.images[:, :, 0, 0].astype(np.float64)
            reflectance = np.where(has_data[:, None], stored * sensor.scale + sensor.offset, np.nan)
            bands = []
            for band, values in zip(sensor.bands, reflectance.T, strict=True):
                name = f"{band.id} {band.common_name}"
                bands.append({"name": name, "wavelength": band.wavelength, "values": _numbers(values)})
            found.append(
                {
                    "sensor": printable(sensor.name),
                    "days": [day.isoformat() for day in layer.days],
                    "clear": stack.clear[:, 0, 0].tolist(),
                    "ndvi": ndvi_of(sensor, reflectance),
                    "bands": bands,
                }
            )
        return found


def located(scene: Scene, note: str = "") -> Images:
    """Return the images of a scene that has a place on the ground.

    Raises:
        InputError: If it has none.
    """
    images = Images(scene, note)
    images.bounds  # noqa: B018 - refused before the server starts
    if not any(_has_bands(sensor, "true color") for sensor in scene.sensors):
        raise InputError(
            scene.name,
            found=f"the sensors {', '.join(sensor.name for sensor in scene.sensors)}",
            expected="a sensor with red, green and blue bands",
            repair="open a scene of Sentinel-2, Landsat or MODIS.",
        )
    return images


def _has_bands(sensor: Sensor, composite: str) -> bool:
    return len(composite_bands(sensor, COMPOSITES[composite])) == 3


def _spread(days: Sequence[dt.date]) -> list[dt.date]:
    """Return a few days that are spread evenly over all."""
    count = min(REFERENCE_DATES, len(days))
    positions = np.linspace(0, len(days) - 1, count).round().astype(int)
    return [days[position] for position in positions]


def ndvi_of(sensor: Sensor, reflectance: np.ndarray) -> list[float | None] | None:
    """Return the NDVI of each date from reflectance ``(t, c)``; None if the sensor lacks a band."""
    red = sensor.index("red")
    infrared = near_infrared_band(sensor)
    if red is None or infrared is None:
        return None
    total = reflectance[:, infrared] + reflectance[:, red]
    difference = reflectance[:, infrared] - reflectance[:, red]
    return _numbers((difference / np.maximum(total, LEAST_SUM)).clip(-1, 1))


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers for JSON, which has no NaN."""
    return [round(float(value), 5) if np.isfinite(value) else None for value in values]
