"""Losses for segmentation. Each returns a sum and a count, so that a mean over processes is exact.

Sources: Lin et al., "Focal Loss", ICCV 2017; Milletari et al., "V-Net" (dice), 3DV 2016;
Szegedy et al., CVPR 2016 (label smoothing); Salehi et al., MLMI 2017 (Tversky); Jadon, CIBCB 2020 (log-cosh dice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Logits = Float[Tensor, "b k h w"]
Label = Int[Tensor, "b h w"]


class LossSum(NamedTuple):
    """A sum over units and how many (or how heavy) the units were; the loss is their ratio."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The loss of this batch alone; 0 where nothing was labeled."""
        return self.total / self.count.clamp(min=1e-8)


def _weights(weights: tuple[float, ...] | None, logits: Tensor) -> Tensor:
    if weights is None:
        return logits.new_ones(logits.shape[1])
    return torch.tensor(weights, device=logits.device, dtype=logits.dtype)


def _safe(label: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    labeled = label != ignore_index
    return label.masked_fill(~labeled, 0), labeled


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy over labeled pixels.

    Args:
        class_weights: one factor per class; the mean is over weights, as in PyTorch.
        label_smoothing: share of the target spread evenly over all classes.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int) -> LossSum:
        """Sum over labeled pixels of the weighted cross entropy, and the sum of their weights."""
        weights = _weights(self.class_weights, logits)
        target, labeled = _safe(label, ignore_index)
        total = F.cross_entropy(
            logits, label, weights, ignore_index=ignore_index, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return LossSum(total, (weights[target] * labeled).sum())


@dataclass(frozen=True)
class Focal:
    """Cross entropy that counts easy pixels less: times ``(1 - p)^gamma``.

    Args:
        gamma: 0 gives cross entropy.
        class_weights: one factor per class.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = 2.0
    class_weights: tuple[float, ...] | None = None
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int) -> LossSum:
        """Sum over labeled pixels, and the sum of their weights."""
        weights = _weights(self.class_weights, logits)
        target, labeled = _safe(label, ignore_index)
        log_p = F.log_softmax(logits, 1).gather(1, target.unsqueeze(1)).squeeze(1)
        weight = weights[target] * labeled
        return LossSum(-(weight * (1 - log_p.exp()) ** self.gamma * log_p).sum(), weight.sum())


@dataclass(frozen=True)
class Dice:
    """One minus the soft dice overlap, averaged over the classes that a sample holds, then over samples.

    Args:
        smooth: added to both sides of the ratio; keeps tiny classes stable.
    """

    kind: Literal["dice"] = "dice"
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int) -> LossSum:
        """Sum over samples that hold labels, and their number."""
        index, present = _overlap(logits, label, ignore_index, 0.5, 0.5, self.smooth / 2)
        return _over_samples(1 - index, present)


@dataclass(frozen=True)
class LogCoshDice:
    """The logarithm of the hyperbolic cosine of the dice loss: smooth, with a gradient that fades near the optimum.

    Args:
        smooth: as in dice.
    """

    kind: Literal["log_cosh_dice"] = "log_cosh_dice"
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int) -> LossSum:
        """Sum over samples that hold labels, and their number."""
        index, present = _overlap(logits, label, ignore_index, 0.5, 0.5, self.smooth / 2)
        return _over_samples((1 - index).cosh().log(), present)


@dataclass(frozen=True)
class Tversky:
    """One minus the Tversky index, averaged as dice: hits over hits and weighted errors.

    Args:
        false_alarms: weight of pixels wrongly given to a class; both weights 0.5 give dice.
        misses: weight of a class's pixels that were missed; larger than the other for thin, rare things.
        smooth: added to both sides of the ratio.
    """

    kind: Literal["tversky"] = "tversky"
    false_alarms: float = 0.3
    misses: float = 0.7
    smooth: float = 1.0
    weight: float = 1.0

    def __call__(self, logits: Logits, label: Label, ignore_index: int) -> LossSum:
        """Sum over samples that hold labels, and their number."""
        index, present = _overlap(logits, label, ignore_index, self.false_alarms, self.misses, self.smooth)
        return _over_samples(1 - index, present)


def _overlap(
    logits: Tensor, label: Tensor, ignore_index: int, false_alarms: float, misses: float, smooth: float
) -> tuple[Tensor, Tensor]:
    """Tversky index of each class of each sample ``(b, k)``, and whether the sample holds the class."""
    target, labeled = _safe(label, ignore_index)
    truth = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2) * labeled.unsqueeze(1)
    guess = logits.softmax(1) * labeled.unsqueeze(1)
    hit, guessed, true = (x.sum((2, 3)) for x in (guess * truth, guess, truth))
    wrong = false_alarms * (guessed - hit) + misses * (true - hit)
    return (hit + smooth) / (hit + wrong + smooth), true > 0


def _over_samples(loss: Tensor, present: Tensor) -> LossSum:
    """Mean over the classes that a sample holds, summed over samples."""
    per_sample = (loss * present).sum(1) / present.sum(1).clamp(min=1)
    return LossSum(per_sample.sum(), present.any(1).sum().to(loss.dtype))


Loss = CrossEntropy | Focal | Dice | LogCoshDice | Tversky
