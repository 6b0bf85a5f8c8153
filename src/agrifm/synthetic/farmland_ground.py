"""The ground of the synthetic farmland: parcels around villages, lanes, woods and rivers.

Everything is a function of position and seed, not of the chip that is rendered, so that parcels run on across the
borders of chips. ``x`` grows east and ``y`` grows south, in meters from the north-west corner of the landscape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from agrifm.data.randomness import cut, field, mix, uniform
from agrifm.synthetic.phenology import BUILT, BY_COVER, FIRST_FIELD, WATER, WOODS

_DISTRICT_SIZE = 1500.0  # meters
_STRIP_WIDTH = 150  # meters


@dataclass(frozen=True)
class FarmGround:
    """What lies on a part of the farmland.

    Args:
        xs: Position of the columns ``(w)``, in meters.
        ys: Position of the rows ``(h)``, in meters.
        parcel: Number of the parcel ``(h, w)``; 0 outside.
        cover: Index into ``phenology.COVERS`` ``(h, w)``.
        along: Position along the parcel in 0..1 ``(h, w)``.
        border: Distance to the border of the parcel in meters ``(h, w)``; 0 outside.
    """

    xs: np.ndarray
    ys: np.ndarray
    parcel: np.ndarray
    cover: np.ndarray
    along: np.ndarray
    border: np.ndarray

    @property
    def label(self) -> np.ndarray:
        """Indices into ``Landscape.classes`` ``(h, w)``."""
        return BY_COVER["label"][self.cover]

    @property
    def fields(self) -> np.ndarray:
        """Numbers of fields ``(h, w)``, the connected pieces of parcels: from 1, and 0 outside."""
        numbers = np.zeros(self.parcel.shape, np.int32)
        count = 0
        for parcel in np.unique(self.parcel[self.parcel != 0]):
            pieces, piece_count = ndimage.label(self.parcel == parcel)
            is_piece = pieces > 0
            numbers[is_piece] = pieces[is_piece] + count
            count += piece_count
        return numbers


def farm_ground(seed: int, xs: np.ndarray, ys: np.ndarray, class_count: int) -> FarmGround:
    """Lay out parcels and what lies between them.

    Each district around a village has a direction; strips along it are cut into parcels.

    Args:
        seed: Seed of everything random. The small integers beside it keep the random numbers apart.
        xs: Position of the columns ``(w)``, in meters.
        ys: Position of the rows ``(h)``, in meters.
        class_count: Number of classes; crops whose label is not among them do not grow.
    """
    x, y = np.meshgrid(xs, ys)
    district, village_distance, border_distance = _districts(seed, x, y)
    angle = np.pi * uniform(seed, 11, *district)
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    strip, across, edge = cut(v / _STRIP_WIDTH, seed, 12, *district)
    length = 210 + 260 * uniform(seed, 13, *district, strip)
    piece, along, start = cut(u / length, seed, 14, *district, strip)
    parcel = mix(seed, *district, strip, piece).view(np.int64)

    to_side = _to_nearer_end(across, edge * _STRIP_WIDTH)
    to_end = _to_nearer_end(along, start * length)
    border = np.minimum(np.minimum(to_side, to_end), border_distance)

    lane_beside_strip = (edge * _STRIP_WIDTH < 10) & (uniform(seed, 15, *district, strip) < 0.4)
    lane = (border_distance < 14) | lane_beside_strip
    avenue = lane & (uniform(seed, 16, *district) < 0.5)  # a lane lined with trees
    # Woods fill the highest parts of a smooth field; a river follows a contour line of another.
    woods = field(xs, ys, 1900, seed, 21) + 0.35 * field(xs, ys, 350, seed, 22) > 1.0
    relief = field(xs, ys, 2600, seed, 23) + 0.15 * field(xs, ys, 500, seed, 24)
    river = abs(relief - 0.58) < 0.008
    village_size = 90 + 190 * uniform(seed, 17, *district)
    village_radius = village_size * (0.5 + field(xs, ys, 120, seed, 25))

    # Later covers lie on top of earlier ones.
    cover = _crops(parcel, class_count)
    cover[lane] = BUILT
    cover[woods | avenue] = WOODS
    cover[village_distance < village_radius] = BUILT
    cover[river] = WATER
    tilled = cover >= FIRST_FIELD
    return FarmGround(
        xs,
        ys,
        parcel=np.where(tilled, parcel, 0),
        cover=cover,
        along=np.where(tilled, along, 0.5),
        border=np.where(tilled, border, 0.0),
    )


def _to_nearer_end(relative: np.ndarray, from_start: np.ndarray) -> np.ndarray:
    """Distance to the nearer end of a piece, from the relative position in it and the distance to its start."""
    to_end = from_start * (1 - relative) / np.maximum(relative, 1e-9)
    return np.minimum(from_start, to_end)


def _crops(parcel: np.ndarray, class_count: int) -> np.ndarray:
    """Draw the cover of each parcel by the shares of the covers."""
    grown = BY_COVER["label"] < class_count
    cumulative = np.cumsum(BY_COVER["share"] * grown)
    return np.searchsorted(cumulative, uniform(parcel, 1) * cumulative[-1], side="right")


def _districts(seed: int, x: np.ndarray, y: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Nearest of scattered villages, and distances to it and to the border with the next one, in meters.

    There is one village in each square of a lattice, so the nearest two lie in the nine squares around a point.
    """
    neighbor_columns, neighbor_rows = np.mgrid[-1:2, -1:2].reshape(2, 9, 1, 1)
    column = np.floor(x / _DISTRICT_SIZE).astype(int) + neighbor_columns
    row = np.floor(y / _DISTRICT_SIZE).astype(int) + neighbor_rows
    village_x = (column + uniform(seed, 1, column, row)) * _DISTRICT_SIZE
    village_y = (row + uniform(seed, 2, column, row)) * _DISTRICT_SIZE
    distance = np.hypot(village_x - x, village_y - y)

    nearest_two = np.argsort(distance, axis=0)[:2]
    to_nearest, to_second = np.take_along_axis(distance, nearest_two, axis=0)
    nearest = nearest_two[:1]
    district_column = np.take_along_axis(column, nearest, axis=0)[0]
    district_row = np.take_along_axis(row, nearest, axis=0)[0]
    return (district_column, district_row), to_nearest, (to_second - to_nearest) / 2
