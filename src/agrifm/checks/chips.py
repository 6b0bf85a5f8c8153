"""Look at chips before a model does: structure of every file, values of as many as asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from agrifm.checks.band_order import BandOrder, look_at_bands, swapped
from agrifm.checks.chip_dates import odd_days, vote
from agrifm.checks.survey import Survey
from agrifm.data.chips import check_header, open_chip
from agrifm.data.folder import ChipFolder, SampleSource
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import Sensor

__all__ = [
    "BandOrder",
    "Survey",
    "evenly",
    "labeled",
    "look_at_bands",
    "splits_overlap",
    "structure",
    "survey",
    "swapped",
    "unknown_labels",
    "unlabeled",
    "values",
]


def survey(source: SampleSource, sensors: Sequence[Sensor], indices: Sequence[int]) -> Survey:
    """Read samples and count what is in them."""
    seen = Survey()
    for index in indices:
        seen.add(source.read(index), sensors)
    return seen


def evenly(count: int, limit: int) -> list[int]:
    """At most ``limit`` numbers spread evenly over ``range(count)``; 0 is all."""
    return list(range(count)) if not limit or limit >= count else np.linspace(0, count - 1, limit).astype(int).tolist()


def splits_overlap(splits: Mapping[str, ChipFolder]) -> Iterator[InputError]:
    """Samples that stand in more than one split, also under two names for one file."""
    owner: dict[object, str] = {}
    for split, chips in splits.items():
        folder = chips.folder.resolve()
        for i, name in enumerate(chips.names):
            first = owner.setdefault(_identity(chips.path(i), folder / name), split)
            if first != split:
                yield InputError(
                    f"{split} list: {name}",
                    found=f"also in the {first} list",
                    expected="each sample in one split: scores on training samples say nothing",
                    repair="delete it from one of the lists.",
                )


def _identity(path: Path, name: Path) -> object:
    """The file itself, whatever links lead to it; the name of one that is missing."""
    try:
        state = path.stat()
    except OSError:
        return name
    return state.st_dev, state.st_ino


def structure(chips: ChipFolder) -> Iterator[InputError]:
    """What is wrong with the headers of the chips."""
    for index in range(len(chips)):
        try:
            _header(chips, index)
        except InputError as error:
            yield error


def _header(chips: ChipFolder, index: int) -> None:
    check_header(chips.path(index), chips.sensors, allow_missing=chips.allow_missing, allow_links=chips.allow_links)


def values(
    source: SampleSource,
    sensors: Sequence[Sensor],
    indices: Sequence[int],
    known: Collection[int],
    ignore_index: int,
    *,
    bands: bool,
) -> Iterator[InputError | Survey]:
    """Read samples; yield what is wrong with them, and at the end the survey of the rest."""
    seen = Survey()
    for index in indices:
        try:
            sample = source.read(index)
            _label(sample, known, ignore_index)
            one = Survey()
            one.add(sample, sensors)
            if bands:
                for sensor in sensors:
                    named = partial(_names_bands, source, [index], sensor)
                    one.warnings += look_at_bands(
                        sensor, one, f"{sample.name}: {sensor.name}", single=True, named=named
                    )
                    vote(one, sample, sensor)
        except InputError as error:
            yield error
        else:
            seen.merge(one)
    for sensor in sensors if bands else ():
        try:
            named = partial(_names_bands, source, indices, sensor)
            seen.warnings += look_at_bands(sensor, seen, f"all chips: {sensor.name}", single=False, named=named)
        except InputError as error:
            yield error
        yield from odd_days(seen, sensor)
    yield seen


def _names_bands(source: SampleSource, indices: Sequence[int], sensor: Sensor) -> bool:
    """Whether the files themselves name their bands, so that their order is known."""
    source = getattr(source, "source", source)
    if not isinstance(source, ChipFolder):
        return False
    for index in indices:
        with open_chip(source.path(index), allow_links=source.allow_links) as file:
            if sensor.name in file and "bands" not in file[sensor.name].attrs:
                return False
    return True


def unlabeled(
    split: str, source: SampleSource, seen: Survey, known: Mapping[int, int] | Collection[int], ignore_index: int
) -> InputError | None:
    """The error of a split in which no pixel has a class; samples are read until one has.

    Args:
        split: Its name.
        source: Its samples.
        seen: A survey of some of them.
        known: Numbers in labels, or what they mean.
        ignore_index: Number, or meaning, of pixels to ignore.
    """
    if labeled(seen.labels, known, ignore_index):
        return None
    if seen.chips < len(source):
        for index in range(len(source)):
            label = source.read(index).label
            if label is not None and labeled(dict.fromkeys(label.unique().tolist(), 1), known, ignore_index):
                return None
    return InputError(
        f"{split} split",
        found=f"no labeled pixel in any of {len(source)} samples: all labels are {ignore_index} or unlabeled codes",
        expected="pixels with a class",
        repair="check the labels and task.ignore_index, or list samples that have labels.",
    )


def labeled(labels: Mapping[int, int], known: Mapping[int, int] | Collection[int], ignore_index: int) -> int:
    """Pixels, by number in the label, that have a class."""
    meaning = known if isinstance(known, Mapping) else {code: code for code in known}
    return sum(count for code, count in labels.items() if meaning.get(code, ignore_index) != ignore_index)


def _label(sample: Sample, known: Collection[int], ignore_index: int) -> None:
    if sample.label is None:
        return
    odd = sorted(set(sample.label.unique().tolist()) - {*known, ignore_index})
    if odd:
        raise unknown_labels(f"{sample.name}: label", odd, known, ignore_index)


def unknown_labels(where: str, odd: Sequence[int], known: Collection[int], ignore_index: int) -> InputError:
    """The error of numbers in a label that mean nothing."""
    plain = sorted(known) == list(range(len(known)))
    some = f"0 to {len(known) - 1}" if plain else f"one of {len(known)} codes: {', '.join(map(str, [*known][:8]))}, ..."
    hint = "" if plain else f"{odd[0]} is nearest to {min(known, key=lambda code: abs(code - odd[0]))}: "
    return InputError(
        where,
        found=f"values {list(odd[:8])}",
        expected=f"{some}, or {ignore_index} for pixels to ignore",
        repair=f"{hint}recode the labels, add the missing classes to task.classes, or set task.ignore_index.",
    )
