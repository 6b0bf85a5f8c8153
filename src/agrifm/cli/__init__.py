"""The command ``agrifm``: one short function per verb. Heavy imports stay inside the verbs."""

from agrifm.cli import area, data, fractions, maps, models, scenes, trust  # each adds its verbs
from agrifm.cli.shell import app, main

__all__ = ["app", "area", "data", "fractions", "main", "maps", "models", "scenes", "trust"]
