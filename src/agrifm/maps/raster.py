"""Maps as files: GeoTIFF with colors and class names where the place is known, PNG otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.transform import Affine

from agrifm.data.h5 import Place

NODATA = 255


def rgb(color: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three numbers."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def write_classes(path: Path, classes: np.ndarray, names: Sequence[str], colors: Sequence[str], place: Place) -> None:
    """Write a class map ``(h, w)`` uint8 with color table and class names; 255 is no data.

    Names stand in the band's tags and, where QGIS and GDAL look for them, in an attribute table beside the file.
    """
    colormap = {i: (*rgb(color), 255) for i, color in enumerate(colors)} | {NODATA: (0, 0, 0, 0)}
    unfinished = path.with_suffix(".part.tif")
    with rasterio.open(unfinished, "w", **_profile(classes[None], place), nodata=NODATA) as file:
        file.write(classes.astype(np.uint8), 1)
        file.write_colormap(1, colormap)
        file.set_band_description(1, "class")
        file.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})
    path.with_suffix(path.suffix + ".aux.xml").write_text(_attribute_table(names, colors))
    unfinished.replace(path)


def write_bands(path: Path, bands: np.ndarray, descriptions: Sequence[str], place: Place) -> None:
    """Write float bands ``(n, h, w)`` with their descriptions."""
    unfinished = path.with_suffix(".part.tif")
    with rasterio.open(unfinished, "w", **_profile(bands, place)) as file:
        file.write(bands)
        for i, text in enumerate(descriptions, 1):
            file.set_band_description(i, text)
    unfinished.replace(path)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image ``(h, w)`` of integers or ``(h, w, 3)`` of colors as PNG."""
    from PIL import Image

    unfinished = path.with_suffix(".part")
    Image.fromarray(image.astype(np.uint8)).save(unfinished, format="PNG")
    unfinished.replace(path)


def _profile(bands: np.ndarray, place: Place) -> dict:
    count, height, width = bands.shape
    return {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": bands.dtype,
        "crs": place.crs,
        "transform": Affine(*place.transform),
        "compress": "deflate",
        "tiled": min(height, width) >= 16,
    }


def _attribute_table(names: Sequence[str], colors: Sequence[str]) -> str:
    """A GDAL raster attribute table: value, class name, red, green, blue."""
    fields = [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    definitions = "".join(
        f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
        for i, (name, kind, usage) in enumerate(fields)
    )
    rows = ""
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        cells = "".join(f"<F>{escape(str(cell))}</F>" for cell in (i, name, *rgb(color)))
        rows += f'<Row index="{i}">{cells}</Row>'
    table = f'<GDALRasterAttributeTable tableType="thematic">{definitions}{rows}</GDALRasterAttributeTable>'
    return f'<PAMDataset><PAMRasterBand band="1">{table}</PAMRasterBand></PAMDataset>'
