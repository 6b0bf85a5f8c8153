"""What was written as chips: areas, what was left out, a check for leaks between splits, and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from rich.console import Console
from rich.table import Table

from agrifm.data.h5 import open_chip, read_place
from agrifm.errors import InputError
from agrifm.scenes.blocks import NOWHERE, SPLITS, Cell, gaps
from agrifm.scenes.labels import IGNORE, Account, hectares
from agrifm.scenes.scene import Area
from agrifm.tasks.segmentation import CropClass

WIDEST = 1600  # pixels of the picture's longer side
TINTS = ("#e9eef2", "#cfe3f7", "#ffe2c4")  # train, val, test
EDGES = ("#8795a1", "#1f6fb5", "#d9730d")
LEFT_OUT = "#9d9d9d"


@dataclass(frozen=True)
class Leaks:
    """What chips on disk say about their splits.

    Args:
        pixels: labeled pixels of each class, by split.
        parcels: numbers of parcels with labels in more than one split.
        shared: pixels that chips of different splits both show.
        distance: smallest distance in meters between centers of labeled pixels of different splits; None where
            only one split has labels.
        asked: the distance that was asked for.
    """

    pixels: dict[str, list[int]]
    parcels: tuple[int, ...]
    shared: int
    distance: float | None
    asked: float = 0.0

    @property
    def none(self) -> bool:
        """Nothing leaks."""
        near = self.distance is not None and self.distance < self.asked * (1 - 1e-9)
        return not (self.parcels or self.shared or near)

    def refuse(self, out: Path) -> None:
        """Refuse chips that leak.

        Raises:
            InputError: says what leaks.
        """
        if not self.none:
            raise InputError(
                out,
                found=f"{len(self.parcels)} parcels in two splits, {self.shared} pixels in chips of two splits, "
                f"{self.distance} m between labels of different splits",
                expected=f"no parcel and no pixel in two splits, and at least {self.asked:g} m between them",
                repair="write the chips again with --overwrite; if that does not help, please report it as a defect.",
            )


@dataclass(frozen=True)
class _Written:
    """A chip read back: where it lies and which of its pixels have a label."""

    area: Area
    label: np.ndarray

    def points(self) -> np.ndarray:
        """Row and column ``(n, 2)`` of labeled pixels."""
        return np.argwhere(self.label != IGNORE) + (self.area.row, self.area.column)


def find_leaks(
    folder: Path, names: Mapping[str, Sequence[str]], parcel: np.ndarray, grid: GeoBox, classes: int, asked: float = 0.0
) -> Leaks:
    """Read the chips back and look for ground that two splits share.

    Args:
        folder: of the HDF5 files.
        names: of the chips, by split.
        parcel: ``(h, w)`` number of the parcel of each pixel, 0 where there is none.
        grid: of the scene.
        classes: how many there are.
        asked: meters that should lie between labels of different splits.
    """
    chips = {split: [_read(folder / f"{name}.h5", grid) for name in names[split]] for split in names}
    owners = {split: set() for split in names}
    for split, several in chips.items():
        for chip in several:
            owners[split] |= set(parcel[tuple(chip.points().T)].tolist()) - {0}
    pairs = list(combinations(chips, 2))
    nearest = min((_nearest(chips[a], chips[b]) for a, b in pairs), default=np.inf)
    counts = {
        split: sum((np.bincount(chip.label[chip.label >= 0], minlength=classes) for chip in several), np.zeros(classes))
        for split, several in chips.items()
    }
    return Leaks(
        pixels={split: [int(n) for n in count] for split, count in counts.items()},
        parcels=tuple(sorted(set().union(*(owners[a] & owners[b] for a, b in pairs)))),
        shared=sum(_shared(chips[a], chips[b]) for a, b in pairs),
        distance=float(nearest) * abs(grid.affine.determinant) ** 0.5 if np.isfinite(nearest) else None,
        asked=asked,
    )


def _read(path: Path, grid: GeoBox) -> _Written:
    place = read_place(path)
    assert place is not None
    with open_chip(path) as file:
        label = file["label"][()]
    column, row = ~grid.affine @ (place.transform[2], place.transform[5])
    return _Written(Area(round(row), round(column), *label.shape), label)


def _corners(areas: Sequence[Area]) -> np.ndarray:
    return np.array([(a.row, a.column, a.height, a.width) for a in areas])


def _shared(some: Sequence[_Written], others: Sequence[_Written]) -> int:
    """Pixels in areas of both, counted once for each pair of chips."""
    count = 0
    corners = _corners([chip.area for chip in others])
    for one in _corners([chip.area for chip in some]):
        near = corners[gaps(one, corners) == 0] if len(corners) else corners
        for other in near:
            size = np.minimum(one[:2] + one[2:], other[:2] + other[2:]) - np.maximum(one[:2], other[:2])
            count += int(size.prod())
    return count


def _nearest(some: Sequence[_Written], others: Sequence[_Written]) -> float:
    """Smallest distance in pixels between labels of both; pairs of chips that are further apart are not looked at."""
    from scipy.spatial import cKDTree

    best = np.inf
    corners = _corners([chip.area for chip in others])
    for chip in some if len(corners) else ():
        apart = gaps(_corners([chip.area])[0], corners)
        for i in np.argsort(apart, kind="stable"):
            if apart[i] >= best:
                break
            mine, theirs = chip.points(), others[i].points()
            if len(mine) and len(theirs):
                best = min(best, float(cKDTree(theirs).query(mine)[0].min()))
    return best


@dataclass(frozen=True)
class Report:
    """What was written and what was not.

    Args:
        scene, labels: names of both.
        plan: the settings, as plain values.
        classes: in the order of their numbers.
        chips: how many, by split.
        areas: hectares of each class, by split.
        blocks: how many have labels.
        block: chips along the side of a block.
        account: what became of the labels that were read.
        crossing: parcels that lay in blocks of several splits.
        lost: hectares that lost their label, by reason.
        leaks: what the chips on disk say.
        notes: what the reader should know.
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
    leaks: Leaks
    notes: tuple[str, ...] = ()

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
        return lines + [f"{area:.2f} ha {text}" for text, area in self.lost.items() if area]

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
        table = "\n".join(f"| {' | '.join(row)} |" for row in (heading, ("---",) * len(heading), *self.rows()))
        settings = ", ".join(f"{key} {value}" for key, value in self.plan.items() if value is not None)
        bullets = "\n".join(f"- {line}" for line in (*self.left_out(), *self.notes)) or "- nothing"
        text = (
            f"# Chips of {self.scene}\n\nLabels: {self.labels}. Settings: {settings}. "
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


def write_whole(path: Path, text: str) -> None:
    """Write a text file; it appears whole, by rename."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def areas_of(leaks: Leaks, grid: GeoBox) -> dict[str, list[float]]:
    """Hectares of each class, by split."""
    return {split: [hectares(n, grid) for n in counts] for split, counts in leaks.pixels.items()}


def draw_splits(
    path: Path,
    label: np.ndarray,
    left: np.ndarray,
    cells: Sequence[Cell],
    splits: np.ndarray,
    classes: Sequence[CropClass],
    title: str,
) -> None:
    """Draw labels in the classes' colors over blocks tinted by split, and write a PNG.

    Args:
        path: of the picture.
        label: ``(h, w)`` as it was before the splits; what was lost since is gray.
        left: ``(h, w)`` as it is in the chips.
        cells: of the lattice.
        splits: of the cells, -1 where there is none.
        classes: with their colors.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    height, width = label.shape
    step = max(1, -(-max(height, width) // WIDEST))
    scale = min(9 / height, 11 / width)
    figure = Figure(figsize=(max(4.5, width * scale) + 2.8, max(3.5, height * scale) + 0.7), layout="constrained")
    axis = figure.add_subplot()
    image = _image(label, left, cells, splits, classes, step)
    axis.imshow(image, interpolation="nearest", extent=(0, width, height, 0))
    for split, color in enumerate(EDGES):
        lines = _outline(cells, splits, split)
        axis.plot(*lines, color=color, linewidth=1.6, solid_capstyle="butt")
    axis.set_xlim(-0.01 * width, 1.01 * width)
    axis.set_ylim(1.01 * height, -0.01 * height)
    axis.set_axis_off()
    axis.set_title(title, fontsize=11)
    _legend(figure, classes, left, bool((left != label).any()))
    unfinished = path.with_suffix(".part.png")
    figure.savefig(unfinished, dpi=130)
    unfinished.replace(path)


def _image(
    label: np.ndarray,
    left: np.ndarray,
    cells: Sequence[Cell],
    splits: np.ndarray,
    classes: Sequence[CropClass],
    step: int,
) -> np.ndarray:
    from agrifm.maps.raster import rgb

    ground = np.full(label.shape, NOWHERE, np.int8)
    for cell, split in zip(cells, splits, strict=True):
        cell.labels_of(ground)[:] = split
    before, after, ground = (array[::step, ::step] for array in (label, left, ground))
    image = np.array([*map(rgb, TINTS), (255, 255, 255)], np.uint8)[ground]
    image[(before != IGNORE) & (after == IGNORE)] = rgb(LEFT_OUT)
    colors = np.array([rgb(entry.color) for entry in classes], np.uint8)
    image[after != IGNORE] = colors[after[after != IGNORE]]
    return image


def _outline(cells: Sequence[Cell], splits: np.ndarray, split: int) -> tuple[list[float], list[float]]:
    """Lines around the cells of a split, where another split or none begins; parts are separated by NaN."""
    inside = {(cell.row, cell.column) for cell, mine in zip(cells, splits, strict=True) if mine == split}
    x, y, inset = [], [], 0.6
    for cell in cells:
        if (cell.row, cell.column) not in inside:
            continue
        top, left = cell.own.row + inset, cell.own.column + inset
        bottom, right = cell.own.row + cell.own.height - inset, cell.own.column + cell.own.width - inset
        for down, across, xs, ys in (
            (-1, 0, (left, right), (top, top)),
            (1, 0, (left, right), (bottom, bottom)),
            (0, -1, (left, left), (top, bottom)),
            (0, 1, (right, right), (top, bottom)),
        ):
            if (cell.row + down, cell.column + across) not in inside:
                x += [*xs, np.nan]
                y += [*ys, np.nan]
    return x, y


def _legend(figure: Any, classes: Sequence[CropClass], left: np.ndarray, lost: bool) -> None:
    from matplotlib.patches import Patch

    used = set(np.unique(left).tolist())
    handles = [Patch(facecolor=entry.color, label=entry.name) for i, entry in enumerate(classes) if i in used]
    handles += [Patch(facecolor=LEFT_OUT, label="label left out")] if lost else []
    for split, tint, edge in zip(SPLITS, TINTS, EDGES, strict=True):
        handles.append(Patch(facecolor=tint, edgecolor=edge, linewidth=1.6, label=split))
    handles.append(Patch(facecolor="white", edgecolor="#cccccc", label="block without labels"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
