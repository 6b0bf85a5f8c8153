"""Fields as numbered pixels: training targets, and the watershed that finds fields in the output of a model.

A raster of fields ``(h, w)`` holds the number of the field from 1, 0 outside of fields, and -1 where it is unknown.
Ground beyond the edge of the raster is unknown, too: an edge is no boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

UNKNOWN = -1
FAR = 1 << 62
NUMBER = (1 << 32) - 1  # the lower half of a key
STEP = 0.85  # ratio of one radius to the next larger one
QUARTERS = 4  # radii are stored in quarters of a pixel
MOST = 255  # largest stored radius, in a byte


def targets(fields: np.ndarray, width: float, *, partial: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Boundary and distance to it ``(h, w)`` float32, -1 where they are unknown.

    The boundary is 1 if the center of a pixel is within half the width of the line between a field and other ground,
    and in any case if the pixel touches that line. The distance grows from 0 on the line to 1 in the middle of each
    field; it is known in fields that neither the edge nor unknown ground cuts.

    Args:
        fields: Numbers of the fields ``(h, w)``.
        width: Width of the boundary in pixels.
        partial: Whether only some fields are known: 0 ends a field, but may hold other fields.
    """
    reach = max(1.0, width / 2 + 0.5)
    other = _to_other(fields, int(reach) + 1)
    # The border of the raster is padded, because ground beyond it is unknown.
    unknown = np.asarray(ndimage.distance_transform_edt(np.pad(fields >= 0, 1)))[1:-1, 1:-1]
    hidden = (fields < 0) | ((fields == 0) & partial)
    boundary = np.select([fields < 0, other <= reach, hidden | (unknown <= reach)], [UNKNOWN, 1, UNKNOWN], 0)
    number = np.maximum(fields, 0)
    cut = np.zeros(number.max() + 1, bool)
    cut[number[unknown < 2]] = True
    largest = np.zeros(len(cut))
    np.maximum.at(largest, number, np.where(np.isfinite(other), other, 0))
    inner = (other - 0.5) / np.maximum(largest[number] - 0.5, 0.5)
    distance = np.select([hidden | (cut[number] & (fields > 0)), fields == 0], [UNKNOWN, 0], inner)
    return boundary.astype(np.float32), distance.astype(np.float32)


def _to_other(fields: np.ndarray, margin: int) -> np.ndarray:
    """Distance in pixels from each center to the nearest center of known ground outside of the same field."""
    distance = np.full(fields.shape, np.inf)
    for number, box in enumerate(ndimage.find_objects(fields + 1)):
        if box is None:
            continue
        box = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        same = fields[box] == number
        other = (fields[box] != number) & (fields[box] >= 0)
        if other.any():
            distance[box][same] = ndimage.distance_transform_edt(~other)[same]
    return distance


