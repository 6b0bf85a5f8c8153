"""Labels on a scene's grid: polygons of fields or a raster of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from agrifm.errors import InputError, nearest
from agrifm.scenes.burning import burn, hectares, strips
from agrifm.scenes.classes import IGNORE, ClassTable
from agrifm.scenes.parcels import Account, Tally, no_overlap, read_parcels
from agrifm.scenes.raster import FileBand
from agrifm.scenes.shapes import extent_in
from agrifm.scenes.vectors import vector_layers
from agrifm.tasks.segmentation import CropClass

NOTHING = int(np.iinfo(np.int32).min)  # where a label raster has no pixel


@dataclass(frozen=True)
class Labels:
    """Labels on a scene's grid.

    Args:
        label: ``(h, w)`` int16, number of the class or -1.
        parcel: ``(h, w)`` int32, number of the parcel from 1, 0 where there is none or labels are a raster, -1 where
            polygons of different classes overlap.
        classes: in the order of their numbers.
        account: what became of the labels that were read.
    """

    label: np.ndarray
    parcel: np.ndarray
    classes: tuple[CropClass, ...]
    account: Account


def read_labels(
    path: Path,
    grid: GeoBox,
    *,
    table: ClassTable | None = None,
    class_column: str | None = None,
    layer: str | None = None,
    buffer: float = 0.0,
) -> Labels:
    """Labels of a vector file or a raster on a grid in meters.

    Args:
        path: of the labels.
        grid: where they are wanted; a pixel gets the class of the polygon its center lies in.
        table: which code means which class; without it every code is a class.
        class_column: of a vector file; may be left out where there is only one.
        layer: of a vector file; may be left out where there is only one.
        buffer: meters by which polygons shrink on all sides, so that mixed pixels at edges stay out.

    Raises:
        InputError: the file cannot be read, does not overlap the grid or holds nothing that can be used.
    """
    if not path.exists():
        raise InputError(path, found="no such file", expected="a vector file or a raster", repair="check the path.")
    layers = vector_layers(path)
    if layers:
        labels = _of_polygons(path, _layer(path, layers, layer), grid, class_column, table, buffer)
    else:
        _must_be_raster(path, needs_polygons=class_column is not None or buffer > 0)
        labels = _of_raster(path, grid, table)
    if not (labels.label != IGNORE).any():
        raise InputError(
            path,
            found=f"no pixel of the scene gets a class ({labels.account})",
            expected="labels on the scene",
            repair="check the class table, the buffer and that the parcels are larger than a pixel.",
        )
    return labels


def _layer(path: Path, layers: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(layers) == 1:
        return layers[0]
    if wanted is not None and wanted in layers:
        return wanted
    raise InputError(
        path,
        found=f"layers {', '.join(layers)}" + (f", none called '{wanted}'" if wanted else ""),
        expected="the name of one of them",
        repair=nearest(wanted, layers) if wanted else "choose it with --layer.",
    )


def _of_polygons(
    path: Path, layer: str, grid: GeoBox, column: str | None, table: ClassTable | None, buffer: float
) -> Labels:
    parcels = read_parcels(path, layer, grid, column, table, buffer)
    burned = burn(parcels.polygons, parcels.number, grid, len(parcels.table.classes))
    account = replace(
        parcels.account,
        too_small=burned.too_small,
        merged=burned.merged,
        overlap=hectares(burned.overlap, grid),
    )
    return Labels(burned.label, burned.parcel, parcels.table.classes, account)


def _must_be_raster(path: Path, *, needs_polygons: bool) -> None:
    try:
        with rasterio.open(path) as file:
            bands = file.count
    except RasterioError as error:
        raise InputError(
            path,
            found=f"neither a layer of polygons nor a raster ({error})",
            expected="e.g. GeoPackage, Shapefile, GeoJSON, FlatGeobuf or GeoTIFF",
            repair="copy it again with the files that belong to it, or convert it with ogr2ogr.",
        ) from error
    if needs_polygons:
        raise InputError(
            path,
            found="a raster of labels",
            expected="polygons: only these have columns and can be shrunk",
            repair="leave out --class-column and --buffer, or name a vector file.",
        )
    if bands != 1:
        raise InputError(
            path,
            found=f"{bands} bands",
            expected="one band of class numbers",
            repair="write that band alone, e.g. 'gdal_translate -b 1 OLD NEW'.",
        )


def _of_raster(path: Path, grid: GeoBox, table: ClassTable | None) -> Labels:
    values = _class_numbers(path, grid)
    numbers, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    codes = ["" if number == NOTHING else str(number) for number in numbers]
    found = {code: int(n) for code, n in zip(codes, counts, strict=True) if code}
    if not found:
        raise _elsewhere(path, grid)
    table = table.among(found, str(path)) if table else ClassTable.of_codes(found, str(path))
    unlisted = {code: Tally(0, hectares(n, grid)) for code, n in found.items() if code not in table.codes}
    lookup = table.numbers(codes)
    label = np.where(lookup < len(table.classes), lookup, IGNORE).astype(np.int16)[where].reshape(grid.shape)
    return Labels(label, np.zeros(grid.shape, np.int32), table.classes, Account(unlisted=unlisted))


def _class_numbers(path: Path, grid: GeoBox) -> np.ndarray:
    """Numbers of a raster on a grid, picked at pixel centers."""
    band = FileBand(str(path))
    extent, own = extent_in(grid, str(band.grid().crs)), band.grid().boundingbox
    if (
        extent is None
        or extent[0] >= own.right
        or extent[2] <= own.left
        or extent[1] >= own.top
        or extent[3] <= own.bottom
    ):
        raise _elsewhere(path, grid)
    values = np.full(grid.shape, NOTHING, np.int64)
    for rows, box in strips(grid):
        part = band.read(box, average=False).filled(NOTHING)
        whole = np.where(np.isfinite(part), part, NOTHING)
        if (whole != np.round(whole)).any():
            raise InputError(path, found="fractions", expected="class numbers", repair="write whole numbers.")
        values[rows] = whole
    return values


def _elsewhere(path: Path, grid: GeoBox) -> InputError:
    own = FileBand(str(path)).grid()
    return no_overlap(path, grid, own.boundingbox.bbox, str(own.crs))
