"""What was seen of some samples: counts for reports, and pixels for statistics and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import Sensor, Statistics

PIXELS = 2000  # per chip and sensor: enough for a median
KEPT = 400_000  # pixels per sensor that a survey keeps; of more, every second one


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
            InputError: If no valid pixel was seen.
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
