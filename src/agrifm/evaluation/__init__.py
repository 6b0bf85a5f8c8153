"""Evaluation of a trained model: scores of a split, early in the season, without sensors, calibration, baselines."""
