"""The georeference of a chip, CRS and transform, checked before anything is written with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pyproj import CRS
from pyproj.exceptions import CRSError

from agrifm.data.hdf5 import ChipFile, attribute, open_chip
from agrifm.errors import InputError

# Area of a pixel that is taken for a grid, in square units of the CRS, degrees or meters.
LEAST_PIXEL_AREA = 1e-24
LARGEST_PIXEL_AREA = 1e24


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies.

    Args:
        crs: Coordinate reference system as text.
        transform: The six affine coefficients a, b, c, d, e, f.
    """

    crs: str
    transform: tuple[float, ...]

    def resized(self, size: tuple[int, int], rows: int, columns: int) -> Georeference:
        """Return the georeference of the same ground with other rows and columns.

        Args:
            size: Rows and columns that the transform belongs to.
            rows: Rows of the other grid.
            columns: Columns of the other grid.
        """
        if size == (rows, columns):
            return self
        a, b, c, d, e, f = self.transform
        down = size[0] / rows
        across = size[1] / columns
        return Georeference(self.crs, (a * across, b * down, c, d * across, e * down, f))


def read_georeference(path: Path, *, allow_links: bool = False) -> Georeference | None:
    """Read the georeference of the label's grid; None if the chip has none.

    Raises:
        InputError: If the CRS or the transform is invalid.
    """
    with open_chip(path, allow_links=allow_links) as file:
        return _georeference_of(file)


def read_grid(path: Path, *, allow_links: bool = False) -> tuple[Georeference, tuple[int, int]] | None:
    """Read the georeference of a chip, and rows and columns of its grid; None if the chip has none.

    The grid is that of the label. Without a label it is that of the largest image in the file.

    Raises:
        InputError: If the CRS or the transform is invalid, or there is no grid to which the transform belongs.
    """
    with open_chip(path, allow_links=allow_links) as file:
        georeference = _georeference_of(file)
        return None if georeference is None else (georeference, _grid_size(file))


def _georeference_of(file: ChipFile) -> Georeference | None:
    crs = file.text("crs")
    transform = attribute(file.file, "transform", file.where("attribute 'transform'"))
    if crs is None or transform is None:
        return None
    if not _is_crs(crs):
        raise InputError(
            file.where("attribute 'crs'"),
            found=repr(crs)[:200],
            expected="a coordinate reference system, e.g. EPSG:32631 or WKT",
            repair="write the CRS of the chip, or delete the attribute; its map is then a picture without a place.",
        )
    return Georeference(crs, _check_transform(transform, file.where("attribute 'transform'")))


@lru_cache(maxsize=256)
def _is_crs(text: str) -> bool:
    # PROJ would read a file that is named by "init=".
    if "init=" in text.replace(" ", ""):
        return False
    try:
        CRS.from_user_input(text)
    except (CRSError, ValueError):
        return False
    return True


def _check_transform(value: object, where: str) -> tuple[float, ...]:
    """Return the six coefficients of a transform.

    Raises:
        InputError: If the value is not the transform of a grid.
    """
    values = np.asarray(value)
    is_numeric = values.ndim == 1 and values.dtype.kind in "iuf"
    numbers = [float(number) for number in values] if is_numeric else []
    if not _is_transform(numbers):
        raise InputError(
            where,
            found=str(value)[:200],
            expected="six finite numbers a, b, c, d, e, f of a grid, as rasterio and affine write them",
            repair="write them, or delete the attribute; the chip's map is then a picture without a place.",
        )
    return tuple(numbers[:6])


def _is_transform(numbers: list[float]) -> bool:
    if len(numbers) not in (6, 9) or not np.isfinite(numbers).all():
        return False
    # Nine numbers are a matrix, whose last row is constant.
    if numbers[6:] not in ([], [0.0, 0.0, 1.0]):
        return False
    a, b, _, d, e, _ = numbers[:6]
    return LEAST_PIXEL_AREA < abs(a * e - b * d) < LARGEST_PIXEL_AREA


def _grid_size(file: ChipFile) -> tuple[int, int]:
    """Rows and columns of the grid to which the transform belongs."""
    for key in ("label", "instances"):
        stored = file.find(key)
        if stored is not None and stored.ndim == 2 and 0 not in stored.shape:
            return stored.shape
    sizes = []
    for name in file.datasets():
        stored = file.find(name)
        if stored is not None and stored.ndim == 4 and 0 not in stored.shape:
            sizes.append(stored.shape[-2:])
    if not sizes:
        raise InputError(
            file.where("attribute 'transform'"),
            found="neither a label nor an image to which the transform belongs",
            expected="a label (H, W) or images (T, C, H, W)",
            repair="write them, or delete the attribute.",
        )
    return max(sizes)
