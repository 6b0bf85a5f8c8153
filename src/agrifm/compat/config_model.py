"""The ``model`` section of the original's schema: encoders, fusion neck and head become one model configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agrifm.compat.keys import Keys
from agrifm.nn.legacy_decoder import level_channels
from agrifm.nn.model import ModelConfig
from agrifm.nn.swin import SwinSize
from agrifm.nn.windows import Triple

_OTHER_WAYS = "use 'decoder: pyramid' in a YAML of ours, or agrifm.compat.original.build for exactly this model."
_RELEASED_PATCH = (4, 4, 4)


@dataclass(frozen=True)
class Network:
    """What the ``model`` section says.

    Args:
        channels: Bands of each sensor, in the order in which the neck fuses them.
        config: Config of our model.
        frames: Frames of every series, which the neck's channels imply.
        classes: Outputs of the head.
        ignore_index: Label that the loss leaves out.
        out_size: Rows and columns of the output.
        start_from: Weights to begin with.
    """

    channels: dict[str, int]
    config: ModelConfig
    frames: int
    classes: int
    ignore_index: int
    out_size: tuple[int, int]
    start_from: Path | None


@dataclass(frozen=True)
class _Encoder:
    config: ModelConfig
    channels: int
    checkpoint: str | None


def read_model(config: Keys) -> Network:
    """Translate the section ``model``.

    Raises:
        InputError: If a key is unknown, or the model is not one that ours can be.
    """
    with config.inside("model", "MultiUnifiedModel") as model:
        encoders = _encoders(model)
        first = next(iter(encoders.values()))
        sensors, out_size, frames, width = _neck(model, encoders, first.config)
        classes, ignore_index = _head(model, width)
        start = _start(model, encoders)
    channels = {name: encoders[name].channels for name in sensors}
    return Network(channels, first.config, frames, classes, ignore_index, out_size, start)


def _encoders(model: Keys) -> dict[str, _Encoder]:
    encoders: dict[str, _Encoder] = {}
    with model.inside("encoders", "MultiModalEncoder") as multi, multi.inside("encoders_cfg") as every:
        if not every.left():
            raise multi.wrong("encoders_cfg", expected="one encoder for each sensor", repair="add one.")
        for name in every.left():
            with every.inside(name, "PretrainingSwinTransformer3DEncoder") as encoder:
                encoders[name] = _encoder(encoder)
            first = next(iter(encoders))
            if encoders[name].config != encoders[first].config:
                raise every.wrong(
                    name,
                    found=f"{encoders[name].config}",
                    expected=f"what {first} has: {encoders[first].config}",
                    repair=f"give all encoders the same sizes, or {_OTHER_WAYS}",
                )
    return encoders


def _encoder(encoder: Keys) -> _Encoder:
    with encoder.inside("patch_emd_cfg", "SwinPatchEmbed3D") as embedding:
        patch = embedding.triple("patch_size", (2, 4, 4))
        channels = embedding.number("in_chans", 3, least=1, whole=True)
        width = embedding.number("embed_dim", 96, least=1, whole=True)
        embedding.only("norm_layer", [None], "delete it: tokens are not normalized before the first stage.")
    with encoder.inside("backbone_cfg", "SwinTransformer3D") as backbone:
        backbone.only("patch_size", [list(patch), patch], f"write {patch}, as in patch_emd_cfg: it is what counts.")
        backbone.only("embed_dim", [width], f"write {width}, as in patch_emd_cfg: it is what counts.")
        size = _size(backbone, width)
        frozen, checkpointing = _frozen(backbone, len(size.depths)), bool(backbone.take("use_checkpoint", False))
        _fixed(backbone, len(size.depths))
    encoder.only("data_preprocessor", [None], "delete it; write MapNormalize into data_pipelines.")
    config = ModelConfig(
        size=size,
        patch=patch,
        decoder="original",
        day_of_year=False,
        gradient_checkpointing=checkpointing,
        freeze_encoder=frozen,
    )
    return _Encoder(config, channels, _checkpoint(encoder))


def _size(backbone: Keys, width: int) -> SwinSize:
    depths = _depths(backbone)
    heads = backbone.numbers("num_heads", len(depths), (3, 6, 12, 24))
    size = SwinSize(
        width=width,
        depths=depths,
        window=backbone.triple("window_size", (2, 7, 7)),
        mlp_ratio=float(backbone.number("mlp_ratio", 4.0)),
        drop_path=float(backbone.number("drop_path_rate", 0.2)),
        steps=_steps(backbone, len(depths)),
        average_frames=bool(backbone.take("mean_frame_down", False)),
        clipped_bias="first_rows",
    )
    uneven = [(w, h) for w, h in zip(size.widths, heads, strict=True) if w % h]
    if uneven:
        raise backbone.wrong(
            "num_heads",
            expected=f"divisors of the widths {size.widths}",
            repair=f"{uneven[0][0]} channels do not split into {uneven[0][1]} heads: correct num_heads.",
        )
    return size if heads == size.stage_heads else replace(size, heads=heads)


def _depths(backbone: Keys) -> tuple[int, ...]:
    value = backbone.values.get("depths", (2, 2, 6, 2))
    return backbone.numbers("depths", len(value) if isinstance(value, list | tuple) else 4, (2, 2, 6, 2))


def _steps(backbone: Keys, stages: int) -> tuple[Triple, ...]:
    """The steps between stages; the original wants one more, which it never uses."""
    value = backbone.take("downsample_steps", ((2, 2, 2),) * stages)
    good = isinstance(value, list | tuple) and len(value) >= stages - 1
    if not good or any(len(step) != 3 or not all(isinstance(x, int) and x > 0 for x in step) for step in value):
        raise backbone.wrong(
            "downsample_steps", expected=f"{stages - 1} or more of (frames, rows, columns)", repair="correct it."
        )
    return tuple((step[0], step[1], step[2]) for step in value[: stages - 1])


def _frozen(backbone: Keys, stages: int) -> bool:
    frozen = backbone.number("frozen_stages", -1, least=-1, whole=True)
    if frozen == 0:
        backbone.note("frozen_stages", "harmless", "0 froze nothing in the original")
    if 0 < frozen < stages:
        raise backbone.wrong(
            "frozen_stages",
            expected=f"-1, or {stages} for the whole encoder",
            repair="write -1 and lower the encoder's rate with training.encoder_lr_scale in the YAML, or freeze all.",
        )
    if frozen >= stages:
        backbone.note("frozen_stages", "changed", "freezes patch embedding and last norm too (model.freeze_encoder)")
    return frozen >= stages


def _fixed(backbone: Keys, stages: int) -> None:
    """Options of the backbone of which ours has one value."""
    indices = backbone.take("out_indices", tuple(range(4)))
    if list(indices)[: stages - 1] != list(range(stages - 1)):
        raise backbone.wrong("out_indices", expected=str(tuple(range(stages))), repair="give the neck every level.")
    backbone.only("feature_fusion", ["cat"], f"write 'cat', or {_OTHER_WAYS}")
    backbone.only("reduce_feature_scale", [None], f"write None, or {_OTHER_WAYS}")
    backbone.only("pretrained", [None], "write None, and init_cfg=dict(checkpoint=...) into the encoder.")
    backbone.harmless("only matters with 'pretrained'", "pretrained2d")
    backbone.only("qkv_bias", [True], f"write True, or {_OTHER_WAYS}")
    backbone.only("qk_scale", [None], "write None: queries are scaled by the root of their length.")
    for key in ("drop_rate", "attn_drop_rate"):
        backbone.only(key, [0.0], "write 0; ours regularizes by drop_path_rate only.")
    backbone.only("patch_norm", [False], "write False: the original never used it.")
    backbone.only("norm_layer", [None], "delete it: LayerNorm is what it has.")


def _checkpoint(encoder: Keys) -> str | None:
    if encoder.take("init_cfg", None) is None:
        return None
    with encoder.inside("init_cfg") as init:
        init.only("type", ["pretrained", "Pretrained"], "write 'pretrained'.")
        init.harmless("names of all known layouts are recognized", "revise_keys", "prefix", "map_location")
        init.harmless("weights always load strictly: all of the encoder, or an error", "strict")
        path = init.take("checkpoint", None)
    return str(path) if path else None


def _start(model: Keys, encoders: dict[str, _Encoder]) -> Path | None:
    """The weights to begin with; there can be one file only."""
    found = {name: encoder.checkpoint for name, encoder in encoders.items()}
    whole = model.take("load_from", None)
    different = set(found.values()) | ({str(whole)} if whole else set())
    if len(different) > 1 and not (whole and different == {None, str(whole)}):
        raise model.wrong(
            "encoders.encoders_cfg",
            found=f"checkpoints {found}" + (f" and load_from {whole!r}" if whole else ""),
            expected="one file for all encoders",
            repair="name the same checkpoint in every init_cfg, or in none.",
        )
    path, patch = whole or next(iter(found.values())), next(iter(encoders.values())).config.patch
    if path and patch != _RELEASED_PATCH:
        model.note(
            "encoders",
            "changed",
            f"'{path}' must fit or training stops. The original went on without it: the published AgriFM.pth has "
            f"patches (4, 4, 4), this model {patch}; write patch_size=(4,4,4) or delete init_cfg",
        )
    return Path(path) if path else None


def _neck(
    model: Keys, encoders: dict[str, _Encoder], config: ModelConfig
) -> tuple[tuple[str, ...], tuple[int, int], int, int]:
    """Order of the sensors, size of the output, frames of a series and channels of the features."""
    with model.inside("neck", "MultiFusionNeck") as neck:
        value = neck.take("in_feature_key", ("S2",))
        sensors = (value,) if isinstance(value, str) else tuple(value)
        if sorted(sensors) != sorted(encoders):
            raise neck.wrong(
                "in_feature_key",
                found=repr(sensors),
                expected=f"the encoders' names {tuple(encoders)}, each once",
                repair=f"name every encoder, or {_OTHER_WAYS}",
            )
        rows, columns = neck.numbers("out_size", 2, (256, 256))
        start = neck.numbers("feature_size", 2, (16, 16))
        if start != (max(1, rows // 16), max(1, columns // 16)):
            raise neck.wrong(
                "feature_size",
                found=repr(start),
                expected=f"a sixteenth of out_size: {(rows // 16, columns // 16)}",
                repair=f"write (out_size // 16), or {_OTHER_WAYS}",
            )
        tokens = _lateral(neck, sensors, config.swin)
        width = level_channels(config.swin, tokens)[-1]
        _width(neck, width)
    return sensors, (rows, columns), tokens * config.patch[0], width


def _lateral(neck: Keys, sensors: tuple[str, ...], swin: SwinSize) -> int:
    """Frame tokens of the finest level, after checking that all levels follow from them."""
    levels = neck.take("in_fusion_key_list")
    listed = isinstance(levels, list | tuple) and all(isinstance(level, Mapping) and level for level in levels)
    if not listed or len(levels) != len(swin.depths) - 1:
        raise neck.wrong(
            "in_fusion_key_list",
            expected=f"{len(swin.depths) - 1} levels, one for each doubling of the size",
            repair=f"list each level of the encoder, coarse to fine, or {_OTHER_WAYS}",
        )
    finest = int(next(iter(levels[-1].values())))
    expected = level_channels(swin, max(1, finest // swin.width))[-2::-1]
    for i, (level, count) in enumerate(zip(levels, expected, strict=True)):
        if list(level.items()) != [(name, count) for name in sensors]:
            raise neck.wrong(
                f"in_fusion_key_list[{i}]",
                found=repr(level),
                expected=f"{dict.fromkeys(sensors, count)}, in this order: width {swin.width} doubles and time shrinks",
                repair=f"write that (the last level decides how many frames there are), or {_OTHER_WAYS}",
            )
    return finest // swin.width


def _width(section: Keys, width: int) -> None:
    if section.number("embed_dim", least=1, whole=True) != width:
        raise section.wrong(
            "embed_dim",
            expected=f"{width}: the channels of the deepest features",
            repair=f"write {width}, or correct in_fusion_key_list, embed_dim or depths of the encoders.",
        )


def _head(model: Keys, width: int) -> tuple[int, int]:
    """Number of classes and the label to ignore."""
    with model.inside("head", "CropFCNHead") as head:
        _width(head, width)
        classes = head.number("num_classes", least=2, whole=True)
        with head.inside("loss_model", "CropCEloss") as loss:
            ignore = loss.number("ignore_index", -1, least=-(10**9), whole=True)
            if 0 <= ignore < classes:
                raise loss.wrong("ignore_index", expected=f"-1 or {classes} and above", repair="it is also a class.")
            loss.note("type", "changed", "mean over labeled pixels; the original also divided by the ignored ones")
    return classes, ignore
