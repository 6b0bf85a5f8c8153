"""The experiment: everything that decides a result, typed, in one flat YAML file."""

from agrifm.config.reading import load, override, parse
from agrifm.config.sections import DataConfig, Experiment, Section, ShardsConfig, Teacher, TrainingConfig

__all__ = [
    "DataConfig",
    "Experiment",
    "Section",
    "ShardsConfig",
    "Teacher",
    "TrainingConfig",
    "load",
    "override",
    "parse",
]
