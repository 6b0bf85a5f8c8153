"""The default decoder: any number of frames, any size, any subset of sensors per sample.

Time is pooled by learned attention over valid frames, sensors are fused level by level by learned attention
over the present ones, and a feature pyramid (Lin et al., CVPR 2017) brings the levels to full resolution.
Every norm works on one pixel, so neither batch size nor tile borders change a result.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agrifm.nn.swin import Pyramid
from agrifm.nn.windows import Triple

Size = tuple[int, int]
Reduced = list[tuple[Tensor, Tensor]]
Extents = dict[str, list[tuple[float, float]]]
HEADS = 4


def masked_softmax(scores: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the entries where the mask is true; all zeros if there is none."""
    scores = scores.float().masked_fill(~mask, float("-inf"))
    largest = scores.amax(dim, keepdim=True)
    weights = (scores - largest.masked_fill(largest.isinf(), 0.0)).exp()
    return weights / weights.sum(dim, keepdim=True).clamp(min=1e-12)


def resample_matrix(source: int, source_extent: float, target: int, target_extent: float) -> Float[Tensor, "y x"]:
    """Matrix ``(target, source)`` of the linear interpolation between two grids over one footprint.

    A grid covers the footprint with its first ``extent`` cells; the other cells are padding.
    """
    centers = (torch.arange(target) + 0.5) / target_extent * source_extent - 0.5
    centers = centers.clamp(0, max(source_extent - 0.5, 0.0)).clamp(max=source - 1)
    low = centers.floor().long()
    share = centers - low
    matrix = F.one_hot(low, source) * (1 - share)[:, None]
    return matrix + F.one_hot((low + 1).clamp(max=source - 1), source) * share[:, None]


def resample(
    x: Float[Tensor, "b h w c"], extent: tuple[float, float], size: Size, size_extent: tuple[float, float]
) -> Float[Tensor, "b y x c"]:
    """Resample channels-last features to another grid over the same footprint."""
    if x.shape[1:3] == size and extent == size_extent:
        return x
    rows = resample_matrix(x.shape[1], extent[0], size[0], size_extent[0]).to(x)
    columns = resample_matrix(x.shape[2], extent[1], size[1], size_extent[1]).to(x)
    x = torch.einsum("xw,bhwc->bhxc", columns, x)
    return torch.einsum("yh,bhxc->byxc", rows, x)


class TimePool(nn.Module):
    """Pool time by attention over valid frames, with several heads, each for its own channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(channels, width)
        self.score = nn.Linear(channels, HEADS)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b t h w c"], valid: Bool[Tensor, "b t h w"]
    ) -> tuple[Float[Tensor, "b h w k"], Bool[Tensor, "b h w"]]:
        """Return the pooled features, zero where no frame was valid, and the mask of places with a valid frame."""
        weights = masked_softmax(self.score(x), valid.unsqueeze(-1), dim=1)
        value = self.value(x).unflatten(-1, (HEADS, -1))
        pooled = (value * weights.to(value.dtype).unsqueeze(-1)).sum(1).flatten(-2)
        seen = valid.any(1)
        return self.norm(pooled) * seen.unsqueeze(-1), seen


class Refine(nn.Module):
    """A residual 3x3 convolution after a per-pixel norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Refine features; the shape stays the same."""
        y = self.conv(F.gelu(self.norm(x)).permute(0, 3, 1, 2))
        return x + y.permute(0, 2, 3, 1)


class Decoder(nn.Module):
    """Pool time, fuse sensors, merge levels, and refine to full resolution.

    Args:
        sensors: Names of the sensors.
        channels: Channels of each level of the encoder, fine to coarse.
        patch: Patch of the encoder; the finest level has one token for ``patch[1] x patch[2]`` pixels.
    """

    def __init__(self, sensors: tuple[str, ...], channels: tuple[int, ...], patch: Triple) -> None:
        super().__init__()
        self.patch = patch
        self.width = max(64, channels[0])
        self.out_channels = self.width // 2
        self.pools = nn.ModuleDict({name: nn.ModuleList(TimePool(c, self.width) for c in channels) for name in sensors})
        self.trust = nn.ModuleList(nn.Linear(self.width, 1) for _ in channels)
        self.refine = nn.ModuleList(Refine(self.width) for _ in channels)
        self.expand = nn.Linear(self.width, self.out_channels * patch[1] * patch[2])
        self._equalize_pixels(patch[1] * patch[2])

    @torch.no_grad()
    def _equalize_pixels(self, count: int) -> None:
        """Start with equal weights for all pixels of a patch, because random ones leave its grid on maps for long.

        Source: Aitken et al., "Checkerboard artifact free sub-pixel convolution", 2017.
        """
        for parameter in (self.expand.weight, self.expand.bias):
            parameter.copy_(parameter[::count].repeat_interleave(count, 0))

    def reduce(self, sensor: str, pyramid: Pyramid, valid: list[Tensor]) -> Reduced:
        """Pool the time of one sensor: features ``(b, h, w, c)`` and mask ``(b, h, w)`` of seen places by level."""
        levels = zip(self.pools[sensor], pyramid.stages, valid, strict=True)  # ty: ignore[invalid-argument-type]
        return [pool(tokens, mask) for pool, tokens, mask in levels]

    def forward(self, reduced: dict[str, Reduced], extents: Extents, size: Size) -> Float[Tensor, "b c y x"]:
        """Fuse the levels of all present sensors.

        Args:
            reduced: Results of ``reduce`` by sensor.
            extents: Rows and columns of tokens that cover the footprint, by sensor and level.
            size: Rows and columns of the output.
        """
        x: Tensor | None = None
        below: tuple[float, float] = (0.0, 0.0)
        for i in reversed(range(len(self.trust))):
            rows = size[0] / (self.patch[1] * 2**i)
            columns = size[1] / (self.patch[2] * 2**i)
            extent = (rows, columns)
            grid = (math.ceil(rows), math.ceil(columns))
            level = [(*reduced[name][i], extents[name][i]) for name in reduced]
            fused = self._fuse(i, level, grid, extent)
            x = fused if x is None else fused + resample(x, below, grid, extent)
            x = self.refine[i](x)
            below = extent
        _, p, q = self.patch
        full = rearrange(self.expand(x), "b h w (c p q) -> b c (h p) (w q)", p=p, q=q)
        return full[:, :, : size[0], : size[1]]

    def _fuse(
        self, index: int, level: list[tuple[Tensor, Tensor, tuple[float, float]]], grid: Size, extent: tuple
    ) -> Float[Tensor, "b h w c"]:
        """Fuse one level of all sensors by attention over the sensors that saw each place."""
        values = []
        masks = []
        for features, seen, source in level:
            share = resample(seen.to(features).unsqueeze(-1), source, grid, extent)
            values.append(resample(features, source, grid, extent) / share.clamp(min=1e-3))
            masks.append(share > 1e-3)
        stacked = torch.stack(values, 1)
        weights = masked_softmax(self.trust[index](stacked), torch.stack(masks, 1), dim=1)
        return (stacked * weights.to(stacked.dtype)).sum(1)
