"""The task of field delineation: extent, boundary, distance to the boundary and, on request, crops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.tasks.field_scores import SUMS, FieldScores, compare, score
from agrifm.tasks.losses import CrossEntropy, LogCoshDice, LossSum
from agrifm.tasks.scores import scores
from agrifm.tasks.segmentation import PALETTE, AnyLoss, Classes, Losses
from agrifm.tasks.watershed import UNKNOWN, Watershed, targets

LAYERS = ("extent", "boundary", "distance")


class FieldSums(Metric):
    """Sums over batches and processes: those of ``compare``, and the confusion matrix of crops."""

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
        """Return both sums."""
        return self.sums, self.confusion


@dataclass(frozen=True)
class Fields:
    """Field delineation: the meaning of labels, losses, scores and maps.

    The label of a chip is ``(h, w)``: the number of the field from 1, 0 outside of fields, -1 if unknown. With
    ``classes`` it is ``(2, h, w)``: fields, and numbers of the crop classes, -1 if unknown. ``prepare`` turns it into
    targets.

    Args:
        classes: Crops in the order of their numbers; without them only fields are learned.
        boundary_width: Width of a boundary in meters; pixels that touch the line always belong to it.
        pixel_size: Side of a label pixel in meters; None takes that of the training data.
        partial_labels: Whether only some fields are labeled: 0 ends a field, but may hold other fields.
        loss: Losses of extent and of boundary, both with two classes.
        crop_loss: Losses of crops.
        edge_weight: Weight of boundary pixels in the losses of extent.
        distance_weight: Weight of the absolute error of the distance.
        tolerance: Tolerance of a boundary in the scores, in meters.
        watershed: Rule by which layers become fields.
    """

    kind: Literal["fields"] = "fields"
    classes: Classes = ()
    boundary_width: float = 20.0
    pixel_size: float | None = None
    partial_labels: bool = False
    loss: Losses = (CrossEntropy(), LogCoshDice())
    crop_loss: Losses = (CrossEntropy(),)
    edge_weight: float = 2.0
    distance_weight: float = 1.0
    tolerance: float = 20.0
    watershed: Watershed = Watershed()  # noqa: RUF009 (frozen)

    ignore_index: ClassVar[int] = UNKNOWN
    best_score: ClassVar[str] = "overall"
    shown: ClassVar[tuple[str, ...]] = ("extent_IoU", "boundary_F1", "F1", "overall")

    def __post_init__(self) -> None:
        if len(self.classes) == 1 or len({entry.name for entry in self.classes}) < len(self.classes):
            raise ValueError(
                "crops need at least two classes with different names; leave them out to learn fields alone"
            )
        if min(self.boundary_width, self.tolerance, self.pixel_size or 1) <= 0 or self.edge_weight < 1:
            raise ValueError(
                "boundary_width, tolerance and pixel_size are meters above 0, and edge_weight is at least 1"
            )
        for losses, count in ((self.loss, 2), (self.crop_loss, len(self.classes))):
            for loss in losses:
                weights = getattr(loss, "class_weights", None)
                if weights is not None and (isinstance(weights, str) or len(weights) != count):
                    raise ValueError(f"class_weights {weights}: {count} numbers are needed here")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes of the map: crops, or field and no field."""
        return tuple(entry.name for entry in self.classes) or ("no field", "field")

    @property
    def colors(self) -> tuple[str, ...]:
        """Colors of the classes; those not given come from a palette."""
        given = tuple(entry.color or PALETTE[i % len(PALETTE)] for i, entry in enumerate(self.classes))
        return given or ("#d9d9d9", "#4f9d4a")

    @property
    def known(self) -> range:
        """Numbers of the classes of its map."""
        return range(len(self.names))

    def counts(self, labels: Mapping[int, int]) -> list[tuple[str, int]]:
        """Number of pixels of each class of the map, from those by number."""
        return [(name, labels.get(number, 0)) for number, name in enumerate(self.names)]

    @property
    def outputs(self) -> int:
        """Number of output channels: extent, boundary, distance, then crops."""
        return len(LAYERS) + len(self.classes)

    def with_pixel(self, meters: float) -> Fields:
        """The same task with this side of a pixel, unless it has one."""
        return self if self.pixel_size is not None else replace(self, pixel_size=meters)

    def prepare(self, sample: Sample) -> Sample:
        """Replace the label by targets ``(3 or 4, h, w)``: fields, boundary, distance, crop.

        Targets are computed on whole chips before random crops are cut, so that fields are known beyond a crop.
        """
        if sample.label is None:
            return sample
        label = sample.label.reshape(-1, *sample.label.shape[-2:])
        fields = label[0].numpy().astype(np.int32)
        width = self.boundary_width / (self.pixel_size or 1.0)
        boundary, distance = targets(fields, width, partial=self.partial_labels)
        layers = [torch.from_numpy(layer).float() for layer in (fields, boundary, distance)]
        crops = [layer.float() for layer in label[1:]]
        return replace(sample, label=torch.stack([*layers, *crops]))

    def losses(self, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b n h w"]) -> list[tuple[float, LossSum]]:
        """Losses of extent, boundary, distance and crops with their weights, as sum and count."""
        output = output.float()
        label = label.float()
        extent = self._extent(label)
        boundary = label[:, 1].long()
        losses = []
        for loss in self.loss:
            losses.append((loss.weight, self._weighted(loss, _two(output[:, 0]), extent, boundary)))
        for loss in self.loss:
            losses.append((loss.weight, loss(_two(output[:, 1]), boundary, UNKNOWN)))
        known = label[:, 2] >= 0
        error = (output[:, 2].sigmoid() - label[:, 2]).abs() * known
        losses.append((self.distance_weight, LossSum(error.sum(), known.sum().to(error.dtype))))
        if self.classes:
            crop = label[:, 3].long()
            for loss in self.crop_loss:
                losses.append((loss.weight, loss(output[:, len(LAYERS) :], crop, UNKNOWN)))
        return losses

    def _extent(self, label: Tensor) -> Tensor:
        """Extent: 1 in fields, 0 outside, -1 if unknown."""
        known = label[:, 0] > 0 if self.partial_labels else label[:, 0] >= 0
        return torch.where(known, (label[:, 0] > 0).long(), UNKNOWN)

    def _weighted(self, loss: AnyLoss, logits: Tensor, extent: Tensor, boundary: Tensor) -> LossSum:
        """Loss of extent in which boundary pixels have a weight of ``edge_weight``."""
        everywhere = loss(logits, extent, UNKNOWN)
        edge = loss(logits, extent.masked_fill(boundary != 1, UNKNOWN), UNKNOWN)
        more = self.edge_weight - 1
        return LossSum(everywhere.total + more * edge.total, everywhere.count + more * edge.count)

    def metric(self) -> Metric:
        """Sums over fields and crops."""
        return FieldSums(len(self.classes))

    def update(self, metric: Metric, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b n h w"]) -> None:
        """Find the fields of a batch, and add their comparison with the truth."""
        layers = percent(self.layers(output)).cpu().numpy()
        sums = torch.zeros(len(SUMS), dtype=torch.float64)
        for part, truth in zip(layers, label[:, 0].cpu().numpy().astype(np.int64), strict=True):
            fields = self.watershed.find(part)
            comparison = compare(fields, truth, self.pixel_size or 1.0, self.tolerance, partial=self.partial_labels)
            sums += torch.tensor([comparison[key] for key in SUMS], dtype=torch.float64)
        metric.update(sums, self._confusion(output, label))

    def _confusion(self, output: Tensor, label: Tensor) -> Tensor:
        count = len(self.classes)
        if not count:
            return output.new_zeros(0, 0)
        truth = label[:, 3].long()
        prediction = output[:, len(LAYERS) :].argmax(1)
        pairs = (truth * count + prediction)[truth >= 0]
        return torch.bincount(pairs, minlength=count * count).reshape(count, count)

    def scores(self, metric: Metric) -> FieldScores:
        """Scores of all batches that the metric has gathered."""
        sums, confusion = metric.compute()
        crops = scores(confusion.cpu().numpy(), self.names) if self.classes else None
        return score(dict(zip(SUMS, sums.tolist(), strict=True)), crops)

    def probabilities(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n h w"]:
        """Probability of each class of the map."""
        if self.classes:
            return torch.softmax(output[:, len(LAYERS) :].float(), 1)
        return _two(output[:, 0].float()).softmax(1)

    def layers(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        """Probability of extent and boundary, and the distance, in 0..1."""
        return output[:, : len(LAYERS)].float().sigmoid()


@dataclass(frozen=True)
class MapLabelSource:
    """Samples whose labels are the classes of the map: crops, or field and no field."""

    source: SampleSource
    task: Fields

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames."""
        sample = self.source.read(index, frames)
        label = sample.label
        if label is None:
            return sample
        if label.ndim != 2 + bool(self.task.classes):
            raise InputError(
                f"{sample.name}: label",
                found=f"shape {tuple(label.shape)}",
                expected="(2, H, W): fields and crop" if self.task.classes else "(H, W): numbers of fields",
                repair="set data.label_key to the datasets, or correct what your own dataset returns.",
            )
        return replace(sample, label=label[-1] if self.task.classes else label.clamp(max=1))


def percent(share: Tensor) -> Tensor:
    """Shares in whole percent."""
    return (100 * share).round().to(torch.uint8)


def _two(logit: Tensor) -> Tensor:
    """Convert one logit to the logits of two classes, to which losses of classes apply."""
    return torch.stack([torch.zeros_like(logit), logit], 1)
