"""The ground of the synthetic land cover: patches with natural borders, parcels, mosaics, roads and rivers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agrifm.data import randomness
from agrifm.synthetic.varieties import (
    CROPLAND,
    FOREST,
    GRASSLAND,
    IMPERVIOUS,
    OF_VARIETY,
    VARIETIES,
    WATER,
    WETLAND,
)

COVER_COUNT = 8
_LINE, _MOSAIC, _FIRST_PARCEL = 40, 41, 42  # numbers of pieces; there are fewer than 40 patches
_NOTHING, _LANE, _TREES = range(3)  # what lies at the edge of a parcel
_PARCEL_NUMBERS = 64  # strips of a district, and parcels of a strip, that have numbers of their own
_EXCEPTIONS = 4096  # draws for parcels that may differ from their patch; farther parcels repeat them
_MOSAIC_COVERS = np.array((0, 0.2, 0.35, 0.2, 0.05, 0.03, 0.02, 0.15))  # how often each is the second cover


@dataclass(frozen=True)
class LandCoverGround:
    """What lies on the fine grid of a sample.

    Args:
        piece: Number of the piece of ground ``(n, n)``.
        cover: Land cover of every piece ``(k)``.
        variety: Index into ``VARIETIES`` of every piece ``(k)``.
        hidden: Pixels whose land cover is unknown ``(n, n)``.
    """

    piece: np.ndarray
    cover: np.ndarray
    variety: np.ndarray
    hidden: np.ndarray

    def shares(self, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the eight covers ``(8, y, x)`` and of what is unknown ``(y, x)`` in every cell."""
        kind = np.where(self.hidden, COVER_COUNT, self.cover[self.piece])
        shares = portions(kind, COVER_COUNT + 1, cells).reshape(-1, cells, cells)
        return shares[:COVER_COUNT], shares[COVER_COUNT]


@dataclass(frozen=True)
class _Grid:
    """Positions on the fine grid in meters ``(n, n)``, and the length of its side."""

    x: np.ndarray
    y: np.ndarray
    side: float

    @classmethod
    def of(cls, n: int, step: float) -> _Grid:
        positions = (np.arange(n, dtype=np.float32) + 0.5) * step
        x, y = np.meshgrid(positions, positions)
        return cls(x, y, n * step)


def portions(kind: np.ndarray, kinds: int, parts: int) -> np.ndarray:
    """Portion of every kind ``(kinds, parts * parts)`` in the parts of a square ``(n, n)`` of kinds."""
    n = len(kind)
    part_count = parts**2
    part_along_axis = np.arange(n) * parts // n
    part = part_along_axis[:, None] * parts + part_along_axis
    codes = kind * part_count + part
    counts = np.bincount(codes.ravel(), minlength=kinds * part_count)
    share_of_point = (parts / n) ** 2
    return (counts.reshape(kinds, -1) * share_of_point).astype(np.float32)


def smooth_field(rng: np.random.Generator, n: int, size: float, keys: np.ndarray | int = 0) -> np.ndarray:
    """Smooth random field in 0..1 with features of ``size`` points: ``(n, n)``, or ``(t, n, n)`` for keys ``(t)``."""
    positions = np.arange(n) + n * rng.random()
    return randomness.field(positions, positions, size, int(rng.integers(2**40)), keys)


