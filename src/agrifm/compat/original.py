"""The original AgriFM, rebuilt key by key, with equal outputs, losses, gradients and metrics.

``build`` takes the ``model`` dictionary of the original, ``load_state_dict`` its keys, ``forward`` its inputs, and
``load_released`` the published ``AgriFM.pth``. Facts are from github.com/flyakon/AgriFM, commit 13f476e.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from agrifm.checkpoint import Match, load_strict
from agrifm.compat.keys import Keys
from agrifm.errors import counted
from agrifm.nn.embedding import PatchEmbedding
from agrifm.nn.legacy_decoder import Fusion, LegacyDecoder, fold_time, original_head
from agrifm.nn.swin import Swin, SwinSize
from agrifm.tasks.scores import scores
from agrifm.weight_files.layouts import read_state, released_encoder, without_indices

SENSOR_OF_BANDS = {6: "Landsat", 7: "Modis", 10: "S2"}  # sensors with published weights, by number of bands
Features = dict[str, Any]


class Encoder(nn.Module):
    """One sensor's encoder (``PretrainingSwinTransformer3DEncoder``).

    Args:
        embedding: Embedding of the patches of the sensor.
        backbone: The Video Swin.
        fusion: How time is removed from the features (``feature_fusion``).
        group: Number of frames to average before that (``reduce_feature_scale``).
        levels: Levels that ``features_list`` holds (``out_indices``).
        frozen: Number of stages that do not train (``frozen_stages``).
    """

    def __init__(
        self,
        embedding: PatchEmbedding,
        backbone: Swin,
        fusion: Fusion = "cat",
        group: int | None = None,
        levels: Sequence[int] = (0, 1, 2, 3),
        frozen: int = 0,
    ) -> None:
        super().__init__()
        self.patch_emd, self.backbone = embedding, backbone
        self.fusion, self.group, self.levels, self.frozen = fusion, group, tuple(levels), frozen
        for stage in backbone.layers[: max(0, frozen)]:
            stage.requires_grad_(False)

    def forward(self, image: Float[Tensor, "b t c h w"] | Float[Tensor, "b c h w"]) -> Features:
        """Return ``encoder_features`` and ``features_list``, each ``(b, c, h, w)``; a single image is one frame."""
        if image.ndim == 4:
            image = image.unsqueeze(1)
        pyramid = self.backbone(self.patch_emd(image))
        levels = [tokens for level, tokens in enumerate(pyramid.merged) if level in self.levels]
        return {
            "encoder_features": fold_time(pyramid.stages[-1], self.fusion, self.group),
            "features_list": [fold_time(tokens, self.fusion, self.group) for tokens in levels],
        }

    def train(self, mode: bool = True) -> Encoder:
        """Switch training on or off; frozen stages stay in evaluation mode."""
        super().train(mode)
        for stage in self.backbone.layers[: max(0, self.frozen)]:
            stage.eval()
        return self


class Encoders(nn.Module):
    """The encoders of several sensors (``MultiModalEncoder``)."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Return features by sensor."""
        return {name: encoder(images[name]) for name, encoder in self.encoders.items()}


class Neck(LegacyDecoder):
    """The fusion decoder (``MultiFusionNeck``) with its fixed sizes."""

    def __init__(self, start: tuple[int, int], size: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.start, self.size = start, size

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "b c h w"]:  # ty: ignore[incompatible-method-override]
        """Fuse the features of all sensors. The keys of the weights are those of the decoder."""
        deepest = {name: of_sensor["encoder_features"] for name, of_sensor in features.items()}
        levels = {name: of_sensor["features_list"] for name, of_sensor in features.items()}
        return self.fuse(deepest, levels, self.start, self.size)


class Head(nn.Module):
    """The head (``CropFCNHead``)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = original_head(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the classes."""
        return self.head(x)


