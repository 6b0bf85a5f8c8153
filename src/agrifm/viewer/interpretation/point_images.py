"""The images around a point: a chip of the scene, and the outline of the pixel that was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine
from rasterio.warp import transform

from agrifm.errors import refusing
from agrifm.rasters.grid import pixel_size
from agrifm.statistics.response import ResponseDesign
from agrifm.viewer.images import COMPOSITES, Images
from agrifm.viewer.interpretation.answer_file import Point
from agrifm.viewer.place import DEGREES, position_on

SIDE = 65  # pixels of a chip; an odd number has a pixel in the middle


@dataclass(frozen=True)
class PointImages:
    """Images of a scene around points.

    Args:
        images: The scene.
        response: Pixels of the map from which the points were drawn.
    """

    images: Images
    response: ResponseDesign

    def describe(self, point: Point) -> dict[str, Any] | None:
        """Return what the page shows beside the chip of a point.

        Returns:
            ``outline``, the corners of the pixel as shares of the chip's width and height; ``meters``, the width of the
            chip; and the ``series`` of all sensors at the point. None if it lies outside of the scene.

        Raises:
            InputError: If a file cannot be read, or the point has no place in the CRS of the map.
        """
        box = self._box(point)
        if box is None:
            return None
        return {
            "outline": self._outline(point, box),
            "meters": round(SIDE * pixel_size(self.images.scene.grid)[0]),
            "series": self.images.series(point.longitude, point.latitude),
        }

    def picture(self, point: Point, sensor: int, step: int, composite: int) -> np.ndarray:
        """Read a date around a point.

        Args:
            point: The point.
            sensor: Number of the sensor.
            step: Number of the date.
            composite: Number of the composite.

        Returns:
            Red, green, blue and alpha ``(SIDE, SIDE, 4)`` uint8.

        Raises:
            InputError: If a file cannot be read.
            IndexError: If there is no such sensor, date or composite, or the point lies outside of the scene.
        """
        self.images.layer(sensor, step)
        name = list(COMPOSITES)[composite]
        box = self._box(point)
        if box is None:
            raise IndexError("The point lies outside of the scene.")
        return self.images.composite(sensor, step, name, box, veil=False)

    def _box(self, point: Point) -> GeoBox | None:
        """Return the grid of the chip around a point; None outside of the scene."""
        grid = self.images.scene.grid
        middle = position_on(grid, point.longitude, point.latitude)
        if middle is None:
            return None
        corner = Affine.translation(middle.column - SIDE // 2, middle.row - SIDE // 2)
        return GeoBox((SIDE, SIDE), grid.affine * corner, grid.crs)

    def _outline(self, point: Point, box: GeoBox) -> list[list[float]]:
        """Return the corners of the pixel of the map, or of the scene where the map's pixels are not known."""
        if self.response.pixel is None:
            middle = SIDE // 2
            return _shares(middle + np.array([0, 1, 1, 0]), middle + np.array([0, 0, 1, 1]))
        width, height = self.response.pixel
        crs = self.response.crs
        where = f"sample_id {point.id}"
        repair = "restore the sample and its response design as they were written."
        with refusing(where, expected=f"a point within the CRS of the map, {crs}", repair=repair):
            x, y = transform(DEGREES, crs, [point.longitude], [point.latitude])
            xs = x[0] + width / 2 * np.array([-1, 1, 1, -1])
            ys = y[0] + height / 2 * np.array([1, 1, -1, -1])
            on_scene = transform(crs, str(box.crs), xs, ys)  # raises where a place does not exist
        columns, rows = ~box.affine * (np.array(on_scene[0]), np.array(on_scene[1]))
        return _shares(columns, rows)


def _shares(columns: np.ndarray, rows: np.ndarray) -> list[list[float]]:
    places = np.stack([columns, rows], axis=1) / SIDE
    return places.round(5).tolist()
