"""Samples of a run: its splits, checks before training, loaders, and views for pre-training."""
