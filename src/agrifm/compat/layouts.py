"""Layouts of the weight files of the original, read without running code; the size of a model from its tensors."""

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
BLOCK = "layers.{}.blocks.0."  # first block of a stage
MAX_WINDOW_SIDE, MAX_WINDOW_FRAMES = 32, 64
State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """Read the tensors of a ``.pth`` or ``.safetensors`` file by key; nothing in it is executed.

    A state inside ``state_dict``, ``model`` or ``module`` (mmengine writes the first) is used; everything beside it,
    such as hooks or the state of an optimizer, is ignored. A leading ``module.`` of data parallelism is removed.

    Raises:
        InputError: If the file is missing, cut off, of another kind, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    content = read_torch(path)
    for key in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state: State = {}
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(value, Tensor):
                state[str(key).removeprefix("module.")] = value
    refuse_expanded(state.values(), path)
    if not state:
        raise InputError(
            path, found="no tensors", expected="a state dict", repair="give a file that holds weights by name."
        )
    return state


@dataclass(frozen=True)
class Released:
    """The encoder of one sensor in a released file.

    Args:
        size: Size of the backbone, inferred from the tensors.
        patch: Patch of the embedding.
        bands: Number of bands of the sensor.
        weights: Tensors by the names ``patch_emd.proj.*`` and ``backbone.*``.
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
        InputError: If the layout is another one, or does not contain the sensor.
    """
    prefix = f"encoder.{EMBEDDINGS.get(sensor, sensor + '_patch_emd')}"
    if f"{prefix}.weights" not in state or f"{prefix}.bias" not in state:
        embeddings = sorted(key.split(".")[1] for key in state if key.endswith("_patch_emd.weights"))
        keys = ", ".join(list(state)[:3])
        raise InputError(
            f"{source}: {prefix}.weights",
            found=f"embeddings {', '.join(embeddings)}" if embeddings else f"keys such as {keys}",
            expected="the layout of the published AgriFM.pth with this sensor",
            repair=f"use one of the sensors {', '.join(EMBEDDINGS)}, or a file of the published layout.",
        )
    embedding = state[f"{prefix}.weights"]
    weights = {}
    for key, value in state.items():
        if key.startswith("encoder.backbone."):
            weights[key.removeprefix("encoder.")] = value
    size = infer_size({key.removeprefix("backbone."): value for key, value in weights.items()}, source)
    weights = {key: value for key, value in weights.items() if not key.endswith(INDEX)}
    weights["patch_emd.proj.weight"] = embedding
    weights["patch_emd.proj.bias"] = state[f"{prefix}.bias"]
    patch: Triple = tuple(embedding.shape[2:])  # ty: ignore[invalid-assignment]
    return Released(size, patch, embedding.shape[1], weights)


def infer_size(backbone: Mapping[str, Tensor], source: object) -> SwinSize:
    """Infer width, depths, heads, window and MLP ratio from the tensors of a backbone.

    Raises:
        InputError: If the keys are not those of a Video Swin.
    """
    try:
        stages = range(_count(backbone, "layers."))
        depths = tuple(_count(backbone, f"layers.{i}.blocks.") for i in stages)
        bias_tables = [backbone[BLOCK.format(i) + "attn.relative_position_bias_table"] for i in stages]
        hidden, width = backbone[BLOCK.format(0) + "mlp.fc1.weight"].shape
    except (ValueError, KeyError) as error:
        raise InputError(
            source,
            found=f"keys such as {', '.join(list(backbone)[:3]) or '(none)'}",
            expected="a Video Swin backbone: layers.<stage>.blocks.<block>.attn...",
            repair="give a file that holds one.",
        ) from error
    index = backbone.get(BLOCK.format(0) + f"attn.{INDEX}")
    tokens = None if index is None else index.shape[0]
    size = SwinSize(
        width=width,
        depths=depths,
        heads=tuple(table.shape[1] for table in bias_tables),
        window=_window(bias_tables[0].shape[0], tokens, source),
        mlp_ratio=hidden / width,
    )
    for known in SIZES.values():
        if _same_tensors(known, size):
            return known
    return size


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of layers or blocks, whose keys are a prefix and a number."""
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix))


def _same_tensors(known: SwinSize, inferred: SwinSize) -> bool:
    keys = ("width", "depths", "stage_heads", "window", "mlp_ratio")
    return all(getattr(known, key) == getattr(inferred, key) for key in keys)


def _window(rows: int, tokens: int | None, source: object) -> Triple:
    """The window (time, side, side) whose bias table has this many rows, and whose index has this many tokens."""
    windows: list[Triple] = []
    for side in range(1, MAX_WINDOW_SIDE + 1):
        for frames in range(1, MAX_WINDOW_FRAMES + 1):
            window = (frames, side, side)
            if (2 * frames - 1) * (2 * side - 1) ** 2 == rows and tokens in (None, prod(window)):
                windows.append(window)
    if not windows:
        raise InputError(
            source, found=f"a bias table of {rows} rows", expected="one of a 3D window", repair="give another file."
        )
    # Several windows may have tables of one size.
    default = SwinSize().window
    return default if default in windows else windows[0]


def without_indices(state: Mapping[str, Tensor], module: nn.Module) -> State:
    """Drop ``relative_position_index``, after a comparison with what the module computes.

    Raises:
        InputError: If an index differs, so that the window is another one.
    """
    modules = dict(module.named_modules())
    for key, value in state.items():
        owner = modules.get(key.removesuffix(f".{INDEX}"))
        if key.endswith(INDEX) and owner is not None and not torch.equal(value, owner.get_buffer(INDEX)):
            raise InputError(
                key,
                found="the index of another window",
                expected="the window of the model",
                repair="set window_size as in training.",
            )
    return {key: value for key, value in state.items() if not key.endswith(INDEX)}


def encoder_keys(weights: Mapping[str, Tensor], sensor: str, backbone: str) -> State:
    """Rename ``patch_emd.*`` and ``backbone.*`` to the keys of a CropModel.

    Args:
        weights: Tensors of an encoder.
        sensor: Name of the embedding.
        backbone: Name of the backbone.
    """
    renamed = {}
    for key, value in weights.items():
        key = re.sub(r"^patch_emd\.", f"embeddings.{sensor}.", key)
        renamed[re.sub(r"^backbone\.", f"backbones.{backbone}.", key)] = value
    return renamed
