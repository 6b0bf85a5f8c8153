"""Mean of the probabilities of several pixel classifiers, for any subset of the sensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from agrifm.errors import InputError, refusing
from agrifm.nn.probabilities import LEAST_OUTPUT
from agrifm.pixels.config import MemberName
from agrifm.pixels.features import PixelFeatures
from agrifm.pixels.members import KINDS, Member, TreesMember
from agrifm.sample import Batch, Season
from agrifm.sensors import Sensor
from agrifm.tensor_files import DAMAGED

CHUNK = 1024  # pixels computed at a time; their features stay in the cache of a processor
DEEPEST = 1000  # levels of a tree


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier.

    Args:
        name: Its name in the experiment.
        sensors: Names of the sensors whose features it reads.
        weight: Its weight in the mean of the classifiers of these sensors.
        module: Maps features to probabilities.
    """

    name: MemberName
    sensors: tuple[str, ...]
    weight: float
    module: Member


class PixelEnsemble(nn.Module):
    """Classify every pixel by its own series; it is called like the network.

    Args:
        features: Computes the features.
        classes: Number of classes of the task.
        known: Classes that the training labels held; the members tell these apart.
        members: Classifiers, for one or several sets of sensors.
    """

    known: Tensor

    def __init__(self, features: PixelFeatures, classes: int, known: Sequence[int], members: Sequence[Fitted]) -> None:
        super().__init__()
        self.features = features
        self.classes = classes
        self.members = tuple(members)
        self.modules_of_members = nn.ModuleList(member.module for member in members)
        self.register_buffer("known", torch.tensor(known))

    def forward(self, batch: Batch) -> Float[Tensor, "b k y x"]:
        """Return the logarithm of the probabilities of every sample, on the grid of the labels or the finest sensor.

        Raises:
            InputError: If a sample has no set of sensors that the classifiers were fitted for.
        """
        size = batch.size(self._present(batch))
        maps = []
        for index in range(len(batch)):
            sensors = self._sensors_for(batch, index)
            count = size[0] * size[1]
            parts = []
            for pixels in torch.arange(count, device=self.known.device).split(CHUNK):
                features = self.features.of_sample(batch, index, sensors, size, pixels)
                parts.append(self.probabilities(features, sensors))
            maps.append(torch.cat(parts).T.view(self.classes, *size))
        return torch.stack(maps).clamp(min=LEAST_OUTPUT).log()

    def probabilities(self, features: Float[Tensor, "n f"], sensors: Sequence[str]) -> Float[Tensor, "n k"]:
        """Mean of the probabilities of the members for these sensors."""
        total = features.new_zeros(len(features), len(self.known))
        for member in self.members:
            if member.sensors == tuple(sensors):
                total += member.weight * member.module(features)
        return self._of_all_classes(total)

    def votes(
        self, batch: Batch, index: int, pixels: Int[Tensor, " n"], size: tuple[int, int]
    ) -> Float[Tensor, "m n k"]:
        """Return the probabilities of each member for some pixels of one sample; their mean by weight is the model's.

        Args:
            batch: Holds the sample.
            index: Number of the sample in the batch.
            pixels: Flat indices of the pixels.
            size: Rows and columns of the grid on which the pixels lie.

        Raises:
            InputError: If the sample has no set of sensors that the classifiers were fitted for.
        """
        sensors = self._sensors_for(batch, index)
        features = self.features.of_sample(batch, index, sensors, size, pixels)
        votes = []
        for member in self.members:
            if member.sensors == sensors:
                votes.append(self._of_all_classes(member.module(features)))
        return torch.stack(votes)

    def _of_all_classes(self, probabilities: Float[Tensor, "n known"]) -> Float[Tensor, "n k"]:
        """Add the classes that the training labels did not hold, with probability 0."""
        every = probabilities.new_zeros(len(probabilities), self.classes)
        return every.index_copy(1, self.known, probabilities)

    def _present(self, batch: Batch) -> tuple[str, ...]:
        return tuple(sensor.name for sensor in self.features.sensors if sensor.name in batch.images)

    def _sensors_for(self, batch: Batch, index: int) -> tuple[str, ...]:
        """The largest set of sensors that a sample has and members were fitted for."""
        present = {name for name in self._present(batch) if int(batch.frames[name][index])}
        return self.members_for(present, f"sample {batch.names[index]}")[0].sensors

    def members_for(self, sensors: Collection[str], where: str) -> list[Fitted]:
        """Return the members that classify a sample: those of the largest set of sensors that it has.

        Args:
            sensors: Names of the sensors of the sample.
            where: Name of the sample, for errors.

        Raises:
            InputError: If there is no such member.
        """
        usable = [member.sensors for member in self.members if set(sensors).issuperset(member.sensors)]
        if not usable:
            fitted = {", ".join(member.sensors): None for member in self.members}
            raise InputError(
                where,
                found=f"sensors {', '.join(sorted(sensors)) or '(none)'}",
                expected=f"at least {' or '.join(fitted)}",
                repair="give the model a sensor it was trained with.",
            )
        largest = max(usable, key=len)
        return [member for member in self.members if member.sensors == largest]

    def tensors(self) -> dict[str, Tensor]:
        """Arrays of all members by the number of the member and the name of the array."""
        arrays = {}
        for number, member in enumerate(self.members):
            for key, value in member.module.state_dict().items():
                arrays[f"{number}.{key.removeprefix('standardize.')}"] = value
        return arrays

    def description(self) -> str:
        """Everything but the arrays, as JSON."""
        kinds = {module: kind for kind, module in KINDS.items()}
        members = []
        for member in self.members:
            kind = kinds[type(member.module)]
            members.append(MemberDocument(name=member.name, kind=kind, sensors=member.sensors, weight=member.weight))
        document = EnsembleDocument(
            season=self.features.season,
            time_steps=self.features.steps,
            indices=self.features.indices,
            statistics=self.features.statistics,
            context=self.features.context,
            known=tuple(self.known.tolist()),
            members=tuple(members),
        )
        # A key that says what its absence says is left out, so that earlier versions open the file.
        return document.model_dump_json(exclude_defaults=True)

    @classmethod
    def restore(
        cls, description: str, arrays: Mapping[str, Tensor], sensors: Sequence[Sensor], classes: int, where: object
    ) -> PixelEnsemble:
        """Build an ensemble from its description and its arrays.

        Args:
            description: As :meth:`description` returns it.
            arrays: As :meth:`tensors` returns them.
            sensors: Sensors of the experiment.
            classes: Number of classes of the experiment.
            where: File that holds them, for errors.

        Raises:
            InputError: If they do not belong together.
        """
        expected = "what 'agrifm train' writes there"
        with refusing(f"{where}: pixels", expected=expected, repair=DAMAGED):
            document = EnsembleDocument.model_validate_json(description)
            names = {sensor.name for sensor in sensors}
            if not all(names.issuperset(member.sensors) for member in document.members):
                raise ValueError("members of sensors that the experiment does not have")
            if len(set(document.known)) < len(document.known) or max(document.known) >= classes:
                raise ValueError("classes that the task does not have")
            features = PixelFeatures(
                tuple(sensors),
                document.season,
                document.time_steps,
                document.indices,
                document.statistics,
                document.context,
            )
            fitted = []
            for number, member in enumerate(document.members):
                module = _module(member.kind, number, arrays)
                _check_arrays(module, len(features.names(member.sensors)), len(document.known))
                fitted.append(Fitted(member.name, member.sensors, member.weight, module))
        return cls(features, classes, document.known, fitted)


