"""Operations and bytes that the backbone asks for, counted without computing: the same on every machine.

Tensors lie on the device ``meta``, which has shapes and no memory. Bytes are those of every tensor that an operation
creates; what an operation needs inside does not count. ``python benchmarks/counted.py`` prints the numbers that
``tests/test_cost.py`` compares with ``tests/data/counted.json``; ``--write`` replaces that file after a change that is
meant.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from agrifm.nn.model import ModelConfig
from agrifm.nn.swin import SIZES, Swin

FRAMES = 32
STORED = Path(__file__).parents[1] / "tests" / "data" / "counted.json"


@dataclass(frozen=True)
class Count:
    """What one pass of the backbone asks for."""

    gflop: float
    megabytes: float


class CreatedBytes(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations create; views create none."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its outputs."""
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else [result]
        for declared, output in zip(func._schema.returns, outputs, strict=False):
            if isinstance(output, torch.Tensor) and declared.alias_info is None:
                self.total += output.nbytes
        return result


def count(size: str, pixels: int, *, train: bool) -> Count:
    """Count a forward pass of the backbone on one series, or a forward and a backward pass.

    Args:
        size: Name of a size of the backbone.
        pixels: Side of the image.
        train: Whether gradients are computed, too.
    """
    meta = torch.device("meta")
    backbone = Swin(replace(SIZES[size], drop_path=0.0)).to(meta)
    days, rows, columns = ModelConfig().patch
    shape = (1, FRAMES // days, pixels // rows, pixels // columns, SIZES[size].width)
    tokens = torch.empty(shape, device=meta, requires_grad=train)
    with FlopCounterMode(display=False) as operations, CreatedBytes() as created, torch.set_grad_enabled(train):
        pyramid = backbone(tokens)
        if train:
            torch.stack([stage.square().mean() for stage in pyramid.stages]).sum().backward()
    return Count(operations.get_total_flops() / 1e9, created.total / 1e6)


def all_counts() -> dict[str, Count]:
    """Counts of every size that ships, at 128 pixels, without and with gradients."""
    counts = {}
    for size in ("tiny", "small", "base"):
        for train in (False, True):
            counts[f"{size} {'training' if train else 'forward'}"] = count(size, 128, train=train)
    return counts


def main() -> None:
    """Print the counts, and write them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"replace {STORED.name}")
    asked = parser.parse_args()
    counts = all_counts()
    print("| backbone, 128 pixels, 32 frames | GFLOP | MB created |")
    print("|---|---:|---:|")
    for name, each in counts.items():
        print(f"| {name} | {each.gflop:.2f} | {each.megabytes:.0f} |")
    if asked.write:
        values = {name: [round(each.gflop, 3), round(each.megabytes, 1)] for name, each in counts.items()}
        STORED.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
