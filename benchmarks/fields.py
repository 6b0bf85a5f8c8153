"""Field boundaries on real series, beside gradients with the same watershed; every block of ground is tested once.

``python benchmarks/fields.py --data ../shared/data --out runs/fields`` cuts each place into square blocks, deals them
out to folds, trains on all but two of them, chooses the epoch on one and tests on the other. ``AgriFM`` is what a run
chooses by default; the rows below it are the candidates between which it chooses. The baseline takes the Sobel
gradients of all bands and dates as its boundary, ranked over the whole place, and the season's greenest value as its
extent; its two thresholds are chosen on the blocks that train and validate. Scores are of all test blocks together.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from real_data import SCL_CLEAR, most_even, roles
from rich.console import Console
from scipy import ndimage

from agrifm.checkpoint import Checkpoint
from agrifm.config import parse
from agrifm.data.chips import write_chip
from agrifm.sample import Sample, days_since_epoch
from agrifm.sensors import S2, Band, Sensor
from agrifm.tasks.field_scores import compare, score
from agrifm.tasks.watershed import Watershed
from agrifm.training.fit import fit

SMALL = {"width": 32, "depths": [1, 1, 2, 1], "heads": [2, 4, 8, 16], "drop_path": 0.1}
INDICES = Sensor(
    name="VI", gsd=10.0, scale=1e-4, bands=tuple(Band(name, name, 0.0) for name in ("evi2", "gcvi", "kndvi"))
)
SHOWN = ("extent_IoU", "boundary_F1", "F1", "mF1", "over", "under", "boundary_distance")
SHARES = {"edges": 1.0, "mean of both": 0.5, "network": 0.0}
BASELINE = "Sobel + watershed"
PIXEL, TOLERANCE = 10.0, 20.0


@dataclass(frozen=True)
class Place:
    """A series with fields.

    Args:
        title: of its rows.
        sensor: of the series.
        sample: the whole place.
        fields: ``(h, w)``.
        side: of a block in pixels.
        green: ``(t, h, w)`` an index of vegetation, NaN where the ground was not seen.
        partial: only some fields are known.
        reach: pixels by which seeds grow; few where ground outside of fields cannot be learned.
        epochs: of training.
    """

    title: str
    sensor: Sensor
    sample: Sample
    fields: np.ndarray
    side: int
    green: np.ndarray
    partial: bool
    reach: int
    epochs: int

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Upper left pixels of the blocks that hold fields."""
        rows, columns = (range(0, size - self.side + 1, self.side) for size in self.fields.shape)
        return [(y, x) for y in rows for x in columns if (self.part(y, x) > 0).any()]

    def part(self, y: int, x: int) -> np.ndarray:
        """Fields of a block."""
        return self.fields[y : y + self.side, x : x + self.side]


def united_states(data: Path) -> Place:
    """One square kilometer, 13 dates of three vegetation indices; edges belong to the nearest field."""
    with np.load(data / "field_boundaries/npz/us_000001_2022.npz") as arrays:
        x, label = arrays["x"], arrays["label"]
    inner = ndimage.label(label == 1)[0]
    nearest = ndimage.distance_transform_edt(inner == 0, return_distances=False, return_indices=True)
    fields = np.where(label > 0, inner[tuple(nearest)], 0)
    sample = Sample({"VI": torch.from_numpy(x.astype(np.int32))}, name="us")
    green = x[:, 0].astype(float)
    return Place("USA, 1 km2, 5 fields", INDICES, sample, fields, 50, green, False, 60, 100)


def france(data: Path) -> Place:
    """Ten dates of Sentinel-2, 82 parcels; what lies between them is not known."""
    with np.load(data / "france_parcels_2018/npz/france_2018.npz") as arrays:
        fields = arrays["parcel_id"].astype(np.int64)
        h, w = fields.shape
        fine, coarse = arrays["s2_10m"], arrays["s2_20m"].repeat(2, -2).repeat(2, -1)[..., :h, :w]
        clear = np.isin(arrays["scl_20m"], SCL_CLEAR).repeat(2, -2).repeat(2, -1)[..., :h, :w]
        days = days_since_epoch(arrays["dates"])
    bands = dict(zip(("B02", "B03", "B04", "B08"), fine.swapaxes(0, 1), strict=True))
    bands |= dict(zip(("B05", "B06", "B07", "B8A", "B11", "B12"), coarse.swapaxes(0, 1), strict=True))
    image = np.stack([bands[name] for name in S2.band_ids], 1).astype(np.int32)
    seen = clear & (image > 0).all(1)
    sample = Sample({"S2": torch.from_numpy(image)}, {"S2": days}, {"S2": torch.from_numpy(seen)}, name="france")
    red, near = bands["B04"].astype(float), bands["B08"].astype(float)
    green = np.where(seen, (near - red) / np.maximum(near + red, 1), np.nan)
    return Place("France, 82 parcels, partly labeled", S2, sample, fields, 58, green, True, 3, 25)