class MemberDocument(BaseModel):
    """One member in the description of an ensemble."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: MemberName
    kind: str
    sensors: Annotated[tuple[str, ...], Field(min_length=1)]
    weight: Annotated[float, Field(gt=0, le=1)]


class EnsembleDocument(BaseModel):
    """The description of an ensemble, as a checkpoint stores it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    season: Season
    time_steps: Annotated[int, Field(ge=2, le=1000)]
    indices: bool
    statistics: bool
    context: bool = False
    known: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2)]
    members: Annotated[tuple[MemberDocument, ...], Field(min_length=1)]


def _module(kind: str, number: int, arrays: Mapping[str, Tensor]) -> Member:
    """Build the module of a member from its arrays."""
    prefix = f"{number}."
    own = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    module: Any = KINDS[kind]
    expected = set(signature(module).parameters)
    if set(own) != expected:
        raise ValueError(f"member {number}: arrays {sorted(own)}, not {sorted(expected)}")
    return module(**own)


def _check_arrays(module: Any, features: int, classes: int) -> None:
    """Refuse arrays whose shapes do not fit together, and trees that lead out of their arrays."""
    if isinstance(module, TreesMember):
        _check_trees(module, features, classes)
        return
    # Shapes that do not fit each other raise an error.
    if module(torch.zeros(1, features)).shape != (1, classes):
        raise ValueError("other numbers of classes")
    if not bool((module.standardize.std > 0).all()):
        raise ValueError("standard deviations that are not above 0")


def _check_trees(trees: TreesMember, features: int, classes: int) -> None:
    nodes = len(trees.feature)
    for name in ("threshold", "left", "right", "missing_left", "leaf"):
        if getattr(trees, name).shape != (nodes,):
            raise ValueError(f"{name} of another number of nodes")
    limits = {"roots": nodes, "left": nodes, "right": nodes, "feature": features, "leaf": len(trees.values)}
    for name, limit in limits.items():
        numbers = getattr(trees, name)
        if numbers.ndim != 1 or not len(numbers) or int(numbers.min()) < 0 or int(numbers.max()) >= limit:
            raise ValueError(f"{name} that lead out of the arrays")
    if trees.values.shape[1:] != (classes,) or trees.bias.shape != (classes,):
        raise ValueError("other numbers of classes")
    if not 0 <= int(trees.depth) <= DEEPEST:
        raise ValueError(f"trees of {int(trees.depth)} levels")
