"""Several looks at the same ground, averaged: by several models, mirrored and turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agrifm.sample import Batch

AS_IT_IS = (0, False)
SYMMETRIES = tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4))  # of the square
TINY = 1e-12


class TestTimeEnsemble(nn.Module):
    """Mean probabilities of models, each looking at the ground once or in the eight orientations of a square.

    Called like one model. What it returns is the logarithm of the mean: softmax gives the mean back.

    Args:
        models: With the same classes.
        flips: Look in all orientations.
    """

    def __init__(self, models: Sequence[nn.Module], *, flips: bool) -> None:
        super().__init__()
        self.models, self.orientations = nn.ModuleList(models), SYMMETRIES if flips else (AS_IT_IS,)

    def forward(self, batch: Batch) -> Float[Tensor, "b k y x"]:
        """Return the map of every sample on the grid of the labels, or of the finest sensor."""
        total, count = torch.zeros(()), 0
        for quarters, mirrored in self.orientations:
            seen = orient(batch, quarters, mirrored)
            for model in self.models:
                chances = torch.rot90(torch.softmax(model(seen).float(), 1), -quarters, (-2, -1))
                total, count = total.to(chances.device) + (chances.flip(-1) if mirrored else chances), count + 1
        return (total / count).clamp(min=TINY).log()


def orient(batch: Batch, quarters: int, mirrored: bool) -> Batch:
    """The batch mirrored left to right, then turned counterclockwise by quarters of a circle."""

    def turn(x: Tensor) -> Tensor:
        return torch.rot90(x.flip(-1) if mirrored else x, quarters, (-2, -1))

    return replace(
        batch,
        images={name: turn(image) for name, image in batch.images.items()},
        valid={name: turn(mask) for name, mask in batch.valid.items()},
        label=None if batch.label is None else turn(batch.label),
    )
