"""The original AgriFM, rebuilt key by key: equal outputs, losses, gradients and metrics.

``build`` takes the original's ``model`` dictionary, ``load_state_dict`` the original's keys, ``forward`` its
inputs, ``load_released`` the published ``AgriFM.pth``. Facts from github.com/flyakon/AgriFM, commit 13f476e.
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
from agrifm.compat.layouts import read_state, released_encoder, without_indices
from agrifm.nn.embedding import PatchEmbedding
from agrifm.nn.legacy_decoder import Fusion, LegacyDecoder, fold_time, original_head
from agrifm.nn.swin import Swin, SwinSize
from agrifm.tasks.scores import scores

Features = dict[str, Any]


class Encoder(nn.Module):
    """One sensor's encoder (``PretrainingSwinTransformer3DEncoder``).

    Args:
        embedding: of the sensor's patches.
        backbone: the Video Swin.
        fusion: how time leaves the features.
        group: average this many frames before (``reduce_feature_scale``).
        levels: which levels ``features_list`` holds (``out_indices``).
        frozen: how many stages do not train (``frozen_stages``).
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
        """Return ``encoder_features`` and ``features_list``, each ``(b, c, h, w)``; one image is one frame."""
        image = image.unsqueeze(1) if image.ndim == 4 else image
        pyramid = self.backbone(self.patch_emd(image))
        features = [fold_time(x, self.fusion, self.group) for i, x in enumerate(pyramid.merged) if i in self.levels]
        return {
            "encoder_features": fold_time(pyramid.stages[-1], self.fusion, self.group),
            "features_list": features,
        }

    def train(self, mode: bool = True) -> Encoder:
        """Switch training on or off; frozen stages stay in evaluation mode."""
        super().train(mode)
        for stage in self.backbone.layers[: max(0, self.frozen)]:
            stage.eval()
        return self


class Encoders(nn.Module):
    """Several sensors' encoders (``MultiModalEncoder``)."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Features by sensor."""
        return {name: encoder(images[name]) for name, encoder in self.encoders.items()}


class Neck(LegacyDecoder):
    """The fusing decoder (``MultiFusionNeck``) with its fixed sizes."""

    def __init__(self, start: tuple[int, int], size: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.start, self.size = start, size

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "b c h w"]:  # ty: ignore[incompatible-method-override]
        """Fuse the features of all sensors; the keys of its weights are those of the decoder."""
        deepest = {name: found["encoder_features"] for name, found in features.items()}
        levels = {name: found["features_list"] for name, found in features.items()}
        return self.fuse(deepest, levels, self.start, self.size)


class Head(nn.Module):
    """The head (``CropFCNHead``)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = original_head(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(x)


class Model(nn.Module):
    """Encoders, neck and head (``MultiUnifiedModel``)."""

    def __init__(self, encoders: Encoders, neck: Neck, heads: Head) -> None:
        super().__init__()
        self.encoders, self.neck, self.heads = encoders, neck, heads

    def forward(self, images: Mapping[str, Tensor]) -> Float[Tensor, "b k h w"]:
        """Logits of the classes."""
        return self.heads(self.neck(self.encoders(images)))


def build(model_cfg: Mapping[str, Any]) -> nn.Module:
    """Build a module from the original's ``model`` dictionary.

    Args:
        model_cfg: ``type='MultiUnifiedModel'`` or ``type='PretrainingSwinTransformer3DEncoder'``. A ``checkpoint``
            in an encoder's ``init_cfg`` is loaded, strictly, unlike in the original.

    Raises:
        InputError: names the key that is unknown, missing or not supported.
    """
    top = Keys({"model": model_cfg}, "model_cfg")
    model = top.inside("model", "MultiUnifiedModel", "PretrainingSwinTransformer3DEncoder")
    return _model(model) if model.kind() == "MultiUnifiedModel" else _encoder(model)


def load_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> Match:
    """Load the original's keys into a module from ``build``, strictly.

    ``relative_position_index`` may be there (it is compared, then dropped).

    Raises:
        InputError: a key is missing, left over or of another shape.
    """
    return load_strict(module, without_indices(state, module))


def forward(module: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> Any:
    """Run a module: an encoder gives ``encoder_features`` and ``features_list``, a model gives logits.

    Args:
        module: from ``build`` or ``load_released``.
        inputs: ``(b, t, c, h, w)`` for an encoder, such tensors by sensor for a model; already normalized.
    """
    return module(inputs)


def load_released(path: str | Path, sensor: str) -> Encoder:
    """The encoder of one sensor from the published ``AgriFM.pth`` or a file of its layout.

    Patch size, width, depths, heads and window are read off the tensors. Nothing in the file is executed.

    Args:
        path: the file.
        sensor: ``S2``, ``Landsat`` or ``Modis``.

    Raises:
        InputError: the file does not open, or lacks the sensor, or a tensor does not fit.
    """
    found = released_encoder(read_state(Path(path)), sensor, path)
    size = replace(found.size, clipped_bias="first_rows")
    encoder = Encoder(PatchEmbedding(found.bands, size.width, found.patch), Swin(size))
    load_strict(encoder, found.weights)
    return encoder.eval()


def loss(logits: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"], ignore_index: int = -1) -> Tensor:
    """The original's loss: cross entropy averaged over all pixels, ignored ones counted as zeros."""
    return F.cross_entropy(logits, label, ignore_index=ignore_index, reduction="none").mean()


