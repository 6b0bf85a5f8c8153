"""The original AgriFM, rebuilt key by key: equal outputs, losses, gradients and metrics.

``build`` takes the original's ``model`` dictionary, ``load_state_dict`` the original's keys, ``forward`` its
inputs, ``load_released`` the published ``AgriFM.pth``. Facts from github.com/flyakon/AgriFM, commit 13f476e.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from agrifm.checkpoint import Match, load_strict
from agrifm.compat.layouts import read_state, released_encoder, without_indices
from agrifm.errors import InputError, nearest
from agrifm.nn.original import Fusion, OriginalDecoder, fold_time, original_head
from agrifm.nn.patches import PatchEmbedding
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


class Neck(OriginalDecoder):
    """The fusing decoder (``MultiFusionNeck``) with its fixed sizes."""

    def __init__(self, start: tuple[int, int], size: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.start, self.size = start, size

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "b c h w"]:
        """Fuse the features of all sensors."""
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
    kind = _Options("model", model_cfg).peek("type")
    if kind == "PretrainingSwinTransformer3DEncoder":
        return _encoder(_Options("model", model_cfg))
    if kind == "MultiUnifiedModel":
        return _model(_Options("model", model_cfg))
    raise InputError(
        "model.type",
        found=repr(kind),
        expected="'MultiUnifiedModel' or 'PretrainingSwinTransformer3DEncoder'",
        repair="name one of these, or write a configuration of our own (agrifm train CONFIG.yaml).",
    )


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
    encoder = Encoder(PatchEmbedding(found.bands, found.size.width, found.patch), Swin(found.size))
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


class _Options:
    """A dictionary whose keys are taken one by one, so that none is passed over."""

    def __init__(self, path: str, values: Mapping[str, Any]) -> None:
        if not isinstance(values, Mapping):
            raise InputError(path, found=repr(values)[:60], expected="a dictionary", repair="write dict(type=...).")
        self.path, self.values, self.known = path, dict(values), set()

    def peek(self, key: str) -> Any:
        return self.values.get(key)

    def take(self, key: str, default: Any = ...) -> Any:
        self.known.add(key)
        if key not in self.values and default is ...:
            raise InputError(f"{self.path}.{key}", found="nothing", expected="a value", repair="add the key.")
        return self.values.get(key, default)

    def only(self, key: str, *allowed: Any) -> Any:
        """Take a key that may have just these values, the first if absent."""
        value = self.take(key, allowed[0])
        if value not in allowed:
            raise InputError(
                f"{self.path}.{key}",
                found=repr(value),
                expected=" or ".join(map(repr, allowed)),
                repair="the published models use nothing else; set it so.",
            )
        return value

    def inner(self, key: str) -> _Options:
        return _Options(f"{self.path}.{key}", self.take(key))

    def done(self) -> None:
        unknown = sorted(set(self.values) - self.known)
        if unknown:
            raise InputError(
                f"{self.path}.{unknown[0]}",
                found="an unknown key",
                expected=f"one of {', '.join(sorted(self.known))}",
                repair=nearest(unknown[0], self.known),
            )


def _model(options: _Options) -> Model:
    options.only("type", "MultiUnifiedModel")
    encoders = options.inner("encoders")
    encoders.only("type", "MultiModalEncoder")
    parts = encoders.inner("encoders_cfg")
    built = {name: _encoder(parts.inner(name)) for name in parts.values}
    encoders.done()
    model = Model(Encoders(built), _neck(options.inner("neck")), _head(options.inner("head")))
    checkpoint = options.take("load_from", None)
    options.only("data_preprocessor", None)
    options.done()
    if checkpoint is not None:
        load_state_dict(model, read_state(Path(checkpoint)))
    return model


def _encoder(options: _Options) -> Encoder:
    options.only("type", "PretrainingSwinTransformer3DEncoder")
    patches = options.inner("patch_emd_cfg")
    patches.only("type", "SwinPatchEmbed3D")
    patch = tuple(patches.take("patch_size", (2, 4, 4)))
    width, bands = patches.take("embed_dim", 96), patches.take("in_chans", 3)
    patches.only("norm_layer", None)
    patches.done()
    backbone = options.inner("backbone_cfg")
    encoder = _backbone(backbone, PatchEmbedding(bands, width, patch))  # ty: ignore[invalid-argument-type]
    options.only("data_preprocessor", None)
    start = options.take("init_cfg", None)
    options.done()
    if start and start.get("checkpoint"):
        _start(encoder, Path(start["checkpoint"]), options.path)
    return encoder


def _backbone(options: _Options, embedding: PatchEmbedding) -> Encoder:
    options.only("type", "SwinTransformer3D")
    for key, *allowed in (
        ("pretrained", None),
        ("pretrained2d", False, True),
        ("qkv_bias", True),
        ("qk_scale", None),
        ("drop_rate", 0.0),
        ("attn_drop_rate", 0.0),
        ("patch_norm", False, True),
    ):
        options.only(key, *allowed)
    options.take("patch_size", None)
    steps = options.take("downsample_steps", ((2, 2, 2),) * 4)
    size = SwinSize(
        width=options.take("embed_dim", 96),
        depths=tuple(options.take("depths", (2, 2, 6, 2))),
        heads=tuple(options.take("num_heads", (3, 6, 12, 24))),
        window=tuple(options.take("window_size", (2, 7, 7))),  # ty: ignore[invalid-argument-type]
        mlp_ratio=options.take("mlp_ratio", 4.0),
        drop_path=options.take("drop_path_rate", 0.2),
        steps=tuple(tuple(step) for step in steps),  # ty: ignore[invalid-argument-type]
        average_frames=options.take("mean_frame_down", False),
    )
    encoder = Encoder(
        embedding,
        Swin(size, checkpointing=options.take("use_checkpoint", False)),
        options.only("feature_fusion", "cat", "mean"),
        options.take("reduce_feature_scale", None),
        options.take("out_indices", (0, 1, 2, 3)),
        options.take("frozen_stages", -1),
    )
    options.done()
    return encoder


def _neck(options: _Options) -> Neck:
    options.only("type", "MultiFusionNeck")
    neck = Neck(
        start=tuple(options.take("feature_size", (16, 16))),  # ty: ignore[invalid-argument-type]
        size=tuple(options.take("out_size", (256, 256))),  # ty: ignore[invalid-argument-type]
        width=options.take("embed_dim"),
        sensors=tuple(options.take("in_feature_key", ("S2",))),
        lateral=options.take("in_fusion_key_list", ({"S2": 512, "HLS": 512}, {"S2": 256}, {"S2": 128})),
    )
    options.done()
    return neck


def _head(options: _Options) -> Head:
    options.only("type", "CropFCNHead")
    head = Head(options.take("embed_dim"), options.take("num_classes"))
    options.take("loss_model", None)
    options.done()
    return head


def _start(encoder: Encoder, path: Path, where: str) -> None:
    sensor = {6: "Landsat", 7: "Modis", 10: "S2"}.get(encoder.patch_emd.proj.in_channels)
    if sensor is None:
        raise InputError(
            f"{where}.init_cfg.checkpoint",
            found=f"{encoder.patch_emd.proj.in_channels} bands",
            expected="6 (Landsat), 7 (Modis) or 10 (S2) bands, for which weights were published",
            repair="remove init_cfg and train from scratch.",
        )
    load_strict(encoder, released_encoder(read_state(path), sensor, path).weights)
