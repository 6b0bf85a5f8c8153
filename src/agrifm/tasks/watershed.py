"""Rasters of fields: the targets that a model learns from them, and the watershed that finds fields in its output.

A raster of fields ``(h, w)`` holds the number of the field from 1, 0 where there is no field, and -1 where that is
unknown. Ground beyond the edge of a raster is unknown too, so an edge is not a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

UNKNOWN = -1
FAR = 1 << 62  # key of a pixel that no seed reaches
NUMBER = (1 << 32) - 1  # mask of the lower half of a key
STEP = 0.85  # from one threshold of the radius to the next
QUARTERS = 4  # radii are stored in quarters of a pixel, in one byte
MAX_RADIUS = 255


def neighbors(raster: np.ndarray, outside: int) -> tuple[np.ndarray, ...]:
    """Return the values of the four neighbors of each pixel; ``outside`` is the value beyond the edge."""
    padded = np.pad(raster, 1, constant_values=outside)
    return padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]


def targets(fields: np.ndarray, width: float, *, partial: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Compute boundary and distance to it ``(h, w)`` float32, -1 where they do not follow from what is known.

    Boundary is 1 where the center of a pixel lies within half the width of the line between a field and other ground,
    and in any case where the pixel touches that line. Distance grows from 0 on the line to 1 in the middle of each
    field; it is known in fields that are cut neither by the edge nor by unknown ground.

    Args:
        fields: Raster of fields.
        width: Width of the boundary in pixels.
        partial: Only some fields are known: 0 ends a field, but there may be other fields.
    """
    reach = max(1.0, width / 2 + 0.5)
    to_other = _distance_to_other(fields, int(reach) + 1)
    unknown = fields < 0
    unlabeled = unknown | ((fields == 0) & partial)
    padded = np.pad(~unknown, 1)  # ground beyond the edge is unknown
    to_unknown = np.asarray(ndimage.distance_transform_edt(padded))[1:-1, 1:-1]
    # The first condition that holds decides.
    boundary = np.select(
        [unknown, to_other <= reach, unlabeled | (to_unknown <= reach)],
        [UNKNOWN, 1, UNKNOWN],
        0,
    )
    number = np.maximum(fields, 0)
    is_cut = np.zeros(number.max() + 1, bool)
    is_cut[number[to_unknown < 2]] = True
    largest = np.zeros(len(is_cut))
    np.maximum.at(largest, number, np.where(np.isfinite(to_other), to_other, 0))
    # The line runs half a pixel from the nearest center of other ground.
    largest_to_line = np.maximum(largest - 0.5, 0.5)
    relative = (to_other - 0.5) / largest_to_line[number]
    distance = np.select(
        [unlabeled | (is_cut[number] & (fields > 0)), fields == 0],
        [UNKNOWN, 0],
        relative,
    )
    return boundary.astype(np.float32), distance.astype(np.float32)


def _distance_to_other(fields: np.ndarray, margin: int) -> np.ndarray:
    """Return pixels from each center to the nearest center of known ground that is not of the same field."""
    distance = np.full(fields.shape, np.inf)
    # ``find_objects`` counts from 1: adding 1 includes the ground without a field, which has the number 0.
    for number, box in enumerate(ndimage.find_objects(fields + 1)):
        if box is None:
            continue
        box = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        part = fields[box]
        same = part == number
        other = ~same & (part >= 0)
        if other.any():
            distance[box][same] = ndimage.distance_transform_edt(~other)[same]
    return distance


