"""What a label belongs to: a sample of a table, a parcel, or the pixels of one class in a chip."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pyproj import Transformer

from agrifm.data.chips import open_chip
from agrifm.data.folder import ChipFolder
from agrifm.data.georeference import read_grid
from agrifm.errors import InputError, refusing
from agrifm.pixels.draw import LabeledPixels
from agrifm.sample_tables.dataset import INDEX, INDEX_COLUMNS

CELL = re.compile(r"_r\d{3,}_c\d{3,}$")  # at the end of the names of chips that were cut from one scene


@dataclass(frozen=True)
class Unit:
    """Pixels that share one label.

    Args:
        name: Name of the sample or parcel; that of the chip where neither is known.
        chip: Name of the chip that holds its first pixel.
        row: Row of that pixel.
        column: Column of that pixel.
        given: Number of the class of the label.
        pixels: Numbers of its pixels among those that were drawn.
        lon: Longitude of that pixel in degrees; None if it is not known.
        lat: Latitude of that pixel.
    """

    name: str
    chip: str
    row: int
    column: int
    given: int
    pixels: np.ndarray
    lon: float | None
    lat: float | None


Index = Mapping[tuple[str, int, int], tuple[str, float | None, float | None]]


def find_units(pixels: LabeledPixels, source: ChipFolder, root: Path) -> list[Unit]:
    """Group pixels by what their labels belong to, in the order in which they were read.

    Args:
        pixels: Labeled pixels.
        source: Chips that they come from.
        root: Folder of the data set; it may hold the list of samples that ``agrifm samples make`` wrote.

    Raises:
        InputError: If that list, or a chip, is damaged.
    """
    index = _read_index(root / INDEX)
    members: dict[tuple, list[int]] = {}
    labels = [_ChipLabel.read(source, number) for number in range(len(source))]
    for pixel, (sample, place) in enumerate(zip(pixels.sample, pixels.place, strict=True)):
        key = labels[sample].key(int(place), bool(index))
        members.setdefault((*key, int(pixels.classes[pixel])), []).append(pixel)
    units = []
    for (name, *_, given), numbers in members.items():
        first = numbers[0]
        label = labels[pixels.sample[first]]
        row, column = divmod(int(pixels.place[first]), label.width)
        known = index.get((label.chip, row, column))
        name, lon, lat = known if known is not None else (name, *label.lonlat(row, column))
        units.append(Unit(name, label.chip, row, column, given, np.array(numbers), lon, lat))
    return units


@dataclass(frozen=True)
class _ChipLabel:
    """What a chip says about its labels besides their classes."""

    chip: str
    path: Path
    size: tuple[int, int]
    instances: np.ndarray | None
    allow_links: bool

    @classmethod
    def read(cls, source: ChipFolder, number: int) -> _ChipLabel:
        path = source.path(number)
        with open_chip(path, allow_links=source.allow_links) as file:
            key = source.label_key if isinstance(source.label_key, str) else "label"
            size = file[key].shape
            stored = file.find("instances")
            instances = None if stored is None else file.read("instances", stored)
        if instances is not None and instances.shape != size:
            instances = None
        return cls(source.names[number], path, size, instances, source.allow_links)

    @property
    def width(self) -> int:
        return self.size[1]

    def key(self, place: int, is_listed: bool) -> tuple[str, int, int]:
        """What the label of a pixel belongs to: a name, a number, and the pixel where each one is labeled by itself."""
        if is_listed:
            return self.chip, 0, place
        if self.instances is not None and self.instances.ravel()[place] > 0:
            # Parcels reach into several chips of a scene, which number them together.
            number = int(self.instances.ravel()[place])
            return f"{CELL.sub('', self.chip)} parcel {number}", number, 0
        return self.chip, 0, 0

    def lonlat(self, row: int, column: int) -> tuple[float | None, float | None]:
        """Longitude and latitude of the center of a pixel."""
        grid = read_grid(self.path, allow_links=self.allow_links)
        if grid is None:
            return None, None
        georeference, size = grid
        a, b, c, d, e, f = georeference.resized(size, *self.size).transform
        x = a * (column + 0.5) + b * (row + 0.5) + c
        y = d * (column + 0.5) + e * (row + 0.5) + f
        lon, lat = _to_degrees(georeference.crs).transform(x, y)
        return float(lon), float(lat)


@cache
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def _read_index(path: Path) -> Index:
    """Name and place of each sample of a data set from a table, by chip, row and column; empty for other data sets."""
    if not path.is_file():
        return {}
    index = {}
    expected = f"the columns {', '.join(INDEX_COLUMNS)}"
    with refusing(path, expected=expected, repair="write the data set again."), path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            lon = float(row["lon"]) if row["lon"] else None
            lat = float(row["lat"]) if row["lat"] else None
            index[row["chip"], int(row["row"]), int(row["column"])] = (row["sample_id"], lon, lat)
    return index


def refuse_without_places(units: list[Unit], out: Path) -> None:
    """Refuse a vector file for units whose places are not known.

    Raises:
        InputError: If there is one.
    """
    if out.suffix == ".gpkg" and any(unit.lon is None for unit in units):
        raise InputError(
            out,
            found="samples without longitude and latitude",
            expected="places, for a vector file",
            repair="write a table instead: name a file that ends in .csv.",
        )
