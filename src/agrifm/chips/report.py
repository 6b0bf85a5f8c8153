"""The report on written chips: areas, what was left out, the check for leaks."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agrifm.chips.leakage import LeakageReport
from agrifm.chips.parcels import Account
from agrifm.errors import printable
from agrifm.io import write_whole
from agrifm.tasks.segmentation import CropClass

MARKUP = re.compile(r"[\\|`*\[\]]|(?<!\w)_|_(?!\w)|[&!#$](?=[\w(\[])")
Impossible = dict[str, dict[str, tuple[int, int]]]  # by sensor and day: impossible pixels, and all that seemed clear


@dataclass(frozen=True)
class Report:
    """What was written and what was not.

    Args:
        scene, labels: Names of both.
        plan: The settings, as plain values.
        classes: Classes in the order of their numbers.
        chips: How many, by split.
        areas: Hectares of each class, by split.
        blocks: How many have labels.
        block: Chips along the side of a block.
        account: What became of the labels that were read.
        crossing: Parcels that lay in blocks of several splits.
        lost: Hectares that lost their label, by reason.
        leaks: What the chips on disk say.
        notes: What the reader should know.
        impossible: Impossible by sensor and day, how many of the clear pixels have a reflectance that no land has.
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
    impossible: Impossible = field(default_factory=dict)

    def rows(self) -> list[tuple[str, ...]]:
        """Classes along rows: name, hectares by split, all of them; chips in the last row."""
        rows = []
        for i, entry in enumerate(self.classes):
            areas = [self.areas[split][i] for split in self.areas]
            rows.append((entry.name, *(f"{area:.2f}" for area in areas), f"{sum(areas):.2f}"))
        totals = [sum(areas) for areas in self.areas.values()]
        rows.append(("all classes", *(f"{area:.2f}" for area in totals), f"{sum(totals):.2f}"))
        counts = list(self.chips.values())
        return [*rows, ("chips", *map(str, counts), str(sum(counts)))]

    def left_out(self) -> list[str]:
        """A sentence for every reason for which labels were left out or changed."""
        account, lines = self.account, []
        for count, text in (
            (account.outside, "features lie outside the scene"),
            (account.no_polygon, "features are no polygons"),
            (account.repaired, "invalid polygons were repaired"),
            (account.damaged, "features have coordinates that are no places, or cross themselves in an unclear way"),
            (account.mixed, "collections held lines or points, which were left out"),
            (account.vanished, "parcels vanished under the inner buffer"),
            (account.too_small, "parcels hold no pixel center of their own"),
            (account.merged, "parcels lie on others of the same class and count as one with them"),
        ):
            lines += [f"{count:,} {text}"] if count else []
        if account.empty.parcels:
            lines.append(f"{account.empty.parcels:,} parcels without a class: {account.empty.hectares:.2f} ha")
        for code, tally in account.unlisted.items():
            count = f"{tally.parcels:,} parcels, " if tally.parcels else ""
            lines.append(f"code '{code}' is not in the class table: {count}{tally.hectares:.2f} ha")
        if account.overlap:
            lines.append(f"{account.overlap:.2f} ha lie in polygons of different classes")
        if self.crossing:
            lines.append(f"{self.crossing:,} parcels lay in several splits and kept their labels in one of them only")
        lines += [f"{area:.2f} ha {text}" for text, area in self.lost.items() if area]
        return lines + self._impossible_dates()

    def _impossible_dates(self) -> list[str]:
        """A sentence for every date with pixels that no land reflects like."""
        lines = []
        for sensor, days in self.impossible.items():
            for day, (odd, clear) in days.items():
                if odd:
                    share = f"{odd / clear:.2%} of the clear pixels"
                    lines.append(
                        f"{sensor} of {day}: {share} have a reflectance that no land has; they count as not seen"
                    )
        return lines

    def check(self) -> str:
        """The result of the leak check, in a sentence."""
        leaks = self.leaks
        apart = (
            "only one split has labels" if leaks.distance is None else f"nearest labels {leaks.distance:.0f} m apart"
        )
        verdict = "no leak" if leaks.none else "LEAK"
        return (
            f"{verdict}: {len(leaks.parcels)} parcels and {leaks.shared} pixels in two splits, {apart} "
            f"(pixel centers; {leaks.asked:g} m asked for)"
        )

    def write(self, out: Path) -> None:
        """Write ``report.md`` and ``report.json``."""
        heading = ("class", *(f"{split} (ha)" for split in self.areas), "sum")
        rows = (tuple(map(_markdown, row)) for row in self.rows())
        table = "\n".join(f"| {' | '.join(row)} |" for row in (heading, ("---",) * len(heading), *rows))
        settings = ", ".join(f"{key} {value}" for key, value in self.plan.items() if value is not None)
        bullets = "\n".join(f"- {_markdown(line)}" for line in (*self.left_out(), *self.notes)) or "- nothing"
        text = (
            f"# Chips of {_markdown(self.scene)}\n\nLabels: {_markdown(self.labels)}. Settings: {_markdown(settings)}. "
            f"{self.blocks} blocks with labels, about {self.block} chips a side.\n\n{table}\n\n"
            f"Leak check: {self.check()}.\n\nLeft out, and worth knowing:\n\n{bullets}\n\n![splits](split.png)\n"
        )
        write_whole(out / "report.md", text)
        write_whole(out / "report.json", json.dumps(asdict(self), indent=2, default=str))

    def show(self, console: Console) -> None:
        """Print the table and the sentences."""
        table = Table("class", *(f"{split} (ha)" for split in self.areas), "sum")
        for row in self.rows():
            table.add_row(*row, end_section=row[0] in (self.classes[-1].name, "all classes"))
        console.print(table)
        for line in (self.check(), *self.left_out(), *self.notes):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _markdown(text: str) -> str:
    """Text as it is, in one line: no table, link or HTML begins in it."""
    return MARKUP.sub(r"\\\g<0>", printable(text)).replace("<", "&lt;")
