"""Attention inside 3D windows, without ever building a mask per window.

A shifted window grid wraps around, so only the last window along each shifted axis joins tokens that are
not neighbors on the ground. Windows cut along the same axes share one mask; there are at most eight kinds.
They are laid out kind by kind: one gather pads, shifts and splits, another one undoes it, and the windows of
a kind are a slice. Everything goes through ``scaled_dot_product_attention`` with one bias per head, broadcast
over windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Triple = tuple[int, int, int]

# A CPU is fastest, and smallest, on portions that stay in its cache; these are numbers of elements.
PORTION_OF_TOKENS = 2**20
PORTION_OF_SCORES = 2**20
# The operation that TorchInductor itself emits for linear layers; where a release lacks it, the plain one serves.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def clip_window(size: Triple, window: Triple, *, shifted: bool) -> tuple[Triple, Triple]:
    """Window and shift for a token grid; an axis that fits into the window is not shifted."""
    fits = [n <= w for n, w in zip(size, window, strict=True)]
    clipped = tuple(n if fit else w for n, w, fit in zip(size, window, fits, strict=True))
    shift = tuple(0 if fit or not shifted else w // 2 for w, fit in zip(window, fits, strict=True))
    return cast(Triple, clipped), cast(Triple, shift)


@dataclass(frozen=True)
class Piece:
    """Consecutive windows that the shift cut in the same way.

    Args:
        windows: How many.
        allowed: ``(k, k)`` true where two tokens may see each other, or None where all may.
    """

    windows: int
    allowed: Bool[Tensor, "k k"] | None


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch of grids stand once they are cut into windows.

    Args:
        window: Tokens of a window along time, rows, columns.
        pieces: The windows, kind by kind.
        tokens: Number of the token at each place of each window; 0 where there is none.
        padding: Places without a token.
        places: Where each token went.
    """

    window: Triple
    pieces: tuple[Piece, ...]
    tokens: Int[Tensor, " nk"]
    padding: Int[Tensor, " p"]
    places: Int[Tensor, " bthw"]

    def split(self, x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "n k c"]:
        """Cut grids into windows of ``k`` tokens; padding is zero."""
        windows = Gather.apply(x.flatten(0, 3), self.tokens, self.padding, self.places, self.padding[:0])
        return cast(Tensor, windows).unflatten(0, (-1, prod(self.window)))

    def join(self, x: Float[Tensor, "n k c"], size: Triple) -> Float[Tensor, "b t h w c"]:
        """Undo ``split``."""
        grids = Gather.apply(x.flatten(0, 1), self.places, self.padding[:0], self.tokens, self.padding)
        return cast(Tensor, grids).unflatten(0, (-1, *size))


class Gather(torch.autograd.Function):
    """Take each row at most once. Then the gradient is a gather too; the usual sum over rows is slow on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, empty: Tensor, back_rows: Tensor, back_empty: Tensor) -> Tensor:
        """Return ``x[rows]`` with zeros in the rows ``empty``; the other two say the same of the gradient."""
        ctx.save_for_backward(back_rows, back_empty)
        return x[rows].index_fill_(0, empty, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of ``x``."""
        rows, empty = ctx.saved_tensors
        return gradient[rows].index_fill_(0, empty, 0), None, None, None, None


@lru_cache(maxsize=32)
def lay_out(batch: int, size: Triple, window: Triple, shift: Triple, device: torch.device) -> Layout:
    """Number the tokens of ``batch`` grids, pad to whole windows, shift, and sort windows by their cuts."""
    # What is remembered here serves training too, for which tensors made in inference mode are no use.
    with torch.inference_mode(False):
        numbers = torch.arange(batch * prod(size)).view(batch, *size)
        t, h, w = (-n % m for n, m in zip(size, window, strict=True))
        numbers = F.pad(numbers, (0, w, 0, h, 0, t), value=-1).roll([-s for s in shift], dims=(1, 2, 3))
        for axis in (3, 2, 1):
            numbers = numbers.unflatten(axis, (-1, window[axis - 1]))
        grid = numbers.permute(1, 3, 5, 0, 2, 4, 6)
        kinds = [(grid[chosen].flatten(0, 3), allowed) for chosen, allowed in cuts(window, shift)]
        tokens = torch.cat([found.flatten() for found, _ in kinds])
        padding = (tokens < 0).nonzero().flatten()
        return Layout(
            window,
            tuple(Piece(len(found), None if allowed is None else allowed.to(device)) for found, allowed in kinds),
            tokens.clamp(min=0).int().to(device),
            padding.to(device),
            tokens.argsort()[len(padding) :].int().to(device),
        )


