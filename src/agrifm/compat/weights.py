"""Weights of any layout for a CropModel: the published file, fine-tuned originals, our own checkpoints."""

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
SHARED_PREFIX = f"backbones.{SHARED}."
RENAMED = (
    (r"^encoders\.encoders\.(\w+)\.patch_emd\.", r"embeddings.\1."),
    (r"^encoders\.encoders\.(\w+)\.backbone\.", r"backbones.\1."),
    (r"^neck\.", "decoder."),
    (r"^heads\.head\.", "head."),
)


def start_weights(experiment: Experiment) -> State | None:
    """Read the weights that ``start_from`` names, by the names of the model; None without ``start_from``.

    Raises:
        InputError: If the file does not open, is of an unknown layout, or was made for another model.
    """
    if experiment.start_from is None:
        return None
    path = weights_file(experiment.start_from)
    weights = _encoder_weights(path, experiment)
    refuse_not_finite(weights, path)
    return weights


def _encoder_weights(path: Path, experiment: Experiment) -> State:
    if _is_checkpoint(path):
        return _from_checkpoint(Checkpoint.load(path), experiment, path)
    state = read_state(path)
    if is_released(state):
        return _from_released(state, experiment, path)
    fine_tuned = from_original(state)
    if any(key.startswith("backbones.") for key in fine_tuned):
        return {key: value for key, value in fine_tuned.items() if key.startswith(ENCODER)}
    raise InputError(
        path,
        found=f"{len(state)} tensors, none matched; keys such as {', '.join(list(state)[:3])}",
        expected="the published AgriFM.pth, a fine-tuned original, or a checkpoint of ours",
        repair="give one of these, or leave 'start_from' out to train from random weights.",
    )


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == ".safetensors" and read_safetensors(path)[1].get("format") == FORMAT


def _from_checkpoint(checkpoint: Checkpoint, experiment: Experiment, path: Path) -> State:
    """All of a checkpoint but its head. A backbone that all sensors share becomes the backbone of each sensor."""
    source_model, model = checkpoint.experiment.model, experiment.model
    _refuse_other_model(model, source_model.patch, source_model.swin, path)
    wanted = ENCODER
    if model.day_of_year == source_model.day_of_year:
        wanted += ("context.",)
    if source_model.decoder == model.decoder == "light":
        wanted += ("decoder.",)
    weights = {key: value for key, value in checkpoint.weights.items() if key.startswith(wanted)}
    if not source_model.shared_backbone or model.shared_backbone:
        return weights

    sensors = names(experiment.data.sensors)
    source_sensors = names(checkpoint.experiment.data.sensors)
    missing = [name for name in sensors if name not in source_sensors]
    if missing:
        raise InputError(
            path,
            found=f"sensors {', '.join(source_sensors)}",
            expected=", ".join(sensors),
            repair=f"leave {missing[0]} out, or pre-train with it.",
        )
    copied = {}
    for key, value in weights.items():
        if key.startswith(SHARED_PREFIX):
            for name in sensors:
                copied[f"backbones.{name}.{key.removeprefix(SHARED_PREFIX)}"] = value
        elif _belongs_to(key, sensors):
            copied[key] = value
    return copied


