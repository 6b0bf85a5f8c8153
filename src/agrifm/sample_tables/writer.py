"""A table of samples becomes a data set: classes are numbered, samples divided into splits, and chips written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agrifm.chips.classes import ClassTable, alike
from agrifm.chips.spatial_split import SPLITS
from agrifm.data.chips import write_chip
from agrifm.errors import InputError, counted, printable
from agrifm.io import whole_folder, writing
from agrifm.progress import counting
from agrifm.sample_tables.columns import TableOptions
from agrifm.sample_tables.dataset import INDEX, SampleData
from agrifm.sample_tables.offset import offset_warning
from agrifm.sample_tables.packing import pack
from agrifm.sample_tables.reading import listed
from agrifm.sample_tables.splits import divide
from agrifm.sample_tables.table import SampleTable, read_table
from agrifm.tasks.segmentation import CropClass
from agrifm.tasks.two_classes import refuse_one_class

FEWEST = 5  # samples of a class: three splits, and more than one to learn from
WRITTEN = (INDEX, "crops.yaml", "classes.yaml", "data_lists", "h5_samples")
MOST_NAMED = 6  # classes in a sentence


@dataclass(frozen=True)
class SamplePlan:
    """How samples become a data set.

    Args:
        classes: Table of codes, names and colors, or the name of a shipped one; without it every label is a class.
        drop_rare: Leave out classes with few samples instead of refusing them.
        val: Share of the samples for validation.
        test: Share of the samples for the test.
        seed: Seed of the split.

    Raises:
        InputError: If a share is out of range.
    """

    classes: Path | None = None
    drop_rare: bool = False
    val: float = 0.2
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise InputError(
                "--val and --test",
                found=f"{self.val:g} and {self.test:g}",
                expected="shares between 0 and 1 that leave some samples for training",
                repair="give other values, or leave them out.",
            )

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of train, val and test."""
        return 1 - self.val - self.test, self.val, self.test


@dataclass(frozen=True)
class SampleReport:
    """What was written.

    Args:
        data: Samples, classes and splits.
        notes: Sentences about what was found and what was left out.
        warnings: Sentences about what makes scores or maps worse.
    """

    data: SampleData
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def show(self, console: Console) -> None:
        """Print the sentences, and a table of samples by class and split."""
        for note in self.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)
        counts = self.data.counts
        table = Table("class")
        for split in SPLITS:
            table.add_column(split, justify="right")
        for entry, of_class in zip(self.data.classes, counts.T, strict=True):
            table.add_row(printable(entry.name), *(f"{count:,}" for count in of_class))
        table.add_section()
        table.add_row("all", *(f"{count:,}" for count in counts.sum(1)))
        console.print(table)
        for warning in self.warnings:
            console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)


