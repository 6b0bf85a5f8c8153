"""Rasterization of polygons, which label the pixels whose centers they contain, and of points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from rasterio.enums import MergeAlg
from rasterio.features import rasterize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from agrifm.chips.classes import IGNORE
from agrifm.rasters.grid import pixel_area, pixel_size

STRIP = 1024  # rows that are rasterized at once
POINTS_AT_ONCE = 1000
ROUNDING = 1e-6  # meters


@dataclass(frozen=True)
class RasterizedPolygons:
    """Polygons on a grid.

    Args:
        label: Number of the class ``(h, w)`` int16, -1 without a class.
        parcel: Number of the parcel ``(h, w)`` int32 from 1; 0 without a parcel, -1 where classes overlap.
        parcel_of: Number of the parcel of each polygon ``(n)``.
        too_small: Number of polygons that contain no pixel center alone.
        merged: Number of polygons that were merged with overlapping ones of the same class.
        overlap: Number of pixels in polygons of different classes, of which none can be trusted.
    """

    label: np.ndarray
    parcel: np.ndarray
    parcel_of: np.ndarray
    too_small: int
    merged: int
    overlap: int


def rasterize_polygons(polygons: np.ndarray, number: np.ndarray, grid: GeoBox, classes: int) -> RasterizedPolygons:
    """Rasterize polygons.

    Args:
        polygons: Polygons ``(n)`` in the CRS of the grid.
        number: Number of the class of each ``(n)``; from ``classes`` on they become unlabeled ground.
        grid: Grid of the result.
        classes: Number of classes.
    """
    label = np.full(grid.shape, IGNORE, np.int16)
    parcel = np.zeros(grid.shape, np.int32)
    tree = shapely.STRtree(polygons)
    links = [np.empty((2, 0), int)]
    overlap = 0
    for rows, box in strips(grid):
        near = np.sort(tree.query(box.extent.geom))
        if len(near):
            numbers, parcels, clash, shared = _rasterize_strip(polygons[near], number[near], near + 1, box)
            label[rows] = np.where(numbers < classes, numbers, IGNORE)
            parcel[rows] = parcels
            overlap += int(clash.sum())
            links.append(_links(tree, shared, box))
    group = _groups(np.concatenate(links, 1), len(polygons))
    has_pixels = np.bincount(parcel[parcel > 0], minlength=len(group) + 1)[1:] > 0
    too_small = np.count_nonzero(~np.isin(group, group[has_pixels]))
    merged = len(group) - len(set(group.tolist()))
    # Look up the number of the group: 0 stays 0, and -1 is the last entry.
    number_of_group = np.concatenate([[0], group + 1, [-1]]).astype(np.int32)
    return RasterizedPolygons(label, number_of_group[parcel], group + 1, int(too_small), merged, overlap)


@dataclass(frozen=True)
class PointPixels:
    """Pixels in reach of points, one row for each pair of a point and a pixel.

    Args:
        point: Number of the point ``(k)``.
        pixel: Position of the pixel in the flattened grid ``(k)``.
        distance: Meters from the point to the center of the pixel ``(k)``; 0 for the pixel that it lies in.
        own: Position of the pixel that each point lies in ``(n)``.
    """

    point: np.ndarray
    pixel: np.ndarray
    distance: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class RasterizedPoints:
    """Points on the grid of rasterized polygons.

    Args:
        label: Number of the class ``(h, w)`` int16, -1 without a class.
        parcel: Number of the parcel or point ``(h, w)`` int32 from 1; polygons come first.
        outlined: Highest number of a parcel that has a polygon.
        parcel_of_polygon: Number of the parcel of each polygon ``(n)``.
        parcel_of_point: Number of the parcel of each point ``(m)``.
        disputed: Mask of the points ``(m)`` whose pixel is in reach of labels of other classes.
        same_pixel: Number of points that share their pixel with another label of their class.
        overlap: Number of pixels that lost their label because points of another class reach them.
    """

    label: np.ndarray
    parcel: np.ndarray
    outlined: int
    parcel_of_polygon: np.ndarray
    parcel_of_point: np.ndarray
    disputed: np.ndarray
    same_pixel: int
    overlap: int


def pixels_of_points(x: np.ndarray, y: np.ndarray, grid: GeoBox, radius: float) -> PointPixels:
    """Return the pixels that points label: the one that a point lies in, and those with their center in the radius.

    Args:
        x: Coordinates ``(n)`` on the grid's CRS; all points lie on the grid.
        y: Coordinates ``(n)``.
        grid: Grid.
        radius: Meters.
    """
    columns, rows = ~grid.affine * (x, y)
    across, down = pixel_size(grid)
    height, width = grid.shape
    reach_down, reach_across = int(radius / down) + 1, int(radius / across) + 1
    steps = np.mgrid[-reach_down : reach_down + 1, -reach_across : reach_across + 1].reshape(2, -1)
    own_row, own_column = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    points, pixels, distances = [], [], []
    for first in range(0, len(x), POINTS_AT_ONCE):
        part = slice(first, first + POINTS_AT_ONCE)
        row = own_row[part, None] + steps[0]
        column = own_column[part, None] + steps[1]
        vertical = (row + 0.5 - rows[part, None]) * down
        horizontal = (column + 0.5 - columns[part, None]) * across
        distance = np.hypot(vertical, horizontal)
        distance[:, (steps == 0).all(0)] = 0
        is_in_reach = (distance <= radius + ROUNDING) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        points.append(first + np.nonzero(is_in_reach)[0])
        pixels.append((row * width + column)[is_in_reach])
        distances.append(distance[is_in_reach])
    nothing = [np.empty(0, np.int64)]
    return PointPixels(
        np.concatenate(points or nothing),
        np.concatenate(pixels or nothing),
        np.concatenate(distances or nothing),
        own_row * width + own_column,
    )


def add_points(polygons: RasterizedPolygons, reach: PointPixels, number: np.ndarray, classes: int) -> RasterizedPoints:
    """Add points to rasterized polygons.

    A pixel in reach of several classes has none. Otherwise it belongs to the polygon that contains it, or to the
    nearest point. Points in one pixel, and points in a polygon, are one parcel with it.

    Args:
        polygons: Polygons on the grid.
        reach: Pixels in reach of the points.
        number: Number of the class of each point ``(m)``; from ``classes`` on their pixels become unlabeled ground.
        classes: Number of classes.
    """
    parcels = int(polygons.parcel_of.max(initial=0))
    # The nearest point of every pixel comes first.
    order = np.lexsort((reach.distance, reach.pixel))
    point, pixels = reach.point[order], reach.pixel[order]
    pixels, first, inverse = np.unique(pixels, return_index=True, return_inverse=True)
    parcel = polygons.parcel.ravel()[pixels]
    label = polygons.label.ravel()[pixels].astype(np.int64)
    of_polygon = np.where((parcel > 0) & (label == IGNORE), classes, label)
    lowest = np.where(parcel == 0, number[point[first]], of_polygon)
    highest = lowest.copy()
    np.minimum.at(lowest, inverse, number[point])
    np.maximum.at(highest, inverse, number[point])
    is_disputed = (lowest != highest) | (parcel < 0)
    label = np.where(is_disputed | (lowest >= classes), IGNORE, lowest)
    nearest_parcel = np.where(parcel > 0, parcel, parcels + 1 + point[first])
    numbers, outlined = _joined(nearest_parcel, pixels, reach.own, parcels)
    disputed = is_disputed[np.searchsorted(pixels, reach.own)]
    counted = ~disputed & (number < classes)
    alone = np.unique(reach.own[counted & (polygons.parcel.ravel()[reach.own] == 0)])
    labels = polygons.label.copy()
    labels.ravel()[pixels] = label
    all_parcels = np.concatenate([[0], numbers, [-1]]).astype(np.int32)[polygons.parcel]
    all_parcels.ravel()[pixels] = np.where(is_disputed, -1, numbers[nearest_parcel - 1])
    return RasterizedPoints(
        labels,
        all_parcels,
        outlined,
        numbers[polygons.parcel_of - 1],
        numbers[parcels:],
        disputed,
        int(counted.sum()) - len(alone),
        int((is_disputed & (parcel >= 0)).sum()),
    )


def _joined(nearest_parcel: np.ndarray, pixels: np.ndarray, own: np.ndarray, parcels: int) -> tuple[np.ndarray, int]:
    """Join points with the parcel of the pixel that they lie in.

    Returns:
        New number of every parcel and then of every point, from 1, and the highest number with a polygon.
    """
    nodes = parcels + np.arange(len(own))
    holders = nearest_parcel[np.searchsorted(pixels, own)] - 1
    group = _groups(np.stack([nodes, holders]), parcels + len(own))
    # Parcels with polygons come before all others.
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    numbers = rank[inverse]
    return numbers, int(numbers[:parcels].max(initial=0))


def join_by_value(parcel: np.ndarray, value: np.ndarray, parcels: int) -> np.ndarray:
    """Join parcels that share a value.

    Args:
        parcel: Number of the parcel of each label ``(n)``, from 1.
        value: Value of each label ``(n)``, '' where there is none.
        parcels: Number of parcels.

    Returns:
        Number of the group of each parcel ``(parcels)``, from 1.
    """
    given = value != ""
    _, number = np.unique(value[given].astype(str), return_inverse=True)
    links = np.stack([parcel[given] - 1, parcels + number])
    group = _groups(links, parcels + int(number.max(initial=-1)) + 1)
    return np.unique(group[:parcels], return_inverse=True)[1] + 1


def strips(grid: GeoBox) -> Iterator[tuple[slice, GeoBox]]:
    """Parts of a grid with few rows, which bound the memory."""
    for top in range(0, grid.shape[0], STRIP):
        rows = slice(top, min(top + STRIP, grid.shape[0]))
        yield rows, grid[rows, :]


def hectares(pixels: float, grid: GeoBox) -> float:
    """Area of a number of pixels in hectares."""
    return float(pixels) * pixel_area(grid) / 1e4


def _rasterize_strip(
    polygons: np.ndarray, number: np.ndarray, parcel: np.ndarray, box: GeoBox
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Class, parcel, mask of overlapping classes, and mask of overlapping polygons of one class."""

    def rasterized(values: np.ndarray, merge: MergeAlg, dtype: str) -> np.ndarray:
        shapes = zip(polygons, values.tolist(), strict=True)
        return rasterize(shapes, box.shape, transform=box.affine, merge_alg=merge, dtype=dtype)

    # The numbers at a pixel are equal exactly if their count times the sum of their squares is the square of their sum.
    numbers = number.astype(float)
    count = rasterized(np.ones_like(numbers), MergeAlg.add, "float64")
    total = rasterized(numbers, MergeAlg.add, "float64")
    squares = rasterized(numbers**2, MergeAlg.add, "float64")
    clash = count * squares != total**2
    label = np.where((count > 0) & ~clash, total / np.maximum(count, 1), IGNORE).astype(np.int16)
    parcels = np.where(clash, -1, rasterized(parcel, MergeAlg.replace, "int32"))
    return label, parcels, clash, (count > 1) & ~clash


def _links(tree: shapely.STRtree, shared: np.ndarray, box: GeoBox) -> np.ndarray:
    """Pairs ``(2, n)`` of polygons that contain the same pixel center."""
    rows, columns = shared.nonzero()
    a, b, c, d, e, f = tuple(box.affine)[:6]
    x = columns + 0.5
    y = rows + 0.5
    centers = shapely.points(a * x + b * y + c, d * x + e * y + f)
    point, polygon = tree.query(centers, predicate="intersects")
    same = point[1:] == point[:-1]
    return np.stack([polygon[:-1][same], polygon[1:][same]])


def _groups(links: np.ndarray, count: int) -> np.ndarray:
    """Number of the group of each of ``count`` polygons, which links connect to groups."""
    graph = coo_array((np.ones(links.shape[1], bool), (links[0], links[1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]
