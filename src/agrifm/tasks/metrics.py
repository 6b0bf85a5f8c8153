"""Sums over batches and processes from which scores follow.

Importing torchmetrics takes more than a second, so tasks import this module when they are scored.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from agrifm.data.records import COVERS
from agrifm.tasks.field_scores import SUMS


class FieldSums(Metric):
    """The sums of ``compare`` and the confusion matrix of crops, over batches and processes."""

    full_state_update = False
    sums: Tensor
    confusion: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(len(SUMS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sums: Tensor, confusion: Tensor) -> None:
        """Add the sums of some samples."""
        self.sums += sums.to(self.sums)
        self.confusion += confusion.to(self.confusion)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the sums and the confusion matrix."""
        return self.sums, self.confusion


class FractionSums(Metric):
    """Sums over batches and processes from which the scores follow."""

    full_state_update = False
    sums: Tensor
    cells: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(4, len(COVERS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("cells", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add cells, given their predicted and true shares ``(n, k)``."""
        predicted = predicted.double()
        truth = truth.double()
        error = predicted - truth
        parts = [error.abs(), error.square(), truth, truth.square()]
        self.sums += torch.stack([part.sum(0) for part in parts])
        self.cells += len(truth)

    def compute(self) -> Tensor:
        """Return the sums ``(5, k)`` of absolute error, squared error, truth and squared truth, and of cells."""
        return torch.cat([self.sums, self.cells.expand(1, len(COVERS))])
