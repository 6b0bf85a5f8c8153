"""Land-cover fractions of cells: the target of pre-training, before any crop label is needed.

The paper pre-trains on the fractions of eight land covers with an L1 loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from agrifm.data.records import COVERS
from agrifm.tasks.losses import LossSum
from agrifm.tasks.scores import json_values

if TYPE_CHECKING:
    from torchmetrics import Metric  # importing it takes more than a second

COLORS = ("#e0b83e", "#1b6e3c", "#8fc06a", "#b58a4a", "#4aa3a2", "#2f6fb5", "#b5473c", "#b9aea3")


@dataclass(frozen=True)
class CoverScores:
    """Scores of one land cover: mean absolute error, coefficient of determination and mean share."""

    name: str
    MAE: float
    R2: float
    share: float


@dataclass(frozen=True)
class FractionScores:
    """Scores of fractions.

    Args:
        summary: Scores by name: overlap, MAE and mR2. ``overlap`` is the mean share of a cell's area that is assigned
            to the correct class: 1 minus half of the summed absolute errors.
        classes: Scores of each land cover.
        cells: Number of cells.
    """

    columns: ClassVar[tuple[str, ...]] = ("MAE", "R2", "share")

    summary: dict[str, float]
    classes: tuple[CoverScores, ...]
    cells: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return json_values(self)


@dataclass(frozen=True)
class Fractions:
    """The task of predicting land-cover fractions.

    A label holds shares ``(8, h, w)`` that sum to one, or NaN in cells that do not count.
    """

    kind: Literal["fractions"] = "fractions"

    best_score: ClassVar[str] = "overlap"
    shown: ClassVar[tuple[str, ...]] = ("MAE", "mR2", "overlap")
    names: ClassVar[tuple[str, ...]] = COVERS
    colors: ClassVar[tuple[str, ...]] = COLORS
    outputs: ClassVar[int] = len(COVERS)

    def losses(self, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b k h w"]) -> list[tuple[float, LossSum]]:
        """Return the absolute error, summed over the cells that count."""
        known = ~label.isnan().any(1, keepdim=True)
        error = (self.probabilities(output) - label.nan_to_num()).abs() * known
        return [(1.0, LossSum(error.sum(), known.sum().to(error.dtype)))]

    def metric(self) -> Metric:
        """Return a metric that sums errors."""
        from agrifm.tasks.metrics import FractionSums

        return FractionSums()

    def update(self, metric: Metric, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b k h w"]) -> None:
        """Add a batch to the metric."""
        known = ~label.isnan().any(1)
        predicted = self.probabilities(output).permute(0, 2, 3, 1)[known]
        truth = label.permute(0, 2, 3, 1)[known]
        metric.update(predicted, truth)

    def scores(self, metric: Metric) -> FractionScores:
        """Return the scores of everything that was added to the metric."""
        absolute, squared, truth, truth_squared, cells = metric.compute().cpu()
        count = cells.clamp(min=1)
        mae = absolute / count
        mean = truth / count
        variation = truth_squared - count * mean**2
        r2 = 1 - squared / variation
        r2[variation <= 1e-9] = torch.nan
        classes = []
        for i, name in enumerate(COVERS):
            classes.append(CoverScores(name, float(mae[i]), float(r2[i]), float(mean[i])))
        summary = {"overlap": float(1 - mae.sum() / 2), "MAE": float(mae.mean()), "mR2": float(r2.nanmean())}
        return FractionScores(summary, tuple(classes), int(cells[0]))

    def probabilities(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Return the share of each class."""
        return torch.softmax(output.float(), 1)
