"""Least probabilities, so that logarithms stay finite."""

from __future__ import annotations

LEAST_PROBABILITY = 1e-12  # of means over models, and of probabilities that are scored
LEAST_OUTPUT = 1e-6  # of outputs of which losses and logits in single precision are computed
