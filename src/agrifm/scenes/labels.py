"""Labels on a scene's grid: polygons of fields or a raster of class numbers, and the table that names the classes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from odc.geo.geobox import GeoBox
from rasterio.enums import MergeAlg
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform_bounds

from agrifm.errors import InputError, nearest
from agrifm.scenes.raster import FileBand
from agrifm.tasks.segmentation import PALETTE, CropClass

IGNORE = -1
MOST_CLASSES = 255  # a map has one byte for the class, and 255 is no data
STRIP = 1024  # rows that are burned at once
NOTHING = int(np.iinfo(np.int32).min)  # where a label raster has no pixel
EMPTY = ("", "none", "nan", "null", "<na>")

Step = Callable[[int, int], None]


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
        no_polygon: features without a geometry, or with points or lines.
        repaired: invalid polygons that were mended.
        vanished: parcels that the inner buffer used up.
        too_small: parcels that hold no pixel center of their own.
        merged: parcels that lie on others of the same class; each such group counts as one parcel.
        empty: features without a class.
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
class Labels:
    """Labels on a scene's grid.

    Args:
        label: ``(h, w)`` int16, number of the class or -1.
        parcel: ``(h, w)`` int32, number of the parcel from 1, 0 where there is none or labels are a raster.
        classes: in the order of their numbers.
        account: what became of the labels that were read.
    """

    label: np.ndarray
    parcel: np.ndarray
    classes: tuple[CropClass, ...]
    account: Account


@dataclass(frozen=True)
class ClassTable:
    """Which code of the labels means which class. Several codes may mean one class.

    Args:
        classes: in the order of their numbers.
        codes: number of the class by code; codes are compared as text.
        source: of the table, for messages.
    """

    classes: tuple[CropClass, ...]
    codes: Mapping[str, int]
    source: str

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read a CSV ``code,name[,color]`` or a YAML list of ``{name, color, codes}``.

        Raises:
            InputError: the file is missing or a row cannot be used; it is named.
        """
        if not path.is_file():
            raise InputError(path, found="no such file", expected="a class table", repair="check the path.")
        read = _yaml_rows if path.suffix in (".yaml", ".yml") else _csv_rows
        return cls.of(read(path), str(path))

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str, str]], source: str) -> ClassTable:
        """The table of rows (where, code, name, color).

        Raises:
            InputError: rows contradict each other, or there are too few or too many classes.
        """
        colors: dict[str, str] = {}
        codes: dict[str, str] = {}
        for where, code, name, color in rows:
            if not name or not code:
                problem = f"code '{code}' with the name '{name}'"
                raise InputError(
                    where,
                    found=problem,
                    expected="a code and a name",
                    repair="complete it, or delete it: codes that are not listed are ignored.",
                )
            for known, new, what in ((codes.get(code), name, f"code {code}"), (colors.get(name), color, name)):
                if known and new and known != new:
                    raise InputError(
                        where, found=f"{what} as {new}, before as {known}", expected="one of them", repair="delete one."
                    )
            codes[code] = name
            colors[name] = colors.get(name) or color
        classes = tuple(_class(source, name, color, i) for i, (name, color) in enumerate(colors.items()))
        _check_count(classes, source)
        return cls(classes, {code: list(colors).index(name) for code, name in codes.items()}, source)

    @classmethod
    def of_codes(cls, found: Iterable[str], source: str) -> ClassTable:
        """Every code a class of its own, sorted; numbers by size."""
        return cls.of(((source, code, code, "") for code in sorted(set(found), key=_by_size)), source)

    def numbers(self, codes: Sequence[str]) -> np.ndarray:
        """Number of the class of each code; the count of classes where the table does not list it."""
        return np.array([self.codes.get(code, len(self.classes)) for code in codes], np.int64)

    def must_know_one(self, codes: Iterable[str], where: str) -> None:
        """Refuse labels of which the table lists nothing.

        Raises:
            InputError: with codes of both.
        """
        present = sorted(set(codes))
        if not any(code in self.codes for code in present):
            raise InputError(
                where,
                found=f"codes {', '.join(present[:6]) or '(none)'}",
                expected=f"codes of {self.source}: {', '.join(list(self.codes)[:6])}",
                repair="name the column that holds these codes, or list the labels' codes in the table.",
            )