@dataclass(frozen=True)
class Watershed:
    """Rule by which layers in percent become fields.

    Open ground has an extent of at least ``extent``, a boundary below ``boundary`` and a distance of at least ``core``;
    its radius is the distance to the nearest pixel that is not open. Seeds are its wide parts. Two of them are one seed
    if their connection has at least ``waist`` times the radius of the narrower one, so that a narrow gap in a boundary
    does not join two fields. Every pixel of sufficient extent belongs to the seed with the cheapest path, where a step
    costs 1 plus the percentage of boundary of the pixel that it enters, and of equal paths to the seed with the smaller
    number: a watershed by topographic distance (Meyer, Signal Processing 38, 1994). A path has at most ``reach`` steps,
    so that nothing farther away has an influence.

    Args:
        extent: Smallest percentage of pixels that belong to a field.
        boundary: Percentage of boundary below which ground is open.
        core: Smallest distance to the boundary on open ground, in percent of the field's largest.
        waist: Smallest radius of a connection, relative to the narrower of two parts, that joins them.
        reach: Largest growth of a seed, and largest radius that is distinguished, in pixels.
    """

    extent: int = 50
    boundary: int = 50
    core: int = 0
    waist: float = 0.6
    reach: int = 60

    def __post_init__(self) -> None:
        if not (0 < self.waist < 1 and 1 <= self.reach * QUARTERS <= MOST):
            raise ValueError(f"waist lies between 0 and 1, and reach is 1 to {MOST // QUARTERS} pixels")

    def inside(self, layers: np.ndarray) -> np.ndarray:
        """Mask ``(h, w)`` of pixels in fields; 255 is no data."""
        return (layers[0] >= self.extent) & (layers[0] <= 100)

    def radius(self, layers: np.ndarray) -> np.ndarray:
        """Radius of open ground ``(h, w)`` uint8 in quarters of a pixel; it depends on ``reach`` pixels around."""
        opened = self.inside(layers) & (layers[1] < self.boundary) & (layers[2] >= self.core)
        if opened.all():
            return np.full(opened.shape, QUARTERS * self.reach, np.uint8)
        radius = np.asarray(ndimage.distance_transform_edt(opened))
        return (QUARTERS * np.minimum(radius, self.reach)).astype(np.uint8)

    def plant(self, radius: np.ndarray) -> np.ndarray:
        """Seeds ``(h, w)`` int32, numbered row by row."""
        seeds = np.zeros(radius.shape, np.int32)
        # Of each seed: the position of its first pixel, the radius at which it appeared, and the seed that it joined.
        place = np.empty(0, np.int64)
        level = np.empty(0)
        owner = np.empty(0, np.int64)
        for now in self._levels():
            parts, count = ndimage.label(radius >= now)
            part_of_seed = parts.ravel()[place]
            roots = np.flatnonzero(owner == np.arange(len(owner)))
            # The first of several seeds in a part is the widest; it is written last.
            main = np.full(count + 1, -1)
            main[part_of_seed[roots[::-1]]] = roots[::-1]
            joins = roots[now >= self.waist * level[roots]]
            owner[joins] = main[part_of_seed[joins]]
            owner = owner[owner]
            # Every part without a seed becomes a new one.
            is_new = main < 0
            is_new[0] = False
            pixels = np.flatnonzero(is_new[parts])
            _, first = np.unique(parts.ravel()[pixels], return_index=True)
            number_of_part = len(place) + np.cumsum(is_new)
            seeds.ravel()[pixels] = number_of_part[parts.ravel()[pixels]]
            owner = np.concatenate([owner, len(place) + np.arange(len(first))])
            place = np.concatenate([place, pixels[first]])
            level = np.concatenate([level, np.full(len(first), now)])
        roots = np.unique(owner)
        number = np.zeros(len(place) + 1, np.int32)
        number[1 + roots[np.argsort(place[roots])]] = 1 + np.arange(len(roots))
        return number[np.concatenate([[0], 1 + owner])][seeds]

    def _levels(self) -> list[float]:
        """Radii from ``reach`` down to a pixel."""
        steps = int(np.ceil(np.log(self.reach) / np.log(1 / STEP)))
        return [QUARTERS * max(1.0, self.reach * STEP**i) for i in range(steps + 1)]

    def grow(self, seeds: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """Fields ``(h, w)`` int32 from numbered seeds; a pixel depends only on the ``reach`` pixels around it."""
        inside = self.inside(layers)
        step = (1 + layers[1].astype(np.int64)) << 32
        # A key holds the cost of the path in its upper half and the number of the seed in its lower half, so that the
        # smallest key is the cheapest path, and of equal paths that to the seed with the smaller number.
        key = np.where(seeds > 0, seeds.astype(np.int64), FAR)
        for _ in range(self.reach):
            padded = np.pad(key, 1, constant_values=FAR)
            around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
            better = np.where(inside, np.minimum(key, np.minimum.reduce(around) + step), FAR)
            if (better == key).all():
                break
            key = better
        return np.where(key < FAR, key & NUMBER, 0).astype(np.int32)

    def find(self, layers: np.ndarray) -> np.ndarray:
        """Fields ``(h, w)`` int32 in the layers extent, boundary and distance ``(3, h, w)`` uint8, in percent."""
        return self.grow(self.plant(self.radius(layers)), layers)
