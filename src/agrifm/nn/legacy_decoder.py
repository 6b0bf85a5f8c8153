"""The original's decoder, kept equal to it: time becomes channels, convolutions with batch norm fuse.

Source: Li et al., AgriFM (arXiv 2505.21357). It costs 4.8 times its encoder and fixes the number of frames;
``nn.decoder`` is the default.
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
        fusion: How time is removed.
        group: With ``cat``, first average groups of this many frames; a last incomplete group is filled with
            zero frames, as the original does between its stages.
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
    """Channels of each level, fine to coarse, once time is folded into them; ``tokens`` frames enter."""
    channels = []
    for width, step in zip(size.widths, (*size.steps, (1, 1, 1)), strict=False):
        channels.append(width * tokens)
        tokens = -(-tokens // step[0])
    return channels


class LegacyDecoder(nn.Module):
    """Fuse the deepest features of all sensors, then three times double the size and add a shallower level.

    Args:
        width: Channels throughout; equal to the channels of the deepest features.
        sensors: Whose deepest features are fused first.
        lateral: Lateral per doubling the channels of each sensor's level, coarse to fine.
    """

    def __init__(self, width: int, sensors: Sequence[str], lateral: Sequence[Mapping[str, int]]) -> None:
        super().__init__()
        self.sensors, self.lateral = tuple(sensors), [dict(level) for level in lateral]
        self.out_channels = width
        self.in_conv = nn.Identity() if len(self.sensors) == 1 else _double_conv(len(self.sensors) * width, width)
        self.fusion_list = nn.ModuleList(_double_conv(sum(level.values()) + width, width) for level in self.lateral)
        self.out_conv = _double_conv(width, width)

    def reduce(self, sensor: str, pyramid: Pyramid, valid: list[Tensor]) -> Reduced:
        """Fold the time of one sensor into channels; the last entry is the deepest level."""
        folded = [fold_time(tokens) for tokens in (*pyramid.merged, pyramid.stages[-1])]
        expected = [level[sensor] for level in reversed(self.lateral)]
        if [x.shape[1] for x in folded[: len(expected)]] != expected:
            frames = pyramid.merged[0].shape[1]
            raise _wrong_frames(sensor, f"{frames} frame tokens", f"{expected[0] // pyramid.merged[0].shape[-1]}")
        return [(x, mask) for x, mask in zip(folded, (*valid, valid[-1]), strict=True)]

    def forward(self, reduced: dict[str, Reduced], extents: Extents, size: Size) -> Float[Tensor, "b c y x"]:
        """Fuse the levels of all sensors; every one of them must be there."""
        for sensor in self.sensors:
            if sensor not in reduced:
                raise _wrong_frames(sensor, "no frames", "every sensor in every sample")
        levels = {name: [x for x, _ in parts[:-1]] for name, parts in reduced.items()}
        deepest = {name: parts[-1][0] for name, parts in reduced.items()}
        return self.fuse(deepest, levels, (max(1, size[0] // 16), max(1, size[1] // 16)), size)

    def fuse(
        self, deepest: Mapping[str, Tensor], levels: Mapping[str, Sequence[Tensor]], start: Size, size: Size
    ) -> Float[Tensor, "b c y x"]:
        """Return full-resolution features.

        Args:
            deepest: Deepest per sensor ``(b, c, h, w)`` with time folded.
            levels: Levels per sensor the levels fine to coarse, time folded.
            start: Rows and columns at which fusion begins.
            size: Rows and columns of the output.
        """
        x = self.in_conv(torch.cat([_resize(deepest[name], start) for name in self.sensors], 1))
        for i, (fuse, keys) in enumerate(zip(self.fusion_list, self.lateral, strict=True)):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            grid = (x.shape[-2], x.shape[-1])
            index = len(self.lateral) - 1 - i
            x = fuse(torch.cat([x, *[_resize(levels[name][index], grid) for name in keys]], 1))
        return _resize(self.out_conv(x), size)


def original_head(width: int, classes: int) -> nn.Sequential:
    """The original's head: 3x3 convolution to half the width, then 1x1 to the classes."""
    return nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, classes, 1))


def _wrong_frames(sensor: str, found: str, expected: str) -> InputError:
    return InputError(
        f"model.decoder 'original': {sensor}",
        found=found,
        expected=f"{expected}: this decoder is built for fixed series",
        repair="use 'decoder: pyramid', which takes any number of frames and any subset of sensors.",
    )
