"""A trained model with its history, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from agrifm.checkpoint.agreement import refuse_other_data
from agrifm.checkpoint.building import build
from agrifm.checkpoint.file import Facts, read_file, write_file
from agrifm.checkpoint.stored_model import StoredModel
from agrifm.config import Experiment
from agrifm.errors import InputError
from agrifm.nn.edges import EdgeRule, Edges
from agrifm.nn.ensemble import Blend, TestTimeEnsemble, mean_of_classes
from agrifm.pixels.ensemble import PixelEnsemble
from agrifm.tasks.calibration import Calibration
from agrifm.tasks.edges import FieldEdges
from agrifm.tasks.fields import Fields
from agrifm.tensor_files import load_strict


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its history.

    Args:
        experiment: Resolved experiment; its sensors carry their statistics.
        weights: Weights of the CropModel; none if the experiment has no network.
        scores: Scores on the validation split by name.
        epoch: Epoch after which the weights were saved.
        versions: Versions of the libraries that trained it.
        calibration: Calibration of its probabilities; it fits the model with its flips and others.
        flips: Average the probabilities over the eight orientations of a square.
        others: Other members of an ensemble, whose probabilities are averaged with those of this one.
        pixels: Classifiers of single pixels, beside the network or in its place.
        pixel_share: Weight of their probabilities, from 0 to 1; the rest is that of the network.
        edges: Rule of the boundaries that belong to the classifiers of pixels, if the task is to find fields.
        compared: Scores on the validation split of the network, of what stands beside it, and of both, by name.
        held_out: The same classifiers without the validation split, if they learned from it in the end.
    """

    experiment: Experiment
    weights: dict[str, Tensor]
    scores: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    flips: bool = False
    others: tuple[Checkpoint, ...] = ()
    pixels: PixelEnsemble | None = None
    pixel_share: float = 0.0
    edges: EdgeRule | None = None
    compared: dict[str, float] = field(default_factory=dict)
    held_out: PixelEnsemble | None = None

    def save(self, path: Path) -> None:
        """Write the file; it appears whole.

        Raises:
            InputError: If the disk is full or read-only, or the folder cannot be created.
        """
        members = (self, *self.others)
        facts = Facts(self.scores, self.epoch, self.versions, self.calibration, self.flips, self.compared)
        write_file(path, [member._stored() for member in members], facts)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read the file.

        Raises:
            InputError: If it is missing, cut off, or another kind of file.
        """
        models, facts = read_file(path)
        first, *others = [cls._of(model) for model in models]
        return replace(
            first,
            scores=facts.scores,
            epoch=facts.epoch,
            versions=facts.versions,
            calibration=facts.calibration,
            flips=facts.flips,
            compared=facts.compared,
            others=tuple(others),
        )

    @classmethod
    def _of(cls, model: StoredModel) -> Checkpoint:
        """One model of a file, without what holds for the whole file."""
        return cls(
            model.experiment,
            model.weights,
            pixels=model.pixels,
            pixel_share=model.pixel_share,
            edges=model.edges,
            held_out=model.held_out,
        )

    def _stored(self) -> StoredModel:
        return StoredModel(self.experiment, self.weights, self.pixels, self.pixel_share, self.edges, self.held_out)

    def model(self) -> nn.Module:
        """Return the model with these weights, ready for evaluation; the mean of all members of an ensemble."""
        model = self._single_model()
        if not (self.flips or self.others):
            return model.eval()
        members = [model]
        for other in self.others:
            members.append(other.model())
        return TestTimeEnsemble(members, flips=self.flips).eval()

    def _single_model(self) -> nn.Module:
        """The network, what stands beside it, or both."""
        if self.stands_beside and not self.uses_network:
            return self._beside()
        network = build(self.experiment)
        load_strict(network, self.weights)
        if not self.stands_beside or self.pixel_share == 0:
            return network
        task = self.experiment.task
        mean = task.mean if isinstance(task, Fields) else mean_of_classes
        return Blend(network, self._beside(), self.pixel_share, mean)

    @property
    def stands_beside(self) -> bool:
        """Whether there are classifiers of pixels or edges, beside the network or in its place."""
        return self.pixels is not None or self.edges is not None

    def _beside(self) -> nn.Module:
        """The classifiers of pixels; with edges, the fields that follow from both."""
        pixels = deepcopy(self.pixels)
        if self.edges is None:
            assert pixels is not None
            return pixels
        task = self.experiment.task
        assert isinstance(task, Fields)
        return FieldEdges(task, Edges(self.experiment.data.sensors, self.edges), pixels)

    @property
    def _uses_edges(self) -> bool:
        return self.edges is not None and self.pixel_share > 0

    @property
    def uses_network(self) -> bool:
        """Whether the network has a part in the probabilities."""
        return self.experiment.network and self.pixel_share < 1

    @property
    def sees_neighbors(self) -> bool:
        """Whether the class of a pixel depends on ground far around it, in this model or another of the ensemble."""
        members = (self, *self.others)
        return any(
            member._uses_edges or (member.uses_network and member.experiment.model.has_pyramid) for member in members
        )

    @property
    def uses_context(self) -> bool:
        """Whether classifiers read the pixels beside each pixel, in this model or another of the ensemble."""
        members = (self, *self.others)
        return any(member.pixels is not None and member.pixels.features.context for member in members)

    def for_split(self, split: str) -> Checkpoint:
        """Return the checkpoint that may be judged on a split.

        Pixel classifiers learn from the validation split once everything is chosen. Scores and calibration on that
        split use the classifiers as they were before.

        Args:
            split: Name of a split, or path of a list.
        """
        if split != "val":
            return self
        others = tuple(other.for_split(split) for other in self.others)
        return replace(self, pixels=self.held_out or self.pixels, held_out=None, others=others)

    @property
    def learned_from_val(self) -> bool:
        """Whether a part of the model learned from the validation split."""
        return any(member.held_out is not None for member in (self, *self.others))

    def with_root(self, root: Path | None, *, allow_links: bool = False) -> Checkpoint:
        """Return the checkpoint with its data in another folder of the same layout.

        Args:
            root: Folder of the data; None keeps the present one.
            allow_links: Accept chips that refer to other files.
        """
        experiment = self.experiment.with_links(allow_links)
        if root is not None:
            experiment = experiment.with_data(root=root, chips=None, train=None, val=None, test=None)
        return replace(self, experiment=experiment)

    def averaging(self, *, flips: bool = False, others: Sequence[Path | str] = ()) -> Checkpoint:
        """Return a checkpoint that averages its probabilities over flips and with those of other checkpoints.

        Args:
            flips: Average over the eight orientations of a square.
            others: Paths of the other checkpoints.

        Raises:
            InputError: If another checkpoint has other data or classes, or this one is calibrated already.
        """
        if not (flips or others):
            return self
        if self.calibration is not None:
            raise InputError(
                "--flips, --ensemble",
                found="a checkpoint that was calibrated without them",
                expected="probabilities of the same kind as those it was calibrated on",
                repair="calibrate again with these options: 'agrifm calibrate' keeps them in the file it writes.",
            )
        kind = self.experiment.task.kind
        if kind != "segmentation":
            raise InputError(
                "--flips, --ensemble",
                found=f"a model of {kind}",
                expected="one that gives a probability to each class: task 'segmentation'",
                repair="leave them out.",
            )
        members = [*self.others]
        for path in others:
            other = Checkpoint.load(Path(path))
            refuse_other_data(self.experiment, other.experiment, path)
            flips = flips or other.flips
            for member in (other, *other.others):
                members.append(replace(member, calibration=None, flips=False, others=()))
        return replace(self, flips=flips or self.flips, others=tuple(members))