def cuts(window: Triple, shift: Triple) -> Iterator[tuple[tuple[slice, ...], Tensor | None]]:
    """Yield every way in which a shift cuts windows: which of the grid, and who may see whom in them."""
    for cut in itertools.product(*[(False, True) if s else (False,) for s in shift]):
        sides = [slice(-1 if c else 0, None if c or not s else -1) for c, s in zip(cut, shift, strict=True)]
        yield tuple(sides), _allowed(window, shift, cut) if any(cut) else None


def _allowed(window: Triple, shift: Triple, cut: tuple[bool, ...]) -> Bool[Tensor, "k k"]:
    sides = [(torch.arange(n) >= n - s) & c for n, s, c in zip(window, shift, cut, strict=True)]
    tokens = torch.stack(torch.meshgrid(*sides, indexing="ij")).flatten(1)
    return (tokens[:, :, None] == tokens[:, None, :]).all(0)


def relative_index(window: Triple) -> Tensor:
    """Row of the bias table for every pair of tokens in a full window: ``(k, k)``."""
    axes = torch.meshgrid(*[torch.arange(n) for n in window], indexing="ij")
    coordinates = torch.stack(axes).flatten(1)
    offsets = coordinates[:, :, None] - coordinates[:, None, :]
    _, h, w = window
    t, rows, columns = (offset + n - 1 for offset, n in zip(offsets, window, strict=True))
    return (t * (2 * h - 1) + rows) * (2 * w - 1) + columns


class WindowAttention(nn.Module):
    """Multi-head attention within windows with a learned bias per relative position.

    Args:
        width: Channels.
        window: Full window size; smaller grids use a part of its bias table.
        heads: Attention heads.
        first_rows: Index a clipped window as the original does, see ``bias``.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, window: Triple, heads: int, *, first_rows: bool = False) -> None:
        super().__init__()
        self.window, self.heads, self.first_rows = window, heads, first_rows
        self.relative_position_bias_table = nn.Parameter(torch.empty(prod(2 * n - 1 for n in window), heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def bias(self, window: Triple) -> Float[Tensor, "heads k k"]:
        """Bias of every head between all pairs of tokens of a window, full or clipped.

        The original takes the first rows of the full window's index for a clipped one, which scrambles rows and
        columns wherever a grid is narrower than a window. Weights learn that, but for one size of image only: it is
        kept for equality with the original, and off where a model must map at another size than it was trained at.
        """
        count = prod(window)
        if self.first_rows or window == self.window:
            index = self.relative_position_index[:count, :count]
        else:
            t, h, w = window
            within = torch.arange(prod(self.window), device=self.relative_position_index.device).view(self.window)
            chosen = within[:t, :h, :w].flatten()
            index = self.relative_position_index[chosen[:, None], chosen]
        table = self.relative_position_bias_table[index.flatten()]
        return table.view(count, count, self.heads).permute(2, 0, 1)

    def forward(self, x: Float[Tensor, "n k c"], window: Triple, pieces: tuple[Piece, ...]) -> Float[Tensor, "n k c"]:
        """Attend within each window; ``pieces`` counts all of them, in order."""
        bias = self.bias(window)
        if _cpu_inference(x):
            portion = max(1, PORTION_OF_TOKENS // x[0].numel())
            parts = [self.proj(attend(self._project(x[rows]), mask)) for rows, mask in masks(bias, pieces, portion)]
            return torch.cat(parts)
        qkv = self._project(x)
        if x.device.type == "cpu":
            return self.proj(FrugalAttention.apply(qkv, bias, pieces))
        return self.proj(attend_pieces(qkv, bias, pieces))

    def _project(self, x: Float[Tensor, "n k c"]) -> Float[Tensor, "n k 3 heads d"]:
        return self.qkv(x).unflatten(-1, (3, self.heads, -1))


def in_portions(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "*tokens c"], *, recompute: bool
) -> Float[Tensor, "*tokens c"]:
    """Apply a function that treats every token alone.

    Args:
        function: Function to tokens from tokens of the same width.
        x: The tokens.
        recompute: Keep nothing inside of the function for the backward pass.
    """
    if recompute and torch.is_grad_enabled():
        function = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    elif not _cpu_inference(x):
        return function(x)
    tokens = x.flatten(0, -2)
    portion = max(1, PORTION_OF_TOKENS // x.shape[-1]) if x.device.type == "cpu" else len(tokens)
    return torch.cat([function(part) for part in tokens.split(portion)]).view(x.shape)


def _cpu_inference(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Linear(nn.Linear):
    """A linear layer, with GELU behind it or not.

    On a CPU without gradients and in float32 it calls oneDNN, which is a quarter to a third faster than the library
    PyTorch asks by default where the processor is not Intel's, and applies GELU on the way.
    """

    def __init__(self, inputs: int, outputs: int, *, gelu: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.gelu = gelu

    def forward(self, input: Float[Tensor, "*tokens c"]) -> Float[Tensor, "*tokens d"]:
        """Project the last axis."""
        plain = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if plain and _cpu_inference(input) and _HAS_ONEDNN:
            activation = ("gelu", [], "none") if self.gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, *activation)
        input = super().forward(input)
        return F.gelu(input) if self.gelu else input


def masks(bias: Tensor, pieces: tuple[Piece, ...], portion: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of at most ``portion`` windows of one kind, and the bias with -inf where the shift cut."""
    start = 0
    for piece in pieces:
        mask = bias if piece.allowed is None else bias.masked_fill(~piece.allowed, float("-inf"))
        end = start + piece.windows
        for first in range(start, end, portion):
            yield slice(first, min(first + portion, end)), mask
        start = end


