"""Rasterization of polygons: a pixel belongs to the polygon that contains its center."""

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
from agrifm.rasters.grid import pixel_area

STRIP = 1024  # rows that are rasterized at once


@dataclass(frozen=True)
class RasterizedPolygons:
    """Polygons on a grid.

    Args:
        label: Number of the class ``(h, w)`` int16, -1 without a class.
        parcel: Number of the parcel ``(h, w)`` int32 from 1; 0 without a parcel, -1 where classes overlap.
        too_small: Number of polygons that contain no pixel center alone.
        merged: Number of polygons that were merged with overlapping ones of the same class.
        overlap: Number of pixels in polygons of different classes, of which none can be trusted.
    """

    label: np.ndarray
    parcel: np.ndarray
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
    return RasterizedPolygons(label, number_of_group[parcel], int(too_small), merged, overlap)


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
