"""Sample and Batch: the two values that flow from files to the model.

Axis letters: ``b`` batch, ``t`` time, ``c`` band, ``h`` ``w`` rows and columns. Every sensor keeps its own
pixel size and its own dates; what is shared is the footprint on the ground. A sensor may be missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agrifm.errors import InputError

DAYS_PER_YEAR = 365.25
ITEM_CONTRACT = '{"data": {sensor: (T,C,H,W)}, "label": (H,W), "file_name": str}'


@dataclass(frozen=True)
class Sample:
    """One place through one season.

    Args:
        images: per sensor ``(t, c, h, w)`` in stored digital numbers.
        dates: per sensor ``(t)`` days since 1970-01-01; a sensor without dates counts as evenly spread.
        valid: per sensor ``(t, h, w)`` true where the ground was seen; a sensor without counts as all valid.
        label: ``(h, w)`` class indices, or None.
        name: tells the sample apart in messages and outputs.
    """

    images: dict[str, Tensor]
    dates: dict[str, Tensor] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None
    name: str = ""

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Sample:
        """Read the dictionary contract ``{"data": {sensor: (T,C,H,W)}, "label": (H,W), "file_name": str}``.

        Optional keys: ``dates`` and ``valid``, each a dictionary by sensor.

        Raises:
            InputError: ``data`` is missing or an image does not have four axes.
        """
        name = str(item.get("file_name", ""))
        if not isinstance(item.get("data"), Mapping):
            raise InputError(
                f"sample {name or '(unnamed)'}",
                found=f"keys {sorted(item)}",
                expected='{"data": {sensor: (T,C,H,W)}, "label": (H,W), "file_name": str}',
                repair="return that dictionary from the dataset's __getitem__.",
            )
        images = {key: torch.as_tensor(value) for key, value in item["data"].items()}
        for key, image in images.items():
            if image.ndim != 4:
                raise InputError(
                    f"sample {name}: data['{key}']",
                    found=f"shape {tuple(image.shape)}",
                    expected="(T, C, H, W)",
                    repair="add the missing axis; a single date is T=1.",
                )
        label = item.get("label")
        return cls(
            images=images,
            dates={key: days_since_epoch(value) for key, value in item.get("dates", {}).items()},
            valid={key: torch.as_tensor(value, dtype=torch.bool) for key, value in item.get("valid", {}).items()},
            label=None if label is None else torch.as_tensor(label).long(),
            name=name,
        )

    def mask(self, sensor: str) -> Tensor:
        """Validity ``(t, h, w)`` of a sensor that is present."""
        if sensor in self.valid:
            return self.valid[sensor]
        t, _, h, w = self.images[sensor].shape
        return torch.ones(t, h, w, dtype=torch.bool)

    def days(self, sensor: str) -> Tensor:
        """Days since 1970-01-01 ``(t)``; where dates are unknown, evenly spread over a year."""
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
            InputError: some sensors have dates and some have none.
        """
        self.refuse_undated()
        return torch.cat([self.days(sensor) for sensor in self.images])

    def refuse_undated(self) -> None:
        """Refuse a sensor without dates beside one with dates: evenly spread frames would lie decades away from it.

        Raises:
            InputError: names the sensor.
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
        """The same sample as if this sensor had not been there."""

        def rest(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: value for key, value in group.items() if key != sensor}

        return replace(self, images=rest(self.images), dates=rest(self.dates), valid=rest(self.valid))

    def only(self, sensors: Collection[str]) -> Sample:
        """The same sample as if only these sensors had been there; if none was, nothing was seen."""
        found = self
        for name in self.images:
            found = found if name in sensors else found.without(name)
        return found if found.images else self._unseen()

    def hide(self, first: float, last: float) -> Sample:
        """The same sample as if nothing had been acquired from day ``first`` to day ``last``, both included.

        A sensor without a frame is gone. Where no frame is left at all, one stays, of which nothing counts as seen.
        """
        days = {name: self.dates.get(name, self.days(name)) for name in self.images}
        kept = {name: (when < first) | (when > last) for name, when in days.items()}
        kept = {name: mask for name, mask in kept.items() if bool(mask.any())}

        def rest(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: group[name][mask] for name, mask in kept.items() if name in group}

        found = replace(self, images=rest(self.images), dates=rest(days), valid=rest(self.valid))
        return found if kept else self._unseen()

    def _unseen(self) -> Sample:
        return replace(
            self,
            images={name: image[:1] for name, image in self.images.items()},
            dates={name: days[:1] for name, days in self.dates.items()},
            valid={name: torch.zeros_like(self.mask(name)[:1]) for name in self.images},
        )


@dataclass(frozen=True)
class Season:
    """The part of the year that series cover; it may cross the new year or last longer than one.

    Args:
        start: day of the year on which it begins, 0..365.25.
        length: in days.
    """

    start: float
    length: float

    # A sample whose first date is up to this many days earlier still belongs to the season that then begins.
    early: ClassVar[float] = 60.0

    @classmethod
    def of(cls, spans: Sequence[tuple[float, float]]) -> Season:
        """The shortest season that holds all spans of (first, last) days, each laid into its own year."""
        reference = spans[0][0]
        half = DAYS_PER_YEAR / 2
        offsets = [(first - reference + half) % DAYS_PER_YEAR - half for first, _ in spans]
        last = max(offset + end - first for offset, (first, end) in zip(offsets, spans, strict=True))
        return cls((reference + min(offsets)) % DAYS_PER_YEAR, max(last - min(offsets), 1.0))

    def begin(self, first: Tensor) -> Tensor:
        """Day since 1970-01-01 on which the season began that holds the day ``first``."""
        return first - ((first - self.start + self.early) % DAYS_PER_YEAR - self.early)


def days_since_epoch(values: Any) -> Tensor:
    """Turn dates (ISO strings, bytes, datetime64 or day numbers) into int64 days since 1970-01-01."""
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
    """Several samples, padded in time; what was padded or never present is invalid.

    Args:
        images: per sensor ``(b, t, c, h, w)`` float.
        valid: per sensor ``(b, t, h, w)`` bool.
        days: per sensor ``(b, t)`` days since 1970-01-01.
        frames: per sensor ``(b)``, how many frames each sample really has; 0 marks a missing sensor.
        label: ``(b, h, w)`` or None.
        names: one per sample.
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
        first = []
        for i in range(len(self)):
            starts = [days[i, : int(self.frames[name][i])] for name, days in self.days.items() if self.frames[name][i]]
            first.append(torch.cat(starts).min())
        return torch.stack(first)

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor."""

        def move(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {key: value.to(device, non_blocking=True) for key, value in group.items()}

        return Batch(
            images=move(self.images),
            valid=move(self.valid),
            days=move(self.days),
            frames={key: value.cpu() for key, value in self.frames.items()},
            label=None if self.label is None else self.label.to(device, non_blocking=True),
            names=self.names,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples. Frame counts may differ; a sensor may be missing from some samples.

    Raises:
        InputError: samples of one batch differ in rows, columns or bands, or only some have labels or dates.
    """
    for sample in samples:
        sample.refuse_undated()
    sensors = list(dict.fromkeys(key for sample in samples for key in sample.images))
    labels = [sample.label for sample in samples if sample.label is not None]
    if labels and (len(labels) != len(samples) or len({label.shape for label in labels}) > 1):
        raise InputError(
            f"samples {', '.join(sample.name for sample in samples)}",
            found=f"{len(labels)} of {len(samples)} labels, shapes {sorted({tuple(x.shape) for x in labels})}",
            expected="labels of one shape for every sample of a batch",
            repair="set 'crop' in the augment section, or use a batch size of 1.",
        )
    stacked = {sensor: _stack(sensor, samples) for sensor in sensors}
    return Batch(
        images={key: parts[0] for key, parts in stacked.items()},
        valid={key: parts[1] for key, parts in stacked.items()},
        days={key: parts[2] for key, parts in stacked.items()},
        frames={key: parts[3] for key, parts in stacked.items()},
        label=torch.stack(labels) if labels else None,
        names=tuple(sample.name for sample in samples),
    )


def _stack(sensor: str, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    frames = torch.tensor([len(s.images[sensor]) if sensor in s.images else 0 for s in samples])
    b, t = len(samples), int(frames.max())
    images, valid, days = (
        torch.zeros(b, t, c, h, w),
        torch.zeros(b, t, h, w, dtype=torch.bool),
        torch.zeros(b, t),
    )
    for i, sample in present.items():
        n = int(frames[i])
        images[i, :n] = sample.images[sensor].float()
        valid[i, :n] = sample.mask(sensor)
        days[i, :n] = sample.days(sensor)
    return images, valid, days, frames
