"""AgriFM: crop maps from satellite time series.

>>> import agrifm
>>> model = agrifm.load("agrifm-tiny")

A first map takes three calls: :func:`open_scene`, :func:`load` and :meth:`Model.map`. Names are imported when they are
first used, so that ``import agrifm`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agrifm.api import Model, evaluate, load, make_chips, open_scene, train, view
    from agrifm.chips.plan import ChipPlan
    from agrifm.config import Experiment
    from agrifm.errors import InputError
    from agrifm.maps.options import EmbedOptions, MapOptions
    from agrifm.sample import Sample
    from agrifm.scenes.scene import Scene
    from agrifm.sensors import Sensor

_HOMES = {
    "ChipPlan": "agrifm.chips.plan",
    "EmbedOptions": "agrifm.maps.options",
    "Experiment": "agrifm.config",
    "InputError": "agrifm.errors",
    "MapOptions": "agrifm.maps.options",
    "Model": "agrifm.api",
    "Sample": "agrifm.sample",
    "Scene": "agrifm.scenes.scene",
    "Sensor": "agrifm.sensors",
    "evaluate": "agrifm.api",
    "load": "agrifm.api",
    "make_chips": "agrifm.api",
    "open_scene": "agrifm.api",
    "train": "agrifm.api",
    "view": "agrifm.api",
}

__all__ = [
    "ChipPlan",
    "EmbedOptions",
    "Experiment",
    "InputError",
    "MapOptions",
    "Model",
    "Sample",
    "Scene",
    "Sensor",
    "__version__",
    "evaluate",
    "load",
    "make_chips",
    "open_scene",
    "train",
    "view",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("agrifm")
    if name not in _HOMES:
        raise AttributeError(f"module 'agrifm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
