"""The task of segmentation: one class for each pixel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from agrifm.checks.chips import unknown_labels
from agrifm.errors import InputError
from agrifm.tasks.class_choice import ClassChoice
from agrifm.tasks.class_levels import Group, check, levels, lifted
from agrifm.tasks.losses import CrossEntropy, Loss, LossSum, settled
from agrifm.tasks.scores import Scores, scores

MOST_CLASSES = 254  # classes of a map, which has one byte for each pixel, and 255 is no data

# Twelve colors that color-blind readers can distinguish (Tol, "Colour Schemes", 2021: muted, then light).
PALETTE = (
    "#cc6677", "#ddcc77", "#117733", "#88ccee", "#aa4499", "#999933",
    "#332288", "#44aa99", "#882255", "#ee8866", "#77aadd", "#bbcc33",
)  # fmt: skip


def rgb(color: str) -> tuple[int, int, int]:
    """Parse a color ``#rrggbb``."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@dataclass(frozen=True)
class CropClass:
    """A class of the map.

    Args:
        name: Name of the class.
        color: Color as ``#rrggbb``.
        codes: Numbers of the class in the labels; None takes its position.
        parent: Name of the group that it is part of, from its table.
        hcat: Its code in HCAT.
    """

    name: str
    color: str = ""
    codes: tuple[int, ...] | None = None
    parent: str | None = None
    hcat: str | None = None

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
Losses = Annotated[
    tuple[AnyLoss, ...], BeforeValidator(_one_or_more, json_schema_input_type=tuple[AnyLoss, ...] | AnyLoss)
]
ClassList = tuple[str | CropClass, ...]
Classes = Annotated[tuple[CropClass, ...], BeforeValidator(_classes, json_schema_input_type=ClassList)]


