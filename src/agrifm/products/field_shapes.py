"""Fields on a grid: found in layers, small ones merged, and outlined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from shapely.geometry import shape

from agrifm.errors import refusing
from agrifm.products.map_rasters import BLOCK, strips
from agrifm.tasks.watershed import Watershed

STRAIGHT = 0.01  # tolerance in pixels that removes points of straight lines and nothing else
Slices = tuple[slice, ...]


def find_fields(layers: Path, rule: Watershed, block: int = BLOCK) -> np.ndarray:
    """Fields ``(h, w)`` int32 of a file of layers.

    Seeds are placed on the whole map. Radii before and growth after that are computed in blocks with a margin of
    ``reach`` pixels, beyond which nothing has an influence, so that the result does not depend on the size of a block.
    """
    with rasterio.open(layers) as file:
        radius = np.zeros(file.shape, np.uint8)
        for part, wide, inner in _blocks(file.shape, block, rule.reach):
            radius[part] = rule.radius(_read(file, wide))[inner]
        seeds = rule.plant(radius)
        fields = np.zeros_like(seeds)
        for part, wide, inner in _blocks(file.shape, block, rule.reach):
            fields[part] = rule.grow(seeds[wide], _read(file, wide))[inner]
    return fields


def _blocks(shape: tuple[int, int], step: int, reach: int) -> Iterator[tuple[Slices, Slices, Slices]]:
    """Blocks, the same blocks with their margins, and their position inside of those."""
    height, width = shape
    for rows in strips(height, step):
        for columns in strips(width, step):
            wide_rows = _widened(rows, reach, height)
            wide_columns = _widened(columns, reach, width)
            inner = (_relative(rows, wide_rows), _relative(columns, wide_columns))
            yield (rows, columns), (wide_rows, wide_columns), inner


def _widened(side: slice, reach: int, size: int) -> slice:
    return slice(max(0, side.start - reach), min(side.stop + reach, size))


def _relative(side: slice, wide: slice) -> slice:
    return slice(side.start - wide.start, side.stop - wide.start)


def _read(file: rasterio.DatasetReader, part: Slices) -> np.ndarray:
    with refusing(file.name, expected="a complete raster file"):
        return file.read(window=tuple((side.start, side.stop) for side in part))


def join_small(fields: np.ndarray, least: float) -> tuple[np.ndarray, int, int]:
    """Merge or drop small fields.

    Args:
        fields: Numbers of fields ``(h, w)``, 0 outside of fields.
        least: Smallest number of pixels of a field.

    Returns:
        Fields ``(h, w)`` numbered from 1, the number of merged fields, and the number of dropped fields.
    """
    count = np.bincount(fields.ravel())
    small = (count < least) & (count > 0)
    small[0] = False
    field, neighbor, shared = _shared_outlines(fields, small)
    outline = np.bincount(field, shared, len(count))
    fits = (neighbor > 0) & ~small[neighbor] & (2 * shared >= outline[field])
    target = np.where(small, 0, np.arange(len(count)))
    # Of several assignments to one field the last counts, so the neighbor with the longest shared outline comes last.
    order = np.argsort(-shared[fits], kind="stable")[::-1]
    target[field[fits][order]] = neighbor[fits][order]
    joined = int((target[small] > 0).sum())
    remaining = np.unique(target[count > 0])
    numbers = np.searchsorted(remaining[remaining > 0], target) + 1
    numbers[target == 0] = 0
    return numbers.astype(np.int32)[fields], joined, int(small.sum()) - joined


def _shared_outlines(fields: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each small field with each of its neighbors, and the number of pixel edges that they share."""
    size = len(small)
    keys = []
    for first, second in ((fields[:, :-1], fields[:, 1:]), (fields[:-1], fields[1:])):
        touching = (first != second) & (small[first] | small[second])
        a = first[touching].astype(np.int64)
        b = second[touching].astype(np.int64)
        # A pair becomes one number, field * size + neighbor, so that equal pairs can be counted.
        keys.append(a[small[a]] * size + b[small[a]])
        keys.append(b[small[b]] * size + a[small[b]])
    pairs, shared = np.unique(np.concatenate(keys), return_counts=True)
    return pairs // size, pairs % size, shared


def outlines(fields: np.ndarray, transform: Affine, tolerance: float) -> np.ndarray:
    """Polygons ``(n)`` of the fields 1 to n, with holes; shared borders stay shared when they are simplified.

    Outlines first get a point at every corner of a pixel, so that neighbors have the same points.
    """
    parts: list[list] = [[] for _ in range(int(fields.max(initial=0)))]
    for outline, number in shapes(fields, fields > 0, connectivity=4):
        parts[int(number) - 1].append(shape(outline))
    polygons = np.empty(len(parts), object)
    for i, part in enumerate(parts):
        polygons[i] = part[0] if len(part) == 1 else shapely.multipolygons(part)
    if not len(polygons):
        return polygons
    with_all_corners = shapely.transform(shapely.segmentize(polygons, 1.0), np.rint)
    tolerance_in_pixels = max(tolerance / abs(transform.a), STRAIGHT)
    simplified = shapely.coverage_simplify(with_all_corners, tolerance_in_pixels)
    matrix = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    corner = [transform.c, transform.f]
    return shapely.transform(simplified, lambda points: points @ matrix + corner)
