"""The whole model: normalize, embed, encode, fuse and classify. A batch in, one map per sample out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from agrifm.errors import InputError
from agrifm.nn.decoder import Decoder, Extent, Reduced
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
from agrifm.nn.pixel_time import HIDDEN, PixelTime
from agrifm.nn.swin import SIZES, Pyramid, Swin, SwinSize
from agrifm.nn.windows import Triple
from agrifm.sample import Batch, Season
from agrifm.sensors import Sensor

SHARED = "shared"
RESAMPLED_PIXELS = 16_384  # pixels of a few samples whose series are interpolated at once for the pixel branch


@dataclass(frozen=True)
class ModelConfig:
    """Options of the model: the ``model`` section of an experiment.

    Args:
        size: ``tiny``, ``small``, ``base``, or all numbers of the backbone.
        patch: Frames, rows and columns of a patch. The published weights have (4, 4, 4).
        decoder: ``pyramid``, or ``original`` for equality with the original, which needs a fixed number of frames.
        shared_backbone: Use one backbone for all sensors, as in pre-training, instead of one for each.
        day_of_year: Encode the day of the year of each frame.
        time_steps: Interpolate every series to this many dates, evenly spread over the season, before it is cut into
            patches. This suits series whose dates differ from place to place. By default, frames stay as they are.
        season: The season that the time steps cover; by default that of the training data.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        freeze_encoder: Train the decoder and the head only.
        branch: ``pyramid`` encodes space-time patches; ``pixel`` convolves the series of each pixel over time and has
            no backbone; ``both`` adds the logits of the two.
        branch_steps: Number of dates of every series in the pixel branch if ``time_steps`` is not set.
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
    branch: Literal["pyramid", "pixel", "both"] = "pyramid"
    branch_steps: int = 24

    @property
    def swin(self) -> SwinSize:
        """The numbers of the backbone."""
        return SIZES[self.size] if isinstance(self.size, str) else self.size

    @property
    def has_pyramid(self) -> bool:
        """Whether the model has a backbone and a decoder."""
        return self.branch != "pixel"

    @property
    def has_pixel_branch(self) -> bool:
        """Whether the model classifies the series of single pixels, alone or beside the pyramid."""
        return self.branch != "pyramid"

    @property
    def pixel_steps(self) -> int:
        """Number of dates of every series in the pixel branch."""
        return self.time_steps or self.branch_steps

    @property
    def needs_season(self) -> bool:
        """Whether series are interpolated to dates of the season."""
        return self.time_steps is not None or self.has_pixel_branch


