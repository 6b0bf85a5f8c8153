"""How a map looks: one table of classes, from which every color and every name comes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, floor, log10, radians
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
import rasterio
from rasterio.enums import Resampling

from agrifm.errors import InputError
from agrifm.tasks.segmentation import Segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NODATA = 255
MOST_CLASSES = 254
METERS_PER_DEGREE = 111_320.0  # of latitude; of longitude at the equator

# What XML 1.0 cannot hold: control characters and halves of surrogate pairs.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Columns of GDAL's raster attribute table: name, type (0 integer, 2 text) and usage, by GDAL's numbers.
_COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))


def rgb(color: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three numbers."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@dataclass(frozen=True)
class Legend:
    """The classes of a map; a pixel's number is the position of its class.

    Args:
        names: may hold any characters.
        colors: ``#rrggbb``, one for each name.

    Raises:
        InputError: more classes than one byte can hold beside no data.
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
            raise ValueError(f"{len(self.names)} names and {len(self.colors)} colors")

    @classmethod
    def of(cls, task: Segmentation) -> Legend:
        """The classes of a task."""
        return cls(task.names, task.colors)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names as files can hold them: what is no text becomes U+FFFD."""
        return tuple(_NOT_TEXT.sub("\ufffd", name) for name in self.names)

    @property
    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Red, green, blue and alpha by pixel value; no data is transparent."""
        return {i: (*rgb(color), 255) for i, color in enumerate(self.colors)} | {NODATA: (0, 0, 0, 0)}

    @property
    def tags(self) -> dict[str, str]:
        """The names as tags of a band."""
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
        return _text(root)

    def qml(self) -> str:
        """Text of ``MAP.qml``: the style that QGIS 3 takes up when it opens ``MAP.tif``."""
        root = Element("qgis", version="3.22.0", styleCategories="Symbology")
        pipe = SubElement(root, "pipe")
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
        renderer = SubElement(
            pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
        )
        SubElement(renderer, "rasterTransparency")
        palette = SubElement(renderer, "colorPalette")
        for i, (name, color) in enumerate(zip(self.labels, self.colors, strict=True)):
            SubElement(palette, "paletteEntry", value=str(i), label=name, color=color.lower(), alpha="255")
        SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
        SubElement(pipe, "rasterresampler", maxOversampling="2")
        SubElement(root, "blendMode").text = "0"
        return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + _text(root)


def _text(root: Element) -> str:
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def picture(path: Path, out: Path, *, title: str = "", width: int = 1600) -> None:
    """Draw a finished map of classes with legend and scale bar as PNG; large maps are read from their overviews.

    Args:
        path: the map; names and colors are its own.
        out: the PNG.
        title: above the map.
        width: of the PNG in pixels.
    """
    from matplotlib.figure import Figure

    with rasterio.open(path) as file:
        step = max(1.0, file.width / (0.96 * width), file.height / (0.96 * width))
        shape = max(1, round(file.height / step)), max(1, round(file.width / step))
        classes = file.read(1, out_shape=shape, resampling=Resampling.nearest)
        colors, names = file.colormap(1), file.tags(1)
        pixel = _pixel_in_meters(file) * file.width / shape[1]
    shown = [int(value) for value in np.unique(classes)]
    entries = [(names.get(f"class_{value}", str(value)), colors[value]) for value in shown if value != NODATA]
    table = np.array([colors[value] for value in range(256)], np.uint8)
    inches = width / 160
    rows = -(-(len(entries) + 1) // _columns(entries))
    height = 0.96 * inches * min(1.5, shape[0] / shape[1]) + 0.26 * rows + 0.2 + (0.4 if title else 0.1)
    figure = Figure(figsize=(inches, height), dpi=160, layout="constrained", facecolor="white")
    axis = figure.add_subplot()
    axis.imshow(table[classes], interpolation="nearest")
    axis.set(xticks=[], yticks=[], title=title)
    _scale_bar(axis, pixel, shape)
    _draw_legend(figure, entries, no_data=NODATA in shown)
    unfinished = out.with_name(out.name + ".part")
    figure.savefig(unfinished, format="png")
    unfinished.replace(out)


def _pixel_in_meters(file: rasterio.DatasetReader) -> float:
    if file.crs is not None and file.crs.is_projected:
        return abs(file.transform.a) * file.crs.linear_units_factor[1]
    latitude = (file.bounds.bottom + file.bounds.top) / 2
    return abs(file.transform.a) * METERS_PER_DEGREE * cos(radians(latitude))


def _columns(entries: Sequence[tuple]) -> int:
    longest = max((len(name) for name, _ in entries), default=1)
    return max(1, min(len(entries) + 1, 130 // (longest + 7)))


def _draw_legend(figure, entries: Sequence[tuple], *, no_data: bool) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=np.array(color) / 255, label=name) for name, color in entries]
    if no_data:
        handles.append(Patch(facecolor="white", edgecolor="0.4", linewidth=0.6, label="no data"))
    figure.legend(handles=handles, loc="outside lower center", ncols=_columns(entries), frameon=False, fontsize=9)


def _scale_bar(axis: Axes, pixel: float, shape: tuple[int, int]) -> None:
    """A bar of a round length, at most a quarter of the width, in the lower left corner."""
    from matplotlib.patches import Rectangle

    most = pixel * shape[1] / 4
    digit = 10.0 ** floor(log10(most))
    meters = next(factor * digit for factor in (5, 2, 1) if factor * digit <= most)
    text = f"{meters / 1000:g} km" if meters >= 1000 else f"{meters:g} m"
    left, bottom = 0.03 * shape[1], shape[0] - 0.035 * max(shape)
    right, tall = left + meters / pixel, 0.008 * max(shape)
    corner, wide = (left - 2 * tall, bottom - 6 * tall), right - left + 4 * tall
    axis.add_patch(Rectangle(corner, wide, 8 * tall, facecolor="white", alpha=0.85, edgecolor="none"))
    axis.add_patch(Rectangle((left, bottom - tall), right - left, tall, facecolor="black"))
    axis.text((left + right) / 2, bottom - 1.6 * tall, text, ha="center", va="bottom", fontsize=9)
