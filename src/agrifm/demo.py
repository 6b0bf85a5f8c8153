"""The whole journey on made-up farmland: data, training, scores beside baselines, maps, a mapped scene, pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agrifm.config import Experiment, load
from agrifm.data.folder import ChipFolder
from agrifm.progress import counting
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, MODIS, S2
from agrifm.synthetic.chips import ORBIT, Landscape, write_example
from agrifm.tasks.scores import Scores, scores
from agrifm.tasks.segmentation import Segmentation

ROWS = 3  # chips in the picture
SENSORS = (S2, LANDSAT, MODIS)


def write_data(out: Path, seed: int, console: Console, *, paddy: bool = False) -> None:
    """Write the example data set, with progress; one that is there already is kept."""
    if (out / "data_lists" / "test.txt").is_file():
        console.print(f"{out} is there already", highlight=False)
        return
    with counting(console, "writing chips") as step:
        write_example(out, Landscape(seed=seed, paddy=paddy), progress=step)
    console.print(f"example data written to {out}", highlight=False)


def run(config: Path, out: Path, console: Console) -> None:
    """Make the data, train, test, map, draw and print the table; then map a scene that the model never saw."""
    from agrifm.checkpoint import Checkpoint
    from agrifm.evaluation import evaluate
    from agrifm.maps.predict_chips import predict
    from agrifm.training import fit

    experiment = load(config)
    write_data(experiment.data.root, 0, console)
    begun = time.monotonic()
    path = fit(experiment, out, console=console)
    best = Checkpoint.load(path)
    test = experiment.data.split("test")
    ours = evaluate(best, test, out / "scores_test", console=console)
    assert isinstance(ours, Scores)
    rows = {"AgriFM (this model)": ours}
    paths = predict(best, test, out / "maps", confidence=True, console=console)
    rows |= baselines(experiment, console)
    _picture(experiment, test, out, ours)
    console.print(score_table(rows, f"held-out ground: {len(test)} chips"))
    summary = {name: result.summary for name, result in rows.items()}
    (out / "scores.json").write_text(json.dumps(summary, indent=2))
    console.print(f"{len(paths)} maps in {out / 'maps'}, picture {out / 'demo.png'}", highlight=False)
    _map_scene(path, out, console)
    console.print(f"{(time.monotonic() - begun) / 60:.1f} minutes", highlight=False)


def _map_scene(checkpoint: Path, out: Path, console: Console) -> None:
    """Map held-out ground as a user would: from image files to a GeoTIFF and a picture of it."""
    from agrifm.maps.files.legend import picture
    from agrifm.maps.map_scene import MapOptions, map_scene
    from agrifm.opening import open_scene
    from agrifm.scenes.checks.units import check_units
    from agrifm.synthetic.scenes import write_scene

    folder, target, land = out / "scene", out / "scene.tif", Landscape(seed=0)
    if not folder.is_dir():
        with counting(console, "writing a scene") as step:
            write_scene(folder, land, rows=range(land.rows), columns=_held_out(land), sensors=SENSORS, progress=step)
    options = MapOptions(("confidence", "observations"))
    mapped = map_scene(checkpoint, check_units(open_scene(folder)), target, options, overwrite=True, console=console)
    picture(target, out / "scene.png", title="a scene of held-out ground")
    console.print(mapped.table())
    console.print(f"seams: {mapped.seams}", highlight=False, soft_wrap=True)
    console.print(f"scene mapped: {target}, picture {out / 'scene.png'}", highlight=False)


def _held_out(land: Landscape) -> range:
    """The columns of the test split that lie under the same orbit as the last."""
    columns = {column for _, column in land.splits()["test"]}
    return range(max(min(columns), max(columns) // ORBIT * ORBIT), max(columns) + 1)


def baselines(experiment: Experiment, console: Console) -> dict[str, Scores]:
    """Scores of the most frequent class and of a random forest on the same pixels."""
    from agrifm.evaluation.baselines import majority, random_forest

    task, data = experiment.task, experiment.data
    assert isinstance(task, Segmentation)
    train, test = (Samples(data.split(split), task) for split in ("train", "test"))
    sensors = [sensor.name for sensor in data.sensors]
    count, ignore = len(task.classes), task.ignore_index
    with console.status("random forest"):
        found = {
            "random forest": random_forest(train, test, count, sensors=sensors, ignore_index=ignore),
            "majority class": majority(train, test, count, ignore_index=ignore),
        }
    return {name: scores(confusion, task.names) for name, confusion in found.items()}


class Samples:
    """The samples of some chips, labeled with classes, read anew each time they are gone through."""

    def __init__(self, chips: ChipFolder, task: Segmentation) -> None:
        self.chips, self.task = chips, task

    def __iter__(self) -> Iterator[Sample]:
        for i in range(len(self.chips)):
            sample = self.chips.read(i)
            assert sample.label is not None
            yield replace(sample, label=self.task.classes_of(sample.label))


def score_table(rows: dict[str, Scores], title: str) -> Table:
    """Models along rows, summary scores along columns."""
    keys = ("aAcc", "mFscore", "mIoU", "kappa")
    table = Table("", *keys, title=title)
    for name, result in rows.items():
        table.add_row(name, *(f"{result.summary[key]:.3f}" for key in keys))
    return table


def _picture(experiment: Experiment, test: ChipFolder, out: Path, result: Scores) -> None:
    """Draw the chips whose labels hold the most classes."""
    import rasterio

    from agrifm.products.picture import Panel, draw, false_color

    task = experiment.task
    assert isinstance(task, Segmentation)
    samples = list(Samples(test, task))
    samples.sort(key=lambda sample: (-len(np.unique(np.asarray(sample.label))), sample.name))
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
