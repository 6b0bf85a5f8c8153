"""Early in the season and without a sensor, on real series: two tables by one command.

``python benchmarks/seasons.py --data ../shared/data --out runs/seasons`` trains on the Belgian patch (Sentinel-2 and
Landsat-8, folds as in real.py) and on the French parcels (ten dates of Sentinel-2, splits as in france.py):

- *one model*: seasons end early at random (``truncate: 0.5``) and, in Belgium, sensors fail at random
  (``drop_sensors: 0.25``); it serves every date and every subset of the sensors;
- *whole seasons*: the same without both;
- *forest*: a random forest for every date, trained and tested on series that end there; *majority*: the class that is
  most frequent in training.

All models start from ``agrifm-tiny``. Settings are those of real.py and france.py. Test blocks are read once, at the
end of each fold; nothing was chosen on them. Tables are written after each fold, so that a run that is stopped leaves
what it has.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import real_data
import torch
from france import CLASSES
from real import CASES, FEWER, Case, Job, Memory
from real_table import Confusions, Row, pool
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.chips.writer import ChipPlan, write_chips
from agrifm.config import Experiment, load
from agrifm.evaluation.as_of import SeasonSamples
from agrifm.evaluation.baselines import majority, random_forest
from agrifm.evaluation.scoring import evaluate
from agrifm.opening import open_scene
from agrifm.sample import Sample
from agrifm.scenes.checks.units import check_units
from agrifm.training.fit import fit

ONE, WHOLE, FOREST, MAJORITY = "one model", "whole seasons", "forest", "majority"
ALONE = "trained on what is left"
BELGIUM, FRANCE = "Belgium", "France"
TRUNCATE = 0.5
START = Path("agrifm-tiny")  # saw none of this ground
KEYS = ("aAcc", "mFscore")
QUIET = Console(file=io.StringIO())


@dataclass(frozen=True)
class Data:
    """One way to split one place: samples in memory, and an experiment that trains on them."""

    place: str
    experiment: Experiment
    train: Memory
    val: Memory
    test: Memory
    repeats: int
    out: Path

    @classmethod
    def of(cls, place: str, experiment: Experiment, repeats: int, out: Path) -> Data:
        """Read the splits once."""
        splits = (Memory.of(experiment.data.split(split)) for split in real_data.SPLITS)
        return cls(place, experiment, *splits, repeats, out)

    def fitted(self, name: str, **augment: Any) -> Checkpoint:
        """Train with these random steps beside the usual ones."""
        steps = replace(self.experiment.augment, **augment)
        experiment = self.experiment.model_copy(update={"augment": steps, "start_from": START})
        sources = {"train": Memory(self.train.samples, self.repeats), "val": self.val}
        path = fit(experiment, self.out / name, resume=False, sources=sources, console=QUIET)
        return Checkpoint.load(path)

    def shorter(self, share: float) -> Data:
        """The same with this share of the epochs."""
        training = self.experiment.training
        training = training.model_copy(update={"epochs": max(1, round(share * training.epochs))})
        return replace(self, experiment=self.experiment.model_copy(update={"training": training}))

    def only(self, sensor: str) -> Data:
        """The same ground as this sensor alone saw it."""
        cut = (Memory(tuple(s.only([sensor]) for s in part.samples)) for part in (self.train, self.val, self.test))
        train, val, test = cut
        sensors = [s for s in self.experiment.data.sensors if s.name == sensor]
        data = self.experiment.data.model_copy(update={"sensors": tuple(sensors)})
        experiment = self.experiment.model_copy(update={"data": data})
        return replace(self, experiment=experiment, train=train, val=val, test=test)


def forest(train: Sequence[Sample], test: Sequence[Sample], experiment: Experiment) -> np.ndarray:
    """Confusion matrix of a random forest on the sensors that the training samples have."""
    there = {name for sample in train for name in sample.images}
    sensors = [sensor.name for sensor in experiment.data.sensors if sensor.name in there]
    steps = experiment.model.time_steps or 12
    return random_forest(train, test, len(experiment.task.names), sensors=sensors, steps=steps, jobs=1)


def early(data: Data, models: dict[str, Checkpoint]) -> Confusions:
    """Confusion matrices by (place and date, model)."""
    (train,), (test,) = SeasonSamples.of(data.train), SeasonSamples.of(data.test)
    found: Confusions = {}
    for moment in test.moments("monthly"):
        row = f"{data.place}, {moment}"
        seen = test.as_of(moment)
        for name, model in models.items():
            found[row, name] = np.array(evaluate(model, seen).confusion)
        learned, tested = ([view.read(i) for i in range(len(view))] for view in (train.as_of(moment), seen))
        found[row, FOREST] = forest(learned, tested, data.experiment)
        found[row, MAJORITY] = majority(learned, tested, len(data.experiment.task.names))
    return found


def lost(data: Data, models: dict[str, Checkpoint]) -> Confusions:
    """Confusion matrices by (what is missing in the test, how it was trained)."""
    sensors = [sensor.name for sensor in data.experiment.data.sensors]
    found: Confusions = {}
    for missing in (None, *reversed(sensors)):
        row, test = f"{missing or 'nothing'} missing", data.test.without(missing)
        for name, model in models.items():
            found[row, name] = np.array(evaluate(model, test).confusion)
        found[row, FOREST] = forest(data.train.samples, test.samples, data.experiment)
        if missing is not None:
            (left,) = (sensor for sensor in sensors if sensor != missing)
            alone = data.only(left)
            found[row, ALONE] = np.array(evaluate(alone.fitted(f"{left}_alone"), alone.test).confusion)
            found[row, f"{FOREST}, {ALONE}"] = forest(alone.train.samples, alone.test.samples, alone.experiment)
    return found


def belgium(data: Path, out: Path, folds: int) -> Iterator[Data]:
    """Folds of the Belgian patch."""
    case = Case(BELGIUM, "be_a", ("S2", "Landsat"), repeats=8, augment=FEWER, training=CASES[2].training)
    prepared = real_data.belgium(data, out / "chips", 4)
    for fold in range(folds):
        yield Data.of(BELGIUM, Job(case, prepared, fold, out).experiment, case.repeats, out / f"fold_{fold}")


def france(data: Path, out: Path, seeds: int) -> Iterator[Data]:
    """Splits of the French parcels."""
    scene = check_units(open_scene(data / "france_parcels_2018" / "jp2"))
    parcels = data / "france_parcels_2018" / "reference_data" / "parcels.shp"
    for seed in range(seeds):
        plan, here = ChipPlan("EC_hcat_n", CLASSES, size=24, seed=seed), out / f"seed_{seed}"
        write_chips(scene, parcels, here / "chips", plan, overwrite=True)
        experiment = load(here / "chips" / "crops.yaml", [f"seed={seed}", "training.accelerator=cpu"])
        yield Data.of(FRANCE, experiment, 1, here)


def run(data: Data) -> Confusions:
    """Train both models, test everything."""
    several = len(data.experiment.data.sensors) > 1
    models = {
        ONE: data.fitted("one", truncate=TRUNCATE, drop_sensors=0.25 if several else 0.0),
        WHOLE: data.fitted("whole"),
    }
    return early(data, models) | (lost(data, models) if several else {})


def table(results: Sequence[tuple[tuple[str, ...], Confusions]], head: str, models: Sequence[str]) -> str:
    """Markdown: rows whose title has ``head`` in it, every score of every model along a row."""
    order = [(row, model) for row in dict.fromkeys(row for _, found in results for row, _ in found) for model in models]
    pooled = {(row.row, row.model): row for row in pool(results, [key for key in order if head in key[0]])}
    lines = [f"| | {' | '.join(f'{model}, {key}' for model in models for key in KEYS)} |"]
    lines.append("|---|" + "---:|" * (len(models) * len(KEYS)))
    for title in dict.fromkeys(row for row, _ in pooled):
        known = [pooled.get((title, model)) for model in models]
        cells = ["–" if row is None else _cell(row, key, len(results)) for row in known for key in KEYS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row, key: str, splits: int) -> str:
    """A score; its deviation where there are several splits."""
    return row.cell(key) if splits > 1 else f"{row.pooled.summary[key]:.3f}"


def report(results: dict[str, list[tuple[tuple[str, ...], Confusions]]], minutes: float, out: Path) -> str:
    """Write the tables and the picture of what there is so far."""
    curve, loss = (ONE, WHOLE, FOREST, MAJORITY), (ONE, WHOLE, ALONE, FOREST, f"{FOREST}, {ALONE}")
    parts = []
    for place, found in results.items():
        if found:
            parts.append(f"{place}, {len(found)} splits, images up to a day\n\n{table(found, f'{place}, ', curve)}")
    if results[BELGIUM]:
        parts.append(f"A sensor is missing in the test\n\n{table(results[BELGIUM], 'missing', loss)}")
    text = "\n".join([*parts, f"{minutes:.1f} minutes of CPU time, one thread.\n"])
    (out / "tables.md").write_text(text)
    draw(results, curve, out / "early_season.png")
    return text


def draw(results: dict[str, list[tuple[tuple[str, ...], Confusions]]], models: Sequence[str], path: Path) -> None:
    """Mean F-score against date, one panel for each place."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, (place, found) in zip(axes, results.items(), strict=True):
        for model, style in zip(models, ("-o", "--o", "-s", ":"), strict=True):
            order = [(row, model) for row in dict.fromkeys(r for _, one in found for r, _ in one) if place in row]
            rows = pool(found, order)
            days = [row.row.split(", ")[1] for row in rows]
            axis.plot(days, [row.pooled.summary["mFscore"] for row in rows], style, ms=3, label=model)
        axis.set(title=place, xlabel="images up to", ylim=(0, None))
        axis.tick_params(axis="x", rotation=45)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean F-score")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Read the command line, run, write after each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real series")
    parser.add_argument("--out", type=Path, default=Path("runs/seasons"))
    parser.add_argument("--folds", type=int, default=4, help="of the Belgian patch; at most 4")
    parser.add_argument("--seeds", type=int, default=2, help="splits of the French parcels")
    parser.add_argument("--epochs", type=float, default=1.0, help="share of the epochs of real.py and france.py")
    asked, begun = parser.parse_args(), time.process_time()
    console = Console(width=None if sys.stdout.isatty() else 160)
    torch.set_num_threads(1)
    results: dict[str, list[tuple[tuple[str, ...], Confusions]]] = {BELGIUM: [], FRANCE: []}
    places = (france(asked.data, asked.out, asked.seeds), belgium(asked.data, asked.out / "belgium", asked.folds))
    text = ""
    for data in (data for splits in zip_longest(*places) for data in splits if data is not None):
        results[data.place].append((data.experiment.task.names, run(data.shorter(asked.epochs))))
        minutes = (time.process_time() - begun) / 60
        console.print(f"{data.place}: split {len(results[data.place])}, {minutes:.1f} CPU min", highlight=False)
        text = report(results, minutes, asked.out)
    print(text)


if __name__ == "__main__":
    main()
