"""Real files from end to end: JPEG 2000 bands and a shapefile to a crop map, scored on parcels never seen in training.

``python benchmarks/france.py --data ../shared/data/france_parcels_2018 --out runs/france`` does what the README's
second example does, once for each seed (of the split and of the training), and prints the scores of the finished map on
the test parcels beside those of other models on the same pixels: a random forest, linear discriminant analysis,
LightGBM where it is installed, and the most frequent class. All learn from train and val. Test blocks are read once, at
the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import rasterio
from pixels import LIGHTGBM, MODELS, QUICK, Fold
from rasterio.windows import from_bounds
from real_table import Confusions, markdown, pool, save, show
from rich.console import Console

from agrifm.chips.writer import ChipPlan, write_chips
from agrifm.config import Experiment, load
from agrifm.data.chips import read_georeference
from agrifm.maps.files.legend import picture
from agrifm.maps.map_scene import MapOptions, map_scene
from agrifm.opening import open_scene
from agrifm.scenes.checks.units import check_units
from agrifm.scenes.quicklook import show as quick_look
from agrifm.scenes.scene import Scene
from agrifm.training.fit import fit

CLASSES = Path(__file__).parents[1] / "configs" / "france_classes.csv"
DEFAULT = "map of the default experiment"
TITLE = "France, 10 dates of Sentinel-2, 82 parcels"


def run(scene: Scene, parcels: Path, out: Path, seed: int, settings: list[str], console: Console) -> Confusions:
    """One split: chips, training, map, scores of the map on the test parcels."""
    plan = ChipPlan("EC_hcat_n", CLASSES, size=24, seed=seed)
    write_chips(scene, parcels, out / "chips", plan, overwrite=True, console=console).show(console)
    experiment = load(out / "chips" / "crops.yaml", [*settings, f"seed={seed}"])
    best = fit(experiment, out / "model", resume=False, console=console)
    options = MapOptions(("confidence", "observations"))
    mapped = map_scene(best, scene, out / "map.tif", options, overwrite=True, console=console)
    console.print(f"seams: {mapped.seams}", highlight=False)
    picture(out / "map.tif", out / "map.png")
    fold = Fold.of(experiment, out)
    results = {(TITLE, DEFAULT): on_test(experiment, out / "map.tif")}
    for name, model in MODELS.items():
        if name != QUICK and (name != LIGHTGBM or find_spec("lightgbm")):
            results[(TITLE, name)] = model(fold)
    return results


def on_test(experiment: Experiment, target: Path) -> np.ndarray:
    """Confusion matrix of a map with the labels of the test chips."""
    count = len(experiment.task.classes)
    source = experiment.data.split("test")
    found = np.zeros((count, count), np.int64)
    with rasterio.open(target) as file:
        for i in range(len(source)):
            label = np.asarray(source.read(i).label)
            place = read_georeference(source.path(i))
            assert place is not None
            left, top, size = place.transform[2], place.transform[5], place.transform[0]
            bounds = left, top - label.shape[0] * size, left + label.shape[1] * size, top
            predicted = file.read(1, window=from_bounds(*bounds, file.transform).round_offsets().round_lengths())
            chosen = (label >= 0) & (predicted < count)
            missed = int(((label >= 0) & (predicted >= count)).sum())
            assert not missed, f"{missed} labeled pixels have no class in the map"
            np.add.at(found, (label[chosen], predicted[chosen]), 1)
    return found


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/france_parcels_2018"))
    parser.add_argument("--out", type=Path, default=Path("runs/france"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], help="section.key=value of the experiment")
    asked, begun = parser.parse_args(), time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)
    scene = check_units(open_scene(asked.data / "jp2"))
    asked.out.mkdir(parents=True, exist_ok=True)
    quick_look(scene, asked.out / "scene.png", console)
    parcels, results = asked.data / "reference_data" / "parcels.shp", []
    for seed in asked.seeds:
        out = asked.out / f"seed_{seed}"
        found = run(scene, parcels, out, seed, asked.set, console)
        names = load(out / "chips" / "crops.yaml").task.names
        results.append((names, found))
    rows = pool(results, [(TITLE, model) for model in (DEFAULT, *MODELS)])
    console.print(show(rows))
    save(rows, asked.out / "scores.json")
    (asked.out / "table.md").write_text(markdown(rows))
    console.print(f"{(time.monotonic() - begun) / 60:.1f} minutes", highlight=False)


if __name__ == "__main__":
    main()
