"""Random numbers as functions of integers and of position: the same arguments always give the same numbers.

A chip can therefore be generated without its neighbors and still fit them.
"""

from __future__ import annotations

import zlib

import numpy as np

Keys = int | np.ndarray


def key(*parts: object) -> int:
    """Return one integer for names and numbers."""
    return zlib.crc32(repr(parts).encode())


def mix(*keys: Keys) -> np.ndarray:
    """Hash integers to uniformly distributed ones, with broadcasting (SplitMix64 finalizer: Steele et al., 2014)."""
    state = np.zeros(1, np.uint64)
    for part in keys:
        state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(*keys: Keys) -> np.ndarray:
    """Uniform numbers in 0..1, one for every broadcast set of keys."""
    return (mix(*keys) >> np.uint64(11)) * 2.0**-53  # a float64 has 53 bits of precision


def normal(*keys: Keys) -> np.ndarray:
    """Approximately standard normal numbers, never beyond three: the scaled sum of three uniform ones."""
    return 2 * (uniform(*keys, 0) + uniform(*keys, 1) + uniform(*keys, 2) - 1.5)


def cut(position: np.ndarray, *keys: Keys) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a line into pieces near every integer.

    Args:
        position: Positions on the line.
        keys: Keys of the random cuts.

    Returns:
        Number of the piece, relative position in it in 0..1, and distance to its start.
    """

    def start(number: np.ndarray) -> np.ndarray:
        return number + 0.7 * (uniform(*keys, number) - 0.5)

    nearest = np.floor(position).astype(int)
    is_before = position < start(nearest)
    is_after = position >= start(nearest + 1)
    piece = nearest - is_before + is_after
    distance = position - start(piece)
    length = start(piece + 1) - start(piece)
    return piece, distance / length, distance


def smooth(x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def field(xs: np.ndarray, ys: np.ndarray, size: float, *keys: Keys) -> np.ndarray:
    """Smooth random field in 0..1 with features of ``size``: ``(h, w)``, or ``(t, h, w)`` for keys ``(t)``."""
    columns, across = _lattice_weights(xs / size)
    rows, down = _lattice_weights(ys / size)
    # Keys vary along the first axis; rows and columns of the lattice follow.
    leading = [np.asarray(part)[..., None, None] for part in keys]
    lattice = uniform(*leading, rows[:, None], columns)
    return down @ lattice @ across.T


def _lattice_weights(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lattice nodes ``(k)`` around positions ``(n)`` and their smooth interpolation weights ``(n, k)``."""
    first = np.floor(position.min())
    last = np.floor(position.max()) + 1
    nodes = np.arange(first, last + 1).astype(int)
    return nodes, smooth(1 - np.abs(position[:, None] - nodes))