def metrics(
    prediction: Int[Tensor, "*s"], label: Int[Tensor, "*s"], classes: int, ignore_index: int = -1
) -> dict[str, float]:
    """The original's mean metrics in 0..1: aAcc, mIoU, mAcc, mFscore, mPrecision, mRecall."""
    kept = label != ignore_index
    pairs = label[kept] * classes + prediction[kept]
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return scores(np.asarray(confusion), tuple(map(str, range(classes)))).summary


def _model(model: Keys) -> Model:
    with model:
        with model.inside("encoders", "MultiModalEncoder") as multi, multi.inside("encoders_cfg") as every:
            encoders = {
                name: _encoder(every.inside(name, "PretrainingSwinTransformer3DEncoder")) for name in every.left()
            }
        built = Model(Encoders(encoders), _neck(model), _head(model))
        model.only("data_preprocessor", None, repair="normalize the inputs before.")
        checkpoint = model.take("load_from", None)
    if checkpoint is not None:
        load_state_dict(built, read_state(Path(checkpoint)))
    return built


def _encoder(keys: Keys) -> Encoder:
    with keys:
        with keys.inside("patch_emd_cfg", "SwinPatchEmbed3D") as patches:
            width = patches.number("embed_dim", 96, least=1, whole=True)
            bands = patches.number("in_chans", 3, least=1, whole=True)
            embedding = PatchEmbedding(bands, width, patches.triple("patch_size", (2, 4, 4)))
            patches.only("norm_layer", None, repair="delete it.")
        with keys.inside("backbone_cfg", "SwinTransformer3D") as backbone:
            encoder = _backbone(backbone, embedding)
        keys.only("data_preprocessor", None, repair="normalize the inputs before.")
        start = keys.take("init_cfg", None)
    if start and start.get("checkpoint"):
        _start(encoder, Path(start["checkpoint"]), keys)
    return encoder


def _backbone(keys: Keys, embedding: PatchEmbedding) -> Encoder:
    for key, *allowed in (
        ("pretrained", None),
        ("pretrained2d", False, True),
        ("qkv_bias", True),
        ("qk_scale", None),
        ("drop_rate", 0.0),
        ("attn_drop_rate", 0.0),
        ("patch_norm", False, True),
    ):
        keys.only(key, *allowed, repair="no published model has another value: set it so.")
    keys.take("patch_size", None)
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
    keys.only("feature_fusion", "cat", "mean")
    return Encoder(
        embedding,
        Swin(size, checkpointing=bool(keys.take("use_checkpoint", False))),
        keys.values.get("feature_fusion", "cat"),
        keys.take("reduce_feature_scale", None),
        keys.take("out_indices", (0, 1, 2, 3)),
        keys.take("frozen_stages", -1),
    )


def _neck(model: Keys) -> Neck:
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


def _head(model: Keys) -> Head:
    with model.inside("head", "CropFCNHead") as head:
        head.take("loss_model", None)
        return Head(head.number("embed_dim", least=1, whole=True), head.number("num_classes", least=1, whole=True))


def _start(encoder: Encoder, path: Path, keys: Keys) -> None:
    bands = encoder.patch_emd.proj.in_channels
    sensor = {6: "Landsat", 7: "Modis", 10: "S2"}.get(bands)
    if sensor is None:
        raise keys.wrong(
            "init_cfg",
            found=f"a checkpoint for {bands} bands",
            expected="6 (Landsat), 7 (Modis) or 10 (S2) bands, for which weights were published",
            repair="remove init_cfg and train from scratch.",
        )
    load_strict(encoder, released_encoder(read_state(path), sensor, path).weights)
