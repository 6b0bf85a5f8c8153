"""Accuracy on real series: trained from scratch on the CPU, beside a random forest and the most frequent class.

``python benchmarks/real.py --data ../shared/data --out runs/real`` writes chips (real_data.py says how they are split),
trains every case on every fold, pools the test pixels of all folds and prints one table. All choices below were made on
val blocks; test blocks are read once, at the end of each fold.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import real_data
import torch
from real_data import SPLITS, Prepared
from real_table import FOREST, MAJORITY, MODEL, MODELS, Confusions, Row, markdown, pool, save, show
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.config import DataConfig, Experiment, TrainingConfig
from agrifm.data.chips import FrameChoice
from agrifm.data.folder import SampleSource
from agrifm.data.transforms import Augment, pick_frames
from agrifm.evaluation.baselines import majority, random_forest
from agrifm.evaluation.scoring import evaluate
from agrifm.nn.model import ModelConfig
from agrifm.pixels.config import PixelsConfig
from agrifm.sample import Sample
from agrifm.tasks.losses import CrossEntropy
from agrifm.tasks.scores import scores
from agrifm.tasks.segmentation import CropClass, Segmentation
from agrifm.training.fit import fit

CALENDAR = 24  # dates that every series is interpolated to, for the model as for the forest


@dataclass(frozen=True)
class Case:
    """One way to train, and the rows of the table it fills.

    Args:
        title: of the row.
        place: which data.
        sensors: to train with.
        without: a further row, tested as if this sensor had not been there.
        repeats: how often an epoch goes through the training chips; each time they are turned and cut anew.
        model: options of the model.
        pixels: options of the classifiers of single pixels beside it.
        steps, trees: of the random forest: dates to interpolate to, and its size.
    """

    title: str
    place: str
    sensors: tuple[str, ...]
    without: str | None = None
    repeats: int = 1
    model: ModelConfig = field(default_factory=lambda: ModelConfig(size="tiny", time_steps=CALENDAR))
    steps: int = CALENDAR
    trees: int = 200
    augment: Augment = field(default_factory=Augment)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @property
    def rows(self) -> dict[str, str | None]:
        """Titles of the rows, each with the sensor that is missing in the test."""
        missing = {f"{self.title}, {self.without} missing at test": self.without} if self.without else {}
        return {self.title: None, **missing}


PLACES: dict[str, Callable[..., Prepared]] = {
    "be_a": real_data.belgium,
    "raster": real_data.mato_grosso,
    "points": real_data.points,
}
FOLDS = {"be_a": 4, "raster": 4, "points": 4}
PLAIN = TrainingConfig(learning_rate=1e-3, warmup=0.1, workers=0, accelerator="cpu")
PATCH = PLAIN.model_copy(update={"epochs": 12, "batch_size": 8, "ema_decay": 0.95})
SEASONS = PLAIN.model_copy(update={"epochs": 20, "batch_size": 8, "ema_decay": 0.95})
SINGLE = PLAIN.model_copy(update={"epochs": 15, "batch_size": 32, "ema_decay": 0.98})
FEWER = Augment(drop_frames=0.3)
CASES = (
    Case("Sentinel-2", "be_a", ("S2",), repeats=8, augment=FEWER, training=PATCH),
    Case("Landsat-8", "be_a", ("Landsat",), repeats=8, augment=FEWER, training=PATCH),
    Case(
        "Sentinel-2 + Landsat-8",
        "be_a",
        ("S2", "Landsat"),
        without="Landsat",
        repeats=8,
        augment=replace(FEWER, drop_sensors=0.25),
        training=PATCH,
    ),
    Case("MODIS image", "raster", ("MOD13Q1",), training=SEASONS),
    Case("MODIS points", "points", ("MOD13Q1",), training=SINGLE),
)


@dataclass(frozen=True)
class Memory:
    """Samples held in memory, gone through several times an epoch."""

    samples: tuple[Sample, ...]
    repeats: int = 1

    @classmethod
    def of(cls, source: SampleSource) -> Memory:
        """Read a source once."""
        return cls(tuple(source.read(i) for i in range(len(source))))

    def without(self, sensor: str | None) -> Memory:
        """The same samples as if this sensor had not been there."""
        return self if sensor is None else Memory(tuple(sample.without(sensor) for sample in self.samples))

    def __len__(self) -> int:
        return len(self.samples) * self.repeats

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames."""
        sample = self.samples[index % len(self.samples)]
        return sample if frames is None else pick_frames(sample, frames)


@dataclass(frozen=True)
class Job:
    """One case on one fold."""

    case: Case
    prepared: Prepared
    fold: int
    out: Path

    @property
    def experiment(self) -> Experiment:
        """What is trained."""
        sensors = tuple(sensor for sensor in self.prepared.sensors if sensor.name in self.case.sensors)
        classes = tuple(CropClass(name) for name in self.prepared.classes)
        return Experiment(
            name=f"{self.case.title}, fold {self.fold}",
            seed=self.fold,
            data=DataConfig.model_validate({"sensors": sensors, "check_chips": 1, **self.prepared.folds[self.fold]}),
            augment=self.case.augment,
            model=self.case.model,
            pixels=self.case.pixels,
            task=Segmentation(classes, loss=(CrossEntropy(label_smoothing=0.05),)),
            training=self.case.training,
        )


