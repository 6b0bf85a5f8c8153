"""Optimizer, schedule, loops, evaluators and hooks of the original's schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from agrifm.compat.keys import Keys
from agrifm.errors import nearest

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
_PRECISION: dict[Any, Precision] = {None: "auto", "float16": "16-mixed", "bfloat16": "bf16-mixed"}
_HARMLESS_HOOKS = (
    "IterTimerHook", "LoggerHook", "ParamSchedulerHook", "DistSamplerSeedHook", "RuntimeInfoHook", "SyncBuffersHook",
    "EmptyCacheHook", "VisualizationHook", "SegVisualizationHook", "NaiveVisualizationHook", "CheckInvalidLossHook",
)  # fmt: skip
_HOOKS = (*_HARMLESS_HOOKS, "CheckpointHook", "EarlyStoppingHook", "EMAHook")


@dataclass(frozen=True)
class Optimizing:
    """What ``optim_wrapper`` says."""

    rate: float
    decay: float
    clip: float
    accumulate: int
    precision: Precision


@dataclass(frozen=True)
class Schedule:
    """Share of the warm-up and the last learning rate."""

    warmup: float
    last_rate: float


@dataclass(frozen=True)
class Hooks:
    """What the hooks ask of training."""

    patience: int | None = None
    ema: float | None = None


def read_optimizer(config: Keys) -> Optimizing:
    """Translate ``optim_wrapper``; a variable ``optimizer`` beside it must say the same."""
    with config.inside("optim_wrapper", "OptimWrapper", "AmpOptimWrapper") as wrapper:
        with wrapper.inside("optimizer", "AdamW") as optimizer:
            rate = optimizer.number("lr", 1e-3)
            decay = optimizer.number("weight_decay", 1e-2)
            optimizer.only("betas", [[0.9, 0.999], (0.9, 0.999)], "write (0.9, 0.999).")
            optimizer.only("eps", [1e-8], "write 1e-8.")
            optimizer.only("amsgrad", [False], "write False.")
        _same_optimizer(config, wrapper)
        precision: Precision = "32-true"
        if wrapper.kind() == "AmpOptimWrapper":
            wrapper.only("dtype", _PRECISION, "write 'bfloat16', 'float16' or None.")
            precision = _PRECISION[wrapper.take("dtype", None)]
        wrapper.harmless("losses are scaled as the precision needs it", "loss_scale", "use_fsdp")
        wrapper.only("paramwise_cfg", [None], "delete it; set training.encoder_lr_scale or layer_decay in the YAML.")
        wrapper.only("constructor", [None, "DefaultOptimWrapperConstructor"], "delete it.")
        accumulate = wrapper.number("accumulative_counts", 1, least=1, whole=True)
        return Optimizing(rate, decay, _clip(wrapper), accumulate, precision)


def _same_optimizer(config: Keys, wrapper: Keys) -> None:
    if config.take("optimizer", wrapper.values["optimizer"]) != wrapper.values["optimizer"]:
        raise config.wrong(
            "optimizer",
            expected="the same as in optim_wrapper.optimizer, which is what trains",
            repair="change optim_wrapper.optimizer (e.g. --cfg-options optim_wrapper.optimizer.lr=1e-4).",
        )


def _clip(wrapper: Keys) -> float:
    if wrapper.take("clip_grad", None) is None:
        return 0.0
    with wrapper.inside("clip_grad") as clip:
        clip.only("type", ["norm"], "write max_norm=...: gradients are clipped by norm.")
        clip.only("norm_type", [2], "write 2.")
        clip.harmless("what is not finite shows in the log", "error_if_nonfinite")
        return float(clip.number("max_norm"))


def read_schedule(config: Keys, epochs: int, batches: int | None, rate: float) -> Schedule:
    """Translate ``param_scheduler``: linear warm-up, then cosine; without cosine the rate stays.

    Args:
        config: Top level.
        epochs: Epochs of training.
        batches: Batches of an epoch; None where the list of chips is not here.
        rate: After warm-up.
    """
    warmup, last_rate, seen = 0.0, rate, []
    for entry in config.each("param_scheduler", "LinearLR", "CosineAnnealingLR"):
        with entry:
            total = epochs if entry.take("by_epoch", True) else epochs * batches if batches else None
            entry.harmless("steps are counted in batches", "convert_to_iter_based", "verbose")
            if entry.kind() in seen or (seen and entry.kind() == "LinearLR"):
                raise entry.wrong("type", expected="LinearLR, then CosineAnnealingLR", repair="list each once.")
            if entry.kind() == "LinearLR":
                warmup = _warmup(entry, total)
            else:
                last_rate = _cosine(entry, total, warmup, rate)
            seen.append(entry.kind())
    return Schedule(warmup, last_rate)


def _warmup(entry: Keys, total: int | None) -> float:
    entry.only("begin", [0], "write 0: warm-up begins with training.")
    entry.only("end_factor", [1.0], "write 1.0: warm-up ends at the full rate.")
    if entry.number("start_factor", 1 / 3) != 0.01:
        entry.note("start_factor", "changed", "warm-up rises from 1 % of the rate")
    end = entry.number("end", least=1, whole=True)
    if total is None:
        entry.note("end", "derived", "the list of training chips is not here: 5 % of the steps instead")
        return 0.05
    if end >= total:
        entry.note("end", "changed", f"training has {total} steps only: the rate rises to its full value in them")
    return min(1.0, round(end / total, 6))


def _cosine(entry: Keys, total: int | None, warmup: float, rate: float) -> float:
    begin = entry.number("begin", 0, whole=True)
    share = None if total is None else min(1.0, begin / total)
    if share is not None and abs(share - warmup) > 0.01:
        raise entry.wrong(
            "begin",
            expected=f"the end of the warm-up: {round(warmup * (total or 0))}",
            repair="let the cosine begin where the warm-up ends.",
        )
    for key, length in (("end", 1.0), ("T_max", 1 - (share or 0.0))):
        value = entry.take(key, None)
        if value is not None and total is not None and abs(value / total - length) > 0.01:
            raise entry.wrong(
                key,
                expected=f"{round(length * total)}: the cosine ends with training",
                repair=f"delete {key}, or correct train_cfg.max_epochs.",
            )
    ratio = entry.take("eta_min_ratio", None)
    least = entry.number("eta_min", 0.0)
    return float(least if ratio is None else ratio * rate)


def read_epochs(config: Keys) -> int:
    """Translate ``train_cfg``, ``val_cfg`` and ``test_cfg``."""
    config.harmless("evaluation runs over the whole split", "val_cfg", "test_cfg")
    with config.inside("train_cfg") as loop:
        if "type" in loop.values and loop.kind() != "EpochBasedTrainLoop":
            raise loop.wrong("type", expected="'EpochBasedTrainLoop'", repair="write it, and max_epochs=...")
        loop.only("by_epoch", [True], "write True, and max_epochs=...")
        if loop.take("val_interval", 1) != 1:
            loop.note("val_interval", "changed", "every epoch is validated, so the best one is found")
        loop.harmless("validation begins with the first epoch", "val_begin", "dynamic_intervals")
        loop.take("type", None)
        return loop.number("max_epochs", least=1, whole=True)


def read_evaluators(config: Keys, classes: int, ignore_index: int) -> None:
    """Check that ``val_evaluator`` and ``test_evaluator`` ask for what is always computed."""
    for key in ("val_evaluator", "test_evaluator"):
        for evaluator in config.each(key, "CropIoUMetric"):
            with evaluator:
                evaluator.only("num_classes", [classes], f"write {classes}, as in model.head.")
                _ignored(evaluator, ignore_index)
                _metrics(evaluator)


def _ignored(evaluator: Keys, ignore_index: int) -> None:
    if "ignore_index" not in evaluator.values:
        evaluator.note("ignore_index", "changed", f"not given: {ignore_index} as in the loss (the original took 255)")
    evaluator.only("ignore_index", [ignore_index], f"write {ignore_index}, as in model.head.loss_model.")


def _metrics(evaluator: Keys) -> None:
    value = evaluator.take("iou_metrics", ["mIoU"])
    for name in [value] if isinstance(value, str) else value:
        if name not in ("mIoU", "mFscore", "mDice"):
            raise evaluator.wrong(
                "iou_metrics", expected="mIoU, mFscore, mDice", repair=nearest(str(name), ("mIoU", "mFscore", "mDice"))
            )
        if name == "mDice":
            evaluator.note("iou_metrics", "harmless", "Dice is the F-score, which is printed")
    evaluator.only("beta", [1], "write 1.")
    evaluator.only("nan_to_num", [None], "write None: a class that does not exist stays out of the means.")
    evaluator.only("format_only", [False], "write False, and use inference.py for maps without labels.")
    evaluator.only("output_dir", [None], "write None, and use inference.py to write maps.")
    evaluator.harmless("changes no score", "prefix", "collect_device", "collect_dir")


def read_hooks(config: Keys) -> Hooks:
    """Translate ``default_hooks`` and ``custom_hooks``."""
    found = config.each("custom_hooks")
    if config.take("default_hooks", None) is not None:
        with config.inside("default_hooks") as hooks:
            found += [hooks.inside(name) for name in hooks.left() if hooks.take(name) is not None]
    patience, ema = None, None
    for hook in found:
        kind = hook.kind()
        if kind not in _HOOKS:
            raise hook.wrong("type", expected="a hook that has a place here", repair=nearest(kind, _HOOKS))
        if kind in _HARMLESS_HOOKS:
            hook.note("type", "harmless", "logging and bookkeeping are built in")
            continue
        with hook:
            hook.harmless("order does not matter", "priority")
            if kind == "CheckpointHook":
                _saving(hook)
            elif kind == "EarlyStoppingHook":
                patience = _stopping(hook)
            else:
                ema = _averaging(hook)
    return Hooks(patience, ema)


def _saving(hook: Keys) -> None:
    hook.only("save_best", ["mFscore", ["mFscore"], "auto", None], "write 'mFscore': it chooses the best weights.")
    hook.only("rule", ["greater", None], "write 'greater'.")
    hook.harmless(
        "the best and the last weights are kept, in work_dir",
        "interval", "max_keep_ckpts", "by_epoch", "save_last", "save_optimizer", "save_param_scheduler", "out_dir",
        "filename_tmpl", "published_keys", "save_begin",
    )  # fmt: skip


def _stopping(hook: Keys) -> int:
    hook.only("monitor", ["mFscore"], "write 'mFscore'.")
    hook.only("rule", [None, "greater"], "write 'greater'.")
    if hook.number("min_delta", 0.1) != 0:
        hook.note("min_delta", "changed", "any better score counts")
    hook.only("stopping_threshold", [None], "delete it: only patience stops.")
    hook.harmless("scores are always finite or left out", "strict", "check_finite")
    return hook.number("patience", 5, least=1, whole=True)


def _averaging(hook: Keys) -> float:
    hook.only("ema_type", ["ExponentialMovingAverage"], "write 'ExponentialMovingAverage'.")
    for key in ("begin_iter", "begin_epoch"):
        hook.only(key, [0], "write 0: averaging begins with training.")
    hook.only("interval", [1], "write 1.")
    hook.harmless("loading is always strict", "strict_load", "update_buffers")
    momentum = hook.number("momentum", 0.0002)
    if not 0 < momentum < 1:
        raise hook.wrong("momentum", expected="a share between 0 and 1", repair="write e.g. 0.001.")
    return 1 - momentum
