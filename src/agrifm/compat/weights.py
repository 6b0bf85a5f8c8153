"""Weights of any layout to those of a CropModel: the published file, fine-tuned originals, our own checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agrifm.checkpoint import FORMAT, Checkpoint, build, load_strict, weights_file
from agrifm.compat.layouts import (
    EMBEDDINGS,
    INDEX,
    State,
    encoder_keys,
    infer_size,
    is_released,
    read_state,
    released_encoder,
    without_indices,
)
from agrifm.config import Experiment
from agrifm.errors import InputError
from agrifm.io import whole
from agrifm.nn.model import SHARED, ModelConfig
from agrifm.nn.swin import SwinSize
from agrifm.sensors import names
from agrifm.tensor_files import read_safetensors, refuse_not_finite, write_safetensors

ENCODER = ("embeddings.", "backbones.")
RENAMED = (
    (r"^encoders\.encoders\.(\w+)\.patch_emd\.", r"embeddings.\1."),
    (r"^encoders\.encoders\.(\w+)\.backbone\.", r"backbones.\1."),
    (r"^neck\.", "decoder."),
    (r"^heads\.head\.", "head."),
)


def start_weights(experiment: Experiment) -> State | None:
    """The encoder weights that an experiment's ``start_from`` names, by the names of its model; None without one.

    Raises:
        InputError: If the file does not open, is of an unknown layout, or was made for another model.
    """
    if experiment.start_from is None:
        return None
    path = weights_file(experiment.start_from)
    weights = _encoder(path, experiment)
    refuse_not_finite(weights, path)
    return weights


def _encoder(path: Path, experiment: Experiment) -> State:
    if _is_ours(path):
        return _ours(Checkpoint.load(path), experiment, path)
    state = read_state(path)
    if is_released(state):
        return _released(state, experiment, path)
    fine_tuned = from_original(state)
    if any(key.startswith("backbones.") for key in fine_tuned):
        return {key: value for key, value in fine_tuned.items() if key.startswith(("embeddings.", "backbones."))}
    raise _unknown_layout(path, state)


def _is_ours(path: Path) -> bool:
    return path.suffix == ".safetensors" and read_safetensors(path)[1].get("format") == FORMAT


def _ours(checkpoint: Checkpoint, experiment: Experiment, path: Path) -> State:
    """All of a checkpoint but its head; a backbone that all sensors shared becomes that of each."""
    before, model, sensors = checkpoint.experiment.model, experiment.model, names(experiment.data.sensors)
    _same_model(model, before.patch, before.swin, path)
    wanted = (*ENCODER, "context.") if model.day_of_year == before.day_of_year else ENCODER
    if before.decoder == model.decoder == "light":
        wanted += ("decoder.",)
    if not before.shared_backbone or model.shared_backbone:
        return {key: value for key, value in checkpoint.weights.items() if key.startswith(wanted)}
    missing = [name for name in sensors if name not in names(checkpoint.experiment.data.sensors)]
    if missing:
        raise InputError(
            path,
            found=f"sensors {', '.join(names(checkpoint.experiment.data.sensors))}",
            expected=", ".join(sensors),
            repair=f"leave {missing[0]} out, or pre-train with it.",
        )
    shared = f"backbones.{SHARED}."
    found = {
        key: value
        for key, value in checkpoint.weights.items()
        if key.startswith(wanted) and not key.startswith(shared) and _of_one(key, sensors)
    }
    trunk = {key.removeprefix(shared): value for key, value in checkpoint.weights.items() if key.startswith(shared)}
    return found | {f"backbones.{name}.{key}": value for name in sensors for key, value in trunk.items()}


def _of_one(key: str, sensors: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of these sensors, or to none in particular."""
    owner = re.match(r"(?:embeddings|context|decoder\.pools)\.(\w+)\.", key)
    return owner is None or owner[1] in sensors


def _released(state: Mapping[str, Tensor], experiment: Experiment, path: Path) -> State:
    model, weights = experiment.model, {}
    for sensor in names(experiment.data.sensors):
        found = released_encoder(state, sensor, path)
        _same_model(model, found.patch, found.size, path)
        weights |= encoder_keys(found.weights, sensor, SHARED if model.shared_backbone else sensor)
    return weights


def _same_model(model: ModelConfig, patch: tuple[int, ...], size: SwinSize, path: Path) -> None:
    if model.patch != patch:
        raise InputError(
            f"model.patch for {path}",
            found=f"{list(model.patch)}",
            expected=f"{list(patch)}, the patch of the weights",
            repair=f"set 'patch: {list(patch)}' in the model section.",
        )
    own = model.swin
    facts = {
        "width": (own.width, size.width),
        "depths": (own.depths, size.depths),
        "heads": (own.stage_heads, size.stage_heads),
        "window": (own.window, size.window),
    }
    wrong = {key: pair for key, pair in facts.items() if pair[0] != pair[1]}
    if wrong:
        key, (mine, theirs) = next(iter(wrong.items()))
        written = f"size: {{width: {size.width}, depths: {list(size.depths)}, heads: {list(size.stage_heads)}}}"
        name = "size: base" if size == SwinSize() else written
        raise InputError(
            f"model.size for {path}",
            found=f"{key} {mine}",
            expected=f"{key} {theirs}, that of the weights",
            repair=f"set '{name}' in the model section, or leave start_from out.",
        )


