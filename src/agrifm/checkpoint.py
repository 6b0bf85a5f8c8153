"""One self-describing file: weights, and beside them everything needed to evaluate and to map.

A safetensors file whose header carries the resolved experiment (with sensors, statistics and classes), the
scores and the version. Opening it runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from agrifm.config import Experiment, parse
from agrifm.errors import InputError, refusing
from agrifm.io import write_whole
from agrifm.nn.ensemble import TestTimeEnsemble
from agrifm.nn.model import CropModel
from agrifm.tasks.calibration import Calibration
from agrifm.tensor_files import (
    Match,
    load_strict,
    match_weights,
    read_safetensors,
    refuse_not_finite,
    write_safetensors,
)

__all__ = ["Checkpoint", "Match", "build", "describe", "is_checkpoint", "load_strict", "write_provenance"]

FORMAT = "agrifm-checkpoint-1"
DAMAGED = "copy the file again from where it was trained; it was damaged or changed."
OTHER = "/"  # between the number of another model in the same file and the name of its weight


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its history.

    Args:
        experiment: resolved; sensors carry their statistics.
        weights: of the CropModel.
        scores: on the validation split, by name.
        epoch: after which the weights were taken.
        versions: of the libraries that made it.
        calibration: what its probabilities mean; it fits the model with its flips and others.
        flips: average the probabilities over the eight orientations of a square.
        others: models whose probabilities are averaged with this one's.
    """

    experiment: Experiment
    weights: dict[str, Tensor]
    scores: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    flips: bool = False
    others: tuple[Checkpoint, ...] = ()

    def save(self, path: Path) -> None:
        """Write the file; it appears whole.

        Raises:
            InputError: the disk is full or read-only, or the folder cannot be made.
        """
        header = {
            "format": FORMAT,
            "experiment": self.experiment.model_dump_json(),
            "scores": json.dumps(self.scores),
            "epoch": str(self.epoch),
            "versions": json.dumps(self.versions or library_versions()),
        }
        if self.calibration is not None:
            header["calibration"] = json.dumps(asdict(self.calibration))
        if self.flips or self.others:
            header["flips"] = json.dumps(self.flips)
            header["others"] = json.dumps([other.experiment.model_dump_json() for other in self.others])
        write_safetensors(path, self._all_weights(), header)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read the file.

        Raises:
            InputError: it is missing, cut off, or another kind of file.
        """
        weights, header = read_safetensors(path)
        if header.get("format") != FORMAT:
            raise InputError(
                path,
                found=f"a safetensors file of format {header.get('format', 'unknown')!r}",
                expected=f"a checkpoint written by 'agrifm train' ({FORMAT})",
                repair="give the file best.safetensors of a run; published weights go into 'start_from'.",
            )
        refuse_not_finite(weights, path)
        # No file gives itself the right to lead to others.
        experiment = _experiment(_required(header, "experiment", path), path).with_links(False)
        others = [_experiment(text, path).with_links(False) for text in _part(header, "others", list[str], [], path)]
        own, *parts = _shares(weights, 1 + len(others), path)
        calibration = _part(header, "calibration", Calibration | None, None, path)
        if calibration is not None:
            _refuse_unfit(calibration, experiment, path)
        loaded = cls(
            experiment=experiment,
            weights=own,
            scores=_part(header, "scores", dict[str, float], {}, path),
            epoch=_part(header, "epoch", Annotated[int, Field(ge=0)], 0, path),
            versions=_part(header, "versions", dict[str, str], {}, path),
            calibration=calibration,
            flips=_part(header, "flips", bool, False, path),
            others=tuple(cls(other, part) for other, part in zip(others, parts, strict=True)),
        )
        for one in (loaded, *loaded.others):
            one._refuse_mismatch(path)
        return loaded

    def _refuse_mismatch(self, path: Path) -> None:
        """Compare the weights with the model that the experiment describes, before that model takes any memory."""
        for sensor in self.experiment.data.sensors:
            if sensor.statistics is None:
                raise _damaged(f"{path}: sensor {sensor.name}", "no statistics", "those that it was trained with")
        good = "a model that can be built"
        with refusing(f"{path}: experiment", expected=good, repair=DAMAGED), torch.device("meta"):
            expected = build(self.experiment)
        match_weights(expected, self.weights, where=f"{path}: weights")
        for key, value in self.weights.items():
            if key.startswith("normalize.") and key.endswith(".std") and not bool((value > 0).all()):
                raise InputError(
                    f"{path}: {key}",
                    found=f"{value.min().item()}",
                    expected="standard deviations above 0",
                    repair="take another checkpoint; this one was damaged or changed.",
                )

    def _all_weights(self) -> dict[str, Tensor]:
        """Its own by their names, those of the others with a number before."""
        more = enumerate((other.weights for other in self.others), 1)
        return self.weights | {f"{i}{OTHER}{key}": value for i, part in more for key, value in part.items()}

    def model(self) -> nn.Module:
        """The model with these weights, ready to evaluate; of several, one that gives their mean."""
        model = build(self.experiment)
        load_strict(model, self.weights)
        if not (self.flips or self.others):
            return model.eval()
        return TestTimeEnsemble([model, *(other.model() for other in self.others)], flips=self.flips).eval()

    def at(self, root: Path | None, *, allow_links: bool = False) -> Checkpoint:
        """The same with its data in another folder of the same layout.

        Args:
            root: of the data; None leaves them where they are.
            allow_links: chips may lead to other files.
        """
        moved = {"root": root, "chips": None, "train": None, "val": None, "test": None} if root is not None else {}
        data = self.experiment.data.model_copy(update={**moved, "allow_links": allow_links})
        return replace(self, experiment=self.experiment.model_copy(update={"data": data}))

    def looking(self, *, flips: bool = False, others: Sequence[Path | str] = ()) -> Checkpoint:
        """The same model, whose probabilities are averaged over flips and with those of other checkpoints.

        Raises:
            InputError: another checkpoint reads other data or knows other classes; this one is calibrated already.
        """
        if not (flips or others):
            return self
        if self.calibration is not None:
            raise InputError(
                "--flips, --ensemble",
                found="a checkpoint that was calibrated without them",
                expected="probabilities of the same kind as those it was calibrated on",
                repair="calibrate again with these options: 'agrifm calibrate' keeps them in the file it writes.",
            )
        kind = self.experiment.task.kind
        if kind != "segmentation":
            raise InputError(
                "--flips, --ensemble",
                found=f"a model of {kind}",
                expected="one that gives a probability to each class: task 'segmentation'",
                repair="leave them out.",
            )
        found = [Checkpoint.load(Path(path)) for path in others]
        for path, other in zip(others, found, strict=True):
            _check_fit(self.experiment, other.experiment, path)
        parts = (part for other in found for part in (other, *other.others))
        members = tuple(replace(part, calibration=None, flips=False, others=()) for part in parts)
        flips = flips or any(one.flips for one in (self, *found))
        return replace(self, flips=flips, others=(*self.others, *members))


def _required(header: Mapping[str, str], key: str, path: Path) -> str:
    if key not in header:
        raise _damaged(f"{path}: {key}", "nothing", "a checkpoint written by 'agrifm train'")
    return header[key]


def _experiment(text: str, path: Path) -> Experiment:
    """The experiment in a header."""
    with refusing(f"{path}: experiment", expected="an experiment in JSON", repair=DAMAGED):
        values = json.loads(text)
    return parse(values, path, warn=False)


def _part(header: Mapping[str, str], key: str, kind: Any, default: Any, path: Path) -> Any:
    """One entry of a header, which is JSON of this kind; the default where there is none."""
    if key not in header:
        return default
    with refusing(f"{path}: {key}", expected="what 'agrifm train' writes there", repair=DAMAGED):
        return TypeAdapter(kind).validate_json(header[key])


def _refuse_unfit(calibration: Calibration, experiment: Experiment, path: Path) -> None:
    """Refuse a calibration that gives no probabilities, or is of other classes."""
    numbers = (calibration.temperature, calibration.coverage, *calibration.thresholds)
    count = len(experiment.task.names)
    if not all(map(isfinite, numbers)) or calibration.temperature <= 0:
        raise _damaged(f"{path}: calibration", "numbers that are no calibration", "finite ones, temperature above 0")
    if len(calibration.thresholds) != count:
        found = f"thresholds of {len(calibration.thresholds)} classes"
        raise _damaged(f"{path}: calibration", found, f"those of the {count} classes of the model")


def _damaged(where: str, found: str, expected: str) -> InputError:
    return InputError(where, found=found, expected=expected, repair=DAMAGED)


def _shares(weights: dict[str, Tensor], count: int, path: Path) -> list[dict[str, Tensor]]:
    """The weights of each of several models in one file."""
    if count == 1:
        return [weights]
    parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for key, value in weights.items():
        number, found, name = key.partition(OTHER)
        if not found:
            parts[0][key] = value
        elif number.isdecimal() and len(number) < 4 and 0 < int(number) < count:
            parts[int(number)][name] = value
        else:
            raise _damaged(f"{path}: {key}", "weights of a model that is not in the file", f"models 1 to {count - 1}")
    return parts


def _check_fit(ours: Experiment, theirs: Experiment, path: Path | str) -> None:
    """Refuse to average models that do not read the same and mean the same."""
    a, b = (
        {
            "classes": ", ".join(one.task.names),
            "sensors": "; ".join(f"{s.name} ({', '.join(s.band_ids)}) x {s.scale:g}" for s in one.data.sensors),
            "frames": str(one.data.frames),
            "resize": str(one.data.resize),
        }
        for one in (ours, theirs)
    )
    for key in (key for key in a if a[key] != b[key]):
        raise InputError(
            f"--ensemble {path}: {key}",
            found=b[key],
            expected=f"{a[key]}, as in the first checkpoint",
            repair="average only models that were trained for the same classes on the same kind of data.",
        )


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this project.

    Raises:
        InputError: If it is a safetensors file that does not open.
    """
    return path.suffix == ".safetensors" and read_safetensors(path)[1].get("format") == FORMAT


