"""Polygons and points of a vector file or table in the CRS of a scene, with counts of ignored features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from odc.geo.geobox import GeoBox

from agrifm.chips.account import Account, Tally
from agrifm.chips.classes import ClassTable, by_size
from agrifm.errors import InputError, counted, refusing
from agrifm.rasters.grid import meters_per_unit
from agrifm.tasks.class_table import as_code, clean_name
from agrifm.vectors.outside import no_overlap, points_outside
from agrifm.vectors.points import PointTable
from agrifm.vectors.polygons import COLLECTION, boxes_in, decode
from agrifm.vectors.reading import Layer

Source = Layer | PointTable
MOST_POINTS = 1_000_000  # features that are read to say why none of them lies on the scene


@dataclass(frozen=True)
class Shapes:
    """Shapes of one kind in the CRS of a scene.

    Args:
        shapes: Polygons or points ``(n)``.
        number: Number of the class of each ``(n)``; the number of classes if the table does not list its code.
        group: Value of the column of groups ``(n)``, '' where there is none.
        feature: Number of the feature in its file ``(n)``.
    """

    shapes: np.ndarray
    number: np.ndarray
    group: np.ndarray
    feature: np.ndarray


@dataclass(frozen=True)
class Features:
    """Labels of a vector file or table.

    Args:
        polygons: Polygons.
        points: Points, all of them on the grid.
        table: Table of the classes.
        account: Counts of used and ignored features.
    """

    polygons: Shapes
    points: Shapes
    table: ClassTable
    account: Account


def read_features(
    source: Source,
    grid: GeoBox,
    *,
    class_column: str | None = None,
    group_column: str | None = None,
    table: ClassTable | None = None,
    buffer: float = 0.0,
) -> Features:
    """Read the polygons and points on a grid in meters; polygons are shrunk by ``buffer`` meters.

    Raises:
        InputError: If a column or the CRS is missing, nothing lies on the grid, there are lines, or the table lists
            nothing of it.
    """
    column = source.column(class_column)
    columns = [column]
    if group_column is not None:
        columns.append(source.column(group_column, "--group-column", "group"))
    features = _read(source, columns, grid)
    where = f"{source.path}: {column}"
    is_point = shapely.get_dimensions(features.shapes) == 0
    listed = features.codes != ""
    present = features.codes[listed].tolist()
    table = table.among(present, where) if table else ClassTable.of_codes(present, where)
    number = table.numbers(features.codes.tolist())
    unit = meters_per_unit(grid.crs)
    shrunk = shapely.buffer(features.shapes, -buffer / unit) if buffer else features.shapes
    vanished = listed & ~is_point & shapely.is_empty(shrunk)
    with refusing(source.path, expected="polygons with closed rings"):
        clipped = shapely.clip_by_rect(features.shapes, *grid.boundingbox.bbox)
    area = shapely.area(clipped) * unit**2 / 1e4
    unknown = listed & (number == len(table.classes))
    unlisted = sorted(set(features.codes[unknown]), key=by_size)
    account = Account(
        parcels=int((~is_point).sum()),
        points=int(is_point.sum()),
        outside=features.outside,
        repaired=int(features.repaired.sum()),
        vanished=int(vanished.sum()),
        empty=_tally(area[~listed]),
        unlisted={code: _tally(area[unknown & (features.codes == code)]) for code in unlisted},
        damaged=features.damaged,
        mixed=int(features.mixed.sum()),
        no_place=features.no_place,
        no_group=int((listed & (features.groups == "")).sum()) if group_column is not None else 0,
    )

    def of(mask: np.ndarray, shapes: np.ndarray) -> Shapes:
        return Shapes(shapes[mask], number[mask], features.groups[mask], features.numbers[mask])

    polygons = of(listed & ~is_point & ~vanished, shrunk)
    return Features(polygons, of(listed & is_point, features.shapes), table, account)


@dataclass(frozen=True)
class _Features:
    """Features on the scene: number, code or '', group or '', shape, whether it was repaired or has other parts.

    ``damaged`` counts features near the scene with invalid coordinates, ``outside`` those outside of it, and
    ``no_place`` points without coordinates.
    """

    numbers: np.ndarray
    codes: np.ndarray
    groups: np.ndarray
    shapes: np.ndarray
    repaired: np.ndarray
    mixed: np.ndarray
    damaged: int
    outside: int
    no_place: int


def _read(source: Source, columns: Sequence[str], grid: GeoBox) -> _Features:
    boxes = _within(boxes_in(grid, source.crs), source.bounds)
    if not (boxes or source.has_points):
        raise _none_on_scene(source, columns, grid)
    # Points are small; those without coordinates lie in no box, and are counted.
    has_points = source.has_points
    numbers, values, data = source.read(columns, None if has_points else boxes)
    decoded = decode(source.path, data, source.crs, grid)
    if not has_points and (shapely.get_dimensions(decoded.shapes) == 0).any():
        has_points = True
        numbers, values, data = source.read(columns)
        decoded = decode(source.path, data, source.crs, grid)
    _refuse_lines(source.path, decoded.shapes, grid)
    no_place = np.zeros(len(numbers), bool)
    if has_points:
        is_area = shapely.get_dimensions(decoded.shapes) == 2
        no_place = ~is_area & (decoded.damaged | _is_nowhere(data))
    damaged = int((decoded.damaged & ~no_place).sum())
    shapes, owner = _single_points(decoded.shapes)
    inside = _is_inside(shapes, grid)
    if not inside.any():
        raise _none_on_scene(source, columns, grid, damaged)
    outside_parts = int((~inside & np.isin(owner, owner[inside])).sum())
    owner = owner[inside]
    groups = np.full(len(owner), "", object)
    if len(columns) > 1:
        groups = _codes(f"{source.path}: {columns[1]}", values[1][owner], numbers[owner])
    used = len(set(owner.tolist())) + damaged + int(no_place.sum())
    return _Features(
        numbers=numbers[owner],
        codes=_codes(f"{source.path}: {columns[0]}", values[0][owner], numbers[owner]),
        groups=groups,
        shapes=shapes[inside],
        repaired=decoded.repaired[owner],
        mixed=decoded.mixed[owner],
        damaged=damaged,
        outside=source.features - used + outside_parts,
        no_place=int(no_place.sum()),
    )


def _is_nowhere(data: np.ndarray) -> np.ndarray:
    """Return the mask of geometries (WKB) that are missing or empty."""
    shapes = shapely.from_wkb(data, on_invalid="ignore")
    return shapely.is_missing(shapes) | shapely.is_empty(shapes)


def _single_points(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take multi-points apart, because every point is a label of its own.

    Returns:
        Shapes, and the position that each of them had.
    """
    is_multi = shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOINT
    parts, index = shapely.get_parts(shapes[is_multi], return_index=True)
    owner = np.concatenate([np.flatnonzero(~is_multi), np.flatnonzero(is_multi)[index]])
    order = np.argsort(owner, kind="stable")
    return np.concatenate([shapes[~is_multi], parts])[order], owner[order]


