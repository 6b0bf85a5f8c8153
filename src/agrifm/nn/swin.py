"""Video Swin backbone in which time is halved whenever space is.

Sources: Liu et al., "Video Swin Transformer", CVPR 2022 (arXiv 2106.13230) for the shifted 3D windows;
Li et al., AgriFM, RSE 2026 (arXiv 2505.21357) for the synchronized down-sampling. Tokens are carried
channels-last, ``b t h w c``, from the patch embedding to the last norm.

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

from agrifm.nn.windows import Linear, Triple, WindowAttention, clip_window, in_portions, lay_out

Tokens = Float[Tensor, "b t h w c"]


@dataclass(frozen=True)
class SwinSize:
    """Every free number of the backbone; what follows from them is derived.

    Args:
        width: Channels of the first stage; doubles at every stage.
        depths: Blocks per stage.
        heads: Attention heads per stage; 32 channels to a head unless given.
        window: Tokens of one attention window along time, rows, columns.
        mlp_ratio: Hidden over outer width of the block's MLP.
        drop_path: Stochastic depth of the last block; rises linearly from 0.
        steps: Down-sampling (time, rows, columns) after each stage but the last.
        average_frames: Average the merged frames; else keep the first (an option of the original).
        clipped_bias: Position bias where a grid is narrower than a window: ``geometric``, or the original's
            ``first_rows``, which ties a model to one size of image.
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
        """Input pixels and frames per token at each stage, for a patch size."""
        found = [patch]
        for step in self.steps[: len(self.depths) - 1]:
            t, h, w = found[-1]
            found.append((t * step[0], h * step[1], w * step[2]))
        return tuple(found)


SIZES: dict[str, SwinSize] = {
    "tiny": SwinSize(width=32, depths=(2, 2, 2, 2), drop_path=0.1),
    "small": SwinSize(width=64, depths=(2, 2, 6, 2), drop_path=0.1),
    "base": SwinSize(),
}


class Pyramid(NamedTuple):
    """What the backbone saw: per stage the tokens before and after its down-sampling.

    ``stages[i]`` leaves the blocks of stage i; the last one is normalized. ``merged[0]`` is the input,
    ``merged[i + 1]`` follows the down-sampling of stage i (the original's ``features_list``).
    """

    stages: list[Tensor]
    merged: list[Tensor]


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = Linear(width, int(width * ratio), gelu=True)
        self.fc2 = Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        return self.fc2(self.fc1(x))


class Block(nn.Module):
    """Windowed attention, then an MLP, each behind a norm and a residual."""

    def __init__(self, size: SwinSize, stage: int, *, shifted: bool, drop: float) -> None:
        super().__init__()
        width = size.widths[stage]
        self.window, self.shifted, self.drop = size.window, shifted, drop
        self.norm1 = nn.LayerNorm(width)
        first_rows = size.clipped_bias == "first_rows"
        self.attn = WindowAttention(width, size.window, size.stage_heads[stage], first_rows=first_rows)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, size.mlp_ratio)

    def forward(self, x: Tokens, *, recompute: bool = False) -> Tokens:
        """Same shape out as in; ``recompute`` keeps only the input of both halves for the backward pass."""
        if recompute and torch.is_grad_enabled():
            attended = cast(Tensor, checkpoint(self._attend, x, use_reentrant=False, preserve_rng_state=False))
        else:
            attended = self._attend(x)
        x = x + self._drop_path(attended)
        return x + self._drop_path(in_portions(self._feed, x, recompute=recompute))

    def _feed(self, x: Float[Tensor, "*tokens c"]) -> Float[Tensor, "*tokens c"]:
        return self.mlp(self.norm2(x))

    def _attend(self, x: Tokens) -> Tokens:
        size = cast(Triple, tuple(x.shape[1:4]))
        window, shift = clip_window(size, self.window, shifted=self.shifted)
        layout = lay_out(len(x), size, window, shift, x.device)
        # Padded tokens take part as zeros: the published weights learned with them.
        return layout.join(self.attn(layout.split(self.norm1(x)), window, layout.pieces), size)

    def _drop_path(self, x: Tensor) -> Tensor:
        if not (self.training and self.drop):
            return x
        keep = torch.rand(len(x), 1, 1, 1, 1, device=x.device) >= self.drop
        return x * (keep.to(x.dtype) / (1 - self.drop))


class PatchMerging(nn.Module):
    """Average ``step[0]`` frames, concatenate ``step[1] x step[2]`` pixels, project to twice the width."""

    def __init__(self, width: int, step: Triple, average_frames: bool) -> None:
        super().__init__()
        self.step, self.average_frames = step, average_frames
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tokens) -> Float[Tensor, "b t2 h2 w2 c2"]:
        """Halve time, rows and columns (or as ``step`` says), rounding up, and double the channels."""
        x = self._merge_frames(x)
        _, rows, columns = self.step
        # Odd rows and columns are padded even where the step is 1: so the original did it.
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        below, right = min(rows - 1, 1), min(columns - 1, 1)
        corners = [(0, 0), (below, 0), (0, right), (below, right)]
        x = torch.cat([x[:, :, i::rows, j::columns] for i, j in corners], dim=-1)
        return self.reduction(self.norm(x))

    def _merge_frames(self, x: Tensor) -> Tensor:
        frames = self.step[0]
        if not self.average_frames or frames == 1:
            return x[:, ::frames]
        # A lone last frame is averaged with zero frames: the published weights learned with it.
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, -x.shape[1] % frames))
        return x.unflatten(1, (-1, frames)).mean(2)


class Stage(nn.Module):
    """Blocks with alternating unshifted and shifted windows, then a down-sampling (but in the last stage)."""

    downsample: PatchMerging | None

    def __init__(self, size: SwinSize, index: int, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        rates = torch.linspace(0, size.drop_path, sum(size.depths), device="cpu").tolist()
        first = sum(size.depths[:index])
        drops = rates[first : first + size.depths[index]]
        self.blocks = nn.ModuleList(Block(size, index, shifted=i % 2 == 1, drop=drop) for i, drop in enumerate(drops))
        last = index == len(size.depths) - 1
        self.downsample = None if last else PatchMerging(size.widths[index], size.steps[index], size.average_frames)

    def forward(self, x: Tokens) -> tuple[Tensor, Tensor]:
        """Return the tokens before and after the down-sampling."""
        for block in self.blocks:
            x = block(x, recompute=self.checkpointing)
        return x, x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    """The backbone: tokens in, a pyramid of tokens out.

    Args:
        size: All its numbers.
        checkpointing: Recompute each block in the backward pass; memory falls, time rises by about a third.
    """

    def __init__(self, size: SwinSize, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Stage(size, i, checkpointing) for i in range(len(size.depths)))
        self.norm = nn.LayerNorm(size.widths[-1])
        self.apply(initialize)

    def forward(self, x: Tokens) -> Pyramid:
        """Return the tokens of every stage."""
        # A patch embedding hands over channels-first memory; every norm and residual would have to turn it.
        x = x.contiguous()
        stages, merged = [], [x]
        for stage in self.layers:
            before, x = stage(x)
            stages.append(before)
            merged.append(x)
        stages[-1] = self.norm(x)
        return Pyramid(stages, merged[:-1])


def initialize(module: nn.Module) -> None:
    """Truncated normal with deviation 0.02 for linear layers, zeros for their biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
