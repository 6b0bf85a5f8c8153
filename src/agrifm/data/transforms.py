"""Random augmentations of training samples, and the choice and resizing of frames.

The label and every sensor are transformed together. Samples that are evaluated are never augmented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd, lcm

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agrifm.data.chips import FrameChoice
from agrifm.errors import InputError
from agrifm.sample import Sample

MIN_VALID_SHARE = 0.5  # of a resized pixel that must be valid


@dataclass(frozen=True)
class Augment:
    """Random augmentations, each with its own switch.

    Args:
        flips: Mirror rows and columns, each with a probability of one half.
        rot90: Rotate by a random multiple of 90 degrees; of 180 degrees where a chip is not square.
        crop: Side length of a random square in label pixels. All sensors are cut to the same ground.
        drop_frames: Share of frames that are left out at random.
        drop_sensors: Probability with which each sensor is left out; one is always kept.
        truncate: Probability that the series ends early, on a random day between its first and its last. One model
            then serves all dates of the season.
        noise: Standard deviation of a random factor on every band of every frame (pre-training).
        mask_frames: Share of frames in which a random part counts as invalid (pre-training).
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
        """Apply all augmentations of whole samples."""
        if self.drop_sensors:
            sample = drop_sensors(sample, self.drop_sensors, rng)
        if self.crop is not None:
            sample = crop(sample, self.crop, rng)
        if self.flips:
            rows = bool(rng.random() < 0.5)
            columns = bool(rng.random() < 0.5)
            sample = flip(sample, rows, columns)
        if self.rot90:
            quarters = int(rng.integers(4)) if _is_square(sample) else 2 * int(rng.integers(2))
            sample = rotate(sample, quarters)
        # Truncation draws last, so that two views of the same ground may differ in their days only.
        if self.truncate and rng.random() < self.truncate:
            sample = truncate(sample, rng)
        return sample

    def frames(self, count: int | None, rng: np.random.Generator) -> FrameChoice:
        """Return a random choice of frames: at most ``count``, less those that are dropped, at least one, in order."""

        def choose(total: int) -> np.ndarray:
            keep = min(total, count or total)
            dropped = int(rng.binomial(keep, self.drop_frames))
            keep = max(1, keep - dropped)
            return np.sort(rng.choice(total, keep, replace=False))

        return choose


def spread_frames(count: int | None) -> FrameChoice:
    """Return the choice of evaluation: at most ``count`` frames, evenly spread."""

    def choose(total: int) -> np.ndarray:
        keep = min(total, count or total)
        return np.linspace(0, total - 1, keep).round().astype(int)

    return choose


def pick_frames(sample: Sample, choose: FrameChoice) -> Sample:
    """Keep the chosen frames of every sensor."""
    images: dict[str, Tensor] = {}
    dates: dict[str, Tensor] = {}
    valid: dict[str, Tensor] = {}
    for name, image in sample.images.items():
        chosen = torch.from_numpy(choose(len(image)))
        images[name] = image[chosen]
        if name in sample.dates:
            dates[name] = sample.dates[name][chosen]
        if name in sample.valid:
            valid[name] = sample.valid[name][chosen]
    return replace(sample, images=images, dates=dates, valid=valid)


