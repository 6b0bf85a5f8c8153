"""Sections of an experiment: where samples come from, the teacher of pre-training, and training itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from agrifm.data.folder import ChipFolder
from agrifm.data.growing_season import GrowingSeason
from agrifm.errors import nearest
from agrifm.sensors import SENSORS, Sensor
from agrifm.settings.section import Section

SENSOR_NAME = re.compile(r"[\w-]+")  # it becomes part of the names of weights, in which '.' divides


def _known_sensor(value: Any) -> Any:
    """Replace the name of a known sensor by the sensor."""
    if not isinstance(value, str):
        return value
    if value not in SENSORS:
        raise ValueError(f"no sensor is called '{value}': {nearest(value, SENSORS)}")
    return SENSORS[value]


def _as_list(value: Any) -> Any:
    """Accept one entry in place of a list."""
    return [value] if isinstance(value, Mapping | str) else value


SensorName = Literal[tuple(SENSORS)]  # ty: ignore[invalid-type-form]
SensorEntry = Annotated[Sensor, BeforeValidator(_known_sensor, json_schema_input_type=SensorName | Sensor)]
Sensors = Annotated[
    tuple[SensorEntry, ...],
    Field(min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=tuple[SensorEntry, ...] | SensorEntry),
]
Seasons = Annotated[
    tuple[GrowingSeason, ...],
    BeforeValidator(_as_list, json_schema_input_type=tuple[GrowingSeason, ...] | GrowingSeason),
]
LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow"]
Loggers = Annotated[
    tuple[LoggerName, ...],
    Field(min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=tuple[LoggerName, ...] | LoggerName),
]
Places = Annotated[tuple[str, ...], BeforeValidator(_as_list, json_schema_input_type=tuple[str, ...] | str)]


class ShardsConfig(Section):
    """Samples with land-cover fractions, for pre-training.

    Args:
        train: One or several folders or addresses of shards; ``synthetic`` generates samples on the fly, without end.
        val: Folder or address of the shards that are scored, or ``synthetic``.
        sampling_weights: Ratio in which samples are drawn from the places in ``train``, as whole numbers. Equal by
            default.
        epoch_size: Number of samples in an epoch.
        val_samples: Largest number of samples that are scored.
        sensor_sampling_weights: Ratio in which samples of the sensors are drawn. Equal by default.
        shuffle_window: Number of samples that are shuffled together.
        damaged: ``refuse`` damaged shards, or ``skip`` them and report how many samples they held.
    """

    train: Places = ("synthetic",)
    val: str = "synthetic"
    sampling_weights: tuple[Annotated[int, Field(ge=1)], ...] = ()
    epoch_size: int = Field(1024, ge=1)
    val_samples: int = Field(256, ge=1)
    sensor_sampling_weights: dict[str, float] = Field({})
    shuffle_window: int = Field(2048, ge=1)
    damaged: Literal["refuse", "skip"] = "refuse"

    @model_validator(mode="after")
    def _one_weight_per_place(self) -> ShardsConfig:
        weights = len(self.sampling_weights)
        if weights and weights != len(self.train):
            raise ValueError(f"{weights} sampling_weights for {len(self.train)} places in train: give one for each")
        return self


class Teacher(Section):
    """A moving average of the model, with which the model should agree under another view of the same ground.

    Args:
        decay: Decay of the moving average; it rises to this value during the first steps.
        weight: Weight of the disagreement relative to the error in fractions.
        ramp_up: Share of all steps over which the weight rises from 0.
        confidence_weighting: Give more weight to cells in which the teacher is confident.
    """

    decay: float = Field(0.996, ge=0, lt=1)
    weight: float = Field(1.0, ge=0)
    ramp_up: float = Field(0.2, ge=0, le=1)
    confidence_weighting: bool = True


class DataConfig(Section):
    """Where the samples are and how they are read.

    Args:
        root: Folder with ``h5_samples/`` and ``data_lists/{train,val,test}.txt``.
        chips: Folder of the HDF5 files, if it is not ``root/h5_samples``.
        train: List of the training chips, if it is not ``root/data_lists/train.txt``.
        val: List of the validation chips, if it is not ``root/data_lists/val.txt``.
        test: List of the test chips, if it is not ``root/data_lists/test.txt``.
        dataset: ``module:name`` of your own ``torch.utils.data.Dataset``, called as ``name(split)``. It replaces the
            chips.
        sensors: Names of known sensors, or full definitions of sensors.
        statistics: ``data`` computes mean and standard deviation on the valid pixels of the training split; ``given``
            takes those of the sensor. For Sentinel-2 these are the published ones, computed with clouds left in.
        allow_missing: Accept chips that lack some of the sensors.
        allow_links: Follow links in chips to other files, virtual datasets and external storage. Checkpoints never
            keep this setting, because a file must not grant itself access to other files.
        frames: Number of frames used of every series: evenly spread in evaluation, drawn at random in training.
        resize: Rows and columns to resize to, by sensor and for ``label``. Images are interpolated bilinearly, labels
            by nearest neighbor.
        footprint: Side length of a chip in meters; derived from the training data by default. Maps are computed in
            windows of this size.
        label_key: Dataset of the label in a chip. Two datasets, fields and crop, for the task ``fields`` with classes.
        seasons: Growing seasons as days of the year. A chip or scene is cut to the first season whose pattern
            ``chips`` matches its name.
        shards: Samples for pre-training; they replace the chips.
        cache: Keep samples in memory once they have been read. For data sets that fit, with few workers.
        check_chips: Number of chips of each split whose values are checked before training; 0 checks all of them.
        check_bands: Refuse chips whose bands appear to be swapped or wrongly scaled.
    """

    root: Path = Path("data")
    chips: Path | None = None
    train: Path | None = None
    val: Path | None = None
    test: Path | None = None
    dataset: str | None = None
    sensors: Sensors
    statistics: Literal["data", "given"] = "data"
    allow_missing: bool = False
    allow_links: bool = Field(False, exclude=True)
    frames: int | None = Field(None, ge=1)
    resize: dict[str, tuple[int, int]] = Field({})
    footprint: float | None = Field(None, gt=0)
    label_key: str | tuple[str, str] = "label"
    seasons: Seasons = ()
    shards: ShardsConfig | None = None
    cache: bool = False
    check_chips: int = Field(200, ge=0)
    check_bands: bool = True

    @model_validator(mode="after")
    def _sensors_are_distinct(self) -> DataConfig:
        names = [sensor.name for sensor in self.sensors]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"each sensor once, not {name} twice")
            if not SENSOR_NAME.fullmatch(name):
                raise ValueError(f"names of letters, digits, '_' and '-' for sensors, not {name!r}")
        for sensor in self.sensors:
            if sensor.scale == 0:
                raise ValueError(f"sensor {sensor.name}: a scale other than 0")
        return self

    @model_validator(mode="after")
    def _seasons_are_distinct(self) -> DataConfig:
        names = [season.name for season in self.seasons]
        if len(set(names)) < len(names):
            raise ValueError(f"a different name for each of data.seasons, not {', '.join(names)}")
        return self

    @property
    def folder(self) -> Path:
        """Folder of the HDF5 files."""
        return self.chips or self.root / "h5_samples"

    def list_file(self, split: str) -> Path:
        """The file that lists the chips of a split."""
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
        epochs: Number of epochs.
        batch_size: Samples per batch, over all devices together.
        learning_rate: Peak learning rate, after the warm-up; a cosine schedule then lowers it.
        min_learning_rate: Learning rate at the end of the cosine schedule.
        weight_decay: Weight decay of AdamW.
        warmup: Share of all steps in which the rate rises linearly from 1 % of ``learning_rate``.
        layer_decay: Factor on the learning rate per backbone block from the top down; 1 treats all blocks alike.
        encoder_lr_scale: Factor on the learning rate of the encoder; use less than 1 for a pre-trained one.
        precision: Floating-point precision; ``auto`` is bf16 on a GPU that supports it, else float32.
        gradient_clip_val: Largest norm of the gradient; 0 turns clipping off.
        gradient_spike_factor: Skip steps whose gradient norm is this many times the usual one (pre-training).
        accumulate_grad_batches: Number of batches per optimizer step.
        ema_decay: Decay of an exponential moving average of the weights, e.g. 0.999; the average is scored and saved.
        patience: Stop after this many epochs without a better score.
        limit_train_batches: Largest number of batches in an epoch, for trial runs.
        accelerator: Kind of device; ``auto`` takes a GPU if there is one.
        devices: Number of processes on each machine. ``torchrun`` and Slurm are recognized.
        nodes: Number of machines.
        strategy: How several processes train: ``ddp`` keeps all weights in each; ``fsdp`` shards weights, gradients
            and optimizer state, for models that do not fit on one device.
        workers: Number of processes of each data loader.
        logger: Where losses, rates and scores of a network's training go: ``tensorboard``, ``csv``, ``wandb``,
            ``mlflow``, or a list of several. The last two need their own library.
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
    logger: Loggers = ("tensorboard",)

    @model_validator(mode="after")
    def _loggers_are_distinct(self) -> TrainingConfig:
        if len(set(self.logger)) < len(self.logger):
            raise ValueError(f"each logger once, not {', '.join(self.logger)}")
        return self
