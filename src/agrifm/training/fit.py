"""One run: check the data, settle statistics, train, keep what was best."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from agrifm.checkpoint import Match, load_strict
from agrifm.checks.child_process import TimeLimitExceeded, in_child_process
from agrifm.checks.chips import Survey, evenly, look_at_bands, splits_overlap, structure, survey, unlabeled, values
from agrifm.config import DataConfig, Experiment, parse
from agrifm.config import load as read_experiment
from agrifm.data.folder import CachedDataset, ChipFolder, CustomDataset, SampleSource, import_dataset
from agrifm.data.loader import EpochBatches, Split, load
from agrifm.errors import InputError, Terminated
from agrifm.io import locked, refuse_unwritable
from agrifm.memory import keep_freed_memory
from agrifm.pretraining.blend import Blend
from agrifm.pretraining.shards import Shards
from agrifm.pretraining.stream import Stream
from agrifm.sample import Batch, Season
from agrifm.tasks.class_names import same_names
from agrifm.tasks.fields import Fields, MapLabelSource
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.callbacks import BEST, HISTORY, LAST, ProgressPrinter, ScoreAndSave
from agrifm.training.linear_probe import LinearProbe
from agrifm.training.mean_teacher import (
    MeanTeacher,
    Unlabeled,
    in_order,
    open_covers,
    stored,
    train_loader,
)
from agrifm.training.module import TrainingModule
from agrifm.training.parallel import is_first, on_gpu, strategy
from agrifm.training.shared import from_first
from agrifm.training.state import (
    RESUME,
    SameExperiment,
    WholeFiles,
    checksums_of,
    inputs_of,
    read_checksums,
    refuse_changed_chips,
    write_checksums,
)
from agrifm.training.throughput import Throughput

# Warnings of Lightning that say nothing new here: values are equal in all processes, and so on.
KNOWN = ("does not have many workers", "LeafSpec", "Checkpoint directory", "sync_dist", "WeightAveraging")
SAMPLES, EACH = 300, 24  # of pre-training: for statistics; of each sensor in shards, for a look at bands
MOST_STUCK = 20  # chips that cannot be read in time, after which no others are tried
NEW_KEYS = ("context.", "decoder.", "head.", "normalize.")


def fit(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = True,
    weights: dict[str, Tensor] | None = None,
    sources: Mapping[str, SampleSource] | None = None,
    console: Console | None = None,
) -> Path:
    """Train an experiment and return the path of the best checkpoint.

    Args:
        experiment: what to do.
        out: folder of the results: ``best.safetensors``, ``last.safetensors``, ``history.csv``,
            ``experiment.yaml``, ``environment.json``, TensorBoard logs and the state for resuming.
        resume: go on where a run in ``out`` was interrupted; else begin anew.
        weights: of a pre-trained encoder, by the names of the model.
        sources: ``train`` and ``val``, instead of the files that the experiment names.
        console: where progress is shown.

    Raises:
        InputError: something in the data, the configuration or the weights is wrong.
    """
    console = console or Console()
    _refuse_unstarted(experiment, weights)
    refuse_unwritable(out)
    # Processes that train together share their folder, and the first of them keeps others out.
    with locked(out / "training") if is_first() else nullcontext():
        return _fit(experiment, out, resume, weights, sources or open_sources(experiment), console)


def _fit(
    experiment: Experiment,
    out: Path,
    resume: bool,
    weights: dict[str, Tensor] | None,
    sources: Mapping[str, SampleSource],
    console: Console,
) -> Path:
    state = out / RESUME
    goes_on = resume and state.is_file()

    def look_at_data() -> dict[str, Any]:
        with console.status("comparing the data with those of the run" if goes_on else "computing checksums"):
            before, now = read_checksums(out), checksums_of(sources, out)
        if goes_on:
            refuse_changed_chips(before, now, state)
        settled = settle(experiment, sources, console)
        write_checksums(now, out)
        return {"experiment": settled.model_dump_json(), "inputs": inputs_of(now, sources, weights)}

    found = from_first(look_at_data)
    experiment = parse(json.loads(found["experiment"]), "experiment")
    module = MeanTeacher(experiment) if experiment.data.shards else TrainingModule(experiment)
    module.inputs = found["inputs"]
    if weights is not None:
        console.print(f"start weights: {start(module, weights)}", highlight=False)
    if not resume and is_first():
        for name in (RESUME, HISTORY, BEST, LAST):
            (out / name).unlink(missing_ok=True)
    if goes_on:
        console.print(f"resuming from {state}", highlight=False)
    trainer = make_trainer(experiment, out, console, open_probe(experiment))
    _run(trainer, module, Loaders(experiment, sources), state if goes_on else None)
    return out / BEST


def _refuse_unstarted(experiment: Experiment, weights: dict[str, Tensor] | None) -> None:
    if experiment.start_from is not None and weights is None:
        raise InputError(
            f"start_from: {experiment.start_from}",
            found="no weights handed to fit",
            expected="those that start_from names",
            repair="pass weights=start_weights(experiment) of agrifm.compat.weights, or leave start_from out.",
        )


def _run(trainer: pl.Trainer, module: TrainingModule, loaders: Loaders, state: Path | None) -> None:
    keep_freed_memory()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*({'|'.join(KNOWN)}).*")
        try:
            trainer.fit(module, datamodule=loaders, ckpt_path=state, weights_only=True)
        except SystemExit as end:
            if trainer.interrupted and isinstance(end.__context__, KeyboardInterrupt):  # so Lightning ends on Ctrl-C
                raise end.__context__ from None
            raise
        except RuntimeError as error:
            if trainer.received_sigterm:  # a signal to all processes also ends the loader's, and PyTorch reports them
                raise Terminated from error
            raise


def start(module: TrainingModule, weights: dict[str, Tensor]) -> Match:
    """Load pre-trained weights; decoder, head and what the encoder has beyond the original may be new.

    Raises:
        InputError: a tensor of the encoder is missing, left over or of another shape.
    """
    return load_strict(module.model, weights, may_be_new=NEW_KEYS)


def open_sources(experiment: Experiment, splits: tuple[str, ...] = ("train", "val")) -> dict[str, SampleSource]:
    """The splits of an experiment, from its files or from the user's own dataset."""
    data = experiment.data
    if data.shards is not None:
        found = open_covers(experiment, data.shards)
        for split in splits:
            if split not in found:
                raise InputError(
                    f"{split} split",
                    found="a pre-training experiment, which has the splits train and val",
                    expected="val, which is what its scores are made on",
                    repair="add '--split val'.",
                )
        return {split: found[split] for split in splits}
    if data.dataset is not None:
        make = import_dataset(data.dataset)
        return {split: CustomDataset(make(split), data.seasons) for split in splits}
    return {split: data.split(split) for split in splits}