def perturb(sample: Sample, augment: Augment, rng: np.random.Generator) -> Sample:
    """Add noise to every frame, and mark random parts of some frames as invalid."""
    images = dict(sample.images)
    valid = dict(sample.valid)
    for name, image in images.items():
        if augment.noise:
            factors = 1 + augment.noise * rng.standard_normal((*image.shape[:2], 1, 1))
            images[name] = image.float() * torch.from_numpy(factors).float()
        mask = sample.mask(name).clone()
        height, width = mask.shape[1:]
        masked_frames = np.flatnonzero(rng.random(len(mask)) < augment.mask_frames)
        for frame in masked_frames:
            top = int(rng.integers(height))
            left = int(rng.integers(width))
            bottom = top + -(-height // 2)
            right = left + -(-width // 2)
            mask[frame, top:bottom, left:right] = False
        valid[name] = mask
    return replace(sample, images=images, valid=valid)


def _transform_space(sample: Sample, transform: Callable[[Tensor], Tensor]) -> Sample:
    """Apply a function to the last two axes of everything that has rows and columns."""
    return replace(
        sample,
        images={name: transform(image) for name, image in sample.images.items()},
        valid={name: transform(mask) for name, mask in sample.valid.items()},
        label=None if sample.label is None else transform(sample.label),
    )


def _is_square(sample: Sample) -> bool:
    rasters = [*sample.images.values()]
    if sample.label is not None:
        rasters.append(sample.label)
    return all(raster.shape[-2] == raster.shape[-1] for raster in rasters)


def flip(sample: Sample, rows: bool, columns: bool) -> Sample:
    """Mirror a sample top to bottom, left to right, or both."""
    axes = []
    if rows:
        axes.append(-2)
    if columns:
        axes.append(-1)
    return _transform_space(sample, lambda x: x.flip(axes)) if axes else sample


def rotate(sample: Sample, quarters: int) -> Sample:
    """Rotate a sample counterclockwise by multiples of 90 degrees."""
    if quarters % 4 == 0:
        return sample
    return _transform_space(sample, lambda x: torch.rot90(x, quarters, (-2, -1)))


def crop(sample: Sample, side: int, rng: np.random.Generator) -> Sample:
    """Cut a random square of ``side`` label pixels whose edges lie between pixels of every sensor.

    Raises:
        InputError: If the square is larger than the sample, or no whole number of some sensor's pixels.
    """
    if sample.label is not None:
        reference = sample.label
    else:
        reference = max(sample.images.values(), key=lambda image: image.shape[-1])
    height, width = reference.shape[-2:]
    step = _common_step(sample, height, width)
    largest = min(height, width)
    if side > largest or side % step:
        sizes = {tuple(image.shape[-2:]) for image in sample.images.values()}
        raise InputError(
            f"augment.crop for {sample.name}",
            found=f"{side} label pixels from {height} x {width}; sensors have {sorted(sizes)}",
            expected="a square within the chip that is a whole number of pixels of every sensor",
            repair=f"use a multiple of {step} up to {largest}." if step <= largest else "leave 'crop' out.",
        )
    top = int(rng.integers((height - side) // step + 1)) * step
    left = int(rng.integers((width - side) // step + 1)) * step

    def cut(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows = slice(top * h // height, (top + side) * h // height)
        columns = slice(left * w // width, (left + side) * w // width)
        return x[..., rows, columns]

    return _transform_space(sample, cut)


def _common_step(sample: Sample, height: int, width: int) -> int:
    """Smallest number of label pixels that is a whole number of pixels of every sensor, along rows and columns."""
    step = 1
    for image in sample.images.values():
        h, w = image.shape[-2:]
        step = lcm(step, height // gcd(height, h), width // gcd(width, w))
    return step


def drop_sensors(sample: Sample, probability: float, rng: np.random.Generator) -> Sample:
    """Leave each sensor out with this probability; one is always kept."""
    names = list(sample.images)
    kept = [name for name in names if rng.random() >= probability]
    if not kept:
        kept = [names[int(rng.integers(len(names)))]]
    for name in names:
        if name not in kept:
            sample = sample.without(name)
    return sample


def truncate(sample: Sample, rng: np.random.Generator) -> Sample:
    """Remove all frames after a random day, drawn uniformly from the first to the last day of the sample."""
    first, last = sample.span()
    end = int(rng.integers(int(first), int(last) + 1))
    return sample.hide(end + 1, np.inf)


def resize(sample: Sample, sizes: dict[str, tuple[int, int]]) -> Sample:
    """Resize sensors (bilinear) and ``label`` (nearest neighbor) to the given rows and columns."""
    images = dict(sample.images)
    valid = dict(sample.valid)
    for name, image in sample.images.items():
        size = sizes.get(name)
        if size is None or tuple(image.shape[-2:]) == size:
            continue
        images[name], mask = _resize_image(image.float(), valid.get(name), size)
        if mask is not None:
            valid[name] = mask
    label = sample.label
    if label is not None and "label" in sizes and tuple(label.shape[-2:]) != sizes["label"]:
        label = _resize_label(label, sizes["label"])
    return replace(sample, images=images, valid=valid, label=label)


def _resize_label(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize one label ``(h, w)`` or several ``(n, h, w)``."""
    layers = label.reshape(-1, *label.shape[-2:])
    resized = F.interpolate(layers[None].float(), size, mode="nearest-exact")[0]
    return resized.long().reshape(*label.shape[:-2], *size)


def _resize_image(image: Tensor, valid: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Resize an image and its mask; invalid pixels have no influence on the values.

    A resized pixel is valid if at least half of the pixels that it is made of were, by their weight.
    """

    def bilinear(x: Tensor) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)

    if valid is None:
        return bilinear(image), None
    if bool(valid.all()):
        return bilinear(image), valid.new_ones(*valid.shape[:-2], *size)
    weight = bilinear(valid[:, None].float())
    # Invalid pixels may hold anything, also NaN, which a weight of zero would not remove.
    total = bilinear(image.masked_fill(~valid[:, None], 0.0))
    resized_valid = weight >= MIN_VALID_SHARE
    mean = torch.where(resized_valid, total / weight.clamp(min=MIN_VALID_SHARE), 0.0)
    # Pixels without invalid parts keep the bits that they have without a mask.
    is_complete = weight > 1 - 1e-6
    return torch.where(is_complete, total, mean), resized_valid[:, 0]
