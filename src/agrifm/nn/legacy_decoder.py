"""The decoder of the original, kept equal to it: time becomes channels, and convolutions with batch norm fuse sensors.

Source: Li et al., AgriFM (arXiv 2505.21357). It costs 4.8 times as much as its encoder and fixes the number of frames.
The default is ``nn.decoder``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agrifm.errors import InputError
from agrifm.nn.decoder import Extents, Reduced, Size
from agrifm.nn.swin import Pyramid, SwinSize

Fusion = Literal["cat", "mean"]


def fold_time(
    tokens: Float[Tensor, "b t h w c"], fusion: Fusion = "cat", group: int | None = None
) -> Float[Tensor, "b k h w"]:
    """Move time into channels (``cat``, channel-major) or average it (``mean``).

    Args:
        tokens: One level of the pyramid.
        fusion: How to remove time.
        group: With ``cat``, average groups of this many frames first. An incomplete last group is filled with zero
            frames, as the original does between its stages.
    """
    if fusion == "mean":
        return tokens.mean(1).permute(0, 3, 1, 2)
    if group:
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, 0, 0, -tokens.shape[1] % group))
        tokens = tokens.unflatten(1, (-1, group)).mean(2)
    return tokens.permute(0, 4, 1, 2, 3).flatten(1, 2)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
    )


def _resize(x: Tensor, size: Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def level_channels(size: SwinSize, tokens: int) -> list[int]:
    """Return the channels of each level, fine to coarse, after folding time.

    Args:
        size: Size of the backbone.
        tokens: Number of frame tokens that enter the backbone.
    """
    channels = []
    steps = (*size.steps, (1, 1, 1))
    for width, step in zip(size.widths, steps, strict=False):
        channels.append(width * tokens)
        tokens = -(-tokens // step[0])  # rounded up
    return channels


class LegacyDecoder(nn.Module):
    """Fuse the deepest features of all sensors, then double the size three times and add a shallower level each time.

    Args:
        width: Channels throughout; equal to the channels of the deepest features.
        sensors: Sensors whose deepest features are fused first.
        lateral: Channels of the level of each sensor, for each doubling, coarse to fine.
    """

    def __init__(self, width: int, sensors: Sequence[str], lateral: Sequence[Mapping[str, int]]) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.lateral = [dict(level) for level in lateral]
        self.out_channels = width
        self.in_conv: nn.Module = nn.Identity()
        if len(self.sensors) > 1:
            self.in_conv = _double_conv(len(self.sensors) * width, width)
        self.fusion_list = nn.ModuleList()
        for level in self.lateral:
            self.fusion_list.append(_double_conv(sum(level.values()) + width, width))
        self.out_conv = _double_conv(width, width)

    def reduce(self, sensor: str, pyramid: Pyramid, valid: list[Tensor]) -> Reduced:
        """Fold the time of one sensor into channels. The last entry is the deepest level."""
        folded = [fold_time(tokens) for tokens in (*pyramid.merged, pyramid.stages[-1])]
        expected = [level[sensor] for level in reversed(self.lateral)]
        channels = [level.shape[1] for level in folded[: len(expected)]]
        if channels != expected:
            _, frames, _, _, width = pyramid.merged[0].shape
            raise _not_supported(sensor, f"{frames} frame tokens", f"{expected[0] // width}")
        return list(zip(folded, (*valid, valid[-1]), strict=True))

    def forward(self, reduced: dict[str, Reduced], extents: Extents, size: Size) -> Float[Tensor, "b c y x"]:
        """Fuse the levels of all sensors, each of which must be present."""
        for sensor in self.sensors:
            if sensor not in reduced:
                raise _not_supported(sensor, "no frames", "every sensor in every sample")
        deepest = {}
        levels = {}
        for sensor, parts in reduced.items():
            features = [x for x, _ in parts]
            deepest[sensor] = features[-1]
            levels[sensor] = features[:-1]
        start = (max(1, size[0] // 16), max(1, size[1] // 16))
        return self.fuse(deepest, levels, start, size)

    def fuse(
        self, deepest: Mapping[str, Tensor], levels: Mapping[str, Sequence[Tensor]], start: Size, size: Size
    ) -> Float[Tensor, "b c y x"]:
        """Return features at full resolution.

        Args:
            deepest: Deepest features ``(b, c, h, w)`` of each sensor, with time folded.
            levels: Levels of each sensor, fine to coarse, with time folded.
            start: Rows and columns at which fusion begins.
            size: Rows and columns of the output.
        """
        inputs = [_resize(deepest[sensor], start) for sensor in self.sensors]
        x = self.in_conv(torch.cat(inputs, 1))
        index = len(self.lateral)
        for fuse, channels in zip(self.fusion_list, self.lateral, strict=True):
            index -= 1
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            grid = (x.shape[-2], x.shape[-1])
            laterals = [_resize(levels[sensor][index], grid) for sensor in channels]
            x = fuse(torch.cat([x, *laterals], 1))
        return _resize(self.out_conv(x), size)


def original_head(width: int, classes: int) -> nn.Sequential:
    """Return the head of the original: a 3x3 convolution to half the width, then a 1x1 convolution to the classes."""
    return nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, classes, 1))


def _not_supported(sensor: str, found: str, expected: str) -> InputError:
    return InputError(
        f"model.decoder 'original': {sensor}",
        found=found,
        expected=f"{expected}: this decoder is built for series of fixed length",
        repair="use 'decoder: pyramid', which takes any number of frames and any subset of sensors.",
    )
