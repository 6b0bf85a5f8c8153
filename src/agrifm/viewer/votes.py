"""Votes at a pixel of a map: the probabilities that every member of the map's model gives to its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError
from agrifm.maps.inputs import hrefs_of
from agrifm.maps.map_scene import plan
from agrifm.maps.options import MapOptions
from agrifm.maps.provenance import MapDocument, Provenance
from agrifm.maps.tiles import MapJob, clear_dates
from agrifm.nn.ensemble import Blend
from agrifm.pixels.ensemble import PixelEnsemble
from agrifm.products.reproduce import check_images, check_model
from agrifm.sample import Batch
from agrifm.scenes.tile import Area
from agrifm.sensors import names
from agrifm.viewer.place import position_on

NETWORK = "network"  # name of its vote


@dataclass(frozen=True)
class Voter:
    """A member of a model.

    Args:
        name: Name of a pixel classifier, or ``network``.
        weight: Its weight in the mean of the model; those of all members add up to 1.
    """

    name: str
    weight: float


@dataclass(frozen=True)
class Vote:
    """What a member says about a pixel.

    Args:
        voter: The member.
        probabilities: Probabilities ``(k)`` of the classes, by their values on the map.
    """

    voter: Voter
    probabilities: np.ndarray

    def describe(self) -> dict[str, Any]:
        """Return name, weight, most probable class and probabilities for the page."""
        return {
            "name": self.voter.name,
            "weight": round(self.voter.weight, 5),
            "class": int(self.probabilities.argmax()),
            "probabilities": [round(float(share), 5) for share in self.probabilities],
        }


@dataclass(frozen=True)
class VotingModel:
    """The model of a map whose members vote.

    Args:
        job: How the map was computed.
        voters: The members, in the order in which the model computes them.
    """

    job: MapJob
    voters: tuple[Voter, ...]

    @classmethod
    def of_map(cls, path: Path) -> VotingModel | None:
        """Open the model and the images that the provenance of a map names.

        Returns:
            None if a file is missing or has changed, or the model is not a mean of pixel classifiers.
        """
        file = Provenance.beside(path)
        try:
            provenance = Provenance.load(file)
            document = provenance.document
            if not isinstance(document, MapDocument):
                return None
            file_of_model = Path(document.model.path)
            check_model(document.model, file_of_model)
            check_images(provenance, hrefs_of(provenance.scene), allow_network=False)
            checkpoint = Checkpoint.load(file_of_model)
            if not _has_members(checkpoint, document.options):
                return None
            # The accelerator of the map may not exist here, and a single pixel does not need one.
            job = plan(checkpoint, provenance.scene, replace(document.options, device="cpu"))
            voters = _voters(checkpoint, names(job.scene.sensors))
        except InputError:
            return None
        return cls(job, voters) if len(voters) > 1 else None

    def at(self, longitude: float, latitude: float) -> list[Vote]:
        """Ask every member about a place, in the windows in which the map was computed.

        Args:
            longitude: Degrees east.
            latitude: Degrees north.

        Returns:
            One vote for each member; none outside of the map, or where no sensor saw the ground.

        Raises:
            InputError: If an image cannot be read.
        """
        position = position_on(self.job.scene.grid, longitude, latitude)
        if position is None:
            return []
        pixel = Area(position.row, position.column, 1, 1)
        data = self.job.read(pixel)
        if not clear_dates(data, pixel).any():
            return []
        windows = self.job.windows.over(pixel)
        areas = [self.job.windows.with_margin(window) for window in windows]
        asked = _PixelInWindows(pixel, areas)
        outputs = self.job.apply(data, windows, asked.votes)
        total = np.zeros(outputs.shape[1], np.float32)
        for window, values in zip(windows, outputs, strict=True):
            part = self.job.windows.part(window, pixel)
            total += part.weight[0, 0] * values[:, *part.in_window][:, 0, 0]
        shares = np.split(total, len(self.voters))
        return [Vote(voter, share) for voter, share in zip(self.voters, shares, strict=True)]


@dataclass(frozen=True)
class _PixelInWindows:
    """One pixel of a map and the windows over it.

    Args:
        pixel: The pixel.
        areas: Pixels of each window with its margin; all of one size.
    """

    pixel: Area
    areas: Sequence[Area]

    def votes(self, model: nn.Module, batch: Batch) -> Tensor:
        """Probabilities ``(b, m * k, y, x)`` of all members, one after the other; of classifiers for the pixel only."""
        if not isinstance(model, Blend):
            return self._of_classifiers(model, batch)
        network = torch.softmax(model.first(batch).float(), 1)
        return torch.cat([network, self._of_classifiers(model.second, batch)], 1)

    def _of_classifiers(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, PixelEnsemble)
        height, width = batch.size(tuple(batch.images))
        maps = []
        for index, area in enumerate(self.areas):
            pixels = torch.arange(height * width)
            # Where a window has the grid of the map, one pixel is enough; others are interpolated.
            if (height, width) == (area.height, area.width):
                pixels = pixels[[(self.pixel.row - area.row) * width + self.pixel.column - area.column]]
            votes = model.votes(batch, index, pixels, (height, width))
            members, _, classes = votes.shape
            values = votes.new_zeros(members, height * width, classes)
            values[:, pixels] = votes
            maps.append(values.movedim(2, 1).reshape(members * classes, height, width))
        return torch.stack(maps)


class Votes:
    """Votes on the maps of a page. A model is loaded once, at the first question; pixels are computed one at a time."""

    def __init__(self) -> None:
        self._models: dict[Path, VotingModel | None] = {}
        self._lock = Lock()

    def at(self, path: Path, longitude: float, latitude: float) -> list[dict[str, Any]] | None:
        """Return the votes at a place of a map for the page.

        Args:
            path: Path of the map.
            longitude: Degrees east.
            latitude: Degrees north.

        Returns:
            One entry for each member, none where the map has no data; or None if the members of its model are unknown.

        Raises:
            InputError: If an image cannot be read.
        """
        with self._lock:
            if path not in self._models:
                self._models[path] = VotingModel.of_map(path)
            model = self._models[path]
            if model is None:
                return None
            return [vote.describe() for vote in model.at(longitude, latitude)]


def _has_members(checkpoint: Checkpoint, options: MapOptions) -> bool:
    """Whether a map is the mean of pixel classifiers, and perhaps a network, in one orientation."""
    is_averaged = options.flips or options.ensemble or checkpoint.flips or checkpoint.others
    is_of_classes = checkpoint.experiment.task.kind == "segmentation"
    return is_of_classes and not is_averaged and checkpoint.pixels is not None and checkpoint.pixel_share > 0


def _voters(checkpoint: Checkpoint, sensors: tuple[str, ...]) -> tuple[Voter, ...]:
    """Members for a scene of these sensors, the network first.

    Raises:
        InputError: If no classifier was fitted for them.
    """
    assert checkpoint.pixels is not None
    share = checkpoint.pixel_share
    voters = [Voter(NETWORK, 1 - share)] if checkpoint.uses_network else []
    for member in checkpoint.pixels.members_for(sensors, "the scene of a map"):
        voters.append(Voter(member.name, share * member.weight))
    return tuple(voters)
