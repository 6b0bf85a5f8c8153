"""What an experiment leaves to the data: statistics, class weights and priors, the season, the size of a chip."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from statistics import median
from typing import Any

from rich.console import Console

from agrifm.checks.band_order import check_band_order
from agrifm.checks.chips import survey
from agrifm.checks.survey import Survey
from agrifm.config import Experiment
from agrifm.data.folder import SampleSource
from agrifm.errors import InputError, counted
from agrifm.pretraining.blend import Blend
from agrifm.pretraining.shards import Shards
from agrifm.pretraining.stream import Stream
from agrifm.sample import Season
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.samples.data_checks import cautions, examine
from agrifm.training.samples.pretraining_data import Unlabeled, training_shards, with_order

STEPS = 300  # optimizer steps of a network of single pixels, as far as the limits of its epochs allow
EPOCHS = (15, 100)  # least and largest number of its epochs
FEW_LABELS = 16  # labeled pixels in a chip below which it is a point rather than an image
POINTS_IN_BATCH = 32
CHIPS_IN_BATCH = 8
STATISTICS_SAMPLES = 300  # samples of pre-training that statistics are computed on
BAND_CHECK_SAMPLES = 24  # samples of each sensor in shards whose bands are checked


def resolve(experiment: Experiment, sources: Mapping[str, SampleSource], console: Console) -> Experiment:
    """Check the data, and return the experiment with everything that it derives from them.

    Args:
        experiment: As the user wrote it.
        sources: The splits train and val.
        console: Shows progress and warnings.

    Raises:
        InputError: If the data have problems: the first one, and the number of the others.
    """
    if experiment.data.shards is not None:
        return _resolve_pretraining(experiment, sources, console)
    with console.status("checking the data"):
        problems, surveys = examine(experiment, sources)
    if problems:
        raise _summary(problems)
    for warning in cautions(experiment, surveys):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    facts = _training_survey(experiment, sources["train"], surveys["train"], console)
    return _with_facts(experiment, len(sources["train"]), facts)


def _summary(problems: list[InputError]) -> InputError:
    """The first problem, with the number of the others."""
    first, others = problems[0], len(problems) - 1
    more = f" ({others} more; 'agrifm data check' lists them)" if others else ""
    error_type = type(first)
    return error_type(first.where, found=first.found, expected=first.expected, repair=first.repair + more)


def _training_survey(experiment: Experiment, train: SampleSource, checked: Survey, console: Console) -> Survey:
    """A survey of the whole training split where something depends on all of it, else that of the checked samples."""
    task = experiment.task
    needs_class_counts = isinstance(task, Segmentation) and not task.is_settled
    needs_season = experiment.model.needs_season or experiment.pixels is not None
    needs_all = experiment.data.statistics == "data" or needs_season or needs_class_counts
    if not needs_all or checked.chips >= len(train):
        return checked
    with console.status("computing statistics"):
        return survey(train, experiment.data.sensors, range(len(train)))


def _with_training_defaults(experiment: Experiment, samples: int, facts: Survey) -> Experiment:
    """Fill in how a network of single pixels is trained, where the experiment does not say it.

    A pyramid keeps the defaults of the section. A network of pixels takes larger batches, since chips of points hold
    one label each, and a number of epochs that follows from the number of samples.
    """
    if experiment.model.has_pyramid or not experiment.network:
        return experiment
    training = experiment.training
    labels_per_chip = sum(facts.labels.values()) / max(1, facts.chips)
    wanted: dict[str, Any] = {
        "batch_size": min(samples, POINTS_IN_BATCH if labels_per_chip < FEW_LABELS else CHIPS_IN_BATCH),
        "learning_rate": 1e-3,
        "warmup": 0.1,
    }
    if training.strategy == "ddp":
        wanted["ema_decay"] = 0.98
    batch_size = training.batch_size if "batch_size" in training.model_fields_set else wanted["batch_size"]
    least, most = EPOCHS
    wanted["epochs"] = min(max(least, ceil(STEPS * batch_size / samples)), most)
    changes = {key: value for key, value in wanted.items() if key not in training.model_fields_set}
    return experiment.model_copy(update={"training": training.model_copy(update=changes)})


def _with_facts(experiment: Experiment, samples: int, facts: Survey) -> Experiment:
    experiment = _with_training_defaults(experiment, samples, facts)
    data, task = experiment.data, experiment.task
    if isinstance(task, Segmentation):
        experiment = experiment.model_copy(update={"task": task.settled(facts.labels)})
    footprint = median(facts.footprints)
    experiment = experiment.with_season(Season.of(facts.spans)).with_footprint(footprint)
    label_side = min(data.resize["label"]) if "label" in data.resize else median(facts.sides or [1])
    experiment = experiment.with_pixel(footprint / label_side)
    if data.statistics == "given":
        for sensor in data.sensors:
            sensor.known_statistics()  # raises where there are none
        return experiment
    return _with_statistics(experiment, facts)


def _with_statistics(experiment: Experiment, facts: Survey) -> Experiment:
    sensors = experiment.data.sensors
    return experiment.with_sensors([sensor.with_statistics(facts.statistics(sensor)) for sensor in sensors])


def _resolve_pretraining(experiment: Experiment, sources: Mapping[str, SampleSource], console: Console) -> Experiment:
    """Compute statistics on the first samples of pre-training, unless they are given."""
    lost = [shard for shards in training_shards(sources) for shard in shards.lost]
    if lost:
        descriptions = ", ".join(f"{shard.name} ({counted(shard.samples, 'sample')}: {shard.why})" for shard in lost)
        console.print(f"lost: {descriptions}", highlight=False, markup=False)
    if experiment.data.statistics == "given":
        survey_covers(experiment, sources, 0)  # checks the bands
        return experiment
    with console.status("computing statistics"):
        facts = survey_covers(experiment, sources)
    return _with_statistics(experiment, facts)


def survey_covers(
    experiment: Experiment, sources: Mapping[str, SampleSource], count: int = STATISTICS_SAMPLES
) -> Survey:
    """Survey the samples that pre-training reads first, after a check of the bands of shards.

    Args:
        experiment: A pre-training experiment.
        sources: Its splits.
        count: Number of samples; there is no end of them.

    Raises:
        InputError: If bands of shards look swapped or scaled wrongly.
    """
    train = sources["train"]
    assert isinstance(train, Blend)
    train, order = with_order(experiment, train)
    if experiment.data.check_bands:
        for shards in training_shards({"train": train}):
            _check_bands(experiment, shards)
    return survey(Unlabeled(train), experiment.data.sensors, [index for _, index in order.order(0, count)])


def _check_bands(experiment: Experiment, shards: Shards) -> None:
    """Refuse shards whose bands look swapped or scaled wrongly, judged by the samples that training reads first.

    Raises:
        InputError: If they do; it names the bands.
    """
    assert experiment.data.shards is not None
    # Without sampling weights all sensors come equally often. The weights do not change the order within a sensor.
    order = Stream(shards.groups, None, experiment.data.shards.shuffle_window, experiment.seed)
    indices = [index for _, index in order.order(0, BAND_CHECK_SAMPLES * len(shards.groups))]
    facts = survey(Unlabeled(shards), experiment.data.sensors, indices)
    for sensor in experiment.data.sensors:
        check_band_order(sensor, facts.pixels.get(sensor.name, ()), f"{shards.root}: {sensor.name}", single=False)
