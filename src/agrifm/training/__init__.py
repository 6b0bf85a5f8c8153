"""Training of models, from the checks of the data to the best checkpoint."""
