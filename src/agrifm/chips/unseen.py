"""Points at which no image ever shows the ground: they are left out before splits are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from agrifm.chips.classes import IGNORE
from agrifm.chips.labels import Labels, check_choice
from agrifm.errors import InputError, counted
from agrifm.scenes.scene import Area, Frame, Layer, Scene

BLOCK = 512  # pixels along a side of the ground that is read at once


def without_unseen(labels: Labels, scene: Scene, where: object) -> Labels:
    """Remove the labels of points at pixels that no frame shows clearly.

    Frames are read one after another, and only around points that no frame before has shown, so that mostly one or two
    of them are read.

    Args:
        labels: Labels with points.
        scene: Scene on their grid.
        where: File of the labels, for messages.

    Raises:
        InputError: If no label is left, or labels of one class.
    """
    rows, columns = np.nonzero((labels.label != IGNORE) & (labels.parcel > labels.outlined))
    unseen = np.ones(len(rows), bool)
    for layer, frame in _from_the_middle(scene):
        if not unseen.any():
            return labels
        one_frame = replace(scene, layers=(replace(layer, frames=(frame,)),))
        for chosen in _blocks(rows, columns, unseen):
            unseen[chosen] = ~_shown(one_frame, rows[chosen], columns[chosen])
    if not unseen.any():
        return labels
    label = labels.label.copy()
    label[rows[unseen], columns[unseen]] = IGNORE
    is_unseen = np.zeros(label.shape, bool)
    is_unseen[rows[unseen], columns[unseen]] = True
    points = int(is_unseen[labels.points[:, 0], labels.points[:, 1]].sum())
    if not (label != IGNORE).any():
        unseen_ground = "where no image ever shows the ground"
        raise InputError(
            where,
            found=counted(points, f"point, {unseen_ground}", f"points, all of them {unseen_ground}"),
            expected="points on ground that is clear in some image",
            repair="check the no-data pixels and clouds of the scene with 'agrifm scene show'.",
        )
    remaining = replace(labels, label=label, account=replace(labels.account, no_data=points))
    check_choice(remaining, where)
    return remaining


def _from_the_middle(scene: Scene) -> Iterator[tuple[Layer, Frame]]:
    """Yield all frames, of each sensor those in the middle of the series first: winters are clouded."""
    for layer in scene.layers:
        frames = sorted(layer.frames, key=lambda frame: frame.day)
        middle = len(frames) // 2
        for number in sorted(range(len(frames)), key=lambda number: abs(number - middle)):
            yield layer, frames[number]


def _blocks(rows: np.ndarray, columns: np.ndarray, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the positions of wanted pixels, those of one block of ground together."""
    positions = np.flatnonzero(wanted)
    blocks = np.stack([rows[positions] // BLOCK, columns[positions] // BLOCK])
    _, number = np.unique(blocks, axis=1, return_inverse=True)
    number = number.ravel()
    order = np.argsort(number, kind="stable")
    yield from np.split(positions[order], np.flatnonzero(np.diff(number[order])) + 1)


def _shown(scene: Scene, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the mask ``(n)`` of pixels that a scene shows clearly."""
    top, left = int(rows.min()), int(columns.min())
    area = Area(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    shown = np.zeros(len(rows), bool)
    for stack in scene.read(area).stacks.values():
        clear = np.asarray(stack.clear.any(0))
        shown |= clear[rows // stack.factor - stack.first[0], columns // stack.factor - stack.first[1]]
    return shown