def settle(experiment: Experiment, sources: Mapping[str, SampleSource], console: Console) -> Experiment:
    """Check the data and return the experiment with the statistics, class weights and priors it will use.

    Raises:
        InputError: the first problem found, and how many more there are.
    """
    if experiment.data.shards is not None:
        return _settle_covers(experiment, sources, console)
    with console.status("checking the data"):
        problems, seen = examine(experiment, sources)
    if problems:
        more = f" ({len(problems) - 1} more; 'agrifm data check' lists them)" if len(problems) > 1 else ""
        first = problems[0]
        kind = type(first)
        raise kind(first.where, found=first.found, expected=first.expected, repair=first.repair + more)
    for warning in cautions(experiment, seen):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    checked, task = seen["train"], experiment.task
    counted = isinstance(task, Segmentation) and not task.is_settled
    needs_all = experiment.data.statistics == "data" or experiment.model.calendar or counted
    if needs_all and checked.chips < len(sources["train"]):
        with console.status("computing statistics"):
            checked = survey(sources["train"], experiment.data.sensors, range(len(sources["train"])))
    if isinstance(task, Segmentation):
        experiment = experiment.model_copy(update={"task": task.settled(checked.labels)})
    experiment = experiment.with_season(Season.of(checked.spans)).with_footprint(median(checked.footprints))
    side = min(experiment.data.resize["label"]) if "label" in experiment.data.resize else median(checked.sides or [1])
    experiment = experiment.with_pixel(median(checked.footprints) / side)
    if experiment.data.statistics == "given":
        for sensor in experiment.data.sensors:
            sensor.known_statistics()
        return experiment
    sensors = experiment.data.sensors
    return experiment.with_sensors([sensor.with_statistics(checked.statistics(sensor)) for sensor in sensors])


