"""The pixels of a map as a population: read in strips, counted, and measured on the ground."""

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

PIXELS = 2**22  # of a strip
CHUNK = 512  # pixels of a row that are taken to have one area
MOST_CODES = 254
CLASS_TAG = re.compile(r"class_[0-9]{1,9}")
LONGEST = 200  # characters of a name
CACHE = 256 * 2**20  # bytes; GDAL would take a twentieth of the machine's memory
EQUAL_AREA = "EPSG:6933"  # cylindrical, on the WGS 84 ellipsoid: meridians and parallels are straight
WORLD = 34_735_060.89  # its width in meters

Strip = tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # first row; the others (h, w)
Sizes = dict[int, tuple[int, float]]  # pixels and hectares by code


@dataclass(frozen=True)
class Census:
    """What the population consists of.

    Args:
        classes: of the map.
        strata: the same where the classes are the strata.
        no_stratum: pixels of the map without a stratum; they are not in the population.
        empty: pixels of the map without data.
    """

    classes: Sizes
    strata: Sizes
    no_stratum: int
    empty: int


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
            InputError: one is no raster of whole numbers with a place on the ground, or their grids differ.
        """
        with ExitStack() as stack:
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
            file, *more = [stack.enter_context(_classified(each)) for each in (path, strata) if each is not None]
            if more and located(file, str(path)) != located(more[0], str(strata)):
                raise InputError(
                    strata,
                    found=f"another grid than that of {path}",
                    expected="strata on the pixels of the map: the same CRS, corner and size",
                    repair="warp them, e.g. 'gdalwarp -r near -t_srs CRS -te LEFT BOTTOM RIGHT TOP -ts COLUMNS ROWS'.",
                )
            yield cls(file, more[0] if more else None)

    def strips(self) -> Generator[Strip]:
        """All rows from top to bottom: first row, classes, strata, where there is a class, where there are both.

        The last is the population.
        """
        step = max(1, PIXELS // self.file.width)
        for top in range(0, self.file.height, step):
            window = (top, min(top + step, self.file.height)), (0, self.file.width)
            mapped = _strip(self.file, window)
            stratum = mapped if self.other is None else _strip(self.other, window)
            known = ~np.ma.getmaskarray(mapped)
            yield top, np.ma.getdata(mapped), np.ma.getdata(stratum), known, known & ~np.ma.getmaskarray(stratum)

    def census(self) -> Census:
        """Count and measure.

        Raises:
            InputError: there is nothing, or too many codes for a map of classes.
        """
        classes: Sizes = {}
        strata: Sizes = {}
        left_out = empty = 0
        for top, mapped, stratum, known, inside in self.strips():
            starts = np.arange(0, mapped.shape[1], CHUNK)
            middle = np.minimum(starts + CHUNK // 2, mapped.shape[1] - 1)
            areas = self.hectares(top + np.arange(len(mapped))[:, None], middle[None])
            _add(classes, mapped, inside, starts, areas, self.file.name)
            if self.other is not None:
                _add(strata, stratum, inside, starts, areas, self.other.name)
            empty += np.count_nonzero(~known)
            left_out += np.count_nonzero(known & ~inside)
        if not classes:
            raise InputError(
                self.file.name,
                found="no pixel with data" + (" and a stratum" if self.other else ""),
                expected="a map of classes",
                repair="check the files and their no-data values.",
            )
        classes = dict(sorted(classes.items()))
        return Census(classes, dict(sorted(strata.items())) or classes, int(left_out), int(empty))

    def hectares(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Area of pixels on the ground, whatever the CRS: between their corners on an equal-area projection."""
        across, down = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0])
        x, y = self.file.transform @ (column[..., None] + across, row[..., None] + down)
        x, y = _to_equal_area(self.file.crs.to_wkt()).transform(x, y)
        x, y = x - x[..., :1], y - y[..., :1]
        x = x - WORLD * np.round(x / WORLD)  # across the 180th meridian
        return np.abs((x * np.roll(y, -1, -1) - y * np.roll(x, -1, -1)).sum(-1)) / 2e4


def _strip(file: rasterio.DatasetReader, window: tuple[tuple[int, int], tuple[int, int]]) -> np.ma.MaskedArray:
    with refusing(file.name, expected="a complete raster"):
        return file.read(1, window=window, masked=True)


@lru_cache(maxsize=8)
def _to_equal_area(crs: str) -> Transformer:
    return Transformer.from_crs(crs, EQUAL_AREA, always_xy=True)


def _add(sizes: Sizes, codes: np.ndarray, inside: np.ndarray, starts: np.ndarray, areas: np.ndarray, name: str) -> None:
    """Add the pixels of a strip to what was counted; ``areas`` are those of its rows and chunks."""
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
def _classified(path: Path) -> Generator[rasterio.DatasetReader]:
    """A raster of one band of whole numbers that knows its place."""
    refuse_sources_elsewhere(path)
    with refusing(path, expected="a raster of classes, e.g. GeoTIFF", repair="check the path and the file."):
        file = rasterio.open(path)
    with file:
        kind, bands = file.dtypes[0], file.count
        if bands != 1 or np.dtype(kind).kind not in "iu" or file.scales[0] != 1:
            raise InputError(
                path,
                found=f"{bands} band(s) of {kind}" + (f", scaled by {file.scales[0]:g}" if file.scales[0] != 1 else ""),
                expected="one band of whole numbers that stand for classes",
                repair="name the map of classes itself, not its probabilities, or write it as integers.",
            )
        located(file, str(path))
        yield file


def class_names(file: rasterio.DatasetReader) -> dict[int, str]:
    """Names by code, from the band's tags ``class_<code>`` or the category names in ``.aux.xml``; may be empty."""
    names = {int(key[6:]): name for key, name in file.tags(1).items() if CLASS_TAG.fullmatch(key)}
    table = Path(f"{file.name}.aux.xml")
    if not names and table.is_file():
        with suppress(ElementTree.ParseError, OSError, ValueError):
            entries = ElementTree.parse(table).findall("PAMRasterBand[@band='1']/CategoryNames/Category")
            names = {code: entry.text for code, entry in enumerate(entries) if entry.text}
    return {code: printable(" ".join(name.split()))[:LONGEST] or str(code) for code, name in names.items()}
