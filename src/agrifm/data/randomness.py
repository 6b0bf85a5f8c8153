"""Random numbers as functions of integers and of position: the same question always has the same answer.

This is what lets a chip be drawn without its neighbors and still fit them.
"""

from __future__ import annotations

import zlib

import numpy as np

Keys = int | np.ndarray


def key(*parts: object) -> int:
    """One integer for names and numbers."""
    return zlib.crc32(repr(parts).encode())


def mix(*keys: Keys) -> np.ndarray:
    """Scramble integers into evenly spread ones, broadcasting (finalizer of SplitMix64: Steele et al., 2014)."""
    state = np.zeros(1, np.uint64)
    for part in keys:
        state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(*keys: Keys) -> np.ndarray:
    """Numbers in 0..1, one for every broadcast set of keys."""
    return (mix(*keys) >> np.uint64(11)) * 2.0**-53


def normal(*keys: Keys) -> np.ndarray:
    """About standard normal, never beyond three: the sum of three uniform numbers."""
    return 2 * (uniform(*keys, 0) + uniform(*keys, 1) + uniform(*keys, 2) - 1.5)


def cut(position: np.ndarray, *keys: Keys) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a line near every integer: number of the piece, position in it in 0..1, distance to its start."""

    def start(k: np.ndarray) -> np.ndarray:
        return k + 0.7 * (uniform(*keys, k) - 0.5)

    whole = np.floor(position).astype(int)
    piece = whole - (position < start(whole)) + (position >= start(whole + 1))
    inside = position - start(piece)
    return piece, inside / (start(piece + 1) - start(piece)), inside


def smooth(x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def field(xs: np.ndarray, ys: np.ndarray, size: float, *keys: Keys) -> np.ndarray:
    """Smooth random field in 0..1 with features of ``size``: ``(h, w)``, or ``(t, h, w)`` for keys ``(t)``."""
    (columns, across), (rows, down) = _weights(xs / size), _weights(ys / size)
    lattice = uniform(*(np.asarray(part)[..., None, None] for part in keys), rows[:, None], columns)
    return down @ lattice @ across.T


def _weights(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lattice nodes ``(k)`` around positions ``(n)`` and the smooth interpolation weights ``(n, k)``."""
    nodes = np.arange(np.floor(position.min()), np.floor(position.max()) + 2).astype(int)
    return nodes, smooth(1 - np.abs(position[:, None] - nodes))
