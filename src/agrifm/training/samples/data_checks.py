"""Checks of the data that run before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from agrifm.checks.child_process import TimeLimitExceeded, in_child_process
from agrifm.checks.chips import splits_overlap, structure, unlabeled, values
from agrifm.checks.choice import evenly
from agrifm.checks.survey import Survey
from agrifm.config import DataConfig, Experiment
from agrifm.data.folder import ChipFolder, SampleSource
from agrifm.errors import InputError
from agrifm.tasks.class_names import same_names
from agrifm.tasks.fields import Fields, MapLabelSource
from agrifm.tasks.segmentation import Segmentation

MOST_STUCK = 20  # chips that exceed the time limit, after which the check gives up


def examine(
    experiment: Experiment, sources: Mapping[str, SampleSource], limit: int | None = None
) -> tuple[list[InputError], dict[str, Survey]]:
    """Check the files and the values of every split.

    Args:
        experiment: Says how to read the samples.
        sources: Samples of each split.
        limit: Number of samples to read of each split, 0 for all. The default is ``data.check_chips``.

    Returns:
        All problems, and a survey of each split. Surveys are missing where the structure of the files is wrong.
    """
    problems = _structural_problems(experiment, sources)
    if problems:
        return problems, {}
    task = experiment.task
    assert isinstance(task, Segmentation | Fields)
    surveys: dict[str, Survey] = {}
    for split, source in sources.items():
        if isinstance(task, Fields):
            source = MapLabelSource(source, task)
        split_problems, surveys[split] = _check_values(experiment, source, limit)
        problems += split_problems
        # Samples that cannot be read have no labels, and field boundaries are learned without crop labels, too.
        if problems or (isinstance(task, Fields) and task.classes):
            continue
        no_labels = unlabeled(split, source, surveys[split], task.known, task.ignore_index)
        if no_labels is None:
            continue
        if split == "train":
            problems.append(no_labels)
        else:
            surveys[split].warnings.append(f"{no_labels.where}: {no_labels.found}; its scores are meaningless")
    return problems, surveys


def _structural_problems(experiment: Experiment, sources: Mapping[str, SampleSource]) -> list[InputError]:
    """Find samples that several splits share, and files with a wrong structure."""
    chips = {split: source for split, source in sources.items() if isinstance(source, ChipFolder)}
    if not chips:
        return []
    problems = list(splits_overlap({**chips, **_test_chips(experiment.data)}))
    for source in chips.values():
        problems += structure(source)
    return problems


def _test_chips(data: DataConfig) -> dict[str, ChipFolder]:
    """The test split, none of whose samples may be trained on. Training can do without one."""
    if not data.list_file("test").is_file():
        return {}
    return {"test": data.split("test")}


def _check_values(experiment: Experiment, source: SampleSource, limit: int | None) -> tuple[list[InputError], Survey]:
    data, task = experiment.data, experiment.task
    assert isinstance(task, Segmentation | Fields)
    indices = evenly(len(source), data.check_chips if limit is None else limit)
    problems: list[InputError] = []
    survey = Survey()
    for result in values(source, data.sensors, indices, task.known, task.ignore_index, bands=data.check_bands):
        if isinstance(result, Survey):
            survey = result
        else:
            problems.append(result)
    return problems, survey


def cautions(experiment: Experiment, surveys: Mapping[str, Survey]) -> list[str]:
    """Return warnings about data that look wrong but do not prevent training."""
    class_names = [entry.name for entry in getattr(experiment.task, "classes", ())]
    warnings = []
    for group in same_names(class_names):
        quoted = " and ".join(map(repr, group))
        warnings.append(
            f"task.classes: {quoted} differ in case, accents or spaces only; "
            "if they are one crop, give one class the codes of both"
        )
    for survey in surveys.values():
        warnings += survey.warnings
    return warnings


def examine_watched(
    experiment: Experiment, sources: Mapping[str, SampleSource], seconds: float
) -> tuple[list[InputError], dict[str, Survey]]:
    """Run :func:`examine` on every chip, in a process that is killed if a damaged chip blocks or crashes it.

    Args:
        experiment: Says how to read the samples.
        sources: Samples of each split.
        seconds: Time limit for reading one chip.

    Returns:
        All problems, and a survey of each split without the chips that exceed the limit.
    """
    exceeded: list[InputError] = []
    while len(exceeded) < MOST_STUCK:
        try:
            problems, surveys = in_child_process(partial(examine, experiment, sources, limit=0), seconds)
            return exceeded + problems, surveys
        except TimeLimitExceeded as error:
            exceeded.append(error)
            sources = {split: _without(source, error.path) for split, source in sources.items()}
    return exceeded, {}


def _without(source: SampleSource, path: Path) -> SampleSource:
    """The source without one of its files."""
    if not isinstance(source, ChipFolder):
        return source
    names = tuple(name for i, name in enumerate(source.names) if source.path(i) != path)
    return replace(source, names=names)
