"""Check chips before training: the structure of every file, and the values of as many samples as wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from agrifm.checks.band_order import check_band_order
from agrifm.checks.chip_dates import contradicting_days, count_votes
from agrifm.checks.survey import Survey
from agrifm.data.chips import check_header, open_chip
from agrifm.data.folder import ChipFolder, SampleSource
from agrifm.errors import InputError, counted
from agrifm.sample import Sample
from agrifm.sensors import Sensor

MAX_LISTED = 8  # values of a label, or codes, that an error lists


def survey(source: SampleSource, sensors: Sequence[Sensor], indices: Sequence[int]) -> Survey:
    """Read samples, and count what is in them."""
    total = Survey()
    for index in indices:
        total.add(source.read(index), sensors)
    return total


def splits_overlap(splits: Mapping[str, ChipFolder]) -> Iterator[InputError]:
    """Iterate over the errors of samples that are in several splits, also under two names for one file."""
    first_split: dict[object, str] = {}
    for split, chips in splits.items():
        folder = chips.folder.resolve()
        for i, name in enumerate(chips.names):
            first = first_split.setdefault(_identity(chips.path(i), folder / name), split)
            if first != split:
                yield InputError(
                    f"{split} list: {name}",
                    found=f"also in the {first} list",
                    expected="each sample in one split: scores on training samples say nothing",
                    repair="delete it from one of the lists.",
                )


def _identity(path: Path, name: Path) -> object:
    """Return what identifies a file whatever links lead to it; the name of one that is missing."""
    try:
        status = path.stat()
    except OSError:
        return name
    return status.st_dev, status.st_ino


def structure(chips: ChipFolder) -> Iterator[InputError]:
    """Iterate over the errors in the headers of chips."""
    for index in range(len(chips)):
        try:
            check_header(
                chips.path(index), chips.sensors, allow_missing=chips.allow_missing, allow_links=chips.allow_links
            )
        except InputError as error:
            yield error


def values(
    source: SampleSource,
    sensors: Sequence[Sensor],
    indices: Sequence[int],
    known: Collection[int],
    ignore_index: int,
    *,
    bands: bool,
) -> Iterator[InputError | Survey]:
    """Read samples and yield their errors, and at the end the survey of the samples without errors.

    Args:
        source: Samples.
        sensors: Sensors to check.
        indices: Positions of the samples to read.
        known: Numbers in labels that have a meaning.
        ignore_index: Number of pixels to ignore.
        bands: Whether to check units, the order of bands and single dates.
    """
    total = Survey()
    for index in indices:
        try:
            sample = source.read(index)
            _refuse_unknown_labels(sample, known, ignore_index)
            survey_of_sample = Survey()
            survey_of_sample.add(sample, sensors)
            if bands:
                _check_sample(source, index, sample, sensors, survey_of_sample)
        except InputError as error:
            yield error
        else:
            total.merge(survey_of_sample)
    if bands:
        yield from _check_all_samples(source, indices, sensors, total)
    yield total


def _check_sample(source: SampleSource, index: int, sample: Sample, sensors: Sequence[Sensor], survey: Survey) -> None:
    """Check the bands of one sample, and add warnings and its votes on single dates to its survey."""
    for sensor in sensors:
        where = f"{sample.name}: {sensor.name}"
        named = partial(_names_bands, source, [index], sensor)
        pixels = survey.pixels.get(sensor.name, ())
        survey.warnings += check_band_order(sensor, pixels, where, single=True, named=named)
        count_votes(survey, sample, sensor)


def _check_all_samples(
    source: SampleSource, indices: Sequence[int], sensors: Sequence[Sensor], survey: Survey
) -> Iterator[InputError]:
    """Check the bands and the dates of all samples together, and add warnings to their survey."""
    for sensor in sensors:
        named = partial(_names_bands, source, indices, sensor)
        try:
            pixels = survey.pixels.get(sensor.name, ())
            survey.warnings += check_band_order(sensor, pixels, f"all chips: {sensor.name}", single=False, named=named)
        except InputError as error:
            yield error
        yield from contradicting_days(survey, sensor)


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
    split: str, source: SampleSource, survey: Survey, known: Mapping[int, int] | Collection[int], ignore_index: int
) -> InputError | None:
    """Return the error for a split in which no pixel has a class; samples are read until one has.

    Args:
        split: Name of the split.
        source: Samples of the split.
        survey: Survey of some of the samples.
        known: Numbers in labels, or the class of each.
        ignore_index: Number, or class, of pixels to ignore.
    """
    if _has_class(survey.labels, known, ignore_index):
        return None
    if survey.chips < len(source):
        for index in range(len(source)):
            label = source.read(index).label
            if label is not None and _has_class(label.unique().tolist(), known, ignore_index):
                return None
    return InputError(
        f"{split} split",
        found=f"no labeled pixel in {counted(len(source), 'sample')}: all labels are {ignore_index} or unlabeled codes",
        expected="pixels with a class",
        repair="check the labels and task.ignore_index, or list samples that have labels.",
    )


def _has_class(codes: Collection[int], known: Mapping[int, int] | Collection[int], ignore_index: int) -> bool:
    """Whether one of the numbers in a label has a class."""
    class_of = known if isinstance(known, Mapping) else {code: code for code in known}
    return any(class_of.get(code, ignore_index) != ignore_index for code in codes)


def _refuse_unknown_labels(sample: Sample, known: Collection[int], ignore_index: int) -> None:
    if sample.label is None:
        return
    unknown = sorted(set(sample.label.unique().tolist()) - {*known, ignore_index})
    if unknown:
        raise unknown_labels(f"{sample.name}: label", unknown, known, ignore_index)


def unknown_labels(where: str, unknown: Sequence[int], known: Collection[int], ignore_index: int) -> InputError:
    """Return the error for numbers in a label that have no meaning.

    Args:
        where: Where the label is.
        unknown: Those numbers.
        known: Numbers in labels that have a meaning.
        ignore_index: Number of pixels to ignore.
    """
    hint = ""
    expected = f"0 to {len(known) - 1}"
    if sorted(known) != list(range(len(known))):
        nearest = min(known, key=lambda code: abs(code - unknown[0]))
        hint = f"{unknown[0]} is nearest to {nearest}: "
        expected = f"one of {len(known)} codes: {', '.join(map(str, [*known][:MAX_LISTED]))}, ..."
    return InputError(
        where,
        found=f"values {list(unknown[:MAX_LISTED])}",
        expected=f"{expected}, or {ignore_index} for pixels to ignore",
        repair=f"{hint}recode the labels, add the missing classes to task.classes, or set task.ignore_index.",
    )
