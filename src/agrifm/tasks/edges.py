"""Fields without a network: boundaries from image gradients, extent and crops from classifiers of single pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from agrifm.nn.edges import EdgeRule, Edges, boundary_of, gradients_of
from agrifm.pixels.ensemble import PixelEnsemble
from agrifm.sample import Batch
from agrifm.sensors import Sensor
from agrifm.tasks.field_scores import compare, score
from agrifm.tasks.fields import Fields, logit, percent

BLURS = (0, 1)
QUANTILES = (0.5, 0.9)
# Shares of the ground whose gradients are below the one at which a boundary is as likely as not.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LEAST_HALF = 1e-6  # gradient, where the ground of a sensor has none at all

Setting = tuple[int, float]  # blurs and quantile


class FieldEdges(nn.Module):
    """Fields from gradients and classifiers of single pixels; it is called like the network.

    Args:
        task: The task.
        edges: Give the boundary; what it leaves counts as the distance.
        pixels: Classifiers of the task's ``pixel_classes``, which give extent and crops. Without them, the extent is
            the whole ground.
    """

    def __init__(self, task: Fields, edges: Edges, pixels: PixelEnsemble | None) -> None:
        super().__init__()
        self.task = task
        self.edges = edges
        self.pixels = pixels

    def forward(self, batch: Batch) -> Float[Tensor, "b k y x"]:
        """Return the logits of extent, boundary, distance and crops."""
        boundary = logit(self.edges(batch))
        if self.pixels is None:
            extent, crops = torch.ones_like(boundary), boundary.new_zeros(len(boundary), 0, *boundary.shape[1:])
        else:
            extent, crops = self.task.extent_and_crops(torch.softmax(self.pixels(batch), 1))
        layers = torch.stack([logit(extent), boundary, -boundary], 1)
        return torch.cat([layers, crops], 1)


@dataclass
class EdgeChoice:
    """Chooses the numbers of the edges by the scores of the fields that they give.

    Args:
        task: Its watershed finds the fields.
        sensors: Sensors with their statistics.
        chips: What was kept of each chip.
    """

    task: Fields
    sensors: Sequence[Sensor]
    chips: list[_Chip] = field(default_factory=list)

    def add(self, batch: Batch, pixels: PixelEnsemble | None) -> None:
        """Add the chips of a labeled batch."""
        assert batch.label is not None
        extent = torch.ones_like(batch.label[:, 0])
        if pixels is not None:
            extent, _ = self.task.extent_and_crops(torch.softmax(pixels(batch), 1))
        for index in range(len(batch)):
            gradients = {}
            for blurs, quantile in product(BLURS, QUANTILES):
                gradients[blurs, quantile] = gradients_of(batch, index, self.sensors, blurs, quantile)
            truth = batch.label[index, 0].numpy().astype(np.int64)
            self.chips.append(_Chip(truth, extent[index], gradients))

    def best(self) -> tuple[EdgeRule, float]:
        """Return the best rule and its score; of equally good ones the first."""
        scored = [(self._score(rule), rule) for rule in self._candidates()]
        best, rule = max(scored, key=lambda entry: entry[0])
        return rule, best

    def _candidates(self) -> Iterator[EdgeRule]:
        for blurs, quantile in product(BLURS, QUANTILES):
            levels = self._levels((blurs, quantile))
            for number in range(len(LEVELS)):
                half = {name: max(float(values[number]), LEAST_HALF) for name, values in levels.items()}
                yield EdgeRule(blurs, quantile, half)

    def _levels(self, setting: Setting) -> dict[str, np.ndarray]:
        """Quantiles of the gradients of all chips by sensor, at ``LEVELS``."""
        values: dict[str, list[np.ndarray]] = {}
        for chip in self.chips:
            for name, gradient in chip.gradients[setting].items():
                seen = gradient[~gradient.isnan()]
                values.setdefault(name, []).append(seen.numpy())
        levels = {}
        for name, parts in values.items():
            together = np.concatenate(parts)
            levels[name] = np.quantile(together, LEVELS) if len(together) else np.full(len(LEVELS), LEAST_HALF)
        return levels

    def _score(self, rule: EdgeRule) -> float:
        """Score of the fields that a rule finds on all chips together."""
        task = self.task
        total: dict[str, float] = {}
        for chip in self.chips:
            layers = chip.layers(rule)
            found = task.watershed.find(layers)
            sums = compare(found, chip.truth, task.pixel_size or 1.0, task.tolerance, partial=task.partial_labels)
            total = {key: total.get(key, 0.0) + value for key, value in sums.items()}
        return score(total).summary[task.best_score]


@dataclass(frozen=True)
class _Chip:
    """A chip on which rules are compared: its true fields, its extent, and its gradients by setting and sensor."""

    truth: np.ndarray
    extent: Tensor
    gradients: Mapping[Setting, Mapping[str, Tensor]]

    def layers(self, rule: EdgeRule) -> np.ndarray:
        """Extent, boundary and distance ``(3, h, w)`` in percent."""
        size = (self.truth.shape[0], self.truth.shape[1])
        boundary = boundary_of(self.gradients[rule.blurs, rule.quantile], rule.half, size)
        return percent(torch.stack([self.extent, boundary, 1 - boundary])).numpy()
