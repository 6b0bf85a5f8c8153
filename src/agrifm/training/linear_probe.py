"""A linear probe of frozen features, which shows what a model has learned while it is trained on something else.

Source: Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agrifm.checks.choice import evenly
from agrifm.checks.two_classes import refuse_one_class
from agrifm.config import Experiment
from agrifm.config import load as read_experiment
from agrifm.data.folder import SampleSource, SampleSubset
from agrifm.data.loader import EpochBatches, Split, load
from agrifm.errors import InputError
from agrifm.nn.model import CropModel
from agrifm.tasks.scores import scores
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.samples.sources import open_sources

MAX_CHIPS = 64  # of each split
MAX_PIXELS = 5000  # of each split


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of single pixels, trained on one split and scored on another.

    Args:
        experiment: A segmentation experiment, which says how to read the chips and what their labels mean.
        train: Samples to train on.
        val: Samples to score on.

    Raises:
        InputError: If the experiment is not a segmentation.
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
        """Train the classifier and return its scores by name.

        Raises:
            InputError: If the labels of train hold fewer than two classes, or val has no labels.
        """
        # scikit-learn takes seconds to import, and few runs have a probe.
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        names = self.experiment.task.names
        train_features, train_classes = self._pixels(model, self.train, device)
        val_features, val_classes = self._pixels(model, self.val, device)
        repair = "name an experiment with more labels."
        refuse_one_class(len(np.unique(train_classes)), "probe: train", repair)
        if not len(val_classes):
            raise InputError(
                "probe: val", found="no labeled pixel", expected="labeled pixels to score the probe", repair=repair
            )
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        classifier.fit(train_features, train_classes)
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (val_classes, classifier.predict(val_features)), 1)
        summary = scores(confusion, names).summary
        return {f"probe_{key}": summary[key] for key in ("aAcc", "mFscore")}

    def _pixels(self, model: CropModel, source: SampleSource, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
        """Features ``(n, c)`` and classes ``(n)`` of labeled pixels, which are the same ones in every call."""
        experiment, task = self.experiment, self.experiment.task
        assert isinstance(task, Segmentation)
        chips = SampleSubset(source, tuple(evenly(len(source), MAX_CHIPS)))
        split = Split(chips, experiment.data.frames, experiment.data.resize)
        batches = EpochBatches(len(chips), experiment.training.batch_size, shuffle=False)
        features: list[Tensor] = []
        classes: list[Tensor] = []
        for batch in load(split, batches, 0):
            assert batch.label is not None
            label = task.classes_of(batch.label)
            labeled = label != task.ignore_index
            channels_last = head_inputs(model, batch.to(device)).permute(0, 2, 3, 1).cpu()
            features.append(channels_last[labeled])
            classes.append(label[labeled])
        all_features, all_classes = torch.cat(features).numpy(), torch.cat(classes).numpy()
        chosen = np.random.default_rng(0).permutation(len(all_classes))[:MAX_PIXELS]
        return all_features[chosen], all_classes[chosen]


def open_probe(experiment: Experiment) -> LinearProbe | None:
    """Open the linear probe that an experiment names, if any.

    Raises:
        InputError: If its file or its chips are missing or wrong.
    """
    if experiment.probe is None:
        return None
    probe_experiment = read_experiment(experiment.probe)
    return LinearProbe(probe_experiment, **open_sources(probe_experiment))


@torch.no_grad()
def head_inputs(model: CropModel, batch: Any) -> Tensor:
    """Return the features ``(b, c, y, x)`` that the head receives.

    The whole model runs, since a model that is split over processes cannot run in part.
    """
    captured: list[Tensor] = []

    def capture(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.append(inputs[0].float())

    handle = model.head.register_forward_pre_hook(capture)
    try:
        model(batch)
    finally:
        handle.remove()
    return captured[0]
