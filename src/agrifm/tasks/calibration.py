"""Calibrated probabilities, and prediction sets that contain the true class with a chosen frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from agrifm.errors import counted
from agrifm.nn.probabilities import LEAST_PROBABILITY


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model's probabilities on ground that it was not trained on.

    Args:
        temperature: Divisor of the logits (Guo et al., "On calibration of modern neural networks", ICML 2017).
        thresholds: Smallest probability with which each class enters the prediction set of a pixel (Sadinle et al.,
            "Least ambiguous set-valued classifiers with bounded error levels", JASA 2019).
        coverage: Share of pixels whose prediction set should contain the true class.
        by_class: Whether this share was required of every class separately.
        shared: Names of the classes that use the threshold of all classes together because they have too few samples.
        split: Name of the split, or the list of the chips.
        unit: Unit that counts as exchangeable: whole ``chips`` or single ``pixels``.
        chips: Number of chips.
        pixels: Number of pixels.
        ece: Expected calibration error on these chips before and after calibration.
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
        """Calibrate the probabilities of the model, classes along the first axis. The order of classes stays."""
        return at_temperature(chances, self.temperature)

    def sets(self, chances: np.ndarray) -> np.ndarray:
        """Compute the prediction set of each pixel, which always contains the most probable class.

        Args:
            chances: Calibrated probabilities, classes along the first axis.

        Returns:
            A mask of the same shape, true where a class belongs to the set of a pixel.
        """
        shape = (-1,) + (1,) * (chances.ndim - 1)
        thresholds = np.array(self.thresholds, chances.dtype).reshape(shape)
        return (chances >= thresholds) | (chances == chances.max(0))

    def bands(self, chances: np.ndarray) -> np.ndarray:
        """Return the prediction sets as bands ``(1 + k, h, w)`` uint8: their size, then 1 for each class in the set."""
        sets = self.sets(chances)
        return np.concatenate([sets.sum(0, keepdims=True), sets]).astype(np.uint8)

    def __str__(self) -> str:
        errors = " to ".join(f"{error:.3f}" for error in self.ece)
        per = " of every class" if self.by_class else ""
        return (
            f"temperature {self.temperature:.3f}, sets for {self.coverage:.0%} of the pixels{per}, from "
            f"{counted(self.chips, 'chip')} ({counted(self.pixels, 'pixel')}) of {self.split}; "
            f"calibration error there {errors}"
        )


def at_temperature(chances: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities after dividing the logits by a temperature. Classes lie along the first axis."""
    logits = np.log(np.maximum(chances, LEAST_PROBABILITY)) / temperature
    shares = np.exp(logits - logits.max(0))
    return shares / shares.sum(0)
