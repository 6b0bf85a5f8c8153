"""Sources of samples: folders of chips, users' own datasets, and samples of a source under restrictions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from agrifm.data.checksums import Checksum, checksums
from agrifm.data.chip_values import check_days
from agrifm.data.chips import FrameChoice, read_chip
from agrifm.data.growing_season import GrowingSeason, growing_season_of
from agrifm.data.lists import read_names
from agrifm.data.transforms import pick_frames
from agrifm.errors import InputError
from agrifm.sample import ITEM_CONTRACT, Sample
from agrifm.sensors import Sensor


class SampleSource(Protocol):
    """What training and evaluation read from: numbered samples, with a choice of frames."""

    def __len__(self) -> int: ...

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample, only the chosen frames."""
        ...


@dataclass(frozen=True)
class ChipFolder:
    """Some chips of a folder.

    Args:
        folder: Folder that holds ``<name>.h5``.
        names: Names of the chips, in order.
        sensors: Sensors to read.
        label_key: Dataset of the label, or several that are stacked; None reads no label.
        allow_missing: Accept chips that lack some of the sensors.
        seasons: Growing seasons to which chips are cut.
        allow_links: Accept chips that keep values in other files.
    """

    folder: Path
    names: tuple[str, ...]
    sensors: tuple[Sensor, ...]
    label_key: str | tuple[str, ...] | None = "label"
    allow_missing: bool = False
    seasons: tuple[GrowingSeason, ...] = ()
    allow_links: bool = False

    @classmethod
    def from_list(
        cls,
        folder: Path,
        list_file: Path,
        sensors: Sequence[Sensor],
        *,
        label_key: str | tuple[str, ...] | None = "label",
        allow_missing: bool = False,
        seasons: Sequence[GrowingSeason] = (),
        allow_links: bool = False,
    ) -> ChipFolder:
        """Return the chips that a text file lists, one name a line."""
        names = read_names(list_file, folder)
        return cls(folder, names, tuple(sensors), label_key, allow_missing, tuple(seasons), allow_links)

    @classmethod
    def in_folder(
        cls,
        folder: Path,
        sensors: Sequence[Sensor],
        *,
        allow_missing: bool = False,
        seasons: Sequence[GrowingSeason] = (),
        allow_links: bool = False,
    ) -> ChipFolder:
        """Return all chips of a folder, without labels.

        Raises:
            InputError: If the folder holds none.
        """
        # A name that begins with a dot is a file that is still being written.
        names = sorted(path.stem for path in folder.glob("*.h5") if not path.name.startswith("."))
        if not names:
            raise InputError(
                folder, found="no *.h5 files", expected="a folder of chips", repair="name the folder that holds them."
            )
        return cls(folder, tuple(names), tuple(sensors), None, allow_missing, tuple(seasons), allow_links)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of a chip."""
        return self.folder / f"{self.names[index]}.h5"

    def checksums(self, known: Mapping[str, Checksum] | None = None) -> dict[str, Checksum]:
        """Return the checksums of the chips by name.

        Args:
            known: Checksums of an earlier call. Files with the same size and time are not read again.
        """
        paths = {name: self.path(i) for i, name in enumerate(self.names)}
        return checksums(paths, known)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample, only the chosen frames of its season."""
        sample = read_chip(
            self.path(index),
            self.sensors,
            label_key=self.label_key,
            allow_missing=self.allow_missing,
            allow_links=self.allow_links,
            # Frames are chosen among those of the season, which must be known first.
            frames=None if self.seasons else frames,
        )
        sample = replace(sample, name=self.names[index])  # with its folder, so that a/x and b/x stay apart
        return _in_season(sample, self.seasons, frames) if self.seasons else sample


def _in_season(sample: Sample, seasons: Sequence[GrowingSeason], frames: FrameChoice | None) -> Sample:
    """Return the chosen frames of the sample's growing season."""
    if seasons:
        sample = growing_season_of(seasons, sample.name).cut(sample)
    return sample if frames is None else pick_frames(sample, frames)


