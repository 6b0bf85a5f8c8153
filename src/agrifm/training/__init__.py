"""Training and evaluation."""

from agrifm.training.evaluate import evaluate
from agrifm.training.fit import fit

__all__ = ["evaluate", "fit"]
