"""Gap-filled series of pixels: the same dates of the season for every pixel, whenever it was observed."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_INTERVAL = 1e-6  # days; keeps the weight finite where the dates before and after a step are the same


def step_days(length: float, steps: int) -> Float[Tensor, " s"]:
    """Days of a season to interpolate to, evenly spaced from its first day to its last."""
    return torch.linspace(0.0, length, steps, dtype=torch.float64)


def interpolate(
    image: Float[Tensor, "t c n"], valid: Bool[Tensor, "t n"], days: Float[Tensor, " t"], steps: Float[Tensor, " s"]
) -> Float[Tensor, "n s c"]:
    """Interpolate the series of pixels linearly between their valid dates.

    Before the first and after the last valid date the series is constant. No value of an invalid date has an influence.

    Args:
        image: Values of ``t`` dates, ``c`` bands and ``n`` pixels.
        valid: Dates on which the ground of each pixel was seen.
        days: Day of each date, in any order.
        steps: Days to interpolate to, in increasing order.

    Returns:
        Values at the steps; NaN for pixels that were never seen.
    """
    order = torch.argsort(days, stable=True)
    days, valid = days[order].double(), valid[order]
    before, after = _valid_neighbors(valid, days, steps.to(days.device))
    start, end = days[before], days[after]
    interval = (end - start).clamp(min=LEAST_INTERVAL)
    weight = ((steps.to(days.device)[:, None] - start) / interval).clamp(0, 1).to(image.dtype)

    count, bands = len(steps), image.shape[1]
    before = order[before][:, None].expand(count, bands, -1)
    after = order[after][:, None].expand(count, bands, -1)
    values = torch.lerp(image.gather(0, before), image.gather(0, after), weight[:, None])
    values = values.masked_fill(~valid.any(0), torch.nan)
    return values.permute(2, 0, 1)


def neighborhood_mean(
    image: Float[Tensor, "t c h w"], valid: Bool[Tensor, "t h w"], pixels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "t c n"], Bool[Tensor, "t n"]]:
    """Average the valid pixels of the 3 x 3 neighborhood of some pixels, date by date.

    A neighborhood at the border of the image has fewer pixels. No value of an invalid pixel has an influence.

    Args:
        image: Values of ``t`` dates and ``c`` bands.
        valid: Pixels whose ground was seen on each date.
        pixels: Flat indices of the pixels in the middle of the neighborhoods.

    Returns:
        The means, and whether a pixel of each neighborhood was seen; the mean is 0 where none was.
    """
    height, width = image.shape[-2:]
    rows, columns = pixels // width, pixels % width
    values, seen = image.flatten(2), valid.flatten(1)
    total = values.new_zeros(*values.shape[:2], len(pixels))
    count = values.new_zeros(len(values), len(pixels))
    # Neighbors are picked for these pixels only: a map asks for a few rows of a window at a time.
    for row_step in (-1, 0, 1):
        for column_step in (-1, 0, 1):
            row, column = rows + row_step, columns + column_step
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            neighbor = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            counts = seen[:, neighbor] & is_inside
            total += values[..., neighbor].masked_fill(~counts[:, None], 0.0)
            count += counts
    return total / count.clamp(min=1)[:, None], count > 0


def _valid_neighbors(
    valid: Bool[Tensor, "t n"], days: Float[Tensor, " t"], steps: Float[Tensor, " s"]
) -> tuple[Tensor, Tensor]:
    """Return the valid dates before and after each step ``(s, n)``; the two are equal at the ends of the series."""
    dates, pixels = valid.shape
    number = torch.arange(dates, device=valid.device)[:, None]
    # One row more than dates: latest[k] is the last valid one of the first k dates, following[k] the first from k on.
    none_before = torch.full((1, pixels), -1, device=valid.device)
    none_after = torch.full((1, pixels), dates, device=valid.device)
    latest = torch.cat([none_before, torch.where(valid, number, -1)]).cummax(0).values
    following = torch.cat([torch.where(valid, number, dates), none_after]).flip(0).cummin(0).values.flip(0)
    before = latest[torch.searchsorted(days, steps, right=True)]
    after = following[torch.searchsorted(days, steps)]
    earlier = torch.where(before < 0, after, before)
    later = torch.where(after >= dates, before, after)
    # A pixel that was never seen has neither; its values become NaN.
    return earlier.clamp(0, dates - 1), later.clamp(0, dates - 1)