def run_job(job: Job) -> tuple[Confusions, float]:
    """Train and test one case on one fold; return confusion matrices by (row, model) and CPU minutes."""
    torch.set_num_threads(1)
    begun, experiment, case = time.process_time(), job.experiment, job.case
    train, val, test = (Memory.of(experiment.data.split(split)) for split in SPLITS)
    sources = {"train": Memory(train.samples, case.repeats), "val": val}
    quiet = Console(file=io.StringIO())
    best = Checkpoint.load(fit(experiment, job.out, resume=False, sources=sources, console=quiet))
    found: Confusions = {}
    for row, missing in case.rows.items():
        seen = test.without(missing)
        found[row, MODEL] = np.array(evaluate(best, seen).confusion)
        for name, confusion in baselines(case, train, seen, len(experiment.task.classes)).items():
            found[row, name] = confusion
    return found, (time.process_time() - begun) / 60


def baselines(case: Case, train: Memory, test: Memory, classes: int) -> dict[str, np.ndarray]:
    """Confusion matrices of the yardsticks on the same pixels."""
    options: dict[str, Any] = {"sensors": case.sensors, "steps": case.steps, "trees": case.trees, "jobs": 1}
    return {
        FOREST: random_forest(train.samples, test.samples, classes, **options),
        MAJORITY: majority(train.samples, test.samples, classes),
    }


def run_all(jobs: list[Job], workers: int, console: Console) -> Iterator[tuple[Job, Confusions, float]]:
    """Run jobs in processes of one thread each, or here if one worker is asked for; report as they end."""
    begun = time.monotonic()
    for count, (job, (found, minutes)) in enumerate(_ended(jobs, workers), 1):
        spent = time.monotonic() - begun
        left = timedelta(seconds=round(spent / count * (len(jobs) - count)))
        row = next(iter(job.case.rows))
        shown = "  ".join(
            f"{model} {scores(found[row, model], job.prepared.classes).summary['aAcc']:.3f}" for model in MODELS
        )
        console.print(
            f"{count}/{len(jobs)}  {row}, fold {job.fold}: aAcc {shown}  {minutes:.1f} CPU min  about {left} left",
            highlight=False,
            soft_wrap=True,
        )
        yield job, found, minutes


def _ended(jobs: list[Job], workers: int) -> Iterator[tuple[Job, tuple[Confusions, float]]]:
    if workers == 1:
        yield from ((job, run_job(job)) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_job, job): job for job in jobs}
        for future in as_completed(futures):
            if future.exception() is not None:
                raise RuntimeError(f"{futures[future].out} did not end") from future.exception()
            yield futures[future], future.result()


def quick(case: Case) -> Case:
    """The same case, one short epoch, with few pixels and dates."""
    training = case.training.model_copy(update={"epochs": 1, "limit_train_batches": 1})
    pixels = PixelsConfig(time_steps=6, max_pixels=400)
    return replace(case, repeats=1, steps=6, trees=20, pixels=pixels, training=training)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real series")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="chips, checkpoints and scores")
    parser.add_argument("--table", type=Path, help="Markdown file to write the table to")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one step on one fold, to see that everything runs")
    options = parser.parse_args(words)
    if not options.data.is_dir():
        parser.error(f"--data {options.data}: no such folder; name the one that holds worldcereal_patches")
    return options


def plan(options: argparse.Namespace) -> list[Job]:
    """Write the chips and return what there is to do."""
    jobs = []
    for place in options.places:
        prepared = PLACES[place](options.data, options.out / "chips" / place, FOLDS[place])
        for case in (case for case in CASES if case.place == place):
            folder = options.out / case.title.lower().replace(" ", "_")
            for fold in range(1 if options.quick else FOLDS[place]):
                jobs.append(Job(quick(case) if options.quick else case, prepared, fold, folder / f"fold_{fold}"))
    return jobs


def main(words: list[str] | None = None) -> list[Row]:
    """Prepare, train, test, print, write."""
    options, begun = arguments(words), time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"writing chips to {options.out / 'chips'}", highlight=False)
    results, spent = [], 0.0
    for job, found, minutes in run_all(plan(options), options.workers, console):
        results.append((job.prepared.classes, found))
        spent += minutes
    rows = pool(results, [(row, model) for case in CASES for row in case.rows for model in MODELS])
    console.print(show(rows))
    took = f"{(time.monotonic() - begun) / 60:.1f} minutes, {spent:.1f} of CPU time in training and testing"
    console.print(took, highlight=False)
    save(rows, options.out / "scores.json")
    if options.table:
        options.table.write_text(f"{markdown(rows)}\n{took}.\n")
    return rows


if __name__ == "__main__":
    main()
