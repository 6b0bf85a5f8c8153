"""Checkpoints: files that hold the weights and everything that evaluation and mapping need beside them.

A checkpoint is a safetensors file whose header holds the resolved experiment (with sensors, statistics and classes),
the scores and the versions of libraries. Opening it runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, TypeAdapter
from torch import Tensor, nn

from agrifm.config import Experiment, parse
from agrifm.errors import InputError, refusing
from agrifm.io import write_whole
from agrifm.nn.edges import EdgeRule, Edges
from agrifm.nn.ensemble import Blend, TestTimeEnsemble, mean_of_classes
from agrifm.nn.model import CropModel, ModelConfig
from agrifm.pixels.ensemble import PixelEnsemble
from agrifm.tasks.calibration import Calibration
from agrifm.tasks.edges import FieldEdges
from agrifm.tasks.fields import Fields
from agrifm.tensor_files import (
    DAMAGED,
    Match,
    load_strict,
    match_weights,
    read_safetensors,
    refuse_not_finite,
    write_safetensors,
)

__all__ = ["Checkpoint", "Match", "build", "describe", "is_checkpoint", "load_strict", "write_provenance"]

FORMAT = "agrifm-checkpoint-1"
MEMBER_SEPARATOR = "/"  # between the number of another model in the same file and the name of its weight
PIXELS = "pixels."  # before the names of arrays of pixel classifiers
HELD_OUT = "held_out."  # before those of classifiers that did not learn from the validation split


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its history.

    Args:
        experiment: Resolved experiment; its sensors carry their statistics.
        weights: Weights of the CropModel; none if the experiment has no network.
        scores: Scores on the validation split by name.
        epoch: Epoch after which the weights were saved.
        versions: Versions of the libraries that trained it.
        calibration: Calibration of its probabilities; it fits the model with its flips and others.
        flips: Average the probabilities over the eight orientations of a square.
        others: Other members of an ensemble, whose probabilities are averaged with those of this one.
        pixels: Classifiers of single pixels, beside the network or in its place.
        pixel_share: Weight of their probabilities, from 0 to 1; the rest is that of the network.
        edges: Rule of the boundaries that belong to the classifiers of pixels, if the task is to find fields.
        compared: Scores on the validation split of the network, of what stands beside it, and of both, by name.
        held_out: The same classifiers without the validation split, if they learned from it in the end.
    """

    experiment: Experiment
    weights: dict[str, Tensor]
    scores: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    flips: bool = False
    others: tuple[Checkpoint, ...] = ()
    pixels: PixelEnsemble | None = None
    pixel_share: float = 0.0
    edges: EdgeRule | None = None
    compared: dict[str, float] = field(default_factory=dict)
    held_out: PixelEnsemble | None = None

    def save(self, path: Path) -> None:
        """Write the file; it appears whole.

        Raises:
            InputError: If the disk is full or read-only, or the folder cannot be created.
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
        if self.compared:
            header["compared"] = json.dumps(self.compared)
        members = (self, *self.others)
        if any(member.stands_beside for member in members):
            header["pixels"] = json.dumps([member._pixels_document() for member in members])
        write_safetensors(path, self._weights_of_all(), header)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read the file.

        Raises:
            InputError: If it is missing, cut off, or another kind of file.
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
        if "experiment" not in header:
            raise _damaged(f"{path}: experiment", "nothing", "a checkpoint written by 'agrifm train'")
        experiment = _read_experiment(header["experiment"], path)
        texts = _read_entry(header, "others", list[str], [], path)
        experiments = [_read_experiment(text, path) for text in texts]
        count = 1 + len(experiments)
        own_weights, *other_weights = _split_weights(weights, count, path)
        documents = _read_entry(header, "pixels", list[PixelsDocument | None], [None] * count, path)
        if len(documents) != count:
            raise _damaged(f"{path}: pixels", f"entries of {len(documents)} models", f"one for each of {count}")
        others = []
        for texts_of_other in zip(experiments, other_weights, documents[1:], strict=True):
            others.append(cls._with_pixels(*texts_of_other, path))
        calibration = _read_entry(header, "calibration", Calibration | None, None, path)
        if calibration is not None:
            _check_calibration(calibration, experiment, path)
        checkpoint = replace(
            cls._with_pixels(experiment, own_weights, documents[0], path),
            scores=_read_entry(header, "scores", dict[str, float], {}, path),
            epoch=_read_entry(header, "epoch", Annotated[int, Field(ge=0)], 0, path),
            versions=_read_entry(header, "versions", dict[str, str], {}, path),
            calibration=calibration,
            flips=_read_entry(header, "flips", bool, False, path),
            others=tuple(others),
            compared=_read_entry(header, "compared", dict[str, float], {}, path),
        )
        for member in (checkpoint, *others):
            member._check_weights(path)
        return checkpoint

    @classmethod
    def _with_pixels(
        cls, experiment: Experiment, weights: dict[str, Tensor], document: PixelsDocument | None, path: Path
    ) -> Checkpoint:
        """Separate the arrays of pixel classifiers from the weights of the network."""
        weights, arrays = _separate(weights, PIXELS)
        weights, held_out_arrays = _separate(weights, HELD_OUT)
        if document is None:
            if arrays or held_out_arrays or not experiment.network:
                raise _damaged(f"{path}: pixels", "no description of the pixel classifiers", "one")
            return cls(experiment, weights)
        task, sensors = experiment.task, experiment.data.sensors
        if (document.edges is not None) != isinstance(task, Fields):
            raise _damaged(f"{path}: edges", f"task '{task.kind}'", "edges for the task 'fields', and for no other")
        classes = task.pixel_classes if isinstance(task, Fields) else len(task.names)
        pixels = held_out = None
        if document.description is not None:
            pixels = PixelEnsemble.restore(document.description, arrays, sensors, classes, path)
        elif arrays or document.edges is None:
            raise _damaged(f"{path}: pixels", "no description of the pixel classifiers", "one")
        if document.held_out is not None:
            held_out = PixelEnsemble.restore(document.held_out, held_out_arrays, sensors, classes, path)
        elif held_out_arrays:
            raise _damaged(f"{path}: held_out", "no description of these classifiers", "one")
        return cls(
            experiment, weights, pixels=pixels, pixel_share=document.share, edges=document.edges, held_out=held_out
        )

    def _pixels_document(self) -> dict[str, Any] | None:
        if not self.stands_beside:
            return None
        description = None if self.pixels is None else self.pixels.description()
        document: dict[str, Any] = {"description": description, "share": self.pixel_share}
        if self.edges is not None:
            document["edges"] = asdict(self.edges)
        if self.held_out is not None:
            document["held_out"] = self.held_out.description()
        return document

    def _check_weights(self, path: Path) -> None:
        """Compare the weights with the model that the experiment describes, before that model takes any memory."""
        if self.experiment.network or self.edges is not None:
            self._refuse_without_statistics(path)
        if not self.experiment.network:
            if self.weights:
                raise _damaged(f"{path}: weights", "weights of a network", "none, as the experiment has no network")
            return
        expected = "a model that can be built"
        with refusing(f"{path}: experiment", expected=expected, repair=DAMAGED), torch.device("meta"):
            model = build(self.experiment)
        match_weights(model, self.weights, where=f"{path}: weights")
        for key, value in self.weights.items():
            is_deviation = key.startswith("normalize.") and key.endswith(".std")
            if is_deviation and not bool((value > 0).all()):
                raise InputError(
                    f"{path}: {key}",
                    found=f"{value.min().item()}",
                    expected="standard deviations above 0",
                    repair="take another checkpoint; this one was damaged or changed.",
                )

    def _refuse_without_statistics(self, path: Path) -> None:
        for sensor in self.experiment.data.sensors:
            if sensor.statistics is None:
                raise _damaged(f"{path}: sensor {sensor.name}", "no statistics", "those that it was trained with")

    def _weights_of_all(self) -> dict[str, Tensor]:
        """Its weights by their names, and those of the others with the number of the member in front."""
        weights = self._own_weights()
        for number, other in enumerate(self.others, 1):
            for key, value in other._own_weights().items():
                weights[f"{number}{MEMBER_SEPARATOR}{key}"] = value
        return weights

    def _own_weights(self) -> dict[str, Tensor]:
        """Weights of the network, and arrays of the pixel classifiers."""
        weights = dict(self.weights)
        for prefix, ensemble in ((PIXELS, self.pixels), (HELD_OUT, self.held_out)):
            if ensemble is None:
                continue
            for key, value in ensemble.tensors().items():
                weights[f"{prefix}{key}"] = value
        return weights

    def model(self) -> nn.Module:
        """Return the model with these weights, ready for evaluation; the mean of all members of an ensemble."""
        model = self._single_model()
        if not (self.flips or self.others):
            return model.eval()
        members = [model]
        for other in self.others:
            members.append(other.model())
        return TestTimeEnsemble(members, flips=self.flips).eval()

    def _single_model(self) -> nn.Module:
        """The network, what stands beside it, or both."""
        if self.stands_beside and not self.uses_network:
            return self._beside()
        network = build(self.experiment)
        load_strict(network, self.weights)
        if not self.stands_beside or self.pixel_share == 0:
            return network
        task = self.experiment.task
        mean = task.mean if isinstance(task, Fields) else mean_of_classes
        return Blend(network, self._beside(), self.pixel_share, mean)

    @property
    def stands_beside(self) -> bool:
        """Whether there are classifiers of pixels or edges, beside the network or in its place."""
        return self.pixels is not None or self.edges is not None

    def _beside(self) -> nn.Module:
        """The classifiers of pixels; with edges, the fields that follow from both."""
        pixels = deepcopy(self.pixels)
        if self.edges is None:
            assert pixels is not None
            return pixels
        task = self.experiment.task
        assert isinstance(task, Fields)
        return FieldEdges(task, Edges(self.experiment.data.sensors, self.edges), pixels)

    @property
    def _uses_edges(self) -> bool:
        return self.edges is not None and self.pixel_share > 0

    @property
    def uses_network(self) -> bool:
        """Whether the network has a part in the probabilities."""
        return self.experiment.network and self.pixel_share < 1

    @property
    def sees_neighbors(self) -> bool:
        """Whether the class of a pixel depends on pixels around it, in this model or another of the ensemble."""
        members = (self, *self.others)
        return any(
            member._uses_edges or (member.uses_network and member.experiment.model.has_pyramid) for member in members
        )

    def for_split(self, split: str) -> Checkpoint:
        """Return the checkpoint that may be judged on a split.

        Pixel classifiers learn from the validation split once everything is chosen. Scores and calibration on that
        split use the classifiers as they were before.

        Args:
            split: Name of a split, or path of a list.
        """
        if split != "val":
            return self
        others = tuple(other.for_split(split) for other in self.others)
        return replace(self, pixels=self.held_out or self.pixels, held_out=None, others=others)

    @property
    def learned_from_val(self) -> bool:
        """Whether a part of the model learned from the validation split."""
        return any(member.held_out is not None for member in (self, *self.others))

    def with_root(self, root: Path | None, *, allow_links: bool = False) -> Checkpoint:
        """Return the checkpoint with its data in another folder of the same layout.

        Args:
            root: Folder of the data; None keeps the present one.
            allow_links: Accept chips that refer to other files.
        """
        experiment = self.experiment.with_links(allow_links)
        if root is not None:
            experiment = experiment.with_data(root=root, chips=None, train=None, val=None, test=None)
        return replace(self, experiment=experiment)

    def averaging(self, *, flips: bool = False, others: Sequence[Path | str] = ()) -> Checkpoint:
        """Return a checkpoint that averages its probabilities over flips and with those of other checkpoints.

        Args:
            flips: Average over the eight orientations of a square.
            others: Paths of the other checkpoints.

        Raises:
            InputError: If another checkpoint has other data or classes, or this one is calibrated already.
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
        members = [*self.others]
        for path in others:
            other = Checkpoint.load(Path(path))
            _refuse_other_data(self.experiment, other.experiment, path)
            flips = flips or other.flips
            for member in (other, *other.others):
                members.append(replace(member, calibration=None, flips=False, others=()))
        return replace(self, flips=flips or self.flips, others=tuple(members))


