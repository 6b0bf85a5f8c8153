"""Features of single pixels: gap-filled series, spectral indices, statistics of the season, means of neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from agrifm.pixels.series import interpolate, neighborhood_mean, step_days
from agrifm.sample import Batch, Season
from agrifm.sensors import Sensor

# Bands of which normalized differences are computed: one for each part of the spectrum, by their STAC common names.
SPECTRUM = (("blue",), ("green",), ("red",), ("rededge071",), ("nir", "nir08"), ("nir12",), ("swir16",), ("swir22",))
LEAST_SUM = 0.01  # reflectance; a smaller sum of two bands carries noise only
STATISTICS = ("mean", "deviation", "minimum", "maximum", "median")


@dataclass(frozen=True)
class PixelFeatures:
    """Computes the features of pixels, in blocks by sensor.

    Args:
        sensors: Sensors whose series are used.
        season: Season that the series cover.
        steps: Number of dates to interpolate to.
        indices: Whether to add normalized differences of bands at every date.
        statistics: Whether to add mean, deviation, minimum, maximum and median over the season.
        context: Whether to add the series of the mean of the 3 x 3 neighborhood, on the grid of each sensor.
    """

    sensors: tuple[Sensor, ...]
    season: Season
    steps: int = 24
    indices: bool = True
    statistics: bool = True
    context: bool = False

    def names(self, sensors: Sequence[str]) -> list[str]:
        """Names of the features of some sensors, in order."""
        names = []
        for sensor in self._chosen(sensors):
            channels = list(sensor.band_ids)
            if self.indices:
                for first, second in index_bands(sensor):
                    channels.append(f"nd({sensor.band_ids[first]},{sensor.band_ids[second]})")
            for step in range(self.steps):
                names += [f"{sensor.name} {channel} {step + 1}" for channel in channels]
            if self.statistics:
                for statistic in STATISTICS:
                    names += [f"{sensor.name} {channel} {statistic}" for channel in channels]
            if self.context:
                for step in range(self.steps):
                    names += [f"{sensor.name} context {channel} {step + 1}" for channel in channels]
        return names

    def _chosen(self, sensors: Sequence[str]) -> list[Sensor]:
        return [sensor for sensor in self.sensors if sensor.name in sensors]

    def of_sample(
        self, batch: Batch, index: int, sensors: Sequence[str], size: tuple[int, int], pixels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n f"]:
        """Compute the features of some pixels of one sample.

        Args:
            batch: Holds the sample.
            index: Number of the sample in the batch.
            sensors: Names of the sensors to use; the sample has them.
            size: Rows and columns of the grid on which the pixels lie. Other grids are read by nearest neighbor.
            pixels: Flat indices of the pixels.

        Returns:
            Features; NaN where a sensor never saw the ground.
        """
        begin = float(self.season.begin(batch.first_day_of(index)))
        steps = step_days(self.season.length, self.steps) + begin
        rows = pixels // size[1]
        columns = pixels % size[1]
        blocks = []
        for sensor in self._chosen(sensors):
            frames = int(batch.frames[sensor.name][index])
            image = batch.images[sensor.name][index, :frames]
            valid = batch.valid[sensor.name][index, :frames]
            height, width = image.shape[-2:]
            nearest = (rows * height // size[0]) * width + columns * width // size[1]
            # Several pixels may lie in one pixel of a coarse sensor, which is computed once.
            cells, cell_of_pixel = nearest.unique(return_inverse=True)
            days = batch.days[sensor.name][index, :frames]
            series = interpolate(image.flatten(2)[..., cells], valid.flatten(1)[:, cells], days, steps)
            block = self.of_series(series, sensor)
            if self.context:
                means, seen = neighborhood_mean(image, valid, cells)
                channels = self._channels(interpolate(means, seen, days, steps), sensor)
                block = torch.cat([block, channels.flatten(1)], 1)
            blocks.append(block[cell_of_pixel])
        return torch.cat(blocks, 1)

    def of_series(self, series: Float[Tensor, "n s c"], sensor: Sensor) -> Float[Tensor, "n f"]:
        """Features of one sensor but for the context, from its series in stored numbers."""
        channels = self._channels(series, sensor)
        parts = [channels.flatten(1)]
        if self.statistics:
            mean = channels.mean(1)
            parts += [
                mean,
                # Written out, because ``std`` takes several times longer.
                (channels - mean.unsqueeze(1)).square_().mean(1).sqrt_(),
                channels.amin(1),
                channels.amax(1),
                _median(channels),
            ]
        return torch.cat(parts, 1)

    def _channels(self, series: Float[Tensor, "n s c"], sensor: Sensor) -> Float[Tensor, "n s k"]:
        """Reflectance and indices of one sensor at every date, from its series in stored numbers."""
        channels = series * sensor.scale + sensor.offset
        if self.indices:
            channels = torch.cat([channels, *_normalized_differences(channels, sensor)], -1)
        return channels


def _median(channels: Float[Tensor, "n s k"]) -> Float[Tensor, "n k"]:
    """Median over the dates; of an even number of dates, the lower one of the two in the middle."""
    if channels.device.type != "cpu" or torch.compiler.is_exporting():
        return channels.median(1).values
    # The same values in a sixth of the time.
    middle = (channels.shape[1] - 1) // 2
    return torch.from_numpy(np.partition(channels.numpy(), middle, axis=1)[:, middle])


def index_bands(sensor: Sensor) -> list[tuple[int, int]]:
    """Positions of the pairs of bands of which a normalized difference is computed."""
    positions = []
    for common_names in SPECTRUM:
        found = [sensor.index(name) for name in common_names]
        positions += [position for position in found if position is not None][:1]
    return list(combinations(positions, 2))


def _normalized_differences(reflectance: Float[Tensor, "n s c"], sensor: Sensor) -> list[Float[Tensor, "n s 1"]]:
    indices = []
    for first, second in index_bands(sensor):
        a, b = reflectance[..., first], reflectance[..., second]
        difference = (a - b) / (a + b).clamp(min=LEAST_SUM)
        indices.append(difference.clamp(-1, 1).unsqueeze(-1))
    return indices
