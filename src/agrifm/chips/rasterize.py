"""Polygons to pixels: a pixel belongs to the polygon that its center lies in."""

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

STRIP = 1024  # rows that are burned at once


@dataclass(frozen=True)
class Burned:
    """Polygons on a grid.

    Args:
        label: ``(h, w)`` int16, number of the class or -1.
        parcel: ``(h, w)`` int32, number of the parcel from 1, 0 where there is none, -1 where classes overlap.
        too_small: Polygons without a pixel center of their own.
        merged: Polygons that lie on others of the same class; each such group is one parcel.
        overlap: Pixels on which polygons of different classes lie; nobody knows which is right.
    """

    label: np.ndarray
    parcel: np.ndarray
    too_small: int
    merged: int
    overlap: int


def rasterize_polygons(polygons: np.ndarray, number: np.ndarray, grid: GeoBox, classes: int) -> Burned:
    """Burn polygons.

    Args:
        polygons: ``(n)`` on the grid's CRS.
        number: ``(n)`` of the class of each; from ``classes`` on they burn as unlabeled ground.
        grid: Where they are wanted.
        classes: How many there are.
    """
    label = np.full(grid.shape, IGNORE, np.int16)
    parcel = np.zeros(grid.shape, np.int32)
    tree = shapely.STRtree(polygons)
    links, overlap = [np.empty((2, 0), int)], 0
    for rows, box in strips(grid):
        near = np.sort(tree.query(box.extent.geom))
        if len(near):
            found, owner, clash, shared = _burn_strip(polygons[near], number[near], near + 1, box)
            label[rows] = np.where(found < classes, found, IGNORE)
            parcel[rows] = owner
            overlap += int(clash.sum())
            links.append(_links(tree, shared, box))
    group = _groups(np.concatenate(links, 1), len(polygons))
    seen = np.bincount(parcel[parcel > 0], minlength=len(group) + 1)[1:] > 0
    parcel = np.concatenate([[0], group + 1, [-1]]).astype(np.int32)[parcel]
    merged = len(group) - len(set(group.tolist()))
    return Burned(label, parcel, int((~np.isin(group, group[seen])).sum()), merged, overlap)


def strips(grid: GeoBox) -> Iterator[tuple[slice, GeoBox]]:
    """The grid in parts of few rows, so that memory stays bounded."""
    for top in range(0, grid.shape[0], STRIP):
        rows = slice(top, min(top + STRIP, grid.shape[0]))
        yield rows, grid[rows, :]


def hectares(pixels: float, grid: GeoBox) -> float:
    """Area of so many pixels."""
    return float(pixels) * pixel_area(grid) / 1e4


def _burn_strip(polygons: np.ndarray, number: np.ndarray, owner: np.ndarray, box: GeoBox) -> tuple[np.ndarray, ...]:
    """Class, parcel, where classes clash and where polygons of one class lie on one another."""

    def burned(values: np.ndarray, how: MergeAlg, kind: str) -> np.ndarray:
        shapes = zip(polygons, values.tolist(), strict=True)
        return rasterize(shapes, box.shape, transform=box.affine, merge_alg=how, dtype=kind)

    count, total, square = (burned(number.astype(float) ** power, MergeAlg.add, "float64") for power in (0, 1, 2))
    # The numbers at a pixel are all equal exactly where their count times the sum of squares is the square of the sum.
    clash = count * square != total**2
    found = np.where((count > 0) & ~clash, total / np.maximum(count, 1), IGNORE).astype(np.int16)
    parcel = np.where(clash, -1, burned(owner, MergeAlg.replace, "int32"))
    return found, parcel, clash, (count > 1) & ~clash


def _links(tree: shapely.STRtree, shared: np.ndarray, box: GeoBox) -> np.ndarray:
    """Pairs ``(2, n)`` of polygons that hold the same pixel center."""
    rows, columns = shared.nonzero()
    a, b, c, d, e, f = tuple(box.affine)[:6]
    x, y = columns + 0.5, rows + 0.5
    point, polygon = tree.query(shapely.points(a * x + b * y + c, d * x + e * y + f), predicate="intersects")
    same = point[1:] == point[:-1]
    return np.stack([polygon[:-1][same], polygon[1:][same]])


def _groups(links: np.ndarray, count: int) -> np.ndarray:
    """Number of the group of each of ``count`` things, where links tie things into groups."""
    ties = coo_array((np.ones(links.shape[1], bool), (links[0], links[1])), shape=(count, count))
    return connected_components(ties, directed=False)[1]