def attend(qkv: Float[Tensor, "n k 3 heads d"], mask: Float[Tensor, "heads k k"]) -> Float[Tensor, "n k c"]:
    """Attention with one mask for all windows."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype).unsqueeze(0)).transpose(1, 2).flatten(2)


def attend_pieces(qkv: Tensor, bias: Tensor, pieces: tuple[Piece, ...]) -> Float[Tensor, "n k c"]:
    """Attention with one mask per kind of windows."""
    parts = [attend(qkv[rows], mask) for rows, mask in masks(bias, pieces, len(qkv))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class FrugalAttention(torch.autograd.Function):
    """``attend_pieces`` that keeps no probabilities for the backward pass.

    On a CPU, PyTorch falls back to storing them all as soon as the bias wants a gradient: windows x heads x k x k
    numbers in every block. Here they are computed again, a portion of windows at a time (the idea of
    FlashAttention, Dao et al., arXiv 2205.14135). A GPU has kernels for this.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, pieces: tuple[Piece, ...]) -> Tensor:
        """Attend, and remember inputs and result only."""
        # PyTorch looks at ``requires_grad`` even where no gradient is recorded.
        out = attend_pieces(qkv.detach(), bias.detach(), pieces)
        ctx.save_for_backward(qkv, bias, out)
        ctx.pieces = pieces
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of ``qkv`` and ``bias``."""
        qkv, bias, out = ctx.saved_tensors
        of_qkv, of_bias = torch.empty_like(qkv), torch.zeros_like(bias, dtype=_exact(bias.dtype))
        portion = max(1, PORTION_OF_SCORES // bias.numel())
        # Autocast may be on or off where the backward pass is called; what was cast once is not cast again.
        with torch.autocast("cpu", enabled=False):
            for rows, mask in masks(bias, ctx.pieces, portion):
                of_parts, of_scores = attend_backward(qkv[rows], mask, out[rows], gradient[rows])
                for i, part in enumerate(of_parts):
                    of_qkv[rows, :, i] = part.transpose(1, 2)
                of_bias += of_scores.sum(0)
        return of_qkv, of_bias.to(bias.dtype), None


def attend_backward(qkv: Tensor, mask: Tensor, out: Tensor, gradient: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the gradients of q, k and v, each ``(n, heads, k, d)``, and of the biased scores, ``(n, heads, k, k)``."""
    exact = _exact(qkv.dtype)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).to(exact)
    out, gradient = (x.to(exact).unflatten(2, q.shape[1::2]).transpose(1, 2) for x in (out, gradient))
    q = q * q.shape[-1] ** -0.5
    weights = (q @ k.transpose(-1, -2)).add_(mask).softmax(-1)
    of_scores = (gradient @ v.transpose(-1, -2)).sub_((gradient * out).sum(-1, keepdim=True)).mul_(weights)
    of_q = (of_scores @ k) * q.shape[-1] ** -0.5
    return (of_q, of_scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ gradient), of_scores


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
