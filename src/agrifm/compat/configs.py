"""From a configuration in the original's schema to an experiment: key by key, nothing silent.

Every key is translated, or noted as changed, derived or harmless, or refused with its full path and what to write
instead. Key names and defaults are facts of the AgriFM repository (github.com/flyakon/AgriFM) and of mmengine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agrifm.compat.config_data import Loading, read_data
from agrifm.compat.config_model import Network, read_model
from agrifm.compat.config_training import (
    Hooks,
    Optimizing,
    read_epochs,
    read_evaluators,
    read_hooks,
    read_optimizer,
    read_schedule,
)
from agrifm.compat.keys import Keys, Note
from agrifm.config import Experiment, TrainingConfig, parse
from agrifm.data.lists import read_names
from agrifm.tasks.segmentation import CropClass, Segmentation

_HARMLESS = {
    "env_cfg": "the training library sets up devices and processes",
    "log_level": "progress is always shown",
    "log_processor": "progress is always shown",
    "default_scope": "there is no registry here",
    "custom_imports": "nothing is imported: there is no registry here",
    "launcher": "the command line's --launcher decides",
    "visualizer": "logs are written as CSV and TensorBoard",
    "vis_backends": "logs are written as CSV and TensorBoard",
    "result_path": "OUT_DIR on the command line decides",
    "find_unused_parameters": "set as the model needs it",
}


@dataclass(frozen=True)
class Translation:
    """What became of a configuration.

    Args:
        experiment: Ours.
        notes: What a reader should know, by key.
        out: Folder of the results, if the configuration names one.
        resume: Whether to go on from the last checkpoint, if the configuration says so.
        variables: Top-level names that are no keys of the schema: helpers of the file.
    """

    experiment: Experiment
    notes: tuple[Note, ...] = ()
    out: Path | None = None
    resume: bool | None = None
    variables: tuple[str, ...] = ()


def translate(values: Mapping[str, Any], source: object) -> Translation:
    """Turn a configuration in the original's schema into an experiment.

    Args:
        values: As ``python_config.read`` returns them.
        source: The file, for messages and for the experiment's name.

    Raises:
        InputError: names the key, what was found and what to write instead.
    """
    with Keys(values, str(source)) as config:
        network = read_model(config)
        loading = read_data(config, network)
        epochs, optimizing, hooks = read_epochs(config), read_optimizer(config), read_hooks(config)
        read_evaluators(config, network.classes, network.ignore_index)
        training = _training(config, loading, epochs, optimizing, hooks)
        start = _start_from(config, network)
        seed, name = _seed(config), config.take("experiment_name", None) or Path(str(source)).stem
        out, resume = config.take("work_dir", None), config.take("resume", None)
        _housekeeping(config)
        variables = _variables(config)
    experiment = {
        "name": name,
        "seed": seed,
        "start_from": start,
        "data": loading.data,
        "augment": loading.augment,
        "model": network.config,
        "task": _task(config, network),
        "training": training,
    }
    return Translation(parse(experiment, source), tuple(config.notes), Path(out) if out else None, resume, variables)


def _training(config: Keys, loading: Loading, epochs: int, optimizing: Optimizing, hooks: Hooks) -> TrainingConfig:
    schedule = read_schedule(config, epochs, _batches(loading), optimizing.rate)
    return TrainingConfig(
        epochs=epochs,
        batch_size=loading.batch_size,
        learning_rate=optimizing.rate,
        min_learning_rate=schedule.last_rate,
        weight_decay=optimizing.decay,
        warmup=schedule.warmup,
        precision=optimizing.precision,
        gradient_clip_val=optimizing.clip,
        accumulate_grad_batches=optimizing.accumulate,
        ema_decay=hooks.ema,
        patience=hooks.patience,
        workers=loading.workers,
    )


def _batches(loading: Loading) -> int | None:
    """Batches of an epoch; None if the list of training chips is not here."""
    names = loading.data.list_file("train")
    return -(-len(read_names(names, loading.data.folder)) // loading.batch_size) if names.is_file() else None


def _task(config: Keys, network: Network) -> Segmentation:
    config.note(
        "model.head.num_classes",
        "derived",
        f"classes are called class_0 to class_{network.classes - 1}: name them in task.classes of the YAML",
    )
    classes = tuple(CropClass(f"class_{i}") for i in range(network.classes))
    return Segmentation(classes=classes, ignore_index=network.ignore_index)


def _start_from(config: Keys, network: Network) -> Path | None:
    whole = config.take("load_from", None)
    if whole and network.start_from and Path(whole) != network.start_from:
        raise config.wrong(
            "load_from",
            expected=f"nothing beside init_cfg, which names '{network.start_from}'",
            repair="keep one of the two.",
        )
    return Path(whole) if whole else network.start_from


def _seed(config: Keys) -> int:
    if config.take("randomness", None) is None:
        config.note("randomness", "derived", "no seed given: 0, so that runs repeat (the original drew one)")
        return 0
    with config.inside("randomness") as randomness:
        randomness.harmless("each process draws by sample, not by rank", "diff_rank_seed")
        randomness.harmless("set by the training library", "deterministic")
        seed = randomness.number("seed", None, whole=True)
        if seed is None:
            randomness.note("seed", "derived", "none given: 0, so that runs repeat")
        return seed or 0


def _housekeeping(config: Keys) -> None:
    for key, why in _HARMLESS.items():
        config.harmless(why, key)
    config.only("runner_type", ["Runner"], "delete it: there is one way to train.")
    for key in ("compile", "cfg"):
        config.only(key, [False, None], "delete it.")
    scale = config.take("auto_scale_lr", None)
    if isinstance(scale, Mapping) and scale.get("enable"):
        raise config.wrong("auto_scale_lr", expected="enable=False", repair="write the learning rate that you mean.")


def _variables(config: Keys) -> tuple[str, ...]:
    """Names that are no keys of the schema: helpers of the file, unless one looks like a misspelled key."""
    helpers, schema = config.left(), {key.lower(): key for key in config.asked}
    for name in helpers:
        close = get_close_matches(name.lower(), schema, n=1, cutoff=0.85)
        if close and not name.startswith(f"{close[0]}_") and not name.endswith(f"_{close[0]}"):
            key = schema[close[0]]
            raise config.wrong(
                name,
                found="an unknown key",
                expected=f"'{key}', which it resembles",
                repair=f"did you mean '{key}'? If it is a variable of your own, choose another name.",
            )
        config.take(name)
    if helpers:
        names = ", ".join(helpers)
        config.note("(variables)", "harmless", f"{names}: helpers of the file, used where the file uses them")
    return tuple(helpers)
