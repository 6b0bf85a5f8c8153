"""Land cover: a raster of codes, from which the shares of covers in the cells of any grid are measured by area."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import rasterio
from exactextract import exact_extract
from exactextract.raster import RasterSource
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from agrifm.errors import InputError, Unreadable, refusing
from agrifm.pretraining.crosswalk import UNKNOWN, Crosswalk
from agrifm.rasters.codes import open_codes
from agrifm.rasters.file_band import located

POINTS = 8  # along each side of a cell, so that sides stay true where another projection bends them
MAX_PIXELS = 1 << 24  # of land cover in memory at the same time
DECIMALS = 6  # of a pixel; sides along borders of pixels lie exactly on them in spite of rounding


@dataclass(frozen=True)
class LandCover:
    """An open raster of land-cover codes.

    Args:
        file: Open file.
        grid: Grid of the file.
        crosswalk: Meaning of the codes.
    """

    file: rasterio.DatasetReader
    grid: GeoBox
    crosswalk: Crosswalk

    @classmethod
    @contextmanager
    def open(cls, href: str, crosswalk: Crosswalk) -> Generator[LandCover]:
        """Open a raster of one band.

        Raises:
            InputError: If the raster does not open, has no georeference or several bands.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open_codes(href))
            except Unreadable as error:
                raise InputError(
                    href,
                    found=f"a land-cover raster that does not open: {error.found}",
                    expected="a land-cover raster",
                    repair="check the path; several tiles become one with 'gdalbuildvrt all.vrt TILES'.",
                ) from error
            yield cls(file, located(file, href), crosswalk)

    def check(self, grid: GeoBox, name: str) -> None:
        """Refuse land cover that does not lie under a grid, or has codes there that the crosswalk does not list.

        Args:
            grid: Grid of a scene.
            name: Name of the scene.

        Raises:
            InputError: If there is no overlap, with both extents in degrees; or if codes are missing, with the codes.
        """
        columns, rows = self._outlines(grid, 1)
        if not np.isfinite(columns).all():  # the grid holds a pole, or reaches beyond the domain of the projection
            columns, rows = self._outlines(grid, 8)
        top, bottom = _pixel_range(rows, self.file.height)
        column_ranges = []
        for shift in self._revolutions:
            left, right = _pixel_range(columns + shift, self.file.width)
            if left < right and top < bottom:
                column_ranges.append((left, right))
        if not column_ranges:
            raise InputError(
                self.file.name,
                found=f"land cover of {_degrees(self.grid)}",
                expected=f"some of the scene {name}, {_degrees(grid)}",
                repair="give the land cover of the scene's place.",
            )
        counts: Counter[float] = Counter()
        for left, right in column_ranges:
            height = max(1, MAX_PIXELS // (right - left))
            for row in range(top, bottom, height):
                codes, valid = self._read((row, min(row + height, bottom)), (left, right))
                values, pixels = np.unique(codes[valid], return_counts=True)
                counts.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
        self.crosswalk.must_know(np.array(list(counts)), np.array(list(counts.values())), self.file.name)

    def shares(self, box: GeoBox, cells: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Measure the shares of the covers in cells that divide a box evenly.

        Areas are those in the projection of the land cover; where it is in degrees, those on the sphere. The part of a
        cell beyond the raster is unknown.

        Args:
            box: Grid whose area is divided.
            cells: Cells along a side.
            max_pixels: Largest number of pixels in memory at the same time.

        Returns:
            Shares of the covers and of what is unknown ``(9, y, x)`` float64.

        Raises:
            InputError: If the crosswalk does not list a code.
        """
        columns, rows = self._outlines(box, cells)
        result = np.zeros((cells * cells, UNKNOWN + 1))
        # Cells that hold a pole, or lie outside the domain of the projection, have no outline.
        has_outline = np.isfinite(columns).all(1) & np.isfinite(rows).all(1)
        result[~has_outline, UNKNOWN] = 1
        if not has_outline.any():
            return result.T.reshape(-1, cells, cells)
        columns = columns[has_outline]
        rows = rows[has_outline]
        statistics = exact_extract(
            _CoverPixels(self, columns, rows),
            _polygons(columns, rows),
            ["unique", "weighted_frac"],
            weights=_PixelAreas(self, columns, rows),
            strategy="raster-sequential",
            max_cells_in_memory=max_pixels,
        )
        for cell, feature in zip(np.flatnonzero(has_outline), statistics, strict=True):
            covers = feature["properties"]["unique"]
            result[cell, covers] = feature["properties"]["weighted_frac"]
        return result.T.reshape(-1, cells, cells)

    def _outlines(self, box: GeoBox, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of this raster ``(cells * cells, 4 * POINTS)`` along the outlines of the cells of a box."""
        step = np.arange(POINTS) / POINTS
        zeros = np.zeros(POINTS)
        ones = np.ones(POINTS)
        across = np.concatenate([step, ones, 1 - step, zeros])
        down = np.concatenate([zeros, step, ones, 1 - step])
        cell_row, cell_column = np.divmod(np.arange(cells * cells)[:, None], cells)
        height, width = box.shape
        box_columns = (cell_column + across) * width / cells
        box_rows = (cell_row + down) * height / cells
        x, y = box.affine @ (box_columns, box_rows)
        x, y = transformer(str(box.crs), str(self.grid.crs)).transform(x, y)
        if self.grid.crs is not None and self.grid.crs.geographic:
            x = _without_jumps(x)
        columns, rows = ~self.grid.affine @ (x, y)
        return np.round(columns, DECIMALS), np.round(rows, DECIMALS)

    @cached_property
    def _revolutions(self) -> tuple[int, ...]:
        """Numbers of columns after which the same place comes again: none, or those of 360 degrees east and west."""
        affine = self.grid.affine
        if self.grid.crs is None or not self.grid.crs.geographic or affine.b or affine.d:
            return (0,)
        columns = round(360 / abs(affine.a))
        return 0, -columns, columns

    def covers(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Positions in ``COVERS`` ``(height, width)`` uint8 of a window, which may reach beyond the raster."""
        result = np.full((height, width), UNKNOWN, np.uint8)
        first_row = max(top, 0)
        end_row = min(top + height, self.file.height)
        for shift in self._revolutions:
            west = left + shift
            first_column = max(west, 0)
            end_column = min(west + width, self.file.width)
            if first_column < end_column and first_row < end_row:
                codes, valid = self._read((first_row, end_row), (first_column, end_column))
                part = result[first_row - top : end_row - top, first_column - west : end_column - west]
                part[valid] = self.crosswalk.positions(codes[valid], self.file.name)
        return result

    def _read(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Codes of a window of the file, and the mask of pixels that have one."""
        with refusing(self.file.name, expected="a complete land-cover raster"):
            codes = self.file.read(1, window=(rows, columns), masked=True)
        return codes.data, ~np.ma.getmaskarray(np.ma.masked_invalid(codes))


class _Window(RasterSource):
    """Pixels of a land cover under some cells, which exactextract reads in parts; y is minus the row."""

    def __init__(self, ground: LandCover, columns: np.ndarray, rows: np.ndarray) -> None:
        super().__init__()
        self.ground = ground
        self.left = int(np.floor(columns.min())) - 1
        self.top = int(np.floor(rows.min())) - 1
        self.right = int(np.ceil(columns.max())) + 1
        self.bottom = int(np.ceil(rows.max())) + 1

    def res(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extent(self) -> tuple[float, float, float, float]:
        return self.left, -self.bottom, self.right, -self.top

    def srs_wkt(self) -> None:
        return None

    def nodata_value(self) -> None:
        return None


class _CoverPixels(_Window):
    """Positions in ``COVERS``."""

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> np.ndarray:
        return self.ground.covers(self.left + x0, self.top + y0, nx, ny)


class _PixelAreas(_Window):
    """Areas of the pixels relative to each other: equal, or those on the sphere where the raster is in degrees."""

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> np.ndarray:
        if self.ground.grid.crs.projected:
            return np.ones((ny, nx))
        columns = self.left + x0 + np.arange(nx) + 0.5
        rows = self.top + y0 + np.arange(ny) + 0.5
        _, latitudes = self.ground.grid.affine @ np.meshgrid(columns, rows)
        return np.cos(np.radians(latitudes))


def _pixel_range(positions: np.ndarray, length: int) -> tuple[int, int]:
    """First pixel at some positions along an axis of the file, and the one after the last; empty if there is none."""
    finite = positions[np.isfinite(positions)]
    if not finite.size:
        return 0, 0
    first = int(np.floor(finite.min()))
    end = int(np.ceil(finite.max()))
    return max(0, first), min(length, end)


def _polygons(columns: np.ndarray, rows: np.ndarray) -> list[dict]:
    """GeoJSON features of outlines ``(n, m)``."""
    corners = np.stack([columns, -rows], -1)
    closed = np.concatenate([corners, corners[:, :1]], 1)
    features = []
    for ring in closed.tolist():
        features.append({"geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}})
    return features


def _without_jumps(longitudes: np.ndarray) -> np.ndarray:
    """Longitudes ``(n, m)`` along outlines ``(n)`` that do not jump at the 180th meridian; NaN around a pole."""
    steps = np.diff(longitudes, axis=1, append=longitudes[:, :1])
    corrections = np.where(np.abs(steps) > 180, -360 * np.sign(steps), 0)
    shifts = np.cumsum(corrections, axis=1)
    continuous = longitudes.copy()
    continuous[:, 1:] += shifts[:, :-1]  # a jump shifts all points that follow it
    # An outline around a pole makes a whole turn before it closes.
    continuous[shifts[:, -1] != 0] = np.nan
    return continuous


def _degrees(grid: GeoBox) -> str:
    box = grid.geographic_extent.boundingbox
    return f"longitude {box.left:.4f} to {box.right:.4f}, latitude {box.bottom:.4f} to {box.top:.4f}"


@cache
def transformer(source: str, target: str) -> Transformer:
    """Transformation from one CRS to another, both in the order x, y; made once, which is slow."""
    return Transformer.from_crs(source, target, always_xy=True)
