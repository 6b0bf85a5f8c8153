"""Writing of chips: a scene is cut, split by blocks of ground, and written with everything that training needs."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from agrifm.chips.classes import IGNORE, ClassTable, alike
from agrifm.chips.experiment import class_list, experiment
from agrifm.chips.labels import LabelOptions, Labels, read_labels
from agrifm.chips.leakage import LeakageReport, find_leakage
from agrifm.chips.picture import save_split_picture
from agrifm.chips.plan import Chip, ChipPlan, SplitAssignment
from agrifm.chips.rasterize import hectares
from agrifm.chips.report import ImpossiblePixels, Report
from agrifm.chips.spatial_split import SPLITS
from agrifm.chips.unseen import without_unseen
from agrifm.data.chips import write_chip
from agrifm.errors import InputError, counted, reason
from agrifm.io import locked, write_whole, writing
from agrifm.progress import counting
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area, Scene, Stack

TILE_BYTES = 1 << 28  # of images that are read at once; reading takes some three times as much memory
CHIP_FILE = re.compile(r".+_r\d{3,}_c\d{3,}(\.\d+\.part)?\.h5(\.part)?")  # also unfinished ones of an interrupted run
LONGEST = 100  # characters of a scene's name in the names of its chips
UNFINISHED = "chips.unfinished"
FEWEST_LABELS = 5  # of a class, for three splits


def write_chips(
    scene: Scene,
    labels: Path,
    out: Path,
    plan: ChipPlan = ChipPlan(),  # noqa: B008 (frozen)
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Cut a scene into labeled chips, and write everything that ``agrifm train`` needs.

    Writes ``h5_samples/*.h5``, ``classes.yaml``, ``crops.yaml`` (an experiment), ``report.md``, ``report.json``,
    ``split.png`` and last ``data_lists/{train,val,test}.txt``.

    Args:
        scene: Scene on a grid in meters.
        labels: Path of a vector file, a table of points or a raster.
        out: Folder of the result.
        plan: Settings.
        overwrite: Whether to replace existing chips.
        console: Console that shows progress.

    Raises:
        InputError: If labels or scene cannot be used, or the folder has chips already.
    """
    console = console or Console(quiet=True)
    _check_grid(scene)
    _refuse_file(out)
    with locked(out):
        _refuse_existing(out, overwrite)
        with console.status("rasterizing labels and choosing splits"):
            table = None if plan.classes is None else ClassTable.read(plan.classes)
            options = {entry.name: getattr(plan, entry.name) for entry in fields(LabelOptions)}
            labels_on_grid = read_labels(labels, scene.grid, table=table, **options)
            if len(labels_on_grid.points):
                labels_on_grid = without_unseen(labels_on_grid, scene, labels)
            plan = replace(plan, size=plan.side(labels_on_grid))
            assignment = SplitAssignment.of(labels_on_grid, plan, scene.resolution)
        return _write(scene, str(labels), plan, labels_on_grid, assignment, out, console)


def _write(
    scene: Scene, source: str, plan: ChipPlan, labels: Labels, assignment: SplitAssignment, out: Path, console: Console
) -> Report:
    prefix = re.sub(r"[^\w-]+", "_", scene.name)[:LONGEST] or "scene"
    chips = assignment.chips(prefix)
    names: dict[str, list[str]] = {}
    for split, share in zip(SPLITS, plan.shares, strict=True):
        if share:
            names[split] = [chip.name for chip in chips if chip.split == split]
    _prepare_folder(out)
    numbers = _field_numbers(labels, assignment.label)
    impossible = _write_images(scene, chips, assignment.label, numbers, out, console)
    with console.status("checking for leakage"):
        leaks = find_leakage(out / "h5_samples", names, labels.group, scene.grid, len(labels.classes), plan.distance)
    leaks.refuse(out)
    report = Report(
        scene=scene.name,
        labels=source,
        plan=asdict(plan),
        classes=labels.classes,
        chips={split: len(names[split]) for split in names},
        areas={split: [hectares(n, scene.grid) for n in counts] for split, counts in leaks.pixels.items()},
        blocks=len({cell.block for cell in assignment.cells if cell.has_labels(labels.label)}),
        block=assignment.block,
        account=labels.account,
        crossing=assignment.crossing,
        lost={reason: hectares(n, scene.grid) for reason, n in assignment.lost.items()},
        leaks=leaks,
        notes=_notes(scene, plan, leaks, labels),
        impossible=impossible,
        pixel=hectares(1, scene.grid),
    )
    _finish(scene, report, labels, assignment, names, out)
    return report


