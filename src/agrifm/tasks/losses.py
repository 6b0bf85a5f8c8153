"""Losses for segmentation. Each returns a sum and a count, so that a mean over processes is exact.

Sources: Lin et al., "Focal Loss", ICCV 2017; Milletari et al., "V-Net" (dice), 3DV 2016; Szegedy et al., CVPR 2016
(label smoothing); Menon et al., "Long-tail learning via logit adjustment", ICLR 2021; Zhang and Sabuncu, "Generalized
Cross Entropy Loss", NeurIPS 2018; Salehi et al., MLMI 2017 (Tversky); Jadon, CIBCB 2020 (log-cosh dice).

A label from k on stands for a group of classes, ``groups[label - k]``: one of them is correct, but it is not known
which. The probability of a group is the sum over its classes. Other properties of a class, such as its weight, are
taken from the most probable class of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Logits = Float[Tensor, "b k h w"]
Label = Int[Tensor, "b h w"]
Groups = Bool[Tensor, "g k"] | None
# ``balanced`` is replaced by numbers when the pixels of the training split have been counted.
Weights = tuple[float, ...] | Literal["balanced"] | None


class LossSum(NamedTuple):
    """A sum over units and the number or total weight of the units. The loss is their ratio."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The loss of this batch alone; 0 if nothing is labeled."""
        return self.total / self.count.clamp(min=1e-8)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy over labeled pixels.

    Args:
        class_weights: One factor per class, or ``balanced``. The mean is weighted, as in PyTorch.
        label_smoothing: Share of the target that is spread evenly over all classes.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    class_weights: Weights = None
    label_smoothing: float = 0.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Return the weighted sum over labeled pixels, and the sum of their weights."""
        logits, target, labeled = _resolve_groups(logits, label, ignore_index, groups)
        weights = _weight_tensor(self.class_weights, logits)
        known = target.masked_fill(~labeled, ignore_index)
        total = F.cross_entropy(logits, known, weights, ignore_index=ignore_index, reduction="sum")
        if self.label_smoothing:
            # Classes that were merged into a group have a probability of 0 and take no part in smoothing.
            log_p = F.log_softmax(logits, 1)
            log_p = log_p.masked_fill(log_p.isinf(), 0.0)
            weighted = weights.view(-1, 1, 1) * log_p
            even = -weighted.mean(1) * labeled
            total = (1 - self.label_smoothing) * total + self.label_smoothing * even.sum()
        weight = weights[target] * labeled
        return LossSum(total, weight.sum())


@dataclass(frozen=True)
class Focal:
    """Cross entropy that reduces the influence of easy pixels by the factor ``(1 - p)^gamma``.

    Args:
        gamma: Strength of the reduction; 0 gives cross entropy.
        class_weights: One factor per class, or ``balanced``.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = 2.0
    class_weights: Weights = None
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Return the weighted sum over labeled pixels, and the sum of their weights."""
        logits, target, labeled = _resolve_groups(logits, label, ignore_index, groups)
        log_p = _log_probability(logits, target)
        weight = _weight_tensor(self.class_weights, logits)[target] * labeled
        reduction = (1 - log_p.exp()) ** self.gamma
        loss = weight * reduction * log_p
        return LossSum(-loss.sum(), weight.sum())


@dataclass(frozen=True)
class LogitAdjusted:
    """Cross entropy of ``logits + tau * log(prior)``, which trains the plain logits as if all classes were frequent.

    Args:
        tau: Strength of the adjustment; in theory 1 gives the best mean recall.
        prior: Share of each class; by default it is counted on the training split.
    """

    kind: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = 1.0
    prior: tuple[float, ...] | None = None
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Return the sum over labeled pixels, and their number."""
        assert self.prior is not None, "priors are counted before training"
        prior = torch.tensor(self.prior, device=logits.device, dtype=logits.dtype)
        offset = self.tau * prior.log()
        adjusted = logits + offset.view(-1, 1, 1)
        return CrossEntropy()(adjusted, label, ignore_index, groups)


@dataclass(frozen=True)
class GeneralizedCrossEntropy:
    """``(1 - p^q) / q``, between cross entropy (q near 0) and absolute error (q = 1), less sensitive to wrong labels.

    Args:
        q: A larger value is more robust and learns more slowly.
        class_weights: One factor per class, or ``balanced``.
    """

    kind: Literal["generalized_cross_entropy"] = "generalized_cross_entropy"
    q: float = 0.7
    class_weights: Weights = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.q <= 1:
            raise ValueError(f"q is {self.q}: it must be above 0 and at most 1")

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Return the weighted sum over labeled pixels, and the sum of their weights."""
        logits, target, labeled = _resolve_groups(logits, label, ignore_index, groups)
        log_p = _log_probability(logits, target)
        weight = _weight_tensor(self.class_weights, logits)[target] * labeled
        # expm1 keeps digits where the probability is close to 1.
        loss = weight * -torch.expm1(self.q * log_p) / self.q
        return LossSum(loss.sum(), weight.sum())


@dataclass(frozen=True)
class Dice:
    """One minus the soft dice overlap, averaged over the classes present in a sample, then over samples.

    Args:
        smooth: Added to numerator and denominator, which keeps tiny classes stable.
    """

    kind: Literal["dice"] = "dice"
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Return the sum over samples with labels, and their number."""
        index, present = _tversky_index(logits, label, ignore_index, groups, 0.5, 0.5, self.smooth / 2)
        return _sum_over_samples(1 - index, present)


