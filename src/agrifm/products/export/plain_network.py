"""The network as a module of plain tensors, for a fixed number of dates and a fixed size."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError
from agrifm.nn.embedding import Series, fill_series, resample_in_time
from agrifm.nn.model import CropModel
from agrifm.products.export.probabilities import calibrated
from agrifm.sample import Batch
from agrifm.sensors import Sensor

DATES = 24  # of every series where the experiment states no number of frames
SIDE = 96  # pixels where the checkpoint knows no footprint
SEEN = 0.7  # share of valid pixels in random inputs
FIRST_DAY = 18_628  # of random inputs: 2021-01-01


class PlainNetwork(nn.Module):
    """Images, masks and days of every sensor in, probabilities of the classes out.

    Args:
        checkpoint: A checkpoint that holds a network and nothing beside it.
        dates: Number of dates of every series; by default that of the experiment, or 24.
        side: Rows and columns of the finest sensor; by default those of the training chips, or 96.

    Raises:
        InputError: If the network has a branch for single pixels, which depends on the data.
    """

    def __init__(self, checkpoint: Checkpoint, dates: int | None, side: int | None) -> None:
        super().__init__()
        config = checkpoint.experiment.model
        if config.has_pixel_branch:
            raise InputError(
                f"model.branch of {checkpoint.experiment.name}",
                found=config.branch,
                expected="pyramid: the branch of single pixels chooses its operations by the data",
                repair="train with model.branch=pyramid, or use 'agrifm map'.",
            )
        data = checkpoint.experiment.data
        finest = min(sensor.gsd for sensor in data.sensors)
        if side is None:
            side = SIDE if data.footprint is None else round(data.footprint / finest)
        self.sensors = data.sensors
        self.dates = dates or data.frames or DATES
        self.sizes = {}
        for sensor in data.sensors:
            pixels = max(1, round(side * finest / sensor.gsd))
            self.sizes[sensor.name] = data.resize.get(sensor.name, (pixels, pixels))
        self.task = checkpoint.experiment.task
        self.calibration = checkpoint.calibration
        self.network = cast(CropModel, checkpoint.model())

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in order."""
        return [f"{sensor.name}_{kind}" for sensor in self.sensors for kind in ("images", "valid", "days")]

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return probabilities ``(b, k, h, w)``.

        Args:
            tensors: For each sensor images ``(b, t, c, h, w)`` in stored numbers, masks of valid pixels
                ``(b, t, h, w)`` and days since 1970-01-01 ``(b, t)``.
        """
        by_sensor = self._by_sensor(tensors)
        first_day = torch.stack([days.amin(1) for _, _, days in by_sensor.values()]).amin(0)
        reduced = {}
        extents = {}
        for name, (images, valid, days) in by_sensor.items():
            series = Series(self.network.normalize[name](images), valid, days)
            series = self._filled(series, first_day)
            real = torch.ones_like(series.days, dtype=torch.bool)
            reduced[name] = self.network.reduce_series(name, series, real)
            extents[name] = self.network.extents(images)
        logits = self.network.head(self.network.decoder(reduced, extents, max(self.sizes.values())))
        return calibrated(self.task.probabilities(logits), self.calibration)

    def _filled(self, series: Series, first_day: Tensor) -> Series:
        config = self.network.config
        if config.time_steps is None:
            return fill_series(series, torch.ones_like(series.days, dtype=torch.bool))
        season = config.season
        assert season is not None
        return resample_in_time(series, season.begin(first_day), season.length, config.time_steps)

    def _by_sensor(self, tensors: tuple[Tensor, ...]) -> dict[str, tuple[Tensor, ...]]:
        return {sensor.name: tensors[3 * i : 3 * i + 3] for i, sensor in enumerate(self.sensors)}

    def reference(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Return the probabilities that the model itself computes for the same inputs."""
        images, valid, days = ({}, {}, {})
        for name, of_sensor in self._by_sensor(tensors).items():
            images[name], valid[name], days[name] = of_sensor
        count = len(tensors[0])
        frames = {sensor.name: torch.full((count,), self.dates) for sensor in self.sensors}
        batch = Batch(images, valid, days, frames, None, ("random",) * count)
        return calibrated(self.task.probabilities(self.network(batch)), self.calibration)

    def random_inputs(self, count: int) -> tuple[Tensor, ...]:
        """Return inputs of ``count`` samples: noise around the mean of each band, with gaps."""
        generator = torch.Generator().manual_seed(count)
        tensors = []
        for sensor in self.sensors:
            statistics = sensor.known_statistics()
            size = self.sizes[sensor.name]
            noise = torch.randn(count, self.dates, len(sensor.bands), *size, generator=generator)
            deviation = torch.tensor(statistics.std)[:, None, None]
            images = noise * deviation + torch.tensor(statistics.mean)[:, None, None]
            valid = torch.rand(count, self.dates, *size, generator=generator) < SEEN
            days = FIRST_DAY + torch.linspace(0, 300, self.dates).expand(count, -1).contiguous()
            tensors += [images, valid, days]
        return tuple(tensors)

    def facts(self) -> dict[str, Any]:
        """Return what the file says about its inputs and its output."""
        return {
            "kind": "network",
            "dates": self.dates,
            "sensors": [self._describe(sensor) for sensor in self.sensors],
            "output": "probabilities (batch, class, row, column)",
        }

    def _describe(self, sensor: Sensor) -> dict[str, Any]:
        rows, columns = self.sizes[sensor.name]
        return {**describe_sensor(sensor), "rows": rows, "columns": columns}


def describe_sensor(sensor: Sensor) -> dict[str, Any]:
    """Return name, bands and units of a sensor."""
    return {
        "name": sensor.name,
        "bands": list(sensor.band_ids),
        "gsd": sensor.gsd,
        "scale": sensor.scale,
        "offset": sensor.offset,
    }