def _finish(
    scene: Scene,
    report: Report,
    labels: Labels,
    assignment: SplitAssignment,
    names: Mapping[str, Sequence[str]],
    out: Path,
) -> None:
    """Write everything except the chips; the lists come last, because they make the folder a data set."""
    counts = ", ".join(f"{count} {split}" for split, count in report.chips.items())
    title = f"{scene.name}: {counts} {'chip' if sum(report.chips.values()) == 1 else 'chips'}"
    save_split_picture(out / "split.png", labels.label, assignment, labels.classes, title, labels.points)
    report.write(out)
    write_whole(out / "classes.yaml", class_list(labels.classes))
    write_whole(out / "crops.yaml", experiment(scene, labels.classes, out, assignment.cells[0].area, report.chips))
    for split in names:
        write_whole(out / "data_lists" / f"{split}.txt", "\n".join(names[split]) + "\n")
    (out / UNFINISHED).unlink()


def _check_grid(scene: Scene) -> None:
    crs = scene.grid.crs
    if crs is None or not crs.projected or not crs.units[0].startswith("met"):
        units = "no CRS" if crs is None else " and ".join(set(crs.units))
        raise InputError(
            f"scene {scene.name}",
            found=f"a grid in {units} ({crs})",
            expected="a grid in meters: areas and distances are measured on it",
            repair="open the scene on a grid in meters, e.g. of its UTM zone.",
        )


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(
            out, found="a file", expected="a folder, or a new name", repair="name another folder, or move the file."
        )


def _refuse_existing(out: Path, overwrite: bool) -> None:
    files = sorted([*out.glob("h5_samples/*.h5"), *out.glob("data_lists/*.txt"), *out.glob("crops.yaml")])
    if files and not overwrite and not (out / UNFINISHED).is_file():
        raise InputError(
            out,
            found=f"{counted(len(files), 'file')} of an earlier run, e.g. {files[0].relative_to(out)}",
            expected="a new folder",
            repair="name another folder, or replace these files with --overwrite.",
        )