class Model(nn.Module):
    """Encoders, neck and head (``MultiUnifiedModel``)."""

    def __init__(self, encoders: Encoders, neck: Neck, heads: Head) -> None:
        super().__init__()
        self.encoders, self.neck, self.heads = encoders, neck, heads

    def forward(self, images: Mapping[str, Tensor]) -> Float[Tensor, "b k h w"]:
        """Return the logits of the classes."""
        return self.heads(self.neck(self.encoders(images)))


def build(model_cfg: Mapping[str, Any]) -> nn.Module:
    """Build a module from a ``model`` dictionary of the original.

    Args:
        model_cfg: ``type='MultiUnifiedModel'`` or ``type='PretrainingSwinTransformer3DEncoder'``. A ``checkpoint``
            in the ``init_cfg`` of an encoder is loaded, strictly, unlike in the original.

    Raises:
        InputError: If a key is unknown, missing or not supported.
    """
    top = Keys({"model": model_cfg}, "model_cfg")
    keys = top.inside("model", "MultiUnifiedModel", "PretrainingSwinTransformer3DEncoder")
    if keys.kind() == "MultiUnifiedModel":
        return _build_model(keys)
    return _build_encoder(keys)


def load_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> Match:
    """Load weights by the keys of the original into a module from ``build``, strictly.

    If there is a ``relative_position_index``, it is compared, then dropped.

    Raises:
        InputError: If a key is missing, left over or of another shape.
    """
    return load_strict(module, without_indices(state, module))


