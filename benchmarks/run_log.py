"""One line a run in ``benchmarks/LOG.md``: date, machine, versions and result."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import torch

from agrifm.maps.provenance import processor

LOG = Path(__file__).with_name("LOG.md")


def append(result: str) -> None:
    """Add a line to the log."""
    today = dt.date.today().isoformat()
    machine = f"{processor()}, {os.cpu_count()} cores"
    with LOG.open("a", encoding="utf-8") as file:
        file.write(f"| {today} | {machine} | torch {torch.__version__} | {result} |\n")
