"""The default experiment on real series: classifiers of single pixels and the pixel branch, beside a random forest.

``python benchmarks/pixels.py --data ../shared/data --out runs/pixels`` trains on every fold of branch.py and pools the
test pixels of all folds. The experiment names its data and its classes only. The forest and the classifiers learn from
train and val; the network learns from train and chooses its epoch on val, and the members of the classifiers are chosen
by cross-validation on training ground. Two further models learn from the same features as the classifiers, and from the
same labels: linear discriminant analysis alone, and LightGBM with its own defaults where it is installed (``pip install
lightgbm``). Seconds are CPU time of training and testing on one thread, the mean of a fold.
"""

from __future__ import annotations

import io
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from branch import Table, parser, prepared_places
from real import Job, Memory
from real_data import SPLITS
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.config import Experiment, TrainingConfig
from agrifm.evaluation.baselines import majority, random_forest
from agrifm.evaluation.scoring import evaluate
from agrifm.pixels.config import PixelsConfig
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.fit import fit
from agrifm.training.pixel_stage import draw_pixels

MAJORITY, FOREST, QUICK = "most frequent class", "random forest", "pixel classifiers (default)"
LDA, LIGHTGBM = "LDA on the same features", "LightGBM on the same features"
NETWORK, BOTH = "network, pixel branch", "both, as chosen on val"
Result = tuple[np.ndarray, float]


def run_fold(job: Job, network: bool) -> dict[str, Result]:
    """Train and test all models on one fold; return confusion matrices and CPU seconds by model."""
    torch.set_num_threads(1)
    experiment = Experiment(
        name=job.experiment.name,
        seed=job.fold,
        data=job.experiment.data,
        task=Segmentation(job.experiment.task.classes),
        training=TrainingConfig(workers=0, accelerator="cpu"),
    )
    train, val, test = (Memory.of(experiment.data.split(split)) for split in SPLITS)
    classes = len(experiment.task.names)
    results = {}

    labeled = (*train.samples, *val.samples)
    begun = time.process_time()
    results[MAJORITY] = (majority(labeled, test.samples, classes), time.process_time() - begun)
    begun = time.process_time()
    forest = random_forest(labeled, test.samples, classes, sensors=job.case.sensors, steps=24, jobs=1)
    results[FOREST] = (forest, time.process_time() - begun)

    sources = {"train": train, "val": val}
    begun = time.process_time()
    best = Checkpoint.load(_fit(experiment.quick(), job.out / "quick", sources))
    confusion = np.array(evaluate(best, test).confusion)
    results[QUICK] = (confusion, time.process_time() - begun)

    begun = time.process_time()
    alone = experiment.model_copy(update={"pixels": PixelsConfig(members=("lda",))})
    confusion = np.array(evaluate(Checkpoint.load(_fit(alone, job.out / "lda", sources)), test).confusion)
    results[LDA] = (confusion, time.process_time() - begun)
    if find_spec("lightgbm"):
        begun = time.process_time()
        results[LIGHTGBM] = (_lightgbm(best.experiment, Memory(labeled), test), time.process_time() - begun)
    if not network:
        return results

    begun = time.process_time()
    with_network = experiment.model_copy(update={"network": True})
    both = Checkpoint.load(_fit(with_network, job.out / "both", sources))
    seconds = time.process_time() - begun
    results[NETWORK] = (
        np.array(evaluate(replace(both, pixels=None, held_out=None, pixel_share=0.0), test).confusion),
        seconds,
    )
    results[BOTH] = (np.array(evaluate(both, test).confusion), seconds)
    return results


def _lightgbm(experiment: Experiment, labeled: Memory, test: Memory) -> np.ndarray:
    """Confusion matrix of LightGBM on the features of the pixel classifiers."""
    from lightgbm import LGBMClassifier

    assert experiment.pixels is not None
    sensors = tuple(sensor.name for sensor in experiment.data.sensors)
    with torch.inference_mode():
        train = draw_pixels(experiment, labeled, None, experiment.pixels.max_pixels, _silent).pixels()
        tested = draw_pixels(experiment, test, None, sys.maxsize, _silent).pixels()
    model = LGBMClassifier(n_jobs=1, random_state=experiment.seed, verbose=-1)
    model.fit(train.features(sensors), train.classes)
    predicted = model.predict(tested.features(sensors))
    count = len(experiment.task.names)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (tested.classes, predicted), 1)
    return confusion


def _silent(line: str) -> None:
    """Show no progress."""


def _fit(experiment: Experiment, out: Path, sources: dict[str, Memory]) -> Path:
    return fit(experiment, out, resume=False, sources=sources, console=Console(file=io.StringIO()))


def main(words: list[str] | None = None) -> None:
    """Prepare, train, test, print, write."""
    options_parser = parser(__doc__, "runs/pixels")
    options_parser.add_argument("--network", action="store_true", help="also train the network's pixel branch")
    options, table = options_parser.parse_args(words), Table()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for place, data in prepared_places(options):
            folder = options.out / place.title.lower().replace(" ", "_")
            jobs = [Job(place.case("pixel"), data, fold, folder / f"fold_{fold}") for fold in range(len(data.folds))]
            folds = list(pool.map(run_fold, jobs, [options.network] * len(jobs)))
            for model in folds[0]:
                table.add(place.title, model, [fold[model] for fold in folds], data.classes)
    table.write(options.table)


if __name__ == "__main__":
    main()