def draw_ground(rng: np.random.Generator, warmth: float, n: int, step: float, unknown: float) -> LandCoverGround:
    """Draw patches with natural borders, some of them cut into parcels; then mosaics, lanes, a road and a river.

    The order of the draws decides what a seed shows.

    Args:
        rng: Source of randomness.
        warmth: Climate from -1 (cold) to 1 (hot).
        n: Points along a side.
        step: Meters between points.
        unknown: Share of the ground whose land cover is unknown.
    """
    grid = _Grid.of(n, step)
    patch_count = int(np.exp(rng.uniform(np.log(2), np.log(40))))
    diversity = np.exp(rng.uniform(np.log(0.12), np.log(0.9)))
    weights = rng.dirichlet(np.full(COVER_COUNT, diversity)) * 0.97 + 0.00375
    patch = _draw_patches(rng, grid, n, patch_count)
    patch_cover = rng.choice(COVER_COUNT, patch_count, p=weights)

    parcel, edge = _draw_parcels(rng, grid)
    always_tilled = np.isin(patch_cover, (CROPLAND, IMPERVIOUS))
    meadows = (patch_cover == GRASSLAND) & (rng.random(patch_count) < 0.4)
    tilled = (always_tilled | meadows)[patch]
    cover = patch_cover[patch]
    number = np.where(tilled, _FIRST_PARCEL + parcel, patch)

    # One parcel in five has a cover of its own.
    other_cover = rng.choice(COVER_COUNT, p=weights)
    choices = [-1] * 8 + [GRASSLAND, other_cover]
    exceptions = rng.choice(choices, _EXCEPTIONS)[parcel % _EXCEPTIONS]
    cover = np.where(tilled & (exceptions >= 0), exceptions, cover)

    mosaic = _draw_mosaic(rng, n, patch_cover, patch) & (cover == patch_cover[patch])
    second_cover = rng.choice(COVER_COUNT, patch_count, p=0.5 * weights + 0.5 * _MOSAIC_COVERS)
    cover = np.where(mosaic, second_cover[patch], cover)

    at_edge = tilled & (edge != _NOTHING)
    edge_cover = np.where(edge == _LANE, IMPERVIOUS, FOREST)
    cover = np.where(at_edge, edge_cover, cover)
    number = np.where(mosaic | at_edge, _MOSAIC, number)
    for line, cover_of_line in _draw_lines(rng, grid, n):
        cover = np.where(line, cover_of_line, cover)
        number = np.where(line, _LINE, number)
    hidden = _draw_hidden(rng, n, unknown)
    return _with_varieties(rng, warmth, number * COVER_COUNT + cover, hidden)


def _draw_patches(rng: np.random.Generator, grid: _Grid, n: int, count: int) -> np.ndarray:
    """Number of the patch ``(n, n)``: the nearest of scattered points, seen through a warp of the plane."""
    step = grid.side / n
    wavelength = grid.side / count**0.5
    strength = rng.uniform(0.3, 1.2)
    shifts = []
    for _ in ("x", "y"):
        shift = 0
        for part in (1, 0.4):
            wave = smooth_field(rng, n, part * wavelength / step) - 0.5
            shift = shift + strength * part * wavelength * wave
        shifts.append(shift)
    return _nearest_point(rng, grid.x + shifts[0], grid.y + shifts[1], grid.side, count)


def _nearest_point(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, side: float, count: int) -> np.ndarray:
    """Index of the nearest of scattered points ``(n, n)``."""
    points = side * rng.uniform(-0.1, 1.1, (count, 2)).astype(np.float32)
    # The squared distance, less the squares of x and y, which are the same for all points.
    distance = (points**2).sum(1) - 2 * (x[..., None] * points[:, 0] + y[..., None] * points[:, 1])
    return distance.argmin(-1)


def _draw_parcels(rng: np.random.Generator, grid: _Grid) -> tuple[np.ndarray, np.ndarray]:
    """Number of the parcel, and what lies at its edge: nothing, a lane or trees, both ``(n, n)``.

    Each district has a direction; strips along it are cut into parcels.
    """
    count = int(np.clip(grid.side / 900, 1, 7)) + int(rng.integers(3))
    district = _nearest_point(rng, grid.x, grid.y, grid.side, count)
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    cos = np.cos(angle)[district]
    sin = np.sin(angle)[district]
    smallest = np.log((35, 90))  # width and length in meters
    largest = np.log((260, 700))
    sizes = np.exp(rng.uniform(smallest, largest, (count, 2))).astype(np.float32)
    width = sizes[district, 0]
    length = sizes[district, 1]

    # Position across the strips, in widths.
    v = (grid.y * cos - grid.x * sin) / width
    v += 0.25 * np.sin(2.3 * v + district)  # strips of unequal width
    strip = np.floor(v).astype(int)
    strip_in_district = strip % _PARCEL_NUMBERS
    # Position along a strip, in lengths, which differ from strip to strip.
    stretch, offset = rng.random((2, _PARCEL_NUMBERS), np.float32)
    length_in_strip = length * (0.7 + 0.6 * stretch[strip_in_district])
    u = (grid.x * cos + grid.y * sin) / length_in_strip + offset[strip_in_district]
    piece = np.floor(u).astype(int)
    strip_number = district * _PARCEL_NUMBERS + strip_in_district
    parcel = strip_number * _PARCEL_NUMBERS + piece % _PARCEL_NUMBERS

    distance = np.minimum((v - strip) * width, (u - np.floor(u)) * length)
    edges = rng.choice((_NOTHING, _LANE, _TREES), (count, 2), p=(0.5, 0.3, 0.2))
    edge = edges[district, strip % 2]
    edge_width = rng.uniform(5, 16, count)[district]
    return parcel, np.where(distance < edge_width, edge, _NOTHING)


