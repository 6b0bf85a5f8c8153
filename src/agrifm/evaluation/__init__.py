"""Scores of a trained model: on a split, early in the season, without sensors, beside classical models."""

from agrifm.evaluation.scoring import evaluate

__all__ = ["evaluate"]
