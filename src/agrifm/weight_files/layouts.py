"""Layouts of the original's weight files: read without running code, and the model that the tensors describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agrifm.errors import InputError, counted
from agrifm.nn.swin import SIZES, SwinSize
from agrifm.nn.windows import Triple
from agrifm.tensor_files import read_safetensors, read_torch, refuse_expanded

EMBEDDINGS = {"S2": "S2_patch_emd", "Landsat": "HLSL30_patch_emd", "Modis": "Modis_patch_emd"}
INDEX = "relative_position_index"
# Names of weights in a fine-tuned original, and in a CropModel.
FINE_TUNED_KEYS = (
    (r"^encoders\.encoders\.(\w+)\.patch_emd\.", r"embeddings.\1."),
    (r"^encoders\.encoders\.(\w+)\.backbone\.", r"backbones.\1."),
    (r"^neck\.", "decoder."),
    (r"^heads\.head\.", "head."),
)
SIZE_FACTS = ("width", "depths", "stage_heads", "window", "mlp_ratio")  # what the tensors say of a size
State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """Read the tensors of a ``.pth`` or ``.safetensors`` file by key; nothing in it is executed.

    The state may lie inside ``state_dict`` (as mmengine writes it), ``model`` or ``module``. Anything beside it, such
    as hooks or optimizer state, is ignored. A leading ``module.`` of data parallelism is removed.

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
    """One sensor's encoder in a released file.

    Args:
        size: Size of the backbone, inferred from the tensors.
        patch: Patch of the embedding.
        bands: Number of bands of the sensor.
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
    """Return the encoder of one sensor from a state of the published layout.

    Raises:
        InputError: If the layout is another one, or lacks the sensor.
    """
    prefix = f"encoder.{EMBEDDINGS.get(sensor, sensor + '_patch_emd')}"
    if f"{prefix}.weights" not in state or f"{prefix}.bias" not in state:
        embeddings = sorted(key.split(".")[1] for key in state if key.endswith("_patch_emd.weights"))
        raise InputError(
            f"{source}: {prefix}.weights",
            found=f"embeddings {', '.join(embeddings)}" if embeddings else f"keys such as {', '.join(list(state)[:3])}",
            expected="the layout of the published AgriFM.pth with this sensor",
            repair=f"use one of the sensors {', '.join(EMBEDDINGS)}, or a file of the published layout.",
        )
    embedding = state[f"{prefix}.weights"]
    backbone_prefix = "encoder.backbone."
    backbone = {
        key.removeprefix(backbone_prefix): value for key, value in state.items() if key.startswith(backbone_prefix)
    }
    size = infer_size(backbone, source)
    weights = {f"backbone.{key}": value for key, value in backbone.items() if not key.endswith(INDEX)}
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
        stages = _count(backbone, "layers.")
        depths = tuple(_count(backbone, f"layers.{i}.blocks.") for i in range(stages))
        tables = [backbone[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)]
        hidden, width = backbone["layers.0.blocks.0.mlp.fc1.weight"].shape
    except (ValueError, KeyError) as error:
        raise InputError(
            source,
            found=f"keys such as {', '.join(list(backbone)[:3]) or '(none)'}",
            expected="a Video Swin backbone: layers.<stage>.blocks.<block>.attn...",
            repair="give a file that holds one.",
        ) from error
    index = backbone.get(f"layers.0.blocks.0.attn.{INDEX}")
    tokens = None if index is None else index.shape[0]
    size = SwinSize(
        width=width,
        depths=depths,
        heads=tuple(table.shape[1] for table in tables),
        window=_window(tables[0].shape[0], tokens, source),
        mlp_ratio=hidden / width,
    )
    for known in SIZES.values():
        if all(getattr(known, fact) == getattr(size, fact) for fact in SIZE_FACTS):
            return known
    return size


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of stages or blocks whose keys begin with a prefix."""
    numbers = [int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix)]
    return 1 + max(numbers)


def _window(rows: int, tokens: int | None, source: object) -> Triple:
    """Return the window (time, side, side) whose bias table has this many rows, and whose index this many tokens."""
    windows: list[Triple] = []
    for side in range(1, 33):
        for t in range(1, 65):
            has_rows = (2 * t - 1) * (2 * side - 1) ** 2 == rows
            if has_rows and tokens in (None, t * side * side):
                windows.append((t, side, side))
    if not windows:
        raise InputError(
            source,
            found=f"a bias table of {counted(rows, 'row')}",
            expected="one of a 3D window",
            repair="give another file.",
        )
    default = SwinSize().window
    return default if default in windows else windows[0]


def without_indices(state: Mapping[str, Tensor], module: nn.Module) -> State:
    """Remove ``relative_position_index`` after comparing it with the one that the module computes.

    Raises:
        InputError: If an index differs, which means another window.
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
    """Rename ``patch_emd.*`` and ``backbone.*`` to the names in a CropModel."""
    renamed = {}
    for key, value in weights.items():
        key = re.sub(r"^patch_emd\.", f"embeddings.{sensor}.", key)
        renamed[re.sub(r"^backbone\.", f"backbones.{trunk}.", key)] = value
    return renamed


def from_original(state: Mapping[str, Tensor]) -> State:
    """Rename the keys of a fine-tuned original (``encoders.encoders.S2...``, ``neck...``, ``heads...``)."""
    renamed = {}
    for key, value in state.items():
        is_computed = key.endswith((INDEX, "num_batches_tracked")) and not key.startswith("neck.")
        if is_computed:
            continue
        for pattern, replacement in FINE_TUNED_KEYS:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed
