"""Probabilities that mean what they say, and sets of classes that hold the true one as often as was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

TINY = 1e-12  # least probability whose logarithm is taken


@dataclass(frozen=True)
class Calibration:
    """What was learned about a model's probabilities on ground that it was not trained on.

    Args:
        temperature: Logits are divided by it (Guo et al., "On calibration of modern neural networks", ICML 2017).
        thresholds: Thresholds for each class the least probability with which it belongs to a pixel's set
            (Sadinle et al., "Least ambiguous set-valued classifiers with bounded error levels", JASA 2019).
        coverage: Share of pixels whose set should hold the true class.
        by_class: By class that share was asked for in every class alone.
        shared: Names of the classes that have the threshold of all together, for want of samples.
        split: Name or list of the chips.
        unit: What counts as exchangeable: whole ``chips``, or single ``pixels``.
        chips, pixels: How many there were.
        ece: Expected calibration error on them before and after.
    """

    temperature: float
    thresholds: tuple[float, ...]
    coverage: float
    by_class: bool
    shared: tuple[str, ...]
    split: str
    unit: Literal["chips", "pixels"]
    chips: int
    pixels: int
    ece: tuple[float, float]

    def probabilities(self, chances: np.ndarray) -> np.ndarray:
        """Calibrated probabilities from the model's own, classes along the first axis; their order stays."""
        return at_temperature(chances, self.temperature)

    def sets(self, chances: np.ndarray) -> np.ndarray:
        """Which classes belong to the set of each pixel, from calibrated probabilities; the most probable always does.

        Args:
            chances: Classes along the first axis.

        Returns:
            Bool, of the same shape.
        """
        least = np.array(self.thresholds, chances.dtype).reshape(-1, *[1] * (chances.ndim - 1))
        return (chances >= least) | (chances == chances.max(0))

    def bands(self, chances: np.ndarray) -> np.ndarray:
        """The sets as bands ``(1 + k, h, w)`` uint8: how many classes, then 1 for each that belongs to the set."""
        sets = self.sets(chances)
        return np.concatenate([sets.sum(0, keepdims=True), sets]).astype(np.uint8)

    def __str__(self) -> str:
        errors = " to ".join(f"{error:.3f}" for error in self.ece)
        per = " of every class" if self.by_class else ""
        return (
            f"temperature {self.temperature:.3f}, sets for {self.coverage:.0%} of the pixels{per}, from {self.chips} "
            f"chips ({self.pixels:,} pixels) of {self.split}; calibration error there {errors}"
        )


def at_temperature(chances: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as if the logits, classes along the first axis, had been divided by a temperature."""
    logits = np.log(np.maximum(chances, TINY)) / temperature
    shares = np.exp(logits - logits.max(0))
    return shares / shares.sum(0)