def _settle_covers(experiment: Experiment, sources: Mapping[str, SampleSource], console: Console) -> Experiment:
    """Statistics from some hundred samples of pre-training; those that are given stay."""
    lost = [shard for part in stored(sources) for shard in part.lost]
    if lost:
        gone = ", ".join(f"{shard.name} ({shard.samples} samples: {shard.why})" for shard in lost)
        console.print(f"lost: {gone}", highlight=False, markup=False)
    if experiment.data.statistics == "given":
        survey_covers(experiment, sources, 0)
        return experiment
    with console.status("computing statistics"):
        seen = survey_covers(experiment, sources)
    sensors = experiment.data.sensors
    return experiment.with_sensors([sensor.with_statistics(seen.statistics(sensor)) for sensor in sensors])


def survey_covers(experiment: Experiment, sources: Mapping[str, SampleSource], count: int = SAMPLES) -> Survey:
    """Some of the endless samples of pre-training, those that training reads first; bands of shards are looked at.

    Raises:
        InputError: bands of shards look swapped or scaled wrongly.
    """
    train = sources["train"]
    assert isinstance(train, Blend)
    train, order = in_order(experiment, train)
    if experiment.data.check_bands:
        for part in stored({"train": train}):
            _look_at_shards(experiment, part)
    return survey(Unlabeled(train), experiment.data.sensors, [index for _, index in order.order(0, count)])


def _look_at_shards(experiment: Experiment, shards: Shards) -> None:
    """Refuse shards whose bands look swapped or scaled wrongly, by the samples that training reads first.

    Raises:
        InputError: with the bands.
    """
    assert experiment.data.shards is not None
    # Sensors come in equal numbers here, whatever the mix; each in its own order, which the mix does not change.
    order = Stream(shards.groups, None, experiment.data.shards.window, experiment.seed)
    first = [index for _, index in order.order(0, EACH * len(shards.groups))]
    seen = survey(Unlabeled(shards), experiment.data.sensors, first)
    for sensor in experiment.data.sensors:
        look_at_bands(sensor, seen, f"{shards.root}: {sensor.name}", single=False)


def examine(
    experiment: Experiment, sources: Mapping[str, SampleSource], limit: int | None = None
) -> tuple[list[InputError], dict[str, Survey]]:
    """All problems of the splits, and what was seen in each."""
    data, task = experiment.data, experiment.task
    assert isinstance(task, Segmentation | Fields)
    chips = {split: source for split, source in sources.items() if isinstance(source, ChipFolder)}
    problems: list[InputError] = list(splits_overlap({**chips, **_test_names(data)} if chips else {}))
    for source in chips.values():
        problems += structure(source)
    if problems:
        return problems, {}
    seen: dict[str, Survey] = {}
    for split, source in sources.items():
        source = MapLabelSource(source, task) if isinstance(task, Fields) else source
        indices = evenly(len(source), data.check if limit is None else limit)
        bands = data.check_bands
        for found in values(source, data.sensors, indices, task.known, task.ignore_index, bands=bands):
            if isinstance(found, Survey):
                seen[split] = found
            else:
                problems.append(found)
        if problems or (isinstance(task, Fields) and task.classes):
            continue  # samples that cannot be read have no labels; fields are learned without crops, too
        empty = unlabeled(split, source, seen[split], task.known, task.ignore_index)
        if empty and split == "train":
            problems.append(empty)
        elif empty:
            seen[split].warnings.append(f"{empty.where}: {empty.found}; its scores say nothing")
    return problems, seen


def cautions(experiment: Experiment, seen: Mapping[str, Survey]) -> list[str]:
    """What is odd, but does not keep from training."""
    names = [entry.name for entry in getattr(experiment.task, "classes", ())]
    found = [
        f"task.classes: {' and '.join(map(repr, group))} differ in case, accents or spaces only; "
        "if they are one crop, give one class the codes of both"
        for group in same_names(names)
    ]
    return found + [warning for survey_of in seen.values() for warning in survey_of.warnings]


