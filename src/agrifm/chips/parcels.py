"""Polygons of fields, read from a vector file in the CRS of a scene, with counts of ignored features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS

from agrifm.chips.classes import ClassTable, by_size
from agrifm.errors import InputError, refusing
from agrifm.rasters.grid import meters_per_unit
from agrifm.tasks.class_table import as_code, clean_name
from agrifm.vectors.polygons import boxes_in, decode, extent_in
from agrifm.vectors.reading import Layer


@dataclass(frozen=True)
class Tally:
    """Number of parcels (0 in label rasters), and their area within the scene in hectares."""

    parcels: int = 0
    hectares: float = 0.0


@dataclass(frozen=True)
class Account:
    """Counts of used and ignored labels.

    Args:
        parcels: Polygons that intersect the scene.
        outside: Features outside of the scene.
        no_polygon: Points and lines in the scene.
        repaired: Invalid polygons that were repaired.
        vanished: Parcels that the inner buffer removed.
        too_small: Parcels that contain no pixel center alone.
        merged: Parcels that overlap others of the same class, with which they count as one parcel.
        empty: Parcels without a class.
        unlisted: Parcels by code that the class table does not list.
        overlap: Hectares in polygons of different classes, of which none can be trusted.
        damaged: Features near the scene with invalid coordinates, or with an ambiguous outline.
        mixed: Collections whose lines or points were ignored.
    """

    parcels: int = 0
    outside: int = 0
    no_polygon: int = 0
    repaired: int = 0
    vanished: int = 0
    too_small: int = 0
    merged: int = 0
    empty: Tally = Tally()
    unlisted: dict[str, Tally] = field(default_factory=dict)
    overlap: float = 0.0
    damaged: int = 0
    mixed: int = 0


@dataclass(frozen=True)
class Parcels:
    """Polygons in the CRS of a scene.

    Args:
        polygons: Polygons ``(n)``.
        number: Number of the class of each ``(n)``; the number of classes if the table does not list its code.
        table: Table of the classes.
        account: Counts of used and ignored features.
    """

    polygons: np.ndarray
    number: np.ndarray
    table: ClassTable
    account: Account


def read_parcels(
    path: Path, layer: str, grid: GeoBox, column: str | None, table: ClassTable | None, buffer: float
) -> Parcels:
    """Read the polygons that intersect a grid in meters, shrunk by ``buffer`` meters.

    Raises:
        InputError: If the column or the CRS is missing, nothing lies on the grid, or the table lists nothing of it.
    """
    source = Layer.open(path, layer)
    column = source.column(column)
    features = _read(source, column, grid)
    where = f"{path}: {column}"
    usable = shapely.get_dimensions(features.shapes) == 2
    if not usable.any():
        raise InputError(
            path,
            found="points or lines",
            expected="polygons of fields",
            repair="draw outlines around them, e.g. with a buffer in QGIS.",
        )
    listed = usable & (features.codes != "")
    present = features.codes[listed].tolist()
    table = table.among(present, where) if table else ClassTable.of_codes(present, where)
    number = table.numbers(features.codes.tolist())
    unit = meters_per_unit(grid.crs)
    shrunk = shapely.buffer(features.shapes, -buffer / unit) if buffer else features.shapes
    vanished = listed & shapely.is_empty(shrunk)
    with refusing(path, expected="polygons with closed rings"):
        clipped = shapely.clip_by_rect(features.shapes, *grid.boundingbox.bbox)
    area = shapely.area(clipped) * unit**2 / 1e4
    unknown = listed & (number == len(table.classes))
    unlisted = sorted(set(features.codes[unknown]), key=by_size)
    account = Account(
        parcels=int(usable.sum()),
        outside=source.features - len(usable) - features.damaged,
        no_polygon=int((~usable).sum()),
        repaired=int(features.repaired.sum()),
        vanished=int(vanished.sum()),
        empty=_tally(area[usable & (features.codes == "")]),
        unlisted={code: _tally(area[unknown & (features.codes == code)]) for code in unlisted},
        damaged=features.damaged,
        mixed=int(features.mixed.sum()),
    )
    used = listed & ~vanished
    return Parcels(shrunk[used], number[used], table, account)


@dataclass(frozen=True)
class _Features:
    """Features that intersect the scene: code or '', shape, whether it was repaired or has other parts.

    ``damaged`` counts features near the scene with invalid coordinates.
    """

    codes: np.ndarray
    shapes: np.ndarray
    repaired: np.ndarray
    mixed: np.ndarray
    damaged: int


def _read(source: Layer, column: str, grid: GeoBox) -> _Features:
    boxes = _within(boxes_in(grid, source.crs), source.bounds)
    if not boxes:
        raise no_overlap(source.path, grid, source.bounds, source.crs)
    features, values, data = source.read(column, boxes)
    decoded = decode(source.path, data, source.crs, grid)
    inside = shapely.intersects(decoded.shapes, grid.extent.geom)
    if not inside.any():
        raise no_overlap(source.path, grid, source.bounds, source.crs, int(decoded.damaged.sum()))
    return _Features(
        _codes(f"{source.path}: {column}", values[inside], features[inside]),
        decoded.shapes[inside],
        decoded.repaired[inside],
        decoded.mixed[inside],
        int(decoded.damaged.sum()),
    )


def _within(boxes: Sequence[tuple[float, ...]], bounds: tuple[float, ...] | None) -> list[tuple[float, ...]]:
    """Boxes that intersect the bounds of a file; the first of them if the file states no bounds."""
    if bounds is None:
        return list(boxes[:1])
    west, south, east, north = bounds
    return [box for box in boxes if box[0] <= east and box[2] >= west and box[1] <= north and box[3] >= south]


def _codes(where: str, values: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Codes of classes as text, '' for missing ones.

    Raises:
        InputError: If the column holds no codes or names.
    """
    kind = {"M": "dates", "m": "durations", "V": "records", "S": "bytes"}.get(values.dtype.kind)
    if kind is not None:
        raise _no_codes(where, f"a column of {kind}")
    codes = []
    for value, feature in zip(values, features.tolist(), strict=True):
        if isinstance(value, np.ndarray | list | tuple | dict | bytes):
            raise _no_codes(where, f"{'bytes' if isinstance(value, bytes) else 'a list'} at feature {feature}")
        if isinstance(value, float | np.floating) and np.isinf(value):
            raise _no_codes(where, f"infinity at feature {feature}")
        missing = value is None or value != value
        codes.append("" if missing else clean_name(as_code(value), f"{where}: feature {feature}"))
    return np.array(codes, object)


