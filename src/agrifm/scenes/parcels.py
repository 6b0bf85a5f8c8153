"""Polygons of fields, read from a vector file onto the CRS of a scene, and an account of what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from odc.geo.geobox import GeoBox
from pyogrio.errors import DataSourceError
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from agrifm.errors import InputError, nearest
from agrifm.scenes.classes import ClassTable, by_size
from agrifm.tasks.tables import as_code


@dataclass(frozen=True)
class Tally:
    """How many parcels (0 in label rasters), and their area within the scene in hectares."""

    parcels: int = 0
    hectares: float = 0.0


@dataclass(frozen=True)
class Account:
    """What became of the labels that were read.

    Args:
        parcels: polygons that reach into the scene.
        outside: features that do not reach into the scene.
        no_polygon: points and lines in the scene.
        repaired: invalid polygons that were mended.
        vanished: parcels that the inner buffer used up.
        too_small: parcels that hold no pixel center of their own.
        merged: parcels that lie on others of the same class; each such group counts as one parcel.
        empty: parcels without a class.
        unlisted: by code, what the class table does not list.
        overlap: hectares on which polygons of different classes lie; nobody knows which is right.
    """

    parcels: int = 0
    outside: int = 0
    no_polygon: int = 0
    repaired: int = 0
    vanished: int = 0
    too_small: int = 0
    merged: int = 0
    empty: Tally = Tally()
    unlisted: dict[str, Tally] = field(default_factory=dict)
    overlap: float = 0.0


@dataclass(frozen=True)
class Parcels:
    """Polygons on the scene's CRS.

    Args:
        polygons: ``(n)``.
        number: ``(n)`` of the class of each; the count of classes where the table does not list its code.
        table: of the classes.
        account: what was read and left out.
    """

    polygons: np.ndarray
    number: np.ndarray
    table: ClassTable
    account: Account


def vector_layers(path: Path) -> list[str]:
    """Layers with a geometry; none where the file is no vector file."""
    try:
        return [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    except DataSourceError:
        return []


def read_parcels(
    path: Path, layer: str, grid: GeoBox, column: str | None, table: ClassTable | None, buffer: float
) -> Parcels:
    """Read the polygons that reach into a grid in meters, shrunk by ``buffer`` meters.

    Raises:
        InputError: the column or the CRS is missing, nothing lies on the grid, or the table lists nothing of it.
    """
    info = pyogrio.read_info(path, layer=layer, force_feature_count=True, force_total_bounds=True)
    column = _column(path, [str(name) for name in info["fields"]], column)
    found = _read(path, layer, column, info, grid)
    usable, where = shapely.get_dimensions(found.shapes) == 2, f"{path}: {column}"
    if not usable.any():
        raise InputError(
            path,
            found="points or lines",
            expected="polygons of fields",
            repair="draw outlines around them, e.g. with a buffer in QGIS.",
        )
    listed = usable & (found.codes != "")
    present = found.codes[listed].tolist()
    table = table.among(present, where) if table else ClassTable.of_codes(present, where)
    number = table.numbers(found.codes.tolist())
    shrunk = shapely.buffer(found.shapes, -buffer) if buffer else found.shapes
    gone = listed & shapely.is_empty(shrunk)
    area = shapely.area(shapely.clip_by_rect(found.shapes, *grid.boundingbox.bbox)) / 1e4
    unknown = listed & (number == len(table.classes))
    unlisted = sorted(set(found.codes[unknown]), key=by_size)
    account = Account(
        parcels=int(usable.sum()),
        outside=int(info["features"]) - len(usable),
        no_polygon=int((~usable).sum()),
        repaired=int(found.repaired.sum()),
        vanished=int(gone.sum()),
        empty=_tally(area[usable & (found.codes == "")]),
        unlisted={code: _tally(area[unknown & (found.codes == code)]) for code in unlisted},
    )
    kept = listed & ~gone
    return Parcels(shrunk[kept], number[kept], table, account)


@dataclass(frozen=True)
class _Features:
    """Features that reach into the scene: code of the class or '', shape, and whether it was repaired."""

    codes: np.ndarray
    shapes: np.ndarray
    repaired: np.ndarray


def _read(path: Path, layer: str, column: str, info: dict[str, Any], grid: GeoBox) -> _Features:
    if info["crs"] is None:
        raise InputError(
            path,
            found="no CRS",
            expected="a vector file that says where on Earth it lies",
            repair="write it, e.g. 'ogr2ogr -a_srs EPSG:2154 NEW OLD', or restore the .prj file of a Shapefile.",
        )
    extent = extent_in(grid, info["crs"])
    if extent is None:
        raise no_overlap(path, grid, info["total_bounds"], info["crs"])
    frame = pyogrio.read_dataframe(path, layer=layer, columns=[column], bbox=extent)
    known = frame[column].notna()
    codes = [as_code(value) if there else "" for value, there in zip(frame[column], known, strict=True)]
    shapes, repaired = _valid(frame.geometry.to_crs(str(grid.crs)).to_numpy())
    inside = shapely.intersects(shapes, grid.extent.geom)
    if not inside.any():
        raise no_overlap(path, grid, info["total_bounds"], info["crs"])
    return _Features(np.array(codes, object)[inside], shapes[inside], repaired[inside])


def _tally(areas: np.ndarray) -> Tally:
    return Tally(len(areas), float(areas.sum()))


def _column(path: Path, columns: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(columns) == 1:
        return columns[0]
    if wanted is not None and wanted in columns:
        return wanted
    raise InputError(
        f"{path}: {wanted or '--class-column'}",
        found=f"columns {', '.join(columns) or '(none)'}",
        expected="the column that holds the class",
        repair=nearest(wanted, columns) if wanted and columns else "name it with --class-column.",
    )


def _valid(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid shapes and which of them were repaired; of a repaired polygon only the areas are kept."""
    shapes = shapely.force_2d(shapes)
    broken = (shapely.get_dimensions(shapes) == 2) & ~shapely.is_valid(shapes)
    shapes[broken] = [_areas(shapely.make_valid(shape)) for shape in shapes[broken]]
    return shapes, broken


def _areas(shape: shapely.Geometry) -> shapely.Geometry:
    parts = [part for part in shapely.get_parts(shape) if shapely.get_dimensions(part) == 2]
    return shapely.union_all(np.array(parts, object))


def extent_in(grid: GeoBox, crs: str) -> tuple[float, ...] | None:
    """Left, bottom, right and top of a grid in another CRS; None where that CRS does not reach."""
    try:
        extent = transform_bounds(str(grid.crs), crs, *grid.boundingbox.bbox, densify_pts=21)
    except RasterioError:
        return None
    return extent if np.isfinite(extent).all() else None


def no_overlap(path: Path, grid: GeoBox, labels: Sequence[float] | None, crs: str) -> InputError:
    """The error of labels that lie elsewhere."""

    def text(bounds: Sequence[float] | None) -> str:
        if bounds is None or not np.isfinite(bounds).all():
            return "nothing"
        return ", ".join(f"{x:.6g}" if abs(x) < 1000 else f"{x:.0f}" for x in bounds)

    extent = extent_in(grid, crs)
    reach = "lies where that CRS is not defined" if extent is None else f"reaches over {text(extent)} in the same CRS"
    return InputError(
        path,
        found=f"no overlap: labels reach over {text(labels)} (left, bottom, right, top in {crs})",
        expected=f"labels on the scene, which {reach}",
        repair="check that both are of the same place and that the labels' CRS is the one they were drawn in.",
    )