class CropModel(nn.Module):
    """Map the images of several sensors over one footprint to one output map.

    Args:
        sensors: The sensors with their statistics.
        outputs: Number of channels of the map, such as classes.
        config: Options of the model.
        frames: Number of frames of every series; only the ``original`` decoder needs it.
    """

    def __init__(
        self, sensors: Sequence[Sensor], outputs: int, config: ModelConfig, *, frames: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.sensors = {sensor.name: sensor for sensor in sensors}
        self.normalize = nn.ModuleDict({s.name: Normalize(s) for s in sensors})
        if config.has_pyramid:
            self._build_pyramid(sensors, outputs, frames)
        # The pixel branch comes last, so that the pyramid begins with the same random numbers with it and without.
        if config.has_pixel_branch:
            self.pixel_time = PixelTime(sensors, config.pixel_steps)
            head = nn.Conv2d(HIDDEN, outputs, 1)
            if config.has_pyramid:
                self.pixel_head = head
            else:
                self.head = head
        if config.freeze_encoder:
            for parameter in self.encoder_parameters():
                parameter.requires_grad_(False)

    def _build_pyramid(self, sensors: Sequence[Sensor], outputs: int, frames: int | None) -> None:
        config = self.config
        swin = config.swin
        # The order of these modules decides which random numbers initialize them.
        self.embeddings = nn.ModuleDict()
        for sensor in sensors:
            self.embeddings[sensor.name] = PatchEmbedding(len(sensor.bands), swin.width, config.patch)
        self.backbones = nn.ModuleDict()
        for key in [SHARED] if config.shared_backbone else self.sensors:
            self.backbones[key] = Swin(swin, checkpointing=config.gradient_checkpointing)
        self.context = nn.ModuleDict()
        for sensor in sensors:
            self.context[sensor.name] = Context(swin.width, config.patch, dates=config.day_of_year)
        self.decoder: Decoder | LegacyDecoder
        if config.decoder == "pyramid":
            self.decoder = Decoder(tuple(self.sensors), swin.widths, config.patch)
            self.head = nn.Conv2d(self.decoder.out_channels, outputs, 3, padding=1)
        else:
            channels = _original_channels(swin, config.patch, frames)
            lateral = [dict.fromkeys(self.sensors, count) for count in reversed(channels[:-1])]
            self.decoder = LegacyDecoder(channels[-1], list(self.sensors), lateral)
            self.head = original_head(channels[-1], outputs)

    def forward(self, batch: Batch, pixels: Bool[Tensor, "b y x"] | None = None) -> Float[Tensor, "b k y x"]:
        """Return the map of every sample on the grid of the labels, or of the finest sensor.

        Args:
            batch: The samples.
            pixels: Pixels whose output is used, such as the labeled ones; the pixel branch leaves out the others.

        Raises:
            InputError: If the batch holds none of the model's sensors.
        """
        present = self._present_sensors(batch)
        size = batch.size(tuple(present))
        if not self.config.has_pyramid:
            return self.head(self._pixel_features(present, batch, size, pixels))
        reduced = {}
        extents = {}
        for sensor in present:
            reduced[sensor] = self._reduce(sensor, batch)
            extents[sensor] = self.extents(batch.images[sensor])
        logits = self.head(self.decoder(reduced, extents, size))
        if self.config.has_pixel_branch:
            logits = logits + self.pixel_head(self._pixel_features(present, batch, size, pixels))
        return logits

    def _pixel_features(
        self, sensors: Sequence[str], batch: Batch, size: tuple[int, int], pixels: Bool[Tensor, "b y x"] | None
    ) -> Float[Tensor, "b f y x"]:
        """Return the features of single pixels."""
        if pixels is None:
            pixels = torch.ones(len(batch), *size, dtype=torch.bool, device=batch.images[sensors[0]].device)
        # Evaluation takes a few samples at a time to save memory, all of which the backward pass of training needs.
        count = len(batch) if self.training else max(1, RESAMPLED_PIXELS // (size[0] * size[1]))
        parts = []
        for samples in torch.arange(len(batch)).split(count):
            series = {}
            for sensor in sensors:
                if bool((batch.frames[sensor][samples] > 0).any()):
                    observed, _ = self._normalized(sensor, batch, samples)
                    series[sensor] = self._resampled(observed, batch, samples, self.config.pixel_steps)
            parts.append(self.pixel_time(series, pixels[samples.to(pixels.device)]))
        return torch.cat(parts)

    def _present_sensors(self, batch: Batch) -> list[str]:
        """Return the sensors of which at least one sample has a frame."""
        present = []
        for sensor in self.sensors:
            frames = batch.frames.get(sensor)
            if frames is not None and bool((frames > 0).any()):
                present.append(sensor)
        if not present:
            raise InputError(
                f"samples {', '.join(batch.names)}",
                found=f"sensors {', '.join(batch.images) or '(none)'}",
                expected=f"at least one of {', '.join(self.sensors)}",
                repair="give the model a sensor it was trained with.",
            )
        return present

    def _reduce(self, sensor: str, batch: Batch) -> Reduced:
        """Encode the series of one sensor and remove their time axis.

        Samples with equal numbers of frame tokens are encoded together, so that no token consists of padding alone.
        """
        reduced: Reduced = []
        tokens = self._frame_tokens(batch.frames[sensor])
        for count in tokens[tokens > 0].unique().tolist():
            rows = (tokens == count).nonzero().flatten()
            series, real = self._series(sensor, batch, rows)
            part = self.reduce_series(sensor, series, real)
            if not reduced:
                reduced = [(_zeros(features, len(batch)), _zeros(observed, len(batch))) for features, observed in part]
            rows = rows.to(real.device)
            for level, (features, observed) in enumerate(part):
                all_features, all_observed = reduced[level]
                reduced[level] = (
                    all_features.index_copy(0, rows, features),
                    all_observed.index_copy(0, rows, observed),
                )
        return reduced

    def reduce_series(self, sensor: str, series: Series, real: Bool[Tensor, "b t"]) -> Reduced:
        """Encode series without gaps and remove their time axis. Frames that are not ``real`` are padding."""
        pyramid = self.encode(sensor, series, real)
        valid = token_validity(series.valid, self.config.swin.strides(self.config.patch))
        return self.decoder.reduce(sensor, pyramid, valid)

    def _frame_tokens(self, frames: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Number of tokens along time for each sample. With ``time_steps`` it is the same for all that have a frame."""
        if self.config.time_steps is not None:
            return (frames > 0).long()
        return -(-frames // self.config.patch[0])  # rounded up

    def _series(self, sensor: str, batch: Batch, rows: Int[Tensor, " r"]) -> tuple[Series, Bool[Tensor, "r t"]]:
        """Normalize the series of some samples and fill their gaps. Also return which frames are not padding."""
        series, real = self._normalized(sensor, batch, rows)
        if self.config.time_steps is None:
            return fill_series(series, real), real
        series = self._resampled(series, batch, rows, self.config.time_steps)
        return series, torch.ones_like(series.days, dtype=torch.bool)

    def _normalized(self, sensor: str, batch: Batch, rows: Int[Tensor, " r"]) -> tuple[Series, Bool[Tensor, "r t"]]:
        """Normalize the series of some samples. Also return which frames are not padding."""
        device = batch.images[sensor].device
        frames = batch.frames[sensor][rows]
        longest = int(frames.max())
        real = (torch.arange(longest) < frames[:, None]).to(device)
        rows = rows.to(device)
        image = self.normalize[sensor](batch.images[sensor][rows, :longest])
        valid = batch.valid[sensor][rows, :longest]
        days = batch.days[sensor][rows, :longest]
        return Series(image, valid, days), real

    def _resampled(self, series: Series, batch: Batch, rows: Int[Tensor, " r"], steps: int) -> Series:
        """Interpolate the series of some samples to regular dates of the season."""
        season = self.config.season
        assert season is not None, "an experiment sets the season before it builds a model"
        begin = season.begin(batch.first_day()[rows.to(series.days.device)])
        return resample_in_time(series, begin, season.length, steps)

    def encode(self, sensor: str, series: Series, real: Bool[Tensor, "b t"]) -> Pyramid:
        """Encode a series of one sensor without gaps. Frames that are not ``real`` are padding."""
        tokens = self.embeddings[sensor](series.image)
        tokens = self.context[sensor](tokens, series.valid, series.days, real)
        return self.backbone(sensor)(tokens)

    def backbone(self, sensor: str) -> Swin:
        """Return the backbone that encodes a sensor."""
        return cast(Swin, self.backbones[SHARED if self.config.shared_backbone else sensor])

    def extents(self, image: Tensor) -> list[Extent]:
        """Return for each level how many rows and columns of tokens cover an image."""
        h, w = image.shape[-2:]
        strides = self.config.swin.strides(self.config.patch)
        return [(h / rows, w / columns) for _, rows, columns in strides]

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of patch embeddings and backbones, which pre-trained weights fill."""
        if not self.config.has_pyramid:
            return
        yield from self.embeddings.parameters()
        yield from self.backbones.parameters()

    def train(self, mode: bool = True) -> CropModel:
        """Switch training mode on or off. A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.backbones.eval()
        return self


def _zeros(part: Tensor, count: int) -> Tensor:
    """Return zeros of the shape of a part of the batch, for all its ``count`` samples."""
    return part.new_zeros(count, *part.shape[1:])


def _original_channels(swin: SwinSize, patch: Triple, frames: int | None) -> list[int]:
    """Return the channels of each level after folding time."""
    if frames is None:
        raise InputError(
            "model.decoder",
            found="'original' without a number of frames",
            expected="a fixed number of frames: this decoder folds time into channels",
            repair="set 'frames' in the data section (the original used 32), or use 'decoder: pyramid'.",
        )
    return level_channels(swin, -(-frames // patch[0]))


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a model; classifiers of pixels have no parameters, only buffers."""
    for tensor in chain(module.parameters(), module.buffers()):
        return tensor.device
    return torch.device("cpu")


def count_parameters(module: nn.Module) -> int:
    """Return the number of weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
