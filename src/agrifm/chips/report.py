"""The report on written chips: areas, ignored labels, and the leakage check."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agrifm.chips.account import Account
from agrifm.chips.leakage import LeakageReport
from agrifm.errors import counted, printable
from agrifm.io import write_whole
from agrifm.tasks.segmentation import CropClass

# Characters that begin a table cell, link, emphasis, entity or heading of Markdown.
MARKUP = re.compile(r"[\\|`*\[\]]|(?<!\w)_|_(?!\w)|[&!#$](?=[\w(\[])")
ImpossiblePixels = dict[str, dict[str, tuple[int, int]]]  # by sensor and day: impossible pixels, and all clear ones


@dataclass(frozen=True)
class Report:
    """Written chips, and labels that were ignored.

    Args:
        scene: Name of the scene.
        labels: Path of the labels.
        plan: Settings as plain values.
        classes: Classes in the order of their numbers.
        chips: Number of chips, by split.
        areas: Hectares of each class, by split.
        blocks: Number of blocks with labels.
        block: Chips along the side of a block.
        account: Counts of used and ignored labels.
        crossing: Number of parcels that were in several splits.
        lost: Hectares that lost their label, by reason.
        leaks: Result of the leakage check.
        notes: Further notes for the reader.
        impossible: Clear pixels with a reflectance that no land has, and all clear pixels, by sensor and day.
        pixel: Hectares of a pixel.
    """

    scene: str
    labels: str
    plan: dict[str, Any]
    classes: tuple[CropClass, ...]
    chips: dict[str, int]
    areas: dict[str, list[float]]
    blocks: int
    block: int
    account: Account
    crossing: int
    lost: dict[str, float]
    leaks: LeakageReport
    notes: tuple[str, ...] = ()
    impossible: ImpossiblePixels = field(default_factory=dict)
    pixel: float = 0.01

    def heading(self) -> tuple[str, ...]:
        """Return the heading of the table of areas, or of pixels if all labels are points."""
        unit = "pixels" if self.are_points else "ha"
        return ("class", *(f"{split} ({unit})" for split in self.areas), "sum")

    @property
    def are_points(self) -> bool:
        """Whether all labels are points, which have no area."""
        return self.account.noun == "point"

    @property
    def noun(self) -> str:
        """What stays whole: a group, a parcel, a point, or either of the last two."""
        return "group" if self.plan.get("group_column") else self.account.noun

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table of areas: a class in each row, then all classes, then the number of chips."""
        rows = []
        sizes: dict[str, list[int]] | dict[str, list[float]] = self.areas
        decimals = 2
        if self.are_points:
            sizes = self.leaks.pixels
            decimals = 0
        for number, entry in enumerate(self.classes):
            rows.append(_row(entry.name, [of_split[number] for of_split in sizes.values()], decimals))
        rows.append(_row("all classes", [sum(of_split) for of_split in sizes.values()], decimals))
        counts = list(self.chips.values())
        rows.append(("chips", *map(str, counts), str(sum(counts))))
        return rows

    def left_out(self) -> list[str]:
        """Return a sentence for every reason for which labels were ignored or changed."""
        lines = self.account.sentences()
        if self.crossing:
            lines.append(f"{counted(self.crossing, self.noun)} in several splits: labels were kept in one of them only")
        for reason, area in self.lost.items():
            if area:
                amount = counted(round(area / self.pixel), "pixel") if self.are_points else f"{area:.2f} ha"
                lines.append(f"{amount} {reason}")
        return lines + self._impossible_dates()

    def _impossible_dates(self) -> list[str]:
        """Return a sentence for every date with pixels whose reflectance no land has."""
        lines = []
        for sensor, days in self.impossible.items():
            for day, (impossible, clear) in days.items():
                if impossible:
                    share = f"{impossible / clear:.2%} of the clear pixels"
                    lines.append(
                        f"{sensor} of {day}: {share} have a reflectance that no land has; they count as missing"
                    )
        return lines

    def check(self) -> str:
        """Return the result of the leakage check in a sentence."""
        leaks = self.leaks
        distance = "only one split has labels"
        if leaks.distance is not None:
            distance = f"nearest labels {leaks.distance:.0f} m apart"
        verdict = "no leak" if leaks.none else "LEAK"
        return (
            f"{verdict}: {counted(len(leaks.parcels), self.noun)} and {counted(leaks.shared, 'pixel')} in two splits, "
            f"{distance} (pixel centers; {leaks.asked:g} m asked for)"
        )

    def write(self, out: Path) -> None:
        """Write ``report.md`` and ``report.json``."""
        heading = self.heading()
        lines = [heading, ("---",) * len(heading)]
        for row in self.rows():
            lines.append(tuple(map(_markdown, row)))
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        settings = ", ".join(f"{key} {value}" for key, value in self.plan.items() if value is not None)
        notes = "\n".join(f"- {_markdown(note)}" for note in (*self.left_out(), *self.notes))
        text = (
            f"# Chips of {_markdown(self.scene)}\n\nLabels: {_markdown(self.labels)}. Settings: {_markdown(settings)}. "
            f"{counted(self.blocks, 'block')} with labels, about {counted(self.block, 'chip')} a side.\n\n{table}\n\n"
            f"Leak check: {self.check()}.\n\nLeft out, and worth knowing:\n\n{notes or '- nothing'}\n\n"
            f"![splits](split.png)\n"
        )
        write_whole(out / "report.md", text)
        write_whole(out / "report.json", json.dumps(asdict(self), indent=2, default=str))

    def show(self, console: Console) -> None:
        """Print the table and the sentences."""
        table = Table(*self.heading())
        for row in self.rows():
            ends_section = row[0] in (self.classes[-1].name, "all classes")
            table.add_row(*row, end_section=ends_section)
        console.print(table)
        for line in (self.check(), *self.left_out(), *self.notes):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _row(name: str, sizes: Sequence[float], decimals: int) -> tuple[str, ...]:
    return (name, *(f"{size:.{decimals}f}" for size in sizes), f"{sum(sizes):.{decimals}f}")


def _markdown(text: str) -> str:
    """Return text that Markdown shows as it is, in one line: no table, link or HTML begins in it."""
    return MARKUP.sub(r"\\\g<0>", printable(text)).replace("<", "&lt;")
