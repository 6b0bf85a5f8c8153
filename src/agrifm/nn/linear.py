"""Linear layers that compute float32 on a CPU with oneDNN.

PyTorch calls MKL for float32 there, which is slow on processors that are not Intel's: on an AMD EPYC, oneDNN takes a
half of its time for outputs and for gradients of inputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# ``_linear_pointwise`` is private, but it is the operation that TorchInductor itself emits for linear layers.
# Where a release of PyTorch or a processor does not have it, ``Linear`` falls back to the public operation.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

LEAST_WIDTH = 256  # channels; for fewer, MKL is faster at the gradients of weights


class Linear(nn.Linear):
    """A linear layer with an optional GELU, which inference applies in the same pass."""

    def __init__(self, inputs: int, outputs: int, *, gelu: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.gelu = gelu

    def forward(self, input: Float[Tensor, "*tokens c"]) -> Float[Tensor, "*tokens d"]:
        """Project the last axis."""
        if _suits_onednn(input, self.weight):
            if cpu_inference(input):
                return _product(input, self.weight, self.bias, gelu=self.gelu)
            output = OneDnnLinear.apply(input, self.weight, self.bias)
        else:
            output = super().forward(input)
        return F.gelu(output) if self.gelu else output


class OneDnnLinear(torch.autograd.Function):
    """``torch.nn.functional.linear`` with oneDNN, also for its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Project the last axis."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input, weight and bias."""
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _product(gradient, weight.t())
        if ctx.needs_input_grad[1]:
            inputs = x.flatten(0, -2)
            is_narrow = inputs.shape[1] < LEAST_WIDTH
            of_weight = rows.t() @ inputs if is_narrow else _product(rows.t(), inputs.t())
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias


def cpu_inference(x: Tensor) -> bool:
    """Whether no gradient is recorded, on a CPU, step by step."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    is_float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return _HAS_ONEDNN and is_float32 and x.device.type == "cpu" and not torch.compiler.is_compiling()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Rows of ``x`` times rows of ``weight``."""
    activation = ("gelu", [], "none") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation)
