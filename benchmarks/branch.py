"""The branches of the model on real series: ``pyramid``, ``pixel`` and ``both`` beside a random forest.

``python benchmarks/branch.py --data ../shared/data --out runs/branch`` trains every branch on every fold of real.py and
on the orchards of Maipo, split by field, with the same labels, and pools the test pixels of all folds. All choices were
made on val blocks; test blocks are read once, at the end of each fold. Seconds are CPU time of training and testing on
one thread, the mean of a fold.
"""

from __future__ import annotations

import argparse
import io
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import real_data
import torch
from real import CALENDAR, PATCH, PLACES, SEASONS, SINGLE, Job, Memory
from real import Case as TrainingCase
from real_data import SPLITS, Prepared
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.config import TrainingConfig
from agrifm.data.transforms import Augment
from agrifm.evaluation.baselines import random_forest
from agrifm.evaluation.scoring import evaluate
from agrifm.nn.model import ModelConfig
from agrifm.tasks.scores import scores
from agrifm.training.fit import fit

FOREST = "random forest"
BRANCHES = ("pyramid", "pixel", "both")
PYRAMID = ModelConfig(size="tiny", time_steps=CALENDAR)


@dataclass(frozen=True)
class Place:
    """One data set, and how every branch is trained on it.

    Args:
        title: of the rows.
        place: key of PLACES, or ``maipo``.
        training: of the pyramid and of both.
        pixel_training: of the pixel branch alone.
    """

    title: str
    place: str
    sensors: tuple[str, ...]
    training: TrainingConfig
    pixel_training: TrainingConfig
    repeats: int = 1
    augment: Augment = field(default_factory=Augment)

    def case(self, branch: str) -> TrainingCase:
        """How to train a branch."""
        training = self.pixel_training if branch == "pixel" else self.training
        model = replace(PYRAMID, branch=branch)
        return TrainingCase(
            f"{self.title}, {branch}", self.place, self.sensors, None, self.repeats, model,
            augment=self.augment, training=training,
        )  # fmt: skip


FEWER = Augment(drop_frames=0.3)
PLACES_HERE = (
    Place("MODIS image", "raster", ("MOD13Q1",), SEASONS, SEASONS),
    Place("MODIS points", "points", ("MOD13Q1",), SINGLE, SINGLE),
    Place("Landsat-8 orchards", "maipo", ("Landsat",), SINGLE, SINGLE),
    Place("Central Asia, NDVI", "central_asia", ("NDVI",), SINGLE, SINGLE),
    Place("France 2023, points", "france_2023", ("S2",), SINGLE, SINGLE),
    Place("Belgium, Sentinel-2", "be_a", ("S2",), PATCH, PATCH, repeats=8, augment=FEWER),
    Place(
        "Belgium, Sentinel-2 + Landsat-8", "be_a", ("S2", "Landsat"), PATCH, PATCH,
        repeats=8, augment=replace(FEWER, drop_sensors=0.25),
    ),
)  # fmt: skip
ALL_PLACES = {
    **PLACES,
    "maipo": real_data.maipo,
    "central_asia": real_data.central_asia,
    "france_2023": real_data.france_2023,
}


@dataclass(frozen=True)
class Result:
    """What one model reached on one fold.

    Args:
        confusion: confusion matrix of the test pixels, rows are the truth.
        seconds: CPU time of training and testing.
        megabytes: peak memory of the whole process.
    """

    confusion: np.ndarray
    seconds: float
    megabytes: float


