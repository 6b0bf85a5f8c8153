"""A map of classes as the viewer shows it: its classes, the layers beside it, and what is stored at a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from agrifm.errors import InputError, printable, refusing
from agrifm.maps.files.legend import NODATA, Legend
from agrifm.maps.files.writer import MapProduct, products
from agrifm.products.map_rasters import check_grid, class_counts, opened
from agrifm.rasters.grid import check_grid as check_place
from agrifm.rasters.grid import pixel_area
from agrifm.viewer.place import Position, bounds_of, position_on, zoom_of

OVERVIEW = 1024  # pixels along a side from which the largest value of a layer is read
NAMES = {"confidence": "Confidence", "entropy": "Entropy"}
EXPECTED = "a map of classes, as 'agrifm map' writes it"


@dataclass(frozen=True)
class MapClass:
    """A class of a map.

    Args:
        value: Number of its pixels.
        name: Its name.
        color: Its color as ``#rrggbb``.
    """

    value: int
    name: str
    color: str


@dataclass(frozen=True)
class Surface:
    """A band of numbers beside a map, drawn in a color scale.

    Args:
        product: Key of the product, such as ``confidence``.
        path: Path of its file.
        band: Number of the band, from 1.
        name: Name for people.
        high: Stored number at the upper end of the color scale; the lower end is 0.
        scale: Factor from stored numbers to values.
        nodata: Stored number of pixels without data.
    """

    product: str
    path: Path
    band: int
    name: str
    high: float
    scale: float
    nodata: float | None

    def describe(self) -> dict[str, Any]:
        """Return name, unit and range for the page."""
        return {"name": self.name, "product": self.product, "high": self.high, "unit": self.unit}

    @property
    def unit(self) -> str:
        """Unit of the stored numbers: shares are stored in percent, dates and classes are counted."""
        return "" if self.scale == 1 else "%"

    def at(self, values: Sequence[int]) -> dict[str, Any]:
        """Return the value of a pixel for the page, from the stored numbers of all bands of the file."""
        number = values[self.band - 1]
        value = None if number == self.nodata else number
        return {"name": self.name, "product": self.product, "value": value, "unit": self.unit}


@dataclass(frozen=True)
class ClassMap:
    """A map of classes with the files that lie beside it.

    Args:
        path: Path of the map.
        grid: Its grid.
        classes: Its classes, by value.
        surfaces: Layers of numbers beside it.
    """

    path: Path
    grid: GeoBox
    classes: tuple[MapClass, ...]
    surfaces: tuple[Surface, ...]

    @classmethod
    def open(cls, path: Path) -> ClassMap:
        """Open a map and what lies beside it; pixels are read from overviews only.

        Raises:
            InputError: If it is no map of classes, has no place on the ground, or a file beside it has another grid.
        """
        with opened(path, 1, EXPECTED) as file:
            if file.crs is None:
                raise InputError(
                    path,
                    found="no CRS",
                    expected="a georeferenced map",
                    repair="write the CRS into it, e.g. 'gdal_edit.py -a_srs EPSG:32631 FILE'.",
                )
            grid = GeoBox.from_rio(file)
            classes = _classes(file)
        check_place(grid, path)
        surfaces: list[Surface] = []
        for product in products(Legend((), ()), ()):
            beside = product.path(path)
            if not product.main and beside.is_file():
                check_grid(beside, path)
                surfaces += _surfaces(product, beside)
        return cls(path, grid, classes, tuple(surfaces))

    @property
    def bounds(self) -> tuple[float, ...]:
        """West, south, east and north in degrees."""
        return bounds_of(self.grid, self.path)

    @property
    def colors(self) -> np.ndarray:
        """Red, green, blue and alpha ``(256, 4)`` uint8 by pixel value; values without a class are transparent."""
        table = np.zeros((NODATA + 1, 4), np.uint8)
        for entry in self.classes:
            table[entry.value] = (*bytes.fromhex(entry.color.removeprefix("#")), 255)
        return table

    @cached_property
    def hectares(self) -> dict[int, float]:
        """Hectares by pixel value; counted pixels, not an estimate of areas.

        Raises:
            InputError: If a part of the map cannot be read.
        """
        counts = class_counts(self.path)
        hectares_per_pixel = pixel_area(self.grid) / 1e4
        return {entry.value: float(counts[entry.value]) * hectares_per_pixel for entry in self.classes}

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of the map: title, bounds, classes and layers."""
        return {
            "title": printable(self.path.name),
            "bounds": self.bounds,
            "zoom": zoom_of(self.grid, self.bounds),
            "classes": [{"value": entry.value, "name": entry.name, "color": entry.color} for entry in self.classes],
            "surfaces": [surface.describe() for surface in self.surfaces],
        }

    def at(self, longitude: float, latitude: float) -> dict[str, Any] | None:
        """Return what is stored at a place: class, confidence, probabilities, clear dates and possible classes.

        Args:
            longitude: Degrees east.
            latitude: Degrees north.

        Returns:
            Values by name, or None outside of the map.

        Raises:
            InputError: If a file cannot be read.
        """
        position = position_on(self.grid, longitude, latitude)
        if position is None:
            return None
        value = int(_read_pixel(self.path, position)[0])
        found = next((entry for entry in self.classes if entry.value == value), None)
        pixel: dict[str, Any] = {
            "row": position.row,
            "column": position.column,
            "class": None if found is None else found.name,
            "color": None if found is None else found.color,
            "layers": [],
        }
        for path in dict.fromkeys(surface.path for surface in self.surfaces):
            values = _read_pixel(path, position)
            pixel["layers"] += [surface.at(values) for surface in self.surfaces if surface.path == path]
        return pixel


