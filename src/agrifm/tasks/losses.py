"""Losses for segmentation. Each returns a sum and a count, so that a mean over processes is exact.

Sources: Lin et al., "Focal Loss", ICCV 2017; Milletari et al., "V-Net" (dice), 3DV 2016;
Szegedy et al., CVPR 2016 (label smoothing); Menon et al., "Long-tail learning via logit adjustment", ICLR 2021;
Zhang and Sabuncu, "Generalized Cross Entropy Loss", NeurIPS 2018; Salehi et al., MLMI 2017 (Tversky); Jadon, CIBCB 2020
(log-cosh dice).

A label from k on denotes a group of classes, ``groups[label - k]``, of which one unknown class is right. The
probability of a group is the sum over its classes. Other properties of a class, such as its weight, are those of its
likeliest class.
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
Weights = tuple[float, ...] | Literal["balanced"] | None  # balanced: settled from the counts of the training split


class LossSum(NamedTuple):
    """A sum over units and the number or weight of the units; the loss is their ratio."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """Loss of this batch alone; 0 without labels."""
        return self.total / self.count.clamp(min=1e-8)


def _weights(weights: Weights, logits: Tensor) -> Tensor:
    if weights is None:
        return logits.new_ones(logits.shape[1])
    assert not isinstance(weights, str), "settled before training"
    return torch.tensor(weights, device=logits.device, dtype=logits.dtype)


def _settled(logits: Logits, label: Label, ignore_index: int, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
    """Replace groups by classes: returns logits, a class for every pixel, and the mask of labeled pixels.

    A group is represented by its likeliest class, whose logit becomes that of all of its classes; the logits of the
    others become -inf.
    """
    labeled = label != ignore_index
    target = label.masked_fill(~labeled, 0)
    k = logits.shape[1]
    if groups is None or not bool((target >= k).any()):
        return logits, target, labeled
    member = groups[(target - k).clamp(min=0)].movedim(-1, 1) & (target >= k).unsqueeze(1)
    inside = logits.masked_fill(~member, -torch.inf)
    first = inside.argmax(1)
    target = torch.where(target >= k, first, target)
    chosen = member & (F.one_hot(target, k).movedim(-1, 1) > 0)
    total = torch.where(member.any(1, keepdim=True), inside, 0.0).logsumexp(1, keepdim=True)
    return torch.where(chosen, total, logits.masked_fill(member, -torch.inf)), target, labeled


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy over labeled pixels.

    Args:
        class_weights: One factor per class, or ``balanced``; the mean is over weights, as in PyTorch.
        label_smoothing: Share of the target spread evenly over all classes.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    class_weights: Weights = None
    label_smoothing: float = 0.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Sum over labeled pixels of the weighted cross entropy, and the sum of their weights."""
        logits, target, labeled = _settled(logits, label, ignore_index, groups)
        weights = _weights(self.class_weights, logits)
        known = target.masked_fill(~labeled, ignore_index)
        total = F.cross_entropy(logits, known, weights, ignore_index=ignore_index, reduction="sum")
        if self.label_smoothing:
            log_p = F.log_softmax(logits, 1)
            even = -(weights.view(-1, 1, 1) * log_p.masked_fill(log_p.isinf(), 0.0)).mean(1) * labeled
            total = (1 - self.label_smoothing) * total + self.label_smoothing * even.sum()
        return LossSum(total, (weights[target] * labeled).sum())


@dataclass(frozen=True)
class Focal:
    """Cross entropy that counts easy pixels less: times ``(1 - p)^gamma``.

    Args:
        gamma: 0 gives cross entropy.
        class_weights: One factor per class, or ``balanced``.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = 2.0
    class_weights: Weights = None
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Sum over labeled pixels, and the sum of their weights."""
        logits, target, labeled = _settled(logits, label, ignore_index, groups)
        log_p = F.log_softmax(logits, 1).gather(1, target.unsqueeze(1)).squeeze(1)
        weight = _weights(self.class_weights, logits)[target] * labeled
        return LossSum(-(weight * (1 - log_p.exp()) ** self.gamma * log_p).sum(), weight.sum())


