"""Where a chip lies: its CRS and transform, checked before anything is written with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pyproj import CRS
from pyproj.exceptions import CRSError

from agrifm.data.hdf5 import ChipFile, attribute, open_chip
from agrifm.errors import InputError


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies: CRS as text and the six affine coefficients a, b, c, d, e, f."""

    crs: str
    transform: tuple[float, ...]

    def resized(self, size: tuple[int, int], rows: int, columns: int) -> Georeference:
        """The same ground with other rows and columns.

        Args:
            size: rows and columns that the transform belongs to.
            rows: those to have.
            columns: those to have.
        """
        if size == (rows, columns):
            return self
        a, b, c, d, e, f = self.transform
        across, down = size[1] / columns, size[0] / rows
        return Georeference(self.crs, (a * across, b * down, c, d * across, e * down, f))


def read_place(path: Path, *, allow_links: bool = False) -> Georeference | None:
    """Where the label's grid lies, or None where the chip does not say.

    Raises:
        InputError: the CRS is none, or the transform is no grid.
    """
    with open_chip(path, allow_links=allow_links) as file:
        return place_of(file)


def read_grid(path: Path, *, allow_links: bool = False) -> tuple[Georeference, tuple[int, int]] | None:
    """Where a chip lies, and rows and columns of the grid whose transform it gives; None where it does not say.

    That grid is the label's. Without a label it is that of the largest image in the file.

    Raises:
        InputError: the CRS is none, or the transform is no grid, or there is nothing to which it belongs.
    """
    with open_chip(path, allow_links=allow_links) as file:
        place = place_of(file)
        return None if place is None else (place, _size(file))


def place_of(file: ChipFile) -> Georeference | None:
    """Where the label's grid of an open chip lies, or None where it does not say.

    Raises:
        InputError: the CRS is none, or the transform is no grid.
    """
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
    return Georeference(crs, _transform(transform, file.where("attribute 'transform'")))


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


def _transform(value: object, where: str) -> tuple[float, ...]:
    values = np.asarray(value)
    plain = values.ndim == 1 and values.dtype.kind in "iuf" and len(values) in (6, 9)
    numbers = [float(x) for x in values] if plain else []
    grid = plain and bool(np.isfinite(numbers).all()) and numbers[6:] in ([], [0.0, 0.0, 1.0])
    if grid:
        a, b, _, d, e, _ = numbers[:6]
        # Degrees and meters: a pixel of less than 1e-12 squared or more than 1e12 is none.
        grid = 1e-24 < abs(a * e - b * d) < 1e24
    if not grid:
        raise InputError(
            where,
            found=str(value)[:200],
            expected="six finite numbers a, b, c, d, e, f of a grid, as rasterio and affine write them",
            repair="write them, or delete the attribute; the chip's map is then a picture without a place.",
        )
    return tuple(numbers[:6])


def _size(file: ChipFile) -> tuple[int, int]:
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
