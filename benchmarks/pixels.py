"""The default experiment on real series: classifiers of single pixels and the pixel branch, beside a random forest.

``python benchmarks/pixels.py --data ../shared/data --out runs/pixels`` trains on every fold of branch.py and pools the
test pixels of all folds. The experiment names its data and its classes only. The forest and the classifiers learn from
train and val; the network learns from train and chooses its epoch on val, and the members of the classifiers are chosen
by cross-validation on training ground. Two further models learn from the same features as the classifiers, and from the
same labels: linear discriminant analysis alone, and LightGBM with its own defaults where it is installed (``pip install
lightgbm``). Seconds are CPU time of training and testing on one thread, the mean of a fold; megabytes are the peak
memory of the process. Each seed divides the ground into other folds and trains anew.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from branch import Result, Table, measured, parser, prepared_places
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


@dataclass(frozen=True)
class Fold:
    """Samples of one fold in memory, and the experiment that names its data and its classes only."""

    experiment: Experiment
    train: Memory
    val: Memory
    test: Memory
    out: Path

    @classmethod
    def of(cls, experiment: Experiment, out: Path) -> Fold:
        """Read the samples of an experiment."""
        train, val, test = (Memory.of(experiment.data.split(split)) for split in SPLITS)
        return cls(experiment, train, val, test, out)

    @property
    def labeled(self) -> Memory:
        """Samples of train and val."""
        return Memory((*self.train.samples, *self.val.samples))

    @property
    def sensors(self) -> list[str]:
        """Names of the sensors."""
        return [sensor.name for sensor in self.experiment.data.sensors]

    def fit(self, name: str, experiment: Experiment) -> Checkpoint:
        """Train one form of the experiment."""
        sources = {"train": self.train, "val": self.val}
        return Checkpoint.load(
            fit(experiment, self.out / name, resume=False, sources=sources, console=Console(file=io.StringIO()))
        )

    def tested(self, checkpoint: Checkpoint) -> np.ndarray:
        """Confusion matrix of the test samples."""
        return np.array(evaluate(checkpoint, self.test).confusion)


def of_majority(fold: Fold) -> np.ndarray:
    """The most frequent class."""
    return majority(fold.labeled.samples, fold.test.samples, len(fold.experiment.task.names))


def of_forest(fold: Fold) -> np.ndarray:
    """A random forest on the series."""
    classes = len(fold.experiment.task.names)
    return random_forest(fold.labeled.samples, fold.test.samples, classes, sensors=fold.sensors, steps=24, jobs=1)


def of_default(fold: Fold) -> np.ndarray:
    """The default."""
    return fold.tested(fold.fit("quick", fold.experiment.quick()))


def of_lda(fold: Fold) -> np.ndarray:
    """Linear discriminant analysis alone."""
    return fold.tested(fold.fit("lda", _lda_alone(fold)))


def _lda_alone(fold: Fold) -> Experiment:
    return fold.experiment.model_copy(update={"pixels": PixelsConfig(members=("lda",))})


def of_lightgbm(fold: Fold) -> np.ndarray:
    """LightGBM on the features of the pixel classifiers."""
    from lightgbm import LGBMClassifier

    # The season of the features is that which training finds.
    experiment = fold.fit(
        "lda", fold.experiment.model_copy(update={"pixels": PixelsConfig(members=("lda",))})
    ).experiment
    assert experiment.pixels is not None
    with torch.inference_mode():
        train = draw_pixels(experiment, fold.labeled, None, experiment.pixels.max_pixels, _silent).pixels()
        tested = draw_pixels(experiment, fold.test, None, sys.maxsize, _silent).pixels()
    model = LGBMClassifier(n_jobs=1, random_state=experiment.seed, verbose=-1)
    sensors = tuple(fold.sensors)
    model.fit(train.features(sensors), train.classes)
    predicted = model.predict(tested.features(sensors))
    count = len(experiment.task.names)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (tested.classes, predicted), 1)
    return confusion


MODELS: dict[str, Callable[[Fold], np.ndarray]] = {
    MAJORITY: of_majority,
    FOREST: of_forest,
    QUICK: of_default,
    LDA: of_lda,
    LIGHTGBM: of_lightgbm,
}


def run_fold(job: Job, seed: int, network: bool) -> dict[str, Result]:
    """Train and test all models on one fold."""
    torch.set_num_threads(1)
    experiment = Experiment(
        name=job.experiment.name,
        seed=seed,
        data=job.experiment.data,
        task=Segmentation(job.experiment.task.classes),
        training=TrainingConfig(workers=0, accelerator="cpu"),
    )
    fold = Fold.of(experiment, job.out)
    results = {}
    for name, model in MODELS.items():
        if name != LIGHTGBM or find_spec("lightgbm"):
            results[name] = measured(partial(model, fold))
    if network:
        results.update(with_network(fold))
    return results


def with_network(fold: Fold) -> dict[str, Result]:
    """Train the pixel branch beside the classifiers; test it alone and averaged with them."""
    begun = time.process_time()
    both = fold.fit("both", fold.experiment.model_copy(update={"network": True}))
    seconds = time.process_time() - begun
    alone = replace(both, pixels=None, held_out=None, pixel_share=0.0)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        NETWORK: Result(fold.tested(alone), seconds, megabytes),
        BOTH: Result(fold.tested(both), seconds, megabytes),
    }


def _silent(line: str) -> None:
    """Show no progress."""


def main(words: list[str] | None = None) -> None:
    """Prepare, train, test, print, write."""
    options_parser = parser(__doc__, "runs/pixels")
    options_parser.add_argument("--network", action="store_true", help="also train the network's pixel branch")
    options_parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the folds and of training")
    options = options_parser.parse_args(words)
    table = Table()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for places in zip(*(prepared_places(options, seed) for seed in options.seeds), strict=True):
            place = places[0][0]
            tasks = []
            for seed, (_, data) in zip(options.seeds, places, strict=True):
                folder = options.out / place.title.lower().replace(" ", "_") / f"seed_{seed}"
                for fold in range(len(data.folds)):
                    job = Job(place.case("pixel"), data, fold, folder / f"fold_{fold}")
                    tasks.append(pool.submit(run_fold, job, 10 * seed + fold, options.network))
            results = [task.result() for task in tasks]
            for model in results[0]:
                table.add(place.title, model, [result[model] for result in results], places[0][1].classes)
    table.write(options.table)


if __name__ == "__main__":
    main()
