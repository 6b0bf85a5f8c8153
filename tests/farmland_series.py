"""Reflectance of fields through a season, as a satellite without clouds would see it."""

import datetime as dt

import numpy as np

SIZE = 24
DAYS = [dt.date(2023, 4, 1) + dt.timedelta(20 * i) for i in range(6)]
NODES = (0.47, 0.49, 0.56, 0.66, 0.705, 0.74, 0.78, 0.865, 1.24, 1.61, 2.2)
GREEN = np.array((0.028, 0.03, 0.06, 0.035, 0.10, 0.30, 0.38, 0.43, 0.36, 0.20, 0.10))
SOIL = np.array((0.085, 0.09, 0.12, 0.16, 0.19, 0.21, 0.23, 0.26, 0.30, 0.33, 0.28))
FOREST = np.array((0.018, 0.02, 0.035, 0.022, 0.05, 0.16, 0.20, 0.24, 0.19, 0.10, 0.05))
DESERT = np.array((0.16, 0.17, 0.22, 0.29, 0.31, 0.33, 0.34, 0.37, 0.43, 0.48, 0.44))
SNOW = np.array((0.85, 0.85, 0.83, 0.80, 0.78, 0.77, 0.76, 0.72, 0.40, 0.10, 0.08))
CLOUD = np.array((0.62, 0.62, 0.60, 0.60, 0.60, 0.61, 0.62, 0.63, 0.55, 0.45, 0.35))
# Green share of three kinds of fields on the six dates; the rest is soil.
SEASON = np.array([(0.4, 0.7, 0.95, 0.9, 0.3, 0.05), (0.0, 0.05, 0.3, 0.8, 0.95, 0.9), (0.6, 0.7, 0.8, 0.7, 0.7, 0.6)])


def farmland(sensor, seed=0, ground=SOIL, season=SEASON):
    """Reflectance ``(t, c, h, w)`` of fields and a forest through a season."""
    rng = np.random.default_rng(seed)
    waves = [band.wavelength for band in sensor.bands]
    green, bare, forest = (np.interp(waves, NODES, cover) for cover in (GREEN, ground, FOREST))
    field = rng.integers(0, 3, (6, 6)).repeat(SIZE // 6, 0).repeat(SIZE // 6, 1)
    share = np.clip(season[field] + rng.normal(0, 0.05, field.shape)[..., None], 0, 1).transpose(2, 0, 1)[:, None]
    images = share * green[:, None, None] + (1 - share) * bare[:, None, None]
    if season is SEASON:
        images[:, :, :, :6] = forest[:, None, None]
    weather = rng.normal(1, 0.04, (len(images), 1, 1, 1))
    return images * weather * rng.normal(1, 0.03, images.shape)
