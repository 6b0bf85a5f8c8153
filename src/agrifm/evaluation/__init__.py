"""Evaluation of a trained model: scores of a split, early in the season, without sensors, calibration, baselines."""

from agrifm.evaluation.scoring import evaluate

__all__ = ["evaluate"]
