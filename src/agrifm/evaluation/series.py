"""Gap-filled time series as features: the same dates for every pixel, whatever was seen when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agrifm.errors import InputError
from agrifm.sample import Sample, Season


@dataclass(frozen=True)
class SeriesFeatures:
    """Bands of every sensor, and the days ``(s)`` of the season to interpolate to."""

    bands: dict[str, int]
    season: Season
    steps: np.ndarray

    @classmethod
    def of(cls, samples: Iterable[Sample], sensors: Sequence[str], steps: int) -> SeriesFeatures:
        """Evenly spaced steps over the season that the samples cover.

        Raises:
            InputError: If no sample has one of the sensors.
        """
        spans: list[tuple[float, float]] = []
        bands: dict[str, int] = {}
        for sample in samples:
            spans.append(sample.span())
            for sensor in set(sensors) & set(sample.images):
                bands[sensor] = sample.images[sensor].shape[1]
        for sensor in sensors:
            if sensor not in bands:
                raise InputError(
                    f"training samples: sensor {sensor}",
                    found=f"only {', '.join(sorted(bands)) or 'other sensors'}",
                    expected="at least one training sample that has it",
                    repair="name only sensors that the training samples have.",
                )
        season = Season.of(spans)
        return cls({sensor: bands[sensor] for sensor in sensors}, season, np.linspace(0, season.length, steps))

    def features(self, sample: Sample, label: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Features ``(n, f)`` of the pixels ``chosen (n)`` of a label's grid; NaN where nothing was ever seen."""
        height, width = label.shape
        steps = self.steps + float(self.season.begin(torch.tensor(sample.span()[0])))
        row, column = np.divmod(chosen, width)
        parts = []
        for sensor, bands in self.bands.items():
            if sensor not in sample.images:
                parts.append(np.full((len(chosen), bands * len(self.steps)), np.nan, np.float32))
                continue
            h, w = sample.images[sensor].shape[2:]
            nearest = (row * h // height) * w + column * w // width
            cells, cell_of = np.unique(nearest, return_inverse=True)
            parts.append(_interpolated(sample, sensor, steps, cells)[cell_of])
        return np.concatenate(parts, axis=1)


def _interpolated(sample: Sample, sensor: str, steps: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Series of a sensor's pixels ``cells (n)`` at ``steps (s)``, linear in time: ``(n, s * c)``.

    Before the first and after the last valid date the series stays level.
    """
    order = np.argsort(sample.days(sensor).numpy(), kind="stable")
    days = sample.days(sensor).numpy()[order]
    image = sample.images[sensor].float().numpy()[order]
    series = image.reshape(*image.shape[:2], -1)[:, :, cells]
    valid = sample.mask(sensor).numpy()[order].reshape(len(order), -1)[:, cells]
    before, after = _neighbors(valid, days, steps)
    span = np.maximum(days[after] - days[before], 1e-6)
    weight = np.clip((steps[:, None] - days[before]) / span, 0, 1)[:, None]
    pixel, band = np.arange(len(cells)), np.arange(series.shape[1])[:, None]
    low, high = series[before[:, None], band, pixel], series[after[:, None], band, pixel]
    values = np.where(valid.any(0), low + weight * (high - low), np.nan)
    return values.reshape(len(steps) * series.shape[1], len(cells)).T.astype(np.float32)


def _neighbors(valid: np.ndarray, days: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid frames before and after each step ``(s, n)``; at the ends, and nowhere else, both are the same."""
    t, n = valid.shape
    frame = np.arange(t)[:, None]
    latest = np.maximum.accumulate(np.vstack([np.full((1, n), -1), np.where(valid, frame, -1)]))
    following = np.minimum.accumulate(np.vstack([np.where(valid, frame, t), np.full((1, n), t)])[::-1])[::-1]
    before = latest[np.searchsorted(days, steps, side="right")]
    after = following[np.searchsorted(days, steps, side="left")]
    before, after = np.where(before < 0, after, before), np.where(after >= t, before, after)
    return np.clip(before, 0, t - 1), np.clip(after, 0, t - 1)