def _belongs_to(key: str, sensors: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of these sensors, or to none in particular."""
    owner = re.match(r"(?:embeddings|context|decoder\.pools)\.(\w+)\.", key)
    return owner is None or owner[1] in sensors


def _from_released(state: Mapping[str, Tensor], experiment: Experiment, path: Path) -> State:
    model = experiment.model
    weights: State = {}
    for sensor in names(experiment.data.sensors):
        released = released_encoder(state, sensor, path)
        _refuse_other_model(model, released.patch, released.size, path)
        weights |= encoder_keys(released.weights, sensor, SHARED if model.shared_backbone else sensor)
    return weights


def _refuse_other_model(model: ModelConfig, patch: tuple[int, ...], size: SwinSize, path: Path) -> None:
    """Refuse weights with another patch or size than the model."""
    if model.patch != patch:
        raise InputError(
            f"model.patch for {path}",
            found=f"{list(model.patch)}",
            expected=f"{list(patch)}, the patch of the weights",
            repair=f"set 'patch: {list(patch)}' in the model section.",
        )
    for key in ("width", "depths", "stage_heads", "window"):
        ours, theirs = getattr(model.swin, key), getattr(size, key)
        if ours != theirs:
            name = key.removeprefix("stage_")
            written = f"{{width: {size.width}, depths: {list(size.depths)}, heads: {list(size.stage_heads)}}}"
            raise InputError(
                f"model.size for {path}",
                found=f"{name} {ours}",
                expected=f"{name} {theirs}, that of the weights",
                repair=f"set 'size: {'base' if size == SwinSize() else written}' in the model section, "
                "or leave start_from out.",
            )


def from_original(state: Mapping[str, Tensor]) -> State:
    """Rename the keys of a fine-tuned original (``encoders.encoders.S2...``, ``neck...``, ``heads...``)."""
    renamed = {}
    for key, value in state.items():
        # Only the neck has batch norm, whose counters belong to the state of the decoder.
        if key.endswith((INDEX, "num_batches_tracked")) and not key.startswith("neck."):
            continue
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def open_checkpoint(path: Path, experiment: Experiment) -> Checkpoint:
    """Open a checkpoint of ours, or a fine-tuned original with the experiment that it was made with.

    Raises:
        InputError: If the file does not open or does not fit the experiment.
    """
    if _is_checkpoint(path):
        return Checkpoint.load(path)
    model = build(experiment)
    weights = from_original(without_indices(read_state(path), model))
    load_strict(model, weights, may_be_new=("context.", "normalize."))
    return Checkpoint(experiment, model.state_dict())


def released_layout(checkpoint: Checkpoint, where: object) -> State:
    """Return embeddings and shared backbone of a checkpoint under the keys of the published file.

    Raises:
        InputError: If the sensors do not share a backbone, or one of them has no name there.
    """
    sensors = names(checkpoint.experiment.data.sensors)
    unknown = [name for name in sensors if name not in EMBEDDINGS]
    if not checkpoint.experiment.model.shared_backbone or unknown:
        raise InputError(
            where,
            found=f"sensor {unknown[0]}" if unknown else "a model without shared_backbone",
            expected=f"one backbone for all of {', '.join(EMBEDDINGS)}, as in the published file",
            repair="pre-train with 'shared_backbone: true' and these sensors.",
        )
    state = {}
    for sensor in sensors:
        for ours, theirs in (("weight", "weights"), ("bias", "bias")):
            value = checkpoint.weights[f"embeddings.{sensor}.proj.{ours}"]
            state[f"encoder.{EMBEDDINGS[sensor]}.{theirs}"] = value
    for key, value in checkpoint.weights.items():
        if key.startswith(SHARED_PREFIX):
            state[f"encoder.backbone.{key.removeprefix(SHARED_PREFIX)}"] = value
    return state


def convert(source: Path, target: Path, layout: Literal["same", "released"] = "same") -> State:
    """Write the tensors of a weights file, without computed indices.

    Args:
        source: The weights file.
        target: A ``.safetensors`` file; with the published layout also ``.pth``.
        layout: The layout of the source, or that of the published file.

    Raises:
        InputError: If the source does not open or does not fit, or the target has another suffix.
    """
    suffixes = (".safetensors", ".pth") if layout == "released" else (".safetensors",)
    if target.suffix not in suffixes:
        raise InputError(
            target, found=target.suffix or "no suffix", expected=" or ".join(suffixes), repair="change the suffix."
        )
    tensors = read_state(source) if layout == "same" else released_layout(Checkpoint.load(source), source)
    state = {key: value.contiguous() for key, value in tensors.items() if not key.endswith(INDEX)}
    if target.suffix == ".pth":
        with whole(target) as unfinished:
            torch.save(state, unfinished)
    else:
        write_safetensors(target, state, {"format": "pt", "source": source.name})
    return state


def describe_weights(path: Path) -> dict[str, str]:
    """Describe a weights file by its tensors."""
    state = read_state(path)
    count = sum(value.numel() for value in state.values())
    facts = {"tensors": str(len(state)), "numbers": f"{count:,}"}
    if is_released(state):
        sensors = [sensor for sensor in EMBEDDINGS if _has_sensor(state, sensor)]
        released = released_encoder(state, sensors[0], path)
        facts["layout"] = "published AgriFM (encoder only, shared backbone)"
        facts["sensors"] = ", ".join(sensors)
        facts["patch"] = str(released.patch)
        return facts | _size_facts(released.size)

    renamed = from_original(state)
    backbones = _names_below(renamed, "backbones")
    if not backbones:
        return facts | {"layout": "unknown"}
    sensors = _names_below(renamed, "embeddings")
    prefix = f"backbones.{backbones[0]}."
    backbone = {key.removeprefix(prefix): value for key, value in renamed.items() if key.startswith(prefix)}
    facts["layout"] = "AgriFM checkpoint" if renamed.keys() == state.keys() else "fine-tuned original"
    facts["sensors"] = ", ".join(sensors)
    facts["patch"] = str(tuple(renamed[f"embeddings.{sensors[0]}.proj.weight"].shape[2:]))
    return facts | _size_facts(infer_size(backbone, path))


def _names_below(state: Mapping[str, Tensor], section: str) -> list[str]:
    """Names at the second place of the keys of a section."""
    return sorted({key.split(".")[1] for key in state if key.startswith(f"{section}.")})


def _has_sensor(state: Mapping[str, Tensor], sensor: str) -> bool:
    try:
        released_encoder(state, sensor, "")
    except InputError:
        return False
    return True


def _size_facts(size: SwinSize) -> dict[str, str]:
    return {
        "width": str(size.width),
        "depths": str(size.depths),
        "heads": str(size.stage_heads),
        "window": str(size.window),
    }
