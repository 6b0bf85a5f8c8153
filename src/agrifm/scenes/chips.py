"""Scene and labels to chips: cut, split by blocks of ground, written with everything that training needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import gcd, isqrt, lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from odc.geo.geobox import GeoBox
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agrifm.data.h5 import write_chip
from agrifm.errors import InputError
from agrifm.scenes.blocks import (
    NOWHERE,
    SPLITS,
    Cell,
    Pieces,
    choose_splits,
    keep_distance,
    keep_parcels_whole,
    lattice,
    sensible_block,
    window,
)
from agrifm.scenes.labels import IGNORE, ClassTable, Labels, hectares, read_labels
from agrifm.scenes.report import Report, areas_of, draw_splits, find_leaks, write_whole
from agrifm.scenes.scene import Area, Scene
from agrifm.sensors import SENSORS, Sensor
from agrifm.tasks.segmentation import CropClass

TILE_BYTES = 1 << 28  # of images that are read at once; reading takes some three times as much memory
CACHE_BYTES = 1 << 30  # chips that need less than this may stay in memory while training
OURS = re.compile(r".+_r\d{3,}_c\d{3,}\.h5(\.part)?")
UNFINISHED = "chips.unfinished"


@dataclass(frozen=True)
class ChipPlan:
    """How labels become chips.

    Args:
        class_column: of a vector file; may be left out where it has only one.
        classes: table of codes, names and colors; without it every code is a class.
        layer: of a vector file; may be left out where it has only one.
        size: rows and columns of a chip, in the scene's pixels.
        buffer: meters by which polygons shrink on all sides.
        distance: meters between labels of different splits; parcels are never shared anyway.
        val, test: shares of the labeled area.
        block: chips along the side of a block of ground; by default as many as leave a dozen blocks.
        seed: other seeds give other splits.

    Raises:
        InputError: a number is out of range.
    """

    class_column: str | None = None
    classes: Path | None = None
    layer: str | None = None
    size: int = 96
    buffer: float = 0.0
    distance: float = 0.0
    val: float = 0.2
    test: float = 0.2
    block: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("size", self.size >= 8, "at least 8 pixels"),
            ("buffer", self.buffer >= 0, "meters, 0 or more"),
            ("distance", self.distance >= 0, "meters, 0 or more"),
            ("val", 0 < self.val < 1, "a share between 0 and 1"),
            ("test", 0 <= self.test < 1 and self.val + self.test < 1, "a share that leaves some ground for training"),
            ("block", self.block is None or self.block >= 1, "at least 1 chip"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not good:
                value = getattr(self, name)
                raise InputError(f"--{name}", found=str(value), expected=expected, repair="give another number.")

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of train, val and test."""
        return 1 - self.val - self.test, self.val, self.test


