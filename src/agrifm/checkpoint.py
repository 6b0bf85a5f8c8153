"""One self-describing file: weights, and beside them everything needed to evaluate and to map.

A safetensors file whose header carries the resolved experiment (with sensors, statistics and classes), the
scores and the version. Opening it runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agrifm.config import Experiment, parse
from agrifm.errors import InputError, nearest
from agrifm.nn.looks import Looks
from agrifm.nn.model import CropModel
from agrifm.tasks.calibration import Calibration

FORMAT = "agrifm-checkpoint-1"
WEIGHTS = Path(__file__).parent / "weights"  # pre-trained, come with the package, go by their name
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
        """Write the file; it appears whole, by rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
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
        unfinished = path.with_suffix(".part")
        save_file({key: value.contiguous() for key, value in self._all_weights().items()}, unfinished, header)
        unfinished.replace(path)

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
        # No file gives itself the right to lead to others.
        others = [parse(json.loads(text), path).with_links(False) for text in json.loads(header.get("others", "[]"))]
        own, *parts = _shares(weights, 1 + len(others))
        return cls(
            experiment=parse(json.loads(header["experiment"]), path).with_links(False),
            weights=own,
            scores=json.loads(header["scores"]),
            epoch=int(header["epoch"]),
            versions=json.loads(header["versions"]),
            calibration=TypeAdapter(Calibration | None).validate_json(header.get("calibration", "null")),
            flips=json.loads(header.get("flips", "false")),
            others=tuple(cls(other, part) for other, part in zip(others, parts, strict=True)),
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
        return Looks([model, *(other.model() for other in self.others)], flips=self.flips).eval()

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


def _shares(weights: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The weights of each of several models in one file."""
    if count == 1:
        return [weights]
    parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for key, value in weights.items():
        number, _, name = key.partition(OTHER)
        other = number.isdigit()
        parts[int(number) if other else 0][name if other else key] = value
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


def weights_file(path: Path) -> Path:
    """The file that ``start_from`` means: a path, or the name of weights that come with the package.

    Raises:
        InputError: it is neither.
    """
    if path.suffix or len(path.parts) > 1 or path.exists():
        return path
    known = {file.stem: file for file in sorted(WEIGHTS.glob("*.safetensors"))}
    if str(path) not in known:
        raise InputError(
            f"start_from: {path}",
            found="no such file, and no weights of that name",
            expected=f"a path of weights, or one of {', '.join(known)}",
            repair=nearest(str(path), known),
        )
    return known[str(path)]


def build(experiment: Experiment) -> CropModel:
    """A model for an experiment, with random weights.

    Raises:
        InputError: a sensor has no statistics yet.
    """
    return CropModel(experiment.data.sensors, experiment.task.outputs, experiment.model, frames=experiment.data.frames)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Raises:
        InputError: it is missing or does not open.
    """
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a safetensors file", repair="check the path.")
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            path,
            found=f"a file of {path.stat().st_size} bytes that does not open: {error}",
            expected="a complete safetensors file",
            repair="copy it again; it was probably cut off, or it is of another kind.",
        ) from error


@dataclass(frozen=True)
class Match:
    """How weights met a model: keys that were loaded, that stayed new, that were left over."""

    matched: tuple[str, ...]
    new: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.matched)} tensors matched, {len(self.new)} new, {len(self.left_over)} left over"


def load_strict(module: nn.Module, weights: dict[str, Tensor], *, may_be_new: tuple[str, ...] = ()) -> Match:
    """Load weights; nothing may be left over, and only keys with these prefixes may stay new.

    Raises:
        InputError: names the keys or shapes that do not fit.
    """
    own = module.state_dict()
    new = tuple(key for key in own if key not in weights)
    match = Match(tuple(key for key in weights if key in own), new, tuple(key for key in weights if key not in own))
    missing = [key for key in new if not key.startswith(may_be_new)] if may_be_new else list(new)
    wrong = [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in match.matched
        if weights[key].shape != own[key].shape
    ]
    if missing or match.left_over or wrong or not match.matched:
        details = [f"missing: {_some(missing)}"] if missing else []
        details += [f"left over: {_some(match.left_over)}"] if match.left_over else []
        details += [f"shapes: {_some(wrong)}"] if wrong else []
        raise InputError(
            "weights",
            found=f"{match}; " + "; ".join(details or ["nothing matched"]),
            expected="every tensor of the file in its place",
            repair="build the model as it was trained: same size, patch, decoder, sensors and classes.",
        )
    module.load_state_dict(weights, strict=not new)
    return match


def _some(items: list[str] | tuple[str, ...], limit: int = 4) -> str:
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def library_versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {name: version(name) for name in ("agrifm", "torch", "lightning", "numpy", "h5py")}


def write_provenance(experiment: Experiment, out: Path) -> None:
    """Write beside a result what it was made with: the resolved experiment, seed and versions."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "experiment.yaml").write_text(experiment.to_yaml())
    (out / "environment.json").write_text(json.dumps({"seed": experiment.seed, **library_versions()}, indent=2))


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
