"""Varieties of the eight land covers and their growth through the year, in the climate of a place.

Labels do not tell the varieties of a cover apart, as in real land-cover products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from agrifm.synthetic.phenology import MOWING_DAYS, REGROWTH_DAYS

CROPLAND, FOREST, GRASSLAND, SHRUBLAND, WETLAND, WATER, IMPERVIOUS, BARE = range(8)
MEMBERS = (
    "soil",
    "straw",
    "leaf",
    "canopy",
    "needle",
    "shrub",
    "water",
    "turbid",
    "built",
    "roof",
    "sand",
    "rock",
    "snow",
    "cloud",
)
SNOW, CLOUD = MEMBERS.index("snow"), MEMBERS.index("cloud")
_YEAR = 365.25  # days
_ALWAYS = 999.0  # days


@dataclass(frozen=True)
class Variety:
    """A variety of a land cover; days are those of a temperate north.

    Args:
        cover: Index of the land cover.
        low: Green cover outside the season.
        high: Green cover in the season.
        middle: Day in the middle of the season.
        length: Days of the season.
        rise: A quarter of the days in which green cover rises and falls.
        green: End member of the plants.
        ground: End member of the ground below.
        layer: What lies on the ground for a part of the year: end member, middle, length, share.
        second: A second season: middle, length, green cover.
        warm: Climate in which it is common, from -1 (cold) to 1 (hot).
        rough: Scatter of its brightness.
        mown: Whether it is mown.
        buried: Share that snow can hide.
    """

    cover: int
    low: float
    high: float
    middle: float
    length: float
    rise: float
    green: str = "leaf"
    ground: str = "soil"
    layer: tuple[str, float, float, float] = ("straw", 0, 0, 0)
    second: tuple[float, float, float] = (0, 0, 0)
    warm: float = 0.0
    rough: float = 0.04
    mown: bool = False
    buried: float = 0.95


VARIETIES = (
    Variety(CROPLAND, 0.08, 0.93, 138, 92, 9, layer=("straw", 202, 40, 0.9), second=(345, 110, 0.3), warm=-0.3),
    Variety(CROPLAND, 0.02, 0.90, 213, 106, 9, layer=("straw", 284, 50, 0.8)),
    Variety(CROPLAND, 0.02, 0.92, 224, 140, 10),
    Variety(CROPLAND, 0.04, 0.90, 118, 82, 9, layer=("straw", 166, 20, 0.8), second=(238, 84, 0.88), warm=0.8),
    Variety(CROPLAND, 0.02, 0.90, 214, 98, 9, layer=("water", 165, 80, 0.95), warm=1.0),
    Variety(CROPLAND, 0.06, 0.30, 165, 150, 20),
    Variety(FOREST, 0.25, 0.95, 203, 176, 8, "canopy", layer=("straw", 310, 60, 0.5), rough=0.13, buried=0.45),
    Variety(FOREST, 0.86, 0.93, 200, 140, 20, "needle", rough=0.16, warm=-0.8, buried=0.3),
    Variety(FOREST, 0.86, 0.97, 200, 180, 25, "canopy", rough=0.13, warm=1.2, buried=0.3),
    Variety(GRASSLAND, 0.40, 0.90, 195, 215, 13, mown=True, rough=0.05),
    Variety(GRASSLAND, 0.22, 0.72, 172, 115, 16, ground="straw", rough=0.07),
    Variety(GRASSLAND, 0.05, 0.55, 128, 64, 13, ground="straw", rough=0.07, warm=0.7),
    Variety(SHRUBLAND, 0.45, 0.62, 160, 150, 22, "shrub", rough=0.15, buried=0.75),
    Variety(SHRUBLAND, 0.16, 0.36, 140, 90, 16, "shrub", "sand", rough=0.17, warm=0.9, buried=0.85),
    Variety(SHRUBLAND, 0.22, 0.80, 200, 120, 12, "shrub", "straw", rough=0.14, warm=-0.6, buried=0.8),
    Variety(WETLAND, 0.12, 0.78, 205, 110, 13, layer=("water", 0, _ALWAYS, 0.8), rough=0.08),
    Variety(WETLAND, 0.42, 0.62, 195, 130, 16, "shrub", layer=("water", 0, _ALWAYS, 0.45), rough=0.08, warm=-0.8),
    Variety(WETLAND, 0.45, 0.80, 200, 150, 14, "canopy", layer=("water", 60, 200, 0.9), rough=0.1, buried=0.4),
    Variety(WETLAND, 0.10, 0.65, 200, 90, 12, layer=("water", 110, 110, 0.95), rough=0.06, warm=0.5),
    Variety(WATER, 0.0, 0.01, 200, 100, 20, ground="water", rough=0.02, buried=0.5),
    Variety(WATER, 0.0, 0.01, 200, 100, 20, ground="turbid", rough=0.03, buried=0.5),
    Variety(WATER, 0.0, 0.14, 215, 90, 14, ground="water", layer=("turbid", 90, 120, 0.5), rough=0.03, buried=0.6),
    Variety(IMPERVIOUS, 0.02, 0.08, 200, 180, 12, ground="built", rough=0.12, buried=0.5),
    Variety(IMPERVIOUS, 0.01, 0.04, 200, 180, 12, ground="roof", rough=0.22, buried=0.5),
    Variety(IMPERVIOUS, 0.14, 0.32, 200, 180, 12, "canopy", "built", rough=0.2, buried=0.5),
    Variety(BARE, 0.01, 0.07, 160, 90, 16, rough=0.06),
    Variety(BARE, 0.0, 0.03, 160, 90, 16, ground="sand", rough=0.06, warm=0.9),
    Variety(BARE, 0.0, 0.06, 190, 90, 14, ground="rock", rough=0.14),
    Variety(BARE, 0.0, 0.02, 200, 60, 14, ground="rock", layer=("snow", 20, 285, 0.97), rough=0.1, warm=-1.2),
)


def _member_indices(members: Sequence[str]) -> np.ndarray:
    return np.array([MEMBERS.index(member) for member in members])


def _values_of(name: str) -> np.ndarray:
    """Values of one field of all varieties."""
    return np.array([getattr(variety, name) for variety in VARIETIES])


OF_VARIETY = {field.name: _values_of(field.name) for field in fields(Variety) if field.name != "layer"}
_LAYER_SEASON = np.array([variety.layer[1:] for variety in VARIETIES])
_LAYER_MEMBER = _member_indices([variety.layer[0] for variety in VARIETIES])
_GREEN_MEMBER = _member_indices([variety.green for variety in VARIETIES])
_GROUND_MEMBER = _member_indices([variety.ground for variety in VARIETIES])


@dataclass(frozen=True)
class Climate:
    """Place, dates and climate of a sample.

    Args:
        lon: Longitude in degrees.
        lat: Latitude in degrees.
        year: Year in which the dates begin.
        days: Dates in days since 1970-01-01 ``(t)``.
        delay: Days by which the seasons come late.
        warmth: From -1 (cold) to 1 (hot).
    """

    lon: float
    lat: float
    year: int
    days: np.ndarray
    delay: float
    warmth: float

    @property
    def biome(self) -> str:
        """Name of the climate zone."""
        zone = int(np.searchsorted((-0.6, 0.0, 0.4), self.warmth))
        return ("boreal", "temperate", "subtropical", "tropical")[zone]


def yearly_reflectance(
    rng: np.random.Generator, climate: Climate, variety: np.ndarray, colors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Render pieces of ground on all dates.

    Args:
        rng: Source of randomness.
        climate: Dates and climate of the place.
        variety: Index into ``VARIETIES`` of each piece ``(k)``.
        colors: Reflectance of the end members ``(m, c)``.

    Returns:
        Reflectance ``(t, c, k)``, and its change with vigor ``(t, c, k)``.
    """
    scales = [[9], [0.1], [0.16], [0.05]]
    scatter = rng.standard_normal((4, len(variety))) * scales
    delay, vigor, soil, leaf_brightness = scatter.astype(np.float32)
    day_of_year = (climate.days % _YEAR).astype(np.float32)
    day = day_of_year[:, None] - np.float32(climate.delay) - delay

    green = _green_cover(variety, day)
    green = yearly_mowing(rng, green, day, OF_VARIETY["mown"][variety])
    green = np.clip(green * (0.95 + vigor), 0, 1)[..., None]
    leaf = colors[_GREEN_MEMBER[variety]] * (1 + leaf_brightness[:, None])

    ground_brightness = np.clip(1 + soil, 0.5, 1.5)
    ground = colors[_GROUND_MEMBER[variety]] * ground_brightness[:, None]
    middle, length, share = _LAYER_SEASON[variety].T
    layer = (share * _season(day, middle, length, 4))[..., None]
    ground = ground * (1 - layer) + colors[_LAYER_MEMBER[variety]] * layer

    snow = _snow(rng, climate, day, OF_VARIETY["buried"][variety])[..., None]
    land = ground * (1 - green) + leaf * green
    reflectance = land * (1 - snow) + colors[SNOW] * snow
    change = (leaf - ground) * green * (1 - snow)
    return reflectance.transpose(0, 2, 1), change.transpose(0, 2, 1)


