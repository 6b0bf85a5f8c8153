"""Sample and Batch: the two values that flow from files to the model.

Axis letters: ``b`` batch, ``t`` time, ``c`` band, ``h`` ``w`` rows and columns. Every sensor keeps its own pixel size
and its own dates; sensors share the footprint on the ground. A sensor may be missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agrifm.errors import InputError, counted

DAYS_PER_YEAR = 365.25
ITEM_CONTRACT = '{"data": {sensor: (T,C,H,W)}, "label": (H,W), "file_name": str}'


@dataclass(frozen=True)
class Sample:
    """One place through one season.

    Args:
        images: Images by sensor ``(t, c, h, w)`` in stored digital numbers.
        dates: Days since 1970-01-01 by sensor ``(t)``. Frames of a sensor without dates count as evenly spread.
        valid: Mask by sensor ``(t, h, w)``, true where the ground was seen. Without a mask all pixels are valid.
        label: Class indices ``(h, w)``, or None.
        name: Unique name in messages and outputs.
    """

    images: dict[str, Tensor]
    dates: dict[str, Tensor] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None
    name: str = ""

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Sample:
        """Read the dictionary ``{"data": {sensor: (T,C,H,W)}, "label": (H,W), "file_name": str}``.

        Optional keys: ``dates`` and ``valid``, each a dictionary by sensor.

        Raises:
            InputError: If ``data`` is missing or an image does not have four axes.
        """
        name = str(item.get("file_name", ""))
        if not isinstance(item.get("data"), Mapping):
            raise InputError(
                f"sample {name or '(unnamed)'}",
                found=f"keys {sorted(item)}",
                expected=ITEM_CONTRACT,
                repair="return that dictionary from the dataset's __getitem__.",
            )
        images: dict[str, Tensor] = {}
        for sensor, value in item["data"].items():
            image = torch.as_tensor(value)
            if image.ndim != 4:
                raise InputError(
                    f"sample {name}: data['{sensor}']",
                    found=f"shape {tuple(image.shape)}",
                    expected="(T, C, H, W)",
                    repair="add the missing axis; a single date is T=1.",
                )
            images[sensor] = image
        dates = {sensor: days_since_epoch(value) for sensor, value in item.get("dates", {}).items()}
        valid = {sensor: torch.as_tensor(value, dtype=torch.bool) for sensor, value in item.get("valid", {}).items()}
        label = item.get("label")
        if label is not None:
            label = torch.as_tensor(label).long()
        return cls(images=images, dates=dates, valid=valid, label=label, name=name)

    def mask(self, sensor: str) -> Tensor:
        """Mask of valid pixels ``(t, h, w)`` of a sensor that is present."""
        if sensor in self.valid:
            return self.valid[sensor]
        t, _, h, w = self.images[sensor].shape
        return torch.ones(t, h, w, dtype=torch.bool)

    def days(self, sensor: str) -> Tensor:
        """Days since 1970-01-01 ``(t)``; evenly spread over a year if the dates are unknown."""
        if sensor in self.dates:
            return self.dates[sensor].float()
        t = self.images[sensor].shape[0]
        return (torch.arange(t) + 0.5) * (DAYS_PER_YEAR / t)

    def span(self) -> tuple[float, float]:
        """First and last day of all sensors."""
        days = self.all_days()
        return float(days.min()), float(days.max())

    def all_days(self) -> Tensor:
        """Days of the frames of all sensors.

        Raises:
            InputError: If some sensors have dates and some have none.
        """
        self.refuse_undated()
        return torch.cat([self.days(sensor) for sensor in self.images])

    def refuse_undated(self) -> None:
        """Refuse a sensor without dates beside one with dates: evenly spread frames would lie decades away from it.

        Raises:
            InputError: If there is one; names the sensor.
        """
        dated = [name for name in self.images if name in self.dates]
        undated = [name for name in self.images if name not in self.dates]
        if not dated or not undated:
            return
        raise InputError(
            f"{self.name}: {undated[0]}",
            found=f"no dates, though {dated[0]} has dates",
            expected="dates of every sensor, or of none",
            repair=f"write '{undated[0]}_dates' with one ISO date for each frame, or drop {undated[0]} from 'sensors'.",
        )

    def without(self, sensor: str) -> Sample:
        """Return the sample without a sensor."""
        return self._restrict([name for name in self.images if name != sensor])

    def only(self, sensors: Collection[str]) -> Sample:
        """Return the sample with these sensors only. If it has none of them, a sample without valid pixels remains."""
        names = [name for name in self.images if name in sensors]
        return self._restrict(names) if names else self._without_valid_pixels()

    def _restrict(self, sensors: Collection[str]) -> Sample:
        return replace(
            self,
            images={name: value for name, value in self.images.items() if name in sensors},
            dates={name: value for name, value in self.dates.items() if name in sensors},
            valid={name: value for name, value in self.valid.items() if name in sensors},
        )

    def hide(self, first: float, last: float) -> Sample:
        """Return the sample without the frames from day ``first`` to day ``last``, both included.

        A sensor without a frame is removed. If no frame is left at all, one remains, without valid pixels.
        """
        images: dict[str, Tensor] = {}
        dates: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        for name, image in self.images.items():
            days = self.dates.get(name, self.days(name))
            kept = (days < first) | (days > last)
            if not bool(kept.any()):
                continue
            images[name] = image[kept]
            dates[name] = days[kept]
            if name in self.valid:
                valid[name] = self.valid[name][kept]
        if not images:
            return self._without_valid_pixels()
        return replace(self, images=images, dates=dates, valid=valid)

    def _without_valid_pixels(self) -> Sample:
        """Return the first frame of each sensor with all pixels invalid: a model needs some frame."""
        return replace(
            self,
            images={name: image[:1] for name, image in self.images.items()},
            dates={name: days[:1] for name, days in self.dates.items()},
            valid={name: torch.zeros_like(self.mask(name)[:1]) for name in self.images},
        )


@dataclass(frozen=True)
class Season:
    """The part of the year that series cover. It may cross the new year or last longer than a year.

    Args:
        start: Day of the year on which it begins, 0..365.25.
        length: Length in days.
    """

    start: float
    length: float

    # A sample whose first date is up to this many days earlier still belongs to the season that begins then.
    early: ClassVar[float] = 60.0

    @classmethod
    def of(cls, spans: Sequence[tuple[float, float]]) -> Season:
        """Return the shortest season that covers all spans of (first, last) days, each within its own year."""
        reference = spans[0][0]
        half_year = DAYS_PER_YEAR / 2
        starts: list[float] = []
        ends: list[float] = []
        for first, last in spans:
            # Days by which the span begins before or after the reference, in whatever year it lies.
            start = (first - reference + half_year) % DAYS_PER_YEAR - half_year
            starts.append(start)
            ends.append(start + last - first)
        earliest = min(starts)
        return cls((reference + earliest) % DAYS_PER_YEAR, max(max(ends) - earliest, 1.0))

    def begin(self, first: Tensor) -> Tensor:
        """Day since 1970-01-01 on which the season began that contains the day ``first``."""
        return first - ((first - self.start + self.early) % DAYS_PER_YEAR - self.early)


def days_since_epoch(values: Any) -> Tensor:
    """Convert dates (ISO strings, bytes, datetime64 or day numbers) to int64 days since 1970-01-01."""
    if isinstance(values, Tensor):
        return values.long()
    array = np.asarray(values)
    if array.dtype.kind in "SO":
        array = array.astype("U10")
    if array.dtype.kind in "UM":
        array = array.astype("datetime64[D]").astype(np.int64)
    return torch.as_tensor(array.astype(np.int64))


@dataclass(frozen=True)
class Batch:
    """Several samples, padded in time. Padding and missing sensors are invalid.

    Args:
        images: Images by sensor ``(b, t, c, h, w)`` float.
        valid: Mask of valid pixels by sensor ``(b, t, h, w)`` bool.
        days: Days since 1970-01-01 by sensor ``(b, t)``.
        frames: Number of frames of each sample by sensor ``(b)``, without padding; 0 marks a missing sensor.
        label: Labels ``(b, h, w)``, or None.
        names: Names of the samples.
    """

    images: dict[str, Tensor]
    valid: dict[str, Tensor]
    days: dict[str, Tensor]
    frames: dict[str, Tensor]
    label: Tensor | None
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def size(self, sensors: tuple[str, ...]) -> tuple[int, int]:
        """Rows and columns of the output: those of the label, or of the finest of these sensors."""
        if self.label is not None:
            return self.label.shape[-2], self.label.shape[-1]
        return max((self.images[name].shape[-2], self.images[name].shape[-1]) for name in sensors)

    def first_day(self) -> Tensor:
        """First day ``(b)`` of any sensor of each sample."""
        return torch.stack([self.first_day_of(i) for i in range(len(self))])

    def first_day_of(self, index: int) -> Tensor:
        """First day of any sensor of one sample."""
        days_of_sample = []
        for name, days in self.days.items():
            count = int(self.frames[name][index])
            if count:
                days_of_sample.append(days[index, :count])
        return torch.cat(days_of_sample).min()

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return Batch(
            images=move(self.images),
            valid=move(self.valid),
            days=move(self.days),
            # Counts stay on the CPU: they decide which code runs, and reading them there waits for no device.
            frames={name: count.cpu() for name, count in self.frames.items()},
            label=None if self.label is None else self.label.to(device, non_blocking=True),
            names=self.names,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples. Numbers of frames may differ; a sensor may be missing from some samples.

    Raises:
        InputError: If samples differ in rows, columns or bands, or only some have labels or dates.
    """
    for sample in samples:
        sample.refuse_undated()
    label = _stack_labels(samples)
    images: dict[str, Tensor] = {}
    valid: dict[str, Tensor] = {}
    days: dict[str, Tensor] = {}
    frames: dict[str, Tensor] = {}
    sensors = dict.fromkeys(name for sample in samples for name in sample.images)  # each once, in order
    for sensor in sensors:
        images[sensor], valid[sensor], days[sensor], frames[sensor] = _stack(sensor, samples)
    names = tuple(sample.name for sample in samples)
    return Batch(images, valid, days, frames, label, names)


