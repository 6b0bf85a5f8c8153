"""The samples of an experiment, by split."""

from __future__ import annotations

from agrifm.config import Experiment
from agrifm.data.folder import CustomDataset, SampleSource, import_dataset
from agrifm.errors import InputError
from agrifm.training.mean_teacher import open_pretraining_sources


def open_sources(experiment: Experiment, splits: tuple[str, ...] = ("train", "val")) -> dict[str, SampleSource]:
    """Open the splits of an experiment: shards, a custom dataset, or files.

    Args:
        experiment: Names the data.
        splits: Names of the splits to open.

    Raises:
        InputError: If a pre-training experiment lacks a split, or the data are missing or damaged.
    """
    data = experiment.data
    if data.shards is not None:
        return _open_shards(experiment, splits)
    if data.dataset is not None:
        make_dataset = import_dataset(data.dataset)
        return {split: CustomDataset(make_dataset(split), data.seasons) for split in splits}
    return {split: data.split(split) for split in splits}


def _open_shards(experiment: Experiment, splits: tuple[str, ...]) -> dict[str, SampleSource]:
    assert experiment.data.shards is not None
    sources = open_pretraining_sources(experiment, experiment.data.shards)
    for split in splits:
        if split not in sources:
            raise InputError(
                f"{split} split",
                found="a pre-training experiment, which has the splits train and val",
                expected="the val split, on which its scores are computed",
                repair="add '--split val'.",
            )
    return {split: sources[split] for split in splits}
