"""Checkpoints: files that hold the weights and everything that evaluation and mapping need beside them.

A checkpoint is a safetensors file whose header holds the resolved experiment (with sensors, statistics and classes),
the scores and the versions of libraries. Opening it runs no code.
"""

from agrifm.checkpoint.building import build
from agrifm.checkpoint.checkpoint import Checkpoint
from agrifm.checkpoint.description import describe
from agrifm.checkpoint.file import is_checkpoint
from agrifm.checkpoint.versions import library_versions, write_provenance
from agrifm.tensor_files import Match, load_strict

__all__ = [
    "Checkpoint",
    "Match",
    "build",
    "describe",
    "is_checkpoint",
    "library_versions",
    "load_strict",
    "write_provenance",
]