def _draw_mosaic(rng: np.random.Generator, n: int, patch_cover: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Where a second cover is mixed into a patch ``(n, n)``; cropland and water stay pure."""
    count = len(patch_cover)
    spot_size = rng.uniform(1.5, 8)
    spots = smooth_field(rng, n, spot_size) + 0.1 * rng.standard_normal((n, n), np.float32)
    share = rng.uniform(0.25, 0.6, count)
    share -= rng.random(count) < 0.4  # these patches stay pure
    share = np.where(patch_cover == IMPERVIOUS, 0.4, share)
    share = np.where(np.isin(patch_cover, (CROPLAND, WATER)), -1, share)
    return spots < share[patch]


def _draw_lines(rng: np.random.Generator, grid: _Grid, n: int) -> list[tuple[np.ndarray, int]]:
    """Points ``(n, n)`` of a road and of a river between wetlands, and their covers; either may be missing."""
    road = _distance_to_line(rng, grid, n, bend=rng.uniform(0, 0.15))
    road_width = 7 * _draw_line_width(rng, frequency=0.4)
    river = _distance_to_line(rng, grid, n, bend=1)
    river_width = 25 * _draw_line_width(rng, frequency=0.3)
    wetland_width = river_width * rng.choice((1, 2.5))
    return [
        (road < road_width, IMPERVIOUS),
        (river < wetland_width, WETLAND),
        (river < river_width, WATER),
    ]


def _draw_line_width(rng: np.random.Generator, frequency: float) -> float:
    """Relative width of a line, or 0 if there is none."""
    width = rng.uniform(0.5, 3)
    return width if rng.random() < frequency else 0.0


def _distance_to_line(rng: np.random.Generator, grid: _Grid, n: int, bend: float) -> np.ndarray:
    """Distance in meters ``(n, n)`` to a line in a random direction; ``bend`` is how much it winds."""
    angle = rng.uniform(0, np.pi)
    offset = rng.uniform(-0.3, 0.3)
    x = grid.x / grid.side - 0.5
    y = grid.y / grid.side - 0.5
    across = x * np.cos(angle) + y * np.sin(angle)
    winding = 0.5 * bend * (smooth_field(rng, n, n / 2.5) - 0.5)
    return abs(across - offset + winding) * grid.side


def _draw_hidden(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """Blobs ``(n, n)`` that take a share of the ground."""
    if share == 0:
        return np.zeros((n, n), bool)
    blobs = smooth_field(rng, n, n / 4)
    return blobs < np.quantile(blobs, share)


def _with_varieties(rng: np.random.Generator, warmth: float, codes: np.ndarray, hidden: np.ndarray) -> LandCoverGround:
    """Number the pieces of ground, and give each a variety that its cover has in this climate and place."""
    used_codes, piece = np.unique(codes, return_inverse=True)
    cover = used_codes % COVER_COUNT
    suitability = 1.5 * OF_VARIETY["warm"] * warmth
    frequency = np.exp(suitability + 0.8 * rng.standard_normal(len(VARIETIES)))
    of_cover = OF_VARIETY["cover"] == np.arange(COVER_COUNT)[:, None]
    cumulative = np.cumsum(np.where(of_cover, frequency, 0), axis=1)[cover]
    draw = rng.random(len(cover)) * cumulative[:, -1]
    variety = (draw[:, None] >= cumulative).sum(1)
    return LandCoverGround(piece, cover, variety, hidden)
