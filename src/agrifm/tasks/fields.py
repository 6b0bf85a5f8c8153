"""The task of delineating fields: their extent, their boundaries, the distance inside them and, optionally, crops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource
from agrifm.errors import InputError, counted
from agrifm.nn.probabilities import LEAST_OUTPUT
from agrifm.sample import Sample
from agrifm.tasks.field_scores import SUMS, FieldScores, compare, score
from agrifm.tasks.losses import CrossEntropy, LogCoshDice, LossSum
from agrifm.tasks.scores import scores
from agrifm.tasks.segmentation import AnyLoss, Classes, Losses, color_of
from agrifm.tasks.watershed import UNKNOWN, Watershed, targets

if TYPE_CHECKING:
    from torchmetrics import Metric  # importing it takes more than a second

    from agrifm.tasks.metrics import FieldSums

LAYERS = ("extent", "boundary", "distance")


@dataclass(frozen=True)
class Fields:
    """The task of delineating fields.

    The label of a chip is ``(h, w)``: the number of the field from 1, 0 where there is no field, and -1 for unknown.
    With ``classes`` it is ``(2, h, w)``: fields, and crops as the position in ``classes``, -1 for unknown. Training
    uses the result of ``prepare``.

    Args:
        classes: Crops in the order of their numbers; without them, only fields are learned.
        boundary_width: Width of the boundary in meters. Pixels that touch the line are always boundary.
        pixel_size: Size of a label pixel in meters; by default that of the training data.
        partial_labels: Only some fields are labeled: 0 ends a field, but there may be other fields.
        loss: Losses of extent and of boundary, each a decision between two classes.
        crop_loss: Losses of crops.
        edge_weight: Weight of boundary pixels in the losses of extent.
        distance_weight: Weight of the absolute error of the distance.
        tolerance: Meters by which a boundary may be displaced in the scores.
        watershed: Rule that turns the layers into fields.
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
        different = {entry.name for entry in self.classes}
        if len(self.classes) == 1 or len(different) < len(self.classes):
            raise ValueError(
                "crops need at least two classes with different names; leave them out to learn fields alone"
            )
        if min(self.boundary_width, self.tolerance, self.pixel_size or 1) <= 0 or self.edge_weight < 1:
            raise ValueError("boundary_width, tolerance and pixel_size are above 0 m, and edge_weight is at least 1")
        self._check_weights(self.loss, 2)
        self._check_weights(self.crop_loss, len(self.classes))

    @staticmethod
    def _check_weights(losses: Losses, count: int) -> None:
        for loss in losses:
            weights = getattr(loss, "class_weights", None)
            if weights is not None and (isinstance(weights, str) or len(weights) != count):
                raise ValueError(f"class_weights {weights}: {counted(count, 'number')} are needed here")

    @property
    def names(self) -> tuple[str, ...]:
        """Classes of the map: the crops, or whether there is a field."""
        return tuple(entry.name for entry in self.classes) or ("no field", "field")

    @property
    def colors(self) -> tuple[str, ...]:
        """Colors of the classes, from a palette unless they are given."""
        colors = tuple(color_of(entry, i) for i, entry in enumerate(self.classes))
        return colors or ("#d9d9d9", "#4f9d4a")

    @property
    def known(self) -> range:
        """Numbers of the classes of the map."""
        return range(len(self.names))

    def counts(self, labels: Mapping[int, int]) -> list[tuple[str, int]]:
        """Return the pixels of the classes of the map by name, from those by number."""
        return [(name, labels.get(number, 0)) for number, name in enumerate(self.names)]

    @property
    def outputs(self) -> int:
        """Channels of the model: extent, boundary, distance, then crops."""
        return len(LAYERS) + len(self.classes)

    @property
    def pixel_classes(self) -> int:
        """Number of classes that single pixels are classified into: no field and field, each with every crop.

        With crops, an unknown crop is one more class, so that ground without a crop label still shows the extent.
        """
        return 2 * self._crops_or_unknown

    @property
    def _crops_or_unknown(self) -> int:
        return len(self.classes) + 1

    def with_pixel(self, meters: float) -> Fields:
        """Return the task with this pixel size, unless it has one."""
        return self if self.pixel_size is not None else replace(self, pixel_size=meters)

    def prepare(self, sample: Sample) -> Sample:
        """Return the sample with the targets ``(3 or 4, h, w)`` as its label: fields, boundary, distance, crops.

        Targets are computed on whole chips before they are cropped, so that a crop knows what lies beyond its edge.
        """
        if sample.label is None:
            return sample
        label = sample.label.reshape(-1, *sample.label.shape[-2:])
        fields = label[0].numpy().astype(np.int32)
        width = self.boundary_width / (self.pixel_size or 1.0)
        boundary, distance = targets(fields, width, partial=self.partial_labels)
        layers = [torch.from_numpy(layer).float() for layer in (fields, boundary, distance)]
        layers += label[1:].float()  # crops, if there are any
        return replace(sample, label=torch.stack(layers))

    def losses(self, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b n h w"]) -> list[tuple[float, LossSum]]:
        """Return the losses of extent, boundary, distance and crops with their weights."""
        output = output.float()
        label = label.float()
        extent = self._extent(label)
        extent_logits = _binary_logits(output[:, 0])
        boundary = label[:, 1].long()
        boundary_logits = _binary_logits(output[:, 1])
        losses = []
        for loss in self.loss:
            losses.append((loss.weight, self._extent_loss(loss, extent_logits, extent, boundary)))
        for loss in self.loss:
            losses.append((loss.weight, loss(boundary_logits, boundary, UNKNOWN)))
        losses.append((self.distance_weight, _distance_loss(output[:, 2], label[:, 2])))
        if self.classes:
            logits = output[:, len(LAYERS) :]
            crop = label[:, 3].long()
            for loss in self.crop_loss:
                losses.append((loss.weight, loss(logits, crop, UNKNOWN)))
        return losses

    def labeled(self, label: Float[Tensor, "b n h w"]) -> Bool[Tensor, "b h w"]:
        """Return the mask of the pixels that count in some loss: all of them."""
        return torch.ones_like(label[:, 0], dtype=torch.bool)

    def classes_of(self, label: Float[Tensor, "b n h w"]) -> Int[Tensor, "b h w"]:
        """Return the class of each pixel, of ``pixel_classes``; -1 where it is unknown whether there is a field."""
        extent = self._extent(label)
        crop_or_unknown = label[:, 3].long() + 1 if self.classes else torch.zeros_like(extent)
        return torch.where(extent >= 0, extent * self._crops_or_unknown + crop_or_unknown, UNKNOWN)

    def extent_and_crops(
        self, probabilities: Float[Tensor, "b p h w"]
    ) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b c h w"]]:
        """Return the probability of a field, and the logits of the crops, from probabilities of ``pixel_classes``."""
        without_field, with_field = probabilities.split(self._crops_or_unknown, 1)
        crops = without_field[:, 1:] + with_field[:, 1:]
        return with_field.sum(1), crops.clamp(min=LEAST_OUTPUT).log()

    def _extent(self, label: Tensor) -> Tensor:
        """Return 1 in fields, 0 where there is no field, and -1 for unknown."""
        is_field = label[:, 0] > 0
        known = is_field if self.partial_labels else label[:, 0] >= 0
        return torch.where(known, is_field.long(), UNKNOWN)

    def _extent_loss(self, loss: AnyLoss, logits: Tensor, extent: Tensor, boundary: Tensor) -> LossSum:
        """Return the loss of extent, in which pixels of boundaries count ``edge_weight`` times."""
        everywhere = loss(logits, extent, UNKNOWN)
        edge_extent = extent.masked_fill(boundary != 1, UNKNOWN)
        edge = loss(logits, edge_extent, UNKNOWN)
        extra_weight = self.edge_weight - 1  # edges already count once everywhere
        total = everywhere.total + extra_weight * edge.total
        count = everywhere.count + extra_weight * edge.count
        return LossSum(total, count)

    def metric(self) -> FieldSums:
        """Return a metric that sums over fields and crops."""
        from agrifm.tasks.metrics import FieldSums

        return FieldSums(len(self.classes))

    def update(self, metric: Metric, output: Float[Tensor, "b k h w"], label: Float[Tensor, "b n h w"]) -> None:
        """Find the fields of a batch, and add their comparison with the truth to the metric."""
        layers = percent(self.layers(output)).cpu().numpy()
        truths = label[:, 0].cpu().numpy().astype(np.int64)
        pixel = self.pixel_size or 1.0
        sums = torch.zeros(len(SUMS), dtype=torch.float64)
        for sample_layers, truth in zip(layers, truths, strict=True):
            fields = self.watershed.find(sample_layers)
            comparison = compare(fields, truth, pixel, self.tolerance, partial=self.partial_labels)
            values = [comparison[key] for key in SUMS]
            sums += torch.tensor(values, dtype=torch.float64)
        metric.update(sums, self._confusion(output, label))

    def _confusion(self, output: Tensor, label: Tensor) -> Tensor:
        count = len(self.classes)
        if not count:
            return output.new_zeros(0, 0)
        truth = label[:, 3].long()
        predicted = output[:, len(LAYERS) :].argmax(1)
        known = truth >= 0
        pairs = truth[known] * count + predicted[known]
        return torch.bincount(pairs, minlength=count * count).reshape(count, count)

    def scores(self, metric: Metric) -> FieldScores:
        """Return the scores of everything that was added to the metric."""
        sums, confusion = metric.compute()
        crops = scores(confusion.cpu().numpy(), self.names) if self.classes else None
        return score(dict(zip(SUMS, sums.tolist(), strict=True)), crops)

    def probabilities(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n h w"]:
        """Return the probability of each class of the map."""
        if self.classes:
            return torch.softmax(output[:, len(LAYERS) :].float(), 1)
        return _binary_logits(output[:, 0].float()).softmax(1)

    def layers(self, output: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the probabilities of extent and boundary, and the distance, from 0 to 1."""
        return output[:, : len(LAYERS)].float().sigmoid()

    def mean(
        self, first: Float[Tensor, "b k h w"], second: Float[Tensor, "b k h w"], share: float
    ) -> Float[Tensor, "b k h w"]:
        """Return the output whose layers and crop probabilities are the means of those of two models.

        Args:
            first: Output of a model.
            second: Output of another model.
            share: Weight of the second one, from 0 to 1.
        """
        layers = logit(torch.lerp(self.layers(first), self.layers(second), share))
        first_crops = torch.softmax(first[:, len(LAYERS) :].float(), 1)
        second_crops = torch.softmax(second[:, len(LAYERS) :].float(), 1)
        crops = torch.lerp(first_crops, second_crops, share)
        return torch.cat([layers, crops.clamp(min=LEAST_OUTPUT).log()], 1)


@dataclass(frozen=True)
class MapLabelSource:
    """A source of samples whose labels are the classes of the map: crops, or whether there is a field."""

    source: SampleSource
    task: Fields

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample, optionally only some of its frames."""
        sample = self.source.read(index, frames)
        label = sample.label
        if label is None:
            return sample
        if label.ndim != (3 if self.task.classes else 2):
            raise InputError(
                f"{sample.name}: label",
                found=f"shape {tuple(label.shape)}",
                expected="(2, H, W): fields and crop" if self.task.classes else "(H, W): numbers of fields",
                repair="set data.label_key to the datasets, or correct what your own dataset returns.",
            )
        return replace(sample, label=label[-1] if self.task.classes else label.clamp(max=1))


def logit(share: Tensor) -> Tensor:
    """Return the logits of shares; those of 0 and 1 are finite."""
    return torch.logit(share, LEAST_OUTPUT)


def percent(share: Tensor) -> Tensor:
    """Round shares to whole percent."""
    return (100 * share).round().to(torch.uint8)


def _binary_logits(logit: Tensor) -> Tensor:
    """Return one logit as the logits of two classes, no and yes, so that losses between classes apply."""
    return torch.stack([torch.zeros_like(logit), logit], 1)


def _distance_loss(logit: Tensor, distance: Tensor) -> LossSum:
    known = distance >= 0
    error = (logit.sigmoid() - distance).abs() * known
    return LossSum(error.sum(), known.sum().to(error.dtype))
