"""Land cover: a raster of codes, from which the shares of covers in cells of any grid are measured by area."""

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
MOST_PIXELS = 1 << 24  # of land cover in memory at the same time
SNAP = 6  # decimals of a pixel: sides on borders of pixels lie exactly there, whatever rounding did


@dataclass(frozen=True)
class LandCover:
    """An open raster of land-cover codes.

    Args:
        file: What GDAL opened.
        grid: Grid of the file.
        crosswalk: What the codes mean.
    """

    file: rasterio.DatasetReader
    grid: GeoBox
    crosswalk: Crosswalk

    @classmethod
    @contextmanager
    def open(cls, href: str, crosswalk: Crosswalk) -> Generator[LandCover]:
        """Open a raster of one band.

        Raises:
            InputError: If it does not open, has no place on the ground or several bands.
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
        """Refuse land cover that does not lie under a grid, or holds codes there that the crosswalk does not list.

        Raises:
            InputError: If with both extents in degrees, or with the codes.
        """
        columns, rows = self._pixels(grid, 1)
        if not np.isfinite(columns).all():  # the grid holds a pole, or reaches beyond what the projection can show
            columns, rows = self._pixels(grid, 8)
        top, bottom = self._within(rows, self.file.height)
        sides = [self._within(columns + shift, self.file.width) for shift in self._turns]
        sides = [(left, right) for left, right in sides if left < right and top < bottom]
        if not sides:
            raise InputError(
                self.file.name,
                found=f"land cover of {_degrees(self.grid)}",
                expected=f"some of the scene {name}, {_degrees(grid)}",
                repair="give the land cover of the scene's place.",
            )
        counts: Counter[float] = Counter()
        for left, right in sides:
            step = max(1, MOST_PIXELS // (right - left))
            for row in range(top, bottom, step):
                codes, known = self._read((row, min(row + step, bottom)), (left, right))
                values, pixels = np.unique(codes[known], return_counts=True)
                counts.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
        self.crosswalk.must_know(np.array(list(counts)), np.array(list(counts.values())), self.file.name)

    def shares(self, box: GeoBox, cells: int, most_pixels: int = MOST_PIXELS) -> np.ndarray:
        """Shares of the covers and of what is unknown ``(9, y, x)`` float64 in cells that divide a box evenly.

        Areas are those on the land cover's projection; where it is in degrees, those on the sphere. A part of a cell
        beyond the raster is unknown. Reads no more than ``most_pixels`` at the same time.

        Raises:
            InputError: If a code is not listed in the crosswalk.
        """
        columns, rows = self._pixels(box, cells)
        result = np.zeros((cells * cells, UNKNOWN + 1))
        placed = np.isfinite(columns).all(1) & np.isfinite(rows).all(1)  # others hold a pole, or have no place there
        result[~placed, UNKNOWN] = 1
        if not placed.any():
            return result.T.reshape(-1, cells, cells)
        columns, rows = columns[placed], rows[placed]
        codes, weights = (kind(self, columns, rows) for kind in (_Covers, _Weights))
        rings = np.stack([columns, -rows], -1)
        rings = np.concatenate([rings, rings[:, :1]], 1).tolist()
        features = [{"geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}} for ring in rings]
        found = exact_extract(
            codes,
            features,
            ["unique", "weighted_frac"],
            weights=weights,
            strategy="raster-sequential",
            max_cells_in_memory=most_pixels,
        )
        for i, entry in zip(np.flatnonzero(placed), found, strict=True):
            result[i, entry["properties"]["unique"]] = entry["properties"]["weighted_frac"]
        return result.T.reshape(-1, cells, cells)

    def _pixels(self, box: GeoBox, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of this raster ``(cells * cells, 4 * POINTS)`` of the outlines of a box's cells."""
        step = np.arange(POINTS) / POINTS
        across = np.concatenate([step, np.ones(POINTS), 1 - step, np.zeros(POINTS)])
        down = np.concatenate([np.zeros(POINTS), step, np.ones(POINTS), 1 - step])
        row, column = np.divmod(np.arange(cells * cells)[:, None], cells)
        x, y = box.affine @ ((column + across) * box.shape[1] / cells, (row + down) * box.shape[0] / cells)
        x, y = between(str(box.crs), str(self.grid.crs)).transform(x, y)
        if self.grid.crs is not None and self.grid.crs.geographic:
            x = _in_one_piece(x)
        return tuple(np.round(part, SNAP) for part in ~self.grid.affine @ (x, y))

    @cached_property
    def _turns(self) -> tuple[int, ...]:
        """Columns by which the same place may lie further to the east or west: a turn around the Earth, in degrees."""
        affine = self.grid.affine
        if self.grid.crs is None or not self.grid.crs.geographic or affine.b or affine.d:
            return (0,)
        turn = round(360 / abs(affine.a))
        return 0, -turn, turn

    def _within(self, positions: np.ndarray, length: int) -> tuple[int, int]:
        """First position and the one after the last of the file's, along one axis."""
        positions = positions[np.isfinite(positions)]
        low, high = (positions.min(), positions.max()) if positions.size else (0, 0)
        return max(0, int(np.floor(low))), min(length, int(np.ceil(high)))

    def covers(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Positions in ``COVERS`` ``(height, width)`` uint8 of a window, which may reach beyond the raster."""
        result = np.full((height, width), UNKNOWN, np.uint8)
        start, bottom = max(top, 0), min(top + height, self.file.height)
        for shift in self._turns:
            west = left + shift
            first, right = max(west, 0), min(west + width, self.file.width)
            if first < right and start < bottom:
                codes, known = self._read((start, bottom), (first, right))
                part = result[start - top : bottom - top, first - west : right - west]
                part[known] = self.crosswalk.positions(codes[known], self.file.name)
        return result

    def _read(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Codes of a window of the file, and where there are any."""
        with refusing(self.file.name, expected="a complete land-cover raster"):
            found = self.file.read(1, window=(rows, columns), masked=True)
        return found.data, ~np.ma.getmaskarray(np.ma.masked_invalid(found))


class _Window(RasterSource):
    """Pixels of a land cover under some cells, which exactextract asks for piece by piece; y is minus the row."""

    def __init__(self, ground: LandCover, columns: np.ndarray, rows: np.ndarray) -> None:
        super().__init__()
        self.ground = ground
        self.left, self.top = int(np.floor(columns.min())) - 1, int(np.floor(rows.min())) - 1
        self.right, self.bottom = int(np.ceil(columns.max())) + 1, int(np.ceil(rows.max())) + 1

    def res(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extent(self) -> tuple[float, float, float, float]:
        return self.left, -self.bottom, self.right, -self.top

    def srs_wkt(self) -> None:
        return None

    def nodata_value(self) -> None:
        return None


class _Covers(_Window):
    """Positions in ``COVERS``."""

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> np.ndarray:
        return self.ground.covers(self.left + x0, self.top + y0, nx, ny)


class _Weights(_Window):
    """Area of the pixels beside each other: equal, or on the sphere where the raster is in degrees."""

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> np.ndarray:
        if self.ground.grid.crs.projected:
            return np.ones((ny, nx))
        columns, rows = self.left + x0 + np.arange(nx) + 0.5, self.top + y0 + np.arange(ny)[:, None] + 0.5
        _, latitudes = self.ground.grid.affine @ np.broadcast_arrays(columns, rows)
        return np.cos(np.radians(latitudes))


def _in_one_piece(longitudes: np.ndarray) -> np.ndarray:
    """Longitudes ``(n, m)`` of outlines ``(n)`` that do not jump at the 180th meridian; NaN around a pole."""
    steps = np.diff(longitudes, axis=1, append=longitudes[:, :1])
    jumps = np.where(np.abs(steps) > 180, -360 * np.sign(steps), 0)
    turned = np.concatenate([np.zeros((len(jumps), 1)), np.cumsum(jumps, 1)[:, :-1]], 1)
    around = jumps.sum(1, keepdims=True) != 0
    return np.where(around, np.nan, longitudes + turned)


def _degrees(grid: GeoBox) -> str:
    box = grid.geographic_extent.boundingbox
    return f"longitude {box.left:.4f} to {box.right:.4f}, latitude {box.bottom:.4f} to {box.top:.4f}"


@cache
def between(source: str, target: str) -> Transformer:
    """From one CRS to another, both in the order x, y; made once."""
    return Transformer.from_crs(source, target, always_xy=True)
