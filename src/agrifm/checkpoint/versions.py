"""What a result was made with: the experiment, the seed and the versions of libraries."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from agrifm.config import Experiment
from agrifm.io import write_whole


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that determine a result."""
    return {name: version(name) for name in ("agrifm", "torch", "lightning", "numpy", "h5py")}


def write_provenance(experiment: Experiment, out: Path) -> None:
    """Write the resolved experiment, the seed and the versions of libraries beside a result."""
    write_whole(out / "experiment.yaml", experiment.to_yaml())
    write_whole(out / "environment.json", json.dumps({"seed": experiment.seed, **library_versions()}, indent=2))