def read_labels(
    path: Path,
    grid: GeoBox,
    *,
    table: ClassTable | None = None,
    class_column: str | None = None,
    layer: str | None = None,
    buffer: float = 0.0,
    step: Step = lambda done, total: None,
) -> Labels:
    """Labels of a vector file or a raster on a grid in meters.

    Args:
        path: of the labels.
        grid: where they are wanted; a pixel gets the class of the polygon its center lies in.
        table: which code means which class; without it every code is a class.
        class_column: of a vector file; may be left out where there is only one.
        layer: of a vector file; may be left out where there is only one.
        buffer: meters by which polygons shrink on all sides, so that mixed pixels at edges stay out.
        step: told how many rows of how many are done.

    Raises:
        InputError: the file cannot be read, does not overlap the grid or holds nothing that can be used.
    """
    if not path.exists():
        raise InputError(path, found="no such file", expected="a vector file or a raster", repair="check the path.")
    layers = _vector_layers(path)
    if layers:
        parcels, account, classes = _read_vector(path, _layer(path, layers, layer), grid, class_column, table, buffer)
        label, parcel, changes = _burn(parcels, grid, len(classes), step)
        labels = Labels(label, parcel, classes, replace(account, **changes))
    else:
        if class_column is not None or buffer:
            raise InputError(
                path,
                found="a raster of labels",
                expected="polygons: only these have columns and can be shrunk",
                repair="leave out --class-column and --buffer, or name a vector file.",
            )
        labels = _read_raster(path, grid, table, step)
    if not (labels.label != IGNORE).any():
        raise InputError(
            path,
            found=f"no pixel of the scene gets a class ({labels.account})",
            expected="labels on the scene",
            repair="check the class table, the buffer and that the parcels are larger than a pixel.",
        )
    return labels


def hectares(pixels: float, grid: GeoBox) -> float:
    """Area of so many pixels."""
    return float(pixels) * abs(grid.affine.determinant) / 1e4


def _strips(grid: GeoBox) -> Iterator[tuple[slice, GeoBox]]:
    """The grid in parts of few rows, so that memory stays bounded."""
    for top in range(0, grid.shape[0], STRIP):
        rows = slice(top, min(top + STRIP, grid.shape[0]))
        yield rows, grid[rows, :]


def _class(where: str, name: str, color: str, number: int) -> CropClass:
    try:
        return CropClass(name, color or PALETTE[number % len(PALETTE)])
    except ValueError as error:
        raise InputError(where, found=str(error), expected="#rrggbb", repair="mend it, or leave it out.") from error


def _check_count(classes: Sequence[CropClass], source: str) -> None:
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            source,
            found=f"{len(classes)} class(es)",
            expected=f"2 to {MOST_CLASSES}",
            repair="give a class table (--classes FILE) that sorts the codes into classes"
            + (", and check the class column." if len(classes) > MOST_CLASSES else "; one class leaves no choice."),
        )


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    first = text.splitlines()[0] if text.strip() else ""
    rows = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
    for wanted in ("code", "name"):
        if wanted not in columns:
            raise InputError(
                path,
                found=f"columns {', '.join(columns) or '(none)'}",
                expected="code,name[,color]",
                repair=f"write 'code,name,color' as first line; the column '{wanted}' is missing.",
            )
    for row in rows:
        values = [(row.get(columns.get(key, "")) or "").strip() for key in ("code", "name", "color")]
        if any(values):
            yield f"{path}: line {rows.line_num}", values[0], values[1], values[2]


