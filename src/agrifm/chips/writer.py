"""Scene and labels to chips: cut, split by blocks of ground, written with everything that training needs."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from agrifm.chips.classes import IGNORE, ClassTable, alike
from agrifm.chips.experiment import class_list, experiment
from agrifm.chips.labels import Labels, read_labels
from agrifm.chips.leakage import find_leakage
from agrifm.chips.picture import save_split_picture
from agrifm.chips.plan import Chip, ChipPlan, SplitAssignment
from agrifm.chips.rasterize import hectares
from agrifm.chips.report import Impossible, Report
from agrifm.chips.spatial_split import SPLITS
from agrifm.data.chips import write_chip
from agrifm.errors import InputError, reason
from agrifm.io import locked, write_whole, writing
from agrifm.progress import counting
from agrifm.scenes.scene import Area, Scene, Stack

TILE_BYTES = 1 << 28  # of images that are read at once; reading takes some three times as much memory
OURS = re.compile(r".+_r\d{3,}_c\d{3,}(\.\d+\.part)?\.h5(\.part)?")  # with what a killed run left unfinished
LONGEST = 100  # characters of a scene's name in the names of its chips
UNFINISHED = "chips.unfinished"


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
        scene: Scene on a grid in meters.
        labels: Vector file or raster.
        out: Folder.
        plan: How.
        overwrite: Replace chips that are there.
        console: Shows progress.

    Raises:
        InputError: If labels or scene cannot be used, or chips are there already.
    """
    console = console or Console(quiet=True)
    _check_grid(scene)
    _refuse_file(out)
    with locked(out):
        _refuse_existing(out, overwrite)
        with console.status("burning labels and sharing out the ground"):
            found = _labels(scene, labels, plan)
            division = SplitAssignment.of(found, plan, scene.resolution)
        return _write(scene, str(labels), plan, found, division, out, console)


def _labels(scene: Scene, path: Path, plan: ChipPlan) -> Labels:
    table = None if plan.classes is None else ClassTable.read(plan.classes)
    return read_labels(
        path, scene.grid, table=table, class_column=plan.class_column, layer=plan.layer, buffer=plan.buffer
    )


def _write(
    scene: Scene, source: str, plan: ChipPlan, labels: Labels, division: SplitAssignment, out: Path, console: Console
) -> Report:
    chips = division.chips(re.sub(r"[^\w-]+", "_", scene.name)[:LONGEST] or "scene")
    names = {
        split: [chip.name for chip in chips if chip.split == split]
        for split, share in zip(SPLITS, plan.shares, strict=True)
        if share
    }
    _begin(out)
    impossible = _write_images(scene, chips, division.label, fields_of(labels, division.label), out, console)
    with console.status("looking for leaks"):
        leaks = find_leakage(out / "h5_samples", names, labels.parcel, scene.grid, len(labels.classes), plan.distance)
    leaks.refuse(out)
    report = Report(
        scene=scene.name,
        labels=source,
        plan=asdict(plan),
        classes=labels.classes,
        chips={split: len(several) for split, several in names.items()},
        areas={split: [hectares(n, scene.grid) for n in counts] for split, counts in leaks.pixels.items()},
        blocks=len({cell.block for cell in division.cells if (cell.labels_of(labels.label) != IGNORE).any()}),
        block=division.block,
        account=labels.account,
        crossing=division.crossing,
        lost={reason: hectares(n, scene.grid) for reason, n in division.lost.items()},
        leaks=leaks,
        notes=_notes(scene, plan, leaks.pixels, labels),
        impossible=impossible,
    )
    _finish(scene, report, labels, division, names, out)
    return report


def _finish(
    scene: Scene, report: Report, labels: Labels, division: SplitAssignment, names: dict[str, list[str]], out: Path
) -> None:
    """Everything beside the chips; the lists last, since they make the folder a data set."""
    title = f"{scene.name}: {', '.join(f'{count} {split}' for split, count in report.chips.items())} chips"
    save_split_picture(out / "split.png", labels.label, division, labels.classes, title)
    report.write(out)
    write_whole(out / "classes.yaml", class_list(labels.classes))
    write_whole(out / "crops.yaml", experiment(scene, labels.classes, out, division.cells[0].area, report.chips))
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


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(
            out, found="a file", expected="a folder, or a new name", repair="name another folder, or move the file."
        )


