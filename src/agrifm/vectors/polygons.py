"""Polygons of files of any origin: decoded, repaired where that is unambiguous, and brought to a grid's CRS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from rasterio.warp import transform_bounds

from agrifm.errors import refusing

AMBIGUOUS = 0.01  # by so much of the area may two ways to repair a polygon differ
COLLECTION = 7  # shapely's number of the type


@dataclass(frozen=True)
class Shapes:
    """Shapes of features on the CRS of a grid.

    Args:
        shapes: ``(n)``; None where there is none that can be used.
        repaired: ``(n)`` whether it is an invalid polygon that was repaired.
        damaged: ``(n)`` whether its coordinates are no places, or its polygon can be repaired in several ways.
        mixed: ``(n)`` whether lines or points of a collection were left out.
    """

    shapes: np.ndarray
    repaired: np.ndarray
    damaged: np.ndarray
    mixed: np.ndarray


def decode(path: Path, data: np.ndarray, crs: CRS, grid: GeoBox) -> Shapes:
    """Geometries (WKB) of a file as shapes on a grid's CRS.

    Raises:
        InputError: If the two CRS cannot be related, or GEOS fails.
    """
    with refusing(path, expected="polygons that GEOS can read"), np.errstate(all="ignore"):
        shapes = shapely.force_2d(shapely.from_wkb(data, on_invalid="ignore"))
        open_rings = shapely.is_missing(shapes) & (data != None)  # noqa: E711 (by element)
        shapes[open_rings] = shapely.from_wkb(data[open_rings], on_invalid="fix")
        mixed = _split_collections(shapes)
        _drop_empty_parts(shapes)
        damaged = ~_finite(shapes)
        shapes[damaged] = None
    moved = _to_grid(path, shapes, crs, grid)
    astray = ~_finite(moved)
    if astray.any():
        # Of a shape that reaches around the Earth, only the part near the grid has a place on the grid's projection.
        near = shapely.union_all([shapely.box(*box) for box in boxes_in(grid, crs, 1.0)])
        with refusing(path, expected="polygons that GEOS can read"):
            cut = shapely.intersection(shapely.make_valid(shapes[astray]), near)
        moved[astray] = _to_grid(path, cut, crs, grid)
        damaged |= ~_finite(moved)
        moved[~_finite(moved)] = None
    with refusing(path, expected="polygons that GEOS can repair"), np.errstate(all="ignore"):
        invalid = (shapely.get_dimensions(moved) == 2) & ~shapely.is_valid(moved)
        moved[invalid] = [_repaired(shape) for shape in moved[invalid]]
    unclear = invalid & shapely.is_missing(moved)
    return Shapes(moved, (invalid | open_rings) & ~unclear & ~damaged, damaged | unclear, mixed)


def _split_collections(shapes: np.ndarray) -> np.ndarray:
    """Keep only the polygons of collections that have some; whether others were left out."""
    mixed = np.zeros(len(shapes), bool)
    for i in np.flatnonzero(shapely.get_type_id(shapes) == COLLECTION):
        parts = _flat(shapes[i])
        areas = [part for part in parts if shapely.get_dimensions(part) == 2]
        if areas:
            shapes[i] = areas[0] if len(areas) == 1 else shapely.multipolygons(_polygons(areas))
            mixed[i] = len(areas) < len(parts)
    return mixed


def _drop_empty_parts(shapes: np.ndarray) -> None:
    """Rebuild shapes of which a part is empty: GDAL burns nothing of the others."""
    parts, owner = shapely.get_parts(shapes, return_index=True)
    empty = shapely.is_empty(parts)
    for i in np.unique(owner[empty]).tolist():
        kept = parts[(owner == i) & ~empty]
        if len(kept) and shapely.get_dimensions(kept).min() == 2:
            shapes[i] = shapely.multipolygons(kept)


def _flat(shape: shapely.Geometry) -> list[shapely.Geometry]:
    """Parts of a collection and of the collections in it."""
    waiting, found = [shape], []
    while waiting:
        part = waiting.pop(0)
        if shapely.get_type_id(part) == COLLECTION:
            waiting += shapely.get_parts(part).tolist()
        else:
            found.append(part)
    return found


def _polygons(shapes: Sequence[shapely.Geometry]) -> np.ndarray:
    return shapely.get_parts(np.array(shapes, object))


def _finite(shapes: np.ndarray) -> np.ndarray:
    """Whether all coordinates of shapes ``(n)`` are numbers."""
    places, owner = shapely.get_coordinates(shapes, return_index=True)
    finite = np.ones(len(shapes), bool)
    finite[owner[~np.isfinite(places).all(1)]] = False
    return finite


def _repaired(shape: shapely.Geometry) -> shapely.Geometry | None:
    """The area of an invalid polygon; None where it depends on how the polygon is read."""
    if any(map(_holes_outside, shapely.get_parts(shape))):
        return None
    even_odd = _areas(shapely.make_valid(shape))
    by_rings = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    largest = max(even_odd.area, by_rings.area)
    return even_odd if abs(even_odd.area - by_rings.area) <= AMBIGUOUS * largest else None


def _holes_outside(polygon: shapely.Geometry) -> bool:
    """Whether a hole lies outside of its own polygon: nobody knows which of the two is meant."""
    holes = shapely.make_valid(shapely.polygons(np.array(polygon.interiors, object)))
    shell = shapely.make_valid(shapely.polygons(polygon.exterior))
    return any(shapely.difference(hole, shell).area > AMBIGUOUS * hole.area for hole in holes)


def _areas(shape: shapely.Geometry) -> shapely.Geometry:
    parts = [part for part in shapely.get_parts(shape) if shapely.get_dimensions(part) == 2]
    return shapely.union_all(np.array(parts, object))


def _to_grid(path: Path, shapes: np.ndarray, crs: CRS, grid: GeoBox) -> np.ndarray:
    target = CRS.from_user_input(str(grid.crs))
    if crs.equals(target, ignore_axis_order=True):
        return shapes.copy()
    with refusing(
        f"{path}: CRS",
        expected=f"a CRS that can be related to that of the scene, {grid.crs}",
        repair="convert the file, e.g. 'ogr2ogr -t_srs EPSG:4326 NEW OLD'.",
    ):
        move = Transformer.from_crs(crs, target, always_xy=True)
        return shapely.transform(shapes, move.transform, interleaved=False)


def boxes_in(grid: GeoBox, crs: CRS, margin: float = 0.0) -> list[tuple[float, ...]]:
    """Left, bottom, right and top of a grid in another CRS; none where that CRS does not reach.

    In degrees a grid that crosses the 180th meridian has two boxes. Files write longitudes from -180 to 180 or from 0
    to 360, or go on a little beyond 180; so each box is also given one turn to the west and to the east.

    Args:
        grid: Where.
        crs: CRS of the boxes.
        margin: Share of its width and height by which a box is larger.
    """
    extent = extent_in(grid, crs.to_wkt())
    if extent is None:
        return []
    left, bottom, right, top = extent
    if not crs.is_geographic:
        aside, above = margin * (right - left), margin * (top - bottom)
        return [(left - aside, bottom - above, right + aside, top + above)]
    turn = 360 / (crs.axis_info[0].unit_conversion_factor * 180 / np.pi)
    right += turn if right < left else 0
    aside, above = margin * (right - left), margin * (top - bottom)
    return [(left - aside + shift, bottom - above, right + aside + shift, top + above) for shift in (0.0, -turn, turn)]


def extent_in(grid: GeoBox, crs: str) -> tuple[float, ...] | None:
    """Left, bottom, right and top of a grid in another CRS; None where that CRS does not reach.

    In degrees, left is greater than right where the grid crosses the 180th meridian.
    """
    try:
        extent = transform_bounds(str(grid.crs), crs, *grid.boundingbox.bbox, densify_pts=21)
    except Exception:  # GDAL and PROJ raise many kinds where one CRS does not reach the other
        return None
    return extent if np.isfinite(extent).all() else None
