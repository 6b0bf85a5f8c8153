"""Look at chips before a model does: structure of every file, values of as many as asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from agrifm.data.folder import Chips, Source
from agrifm.data.h5 import band_positions, open_chip
from agrifm.data.radiometry import CLOUD, Fault, Series, faults
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import Sensor, Statistics

PIXELS = 2000  # per chip and sensor: enough for a median
KEPT = 400_000  # pixels per sensor that a survey keeps; of more, every second one
PLACES = 256  # of a chip at which its dates are compared
FEW = 16  # pixels of land; below, the order of bands is not judged


class BandOrder(InputError):
    """Bands that look exchanged, or numbers in another unit than the sensor's; a setting leaves this check out."""


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
    votes: dict[str, dict[int | str, Counter]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

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
        # A copy: a view would keep all pixels of the chip in memory.
        self._keep(name, [values[:: max(1, len(values) // PIXELS)].numpy().astype(np.float32)])

    def _keep(self, name: str, parts: Sequence[np.ndarray]) -> None:
        kept = self.pixels.setdefault(name, [])
        kept += parts
        while sum(map(len, kept)) > KEPT:
            kept[:] = [part[::2].copy() for part in kept]

    def merge(self, other: Survey) -> None:
        """Add what another survey has seen."""
        self.chips += other.chips
        self.spans += other.spans
        self.footprints += other.footprints
        self.sides += other.sides
        self.warnings += other.warnings
        for value, count in other.labels.items():
            self.labels[value] = self.labels.get(value, 0) + count
        for name, frames in other.frames.items():
            self.frames.setdefault(name, []).extend(frames)
            self.clear.setdefault(name, []).extend(other.clear[name])
            self.sums[name] = self.sums.get(name, 0) + other.sums[name]
            self._keep(name, other.pixels[name])
        for name, days in other.votes.items():
            for day, votes in days.items():
                self.votes.setdefault(name, {}).setdefault(day, Counter()).update(votes)

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
    """Samples that stand in more than one split."""
    owner: dict[tuple[str, str], str] = {}
    for split, chips in splits.items():
        for name in chips.names:
            first = owner.setdefault((str(chips.folder.resolve()), name), split)
            if first != split:
                yield InputError(
                    f"{split} list: {name}",
                    found=f"also in the {first} list",
                    expected="each sample in one split: scores on training samples say nothing",
                    repair="delete it from one of the lists.",
                )


def structure(chips: Chips) -> Iterator[InputError]:
    """What is wrong with the headers of the chips."""
    for index in range(len(chips)):
        try:
            _header(chips, index)
        except InputError as error:
            yield error


def _header(chips: Chips, index: int) -> None:
    path = chips.path(index)
    with open_chip(path) as file:
        present = [sensor for sensor in chips.sensors if sensor.name in file]
        complete = len(present) == len(chips.sensors)
        for sensor in present:
            if file[sensor.name].ndim == 4:
                band_positions(path, file[sensor.name], sensor)
    if not complete or not present:
        chips.read(index, lambda total: np.zeros(1, int))


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
            _dated_alike(sample)
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


def _names_bands(source: Source, indices: Sequence[int], sensor: Sensor) -> bool:
    """Whether the files themselves name their bands, so that their order is known."""
    if not isinstance(source, Chips):
        return False
    for index in indices:
        with open_chip(source.path(index)) as file:
            if sensor.name in file and "bands" not in file[sensor.name].attrs:
                return False
    return True


def _dated_alike(sample: Sample) -> None:
    """Refuse a sensor without dates beside one with dates: its frames would lie in another century.

    Raises:
        InputError: with the sensor.
    """
    dated = [name for name in sample.images if name in sample.dates]
    undated = [name for name in sample.images if name not in sample.dates]
    if not dated or not undated:
        return
    raise InputError(
        f"{sample.name}: {undated[0]}",
        found=f"no dates, though {dated[0]} has dates",
        expected="dates of every sensor, or of none: frames without dates count as evenly spread over a year of their "
        "own, and would lie decades away from the others",
        repair=f"write '{undated[0]}_dates' with one ISO date for each frame, or drop {undated[0]} from 'sensors'.",
    )


def vote(seen: Survey, sample: Sample, sensor: Sensor) -> None:
    """Note for every date of a chip whether it could be judged, and what is wrong with it."""
    if sensor.name not in sample.images:
        return
    series, days = _series(sample, sensor)
    votes = seen.votes.setdefault(sensor.name, {})
    for step in series.judged:
        votes.setdefault(days[step], Counter())["judged"] += 1
    for fault in faults(series):
        counts = votes.setdefault(days[fault.step], Counter())
        counts["judged"] += fault.step not in series.judged
        counts[_kind(fault)] += 1
        counts["sure", *_kind(fault)] += fault.sure


def _kind(fault: Fault) -> tuple:
    return fault.kind, fault.amount, fault.bands


def _series(sample: Sample, sensor: Sensor) -> tuple[Series, list[int | str]]:
    """Some pixels of a chip through its dates, and the dates: days since 1970, or numbers of frames."""
    image, mask = sample.images[sensor.name], sample.mask(sensor.name)
    t, c = image.shape[:2]
    stride = max(1, image.shape[-2] * image.shape[-1] // PLACES)
    stored = image.reshape(t, c, -1)[:, :, ::stride].numpy().astype(np.float32)
    clear = mask.reshape(t, -1)[:, ::stride].numpy()
    gone = (stored == 0).all(1) if sensor.nodata is None else (stored == sensor.nodata).all(1)
    reflectance = stored * np.float32(sensor.scale) + np.float32(sensor.offset)
    reflectance[np.broadcast_to(gone[:, None], reflectance.shape)] = np.nan
    masked = np.full(t, bool((mask.logical_not() & torch.from_numpy(~_all_gone(image, sensor))).any()))
    days: list[int | str] = [f"frame {i + 1}" for i in range(t)]
    if sensor.name in sample.dates:
        days = sample.dates[sensor.name].tolist()
    order = np.argsort(days, kind="stable") if sensor.name in sample.dates else np.arange(t)
    series = Series(sensor, reflectance[order], clear[order], masked, least=30)
    return series, [days[i] for i in order]


def _all_gone(image: torch.Tensor, sensor: Sensor) -> np.ndarray:
    return (image == (0 if sensor.nodata is None else sensor.nodata)).all(1).numpy()


def odd_days(seen: Survey, sensor: Sensor) -> Iterator[InputError]:
    """Dates on which most chips contradict their other dates."""
    odd: dict[tuple, list[tuple[int | str, int, int]]] = {}
    for day, votes in seen.votes.get(sensor.name, {}).items():
        kinds = [kind for kind in votes if isinstance(kind, tuple) and kind[0] != "sure"]
        if not kinds:
            continue
        kind = max(kinds, key=lambda one: votes[one])
        count, judged, sure = votes[kind], votes["judged"], votes["sure", *kind]
        # Haze lies over some chips of a date only; where nearly all chips agree, few need be sure.
        if sure >= judged / 2 or (judged >= 4 and count >= 0.75 * judged and sure):
            odd.setdefault(kind, []).append((day, count, judged))
    for kind, days in odd.items():
        yield _odd_days(kind, sorted(days, key=lambda entry: str(entry[0])), sensor)


def _odd_days(kind: tuple, days: Sequence[tuple[int | str, int, int]], sensor: Sensor) -> BandOrder:
    names = [day if isinstance(day, str) else str(np.datetime64(day, "D")) for day, _, _ in days]
    what, amount, bands = kind
    found = {
        "offset": f"reflectance lies {abs(amount):g} {'above' if amount > 0 else 'below'} that of the other dates in "
        "every band",
        "scale": f"reflectance is about {amount:g} times that of the other dates in every band",
        "order": f"{' and '.join(bands or ())} seem exchanged, and all other bands are as on the other dates",
    }[what]
    option = {
        "offset": f"--set offsets='{{{', '.join(f'{name}: {round(-amount, 6):g}' for name in names)}}}'",
        "scale": f"--set scales='{{{', '.join(f'{name}: {1e-4 / (amount or 1):g}' for name in names)}}}'",
    }.get(what, "")
    again = f"--set skip_dates='[{', '.join(names)}]'" + (f", or with {option}" if option else "")
    return BandOrder(
        f"all chips: {sensor.name}, {', '.join(names[:6])}{' and more' * (len(names) > 6)}",
        found=f"{found} ({days[0][1]} of {days[0][2]} chips that show the first of these dates)",
        expected="the same scale, offset and order of bands on every date",
        repair=f"cut the chips again, e.g. by 'agrifm chips' with {again}; or set 'check_bands: false' in the data "
        "section if the numbers are right.",
    )


def labeled(seen: Survey, known: Mapping[int, int] | Collection[int], ignore_index: int) -> int:
    """Pixels whose label teaches or tests something."""
    meaning = known if isinstance(known, Mapping) else {code: code for code in known}
    return sum(count for code, count in seen.labels.items() if meaning.get(code, ignore_index) != ignore_index)


def refuse_unlabeled(split: str, chips: int, ignore_index: int) -> InputError:
    """The error of a split in which no pixel has a class."""
    return InputError(
        f"{split} split",
        found=f"no labeled pixel in any of {chips} chips: every label is {ignore_index} or unlabeled",
        expected="pixels with a class, from which to learn",
        repair="check the labels of these chips and task.ignore_index, or list chips that have labels.",
    )


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


def look_at_bands(
    sensor: Sensor, seen: Survey, where: str, *, single: bool, named: bool | Callable[[], bool] = True
) -> list[str]:
    """Refuse values in the wrong unit and bands in the wrong order.

    On land the near infrared is brighter than red and blue, the red edge rises towards it, and through a season
    red varies more than blue. One chip may be unusual, so on a single one only gross cases count. Pixels that look
    like water, cloud or snow have an order of their own and are left out.

    Args:
        sensor: whose bands they are.
        seen: pixels.
        where: for the error.
        single: they are of one chip.
        named: whether the files name their bands; without names, weak evidence is only a warning.

    Returns:
        Warnings.

    Raises:
        BandOrder: with the bands that look swapped.
    """
    parts = [part for part in seen.pixels.get(sensor.name, []) if len(part)]
    if not parts:
        return []
    reflectance = np.concatenate(parts).astype(np.float64) * sensor.scale + sensor.offset
    top = float(np.median(reflectance, axis=0).max())
    if not 0.005 < top < 3.0:
        raise BandOrder(
            where,
            found=f"a median reflectance of {top:.4g} with scale {sensor.scale:g} and offset {sensor.offset:g}",
            expected="values whose reflectance lies between 0 and 1",
            repair="store digital numbers (reflectance = number * scale + offset), or define a sensor with your scale.",
        )
    land = reflectance[_is_land(reflectance, sensor)]
    if len(land) < FEW:
        return []
    low, middle, high = np.percentile(land, (25, 50, 75), axis=0)
    gross = swapped(sensor, middle, high - low, slack=0.6)
    pair = gross or (None if single else swapped(sensor, middle, high - low, slack=1.0))
    if pair is None:
        return []
    error = _wrong_order(sensor, pair, middle, high - low, where)
    if gross is None and not (named() if callable(named) else named):
        return [
            f"{where}: {error.found}. The files do not name their bands, and this is weak evidence: check that they "
            f"are {', '.join(sensor.band_ids)}"
        ]
    raise error


def _is_land(reflectance: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Pixels ``(n)`` that look like neither water nor cloud or snow, of ``(n, c)``."""
    infrared = [i for i, band in enumerate(sensor.bands) if band.wavelength > 0.75]
    if not infrared:
        return np.ones(len(reflectance), bool)
    water = (reflectance[:, infrared].max(1) < 0.12) & (reflectance.max(1) < CLOUD)
    short = [i for i, band in enumerate(sensor.bands) if 0 < band.wavelength < 0.6]
    # Bright in blue and green: where only one of them is, bands may be exchanged.
    bright = reflectance[:, short].min(1) > CLOUD if short else np.zeros(len(reflectance), bool)
    return ~water & ~bright


def _wrong_order(
    sensor: Sensor, pair: tuple[str, str], middle: np.ndarray, spread: np.ndarray, where: str
) -> BandOrder:
    one, other = (sensor.band_ids.index(band) for band in pair)
    return BandOrder(
        where,
        found=f"{pair[0]} darker or steadier than {pair[1]}, which land never shows: medians of {middle[one]:.3f} and "
        f"{middle[other]:.3f}, middle halves {spread[one]:.3f} and {spread[other]:.3f} wide",
        expected=f"bands in the order {', '.join(sensor.band_ids)}",
        repair="reorder the bands, or set 'check_bands: false' in the data section if they are right.",
    )


def swapped(sensor: Sensor, middle: np.ndarray, spread: np.ndarray, slack: float) -> tuple[str, str] | None:
    """The first pair of bands (brighter, darker) that stands the wrong way round.

    Args:
        sensor: whose bands they are.
        middle, spread: median and spread of the reflectance of each band.
        slack: factor by which the brighter band may be darker after all; below 1 where only gross cases count.
    """
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
