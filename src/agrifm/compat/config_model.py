"""The ``model`` section of the published configuration: encoders, neck and head become one model configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agrifm.compat.keys import Keys, is_list, is_positive
from agrifm.errors import counted
from agrifm.nn.legacy_decoder import level_channels
from agrifm.nn.model import ModelConfig
from agrifm.nn.swin import SwinSize
from agrifm.nn.windows import Triple

_ALTERNATIVES = "use 'decoder: light' in a YAML of ours, or agrifm.compat.original.build for exactly this model."
_RELEASED_PATCH = (4, 4, 4)


@dataclass(frozen=True)
class Network:
    """The model of a configuration.

    Args:
        channels: Number of bands of each sensor, in the order in which the neck fuses them.
        config: Configuration of our model.
        frames: Number of frames of every series, which follows from the channels of the neck.
        classes: Number of outputs of the head.
        ignore_index: Label that the loss ignores.
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
    """Translate the section ``model`` and the key ``load_from``.

    Raises:
        InputError: If a key is unknown, or the model is not one that ours can be.
    """
    with config.inside("model", "MultiUnifiedModel") as model:
        encoders = _encoders(model)
        encoder_config = next(iter(encoders.values())).config
        start_from = _start_from(config, model, encoders)
        with model.inside("neck", "MultiFusionNeck") as neck:
            sensors = _sensors(neck, encoders)
            out_size = _out_size(neck)
            tokens = _frame_tokens(neck, sensors, encoder_config.swin)
            width = level_channels(encoder_config.swin, tokens)[-1]
            _check_width(neck, width)
        with model.inside("head", "CropFCNHead") as head:
            _check_width(head, width)
            classes, ignore_index = _classes(head)
    channels = {name: encoders[name].channels for name in sensors}
    frames = tokens * encoder_config.patch[0]
    return Network(channels, encoder_config, frames, classes, ignore_index, out_size, start_from)


def _encoders(model: Keys) -> dict[str, _Encoder]:
    encoders: dict[str, _Encoder] = {}
    with model.inside("encoders", "MultiModalEncoder") as section, section.inside("encoders_cfg") as by_sensor:
        names = by_sensor.left()
        section.check("encoders_cfg", bool(names), expected="one encoder for each sensor", repair="add one.")
        for name in names:
            with by_sensor.inside(name, "PretrainingSwinTransformer3DEncoder") as encoder:
                encoders[name] = _encoder(encoder)
            config, first_config = encoders[name].config, encoders[names[0]].config
            expected = f"that of {names[0]}: {first_config}"
            repair = f"give all encoders the same sizes, or {_ALTERNATIVES}"
            by_sensor.check(name, config == first_config, expected=expected, repair=repair, found=f"{config}")
    return encoders


def _encoder(encoder: Keys) -> _Encoder:
    with encoder.inside("patch_emd_cfg", "SwinPatchEmbed3D") as embedding:
        patch = embedding.triple("patch_size", (2, 4, 4))
        channels = embedding.number("in_chans", 3, least=1, whole=True)
        width = embedding.number("embed_dim", 96, least=1, whole=True)
    with encoder.inside("backbone_cfg", "SwinTransformer3D") as backbone:
        backbone.only(
            "patch_size", list(patch), patch, repair=f"write {patch}, as in patch_emd_cfg: it is what counts."
        )
        backbone.only("embed_dim", width, repair=f"write {width}, as in patch_emd_cfg: it is what counts.")
        size = _size(backbone, width)
        checkpointing = bool(backbone.take("use_checkpoint", False))
        frozen = _is_frozen(backbone, len(size.depths))
        _check_fixed_options(backbone, len(size.depths))
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
    depths = backbone.take("depths", (2, 2, 6, 2))
    depths = backbone.numbers("depths", len(depths) if is_list(depths) else 4, depths)
    heads = backbone.numbers("num_heads", len(depths), (3, 6, 12, 24))
    # Where a grid is narrower than a window, the original uses the first rows of the bias table, as its weights expect.
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
    for stage_width, stage_heads in zip(size.widths, heads, strict=True):
        repair = f"{stage_width} channels do not split into {stage_heads} heads: correct num_heads."
        expected = f"divisors of the widths {size.widths}"
        backbone.check("num_heads", stage_width % stage_heads == 0, expected=expected, repair=repair)
    return size if heads == size.stage_heads else replace(size, heads=heads)


def _steps(backbone: Keys, stages: int) -> tuple[Triple, ...]:
    """The steps between stages. The original wants one more, which it never uses."""
    steps = backbone.take("downsample_steps", ((2, 2, 2),) * stages)
    valid = is_list(steps) and len(steps) >= stages - 1 and all(map(_is_triple, steps))
    expected = f"{stages - 1} or more of (frames, rows, columns)"
    backbone.check("downsample_steps", valid, expected=expected, repair="correct it.")
    return tuple((frames, rows, columns) for frames, rows, columns in steps[: stages - 1])


def _is_triple(step: Any) -> bool:
    return is_list(step) and len(step) == 3 and all(map(is_positive, step))


def _is_frozen(backbone: Keys, stages: int) -> bool:
    repair = "write -1 and lower the encoder's rate with training.encoder_lr_scale in the YAML, or freeze all stages."
    frozen = backbone.only("frozen_stages", -1, 0, stages, repair=repair) == stages
    if frozen:
        backbone.note("frozen_stages", "changed", "freezes patch embedding and last norm too (model.freeze_encoder)")
    return frozen