def _green_cover(variety: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Green cover ``(t, k)`` of pieces of ground before mowing: that of the season that has more of it."""
    of = {name: values[variety] for name, values in OF_VARIETY.items()}
    season = _season(day, of["middle"], of["length"], of["rise"])
    growth = of["high"] - of["low"]
    first_green = of["low"] + growth * season
    middle, length, height = of["second"].astype(np.float32).T
    second_green = height * _season(day, middle, length, 9)
    return np.maximum(first_green, second_green)


def yearly_mowing(rng: np.random.Generator, green: np.ndarray, day: np.ndarray, mown: np.ndarray) -> np.ndarray:
    """Cut green cover ``(t, k)`` where ``mown (k)``; it grows back within weeks, also around the end of the year."""
    for usual_day in MOWING_DAYS:
        delay = 12 * rng.standard_normal(len(mown))
        since = (day - usual_day - delay) % _YEAR
        cut = 0.6 * mown * np.exp(-since / REGROWTH_DAYS)
        green = green * (1 - cut)
    return green


def _snow(rng: np.random.Generator, climate: Climate, day: np.ndarray, buried: np.ndarray) -> np.ndarray:
    """Share of each piece under snow ``(t, k)``; some dates in winter are free of it."""
    depth = np.clip(-1.7 * climate.warmth + 0.3 * rng.standard_normal(), 0, 1)
    fallen = rng.random((len(day), 1)) < 0.85
    return depth * fallen * _season(day, 15, 55 + 90 * depth, 5) * buried


def _season(
    day: np.ndarray, middle: np.ndarray | int, length: np.ndarray | float, rise: np.ndarray | int
) -> np.ndarray:
    """Degree 0..1 of a season that comes back every year."""
    since = (day - middle + 182.6) % _YEAR - 182.6  # half a year to either side of the middle
    start = 1 + np.exp(-(since + length / 2) / rise)
    end = 1 + np.exp((since - length / 2) / rise)
    return 1 / (start * end)
