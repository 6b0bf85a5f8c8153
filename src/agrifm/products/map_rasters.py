"""Rasters of a map, which lie beside each other on one grid."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioIOError

from agrifm.errors import InputError, counted, refusing
from agrifm.maps.files.legend import NODATA

BLOCK = 1024  # pixels along the side of a block


def strips(size: int, step: int) -> Iterator[slice]:
    """Stretches of an axis, one after the other."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def check_grid(path: Path, layers: Path) -> None:
    """Refuse a raster on another grid than the layers."""
    with opened(path, None, "a raster on the map's grid") as file, rasterio.open(layers) as other:
        if (file.shape, file.transform, file.crs) != (other.shape, other.transform, other.crs):
            raise InputError(
                path,
                found=f"{file.height} x {file.width} pixels of {file.crs} from {file.bounds[:2]}",
                expected=f"the grid of {layers.name}: {other.height} x {other.width} of {other.crs}",
                repair="map both from the same scene.",
            )


@contextmanager
def opened(path: Path, bands: int | None, expected: str) -> Generator[rasterio.DatasetReader]:
    """Open a raster of bytes, as all files of a map are.

    Raises:
        InputError: If it does not open, or has other bands or data types.
    """
    repair = "give OUT.tif of a map, and keep the files that 'agrifm map' wrote beside it."
    with refusing(path, expected=expected, repair=repair):
        file = rasterio.open(path)
    with file:
        if set(file.dtypes) != {"uint8"} or bands not in (None, file.count):
            kinds = ", ".join(sorted(set(file.dtypes)))
            raise InputError(path, found=f"{counted(file.count, 'band')} of {kinds}", expected=expected, repair=repair)
        yield file


def bands_of(path: Path) -> Iterator[tuple[slice, np.ndarray]]:
    """Read rows and bands ``(n, h, w)`` in strips."""
    with rasterio.open(path) as file:
        for rows in strips(file.height, BLOCK):
            with refusing(path, expected="a complete raster file"):
                part = file.read(window=((rows.start, rows.stop), (0, file.width)))
            yield rows, part


def is_class_map(path: Path) -> bool:
    """Whether a file is a raster of classes with their colors."""
    try:
        with rasterio.open(path) as file:
            return file.colorinterp[0] == ColorInterp.palette
    except RasterioIOError:
        return False


def class_counts(path: Path) -> np.ndarray:
    """Count the pixels of each value ``(256)`` of a map of classes, block by block.

    Raises:
        InputError: If a block cannot be read.
    """
    counts = np.zeros(NODATA + 1, np.int64)
    with refusing(path, expected="a complete raster file"), rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            counts += np.bincount(file.read(1, window=window).ravel(), minlength=len(counts))
    return counts


def beside(target: Path, key: str) -> Path:
    """Path of another file of a map."""
    return target.with_name(f"{target.stem}_{key}{target.suffix}")