def from_original(state: Mapping[str, Tensor]) -> State:
    """Rename the keys of a fine-tuned original (``encoders.encoders.S2...``, ``neck...``, ``heads...``)."""
    renamed = {}
    for key, value in state.items():
        if not key.endswith((INDEX, "num_batches_tracked")) or key.startswith("neck."):
            for pattern, replacement in RENAMED:
                key = re.sub(pattern, replacement, key)
            renamed[key] = value
    return renamed


def open_checkpoint(path: Path, experiment: Experiment) -> Checkpoint:
    """Open a checkpoint of ours, or a fine-tuned original with the experiment it was made with.

    Raises:
        InputError: If the file does not open or does not fit the experiment.
    """
    if _is_ours(path):
        return Checkpoint.load(path)
    model = build(experiment)
    weights = from_original(without_indices(read_state(path), model))
    load_strict(model, weights, may_be_new=("context.", "normalize."))
    return Checkpoint(experiment, model.state_dict())


def released_layout(checkpoint: Checkpoint, where: object) -> State:
    """Embeddings and shared backbone of a checkpoint under the keys of the published file.

    Raises:
        InputError: If every sensor has a backbone of its own, or one has no name there.
    """
    sensors = names(checkpoint.experiment.data.sensors)
    unknown = [name for name in sensors if name not in EMBEDDINGS]
    if not checkpoint.experiment.model.shared_backbone or unknown:
        raise InputError(
            where,
            found=f"sensor {unknown[0]}" if unknown else "a model without shared_backbone",
            expected=f"one backbone for all of {', '.join(EMBEDDINGS)}, as the published file has",
            repair="pre-train with 'shared_backbone: true' and these sensors.",
        )
    state, trunk = {}, f"backbones.{SHARED}."
    for sensor in sensors:
        for ours, theirs in (("weight", "weights"), ("bias", "bias")):
            value = checkpoint.weights[f"embeddings.{sensor}.proj.{ours}"]
            state[f"encoder.{EMBEDDINGS[sensor]}.{theirs}"] = value
    return state | {
        f"encoder.backbone.{key.removeprefix(trunk)}": value
        for key, value in checkpoint.weights.items()
        if key.startswith(trunk)
    }


def convert(source: Path, target: Path, layout: Literal["same", "released"] = "same") -> State:
    """Write the tensors of any weights file, without computed indices.

    Args:
        source: The weights file.
        target: A ``.safetensors`` file; of the published layout also ``.pth``.
        layout: The source's own, or that of the published file.

    Raises:
        InputError: If the source does not open or does not fit, or the target has another ending.
    """
    endings = (".safetensors", ".pth")[: 1 + (layout == "released")]
    if target.suffix not in endings:
        raise InputError(
            target, found=target.suffix or "no suffix", expected=" or ".join(endings), repair="name it so."
        )
    found = read_state(source) if layout == "same" else released_layout(Checkpoint.load(source), source)
    state = {key: value.contiguous() for key, value in found.items() if not key.endswith(INDEX)}
    if target.suffix == ".pth":
        with whole(target) as unfinished:
            torch.save(state, unfinished)
    else:
        write_safetensors(target, state, {"format": "pt", "source": source.name})
    return state


def describe_weights(path: Path) -> dict[str, str]:
    """What a weights file holds, read off its tensors."""
    state = read_state(path)
    facts = {"tensors": str(len(state)), "numbers": f"{sum(value.numel() for value in state.values()):,}"}
    if is_released(state):
        sensors = [sensor for sensor in ("S2", "Landsat", "Modis") if _has(state, sensor)]
        found = released_encoder(state, sensors[0], path)
        facts |= {"layout": "published AgriFM (encoder only, shared backbone)", "sensors": ", ".join(sensors)}
        return facts | {"patch": str(found.patch), **_size_facts(found.size)}
    renamed = from_original(state)
    trunks = sorted({key.split(".")[1] for key in renamed if key.startswith("backbones.")})
    if not trunks:
        return facts | {"layout": "unknown"}
    prefix = f"backbones.{trunks[0]}."
    trunk = {key.removeprefix(prefix): value for key, value in renamed.items() if key.startswith(prefix)}
    embedded = sorted({key.split(".")[1] for key in renamed if key.startswith("embeddings.")})
    patch = tuple(renamed[f"embeddings.{embedded[0]}.proj.weight"].shape[2:])
    ours = renamed.keys() == state.keys()
    layout = "AgriFM checkpoint" if ours else "fine-tuned original"
    facts |= {"layout": layout, "sensors": ", ".join(embedded), "patch": str(patch)}
    return facts | _size_facts(infer_size(trunk, path))


def _has(state: Mapping[str, Tensor], sensor: str) -> bool:
    try:
        return bool(released_encoder(state, sensor, ""))
    except InputError:
        return False


def _size_facts(size: SwinSize) -> dict[str, str]:
    return {
        "width": str(size.width),
        "depths": str(size.depths),
        "heads": str(size.stage_heads),
        "window": str(size.window),
    }


def _unknown_layout(path: Path, state: Mapping[str, Tensor]) -> InputError:
    return InputError(
        path,
        found=f"{len(state)} tensors, none matched; keys such as {', '.join(list(state)[:3])}",
        expected="the published AgriFM.pth, a fine-tuned original, or a checkpoint of ours",
        repair="give one of these, or leave 'start_from' out to train from random weights.",
    )
