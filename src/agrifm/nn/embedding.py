"""From digital numbers to tokens: normalization, gaps, dates, patch embedding."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agrifm.nn.windows import Triple
from agrifm.sample import DAYS_PER_YEAR
from agrifm.sensors import Sensor

HARMONICS = 4
DATE_CHANNELS = 2 * HARMONICS


def pad_to_multiple(x: Tensor, multiple: Triple) -> Tensor:
    """Zero-pad the last three axes at their ends up to whole multiples."""
    t = -x.shape[-3] % multiple[0]
    h = -x.shape[-2] % multiple[1]
    w = -x.shape[-1] % multiple[2]
    return F.pad(x, (0, w, 0, h, 0, t)) if t or h or w else x


class Normalize(nn.Module):
    """Standardize each band by its mean and standard deviation, which are stored with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, sensor: Sensor) -> None:
        super().__init__()
        statistics = sensor.known_statistics()
        self.register_buffer("mean", torch.tensor(statistics.mean))
        self.register_buffer("std", torch.tensor(statistics.std))

    def forward(self, image: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Convert digital numbers to zero mean and unit deviation."""
        return (image - self.mean[:, None, None]) / self.std[:, None, None]


class Series(NamedTuple):
    """A sensor's series: normalized ``image (b t c h w)``, ``valid (b t h w)`` and ``days (b t)``."""

    image: Tensor
    valid: Tensor
    days: Tensor


def fill_gaps(
    image: Float[Tensor, "b t c h w"], valid: Bool[Tensor, "b t h w"], days: Float[Tensor, "b t"]
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b t h w"]]:
    """Fill invalid pixels: linearly in time between the valid neighbors, and constant before and after them.

    A pixel that was never valid becomes 0, the mean. Values of invalid pixels never have an influence.

    Returns:
        The filled series, and the days between each value and the nearest valid one; infinity if there is none.
    """
    t = image.shape[1]
    steps = torch.arange(t, device=image.device).view(1, t, 1, 1)
    # Position of the last valid frame up to each frame (-1 if none), and of the first one from there on (t if none).
    last = torch.where(valid, steps, -1).cummax(1).values
    following = torch.where(valid, steps, t).flip(1).cummin(1).values.flip(1)
    before = torch.where(last < 0, following, last).clamp(0, t - 1)
    after = torch.where(following >= t, last, following).clamp(0, t - 1)
    never = ~valid.any(1, keepdim=True)
    time = days[:, :, None, None].expand_as(valid)
    start = time.gather(1, before)
    end = time.gather(1, after)
    distance = torch.minimum((time - start).abs(), (end - time).abs()).masked_fill(never, float("inf"))
    share = ((time - start) / (end - start).clamp(min=1e-6)).clamp(0, 1).unsqueeze(2)
    image = image.masked_fill(~valid.unsqueeze(2), 0.0)
    left = image.gather(1, before.unsqueeze(2).expand_as(image))
    right = image.gather(1, after.unsqueeze(2).expand_as(image))
    return torch.lerp(left, right, share).masked_fill(never.unsqueeze(2), 0.0), distance


def fill_series(series: Series, real: Bool[Tensor, "b t"]) -> Series:
    """Fill the gaps of a series; frames that are not ``real`` are padding and become zeros."""
    if bool(series.valid.all()):
        return series
    image, _ = fill_gaps(*series)
    return series._replace(image=image * real[:, :, None, None, None])


def resample_in_time(series: Series, begin: Float[Tensor, " b"], length: float, count: int) -> Series:
    """Interpolate a series to ``count`` dates that are evenly spread over a season.

    Dates further than one step from a valid observation count as not seen.

    Args:
        series: Series with any dates; padding is invalid.
        begin: First day of the season of each sample.
        length: Length of the season in days.
        count: Number of dates.
    """
    image, valid, days = series
    t = image.shape[1]
    step = length / count
    dates = (torch.arange(count, device=days.device) + 0.5).expand(len(days), -1) * step
    # The new dates join the series as invalid frames, in the order of time; filling the gaps interpolates them.
    all_days = torch.cat([days - begin[:, None], dates], 1)
    order = all_days.argsort(dim=1, stable=True)
    sample = torch.arange(len(order), device=days.device)[:, None]
    image = torch.cat([image, image.new_zeros(len(image), count, *image.shape[2:])], 1)[sample, order]
    valid = torch.cat([valid, valid.new_zeros(len(valid), count, *valid.shape[2:])], 1)[sample, order]
    image, distance = fill_gaps(image, valid, all_days.gather(1, order))
    position = order.argsort(dim=1)[:, t:]
    return Series(image[sample, position], distance[sample, position] <= step, begin[:, None] + dates)


def date_encoding(days: Float[Tensor, "b t"]) -> Float[Tensor, "b t 8"]:
    """Encode days by sines and cosines of the first four harmonics of the year."""
    angle = days.unsqueeze(-1).remainder(DAYS_PER_YEAR) * torch.arange(1, HARMONICS + 1, device=days.device)
    angle = angle * (2 * math.pi / DAYS_PER_YEAR)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PatchEmbedding(nn.Module):
    """Project space-time patches of a series to tokens; the series is padded with zeros at its end.

    Args:
        bands: Channels of the sensor.
        width: Channels of a token.
        patch: Frames, rows and columns of one patch.
    """

    def __init__(self, bands: int, width: int, patch: Triple) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(bands, width, kernel_size=patch, stride=patch)

    def forward(self, image: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 h2 w2 k"]:
        """Return channels-last tokens; sizes are rounded up to whole patches."""
        image = pad_to_multiple(image.transpose(1, 2), self.patch)
        return self.proj(image).permute(0, 2, 3, 4, 1)


class Context(nn.Module):
    """Encode for each token which of its pixels were filled and on which days its frames were taken.

    Both encodings start at zero, so that pre-trained weights first get the same inputs as in pre-training.

    Args:
        width: Channels of a token.
        patch: Frames, rows and columns of one patch.
        dates: Whether to encode the day of the year.
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
        """Add both encodings to the tokens; padded frames have neither gaps nor a date."""
        gaps = (~valid & real[:, :, None, None]).to(tokens.dtype).unsqueeze(1)
        gaps = pad_to_multiple(gaps, self.patch)
        tokens = tokens + self.gaps(gaps).permute(0, 2, 3, 4, 1)
        if self.dates is not None:
            encoding = (date_encoding(days) * real.unsqueeze(-1)).transpose(1, 2)
            encoding = F.pad(encoding, (0, -encoding.shape[-1] % self.patch[0]))
            tokens = tokens + self.dates(encoding).transpose(1, 2)[:, :, None, None]
        return tokens


def token_validity(valid: Bool[Tensor, "b t h w"], strides: tuple[Triple, ...]) -> list[Tensor]:
    """Mask ``(b, t', h', w')`` for each level: true if at least one pixel of a token was seen."""
    levels = []
    seen = valid.float().unsqueeze(1)
    previous: Triple = (1, 1, 1)
    for stride in strides:
        step: Triple = (stride[0] // previous[0], stride[1] // previous[1], stride[2] // previous[2])
        seen = F.max_pool3d(pad_to_multiple(seen, step), step, step)
        previous = stride
        levels.append(seen.squeeze(1) > 0)
    return levels
