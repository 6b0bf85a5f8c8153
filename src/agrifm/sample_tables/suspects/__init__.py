"""Labels that their neighbors among the series contradict, as a table to correct and a picture."""

from agrifm.sample_tables.suspects.check import LabelCheck, check_labels, open_experiment, write_suspects

__all__ = ["LabelCheck", "check_labels", "open_experiment", "write_suspects"]
