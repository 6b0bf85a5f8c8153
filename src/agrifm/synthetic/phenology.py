"""What covers a made-up land and how it looks through the year: end-member spectra and double-logistic growth.

Levels follow common textbook spectra and the crop calendar of north-western Europe; no real place is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from agrifm.data.randomness import normal
from agrifm.sensors import Band

_WAVELENGTHS = (0.45, 0.49, 0.56, 0.665, 0.705, 0.74, 0.783, 0.86, 1.24, 1.61, 2.20)  # micrometers
_SPECTRA = {
    "soil": (0.060, 0.075, 0.105, 0.145, 0.160, 0.170, 0.180, 0.200, 0.270, 0.300, 0.260),
    "straw": (0.075, 0.095, 0.145, 0.205, 0.230, 0.250, 0.265, 0.290, 0.350, 0.330, 0.230),
    "leaf": (0.025, 0.030, 0.065, 0.035, 0.085, 0.320, 0.420, 0.460, 0.420, 0.220, 0.100),
    "flower": (0.040, 0.055, 0.220, 0.200, 0.250, 0.420, 0.480, 0.510, 0.440, 0.240, 0.120),
    "canopy": (0.018, 0.022, 0.042, 0.024, 0.060, 0.210, 0.280, 0.300, 0.260, 0.125, 0.055),
    "water": (0.055, 0.055, 0.050, 0.030, 0.025, 0.020, 0.018, 0.014, 0.008, 0.005, 0.004),
    "built": (0.100, 0.115, 0.130, 0.150, 0.160, 0.170, 0.180, 0.190, 0.220, 0.240, 0.220),
    "needle": (0.016, 0.019, 0.034, 0.022, 0.045, 0.150, 0.190, 0.210, 0.175, 0.090, 0.042),
    "shrub": (0.030, 0.038, 0.062, 0.058, 0.090, 0.195, 0.235, 0.265, 0.275, 0.190, 0.115),
    "turbid": (0.070, 0.085, 0.120, 0.130, 0.115, 0.075, 0.070, 0.055, 0.020, 0.010, 0.007),
    "roof": (0.160, 0.185, 0.215, 0.250, 0.265, 0.275, 0.285, 0.300, 0.330, 0.350, 0.320),
    "sand": (0.130, 0.165, 0.235, 0.320, 0.345, 0.360, 0.375, 0.400, 0.470, 0.510, 0.470),
    "rock": (0.090, 0.100, 0.125, 0.150, 0.158, 0.165, 0.170, 0.180, 0.215, 0.235, 0.215),
    "snow": (0.860, 0.870, 0.860, 0.830, 0.820, 0.800, 0.780, 0.740, 0.380, 0.070, 0.055),
    "cloud": (0.560, 0.550, 0.540, 0.540, 0.545, 0.550, 0.550, 0.560, 0.520, 0.420, 0.330),
}
MEMBERS = ("soil", "straw", "leaf", "flower", "canopy", "water", "built")
_FLOWERING, _FLOWERING_DAYS = 118.0, 11.0
_MOWINGS = (140.0, 188.0, 238.0)


@dataclass(frozen=True)
class Cover:
    """What covers a place: its class, share of the parcels, end members and year.

    Green cover climbs from ``low`` to ``high`` around day ``start`` and falls around day ``end``, over some
    four times ``rise`` and ``fall`` days; ``straw`` days of dry stalks follow. From day ``flooded`` on it stands in
    water for 80 days.
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


COVERS = (  # woods, water, villages, fallow, then the crops; the last grows where it is asked for
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


def spectra(bands: Sequence[Band], members: Sequence[str] = MEMBERS) -> np.ndarray:
    """Reflectance of end members at the wavelengths of bands ``(m, c)``."""
    wavelengths = [band.wavelength for band in bands]
    return np.array([np.interp(wavelengths, _WAVELENGTHS, _SPECTRA[member]) for member in members])


def mixture(cover: np.ndarray, parcel: np.ndarray, day: np.ndarray, vigor: np.ndarray, soil: np.ndarray) -> np.ndarray:
    """Shares of the end members ``(m, t, h, w)``, those of the ground scaled by its brightness.

    Args:
        cover: Index into ``COVERS`` ``(h, w)``.
        parcel: Number of the parcel ``(h, w)``; each is mown on its own days.
        day: Day of the year, less the delay of each place ``(t, h, w)``.
        vigor: Factor of the green cover ``(h, w)``.
        soil: Brightness of the ground ``(h, w)``.
    """
    of = {name: values[cover] for name, values in BY_COVER.items()}
    start, end = _logistic((day - of["start"]) / of["rise"]), _logistic((day - of["end"]) / of["fall"])
    dry = (of["straw"] > 0) * np.maximum(end - _logistic((day - of["end"] - of["straw"]) / 4), 0)
    green = (of["low"] + (of["high"] - of["low"]) * start) * (1 - end * (1 - 0.25 * of["mown"])) * vigor
    green = green * np.where(of["mown"], _mowing(day, parcel), 1)
    flower = green * of["flower"] * np.exp(-(((day - _FLOWERING) / _FLOWERING_DAYS) ** 2))
    bare, leaf = (1 - green) * soil, green - flower
    wet = _logistic((day - of["flooded"]) / 3) * (of["flooded"] > 0) * (1 - _logistic((day - of["flooded"] - 80) / 4))
    parts = {"straw": bare * dry, "flower": flower}
    parts |= {name: bare * (1 - dry) * (1 - wet) * (of["ground"] == name) for name in ("soil", "water", "built")}
    parts["water"] += bare * (1 - dry) * wet
    parts |= {name: leaf * (of["green"] == name) for name in ("leaf", "canopy")}
    return np.stack([parts[name] for name in MEMBERS])


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))


def _mowing(day: np.ndarray, parcel: np.ndarray) -> np.ndarray:
    """What mowing leaves of the green cover ``(t, h, w)``; it grows back within weeks."""
    left = np.ones_like(day, dtype=float)
    for k, usual in enumerate(_MOWINGS):
        since = day - usual - 12 * normal(parcel, 7, k)
        left -= np.where(since > 0, 0.5 * np.exp(-np.maximum(since, 0) / 14), 0)
    return np.maximum(left, 0.2)
