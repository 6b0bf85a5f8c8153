"""Covers of the synthetic farmland and their mixture of end members through one season, by double-logistic growth.

The dates follow the crop calendar of north-western Europe; no real place is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from agrifm.data.randomness import normal

MEMBERS = ("soil", "straw", "leaf", "flower", "canopy", "water", "built")
MOWING_DAYS = (140.0, 188.0, 238.0)
REGROWTH_DAYS = 14  # after which a mown meadow has recovered by two thirds
_FLOWERING, _FLOWERING_DAYS = 118.0, 11.0
_FLOODED_DAYS = 80


@dataclass(frozen=True)
class Cover:
    """A cover of the farmland.

    Args:
        label: Class of the pixels.
        share: Share of the parcels; 0 for what lies between them.
        low: Green cover before the season.
        high: Green cover at its peak.
        start: Day around which green cover rises.
        rise: A quarter of the days that it takes to rise.
        end: Day around which green cover falls.
        fall: A quarter of the days that it takes to fall.
        green: End member of the plants.
        ground: End member of the ground below.
        straw: Days of dry stalks after the fall.
        flower: Share of the plants that flowers in spring.
        mown: Whether it is mown.
        flooded: Day from which it stands in water for 80 days; 0 for never.
    """

    label: int
    share: float
    low: float
    high: float
    start: float
    rise: float
    end: float
    fall: float
    green: str = "leaf"
    ground: str = "soil"
    straw: float = 0.0
    flower: float = 0.0
    mown: bool = False
    flooded: float = 0.0


COVERS = (  # woods, water, villages, fallow, then the crops; the last one only grows on request
    Cover(0, 0.0, 0.45, 0.95, 112, 6, 292, 9, green="canopy"),
    Cover(0, 0.0, 0.00, 0.03, 120, 9, 270, 9, ground="water"),
    Cover(0, 0.0, 0.15, 0.30, 110, 9, 285, 9, green="canopy", ground="built"),
    Cover(0, 0.06, 0.30, 0.74, 108, 16, 288, 18),
    Cover(1, 0.28, 0.14, 0.92, 92, 10, 184, 6, straw=26),
    Cover(2, 0.22, 0.02, 0.90, 160, 8, 266, 9, straw=16),
    Cover(3, 0.14, 0.20, 0.93, 84, 10, 182, 7, straw=18, flower=0.7),
    Cover(4, 0.14, 0.02, 0.92, 150, 9, 294, 10),
    Cover(5, 0.18, 0.42, 0.88, 90, 12, 300, 14, mown=True),
    Cover(6, 0.30, 0.02, 0.90, 176, 9, 268, 8, straw=14, flooded=134),
)
WOODS, WATER, BUILT, FIRST_FIELD = 0, 1, 2, 3
BY_COVER = {f.name: np.array([getattr(cover, f.name) for cover in COVERS]) for f in fields(Cover)}


def mixture(cover: np.ndarray, parcel: np.ndarray, day: np.ndarray, vigor: np.ndarray, soil: np.ndarray) -> np.ndarray:
    """Compute the shares of the end members.

    Args:
        cover: Index into ``COVERS`` ``(h, w)``.
        parcel: Number of the parcel ``(h, w)``; each one is mown on its own days.
        day: Day of the year, less the delay of each pixel ``(t, h, w)``.
        vigor: Factor of the green cover ``(h, w)``.
        soil: Brightness of the ground ``(h, w)``.

    Returns:
        Shares in the order of ``MEMBERS`` ``(m, t, h, w)``; those of the ground are scaled by its brightness.
    """
    of = {name: values[cover] for name, values in BY_COVER.items()}
    rise = _logistic((day - of["start"]) / of["rise"])
    fall = _logistic((day - of["end"]) / of["fall"])
    decay = _logistic((day - of["end"] - of["straw"]) / 4)
    straw = (of["straw"] > 0) * np.maximum(fall - decay, 0)
    flooding = _logistic((day - of["flooded"]) / 3) * (of["flooded"] > 0)
    draining = _logistic((day - of["flooded"] - _FLOODED_DAYS) / 4)
    water = flooding * (1 - draining)

    remaining = 1 - fall * (1 - 0.25 * of["mown"])  # meadows stay green for longer
    grown = of["low"] + (of["high"] - of["low"]) * rise
    green = grown * remaining * vigor
    green = green * np.where(of["mown"], _seasonal_mowing(day, parcel), 1)
    from_flowering = (day - _FLOWERING) / _FLOWERING_DAYS
    flower = green * of["flower"] * np.exp(-(from_flowering**2))
    leaf = green - flower
    bare = (1 - green) * soil
    open_ground = bare * (1 - straw)

    shares = {"straw": bare * straw, "flower": flower}
    for member in ("soil", "water", "built"):
        shares[member] = open_ground * (1 - water) * (of["ground"] == member)
    shares["water"] += open_ground * water
    for member in ("leaf", "canopy"):
        shares[member] = leaf * (of["green"] == member)
    return np.stack([shares[member] for member in MEMBERS])


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))


def _seasonal_mowing(day: np.ndarray, parcel: np.ndarray) -> np.ndarray:
    """Share of the green cover that mowing leaves ``(t, h, w)``.

    Unlike ``varieties.yearly_mowing`` it does not wrap around the end of the year, and cuts add up. Published data and
    weights were made with either, so both stay.
    """
    remaining = np.ones_like(day, dtype=float)
    for number, usual_day in enumerate(MOWING_DAYS):
        delay = 12 * normal(parcel, 7, number)
        since = day - usual_day - delay
        cut = 0.5 * np.exp(-np.maximum(since, 0) / REGROWTH_DAYS)
        remaining -= np.where(since > 0, cut, 0)
    return np.maximum(remaining, 0.2)
