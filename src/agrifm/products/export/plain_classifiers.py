"""The classifiers of single pixels as a module of plain tensors: gap-filled series in, probabilities out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agrifm.checkpoint import Checkpoint
from agrifm.nn.probabilities import LEAST_OUTPUT
from agrifm.pixels.members import TreesMember
from agrifm.pixels.series import step_days
from agrifm.products.export.plain_network import describe_sensor
from agrifm.products.export.probabilities import calibrated
from agrifm.sample import DAYS_PER_YEAR, Batch

YEARS = 50  # after 1970 in which the season of random inputs begins


class PlainTrees(nn.Module):
    """Trees that every pixel follows to the deepest level, where a leaf is its own child.

    Args:
        trees: The fitted trees, which leave pixels behind as soon as they reach a leaf.
    """

    def __init__(self, trees: TreesMember) -> None:
        super().__init__()
        self.trees = trees
        self.depth = int(trees.depth)
        self.has_logits = bool(trees.softmax)

    def forward(self, features: Tensor) -> Tensor:
        """Return probabilities ``(n, k)`` for features ``(n, f)``."""
        trees = self.trees
        # Unlike len, the shape stays open while the module is exported.
        node = trees.roots.long().expand(features.shape[0], -1)
        for _ in range(self.depth):
            value = features.gather(1, trees.feature[node].long())
            go_left = (value <= trees.threshold[node]) | (value.isnan() & trees.missing_left[node])
            node = torch.where(go_left, trees.left[node], trees.right[node]).long()
        total = trees.values[trees.leaf[node].long()].sum(1) + trees.bias
        return total.softmax(1) if self.has_logits else total


class PlainClassifiers(nn.Module):
    """Series of every sensor at the dates of the season in, probabilities of the classes out.

    Args:
        checkpoint: A checkpoint whose probabilities come from classifiers of single pixels alone. Of several sets of
            sensors, the largest is exported.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        pixels = checkpoint.pixels
        assert pixels is not None
        self.pixels = pixels
        self.features = pixels.features
        chosen = max([member.sensors for member in pixels.members], key=len)
        self.sensors = tuple(sensor for sensor in pixels.features.sensors if sensor.name in chosen)
        members = [member for member in pixels.members if member.sensors == chosen]
        self.shares = [member.weight for member in members]
        self.members = nn.ModuleList()
        for member in members:
            module = member.module
            self.members.append(PlainTrees(module) if isinstance(module, TreesMember) else module)
        self.register_buffer("place", nn.functional.one_hot(pixels.known, pixels.classes).float())
        self.task = checkpoint.experiment.task
        self.calibration = checkpoint.calibration

    place: Tensor

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in order."""
        return [f"{sensor.name}_series" for sensor in self.sensors]

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return probabilities ``(n, k)``.

        Args:
            tensors: Series ``(n, s, c)`` of each sensor in stored numbers, NaN for pixels that it never saw.
        """
        blocks = []
        for sensor, series in zip(self.sensors, tensors, strict=True):
            unseen = series.isnan().flatten(1).any(1, keepdim=True)
            # Runtimes differ in the extremes of NaN, so that it is put back behind them.
            block = self.features.of_series(torch.where(series.isnan(), 0.0, series), sensor)
            blocks.append(block.masked_fill(unseen, torch.nan))
        features = torch.cat(blocks, 1)
        total = torch.stack([share * member(features) for share, member in zip(self.shares, self.members, strict=True)])
        probabilities = (total.sum(0) @ self.place).clamp(min=LEAST_OUTPUT)
        return calibrated(probabilities / probabilities.sum(1, keepdim=True), self.calibration)

    def reference(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Return the probabilities that the model itself computes for the same inputs, as a sample of one row."""
        count = len(tensors[0])
        season = self.features.season
        steps = step_days(season.length, self.features.steps) + season.start + YEARS * DAYS_PER_YEAR
        images, valid, days, frames = ({}, {}, {}, {})
        for sensor, series in zip(self.sensors, tensors, strict=True):
            images[sensor.name] = series.permute(1, 2, 0)[None, :, :, None, :]
            valid[sensor.name] = ~series.isnan().any(2).T[None, :, None, :]
            days[sensor.name] = steps[None]
            frames[sensor.name] = torch.tensor([len(steps)])
        output = self.pixels(Batch(images, valid, days, frames, None, ("random",)))
        probabilities = calibrated(self.task.probabilities(output), self.calibration)
        return probabilities.view(-1, count).T

    def random_inputs(self, count: int) -> tuple[Tensor, ...]:
        """Return series of ``count`` pixels with reflectance up to 0.5; the first sensor never saw the last pixel."""
        generator = torch.Generator().manual_seed(count)
        tensors = []
        for sensor in self.sensors:
            shape = (count, self.features.steps, len(sensor.bands))
            reflectance = 0.5 * torch.rand(shape, generator=generator)
            tensors.append((reflectance - sensor.offset) / sensor.scale)
        if count > 1:
            tensors[0][-1] = torch.nan
        return tuple(tensors)

    def facts(self) -> dict[str, Any]:
        """Return what the file says about its inputs and its output."""
        season = self.features.season
        steps = step_days(season.length, self.features.steps)
        return {
            "kind": "classifiers of pixels",
            "season_start": season.start,
            "step_days": [round(float(day), 3) for day in steps],
            "sensors": [describe_sensor(sensor) for sensor in self.sensors],
            "output": "probabilities (pixel, class)",
        }