def _yaml_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    try:
        entries = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(path, found=str(error), expected="YAML", repair="mend the syntax at that line.") from error
    if not isinstance(entries, list):
        entries = [entries]
    for number, entry in enumerate(entries, 1):
        where, keys = f"{path}: entry {number}", ("name", "color", "codes")
        if not isinstance(entry, Mapping) or "name" not in entry:
            form = "- {name: wheat, color: '#e0b83e', codes: [110, 111]}"
            raise InputError(where, found=repr(entry)[:80], expected=form, repair="write a list of such entries.")
        for key in entry:
            if key not in keys:
                raise InputError(where, found=f"key '{key}'", expected=", ".join(keys), repair=nearest(str(key), keys))
        codes = entry.get("codes", entry["name"])
        for code in codes if isinstance(codes, list) else [codes]:
            yield where, as_code(code), str(entry["name"]).strip(), str(entry.get("color") or "")


def as_code(value: Any) -> str:
    """A code as text, the way it is compared: 12 and 12.0 are the same; nothing at all is ''."""
    if value is None or (isinstance(value, float | np.floating) and (value != value or float(value).is_integer())):
        return "" if value is None or value != value else str(int(value))
    text = str(value).strip()
    return "" if text.lower() in EMPTY else text


def _by_size(code: str) -> tuple[float, str]:
    try:
        return float(code), code
    except ValueError:
        return float("inf"), code


# Vector files


@dataclass(frozen=True)
class _Parcels:
    """Polygons on the scene's CRS and the number of the class of each; the count of classes where it is unlisted."""

    polygons: np.ndarray
    number: np.ndarray


def _vector_layers(path: Path) -> dict[str, str]:
    """Layers with a geometry; none where the file is a raster.

    Raises:
        InputError: it is neither.
    """
    import pyogrio

    try:
        return {str(name): str(kind) for name, kind in pyogrio.list_layers(path) if kind is not None}
    except pyogrio.errors.DataSourceError as vector_error:
        try:
            rasterio.open(path).close()
        except RasterioError as error:
            raise InputError(
                path,
                found=f"neither a vector file ({vector_error}) nor a raster ({error})",
                expected="e.g. GeoPackage, Shapefile, GeoJSON, FlatGeobuf or GeoTIFF",
                repair="copy it again with the files that belong to it, or convert it with ogr2ogr.",
            ) from error
        return {}


def _layer(path: Path, layers: Iterable[str], wanted: str | None) -> str:
    names = list(layers)
    if wanted in names or (wanted is None and len(names) == 1):
        return wanted or names[0]
    raise InputError(
        path,
        found=f"layers {', '.join(names)}" + (f", none called '{wanted}'" if wanted else ""),
        expected="the name of one of them",
        repair=nearest(wanted, names) if wanted else "choose it with --layer.",
    )


def _read_vector(
    path: Path, layer: str, grid: GeoBox, column: str | None, table: ClassTable | None, buffer: float
) -> tuple[_Parcels, Account, tuple[CropClass, ...]]:
    import pyogrio
    import shapely

    info = pyogrio.read_info(path, layer=layer, force_feature_count=True, force_total_bounds=True)
    column = _column(path, [str(name) for name in info["fields"]], column)
    if info["crs"] is None:
        raise InputError(
            path,
            found="no CRS",
            expected="a vector file that says where on Earth it lies",
            repair="write it, e.g. 'ogr2ogr -a_srs EPSG:2154 NEW OLD', or restore the .prj file of a Shapefile.",
        )
    extent = transform_bounds(str(grid.crs), info["crs"], *grid.boundingbox.bbox, densify_pts=21)
    frame = pyogrio.read_dataframe(path, layer=layer, columns=[column], bbox=extent)
    codes = np.array([as_code(value) for value in frame[column]], object)
    polygons, repaired = _polygons(frame.geometry.to_crs(str(grid.crs)).to_numpy())
    inside = shapely.intersects(polygons, grid.extent.geom)
    if not inside.any():
        raise _no_overlap(path, extent, info["total_bounds"], info["crs"])
    usable = shapely.get_dimensions(polygons) == 2
    listed = inside & usable & (codes != "")
    table = table or ClassTable.of_codes(codes[listed], f"{path}: {column}")
    table.must_know_one(codes[listed], f"{path}: {column}")
    number = table.numbers(codes)
    area = shapely.area(shapely.clip_by_rect(polygons, *grid.boundingbox.bbox)) / 1e4
    unknown = listed & (number == len(table.classes))
    shrunk = shapely.buffer(polygons, -buffer) if buffer else polygons
    gone = listed & shapely.is_empty(shrunk)
    account = Account(
        parcels=int((inside & usable).sum()),
        outside=int(info["features"]) - int(inside.sum()) - int((~usable & ~inside).sum()),
        no_polygon=int((~usable).sum()),
        repaired=int((repaired & inside).sum()),
        vanished=int(gone.sum()),
        empty=_tally(area[inside & usable & (codes == "")]),
        unlisted={code: _tally(area[unknown & (codes == code)]) for code in sorted(set(codes[unknown]), key=_by_size)},
    )
    kept = listed & ~gone
    return _Parcels(shrunk[kept], number[kept]), account, table.classes


