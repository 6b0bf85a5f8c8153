"""Layouts of the original's weight files: reading without running code, and what the tensors say of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from agrifm.errors import InputError
from agrifm.nn.swin import SIZES, SwinSize
from agrifm.nn.windows import Triple
from agrifm.tensor_files import read_safetensors, read_torch, refuse_expanded

EMBEDDINGS = {"S2": "S2_patch_emd", "Landsat": "HLSL30_patch_emd", "Modis": "Modis_patch_emd"}
INDEX = "relative_position_index"
State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """Tensors of a ``.pth`` or ``.safetensors`` file by key; nothing in it is executed.

    A state inside ``state_dict``, ``model`` or ``module`` (mmengine writes the first) is found; what else stands
    beside it, such as hooks or optimizer state, is not looked at. A leading ``module.`` of data parallelism goes.

    Raises:
        InputError: If the file is missing, cut off, of another kind, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    content = read_torch(path)
    for key in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    refuse_expanded(state.values(), path)
    if not state:
        raise InputError(
            path, found="no tensors", expected="a state dict", repair="give a file that holds weights by name."
        )
    return state


@dataclass(frozen=True)
class Released:
    """One sensor's encoder in a released file.

    Args:
        size: Size of the backbone, read off the tensors.
        patch: Patch of the embedding.
        bands: Bands of the sensor.
        weights: Weights by the names ``patch_emd.proj.*`` and ``backbone.*``.
    """

    size: SwinSize
    patch: Triple
    bands: int
    weights: State


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys have the layout of the published file."""
    return any(key.endswith("_patch_emd.weights") for key in state)


def released_encoder(state: Mapping[str, Tensor], sensor: str, source: object) -> Released:
    """Find one sensor in a state of the published layout.

    Raises:
        InputError: If the layout is another one, or the sensor is not in it.
    """
    prefix = f"encoder.{EMBEDDINGS.get(sensor, sensor + '_patch_emd')}"
    if f"{prefix}.weights" not in state or f"{prefix}.bias" not in state:
        there = sorted(key.split(".")[1] for key in state if key.endswith("_patch_emd.weights"))
        raise InputError(
            f"{source}: {prefix}.weights",
            found=f"embeddings {', '.join(there)}" if there else f"keys such as {', '.join(list(state)[:3])}",
            expected="the layout of the published AgriFM.pth with this sensor",
            repair=f"use one of the sensors {', '.join(EMBEDDINGS)}, or a file of the published layout.",
        )
    embedding = state[f"{prefix}.weights"]
    trunk = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.backbone.")}
    size = infer_size({key.removeprefix("backbone."): value for key, value in trunk.items()}, source)
    weights = {key: value for key, value in trunk.items() if not key.endswith(INDEX)}
    weights |= {"patch_emd.proj.weight": embedding, "patch_emd.proj.bias": state[f"{prefix}.bias"]}
    patch: Triple = tuple(embedding.shape[2:])  # ty: ignore[invalid-assignment]
    return Released(size, patch, embedding.shape[1], weights)


def infer_size(trunk: Mapping[str, Tensor], source: object) -> SwinSize:
    """Read width, depths, heads, window and MLP ratio off the tensors of a backbone.

    Raises:
        InputError: If the keys are not those of a Video Swin.
    """
    try:
        stages = _count(trunk, "layers.")
        depths = tuple(_count(trunk, f"layers.{i}.blocks.") for i in range(stages))
        block = "layers.{}.blocks.0."
        tables = [trunk[block.format(i) + "attn.relative_position_bias_table"] for i in range(stages)]
        hidden, width = trunk[block.format(0) + "mlp.fc1.weight"].shape
    except (ValueError, KeyError) as error:
        raise InputError(
            source,
            found=f"keys such as {', '.join(list(trunk)[:3]) or '(none)'}",
            expected="a Video Swin backbone: layers.<stage>.blocks.<block>.attn...",
            repair="give a file that holds one.",
        ) from error
    index = trunk.get(block.format(0) + f"attn.{INDEX}")
    size = SwinSize(
        width=width,
        depths=depths,
        heads=tuple(table.shape[1] for table in tables),
        window=_window(tables[0].shape[0], None if index is None else index.shape[0], source),
        mlp_ratio=hidden / width,
    )
    return next((known for known in SIZES.values() if _same(known, size)), size)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix))


def _same(known: SwinSize, found: SwinSize) -> bool:
    keys = ("width", "depths", "stage_heads", "window", "mlp_ratio")
    return all(getattr(known, key) == getattr(found, key) for key in keys)


def _window(rows: int, tokens: int | None, source: object) -> Triple:
    """The window (time, side, side) whose bias table has this many rows, and index this many tokens."""
    fitting: list[Triple] = [
        (t, side, side)
        for side in range(1, 33)
        for t in range(1, 65)
        if (2 * t - 1) * (2 * side - 1) ** 2 == rows and tokens in (None, prod((t, side, side)))
    ]
    if not fitting:
        raise InputError(
            source, found=f"a bias table of {rows} rows", expected="one of a 3D window", repair="give another file."
        )
    default = SwinSize().window
    return default if default in fitting else fitting[0]


def without_indices(state: Mapping[str, Tensor], module: nn.Module) -> State:
    """Drop ``relative_position_index``, after comparing it with what the module computes.

    Raises:
        InputError: If an index differs, so the window is another one.
    """
    modules = dict(module.named_modules())
    for key, value in state.items():
        owner = modules.get(key.removesuffix(f".{INDEX}"))
        if key.endswith(INDEX) and owner is not None and not torch.equal(value, owner.get_buffer(INDEX)):
            raise InputError(
                key,
                found="another window's index",
                expected="the model's window",
                repair="set window_size as in training.",
            )
    return {key: value for key, value in state.items() if not key.endswith(INDEX)}


def encoder_keys(weights: Mapping[str, Tensor], sensor: str, trunk: str) -> State:
    """Rename ``patch_emd.*`` and ``backbone.*`` to where a CropModel keeps them."""
    renamed = {}
    for key, value in weights.items():
        key = re.sub(r"^patch_emd\.", f"embeddings.{sensor}.", key)
        renamed[re.sub(r"^backbone\.", f"backbones.{trunk}.", key)] = value
    return renamed