@dataclass(frozen=True)
class Watershed:
    """A rule that turns layers in percent into fields.

    Open ground has an extent of at least ``extent``, a boundary below ``boundary`` and a distance of at least
    ``core``. Its radius is the distance to the nearest pixel that is not open. Seeds are the wide parts of open ground.
    Two seeds are merged if their connection has at least ``waist`` times the radius of the narrower one, so a narrow
    gap in a boundary does not merge two fields. Every pixel of sufficient extent goes to the seed with the cheapest
    path, where a step costs 1 plus the percentage of boundary of the pixel that it enters; of equally cheap paths, the
    seed with the smaller number wins. This is a watershed by topographic distance (Meyer, Signal Processing 38, 1994).
    A path has at most ``reach`` steps, so pixels farther away have no influence.

    Args:
        extent: Smallest percentage of extent of a pixel that belongs to a field.
        boundary: Ground is open where the percentage of boundary is smaller.
        core: Smallest distance to the boundary on open ground, in percent of the largest of the field.
        waist: A smaller value lets narrower connections merge seeds.
        reach: Number of pixels by which a seed grows at most, and the largest radius that matters.
    """

    extent: int = 50
    boundary: int = 50
    core: int = 0
    waist: float = 0.6
    reach: int = 60

    def __post_init__(self) -> None:
        if not (0 < self.waist < 1 and 1 <= self.reach * QUARTERS <= MAX_RADIUS):
            raise ValueError(f"waist must be between 0 and 1, and reach 1 to {MAX_RADIUS // QUARTERS} pixels")

    def inside(self, layers: np.ndarray) -> np.ndarray:
        """Return a mask ``(h, w)`` of pixels that belong to some field. A value of 255 is no data."""
        return (layers[0] >= self.extent) & (layers[0] <= 100)

    def radius(self, layers: np.ndarray) -> np.ndarray:
        """Return the radius of open ground ``(h, w)`` uint8 in quarters of a pixel.

        It depends on ``reach`` pixels around.
        """
        _, boundary, distance = layers
        is_open = self.inside(layers) & (boundary < self.boundary) & (distance >= self.core)
        if is_open.all():  # no pixel to measure a distance to
            return np.full(is_open.shape, QUARTERS * self.reach, np.uint8)
        radius = np.asarray(ndimage.distance_transform_edt(is_open))
        radius = np.minimum(radius, self.reach)
        return (QUARTERS * radius).astype(np.uint8)

    def plant(self, radius: np.ndarray) -> np.ndarray:
        """Find the seeds ``(h, w)`` int32, numbered row by row.

        A threshold on the radius is lowered step by step. Each component that appears without a seed becomes a new
        seed, and seeds whose components have merged are merged if their connection is wide enough.
        """
        seeds = np.zeros(radius.size, np.int32)
        # For each seed its first pixel, the threshold at which it appeared, and the seed that it was merged into.
        first_pixel = np.empty(0, np.int64)
        threshold = np.empty(0)
        owner = np.empty(0, np.int64)
        for level in self._levels():
            components, count = ndimage.label(radius >= level)
            components = components.ravel()
            component_of_seed = components[first_pixel]
            seed_count = len(first_pixel)
            roots = np.flatnonzero(owner == np.arange(seed_count))
            # Written in reverse, so that the first and therefore widest seed of each component remains.
            widest_seed = np.full(count + 1, -1)
            widest_seed[component_of_seed[roots[::-1]]] = roots[::-1]
            merged = roots[level >= self.waist * threshold[roots]]
            owner[merged] = widest_seed[component_of_seed[merged]]
            owner = owner[owner]

            is_new = widest_seed < 0
            is_new[0] = False  # ground that is not open
            number = seed_count + np.cumsum(is_new)
            pixels = np.flatnonzero(is_new[components])
            component_of_pixel = components[pixels]
            seeds[pixels] = number[component_of_pixel]
            _, first = np.unique(component_of_pixel, return_index=True)
            owner = np.append(owner, seed_count + np.arange(len(first)))
            first_pixel = np.append(first_pixel, pixels[first])
            threshold = np.append(threshold, np.full(len(first), level))
        roots = np.unique(owner)
        row_by_row = roots[np.argsort(first_pixel[roots])]
        final_number = np.zeros(len(owner), np.int32)
        final_number[row_by_row] = 1 + np.arange(len(roots))
        table = np.append(0, final_number[owner]).astype(np.int32)  # 0 is ground without a seed
        return table[seeds].reshape(radius.shape)

    def _levels(self) -> list[float]:
        """Return the thresholds of the radius, from ``reach`` down to one pixel."""
        steps = int(np.ceil(np.log(self.reach) / np.log(1 / STEP)))
        radii = [self.reach * STEP**i for i in range(steps + 1)]
        return [QUARTERS * max(1.0, radius) for radius in radii]

    def grow(self, seeds: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """Grow numbered seeds to fields ``(h, w)`` int32. The result depends on the ``reach`` pixels around it only."""
        inside = self.inside(layers)
        # A key holds the cost of the path in its upper half and the number of the seed in its lower half: its minimum
        # is the cheapest path and, of equally cheap ones, the seed with the smaller number.
        step = (1 + layers[1].astype(np.int64)) << 32
        key = np.where(seeds > 0, seeds.astype(np.int64), FAR)
        for _ in range(self.reach):
            cheapest = np.minimum.reduce(neighbors(key, FAR)) + step
            lowered = np.where(inside, np.minimum(key, cheapest), FAR)
            if (lowered == key).all():
                break
            key = lowered
        return np.where(key < FAR, key & NUMBER, 0).astype(np.int32)

    def find(self, layers: np.ndarray) -> np.ndarray:
        """Find fields ``(h, w)`` int32 in the layers extent, boundary and distance ``(3, h, w)`` uint8, in percent."""
        seeds = self.plant(self.radius(layers))
        return self.grow(seeds, layers)