def examine_watched(
    experiment: Experiment, sources: Mapping[str, SampleSource], seconds: float
) -> tuple[list[InputError], dict[str, Survey]]:
    """``examine`` on every chip, in a process that is killed where a damaged chip keeps it busy or crashes it.

    Args:
        experiment: says how to read.
        sources: the splits.
        seconds: that one chip may take to read.
    """
    stuck: list[InputError] = []
    while len(stuck) < MOST_STUCK:
        try:
            problems, seen = in_child_process(partial(examine, experiment, sources, limit=0), seconds)
            return stuck + problems, seen
        except TimeLimitExceeded as error:
            stuck.append(error)
            sources = {split: _without(source, error.path) for split, source in sources.items()}
    return stuck, {}


def _without(source: SampleSource, path: Path) -> SampleSource:
    if not isinstance(source, ChipFolder):
        return source
    names = tuple(name for i, name in enumerate(source.names) if source.path(i) != path)
    return replace(source, names=names)


def _test_names(data: DataConfig) -> dict[str, ChipFolder]:
    """The test split, so that no sample of it is trained on; training can do without one."""
    return {"test": data.split("test")} if data.list_file("test").is_file() else {}


class Loaders(pl.LightningDataModule):
    """Batches of both splits, shared out over processes."""

    def __init__(self, experiment: Experiment, sources: Mapping[str, SampleSource]) -> None:
        super().__init__()
        self.experiment, self.sources = experiment, sources

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch."""
        return batch.to(device)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented."""
        trainer, train = self.trainer, self.sources["train"]
        if isinstance(train, Blend) and trainer is not None:
            return train_loader(self.experiment, train, trainer.global_rank, trainer.world_size)
        return self._load("train", training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """In order, untouched."""
        return self._load("val", training=False)

    def _load(self, name: str, *, training: bool) -> DataLoader[Batch]:
        experiment, trainer = self.experiment, self.trainer
        assert trainer is not None
        if len(self.sources[name]) < trainer.world_size:
            raise InputError(
                f"{name} split",
                found=f"{len(self.sources[name])} samples for {trainer.world_size} processes",
                expected="at least one for each process",
                repair="add samples or lower training.devices.",
            )
        batches = EpochBatches(
            len(self.sources[name]),
            experiment.training.batch_size,
            shuffle=training,
            seed=experiment.seed,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        data: DataConfig = experiment.data
        augment = experiment.augment if training else None
        source = CachedDataset(self.sources[name]) if data.cache else self.sources[name]
        split = Split(source, data.frames, data.resize, augment, experiment.seed, experiment.prepare)
        return load(split, batches, experiment.training.workers)


def open_probe(experiment: Experiment) -> LinearProbe | None:
    """The linear probe that an experiment names.

    Raises:
        InputError: its file or its chips are missing or wrong.
    """
    if experiment.probe is None:
        return None
    other = read_experiment(experiment.probe)
    return LinearProbe(other, **open_sources(other))


def make_trainer(experiment: Experiment, out: Path, console: Console, probe: LinearProbe | None = None) -> pl.Trainer:
    """Lightning's trainer for an experiment."""
    config = experiment.training
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    callbacks: list[pl.Callback] = [ScoreAndSave(out, probe), SameExperiment(), Throughput(), ProgressPrinter(console)]
    callbacks.append(LearningRateMonitor("step"))
    if config.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    if config.patience is not None:
        callbacks.append(EarlyStopping(experiment.task.best_score, mode="max", patience=config.patience))
    callbacks.append(ModelCheckpoint(out, RESUME.removesuffix(".ckpt"), save_top_k=1, enable_version_counter=False))
    return pl.Trainer(
        default_root_dir=out,
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=strategy(config),
        precision=_precision(config.precision, config.accelerator),
        gradient_clip_val=config.clip or None,
        accumulate_grad_batches=config.accumulate,
        limit_train_batches=config.limit if config.limit is not None else 1.0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=callbacks,
        logger=TensorBoardLogger(out, name="tensorboard", version=""),
        plugins=[WholeFiles()],
    )


def _precision(precision: str, accelerator: str) -> Any:
    if precision != "auto":
        return precision
    return "bf16-mixed" if on_gpu(accelerator) and torch.cuda.is_bf16_supported() else "32-true"
