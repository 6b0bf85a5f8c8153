"""A folder of chips as a dataset, and the dictionary contract that any dataset of a user's own may follow."""

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

from agrifm.data.checksums import Checksum, checksums, digest
from agrifm.data.chip_values import check_days
from agrifm.data.chips import FrameChoice, read_chip
from agrifm.data.growing_season import GrowingSeason, growing_season_of
from agrifm.data.lists import read_names
from agrifm.data.transforms import pick_frames
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import Sensor


class SampleSource(Protocol):
    """What training and evaluation read from: numbered samples, with a choice of frames."""

    def __len__(self) -> int: ...

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames."""
        ...


@dataclass(frozen=True)
class ChipFolder:
    """Some chips of a folder.

    Args:
        folder: holds ``<name>.h5``.
        names: of the chips, in order.
        sensors: what to read.
        label_key: dataset of the label, or of several that are stacked; None reads none.
        allow_missing: a chip may lack some of the sensors.
        seasons: calendars that chips are cut to.
        allow_links: chips may keep values in other files.
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
        """Read the names of the chips from a text file, one a line."""
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
        """All chips of a folder, without labels.

        Raises:
            InputError: the folder holds none.
        """
        # A name that begins with a dot is a file that is being written.
        names = tuple(sorted(path.stem for path in folder.glob("*.h5") if not path.name.startswith(".")))
        if not names:
            raise InputError(
                folder, found="no *.h5 files", expected="a folder of chips", repair="name the folder that holds them."
            )
        return cls(folder, names, tuple(sensors), None, allow_missing, tuple(seasons), allow_links)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of a chip."""
        return self.folder / f"{self.names[index]}.h5"

    def checksums(self, known: Mapping[str, Checksum] | None = None) -> dict[str, Checksum]:
        """Checksums of the chips by name; see ``checksums``.

        Args:
            known: those of an earlier call: files whose size and time are the same are not read again.
        """
        return checksums({name: self.path(i) for i, name in enumerate(self.names)}, known)

    def fingerprint(self) -> str:
        """SHA-256 over the names, their order and the content of all files: equal where the samples are."""
        return digest(self.checksums())

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames of its season."""
        sample = read_chip(
            self.path(index),
            self.sensors,
            label_key=self.label_key,
            allow_missing=self.allow_missing,
            allow_links=self.allow_links,
            frames=None if self.seasons else frames,
        )
        sample = replace(sample, name=self.names[index])  # of two chips a/x and b/x, too, results are kept apart
        return _in_season(sample, self.seasons, frames) if self.seasons else sample


def _in_season(sample: Sample, seasons: Sequence[GrowingSeason], frames: FrameChoice | None) -> Sample:
    """The chosen frames of the season that is the sample's."""
    if seasons:
        sample = growing_season_of(seasons, sample.name).cut(sample)
    return sample if frames is None else pick_frames(sample, frames)


class MappingDataset(Dataset):
    """Chips as dictionaries: ``{"data": {sensor: (T,C,H,W)}, "label": (H,W) long, "file_name": str}``.

    Inherit from it, or follow its contract with any dataset, and name it in the ``data`` section as
    ``dataset: module:name``. Optional keys of an item: ``dates`` and ``valid``, by sensor.

    Args:
        folder: holds the HDF5 files.
        list_file: one sample name a line.
        sensors: what to read.
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
    """A user's own dataset as a source, cut to the seasons of a calendar if there are any."""

    dataset: Any
    seasons: tuple[GrowingSeason, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, checked against the contract."""
        item = self.dataset[index]
        if not isinstance(item, Mapping):
            raise InputError(
                f"{type(self.dataset).__name__}[{index}]",
                found=type(item).__name__,
                expected='{"data": {sensor: (T,C,H,W)}, "label": (H,W), "file_name": str}',
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
class View:
    """Samples of a source as they would have been without some days or some sensors.

    Args:
        source: all that was seen.
        rows: numbers of the samples in the source.
        hidden: first and last day on which each sample was not seen; none are hidden if left out.
        sensors: those that were there; all if left out.
    """

    source: SampleSource
    rows: tuple[int, ...]
    hidden: tuple[tuple[float, float], ...] = ()
    sensors: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen ones of the frames that are left."""
        sample = self.source.read(self.rows[index])
        sample = sample.hide(*self.hidden[index]) if self.hidden else sample
        sample = sample if self.sensors is None else sample.only(self.sensors)
        return sample if frames is None else pick_frames(sample, frames)


class CachedDataset:
    """A source whose samples stay in memory, whole, once they were read."""

    def __init__(self, source: SampleSource) -> None:
        self.source, self.samples = source, {}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames."""
        if index not in self.samples:
            self.samples[index] = self.source.read(index)
        sample = self.samples[index]
        return sample if frames is None else pick_frames(sample, frames)


def import_dataset(path: str) -> Callable[[str], Any]:
    """Import ``module:name``, a callable that takes a split and returns a dataset.

    This runs the named module: it is the user's own program. A checkpoint keeps the name, and a checkpoint may come
    from a stranger, so what Python brings along, such as ``os:system``, is not called.

    Raises:
        InputError: it cannot be imported, or is part of Python.
    """
    module, _, name = path.partition(":")
    try:
        if module.partition(".")[0] in (*sys.stdlib_module_names, "builtins"):
            raise ImportError(f"'{module}' is a part of Python")
        make = getattr(importlib.import_module(module), name)
        home = make.__module__ if isinstance(make, FunctionType | BuiltinFunctionType | type) else module
        if (home or module).partition(".")[0] in sys.stdlib_module_names:
            raise ImportError(f"'{name}' is a part of Python")
        return make
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"data.dataset: {path}",
            found=str(error),
            expected="module:name of a callable that takes a split and returns a torch Dataset",
            repair="put the module on PYTHONPATH, or correct the name.",
        ) from error
