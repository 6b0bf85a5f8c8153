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
    t, h, w = (-size % step for size, step in zip(x.shape[-3:], multiple, strict=True))
    return F.pad(x, (0, w, 0, h, 0, t)) if t or h or w else x


class Normalize(nn.Module):
    """Subtract the mean and divide by the deviation of each band; statistics travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, sensor: Sensor) -> None:
        super().__init__()
        statistics = sensor.known_statistics()
        self.register_buffer("mean", torch.tensor(statistics.mean))
        self.register_buffer("std", torch.tensor(statistics.std))

    def forward(self, image: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Digital numbers in, zero mean and unit deviation out."""
        return (image - self.mean[:, None, None]) / self.std[:, None, None]


class Series(NamedTuple):
    """A sensor's series: normalized ``image (b t c h w)``, ``valid (b t h w)`` and ``days (b t)``."""

    image: Tensor
    valid: Tensor
    days: Tensor


def fill_gaps(
    image: Float[Tensor, "b t c h w"], valid: Bool[Tensor, "b t h w"], days: Float[Tensor, "b t"]
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b t h w"]]:
    """Replace what was not seen by what was: linear in time between the valid neighbors, constant at the ends.

    A pixel that was never seen becomes 0, the mean. Nothing that stood under an invalid pixel survives. Also
    returns how many days each value lies from the nearest valid one, infinity where there is none.
    """
    t = image.shape[1]
    steps = torch.arange(t, device=image.device).view(1, t, 1, 1)
    before = torch.where(valid, steps, -1).cummax(1).values
    after = torch.where(valid, steps, t).flip(1).cummin(1).values.flip(1)
    before, after = torch.where(before < 0, after, before), torch.where(after >= t, before, after)
    never = ~valid.any(1, keepdim=True)
    before, after = before.clamp(0, t - 1), after.clamp(0, t - 1)
    time = days[:, :, None, None].expand_as(valid)
    start, end = time.gather(1, before), time.gather(1, after)
    distance = torch.minimum((time - start).abs(), (end - time).abs()).masked_fill(never, float("inf"))
    share = ((time - start) / (end - start).clamp(min=1e-6)).clamp(0, 1).unsqueeze(2)
    image = image.masked_fill(~valid.unsqueeze(2), 0.0)
    left = image.gather(1, before.unsqueeze(2).expand_as(image))
    right = image.gather(1, after.unsqueeze(2).expand_as(image))
    return torch.lerp(left, right, share).masked_fill(never.unsqueeze(2), 0.0), distance


def filled(series: Series, real: Bool[Tensor, "b t"]) -> Series:
    """The same frames with gaps filled; frames that are not ``real`` are padding and become zeros."""
    if bool(series.valid.all()):
        return series
    image, _ = fill_gaps(*series)
    return series._replace(image=image * real[:, :, None, None, None])


def on_calendar(series: Series, begin: Float[Tensor, " b"], length: float, count: int) -> Series:
    """Interpolate a series to ``count`` dates evenly spread over a season.

    What lies further than one step from a valid observation counts as not seen.

    Args:
        series: With any dates; padding is invalid.
        begin: The day on which each sample's season begins.
        length: Length of the season in days.
        count: How many dates.
    """
    image, valid, days = series
    t, step = image.shape[1], length / count
    dates = (torch.arange(count, device=days.device) + 0.5).expand(len(days), -1) * step
    together = torch.cat([days - begin[:, None], dates], 1)
    order = together.argsort(dim=1, stable=True)
    b = torch.arange(len(order), device=days.device)[:, None]
    image = torch.cat([image, image.new_zeros(len(image), count, *image.shape[2:])], 1)[b, order]
    valid = torch.cat([valid, valid.new_zeros(len(valid), count, *valid.shape[2:])], 1)[b, order]
    image, distance = fill_gaps(image, valid, together.gather(1, order))
    wanted = order.argsort(dim=1)[:, t:]
    return Series(image[b, wanted], distance[b, wanted] <= step, begin[:, None] + dates)


def date_encoding(days: Float[Tensor, "b t"]) -> Float[Tensor, "b t 8"]:
    """Sines and cosines of the first four harmonics of the year."""
    angle = days.unsqueeze(-1).remainder(DAYS_PER_YEAR) * torch.arange(1, HARMONICS + 1, device=days.device)
    angle = angle * (2 * math.pi / DAYS_PER_YEAR)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PatchEmbedding(nn.Module):
    """Cut a series into space-time patches and project each to one token. Pads at the end with zeros.

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
    """Tell each token which of its pixels were filled and on which days its frames were taken.

    Both start at zero, so pre-trained weights see at first exactly what they saw in training.

    Args:
        width: Channels of a token.
        patch: Frames, rows and columns of one patch.
        dates: Encode the day of the year.
    """

    def __init__(self, width: int, patch: Triple, *, dates: bool) -> None:
        super().__init__()
        self.patch = patch
        self.gaps = nn.Conv3d(1, width, kernel_size=patch, stride=patch, bias=False)
        nn.init.zeros_(self.gaps.weight)
        self.dates = (
            nn.Conv1d(DATE_CHANNELS, width, kernel_size=patch[0], stride=patch[0], bias=False) if dates else None
        )
        if self.dates is not None:
            nn.init.zeros_(self.dates.weight)

    def forward(
        self,
        tokens: Float[Tensor, "b t2 h2 w2 k"],
        valid: Bool[Tensor, "b t h w"],
        days: Float[Tensor, "b t"],
        real: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b t2 h2 w2 k"]:
        """Add both encodings to the tokens; padded frames have neither gaps nor a date."""
        gaps = pad_to_multiple((~valid & real[:, :, None, None]).to(tokens.dtype).unsqueeze(1), self.patch)
        tokens = tokens + self.gaps(gaps).permute(0, 2, 3, 4, 1)
        if self.dates is not None:
            encoding = (date_encoding(days) * real.unsqueeze(-1)).transpose(1, 2)
            encoding = F.pad(encoding, (0, -encoding.shape[-1] % self.patch[0]))
            tokens = tokens + self.dates(encoding).transpose(1, 2)[:, :, None, None]
        return tokens


def token_validity(valid: Bool[Tensor, "b t h w"], strides: tuple[Triple, ...]) -> list[Tensor]:
    """Per level ``(b, t', h', w')``: true where at least one pixel of a token was seen."""
    levels, seen, reached = [], valid.float().unsqueeze(1), (1, 1, 1)
    for stride in strides:
        step: Triple = tuple(s // r for s, r in zip(stride, reached, strict=True))  # ty: ignore[invalid-assignment]
        seen, reached = F.max_pool3d(pad_to_multiple(seen, step), step, step), stride
        levels.append(seen.squeeze(1) > 0)
    return levels
