"""Optimizer, schedule, loops, evaluators and hooks of the published configuration."""

from __future__ import annotations

from typing import Any

from agrifm.compat.keys import Keys
from agrifm.config import TrainingConfig
from agrifm.errors import nearest

_PRECISIONS = {None: "auto", "float16": "16-mixed", "bfloat16": "bf16-mixed"}
_SCORES = ("mIoU", "mFscore", "mDice")
_BUILT_IN_HOOKS = ("IterTimerHook", "LoggerHook", "ParamSchedulerHook", "DistSamplerSeedHook")
_HOOKS = (*_BUILT_IN_HOOKS, "CheckpointHook", "EarlyStoppingHook", "EMAHook")


def read_training(config: Keys, batch_size: int, workers: int, batches: int | None) -> TrainingConfig:
    """Translate everything about training.

    Args:
        config: The top level.
        batch_size: Samples of a batch.
        workers: Processes of a data loader.
        batches: Number of batches of an epoch; None if the list of chips does not exist.

    Raises:
        InputError: If a key is unknown, or has a value without an equivalent.
    """
    epochs = _epochs(config)
    optimizer = _optimizer(config)
    schedule = _schedule(config, epochs, batches, optimizer["learning_rate"])
    hooks = _hooks(config)
    return TrainingConfig(epochs=epochs, batch_size=batch_size, workers=workers, **optimizer, **schedule, **hooks)


def read_evaluators(config: Keys, classes: int, ignore_index: int) -> None:
    """Check that ``val_evaluator`` and ``test_evaluator`` request the scores that are always computed."""
    for key in ("val_evaluator", "test_evaluator"):
        for evaluator in config.each(key, "CropIoUMetric"):
            with evaluator:
                evaluator.only("num_classes", classes, repair=f"write {classes}, as in model.head.")
                evaluator.only("ignore_index", ignore_index, repair=f"write {ignore_index}, as in the loss.")
                if "ignore_index" not in evaluator.values:
                    text = f"not given: {ignore_index} as in the loss (the original took 255)"
                    evaluator.note("ignore_index", "changed", text)
                metrics = evaluator.take("iou_metrics", ["mIoU"])
                for name in [metrics] if isinstance(metrics, str) else metrics:
                    repair = nearest(str(name), _SCORES)
                    evaluator.check("iou_metrics", name in _SCORES, expected=", ".join(_SCORES), repair=repair)


def _epochs(config: Keys) -> int:
    config.harmless("evaluation runs over the whole split", "val_cfg", "test_cfg")
    with config.inside("train_cfg", "EpochBasedTrainLoop") as loop:
        if loop.take("val_interval", 1) != 1:
            loop.note("val_interval", "changed", "every epoch is validated, so the best one is found")
        return loop.number("max_epochs", least=1, whole=True)


def _optimizer(config: Keys) -> dict[str, Any]:
    """Translate ``optim_wrapper``; a variable ``optimizer`` beside it must have the same value."""
    options: dict[str, Any] = {"precision": "32-true", "gradient_clip_val": 0.0}
    with config.inside("optim_wrapper", "OptimWrapper", "AmpOptimWrapper") as wrapper:
        with wrapper.inside("optimizer", "AdamW") as optimizer:
            options["learning_rate"] = optimizer.number("lr", 1e-3)
            options["weight_decay"] = optimizer.number("weight_decay", 1e-2)
        same = config.take("optimizer", optimizer.values) == optimizer.values
        expected = "the same as in optim_wrapper.optimizer, which is what trains"
        repair = "change optim_wrapper.optimizer (e.g. --cfg-options optim_wrapper.optimizer.lr=1e-4)."
        config.check("optimizer", same, expected=expected, repair=repair)
        # Without a dtype, the precision is 'auto': bf16 on a GPU that supports it.
        if wrapper.kind() == "AmpOptimWrapper":
            options["precision"] = _PRECISIONS[wrapper.only("dtype", *_PRECISIONS)]
            wrapper.harmless("losses are scaled as the precision needs it", "loss_scale")
        if wrapper.take("clip_grad", None) is not None:
            with wrapper.inside("clip_grad") as clipping:
                options["gradient_clip_val"] = float(clipping.number("max_norm"))
        options["accumulate_grad_batches"] = wrapper.number("accumulative_counts", 1, least=1, whole=True)
    return options


