"""How land covers look through the year: some varieties each, which no label tells apart, in a place's weather."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

CROPLAND, FOREST, GRASSLAND, SHRUBLAND, WETLAND, WATER, IMPERVIOUS, BARE = range(8)
MEMBERS = ("soil", "straw", "leaf", "canopy", "needle", "shrub", "water", "turbid", "built", "roof", "sand", "rock")
MEMBERS += ("snow", "cloud")
SOIL, _SNOW, CLOUD = (MEMBERS.index(name) for name in ("soil", "snow", "cloud"))
_ALWAYS = 999.0  # days


@dataclass(frozen=True)
class Variety:
    """One look of a land cover; days are those of a temperate north.

    Green cover rises from ``low`` to ``high`` for ``length`` days around day ``middle``, within about four times
    ``rise`` days, and again for a ``second`` (middle, length, height). Under it lies ``ground``, on which a ``layer``
    (member, middle, length, share) lies in part of the year. ``warm`` is where it prefers to be (-1 cold, 1 hot),
    ``rough`` the scatter of its brightness, ``buried`` the share that snow can hide.
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
OF_VARIETY = {f.name: np.array([getattr(v, f.name) for v in VARIETIES]) for f in fields(Variety) if f.name != "layer"}
_LAYER = np.array([v.layer[1:] for v in VARIETIES])
_GREEN, _GROUND, _OVER = (
    np.array([MEMBERS.index(name) for name in names])
    for names in (OF_VARIETY["green"], OF_VARIETY["ground"], [v.layer[0] for v in VARIETIES])
)


@dataclass(frozen=True)
class Weather:
    """Where and when a sample lies: degrees, date, and days by which its seasons come late; -1 cold to 1 hot."""

    lon: float
    lat: float
    year: int
    days: np.ndarray
    late: float
    warmth: float

    @property
    def biome(self) -> str:
        """Climate by latitude."""
        return ("boreal", "temperate", "subtropical", "tropical")[int(np.searchsorted((-0.6, 0.0, 0.4), self.warmth))]


def _season(
    day: np.ndarray, middle: np.ndarray | int, length: np.ndarray | float, rise: np.ndarray | int
) -> np.ndarray:
    """Degree 0..1 of a season that comes back every year."""
    since = (day - middle + 182.6) % 365.25 - 182.6
    return 1 / ((1 + np.exp(-(since + length / 2) / rise)) * (1 + np.exp((since - length / 2) / rise)))


def series_of(rng: np.random.Generator, weather: Weather, variety: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Reflectance ``(2, t, c, k)`` of every piece through the year, and how it changes with vigor."""
    of, k = {name: values[variety] for name, values in OF_VARIETY.items() if name != "cover"}, len(variety)
    late, vigor, soil, bias = (rng.standard_normal((4, k)) * [[9], [0.1], [0.16], [0.05]]).astype(np.float32)
    day = (weather.days % 365.25)[:, None].astype(np.float32) - np.float32(weather.late) - late
    green = of["low"] + (of["high"] - of["low"]) * _season(day, of["middle"], of["length"], of["rise"])
    again = of["second"].astype(np.float32).T
    green = np.maximum(green, again[2] * _season(day, again[0], again[1], 9))
    for middle in (140, 188, 238):
        since = (day - middle - 12 * rng.standard_normal(k)) % 365.25
        green = green * (1 - 0.6 * of["mown"] * np.exp(-since / 14))
    middle, length, depth = _LAYER[variety].T
    over = (depth * _season(day, middle, length, 4))[..., None]
    ground = colors[_GROUND[variety]] * np.clip(1 + soil, 0.5, 1.5)[:, None]
    ground = ground * (1 - over) + colors[_OVER[variety]] * over
    leaf, green = colors[_GREEN[variety]] * (1 + bias[:, None]), np.clip(green * (0.95 + vigor), 0, 1)[..., None]
    depth = np.clip(-1.7 * weather.warmth + 0.3 * rng.standard_normal(), 0, 1)
    melting = rng.random((len(day), 1)) < 0.85
    snow = (depth * melting * _season(day, 15, 55 + 90 * depth, 5) * of["buried"])[..., None]
    series = (ground * (1 - green) + leaf * green) * (1 - snow) + colors[_SNOW] * snow
    return np.stack([series, (leaf - ground) * green * (1 - snow)]).transpose(0, 1, 3, 2)
