"""What each part of pre-training is worth: one part left out at a time, everything else equal.

``python benchmarks/ablations.py --data ../shared/data --out runs/ablations`` pre-trains ``configs/pretrain.yaml`` for a
short while for every row, and scores fractions on synthetic land outside training (overlap, R2) and a linear probe
of frozen features on val blocks of real fields (the Belgian patch, Sentinel-2, mean of four folds; see real_data.py).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import real_data
import torch
from real import CASES, Job
from rich.console import Console

from agrifm.checkpoint import Checkpoint, build
from agrifm.config import load
from agrifm.training.fit import fit
from agrifm.training.linear_probe import LinearProbe

FOLDS = 4
CONFIG = Path(__file__).parents[1] / "configs" / "pretrain.yaml"
ROWS: dict[str, list[str]] = {
    "as shipped": [],
    "as shipped, another seed": ["seed=1"],
    "without teacher": ["teacher=null"],
    "teacher trusted everywhere": ["teacher.confidence_weighting=false"],
    "teacher at full weight from the start": ["teacher.ramp_up=0"],
    "nothing hidden, no noise": ["augment.mask_frames=0", "augment.noise=0"],
    "always 16 frames": ["data.frames=16", "augment.drop_frames=0"],
    "a backbone for each sensor": ["model.shared_backbone=false"],
}


def probed(checkpoint: Checkpoint | None, folder: Path, data: Path) -> dict[str, float]:
    """Mean scores of the probe over folds, on val blocks; of random weights without a checkpoint."""
    prepared, found = real_data.belgium(data, folder, FOLDS), []
    for fold in range(FOLDS):
        experiment = Job(CASES[0], prepared, fold, folder).experiment
        if checkpoint is None:
            torch.manual_seed(fold)
            model = build(load(CONFIG).with_sensors([real_data.S2])).eval()
        else:
            model = checkpoint.model()
        splits = {split: experiment.data.split(split) for split in ("train", "val")}
        found.append(LinearProbe(experiment, **splits)(model, torch.device("cpu")))
    return {key: float(np.mean([scores[key] for scores in found])) for key in found[0]}


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """The table."""
    keys = ("overlap", "mR2", "probe_aAcc", "probe_mFscore")
    lines = ["| pre-training | overlap | mean R2 | probe aAcc | probe mFscore |", "|---|---:|---:|---:|---:|"]
    for name, scores in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{scores[k]:.3f}' if k in scores else '' for k in keys)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--samples", type=int, default=3072, help="that each row learns from")
    asked, begun = parser.parse_args(), time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)
    torch.set_num_threads(1)
    length = [f"data.shards.epoch_size={asked.samples // 4}", "training.epochs=4", "training.workers=0"]
    rows = {"random weights": probed(None, asked.out / "chips", asked.data)}
    for name, settings in ROWS.items():
        out = asked.out / name.replace(" ", "_").replace(",", "")
        best = fit(load(CONFIG, [*length, *settings]), out, console=Console(file=io.StringIO()))
        checkpoint = Checkpoint.load(best)
        rows[name] = {**checkpoint.scores, **probed(checkpoint, asked.out / "chips", asked.data)}
        spent = (time.monotonic() - begun) / 60
        left = spent / (len(rows) - 1) * (len(ROWS) + 1 - len(rows))
        told = "  ".join(f"{key} {value:.3f}" for key, value in rows[name].items())
        console.print(f"{name}: {told}  about {left:.0f} min left", highlight=False, soft_wrap=True)
        (asked.out / "table.md").write_text(markdown(rows))
        (asked.out / "rows.json").write_text(json.dumps(rows, indent=1))
    console.print(markdown(rows), highlight=False)
    console.print(f"{(time.monotonic() - begun) / 60:.1f} minutes", highlight=False)


if __name__ == "__main__":
    main()
