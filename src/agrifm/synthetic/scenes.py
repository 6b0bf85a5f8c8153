"""Scenes of the synthetic farmland as files of data providers, with quality layers, parcels and the truth.

The ground, the clouds and the seasons are those of ``synthetic.Landscape``, pixel by pixel, so a model trained on its
chips finds the same world here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rasterio.transform import Affine

from agrifm.data.chips import Georeference
from agrifm.data.randomness import uniform
from agrifm.errors import InputError, nearest
from agrifm.io import whole_folder
from agrifm.sensors import LANDSAT, S2, Sensor
from agrifm.synthetic.chips import GRID, ORBIT, Landscape
from agrifm.synthetic.products import CLEAR, PRODUCTS, SHADOW, THICK, THIN, Raster, SensorSeries

if TYPE_CHECKING:
    import geopandas

_SURVEYED = 2 / 3  # share of the parcels


@dataclass(frozen=True)
class LandscapeBlock:
    """Adjoining cells of a landscape that are observed on the same dates.

    Args:
        landscape: The landscape.
        rows: Rows of cells, from north to south.
        columns: Columns of cells, from west to east.

    Raises:
        InputError: If the cells lie under several orbits or cannot hold whole pixels of 20 m and 30 m.
    """

    landscape: Landscape
    rows: range
    columns: range

    def __post_init__(self) -> None:
        size = self.landscape.size
        if size % 6:
            raise InputError(
                "Landscape: size",
                found=f"{size} pixels of 10 m",
                expected="a multiple of 6, so that pixels of 20 m and 30 m fit",
                repair=f"set size to {max(6, 6 * round(size / 6))}.",
            )
        orbits = sorted({column // ORBIT for column in self.columns})
        if len(orbits) > 1:
            first = ORBIT * orbits[0]
            raise InputError(
                "write_scene: columns",
                found=f"{self.columns[0]} to {self.columns[-1]}, which lie under {len(orbits)} orbits",
                expected="columns under one orbit, which share their dates",
                repair=f"choose among {first} to {first + ORBIT - 1}, or write one scene for each orbit.",
            )

    @property
    def place(self) -> Georeference:
        """Georeference of the pixels of 10 m."""
        return self.landscape.place(self.rows[0], self.columns[0])

    @property
    def cells(self) -> list[tuple[int, int]]:
        """All ``(row, column)``, row by row."""
        return list(product(self.rows, self.columns))

    def series(self, sensor: Sensor, advance: Callable[[], None] = lambda: None) -> SensorSeries:
        """Everything that a sensor observes, without gaps of a swath; ``advance`` is called after every cell."""
        images = []
        states = []
        for row, column in self.cells:
            sample = self.landscape.sample(row, column, (sensor,))
            images.append(sample.images[sensor.name].numpy())
            states.append(self._state(row, column, sensor, sample.mask(sensor.name).numpy()))
            advance()
        new_year = dt.date(self.landscape.year, 1, 1)
        days_of_year = self.landscape.days(sensor, self.columns[0])
        days = tuple(new_year + dt.timedelta(int(day) - 1) for day in days_of_year)
        step = self.landscape.size * GRID / images[0].shape[-1]
        _, _, west, _, _, north = self.place.transform
        place = Georeference(self.place.crs, (step, 0.0, west, 0.0, -step, north))
        return SensorSeries(sensor, days, self._joined(images), self._joined(states), place)

    def truth(self) -> np.ndarray:
        """Indices into ``Landscape.classes`` ``(h, w)`` uint8."""
        labels = [self.landscape.ground(*cell).label for cell in self.cells]
        return self._joined(labels).astype(np.uint8)

    def parcels(self) -> geopandas.GeoDataFrame:
        """Fields as polygons: ``parcel`` (from 1, row by row), ``crop`` (a class name) and ``surveyed`` (a third not).

        A field that a lane or a river divides is one row; each field has one crop.
        """
        # Imported here because geopandas starts slowly and few commands write parcels.
        import geopandas
        from rasterio.features import shapes
        from shapely import union_all
        from shapely.geometry import shape

        parcel = self._joined([self.landscape.ground(*cell).parcel for cell in self.cells])
        keys, first_pixel, inverse = np.unique(parcel, return_index=True, return_inverse=True)
        order = [i for i in np.argsort(first_pixel) if keys[i] != 0]  # 0 is ground that is not tilled
        numbers = np.zeros(len(keys), np.int32)
        numbers[order] = np.arange(1, len(order) + 1)
        raster = numbers[inverse].reshape(parcel.shape)

        pieces: list[list] = [[] for _ in order]
        for outline, number in shapes(raster, raster > 0, transform=Affine(*self.place.transform)):
            pieces[int(number) - 1].append(shape(outline))
        labels = self.truth().ravel()[first_pixel[order]]
        columns = {
            "parcel": numbers[order],
            "crop": [self.landscape.classes[label][0] for label in labels],
            "surveyed": uniform(keys[order], 8) < _SURVEYED,
        }
        return geopandas.GeoDataFrame(columns, geometry=[union_all(part) for part in pieces], crs=self.place.crs)

    def _state(self, row: int, column: int, sensor: Sensor, clear: np.ndarray) -> np.ndarray:
        """State of each pixel ``(t, h, w)``, by its mask and the sky over its center."""
        count = clear.shape[-1]
        centers = ((np.arange(count) + 0.5) * self.landscape.size / count).astype(int)
        fine_cloud, fine_shadow = self.landscape.sky(row, column, sensor)
        cloud = fine_cloud[:, centers[:, None], centers]
        shadow = fine_shadow[:, centers[:, None], centers]
        # The first condition that holds decides.
        conditions = [clear, cloud > 0.5, shadow > cloud]
        state = np.select(conditions, [CLEAR, THICK, SHADOW], default=THIN)
        return state.astype(np.uint8)

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        """Arrays of the cells ``(..., h, w)``, row by row, as one array."""
        width = len(self.columns)
        rows = []
        for start in range(0, len(parts), width):
            row = np.concatenate(parts[start : start + width], axis=-1)
            rows.append(row)
        return np.concatenate(rows, axis=-2)


def write_scene(
    root: Path,
    landscape: Landscape,
    *,
    rows: range | slice,
    columns: range | slice,
    sensors: Sequence[Sensor] = (S2, LANDSAT),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a block of a landscape as a folder of GeoTIFFs, which appears whole.

    ``S2/<yyyymmdd>_<band>_<10m|20m>.tif`` with ``SCL``; ``Landsat/HLS.L30...<band>.tif`` with ``Fmask``;
    ``Modis/MOD09A1...<band>.tif`` with ``sur_refl_state_500m``. ``truth.tif`` holds indices into ``Landscape.classes``,
    ``parcels.gpkg`` (longitude, latitude) the fields. As with real data, one date of Sentinel-2 is empty and one of
    Landsat covers half of the scene. The whole scene is held in memory, some 4 MB for each cell of 96 pixels.

    Args:
        root: Folder to make.
        landscape: Landscape to show.
        rows: Rows of cells, without gaps.
        columns: Columns of cells, without gaps, under one orbit.
        sensors: Sensors among Sentinel-2, Landsat and MODIS.
        progress: Called after every cell and file with the number of finished steps and the total.

    Returns:
        The folder.

    Raises:
        InputError: If the folder exists, the cells are no block under one orbit, or a sensor has no file names.
    """
    asked_rows = _block("rows", rows, landscape.rows)
    asked_columns = _block("columns", columns, landscape.columns)
    block = LandscapeBlock(landscape, asked_rows, asked_columns)
    total = 0
    for sensor in _with_product(sensors):
        dates = len(landscape.days(sensor, block.columns[0]))
        total += len(block.cells) + dates * (len(sensor.bands) + 1)
    steps = count(1)
    refuse_folder(root)

    def advance() -> None:
        if progress is not None:
            progress(next(steps), total)

    with whole_folder(root) as unfinished:
        for sensor in sensors:
            series = block.series(sensor, advance)
            covered = PRODUCTS[sensor.name].coverage(series.state.shape)
            for raster in series.where(covered).rasters():
                raster.write(unfinished)
                advance()
        Raster("truth.tif", block.truth(), block.place, 255).write(unfinished, _colors(landscape))
        block.parcels().to_crs("EPSG:4326").to_file(unfinished / "parcels.gpkg", layer="parcels", driver="GPKG")
    return root


