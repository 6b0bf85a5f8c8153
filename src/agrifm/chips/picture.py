"""Picture of labels and splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from agrifm.chips.classes import IGNORE
from agrifm.chips.plan import SplitAssignment
from agrifm.chips.spatial_split import NO_SPLIT, SPLITS, Cell
from agrifm.errors import printable
from agrifm.figures import save_png
from agrifm.tasks.segmentation import CropClass, rgb

WIDEST = 1600  # pixels of the longer side of the map
TINTS = ("#dfe5ea", "#cfe3f7", "#ffe2c4")  # train, val, test
EDGES = ("#6b7782", "#1f6fb5", "#d9730d")
LEFT_OUT = "#9d9d9d"
LONGEST = 40  # characters of a name
LONGEST_TITLE = 120
HEIGHT, WIDTH = 9.0, 11.0  # inches in which the map fits
DOTS = 20_000  # square points (1/72 inch) that all dots together fill
DOT_SIZES = (3, 24)
INSET = 0.6  # pixels between outlines and the border of the ground, so that outlines of neighbors do not overlap


def save_split_picture(
    path: Path,
    label: np.ndarray,
    assignment: SplitAssignment,
    classes: Sequence[CropClass],
    title: str,
    points: np.ndarray | None = None,
) -> None:
    """Draw labels in the colors of their classes over chips tinted by split, and write a PNG.

    Args:
        path: Path of the picture.
        label: Labels ``(h, w)`` before the assignment; labels that were lost since are gray.
        assignment: Splits and remaining labels.
        classes: Classes with their colors.
        title: Title above the picture.
        points: Row and column ``(n, 2)`` of points, which are drawn as dots; single pixels could hardly be seen.
    """
    height, width = label.shape
    scale = min(HEIGHT / height, WIDTH / width)
    figure = Figure(figsize=(max(2.5, width * scale) + 0.3, max(2.5, height * scale) + 0.5))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_aspect("equal", adjustable="datalim")
    chips_of_splits = []
    for split in range(len(SPLITS)):
        chips_of_splits.append([cell for cell in assignment.of_split(split) if cell.has_labels(assignment.label)])
    image = _image(label, assignment.label, chips_of_splits, classes)
    axis.imshow(image, interpolation="nearest", extent=(0, width, height, 0))
    for cells, color in zip(chips_of_splits, EDGES, strict=True):
        axis.plot(*_outline(cells), color=color, linewidth=1.6, solid_capstyle="butt")
    if points is not None and len(points):
        _draw_points(axis, points, assignment.label, classes)
    axis.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="#444444", linewidth=0.8))
    axis.set_axis_off()
    axis.set_title(shortened(title, LONGEST_TITLE), fontsize=11, loc="left", parse_math=False)
    lost_labels = bool((assignment.label != label).any())
    handles, names = _legend(classes, assignment.label, lost_labels=lost_labels)
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


def _draw_points(axis: Axes, points: np.ndarray, label: np.ndarray, classes: Sequence[CropClass]) -> None:
    """Draw points in the colors of their classes; those that lost their label are gray."""
    colors = np.array([*(rgb(entry.color) for entry in classes), rgb(LEFT_OUT)]) / 255
    numbers = label[points[:, 0], points[:, 1]]
    # Dots of lost labels lie below the others.
    order = np.argsort(numbers != IGNORE, kind="stable")
    size = np.clip(DOTS / len(points), *DOT_SIZES)
    axis.scatter(
        points[order, 1] + 0.5,
        points[order, 0] + 0.5,
        s=size,
        c=colors[numbers[order]],
        edgecolors="#222222",
        linewidths=0.02 * size,
        zorder=3,
    )


def _image(
    before: np.ndarray, after: np.ndarray, chips_of_splits: Sequence[Sequence[Cell]], classes: Sequence[CropClass]
) -> np.ndarray:
    """Return the colors ``(h, w, 3)`` of a map, whose labels are given before and after the assignment to splits."""
    splits = np.full(before.shape, NO_SPLIT, np.int8)
    for split, cells in enumerate(chips_of_splits):
        for cell in cells:
            cell.labels_of(splits)[:] = split
    step = max(1, math.ceil(max(before.shape) / WIDEST))
    before = before[::step, ::step]
    after = after[::step, ::step]
    splits = splits[::step, ::step]
    # White comes last, where the number of ground without a split, -1, finds it.
    tints = np.array([*map(rgb, TINTS), (255, 255, 255)], np.uint8)
    image = tints[splits]
    image[(before != IGNORE) & (after == IGNORE)] = rgb(LEFT_OUT)
    colors = np.array([rgb(entry.color) for entry in classes], np.uint8)
    is_labeled = after != IGNORE
    image[is_labeled] = colors[after[is_labeled]]
    return image


def _outline(cells: Iterable[Cell]) -> tuple[list[float], list[float]]:
    """Return x and y of lines around the chips of a split; lines are separated by NaN."""
    chips = {(cell.row, cell.column): cell for cell in cells}
    x: list[float] = []
    y: list[float] = []
    for (row, column), cell in chips.items():
        top = cell.core.row + INSET
        left = cell.core.column + INSET
        bottom = cell.core.row + cell.core.height - INSET
        right = cell.core.column + cell.core.width - INSET
        sides = (
            ((row - 1, column), (left, right), (top, top)),
            ((row + 1, column), (left, right), (bottom, bottom)),
            ((row, column - 1), (left, left), (top, bottom)),
            ((row, column + 1), (right, right), (top, bottom)),
        )
        for neighbor, xs, ys in sides:
            if neighbor not in chips:
                x += [*xs, np.nan]
                y += [*ys, np.nan]
    return x, y


def _legend(classes: Sequence[CropClass], label: np.ndarray, *, lost_labels: bool) -> tuple[list[Patch], list[str]]:
    """Return the patches and names of classes that occur, of lost labels, and of splits."""
    patches = []
    names = []
    numbers = set(np.unique(label).tolist())
    for number, entry in enumerate(classes):
        if number in numbers:
            patches.append(Patch(facecolor=entry.color))
            names.append(entry.name)
    if lost_labels:
        patches.append(Patch(facecolor=LEFT_OUT))
        names.append("label left out")
    for split, tint, edge in zip(SPLITS, TINTS, EDGES, strict=True):
        patches.append(Patch(facecolor=tint, edgecolor=edge, linewidth=1.6))
        names.append(f"{split} chips")
    return patches, names


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return text for a picture: in one line, and not wider than a picture may be."""
    shown = printable(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."
