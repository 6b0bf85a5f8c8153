"""The experiment: everything that determines a result, typed, in one YAML file."""

from agrifm.config.experiment import Experiment
from agrifm.config.reading import load, parse
from agrifm.config.sections import DataConfig, ShardsConfig, Teacher, TrainingConfig

__all__ = [
    "DataConfig",
    "Experiment",
    "ShardsConfig",
    "Teacher",
    "TrainingConfig",
    "load",
    "parse",
]
