"""The task of segmentation: one class per pixel."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor

from agrifm.checks.chips import unknown_labels
from agrifm.errors import InputError, counted
from agrifm.tasks.class_choice import ClassChoice
from agrifm.tasks.class_levels import Group, check_groups, confusion_at_level, levels
from agrifm.tasks.losses import CrossEntropy, Loss, LossSum, resolve_weights
from agrifm.tasks.scores import Scores, scores

if TYPE_CHECKING:
    from torchmetrics import Metric  # importing it takes more than a second

MOST_CLASSES = 254  # of a map, which has one byte per pixel and uses the largest number for no data

# Twelve colors that color-blind readers can distinguish (Tol, "Colour Schemes", 2021: muted, then light).
PALETTE = (
    "#cc6677", "#ddcc77", "#117733", "#88ccee", "#aa4499", "#999933",
    "#332288", "#44aa99", "#882255", "#ee8866", "#77aadd", "#bbcc33",
)  # fmt: skip


def rgb(color: str) -> tuple[int, int, int]:
    """Return a color ``#rrggbb`` as three numbers."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@dataclass(frozen=True)
class CropClass:
    """A class of the map.

    Args:
        name: Name of the class.
        color: Color as ``#rrggbb``.
        codes: Numbers in the labels that mean the class; by default its position.
        parent: The group that a class table puts it in.
        hcat: Its class in HCAT.
    """

    name: str
    color: str = ""
    codes: tuple[int, ...] | None = None
    parent: str | None = None
    hcat: str | None = None

    def __post_init__(self) -> None:
        if self.color and not re.fullmatch("#[0-9a-fA-F]{6}", self.color):
            raise ValueError(f"color '{self.color}' of class {self.name} is not of the form #rrggbb")


def color_of(entry: CropClass, position: int) -> str:
    """Return the color of a class, from the palette unless it has one."""
    return entry.color or PALETTE[position % len(PALETTE)]


def _expand_names(value: Any) -> Any:
    """Let a plain name in a list of classes mean a class of that name."""
    if not isinstance(value, list):
        return value
    return [{"name": entry} if isinstance(entry, str) else entry for entry in value]


def _one_or_more(value: Any) -> Any:
    """Let a single loss mean a list of one."""
    return [value] if isinstance(value, dict) else value


AnyLoss = Annotated[Loss, Field(discriminator="kind")]
Losses = Annotated[
    tuple[AnyLoss, ...], BeforeValidator(_one_or_more, json_schema_input_type=tuple[AnyLoss, ...] | AnyLoss)
]
ClassList = tuple[str | CropClass, ...]
Classes = Annotated[tuple[CropClass, ...], BeforeValidator(_expand_names, json_schema_input_type=ClassList)]