def forward(module: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> Any:
    """Run a module. An encoder returns ``encoder_features`` and ``features_list``, a model returns logits.

    Args:
        module: A module from ``build`` or ``load_released``.
        inputs: Normalized images: ``(b, t, c, h, w)`` for an encoder, such tensors by sensor for a model.
    """
    return module(inputs)


def load_released(path: str | Path, sensor: str) -> Encoder:
    """Load the encoder of one sensor from the published ``AgriFM.pth`` or a file of its layout.

    Patch size, width, depths, heads and window are inferred from the tensors. Nothing in the file is executed.

    Args:
        path: The file.
        sensor: ``S2``, ``Landsat`` or ``Modis``.

    Raises:
        InputError: If the file does not open, does not contain the sensor, or a tensor does not fit.
    """
    released = released_encoder(read_state(Path(path)), sensor, path)
    # The published weights were learned with this quirk of the original.
    size = replace(released.size, clipped_bias="first_rows")
    encoder = Encoder(PatchEmbedding(released.bands, size.width, released.patch), Swin(size))
    load_strict(encoder, released.weights)
    return encoder.eval()


def loss(logits: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"], ignore_index: int = -1) -> Tensor:
    """Return the loss of the original: cross entropy averaged over all pixels, where ignored ones count as zero."""
    return F.cross_entropy(logits, label, ignore_index=ignore_index, reduction="none").mean()


def metrics(
    prediction: Int[Tensor, "*s"], label: Int[Tensor, "*s"], classes: int, ignore_index: int = -1
) -> dict[str, float]:
    """Return the mean metrics of the original in 0..1: aAcc, mIoU, mAcc, mFscore, mPrecision, mRecall."""
    labeled = label != ignore_index
    # Each pair of true and predicted class has a number of its own.
    pairs = label[labeled] * classes + prediction[labeled]
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return scores(np.asarray(confusion), tuple(map(str, range(classes)))).summary


def _build_model(keys: Keys) -> Model:
    encoders = {}
    with keys:
        with keys.inside("encoders", "MultiModalEncoder") as section, section.inside("encoders_cfg") as by_sensor:
            for name in by_sensor.left():
                encoders[name] = _build_encoder(by_sensor.inside(name, "PretrainingSwinTransformer3DEncoder"))
        model = Model(Encoders(encoders), _build_neck(keys), _build_head(keys))
        keys.only("data_preprocessor", None, repair="normalize the inputs before.")
        checkpoint = keys.take("load_from", None)
    if checkpoint is not None:
        load_state_dict(model, read_state(Path(checkpoint)))
    return model


def _build_encoder(keys: Keys) -> Encoder:
    with keys:
        with keys.inside("patch_emd_cfg", "SwinPatchEmbed3D") as patches:
            width = patches.number("embed_dim", 96, least=1, whole=True)
            bands = patches.number("in_chans", 3, least=1, whole=True)
            embedding = PatchEmbedding(bands, width, patches.triple("patch_size", (2, 4, 4)))
            patches.only("norm_layer", None, repair="delete it.")
        with keys.inside("backbone_cfg", "SwinTransformer3D") as backbone:
            encoder = _build_backbone(backbone, embedding)
        keys.only("data_preprocessor", None, repair="normalize the inputs before.")
        init = keys.take("init_cfg", None)
    if init and init.get("checkpoint"):
        _load_start_weights(encoder, Path(init["checkpoint"]), keys)
    return encoder


def _build_backbone(keys: Keys, embedding: PatchEmbedding) -> Encoder:
    keys.only("pretrained", None)
    keys.only("pretrained2d", False, True)
    keys.only("qkv_bias", True)
    keys.only("qk_scale", None)
    keys.only("drop_rate", 0.0)
    keys.only("attn_drop_rate", 0.0)
    keys.only("patch_norm", False, True)
    keys.take("patch_size", None)  # that of the embedding counts
    depths = tuple(keys.take("depths", (2, 2, 6, 2)))
    size = SwinSize(
        width=keys.number("embed_dim", 96, least=1, whole=True),
        depths=depths,
        heads=keys.numbers("num_heads", len(depths), (3, 6, 12, 24)),
        window=keys.triple("window_size", (2, 7, 7)),
        mlp_ratio=keys.number("mlp_ratio", 4.0),
        drop_path=keys.number("drop_path_rate", 0.2),
        steps=tuple((t, h, w) for t, h, w in keys.take("downsample_steps", ((2, 2, 2),) * 4)),
        average_frames=bool(keys.take("mean_frame_down", False)),
        clipped_bias="first_rows",
    )
    return Encoder(
        embedding,
        Swin(size, checkpointing=bool(keys.take("use_checkpoint", False))),
        fusion=keys.only("feature_fusion", "cat", "mean"),
        group=keys.take("reduce_feature_scale", None),
        levels=keys.take("out_indices", (0, 1, 2, 3)),
        frozen=keys.take("frozen_stages", -1),
    )


def _build_neck(model: Keys) -> Neck:
    with model.inside("neck", "MultiFusionNeck") as neck:
        rows, columns = neck.numbers("out_size", 2, (256, 256))
        start_rows, start_columns = neck.numbers("feature_size", 2, (16, 16))
        return Neck(
            (start_rows, start_columns),
            (rows, columns),
            width=neck.number("embed_dim", least=1, whole=True),
            sensors=tuple(neck.take("in_feature_key", ("S2",))),
            lateral=neck.take("in_fusion_key_list"),
        )


def _build_head(model: Keys) -> Head:
    with model.inside("head", "CropFCNHead") as head:
        head.take("loss_model", None)
        return Head(head.number("embed_dim", least=1, whole=True), head.number("num_classes", least=1, whole=True))


def _load_start_weights(encoder: Encoder, path: Path, keys: Keys) -> None:
    bands = encoder.patch_emd.proj.in_channels
    sensor = SENSOR_OF_BANDS.get(bands)
    if sensor is None:
        raise keys.wrong(
            "init_cfg",
            found=f"a checkpoint for {counted(bands, 'band')}",
            expected="6 (Landsat), 7 (Modis) or 10 (S2) bands, for which weights were published",
            repair="remove init_cfg and train from scratch.",
        )
    load_strict(encoder, released_encoder(read_state(path), sensor, path).weights)
