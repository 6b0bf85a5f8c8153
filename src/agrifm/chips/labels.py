"""Labels on the grid of a scene, from polygons, points or a raster of class codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS

from agrifm.chips.account import Account, Tally
from agrifm.chips.classes import IGNORE, ClassTable
from agrifm.chips.features import Features, read_features
from agrifm.chips.rasterize import (
    PointPixels,
    RasterizedPoints,
    add_points,
    hectares,
    join_by_value,
    pixels_of_points,
    rasterize_polygons,
    strips,
)
from agrifm.errors import InputError, nearest
from agrifm.rasters.codes import check_codes, grid_of, read_codes
from agrifm.tasks.segmentation import CropClass
from agrifm.vectors.outside import no_overlap
from agrifm.vectors.points import PointTable, is_table
from agrifm.vectors.polygons import boxes_in
from agrifm.vectors.reading import Layer, vector_layers

NOTHING = int(np.iinfo(np.int64).min)  # marks pixels that a label raster does not have
LARGEST = 2**53  # from here on, floating-point numbers cannot represent every integer


@dataclass(frozen=True)
class Labels:
    """Labels on a scene's grid.

    Args:
        label: Number of the class ``(h, w)`` int16, -1 without a class.
        parcel: Number of the parcel or point ``(h, w)`` int32 from 1; 0 without one or for label rasters, -1 where
            labels of different classes overlap.
        classes: Classes in the order of their numbers.
        account: Counts of used and ignored labels.
        group: Number of the group ``(h, w)`` int32 that stays in one split; the parcel where no groups are given.
        outlined: Highest number of a parcel with a known outline; higher numbers are points.
        points: Row and column ``(n, 2)`` of the points with a class.
    """

    label: np.ndarray
    parcel: np.ndarray
    classes: tuple[CropClass, ...]
    account: Account
    group: np.ndarray
    outlined: int = 0
    points: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @property
    def are_points(self) -> bool:
        """Whether all labels are points."""
        return self.account.points > 0 and self.account.parcels == 0

    def counts(self) -> list[int]:
        """Return the number of parcels and points of each class; those that lost their pixels do not count."""
        is_labeled = self.label != IGNORE
        pairs = np.stack([self.label[is_labeled], self.parcel[is_labeled]])
        return np.bincount(np.unique(pairs, axis=1)[0], minlength=len(self.classes)).tolist()


@dataclass(frozen=True)
class LabelOptions:
    """How the features of a file become labels.

    Args:
        class_column: Column with the class; optional if there is only one column.
        layer: Layer of a vector file; optional if there is only one layer.
        buffer: Meters by which polygons are shrunk on all sides, which excludes mixed pixels at their edges.
        radius: Meters around a point within which it labels pixels, by their centers, besides the one it lies in.
        group_column: Column whose equal values stay in one split.
        crs: CRS of the coordinates, for tables and files that state none.
    """

    class_column: str | None = None
    layer: str | None = None
    buffer: float = 0.0
    radius: float = 0.0
    group_column: str | None = None
    crs: str | None = None


def read_labels(path: Path, grid: GeoBox, *, table: ClassTable | None = None, **options: Any) -> Labels:
    """Read labels from a vector file, a table of points or a raster onto a grid in meters.

    Args:
        path: Path of the labels.
        grid: Grid of the labels; a pixel gets the class of the polygon that contains its center, or of a point in it.
        table: Class of each code; without a table, every code is a class.
        options: Values of :class:`LabelOptions`.

    Raises:
        InputError: If the file cannot be read, does not overlap the grid, or has no usable labels.
    """
    chosen = LabelOptions(**options)
    if not path.exists():
        raise InputError(path, found="no such file", expected="a vector file or a raster", repair="check the path.")
    layers = vector_layers(path)
    if layers:
        source = Layer.open(path, _layer(path, layers, chosen.layer), chosen.crs)
        labels = _of_features(source, grid, table, chosen)
    elif is_table(path):
        labels = _of_features(PointTable.open(path, chosen.crs), grid, table, chosen)
    else:
        check_codes(path)
        _refuse_for_rasters(path, chosen)
        labels = _of_raster(path, grid, table)
    if not (labels.label != IGNORE).any():
        hint = "check the class table, the buffer and that the parcels are larger than a pixel."
        if labels.are_points:
            hint = "check the class table, the radius and that points of different classes do not share their pixels."
        raise InputError(
            path,
            found=f"no pixel of the scene gets a class ({labels.account})",
            expected="labels on the scene",
            repair=hint,
        )
    return labels


def _refuse_for_rasters(path: Path, options: LabelOptions) -> None:
    given = []
    for name, value in vars(options).items():
        if value and name != "layer":
            given.append(f"--{name.replace('_', '-')}")
    if given:
        raise InputError(
            path,
            found=f"a raster of labels with {', '.join(given)}",
            expected="polygons or points: only these have columns and sizes of their own",
            repair="leave the option out, or name a vector file.",
        )


def _layer(path: Path, layers: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(layers) == 1:
        return layers[0]
    if wanted is not None and wanted in layers:
        return wanted
    raise InputError(
        path,
        found=f"layers {', '.join(layers)}" + (f", none called '{wanted}'" if wanted else ""),
        expected="the name of one of them",
        repair=nearest(wanted, layers) if wanted else "choose it with --layer.",
    )


def _of_features(source: Layer | PointTable, grid: GeoBox, table: ClassTable | None, options: LabelOptions) -> Labels:
    features = read_features(
        source,
        grid,
        class_column=options.class_column,
        group_column=options.group_column,
        table=table,
        buffer=options.buffer,
    )
    _check_kinds(source.path, features.account, options)
    polygons, points, classes = features.polygons, features.points, features.table.classes
    rasters = rasterize_polygons(polygons.shapes, polygons.number, grid, len(classes))
    x, y = shapely.get_x(points.shapes), shapely.get_y(points.shapes)
    reach = pixels_of_points(x, y, grid, options.radius)
    both = add_points(rasters, reach, points.number, len(classes))
    account = replace(
        features.account,
        too_small=rasters.too_small,
        merged=rasters.merged,
        overlap=hectares(rasters.overlap + both.overlap, grid),
        same_pixel=both.same_pixel,
        disputed=_disputed(features, both, reach, rasters.label),
    )
    group = both.parcel
    if options.group_column is not None:
        parcel_of = np.concatenate([both.parcel_of_polygon, both.parcel_of_point])
        values = np.concatenate([polygons.group, points.group])
        groups = join_by_value(parcel_of, values, int(parcel_of.max(initial=0)))
        group = np.concatenate([[0], groups, [-1]]).astype(np.int32)[both.parcel]
    has_class = points.number < len(classes)
    own = np.stack(np.unravel_index(reach.own[has_class], grid.shape), axis=1)
    labels = Labels(both.label, both.parcel, classes, account, group, both.outlined, own)
    if account.points:
        check_choice(labels, source.path)
    return labels


def _check_kinds(path: Path, account: Account, options: LabelOptions) -> None:
    """Refuse options for polygons where there are only points, and for points where there are none.

    Raises:
        InputError: If there is such an option.
    """
    for name, value, count, others in (
        ("buffer", options.buffer, account.parcels, "points"),
        ("radius", options.radius, account.points, "polygons"),
    ):
        if value and not count:
            raise InputError(
                f"{path}: --{name} {value:g}",
                found=f"{others} only",
                expected="polygons, which are shrunk" if name == "buffer" else "points, which label a circle",
                repair=f"leave out --{name}.",
            )


def check_choice(labels: Labels, path: object) -> None:
    """Refuse labels that leave no choice.

    Raises:
        InputError: If fewer than two classes have labels.
    """
    present = [entry.name for entry, count in zip(labels.classes, labels.counts(), strict=True) if count]
    if len(present) == 1:
        raise InputError(
            path,
            found=f"labels of one class only on the scene, '{present[0]}'",
            expected="labels of two classes or more",
            repair="add labels of other ground, e.g. of other crops; one class leaves no choice.",
        )


def _disputed(
    features: Features, points: RasterizedPoints, reach: PointPixels, label_of_polygons: np.ndarray
) -> dict[str, list[int]]:
    """Return the numbers of points with a disputed pixel, by the names of the classes in reach of it."""
    names = [*(entry.name for entry in features.table.classes), "a class that the table does not list"]
    pixels = set(reach.own[points.disputed].tolist())
    names_of_pixel: dict[int, set[str]] = {pixel: set() for pixel in pixels}
    in_reach = np.isin(reach.pixel, list(pixels))
    for point, pixel in zip(reach.point[in_reach].tolist(), reach.pixel[in_reach].tolist(), strict=True):
        names_of_pixel[pixel].add(names[features.points.number[point]])
    for pixel in pixels:
        number = label_of_polygons.ravel()[pixel]
        if number != IGNORE:
            names_of_pixel[pixel].add(names[number])
    disputed: dict[str, list[int]] = {}
    for point in np.flatnonzero(points.disputed).tolist():
        together = " and ".join(sorted(names_of_pixel[int(reach.own[point])]))
        disputed.setdefault(together, []).append(int(features.points.feature[point]))
    return disputed


def _of_raster(path: Path, grid: GeoBox, table: ClassTable | None) -> Labels:
    values = _class_numbers(path, grid)
    numbers, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    codes = []
    pixels: dict[str, int] = {}
    for number, count in zip(numbers, counts, strict=True):
        code = ""
        if number != NOTHING:
            code = str(number)
            pixels[code] = int(count)
        codes.append(code)
    if not pixels:
        raise _elsewhere(path, grid)
    table = table.among(pixels, str(path)) if table else ClassTable.of_codes(pixels, str(path))
    unlisted = {}
    for code, count in pixels.items():
        if code not in table.codes:
            unlisted[code] = Tally(0, hectares(count, grid))
    class_of_code = table.numbers(codes)
    class_of_code = np.where(class_of_code < len(table.classes), class_of_code, IGNORE).astype(np.int16)
    label = class_of_code[inverse].reshape(grid.shape)
    nothing = np.zeros(grid.shape, np.int32)
    return Labels(label, nothing, table.classes, Account(unlisted=unlisted), nothing)


def _class_numbers(path: Path, grid: GeoBox) -> np.ndarray:
    """Numbers of a raster at the pixel centers of a grid; ``NOTHING`` where it has no data."""
    _must_overlap(path, grid, grid_of(str(path)))
    values = np.full(grid.shape, NOTHING, np.int64)
    for rows, box in strips(grid):
        pixels = read_codes(str(path), box)
        stored = pixels.values[~pixels.missing]
        numbers = stored.astype(np.int64) if (np.abs(stored) < LARGEST).all() else None
        if numbers is None or (numbers != stored).any():
            raise InputError(
                path,
                found="fractions" if numbers is not None else "numbers beyond 2^53",
                expected="class numbers",
                repair="write whole numbers.",
            )
        values[rows][~pixels.missing] = numbers
    return values


def _must_overlap(path: Path, grid: GeoBox, own: GeoBox) -> None:
    """Refuse a raster that does not overlap the grid, or of which GDAL would read only the part on one side of 180.

    Raises:
        InputError: If the raster does not overlap the grid, or crosses the 180th meridian.
    """
    crs = CRS.from_user_input(str(own.crs))
    west, south, east, north = own.boundingbox.bbox
    near = [box for box in boxes_in(grid, crs) if box[0] < east and box[2] > west and box[1] < north and box[3] > south]
    if not near:
        raise _elsewhere(path, grid)
    beyond = [box for box in near if max(west, box[0]) < -180 or min(east, box[2]) > 180]
    if crs.is_geographic and beyond:
        raise InputError(
            path,
            found=f"longitudes from {west:g} to {east:g}, on a scene beyond the 180th meridian",
            expected="a raster in the CRS of the scene, or in degrees from -180 to 180",
            repair=f"warp it, e.g. 'gdalwarp -r near -s_srs \"+proj=longlat +datum=WGS84 "
            f"+lon_wrap={(west + east) / 2:g}\" -t_srs {grid.crs} OLD NEW'.",
        )


def _elsewhere(path: Path, grid: GeoBox) -> InputError:
    own = grid_of(str(path))
    return no_overlap(path, grid, own.boundingbox.bbox, str(own.crs))