@dataclass(frozen=True)
class LogCoshDice:
    """The logarithm of the hyperbolic cosine of the dice loss, whose gradient fades smoothly near the optimum.

    Args:
        smooth: As in ``Dice``.
    """

    kind: Literal["log_cosh_dice"] = "log_cosh_dice"
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Return the sum over samples with labels, and their number."""
        index, present = _tversky_index(logits, label, ignore_index, groups, 0.5, 0.5, self.smooth / 2)
        return _sum_over_samples((1 - index).cosh().log(), present)


@dataclass(frozen=True)
class Tversky:
    """One minus the Tversky index (hits over hits and weighted errors), averaged as in ``Dice``.

    Args:
        alpha: Weight of pixels wrongly assigned to a class. With 0.5 for both weights this is ``Dice``.
        beta: Weight of missed pixels of a class. Choose it larger than the other for thin and rare objects.
        smooth: Added to numerator and denominator.
    """

    kind: Literal["tversky"] = "tversky"
    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Return the sum over samples with labels, and their number."""
        index, present = _tversky_index(logits, label, ignore_index, groups, self.alpha, self.beta, self.smooth)
        return _sum_over_samples(1 - index, present)


Loss = CrossEntropy | Focal | LogitAdjusted | GeneralizedCrossEntropy | Dice | LogCoshDice | Tversky


def resolve_weights(loss: Loss, counts: Sequence[float]) -> Loss:
    """Replace ``balanced`` weights and missing priors by numbers from the pixels of each class in the training split.

    A balanced weight is the mean count divided by the count of the class, and 0 for a class without pixels. Priors add
    one pixel to every class.
    """
    if isinstance(loss, LogitAdjusted):
        if loss.prior is not None:
            return loss
        total = sum(counts) + len(counts)
        return replace(loss, prior=tuple((count + 1) / total for count in counts))
    if getattr(loss, "class_weights", None) != "balanced":
        return loss
    present_classes = sum(count > 0 for count in counts)
    mean = sum(counts) / max(1, present_classes)
    weights = []
    for count in counts:
        # Six digits keep the numbers in a checkpoint readable.
        weights.append(float(f"{mean / count:.6g}") if count else 0.0)
    return replace(loss, class_weights=tuple(weights))


def _weight_tensor(weights: Weights, logits: Tensor) -> Tensor:
    if weights is None:
        return logits.new_ones(logits.shape[1])
    assert not isinstance(weights, str), "balanced weights are resolved before training"
    return torch.tensor(weights, device=logits.device, dtype=logits.dtype)


def _log_probability(logits: Logits, target: Label) -> Float[Tensor, "b h w"]:
    return F.log_softmax(logits, 1).gather(1, target.unsqueeze(1)).squeeze(1)


def _resolve_groups(logits: Logits, label: Label, ignore_index: int, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits, a class for every pixel, and a mask of labeled pixels.

    For a label that is a group, the most probable class of the group represents it: its logit becomes that of the
    whole group, and the logits of the other classes of the group become -inf.
    """
    classes = logits.shape[1]
    labeled = label != ignore_index
    target = label.masked_fill(~labeled, 0)
    is_group = target >= classes
    if groups is None or not bool(is_group.any()):
        return logits, target, labeled
    group = (target - classes).clamp(min=0)
    member = groups[group].movedim(-1, 1) & is_group.unsqueeze(1)
    member_logits = logits.masked_fill(~member, -torch.inf)
    target = torch.where(is_group, member_logits.argmax(1), target)
    representative = member & _one_hot(target, classes).bool()
    # Pixels without a group would have only -inf, whose logsumexp has no gradient.
    finite = torch.where(member.any(1, keepdim=True), member_logits, 0.0)
    group_logit = finite.logsumexp(1, keepdim=True)
    others = logits.masked_fill(member, -torch.inf)
    resolved = torch.where(representative, group_logit, others)
    return resolved, target, labeled


def _one_hot(target: Label, classes: int) -> Int[Tensor, "b k h w"]:
    return F.one_hot(target, classes).movedim(-1, 1)


def _tversky_index(
    logits: Logits, label: Label, ignore_index: int, groups: Groups, alpha: float, beta: float, smooth: float
) -> tuple[Tensor, Tensor]:
    """Return the Tversky index of each class of each sample ``(b, k)``, and whether the sample contains the class."""
    logits, target, labeled = _resolve_groups(logits, label, ignore_index, groups)
    labeled = labeled.unsqueeze(1)
    truth = _one_hot(target, logits.shape[1]) * labeled
    prediction = logits.softmax(1) * labeled
    hits = (prediction * truth).sum((2, 3))
    predicted = prediction.sum((2, 3))
    true = truth.sum((2, 3))
    errors = alpha * (predicted - hits) + beta * (true - hits)
    index = (hits + smooth) / (hits + errors + smooth)
    return index, true > 0


def _sum_over_samples(loss: Tensor, present: Tensor) -> LossSum:
    """Average over the classes present in a sample, and sum over samples."""
    class_count = present.sum(1).clamp(min=1)
    per_sample = (loss * present).sum(1) / class_count
    sample_count = present.any(1).sum()
    return LossSum(per_sample.sum(), sample_count.to(loss.dtype))
