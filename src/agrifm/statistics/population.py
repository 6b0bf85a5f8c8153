"""The pixels of a map as a population: read in strips, counted, and measured on the ground."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
from pyproj import Transformer

from agrifm.errors import InputError, counted, printable, refusing
from agrifm.rasters.codes import refuse_sources_elsewhere
from agrifm.rasters.file_band import located

PIXELS = 2**22  # of a strip
CHUNK = 512  # pixels of a row that are taken to have the same area
MOST_CODES = 254
CLASS_TAG = re.compile(r"class_([0-9]{1,9})")
LONGEST = 200  # characters of a name
CACHE = 256 * 2**20  # bytes; by default GDAL takes a twentieth of the machine's memory
EQUAL_AREA = "EPSG:6933"  # cylindrical, on the WGS 84 ellipsoid: meridians and parallels are straight
WORLD = 34_735_060.89  # its width in meters
SQUARE_METERS_PER_HECTARE = 1e4

Sizes = dict[int, tuple[int, float]]  # pixels and hectares by code


class Strip(NamedTuple):
    """Some rows of a map.

    Args:
        top: Number of the first row.
        mapped: Classes ``(h, w)``.
        stratum: Strata ``(h, w)``.
        known: Where the map has a class ``(h, w)``.
        inside: Where it has a class and a stratum ``(h, w)``: the pixels of the population.
    """

    top: int
    mapped: np.ndarray
    stratum: np.ndarray
    known: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Census:
    """Sizes of the parts of a population.

    Args:
        classes: Sizes of the classes of the map.
        strata: Sizes of the strata; equal to ``classes`` where these are the strata.
        no_stratum: Pixels of the map without a stratum, which are not in the population.
        empty: Pixels of the map without data.
    """

    classes: Sizes
    strata: Sizes
    no_stratum: int
    empty: int


@dataclass(frozen=True)
class Population:
    """A map and, if its classes are not the strata, a raster of strata on the same grid."""

    file: rasterio.DatasetReader
    other: rasterio.DatasetReader | None

    @classmethod
    @contextmanager
    def open(cls, path: Path, strata: Path | None) -> Generator[Population]:
        """Open the files.

        Raises:
            InputError: If a file is not a georeferenced raster of whole numbers, or the grids differ.
        """
        with ExitStack() as stack:
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
            file = stack.enter_context(_classified(path))
            other = None if strata is None else stack.enter_context(_classified(strata))
            if other is not None and located(file, str(path)) != located(other, str(strata)):
                raise InputError(
                    strata,
                    found=f"another grid than that of {path}",
                    expected="strata on the pixels of the map: the same CRS, corner and size",
                    repair="warp them, e.g. 'gdalwarp -r near -t_srs CRS -te LEFT BOTTOM RIGHT TOP -ts COLUMNS ROWS'.",
                )
            yield cls(file, other)

    def strips(self) -> Generator[Strip]:
        """Iterate over all rows from top to bottom."""
        rows = max(1, PIXELS // self.file.width)
        for top in range(0, self.file.height, rows):
            bottom = min(top + rows, self.file.height)
            window = (top, bottom), (0, self.file.width)
            mapped = _read(self.file, window)
            stratum = mapped if self.other is None else _read(self.other, window)
            known = ~np.ma.getmaskarray(mapped)
            inside = known & ~np.ma.getmaskarray(stratum)
            yield Strip(top, np.ma.getdata(mapped), np.ma.getdata(stratum), known, inside)

    def census(self) -> Census:
        """Count and measure the population.

        Raises:
            InputError: If there is no pixel, or there are too many codes for a map of classes.
        """
        classes: Sizes = {}
        strata: Sizes = {}
        no_stratum = 0
        empty = 0
        for strip in self.strips():
            height, width = strip.mapped.shape
            starts = np.arange(0, width, CHUNK)
            middle = np.minimum(starts + CHUNK // 2, width - 1)
            areas = self.hectares(strip.top + np.arange(height)[:, None], middle[None])
            _add(classes, strip.mapped, strip.inside, starts, areas, self.file.name)
            if self.other is not None:
                _add(strata, strip.stratum, strip.inside, starts, areas, self.other.name)
            empty += np.count_nonzero(~strip.known)
            no_stratum += np.count_nonzero(strip.known & ~strip.inside)
        if not classes:
            raise InputError(
                self.file.name,
                found="no pixel with data" + (" and a stratum" if self.other else ""),
                expected="a map of classes",
                repair="check the files and their no-data values.",
            )
        classes = dict(sorted(classes.items()))
        strata = dict(sorted(strata.items())) or classes
        return Census(classes, strata, int(no_stratum), int(empty))

    def hectares(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return the area of pixels on the ground for any CRS: between their corners on an equal-area projection."""
        corner_columns = column[..., None] + np.array([0, 0, 1, 1])
        corner_rows = row[..., None] + np.array([0, 1, 1, 0])
        x, y = self.file.transform @ (corner_columns, corner_rows)
        x, y = _to_equal_area(self.file.crs.to_wkt()).transform(x, y)
        # Relative to the first corner, the products below keep their digits.
        x = x - x[..., :1]
        y = y - y[..., :1]
        x = x - WORLD * np.round(x / WORLD)  # across the 180th meridian
        next_x = np.roll(x, -1, -1)
        next_y = np.roll(y, -1, -1)
        twice_area = np.abs((x * next_y - y * next_x).sum(-1))  # shoelace formula
        return twice_area / (2 * SQUARE_METERS_PER_HECTARE)