@dataclass(frozen=True)
class Division:
    """Ground shared out to splits.

    Args:
        cells: of the lattice.
        splits: of the cells, -1 where their block has no labels.
        label: ``(h, w)`` what is left of the labels.
        block: chips along the side of a block.
        crossing: parcels that lay in several splits.
        lost: pixels that lost their label, by reason.
    """

    cells: tuple[Cell, ...]
    splits: np.ndarray
    label: np.ndarray
    block: int
    crossing: int
    lost: dict[str, int]

    @classmethod
    def of(cls, labels: Labels, plan: ChipPlan, pixel: float) -> Division:
        """Share out the ground; ``pixel`` is its size in meters.

        Raises:
            InputError: a split gets no labels.
        """
        shape, classes = labels.label.shape, len(labels.classes)
        fine = lattice(shape, plan.size, 1)
        pieces = Pieces.count(labels.label, labels.parcel, fine, classes)
        block = plan.block or sensible_block(shape, plan.size, pieces)
        cells = lattice(shape, plan.size, block)
        splits = choose_splits(pieces, cells, plan.shares, plan.seed)
        whole, crossing = keep_parcels_whole(labels.label, labels.parcel, pieces, cells, splits)
        left = keep_distance(whole, cells, splits, plan.distance / pixel)
        n = [int((array != IGNORE).sum()) for array in (labels.label, whole, left)]
        lost = {
            "belonged to parcels of another split": n[0] - n[1],
            f"lay within {plan.distance:g} m of a split that comes first": n[1] - n[2],
        }
        division = cls(tuple(cells), splits, left, block, crossing, lost)
        division._check(plan)
        return division

    def _check(self, plan: ChipPlan) -> None:
        for number, share in enumerate(plan.shares):
            if share and not any((cell.labels_of(self.label) != IGNORE).any() for cell in self.of_split(number)):
                raise InputError(
                    f"{SPLITS[number]} split",
                    found=f"no labels left; lost pixels: {self.lost}",
                    expected="labels in every split",
                    repair="use smaller chips (--size), a smaller --distance, or another --seed.",
                )

    def of_split(self, number: int) -> Iterator[Cell]:
        """Cells of a split."""
        return (cell for cell, split in zip(self.cells, self.splits, strict=True) if split == number)

    def chips(self, prefix: str) -> list[Chip]:
        """Cells with labels, as chips to write."""
        return [
            Chip(f"{prefix}_r{cell.row:03d}_c{cell.column:03d}", SPLITS[split], cell)
            for cell, split in zip(self.cells, self.splits, strict=True)
            if split != NOWHERE and (cell.labels_of(self.label) != IGNORE).any()
        ]


@dataclass(frozen=True)
class Chip:
    """A chip to write."""

    name: str
    split: str
    cell: Cell

    def label(self, raster: np.ndarray) -> np.ndarray:
        """Its label ``(h, w)``: only ground that is its own has one."""
        area, own = self.cell.area, self.cell.own
        label = np.full((area.height, area.width), IGNORE, np.int64)
        inside = Area(own.row - area.row, own.column - area.column, own.height, own.width)
        label[window(inside)] = raster[window(own)]
        return label


