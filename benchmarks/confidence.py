"""What confidence means on real ground: calibration errors and coverage of class sets on test blocks of Flanders.

``python benchmarks/confidence.py --data ../shared/data --out runs/confidence`` trains the first case of real.py on
every fold, calibrates each model on its val blocks and pools what the test blocks say; those are read once, at the end.
"""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import real
import torch
from real_data import SPLITS
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.errors import InputError
from agrifm.evaluation.calibration import Unit, calibrate, fit_temperature, gather
from agrifm.evaluation.reliability import Pixels, Reliability, draw_diagram, measure_coverage, measure_reliability
from agrifm.tasks.calibration import at_temperature
from agrifm.training.fit import fit

COVERAGES = (0.8, 0.9, 0.95)
PLAIN, FLIPS = "one orientation", "eight orientations (`--flips`)"


@dataclass(frozen=True)
class Fold:
    """Probabilities at labeled pixels of val and test blocks."""

    val: Pixels
    test: Pixels


def train(job: real.Job) -> dict[str, Fold]:
    """Train one fold; look at its blocks once, and in eight orientations."""
    train_, val, test = (real.Memory.of(job.experiment.data.split(split)) for split in SPLITS)
    sources, quiet = {"train": real.Memory(train_.samples, job.case.repeats), "val": val}, Console(file=io.StringIO())
    best = Checkpoint.load(fit(job.experiment, job.out, resume=False, sources=sources, console=quiet))
    looks = {PLAIN: best, FLIPS: best.averaging(flips=True)}
    return {name: Fold(gather(one, val), gather(one, test)) for name, one in looks.items()}


def pooled(parts: list[Pixels]) -> Pixels:
    """The pixels of all folds; no two chips keep the same number."""
    chips = np.cumsum([0, *(part.chip.max() + 1 for part in parts)])
    return Pixels(
        np.concatenate([part.probabilities for part in parts], 1),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.chip + first for part, first in zip(parts, chips, strict=False)]),
    )


def errors(folds: list[Fold]) -> tuple[Reliability, Reliability, list[float]]:
    """Reliability of all test pixels before and after, and the temperatures."""
    temperatures = [fit_temperature(fold.val) for fold in folds]
    before = pooled([fold.test for fold in folds])
    parts = [at_temperature(fold.test.probabilities, one) for fold, one in zip(folds, temperatures, strict=True)]
    after = measure_reliability(np.concatenate(parts, 1), before.truth)
    return measure_reliability(before.probabilities, before.truth), after, temperatures


def sets(folds: list[Fold], names: tuple[str, ...], coverage: float, unit: Unit) -> str:
    """A row of the table: coverage on test blocks, set size."""
    try:
        found = [calibrate(fold.val, names, coverage, unit=unit) for fold in folds]
    except InputError as error:
        return f"| {coverage:.0%} | {unit} | refused: {error.found}, {error.expected.split(':')[0]} | | | |"
    told = [measure_coverage(one, fold.test, names) for one, fold in zip(found, folds, strict=True)]
    held = np.average([one.pixels for one in told], weights=[len(fold.test.truth) for fold in folds])
    size = np.average([one.size for one in told], weights=[len(fold.test.truth) for fold in folds])
    chips = np.average([one.chips for one in told], weights=[len(np.unique(fold.test.chip)) for fold in folds])
    single = " ".join(f"{one.pixels:.0%}" for one in told)
    return f"| {coverage:.0%} | {unit} | {chips:.1%} | {held:.1%} | {single} | {size:.2f} |"


def main(words: list[str] | None = None) -> str:
    """Train, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real series")
    parser.add_argument("--out", type=Path, default=Path("runs/confidence"))
    parser.add_argument("--epochs", type=int, help="fewer, to see that everything runs")
    parser.add_argument("--folds", type=int, default=real.FOLDS["be_a"])
    options, begun = parser.parse_args(words), time.process_time()
    torch.set_num_threads(1)
    prepared = real.PLACES["be_a"](options.data, options.out / "chips", real.FOLDS["be_a"])
    case = real.CASES[0]
    if options.epochs:
        case = replace(case, training=case.training.model_copy(update={"epochs": options.epochs}))
    made = [train(real.Job(case, prepared, fold, options.out / f"fold_{fold}")) for fold in range(options.folds)]
    lines = ["| | ECE before | after | adaptive before | after | Brier | NLL | accuracy | temperatures |"]
    lines.append("|---" + "|---:" * 8 + "|")
    pairs = {}
    for name in (PLAIN, FLIPS):
        before, after, temperatures = errors([one[name] for one in made])
        pairs[name] = before, after
        lines.append(
            f"| {name} | {before.ECE:.3f} | {after.ECE:.3f} | {before.adaptive_ECE:.3f} | {after.adaptive_ECE:.3f} | "
            f"{before.Brier:.3f} to {after.Brier:.3f} | {before.NLL:.3f} to {after.NLL:.3f} | {after.accuracy:.3f} | "
            f"{', '.join(f'{t:.2f}' for t in temperatures)} |"
        )
    draw_diagram(pairs, options.out / "reliability.png")
    folds = [one[PLAIN] for one in made]
    lines += ["", "| requested | unit | covered per chip | per pixel | single folds | classes in a set |"]
    lines.append("|---:|---|---:|---:|---|---:|")
    lines += [sets(folds, prepared.classes, coverage, unit) for coverage in COVERAGES for unit in ("chips", "pixels")]
    val = ", ".join(f"{len(np.unique(fold.val.chip))} ({len(fold.val.truth)})" for fold in folds)
    tested = sum(len(fold.test.truth) for fold in folds)
    lines += ["", f"Val blocks (pixels) of the folds: {val}; {tested} test pixels."]
    lines.append(f"{(time.process_time() - begun) / 60:.1f} CPU minutes, one thread.")
    text = "\n".join(lines) + "\n"
    (options.out / "confidence.md").write_text(text)
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
    return text


if __name__ == "__main__":
    main()