def _is_inside(shapes: np.ndarray, grid: GeoBox) -> np.ndarray:
    """Return the mask of shapes that lie at least partly on a grid."""
    inside = shapely.intersects(shapes, grid.extent.geom)
    points = np.flatnonzero(inside & (shapely.get_dimensions(shapes) == 0))
    # Points on the far border lie in no pixel.
    columns, rows = ~grid.affine * (shapely.get_x(shapes[points]), shapely.get_y(shapes[points]))
    inside[points] = (columns >= 0) & (columns < grid.shape[1]) & (rows >= 0) & (rows < grid.shape[0])
    return inside


def _refuse_lines(path: Path, shapes: np.ndarray, grid: GeoBox) -> None:
    """Refuse lines, and collections without a polygon, in the scene.

    Raises:
        InputError: If there are some; it says how many.
    """
    near = shapes[shapely.intersects(shapes, grid.extent.geom)]
    is_collection = shapely.get_type_id(near) == COLLECTION
    is_line = (shapely.get_dimensions(near) == 1) & ~is_collection
    parts = []
    if is_line.any():
        parts.append(counted(int(is_line.sum()), "line"))
    if is_collection.any():
        parts.append(counted(int(is_collection.sum()), "collection without a polygon", "collections without a polygon"))
    if parts:
        raise InputError(
            path,
            found=f"{' and '.join(parts)} in the scene, of {counted(len(near), 'feature')}",
            expected="polygons or points",
            repair="remove them; or make lines polygons with a buffer, and take collections apart, e.g. in QGIS.",
        )


def _none_on_scene(source: Source, columns: Sequence[str], grid: GeoBox, damaged: int = 0) -> InputError:
    """Return the error for labels that do not overlap the scene; that for points looks at every point."""
    overlap = no_overlap(source.path, grid, source.bounds, source.crs, damaged)
    if source.features > MOST_POINTS or not source.may_have_points:
        return overlap
    _, _, data = source.read(columns[:1])
    shapes = shapely.from_wkb(data, on_invalid="ignore")
    if (shapely.get_dimensions(shapes) > 0).any():
        return overlap
    places = shapely.get_coordinates(shapes)
    places = places[np.isfinite(places).all(1)]
    if len(places):
        return points_outside(source.path, places, source.crs, grid)
    return InputError(
        source.path,
        found=f"{counted(len(data), 'feature')}, none of them with coordinates",
        expected="labels on the scene",
        repair="fill the columns of coordinates, or write the file again from its source.",
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
