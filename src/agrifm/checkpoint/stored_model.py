"""One model of a checkpoint as it is stored: arrays by name, and an entry about those that are no network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from agrifm.checkpoint.building import build
from agrifm.checkpoint.header import damaged
from agrifm.config import Experiment
from agrifm.errors import InputError, refusing
from agrifm.nn.edges import EdgeRule
from agrifm.pixels.ensemble import PixelEnsemble
from agrifm.tasks.fields import Fields
from agrifm.tensor_files import DAMAGED, match_weights

PIXELS = "pixels."  # before the names of arrays of pixel classifiers
HELD_OUT = "held_out."  # before those of classifiers that did not learn from the validation split


class PixelsDocument(BaseModel):
    """Entry of a header about the pixel classifiers and the edges of one model."""

    description: str | None
    share: Annotated[float, Field(ge=0, le=1)]
    edges: EdgeRule | None = None
    held_out: str | None = None


@dataclass(frozen=True)
class StoredModel:
    """One model of a file, with the names that :class:`agrifm.checkpoint.Checkpoint` uses."""

    experiment: Experiment
    weights: dict[str, Tensor]
    pixels: PixelEnsemble | None = None
    pixel_share: float = 0.0
    edges: EdgeRule | None = None
    held_out: PixelEnsemble | None = None

    def arrays(self) -> dict[str, Tensor]:
        """Weights of the network, and arrays of the pixel classifiers."""
        arrays = dict(self.weights)
        for prefix, ensemble in ((PIXELS, self.pixels), (HELD_OUT, self.held_out)):
            if ensemble is None:
                continue
            for key, value in ensemble.tensors().items():
                arrays[f"{prefix}{key}"] = value
        return arrays

    def document(self) -> dict[str, Any] | None:
        """The entry about what is no network, if there is any."""
        if self.pixels is None and self.edges is None:
            return None
        description = None if self.pixels is None else self.pixels.description()
        document: dict[str, Any] = {"description": description, "share": self.pixel_share}
        if self.edges is not None:
            document["edges"] = asdict(self.edges)
        if self.held_out is not None:
            document["held_out"] = self.held_out.description()
        return document

    @classmethod
    def restore(
        cls, experiment: Experiment, arrays: dict[str, Tensor], document: PixelsDocument | None, path: Path
    ) -> StoredModel:
        """Separate the arrays of pixel classifiers from the weights of the network.

        Args:
            experiment: Experiment of this model.
            arrays: As :meth:`arrays` returns them.
            document: As :meth:`document` returns it.
            path: File that holds them, for errors.

        Raises:
            InputError: If they do not belong together.
        """
        weights, pixel_arrays = _separate(arrays, PIXELS)
        weights, held_out_arrays = _separate(weights, HELD_OUT)
        if document is None:
            if pixel_arrays or held_out_arrays or not experiment.network:
                raise damaged(f"{path}: pixels", "no description of the pixel classifiers", "one")
            return cls(experiment, weights)
        task = experiment.task
        sensors = experiment.data.sensors
        if (document.edges is not None) != isinstance(task, Fields):
            raise damaged(f"{path}: edges", f"task '{task.kind}'", "edges for the task 'fields', and for no other")
        classes = task.pixel_classes if isinstance(task, Fields) else len(task.names)
        pixels = held_out = None
        if document.description is not None:
            pixels = PixelEnsemble.restore(document.description, pixel_arrays, sensors, classes, path)
        elif pixel_arrays or document.edges is None:
            raise damaged(f"{path}: pixels", "no description of the pixel classifiers", "one")
        if document.held_out is not None:
            held_out = PixelEnsemble.restore(document.held_out, held_out_arrays, sensors, classes, path)
        elif held_out_arrays:
            raise damaged(f"{path}: held_out", "no description of these classifiers", "one")
        return cls(experiment, weights, pixels, document.share, document.edges, held_out)

    def check_weights(self, path: Path) -> None:
        """Compare the weights with the model that the experiment describes, before that model takes any memory.

        Raises:
            InputError: If they do not belong together.
        """
        if self.experiment.network or self.edges is not None:
            self._refuse_without_statistics(path)
        if not self.experiment.network:
            if self.weights:
                raise damaged(f"{path}: weights", "weights of a network", "none, as the experiment has no network")
            return
        expected = "a model that can be built"
        with refusing(f"{path}: experiment", expected=expected, repair=DAMAGED), torch.device("meta"):
            model = build(self.experiment)
        match_weights(model, self.weights, where=f"{path}: weights")
        for key, value in self.weights.items():
            is_deviation = key.startswith("normalize.") and key.endswith(".std")
            if is_deviation and not bool((value > 0).all()):
                raise InputError(
                    f"{path}: {key}",
                    found=f"{value.min().item()}",
                    expected="standard deviations above 0",
                    repair="take another checkpoint; this one was damaged or changed.",
                )

    def _refuse_without_statistics(self, path: Path) -> None:
        for sensor in self.experiment.data.sensors:
            if sensor.statistics is None:
                raise damaged(f"{path}: sensor {sensor.name}", "no statistics", "those that it was trained with")


def _separate(weights: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights without a prefix, and those with it, whose names lose it."""
    others = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    chosen = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return others, chosen
