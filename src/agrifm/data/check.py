"""Look at chips before a model does: structure of every file, values of as many as asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from agrifm.data.folder import Chips, Source
from agrifm.data.h5 import check_header
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import Sensor, Statistics

PIXELS = 2000  # per chip and sensor: enough for a median


@dataclass
class Survey:
    """What was seen in a split: counts for a report, pixels for statistics and for the look at bands."""

    chips: int = 0
    labels: dict[int, int] = field(default_factory=dict)
    frames: dict[str, list[int]] = field(default_factory=dict)
    clear: dict[str, list[float]] = field(default_factory=dict)
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    pixels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    footprints: list[float] = field(default_factory=list)
    sides: list[int] = field(default_factory=list)

    def add(self, sample: Sample, sensors: Sequence[Sensor]) -> None:
        """Count one sample."""
        self.chips += 1
        self.spans.append(sample.span())
        finest = min((sensor for sensor in sensors if sensor.name in sample.images), key=lambda s: s.gsd, default=None)
        if finest is not None:
            self.footprints.append(min(sample.images[finest.name].shape[-2:]) * finest.gsd)
        if sample.label is not None:
            self.sides.append(min(sample.label.shape[-2:]))
            values, counts = sample.label.unique(return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self.labels[value] = self.labels.get(value, 0) + count
        for sensor in sensors:
            if sensor.name in sample.images:
                self._add_sensor(sample, sensor.name)

    def _add_sensor(self, sample: Sample, name: str) -> None:
        mask = sample.mask(name)
        values = sample.images[name].movedim(1, -1)[mask].double()
        self.frames.setdefault(name, []).append(len(mask))
        self.clear.setdefault(name, []).append(float(mask.double().mean()))
        moments = torch.stack([torch.full((values.shape[1],), len(values)), values.sum(0), values.square().sum(0)])
        self.sums[name] = self.sums.get(name, 0) + moments.numpy()
        self.pixels.setdefault(name, []).append(values[:: max(1, len(values) // PIXELS)].numpy())

    def statistics(self, sensor: Sensor) -> Statistics:
        """Mean and deviation of each band over all valid pixels.

        Raises:
            InputError: no valid pixel was seen.
        """
        count, total, square = self.sums.get(sensor.name, np.zeros((3, 1)))
        if not count[0]:
            raise InputError(
                f"sensor {sensor.name}",
                found="no valid pixel in the training split",
                expected="pixels to compute statistics from",
                repair="mend the masks, or drop the sensor from 'sensors'.",
            )
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 0))
        std = np.where(std > 0, std, 1.0)
        rounded = [tuple(float(f"{x:.6g}") for x in figures) for figures in (mean, std)]
        return Statistics(*rounded, source=f"{self.chips} chips, {int(count[0])} valid pixels")


def survey(source: Source, sensors: Sequence[Sensor], indices: Sequence[int]) -> Survey:
    """Read samples and count what is in them."""
    seen = Survey()
    for index in indices:
        seen.add(source.read(index), sensors)
    return seen


def evenly(count: int, limit: int) -> list[int]:
    """At most ``limit`` numbers spread evenly over ``range(count)``; 0 is all."""
    return list(range(count)) if not limit or limit >= count else np.linspace(0, count - 1, limit).astype(int).tolist()


def splits_overlap(splits: Mapping[str, Chips]) -> Iterator[InputError]:
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


def structure(chips: Chips) -> Iterator[InputError]:
    """What is wrong with the headers of the chips."""
    for index in range(len(chips)):
        try:
            _header(chips, index)
        except InputError as error:
            yield error


def _header(chips: Chips, index: int) -> None:
    check_header(chips.path(index), chips.sensors, allow_missing=chips.allow_missing, allow_links=chips.allow_links)


def values(
    source: Source,
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
                    look_at_bands(sensor, one, f"{sample.name}: {sensor.name}", single=True)
        except InputError as error:
            yield error
        else:
            seen.add(sample, sensors)
    if bands:
        for sensor in sensors:
            try:
                look_at_bands(sensor, seen, f"all chips: {sensor.name}", single=False)
            except InputError as error:
                yield error
    yield seen


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


def look_at_bands(sensor: Sensor, seen: Survey, where: str, *, single: bool) -> None:
    """Refuse values in the wrong unit and bands in the wrong order.

    On land the near infrared is brighter than red and blue, the red edge rises towards it, and through a season
    red varies more than blue. One chip may be water or snow, so on a single one only gross cases count.

    Raises:
        InputError: with the bands that look swapped.
    """
    parts = [part for part in seen.pixels.get(sensor.name, []) if len(part)]
    if not parts:
        return
    reflectance = np.concatenate(parts) * sensor.scale + sensor.offset
    low, middle, high = np.percentile(reflectance, (25, 50, 75), axis=0)
    top = float(middle.max())
    if not 0.005 < top < 3.0:
        raise InputError(
            where,
            found=f"a median reflectance of {top:.4g} with scale {sensor.scale:g} and offset {sensor.offset:g}",
            expected="values whose reflectance lies between 0 and 1",
            repair="store digital numbers (reflectance = number * scale + offset), or define a sensor with your scale.",
        )
    swapped = _swapped(sensor, middle, high - low, slack=0.6 if single else 1.0)
    if swapped:
        raise InputError(
            where,
            found=f"{swapped[0]} darker or steadier than {swapped[1]}, which land never shows",
            expected=f"bands in the order {', '.join(sensor.band_ids)}",
            repair="reorder the bands, or set 'check_bands: false' in the data section if they are right.",
        )


def _swapped(sensor: Sensor, middle: np.ndarray, spread: np.ndarray, slack: float) -> tuple[str, str] | None:
    """The first pair of bands (brighter, darker) that stands the wrong way round."""
    index = {band.common_name: i for i, band in enumerate(sensor.bands)}
    near = index.get("nir", index.get("nir08"))
    if near is None or middle.max() < 0.08:
        return None
    darker = [index[name] for name in ("red", "blue", "green", "rededge071") if name in index]
    pairs = [(near, other) for other in darker]
    pairs += [
        (index[a], index[b])
        for a, b in (("rededge078", "rededge071"), ("nir08", "rededge071"))
        if a in index and b in index
    ]
    for brighter, other in pairs:
        if middle[brighter] < slack * middle[other]:
            return sensor.bands[brighter].id, sensor.bands[other].id
    if slack == 1.0 and {"red", "blue"} <= set(index) and spread[index["blue"]] > 1.3 * spread[index["red"]]:
        return sensor.bands[index["red"]].id, sensor.bands[index["blue"]].id
    return None
