"""Random steps of training. Label and every sensor move together; evaluation never comes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd, lcm

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agrifm.errors import InputError
from agrifm.sample import Sample

SEEN = 0.5  # share of a resized pixel that must have been seen


@dataclass(frozen=True)
class Augment:
    """Random steps, each with its own switch.

    Args:
        flips: mirror rows and columns, each half of the time.
        rot90: quarter turns; half turns where a chip is not square.
        crop: side of a random square, in label pixels; sensors are cut to the same ground.
        drop_frames: share of frames left out at random.
        drop_sensors: chance for each sensor to be left out; one always stays.
        truncate: chance that the series ends early, on a random day between its first and its last: one model then
            serves all dates of the season.
        noise: deviation of a random factor on every band of every frame (pre-training).
        mask_frames: share of frames of which a random part counts as not seen (pre-training).
    """

    flips: bool = True
    rot90: bool = True
    crop: int | None = None
    drop_frames: float = 0.0
    drop_sensors: float = 0.0
    truncate: float = 0.0
    noise: float = 0.0
    mask_frames: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Apply all steps."""
        if self.drop_sensors:
            sample = drop_sensors(sample, self.drop_sensors, rng)
        if self.crop is not None:
            sample = crop(sample, self.crop, rng)
        if self.flips:
            sample = flip(sample, bool(rng.random() < 0.5), bool(rng.random() < 0.5))
        if self.rot90:
            sample = turn(sample, int(rng.integers(4)) if _square(sample) else 2 * int(rng.integers(2)))
        if self.truncate and rng.random() < self.truncate:
            sample = truncate(sample, rng)  # last: two views of one ground may differ in days
        return sample

    def frames(self, count: int | None, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
        """A random choice of frames: at most ``count``, less those dropped, at least one, in order."""

        def choose(total: int) -> np.ndarray:
            keep = min(total, count or total)
            keep = max(1, keep - int(rng.binomial(keep, self.drop_frames)))
            return np.sort(rng.choice(total, keep, replace=False))

        return choose


def spread_frames(count: int | None) -> Callable[[int], np.ndarray]:
    """The choice of evaluation: at most ``count`` frames, evenly spread."""

    def choose(total: int) -> np.ndarray:
        keep = min(total, count or total)
        return np.linspace(0, total - 1, keep).round().astype(int)

    return choose


def pick_frames(sample: Sample, choose: Callable[[int], np.ndarray]) -> Sample:
    """Keep the chosen frames of every sensor."""
    chosen = {name: torch.from_numpy(choose(len(image))) for name, image in sample.images.items()}
    return replace(
        sample,
        images={name: image[chosen[name]] for name, image in sample.images.items()},
        dates={name: days[chosen[name]] for name, days in sample.dates.items() if name in chosen},
        valid={name: mask[chosen[name]] for name, mask in sample.valid.items() if name in chosen},
    )


def perturb(sample: Sample, augment: Augment, rng: np.random.Generator) -> Sample:
    """Add noise and hide parts, in every frame anew."""
    images, valid = dict(sample.images), dict(sample.valid)
    for name, image in images.items():
        if augment.noise:
            factors = 1 + augment.noise * rng.standard_normal((*image.shape[:2], 1, 1))
            images[name] = image.float() * torch.from_numpy(factors).float()
        mask = sample.mask(name).clone()
        height, width = mask.shape[1:]
        for frame in np.flatnonzero(rng.random(len(mask)) < augment.mask_frames):
            top, left = int(rng.integers(height)), int(rng.integers(width))
            mask[frame, top : top + -(-height // 2), left : left + -(-width // 2)] = False
        valid[name] = mask
    return replace(sample, images=images, valid=valid)


def _everywhere(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    return replace(
        sample,
        images={name: change(image) for name, image in sample.images.items()},
        valid={name: change(mask) for name, mask in sample.valid.items()},
        label=None if sample.label is None else change(sample.label),
    )


def _square(sample: Sample) -> bool:
    return all(x.shape[-2] == x.shape[-1] for x in (*sample.images.values(), sample.label) if x is not None)


def flip(sample: Sample, rows: bool, columns: bool) -> Sample:
    """Mirror top to bottom and left to right."""
    axes = [axis for axis, wanted in ((-2, rows), (-1, columns)) if wanted]
    return _everywhere(sample, lambda x: x.flip(axes)) if axes else sample


def turn(sample: Sample, quarters: int) -> Sample:
    """Turn counterclockwise by quarters of a circle."""
    return _everywhere(sample, lambda x: torch.rot90(x, quarters, (-2, -1))) if quarters % 4 else sample


def crop(sample: Sample, side: int, rng: np.random.Generator) -> Sample:
    """Cut a random square of ``side`` label pixels, placed so that it falls on whole pixels of every sensor.

    Raises:
        InputError: the square is larger than the sample, or no whole number of some sensor's pixels.
    """
    reference = sample.label if sample.label is not None else max(sample.images.values(), key=lambda x: x.shape[-1])
    height, width = reference.shape[-2:]
    sizes = {tuple(x.shape[-2:]) for x in sample.images.values()}
    step = lcm(*[height // gcd(height, h) for h, _ in sizes], *[width // gcd(width, w) for _, w in sizes])
    largest = min(height, width)
    if side > largest or side % step:
        raise InputError(
            f"augment.crop for {sample.name}",
            found=f"{side} label pixels from {height} x {width}; sensors have {sorted(sizes)}",
            expected="a square within the chip that is a whole number of pixels of every sensor",
            repair=f"use a multiple of {step} up to {largest}." if step <= largest else "leave 'crop' out.",
        )
    top, left = (int(rng.integers((n - side) // step + 1)) * step for n in (height, width))

    def cut(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows = slice(top * h // height, (top + side) * h // height)
        return x[..., rows, left * w // width : (left + side) * w // width]

    return _everywhere(sample, cut)


def drop_sensors(sample: Sample, chance: float, rng: np.random.Generator) -> Sample:
    """Leave each sensor out with this chance; one always stays."""
    names = list(sample.images)
    kept = [name for name in names if rng.random() >= chance] or [names[int(rng.integers(len(names)))]]
    for name in names:
        if name not in kept:
            sample = sample.without(name)
    return sample


def truncate(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample as it was known on a random day, evenly drawn from its first to its last."""
    first, last = sample.span()
    return sample.hide(int(rng.integers(int(first), int(last) + 1)) + 1, np.inf)


def resize(sample: Sample, sizes: dict[str, tuple[int, int]]) -> Sample:
    """Bring sensors (bilinear) and ``label`` (nearest) to the given rows and columns."""

    def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x[None].float(), size, mode="nearest-exact")[0]

    images, valid, label = dict(sample.images), dict(sample.valid), sample.label
    for name, size in sizes.items():
        if name in images and tuple(images[name].shape[-2:]) != size:
            images[name], mask = _resized(images[name].float(), valid.get(name), size)
            if mask is not None:
                valid[name] = mask
    if label is not None and "label" in sizes and tuple(label.shape[-2:]) != sizes["label"]:
        several = label.reshape(-1, *label.shape[-2:])
        label = nearest(several, sizes["label"]).long().reshape(*label.shape[:-2], *sizes["label"])
    return replace(sample, images=images, valid=valid, label=label)


def _resized(image: Tensor, valid: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """An image and its mask at another size; what was not seen has no part in the values.

    A pixel counts as seen if at least half of what it is made of was.
    """

    def bilinear(x: Tensor) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)

    if valid is None or bool(valid.all()):
        return bilinear(image), None if valid is None else valid.new_ones(*valid.shape[:-2], *size)
    weight = bilinear(valid[:, None].float())
    # Anything may stand where nothing was seen, also NaN: it must be gone before it is multiplied.
    total = bilinear(image.masked_fill(~valid[:, None], 0.0))
    seen = weight >= SEEN
    found = torch.where(seen, total / weight.clamp(min=SEEN), 0.0)
    whole = weight > 1 - 1e-6  # the same bits as without a mask
    return torch.where(whole, total, found), seen[:, 0]
