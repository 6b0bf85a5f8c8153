"""Do splits share ground? Chips are read back from disk and compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from agrifm.chips.classes import IGNORE
from agrifm.chips.spatial_split import gaps
from agrifm.data.chips import open_chip, read_georeference
from agrifm.errors import InputError
from agrifm.rasters.grid import pixel_area
from agrifm.scenes.scene import Area


@dataclass(frozen=True)
class LeakageReport:
    """What chips on disk say about their splits.

    Args:
        pixels: Labeled pixels of each class, by split.
        parcels: Numbers of parcels with labels in more than one split.
        shared: Pixels that chips of different splits both show.
        distance: Smallest distance in meters between centers of labeled pixels of different splits; None where
            only one split has labels.
        asked: The distance that was asked for.
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
            InputError: If splits share ground; the error names the chips.
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
        return np.argwhere(self.label != IGNORE) + np.array([self.area.row, self.area.column])


def find_leakage(
    folder: Path, names: Mapping[str, Sequence[str]], parcel: np.ndarray, grid: GeoBox, classes: int, asked: float = 0.0
) -> LeakageReport:
    """Read the chips back and look for ground that two splits share.

    Args:
        folder: Folder of the HDF5 files.
        names: Names of the chips, by split.
        parcel: ``(h, w)`` number of the parcel of each pixel, 0 where there is none.
        grid: Grid of the scene.
        classes: How many there are.
        asked: Meters that should lie between labels of different splits.
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
    return LeakageReport(
        pixels={split: [int(n) for n in count] for split, count in counts.items()},
        parcels=tuple(sorted(set().union(*(owners[a] & owners[b] for a, b in pairs)))),
        shared=sum(_shared(chips[a], chips[b]) for a, b in pairs),
        distance=float(nearest) * pixel_area(grid) ** 0.5 if np.isfinite(nearest) else None,
        asked=asked,
    )


def _read(path: Path, grid: GeoBox) -> _Written:
    place = read_georeference(path)
    if place is None:
        raise InputError(
            path,
            found="no CRS and transform",
            expected="a chip as it was written",
            repair="write the chips again with --overwrite.",
        )
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
    from scipy.spatial import KDTree

    best = np.inf
    corners = _corners([chip.area for chip in others])
    for chip in some if len(corners) else ():
        apart = gaps(_corners([chip.area])[0], corners)
        for i in np.argsort(apart, kind="stable"):
            if apart[i] >= best:
                break
            mine, theirs = chip.points(), others[i].points()
            if len(mine) and len(theirs):
                best = min(best, float(KDTree(theirs).query(mine)[0].min()))
    return best
