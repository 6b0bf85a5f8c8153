"""Tiles of 256 pixels in Web Mercator as PNG, and the memory that keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.transform import Affine
from rio_tiler.colormap import cmap
from rio_tiler.io import Reader

from agrifm.errors import refusing
from agrifm.maps.files.legend import NODATA
from agrifm.viewer.class_map import ClassMap, Surface
from agrifm.viewer.place import DEEPEST, TILE, WORLD

MERCATOR = "EPSG:3857"
SCALE = "viridis"  # color scale of numbers, the same as in reports


@dataclass(frozen=True)
class TileIndex:
    """Position of a tile: zoom, and column and row from the upper left corner of the world."""

    z: int
    x: int
    y: int

    @property
    def exists(self) -> bool:
        """Whether there is such a tile."""
        return 0 <= self.z <= DEEPEST and 0 <= self.x < 1 << self.z and 0 <= self.y < 1 << self.z

    @property
    def box(self) -> GeoBox:
        """Its grid."""
        step = WORLD / (TILE << self.z)
        left = self.x * TILE * step - WORLD / 2
        top = WORLD / 2 - self.y * TILE * step
        return GeoBox((TILE, TILE), Affine(step, 0, left, 0, -step, top), MERCATOR)


class TileCache:
    """Tiles in memory; those that were not used for longest make room for new ones.

    Args:
        limit: Most bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._tiles: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return a tile, which is made if it is not in memory."""
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        tile = make()
        with self._lock:
            if key not in self._tiles and len(tile) <= self.limit:
                self._tiles[key] = tile
                self.bytes += len(tile)
            while self.bytes > self.limit:
                _, dropped = self._tiles.popitem(last=False)
                self.bytes -= len(dropped)
        return tile


def class_tile(shown: ClassMap, tile: TileIndex, hidden: frozenset[int]) -> bytes:
    """Draw a tile of a map of classes in their colors.

    Args:
        shown: The map.
        tile: The tile.
        hidden: Values that are transparent.

    Raises:
        InputError: If the file cannot be read.
    """
    colors = shown.colors
    colors[sorted(hidden)] = 0
    values = _read(shown.path, 1, tile)
    return png(colors[values.filled(NODATA)])


def surface_tile(surface: Surface, tile: TileIndex) -> bytes:
    """Draw a tile of numbers in a color scale; pixels without data are transparent.

    Raises:
        InputError: If the file cannot be read.
    """
    values = _read(surface.path, surface.band, tile)
    scaled = values.filled(0).astype(np.float32) / surface.high
    image = _scale()[np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)]
    image[np.ma.getmaskarray(values)] = 0
    return png(image)


def png(image: np.ndarray) -> bytes:
    """Encode red, green, blue and alpha ``(h, w, 4)`` uint8 as PNG."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)  # tiles stay on this machine, so speed counts
    return buffer.getvalue()


def color_scale(steps: int) -> list[str]:
    """Return colors ``#rrggbb`` from the lower to the upper end of the color scale."""
    positions = np.linspace(0, 255, steps).round().astype(int)
    return ["#" + bytes(_scale()[position][:3]).hex() for position in positions]


def _read(path: Path, band: int, tile: TileIndex) -> np.ma.MaskedArray:
    """Read a band on a tile by nearest neighbor, from overviews where the tile is coarser than the file."""
    with (
        refusing(path, expected="a complete raster file"),
        Reader(input=str(path)) as reader,  # ty: ignore[missing-argument] (it does not know the defaults of attrs)
    ):
        if not reader.tile_exists(tile.x, tile.y, tile.z):
            return np.ma.masked_all((TILE, TILE), np.uint8)
        image = reader.tile(tile.x, tile.y, tile.z, tilesize=TILE, indexes=band, resampling_method="nearest")
        return image.array[0]


@lru_cache(maxsize=1)
def _scale() -> np.ndarray:
    """Red, green, blue and alpha ``(256, 4)`` uint8 of the color scale."""
    colors = cmap.get(SCALE)
    return np.array([colors[position] for position in range(256)], np.uint8)
