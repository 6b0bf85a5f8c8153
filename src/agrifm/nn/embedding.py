"""From digital numbers to tokens: normalization, gap filling, dates and patch embedding."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from agrifm.nn.windows import Triple
from agrifm.sample import DAYS_PER_YEAR
from agrifm.sensors import Sensor

HARMONICS = 4
DATE_CHANNELS = 2 * HARMONICS


def pad_to_multiple(x: Tensor, multiple: Triple) -> Tensor:
    """Pad the last three axes with zeros at their ends, up to whole multiples."""
    t, h, w = x.shape[-3:]
    # ``F.pad`` takes the last axis first.
    padding = (0, -w % multiple[2], 0, -h % multiple[1], 0, -t % multiple[0])
    return F.pad(x, padding) if any(padding) else x


class Normalize(nn.Module):
    """Subtract the mean of each band and divide by its standard deviation.

    The statistics are buffers, so they are saved with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, sensor: Sensor) -> None:
        super().__init__()
        statistics = sensor.known_statistics()
        self.register_buffer("mean", torch.tensor(statistics.mean))
        self.register_buffer("std", torch.tensor(statistics.std))

    def forward(self, image: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Normalize digital numbers to zero mean and unit standard deviation."""
        return (image - self.mean[:, None, None]) / self.std[:, None, None]


class Series(NamedTuple):
    """The time series of one sensor: normalized ``image (b t c h w)``, ``valid (b t h w)`` and ``days (b t)``."""

    image: Tensor
    valid: Tensor
    days: Tensor


def fill_gaps(
    image: Float[Tensor, "b t c h w"], valid: Bool[Tensor, "b t h w"], days: Float[Tensor, "b t"]
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b t h w"]]:
    """Fill invalid pixels from the valid ones before and after: linearly in time, and constant at the ends.

    A pixel that is never valid becomes 0, the mean. No value of an invalid pixel influences the result.

    Returns:
        The filled images, and the days from each value to the nearest valid one (infinity if there is none).
    """
    earlier, later = _valid_neighbors(valid)
    return _interpolate(image, valid, days, earlier, later, days)


def _interpolate(
    image: Float[Tensor, "b t c h w"],
    valid: Bool[Tensor, "b t h w"],
    days: Float[Tensor, "b t"],
    earlier: Int[Tensor, "b s h w"],
    later: Int[Tensor, "b s h w"],
    targets: Float[Tensor, "b s"],
) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s h w"]]:
    """Interpolate to target days between an earlier and a later frame, which are valid wherever any frame is."""
    never_valid = ~valid.any(1, keepdim=True)
    frame_days = days[:, :, None, None].expand_as(valid)
    time = targets[:, :, None, None]
    start = frame_days.gather(1, earlier)
    end = frame_days.gather(1, later)
    distance = torch.minimum((time - start).abs(), (end - time).abs())
    distance = distance.masked_fill(never_valid, float("inf"))
    share = ((time - start) / (end - start).clamp(min=1e-6)).clamp(0, 1).unsqueeze(2)
    bands = image.shape[2]
    left = image.gather(1, earlier.unsqueeze(2).expand(-1, -1, bands, -1, -1))
    right = image.gather(1, later.unsqueeze(2).expand(-1, -1, bands, -1, -1))
    # Pixels that are never valid may hold anything, also NaN.
    interpolated = torch.lerp(left, right, share).masked_fill(never_valid.unsqueeze(2), 0.0)
    return interpolated, distance


def _valid_neighbors(valid: Bool[Tensor, "b t h w"]) -> tuple[Tensor, Tensor]:
    """Return the last valid frame up to each frame and the first one from it on, or twice the only one there is."""
    frames = valid.shape[1]
    frame = torch.arange(frames, device=valid.device).view(1, frames, 1, 1)
    last_before = torch.where(valid, frame, -1).cummax(1).values
    reversed_frames = torch.where(valid, frame, frames).flip(1)
    first_after = reversed_frames.cummin(1).values.flip(1)
    earlier = torch.where(last_before < 0, first_after, last_before)
    later = torch.where(first_after >= frames, last_before, first_after)
    # Pixels that are never valid have no neighbor; any index inside the series will do for them.
    return earlier.clamp(0, frames - 1), later.clamp(0, frames - 1)


def fill_series(series: Series, real: Bool[Tensor, "b t"]) -> Series:
    """Fill the gaps of a series. Frames that are not ``real`` are padding and become zeros."""
    # What a mask holds is not known when a model is exported.
    if not torch.compiler.is_exporting() and bool(series.valid.all()):
        return series
    image, _ = fill_gaps(*series)
    return series._replace(image=image * real[:, :, None, None, None])


def resample_in_time(series: Series, begin: Float[Tensor, " b"], length: float, count: int) -> Series:
    """Interpolate a series to ``count`` dates that are evenly spread over a season.

    A value further than one step from a valid observation counts as invalid.

    Args:
        series: A series with any dates. Padded frames are invalid.
        begin: The day on which the season of each sample begins.
        length: Length of the season in days.
        count: Number of dates.
    """
    image, valid, days = series
    # Unlike len, shapes stay open while a model is exported.
    frames = image.shape[1]
    step = length / count
    targets = (torch.arange(count, device=days.device) + 0.5).expand(days.shape[0], -1) * step
    days = days - begin[:, None]
    # Insert an invalid frame at each target date, in the order of time, to find the valid frames before and after it.
    order = torch.cat([days, targets], 1).argsort(dim=1, stable=True)
    samples = torch.arange(order.shape[0], device=days.device)[:, None]
    with_targets = torch.cat([valid, valid.new_zeros(valid.shape[0], count, *valid.shape[2:])], 1)
    earlier, later = _valid_neighbors(with_targets[samples, order])
    target_frames = order.argsort(dim=1)[:, frames:]
    frame_numbers = order[:, :, None, None].expand(-1, -1, *valid.shape[2:])
    # Pixels that are never valid have no neighbor; any frame will do for them.
    earlier = frame_numbers.gather(1, earlier[samples, target_frames]).clamp(max=frames - 1)
    later = frame_numbers.gather(1, later[samples, target_frames]).clamp(max=frames - 1)
    image, distance = _interpolate(image, valid, days, earlier, later, targets)
    return Series(image, distance <= step, begin[:, None] + targets)


def date_encoding(days: Float[Tensor, "b t"]) -> Float[Tensor, "b t 8"]:
    """Return sines and cosines of the first four harmonics of the year."""
    harmonics = torch.arange(1, HARMONICS + 1, device=days.device)
    angle = days.unsqueeze(-1).remainder(DAYS_PER_YEAR) * harmonics
    angle = angle * (2 * math.pi / DAYS_PER_YEAR)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PatchEmbedding(nn.Module):
    """Cut a series into space-time patches and project each one to a token. Ends are padded with zeros.

    Args:
        bands: Number of bands of the sensor.
        width: Channels of a token.
        patch: Frames, rows and columns of a patch.
    """

    def __init__(self, bands: int, width: int, patch: Triple) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(bands, width, kernel_size=patch, stride=patch)

    def forward(self, image: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 h2 w2 k"]:
        """Return channels-last tokens. Sizes are rounded up to whole patches."""
        image = pad_to_multiple(image.transpose(1, 2), self.patch)
        return self.proj(image).permute(0, 2, 3, 4, 1)


class Context(nn.Module):
    """Add to each token which of its pixels were filled and on which days its frames were acquired.

    Both encodings start at zero, so pre-trained weights first receive exactly what they received in training.

    Args:
        width: Channels of a token.
        patch: Frames, rows and columns of a patch.
        dates: Encode the day of the year.
    """

    def __init__(self, width: int, patch: Triple, *, dates: bool) -> None:
        super().__init__()
        self.patch = patch
        self.gaps = nn.Conv3d(1, width, kernel_size=patch, stride=patch, bias=False)
        nn.init.zeros_(self.gaps.weight)
        self.dates: nn.Conv1d | None = None
        if dates:
            self.dates = nn.Conv1d(DATE_CHANNELS, width, kernel_size=patch[0], stride=patch[0], bias=False)
            nn.init.zeros_(self.dates.weight)

    def forward(
        self,
        tokens: Float[Tensor, "b t2 h2 w2 k"],
        valid: Bool[Tensor, "b t h w"],
        days: Float[Tensor, "b t"],
        real: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b t2 h2 w2 k"]:
        """Add both encodings to the tokens. Padded frames have neither gaps nor a date."""
        is_gap = ~valid & real[:, :, None, None]
        gaps = pad_to_multiple(is_gap.to(tokens.dtype).unsqueeze(1), self.patch)
        tokens = tokens + self.gaps(gaps).permute(0, 2, 3, 4, 1)
        if self.dates is not None:
            dates = (date_encoding(days) * real.unsqueeze(-1)).transpose(1, 2)
            dates = F.pad(dates, (0, -dates.shape[-1] % self.patch[0]))
            tokens = tokens + self.dates(dates).transpose(1, 2)[:, :, None, None]
        return tokens


def token_validity(valid: Bool[Tensor, "b t h w"], strides: tuple[Triple, ...]) -> list[Tensor]:
    """Return per level ``(b, t', h', w')`` whether at least one pixel of a token is valid."""
    levels = []
    pooled = valid.float().unsqueeze(1)
    previous: Triple = (1, 1, 1)
    for stride in strides:
        step = cast(Triple, tuple(new // old for new, old in zip(stride, previous, strict=True)))
        pooled = F.max_pool3d(pad_to_multiple(pooled, step), step, step)
        previous = stride
        levels.append(pooled.squeeze(1) > 0)
    return levels
