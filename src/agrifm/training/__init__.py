"""Training of models, from the checks of the data to the best checkpoint."""

from agrifm.training.fit import fit

__all__ = ["fit"]
