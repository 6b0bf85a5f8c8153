"""The whole workflow on synthetic farmland: data, training, scores beside baselines, maps, a mapped scene, pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from rich.console import Console
from rich.table import Table

from agrifm.checkpoint import Checkpoint
from agrifm.config import Experiment
from agrifm.data.folder import ChipFolder
from agrifm.errors import counted
from agrifm.evaluation.baselines import majority, random_forest
from agrifm.evaluation.scoring import evaluate
from agrifm.maps.files.legend import picture
from agrifm.maps.map_scene import MapOptions, map_scene
from agrifm.maps.predict_chips import predict
from agrifm.opening import open_scene
from agrifm.products.picture import Panel, draw, false_color
from agrifm.progress import counting
from agrifm.sample import Sample
from agrifm.scenes.checks.units import check_units
from agrifm.sensors import LANDSAT, MODIS, S2
from agrifm.synthetic.chips import ORBIT, Landscape, write_example
from agrifm.synthetic.scenes import write_scene
from agrifm.tasks.scores import Scores, scores
from agrifm.tasks.segmentation import Segmentation
from agrifm.training.fit import fit

EXAMPLE = Path(__file__).with_name("example.yaml")  # the experiment of the demo
ROWS = 3  # chips in the picture
SENSORS = (S2, LANDSAT, MODIS)
SUMMARY = ("aAcc", "mFscore", "mIoU", "kappa")


def write_data(out: Path, seed: int, console: Console, *, paddy: bool = False) -> None:
    """Write the example data set with progress; an existing one is kept.

    Args:
        out: Folder of the data set.
        seed: Seed of the landscape.
        console: Where progress is shown.
        paddy: Whether rice grows in flooded fields, too.
    """
    if (out / "data_lists" / "test.txt").is_file():
        console.print(f"{out} exists already", highlight=False)
        return
    with counting(console, "writing chips") as step:
        write_example(out, Landscape(seed=seed, paddy=paddy), progress=step)
    console.print(f"example data written to {out}", highlight=False)


def run(experiment: Experiment, out: Path, console: Console) -> None:
    """Write data, train, test, map and draw; then map a scene that the model never saw.

    Args:
        experiment: A segmentation of the example data.
        out: Folder of the results.
        console: Where progress and the table of scores are shown.
    """
    write_data(experiment.data.root, 0, console)
    start = time.monotonic()
    path = fit(experiment, out, console=console)
    checkpoint = Checkpoint.load(path)
    test = experiment.data.split("test")
    result = evaluate(checkpoint, test, out / "scores_test", console=console)
    assert isinstance(result, Scores)
    rows = {"AgriFM (this model)": result, **baselines(experiment, console)}
    maps = predict(checkpoint, test, out / "maps", confidence=True, console=console)
    _draw(experiment, test, out, result)
    console.print(score_table(rows, f"held-out ground: {counted(len(test), 'chip')}"))
    summary = {name: row.summary for name, row in rows.items()}
    (out / "scores.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    console.print(f"{counted(len(maps), 'map')} in {out / 'maps'}, picture {out / 'demo.png'}", highlight=False)
    _map_scene(path, out, console)
    console.print(f"{(time.monotonic() - start) / 60:.1f} minutes", highlight=False)


def _map_scene(checkpoint: Path, out: Path, console: Console) -> None:
    """Map held-out ground as a user would: from image files to a GeoTIFF and a picture of it."""
    folder = out / "scene"
    target = out / "scene.tif"
    land = Landscape(seed=0)
    if not folder.is_dir():
        with counting(console, "writing a scene") as step:
            write_scene(folder, land, rows=range(land.rows), columns=_held_out(land), sensors=SENSORS, progress=step)
    options = MapOptions(("confidence", "observations"))
    scene = check_units(open_scene(folder))
    mapped = map_scene(checkpoint, scene, target, options, overwrite=True, console=console)
    picture(target, out / "scene.png", title="a scene of held-out ground")
    console.print(mapped.table())
    console.print(f"seams: {mapped.seams}", highlight=False, soft_wrap=True)
    console.print(f"scene mapped: {target}, picture {out / 'scene.png'}", highlight=False)


def _held_out(land: Landscape) -> range:
    """The columns of the test split that lie under the same orbit as the last."""
    columns = {column for _, column in land.splits()["test"]}
    first_of_orbit = max(columns) // ORBIT * ORBIT
    return range(max(min(columns), first_of_orbit), max(columns) + 1)


def baselines(experiment: Experiment, console: Console) -> dict[str, Scores]:
    """Scores of a random forest on the same pixels and of the most frequent class."""
    task = experiment.task
    assert isinstance(task, Segmentation)
    train = Samples(experiment.data.split("train"), task)
    test = Samples(experiment.data.split("test"), task)
    count = len(task.classes)
    sensors = [sensor.name for sensor in experiment.data.sensors]
    with console.status("random forest"):
        forest = random_forest(train, test, count, sensors=sensors, ignore_index=task.ignore_index)
    frequent = majority(train, test, count, ignore_index=task.ignore_index)
    return {"random forest": scores(forest, task.names), "majority class": scores(frequent, task.names)}


class Samples:
    """Samples of chips whose labels are classes; every iteration reads them again."""

    def __init__(self, chips: ChipFolder, task: Segmentation) -> None:
        self.chips = chips
        self.task = task

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self.chips)):
            sample = self.chips.read(index)
            assert sample.label is not None
            yield replace(sample, label=self.task.classes_of(sample.label))


def score_table(rows: dict[str, Scores], title: str) -> Table:
    """A table with one row for each model and one column for each summary score."""
    table = Table("", *SUMMARY, title=title)
    for name, result in rows.items():
        table.add_row(name, *(f"{result.summary[key]:.3f}" for key in SUMMARY))
    return table


def _draw(experiment: Experiment, test: ChipFolder, out: Path, result: Scores) -> None:
    """Draw the chips whose labels hold the most classes."""
    task = experiment.task
    assert isinstance(task, Segmentation)
    samples = sorted(Samples(test, task), key=_most_classes_first)
    panels = []
    for sample in samples[:ROWS]:
        with rasterio.open(out / "maps" / f"{sample.name}.tif") as file:
            prediction = file.read(1)
        with rasterio.open(out / "maps" / f"{sample.name}_confidence.tif") as file:
            confidence = file.read(1)
        image = false_color(sample, experiment.data.sensors)
        panels.append(Panel(image, np.asarray(sample.label), prediction, confidence))
    title = f"{experiment.name}: held-out ground, mFscore {result.summary['mFscore']:.3f}"
    draw(panels, experiment.task.names, experiment.task.colors, out / "demo.png", title)


def _most_classes_first(sample: Sample) -> tuple[int, str]:
    return -len(np.unique(np.asarray(sample.label))), sample.name