def build(experiment: Experiment) -> CropModel:
    """A model for an experiment, with random weights.

    Raises:
        InputError: a sensor has no statistics yet.
    """
    return CropModel(experiment.data.sensors, experiment.task.outputs, experiment.model, frames=experiment.data.frames)


def library_versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {name: version(name) for name in ("agrifm", "torch", "lightning", "numpy", "h5py")}


def write_provenance(experiment: Experiment, out: Path) -> None:
    """Write beside a result what it was made with: the resolved experiment, seed and versions."""
    write_whole(out / "experiment.yaml", experiment.to_yaml())
    write_whole(out / "environment.json", json.dumps({"seed": experiment.seed, **library_versions()}, indent=2))


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """A short summary for people."""
    experiment, more = checkpoint.experiment, {}
    if checkpoint.flips or checkpoint.others:
        flips = ", each in eight orientations" if checkpoint.flips else ""
        more["averages"] = f"{1 + len(checkpoint.others)} model(s){flips}"
    if checkpoint.calibration is not None:
        more["calibration"] = str(checkpoint.calibration)
    return {
        "name": experiment.name,
        "epoch": checkpoint.epoch,
        "sensors": ", ".join(sensor.name for sensor in experiment.data.sensors),
        "classes": ", ".join(experiment.task.names),
        "model": f"{experiment.model.size}, patch {experiment.model.patch}, decoder {experiment.model.decoder}",
        "weights": sum(tensor.numel() for tensor in checkpoint.weights.values()),
        "scores": {key: round(value, 4) for key, value in checkpoint.scores.items()},
        "versions": checkpoint.versions,
        **more,
    }
