"""Windowed 3D attention without a mask for every window.

A shifted grid of windows wraps around its axes. Only the last window along each shifted axis then joins tokens that
are not neighbors on the ground. Windows that are cut along the same axes share one mask, so there are at most eight
kinds of windows. ``WindowLayout`` sorts the windows by kind: one gather pads, shifts and splits the grid, a second one
undoes this, and the windows of one kind are a slice. Attention runs through ``scaled_dot_product_attention`` with one
bias per head, which is broadcast over all windows of a kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from agrifm.nn.linear import Linear, cpu_inference

Triple = tuple[int, int, int]

# Numbers of elements. A CPU is fastest, and needs least memory, on portions that stay in its cache.
PORTION_OF_TOKENS = 2**20
PORTION_OF_SCORES = 2**20


def clip_window(size: Triple, window: Triple, *, shifted: bool) -> tuple[Triple, Triple]:
    """Return the window and the shift for a token grid. An axis that fits into the window is not shifted."""
    clipped = list(window)
    shift = [0, 0, 0]
    for axis in range(3):
        if size[axis] <= window[axis]:
            clipped[axis] = size[axis]
        elif shifted:
            shift[axis] = window[axis] // 2
    return cast(Triple, tuple(clipped)), cast(Triple, tuple(shift))


@dataclass(frozen=True)
class WindowGroup:
    """Consecutive windows that the shift cuts in the same way.

    Args:
        count: Number of windows.
        allowed: Mask ``(k, k)``, true where one token may attend to another; None if all pairs may.
    """

    count: int
    allowed: Bool[Tensor, "k k"] | None


@dataclass(frozen=True)
class WindowLayout:
    """Positions of the tokens of a batch of grids after the grids are cut into windows.

    Args:
        window: Tokens of a window along time, rows and columns.
        groups: The windows, one group for each kind.
        tokens: Number of the token at each position of each window; 0 at padded positions.
        padding: Positions without a token.
        positions: Position of each token.
    """

    window: Triple
    groups: tuple[WindowGroup, ...]
    tokens: Int[Tensor, " nk"]
    padding: Int[Tensor, " p"]
    positions: Int[Tensor, " bthw"]

    def split(self, x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "n k c"]:
        """Cut grids into windows of ``k`` tokens, padded with zeros."""
        no_rows = self.padding[:0]
        windows = GatherRows.apply(x.flatten(0, 3), self.tokens, self.padding, self.positions, no_rows)
        return cast(Tensor, windows).unflatten(0, (-1, prod(self.window)))

    def join(self, x: Float[Tensor, "n k c"], size: Triple) -> Float[Tensor, "b t h w c"]:
        """Undo ``split``."""
        no_rows = self.padding[:0]
        grids = GatherRows.apply(x.flatten(0, 1), self.positions, no_rows, self.tokens, self.padding)
        return cast(Tensor, grids).unflatten(0, (-1, *size))


class GatherRows(torch.autograd.Function):
    """Gather rows, each at most once.

    The gradient of such a gather is a gather too. PyTorch would sum over rows instead, which is slow on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rows: Tensor, empty: Tensor, backward_rows: Tensor, backward_empty: Tensor
    ) -> Tensor:
        """Return ``x[rows]`` with zeros in the rows ``empty``. The last two arguments do the same for the gradient."""
        ctx.save_for_backward(backward_rows, backward_empty)
        return x.index_select(0, rows).index_fill_(0, empty, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of ``x``."""
        rows, empty = ctx.saved_tensors
        return gradient.index_select(0, rows).index_fill_(0, empty, 0), None, None, None, None


@lru_cache(maxsize=32)
def lay_out(batch: int, size: Triple, window: Triple, shift: Triple, device: torch.device) -> WindowLayout:
    """Lay out ``batch`` grids in windows that are sorted by the way in which the shift cuts them."""
    # The cached tensors serve training as well, which cannot use tensors that were created in inference mode.
    with torch.inference_mode(False):
        grid = _number_tokens(batch, size, window, shift)
        numbers = []
        groups = []
        for selection, allowed in cuts(window, shift):
            windows = grid[selection].flatten(0, 3)
            numbers.append(windows.flatten())
            groups.append(WindowGroup(len(windows), None if allowed is None else allowed.to(device)))
        tokens = torch.cat(numbers)
        padding = (tokens < 0).nonzero().flatten()
        # Padding has the number -1 and therefore comes first in ascending order.
        positions = tokens.argsort()[len(padding) :]
        return WindowLayout(
            window,
            tuple(groups),
            tokens.clamp(min=0).int().to(device),
            padding.to(device),
            positions.int().to(device),
        )


def _number_tokens(batch: int, size: Triple, window: Triple, shift: Triple) -> Int[Tensor, "nt nh nw b t h w"]:
    """Number the tokens of all grids, window by window; -1 marks padding."""
    frames, rows, columns = size
    t, h, w = window
    numbers = torch.arange(batch * prod(size)).view(batch, *size)
    # ``F.pad`` takes the last axis first.
    padding = (0, -columns % w, 0, -rows % h, 0, -frames % t)
    numbers = F.pad(numbers, padding, value=-1)
    backwards = [-step for step in shift]
    numbers = numbers.roll(backwards, dims=(1, 2, 3))
    return rearrange(numbers, "b (nt t) (nh h) (nw w) -> nt nh nw b t h w", t=t, h=h, w=w)


def cuts(window: Triple, shift: Triple) -> Iterator[tuple[tuple[slice, ...], Tensor | None]]:
    """Iterate over all ways in which a shift cuts windows.

    Yields:
        Slices that select the windows of the grid, and the mask of their tokens (None for windows without a cut).
    """
    choices = [(False, True) if step else (False,) for step in shift]
    for cut in itertools.product(*choices):
        selection = []
        for is_cut, step in zip(cut, shift, strict=True):
            if is_cut:
                selection.append(slice(-1, None))
            elif step:
                selection.append(slice(0, -1))
            else:
                selection.append(slice(0, None))
        yield tuple(selection), _allowed_pairs(window, shift, cut) if any(cut) else None


def _allowed_pairs(window: Triple, shift: Triple, cut: tuple[bool, ...]) -> Bool[Tensor, "k k"]:
    """Return true for all pairs of tokens that lie on the same side of every cut."""
    sides = []
    for length, step, is_cut in zip(window, shift, cut, strict=True):
        is_wrapped = torch.arange(length) >= length - step
        sides.append(is_wrapped & is_cut)
    tokens = torch.stack(torch.meshgrid(*sides, indexing="ij")).flatten(1)
    return (tokens[:, :, None] == tokens[:, None, :]).all(0)


def relative_index(window: Triple) -> Int[Tensor, "k k"]:
    """Return the row of the bias table for every pair of tokens in a full window."""
    # NumPy computes it once, also while a model is built under the meta device, where PyTorch takes far longer.
    return torch.tensor(_relative_index(window))


@lru_cache(maxsize=8)
def _relative_index(window: Triple) -> np.ndarray:
    coordinates = np.indices(window).reshape(3, -1)
    offsets = coordinates[:, :, None] - coordinates[:, None, :]
    # Offsets along an axis of length n run from 1 - n to n - 1; the index counts them from 0.
    frames, rows, columns = offsets + np.array(window)[:, None, None] - 1
    _, h, w = window
    return (frames * (2 * h - 1) + rows) * (2 * w - 1) + columns


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position.

    Args:
        width: Number of channels.
        window: Size of a full window. Smaller grids use a part of its bias table.
        heads: Number of attention heads.
        first_rows: Index a clipped window in the way of the original; see ``bias``.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, window: Triple, heads: int, *, first_rows: bool = False) -> None:
        super().__init__()
        self.window = window
        self.heads = heads
        self.first_rows = first_rows
        rows = prod(2 * length - 1 for length in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def bias(self, window: Triple) -> Float[Tensor, "heads k k"]:
        """Return the bias between all pairs of tokens of a full or clipped window.

        For a clipped window, the original takes the first rows of the full window's index. This mixes up rows and
        columns wherever a grid is narrower than a window. Weights adapt to it, but only for one image size. The option
        ``first_rows`` keeps it for equality with the original; leave it off if a model maps images of another size
        than it was trained on.
        """
        count = prod(window)
        if self.first_rows or window == self.window:
            index = self.relative_position_index[:count, :count]
        else:
            t, h, w = window
            full = torch.arange(prod(self.window), device=self.relative_position_index.device).view(self.window)
            clipped = full[:t, :h, :w].flatten()
            index = self.relative_position_index[clipped[:, None], clipped]
        table = self.relative_position_bias_table[index.flatten()]
        return table.view(count, count, self.heads).permute(2, 0, 1)

    def forward(
        self, x: Float[Tensor, "n k c"], window: Triple, groups: tuple[WindowGroup, ...]
    ) -> Float[Tensor, "n k c"]:
        """Attend within each window. The ``groups`` count all windows in order."""
        bias = self.bias(window)
        if cpu_inference(x):
            limit = max(1, PORTION_OF_TOKENS // x[0].numel())
            outputs = []
            for rows, mask in window_batches(bias, groups, limit):
                outputs.append(self.proj(attend(self._project(x[rows]), mask)))
            return torch.cat(outputs)
        qkv = self._project(x)
        if x.device.type == "cpu":
            return self.proj(MemoryEfficientAttention.apply(qkv, bias, groups))
        return self.proj(attend_groups(qkv, bias, groups))

    def of_grids(self, x: Float[Tensor, "b t h w c"], layout: WindowLayout) -> Float[Tensor, "b t h w c"]:
        """Split, attend and join grids of any number, in operations that every exporter knows.

        Args:
            x: Tokens of all grids.
            layout: The layout of one grid.
        """
        is_token = torch.ones(len(layout.tokens), 1).index_fill(0, layout.padding, 0.0)
        rows = x.flatten(1, 3)[:, layout.tokens.long()] * is_token
        qkv = self.qkv(rows).unflatten(1, (-1, prod(layout.window))).unflatten(-1, (3, self.heads, -1))
        outputs = []
        for windows, mask in window_batches(self.bias(layout.window), layout.groups, qkv.shape[1]):
            q, k, v = qkv[:, windows].permute(3, 0, 1, 4, 2, 5)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            outputs.append(attended.transpose(2, 3).flatten(3))
        grids = self.proj(torch.cat(outputs, 1)).flatten(1, 2)[:, layout.positions.long()]
        return grids.view(x.shape)

    def _project(self, x: Float[Tensor, "n k c"]) -> Float[Tensor, "n k 3 heads d"]:
        return self.qkv(x).unflatten(-1, (3, self.heads, -1))


def in_portions(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "*tokens c"], *, recompute: bool
) -> Float[Tensor, "*tokens c"]:
    """Apply a function that handles every token independently, on a CPU a portion of the tokens at a time.

    Args:
        function: Maps tokens to tokens of the same width.
        x: The tokens.
        recompute: Store no intermediate results for the backward pass.
    """
    if recompute and torch.is_grad_enabled():
        function = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    elif not cpu_inference(x):
        return function(x)
    tokens = x.flatten(0, -2)
    portion = max(1, PORTION_OF_TOKENS // x.shape[-1]) if x.device.type == "cpu" else len(tokens)
    return torch.cat([function(part) for part in tokens.split(portion)]).view(x.shape)


def window_batches(bias: Tensor, groups: tuple[WindowGroup, ...], limit: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of at most ``limit`` windows of one kind, with the bias masked by -inf across cuts."""
    start = 0
    for group in groups:
        mask = bias if group.allowed is None else bias.masked_fill(~group.allowed, float("-inf"))
        end = start + group.count
        for first in range(start, end, limit):
            yield slice(first, min(first + limit, end)), mask
        start = end


def attend(qkv: Float[Tensor, "n k 3 heads d"], mask: Float[Tensor, "heads k k"]) -> Float[Tensor, "n k c"]:
    """Attend with one mask for all windows."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mask = mask.to(q.dtype).unsqueeze(0)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def attend_groups(qkv: Tensor, bias: Tensor, groups: tuple[WindowGroup, ...]) -> Float[Tensor, "n k c"]:
    """Attend with one mask for each kind of windows."""
    outputs = [attend(qkv[rows], mask) for rows, mask in window_batches(bias, groups, len(qkv))]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class MemoryEfficientAttention(torch.autograd.Function):
    """``attend_groups`` without storing the attention probabilities for the backward pass.

    On a CPU, PyTorch stores all of them as soon as the bias needs a gradient: windows x heads x k x k numbers in every
    block. This function computes them again, a portion of the windows at a time (the idea of FlashAttention, Dao et
    al., arXiv 2205.14135). GPUs have kernels for this.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, groups: tuple[WindowGroup, ...]) -> Tensor:
        """Attend, and save inputs and output only."""
        # PyTorch chooses its kernel by ``requires_grad`` even where it records no gradient.
        out = attend_groups(qkv.detach(), bias.detach(), groups)
        ctx.save_for_backward(qkv, bias, out)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of ``qkv`` and ``bias``."""
        qkv, bias, out = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        grad_bias = torch.zeros_like(bias, dtype=_at_least_float32(bias.dtype))
        limit = max(1, PORTION_OF_SCORES // bias.numel())
        # The caller may run the backward pass under autocast, which would cast the saved tensors once more.
        with torch.autocast("cpu", enabled=False):
            for rows, mask in window_batches(bias, ctx.groups, limit):
                grad_parts, grad_scores = attend_backward(qkv[rows], mask, out[rows], gradient[rows])
                for i, grad_part in enumerate(grad_parts):
                    grad_qkv[rows, :, i] = grad_part.transpose(1, 2)
                grad_bias += grad_scores.sum(0)
        return grad_qkv, grad_bias.to(bias.dtype), None


def attend_backward(qkv: Tensor, mask: Tensor, out: Tensor, gradient: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Differentiate ``attend``.

    Returns:
        The gradients of q, k and v, each ``(n, heads, k, d)``, and of the biased scores, ``(n, heads, k, k)``.
    """
    dtype = _at_least_float32(qkv.dtype)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).to(dtype)
    heads_and_depth = (q.shape[1], q.shape[3])
    out = out.to(dtype).unflatten(2, heads_and_depth).transpose(1, 2)
    gradient = gradient.to(dtype).unflatten(2, heads_and_depth).transpose(1, 2)
    scale = q.shape[-1] ** -0.5
    q = q * scale
    probabilities = (q @ k.transpose(-1, -2)).add_(mask).softmax(-1)
    grad_scores = gradient @ v.transpose(-1, -2)
    # The derivative of softmax subtracts the sum of gradient times probability, which equals that of gradient * out.
    grad_scores.sub_((gradient * out).sum(-1, keepdim=True)).mul_(probabilities)
    grad_q = (grad_scores @ k) * scale
    grad_k = grad_scores.transpose(-1, -2) @ q
    grad_v = probabilities.transpose(-1, -2) @ gradient
    return (grad_q, grad_k, grad_v), grad_scores


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