def _read(file: rasterio.DatasetReader, window: tuple[tuple[int, int], tuple[int, int]]) -> np.ma.MaskedArray:
    with refusing(file.name, expected="a complete raster"):
        return file.read(1, window=window, masked=True)


@lru_cache(maxsize=8)
def _to_equal_area(crs: str) -> Transformer:
    return Transformer.from_crs(crs, EQUAL_AREA, always_xy=True)


def _add(sizes: Sizes, codes: np.ndarray, inside: np.ndarray, starts: np.ndarray, areas: np.ndarray, name: str) -> None:
    """Add the pixels of a strip to the sizes of their codes.

    Args:
        sizes: Sizes by code, which are updated.
        codes: Codes ``(h, w)``.
        inside: Pixels that count ``(h, w)``.
        starts: First columns of the chunks of a row.
        areas: Hectares of a pixel of each row and chunk.
        name: Name of the file.
    """
    for code in np.unique(codes[inside]).tolist():
        counts = np.add.reduceat((codes == code) & inside, starts, axis=1, dtype=np.int64)
        pixels, hectares = sizes.get(code, (0, 0.0))
        # Chunks without a pixel are left out: their area may be infinite beyond the range of the projection.
        area = (counts * areas)[counts > 0].sum()
        sizes[code] = (pixels + int(counts.sum()), hectares + float(area))
        if len(sizes) > MOST_CODES:
            raise InputError(
                name,
                found=f"more than {MOST_CODES} different values",
                expected="a map of classes, not of measurements",
                repair="name the map of classes, e.g. OUT.tif and not OUT_confidence.tif.",
            )


@contextmanager
def _classified(path: Path) -> Generator[rasterio.DatasetReader]:
    """Open a georeferenced raster of one band of whole numbers."""
    refuse_sources_elsewhere(path)
    with refusing(path, expected="a raster of classes, e.g. GeoTIFF", repair="check the path and the file."):
        file = rasterio.open(path)
    with file:
        kind = file.dtypes[0]
        scale = file.scales[0]
        if file.count != 1 or np.dtype(kind).kind not in "iu" or scale != 1:
            scaled = f", scaled by {scale:g}" if scale != 1 else ""
            raise InputError(
                path,
                found=f"{counted(file.count, 'band')} of {kind}{scaled}",
                expected="one band of whole numbers that are codes of classes",
                repair="name the map of classes itself, not its probabilities, or write it as integers.",
            )
        located(file, str(path))
        yield file


def class_names(file: rasterio.DatasetReader) -> dict[int, str]:
    """Return the names by code, from the tags ``class_<code>`` of the band or the categories in ``.aux.xml``."""
    names = {}
    for key, name in file.tags(1).items():
        match = CLASS_TAG.fullmatch(key)
        if match:
            names[int(match[1])] = name
    return {code: _clean(name) or str(code) for code, name in (names or _categories(file)).items()}


def _categories(file: rasterio.DatasetReader) -> dict[int, str]:
    """Read the category names beside a raster. A file that cannot be read has none."""
    table = Path(f"{file.name}.aux.xml")
    if not table.is_file():
        return {}
    with suppress(ElementTree.ParseError, OSError, ValueError):
        entries = ElementTree.parse(table).findall("PAMRasterBand[@band='1']/CategoryNames/Category")
        return {code: entry.text for code, entry in enumerate(entries) if entry.text}
    return {}


def _clean(name: str) -> str:
    return printable(" ".join(name.split()))[:LONGEST]
