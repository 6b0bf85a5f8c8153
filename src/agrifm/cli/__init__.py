"""The command ``agrifm``: one short function per verb. Heavy imports stay inside the verbs."""

from agrifm.cli import data, evaluate, fractions, maps, models, scenes  # each adds its verbs
from agrifm.cli.shell import app, main

__all__ = ["app", "data", "evaluate", "fractions", "main", "maps", "models", "scenes"]