def write(place: Place, out: Path, group: np.ndarray, fold: int, folds: int) -> dict[str, list[tuple[int, int]]]:
    """Blocks of a fold as chips."""
    role, name = roles(group, fold, folds), place.sensor.name
    found: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    for (y, x), kind in zip(place.corners, role, strict=True):
        window = (..., slice(y, y + place.side), slice(x, x + place.side))
        valid = {key: mask[window] for key, mask in place.sample.valid.items()}
        part = Sample({name: place.sample.images[name][window]}, place.sample.dates, valid, name=f"{y}_{x}")
        write_chip(out / "h5_samples" / f"{y}_{x}.h5", part, [place.sensor], fields=place.part(y, x))
        found[("train", "val", "test")[kind]].append((y, x))
    (out / "data_lists").mkdir(parents=True, exist_ok=True)
    for split, corners in found.items():
        (out / "data_lists" / f"{split}.txt").write_text("".join(f"{y}_{x}\n" for y, x in corners))
    return found


def train(place: Place, out: Path, seed: int, start: Path | None, console: Console) -> Checkpoint:
    """A small model on the blocks of a fold, from random weights or from those of a file."""
    known = place.sensor.name == "S2"
    sensor = "S2" if known else {
        "name": "VI", "gsd": 10, "scale": 1e-4,
        "bands": [{"id": band.id, "common_name": band.id, "wavelength": 0.0} for band in INDICES.bands],
    }  # fmt: skip
    values = {
        "name": place.title,
        "seed": seed,
        "start_from": None if start is None else str(start),
        "data": {"root": str(out), "sensors": [sensor], "label_key": "instances", "cache": True, "check_bands": known},
        "augment": {"crop": 32, "drop_frames": 0.2},
        "model": {"size": SMALL},
        "task": {
            "kind": "fields",
            "partial_labels": place.partial,
            "tolerance": TOLERANCE,
            "watershed": {"reach": place.reach},
            "loss": [{"kind": "cross_entropy"}, {"kind": "tversky"}, {"kind": "log_cosh_dice"}],
        },
        "training": {"epochs": place.epochs, "batch_size": 2, "learning_rate": 2e-3, "workers": 0},
    }
    return Checkpoint.load(fit(parse(values), out / "run", resume=False, console=console))