def _classes(file: rasterio.DatasetReader) -> tuple[MapClass, ...]:
    """Classes by the tags of the band; of a raster without such tags, those that its overview shows."""
    colors = file.colormap(1)
    tags = file.tags(1)
    values = [value for value in range(NODATA) if f"class_{value}" in tags]
    if not values:
        step = max(1.0, max(file.shape) / OVERVIEW)
        shape = max(1, round(file.height / step)), max(1, round(file.width / step))
        shown = np.unique(file.read(1, out_shape=shape, resampling=Resampling.nearest)).tolist()
        values = [value for value in shown if value not in (NODATA, file.nodata)]
    classes = []
    for value in values:
        name = printable(tags.get(f"class_{value}", f"class {value}"))
        classes.append(MapClass(value, name, "#" + bytes(colors[value][:3]).hex()))
    return tuple(classes)


def _surfaces(product: MapProduct, path: Path) -> list[Surface]:
    """Bands of a file beside a map."""
    with opened(path, None, "a file of bytes that 'agrifm map' wrote") as file:
        descriptions = [printable(text or f"band {i}") for i, text in enumerate(file.descriptions, 1)]
        nodata = file.nodata
        scale = file.scales[0]
        most = _most(file) if scale == 1 else 100
    if product.key == "sets":  # the other bands are 0 or 1, which only a click shows
        return [
            Surface(product.key, path, band, name, most, scale, nodata)
            for band, name in enumerate(["Possible classes", *descriptions[1:]], 1)
        ]
    surfaces = []
    for band, name in enumerate(descriptions, 1):
        surfaces.append(Surface(product.key, path, band, _title(product.key, name), most, scale, nodata))
    return surfaces


def _title(key: str, band: str) -> str:
    """Name of a band for people."""
    if key == "probabilities":
        return f"Probability of {band}"
    if key == "observations":
        return f"Clear dates of {band}"
    return NAMES.get(key, band.capitalize())


def _most(file: rasterio.DatasetReader) -> float:
    """Largest number in a file, by its overview; at least 1."""
    step = max(1.0, max(file.shape) / OVERVIEW)
    shape = max(1, round(file.height / step)), max(1, round(file.width / step))
    with refusing(file.name, expected="a complete raster file"):
        values = file.read(out_shape=(file.count, *shape), resampling=Resampling.nearest, masked=True)
    return max(1.0, float(values.max())) if values.count() else 1.0


def _read_pixel(path: Path, position: Position) -> Sequence[int]:
    """Stored numbers of all bands at a pixel."""
    row, column = position.row, position.column
    with refusing(path, expected="a complete raster file"), rasterio.open(path) as file:
        return file.read(window=((row, row + 1), (column, column + 1)))[:, 0, 0].tolist()