def _schedule(config: Keys, epochs: int, batches: int | None, rate: float) -> dict[str, float]:
    """Translate ``param_scheduler``: linear warm-up, then cosine; without cosine the rate is constant."""
    options = {"warmup": 0.0, "min_learning_rate": rate}
    kinds: list[str] = []
    for entry in config.each("param_scheduler", "LinearLR", "CosineAnnealingLR"):
        with entry:
            kind = entry.kind()
            valid = kind not in kinds and not (kinds and kind == "LinearLR")
            entry.check("type", valid, expected="LinearLR, then CosineAnnealingLR", repair="list each once.")
            kinds.append(kind)
            # The length of the schedule in its own unit, which is the epoch unless the entry says otherwise.
            steps: int | None = epochs
            if not entry.take("by_epoch", True):
                steps = epochs * batches if batches else None
            if kind == "LinearLR":
                options["warmup"] = _warmup(entry, steps)
            else:
                options["min_learning_rate"] = _last_rate(entry, steps, options["warmup"], rate)
    return options


def _warmup(entry: Keys, steps: int | None) -> float:
    """Share of the steps in which the rate rises."""
    entry.only("begin", 0, repair="write 0: warm-up begins with training.")
    if entry.number("start_factor", 1 / 3) != 0.01:
        entry.note("start_factor", "changed", "warm-up rises from 1 % of the rate")
    end = entry.number("end", least=1, whole=True)
    if steps is None:
        entry.note("end", "derived", "the list of training chips does not exist here: 5 % of the steps instead")
        return 0.05
    if end >= steps:
        entry.note("end", "changed", f"training has {steps} steps only: the rate rises to its full value in them")
    return min(1.0, round(end / steps, 6))


def _last_rate(entry: Keys, steps: int | None, warmup: float, rate: float) -> float:
    """The rate at the end of the cosine, which must begin where warm-up ends, and end with training."""
    begin = entry.number("begin", 0, whole=True)
    end, length = entry.number("end", None), entry.number("T_max", None)
    if steps is not None:
        begin = min(begin, steps)  # warm-up may be longer than training
        repair = f"delete it, or correct train_cfg.max_epochs: training has {steps} steps."
        for key, value, expected in (
            ("begin", begin, warmup * steps),
            ("end", end, steps),
            ("T_max", length, steps - begin),
        ):
            valid = value is None or abs(value - expected) <= 0.01 * steps
            entry.check(key, valid, expected=f"{round(expected)}", repair=repair)
    ratio = entry.take("eta_min_ratio", None)
    minimum = entry.number("eta_min", 0.0)
    return float(minimum if ratio is None else ratio * rate)


def _hooks(config: Keys) -> dict[str, Any]:
    """Translate ``default_hooks`` and ``custom_hooks``."""
    hooks = config.each("custom_hooks")
    if config.take("default_hooks", None) is not None:
        with config.inside("default_hooks") as section:
            hooks += [section.inside(name) for name in section.left() if section.take(name) is not None]
    options: dict[str, Any] = {}
    for hook in hooks:
        kind = hook.kind()
        expected, repair = "a hook that has an equivalent here", nearest(kind, _HOOKS)
        hook.check("type", kind in _HOOKS, expected=expected, repair=repair)
        if kind in _BUILT_IN_HOOKS:
            hook.note("type", "harmless", "logging and bookkeeping are built in")
            continue
        with hook:
            if kind == "CheckpointHook":
                hook.only("save_best", "mFscore", repair="write 'mFscore': it chooses the best weights.")
                hook.only("rule", "greater")
                hook.harmless("the best and the last weights are kept", "interval", "max_keep_ckpts", "by_epoch")
            elif kind == "EarlyStoppingHook":
                hook.only("monitor", "mFscore")
                hook.only("rule", "greater")
                hook.take("min_delta", None)
                hook.note("min_delta", "changed", "any better score counts")
                options["patience"] = hook.number("patience", 5, least=1, whole=True)
            else:
                momentum = hook.number("momentum", 0.0002)
                valid = 0 < momentum < 1
                hook.check("momentum", valid, expected="a share between 0 and 1", repair="write e.g. 0.001.")
                options["ema_decay"] = 1 - momentum
    return options
