"""Pixels per minute at which maps of pixel classifiers are computed, by step and by member.

``python benchmarks/map_speed.py --out /tmp/map_speed`` writes small chips and a small scene of Sentinel-2, trains one
model for each member as ``agrifm train --quick`` does, classifies a window of the scene with each of them, and maps the
whole scene with the default members. It prints a Markdown table.

The work of a map is spread over threads that share nothing, so the numbers follow from CPU time: pixels for each second
of one core, times 60, times the cores. Other programs on the machine change them little, unlike seconds by the clock.
The time of a whole map covers reading, computing and writing, with every default member.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.config import Experiment, parse
from agrifm.maps.map_scene import map_scene, plan
from agrifm.maps.options import DEFAULTS
from agrifm.maps.tiles import MapJob, one_thread
from agrifm.opening import open_scene
from agrifm.pixels.config import MemberName, PixelsConfig
from agrifm.pixels.ensemble import CHUNK, PixelEnsemble
from agrifm.pixels.features import PixelFeatures
from agrifm.pixels.series import interpolate, step_days
from agrifm.sample import Batch, collate
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area
from agrifm.sensors import S2
from agrifm.synthetic.chips import Landscape, write_example
from agrifm.synthetic.scenes import write_scene
from agrifm.training.fit import fit

CORES = 2
REPEATS = 3  # of which the fastest counts
QUIET = Console(quiet=True)


def cpu_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """CPU time of all threads; the least of some repeats."""
    least = float("inf")
    for _ in range(repeats):
        begun = time.process_time()
        work()
        least = min(least, time.process_time() - begun)
    return least


def write_data(out: Path, size: int) -> None:
    """Write chips and a scene of about ``size`` x ``size`` pixels, unless they are there."""
    landscape = Landscape(rows=4, columns=19, size=48, frames=(("S2", 22),))
    if not (out / "chips").exists():
        write_example(out / "chips", landscape, (S2,))
    if not (out / "scene").exists():
        cells = range(max(1, round(size / 96)))
        land = Landscape(seed=1, rows=len(cells), columns=len(cells), frames=(("S2", 22),))
        write_scene(out / "scene", land, rows=cells, columns=cells, sensors=(S2,))


def experiment_of(chips: Path, members: tuple[MemberName, ...]) -> Experiment:
    """The experiment that ``agrifm train --quick`` runs, with some members."""
    classes = [name for name, _ in Landscape().classes]
    document = {
        "name": "speed",
        "data": {"root": str(chips), "sensors": ["S2"]},
        "task": {"classes": classes},
        "pixels": {"members": list(members)},
    }
    return parse(document, "map_speed").quick()


def model_of(out: Path, members: tuple[MemberName, ...]) -> Path:
    """Train a model, unless it is there."""
    folder = out / "runs" / "_".join(members)
    best = folder / "best.safetensors"
    return best if best.exists() else fit(experiment_of(out / "chips", members), folder, console=QUIET)


def one_window(out: Path, member: MemberName) -> tuple[PixelEnsemble, Batch, int]:
    """The classifiers of a model, and a window of a map of 128 x 128 pixels."""
    checkpoint = Checkpoint.load(model_of(out, (member,)))
    job = plan(checkpoint, open_scene(out / "scene" / "S2"), DEFAULTS)
    side = min(128, *job.scene.grid.shape)
    area = Area(0, 0, side, side)
    model = checkpoint.pixels
    assert model is not None
    return model, collate([cut_sample(job.scene.read(area), area)]), side * side


def feature_steps(ensemble: PixelEnsemble, batch: Batch) -> dict[str, float]:
    """CPU seconds of one chunk of pixels for each step of the features."""
    features = ensemble.features
    days = batch.days["S2"][0]
    steps = step_days(features.season.length, features.steps) + float(features.season.begin(batch.first_day_of(0)))
    image = batch.images["S2"][0].flatten(2)[..., :CHUNK]
    valid = batch.valid["S2"][0].flatten(1)[:, :CHUNK]
    series = interpolate(image, valid, days, steps)

    def block(indices: bool, statistics: bool) -> float:
        chosen = PixelFeatures(features.sensors, features.season, features.steps, indices, statistics)
        return cpu_seconds(lambda: chosen.of_series(series, features.sensors[0]))

    plain = block(indices=False, statistics=False)
    with_indices = block(indices=True, statistics=False)
    return {
        "interpolation": cpu_seconds(lambda: interpolate(image, valid, days, steps)),
        "series": plain,
        "indices": with_indices - plain,
        "statistics": block(indices=True, statistics=True) - with_indices,
    }


def member_seconds(ensemble: PixelEnsemble, batch: Batch, pixels: int) -> tuple[float, float]:
    """CPU seconds of a window: of the only member alone, and of features and member together."""
    side = round(pixels**0.5)
    features = ensemble.features.of_sample(batch, 0, ("S2",), (side, side), torch.arange(pixels))
    alone = cpu_seconds(lambda: [ensemble.probabilities(part, ("S2",)) for part in features.split(CHUNK)])
    return alone, cpu_seconds(lambda: ensemble(batch))


def map_steps(out: Path) -> tuple[dict[str, float], int]:
    """CPU seconds of reading and computing a map with all default members, and of the whole map; and its pixels."""
    path = model_of(out, PixelsConfig().members)
    scene = open_scene(out / "scene" / "S2")
    job = plan(Checkpoint.load(path), scene, DEFAULTS)
    pixels = job.scene.grid.shape[0] * job.scene.grid.shape[1]
    reading = cpu_seconds(lambda: [job.read(tile) for tile in job.windows.tiles()], 1)
    computing = cpu_seconds(lambda: compute(job), 1) - reading
    whole = cpu_seconds(lambda: map_scene(path, scene, out / "map.tif", overwrite=True, console=QUIET), 1)
    steps = {"reading": reading, "computing": computing, "writing, audit and provenance": whole - reading - computing}
    return steps | {"whole": whole}, pixels


def compute(job: MapJob) -> None:
    """Read and compute all tiles on one thread."""
    with ThreadPoolExecutor(1) as threads:
        for tile in job.windows.tiles():
            job.make(tile, job.read(tile), threads)


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder for chips, scene, models and map.")
    parser.add_argument("--size", type=int, default=384, help="Pixels of 10 m along a side of the scene.")
    asked = parser.parse_args()
    write_data(asked.out, asked.size)

    rows: list[tuple[str, float, int]] = []
    with one_thread(), torch.inference_mode():
        for number, member in enumerate(get_args(MemberName)):
            ensemble, batch, pixels = one_window(asked.out, member)
            if not number:
                for step, seconds in feature_steps(ensemble, batch).items():
                    rows.append((f"features: {step}", seconds, CHUNK))
            alone, together = member_seconds(ensemble, batch, pixels)
            rows.append((f"{member} alone", alone, pixels))
            rows.append((f"{member} with features", together, pixels))
        steps, pixels = map_steps(asked.out)
        rows += [(f"map, default members: {step}", seconds, pixels) for step, seconds in steps.items()]

    print(f"| step | million pixels a minute on {CORES} cores | CPU seconds for a million pixels |")
    print("|---|---:|---:|")
    for step, seconds, count in rows:
        rate = 60 * CORES * count / max(seconds, 1e-9) / 1e6
        print(f"| {step} | {rate:.2f} | {1e6 * seconds / count:.1f} |")


if __name__ == "__main__":
    main()
