"""Places where a map is least sure, for people who label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform

from agrifm.errors import refusing
from agrifm.products.map_rasters import strips
from agrifm.viewer.class_map import ClassMap
from agrifm.viewer.place import DEGREES, Position

COUNT = 40  # places on a list
LEAST_DISTANCE = 3  # pixels


@dataclass(frozen=True)
class Doubt:
    """A pixel and the confidence of its class in percent."""

    position: Position
    confidence: int


def worklist(shown: ClassMap, count: int = COUNT) -> list[dict[str, Any]]:
    """Return the places of lowest confidence, the lowest first; the same map gives the same places.

    Places keep a distance from each other that grows with the map, so that they do not all lie in one field.

    Args:
        shown: The map.
        count: Number of places at most.

    Returns:
        ``lon``, ``lat`` in degrees and ``confidence`` in percent; empty if the map has no layer of confidence.

    Raises:
        InputError: If the layer cannot be read.
    """
    height, width = shown.grid.shape
    distance = max(LEAST_DISTANCE, math.isqrt(height * width // count) // 2)
    chosen: list[Doubt] = []
    for doubt in sorted(_lowest_of_cells(shown, distance), key=_order):
        if len(chosen) == count:
            break
        if all(_distance(doubt, other) >= distance for other in chosen):
            chosen.append(doubt)
    places = []
    for doubt in chosen:
        x, y = shown.grid.affine * (doubt.position.column + 0.5, doubt.position.row + 0.5)
        longitude, latitude = transform(str(shown.grid.crs), DEGREES, [x], [y])
        places.append({"lon": longitude[0], "lat": latitude[0], "confidence": doubt.confidence})
    return places


def _lowest_of_cells(shown: ClassMap, side: int) -> list[Doubt]:
    """Return the pixel of lowest confidence in each cell of a lattice; rows of cells are read one after the other."""
    layers = [surface for surface in shown.surfaces if surface.product == "confidence"]
    if not layers:
        return []
    layer = layers[0]
    found = []
    with refusing(layer.path, expected="a complete raster file"), rasterio.open(layer.path) as file:
        for rows in strips(file.height, side):
            values = file.read(layer.band, window=((rows.start, rows.stop), (0, file.width)), masked=True)
            for columns in strips(file.width, side):
                cell = values[:, columns]
                if cell.count() == 0:
                    continue
                row, column = divmod(int(np.ma.argmin(cell)), cell.shape[1])
                position = Position(rows.start + row, columns.start + column)
                found.append(Doubt(position, int(cell[row, column])))
    return found


def _order(doubt: Doubt) -> tuple[int, int, int]:
    return doubt.confidence, doubt.position.row, doubt.position.column


def _distance(one: Doubt, other: Doubt) -> float:
    """Pixels between two places."""
    down = one.position.row - other.position.row
    across = one.position.column - other.position.column
    return math.hypot(down, across)
