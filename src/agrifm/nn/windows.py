"""Attention inside 3D windows, without ever building a mask per window.

A shifted window grid wraps around, so only the last window along each shifted axis joins tokens that are
not neighbors on the ground. Windows cut along the same axes share one mask; there are at most eight kinds.
Everything goes through ``scaled_dot_product_attention`` with one bias per head, broadcast over windows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Triple = tuple[int, int, int]


def clip_window(size: Triple, window: Triple, *, shifted: bool) -> tuple[Triple, Triple]:
    """Window and shift for a token grid; an axis that fits into the window is not shifted."""
    fits = [n <= w for n, w in zip(size, window, strict=True)]
    clipped = tuple(n if fit else w for n, w, fit in zip(size, window, fits, strict=True))
    shift = tuple(0 if fit or not shifted else w // 2 for w, fit in zip(window, fits, strict=True))
    return cast(Triple, clipped), cast(Triple, shift)


def split_windows(x: Float[Tensor, "b t h w c"], window: Triple) -> Float[Tensor, "b n k c"]:
    """Cut a grid of tokens into windows of ``k`` tokens."""
    b, t, h, w, c = x.shape
    i, j, k = window
    x = x.view(b, t // i, i, h // j, j, w // k, k, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, -1, i * j * k, c)


def join_windows(x: Float[Tensor, "b n k c"], window: Triple, size: Triple) -> Float[Tensor, "b t h w c"]:
    """Undo ``split_windows``."""
    t, h, w = size
    i, j, k = window
    x = x.view(x.shape[0], t // i, h // j, w // k, i, j, k, -1)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], t, h, w, -1)


@dataclass(frozen=True)
class Cut:
    """Windows that the shift cut in the same way.

    Args:
        windows: their numbers, or None for all of them.
        allowed: ``(k, k)`` true where two tokens may see each other, or None where all may.
    """

    windows: Tensor | None = None
    allowed: Tensor | None = None


@lru_cache(maxsize=64)
def cuts(size: Triple, window: Triple, shift: Triple, device: torch.device) -> list[Cut]:
    """Group the windows of a shifted grid by the axes along which they are cut."""
    counts = [n // w for n, w in zip(size, window, strict=True)]
    numbers = torch.arange(prod(counts), device=device).view(*counts)
    found = []
    for cut_axes in itertools.product(*[(False, True) if s else (False,) for s in shift]):
        chosen = numbers
        for axis, cut in enumerate(cut_axes):
            if shift[axis]:
                chosen = chosen.narrow(axis, counts[axis] - 1, 1) if cut else chosen.narrow(axis, 0, counts[axis] - 1)
        if chosen.numel():
            allowed = _allowed(window, shift, cut_axes, device) if any(cut_axes) else None
            found.append(Cut(chosen.flatten(), allowed))
    return found


def _allowed(window: Triple, shift: Triple, cut_axes: tuple[bool, ...], device: torch.device) -> Tensor:
    sides = []
    for n, s, cut in zip(window, shift, cut_axes, strict=True):
        positions = torch.arange(n, device=device)
        sides.append(positions >= n - s if cut else torch.zeros_like(positions, dtype=torch.bool))
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
        width: channels.
        window: full window size; smaller grids use a part of its bias table.
        heads: attention heads.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, window: Triple, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty(prod(2 * n - 1 for n in window), heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def bias(self, tokens: int) -> Float[Tensor, "heads k k"]:
        """Bias of every head between all pairs of tokens.

        A clipped window takes the first rows of the full window's index, not the geometrically right ones:
        the published weights learned with that.
        """
        index = self.relative_position_index[:tokens, :tokens].flatten()
        table = self.relative_position_bias_table[index]
        return table.view(tokens, tokens, self.heads).permute(2, 0, 1)

    def forward(self, x: Float[Tensor, "b n k c"], pieces: list[Cut]) -> Float[Tensor, "b n k c"]:
        """Attend within each window; every window number occurs in exactly one of ``pieces``."""
        b, n, k, c = x.shape
        q, k_, v = self.qkv(x).view(b, n, k, 3, self.heads, c // self.heads).permute(3, 0, 1, 4, 2, 5)
        bias = self.bias(k).to(q.dtype)
        if pieces[0].windows is None:
            out = attend(q, k_, v, bias)
        else:
            out = torch.empty_like(q)
            for piece in pieces:
                mask = bias if piece.allowed is None else bias.masked_fill(~piece.allowed, float("-inf"))
                chosen = piece.windows
                out[:, chosen] = attend(q[:, chosen], k_[:, chosen], v[:, chosen], mask)
        return self.proj(out.transpose(2, 3).reshape(b, n, k, c))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Float[Tensor, "heads k k"]) -> Tensor:
    """Attention over ``b n heads k d`` with one mask for all windows."""
    b = len(q)
    q, k, v = (part.flatten(0, 1) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(0)).unflatten(0, (b, -1))
