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
LEAST_WALKED = 1024  # pixels of an image; for fewer, the steps of a walk take longer than what they compute


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
    frames = image.shape[1]
    frame = torch.arange(frames, device=image.device)
    # Every frame is followed by a target on the same day.
    order = torch.stack([frame, frame + frames], 1).flatten()
    return _interpolate(image, valid, days, order.expand(image.shape[0], -1), days)


class Neighbors(NamedTuple):
    """The valid values before and after each target day.

    Args:
        left: Last valid values ``(b s c h w)`` up to the target.
        right: First valid values after it.
        start: Days ``(b s h w)`` of the last valid values; -infinity where there is none.
        end: Days of the first valid values after the target; infinity where there is none.
    """

    left: Tensor
    right: Tensor
    start: Tensor
    end: Tensor


def _interpolate(
    image: Float[Tensor, "b t c h w"],
    valid: Bool[Tensor, "b t h w"],
    days: Float[Tensor, "b t"],
    order: Int[Tensor, "b n"],
    targets: Float[Tensor, "b s"],
) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s h w"]]:
    """Interpolate to target days between the valid frames before and after them.

    Args:
        image: Values of the frames.
        valid: Whether they were observed.
        days: Days of the frames.
        order: Numbers of the frames and, counted on from ``t``, of the targets, in the order of time.
        targets: Target days.

    Returns:
        The values, 0 where no frame is valid, and the days to the nearest valid frame, infinity where there is none.
    """
    # A walk over the dates copies whole images. It is faster unless they are small, and no good on a GPU.
    walks = image.device.type == "cpu" and image[0, 0, 0].numel() >= LEAST_WALKED and not torch.compiler.is_compiling()
    find = _walk if walks else _gather
    left, right, start, end = find(image, valid, days, order, targets.shape[1])
    time = targets[:, :, None, None]
    distance = torch.minimum((time - start).abs(), (end - time).abs())
    share = ((time - start) / (end - start).clamp(min=1e-6)).clamp(0, 1)
    share = share.masked_fill(start.isneginf(), 1.0).masked_fill(end.isposinf(), 0.0)
    return left.lerp_(right, share.unsqueeze(2)), distance


def _walk(image: Tensor, valid: Tensor, days: Tensor, order: Tensor, count: int) -> Neighbors:
    """Find neighbors by going through the dates once forward and once backward."""
    values = (len(image), count, *image.shape[2:])
    times = (len(image), count, *valid.shape[2:])
    found = Neighbors(image.new_empty(values), image.new_empty(values), days.new_empty(times), days.new_empty(times))
    for sample, steps in enumerate(order.tolist()):
        series = image[sample], valid[sample], days[sample]
        _carry(*series, steps, found.left[sample], found.start[sample], unseen=-math.inf)
        _carry(*series, steps[::-1], found.right[sample], found.end[sample], unseen=math.inf)
    return found


def _carry(
    image: Float[Tensor, "t c h w"],
    valid: Bool[Tensor, "t h w"],
    days: Float[Tensor, " t"],
    steps: list[int],
    values: Float[Tensor, "s c h w"],
    times: Float[Tensor, "s h w"],
    *,
    unseen: float,
) -> None:
    """Carry the latest valid value along and write it, with its day, wherever a target is passed."""
    frames = len(image)
    value = torch.zeros_like(image[0])
    day = torch.full_like(times[0], unseen)
    for step in steps:
        if step < frames:
            value = torch.where(valid[step], image[step], value)
            day = torch.where(valid[step], days[step], day)
        else:
            values[step - frames] = value
            times[step - frames] = day


def _gather(image: Tensor, valid: Tensor, days: Tensor, order: Tensor, count: int) -> Neighbors:
    """Find neighbors by their numbers, for all pixels at once."""
    frames = image.shape[1]
    samples = torch.arange(order.shape[0], device=order.device)[:, None]
    # A target is a frame that is never valid.
    with_targets = torch.cat([valid, valid.new_zeros(valid.shape[0], count, *valid.shape[2:])], 1)
    in_order = with_targets[samples, order]
    steps = in_order.shape[1]
    step = torch.arange(steps, device=order.device).view(1, steps, 1, 1)
    latest = torch.where(in_order, step, -1).cummax(1).values
    following = torch.where(in_order, step, steps).flip(1).cummin(1).values.flip(1)
    of_targets = order.argsort(dim=1)[:, frames:]
    latest = latest[samples, of_targets]
    following = following[samples, of_targets]
    left, start = _at(image, days, order, latest.clamp(min=0))
    right, end = _at(image, days, order, following.clamp(max=steps - 1))
    none_before = latest < 0
    none_after = following >= steps
    return Neighbors(
        left.masked_fill(none_before.unsqueeze(2), 0.0),
        right.masked_fill(none_after.unsqueeze(2), 0.0),
        start.masked_fill(none_before, -math.inf),
        end.masked_fill(none_after, math.inf),
    )


def _at(image: Tensor, days: Tensor, order: Tensor, steps: Int[Tensor, "b s h w"]) -> tuple[Tensor, Tensor]:
    """Values and days of the frames at some steps of the order; any frame where the step is a target."""
    frames, bands = image.shape[1:3]
    numbers = order[:, :, None, None].expand(-1, -1, *steps.shape[2:]).gather(1, steps).clamp(max=frames - 1)
    values = image.gather(1, numbers.unsqueeze(2).expand(-1, -1, bands, -1, -1))
    return values, days[:, :, None, None].expand(-1, -1, *steps.shape[2:]).gather(1, numbers)


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
    step = length / count
    # Unlike len, shapes stay open while a model is exported.
    targets = (torch.arange(count, device=days.device) + 0.5).expand(days.shape[0], -1) * step
    days = days - begin[:, None]
    order = torch.cat([days, targets], 1).argsort(dim=1, stable=True)
    image, distance = _interpolate(image, valid, days, order, targets)
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