def _prepare_folder(out: Path) -> None:
    """Remove files of an earlier run; the lists go first, so that an incomplete data set never looks complete."""
    with writing(out):
        for folder in ("data_lists", "h5_samples"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        note = "These chips are not complete. Run the command that writes them again.\n"
        (out / UNFINISHED).write_text(note, encoding="utf-8")
        for split in SPLITS:
            (out / "data_lists" / f"{split}.txt").unlink(missing_ok=True)
        for path in (out / "h5_samples").iterdir():
            if CHIP_FILE.fullmatch(path.name):
                path.unlink()


def _field_numbers(labels: Labels, remaining: np.ndarray) -> np.ndarray | None:
    """Return the numbers of fields ``(h, w)``: 0 without a field, -1 in fields without a label among ``remaining``.

    Points lie in fields of unknown outline. Returns None for label rasters and for points alone, which have no fields.
    """
    if not labels.outlined:
        return None
    lost = ((labels.parcel > 0) & (remaining == IGNORE)) | (labels.parcel > labels.outlined)
    return np.where(lost, IGNORE, labels.parcel)


def _write_images(
    scene: Scene, chips: Sequence[Chip], label: np.ndarray, fields: np.ndarray | None, out: Path, console: Console
) -> ImpossiblePixels:
    """Write the chips, and return counts of pixels with a reflectance that no land has."""
    impossible: ImpossiblePixels = {sensor.name: {} for sensor in scene.sensors}
    written = 0
    with counting(console, "writing chips") as step:
        for area, chips_of_area in _tiles(scene, chips):
            tile = scene.read(area)
            for sensor, stack in tile.stacks.items():
                _add_impossible(impossible[sensor], stack)
            for chip in chips_of_area:
                sample = cut_sample(tile, chip.cell.area, chip.name)
                sample = replace(sample, label=torch.from_numpy(chip.label(label)))
                path = out / "h5_samples" / f"{chip.name}.h5"
                numbers = None if fields is None else chip.label(fields)
                with _writing(path):
                    write_chip(path, sample, scene.sensors, scene.georeference(chip.cell.area), numbers)
                written += 1
                step(written, len(chips))
    return impossible


@contextmanager
def _writing(path: Path) -> Generator[None]:
    """Turn a failure of the disk into an error; the same command can be run again."""
    try:
        yield
    except OSError as error:
        raise InputError(
            path,
            found=f"a chip that cannot be written: {reason(error)}",
            expected="space and permission to write",
            repair="make room, then run the same command again.",
        ) from error


def _add_impossible(counts: dict[str, tuple[int, int]], stack: Stack) -> None:
    for date, (impossible, clear) in stack.impossible_pixels().items():
        day = date.isoformat()
        impossible_before, clear_before = counts.get(day, (0, 0))
        counts[day] = (impossible_before + impossible, clear_before + clear)


def _tiles(scene: Scene, chips: Sequence[Chip]) -> Iterator[tuple[Area, list[Chip]]]:
    """Group neighboring chips, and yield each group with the area that contains it, as large as memory allows.

    Files are opened once for each area, and blocks of compressed files are decoded as seldom as possible.
    """
    if not chips:
        return
    first = chips[0].cell.area
    pixels = int(TILE_BYTES / scene.pixel_bytes)
    chips_along_side = max(1, isqrt(pixels) // max(first.height, first.width))
    groups: dict[tuple[int, int], list[Chip]] = {}
    for chip in chips:
        tile = (chip.cell.row // chips_along_side, chip.cell.column // chips_along_side)
        groups.setdefault(tile, []).append(chip)
    for group in groups.values():
        areas = [chip.cell.area for chip in group]
        top = min(area.row for area in areas)
        left = min(area.column for area in areas)
        bottom = max(area.row + area.height for area in areas)
        right = max(area.column + area.width for area in areas)
        yield Area(top, left, bottom - top, right - left), group


def _notes(scene: Scene, plan: ChipPlan, leaks: LeakageReport, labels: Labels) -> tuple[str, ...]:
    notes = []
    present = np.unique(labels.label)
    for number, entry in enumerate(labels.classes):
        splits_without = [split for split, counts in leaks.pixels.items() if not counts[number]]
        if number not in present:
            notes.append(f"class {entry.name} does not occur in the scene")
        elif splits_without:
            notes.append(f"class {entry.name} does not occur in {' and '.join(splits_without)}")
    if labels.parcel.any():
        notes += _few(labels)
    notes += alike((entry.name for entry in labels.classes), plan.classes)
    if not labels.parcel.any():
        notes.append("a raster has no parcels: only blocks and the distance keep splits apart")
    size = plan.side(labels)
    for sensor in scene.sensors:
        factor = scene.factor(sensor)
        if size % factor:
            notes.append(
                f"{size} pixels are no multiple of {factor}, the width of a pixel of {sensor.name}: its pixels "
                f"lie up to half a pixel off in some chips; a multiple of {factor} avoids that"
            )
    return tuple(notes)


def _few(labels: Labels) -> list[str]:
    """Return a sentence for every class with so few labels that no split of them says much."""
    sentences = []
    for entry, count in zip(labels.classes, labels.counts(), strict=True):
        if 0 < count < FEWEST_LABELS:
            sentences.append(
                f"class {entry.name} has only {counted(count, 'label')}; with fewer than {FEWEST_LABELS}, its "
                "scores mean little"
            )
    return sentences