@dataclass(frozen=True)
class LogitAdjusted:
    """Cross entropy of ``logits + tau * log(prior)``, so that plain logits treat rare classes as if all were frequent.

    Args:
        tau: How far; 1 is the value for which mean recall is best in theory.
        prior: Share of each class; left out, it is counted on the training split.
    """

    kind: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = 1.0
    prior: tuple[float, ...] | None = None
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Sum over labeled pixels, and their number."""
        assert self.prior is not None, "settled before training"
        offset = self.tau * torch.tensor(self.prior, device=logits.device, dtype=logits.dtype).log()
        return CrossEntropy()(logits + offset.view(-1, 1, 1), label, ignore_index, groups)


@dataclass(frozen=True)
class GeneralizedCrossEntropy:
    """``(1 - p^q) / q``, between cross entropy (q near 0) and absolute error (q = 1), which wrong labels mislead less.

    Args:
        q: Larger is more robust and slower to learn.
        class_weights: One factor per class, or ``balanced``.
    """

    kind: Literal["generalized_cross_entropy"] = "generalized_cross_entropy"
    q: float = 0.7
    class_weights: Weights = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.q <= 1:
            raise ValueError(f"q is {self.q}: above 0 and at most 1 is possible")

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Sum over labeled pixels, and the sum of their weights."""
        logits, target, labeled = _settled(logits, label, ignore_index, groups)
        log_p = F.log_softmax(logits, 1).gather(1, target.unsqueeze(1)).squeeze(1)
        weight = _weights(self.class_weights, logits)[target] * labeled
        return LossSum((weight * -torch.expm1(self.q * log_p) / self.q).sum(), weight.sum())


@dataclass(frozen=True)
class Dice:
    """One minus the soft dice overlap, averaged over the classes that a sample holds, then over samples.

    Args:
        smooth: Added to both sides of the ratio; keeps tiny classes stable.
    """

    kind: Literal["dice"] = "dice"
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Sum over samples that hold labels, and their number."""
        index, present = _overlap(logits, label, ignore_index, groups, 0.5, 0.5, self.smooth / 2)
        return _over_samples(1 - index, present)


@dataclass(frozen=True)
class LogCoshDice:
    """Logarithm of the hyperbolic cosine of the dice loss: smooth, with a gradient that vanishes near the optimum.

    Args:
        smooth: As in dice.
    """

    kind: Literal["log_cosh_dice"] = "log_cosh_dice"
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Sum over samples that hold labels, and their number."""
        index, present = _overlap(logits, label, ignore_index, groups, 0.5, 0.5, self.smooth / 2)
        return _over_samples((1 - index).cosh().log(), present)


@dataclass(frozen=True)
class Tversky:
    """One minus the Tversky index, averaged as dice: hits over hits and weighted errors.

    Args:
        alpha: Weight of pixels wrongly given to a class; both weights 0.5 give dice.
        beta: Weight of a class's pixels that were missed; larger than the other for thin, rare things.
        smooth: Added to both sides of the ratio.
    """

    kind: Literal["tversky"] = "tversky"
    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int, groups: Groups = None) -> LossSum:
        """Sum over samples that hold labels, and their number."""
        index, present = _overlap(logits, label, ignore_index, groups, self.alpha, self.beta, self.smooth)
        return _over_samples(1 - index, present)


def _overlap(
    logits: Logits, label: Label, ignore_index: int, groups: Groups, alpha: float, beta: float, smooth: float
) -> tuple[Tensor, Tensor]:
    """Tversky index of each class of each sample ``(b, k)``, and whether the class occurs in the sample."""
    logits, target, labeled = _settled(logits, label, ignore_index, groups)
    truth = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2) * labeled.unsqueeze(1)
    probability = logits.softmax(1) * labeled.unsqueeze(1)
    hits = (probability * truth).sum((2, 3))
    predicted = probability.sum((2, 3))
    actual = truth.sum((2, 3))
    errors = alpha * (predicted - hits) + beta * (actual - hits)
    return (hits + smooth) / (hits + errors + smooth), actual > 0


def _over_samples(loss: Tensor, present: Tensor) -> LossSum:
    """Mean over the classes that occur in a sample, summed over samples."""
    per_sample = (loss * present).sum(1) / present.sum(1).clamp(min=1)
    return LossSum(per_sample.sum(), present.any(1).sum().to(loss.dtype))


Loss = CrossEntropy | Focal | LogitAdjusted | GeneralizedCrossEntropy | Dice | LogCoshDice | Tversky


def settled(loss: Loss, counts: Sequence[float]) -> Loss:
    """Derive weights and priors of a loss from the pixels of each class in the training split.

    A balanced weight is the mean count divided by that of the class; a class without pixels has no weight. Priors add
    one pixel to every class.
    """
    if isinstance(loss, LogitAdjusted):
        if loss.prior is not None:
            return loss
        total = sum(counts) + len(counts)
        return replace(loss, prior=tuple((count + 1) / total for count in counts))
    if getattr(loss, "class_weights", None) != "balanced":
        return loss
    present = [count for count in counts if count > 0]
    mean = sum(counts) / max(1, len(present))
    weights = []
    for count in counts:
        # Six digits are enough, and keep the configuration of a checkpoint readable.
        weights.append(float(f"{mean / count:.6g}") if count else 0.0)
    return replace(loss, class_weights=tuple(weights))
