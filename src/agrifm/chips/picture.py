"""A picture of labels and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from agrifm.chips.classes import IGNORE
from agrifm.chips.plan import SplitAssignment
from agrifm.chips.spatial_split import NOWHERE, SPLITS, Cell
from agrifm.errors import printable
from agrifm.figures import save_png
from agrifm.tasks.segmentation import CropClass, rgb

WIDEST = 1600  # pixels of the picture's longer side
TINTS = ("#dfe5ea", "#cfe3f7", "#ffe2c4")  # train, val, test
EDGES = ("#6b7782", "#1f6fb5", "#d9730d")
LEFT_OUT = "#9d9d9d"
LONGEST, LONGEST_TITLE = 40, 120  # characters
TALL, WIDE = 9.0, 11.0  # inches the map may have


def save_split_picture(
    path: Path, label: np.ndarray, division: SplitAssignment, classes: Sequence[CropClass], title: str
) -> None:
    """Draw labels in the classes' colors over chips tinted by split, and write a PNG.

    Args:
        path: Path of the picture.
        label: ``(h, w)`` as it was before the splits; what was lost since is gray.
        division: The splits, and the labels in the chips.
        classes: With their colors.
        title: Above the picture.
    """
    height, width = label.shape
    scale = min(TALL / height, WIDE / width)
    figure = Figure(figsize=(max(2.5, width * scale) + 0.3, max(2.5, height * scale) + 0.5))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_aspect("equal", adjustable="datalim")
    chips = [[cell for cell in division.of_split(split) if _holds_labels(cell, division)] for split in range(3)]
    axis.imshow(_image(label, division.label, chips, classes), interpolation="nearest", extent=(0, width, height, 0))
    for cells, color in zip(chips, EDGES, strict=True):
        axis.plot(*_outline(cells), color=color, linewidth=1.6, solid_capstyle="butt")
    axis.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="#444444", linewidth=0.8))
    axis.set_axis_off()
    axis.set_title(shortened(title, LONGEST_TITLE), fontsize=11, loc="left", parse_math=False)
    handles, names = _legend(classes, division.label, lost=bool((division.label != label).any()))
    # Names are set afterwards: matplotlib leaves out labels that begin with "_", and reads "$" as mathematics.
    legend = axis.legend(
        handles,
        ["x"] * len(names),
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(shortened(name))
    save_png(figure, path, dpi=130, margin=0.15)


def _holds_labels(cell: Cell, division: SplitAssignment) -> bool:
    return bool((cell.labels_of(division.label) != IGNORE).any())


def _image(
    label: np.ndarray, left: np.ndarray, chips: Sequence[Sequence[Cell]], classes: Sequence[CropClass]
) -> np.ndarray:
    ground = np.full(label.shape, NOWHERE, np.int8)
    for split, cells in enumerate(chips):
        for cell in cells:
            cell.labels_of(ground)[:] = split
    step = max(1, -(-max(label.shape) // WIDEST))
    before, after, ground = (array[::step, ::step] for array in (label, left, ground))
    image = np.array([*map(rgb, TINTS), (255, 255, 255)], np.uint8)[ground]
    image[(before != IGNORE) & (after == IGNORE)] = rgb(LEFT_OUT)
    colors = np.array([rgb(entry.color) for entry in classes], np.uint8)
    image[after != IGNORE] = colors[after[after != IGNORE]]
    return image


def _outline(cells: Iterable[Cell]) -> tuple[list[float], list[float]]:
    """Lines around the chips of a split; parts are separated by NaN."""
    chips = {(cell.row, cell.column): cell for cell in cells}
    x: list[float] = []
    y: list[float] = []
    inset = 0.6
    for (row, column), cell in chips.items():
        top, left = cell.own.row + inset, cell.own.column + inset
        bottom, right = cell.own.row + cell.own.height - inset, cell.own.column + cell.own.width - inset
        for beside, xs, ys in (
            ((row - 1, column), (left, right), (top, top)),
            ((row + 1, column), (left, right), (bottom, bottom)),
            ((row, column - 1), (left, left), (top, bottom)),
            ((row, column + 1), (right, right), (top, bottom)),
        ):
            if beside not in chips:
                x += [*xs, np.nan]
                y += [*ys, np.nan]
    return x, y


def _legend(classes: Sequence[CropClass], left: np.ndarray, *, lost: bool) -> tuple[list[Patch], list[str]]:
    """Colors and names: classes that occur, labels that were left out, splits."""
    used = set(np.unique(left).tolist())
    found = [(Patch(facecolor=entry.color), entry.name) for i, entry in enumerate(classes) if i in used]
    if lost:
        found.append((Patch(facecolor=LEFT_OUT), "label left out"))
    for split, tint, edge in zip(SPLITS, TINTS, EDGES, strict=True):
        found.append((Patch(facecolor=tint, edgecolor=edge, linewidth=1.6), f"{split} chips"))
    return [patch for patch, _ in found], [name for _, name in found]


def shortened(text: str, longest: int = LONGEST) -> str:
    """Text for a picture: one line, and not wider than a picture may be."""
    shown = printable(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."
