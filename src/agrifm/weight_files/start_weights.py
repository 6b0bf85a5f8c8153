"""The weights that an experiment starts from: of a checkpoint, the published file or a fine-tuned original."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from agrifm.checkpoint import Checkpoint, is_checkpoint
from agrifm.config import Experiment
from agrifm.errors import InputError, counted, nearest
from agrifm.network.hub import is_hub, local_file
from agrifm.nn.model import SHARED, ModelConfig
from agrifm.nn.swin import SwinSize
from agrifm.sensors import names
from agrifm.tensor_files import refuse_not_finite
from agrifm.weight_files.layouts import (
    State,
    encoder_keys,
    from_original,
    is_released,
    read_state,
    released_encoder,
)

SHIPPED = Path(__file__).parents[1] / "weights"  # pre-trained weights that come with the package
ENCODER = ("embeddings.", "backbones.")
SENSOR_KEY = re.compile(r"(?:embeddings|context|decoder\.pools)\.(\w+)\.")


def start_weights(experiment: Experiment) -> State | None:
    """Load the weights that ``start_from`` names, by the names of the experiment's model.

    Returns:
        The weights, or None for an experiment without ``start_from``.

    Raises:
        InputError: If the file does not open, has an unknown layout, or was made for another model.
    """
    if experiment.start_from is None:
        return None
    path = weights_path(experiment.start_from)
    weights = _read_weights(path, experiment)
    refuse_not_finite(weights, path)
    return weights


def weights_path(start_from: Path) -> Path:
    """Return the file that ``start_from`` means: a path, a model on a hub, or weights that come with the package.

    Args:
        start_from: Path, ``hf://org/name[@revision][/file]``, or name of weights.

    Raises:
        InputError: If it is none of these, or the hub does not serve the file.
    """
    if is_hub(start_from):
        return local_file(start_from)
    is_path = start_from.suffix or len(start_from.parts) > 1 or start_from.exists()
    if is_path:
        return start_from
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
    name = str(start_from)
    if name not in shipped:
        raise InputError(
            f"start_from: {name}",
            found="no such file, and no weights of that name",
            expected=f"a path of weights, or one of {', '.join(shipped)}",
            repair=nearest(name, shipped),
        )
    return shipped[name]


def _read_weights(path: Path, experiment: Experiment) -> State:
    if is_checkpoint(path):
        return _from_checkpoint(Checkpoint.load(path), experiment, path)
    state = read_state(path)
    if is_released(state):
        return _from_released(state, experiment, path)
    fine_tuned = from_original(state)
    if any(key.startswith("backbones.") for key in fine_tuned):
        return {key: value for key, value in fine_tuned.items() if key.startswith(ENCODER)}
    raise InputError(
        path,
        found=f"{counted(len(state), 'tensor')}, none matched; keys such as {', '.join(list(state)[:3])}",
        expected="the published AgriFM.pth, a fine-tuned original, or a checkpoint of this project",
        repair="give one of these, or leave 'start_from' out to train from random weights.",
    )


def _from_checkpoint(checkpoint: Checkpoint, experiment: Experiment, path: Path) -> State:
    """Take all weights of a checkpoint but its head; a shared backbone becomes the backbone of each sensor."""
    source, model = checkpoint.experiment.model, experiment.model
    if not checkpoint.experiment.network or not source.has_pyramid:
        kind = "'branch: pixel'" if checkpoint.experiment.network else "pixel classifiers alone"
        raise InputError(
            path,
            found=f"a checkpoint with {kind}, which has no encoder",
            expected="a checkpoint with 'branch: pyramid' or 'branch: both'",
            repair="give another checkpoint, or leave 'start_from' out to train from random weights.",
        )
    _refuse_other_model(model, source.patch, source.swin, path)
    prefixes = ENCODER
    if model.day_of_year == source.day_of_year:
        prefixes += ("context.",)
    if source.decoder == model.decoder == "pyramid":
        prefixes += ("decoder.",)
    weights = {key: value for key, value in checkpoint.weights.items() if key.startswith(prefixes)}
    if source.shared_backbone and not model.shared_backbone:
        return _with_own_backbones(weights, checkpoint.experiment, experiment, path)
    return weights


def _with_own_backbones(weights: State, source: Experiment, experiment: Experiment, path: Path) -> State:
    """Copy the shared backbone to each sensor of the experiment; weights of other sensors are left out."""
    trained, sensors = names(source.data.sensors), names(experiment.data.sensors)
    for sensor in sensors:
        if sensor not in trained:
            raise InputError(
                path,
                found=f"sensors {', '.join(trained)}",
                expected=", ".join(sensors),
                repair=f"leave {sensor} out, or pre-train with it.",
            )
    shared = f"backbones.{SHARED}."
    own: State = {}
    for key, value in weights.items():
        if key.startswith(shared):
            block = key.removeprefix(shared)
            own |= {f"backbones.{sensor}.{block}": value for sensor in sensors}
        elif _belongs_to(key, sensors):
            own[key] = value
    return own


def _belongs_to(key: str, sensors: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of these sensors, or to none in particular."""
    owner = SENSOR_KEY.match(key)
    return owner is None or owner[1] in sensors


def _from_released(state: Mapping[str, Tensor], experiment: Experiment, path: Path) -> State:
    model = experiment.model
    weights: State = {}
    for sensor in names(experiment.data.sensors):
        encoder = released_encoder(state, sensor, path)
        _refuse_other_model(model, encoder.patch, encoder.size, path)
        weights |= encoder_keys(encoder.weights, sensor, SHARED if model.shared_backbone else sensor)
    return weights


def _refuse_other_model(model: ModelConfig, patch: tuple[int, ...], size: SwinSize, path: Path) -> None:
    """Refuse weights of another patch or size.

    Raises:
        InputError: Names the key to change.
    """
    if model.patch != patch:
        raise InputError(
            f"model.patch for {path}",
            found=f"{list(model.patch)}",
            expected=f"{list(patch)}, the patch of the weights",
            repair=f"set 'patch: {list(patch)}' in the model section.",
        )
    ours, theirs = _size_facts(model.swin), _size_facts(size)
    for key, value in ours.items():
        if value != theirs[key]:
            raise InputError(
                f"model.size for {path}",
                found=f"{key} {value}",
                expected=f"{key} {theirs[key]}, that of the weights",
                repair=f"set '{_size_setting(size)}' in the model section, or leave start_from out.",
            )


def _size_facts(size: SwinSize) -> dict[str, object]:
    return {"width": size.width, "depths": size.depths, "heads": size.stage_heads, "window": size.window}


def _size_setting(size: SwinSize) -> str:
    if size == SwinSize():
        return "size: base"
    return f"size: {{width: {size.width}, depths: {list(size.depths)}, heads: {list(size.stage_heads)}}}"
