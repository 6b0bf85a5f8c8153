"""The whole model: normalize, embed, encode, fuse, classify. A Batch in, one map of outputs per sample out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agrifm.errors import InputError
from agrifm.nn.decoder import Decoder, Reduced
from agrifm.nn.embedding import (
    Context,
    Normalize,
    PatchEmbedding,
    Series,
    fill_series,
    resample_in_time,
    token_validity,
)
from agrifm.nn.legacy_decoder import LegacyDecoder, level_channels, original_head
from agrifm.nn.swin import SIZES, Pyramid, Swin, SwinSize
from agrifm.nn.windows import Triple
from agrifm.sample import Batch, Season
from agrifm.sensors import Sensor

SHARED = "shared"
NO_FRAMES = torch.zeros(1)


@dataclass(frozen=True)
class ModelConfig:
    """The model's dials, as they stand in the ``model`` section of an experiment.

    Args:
        size: ``tiny``, ``small``, ``base`` or the numbers themselves.
        patch: Frames, rows and columns of a patch; (4, 4, 4) is what the published weights have.
        decoder: ``pyramid``, or ``original`` for the parity decoder, which needs a fixed number of frames.
        shared_backbone: One backbone for all sensors, as in pre-training; else one each.
        day_of_year: Tell the model the day of the year of each frame.
        time_steps: Interpolate every series to this many dates, evenly spread over the season, before it is cut into
            patches; for series whose dates differ from place to place. Without it frames stay as they are.
        season: What the time steps cover; if left out, the training data's.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        freeze_encoder: Train the decoder and head only.
    """

    size: Literal["tiny", "small", "base"] | SwinSize = "tiny"
    patch: Triple = (4, 2, 2)
    decoder: Literal["pyramid", "original"] = "pyramid"
    shared_backbone: bool = False
    day_of_year: bool = True
    time_steps: int | None = None
    season: Season | None = None
    gradient_checkpointing: bool = False
    freeze_encoder: bool = False

    @property
    def swin(self) -> SwinSize:
        """The numbers of the backbone."""
        return SIZES[self.size] if isinstance(self.size, str) else self.size


class CropModel(nn.Module):
    """Sensors of one footprint to one map.

    Args:
        sensors: With their statistics.
        outputs: Channels of the map, e.g. classes.
        config: The dials.
        frames: Frames of every series; needed by the ``original`` decoder only.
    """

    def __init__(
        self, sensors: Sequence[Sensor], outputs: int, config: ModelConfig, *, frames: int | None = None
    ) -> None:
        super().__init__()
        self.config, self.sensors = config, {sensor.name: sensor for sensor in sensors}
        swin = config.swin
        self.normalize = nn.ModuleDict({s.name: Normalize(s) for s in sensors})
        self.embeddings = nn.ModuleDict(
            {s.name: PatchEmbedding(len(s.bands), swin.width, config.patch) for s in sensors}
        )
        self.backbones = nn.ModuleDict(
            {key: Swin(swin, checkpointing=config.gradient_checkpointing) for key in self._keys()}
        )
        self.context = nn.ModuleDict(
            {s.name: Context(swin.width, config.patch, dates=config.day_of_year) for s in sensors}
        )
        self.decoder: Decoder | LegacyDecoder
        if config.decoder == "pyramid":
            self.decoder = Decoder(tuple(self.sensors), swin.widths, config.patch)
            self.head = nn.Conv2d(self.decoder.out_channels, outputs, 3, padding=1)
        else:
            channels = _original_channels(swin, config.patch, frames)
            lateral = [dict.fromkeys(self.sensors, c) for c in channels[-2::-1]]
            self.decoder = LegacyDecoder(channels[-1], list(self.sensors), lateral)
            self.head = original_head(channels[-1], outputs)
        if config.freeze_encoder:
            for parameter in self.encoder_parameters():
                parameter.requires_grad_(False)

    def _keys(self) -> list[str]:
        return [SHARED] if self.config.shared_backbone else list(self.sensors)

    def backbone(self, sensor: str) -> Swin:
        """The backbone that encodes a sensor."""
        return cast(Swin, self.backbones[SHARED if self.config.shared_backbone else sensor])

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of patch embeddings and backbones: what pre-trained weights fill."""
        yield from self.embeddings.parameters()
        yield from self.backbones.parameters()

    def train(self, mode: bool = True) -> CropModel:
        """Switch training on or off; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.backbones.eval()
        return self

    def forward(self, batch: Batch) -> Float[Tensor, "b k y x"]:
        """Return the map of every sample on the grid of the labels, or of the finest sensor.

        Raises:
            InputError: If the batch holds none of the model's sensors.
        """
        present = [name for name in self.sensors if bool((batch.frames.get(name, NO_FRAMES) > 0).any())]
        if not present:
            raise InputError(
                f"samples {', '.join(batch.names)}",
                found=f"sensors {', '.join(batch.images) or '(none)'}",
                expected=f"at least one of {', '.join(self.sensors)}",
                repair="give the model a sensor it was trained with.",
            )
        reduced = {name: self._reduce(name, batch) for name in present}
        extents = {name: self._extents(batch.images[name]) for name in present}
        return self.head(self.decoder(reduced, extents, batch.size(tuple(present))))

    def encode(self, sensor: str, series: Series, real: Bool[Tensor, "b t"]) -> Pyramid:
        """Encode one sensor's series, whose gaps are filled; frames that are not ``real`` are padding."""
        tokens = self.embeddings[sensor](series.image)
        return self.backbone(sensor)(self.context[sensor](tokens, series.valid, series.days, real))

    def _extents(self, image: Tensor) -> list[tuple[float, float]]:
        h, w = image.shape[-2:]
        return [(h / rows, w / columns) for _, rows, columns in self.config.swin.strides(self.config.patch)]

    def _series(self, name: str, batch: Batch, rows: Tensor) -> tuple[Series, Tensor]:
        """The normalized series of some samples, gaps filled, and which frames are no padding."""
        last, device = int(batch.frames[name][rows].max()), batch.images[name].device
        real = (torch.arange(last) < batch.frames[name][rows, None]).to(device)
        rows = rows.to(device)
        image, valid, days = (part[name][rows, :last] for part in (batch.images, batch.valid, batch.days))
        series = Series(self.normalize[name](image), valid, days)
        if self.config.time_steps is None:
            return fill_series(series, real), real
        season = self.config.season
        assert season is not None, "settled before a model is built"
        begin = season.begin(batch.first_day()[rows])
        series = resample_in_time(series, begin, season.length, self.config.time_steps)
        return series, torch.ones_like(series.days, dtype=torch.bool)

    def _reduce(self, name: str, batch: Batch) -> Reduced:
        """Encode samples with equal numbers of frame tokens together, so that no token is padding alone."""
        frames, whole = batch.frames[name], None
        tokens = -(-frames // self.config.patch[0]) if self.config.time_steps is None else (frames > 0).long()
        for count in tokens[tokens > 0].unique().tolist():
            rows = (tokens == count).nonzero().flatten()
            series, real = self._series(name, batch, rows)
            rows, valid = rows.to(real.device), series.valid
            pyramid = self.encode(name, series, real)
            seen = token_validity(valid, self.config.swin.strides(self.config.patch))
            part = self.decoder.reduce(name, pyramid, seen)
            if whole is None:
                whole = [tuple(x.new_zeros(len(batch), *x.shape[1:]) for x in pair) for pair in part]
            whole = [
                tuple(target.index_copy(0, rows, x) for target, x in zip(targets, pair, strict=True))
                for targets, pair in zip(whole, part, strict=True)
            ]
        return cast(Reduced, whole)


def _original_channels(swin: SwinSize, patch: Triple, frames: int | None) -> list[int]:
    """Channels of each level once time is folded into them."""
    if frames is None:
        raise InputError(
            "model.decoder",
            found="'original' without a number of frames",
            expected="a fixed number of frames: this decoder folds time into channels",
            repair="set 'frames' in the data section (the original used 32), or use 'decoder: pyramid'.",
        )
    return level_channels(swin, -(-frames // patch[0]))


def count_parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
