"""Samples of the splits of an experiment, and their batches in order."""

from __future__ import annotations

from torch.utils.data import DataLoader

from agrifm.config import Experiment
from agrifm.data.folder import CustomDataset, SampleSource, import_dataset
from agrifm.data.loader import EpochBatches, Split, collate_by_shape, load
from agrifm.data.transforms import Augment
from agrifm.errors import InputError
from agrifm.sample import Batch
from agrifm.training.samples.pretraining_data import open_pretraining_sources

FEW_SAMPLES = 8  # up to which starting worker processes takes longer than reading


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


def batches_in_order(
    experiment: Experiment, source: SampleSource, augment: Augment | None = None
) -> DataLoader[list[Batch]]:
    """Return a loader of all samples in order.

    A batch holds samples of equal shape only, so that the loader gives several batches at a time.

    Args:
        experiment: Says how samples are read and batched.
        source: The samples.
        augment: Random changes of the samples; none by default.
    """
    data = experiment.data
    split = Split(source, data.frames, data.resize, augment, experiment.seed, experiment.prepare)
    order = EpochBatches(len(source), experiment.training.batch_size, shuffle=False)
    workers = experiment.training.workers if len(source) > FEW_SAMPLES else 0
    return load(split, order, workers, collate_by_shape)
