"""A linear probe: what a classifier of single pixels makes of frozen features, while the model learns something else.

Source: Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agrifm.checks.chips import evenly
from agrifm.config import Experiment
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.data.loader import EpochBatches, Split, load
from agrifm.errors import InputError
from agrifm.nn.model import CropModel
from agrifm.tasks.scores import scores
from agrifm.tasks.segmentation import Segmentation

CHIPS, PIXELS = 64, 5000  # of each split at most


@dataclass(frozen=True)
class LinearProbe:
    """Train on pixels of one split and score on those of another.

    Args:
        experiment: Experiment of a segmentation; says where the chips are and what their labels mean.
        train, val: Its splits.

    Raises:
        InputError: If it is no segmentation.
    """

    experiment: Experiment
    train: SampleSource
    val: SampleSource

    def __post_init__(self) -> None:
        if not isinstance(self.experiment.task, Segmentation):
            raise InputError(
                "probe",
                found=f"an experiment with task '{self.experiment.task.kind}'",
                expected="one with labeled chips: task 'segmentation'",
                repair="name such an experiment, e.g. the 'crops.yaml' that 'agrifm chips' writes.",
            )

    def __call__(self, model: CropModel, device: torch.device) -> dict[str, float]:
        """Scores of the probe, by name.

        Raises:
            InputError: If the labels of a split hold fewer than two classes.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        names = self.experiment.task.names
        (given, truth), (others, expected) = (self._pixels(model, part, device) for part in (self.train, self.val))
        if len(np.unique(truth)) < 2 or not len(expected):
            raise InputError(
                "probe",
                found=f"{len(np.unique(truth))} classes in train, {len(expected)} labeled pixels in val",
                expected="at least two classes to tell apart, and pixels to do it on",
                repair="name an experiment with more labels.",
            )
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(given, truth)
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (expected, classifier.predict(others)), 1)
        summary = scores(confusion, names).summary
        return {f"probe_{key}": summary[key] for key in ("aAcc", "mFscore")}

    def _pixels(self, model: CropModel, source: SampleSource, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
        """Features ``(n, c)`` and classes ``(n)`` of labeled pixels; the same ones every time."""
        task = self.experiment.task
        assert isinstance(task, Segmentation)
        few = SampleSubset(source, tuple(evenly(len(source), CHIPS)))
        batches = EpochBatches(len(few), self.experiment.training.batch_size, shuffle=False)
        found: list[tuple[Tensor, Tensor]] = []
        for batch in load(Split(few, self.experiment.data.frames, self.experiment.data.resize), batches, 0):
            assert batch.label is not None
            label = task.classes_of(batch.label)
            known = label != task.ignore_index
            found.append((features(model, batch.to(device)).permute(0, 2, 3, 1).cpu()[known], label[known]))
        values, labels = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        chosen = np.random.default_rng(0).permutation(len(labels))[:PIXELS]
        return values[chosen], labels[chosen]


@torch.no_grad()
def features(model: CropModel, batch: Any) -> Tensor:
    """What the head is given ``(b, c, y, x)``; the model runs as a whole, as it must where it is split."""
    kept: list[Tensor] = []

    def keep(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].float())

    handle = model.head.register_forward_pre_hook(keep)
    try:
        model(batch)
    finally:
        handle.remove()
    return kept[0]
