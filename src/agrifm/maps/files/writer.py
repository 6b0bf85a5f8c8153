"""Maps as files: Cloud-Optimized GeoTIFF with colors and class names where the place is known, PNG otherwise."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from agrifm.data.chips import Georeference
from agrifm.errors import InputError, nearest
from agrifm.io import whole
from agrifm.maps.files.cog import (
    MapProduct,
    Tiles,
    build_files,
    class_map,
    products,
    write_cog,
    write_files,
    writing_files,
)
from agrifm.maps.files.legend import NODATA, Legend, plain, rgb
from agrifm.maps.files.stac_item import stac_item
from agrifm.tasks.calibration import Calibration

__all__ = [
    "NODATA",
    "Legend",
    "build",
    "map_files",
    "refuse_existing",
    "rgb",
    "write_bands",
    "write_classes",
    "write_png",
]

KEPT = "; the finished tiles are kept and not computed again"


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to write over a file unless that is asked for.

    Raises:
        InputError: it is there.
    """
    if path.exists() and not overwrite:
        raise InputError(
            path,
            found="a file that is there already",
            expected="a new file",
            repair="give --overwrite, or another name.",
        )


def build(
    folder: Path,
    target: Path,
    grid: GeoBox,
    tiles: Tiles,
    legend: Legend,
    sensors: Sequence[str],
    interval: tuple[dt.date, dt.date],
    *,
    extras: Sequence[str] = (),
    calibration: Calibration | None = None,
    properties: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Put finished tiles together: the map of classes, what else was asked for, and what tells their meaning.

    Beside ``OUT.tif`` come ``OUT.tif.aux.xml`` (attribute table), ``OUT.qml`` (QGIS style), ``OUT.json`` (STAC item)
    and ``OUT_<extra>.tif``.

    Args:
        folder: where the files are written, under their final names.
        target: ``OUT.tif``.
        grid: of the map.
        tiles: gives the pieces of a product by its key; called once for each file.
        legend: the classes.
        sensors: bands of the observations.
        interval: first and last day of the images used.
        extras: of probabilities, confidence, entropy, observations and sets.
        calibration: of the probabilities; it also stands in the item's properties.
        properties: more of the STAC item's.

    Returns:
        The final paths, the map of classes first.

    Raises:
        InputError: the disk is full, the folder cannot be written, or an extra has no such name.
    """
    chosen = _chosen(products(legend, sensors, calibration), extras)
    properties = ({"agrifm:calibration": asdict(calibration)} if calibration else {}) | dict(properties or {})
    texts = {
        _table(target): legend.attribute_table(),
        target.with_suffix(".qml"): legend.qml(),
        target.with_suffix(".json"): _json(stac_item(target, grid, chosen, interval, properties)),
    }
    rasters = {product.path(target): product for product in chosen}
    try:
        with writing_files(target, folder, chosen, grid, KEPT):
            build_files(folder, grid, rasters, tiles, texts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # what is half done only takes room, on a disk that may be full
        raise
    return [*rasters, *texts]


def map_files(target: Path) -> list[Path]:
    """Every file that can belong to a map, there or not; the map of classes first."""
    rasters = [product.path(target) for product in products(Legend((), ()), ())]
    return [*rasters, *map(_table, rasters), target.with_suffix(".qml"), target.with_suffix(".json")]


def write_classes(
    path: Path, classes: np.ndarray, names: Sequence[str], colors: Sequence[str], place: Georeference
) -> None:
    """Write a class map ``(h, w)`` uint8 with color table and class names; 255 is no data.

    Names stand in the band's tags and, where QGIS and GDAL look for them, in an attribute table beside the file.
    """
    legend = Legend(tuple(names), tuple(colors))
    pieces = [(0, 0, classes.astype(np.uint8))]
    texts = {_table(path): legend.attribute_table()}
    write_files(path, _grid(classes, place), {path: class_map(legend)}, lambda _: pieces, texts)


def write_bands(path: Path, bands: np.ndarray, descriptions: Sequence[str], place: Georeference) -> None:
    """Write float bands ``(n, h, w)`` with their descriptions."""
    product = MapProduct("bands", tuple(map(plain, descriptions)), "", nodata=None, dtype=str(bands.dtype))
    write_cog(path, _grid(bands, place), product, [(0, 0, bands)])


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image ``(h, w)`` of integers or ``(h, w, 3)`` of colors as PNG."""
    from PIL import Image

    with whole(path) as unfinished:
        Image.fromarray(image.astype(np.uint8)).save(unfinished, format="PNG")


def _chosen(known: Sequence[MapProduct], extras: Sequence[str]) -> list[MapProduct]:
    names = [product.key for product in known if product.legend is None]
    for extra in extras:
        if extra not in names:
            raise InputError(
                "products",
                found=extra,
                expected=f"some of {', '.join(names)}",
                repair=nearest(extra, names),
            )
    return [product for product in known if product.legend or product.key in extras]


def _table(path: Path) -> Path:
    """Where GDAL looks for a raster's attribute table."""
    return path.with_name(path.name + ".aux.xml")


def _json(item: Mapping[str, Any]) -> str:
    """Indented, but lists of plain values on one line: text in JSON has no line breaks, so only structure matches."""
    text = json.dumps(item, indent=2, ensure_ascii=False)
    return re.sub(r"\[\n\s+[^\[\]{}]+\n\s+\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text) + "\n"


def _grid(pixels: np.ndarray, place: Georeference) -> GeoBox:
    return GeoBox(pixels.shape[-2:], Affine(*place.transform), place.crs)
