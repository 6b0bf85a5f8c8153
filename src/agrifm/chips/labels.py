"""Labels on a scene's grid: polygons of fields or a raster of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS

from agrifm.chips.classes import IGNORE, ClassTable
from agrifm.chips.parcels import Account, Tally, no_overlap, read_parcels
from agrifm.chips.rasterize import hectares, rasterize_polygons, strips
from agrifm.errors import InputError, nearest
from agrifm.rasters.codes import check_codes, grid_of, picked
from agrifm.tasks.segmentation import CropClass
from agrifm.vectors.polygons import boxes_in
from agrifm.vectors.reading import vector_layers

NOTHING = int(np.iinfo(np.int64).min)  # where a label raster has no pixel
LARGEST = 2**53  # from here on floating-point numbers leave out some of the whole ones


@dataclass(frozen=True)
class Labels:
    """Labels on a scene's grid.

    Args:
        label: ``(h, w)`` int16, number of the class or -1.
        parcel: ``(h, w)`` int32, number of the parcel from 1, 0 where there is none or labels are a raster, -1 where
            polygons of different classes overlap.
        classes: Classes in the order of their numbers.
        account: What became of the labels that were read.
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
        path: Path of the labels.
        grid: Where they are wanted; a pixel gets the class of the polygon its center lies in.
        table: Which code means which class; without it every code is a class.
        class_column: Class column of a vector file; may be left out where there is only one.
        layer: Layer of a vector file; may be left out where there is only one.
        buffer: Meters by which polygons shrink on all sides, so that mixed pixels at edges stay out.

    Raises:
        InputError: If the file cannot be read, does not overlap the grid or holds nothing that can be used.
    """
    if not path.exists():
        raise InputError(path, found="no such file", expected="a vector file or a raster", repair="check the path.")
    layers = vector_layers(path)
    if layers:
        labels = _of_polygons(path, _layer(path, layers, layer), grid, class_column, table, buffer)
    else:
        check_codes(path)
        if class_column is not None or buffer > 0:
            raise InputError(
                path,
                found="a raster of labels",
                expected="polygons: only these have columns and can be shrunk",
                repair="leave out --class-column and --buffer, or name a vector file.",
            )
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
    burned = rasterize_polygons(parcels.polygons, parcels.number, grid, len(parcels.table.classes))
    account = replace(
        parcels.account,
        too_small=burned.too_small,
        merged=burned.merged,
        overlap=hectares(burned.overlap, grid),
    )
    return Labels(burned.label, burned.parcel, parcels.table.classes, account)


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
    """Numbers of a raster on a grid, picked at pixel centers; ``NOTHING`` where it has none."""
    _must_overlap(path, grid, grid_of(str(path)))
    values = np.full(grid.shape, NOTHING, np.int64)
    for rows, box in strips(grid):
        pixels = picked(str(path), box)
        known = pixels.values[~pixels.missing]
        numbers = known.astype(np.int64) if (np.abs(known) < LARGEST).all() else None
        if numbers is None or (numbers != known).any():
            raise InputError(
                path,
                found="fractions" if numbers is not None else "numbers beyond 2^53",
                expected="class numbers",
                repair="write whole numbers.",
            )
        values[rows][~pixels.missing] = numbers
    return values


def _must_overlap(path: Path, grid: GeoBox, own: GeoBox) -> None:
    """Refuse a raster that does not reach the grid, or of which GDAL would read only the part on one side of 180.

    Raises:
        InputError: If the file is neither; the error says why.
    """
    crs = CRS.from_user_input(str(own.crs))
    west, south, east, north = own.boundingbox.bbox
    near = [box for box in boxes_in(grid, crs) if box[0] < east and box[2] > west and box[1] < north and box[3] > south]
    if not near:
        raise _elsewhere(path, grid)
    beyond = [box for box in near if max(west, box[0]) < -180 or min(east, box[2]) > 180]
    if crs.is_geographic and beyond:
        raise InputError(
            path,
            found=f"longitudes from {west:g} to {east:g}, on a scene beyond the 180th meridian",
            expected="a raster in the CRS of the scene, or in degrees from -180 to 180",
            repair=f"warp it, e.g. 'gdalwarp -r near -s_srs \"+proj=longlat +datum=WGS84 "
            f"+lon_wrap={(west + east) / 2:g}\" -t_srs {grid.crs} OLD NEW'.",
        )


def _elsewhere(path: Path, grid: GeoBox) -> InputError:
    own = grid_of(str(path))
    return no_overlap(path, grid, own.boundingbox.bbox, str(own.crs))