@dataclass(frozen=True)
class Segmentation:
    """The task of predicting one class per pixel.

    Args:
        classes: Classes in the order of the numbers of the map, 0, 1, 2 and so on. Labels have the same numbers unless
            the classes have codes.
        ignore_index: Label of pixels that count neither in the loss nor in the scores.
        loss: One or more losses, which are summed.
        groups: Groups of classes. A label of a group trains the sum of their probabilities.
        unlabeled: Codes that are ignored like ``ignore_index``.
    """

    classes: Annotated[
        tuple[CropClass, ...], BeforeValidator(_expand_names, json_schema_input_type=ClassList | ClassChoice)
    ]
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
            raise ValueError(
                f"{counted(count, 'class', 'classes')}: a map holds 2 to {MOST_CLASSES}, one byte for each pixel"
            )
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
                    raise ValueError(f"{len(weights)} {key} for {counted(count, 'class', 'classes')}")
        check_groups(self.groups, self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(entry.name for entry in self.classes)

    @property
    def colors(self) -> tuple[str, ...]:
        """Colors of the classes, from a palette unless they are given."""
        return tuple(color_of(entry, i) for i, entry in enumerate(self.classes))

    @property
    def outputs(self) -> int:
        """Number of channels of the model."""
        return len(self.classes)

    @cached_property
    def known(self) -> dict[int, int]:
        """For each number in the labels its class, its group (from ``outputs`` on), or ``ignore_index``.

        Raises:
            ValueError: If a number has two meanings, or only some classes have codes.
        """
        without_codes = [entry for entry in self.classes if entry.codes is None]
        if without_codes and len(without_codes) < len(self.classes):
            raise ValueError("some classes have codes and some have none: give codes to all of them")
        meanings = [entry.codes or (number,) for number, entry in enumerate(self.classes)]
        meanings += [group.codes for group in self.groups]
        pairs = []
        for number, codes in enumerate(meanings):
            pairs += [(code, number) for code in codes]
        pairs += [(code, self.ignore_index) for code in self.unlabeled]
        uses = Counter(code for code, _ in pairs)
        repeated = [code for code, count in uses.items() if count > 1]
        if repeated:
            raise ValueError(f"code {repeated[0]} is given twice")
        return dict(pairs)

    @cached_property
    def members(self) -> Bool[Tensor, "g k"]:
        """Mask of the classes of each group."""
        rows = [[name in group.classes for name in self.names] for group in self.groups]
        return torch.tensor(rows, dtype=torch.bool).view(len(rows), len(self.names))

    def encode(self, label: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
        """Replace the numbers of a label by those of classes, groups (from ``outputs`` on) or ``ignore_index``.

        Raises:
            InputError: If the label contains an unknown number.
        """
        has_codes = any(entry.codes is not None for entry in self.classes)
        if not (has_codes or self.groups or self.unlabeled):
            return label
        number_of = {**self.known, self.ignore_index: self.ignore_index}
        table = torch.tensor(sorted(number_of.items()), device=label.device)
        codes, numbers = table.T.contiguous()
        index = torch.searchsorted(codes, label.contiguous())
        index = index.clamp(max=len(codes) - 1)  # codes larger than all in the table are unknown
        unknown = codes[index] != label
        if bool(unknown.any()):
            raise unknown_labels("label", label[unknown].unique().tolist(), self.known, self.ignore_index)
        return numbers[index]

    def classes_of(self, label: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
        """Return the classes of a label, and ``ignore_index`` where it names a group only."""
        label = self.encode(label)
        return label.masked_fill(label >= self.outputs, self.ignore_index)

    def labeled(self, label: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        """Return the mask of the pixels that count in the loss."""
        return self.encode(label) != self.ignore_index

    def counts(self, labels: Mapping[int, int]) -> list[tuple[str, int]]:
        """Return the pixels of every class, every group and of ignored labels by name, from those by number."""
        group_names = [group.name for group in self.groups]
        names = [*self.names, *group_names, "ignored"]
        pixels = [0] * len(names)
        for code, count in labels.items():
            number = self.known.get(code, self.ignore_index)
            if number == self.ignore_index:
                pixels[-1] += count
            else:
                pixels[number] += count
        return list(zip(names, pixels, strict=True))

    def settled(self, labels: Mapping[int, int]) -> Segmentation:
        """Return the task with class weights and priors from the pixels of the training split.

        The pixels of a group are divided evenly among its classes.

        Args:
            labels: Number of pixels for each number in the labels.

        Raises:
            InputError: If nothing is labeled.
        """
        if self.is_settled:
            return self
        counts = torch.tensor([pixels for _, pixels in self.counts(labels)[:-1]], dtype=torch.float64)
        of_classes = counts[: self.outputs]
        of_groups = counts[self.outputs :]
        share = self.members.double() / self.members.sum(1, keepdim=True)
        pixels = (of_classes + of_groups @ share).tolist()
        if not sum(pixels):
            raise InputError(
                "train split",
                found="no labeled pixel",
                expected="labels to count classes in",
                repair="check task.ignore_index and the lists, or write numbers instead of 'balanced'.",
            )
        return replace(self, loss=tuple(resolve_weights(loss, pixels) for loss in self.loss))

    @property
    def is_settled(self) -> bool:
        """Whether every weight and prior is a number."""
        counts = [1.0] * self.outputs
        return all(resolve_weights(loss, counts) == loss for loss in self.loss)

    def losses(self, output: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"]) -> list[tuple[float, LossSum]]:
        """Return each loss with its weight."""
        groups = self.members.to(output.device) if self.groups else None
        label = self.encode(label)
        return [(loss.weight, loss(output.float(), label, self.ignore_index, groups)) for loss in self.loss]

    def metric(self) -> Metric:
        """Return a metric that sums the confusion matrix over batches and processes. Groups follow the classes."""
        from torchmetrics.classification import MulticlassConfusionMatrix

        count = len(self.classes) + len(self.groups)
        return MulticlassConfusionMatrix(count, ignore_index=self.ignore_index, validate_args=False)

    def update(self, metric: Metric, output: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"]) -> None:
        """Add a batch to the metric."""
        metric.update(output.argmax(1), self.encode(label))

    def scores(self, metric: Metric) -> Scores:
        """Return the scores of everything that was added to the metric, for the classes and the levels above them."""
        confusion = metric.compute().cpu().numpy()
        confusion = confusion[:, : self.outputs]  # groups occur in the truth only
        scores_by_level = []
        for level in (self.names, *levels(self.groups, self.names)):
            matrix, names = confusion_at_level(confusion, self.groups, self.names, level)
            scores_by_level.append(scores(matrix, names))
        return replace(scores_by_level[0], levels=tuple(scores_by_level[1:]))

    def probabilities(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Return the probability of each class."""
        return torch.softmax(output.float(), 1)
