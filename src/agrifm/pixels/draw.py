"""A random draw of labeled pixels with their features, in one pass over the samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from agrifm.pixels.features import PixelFeatures
from agrifm.sample import Batch

LEAST_SHARE = 0.02  # of a draw that every class gets if it has enough pixels: 200 of 10,000, 80 of 4,000


@dataclass(frozen=True)
class LabeledPixels:
    """Labeled pixels with their features.

    Args:
        blocks: Features ``(n, f)`` by sensor; NaN where the sample of a pixel lacks the sensor.
        present: Whether the sample of each pixel has a sensor ``(n)``, by sensor.
        classes: Class of each pixel ``(n)``.
        sample: Number of the sample of each pixel ``(n)``, in the order in which the samples came.
        place: Flat index of each pixel in the label of its sample ``(n)``.
        key: Random number of each pixel ``(n)``, which decides whether it is kept.
    """

    blocks: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    classes: np.ndarray
    sample: np.ndarray
    place: np.ndarray
    key: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, chosen: np.ndarray) -> LabeledPixels:
        """Return some of the pixels."""
        return LabeledPixels(
            {name: block[chosen] for name, block in self.blocks.items()},
            {name: present[chosen] for name, present in self.present.items()},
            self.classes[chosen],
            self.sample[chosen],
            self.place[chosen],
            self.key[chosen],
        )

    def with_all(self, sensors: tuple[str, ...]) -> np.ndarray:
        """Numbers of the pixels whose samples have all of these sensors."""
        present = np.ones(len(self), bool)
        for name in sensors:
            present &= self.present[name]
        return np.flatnonzero(present)

    def features(self, sensors: tuple[str, ...]) -> np.ndarray:
        """Features ``(n, f)`` of these sensors."""
        return np.concatenate([self.blocks[name] for name in sensors], 1)


def join(parts: list[LabeledPixels]) -> LabeledPixels:
    """Join pixels of several samples."""
    first = parts[0]
    return LabeledPixels(
        {name: np.concatenate([part.blocks[name] for part in parts]) for name in first.blocks},
        {name: np.concatenate([part.present[name] for part in parts]) for name in first.present},
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.sample for part in parts]),
        np.concatenate([part.place for part in parts]),
        np.concatenate([part.key for part in parts]),
    )


def smallest_keys(key: np.ndarray, classes: np.ndarray, most: int) -> np.ndarray:
    """Choose the pixels with the smallest keys, but of every class at least :data:`LEAST_SHARE` of ``most``.

    A class that has fewer pixels keeps all of them. With more than 50 classes, all of them have an equal share.

    Args:
        key: Random number of each pixel ``(n)``.
        classes: Class of each pixel ``(n)``.
        most: Largest number of pixels to choose.

    Returns:
        Numbers of the chosen pixels, in increasing order.
    """
    if len(key) <= most:
        return np.arange(len(key))
    least = min(least_of_class(most), most // len(np.unique(classes)))
    chosen = _within_class(key, classes) < least
    others = np.flatnonzero(~chosen)
    smallest = np.argsort(key[others])[: most - np.count_nonzero(chosen)]
    chosen[others[smallest]] = True
    return np.flatnonzero(chosen)


def least_of_class(most: int) -> int:
    """Number of pixels that a rare class keeps in a draw of at most ``most``."""
    return max(1, int(LEAST_SHARE * most))


def _within_class(key: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Rank of each key ``(n)`` among those of its class, from 0."""
    order = np.lexsort((key, classes))
    ordered = classes[order]
    first = np.searchsorted(ordered, ordered)
    rank = np.empty(len(key), int)
    rank[order] = np.arange(len(key)) - first
    return rank


@dataclass
class PixelDraw:
    """Draws pixels while samples are read; each labeled pixel is kept with the same probability.

    Every pixel gets a random number, and those with the smallest numbers are kept. Only rare classes are kept with a
    higher probability, so that each gets :data:`LEAST_SHARE` of the draw if it has that many pixels.

    Args:
        features: Computes the features.
        most: Largest number of pixels to keep.
        seed: Seed of the random numbers.
    """

    features: PixelFeatures
    most: int
    seed: int
    labeled: int = 0
    samples: int = 0
    limit: float = 1.0
    class_limits: dict[int, float] = field(default_factory=dict)
    parts: list[LabeledPixels] = field(default_factory=list)
    held: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def add(self, batch: Batch, labels: Int[Tensor, "b h w"], ignore_index: int) -> None:
        """Add the labeled pixels of a batch."""
        for index, label in enumerate(labels):
            values = label.numpy().ravel()
            places = np.flatnonzero(values != ignore_index)
            self.labeled += len(places)
            key = self.rng.random(len(places))
            kept = key < self._limits_of(values[places])
            if kept.any():
                self.parts.append(self._part(batch, index, label, places[kept], key[kept]))
            self.samples += 1
        # Forget surplus pixels only now and then, because joining copies all of them.
        if sum(len(part) for part in self.parts) > max(self.held, self.most) + self.most:
            self._forget()

    def _limits_of(self, classes: np.ndarray) -> np.ndarray:
        """Number ``(n)`` up to which a pixel of each of these classes may still be drawn."""
        present, position = np.unique(classes, return_inverse=True)
        limits = [max(self.limit, self.class_limits.get(number, 1.0)) for number in present.tolist()]
        return np.array(limits)[position]

    def _forget(self) -> None:
        """Forget pixels that cannot be drawn whatever comes; those that could are a little more than the draw."""
        pixels = join(self.parts)
        least = least_of_class(self.most)
        rank = _within_class(pixels.key, pixels.classes)
        self.limit = float(np.partition(pixels.key, self.most - 1)[self.most - 1])
        # A class that has fewer pixels than this gets no limit: all of its pixels may be drawn.
        is_last = rank == least - 1
        self.class_limits = dict(zip(pixels.classes[is_last].tolist(), pixels.key[is_last].tolist(), strict=True))
        kept = pixels[(pixels.key <= self.limit) | (rank < least)]
        self.parts = [kept]
        self.held = len(kept)

    def _part(
        self, batch: Batch, index: int, label: Int[Tensor, "h w"], places: np.ndarray, key: np.ndarray
    ) -> LabeledPixels:
        blocks = {}
        present = {}
        pixels = torch.from_numpy(places)
        size = (label.shape[0], label.shape[1])
        for sensor in self.features.sensors:
            frames = batch.frames.get(sensor.name)
            is_present = frames is not None and int(frames[index]) > 0
            if is_present:
                block = self.features.of_sample(batch, index, [sensor.name], size, pixels).numpy()
            else:
                block = np.full((len(places), len(self.features.names([sensor.name]))), np.nan, np.float32)
            blocks[sensor.name] = block
            present[sensor.name] = np.full(len(places), is_present)
        classes = label.numpy().ravel()[places]
        return LabeledPixels(blocks, present, classes, np.full(len(places), self.samples), places, key)

    def pixels(self) -> LabeledPixels:
        """The drawn pixels, in the order of the samples; at least one was added."""
        pixels = join(self.parts)
        if len(pixels) <= self.most:
            return pixels
        return pixels[smallest_keys(pixels.key, pixels.classes, self.most)]