def refuse_folder(root: Path) -> None:
    """Refuse a folder that exists.

    Raises:
        InputError: If it exists.
    """
    if root.exists():
        raise InputError(
            root,
            found="something of that name",
            expected="a folder that does not exist yet",
            repair="delete it, or name another folder.",
        )


def _block(name: str, asked: range | slice, available: int) -> range:
    """The rows or columns of cells that were asked for, if they adjoin and exist."""
    block = range(*asked.indices(available)) if isinstance(asked, slice) else asked
    if not block or block.step != 1 or block[0] < 0 or block[-1] >= available:
        raise InputError(
            f"write_scene: {name}",
            found=str(asked),
            expected=f"adjoining ones among 0 to {available - 1}",
            repair=f"choose a block inside, or make the landscape larger: Landscape({name}=...).",
        )
    return block


def _with_product(sensors: Sequence[Sensor]) -> Sequence[Sensor]:
    for sensor in sensors:
        if sensor.name not in PRODUCTS:
            raise InputError(
                "write_scene: sensors",
                found=sensor.name,
                expected="sensors whose product has file names",
                repair=nearest(sensor.name, PRODUCTS),
            )
    return sensors


def _colors(landscape: Landscape) -> dict[int, tuple[int, ...]]:
    """Color table of the labels; 255, without data, is transparent."""
    colors: dict[int, tuple[int, ...]] = {255: (0, 0, 0, 0)}
    for label, (_, color) in enumerate(landscape.classes):
        red, green, blue = bytes.fromhex(color.removeprefix("#"))
        colors[label] = (red, green, blue, 255)
    return colors