def _no_codes(where: str, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected="one code or name of a class for each feature",
        repair="name another column with --class-column, or write the codes into a column of text or whole numbers.",
    )


def _tally(areas: np.ndarray) -> Tally:
    return Tally(len(areas), float(areas.sum()))


def no_overlap(
    path: Path, grid: GeoBox, labels: Sequence[float] | None, crs: CRS | str, damaged: int = 0
) -> InputError:
    """Return the error for labels that do not overlap the scene.

    Args:
        path: Path of the labels.
        grid: Grid of the scene.
        labels: Bounds of the labels, if they are known.
        crs: CRS of the labels.
        damaged: Number of features near the scene with invalid coordinates.
    """
    if isinstance(crs, str):
        name = crs
        extent = extent_in(grid, crs)
    else:
        name = _name(crs)
        extent = extent_in(grid, crs.to_wkt())
    place = "lies where that CRS is not defined"
    if extent is not None:
        place = f"reaches over {_bounds_text(extent)} in the same CRS"
    invalid = f"; {damaged} features near the scene have invalid coordinates" if damaged else ""
    return InputError(
        path,
        found=f"no overlap: labels reach over {_bounds_text(labels)} (left, bottom, right, top in {name}){invalid}",
        expected=f"labels on the scene, which {place}",
        repair="check that both are of the same place and that the labels' CRS is the one they were drawn in.",
    )


def _bounds_text(bounds: Sequence[float] | None) -> str:
    if bounds is None or not np.isfinite(bounds).all():
        return "nothing"
    texts = []
    for value in bounds:
        # Meters have no decimals; degrees and very large values have six digits.
        is_meters = 1000 <= abs(value) <= 1e9
        texts.append(f"{value:.0f}" if is_meters else f"{value:.6g}")
    return ", ".join(texts)


def _name(crs: CRS) -> str:
    code = crs.to_epsg()
    return crs.name if code is None else f"EPSG:{code}"
