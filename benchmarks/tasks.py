"""Cropland, winter wheat and land use on real series, beside a random forest and the most frequent class.

``python benchmarks/tasks.py --data ../shared/data --out runs/tasks`` takes labels with the codes of a product and the
class tables of the tasks, as in ``configs/``. Patches are split by blocks of 160 m (120 m in Flanders 2018; see
real_data.py), four folds, pooled. Flanders 2019 and Slovenia were pre-trained on, so only Flanders 2018 also starts
from ``agrifm-tiny``. The forest gets the same dates as the model.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real import CASES, Job, Memory, baselines, quick
from real_data import S2, SCL_CLEAR, SPLITS, UNLABELED, Blocks, Prepared, _belgium, _widen, _write, dates_of
from real_table import MODEL, MODELS, Confusions, markdown, pool, save, show
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.config import Experiment
from agrifm.data.chips import Georeference
from agrifm.evaluation.scoring import evaluate
from agrifm.sample import Sample, days_since_epoch
from agrifm.training.fit import fit

FOLDS = 4
LAND_USE = [
    {"name": n, "codes": [c]} for n, c in (("forest", 2), ("grassland", 3), ("shrubland", 4), ("artificial", 8))
]


@dataclass(frozen=True)
class Work:
    """A row of the table: a task on a patch.

    Args:
        title: of the row.
        patch: reads the patch: sample, place and blocks.
        task: section of an experiment.
        start: weights to begin with.
    """

    title: str
    patch: Callable[[Path], tuple[Sample, Georeference, Blocks]]
    task: Mapping[str, Any]
    start: Path | None = None


def codes(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """WorldCereal codes: the crop where one is named, else the land cover."""
    return np.where(arrays["ct"] > 0, arrays["ct"], arrays["lc"]).astype(np.int64)


def flanders_2018(data: Path) -> tuple[Sample, Georeference, Blocks]:
    """Sentinel-2 dates of a year."""
    with np.load(data / "worldcereal_patches" / "npz" / "be_a_2018.npz") as arrays:
        sample = replace(_belgium(arrays), label=torch.from_numpy(_widen(codes(arrays), UNLABELED)))
        return sample.without("Landsat"), _place(arrays), Blocks(12, FOLDS, 0)


def flanders_2019(data: Path) -> tuple[Sample, Georeference, Blocks]:
    """Sentinel-2 dates from October to September."""
    with np.load(data / "worldcereal_patches" / "npz" / "be_b_2019.npz") as arrays:
        image = np.concatenate([arrays["s2_10m"], arrays["s2_20m"].repeat(2, -2).repeat(2, -1)], axis=1)
        clear = np.isin(arrays["s2_scl_20m"], SCL_CLEAR).repeat(2, -2).repeat(2, -1)
        days = dates_of(arrays["s2_dates"])
        season = (days >= np.datetime64("2018-10-01")) & (days < np.datetime64("2019-10-01"))
        seen = season & (clear.mean((1, 2)) >= 0.5)
        series = image[seen], clear[seen], days[seen].astype(np.int64)
        return _sample("be_b", *series, codes(arrays)), _place(arrays), Blocks(16, FOLDS, 0)


def slovenia(data: Path) -> tuple[Sample, Georeference, Blocks]:
    """Five dates of a summer; the last rows and columns are left out."""
    with np.load(data / "eolearn_slovenia" / "npz" / "slovenia.npz") as arrays:
        bands = [list(arrays["s2_bands"]).index(band.id) for band in S2.bands]
        image = arrays["s2_l1c"][:, bands, :96, :96]
        label = np.where(np.isin(arrays["lulc"], (0, 255)), UNLABELED, arrays["lulc"].astype(np.int64))[:96, :96]
        days = dates_of(arrays["s2_dates"]).astype(np.int64)
        return _sample("slovenia", image, (image > 0).all(1), days, label), _place(arrays), Blocks(16, FOLDS, 0)


def _place(arrays: Mapping[str, np.ndarray]) -> Georeference:
    west, _, _, north = (float(x) for x in arrays["bounds"])
    return Georeference(f"EPSG:{int(arrays['epsg'])}", (10.0, 0.0, west, 0.0, -10.0, north))


def _sample(name: str, image: np.ndarray, clear: np.ndarray, days: np.ndarray, label: np.ndarray) -> Sample:
    return Sample(
        images={"S2": torch.from_numpy(image.astype(np.int32))},
        valid={"S2": torch.from_numpy(clear)},
        dates={"S2": days_since_epoch(days)},
        label=torch.from_numpy(label),
        name=name,
    )


CROPLAND = {"classes": {"table": "worldcereal", "only": {"cropland": "arable_crops"}}}
WHEAT = {"classes": {"table": "worldcereal", "only": "Winter wheat"}}
WORKS = (
    Work("cropland, Flanders 2018", flanders_2018, CROPLAND),
    Work("cropland, Flanders 2018, from agrifm-tiny", flanders_2018, CROPLAND, Path("agrifm-tiny")),
    Work("cropland, Flanders 2019", flanders_2019, CROPLAND),
    Work("winter wheat, Flanders 2019", flanders_2019, WHEAT),
    Work("land use, Slovenia 2015", slovenia, {"classes": LAND_USE}),
)


def experiment_of(work: Work, prepared: Prepared, fold: int, out: Path, *, short: bool) -> tuple[Job, Experiment]:
    """The first case of real.py, with another task on another patch."""
    job = Job(quick(CASES[0]) if short else CASES[0], prepared, fold, out)
    base = job.experiment
    task = {**work.task, "loss": {"kind": "cross_entropy", "label_smoothing": 0.05}}
    values = {**base.model_dump(), "task": task, "start_from": work.start, "name": work.title}
    return job, Experiment.model_validate(values)


def run(work: Work, prepared: Prepared, fold: int, out: Path, short: bool) -> tuple[tuple[str, ...], Confusions]:
    """Train and test one row on one fold; the names of its classes, and confusion matrices by (row, model)."""
    torch.set_num_threads(1)
    job, experiment = experiment_of(work, prepared, fold, out, short=short)
    train, val, test = (Memory.of(experiment.data.split(split)) for split in SPLITS)
    sources = {"train": Memory(train.samples, job.case.repeats), "val": val}
    quiet = Console(file=io.StringIO())
    best = fit(experiment, out, resume=False, sources=sources, console=quiet)
    found: Confusions = {(work.title, MODEL): np.array(evaluate(Checkpoint.load(best), test).confusion)}
    classes = experiment.task.classes_of
    plain = [Memory(tuple(replace(x, label=classes(x.label)) for x in part.samples)) for part in (train, test)]
    for name, confusion in baselines(job.case, *plain, len(experiment.task.classes)).items():
        found[work.title, name] = confusion
    return experiment.task.names, found


def main() -> None:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one step on one fold, to see that everything runs")
    asked, begun = parser.parse_args(), time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)
    jobs = []
    for work in WORKS:
        sample, place, blocks = work.patch(asked.data)
        folder = asked.out / work.title.replace(" ", "_").replace(",", "")
        prepared = _write(folder / "chips", [sample], Prepared(("-", "+"), (S2,), ()), place, blocks)
        folds = range(1 if asked.quick else FOLDS)
        jobs += [(work, prepared, fold, folder / f"fold_{fold}", asked.quick) for fold in folds]
    results = []
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool_of_processes:
        for count, (names, found) in enumerate(pool_of_processes.map(run, *zip(*jobs, strict=True)), 1):
            results.append((names, found))
            left = (time.monotonic() - begun) / count * (len(jobs) - count) / 60
            told = {model: matrix.trace() / matrix.sum() for (_, model), matrix in found.items()}
            text = "  ".join(f"{model} {value:.3f}" for model, value in told.items())
            console.print(f"{jobs[count - 1][0].title}: aAcc {text}  about {left:.0f} min left", highlight=False)
    rows = pool(results, [(work.title, model) for work in WORKS for model in MODELS])
    console.print(show(rows))
    save(rows, asked.out / "scores.json")
    (asked.out / "table.md").write_text(markdown(rows))
    console.print(f"{(time.monotonic() - begun) / 60:.1f} minutes", highlight=False)


if __name__ == "__main__":
    main()
