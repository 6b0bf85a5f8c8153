"""Segmentation: one class per pixel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from agrifm.tasks.losses import CrossEntropy, Loss, LossSum
from agrifm.tasks.scores import Scores, scores

# Twelve colors that stay apart for color-blind readers (Tol, "Colour Schemes", 2021: muted, then light).
PALETTE = (
    "#cc6677", "#ddcc77", "#117733", "#88ccee", "#aa4499", "#999933",
    "#332288", "#44aa99", "#882255", "#ee8866", "#77aadd", "#bbcc33",
)  # fmt: skip


@dataclass(frozen=True)
class CropClass:
    """A class of the map: its name and its color as ``#rrggbb``."""

    name: str
    color: str = ""

    def __post_init__(self) -> None:
        if self.color and not re.fullmatch("#[0-9a-fA-F]{6}", self.color):
            raise ValueError(f"color '{self.color}' of class {self.name} is not of the form #rrggbb")


def _classes(value: Any) -> Any:
    return (
        [{"name": entry} if isinstance(entry, str) else entry for entry in value] if isinstance(value, list) else value
    )


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


AnyLoss = Annotated[Loss, Field(discriminator="kind")]
Losses = Annotated[tuple[AnyLoss, ...], BeforeValidator(_one_or_more)]
Classes = Annotated[tuple[CropClass, ...], BeforeValidator(_classes)]


@dataclass(frozen=True)
class Segmentation:
    """What a class label means, how a map of classes is scored and what it becomes.

    Args:
        classes: in the order of the label's integers 0, 1, 2...
        ignore_index: label of pixels that count neither in loss nor in scores.
        loss: one or several, summed.
    """

    classes: Annotated[tuple[CropClass, ...], BeforeValidator(_classes)]
    kind: Literal["segmentation"] = "segmentation"
    ignore_index: int = -1
    loss: Annotated[tuple[AnyLoss, ...], BeforeValidator(_one_or_more)] = (CrossEntropy(),)

    best_score: ClassVar[str] = "mFscore"
    shown: ClassVar[tuple[str, ...]] = ("aAcc", "mIoU", "mFscore")

    def __post_init__(self) -> None:
        count = len(self.classes)
        if count < 2:
            raise ValueError("a segmentation needs at least two classes")
        if 0 <= self.ignore_index < count:
            raise ValueError(f"ignore_index {self.ignore_index} is also a class: use -1 or {count} and above")
        if len(set(self.names)) < count:
            raise ValueError(f"class names repeat: {', '.join(self.names)}")
        for loss in self.loss:
            weights = getattr(loss, "class_weights", None)
            if weights is not None and len(weights) != count:
                raise ValueError(f"{len(weights)} class_weights for {count} classes")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(entry.name for entry in self.classes)

    @property
    def colors(self) -> tuple[str, ...]:
        """Colors of the classes; those not given come from a palette."""
        return tuple(entry.color or PALETTE[i % len(PALETTE)] for i, entry in enumerate(self.classes))

    @property
    def outputs(self) -> int:
        """Channels the model must give."""
        return len(self.classes)

    def losses(self, output: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"]) -> list[tuple[float, LossSum]]:
        """Each loss with its weight, as sum and count."""
        return [(loss.weight, loss(output.float(), label, self.ignore_index)) for loss in self.loss]

    def metric(self) -> Metric:
        """A metric that gathers the confusion matrix over batches and processes."""
        return MulticlassConfusionMatrix(len(self.classes), ignore_index=self.ignore_index, validate_args=False)

    def update(self, metric: Metric, output: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"]) -> None:
        """Add a batch to the metric."""
        metric.update(output.argmax(1), label)

    def scores(self, metric: Metric) -> Scores:
        """Scores of everything the metric gathered."""
        return scores(metric.compute().cpu().numpy(), self.names)

    def probabilities(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Probability of each class."""
        return torch.softmax(output.float(), 1)