class MappingDataset(Dataset):
    """Chips as dictionaries: ``{"data": {sensor: (T,C,H,W)}, "label": (H,W) long, "file_name": str}``.

    Inherit from it, or follow its contract with any dataset, and name it in the ``data`` section as
    ``dataset: module:name``. Optional keys of an item: ``dates`` and ``valid``, by sensor.

    Args:
        folder: Folder that holds the HDF5 files.
        list_file: Text file with one sample name a line.
        sensors: Sensors to read.
    """

    def __init__(self, folder: Path | str, list_file: Path | str, sensors: Sequence[Sensor]) -> None:
        self.chips = ChipFolder.from_list(Path(folder), Path(list_file), sensors)

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.chips.read(index)
        return {
            "data": sample.images,
            "label": sample.label,
            "file_name": sample.name,
            "dates": sample.dates,
            "valid": sample.valid,
        }


@dataclass(frozen=True)
class CustomDataset:
    """A user's own dataset as a source.

    Args:
        dataset: Dataset whose items are dictionaries; see ``MappingDataset``.
        seasons: Growing seasons to which samples are cut.
    """

    dataset: Any
    seasons: tuple[GrowingSeason, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample and check it against the contract."""
        item = self.dataset[index]
        if not isinstance(item, Mapping):
            raise InputError(
                f"{type(self.dataset).__name__}[{index}]",
                found=type(item).__name__,
                expected=ITEM_CONTRACT,
                repair="return that dictionary from __getitem__.",
            )
        sample = Sample.from_item(item)
        for name, image in sample.images.items():
            if image.is_floating_point() and not torch.isfinite(image).all():
                raise InputError(
                    f"{sample.name}: {name}", found="NaN or infinity", expected="finite numbers", repair="mask them."
                )
        for name, days in sample.dates.items():
            check_days(days, f"{sample.name}: dates of {name}")
        return _in_season(sample, self.seasons, frames)


@dataclass(frozen=True)
class SampleSubset:
    """Samples of a source without some days or some sensors.

    Args:
        source: Source of the complete samples.
        rows: Numbers of the samples in the source.
        hidden: First and last day of the period that is removed from each sample; empty to remove none.
        sensors: Sensors that are kept; None keeps all.
    """

    source: SampleSource
    rows: tuple[int, ...]
    hidden: tuple[tuple[float, float], ...] = ()
    sensors: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample; frames are chosen among those that are left."""
        sample = self.source.read(self.rows[index])
        if self.hidden:
            first, last = self.hidden[index]
            sample = sample.hide(first, last)
        if self.sensors is not None:
            sample = sample.only(self.sensors)
        return sample if frames is None else pick_frames(sample, frames)


class CachedDataset:
    """A source whose samples stay in memory, with all frames, once they have been read."""

    def __init__(self, source: SampleSource) -> None:
        self.source = source
        self.samples: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Read one sample, only the chosen frames."""
        if index not in self.samples:
            self.samples[index] = self.source.read(index)
        sample = self.samples[index]
        return sample if frames is None else pick_frames(sample, frames)


def import_dataset(path: str) -> Callable[[str], Any]:
    """Import ``module:name``, a callable that takes a split and returns a dataset.

    This runs the named module, which is the user's own program. Checkpoints keep the name and may come from a stranger;
    therefore callables of Python itself, such as ``os:system``, are refused.

    Raises:
        InputError: If it cannot be imported, or is part of Python.
    """
    module, _, name = path.partition(":")
    try:
        if _is_python(module) or module.partition(".")[0] == "builtins":
            raise ImportError(f"'{module}' is a part of Python")
        make_dataset = getattr(importlib.import_module(module), name)
        home = module
        if isinstance(make_dataset, FunctionType | BuiltinFunctionType | type):
            home = make_dataset.__module__ or module  # it may be imported there from a module of Python
        if _is_python(home):
            raise ImportError(f"'{name}' is a part of Python")
        return make_dataset
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"data.dataset: {path}",
            found=str(error),
            expected="module:name of a callable that takes a split and returns a torch Dataset",
            repair="put the module on PYTHONPATH, or correct the name.",
        ) from error


def _is_python(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