def _tally(areas: np.ndarray) -> Tally:
    return Tally(len(areas), float(areas.sum()))


def _column(path: Path, columns: Sequence[str], wanted: str | None) -> str:
    if wanted in columns or (wanted is None and len(columns) == 1):
        return wanted or columns[0]
    raise InputError(
        f"{path}: {wanted or '--class-column'}",
        found=f"columns {', '.join(columns) or '(none)'}",
        expected="the column that holds the class",
        repair=nearest(wanted, columns) if wanted and columns else "name it with --class-column.",
    )


def _polygons(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid polygons and which of them were repaired; points and lines stay what they are, missing ones are empty."""
    import shapely

    shapes = np.where(shapely.is_missing(shapes), shapely.Point(), shapes)
    shapes = shapely.force_2d(shapes)
    polygonal = shapely.get_dimensions(shapes) == 2
    broken = polygonal & ~shapely.is_valid(shapes)
    shapes[broken] = [_area_of(shapely.make_valid(shape)) for shape in shapes[broken]]
    return shapes, broken


def _area_of(shape: Any) -> Any:
    """The polygons among what a repair gave."""
    import shapely

    parts = shapely.get_parts(shape)
    return shapely.union_all([part for part in shapely.get_parts(parts) if shapely.get_dimensions(part) == 2])


def _no_overlap(path: Path, scene: Sequence[float], labels: Sequence[float], crs: str) -> InputError:
    def text(bounds: Sequence[float]) -> str:
        return ", ".join(f"{x:.6g}" if abs(x) < 1000 else f"{x:.0f}" for x in bounds)

    return InputError(
        path,
        found=f"no overlap: labels reach over {text(labels)} (left, bottom, right, top in {crs})",
        expected=f"labels on the scene, which reaches over {text(scene)} in the same CRS",
        repair="check that both are of the same place and that the labels' CRS is the one they were drawn in.",
    )


def _burn(parcels: _Parcels, grid: GeoBox, count: int, step: Step) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Class and parcel of each pixel center, and what the burning adds to the account."""
    import shapely

    tree = shapely.STRtree(parcels.polygons)
    label = np.full(grid.shape, IGNORE, np.int16)
    parcel = np.zeros(grid.shape, np.int32)
    links, clashes = [np.empty((2, 0), int)], 0
    for rows, box in _strips(grid):
        near = np.sort(tree.query(box.extent.geom))
        if len(near):
            number, owner, clash, shared = _burn_strip(parcels.polygons[near], parcels.number[near], near + 1, box)
            label[rows] = np.where(number < count, number, IGNORE)
            parcel[rows] = owner
            clashes += int(clash.sum())
            links.append(_links(tree, shared, box))
        step(rows.stop, grid.shape[0])
    group = _groups(np.concatenate(links, 1), len(parcels.polygons))
    seen = np.bincount(parcel.ravel(), minlength=len(group) + 1)[1:] > 0
    changes = {
        "too_small": int((~seen).sum()),
        "merged": len(group) - len(set(group.tolist())),
        "overlap": hectares(clashes, grid),
    }
    return label, np.concatenate([[0], group + 1]).astype(np.int32)[parcel], changes


def _burn_strip(polygons: np.ndarray, number: np.ndarray, owner: np.ndarray, box: GeoBox) -> tuple[np.ndarray, ...]:
    """Class, parcel, where classes clash and where polygons of one class lie on one another."""

    def burn(values: np.ndarray, how: MergeAlg, kind: type) -> np.ndarray:
        shapes = zip(polygons, values.tolist(), strict=True)
        return rasterize(shapes, box.shape, transform=box.affine, merge_alg=how, dtype=kind, all_touched=False)

    n, total, square = (burn(number.astype(float) ** power, MergeAlg.add, np.float64) for power in (0, 1, 2))
    # All n numbers at a pixel are equal exactly where n times the sum of squares is the square of the sum.
    clash = n * square != total**2
    found = np.where((n > 0) & ~clash, total / np.maximum(n, 1), IGNORE).astype(np.int16)
    parcel = np.where(found == IGNORE, 0, burn(owner, MergeAlg.replace, np.int32))
    return found, parcel, clash, (n > 1) & ~clash


def _links(tree: Any, shared: np.ndarray, box: GeoBox) -> np.ndarray:
    """Pairs ``(2, n)`` of polygons that hold the same pixel center."""
    import shapely

    rows, columns = shared.nonzero()
    x, y = box.affine @ (columns + 0.5, rows + 0.5) if len(rows) else ((), ())
    point, polygon = tree.query(shapely.points(x, y), predicate="intersects")
    same = point[1:] == point[:-1]
    return np.stack([polygon[:-1][same], polygon[1:][same]])


def _groups(links: np.ndarray, count: int) -> np.ndarray:
    """Number of the group of each of ``count`` things, where links tie things into groups."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ties = coo_array((np.ones(links.shape[1], bool), (links[0], links[1])), shape=(count, count))
    return connected_components(ties, directed=False)[1]


# Rasters


def _read_raster(path: Path, grid: GeoBox, table: ClassTable | None, step: Step) -> Labels:
    band = FileBand(str(path))
    extent, crs = _raster_extent(path, band)
    around = transform_bounds(str(grid.crs), crs, *grid.boundingbox.bbox, densify_pts=21)
    if around[0] >= extent[2] or around[2] <= extent[0] or around[1] >= extent[3] or around[3] <= extent[1]:
        raise _no_overlap(path, around, extent, crs)
    values = np.full(grid.shape, NOTHING, np.int32)
    for rows, box in _strips(grid):
        part = band.read(box, NOTHING, average=False)
        whole = np.where(np.isfinite(part), part, NOTHING)
        if (whole != np.round(whole)).any():
            raise InputError(path, found="fractions", expected="class numbers", repair="write whole numbers.")
        values[rows] = whole
        step(rows.stop, grid.shape[0])
    numbers, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    codes = ["" if number == NOTHING else str(number) for number in numbers]
    found = {code: int(n) for code, n in zip(codes, counts, strict=True) if code}
    table = table or ClassTable.of_codes(found, str(path))
    table.must_know_one(found, str(path))
    unlisted = {code: Tally(0, hectares(n, grid)) for code, n in found.items() if code not in table.codes}
    lookup = table.numbers(codes)
    label = np.where(lookup < len(table.classes), lookup, IGNORE).astype(np.int16)[where].reshape(grid.shape)
    return Labels(label, np.zeros(grid.shape, np.int32), table.classes, Account(unlisted=unlisted))


def _raster_extent(path: Path, band: FileBand) -> tuple[tuple[float, ...], str]:
    with rasterio.open(path) as file:
        if file.count != 1:
            raise InputError(
                path,
                found=f"{file.count} bands",
                expected="one band of class numbers",
                repair="write that band alone, e.g. 'gdal_translate -b 1 OLD NEW'.",
            )
    grid = band.grid()
    return tuple(grid.boundingbox.bbox), str(grid.crs)