def write_chips(
    scene: Scene,
    labels: Path,
    out: Path,
    plan: ChipPlan = ChipPlan(),  # noqa: B008 (frozen)
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Cut a scene into labeled chips and write all that ``agrifm train`` needs.

    Writes ``h5_samples/*.h5``, ``classes.yaml``, ``crops.yaml`` (an experiment), ``report.md``, ``report.json``,
    ``split.png`` and last ``data_lists/{train,val,test}.txt``.

    Args:
        scene: on a grid in meters.
        labels: vector file or raster.
        out: folder.
        plan: how.
        overwrite: replace chips that are there.
        console: where progress is shown.

    Raises:
        InputError: labels or scene cannot be used, or chips are there already.
    """
    console = console or Console(quiet=True)
    _check_grid(scene)
    _refuse_existing(out, overwrite)
    table = None if plan.classes is None else ClassTable.read(plan.classes)
    with _progress(console, "burning labels") as step:
        found = read_labels(
            labels,
            scene.grid,
            table=table,
            class_column=plan.class_column,
            layer=plan.layer,
            buffer=plan.buffer,
            step=step,
        )
    with console.status("sharing out the ground"):
        division = Division.of(found, plan, scene.resolution)
    chips = division.chips(re.sub(r"[^\w-]+", "_", scene.name) or "scene")
    names = {split: [chip.name for chip in chips if chip.split == split] for split in SPLITS if _wanted(plan, split)}
    _begin(out)
    try:
        _write_all(scene, chips, division.label, out, console)
        with console.status("looking for leaks"):
            leaks = find_leaks(
                out / "h5_samples", names, found.parcel, scene.grid, len(found.classes), asked=plan.distance
            )
        leaks.refuse(out)
        report = Report(
            scene=scene.name,
            labels=str(labels),
            plan=asdict(plan),
            classes=found.classes,
            chips={split: len(several) for split, several in names.items()},
            areas=areas_of(leaks, scene.grid),
            blocks=_labeled_blocks(division, found.label),
            block=division.block,
            account=found.account,
            crossing=division.crossing,
            lost={reason: hectares(n, scene.grid) for reason, n in division.lost.items()},
            leaks=leaks,
            notes=_notes(scene, plan, leaks.pixels, found),
        )
        _finish(scene, report, found, division, names, out)
    except OSError as error:
        raise InputError(
            out,
            found=f"a folder that cannot be written: {error}",
            expected="space and permission to write",
            repair="make room, then give the same command again.",
        ) from error
    return report


def _wanted(plan: ChipPlan, split: str) -> bool:
    return plan.shares[SPLITS.index(split)] > 0


def _finish(
    scene: Scene, report: Report, found: Labels, division: Division, names: dict[str, list[str]], out: Path
) -> None:
    """Everything beside the chips; the lists last, since they make the folder a data set."""
    title = f"{scene.name}: {', '.join(f'{count} {split}' for split, count in report.chips.items())} chips"
    draw_splits(out / "split.png", found.label, division.label, division.cells, division.splits, found.classes, title)
    report.write(out)
    write_whole(out / "classes.yaml", class_list(found.classes))
    write_whole(out / "crops.yaml", experiment(scene, found.classes, out, division.cells[0].area, report.chips))
    for split, several in names.items():
        write_whole(out / "data_lists" / f"{split}.txt", "\n".join(several) + "\n")
    (out / UNFINISHED).unlink()


def _check_grid(scene: Scene) -> None:
    crs = scene.grid.crs
    if crs is None or not crs.projected or not crs.units[0].startswith("met"):
        raise InputError(
            f"scene {scene.name}",
            found=f"a grid in {'no CRS' if crs is None else ' and '.join(set(crs.units))} ({crs})",
            expected="a grid in meters: areas and distances are measured on it",
            repair="open the scene on a grid in meters, e.g. of its UTM zone.",
        )


def _refuse_existing(out: Path, overwrite: bool) -> None:
    there = sorted([*out.glob("h5_samples/*.h5"), *out.glob("data_lists/*.txt")])
    if there and not overwrite and not (out / UNFINISHED).is_file():
        raise InputError(
            out,
            found=f"{len(there)} files of an earlier run, e.g. {there[0].relative_to(out)}",
            expected="a new folder",
            repair="name another folder, or replace what is there with --overwrite.",
        )


def _begin(out: Path) -> None:
    """Clear the folder of what an earlier run wrote; the lists go first, so that no half data set looks whole."""
    for folder in ("data_lists", "h5_samples"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).write_text("These chips are not complete. The command that writes them may be given again.\n")
    for split in SPLITS:
        (out / "data_lists" / f"{split}.txt").unlink(missing_ok=True)
    for path in (out / "h5_samples").iterdir():
        if OURS.fullmatch(path.name):
            path.unlink()


def _write_all(scene: Scene, chips: Sequence[Chip], label: np.ndarray, out: Path, console: Console) -> None:
    with _progress(console, "writing chips") as step:
        done = 0
        for area, several in tiles(scene, chips):
            tile = scene.read(area)
            for chip in several:
                sample = tile.cut(chip.cell.area, chip.name)
                sample = replace(sample, label=torch.from_numpy(chip.label(label)))
                path = out / "h5_samples" / f"{chip.name}.h5"
                write_chip(path, sample, scene.sensors, scene.place(chip.cell.area))
                done += 1
                step(done, len(chips))


def tiles(scene: Scene, chips: Sequence[Chip]) -> Iterator[tuple[Area, list[Chip]]]:
    """Chips that are near each other, with the area that holds them all: as large as memory allows.

    Files are opened once for each area, and blocks of compressed files are decoded as seldom as possible.
    """
    if not chips:
        return
    pixel = sum(
        len(layer.frames) * (2 * len(layer.sensor.bands) + 1) / scene.factor(layer.sensor) ** 2
        for layer in scene.layers
    )
    side = max(1, isqrt(int(TILE_BYTES / pixel)) // max(chips[0].cell.area.height, chips[0].cell.area.width))
    groups: dict[tuple[int, int], list[Chip]] = {}
    for chip in chips:
        groups.setdefault((chip.cell.row // side, chip.cell.column // side), []).append(chip)
    for several in groups.values():
        areas = [chip.cell.area for chip in several]
        top, left = min(a.row for a in areas), min(a.column for a in areas)
        bottom, right = max(a.row + a.height for a in areas), max(a.column + a.width for a in areas)
        yield Area(top, left, bottom - top, right - left), several


def _labeled_blocks(division: Division, label: np.ndarray) -> int:
    return len({cell.block for cell in division.cells if (cell.labels_of(label) != IGNORE).any()})


def _notes(scene: Scene, plan: ChipPlan, pixels: dict[str, list[int]], labels: Labels) -> tuple[str, ...]:
    notes = []
    present = np.unique(labels.label)
    for i, entry in enumerate(labels.classes):
        lacking = [split for split, counts in pixels.items() if not counts[i]]
        if i not in present:
            notes.append(f"class {entry.name} does not occur in the scene")
        elif lacking:
            notes.append(f"class {entry.name} does not occur in {' and '.join(lacking)}")
    if not labels.parcel.any():
        notes.append("a raster knows no parcels: only blocks and the distance keep splits apart")
    for sensor in scene.sensors:
        factor = scene.factor(sensor)
        if plan.size % factor:
            notes.append(
                f"{plan.size} pixels are no whole number of {sensor.name}'s, which are {factor} of the scene's wide: "
                f"its pixels lie up to half a pixel off in some chips; a multiple of {factor} avoids that"
            )
    return tuple(notes)


def class_list(classes: Sequence[CropClass]) -> str:
    """Classes as YAML, as the section ``task.classes`` of an experiment wants them."""
    rows = ({"name": entry.name, "color": entry.color} for entry in classes)
    return "".join(f"- {_in_line(row)}\n" for row in rows)


def _in_line(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()


def experiment(scene: Scene, classes: Sequence[CropClass], out: Path, chip: Area, chips: dict[str, int]) -> str:
    """An experiment in YAML that trains a small model on the chips of a scene."""
    side = _crop(scene, chip)
    values = sum(len(layer.days) * len(layer.sensor.bands) / scene.factor(layer.sensor) ** 2 for layer in scene.layers)
    small = 4 * values * chip.height * chip.width * sum(chips.values()) < CACHE_BYTES
    listed = "".join(f"    {line}\n" for line in class_list(classes).splitlines())
    sensors = _in_line([_sensor(sensor) for sensor in scene.sensors])
    return (
        f"# Crop types on the chips in {out.as_posix()}. Train with 'agrifm train'; paths start where it is run.\n"
        f"name: {_in_line({'name': out.name})[len('{name: ') : -1]}\nseed: 0\n"
        f"data:\n  root: {_in_line({'root': out.as_posix()})[len('{root: ') : -1]}\n  sensors: {sensors}\n"
        f"  statistics: data    # mean and deviation of the training chips, clouds left out\n"
        f"  cache: {'true' if small else 'false'}\n"
        f"task:\n  kind: segmentation\n  classes:\n{listed}"
        f"augment:\n  flips: true\n  turns: true\n" + (f"  crop: {side}\n" if side else "") + "model:\n  size: tiny\n"
        f"training:\n  epochs: 50\n  batch_size: {min(4, chips['train'])}\n  learning_rate: 1.0e-3\n"
        f"  warmup: 0.1\n  workers: {0 if small else 2}\n"
    )


def _crop(scene: Scene, chip: Area) -> int | None:
    """Side of the random square of training: half a chip, at least 32 pixels, whole pixels of every sensor."""
    steps = [1]
    for sensor in scene.sensors:
        factor = scene.factor(sensor)
        steps += [n // gcd(n, max(1, round(n / factor))) for n in (chip.height, chip.width)]
    step, smallest = lcm(*steps), min(chip.height, chip.width)
    side = -(-max(32, smallest // 2) // step) * step
    return side if side < smallest else None


def _sensor(sensor: Sensor) -> Any:
    known = SENSORS.get(sensor.name) == sensor
    return sensor.name if known else TypeAdapter(Sensor).dump_python(sensor, mode="json", exclude_none=True)


@contextmanager
def _progress(console: Console, text: str) -> Generator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
