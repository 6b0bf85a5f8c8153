"""Fields as numbered pixels: what a model learns from them, and how they are found again in what it gives.

A raster of fields ``(h, w)`` holds the number of the field from 1, 0 where there is none, -1 where nobody knows.
What lies beyond its edge is unknown as well: an edge is no boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

UNKNOWN = -1
FAR = 1 << 62
NUMBER = (1 << 32) - 1  # the lower half of a key
STEP = 0.85  # from one radius that is looked at to the next
QUARTERS, MOST = 4, 255  # radii are stored in quarters of a pixel, in a byte


def targets(fields: np.ndarray, width: float, *, partial: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Boundary and distance to it ``(h, w)`` float32, -1 where they do not follow from what is known.

    Boundary is 1 where the center of a pixel lies within half the width of the line between a field and other ground,
    and in any case where it touches that line. Distance grows from 0 on the line to 1 in the middle of each field; it
    is known in fields that neither the edge nor unknown ground cuts.

    Args:
        fields: Numbered.
        width: Width of the boundary in pixels.
        partial: Only some fields are known: 0 ends a field, but other fields may lie there.
    """
    reach = max(1.0, width / 2 + 0.5)
    other, unknown = _to_other(fields, int(reach) + 1), ndimage.distance_transform_edt(np.pad(fields >= 0, 1))
    assert isinstance(unknown, np.ndarray)
    unknown = unknown[1:-1, 1:-1]
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
    """Pixels from each center to the nearest center of known ground that is not of the same field."""
    found = np.full(fields.shape, np.inf)
    for number, box in enumerate(ndimage.find_objects(fields + 1)):
        if box is None:
            continue
        box = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        same, other = fields[box] == number, (fields[box] != number) & (fields[box] >= 0)
        if other.any():
            found[box][same] = ndimage.distance_transform_edt(~other)[same]
    return found


@dataclass(frozen=True)
class Watershed:
    """How layers in percent become fields.

    Open ground has extent of at least ``extent``, boundary below ``boundary`` and distance of at least ``core``; its
    radius is the distance to the nearest pixel that is not open. Seeds are its wide parts: two of them are one where
    what connects them has at least ``waist`` times the radius of the narrower one. So a narrow gap in a boundary does
    not join two fields. Every pixel of enough extent goes to the seed from which the way is cheapest, where a step
    costs 1 plus the percentage of boundary of the pixel it enters, and of equal ways to the seed with the smaller
    number: a watershed by topographic distance (Meyer, Signal Processing 38, 1994). A way has at most ``reach`` steps,
    so what happens farther away decides nothing.

    Args:
        extent: Smallest percentage of pixels that belong to a field.
        boundary: Ground is open where a boundary is less likely.
        core: Smallest distance to the boundary on open ground, in percent of the field's largest.
        waist: The smaller, the narrower must be what connects two fields.
        reach: Pixels by which a seed grows at most, and the largest radius that matters.
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
        """Where some field is ``(h, w)``; 255 is no data."""
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
        place, level, owner = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)  # of each seed
        for now in self._levels():
            parts, several = ndimage.label(radius >= now)
            inside = parts.ravel()[place]
            roots = np.flatnonzero(owner == np.arange(len(owner)))
            main = np.full(several + 1, -1)
            main[inside[roots[::-1]]] = roots[::-1]  # of several seeds the first is the widest
            joins = roots[now >= self.waist * level[roots]]
            owner[joins] = main[inside[joins]]
            owner = owner[owner]
            new = main < 0
            new[0] = False
            fresh = np.flatnonzero(new[parts])
            _, first = np.unique(parts.ravel()[fresh], return_index=True)
            seeds.ravel()[fresh] = (len(place) + np.cumsum(new))[parts.ravel()[fresh]]
            owner = np.concatenate([owner, len(place) + np.arange(len(first))])
            place, level = np.concatenate([place, fresh[first]]), np.concatenate([level, np.full(len(first), now)])
        roots = np.unique(owner)
        number = np.zeros(len(place) + 1, np.int32)
        number[1 + roots[np.argsort(place[roots])]] = 1 + np.arange(len(roots))
        return number[np.concatenate([[0], 1 + owner])][seeds]

    def _levels(self) -> list[float]:
        """Radii from ``reach`` down to a pixel."""
        steps = int(np.ceil(np.log(self.reach) / np.log(1 / STEP)))
        return [QUARTERS * max(1.0, self.reach * STEP**i) for i in range(steps + 1)]

    def grow(self, seeds: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """Fields ``(h, w)`` int32 from numbered seeds; a result depends on the ``reach`` pixels around it alone."""
        inside, step = self.inside(layers), (1 + layers[1].astype(np.int64)) << 32
        key = np.where(seeds > 0, seeds.astype(np.int64), FAR)  # cost of the way, then number of the seed
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
