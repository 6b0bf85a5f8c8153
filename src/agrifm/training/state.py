"""What a run that goes on must find as it left it: its state, its experiment and what it learns from."""

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

from agrifm.data.checksums import Checksum, changed, digest
from agrifm.data.folder import ChipFolder, SampleSource
from agrifm.errors import InputError, reason
from agrifm.io import whole, write_whole
from agrifm.training.mean_teacher import fingerprint
from agrifm.training.module import TrainingModule

RESUME, INPUTS = "resume.ckpt", "inputs.json"
SECTIONS = ("seed", "data", "augment", "model", "task", "teacher")  # of an experiment; they decide the result
EXPECTED = "the same experiment on the same data; only 'training' and 'name' may change"
REPAIR = "restore what changed, choose another --out, or start again with --no-resume."

Checksums = dict[str, dict[str, Checksum]]


def checksums_of(sources: Mapping[str, SampleSource], out: Path) -> Checksums:
    """Checksums of the chips of each split; files that did not change since an earlier run in ``out`` are not read."""
    known = read_checksums(out)
    chips = {split: source for split, source in sources.items() if isinstance(source, ChipFolder)}
    return {split: source.checksums(known.get(split)) for split, source in chips.items()}


def read_checksums(out: Path) -> Checksums:
    """Checksums that an earlier run in ``out`` left; none where their file is damaged, because it can be made again."""
    try:
        return TypeAdapter(Checksums).validate_json((out / INPUTS).read_bytes())
    except (OSError, ValidationError):
        return {}


def write_checksums(found: Checksums, out: Path) -> None:
    """Keep checksums for the next run in ``out``."""
    write_whole(out / INPUTS, TypeAdapter(Checksums).dump_json(found).decode())


def inputs_of(
    found: Checksums, sources: Mapping[str, SampleSource], weights: Mapping[str, Tensor] | None
) -> dict[str, str]:
    """What a run learns from: a fingerprint by name."""
    inputs = {f"the {split} split": digest(of_split) for split, of_split in found.items()}
    if shards := fingerprint(sources):
        inputs["the shards"] = shards
    if weights is not None:
        inputs["the start weights"] = fingerprint_of(weights)
    return inputs


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and numbers."""
    total = hashlib.sha256()
    for key, value in sorted(weights.items()):
        total.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.ndim else repr(value).encode()
        )
    return total.hexdigest()


def refuse_changed_chips(before: Checksums, now: Checksums, state: Path) -> None:
    """Refuse to go on with other chips, naming some of them.

    Raises:
        InputError: If a chip was added, removed or changed since the run began.
    """
    for split in before:
        kinds = changed(before[split], now.get(split, {}))
        if kinds:
            parts = [f"{len(names)} {kind}, e.g. '{names[0]}'" for kind, names in kinds.items()]
            raise InputError(
                state, found=f"other chips in the {split} split: {'; '.join(parts)}", expected=EXPECTED, repair=REPAIR
            )


class SameExperiment(pl.Callback):
    """Refuse to resume a run whose experiment or data have changed."""

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Keep the experiment beside the state."""
        assert isinstance(pl_module, TrainingModule)
        checkpoint["experiment"] = pl_module.experiment.model_dump_json()
        checkpoint["inputs"] = dict(pl_module.inputs)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Compare.

        Raises:
            InputError: names what differs.
        """
        assert isinstance(pl_module, TrainingModule)
        ours = pl_module.experiment.model_dump(mode="json")
        theirs = _experiment_of(checkpoint)
        different = [name for name in SECTIONS if repr(ours[name]) != repr(theirs.get(name))]  # NaN differs from itself
        different += _other_inputs(checkpoint, pl_module.inputs)
        if different:
            raise InputError(
                RESUME, found=f"a run with other values in {', '.join(different)}", expected=EXPECTED, repair=REPAIR
            )


def _experiment_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment of a state as plain values, with defaults of options that are newer than it."""
    from agrifm.config import parse

    try:
        return parse(json.loads(checkpoint["experiment"]), RESUME, warn=False).model_dump(mode="json")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(RESUME, error) from error


def _other_inputs(checkpoint: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    before = checkpoint.get("inputs")
    if not isinstance(before, Mapping):
        # The version before kept the fingerprint of shards alone.
        return ["the shards"] if checkpoint.get("data", "") != inputs.get("the shards", "") else []
    return [name for name in sorted({*before, *inputs}) if before.get(name) != inputs.get(name)]


class WholeFiles(TorchCheckpointIO):
    """Writes the state for resuming whole and in its place, and reads it without running code from it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the target, then rename; nothing passes through the folder of temporary files."""
        # PyTorch's own writer reports a full disk in ways that differ between versions; that of Python does not.
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
        if Path(path).name != RESUME:  # what spawned processes hand back
            return state
        if not isinstance(state, dict) or not {"state_dict", "loops", "callbacks"} <= state.keys():
            raise _damaged(path, ValueError("it holds something else"))
        return state


def _damaged(where: object, error: BaseException) -> InputError:
    return InputError(
        where,
        found=f"a state that does not open: {reason(error)}",
        expected="the state of an interrupted run",
        repair="start again with --no-resume; what was trained so far is kept in last.safetensors until then.",
    )
