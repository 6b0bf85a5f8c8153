"""Gap-filled time series as features: the same dates for every pixel, whenever it was observed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agrifm.errors import InputError
from agrifm.pixels.series import interpolate
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
    """Series of a sensor's pixels ``cells (n)`` at ``steps (s)``: ``(n, s * c)``."""
    chosen = torch.from_numpy(cells)
    image = sample.images[sensor].double().flatten(2)[..., chosen]
    valid = sample.mask(sensor).flatten(1)[:, chosen]
    series = interpolate(image, valid, sample.days(sensor), torch.from_numpy(steps))
    return series.flatten(1).float().numpy()
