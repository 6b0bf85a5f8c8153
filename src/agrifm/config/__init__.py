"""The experiment: everything that determines a result, typed, in one YAML file."""

from agrifm.config.experiment import Experiment
from agrifm.config.reading import load, override, parse
from agrifm.config.sections import DataConfig, Section, ShardsConfig, Teacher, TrainingConfig

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