@dataclass(frozen=True)
class Segmentation:
    """Segmentation: the meaning of labels, losses, scores and maps.

    Args:
        classes: Classes in the order of their numbers 0, 1, 2... on the map, and in labels unless they have codes.
        ignore_index: Label of pixels that count neither in loss nor in scores.
        loss: One loss, or several that are summed.
        groups: Groups of classes; a label of a group is a target for the sum of their probabilities.
        unlabeled: Further codes that are ignored like ``ignore_index``.
    """

    classes: Annotated[tuple[CropClass, ...], BeforeValidator(_classes, json_schema_input_type=ClassList | ClassChoice)]
    kind: Literal["segmentation"] = "segmentation"
    ignore_index: int = -1
    loss: Losses = (CrossEntropy(),)
    groups: tuple[Group, ...] = ()
    unlabeled: tuple[int, ...] = ()

    best_score: ClassVar[str] = "mFscore"
    shown: ClassVar[tuple[str, ...]] = ("aAcc", "mIoU", "mFscore")

    def __post_init__(self) -> None:
        count = len(self.classes)
        if not 2 <= count <= MOST_CLASSES:
            raise ValueError(f"{count} classes: a map holds 2 to {MOST_CLASSES}, one byte for each pixel")
        if self.ignore_index in self.known:
            raise ValueError(
                f"ignore_index {self.ignore_index} is also a class: use -1 or {max(self.known) + 1} and above"
            )
        if len(set(self.names)) < count:
            raise ValueError(f"class names repeat: {', '.join(self.names)}")
        for loss in self.loss:
            for key in ("class_weights", "prior"):
                weights = getattr(loss, key, None)
                if isinstance(weights, tuple) and len(weights) != count:
                    raise ValueError(f"{len(weights)} {key} for {count} classes")
        check(self.groups, self.names)

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
        """Number of output channels."""
        return len(self.classes)

    @cached_property
    def known(self) -> dict[int, int]:
        """Class, group (from ``outputs`` on) or ``ignore_index`` by number in the labels.

        Raises:
            ValueError: If a number has two meanings, or only some classes have codes.
        """
        given = [entry.codes for entry in self.classes]
        if any(codes is None for codes in given) and not all(codes is None for codes in given):
            raise ValueError("some classes have codes and some have none: give codes to all of them")
        codes_of = [codes or (i,) for i, codes in enumerate(given)]
        codes_of += [group.codes for group in self.groups]
        pairs = []
        for i, codes in enumerate(codes_of):
            pairs += [(code, i) for code in codes]
        pairs += [(code, self.ignore_index) for code in self.unlabeled]
        meanings: dict[int, int] = {}
        for code, meaning in pairs:
            if code in meanings:
                raise ValueError(f"code {code} is given twice")
            meanings[code] = meaning
        return meanings

    @cached_property
    def members(self) -> Bool[Tensor, "g k"]:
        """Mask of the classes of each group."""
        rows = [[name in group.classes for name in self.names] for group in self.groups]
        return torch.tensor(rows, dtype=torch.bool).view(len(rows), len(self.names))

    def encode(self, label: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
        """Convert the numbers of a label to classes, groups (from ``outputs`` on) or ``ignore_index``.

        Raises:
            InputError: If a number is unknown.
        """
        if not self.groups and not self.unlabeled and all(entry.codes is None for entry in self.classes):
            return label
        table = sorted({**self.known, self.ignore_index: self.ignore_index}.items())
        codes, places = torch.tensor(table, device=label.device).T.contiguous()
        position = torch.searchsorted(codes, label.contiguous()).clamp(max=len(codes) - 1)
        unknown = codes[position] != label
        if bool(unknown.any()):
            raise unknown_labels("label", label[unknown].unique().tolist(), self.known, self.ignore_index)
        return places[position]

    def classes_of(self, label: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
        """Convert the numbers of a label to classes; ``ignore_index`` for groups and ignored pixels."""
        label = self.encode(label)
        return label.masked_fill(label >= self.outputs, self.ignore_index)

    def counts(self, labels: Mapping[int, int]) -> list[tuple[str, int]]:
        """Number of pixels of each class, of each group, and of ignored ones, from those by number in the label."""
        names = [*self.names, *(group.name for group in self.groups)]
        pixels = [0] * (len(names) + 1)
        for code, count in labels.items():
            meaning = self.known.get(code, self.ignore_index)
            if meaning == self.ignore_index:
                meaning = -1  # the last entry
            pixels[meaning] += count
        return list(zip([*names, "ignored"], pixels, strict=True))

    def settled(self, labels: Mapping[int, int]) -> Segmentation:
        """Derive class weights and priors from the pixels of the training split, by number in the label.

        Pixels of a group are divided evenly among its classes.

        Raises:
            InputError: If nothing is labeled.
        """
        if self.is_settled:
            return self
        counts = torch.tensor([pixels for _, pixels in self.counts(labels)[:-1]], dtype=torch.float64)
        share = self.members.double() / self.members.sum(1, keepdim=True)
        pixels = (counts[: self.outputs] + counts[self.outputs :] @ share).tolist()
        if not sum(pixels):
            raise InputError(
                "train split",
                found="no labeled pixel",
                expected="labels to count classes in",
                repair="check task.ignore_index and the lists, or write numbers instead of 'balanced'.",
            )
        return replace(self, loss=tuple(settled(loss, pixels) for loss in self.loss))

    @property
    def is_settled(self) -> bool:
        """Whether every weight and prior is a number."""
        return all(settled(loss, [1.0] * self.outputs) == loss for loss in self.loss)

    def losses(self, output: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"]) -> list[tuple[float, LossSum]]:
        """Each loss with its weight, as sum and count."""
        groups = self.members.to(output.device) if self.groups else None
        label = self.encode(label)
        return [(loss.weight, loss(output.float(), label, self.ignore_index, groups)) for loss in self.loss]

    def metric(self) -> Metric:
        """Metric of the confusion matrix over batches and processes; groups follow the classes."""
        count = len(self.classes) + len(self.groups)
        return MulticlassConfusionMatrix(count, ignore_index=self.ignore_index, validate_args=False)

    def update(self, metric: Metric, output: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"]) -> None:
        """Add a batch to the metric."""
        metric.update(output.argmax(1), self.encode(label))

    def scores(self, metric: Metric) -> Scores:
        """Scores of all batches that the metric has gathered, for the classes and every level above them."""
        counts = metric.compute().cpu().numpy()[:, : self.outputs]
        of_classes = scores(*lifted(counts, self.groups, self.names, self.names))
        of_levels = []
        for level in levels(self.groups, self.names):
            of_levels.append(scores(*lifted(counts, self.groups, self.names, level)))
        return replace(of_classes, levels=tuple(of_levels))

    def probabilities(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Probability of each class."""
        return torch.softmax(output.float(), 1)
