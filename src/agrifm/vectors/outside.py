"""What is said of labels and points that miss a scene: where they lie, and where the scene is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from agrifm.errors import InputError, counted
from agrifm.vectors.polygons import extent_in


def no_overlap(
    path: Path, grid: GeoBox, labels: Sequence[float] | None, crs: CRS | str, damaged: int = 0
) -> InputError:
    """Return the error for labels that do not overlap the scene.

    Args:
        path: Path of the labels.
        grid: Grid of the scene.
        labels: Bounds of the labels, if they are known.
        crs: CRS of the labels.
        damaged: Number of features near the scene with invalid coordinates.
    """
    invalid = (
        f"; near the scene, {counted(damaged, 'feature has', 'features have')} invalid coordinates" if damaged else ""
    )
    bounds = f"{_bounds_text(labels)} (left, bottom, right, top in {_name(crs)})"
    return InputError(
        path,
        found=f"no overlap: labels reach over {bounds}{invalid}",
        expected=f"labels on the scene, which {_place(grid, crs)}",
        repair="check that both are of the same place and that the labels' CRS is the one they were drawn in.",
    )


def points_outside(where: object, places: np.ndarray, crs: CRS, grid: GeoBox) -> InputError:
    """Return the error for points that are all outside of the scene; it says so if their coordinates are exchanged.

    Args:
        where: File or table of the points.
        places: Coordinates ``(n, 2)`` in the CRS.
        crs: CRS of the points.
        grid: Grid of the scene.
    """
    finite = places[np.isfinite(places).all(1)]
    bounds = (*finite.min(0), *finite.max(0)) if len(finite) else None
    one = "point, outside of the scene: it lies"
    several = "points, all of them outside of the scene: they lie"
    found = f"{counted(len(places), one, several)} within {_bounds_text(bounds)}"
    found += f" (left, bottom, right, top in {_name(crs)})"
    repair = "check that both are of the same place, and that the CRS of the points is the one they were taken in."
    exchanged = int(on_grid(finite[:, ::-1], crs, grid).sum())
    if exchanged:
        pair = "longitude and latitude" if crs.is_geographic else "x and y"
        found += f"; {exchanged} of them would lie on it with {pair} exchanged"
        repair = f"exchange {pair} in the file."
    return InputError(where, found=found, expected=f"points on the scene, which {_place(grid, crs)}", repair=repair)


def on_grid(places: np.ndarray, crs: CRS, grid: GeoBox) -> np.ndarray:
    """Return the mask ``(n)`` of places ``(n, 2)`` that lie on a grid."""
    try:
        move = Transformer.from_crs(crs, CRS.from_user_input(str(grid.crs)), always_xy=True)
        x, y = move.transform(places[:, 0], places[:, 1])
    except ProjError:  # no way between the two
        return np.zeros(len(places), bool)
    columns, rows = ~grid.affine * (x, y)
    # Places that the CRS of the grid cannot hold are infinite, and outside.
    return (columns >= 0) & (columns < grid.shape[1]) & (rows >= 0) & (rows < grid.shape[0])


def _place(grid: GeoBox, crs: CRS | str) -> str:
    extent = extent_in(grid, crs if isinstance(crs, str) else crs.to_wkt())
    if extent is None:
        return "lies where that CRS is not defined"
    return f"reaches over {_bounds_text(extent)} in the same CRS"


def _bounds_text(bounds: Sequence[float] | None) -> str:
    if bounds is None or not np.isfinite(bounds).all():
        return "nothing"
    texts = []
    for value in bounds:
        # Meters have no decimals; degrees and very large values have six digits.
        is_meters = 1000 <= abs(value) <= 1e9
        texts.append(f"{value:.0f}" if is_meters else f"{value:.6g}")
    return ", ".join(texts)


def _name(crs: CRS | str) -> str:
    if isinstance(crs, str):
        return crs
    code = crs.to_epsg()
    return crs.name if code is None else f"EPSG:{code}"