def gradients(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Greenest value of the season, and the rank in percent of the gradients of all bands and dates ``(h, w)``."""
    greenest = np.nan_to_num(place.green, nan=-1.0).max(0)
    image = place.sample.images[place.sensor.name].numpy().astype(float)
    seen = place.sample.mask(place.sensor.name).numpy()
    total = np.zeros(image.shape[-2:])
    for frame, mask in zip(image, seen, strict=True):
        whole = ndimage.binary_erosion(mask)
        for band in frame:
            if mask.any():
                steep = np.hypot(ndimage.sobel(band, 0), ndimage.sobel(band, 1)) / (band[mask].std() + 1)
                total += np.where(whole, steep, 0)
    times = np.maximum(ndimage.binary_erosion(seen, np.ones((1, 3, 3))).sum(0), 1)
    rank = np.argsort(np.argsort((total / times).ravel())) / total.size
    return greenest, (100 * rank).astype(np.uint8).reshape(total.shape)


def baseline(place: Place, corners: dict[str, list[tuple[int, int]]]) -> dict[str, float]:
    """Sums over the test blocks, with the two thresholds that do best on the others."""
    greenest, steep = gradients(place)

    def sums(splits: tuple[str, ...], least: float, seed: int) -> dict[str, float]:
        inside = np.ones_like(greenest, bool) if place.partial else greenest >= least
        layers = np.stack([100 * inside, steep, np.full_like(steep, 100)]).astype(np.uint8)
        parts = [corner for split in splits for corner in corners[split]]
        return add(judge(place, layers[:, y : y + place.side, x : x + place.side], y, x, seed) for y, x in parts)

    known = ("train", "val")
    levels = [0.0] if place.partial else np.quantile(greenest, np.arange(0, 0.5, 0.05)).tolist()
    least = max(levels, key=lambda level: score(sums(known, level, 50)).summary["extent_IoU"])
    seed = max(range(10, 91, 10), key=lambda level: score(sums(known, least, level)).summary["overall"])
    return sums(("test",), least, seed)


def judge(place: Place, layers: np.ndarray, y: int, x: int, seed: int) -> dict[str, float]:
    """Sums of one block for seeds below a steepness."""
    found = Watershed(boundary=seed, reach=place.reach).find(layers)
    return compare(found, place.part(y, x), PIXEL, TOLERANCE, partial=place.partial)


def add(parts: Iterator[dict[str, float]]) -> dict[str, float]:
    """The sum of sums."""
    total: dict[str, float] = {}
    for part in parts:
        total = {key: total.get(key, 0.0) + value for key, value in part.items()}
    return total


def row(title: str, model: str, sums: dict[str, float]) -> str:
    """A row of the table."""
    summary = score(sums).summary
    figures = " | ".join(
        f"{summary[key]:.3f}" if key != "boundary_distance" else f"{summary[key]:.1f}" for key in SHOWN
    )
    return f"| {title} | {model} | {int(sums['fields_true'])} | {figures} |"


PLACES = {"us": united_states, "france": france}


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/fields"))
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-from", type=Path, help="a checkpoint of the same model, for Sentinel-2")
    asked, begun = parser.parse_args(), time.process_time()
    console = Console(width=None if sys.stdout.isatty() else 120)
    lines = [f"| place | model | fields | {' | '.join(SHOWN)} |", "|---" * (3 + len(SHOWN)) + "|"]
    for place in (PLACES[name](asked.data) for name in asked.places):
        parts = [place.part(*corner) for corner in place.corners]
        sizes = np.array([[np.count_nonzero(part > 0), len(np.unique(part))] for part in parts], float)
        group = most_even(sizes, asked.folds, asked.seed)
        sums: dict[str, list[dict[str, float]]] = {name: [] for name in ("AgriFM", *SHARES, BASELINE)}
        for fold in range(asked.folds):
            out = asked.out / place.sensor.name / f"fold_{fold}"
            corners = write(place, out, group, fold, asked.folds)
            best = train(place, out, asked.seed + fold, asked.start_from, console)
            sums["AgriFM"].append(tested(best, corners["test"], place))
            # The choice may have changed the watershed; the candidates are shown with that of the experiment.
            experiment = Checkpoint.load(out / "run" / "pixels.safetensors").experiment.model_copy(
                update={"network": True}
            )
            for name, share in SHARES.items():
                model = replace(best, experiment=experiment, pixel_share=share)
                sums[name].append(tested(model, corners["test"], place))
            sums[BASELINE].append(baseline(place, corners))
            rows = [row(place.title, name, add(iter(parts))) for name, parts in sums.items()]
            console.print("\n".join([f"after {fold + 1} of {asked.folds} folds", *lines[:2], *rows]), highlight=False)
        lines += rows
    (asked.out / "table.md").write_text("\n".join(lines) + "\n")
    console.print(f"{(time.process_time() - begun) / 60:.1f} minutes of CPU", highlight=False)


def tested(best: Checkpoint, corners: list[tuple[int, int]], place: Place) -> dict[str, float]:
    """Sums of a model over the test blocks."""
    from agrifm.evaluation.scoring import outputs
    from agrifm.tasks.fields import Fields, percent

    task, parts = best.experiment.task, []
    assert isinstance(task, Fields)
    for batch, output in outputs(best, best.experiment.data.split("test")):
        for name, layers in zip(batch.names, percent(task.layers(output)).cpu().numpy(), strict=True):
            y, x = map(int, name.split("_"))
            found = task.watershed.find(layers)
            parts.append(compare(found, place.part(y, x), PIXEL, TOLERANCE, partial=place.partial))
    assert len(parts) == len(corners)
    return add(iter(parts))


if __name__ == "__main__":
    main()