def _refuse_existing(out: Path, overwrite: bool) -> None:
    there = sorted([*out.glob("h5_samples/*.h5"), *out.glob("data_lists/*.txt"), *out.glob("crops.yaml")])
    if there and not overwrite and not (out / UNFINISHED).is_file():
        raise InputError(
            out,
            found=f"{len(there)} files of an earlier run, e.g. {there[0].relative_to(out)}",
            expected="a new folder",
            repair="name another folder, or replace what is there with --overwrite.",
        )


def _begin(out: Path) -> None:
    """Clear the folder of what an earlier run wrote; the lists go first, so that no half data set looks whole."""
    with writing(out):
        for folder in ("data_lists", "h5_samples"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        (out / UNFINISHED).write_text(
            "These chips are not complete. The command that writes them may be given again.\n"
        )
        for split in SPLITS:
            (out / "data_lists" / f"{split}.txt").unlink(missing_ok=True)
        for path in (out / "h5_samples").iterdir():
            if OURS.fullmatch(path.name):
                path.unlink()


def fields_of(labels: Labels, left: np.ndarray) -> np.ndarray | None:
    """Numbers of fields ``(h, w)``, 0 where there is none, -1 where the labels that are ``left`` say nothing of one.

    None where labels are a raster, which knows no fields.
    """
    if not labels.parcel.any():
        return None
    return np.where((labels.parcel > 0) & (left == IGNORE), IGNORE, labels.parcel)


def _write_images(
    scene: Scene, chips: Sequence[Chip], label: np.ndarray, fields: np.ndarray | None, out: Path, console: Console
) -> Impossible:
    """Write the chips; by sensor and day, how many of the clear pixels have a reflectance that no land has."""
    found: Impossible = {sensor.name: {} for sensor in scene.sensors}
    with counting(console, "writing chips") as step:
        done = 0
        for area, several in tiles(scene, chips):
            tile = scene.read(area)
            for sensor, stack in tile.stacks.items():
                _add(found[sensor], stack)
            for chip in several:
                sample = tile.cut(chip.cell.area, chip.name)
                sample = replace(sample, label=torch.from_numpy(chip.label(label)))
                path = out / "h5_samples" / f"{chip.name}.h5"
                numbers = None if fields is None else chip.label(fields)
                with _writing(path):
                    write_chip(path, sample, scene.sensors, scene.georeference(chip.cell.area), numbers)
                done += 1
                step(done, len(chips))
    return found


@contextmanager
def _writing(path: Path) -> Generator[None]:
    """Any failure of the disk as one sentence; the same command may be given again."""
    try:
        yield
    except OSError as error:
        raise InputError(
            path,
            found=f"a chip that cannot be written: {reason(error)}",
            expected="space and permission to write",
            repair="make room, then give the same command again.",
        ) from error


def _add(counts: dict[str, tuple[int, int]], stack: Stack) -> None:
    for day, (odd, clear) in stack.impossible_pixels().items():
        before = counts.get(day.isoformat(), (0, 0))
        counts[day.isoformat()] = before[0] + odd, before[1] + clear


def tiles(scene: Scene, chips: Sequence[Chip]) -> Iterator[tuple[Area, list[Chip]]]:
    """Chips that are near each other, with the area that holds them all: as large as memory allows.

    Files are opened once for each area, and blocks of compressed files are decoded as seldom as possible.
    """
    if not chips:
        return
    longest = max(chips[0].cell.area.height, chips[0].cell.area.width)
    side = max(1, isqrt(int(TILE_BYTES / scene.pixel_bytes)) // longest)
    groups: dict[tuple[int, int], list[Chip]] = {}
    for chip in chips:
        groups.setdefault((chip.cell.row // side, chip.cell.column // side), []).append(chip)
    for several in groups.values():
        areas = [chip.cell.area for chip in several]
        top, left = min(a.row for a in areas), min(a.column for a in areas)
        bottom, right = max(a.row + a.height for a in areas), max(a.column + a.width for a in areas)
        yield Area(top, left, bottom - top, right - left), several


def _notes(scene: Scene, plan: ChipPlan, pixels: dict[str, list[int]], labels: Labels) -> tuple[str, ...]:
    notes = []
    present = np.unique(labels.label)
    for i, entry in enumerate(labels.classes):
        lacking = [split for split, counts in pixels.items() if not counts[i]]
        if i not in present:
            notes.append(f"class {entry.name} does not occur in the scene")
        elif lacking:
            notes.append(f"class {entry.name} does not occur in {' and '.join(lacking)}")
    notes += alike((entry.name for entry in labels.classes), plan.classes)
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
