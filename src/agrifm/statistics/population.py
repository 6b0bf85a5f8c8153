"""The pixels of a map as a statistical population: read in strips, counted, and measured on the ground."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from pyproj import Transformer

from agrifm.errors import InputError, printable, refusing
from agrifm.rasters.codes import refuse_sources_elsewhere
from agrifm.rasters.file_band import located

PIXELS = 2**22  # pixels of a strip
CHUNK = 512  # pixels of a row that count as equally large
MOST_CODES = 254
CLASS_TAG = re.compile(r"class_[0-9]{1,9}")
LONGEST = 200  # characters of a class name
CACHE = 256 * 2**20  # bytes; GDAL would take a twentieth of the machine's memory
EQUAL_AREA = "EPSG:6933"  # cylindrical, on the WGS 84 ellipsoid: meridians and parallels are straight
WORLD = 34_735_060.89  # its width in meters

Sizes = dict[int, tuple[int, float]]  # pixels and hectares by code


@dataclass(frozen=True)
class Census:
    """Counts of a population.

    Args:
        classes: Sizes of the classes of the map.
        strata: Sizes of the strata; those of the classes where the classes are the strata.
        no_stratum: Number of pixels of the map without a stratum, which are not in the population.
        empty: Number of pixels of the map without data.
    """

    classes: Sizes
    strata: Sizes
    no_stratum: int
    empty: int


@dataclass(frozen=True)
class Strip:
    """Some rows of a map.

    Args:
        top: Number of the first row.
        classes: Codes of the classes ``(h, w)``.
        strata: Codes of the strata ``(h, w)``.
        mapped: Where there is a class ``(h, w)``.
        inside: Where there are a class and a stratum ``(h, w)``: the population.
    """

    top: int
    classes: np.ndarray
    strata: np.ndarray
    mapped: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Population:
    """A map and, where its classes are not the strata, a raster of strata on the same grid."""

    file: rasterio.DatasetReader
    other: rasterio.DatasetReader | None

    @classmethod
    @contextmanager
    def open(cls, path: Path, strata: Path | None) -> Generator[Population]:
        """Open the files.

        Raises:
            InputError: If one is no georeferenced raster of whole numbers, or their grids differ.
        """
        with ExitStack() as stack:
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
            file = stack.enter_context(_open_classes(path))
            other = None if strata is None else stack.enter_context(_open_classes(strata))
            if other is not None and located(file, str(path)) != located(other, str(strata)):
                raise InputError(
                    strata,
                    found=f"another grid than that of {path}",
                    expected="strata on the pixels of the map: the same CRS, corner and size",
                    repair="warp them, e.g. 'gdalwarp -r near -t_srs CRS -te LEFT BOTTOM RIGHT TOP -ts COLUMNS ROWS'.",
                )
            yield cls(file, other)

    def strips(self) -> Generator[Strip]:
        """Read all rows from top to bottom."""
        step = max(1, PIXELS // self.file.width)
        for top in range(0, self.file.height, step):
            window = (top, min(top + step, self.file.height)), (0, self.file.width)
            classes = _read(self.file, window)
            strata = classes if self.other is None else _read(self.other, window)
            mapped = ~np.ma.getmaskarray(classes)
            inside = mapped & ~np.ma.getmaskarray(strata)
            yield Strip(top, np.ma.getdata(classes), np.ma.getdata(strata), mapped, inside)

    def census(self) -> Census:
        """Count pixels and measure areas of classes and strata.

        Raises:
            InputError: If the population is empty, or there are too many codes for a map of classes.
        """
        classes: Sizes = {}
        strata: Sizes = {}
        no_stratum = 0
        empty = 0
        for strip in self.strips():
            height, width = strip.classes.shape
            starts = np.arange(0, width, CHUNK)
            middle = np.minimum(starts + CHUNK // 2, width - 1)
            rows = strip.top + np.arange(height)
            areas = self.hectares(rows[:, None], middle[None])
            _add(classes, strip.classes, strip.inside, starts, areas, self.file.name)
            if self.other is not None:
                _add(strata, strip.strata, strip.inside, starts, areas, self.other.name)
            empty += np.count_nonzero(~strip.mapped)
            no_stratum += np.count_nonzero(strip.mapped & ~strip.inside)
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
        """Compute the area of pixels on the ground in any CRS, between their corners on an equal-area projection."""
        across = np.array([0, 0, 1, 1])
        down = np.array([0, 1, 1, 0])
        x, y = self.file.transform @ (column[..., None] + across, row[..., None] + down)
        x, y = _to_equal_area(self.file.crs.to_wkt()).transform(x, y)
        # Relative to the first corner, so that large coordinates do not cost digits.
        x = x - x[..., :1]
        y = y - y[..., :1]
        x = x - WORLD * np.round(x / WORLD)  # pixels across the 180th meridian
        cross_products = x * np.roll(y, -1, -1) - y * np.roll(x, -1, -1)
        return np.abs(cross_products.sum(-1)) / 2e4


def _read(file: rasterio.DatasetReader, window: tuple[tuple[int, int], tuple[int, int]]) -> np.ma.MaskedArray:
    with refusing(file.name, expected="a complete raster"):
        return file.read(1, window=window, masked=True)


@lru_cache(maxsize=8)
def _to_equal_area(crs: str) -> Transformer:
    return Transformer.from_crs(crs, EQUAL_AREA, always_xy=True)


def _add(sizes: Sizes, codes: np.ndarray, inside: np.ndarray, starts: np.ndarray, areas: np.ndarray, name: str) -> None:
    """Add the pixels of a strip to ``sizes``; ``areas`` holds the area of a pixel for each row and chunk."""
    for code in np.unique(codes[inside]).tolist():
        counts = np.add.reduceat((codes == code) & inside, starts, axis=1, dtype=np.int64)
        pixels, hectares = sizes.get(code, (0, 0.0))
        sizes[code] = pixels + int(counts.sum()), hectares + float((counts * areas)[counts > 0].sum())
        if len(sizes) > MOST_CODES:
            raise InputError(
                name,
                found=f"more than {MOST_CODES} different values",
                expected="a map of classes, not of measurements",
                repair="name the map of classes, e.g. OUT.tif and not OUT_confidence.tif.",
            )


@contextmanager
def _open_classes(path: Path) -> Generator[rasterio.DatasetReader]:
    """Open a georeferenced raster of one band of whole numbers."""
    refuse_sources_elsewhere(path)
    with refusing(path, expected="a raster of classes, e.g. GeoTIFF", repair="check the path and the file."):
        file = rasterio.open(path)
    with file:
        dtype = file.dtypes[0]
        scale = file.scales[0]
        if file.count != 1 or np.dtype(dtype).kind not in "iu" or scale != 1:
            scaled = f", scaled by {scale:g}" if scale != 1 else ""
            raise InputError(
                path,
                found=f"{file.count} band(s) of {dtype}{scaled}",
                expected="one band of whole numbers that stand for classes",
                repair="name the map of classes itself, not its probabilities, or write it as integers.",
            )
        located(file, str(path))
        yield file


def class_names(file: rasterio.DatasetReader) -> dict[int, str]:
    """Read class names by code from the band's tags ``class_<code>`` or the categories in ``.aux.xml``, if any."""
    names = {}
    for key, name in file.tags(1).items():
        if CLASS_TAG.fullmatch(key):
            names[int(key.removeprefix("class_"))] = name
    table = Path(f"{file.name}.aux.xml")
    if not names and table.is_file():
        with suppress(ElementTree.ParseError, OSError, ValueError):
            entries = ElementTree.parse(table).findall("PAMRasterBand[@band='1']/CategoryNames/Category")
            names = {code: entry.text for code, entry in enumerate(entries) if entry.text}
    readable = {}
    for code, name in names.items():
        readable[code] = printable(" ".join(name.split()))[:LONGEST] or str(code)
    return readable
