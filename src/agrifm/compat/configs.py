"""Translation of a published configuration of the original into an experiment, key by key.

Every key is translated, or noted as changed, derived or harmless, or refused with its full path and a repair. Key
names and defaults are facts of the AgriFM repository (github.com/flyakon/AgriFM) and of mmengine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agrifm.compat.config_data import read_data
from agrifm.compat.config_model import Network, read_model
from agrifm.compat.config_training import read_evaluators, read_training
from agrifm.compat.keys import Keys, Note
from agrifm.config import DataConfig, Experiment, parse
from agrifm.data.lists import read_names
from agrifm.tasks.segmentation import CropClass, Segmentation

_HARMLESS = {
    "env_cfg": "the training library sets up devices and processes",
    "log_level": "progress is always shown",
    "log_processor": "progress is always shown",
    "default_scope": "there is no registry here",
    "custom_imports": "nothing is imported: there is no registry here",
    "visualizer": "logs are written as CSV and TensorBoard",
}
# Keys of mmengine that change training. They are not part of the schema, but must not pass as variables of the file.
_REFUSED = ("auto_scale_lr", "cfg", "compile", "runner_type")
_KNOWN = "a key of the published configuration"


@dataclass(frozen=True)
class Translation:
    """A translated configuration.

    Args:
        experiment: The experiment.
        notes: Notes for the reader, by key.
        out: Folder of the results, if the configuration names one.
        resume: Whether to resume from the last checkpoint, if the configuration says so.
        variables: Top-level names that are not keys of the schema, but variables of the file.
    """

    experiment: Experiment
    notes: tuple[Note, ...] = ()
    out: Path | None = None
    resume: bool | None = None
    variables: tuple[str, ...] = ()


def translate(values: Mapping[str, Any], source: object) -> Translation:
    """Translate a configuration in the schema of the original.

    Args:
        values: Variables of the file, as ``python_config.read`` returns them.
        source: Path of the file, for messages and for the name of the experiment.

    Raises:
        InputError: If a key is unknown or has no equivalent; it names the key and a repair.
    """
    with Keys(values, str(source)) as config:
        network = read_model(config)
        loading = read_data(config, network)
        training = read_training(
            config, loading.batch_size, loading.workers, _batches(loading.data, loading.batch_size)
        )
        read_evaluators(config, network.classes, network.ignore_index)
        experiment = {
            "name": config.take("experiment_name", None) or Path(str(source)).stem,
            "seed": _seed(config),
            "start_from": network.start_from,
            "data": loading.data,
            "augment": loading.augment,
            "model": network.config,
            "pixels": None,  # the original has no classifiers beside its network
            "task": _task(config, network),
            "training": training,
        }
        out = config.take("work_dir", None)
        resume = config.take("resume", None)
        for key, why in _HARMLESS.items():
            config.harmless(why, key)
        for key in _REFUSED:
            config.check(key, key not in values, found="an unknown key", expected=_KNOWN, repair="delete it.")
        variables = _variables(config)
    return Translation(parse(experiment, source), tuple(config.notes), Path(out) if out else None, resume, variables)


def _batches(data: DataConfig, batch_size: int) -> int | None:
    """Batches of an epoch; None if the list of training chips does not exist."""
    list_file = data.list_file("train")
    if not list_file.is_file():
        return None
    return -(-len(read_names(list_file, data.folder)) // batch_size)


def _task(config: Keys, network: Network) -> Segmentation:
    last = network.classes - 1
    text = f"classes are called class_0 to class_{last}: name them in task.classes of the YAML"
    config.note("model.head.num_classes", "derived", text)
    classes = tuple(CropClass(f"class_{i}") for i in range(network.classes))
    return Segmentation(classes=classes, ignore_index=network.ignore_index)


def _seed(config: Keys) -> int:
    seed = None
    if config.take("randomness", None) is not None:
        with config.inside("randomness") as randomness:
            seed = randomness.number("seed", None, whole=True)
    if seed is None:
        config.note("randomness", "derived", "no seed given: 0, so that runs repeat (the original drew one)")
    return seed or 0


def _variables(config: Keys) -> tuple[str, ...]:
    """Names that are not keys of the schema: variables of the file, unless one looks like a misspelled key."""
    variables = config.left()
    schema = {key.lower(): key for key in config.asked}
    for name in variables:
        close = get_close_matches(name.lower(), schema, n=1, cutoff=0.85)
        # Names such as optimizer_cfg or my_model extend a key on purpose.
        if close and not name.startswith(f"{close[0]}_") and not name.endswith(f"_{close[0]}"):
            key = schema[close[0]]
            raise config.wrong(
                name,
                found="an unknown key",
                expected=f"'{key}', which it resembles",
                repair=f"did you mean '{key}'? If it is a variable of your own, choose another name.",
            )
        config.take(name)
    if variables:
        text = f"{', '.join(variables)}: variables of the file, used where the file uses them"
        config.note("(variables)", "harmless", text)
    return tuple(variables)
