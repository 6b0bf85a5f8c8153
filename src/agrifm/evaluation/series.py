"""Gap-filled time series as features: the same dates for every pixel, whenever it was observed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agrifm.errors import InputError
from agrifm.sample import Sample, Season


@dataclass(frozen=True)
class SeriesFeatures:
    """Interpolates the bands of every sensor to the same days of the season.

    Args:
        bands: Number of bands of each sensor.
        season: The season.
        steps: Days ``(s)`` of the season to interpolate to.
    """

    bands: dict[str, int]
    season: Season
    steps: np.ndarray

    @classmethod
    def of(cls, samples: Iterable[Sample], sensors: Sequence[str], steps: int) -> SeriesFeatures:
        """Space steps evenly over the season that samples cover.

        Raises:
            InputError: If no sample has one of the sensors.
        """
        spans: list[tuple[float, float]] = []
        bands: dict[str, int] = {}
        for sample in samples:
            spans.append(sample.span())
            for sensor in sensors:
                if sensor in sample.images:
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
        bands_in_order = {sensor: bands[sensor] for sensor in sensors}
        return cls(bands_in_order, season, np.linspace(0, season.length, steps))

    def features(self, sample: Sample, label: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Return the features of some pixels.

        Args:
            sample: The sample.
            label: Its label, on whose grid the pixels lie.
            pixels: Flat indices of the pixels ``(n)``.

        Returns:
            Features ``(n, f)``; NaN where nothing was ever observed.
        """
        rows, columns = np.divmod(pixels, label.shape[1])
        steps = self.steps + float(self.season.begin(torch.tensor(sample.span()[0])))
        parts = []
        for sensor, bands in self.bands.items():
            if sensor not in sample.images:
                parts.append(np.full((len(pixels), bands * len(self.steps)), np.nan, np.float32))
                continue
            height, width = sample.images[sensor].shape[2:]
            nearest_row = rows * height // label.shape[0]
            nearest_column = columns * width // label.shape[1]
            # Several label pixels may lie in one pixel of a coarse sensor, which is interpolated once.
            cells, cell_of_pixel = np.unique(nearest_row * width + nearest_column, return_inverse=True)
            series = _interpolate(sample, sensor, steps, cells)
            parts.append(series[cell_of_pixel])
        return np.concatenate(parts, axis=1)


def _interpolate(sample: Sample, sensor: str, steps: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Series of a sensor's pixels ``cells (n)`` at ``steps (s)``, linear in time: ``(n, s * c)``.

    Before the first and after the last valid date the series is constant.
    """
    days = sample.days(sensor).numpy()
    order = np.argsort(days, kind="stable")
    days = days[order]
    image = sample.images[sensor].float().numpy()[order]
    mask = sample.mask(sensor).numpy()[order]
    frames, bands = image.shape[:2]
    series = image.reshape(frames, bands, -1)[:, :, cells]
    valid = mask.reshape(frames, -1)[:, cells]
    before, after = _valid_neighbors(valid, days, steps)

    # Where both neighbors are the same frame, the weight has no effect.
    interval = np.maximum(days[after] - days[before], 1e-6)
    elapsed = steps[:, None] - days[before]
    weight = np.clip(elapsed / interval, 0, 1)
    # Arrays (s, c, n): the frames of each step and pixel are the same for all bands.
    start = np.take_along_axis(series, before[:, None], axis=0)
    end = np.take_along_axis(series, after[:, None], axis=0)
    values = start + weight[:, None] * (end - start)
    values[:, :, ~valid.any(0)] = np.nan
    return values.reshape(len(steps) * bands, len(cells)).T.astype(np.float32)


def _valid_neighbors(valid: np.ndarray, days: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid frames before and after each step ``(s, n)``; the two are equal only at the ends of the series."""
    frames, pixels = valid.shape
    frame = np.arange(frames)[:, None]
    # Row k of ``latest`` is the last valid one of the first k frames, or -1.
    latest = np.full((frames + 1, pixels), -1)
    latest[1:] = np.where(valid, frame, -1)
    latest = np.maximum.accumulate(latest)
    # Row k of ``following`` is the first valid one from frame k on, or ``frames``.
    following = np.full((frames + 1, pixels), frames)
    following[:-1] = np.where(valid, frame, frames)
    following = np.minimum.accumulate(following[::-1])[::-1]

    last_before = latest[np.searchsorted(days, steps, side="right")]
    first_after = following[np.searchsorted(days, steps, side="left")]
    before = np.where(last_before < 0, first_after, last_before)
    after = np.where(first_after >= frames, last_before, first_after)
    # A pixel that was never observed has neither; its values become NaN.
    return np.clip(before, 0, frames - 1), np.clip(after, 0, frames - 1)