def _check_fixed_options(backbone: Keys, stages: int) -> None:
    """Check options that have a single value here."""
    # Configurations write lists and tuples alike.
    levels = tuple(range(stages))
    backbone.only("out_indices", levels, list(levels), repair="give the neck every level.")
    backbone.only("feature_fusion", "cat", repair=f"write 'cat', or {_ALTERNATIVES}")
    backbone.only("reduce_feature_scale", None, repair=f"write None, or {_ALTERNATIVES}")
    backbone.only("pretrained", None, repair="write None, and init_cfg=dict(checkpoint=...) into the encoder.")
    backbone.harmless("only matters with 'pretrained'", "pretrained2d")
    backbone.only("qkv_bias", True)
    backbone.only("qk_scale", None)
    backbone.only("drop_rate", 0.0, repair="write 0; ours regularizes by drop_path_rate only.")
    backbone.only("attn_drop_rate", 0.0, repair="write 0; ours regularizes by drop_path_rate only.")
    backbone.only("patch_norm", False)


def _checkpoint(encoder: Keys) -> str | None:
    if encoder.take("init_cfg", None) is None:
        return None
    with encoder.inside("init_cfg", "pretrained", "Pretrained") as init:
        init.harmless("weights always load strictly: all of the encoder, or an error", "strict")
        return init.take("checkpoint", None)


def _start_from(config: Keys, model: Keys, encoders: dict[str, _Encoder]) -> Path | None:
    """The weights to begin with. They are in one file, which ``load_from`` or every ``init_cfg`` names."""
    checkpoints = {name: encoder.checkpoint for name, encoder in encoders.items()}
    model.check(
        "encoders.encoders_cfg",
        len(set(checkpoints.values())) == 1,
        found=f"checkpoints {checkpoints}",
        expected="one file for all encoders",
        repair="name the same checkpoint in every init_cfg, or in none.",
    )
    path = next(iter(checkpoints.values()))
    load_from = config.take("load_from", None)
    agree = not (path and load_from) or Path(load_from) == Path(path)
    expected = f"nothing beside init_cfg, which names '{path}'"
    config.check("load_from", agree, expected=expected, repair="keep one of the two.")
    path = path or load_from
    patch = next(iter(encoders.values())).config.patch
    if path and patch != _RELEASED_PATCH:
        model.note(
            "encoders",
            "changed",
            f"'{path}' must fit or training stops. The original continued without it: the published AgriFM.pth has "
            f"patches (4, 4, 4), this model {patch}; write patch_size=(4,4,4) or delete init_cfg",
        )
    return Path(path) if path else None


def _sensors(neck: Keys, encoders: dict[str, _Encoder]) -> tuple[str, ...]:
    """Names of the sensors, in the order in which they are fused."""
    value = neck.take("in_feature_key", ("S2",))
    sensors = (value,) if isinstance(value, str) else tuple(value)
    expected = f"the encoders' names {tuple(encoders)}, each once"
    repair = f"name every encoder, or {_ALTERNATIVES}"
    neck.check("in_feature_key", sorted(sensors) == sorted(encoders), expected=expected, repair=repair)
    return sensors


def _out_size(neck: Keys) -> tuple[int, int]:
    rows, columns = neck.numbers("out_size", 2, (256, 256))
    sixteenth = max(1, rows // 16), max(1, columns // 16)
    valid = neck.numbers("feature_size", 2, (16, 16)) == sixteenth
    repair = f"write (out_size // 16), or {_ALTERNATIVES}"
    neck.check("feature_size", valid, expected=f"a sixteenth of out_size: {sixteenth}", repair=repair)
    return rows, columns


def _frame_tokens(neck: Keys, sensors: tuple[str, ...], swin: SwinSize) -> int:
    """Frame tokens of the finest level, after a check that all levels follow from them."""
    levels = neck.take("in_fusion_key_list")
    count = len(swin.depths) - 1
    valid = is_list(levels) and len(levels) == count and all(level and isinstance(level, Mapping) for level in levels)
    expected = f"{counted(count, 'level')}, one for each doubling of the size"
    repair = f"list each level of the encoder, coarse to fine, or {_ALTERNATIVES}"
    neck.check("in_fusion_key_list", valid, expected=expected, repair=repair)
    tokens = int(next(iter(levels[-1].values()))) // swin.width
    coarse_to_fine = level_channels(swin, max(1, tokens))[-2::-1]
    for i, (level, channels) in enumerate(zip(levels, coarse_to_fine, strict=True)):
        neck.check(
            f"in_fusion_key_list[{i}]",
            list(level.items()) == [(name, channels) for name in sensors],
            found=repr(level),
            expected=f"{dict.fromkeys(sensors, channels)}, in this order: width {swin.width} doubles and time shrinks",
            repair=f"write that (the last level decides how many frames there are), or {_ALTERNATIVES}",
        )
    return tokens


def _check_width(section: Keys, width: int) -> None:
    expected = f"{width}: the channels of the deepest features"
    repair = f"write {width}, or correct in_fusion_key_list, embed_dim or depths of the encoders."
    section.check("embed_dim", section.take("embed_dim") == width, expected=expected, repair=repair)


def _classes(head: Keys) -> tuple[int, int]:
    """Number of classes, and the label to ignore."""
    classes = head.number("num_classes", least=2, whole=True)
    with head.inside("loss_model", "CropCEloss") as loss:
        ignore_index = loss.number("ignore_index", -1, least=-(10**9), whole=True)
        no_class = not 0 <= ignore_index < classes
        loss.check("ignore_index", no_class, expected=f"-1 or {classes} and above", repair="it is also a class.")
        loss.note("type", "changed", "mean over labeled pixels; the original also divided by the ignored ones")
    return classes, ignore_index
