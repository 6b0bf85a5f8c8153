"""Check for leakage: chips are read back from disk, and compared to find ground that splits share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from scipy.spatial import KDTree

from agrifm.chips.classes import IGNORE
from agrifm.data.chips import open_chip, read_georeference
from agrifm.errors import InputError, counted
from agrifm.rasters.grid import pixel_area
from agrifm.scenes.scene import Area


@dataclass(frozen=True)
class LeakageReport:
    """Result of the comparison of chips on disk.

    Args:
        pixels: Number of labeled pixels of each class, by split.
        parcels: Numbers of parcels with labels in more than one split.
        shared: Number of pixels in chips of different splits.
        distance: Smallest distance in meters between centers of labeled pixels of different splits; None if only
            one split has labels.
        asked: Required distance.
    """

    pixels: dict[str, list[int]]
    parcels: tuple[int, ...]
    shared: int
    distance: float | None
    asked: float = 0.0

    @property
    def none(self) -> bool:
        """Whether there is no leakage."""
        too_near = self.distance is not None and self.distance < self.asked * (1 - 1e-9)
        return not (self.parcels or self.shared or too_near)

    def refuse(self, out: Path) -> None:
        """Refuse chips with leakage.

        Raises:
            InputError: If splits share ground.
        """
        if not self.none:
            parcels = counted(len(self.parcels), "parcel")
            pixels = counted(self.shared, "pixel")
            raise InputError(
                out,
                found=f"{parcels} in two splits, {pixels} in chips of two splits, "
                f"{self.distance} m between labels of different splits",
                expected=f"no parcel and no pixel in two splits, and at least {self.asked:g} m between them",
                repair="write the chips again with --overwrite; if that does not help, please report it as a defect.",
            )


@dataclass(frozen=True)
class _WrittenChip:
    """A chip that was read back: its area in the scene, and its label."""

    area: Area
    label: np.ndarray

    @property
    def rectangle(self) -> np.ndarray:
        """Row, column, height and width."""
        return np.array([self.area.row, self.area.column, self.area.height, self.area.width])

    def points(self) -> np.ndarray:
        """Return row and column ``(n, 2)`` of the labeled pixels."""
        return np.argwhere(self.label != IGNORE) + np.array([self.area.row, self.area.column])


def find_leakage(
    folder: Path, names: Mapping[str, Sequence[str]], parcel: np.ndarray, grid: GeoBox, classes: int, asked: float = 0.0
) -> LeakageReport:
    """Read chips from disk, and look for ground that two splits share.

    Args:
        folder: Folder of the HDF5 files.
        names: Names of the chips, by split.
        parcel: Number of the parcel or group of each pixel ``(h, w)``, 0 where there is none.
        grid: Grid of the scene.
        classes: Number of classes.
        asked: Meters that must lie between labels of different splits.
    """
    chips = {split: [_read(folder / f"{name}.h5", grid) for name in names[split]] for split in names}
    parcels: set[int] = set()
    shared = 0
    nearest = np.inf
    parcels_of_splits = {split: _labeled_parcels(chips[split], parcel) for split in chips}
    for one, other in combinations(chips, 2):
        parcels |= parcels_of_splits[one] & parcels_of_splits[other]
        shared += _shared_pixels(chips[one], chips[other])
        nearest = min(nearest, _distance(chips[one], chips[other]))
    return LeakageReport(
        pixels={split: _pixels_of_classes(chips[split], classes) for split in chips},
        parcels=tuple(sorted(parcels)),
        shared=shared,
        distance=float(nearest) * pixel_area(grid) ** 0.5 if np.isfinite(nearest) else None,
        asked=asked,
    )


def _read(path: Path, grid: GeoBox) -> _WrittenChip:
    georeference = read_georeference(path)
    if georeference is None:
        raise InputError(
            path,
            found="no CRS and transform",
            expected="a chip as it was written",
            repair="write the chips again with --overwrite.",
        )
    with open_chip(path) as file:
        label = file["label"][()]
    x, y = georeference.transform[2], georeference.transform[5]
    column, row = ~grid.affine @ (x, y)
    return _WrittenChip(Area(round(row), round(column), *label.shape), label)


def _labeled_parcels(chips: Sequence[_WrittenChip], parcel: np.ndarray) -> set[int]:
    numbers: set[int] = set()
    for chip in chips:
        rows, columns = chip.points().T
        numbers |= set(parcel[rows, columns].tolist())
    return numbers - {0}


def _pixels_of_classes(chips: Sequence[_WrittenChip], classes: int) -> list[int]:
    counts = np.zeros(classes, np.int64)
    for chip in chips:
        counts += np.bincount(chip.label[chip.label >= 0], minlength=classes)
    return counts.tolist()


def _rectangles(chips: Sequence[_WrittenChip]) -> np.ndarray:
    """Return row, column, height and width ``(n, 4)`` of chips."""
    return np.array([chip.rectangle for chip in chips], int).reshape(-1, 4)


def _shared_pixels(chips: Sequence[_WrittenChip], others: Sequence[_WrittenChip]) -> int:
    """Return the number of pixels in both, counted once for each pair of chips."""
    count = 0
    rectangles = _rectangles(others)
    for one in _rectangles(chips):
        touching = rectangles[_rectangle_distances(one, rectangles) == 0]
        for other in touching:
            first = np.maximum(one[:2], other[:2])
            end = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
            count += int((end - first).prod())
    return count


def _rectangle_distances(rectangle: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance of a rectangle to each of the others, 0 for those that share pixels with it.

    Args:
        rectangle: Row, column, height and width.
        others: Rows, columns, heights and widths ``(n, 4)``.

    Returns:
        Smallest distances ``(n)`` between pixel centers.
    """
    first = rectangle[:2]
    last = first + rectangle[2:] - 1
    first_of_others = others[:, :2]
    last_of_others = first_of_others + others[:, 2:] - 1
    # Along an axis, at most one of the two differences is positive.
    gaps = np.maximum(first_of_others - last, first - last_of_others)
    gaps = np.maximum(0, gaps)
    return np.hypot(gaps[:, 0], gaps[:, 1])


def _distance(chips: Sequence[_WrittenChip], others: Sequence[_WrittenChip]) -> float:
    """Return the smallest distance in pixels between labels of both; infinite if one of them has no labels."""
    smallest = np.inf
    rectangles = _rectangles(others)
    for chip in chips:
        points = chip.points()
        distances = _rectangle_distances(chip.rectangle, rectangles)
        # The nearest chips come first, so that most pairs need no comparison of their pixels.
        for i in np.argsort(distances, kind="stable"):
            if distances[i] >= smallest:
                break
            other_points = others[i].points()
            if len(points) and len(other_points):
                point_distances, _ = KDTree(other_points).query(points)
                smallest = min(smallest, float(point_distances.min()))
    return smallest
