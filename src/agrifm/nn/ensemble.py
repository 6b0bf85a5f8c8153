"""Test-time augmentation and ensembles: the mean of several predictions for the same ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agrifm.nn.probabilities import LEAST_PROBABILITY
from agrifm.sample import Batch

# Orientations are (quarter turns, mirrored).
UNCHANGED = (0, False)
SYMMETRIES = (
    (0, False), (1, False), (2, False), (3, False),
    (0, True), (1, True), (2, True), (3, True),
)  # fmt: skip


class TestTimeEnsemble(nn.Module):
    """Average the probabilities of several models, optionally over the eight symmetries of a square.

    It is called like a single model and returns the logarithm of the mean probabilities, whose softmax is the mean.

    Args:
        models: Models with the same classes.
        flips: Predict all eight orientations of a batch (test-time augmentation).
    """

    def __init__(self, models: Sequence[nn.Module], *, flips: bool) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.orientations = SYMMETRIES if flips else (UNCHANGED,)

    def forward(self, batch: Batch) -> Float[Tensor, "b k y x"]:
        """Return the map of every sample on the grid of the labels, or of the finest sensor."""
        predictions = len(self.orientations) * len(self.models)
        total: Tensor | float = 0.0
        for quarter_turns, mirrored in self.orientations:
            oriented = orient(batch, quarter_turns, mirrored)
            for model in self.models:
                probabilities = torch.softmax(model(oriented).float(), 1)
                # Undo the two steps of ``orient`` in reverse order.
                probabilities = torch.rot90(probabilities, -quarter_turns, (-2, -1))
                if mirrored:
                    probabilities = probabilities.flip(-1)
                total = total + probabilities
        mean = torch.as_tensor(total) / predictions
        return mean.clamp(min=LEAST_PROBABILITY).log()


def mean_of_classes(
    first: Float[Tensor, "b k y x"], second: Float[Tensor, "b k y x"], share: float
) -> Float[Tensor, "b k y x"]:
    """Return the logarithm of the mean of the probabilities of classes in two outputs; ``share`` is of the second."""
    mean = torch.lerp(torch.softmax(first.float(), 1), torch.softmax(second.float(), 1), share)
    return mean.clamp(min=LEAST_PROBABILITY).log()


class Blend(nn.Module):
    """Weighted mean of two models; it is called like one of them.

    Args:
        first: A model, which returns logits.
        second: Another model with the same outputs.
        share: Weight of the second model, from 0 to 1.
        mean: Computes the mean of two outputs, of which the second has this weight.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        share: float,
        mean: Callable[[Tensor, Tensor, float], Tensor] = mean_of_classes,
    ) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.share = share
        self.mean = mean

    def forward(self, batch: Batch) -> Float[Tensor, "b k y x"]:
        """Return the mean on the grid of the labels or the finest sensor."""
        return self.mean(self.first(batch), self.second(batch), self.share)


def orient(batch: Batch, quarter_turns: int, mirrored: bool) -> Batch:
    """Mirror a batch from left to right if asked, then turn it counterclockwise."""

    def transform(x: Tensor) -> Tensor:
        if mirrored:
            x = x.flip(-1)
        return torch.rot90(x, quarter_turns, (-2, -1))

    return replace(
        batch,
        images={name: transform(image) for name, image in batch.images.items()},
        valid={name: transform(mask) for name, mask in batch.valid.items()},
        label=None if batch.label is None else transform(batch.label),
    )
