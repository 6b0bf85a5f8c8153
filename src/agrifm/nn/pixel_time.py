"""A convolutional network over the time series of single pixels.

Source: Pelletier, Webb and Petitjean, "Temporal Convolutional Neural Network for the Classification of Satellite Image
Time Series", Remote Sensing 11(5), 2019. Every date is kept: the network flattens its features, as theirs does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from agrifm.nn.embedding import Series
from agrifm.sensors import Sensor

CHANNELS = 64
WIDTH = 5  # dates under a convolution
HIDDEN = 128
DROPOUT = 0.2
SENSOR_DROPOUT = 0.1  # of the pixels of a sensor in training, if there are several sensors
CHUNK = 1024  # pixels that are computed at once in evaluation, few enough for the cache of a processor


class SeriesEncoder(nn.Module):
    """Three convolutions over time, two of them residual.

    Statistics of batch normalization are those of single dates of all pixels, so that few pixels suffice for them.

    Args:
        channels: Channels of the series.
        steps: Number of dates.
    """

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for inputs in (channels, CHANNELS, CHANNELS):
            self.convolutions.append(nn.Conv1d(inputs, CHANNELS, WIDTH, padding=WIDTH // 2, bias=False))
            self.norms.append(nn.BatchNorm1d(CHANNELS))
        # Features of a pixel that the sensor has never seen; zeros until training finds better ones.
        self.unseen = nn.Parameter(torch.zeros(CHANNELS * steps))

    def forward(self, series: Float[Tensor, "n c s"]) -> Float[Tensor, "n f"]:
        """Return the features of all dates."""
        features = series
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            update = F.relu(norm(convolution(features)))
            features = update if number == 0 else features + update
        return features.flatten(1)


class PixelTime(nn.Module):
    """Features of each pixel from its own series, interpolated to regular dates of the season.

    Args:
        sensors: The sensors.
        steps: Number of dates of every series.
    """

    def __init__(self, sensors: Sequence[Sensor], steps: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()
        for sensor in sensors:
            # One more channel marks dates without an observation nearby.
            self.encoders[sensor.name] = SeriesEncoder(len(sensor.bands) + 1, steps)
        self.hidden = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(len(sensors) * CHANNELS * steps, HIDDEN),
            nn.LayerNorm(HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
        )

    def forward(self, series: Mapping[str, Series], mask: Bool[Tensor, "b y x"]) -> Float[Tensor, "b f y x"]:
        """Return the features of pixels.

        Args:
            series: Series at regular dates by sensor, each on its own grid. A sensor may be missing.
            mask: Pixels to compute, on the grid of the output. Features of the others are zeros.
        """
        size = (mask.shape[1], mask.shape[2])
        pixels = mask.flatten().nonzero().flatten()
        # In training, all pixels together are one batch of the normalization.
        chunk = max(1, len(pixels)) if self.training else CHUNK
        features = torch.cat([self._features(series, part, size) for part in pixels.split(chunk)])
        if len(pixels) < mask.numel():
            features = features.new_zeros(mask.numel(), HIDDEN).index_copy(0, pixels, features)
        return features.view(*mask.shape, HIDDEN).permute(0, 3, 1, 2)

    def _features(
        self, series: Mapping[str, Series], pixels: Int[Tensor, " n"], size: tuple[int, int]
    ) -> Float[Tensor, "n f"]:
        """Features of some pixels, given by their positions in the flattened output."""
        parts = []
        for sensor, module in self.encoders.items():
            encoder = cast(SeriesEncoder, module)
            if sensor in series:
                parts.append(self._of_sensor(encoder, series[sensor], pixels, size))
            else:
                parts.append(encoder.unseen.expand(len(pixels), -1))
        return self.hidden(torch.cat(parts, 1))

    def _of_sensor(
        self, encoder: SeriesEncoder, series: Series, pixels: Int[Tensor, " n"], size: tuple[int, int]
    ) -> Float[Tensor, "n f"]:
        """Features of some pixels from the nearest pixels of one sensor."""
        rows, columns = size
        height, width = series.valid.shape[-2:]
        row = pixels // columns % rows * height // rows
        column = pixels % columns * width // columns
        cells = (pixels // (rows * columns) * height + row) * width + column
        # Several pixels of the output may lie in one pixel of a coarse sensor, which is computed once.
        cells, cell_of_pixel = cells.unique(return_inverse=True)
        sample = cells // (height * width)
        row = cells // width % height
        column = cells % width
        valid = series.valid[sample, :, row, column]
        image = series.image[sample, :, :, row, column]
        channels = torch.cat([image, (~valid).unsqueeze(2).to(image.dtype)], 2).transpose(1, 2)
        seen = valid.any(1)
        if self.training and len(self.encoders) > 1:
            seen = seen & (torch.rand(len(seen), device=seen.device) >= SENSOR_DROPOUT)
        features = encoder.unseen.expand(len(cells), -1)
        # Pixels without observations stay out of the encoder, so that they do not count in its normalization.
        observed = seen.nonzero().flatten()
        if len(observed):
            # In mixed precision, the encoder returns another type than that of the weights.
            features = features.index_copy(0, observed, encoder(channels[observed]).to(features.dtype))
        return features[cell_of_pixel]
