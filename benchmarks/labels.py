"""Few labels: does pre-training help? The same model from pre-trained and from random weights.

``python benchmarks/labels.py --data ../shared/data --out runs/labels`` trains on the Belgian patch (Sentinel-2, then
Landsat-8, blocks as in real.py) with 5, 10, 25 and 100 % of its training chips, three seeds each; a seed is a fold of
the blocks and a draw of the chips. Both starts see the same chips for the same number of steps.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import real_data
import torch
from real import CASES, Job, Memory, quick
from real_data import SPLITS
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint
from agrifm.evaluation.baselines import random_forest
from agrifm.evaluation.scoring import evaluate
from agrifm.tasks.scores import scores
from agrifm.training.fit import fit

SHARES = (0.05, 0.10, 0.25, 1.0)
STARTS = ("random start", "pre-trained", "random forest")


@dataclass(frozen=True)
class Run:
    """Scores of one start with a share of the labels and a seed."""

    case: str
    share: float
    seed: int
    start: str
    chips: int
    aAcc: float
    mFscore: float


@dataclass(frozen=True)
class Task:
    """One share of the labels for one seed."""

    job: Job
    start: Path
    share: float
    seed: int


def runs(task: Task) -> list[Run]:
    """Train and test both starts on the same chips, with a random forest beside them."""
    torch.set_num_threads(1)
    job, share, seed = task.job, task.share, task.seed
    train, val, test = (Memory.of(job.experiment.data.split(split)) for split in SPLITS)
    rng = np.random.default_rng([seed, round(1000 * share)])
    count = max(1, round(share * len(train.samples)))
    chosen = tuple(train.samples[i] for i in sorted(rng.choice(len(train.samples), count, replace=False)))
    repeats = -(-job.case.repeats * len(train.samples) // count)
    names, found = job.experiment.task.names, []
    for name in STARTS[:2]:
        start = task.start if name == STARTS[1] else None
        experiment = job.experiment.model_copy(update={"start_from": start, "seed": seed})
        sources = {"train": Memory(chosen, repeats), "val": val}
        quiet, out = Console(file=io.StringIO()), job.out / name.replace(" ", "_")
        best = fit(experiment, out, resume=False, sources=sources, console=quiet)
        summary = evaluate(Checkpoint.load(best), test).summary
        found.append(Run(job.case.title, share, seed, name, count, summary["aAcc"], summary["mFscore"]))
    forest = random_forest(chosen, test.samples, len(names), sensors=job.case.sensors, steps=job.case.steps, jobs=1)
    summary = scores(forest, names).summary
    return [*found, Run(job.case.title, share, seed, STARTS[2], count, summary["aAcc"], summary["mFscore"])]


def table(found: list[Run]) -> tuple[Table, str]:
    """Shares along rows, starts along columns: mean and deviation over seeds; for the screen and in Markdown."""
    shown = Table("labels", "chips", *(f"{start} {key}" for start in STARTS for key in ("aAcc", "mFscore")))
    lines = [f"| labels | chips | {' | '.join(str(column.header) for column in shown.columns[2:])} |"]
    lines.append("|---|---:|" + "---:|" * (len(shown.columns) - 2))
    for share in SHARES:
        mine = [run for run in found if run.share == share]
        cells = [f"{share:.0%}", str(mine[0].chips)]
        for start in STARTS:
            for key in ("aAcc", "mFscore"):
                values = [getattr(run, key) for run in mine if run.start == start]
                cells.append(f"{np.nanmean(values):.3f} ± {np.nanstd(values):.3f}")
        shown.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    return shown, "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("agrifm-tiny"), help="checkpoint of pre-training")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/labels"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one step each, to see that everything runs")
    asked, begun = parser.parse_args(), time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 140)
    prepared, tasks = real_data.belgium(asked.data, asked.out / "chips", 4), []
    for case, seed, share in product(CASES[:2], asked.seeds, SHARES):
        out = asked.out / case.title / f"seed_{seed}" / f"{share:.2f}"
        tasks.append(Task(Job(quick(case) if asked.quick else case, prepared, seed % 4, out), asked.start, share, seed))
    found: list[Run] = []
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        for count, new in enumerate(pool.map(runs, tasks), 1):
            found += new
            told = "  ".join(f"{run.start} {run.aAcc:.3f}" for run in new)
            left = (time.monotonic() - begun) / count * (len(tasks) - count) / 60
            where = f"{new[0].case}, seed {new[0].seed}, {new[0].share:.0%}"
            console.print(f"{where}: {told}  about {left:.0f} min left", highlight=False)
    (asked.out / "runs.json").write_text(json.dumps([vars(run) for run in found], indent=1))
    texts = []
    for case in CASES[:2]:
        shown, text = table([run for run in found if run.case == case.title])
        console.print(case.title, shown)
        texts.append(f"{case.title}:\n\n{text}")
    (asked.out / "table.md").write_text("\n".join(texts))
    console.print(f"{(time.monotonic() - begun) / 60:.1f} minutes", highlight=False)


if __name__ == "__main__":
    main()
