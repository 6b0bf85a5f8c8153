"""The yardstick: the same network written the plain way, to measure what ours costs beside it.

Every step follows the papers word by word and makes the tensor they name: pad, roll, cut into windows, scores of
all pairs of tokens, a bias, a mask per window, a softmax, a weighted sum, and back. Weights of ours load strictly.
Sources: Liu et al., "Video Swin Transformer", CVPR 2022 (arXiv 2106.13230); Li et al., AgriFM (arXiv 2505.21357).
"""

from __future__ import annotations

from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agrifm.nn.model import CropModel, ModelConfig
from agrifm.nn.swin import Pyramid, Swin, SwinSize
from agrifm.nn.windows import Triple, clip_window, relative_index
from agrifm.sensors import Sensor


def to_windows(x: Float[Tensor, "b t h w c"], window: Triple) -> Float[Tensor, "n k c"]:
    """Cut whole grids into windows, sample after sample."""
    b, t, h, w, c = x.shape
    i, j, k = window
    x = x.reshape(b, t // i, i, h // j, j, w // k, k, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, i * j * k, c)


def to_grid(x: Float[Tensor, "n k c"], window: Triple, shape: torch.Size) -> Float[Tensor, "b t h w c"]:
    """Undo ``to_windows``."""
    b, t, h, w, c = shape
    i, j, k = window
    x = x.reshape(b, t // i, h // j, w // k, i, j, k, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def full_mask(size: Triple, window: Triple, shift: Triple) -> Float[Tensor, "n k k"]:
    """One mask for every window of a shifted grid: 0 between tokens of one region, -100 between strangers."""
    padded = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
    regions = torch.zeros(1, *padded, 1)
    for axis, (n, w, s) in enumerate(zip(padded, window, shift, strict=True), start=1):
        if s:
            position = torch.arange(n)
            region = (position >= n - w).int() + (position >= n - s).int()
            regions = 3 * regions + region.view([n if a == axis else 1 for a in range(5)])
    numbers = to_windows(regions, window).squeeze(-1)
    return (numbers[:, None, :] != numbers[:, :, None]) * -100.0


class ExplicitAttention(nn.Module):
    """Attention within windows, one step a line."""

    relative_position_index: Tensor

    def __init__(self, width: int, window: Triple, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros(prod(2 * n - 1 for n in window), heads))
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n k c"], mask: Float[Tensor, "w k k"] | None) -> Float[Tensor, "n k c"]:
        """Attend; ``mask`` repeats for every sample."""
        n, k, c = x.shape
        q, key, v = self.qkv(x).reshape(n, k, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        index = self.relative_position_index[:k, :k].reshape(-1)
        bias = self.relative_position_bias_table[index].reshape(k, k, self.heads).permute(2, 0, 1)
        scores = scores + bias
        if mask is not None:
            scores = scores.view(-1, len(mask), self.heads, k, k) + mask[:, None]
            scores = scores.view(n, self.heads, k, k)
        out = scores.softmax(-1).to(v.dtype) @ v
        return self.proj(out.transpose(1, 2).reshape(n, k, c))


class ExplicitBlock(nn.Module):
    """Attention and an MLP, each behind a norm and a residual."""

    def __init__(self, size: SwinSize, stage: int, shifted: bool) -> None:
        super().__init__()
        width = size.widths[stage]
        hidden = int(width * size.mlp_ratio)
        self.window, self.shifted = size.window, shifted
        self.norm1 = nn.LayerNorm(width)
        self.attn = ExplicitAttention(width, size.window, size.stage_heads[stage])
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Float[Tensor, "b t h w c"], mask: Tensor | None) -> Float[Tensor, "b t h w c"]:
        """Same shape out as in; stochastic depth is left out, so compare with a rate of 0."""
        x = x + self.attend(self.norm1(x), mask)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pad, shift, cut, attend and undo the three."""
        t, h, w = size = cast(Triple, tuple(x.shape[1:4]))
        window, shift = clip_window(size, self.window, shifted=self.shifted)
        x = F.pad(x, (0, 0, 0, -w % window[2], 0, -h % window[1], 0, -t % window[0]))
        shifted = torch.roll(x, [-s for s in shift], dims=(1, 2, 3)) if any(shift) else x
        out = self.attn(to_windows(shifted, window), mask if any(shift) else None)
        out = to_grid(out, window, x.shape)
        out = torch.roll(out, shift, dims=(1, 2, 3)) if any(shift) else out
        return out[:, :t, :h, :w]


class ExplicitMerging(nn.Module):
    """Average pairs of frames, concatenate 2x2 pixels, project."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t2 h2 w2 c2"]:
        """Halve time, rows and columns, double the channels."""
        _, t, h, w, _ = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, t % 2))
        x = (x[:, 0::2] + x[:, 1::2]) / 2
        corners = [x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class ExplicitStage(nn.Module):
    """Blocks that share one mask, then a down-sampling."""

    def __init__(self, size: SwinSize, stage: int) -> None:
        super().__init__()
        self.window = size.window
        self.blocks = nn.ModuleList(ExplicitBlock(size, stage, bool(i % 2)) for i in range(size.depths[stage]))
        self.downsample = ExplicitMerging(size.widths[stage]) if stage < len(size.depths) - 1 else None

    def forward(self, x: Float[Tensor, "b t h w c"]) -> tuple[Tensor, Tensor]:
        """Return the tokens before and after the down-sampling."""
        size = cast(Triple, tuple(x.shape[1:4]))
        window, shift = clip_window(size, self.window, shifted=True)
        mask = full_mask(size, window, shift).to(x.device) if any(shift) else None
        for block in self.blocks:
            x = block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


class ExplicitSwin(Swin):
    """The backbone with the weights and the outputs of ``Swin`` (default steps, averaged frames), and none of its code.

    It is a ``Swin`` by name only, so that a model takes it in its place.
    """

    def __init__(self, size: SwinSize) -> None:
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(ExplicitStage(size, stage) for stage in range(len(size.depths)))
        self.norm = nn.LayerNorm(size.widths[-1])

    def forward(self, x: Float[Tensor, "b t h w c"]) -> Pyramid:
        """Return the tokens of every stage."""
        stages, merged = [], [x]
        for layer in self.layers:
            before, x = layer(x)
            stages.append(before)
            merged.append(x)
        stages[-1] = self.norm(x)
        return Pyramid(stages, merged[:-1])


def yardstick_model(sensor: Sensor, outputs: int, config: ModelConfig, frames: int) -> CropModel:
    """The whole model the plain way: explicit attention, full masks and the original's decoder.

    Args:
        sensor: the only one.
        outputs: channels of the map.
        config: its ``decoder`` must be ``original``.
        frames: of every series.
    """
    model = CropModel([sensor], outputs, config, frames=frames)
    for key, ours in list(model.backbones.items()):
        plain = ExplicitSwin(config.swin)
        plain.load_state_dict(ours.state_dict(), strict=True)
        model.backbones[key] = plain
    return model
