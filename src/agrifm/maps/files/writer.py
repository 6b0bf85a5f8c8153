"""Maps as files: Cloud-Optimized GeoTIFF with colors and class names if they are georeferenced, PNG otherwise."""

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
from agrifm.errors import InputError, nearest, refuse_missing_library
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
from agrifm.maps.files.qgis import layer_definition, raster_layers
from agrifm.maps.files.stac_item import stac_item
from agrifm.maps.store import TILES_ARE_KEPT
from agrifm.tasks.calibration import Calibration

__all__ = [
    "NODATA",
    "Legend",
    "build",
    "check_table",
    "item_text",
    "map_files",
    "refuse_existing",
    "rgb",
    "write_bands",
    "write_classes",
    "write_png",
]


def check_table(path: Path, *, parquet: str, other: str, expected: str, repair: str, overwrite: bool) -> None:
    """Refuse a table that cannot be written, before anything is computed.

    Args:
        path: Path of the table, in Parquet or another format.
        parquet: Name of the kind of Parquet, for errors.
        other: Suffix of the other format, which needs no optional library.
        expected: Both formats in words, for errors.
        repair: Advice if the suffix is unknown.
        overwrite: Whether an existing file is replaced.

    Raises:
        InputError: If the suffix is unknown, the file exists, or pyarrow is missing for Parquet.
    """
    suffix = path.suffix.lower()
    if suffix not in (".parquet", other):
        raise InputError(path, found=f"the ending '{path.suffix}'", expected=expected, repair=repair)
    if suffix == ".parquet":
        advice = f"run pip install 'agrifm[parquet]', or end the name in {other}."
        refuse_missing_library(path, "pyarrow", f"which writes {parquet}", advice)
    refuse_existing(path, overwrite=overwrite)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to overwrite a file unless the user wants it.

    Raises:
        InputError: If the file exists.
    """
    if path.exists() and not overwrite:
        raise InputError(
            path,
            found="an existing file",
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
    """Write all files of a map from its tiles: the map of classes, the extras, and their metadata.

    Beside ``OUT.tif`` are ``OUT.tif.aux.xml`` (attribute table), ``OUT.qml`` (QGIS style), ``OUT.qlr`` (QGIS layers),
    ``OUT.json`` (STAC item) and ``OUT_<extra>.tif``.

    Args:
        folder: Folder to which the files are written, under their final names.
        target: Path of ``OUT.tif``.
        grid: Grid of the map.
        tiles: Function that yields the strips of a product by its key; called once for each file.
        legend: Classes of the map.
        sensors: Names of the bands of the observations.
        interval: First and last day of the images.
        extras: Any of probabilities, confidence, entropy, observations and sets.
        calibration: Calibration of the probabilities, which also becomes a property of the STAC item.
        properties: Further properties of the STAC item.

    Returns:
        The final paths, the map of classes first.

    Raises:
        InputError: If the disk is full, the folder is not writable, or an extra is unknown.
    """
    chosen = _chosen(products(legend, sensors, calibration), extras)
    properties = ({"agrifm:calibration": asdict(calibration)} if calibration else {}) | dict(properties or {})
    texts = {
        _table(target): legend.attribute_table(),
        target.with_suffix(".qml"): legend.qml(),
        target.with_suffix(".qlr"): _layers(target, grid, chosen),
        target.with_suffix(".json"): item_text(stac_item(target, grid, chosen, interval, properties)),
    }
    rasters = {product.path(target): product for product in chosen}
    try:
        with writing_files(target, folder, chosen, grid, f"; {TILES_ARE_KEPT}"):
            build_files(folder, grid, rasters, tiles, texts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # incomplete files would only take space on a disk that may be full
        raise
    return [*rasters, *texts]


def map_files(target: Path) -> list[Path]:
    """Paths of all files that can belong to a map, the map of classes first."""
    rasters = [product.path(target) for product in products(Legend((), ()), ())]
    return [*rasters, *map(_table, rasters), *map(target.with_suffix, (".qml", ".qlr", ".json"))]


def write_classes(
    path: Path, classes: np.ndarray, names: Sequence[str], colors: Sequence[str], place: Georeference
) -> None:
    """Write a class map ``(h, w)`` uint8 with color table and class names; 255 is no data.

    Names are written to the tags of the band and to an attribute table beside the file, which QGIS and GDAL read.
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
    """Path at which GDAL looks for a raster's attribute table."""
    return path.with_name(path.name + ".aux.xml")


def _layers(target: Path, grid: GeoBox, chosen: Sequence[MapProduct]) -> str:
    """Text of ``OUT.qlr``."""
    wkt = "" if grid.crs is None else grid.crs.to_wkt()
    return layer_definition(target, target.stem, raster_layers(target, chosen), wkt)


def item_text(item: Mapping[str, Any]) -> str:
    """Indented JSON with lists of plain values on one line; text in JSON has no line breaks that could match."""
    text = json.dumps(item, indent=2, ensure_ascii=False)
    return re.sub(r"\[\n\s+[^\[\]{}]+\n\s+\]", lambda match: re.sub(r"\s*\n\s*", " ", match[0]), text) + "\n"


def _grid(pixels: np.ndarray, place: Georeference) -> GeoBox:
    return GeoBox(pixels.shape[-2:], Affine(*place.transform), place.crs)
