"""Places on grids: bounds in degrees, and the pixel at a longitude and latitude."""

from __future__ import annotations

import math
from dataclasses import dataclass

from odc.geo.geobox import GeoBox
from rasterio.warp import transform

from agrifm.errors import InputError
from agrifm.rasters.grid import pixel_size
from agrifm.vectors.polygons import extent_in

DEGREES = "EPSG:4326"
WORLD = 40_075_016.685578488  # meters along the equator in Web Mercator
TILE = 256  # pixels along a side of a tile
DEEPEST = 24  # zoom; pixels of centimeters


@dataclass(frozen=True)
class Position:
    """Row and column of a pixel."""

    row: int
    column: int


def bounds_of(grid: GeoBox, where: object) -> tuple[float, ...]:
    """West, south, east and north of a grid in degrees.

    Raises:
        InputError: If it has no place in degrees, or crosses the 180th meridian.
    """
    bounds = None if grid.crs is None else extent_in(grid, DEGREES)
    if bounds is None or bounds[0] >= bounds[2]:
        raise InputError(
            where,
            found=f"a grid without a place in degrees, or across the 180th meridian ({grid.crs})",
            expected="a georeferenced grid on one side of the 180th meridian",
            repair="reproject it first, e.g. with 'gdalwarp -t_srs EPSG:4326 FILE NEW'.",
        )
    return bounds


def position_on(grid: GeoBox, longitude: float, latitude: float) -> Position | None:
    """Pixel of a grid at a place in degrees; None outside of the grid."""
    x, y = transform(DEGREES, str(grid.crs), [longitude], [latitude])
    column, row = ~grid.affine * (x[0], y[0])
    if not (math.isfinite(row) and math.isfinite(column)):
        return None
    position = Position(math.floor(row), math.floor(column))
    height, width = grid.shape
    inside = 0 <= position.row < height and 0 <= position.column < width
    return position if inside else None


def zoom_of(grid: GeoBox, bounds: tuple[float, ...]) -> int:
    """Zoom from which tiles show no more detail: a quarter of a pixel, so that borders of pixels stay straight.

    Args:
        grid: Grid of the pixels.
        bounds: West, south, east and north in degrees.
    """
    middle = math.radians((bounds[1] + bounds[3]) / 2)
    stretched = min(pixel_size(grid)) / max(math.cos(middle), 0.01)  # meters of Web Mercator
    return max(0, min(DEEPEST, math.ceil(math.log2(WORLD / TILE / stretched)) + 2))
