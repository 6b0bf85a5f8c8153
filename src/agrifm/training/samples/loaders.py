"""Data loaders of training and validation, distributed over processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from agrifm.config import Experiment
from agrifm.data.folder import CachedDataset, SampleSource
from agrifm.data.loader import EpochBatches, Split, load
from agrifm.errors import InputError, counted
from agrifm.pretraining.blend import Blend
from agrifm.sample import Batch
from agrifm.training.samples.pretraining_data import train_loader


class Loaders(pl.LightningDataModule):
    """Data loaders of both splits.

    Args:
        experiment: Says how samples are read, augmented and batched.
        sources: The splits train and val.
    """

    def __init__(self, experiment: Experiment, sources: Mapping[str, SampleSource]) -> None:
        super().__init__()
        self.experiment, self.sources = experiment, sources

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch to a device."""
        return batch.to(device)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled and augmented batches."""
        train = self.sources["train"]
        if isinstance(train, Blend) and self.trainer is not None:
            return train_loader(self.experiment, train, self.trainer.global_rank, self.trainer.world_size)
        return self._load("train", training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches in order, without augmentation."""
        return self._load("val", training=False)

    def _load(self, name: str, *, training: bool) -> DataLoader[Batch]:
        experiment, data, source = self.experiment, self.experiment.data, self.sources[name]
        trainer = self.trainer
        assert trainer is not None
        if len(source) < trainer.world_size:
            raise InputError(
                f"{name} split",
                found=f"{counted(len(source), 'sample')} for {trainer.world_size} processes",
                expected="at least one for each process",
                repair="add samples or lower training.devices.",
            )
        batches = EpochBatches(
            len(source),
            experiment.training.batch_size,
            shuffle=training,
            seed=experiment.seed,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        if data.cache:
            source = CachedDataset(source)
        augment = experiment.augment if training else None
        split = Split(source, data.frames, data.resize, augment, experiment.seed, experiment.prepare)
        return load(split, batches, experiment.training.workers)
