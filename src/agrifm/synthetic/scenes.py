"""Scenes of the made-up farmland, as files a user would hold: bands by date, quality layers, parcels and the truth.

The ground, the clouds and the seasons are those of ``synthetic.Landscape``, pixel by pixel, so that a model trained on
its chips meets the same world here.
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
from agrifm.synthetic.chips import GRID, ORBIT, Ground, Landscape
from agrifm.synthetic.products import CLEAR, PRODUCTS, SHADOW, THICK, THIN, Raster, SensorSeries

if TYPE_CHECKING:
    import geopandas

_SURVEYED = 2 / 3  # share of the parcels


@dataclass(frozen=True)
class LandscapeBlock:
    """Adjoining cells of a landscape under one orbit.

    Args:
        landscape: What they are part of.
        rows: Rows of cells, from north to south.
        columns: Columns of cells, from west to east.

    Raises:
        InputError: If the cells are no block of the landscape, lie under several orbits or cannot hold whole pixels.
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
        """Where the pixels of 10 m lie."""
        return self.landscape.place(self.rows[0], self.columns[0])

    @property
    def cells(self) -> list[tuple[int, int]]:
        """All ``(row, column)``, row by row."""
        return list(product(self.rows, self.columns))

    def picture(self, sensor: Sensor, tick: Callable[[], None] = lambda: None) -> SensorSeries:
        """What a sensor saw, before anything is lost; ``tick`` is called after every cell."""
        images, states = [], []
        for row, column in self.cells:
            sample = self.landscape.sample(row, column, (sensor,))
            images.append(sample.images[sensor.name].numpy())
            states.append(self._state(row, column, sensor, sample.mask(sensor.name).numpy()))
            tick()
        new_year = dt.date(self.landscape.year, 1, 1)
        days = (new_year + dt.timedelta(int(day) - 1) for day in self.landscape.days(sensor, self.columns[0]))
        step = self.landscape.size * GRID / images[0].shape[-1]
        _, _, west, _, _, north = self.place.transform
        place = Georeference(self.place.crs, (step, 0.0, west, 0.0, -step, north))
        return SensorSeries(sensor, tuple(days), self._joined(images), self._joined(states), place)

    def truth(self) -> np.ndarray:
        """Indices into ``Landscape.classes`` ``(h, w)`` uint8."""
        return self._of_ground(lambda ground: ground.label).astype(np.uint8)

    def parcels(self) -> geopandas.GeoDataFrame:
        """Fields as polygons: ``parcel`` (from 1, row by row), ``crop`` (a class name) and ``surveyed`` (a third not).

        A field that a lane or a river divides is one row; all fields have one crop.
        """
        import geopandas
        from rasterio.features import shapes
        from shapely import union_all
        from shapely.geometry import shape

        keys, first, inverse = np.unique(
            self._of_ground(lambda ground: ground.parcel), return_index=True, return_inverse=True
        )
        order = [i for i in np.argsort(first) if keys[i] != 0]  # 0 is ground that is not tilled
        numbers = np.zeros(len(keys), np.int32)
        numbers[order] = np.arange(1, len(order) + 1)
        truth = self.truth()
        raster = numbers[inverse].reshape(truth.shape)
        pieces: list[list] = [[] for _ in order]
        for outline, number in shapes(raster, raster > 0, transform=Affine(*self.place.transform)):
            pieces[int(number) - 1].append(shape(outline))
        columns = {
            "parcel": numbers[order],
            "crop": [self.landscape.classes[label][0] for label in truth.ravel()[first[order]]],
            "surveyed": uniform(keys[order], 8) < _SURVEYED,
        }
        return geopandas.GeoDataFrame(columns, geometry=[union_all(part) for part in pieces], crs=self.place.crs)

    def _state(self, row: int, column: int, sensor: Sensor, clear: np.ndarray) -> np.ndarray:
        """Why a pixel is not clear: by the sky over its center."""
        centers = ((np.arange(clear.shape[-1]) + 0.5) * self.landscape.size / clear.shape[-1]).astype(int)
        cloud, shadow = (part[:, centers[:, None], centers] for part in self.landscape.sky(row, column, sensor))
        state = np.select([clear, cloud > 0.5, shadow > cloud], [CLEAR, THICK, SHADOW], THIN)
        return state.astype(np.uint8)

    def _of_ground(self, take: Callable[[Ground], np.ndarray]) -> np.ndarray:
        return self._joined([take(self.landscape.ground(*cell)) for cell in self.cells])

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        """Cells ``(..., h, w)``, row by row, as one array."""
        n = len(self.columns)
        return np.concatenate([np.concatenate(parts[i : i + n], -1) for i in range(0, len(parts), n)], -2)


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
    ``parcels.gpkg`` (longitude, latitude) the fields. As in real life one date of Sentinel-2 is empty, and one of
    Landsat covers half of the scene. The whole scene is held in memory, some 4 MB for each cell of 96 pixels.

    Args:
        root: Folder to make.
        landscape: What is shown.
        rows: Rows of cells, without gaps.
        columns: Columns of cells, without gaps, under one orbit.
        sensors: Who looks: Sentinel-2, Landsat, MODIS.
        progress: Called after every cell and file with the number done and the number of all.

    Returns:
        The folder.

    Raises:
        InputError: If the folder exists, the cells are no block under one orbit, or a sensor has no file names.
    """
    part = LandscapeBlock(
        landscape, _block("rows", rows, landscape.rows), _block("columns", columns, landscape.columns)
    )
    frames = [len(landscape.days(sensor, part.columns[0])) for sensor in _with_product(sensors)]
    total = len(sensors) * len(part.cells)
    total += sum(n * (len(sensor.bands) + 1) for n, sensor in zip(frames, sensors, strict=True))
    steps = count(1)
    refuse_folder(root)

    def tick() -> None:
        if progress is not None:
            progress(next(steps), total)

    with whole_folder(root) as unfinished:
        for sensor in sensors:
            picture = part.picture(sensor, tick)
            for raster in picture.where(PRODUCTS[sensor.name].seen(picture.state.shape)).rasters():
                raster.write(unfinished)
                tick()
        Raster("truth.tif", part.truth(), part.place, 255).write(unfinished, _colors(landscape))
        part.parcels().to_crs("EPSG:4326").to_file(unfinished / "parcels.gpkg", layer="parcels", driver="GPKG")
    return root


def refuse_folder(root: Path) -> None:
    """Refuse a folder that is there.

    Raises:
        InputError: If it is.
    """
    if root.exists():
        raise InputError(
            root,
            found="something of that name",
            expected="a folder that does not exist yet",
            repair="delete it, or name another folder.",
        )


def _block(name: str, asked: range | slice, available: int) -> range:
    """The asked rows or columns of cells, if they adjoin and exist."""
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
    return {i: (*bytes.fromhex(color[1:]), 255) for i, (_, color) in enumerate(landscape.classes)} | {255: (0, 0, 0, 0)}