def write_samples(
    path: Path,
    out: Path,
    options: TableOptions = TableOptions(),  # noqa: B008 (frozen)
    plan: SamplePlan = SamplePlan(),
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> SampleReport:
    """Write a table of samples as a data set on which ``agrifm train`` trains.

    Writes ``h5_samples/*.h5``, ``data_lists/{train,val,test}.txt``, ``classes.yaml``, ``crops.yaml`` (an experiment)
    and ``samples.csv``, which says where each sample is.

    Args:
        path: The table.
        out: Folder of the result.
        options: How the table is read.
        plan: Classes and splits.
        overwrite: Replace a data set that this function wrote.
        console: Shows progress.

    Raises:
        InputError: If the table cannot be used, or the folder exists.
    """
    console = console or Console(quiet=True)
    _refuse_existing(out, overwrite)
    with console.status("reading the table"):
        table = read_table(path, options)
        classes, numbers, notes = _classified(table, path, plan)
        table = table[numbers >= 0]
        numbers = numbers[numbers >= 0]
        division = divide(table, numbers, plan.shares, plan.seed)
        data = SampleData(table, classes, numbers, division, tuple(pack(table, division, plan.seed)))
    _remove(out)
    with whole_folder(out) as folder, counting(console, "writing chips") as step:
        for count, chip in enumerate(data.chips, 1):
            sample = chip.sample(table, numbers)
            write_chip(folder / "h5_samples" / f"{chip.name}.h5", sample, (table.sensor,), block=chip.block)
            step(count, len(data.chips))
        data.write_texts(folder, out)
    warnings = [division.warning] if division.warning else []
    # Whoever states an offset knows about it.
    about_offset = "" if options.offset is not None else offset_warning(table.values, table.sensor, table.days)
    if about_offset:
        warnings.append(about_offset)
    warnings += alike((entry.name for entry in classes), plan.classes)
    warnings += _absent(data, plan)
    return SampleReport(data, (*table.notes, *notes, division.sentence), tuple(warnings))


def _classified(
    table: SampleTable, path: Path, plan: SamplePlan
) -> tuple[tuple[CropClass, ...], np.ndarray, list[str]]:
    """Return the classes, the number of the class of each sample (-1 to leave it out), and notes.

    Raises:
        InputError: If there are fewer than two classes, or too few samples of one.
    """
    where = f"{path}: labels"
    codes = table.labels.tolist()
    if plan.classes is None:
        class_table = ClassTable.of_codes(codes, where)
    else:
        class_table = ClassTable.read(plan.classes).among(codes, where)
    numbers = class_table.numbers(codes)
    notes = []
    unlisted = numbers == len(class_table.classes)
    if unlisted.any():
        names = ", ".join(sorted(set(table.labels[unlisted]))[:8])
        notes.append(
            f"left out: {counted(unlisted.sum(), 'sample')} with labels that the class table does not list: {names}"
        )
        numbers[unlisted] = -1
    counts = np.bincount(numbers[numbers >= 0], minlength=len(class_table.classes))
    rare = np.flatnonzero((counts > 0) & (counts < FEWEST))
    named = listed([f"'{class_table.classes[i].name}' ({counts[i]})" for i in rare], MOST_NAMED)
    if len(rare) and not plan.drop_rare:
        raise InputError(
            where,
            found=f"fewer than {FEWEST} samples of class {named}",
            expected=f"at least {FEWEST} samples of each class",
            repair="add samples, merge classes with a class table (--classes FILE), or leave rare classes out with "
            "--drop-rare.",
        )
    if len(rare):
        notes.append(f"classes with fewer than {FEWEST} samples are left out: {named}")
    kept = np.setdiff1d(np.arange(len(counts)), rare)
    repair = "add samples of another class, or check the label column and the class table."
    refuse_one_class(int(np.count_nonzero(counts[kept])), where, repair)
    new_numbers = np.full(len(counts) + 1, -1)  # the last one is found by -1
    new_numbers[kept] = np.arange(len(kept))
    return tuple(class_table.classes[i] for i in kept), new_numbers[numbers], notes


def _absent(data: SampleData, plan: SamplePlan) -> list[str]:
    """Sentences about classes that some split lacks."""
    sentences = []
    counts = data.counts
    for number, entry in enumerate(data.classes):
        lacking = []
        for split, share in enumerate(plan.shares):
            if share and not counts[split, number]:
                lacking.append(SPLITS[split])
        if lacking:
            sentences.append(f"class {entry.name} does not occur in {' and '.join(lacking)}")
    return sentences


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it may be replaced and holds nothing else."""
    if not out.exists():
        return
    names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else [out.name]
    foreign = [name for name in names if name not in WRITTEN]
    if foreign or not out.is_dir() or (names and not overwrite):
        repair = "name another folder, or replace these files with --overwrite."
        if foreign:
            repair = "name another folder; this one holds files of other origin."
        raise InputError(out, found=f"files, e.g. {(foreign or names)[0]}", expected="a new folder", repair=repair)


def _remove(out: Path) -> None:
    """Remove a data set of an earlier run."""
    if out.is_dir():
        with writing(out):
            shutil.rmtree(out)
