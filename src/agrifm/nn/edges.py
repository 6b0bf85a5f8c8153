"""Boundaries from image gradients: how much neighboring pixels differ in a season, without learned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agrifm.errors import counted
from agrifm.sample import Batch
from agrifm.sensors import Sensor

MOST_BLURS = 8


@dataclass(frozen=True)
class EdgeRule:
    """The numbers that turn gradients into boundaries.

    Args:
        blurs: Number of times that an image is blurred by (1, 2, 1) / 4 along both axes before its gradient.
        quantile: Quantile of the gradients of all clear dates that counts; 0.5 is the median.
        half: Gradient at which a boundary is as likely as not, by sensor.
    """

    blurs: int
    quantile: float
    half: dict[str, float]

    def __post_init__(self) -> None:
        if not (0 <= self.blurs <= MOST_BLURS and 0 <= self.quantile <= 1):
            raise ValueError(f"blurs must be 0 to {MOST_BLURS}, and quantile 0 to 1")
        for name, value in self.half.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"half of {name} must be above 0 and finite")

    def __str__(self) -> str:
        halves = ", ".join(f"{name} {value:.3g}" for name, value in self.half.items())
        blurred = f"images blurred {counted(self.blurs, 'time')}" if self.blurs else "images"
        return f"{self.quantile:.0%} quantile of the gradients of {blurred}, half a boundary at {halves}"


class Edges(nn.Module):
    """The probability of a boundary, from the gradients of the finest sensor that saw the ground.

    Args:
        sensors: Sensors with their statistics.
        rule: The numbers of the rule; it holds those of every sensor.
    """

    def __init__(self, sensors: Sequence[Sensor], rule: EdgeRule) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.rule = rule

    def forward(self, batch: Batch) -> Float[Tensor, "b y x"]:
        """Return the probability of a boundary on the grid of the labels, or of the finest sensor."""
        present = tuple(sensor.name for sensor in self.sensors if sensor.name in batch.images)
        size = batch.size(present)
        boundaries = []
        for index in range(len(batch)):
            gradients = gradients_of(batch, index, self.sensors, self.rule.blurs, self.rule.quantile)
            boundaries.append(boundary_of(gradients, self.rule.half, size))
        return torch.stack(boundaries)


def gradients_of(
    batch: Batch, index: int, sensors: Sequence[Sensor], blurs: int, quantile: float
) -> dict[str, Float[Tensor, "h w"]]:
    """Return the season's gradients of one sample by sensor, the coarsest sensor first; see :func:`season_gradient`."""
    gradients = {}
    for sensor in sorted(sensors, key=lambda sensor: sensor.gsd, reverse=True):
        frames = batch.frames.get(sensor.name)
        if frames is None or not int(frames[index]):
            continue
        count = int(frames[index])
        image = batch.images[sensor.name][index, :count]
        valid = batch.valid[sensor.name][index, :count]
        deviation = image.new_tensor(sensor.known_statistics().std)
        gradients[sensor.name] = season_gradient(image, valid, deviation, blurs, quantile)
    return gradients


def boundary_of(
    gradients: Mapping[str, Float[Tensor, "h w"]], half: Mapping[str, float], size: tuple[int, int]
) -> Float[Tensor, "y x"]:
    """Return the probability of a boundary: half where the gradient is ``half``, and 0 where no sensor saw the ground.

    Args:
        gradients: Gradients by sensor, the coarsest sensor first. A finer one counts where it saw the ground.
        half: Gradient at which a boundary is as likely as not, by sensor.
        size: Rows and columns of the result.
    """
    boundary = torch.zeros(size)
    for name, gradient in gradients.items():
        seen = ~gradient.isnan()
        # Squares keep the inside of fields, where gradients are small but not zero, far below a boundary.
        strength = (gradient.nan_to_num(0.0) / half[name]).square()
        probability = 1 - 1 / (1 + strength)
        if gradient.shape != size:
            probability = F.interpolate(probability[None, None], size, mode="bilinear")[0, 0]
            seen = F.interpolate(seen[None, None].float(), size, mode="nearest-exact")[0, 0] > 0
        boundary = torch.where(seen, probability, boundary.to(probability))
    return boundary


def season_gradient(
    image: Float[Tensor, "t c h w"],
    valid: Bool[Tensor, "t h w"],
    deviation: Float[Tensor, " c"],
    blurs: int,
    quantile: float,
) -> Float[Tensor, "h w"]:
    """Return the gradient that a quantile of the clear dates exceeds; NaN where no date is clear.

    The gradient of a date is the mean over the bands of the gradient by Sobel, in standard deviations of the band for
    each pixel of distance. A date counts where all pixels are clear that the gradient depends on. Pixels beyond the
    edge repeat those at the edge.
    """
    image = image.masked_fill(~valid[:, None], 0.0)
    for _ in range(blurs):
        image = _blur_rows(_blur_columns(image))
    down = _slope(_blur_columns(image).mT).mT
    right = _slope(_blur_rows(image))
    gradient = (torch.hypot(down, right) / deviation[:, None, None]).mean(1)

    reach = 1 + blurs
    near_unclear = F.max_pool2d((~valid)[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
    count = (~near_unclear).sum(0)
    ordered = gradient.masked_fill(near_unclear, torch.inf).sort(0).values
    place = ((count - 1).clamp(min=0) * quantile).round().long()
    chosen = ordered.gather(0, place[None])[0]
    return chosen.masked_fill(count == 0, torch.nan)


def _blur_columns(image: Float[Tensor, "t c h w"]) -> Float[Tensor, "t c h w"]:
    """Blur along each row by (1, 2, 1) / 4."""
    padded = F.pad(image, (1, 1, 0, 0), mode="replicate")
    return 0.25 * padded[..., :-2] + 0.5 * padded[..., 1:-1] + 0.25 * padded[..., 2:]


def _blur_rows(image: Float[Tensor, "t c h w"]) -> Float[Tensor, "t c h w"]:
    """Blur along each column by (1, 2, 1) / 4."""
    return _blur_columns(image.mT).mT


def _slope(image: Float[Tensor, "t c h w"]) -> Float[Tensor, "t c h w"]:
    """Difference of neighbors along each row, for each pixel of distance."""
    padded = F.pad(image, (1, 1, 0, 0), mode="replicate")
    return 0.5 * (padded[..., 2:] - padded[..., :-2])