def measured(model: Callable[[], np.ndarray]) -> Result:
    """Train and test a model in a process of its own, so that time and memory are its own."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, model))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def _send(sender: Connection, model: Callable[[], np.ndarray]) -> None:
    confusion = model()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    sender.send(Result(confusion, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))


def run_job(job: Job, branch: str) -> Result:
    """Train and test one branch, or the forest, on one fold."""
    torch.set_num_threads(1)
    experiment, case = job.experiment, job.case
    train, val, test = (Memory.of(experiment.data.split(split)) for split in SPLITS)

    def forest() -> np.ndarray:
        count = len(experiment.task.classes)
        options: dict[str, Any] = {"sensors": case.sensors, "steps": case.steps, "trees": case.trees, "jobs": 1}
        return random_forest(train.samples, test.samples, count, **options)

    def network() -> np.ndarray:
        sources = {"train": Memory(train.samples, case.repeats), "val": val}
        path = fit(experiment, job.out, resume=False, sources=sources, console=Console(file=io.StringIO()))
        return np.array(evaluate(Checkpoint.load(path), test).confusion)

    return measured(forest if branch == FOREST else network)


def cells(results: list[Result], classes: tuple[str, ...]) -> str:
    """Scores over the pixels of all folds with their deviation over folds, mean seconds, largest memory."""
    pooled = scores(np.sum([result.confusion for result in results], axis=0), classes).summary
    folds = [scores(result.confusion, classes).summary for result in results]
    parts = [f"{pooled[key]:.3f} ± {np.std([fold[key] for fold in folds]):.3f}" for key in ("aAcc", "mFscore")]
    seconds = np.mean([result.seconds for result in results])
    megabytes = max(result.megabytes for result in results)
    return f"{' | '.join(parts)} | {seconds:.1f} | {megabytes:.0f}"


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """Read the options that the comparisons on these data sets share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real series")
    parser.add_argument("--out", type=Path, default=Path(out), help="chips and checkpoints")
    parser.add_argument("--table", type=Path, help="Markdown file to write the table to")
    parser.add_argument("--titles", nargs="+", default=[place.title for place in PLACES_HERE], help="data sets")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    return parser


@dataclass
class Table:
    """Rows of scores, printed as they come."""

    console: Console = field(default_factory=lambda: Console(width=120))
    lines: list[str] = field(default_factory=lambda: ["| data | model | aAcc | mFscore | seconds | MB |"])

    def __post_init__(self) -> None:
        self.lines.append("|---|---|---:|---:|---:|---:|")

    def add(self, title: str, model: str, results: list[Result], classes: tuple[str, ...]) -> None:
        """Add a row."""
        self.lines.append(f"| {title} | {model} | {cells(results, classes)} |")
        self.console.print(self.lines[-1], highlight=False)

    def write(self, path: Path | None) -> None:
        """Write the table, if a path is given."""
        if path:
            path.write_text("\n".join(self.lines) + "\n")


def prepared_places(options: argparse.Namespace, seed: int = 0) -> Iterator[tuple[Place, Prepared]]:
    """Write the chips of each wanted data set once; yield each way to train on them.

    Args:
        options: of the command line.
        seed: of the division of the ground into folds.
    """
    prepared = {}
    for place in PLACES_HERE:
        if place.title not in options.titles:
            continue
        if place.place not in prepared:
            folder = options.out / "chips" / f"{place.place}_{seed}"
            prepared[place.place] = ALL_PLACES[place.place](options.data, folder, 4, seed)
        yield place, prepared[place.place]


def main(words: list[str] | None = None) -> None:
    """Prepare, train, test, print, write."""
    options_parser = parser(__doc__, "runs/branch")
    options_parser.add_argument("--branches", nargs="+", choices=(*BRANCHES, FOREST), default=[*BRANCHES, FOREST])
    options, table = options_parser.parse_args(words), Table()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for place, data in prepared_places(options):
            for branch in options.branches:
                case = place.case(BRANCHES[0] if branch == FOREST else branch)
                folder = options.out / place.title.lower().replace(" ", "_") / branch.replace(" ", "_")
                jobs = [Job(case, data, fold, folder / f"fold_{fold}") for fold in range(len(data.folds))]
                table.add(place.title, branch, list(pool.map(run_job, jobs, [branch] * len(jobs))), data.classes)
    table.write(options.table)


if __name__ == "__main__":
    main()