class PixelsDocument(BaseModel):
    """Entry of a header about the pixel classifiers and the edges of one model."""

    description: str | None
    share: Annotated[float, Field(ge=0, le=1)]
    edges: EdgeRule | None = None
    held_out: str | None = None


def _separate(weights: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights without a prefix, and those with it, whose names lose it."""
    others = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    chosen = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return others, chosen


def _read_experiment(text: str, path: Path) -> Experiment:
    """Read an experiment from a header; its chips may not refer to other files, because no file grants itself that."""
    with refusing(f"{path}: experiment", expected="an experiment in JSON", repair=DAMAGED):
        values = json.loads(text)
    return parse(values, path, warn=False).with_links(False)


def _read_entry(header: Mapping[str, str], key: str, kind: Any, default: Any, path: Path) -> Any:
    """Read an entry of a header, which is JSON of this type; return the default if there is none."""
    if key not in header:
        return default
    with refusing(f"{path}: {key}", expected="what 'agrifm train' writes there", repair=DAMAGED):
        return TypeAdapter(kind).validate_json(header[key])


def _check_calibration(calibration: Calibration, experiment: Experiment, path: Path) -> None:
    """Refuse a calibration that gives no probabilities, or is of other classes."""
    numbers = (calibration.temperature, calibration.coverage, *calibration.thresholds)
    if not all(map(isfinite, numbers)) or calibration.temperature <= 0:
        raise _damaged(f"{path}: calibration", "numbers that are no calibration", "finite ones, temperature above 0")
    count = len(experiment.task.names)
    if len(calibration.thresholds) != count:
        found = f"thresholds of {len(calibration.thresholds)} classes"
        raise _damaged(f"{path}: calibration", found, f"those of the {count} classes of the model")


def _damaged(where: str, found: str, expected: str) -> InputError:
    return InputError(where, found=found, expected=expected, repair=DAMAGED)


def _split_weights(weights: dict[str, Tensor], count: int, path: Path) -> list[dict[str, Tensor]]:
    """Return the weights of each of several models in one file."""
    if count == 1:
        return [weights]
    members: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for key, value in weights.items():
        prefix, separator, name = key.partition(MEMBER_SEPARATOR)
        if not separator:
            members[0][key] = value
            continue
        number = int(prefix) if prefix.isdecimal() and len(prefix) < 4 else 0
        if not 0 < number < count:
            raise _damaged(f"{path}: {key}", "weights of a model that is not in the file", f"models 1 to {count - 1}")
        members[number][name] = value
    return members


def _refuse_other_data(first: Experiment, other: Experiment, path: Path | str) -> None:
    """Refuse to average models of different inputs or classes."""
    expected, found = _interface(first), _interface(other)
    for key, value in expected.items():
        if found[key] != value:
            raise InputError(
                f"--ensemble {path}: {key}",
                found=found[key],
                expected=f"{value}, as in the first checkpoint",
                repair="average only models that were trained for the same classes on the same kind of data.",
            )


def _interface(experiment: Experiment) -> dict[str, str]:
    """What a model reads and what its outputs mean."""
    sensors = [f"{s.name} ({', '.join(s.band_ids)}) x {s.scale:g}" for s in experiment.data.sensors]
    return {
        "classes": ", ".join(experiment.task.names),
        "sensors": "; ".join(sensors),
        "frames": str(experiment.data.frames),
        "resize": str(experiment.data.resize),
    }


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this project.

    Raises:
        InputError: If it is a safetensors file that does not open.
    """
    return path.suffix == ".safetensors" and read_safetensors(path)[1].get("format") == FORMAT


def build(experiment: Experiment) -> CropModel:
    """Return a model for an experiment, with random weights.

    Raises:
        InputError: If a sensor has no statistics yet.
    """
    return CropModel(experiment.data.sensors, experiment.task.outputs, experiment.model, frames=experiment.data.frames)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that determine a result."""
    return {name: version(name) for name in ("agrifm", "torch", "lightning", "numpy", "h5py")}


def write_provenance(experiment: Experiment, out: Path) -> None:
    """Write the resolved experiment, the seed and the versions of libraries beside a result."""
    write_whole(out / "experiment.yaml", experiment.to_yaml())
    write_whole(out / "environment.json", json.dumps({"seed": experiment.seed, **library_versions()}, indent=2))


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a short summary."""
    experiment = checkpoint.experiment
    model = experiment.model
    facts: dict[str, Any] = {
        "name": experiment.name,
        "epoch": checkpoint.epoch,
        "sensors": ", ".join(sensor.name for sensor in experiment.data.sensors),
        "classes": ", ".join(experiment.task.names),
        "model": _architecture(model),
        "weights": sum(tensor.numel() for tensor in checkpoint.weights.values()),
        "scores": {key: round(value, 4) for key, value in checkpoint.scores.items()},
        "versions": checkpoint.versions,
    }
    if checkpoint.pixels is not None:
        names = dict.fromkeys(member.name for member in checkpoint.pixels.members)
        facts["pixels"] = f"{', '.join(names)}: {checkpoint.pixel_share:.0%} of the probabilities"
    if checkpoint.edges is not None:
        facts["edges"] = f"{checkpoint.edges}: {checkpoint.pixel_share:.0%} of the boundary"
    if checkpoint.compared:
        facts["compared"] = {key: round(value, 4) for key, value in checkpoint.compared.items()}
    if not experiment.network:
        del facts["model"]
    if checkpoint.flips or checkpoint.others:
        flips = ", each in eight orientations" if checkpoint.flips else ""
        facts["averages"] = f"{1 + len(checkpoint.others)} model(s){flips}"
    if checkpoint.calibration is not None:
        facts["calibration"] = str(checkpoint.calibration)
    return facts


def _architecture(model: ModelConfig) -> str:
    pixel = f"series of single pixels at {model.pixel_steps} dates"
    if not model.has_pyramid:
        return pixel
    pyramid = f"{model.size}, patch {model.patch}, decoder {model.decoder}"
    return f"{pyramid}, and {pixel}" if model.has_pixel_branch else pyramid
