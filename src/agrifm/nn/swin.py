"""Video Swin backbone that halves time whenever it halves space.

Sources: Liu et al., "Video Swin Transformer", CVPR 2022 (arXiv 2106.13230) for the shifted 3D windows; Li et al.,
AgriFM, RSE 2026 (arXiv 2505.21357) for the synchronized downsampling. Tokens are channels-last, ``b t h w c``, from
the patch embedding to the last norm.

The law of the pyramid: time x channels is constant, 8*128 = 4*256 = 2*512 = 1*1024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agrifm.nn.linear import Linear
from agrifm.nn.windows import Triple, WindowAttention, clip_window, in_portions, lay_out

Tokens = Float[Tensor, "b t h w c"]


@dataclass(frozen=True)
class SwinSize:
    """All free numbers of the backbone. Everything else is derived from them.

    Args:
        width: Channels of the first stage. They double at every stage.
        depths: Blocks of each stage.
        heads: Attention heads of each stage; by default one for every 32 channels.
        window: Tokens of an attention window along time, rows and columns.
        mlp_ratio: Hidden width of a block's MLP relative to its outer width.
        drop_path: Stochastic depth of the last block. It rises linearly from 0.
        steps: Downsampling (time, rows, columns) after each stage except the last.
        average_frames: Average merged frames instead of keeping the first (an option of the original).
        clipped_bias: Position bias on grids narrower than a window: ``geometric``, or ``first_rows`` as in the
            original, which ties a model to one image size.
    """

    width: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] | None = None
    window: Triple = (8, 7, 7)
    mlp_ratio: float = 4.0
    drop_path: float = 0.2
    steps: tuple[Triple, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    average_frames: bool = True
    clipped_bias: Literal["geometric", "first_rows"] = "geometric"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage."""
        return self.heads or tuple(max(1, width // 32) for width in self.widths)

    def strides(self, patch: Triple) -> tuple[Triple, ...]:
        """Input frames, rows and columns that one token covers at each stage."""
        strides = [patch]
        for step in self.steps[: len(self.depths) - 1]:
            t, h, w = strides[-1]
            strides.append((t * step[0], h * step[1], w * step[2]))
        return tuple(strides)


SIZES: dict[str, SwinSize] = {
    "tiny": SwinSize(width=32, depths=(2, 2, 2, 2), drop_path=0.1),
    "small": SwinSize(width=64, depths=(2, 2, 6, 2), drop_path=0.1),
    "base": SwinSize(),
}


class Pyramid(NamedTuple):
    """Output of the backbone: the tokens before and after the downsampling of each stage.

    ``stages[i]`` is the output of the blocks of stage i, and the last one is normalized. ``merged[0]`` is the input,
    and ``merged[i + 1]`` follows the downsampling of stage i (``features_list`` in the original).
    """

    stages: list[Tensor]
    merged: list[Tensor]


class Swin(nn.Module):
    """The backbone: tokens in, a pyramid of tokens out.

    Args:
        size: All its numbers.
        checkpointing: Recompute each block in the backward pass. This saves memory and takes about a third longer.
    """

    def __init__(self, size: SwinSize, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Stage(size, i, checkpointing) for i in range(len(size.depths)))
        self.norm = nn.LayerNorm(size.widths[-1])
        self.apply(initialize)

    def forward(self, x: Tokens) -> Pyramid:
        """Return the tokens of every stage."""
        # A patch embedding leaves channels first in memory, which every norm and residual would have to reorder.
        x = x.contiguous()
        stages = []
        merged = [x]
        for stage in self.layers:
            before, x = stage(x)
            stages.append(before)
            merged.append(x)
        stages[-1] = self.norm(x)
        return Pyramid(stages, merged[:-1])


class Stage(nn.Module):
    """Blocks with alternating unshifted and shifted windows, followed by downsampling except in the last stage."""

    downsample: PatchMerging | None

    def __init__(self, size: SwinSize, index: int, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        # The device is named because a model may be built under the meta device, which holds no numbers.
        drop_rates = torch.linspace(0, size.drop_path, sum(size.depths), device="cpu").tolist()
        first = sum(size.depths[:index])
        self.blocks = nn.ModuleList()
        for i in range(size.depths[index]):
            self.blocks.append(Block(size, index, shifted=i % 2 == 1, drop=drop_rates[first + i]))
        self.downsample = None
        if index < len(size.depths) - 1:
            self.downsample = PatchMerging(size.widths[index], size.steps[index], size.average_frames)

    def forward(self, x: Tokens) -> tuple[Tensor, Tensor]:
        """Return the tokens before and after the downsampling."""
        for block in self.blocks:
            x = block(x, recompute=self.checkpointing)
        if self.downsample is None:
            return x, x
        return x, self.downsample(x)


class Block(nn.Module):
    """Windowed attention followed by an MLP, each with a norm before it and a residual around it."""

    def __init__(self, size: SwinSize, stage: int, *, shifted: bool, drop: float) -> None:
        super().__init__()
        width = size.widths[stage]
        heads = size.stage_heads[stage]
        self.window = size.window
        self.shifted = shifted
        self.drop = drop
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, size.window, heads, first_rows=size.clipped_bias == "first_rows")
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, size.mlp_ratio)

    def forward(self, x: Tokens, *, recompute: bool = False) -> Tokens:
        """Return tokens of the same shape. With ``recompute``, only the inputs of both halves are kept for training."""
        if recompute and torch.is_grad_enabled():
            attended = cast(Tensor, checkpoint(self._attend, x, use_reentrant=False, preserve_rng_state=False))
        else:
            attended = self._attend(x)
        x = x + self._drop_path(attended)
        return x + self._drop_path(in_portions(self._feed_forward, x, recompute=recompute))

    def _attend(self, x: Tokens) -> Tokens:
        size = cast(Triple, tuple(x.shape[1:4]))
        window, shift = clip_window(size, self.window, shifted=self.shifted)
        if torch.compiler.is_exporting():
            # An exported model takes any number of samples, so the layout is that of a single grid.
            return self.attn.of_grids(self.norm1(x), lay_out(1, size, window, shift, x.device))
        layout = lay_out(len(x), size, window, shift, x.device)
        # Padded tokens take part as zeros: the published weights were trained with them.
        windows = layout.split(self.norm1(x))
        return layout.join(self.attn(windows, window, layout.groups), size)

    def _feed_forward(self, x: Float[Tensor, "*tokens c"]) -> Float[Tensor, "*tokens c"]:
        return self.mlp(self.norm2(x))

    def _drop_path(self, x: Tensor) -> Tensor:
        """Drop the whole branch of random samples in training, and scale the others to keep the expectation."""
        if not (self.training and self.drop):
            return x
        keep = torch.rand(len(x), 1, 1, 1, 1, device=x.device) >= self.drop
        return x * (keep.to(x.dtype) / (1 - self.drop))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = Linear(width, int(width * ratio), gelu=True)
        self.fc2 = Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        return self.fc2(self.fc1(x))


class PatchMerging(nn.Module):
    """Average ``step[0]`` frames, concatenate ``step[1] x step[2]`` pixels and project to twice the width."""

    def __init__(self, width: int, step: Triple, average_frames: bool) -> None:
        super().__init__()
        self.step = step
        self.average_frames = average_frames
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tokens) -> Float[Tensor, "b t2 h2 w2 c2"]:
        """Divide time, rows and columns by the step, rounding up, and double the channels."""
        x = self._merge_frames(x)
        _, rows, columns = self.step
        # The original pads odd rows and columns even where the step is 1.
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        # Where the step is 1 there is no second row or column, and the first one is used twice.
        second_row = min(rows - 1, 1)
        second_column = min(columns - 1, 1)
        corners = [(0, 0), (second_row, 0), (0, second_column), (second_row, second_column)]
        x = torch.cat([x[:, :, i::rows, j::columns] for i, j in corners], dim=-1)
        return self.reduction(self.norm(x))

    def _merge_frames(self, x: Tensor) -> Tensor:
        frames = self.step[0]
        if not self.average_frames or frames == 1:
            return x[:, ::frames]
        # A last incomplete group is averaged with zero frames: the published weights were trained with it.
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, -x.shape[1] % frames))
        return x.unflatten(1, (-1, frames)).mean(2)


def initialize(module: nn.Module) -> None:
    """Initialize linear layers: a truncated normal with standard deviation 0.02, and zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
