"""Counts of samples for reports, and some of their pixels for statistics and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import Sensor, Statistics

PIXELS_PER_CHIP = 2000  # and sensor: enough for a median
MAX_PIXELS = 400_000  # of a sensor that a survey keeps; beyond, it drops every second one


@dataclass
class Survey:
    """Counts of a split for a report, and pixels for statistics and for the checks of bands.

    Args:
        chips: Number of samples.
        labels: Number of pixels by number in the label.
        frames: Number of frames of each sample, by sensor.
        clear: Share of valid pixels of each sample, by sensor.
        sums: Count, sum and sum of squares ``(3, c)`` of all valid pixels, by sensor.
        pixels: Some valid pixels ``(n, c)`` of each sample, by sensor.
        spans: First and last day of each sample.
        footprints: Meters along the shorter side of each sample.
        sides: Pixels along the shorter side of each label.
        votes: What chips show of a date: counts by sensor and day.
        warnings: What looks wrong but does not prevent training.
    """

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
        present = [sensor for sensor in sensors if sensor.name in sample.images]
        if present:
            finest = min(present, key=lambda sensor: sensor.gsd)
            self.footprints.append(min(sample.images[finest.name].shape[-2:]) * finest.gsd)
        if sample.label is not None:
            self.sides.append(min(sample.label.shape[-2:]))
            values, counts = sample.label.unique(return_counts=True)
            self._add_labels(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        for sensor in present:
            self._add_sensor(sample, sensor.name)

    def _add_labels(self, counts: dict[int, int]) -> None:
        for value, count in counts.items():
            self.labels[value] = self.labels.get(value, 0) + count

    def _add_sensor(self, sample: Sample, name: str) -> None:
        mask = sample.mask(name)
        self.frames.setdefault(name, []).append(len(mask))
        self.clear.setdefault(name, []).append(float(mask.double().mean()))
        pixels = sample.images[name].movedim(1, -1)[mask].double()
        count = torch.full((pixels.shape[1],), len(pixels))
        sums = torch.stack([count, pixels.sum(0), pixels.square().sum(0)]).numpy()
        self.sums[name] = self.sums.get(name, 0) + sums
        stride = max(1, len(pixels) // PIXELS_PER_CHIP)
        # A copy: a view would keep all pixels of the chip in memory.
        self._add_pixels(name, [pixels[::stride].numpy().astype(np.float32)])

    def _add_pixels(self, name: str, parts: Sequence[np.ndarray]) -> None:
        pixels = self.pixels.setdefault(name, [])
        pixels += parts
        while sum(map(len, pixels)) > MAX_PIXELS:
            pixels[:] = [part[::2].copy() for part in pixels]

    def merge(self, other: Survey) -> None:
        """Add the counts and pixels of another survey."""
        self.chips += other.chips
        self.spans += other.spans
        self.footprints += other.footprints
        self.sides += other.sides
        self.warnings += other.warnings
        self._add_labels(other.labels)
        for name, frames in other.frames.items():
            self.frames.setdefault(name, []).extend(frames)
            self.clear.setdefault(name, []).extend(other.clear[name])
            self.sums[name] = self.sums.get(name, 0) + other.sums[name]
            self._add_pixels(name, other.pixels[name])
        for name, votes_by_day in other.votes.items():
            for day, votes in votes_by_day.items():
                self.votes_on(name, day).update(votes)

    def votes_on(self, sensor: str, day: int | str) -> Counter:
        """Return the votes on a day of a sensor, which the caller may add to."""
        return self.votes.setdefault(sensor, {}).setdefault(day, Counter())

    def statistics(self, sensor: Sensor) -> Statistics:
        """Return mean and standard deviation of each band over all valid pixels.

        Raises:
            InputError: If there is no valid pixel.
        """
        count, total, square = self.sums.get(sensor.name, np.zeros((3, 1)))
        if not count[0]:
            raise InputError(
                f"sensor {sensor.name}",
                found="no valid pixel in the training split",
                expected="pixels to compute statistics from",
                repair="correct the masks, or remove the sensor from 'sensors'.",
            )
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 0))
        std = np.where(std > 0, std, 1.0)
        return Statistics(_rounded(mean), _rounded(std), f"{self.chips} chips, {int(count[0])} valid pixels")


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
