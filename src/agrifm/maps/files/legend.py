"""Legend of a map: the one source of the names and colors of its classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from agrifm.errors import InputError, counted
from agrifm.figures import save_png
from agrifm.rasters.grid import pixel_size
from agrifm.tasks.fields import Fields
from agrifm.tasks.fractions import Fractions
from agrifm.tasks.segmentation import Segmentation, rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NODATA = 255
MOST_CLASSES = 254
DPI = 160
# Sizes in a picture, in inches.
MARGIN = 0.15
TITLE = 0.4
BAR = 0.4
ROW = 0.19  # of the legend
TALLEST = 1.5  # largest height of the map in a picture, in widths of the picture
LONGEST = 60  # characters of a class name in a picture

# Characters that XML 1.0 cannot hold or changes: control characters, line breaks, single surrogates.
_NOT_TEXT = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Columns of GDAL's raster attribute table: name, type (0 integer, 2 text) and usage, by GDAL's numbers.
_COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))


Entry = tuple[str, str]  # of the legend in a picture: name, and color as #rrggbbaa


def plain(name: str) -> str:
    """Replace characters that files cannot hold by U+FFFD."""
    return _NOT_TEXT.sub("\ufffd", name)


@dataclass(frozen=True)
class Legend:
    """Classes of a map; the value of a pixel is the position of its class.

    Args:
        names: Names, with any characters.
        colors: Colors as ``#rrggbb``, one for each name.

    Raises:
        InputError: If there are more classes than one byte can hold beside no data.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) > MOST_CLASSES:
            raise InputError(
                "classes",
                found=f"{len(self.names)} classes",
                expected=f"at most {MOST_CLASSES}: a map has one byte for each pixel, and {NODATA} means no data",
                repair="merge classes, or map groups of them with one model each.",
            )
        if len(self.names) != len(self.colors):
            raise ValueError(f"{counted(len(self.names), 'name')} and {counted(len(self.colors), 'color')}")

    @classmethod
    def of(cls, task: Segmentation | Fractions | Fields) -> Legend:
        """Return the legend of a task."""
        return cls(task.names, task.colors)

    @classmethod
    def read(cls, path: Path) -> Legend:
        """Read the legend of a map of classes from its file."""
        with rasterio.open(path) as file:
            tags, colors = file.tags(1), file.colormap(1)
        values = [value for value in range(NODATA) if f"class_{value}" in tags]
        names = tuple(tags[f"class_{value}"] for value in values)
        return cls(names, tuple(f"#{bytes(colors[value][:3]).hex()}" for value in values))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names with the characters that files can hold."""
        return tuple(map(plain, self.names))

    @property
    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Red, green, blue and alpha by pixel value; no data is transparent."""
        colors = {i: (*rgb(color), 255) for i, color in enumerate(self.colors)}
        return colors | {NODATA: (0, 0, 0, 0)}

    @property
    def tags(self) -> dict[str, str]:
        """Names as tags of a band."""
        return {f"class_{i}": name for i, name in enumerate(self.labels)}

    def attribute_table(self) -> str:
        """Text of ``MAP.tif.aux.xml``: GDAL's category names and its raster attribute table.

        Source: GDAL, "Raster attribute tables" and ``gdal.xsd``/PAM. GDAL 3.10 cannot put the table inside a GeoTIFF.
        """
        root = Element("PAMDataset")
        band = SubElement(root, "PAMRasterBand", band="1")
        categories = SubElement(band, "CategoryNames")
        for name in self.labels:
            SubElement(categories, "Category").text = name
        table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
        for i, (name, kind, usage) in enumerate(_COLUMNS):
            column = SubElement(table, "FieldDefn", index=str(i))
            for key, value in (("Name", name), ("Type", kind), ("Usage", usage)):
                SubElement(column, key).text = str(value)
        for i, (name, color) in enumerate(zip(self.labels, self.colors, strict=True)):
            row = SubElement(table, "Row", index=str(i))
            for cell in (i, name, *rgb(color)):
                SubElement(row, "F").text = str(cell)
        return document_text(root)

    def renderer(self) -> Element:
        """How QGIS 3 draws the map: each class in its color."""
        renderer = Element("rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor="")
        SubElement(renderer, "rasterTransparency")
        palette = SubElement(renderer, "colorPalette")
        for i, (name, color) in enumerate(zip(self.labels, self.colors, strict=True)):
            SubElement(palette, "paletteEntry", value=str(i), label=name, color=color.lower(), alpha="255")
        return renderer

    def qml(self) -> str:
        """Text of ``MAP.qml``: the style that QGIS 3 applies when it opens ``MAP.tif``."""
        root = Element("qgis", version="3.22.0", styleCategories="Symbology")
        add_raster_style(root, self.renderer())
        return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + document_text(root)


def add_raster_style(parent: Element, renderer: Element) -> None:
    """Add the style of a raster to a document of QGIS."""
    pipe = SubElement(parent, "pipe")
    provider = SubElement(pipe, "provider")
    nearest = "nearestNeighbour"
    SubElement(
        provider,
        "resampling",
        enabled="false",
        maxOversampling="2",
        zoomedInResamplingMethod=nearest,
        zoomedOutResamplingMethod=nearest,
    )
    pipe.append(renderer)
    SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    SubElement(pipe, "rasterresampler", maxOversampling="2")
    SubElement(parent, "blendMode").text = "0"


def document_text(root: Element) -> str:
    """Text of an XML document, indented."""
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def picture(path: Path, out: Path, *, title: str = "", width: int = 1600) -> None:
    """Draw a finished map of classes with legend and scale bar as PNG; large maps are read from their overviews.

    Args:
        path: Map with names and colors of its classes.
        out: PNG to write.
        title: Title above the map.
        width: Width of the PNG in pixels.
    """
    with rasterio.open(path) as file:
        step = max(1.0, file.width / width, file.height / (TALLEST * width))
        shape = max(1, round(file.height / step)), max(1, round(file.width / step))
        classes = file.read(1, out_shape=shape, resampling=Resampling.nearest)
        colors = file.colormap(1)
        names = file.tags(1)
        meters = _width_in_meters(file)
    table = np.array([colors[value] for value in range(256)], np.uint8)
    table[NODATA] = 255
    entries = []
    for value in np.unique(classes).tolist():
        name = "no data" if value == NODATA else names.get(f"class_{value}", str(value))
        entries.append((name, f"#{table[value].tobytes().hex()}"))
    figure = _draw(table[classes], entries, title, meters, width / DPI)
    save_png(figure, out)


def _width_in_meters(file: rasterio.DatasetReader) -> float:
    return file.width * pixel_size(GeoBox.from_rio(file))[0]


def _draw(image: np.ndarray, entries: Sequence[Entry], title: str, meters: float, width: float) -> Figure:
    """Draw title, map ``(h, w, 4)``, scale bar and legend from top to bottom; lengths are in inches."""
    from matplotlib.figure import Figure

    rows, columns = image.shape[:2]
    map_height = min(TALLEST * width, (width - 2 * MARGIN) * rows / columns)
    map_width = map_height * columns / rows
    legend_columns = _columns(entries, width - 2 * MARGIN)
    legend_rows = ceil(len(entries) / legend_columns)
    bottom = MARGIN + ROW * legend_rows + BAR
    left = (width - map_width) / 2
    height = bottom + map_height + (TITLE if title else MARGIN)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    place = (left / width, bottom / height, map_width / width, map_height / height)
    axis = figure.add_axes(place, xticks=[], yticks=[])
    axis.imshow(image, interpolation="nearest", aspect="auto")
    figure.text(0.5, 1 - TITLE / 2 / height, title, ha="center", va="center", fontsize=12, parse_math=False)
    _scale_bar(figure, left, bottom - BAR / 2, meters / map_width)
    _legend(figure, entries, legend_columns)
    return figure


def _columns(entries: Sequence[Entry], width: float) -> int:
    """Largest number of columns that fit; fewer if they need the same number of rows."""
    longest = max(len(name) for name, _ in entries)
    # An entry takes 0.6 inches for its square and gaps, and about 0.07 inches for each character.
    entry_width = 0.6 + 0.07 * min(longest, LONGEST)
    most_columns = max(1, int(width / entry_width))
    rows = ceil(len(entries) / most_columns)
    return ceil(len(entries) / rows)


def _legend(figure: Figure, entries: Sequence[Entry], columns: int) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=color, edgecolor="0.4", linewidth=0.6) for _, color in entries]
    blank = ["."] * len(entries)
    legend = figure.legend(
        handles, blank, loc="lower center", ncols=columns, frameon=False, fontsize=9, labelspacing=0.5
    )
    # Names are set later: matplotlib hides labels that begin with "_", and typesets formulas between dollar signs.
    for text, (name, _) in zip(legend.get_texts(), entries, strict=True):
        short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        text.set(text=short, parse_math=False)


def _scale_bar(figure: Figure, left: float, middle: float, meters_per_inch: float) -> None:
    """Draw a bar of a round length of at most two inches."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    digit = 10.0 ** floor(log10(2 * meters_per_inch))
    meters = next(factor * digit for factor in (5, 2, 1) if factor * digit <= 2 * meters_per_inch)
    text = f"{meters / 1000:g} km" if meters >= 1000 else f"{meters:g} m"
    length = meters / meters_per_inch
    corner = left / width, (middle - 0.03) / height
    figure.add_artist(Rectangle(corner, length / width, 0.06 / height, facecolor="black"))
    figure.text((left + length + 0.1) / width, middle / height, text, va="center_baseline", fontsize=9)
