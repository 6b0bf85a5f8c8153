"""The state of a run, and what must be unchanged when it is resumed: the experiment and its inputs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from agrifm.config import Experiment, parse
from agrifm.data.checksums import Checksum, changed, digest
from agrifm.data.folder import ChipFolder, SampleSource
from agrifm.errors import InputError, reason
from agrifm.io import whole, write_whole
from agrifm.tasks.fields import Fields
from agrifm.training.module import TrainingModule
from agrifm.training.samples.pretraining_data import fingerprint

RESUME, INPUTS = "resume.ckpt", "inputs.json"
SECTIONS = ("seed", "data", "augment", "model", "task", "teacher")  # of an experiment; they decide the result
STATE_KEYS = {"state_dict", "loops", "callbacks"}  # that Lightning writes
EXPECTED = "the same experiment on the same data; only 'training' and 'name' may change"
REPAIR = "restore what changed, choose another --out, or start again with --no-resume."

Checksums = dict[str, dict[str, Checksum]]  # by split and chip


def checksums_of(sources: Mapping[str, SampleSource], out: Path) -> Checksums:
    """Compute checksums of the chips of each split. Files that are unchanged since a run in ``out`` are not read."""
    known = read_checksums(out)
    chips = {split: source for split, source in sources.items() if isinstance(source, ChipFolder)}
    return {split: source.checksums(known.get(split)) for split, source in chips.items()}


def read_checksums(out: Path) -> Checksums:
    """Read the checksums of an earlier run in ``out``; none if their file is damaged, since they can be recomputed."""
    try:
        return TypeAdapter(Checksums).validate_json((out / INPUTS).read_bytes())
    except (OSError, ValidationError):
        return {}


def write_checksums(checksums: Checksums, out: Path) -> None:
    """Write checksums for the next run in ``out``."""
    write_whole(out / INPUTS, TypeAdapter(Checksums).dump_json(checksums).decode())


def inputs_of(
    checksums: Checksums, sources: Mapping[str, SampleSource], weights: Mapping[str, Tensor] | None
) -> dict[str, str]:
    """Return a fingerprint of each input of a run, by name."""
    inputs = {f"the {split} split": digest(of_split) for split, of_split in checksums.items()}
    shards = fingerprint(sources)
    if shards:
        inputs["the shards"] = shards
    if weights is not None:
        inputs["the start weights"] = fingerprint_of(weights)
    return inputs


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and numbers."""
    sha256 = hashlib.sha256()
    for key, value in sorted(weights.items()):
        sha256.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        # A tensor without dimensions cannot be viewed as bytes.
        if value.ndim:
            sha256.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
        else:
            sha256.update(repr(value).encode())
    return sha256.hexdigest()


def refuse_changed_chips(previous: Checksums, current: Checksums, state: Path) -> None:
    """Refuse to resume with other chips.

    Raises:
        InputError: If a chip was added, removed or changed since the run began; it names some of them.
    """
    for split, checksums in previous.items():
        changes = changed(checksums, current.get(split, {}))
        if changes:
            parts = [f"{len(names)} {kind}, e.g. '{names[0]}'" for kind, names in changes.items()]
            raise InputError(
                state, found=f"other chips in the {split} split: {'; '.join(parts)}", expected=EXPECTED, repair=REPAIR
            )


def with_sizes_of_run(experiment: Experiment, state: Path) -> Experiment:
    """Return the experiment with the sizes that an interrupted run began with, where it does not state them.

    Sizes follow from the training chips, which are compared by themselves. Earlier versions took other chips for them,
    so that deriving them again could give other ones.

    Args:
        experiment: The experiment as the user wrote it.
        state: State of the run.

    Raises:
        InputError: If the state does not open.
    """
    saved = _saved_experiment(WholeFiles().load_checkpoint(state, "cpu"))
    if saved.data.footprint is not None:
        experiment = experiment.with_footprint(saved.data.footprint)
    if isinstance(saved.task, Fields) and saved.task.pixel_size is not None:
        experiment = experiment.with_pixel(saved.task.pixel_size)
    return experiment


class SameExperiment(pl.Callback):
    """Refuse to resume a run whose experiment or data have changed."""

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Add the experiment and the fingerprints of its inputs to the state."""
        assert isinstance(pl_module, TrainingModule)
        checkpoint["experiment"] = pl_module.experiment.model_dump_json()
        checkpoint["inputs"] = dict(pl_module.inputs)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Compare the state with the experiment.

        Raises:
            InputError: If they differ; it names the differences.
        """
        assert isinstance(pl_module, TrainingModule)
        current = pl_module.experiment.model_dump(mode="json")
        saved = _saved_experiment(checkpoint).model_dump(mode="json")
        # Compared as text, because NaN differs from itself.
        different = [name for name in SECTIONS if repr(current[name]) != repr(saved.get(name))]
        different += _different_inputs(checkpoint, pl_module.inputs)
        if different:
            raise InputError(
                RESUME, found=f"a run with other values in {', '.join(different)}", expected=EXPECTED, repair=REPAIR
            )


def _saved_experiment(checkpoint: Mapping[str, Any]) -> Experiment:
    """The experiment of a state, with defaults for options that are newer than the state."""
    try:
        return parse(json.loads(checkpoint["experiment"]), RESUME, warn=False)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(RESUME, error) from error


def _different_inputs(checkpoint: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """Names of the inputs that are not those of a state."""
    saved = checkpoint.get("inputs")
    if not isinstance(saved, Mapping):
        # The first version saved the fingerprint of shards only.
        same_shards = checkpoint.get("data", "") == inputs.get("the shards", "")
        return [] if same_shards else ["the shards"]
    return [name for name in sorted({*saved, *inputs}) if saved.get(name) != inputs.get(name)]


class WholeFiles(TorchCheckpointIO):
    """Write the state for resuming atomically, and read it without running code from it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the target, then rename; nothing passes through the folder of temporary files."""
        # The writer of PyTorch reports a full disk in ways that differ between versions; that of Python does not.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with whole(Path(path)) as unfinished:
            unfinished.write_bytes(buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read tensors and plain values only.

        Raises:
            InputError: If the file does not open.
        """
        try:
            state = super().load_checkpoint(path, map_location, weights_only=True)
        except Exception as error:
            raise _damaged(path, error) from error
        # Spawned processes also return their results in files, which hold something else.
        if Path(path).name != RESUME:
            return state
        if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
            raise _damaged(path, ValueError("it holds something else"))
        return state


def _damaged(where: object, error: BaseException) -> InputError:
    return InputError(
        where,
        found=f"a state that does not open: {reason(error)}",
        expected="the state of an interrupted run",
        repair="start again with --no-resume; until then, last.safetensors keeps what was trained so far.",
    )
