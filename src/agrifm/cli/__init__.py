"""The command ``agrifm``: one short function for each command. Heavy imports stay inside the functions."""

# Each of these modules adds its commands.
from agrifm.cli import area, data, embed, evaluate, fractions, maps, models, samples, scenes, trust, view
from agrifm.cli.shell import app, main

__all__ = [
    "app", "area", "data", "embed", "evaluate", "fractions", "main", "maps", "models", "samples", "scenes", "trust",
    "view",
]  # fmt: skip