def _stack_labels(samples: Sequence[Sample]) -> Tensor | None:
    labels = [sample.label for sample in samples if sample.label is not None]
    if not labels:
        return None
    shapes = {tuple(label.shape) for label in labels}
    if len(labels) != len(samples) or len(shapes) > 1:
        raise InputError(
            f"samples {', '.join(sample.name for sample in samples)}",
            found=f"{len(labels)} of {counted(len(samples), 'label')}, shapes {sorted(shapes)}",
            expected="labels of one shape for every sample of a batch",
            repair="set 'crop' in the augment section, or use a batch size of 1.",
        )
    return torch.stack(labels)


def _stack(sensor: str, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images, mask, days and numbers of frames of one sensor."""
    present = {i: sample for i, sample in enumerate(samples) if sensor in sample.images}
    shapes = {tuple(sample.images[sensor].shape[1:]) for sample in present.values()}
    if len(shapes) > 1:
        raise InputError(
            f"sensor {sensor} of samples {', '.join(sample.name for sample in present.values())}",
            found=f"(bands, rows, columns) {sorted(shapes)}",
            expected="one shape in a batch",
            repair="set 'crop' in the augment section, or use a batch size of 1.",
        )
    c, h, w = shapes.pop()
    frames = torch.zeros(len(samples), dtype=torch.int64)
    for i, sample in present.items():
        frames[i] = len(sample.images[sensor])
    b, t = len(samples), int(frames.max())
    images = torch.zeros(b, t, c, h, w)
    valid = torch.zeros(b, t, h, w, dtype=torch.bool)
    days = torch.zeros(b, t)
    for i, sample in present.items():
        n = int(frames[i])
        images[i, :n] = sample.images[sensor].float()
        valid[i, :n] = sample.mask(sensor)
        days[i, :n] = sample.days(sensor)
    return images, valid, days, frames
