"""Fractions: how much of each cell each land cover holds; what the backbone learns before any crop label.

The paper pre-trains on fractions of eight land covers with an L1 loss.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from agrifm.data.records import COVERS
from agrifm.tasks.losses import LossSum

COLORS = ("#e0b83e", "#1b6e3c", "#8fc06a", "#b58a4a", "#4aa3a2", "#2f6fb5", "#b5473c", "#b9aea3")


@dataclass(frozen=True)
class CoverScores:
    """Scores of one land cover: mean absolute error, coefficient of determination, mean share."""

    name: str
    MAE: float
    R2: float
    share: float


@dataclass(frozen=True)
class FractionScores:
    """Scores of fractions: ``summary`` by name (overlap, MAE, mR2), per class, and the number of cells.

    ``overlap`` is the share of a cell's area that is given to the right class, on average: 1 minus half of the summed
    absolute errors.
    """

    columns: ClassVar[tuple[str, ...]] = ("MAE", "R2", "share")

    summary: dict[str, float]
    classes: tuple[CoverScores, ...]
    cells: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what does not exist is null."""
        return json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)


class FractionSums(Metric):
    """Sums from which the scores follow, over batches and processes."""

    full_state_update = False
    sums: Tensor
    cells: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(4, len(COVERS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("cells", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, guess: Tensor, truth: Tensor) -> None:
        """Add cells: shares ``(n, k)`` that were given and that are true."""
        guess, truth = guess.double(), truth.double()
        error = guess - truth
        self.sums += torch.stack([error.abs().sum(0), error.square().sum(0), truth.sum(0), truth.square().sum(0)])
        self.cells += len(truth)

    def compute(self) -> Tensor:
        """Absolute error, squared error, truth and its square ``(4, k)``, summed; the number of cells stands below."""
        return torch.cat([self.sums, self.cells.expand(1, len(COVERS))])


@dataclass(frozen=True)
class Fractions:
    """What fractions of land cover mean and how they are scored.

    A label is ``(8, h, w)`` shares that sum to one, or NaN in cells that do not count.
    """

    kind: Literal["fractions"] = "fractions"

    best_score: ClassVar[str] = "overlap"
    shown: ClassVar[tuple[str, ...]] = ("MAE", "mR2", "overlap")
    names: ClassVar[tuple[str, ...]] = COVERS
    colors: ClassVar[tuple[str, ...]] = COLORS
    outputs: ClassVar[int] = len(COVERS)

    def losses(self, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b k h w"]) -> list[tuple[float, LossSum]]:
        """The summed absolute error over the cells that count."""
        known = ~label.isnan().any(1, keepdim=True)
        error = (self.probabilities(output) - label.nan_to_num()).abs() * known
        return [(1.0, LossSum(error.sum(), known.sum().to(error.dtype)))]

    def metric(self) -> Metric:
        """Sums of errors."""
        return FractionSums()

    def update(self, metric: Metric, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b k h w"]) -> None:
        """Add a batch to the metric."""
        known = ~label.isnan().any(1)
        guess, truth = (x.permute(0, 2, 3, 1)[known] for x in (self.probabilities(output), label))
        metric.update(guess, truth)

    def scores(self, metric: Metric) -> FractionScores:
        """Scores of everything the metric gathered."""
        wrong, squared, share, square, cells = metric.compute().cpu()
        n = cells.clamp(min=1)
        mae, mean = wrong / n, share / n
        r2 = 1 - squared / (square - n * mean**2)
        r2[square - n * mean**2 <= 1e-9] = torch.nan
        classes = tuple(
            CoverScores(name, *(float(part[i]) for part in (mae, r2, mean))) for i, name in enumerate(COVERS)
        )
        summary = {"overlap": float(1 - mae.sum() / 2), "MAE": float(mae.mean()), "mR2": float(r2.nanmean())}
        return FractionScores(summary, classes, int(cells[0]))

    def probabilities(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Share of each class."""
        return torch.softmax(output.float(), 1)
