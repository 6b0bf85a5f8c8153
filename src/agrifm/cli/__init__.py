"""The command ``agrifm``: one short function per verb. Heavy imports stay inside the verbs."""

from agrifm.cli import area, data, evaluate, fractions, maps, models, scenes, trust  # each adds its verbs
from agrifm.cli.shell import app, main

__all__ = ["app", "area", "data", "evaluate", "fractions", "main", "maps", "models", "scenes", "trust"]
