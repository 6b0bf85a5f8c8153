"""Labels on the grid of a scene, from polygons of fields or a raster of class codes."""

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
from agrifm.rasters.codes import check_codes, grid_of, read_codes
from agrifm.tasks.segmentation import CropClass
from agrifm.vectors.polygons import boxes_in
from agrifm.vectors.reading import vector_layers

NOTHING = int(np.iinfo(np.int64).min)  # marks pixels that a label raster does not have
LARGEST = 2**53  # from here on, floating-point numbers cannot represent every integer


@dataclass(frozen=True)
class Labels:
    """Labels on a scene's grid.

    Args:
        label: Number of the class ``(h, w)`` int16, -1 without a class.
        parcel: Number of the parcel ``(h, w)`` int32 from 1; 0 without a parcel or for label rasters, -1 where polygons
            of different classes overlap.
        classes: Classes in the order of their numbers.
        account: Counts of used and ignored labels.
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
    """Read labels from a vector file or a raster onto a grid in meters.

    Args:
        path: Path of the labels.
        grid: Grid of the labels; a pixel gets the class of the polygon that contains its center.
        table: Class of each code; without a table, every code is a class.
        class_column: Column of a vector file with the class; optional if there is only one column.
        layer: Layer of a vector file; optional if there is only one layer.
        buffer: Meters by which polygons are shrunk on all sides, which excludes mixed pixels at their edges.

    Raises:
        InputError: If the file cannot be read, does not overlap the grid, or has no usable labels.
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
    rasters = rasterize_polygons(parcels.polygons, parcels.number, grid, len(parcels.table.classes))
    account = replace(
        parcels.account,
        too_small=rasters.too_small,
        merged=rasters.merged,
        overlap=hectares(rasters.overlap, grid),
    )
    return Labels(rasters.label, rasters.parcel, parcels.table.classes, account)


def _of_raster(path: Path, grid: GeoBox, table: ClassTable | None) -> Labels:
    values = _class_numbers(path, grid)
    numbers, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    codes = []
    pixels: dict[str, int] = {}
    for number, count in zip(numbers, counts, strict=True):
        code = ""
        if number != NOTHING:
            code = str(number)
            pixels[code] = int(count)
        codes.append(code)
    if not pixels:
        raise _elsewhere(path, grid)
    table = table.among(pixels, str(path)) if table else ClassTable.of_codes(pixels, str(path))
    unlisted = {}
    for code, count in pixels.items():
        if code not in table.codes:
            unlisted[code] = Tally(0, hectares(count, grid))
    class_of_code = table.numbers(codes)
    class_of_code = np.where(class_of_code < len(table.classes), class_of_code, IGNORE).astype(np.int16)
    label = class_of_code[inverse].reshape(grid.shape)
    return Labels(label, np.zeros(grid.shape, np.int32), table.classes, Account(unlisted=unlisted))


def _class_numbers(path: Path, grid: GeoBox) -> np.ndarray:
    """Numbers of a raster at the pixel centers of a grid; ``NOTHING`` where it has no data."""
    _must_overlap(path, grid, grid_of(str(path)))
    values = np.full(grid.shape, NOTHING, np.int64)
    for rows, box in strips(grid):
        pixels = read_codes(str(path), box)
        stored = pixels.values[~pixels.missing]
        numbers = stored.astype(np.int64) if (np.abs(stored) < LARGEST).all() else None
        if numbers is None or (numbers != stored).any():
            raise InputError(
                path,
                found="fractions" if numbers is not None else "numbers beyond 2^53",
                expected="class numbers",
                repair="write whole numbers.",
            )
        values[rows][~pixels.missing] = numbers
    return values


def _must_overlap(path: Path, grid: GeoBox, own: GeoBox) -> None:
    """Refuse a raster that does not overlap the grid, or of which GDAL would read only the part on one side of 180.

    Raises:
        InputError: If the raster does not overlap the grid, or crosses the 180th meridian.
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
