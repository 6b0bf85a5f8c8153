"""The file of a checkpoint: several stored models, and a header about all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor

from agrifm.checkpoint.header import damaged, read_calibration, read_entry, read_experiment
from agrifm.checkpoint.stored_model import PixelsDocument, StoredModel
from agrifm.checkpoint.versions import library_versions
from agrifm.errors import InputError, counted
from agrifm.tasks.calibration import Calibration
from agrifm.tensor_files import read_safetensors, refuse_not_finite, write_safetensors

FORMAT = "agrifm-checkpoint-1"
MEMBER_SEPARATOR = "/"  # between the number of another model in the same file and the name of its weight


@dataclass(frozen=True)
class Facts:
    """What the header says about the whole file, with the names that :class:`agrifm.checkpoint.Checkpoint` uses."""

    scores: dict[str, float]
    epoch: int
    versions: dict[str, str]
    calibration: Calibration | None
    flips: bool
    compared: dict[str, float]


def write_file(path: Path, models: Sequence[StoredModel], facts: Facts) -> None:
    """Write a checkpoint; the file appears whole.

    Args:
        path: File to write.
        models: The model, then the other members of its ensemble.
        facts: What holds for the whole file.

    Raises:
        InputError: If the disk is full or read-only, or the folder cannot be created.
    """
    first, *others = models
    header = {
        "format": FORMAT,
        "experiment": first.experiment.model_dump_json(),
        "scores": json.dumps(facts.scores),
        "epoch": str(facts.epoch),
        "versions": json.dumps(facts.versions or library_versions()),
    }
    if facts.calibration is not None:
        header["calibration"] = json.dumps(asdict(facts.calibration))
    if facts.flips or others:
        header["flips"] = json.dumps(facts.flips)
        header["others"] = json.dumps([other.experiment.model_dump_json() for other in others])
    if facts.compared:
        header["compared"] = json.dumps(facts.compared)
    documents = [model.document() for model in models]
    if any(document is not None for document in documents):
        header["pixels"] = json.dumps(documents)
    arrays = first.arrays()
    for number, other in enumerate(others, 1):
        for key, value in other.arrays().items():
            arrays[f"{number}{MEMBER_SEPARATOR}{key}"] = value
    write_safetensors(path, arrays, header)


def read_file(path: Path) -> tuple[list[StoredModel], Facts]:
    """Read a checkpoint: the model, the other members of its ensemble, and what holds for the whole file.

    Raises:
        InputError: If it is missing, cut off, or another kind of file.
    """
    arrays, header = read_safetensors(path)
    if header.get("format") != FORMAT:
        raise InputError(
            path,
            found=f"a safetensors file of format {header.get('format', 'unknown')!r}",
            expected=f"a checkpoint written by 'agrifm train' ({FORMAT})",
            repair="give the file best.safetensors of a run; published weights go into 'start_from'.",
        )
    refuse_not_finite(arrays, path)
    models = _read_models(arrays, header, path)
    facts = Facts(
        scores=read_entry(header, "scores", dict[str, float], {}, path),
        epoch=read_entry(header, "epoch", Annotated[int, Field(ge=0)], 0, path),
        versions=read_entry(header, "versions", dict[str, str], {}, path),
        calibration=read_calibration(header, models[0].experiment, path),
        flips=read_entry(header, "flips", bool, False, path),
        compared=read_entry(header, "compared", dict[str, float], {}, path),
    )
    for model in models:
        model.check_weights(path)
    return models, facts


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this project.

    Raises:
        InputError: If it is a safetensors file that does not open.
    """
    return path.suffix == ".safetensors" and read_safetensors(path)[1].get("format") == FORMAT


def _read_models(arrays: dict[str, Tensor], header: dict[str, str], path: Path) -> list[StoredModel]:
    """Restore every model of a file."""
    if "experiment" not in header:
        raise damaged(f"{path}: experiment", "nothing", "a checkpoint written by 'agrifm train'")
    experiments = [read_experiment(header["experiment"], path)]
    for text in read_entry(header, "others", list[str], [], path):
        experiments.append(read_experiment(text, path))
    count = len(experiments)
    arrays_of_models = _split_arrays(arrays, count, path)
    documents = read_entry(header, "pixels", list[PixelsDocument | None], [None] * count, path)
    if len(documents) != count:
        raise damaged(f"{path}: pixels", f"entries of {counted(len(documents), 'model')}", f"one for each of {count}")
    models = []
    for experiment, own_arrays, document in zip(experiments, arrays_of_models, documents, strict=True):
        models.append(StoredModel.restore(experiment, own_arrays, document, path))
    return models


def _split_arrays(arrays: dict[str, Tensor], count: int, path: Path) -> list[dict[str, Tensor]]:
    """Return the arrays of each of several models in one file."""
    if count == 1:
        return [arrays]
    members: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for key, value in arrays.items():
        prefix, separator, name = key.partition(MEMBER_SEPARATOR)
        if not separator:
            members[0][key] = value
            continue
        number = int(prefix) if prefix.isdecimal() and len(prefix) < 4 else 0
        if not 0 < number < count:
            raise damaged(f"{path}: {key}", "weights of a model that is not in the file", f"models 1 to {count - 1}")
        members[number][name] = value
    return members
