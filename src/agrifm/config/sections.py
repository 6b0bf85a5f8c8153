"""The experiment: everything that decides a result, typed, in one flat YAML file.

Sections are one level deep. Unknown keys are refused with the nearest valid name. A relative path is taken
from the folder in which the command runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agrifm.config.limits import refuse_nonsense, refuse_size
from agrifm.data.folder import ChipFolder
from agrifm.data.growing_season import GrowingSeason
from agrifm.data.transforms import Augment
from agrifm.errors import nearest
from agrifm.nn.model import ModelConfig
from agrifm.sample import Sample, Season
from agrifm.sensors import SENSORS, Sensor
from agrifm.tasks.class_choice import chosen
from agrifm.tasks.fields import Fields
from agrifm.tasks.fractions import Fractions
from agrifm.tasks.segmentation import Segmentation

SENSOR_NAME = re.compile(r"[\w-]+")  # it becomes part of the names of weights, in which '.' divides
KINDS = ("segmentation", "fractions", "fields")  # of tasks


def _sensor(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in SENSORS:
        raise ValueError(f"no sensor is called '{value}': {nearest(value, SENSORS)}")
    return SENSORS[value]


def _task(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    value = {"kind": "segmentation", **value}
    if not isinstance(value.get("classes"), Mapping):
        return value
    if value["kind"] != "segmentation":
        raise ValueError(f"task '{value['kind']}' takes no classes from a table: list their names")
    return chosen(value)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping | str) else value


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class ShardsConfig(Section):
    """Samples with fractions of land cover, for pre-training.

    Args:
        train, val: folder or address of shards, or ``synthetic``: made as they are needed, without end. ``train`` may
            list several.
        sampling_weights: of several in ``train``, as whole numbers in a ratio; equal if left out.
        epoch_size: samples of an epoch.
        val_samples: at most so many are scored.
        sensor_sampling_weights: how often sensors are drawn, as a ratio; equal if left out.
        shuffle_window: samples that are shuffled together.
        damaged: ``refuse`` damaged shards, or ``skip`` them and report how many samples they held.
    """

    train: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ("synthetic",)
    val: str = "synthetic"
    sampling_weights: tuple[Annotated[int, Field(ge=1)], ...] = ()
    epoch_size: int = Field(1024, ge=1)
    val_samples: int = Field(256, ge=1)
    sensor_sampling_weights: dict[str, float] = {}
    shuffle_window: int = Field(2048, ge=1)
    damaged: Literal["refuse", "skip"] = "refuse"

    @model_validator(mode="after")
    def _shared_out(self) -> ShardsConfig:
        if self.sampling_weights and len(self.sampling_weights) != len(self.train):
            count = len(self.sampling_weights)
            raise ValueError(f"{count} sampling_weights for {len(self.train)} places in train: give one for each")
        return self


class Teacher(Section):
    """A moving average of the model that it should agree with under another view of the same ground.

    Args:
        decay: of the average; it rises to this during the first steps.
        weight: of the disagreement beside the error in fractions.
        ramp_up: share of all steps over which the weight rises.
        confidence_weighting: count a cell more where the teacher is sure.
    """

    decay: float = Field(0.996, ge=0, lt=1)
    weight: float = Field(1.0, ge=0)
    ramp_up: float = Field(0.2, ge=0, le=1)
    confidence_weighting: bool = True


class DataConfig(Section):
    """Where the chips are and how they are read.

    Args:
        root: folder with ``h5_samples/`` and ``data_lists/{train,val,test}.txt``.
        chips: folder of the HDF5 files, if it is not ``root/h5_samples``.
        train, val, test: list files, if they are not in ``root/data_lists``.
        dataset: ``module:name`` of a ``torch.utils.data.Dataset`` of your own, called as ``name(split)``;
            then no file is read by us.
        sensors: names of known sensors, or sensors written out.
        statistics: ``data`` computes mean and deviation on the training split, masked pixels left out;
            ``given`` takes the sensor's own (for Sentinel-2 the published ones, computed with clouds left in).
        allow_missing: a chip may lack some of the sensors.
        allow_links: follow links in chips to other files, virtual data sets and external storage; never kept in a
            checkpoint, because files must not give themselves rights.
        frames: use this many frames of every series: evenly spread in evaluation, drawn at random in training.
        resize: rows and columns per sensor and for ``label``; bilinear, nearest for labels.
        footprint: meters along one side of a chip; if left out, the training data's. Maps are made of windows of
            that size.
        label_key: dataset of the label; two of them, fields and crop, for task ``fields`` with classes.
        seasons: growing seasons as days of the year; a chip or scene is cut to the first whose ``chips`` fits its name.
        shards: samples for pre-training, instead of chips.
        cache: keep samples in memory once they are read; for data sets that fit, with few workers.
        check_chips: read this many chips of each split, and check their values, before training; 0 is all.
        check_bands: refuse chips whose bands look swapped or scaled wrongly.
    """

    root: Path = Path("data")
    chips: Path | None = None
    train: Path | None = None
    val: Path | None = None
    test: Path | None = None
    dataset: str | None = None
    sensors: Annotated[
        tuple[Annotated[Sensor, BeforeValidator(_sensor)], ...], Field(min_length=1), BeforeValidator(_listed)
    ]
    statistics: Literal["data", "given"] = "data"
    allow_missing: bool = False
    allow_links: bool = Field(False, exclude=True)
    frames: int | None = Field(None, ge=1)
    resize: dict[str, tuple[int, int]] = {}
    footprint: float | None = Field(None, gt=0)
    label_key: str | tuple[str, str] = "label"
    seasons: Annotated[tuple[GrowingSeason, ...], BeforeValidator(_listed)] = ()
    shards: ShardsConfig | None = None
    cache: bool = False
    check_chips: int = Field(200, ge=0)
    check_bands: bool = True

    @model_validator(mode="after")
    def _sensors_apart(self) -> DataConfig:
        named = [sensor.name for sensor in self.sensors]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"each sensor once, not {name} twice")
            if not SENSOR_NAME.fullmatch(name):
                raise ValueError(f"names of letters, digits, '_' and '-' for sensors, not {name!r}")
        for sensor in self.sensors:
            if sensor.scale == 0:
                raise ValueError(f"sensor {sensor.name}: a scale other than 0")
        return self

    @model_validator(mode="after")
    def _seasons_apart(self) -> DataConfig:
        named = [calendar.name for calendar in self.seasons]
        if len(set(named)) < len(named):
            raise ValueError(f"a name of its own for each of data.seasons, not {', '.join(named)}")
        return self

    @property
    def folder(self) -> Path:
        """Folder of the HDF5 files."""
        return self.chips or self.root / "h5_samples"

    def list_file(self, split: str) -> Path:
        """The file that names the chips of a split."""
        return getattr(self, split) or self.root / "data_lists" / f"{split}.txt"

    def split(self, split: str, *, label: bool = True) -> ChipFolder:
        """The chips of one split."""
        return ChipFolder.from_list(
            self.folder,
            self.list_file(split),
            self.sensors,
            label_key=self.label_key if label else None,
            allow_missing=self.allow_missing,
            seasons=self.seasons,
            allow_links=self.allow_links,
        )


class TrainingConfig(Section):
    """How to train.

    Args:
        batch_size: samples per optimizer step and accumulation part, over all devices together.
        learning_rate: after warm-up; then cosine down to ``min_learning_rate``.
        warmup: share of all steps with a linear rise from 1 % of the rate.
        layer_decay: factor on the rate per backbone block from the top down; 1 treats all alike.
        encoder_lr_scale: factor on the rate of the encoder; below 1 when it was pre-trained.
        precision: ``auto`` is bf16 on a GPU that has it, else float32.
        gradient_clip_val: largest norm of the gradient; 0 switches clipping off.
        gradient_spike_factor: leave out steps whose gradient is this many times larger than usual (pre-training).
        accumulate_grad_batches: batches per optimizer step.
        ema_decay: decay of a moving average of the weights, e.g. 0.999; it is what is scored and saved.
        patience: stop after this many epochs without a better score.
        limit_train_batches: at most this many batches per epoch, for trying out.
        devices, nodes: processes on each machine, and machines; ``torchrun`` and Slurm are recognized.
        strategy: of several processes: ``ddp`` keeps all weights in each, ``fsdp`` splits weights, gradients and
            optimizer state among them, for models that do not fit otherwise.
        workers: processes of each data loader.
    """

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    min_learning_rate: float = Field(1e-6, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.05, ge=0, le=1)
    layer_decay: float = Field(1.0, gt=0, le=1)
    encoder_lr_scale: float = Field(1.0, ge=0)
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    gradient_clip_val: float = Field(1.0, ge=0)
    gradient_spike_factor: float | None = Field(None, gt=1)
    accumulate_grad_batches: int = Field(1, ge=1)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    patience: int | None = Field(None, ge=1)
    limit_train_batches: int | None = Field(None, ge=1)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    strategy: Literal["ddp", "fsdp"] = "ddp"
    workers: int = Field(2, ge=0)


class Experiment(Section):
    """One experiment.

    Args:
        name: of the experiment; results go to ``runs/<name>`` unless the command says otherwise.
        start_from: weights to begin with: a checkpoint of ours, the published ``AgriFM.pth``, or the name of weights
            that come with the package, ``agrifm-tiny``.
        teacher: of pre-training; left out, only fractions are learned.
        probe: a segmentation experiment in YAML; after each epoch of pre-training, frozen features of pixels of its
            train split are classified linearly and scored on its val split.
    """

    name: str = "experiment"
    seed: int = Field(0, ge=0)
    start_from: Path | None = None
    data: DataConfig
    augment: Augment = Augment()
    model: ModelConfig = ModelConfig()
    task: Annotated[Segmentation | Fractions | Fields, Field(discriminator="kind"), BeforeValidator(_task)]
    teacher: Teacher | None = None
    probe: Path | None = None
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _numbers_make_sense(self) -> Experiment:
        refuse_nonsense(self)
        refuse_size(self.model.swin)
        return self

    @model_validator(mode="after")
    def _frames_fit(self) -> Experiment:
        if self.model.decoder == "original" and self.data.frames is None:
            raise ValueError("model.decoder 'original' folds time into channels: set data.frames (it used 32)")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> Experiment:
        if self.training.strategy == "fsdp" and self.training.ema_decay is not None:
            raise ValueError("training.ema_decay averages whole weights: leave it out, or use training.strategy 'ddp'")
        return self

    @model_validator(mode="after")
    def _one_way_to_train(self) -> Experiment:
        covers = isinstance(self.task, Fractions)
        if covers != (self.data.shards is not None):
            raise ValueError("task 'fractions' learns from data.shards, and data.shards holds nothing else")
        if self.teacher and (not covers or self.training.ema_decay is not None):
            raise ValueError(
                "a teacher belongs to task 'fractions', and is the moving average: leave out training.ema_decay"
            )
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Experiment:
        two = isinstance(self.task, Fields) and bool(self.task.classes)
        if self.data.dataset is None and two == isinstance(self.data.label_key, str):
            given = "two datasets, e.g. [instances, label]" if two else "one dataset"
            raise ValueError(f"task '{self.task.kind}'{' with classes' * two} learns from {given}: set data.label_key")
        return self

    @property
    def prepare(self) -> Callable[[Sample], Sample] | None:
        """What makes the model's targets of a chip's label, where they are not the label itself."""
        return self.task.prepare if isinstance(self.task, Fields) else None

    def with_links(self, allowed: bool) -> Experiment:
        """The same experiment; chips may or may not lead to other files."""
        return self.model_copy(update={"data": self.data.model_copy(update={"allow_links": allowed})})

    def with_pixel(self, meters: float) -> Experiment:
        """The same experiment; boundaries of fields are measured with this pixel unless it says otherwise."""
        if not isinstance(self.task, Fields):
            return self
        return self.model_copy(update={"task": self.task.with_pixel(meters)})

    def with_sensors(self, sensors: Sequence[Sensor]) -> Experiment:
        """The same experiment with these sensors, whose statistics are settled."""
        data = self.data.model_copy(update={"sensors": tuple(sensors), "statistics": "given"})
        return self.model_copy(update={"data": data})

    def with_footprint(self, meters: float) -> Experiment:
        """The same experiment; maps are made of windows of this size unless it says otherwise."""
        if self.data.footprint is not None:
            return self
        return self.model_copy(update={"data": self.data.model_copy(update={"footprint": meters})})

    def with_season(self, season: Season) -> Experiment:
        """The same experiment; a model with time steps lays them over this season unless it has one."""
        if self.model.time_steps is None or self.model.season is not None:
            return self
        return self.model_copy(update={"model": replace(self.model, season=season)})

    def to_yaml(self) -> str:
        """The resolved experiment as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False, width=110)
