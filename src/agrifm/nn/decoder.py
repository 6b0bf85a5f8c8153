"""The default decoder, for any number of frames, any size and any subset of sensors per sample.

Learned attention over valid frames pools time. At each level, learned attention over the present sensors fuses them,
and a feature pyramid (Lin et al., CVPR 2017) brings the levels to full resolution. Every normalization acts on a
single pixel, so neither the batch size nor the borders of tiles change a result.
"""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agrifm.nn.swin import Pyramid
from agrifm.nn.windows import Triple

Size = tuple[int, int]
Extent = tuple[float, float]  # rows and columns that cover the footprint
Reduced = list[tuple[Tensor, Tensor]]  # per level features without time, and where the ground was observed
Extents = dict[str, list[Extent]]
HEADS = 4
MIN_SHARE = 1e-3  # of a cell that must have been observed


def masked_softmax(scores: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the elements where the mask is true, and zeros where no element is."""
    scores = scores.float().masked_fill(~mask, float("-inf"))
    largest = scores.amax(dim, keepdim=True)
    # Without any element the largest score is -inf, and subtracting it would give NaN.
    weights = (scores - largest.masked_fill(largest.isinf(), 0.0)).exp()
    return weights / weights.sum(dim, keepdim=True).clamp(min=1e-12)


def resample_matrix(source: int, source_extent: float, target: int, target_extent: float) -> Float[Tensor, "y x"]:
    """Return the matrix ``(target, source)`` of linear interpolation between two grids over one footprint.

    The first ``extent`` cells of a grid cover the footprint; the others are padding.
    """
    centers = (torch.arange(target) + 0.5) / target_extent * source_extent - 0.5
    centers = centers.clamp(0, max(source_extent - 0.5, 0.0)).clamp(max=source - 1)
    lower = centers.floor().long()
    upper = (lower + 1).clamp(max=source - 1)
    share = (centers - lower)[:, None]
    matrix = F.one_hot(lower, source) * (1 - share)
    return matrix + F.one_hot(upper, source) * share


def resample(x: Float[Tensor, "b h w c"], extent: Extent, size: Size, size_extent: Extent) -> Float[Tensor, "b y x c"]:
    """Resample channels-last features to another grid over the same footprint."""
    if x.shape[1:3] == size and extent == size_extent:
        return x
    rows = resample_matrix(x.shape[1], extent[0], size[0], size_extent[0]).to(x)
    columns = resample_matrix(x.shape[2], extent[1], size[1], size_extent[1]).to(x)
    x = torch.einsum("xw,bhwc->bhxc", columns, x)
    return torch.einsum("yh,bhxc->byxc", rows, x)


class TimePool(nn.Module):
    """Pool time by attention over valid frames. Each head weighs its own channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(channels, width)
        self.score = nn.Linear(channels, HEADS)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b t h w c"], valid: Bool[Tensor, "b t h w"]
    ) -> tuple[Float[Tensor, "b h w k"], Bool[Tensor, "b h w"]]:
        """Return the pooled features, zero where no frame was valid, and a mask of where any frame was."""
        weights = masked_softmax(self.score(x), valid.unsqueeze(-1), dim=1)
        # Values have the shape (b, t, h, w, heads, channels), weights have one number for each head.
        values = self.value(x).unflatten(-1, (HEADS, -1))
        weighted = values * weights.to(values.dtype).unsqueeze(-1)
        pooled = weighted.sum(1).flatten(-2)
        observed = valid.any(1)
        return self.norm(pooled) * observed.unsqueeze(-1), observed


class Refine(nn.Module):
    """A residual 3x3 convolution after a per-pixel norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Return features of the same shape."""
        y = self.conv(F.gelu(self.norm(x)).permute(0, 3, 1, 2))
        return x + y.permute(0, 2, 3, 1)


class Decoder(nn.Module):
    """Pool time, fuse sensors, merge levels and refine to full resolution.

    Args:
        sensors: Names of the sensors.
        channels: Channels of each level of the encoder, fine to coarse.
        patch: Patch of the encoder. A token of the finest level covers ``patch[1] x patch[2]`` pixels.
    """

    def __init__(self, sensors: tuple[str, ...], channels: tuple[int, ...], patch: Triple) -> None:
        super().__init__()
        self.patch = patch
        self.width = max(64, channels[0])
        self.out_channels = self.width // 2
        self.pools = nn.ModuleDict()
        for sensor in sensors:
            self.pools[sensor] = nn.ModuleList(TimePool(count, self.width) for count in channels)
        self.trust = nn.ModuleList(nn.Linear(self.width, 1) for _ in channels)
        self.refine = nn.ModuleList(Refine(self.width) for _ in channels)
        self.expand = nn.Linear(self.width, self.out_channels * patch[1] * patch[2])
        self._equalize_pixels(patch[1] * patch[2])

    @torch.no_grad()
    def _equalize_pixels(self, count: int) -> None:
        """Initialize all ``count`` pixels of a patch with the same weights.

        With independent random weights, maps show the grid of patches until late in training. Source: Aitken et al.,
        "Checkerboard artifact free sub-pixel convolution", 2017.
        """
        for parameter in (self.expand.weight, self.expand.bias):
            parameter.copy_(parameter[::count].repeat_interleave(count, 0))

    def reduce(self, sensor: str, pyramid: Pyramid, valid: list[Tensor]) -> Reduced:
        """Pool the time of one sensor: per level features ``(b, h, w, c)`` and a mask of observed ground."""
        levels = zip(self.pools[sensor], pyramid.stages, valid, strict=True)  # ty: ignore[invalid-argument-type]
        return [pool(tokens, mask) for pool, tokens, mask in levels]

    def forward(self, reduced: dict[str, Reduced], extents: Extents, size: Size) -> Float[Tensor, "b c y x"]:
        """Fuse the levels of all present sensors.

        Args:
            reduced: Result of ``reduce`` for each sensor.
            extents: Rows and columns of tokens that cover the footprint, for each sensor and level.
            size: Rows and columns of the output.
        """
        x: Tensor | None = None
        coarser_extent = (0.0, 0.0)
        for level in reversed(range(len(self.trust))):
            extent = (size[0] / (self.patch[1] * 2**level), size[1] / (self.patch[2] * 2**level))
            grid = (ceil(extent[0]), ceil(extent[1]))
            fused = self._fuse(level, reduced, extents, grid, extent)
            if x is not None:
                fused = fused + resample(x, coarser_extent, grid, extent)
            x = self.refine[level](fused)
            coarser_extent = extent
        _, p, q = self.patch
        full = rearrange(self.expand(x), "b h w (c p q) -> b c (h p) (w q)", p=p, q=q)
        return full[:, :, : size[0], : size[1]]

    def _fuse(
        self, level: int, reduced: dict[str, Reduced], extents: Extents, grid: Size, extent: Extent
    ) -> Float[Tensor, "b h w c"]:
        """Average one level of all sensors, weighted by learned attention, on a common grid."""
        values = []
        masks = []
        for sensor, levels in reduced.items():
            features, observed = levels[level]
            source = extents[sensor][level]
            share = resample(observed.to(features).unsqueeze(-1), source, grid, extent)
            # Features of unobserved ground are zero: divide by the observed share to average the others.
            values.append(resample(features, source, grid, extent) / share.clamp(min=MIN_SHARE))
            masks.append(share > MIN_SHARE)
        stacked = torch.stack(values, 1)
        weights = masked_softmax(self.trust[level](stacked), torch.stack(masks, 1), dim=1)
        return (stacked * weights.to(stacked.dtype)).sum(1)
