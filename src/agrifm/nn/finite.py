"""The check of what a model returns."""

from __future__ import annotations

import torch
from torch import Tensor

from agrifm.errors import InputError
from agrifm.sample import Batch


def refuse_not_finite_output(output: Tensor, batch: Batch) -> None:
    """Refuse model output that is not finite, which would count as class 0.

    Raises:
        InputError: If the output of a sample is not finite; it names the sample.
    """
    finite = torch.isfinite(output)
    if bool(finite.all()):
        return
    for name, sample_finite in zip(batch.names, finite, strict=True):
        pixels = int((~sample_finite.all(0)).sum())
        if pixels:
            raise InputError(
                f"sample {name}",
                found=f"output of the model that is not finite on {pixels} pixels",
                expected="finite numbers: any others would count as the first class",
                repair="look for impossible values with 'agrifm data check'; if all samples fail, the weights are "
                "damaged, or training needs a lower training.learning_rate or training.precision 32-true.",
            )
