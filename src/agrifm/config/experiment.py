"""The experiment: everything that determines a result, typed, in one YAML file.

Unknown keys are refused with the nearest valid name. Relative paths start at the folder in which the command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, field_serializer, model_validator

from agrifm.config.limits import refuse_nonsense, refuse_size
from agrifm.config.sections import DataConfig, Teacher, TrainingConfig
from agrifm.data.transforms import Augment
from agrifm.errors import InputError
from agrifm.network.hub import shown
from agrifm.nn.model import ModelConfig
from agrifm.pixels.config import PixelsConfig
from agrifm.sample import Sample, Season
from agrifm.sensors import Sensor
from agrifm.settings.section import Section
from agrifm.tasks.class_choice import chosen
from agrifm.tasks.fields import Fields
from agrifm.tasks.fractions import Fractions
from agrifm.tasks.segmentation import Segmentation

TASK_KINDS = ("segmentation", "fractions", "fields")
WITH_PIXELS = ("segmentation", "fields")  # tasks whose classes single pixels can show


def _task_with_classes(value: Any) -> Any:
    """Fill in the default kind of task, and list the classes that are chosen from a class table."""
    if not isinstance(value, dict):
        return value
    value = {"kind": "segmentation", **value}
    if not isinstance(value.get("classes"), Mapping):
        return value
    if value["kind"] != "segmentation":
        raise ValueError(f"task '{value['kind']}' takes no classes from a table: list their names")
    return chosen(value)


Task = Annotated[
    Segmentation | Fractions | Fields,
    Field(discriminator="kind"),
    BeforeValidator(_task_with_classes),
]


def _wants_network(values: Mapping[str, Any]) -> bool:
    """Whether a segmentation that does not say so trains a network: it describes one, or has nothing else."""
    training = values.get("training")
    states_epochs = isinstance(training, Mapping) and "epochs" in training
    has_classifiers = values.get("pixels", {}) is not None
    return values.get("start_from") is not None or "model" in values or states_epochs or not has_classifiers


def _kind_of(task: Any) -> Any:
    if isinstance(task, Mapping):
        return task.get("kind", "segmentation")
    return getattr(task, "kind", None)


class Experiment(Section):
    """One experiment.

    Args:
        name: Name of the experiment. Results go to ``runs/<name>`` unless the command says otherwise.
        seed: Seed of all random numbers.
        start_from: Weights to start from: a checkpoint of this project, the published ``AgriFM.pth``, a model on a hub
            (``hf://org/name``), or the name of weights that come with the package, such as ``agrifm-tiny``. Random
            weights by default.
        data: Where the samples are and how they are read.
        augment: Random augmentations of training samples.
        model: Architecture of the network. A segmentation that states neither this section nor ``start_from`` trains
            the branch of single pixels (``branch: pixel``), which needs the fewest labels.
        pixels: Classifiers of single pixels beside the network; their probabilities are averaged with those of the
            network. With task ``fields``, they show extent and crops, image gradients show the boundaries, and the
            validation split decides between both, the network and their mean. These two tasks have the section by
            default; ``pixels: null`` leaves it out.
        network: Train the network. Without it, what belongs to ``pixels`` makes the map alone, in seconds. A
            segmentation trains it by default if it states ``start_from``, ``model`` or ``training.epochs``, or has no
            classifiers; the other tasks always do.
        task: What the network learns: ``segmentation``, ``fields`` or ``fractions``.
        teacher: Mean teacher of pre-training. Without it, only fractions are learned.
        probe: Segmentation experiment in YAML. After each epoch of pre-training, a linear probe on frozen features is
            fitted to pixels of its training split and scored on its validation split.
        training: How to train.
    """

    name: str = "experiment"
    seed: int = Field(0, ge=0)
    start_from: Path | None = None
    data: DataConfig
    augment: Augment = Augment()
    model: ModelConfig = ModelConfig()
    pixels: PixelsConfig | None = None
    network: bool = True
    task: Task
    teacher: Teacher | None = None
    probe: Path | None = None
    training: TrainingConfig = TrainingConfig()

    @field_serializer("start_from", when_used="json-unless-none")
    def _address(self, start_from: Path) -> str:
        return shown(start_from)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_task(cls, values: Any) -> Any:
        """Fill in what a task has by default: classifiers of pixels, and whether there is a network beside them."""
        kind = _kind_of(values.get("task")) if isinstance(values, Mapping) else None
        if kind not in WITH_PIXELS:
            return values
        defaults: dict[str, Any] = {"pixels": {}}
        if kind == "segmentation":
            defaults["network"] = _wants_network(values)
            if values.get("start_from") is None:
                defaults["model"] = {"branch": "pixel"}
        return {**defaults, **values}

    @model_validator(mode="after")
    def _numbers_make_sense(self) -> Experiment:
        refuse_nonsense(self)
        refuse_size(self.model.swin)
        return self

    @model_validator(mode="after")
    def _frames_fit_decoder(self) -> Experiment:
        if self.model.has_pyramid and self.model.decoder == "original" and self.data.frames is None:
            raise ValueError("model.decoder 'original' folds time into channels: set data.frames (it used 32)")
        return self

    @model_validator(mode="after")
    def _pixels_fit_task(self) -> Experiment:
        if self.pixels is not None and self.task.kind not in WITH_PIXELS:
            raise ValueError(f"pixels classify single pixels: leave them out with task '{self.task.kind}'")
        if not self.network and self.pixels is None:
            raise ValueError("network: false needs a section pixels, e.g. 'pixels: {}'")
        if not self.network and self.start_from is not None:
            raise ValueError("start_from holds weights of a network: leave it out with network: false")
        return self

    @model_validator(mode="after")
    def _context_fits_grids(self) -> Experiment:
        # Windows of a map are not as large as chips, so that the same size would give neighborhoods of another size.
        resized = [name for name in self.data.resize if name != "label"]
        if self.pixels is not None and "context" in self.pixels.features and resized:
            raise ValueError(
                f"pixels.features 'context' averages pixels as they are stored: leave {resized[0]} out of data.resize"
            )
        return self

    @model_validator(mode="after")
    def _branch_fits(self) -> Experiment:
        if self.model.has_pixel_branch and self.data.shards is not None:
            raise ValueError(
                f"model.branch '{self.model.branch}' has no pre-training: set model.branch 'pyramid' to learn from "
                "data.shards"
            )
        if self.model.has_pixel_branch and self.model.pixel_steps < 2:
            raise ValueError(f"model.branch '{self.model.branch}' needs at least 2 dates of the season, not 1")
        if self.model.has_pyramid:
            return self
        if self.start_from is not None:
            raise ValueError(
                "model.branch 'pixel' has no encoder that start_from could fill: leave out start_from, or set "
                "model.branch 'both'"
            )
        if self.model.freeze_encoder:
            raise ValueError("model.branch 'pixel' has no encoder: leave out model.freeze_encoder")
        return self

    @model_validator(mode="after")
    def _average_fits_strategy(self) -> Experiment:
        if self.training.strategy == "fsdp" and self.training.ema_decay is not None:
            raise ValueError("training.ema_decay averages whole weights: leave it out, or use training.strategy 'ddp'")
        return self

    @model_validator(mode="after")
    def _data_fit_task(self) -> Experiment:
        is_pretraining = isinstance(self.task, Fractions)
        if is_pretraining != (self.data.shards is not None):
            raise ValueError("task 'fractions' learns from data.shards, and data.shards holds nothing else")
        if self.teacher is None:
            return self
        if not is_pretraining or self.training.ema_decay is not None:
            raise ValueError(
                "a teacher belongs to task 'fractions', and is the moving average: leave out training.ema_decay"
            )
        return self

    @model_validator(mode="after")
    def _labels_fit_task(self) -> Experiment:
        needs_two = isinstance(self.task, Fields) and bool(self.task.classes)
        has_two = not isinstance(self.data.label_key, str)
        if self.data.dataset is not None or needs_two == has_two:
            return self
        if needs_two:
            raise ValueError(
                "task 'fields' with classes learns from two datasets, e.g. [instances, label]: set data.label_key"
            )
        raise ValueError(f"task '{self.task.kind}' learns from one dataset: set data.label_key")

    @property
    def prepare(self) -> Callable[[Sample], Sample] | None:
        """The function that computes the model's targets from a chip's label; None where the label is the target."""
        return self.task.prepare if isinstance(self.task, Fields) else None

    def with_data(self, **changes: Any) -> Experiment:
        """Return the experiment with other values in its section ``data``."""
        return self.model_copy(update={"data": self.data.model_copy(update=changes)})

    def with_links(self, allowed: bool) -> Experiment:
        """Return the experiment with chips that may, or may not, refer to other files."""
        return self.with_data(allow_links=allowed)

    def with_pixel(self, meters: float) -> Experiment:
        """Return the experiment with this pixel size for field boundaries, unless it states one itself."""
        if not isinstance(self.task, Fields):
            return self
        return self.model_copy(update={"task": self.task.with_pixel(meters)})

    def with_sensors(self, sensors: Sequence[Sensor]) -> Experiment:
        """Return the experiment with these sensors and their statistics."""
        return self.with_data(sensors=tuple(sensors), statistics="given")

    def with_footprint(self, meters: float) -> Experiment:
        """Return the experiment with this footprint for the windows of maps, unless it states one itself."""
        return self if self.data.footprint is not None else self.with_data(footprint=meters)

    def with_season(self, season: Season) -> Experiment:
        """Return the experiment with this season for regular dates of network and pixels, unless it states one."""
        changes: dict[str, Any] = {}
        if self.model.needs_season and self.model.season is None:
            changes["model"] = replace(self.model, season=season)
        if self.pixels is not None and self.pixels.season is None:
            changes["pixels"] = replace(self.pixels, season=season)
        return self.model_copy(update=changes)

    def quick(self) -> Experiment:
        """Return the experiment without the network: only classifiers of single pixels, and edges for fields.

        Raises:
            InputError: If the task learns fractions.
        """
        if self.task.kind not in WITH_PIXELS:
            raise InputError(
                "--quick",
                found=f"an experiment with task '{self.task.kind}'",
                expected="task 'segmentation' or 'fields', whose classes single pixels can show",
                repair="leave --quick out.",
            )
        return self.model_copy(update={"pixels": self.pixels or PixelsConfig(), "network": False, "start_from": None})

    def to_yaml(self) -> str:
        """The resolved experiment as YAML."""
        values = self.model_dump(mode="json", exclude_none=True)
        if self.pixels is None and self.task.kind in WITH_PIXELS:
            values["pixels"] = None  # because leaving the key out means the default
        return yaml.safe_dump(values, sort_keys=False, width=110)
