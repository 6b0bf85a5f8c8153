"""Weight files of the original: opened as checkpoints, described, and written in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agrifm.checkpoint import Checkpoint, build, is_checkpoint, load_strict
from agrifm.config import Experiment
from agrifm.errors import InputError
from agrifm.io import whole
from agrifm.nn.model import SHARED
from agrifm.nn.swin import SwinSize
from agrifm.sensors import names
from agrifm.tensor_files import write_safetensors
from agrifm.weight_files.layouts import (
    EMBEDDINGS,
    INDEX,
    State,
    from_original,
    infer_size,
    is_released,
    read_state,
    released_encoder,
    without_indices,
)


def open_checkpoint(path: Path, experiment: Experiment) -> Checkpoint:
    """Open a checkpoint of ours, or a fine-tuned original with the experiment it was made with.

    Raises:
        InputError: If the file does not open or does not fit the experiment.
    """
    if is_checkpoint(path):
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
