"""Labels that a person draws in the viewer: one vector file, read at the start and written whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry import shape

from agrifm.errors import InputError, counted, printable, refusing
from agrifm.io import FileStamp, locked, refuse_unwritable, whole
from agrifm.tasks.segmentation import MOST_CLASSES, PALETTE
from agrifm.vectors.reading import read_table
from agrifm.viewer.place import DEGREES, position_on

if TYPE_CHECKING:
    import geopandas

CLASS = "class"  # column that 'agrifm data chips' finds by itself
SUFFIX = ".gpkg"
MOST_FEATURES = 100_000
MOST_VERTICES = 10_000  # of one polygon that a person draws
LONGEST_NAME = 100  # characters of a class
GEOMETRIES = ("Point", "Polygon", "MultiPoint", "MultiPolygon")  # the latter two come from files and may be moved
WHERE = "labels"
REPAIR = "undo it on the page and draw it again."


@dataclass(frozen=True)
class LabelClass:
    """A class to label with.

    Args:
        name: Its name.
        color: Its color as ``#rrggbb``.
    """

    name: str
    color: str


class LabelFile:
    """Labels in one GeoPackage; only this path is ever written.

    Args:
        path: The GeoPackage.
        grid: Grid of the map or scene, whose CRS the file gets.
        classes: Classes to choose from; further ones may be added.
        table: Features in degrees with a column ``class``, and whatever else the file holds.
    """

    def __init__(self, path: Path, grid: GeoBox, classes: Sequence[LabelClass], table: geopandas.GeoDataFrame) -> None:
        self.path = path
        self.grid = grid
        self.table = table
        self.classes = _with_classes_of(table, classes)
        self.version = 0  # number of times that it was saved, by which a second tab is noticed
        self._lock = Lock()
        self._stamp = FileStamp.of(path)

    @classmethod
    def open(cls, path: Path, grid: GeoBox, classes: Sequence[LabelClass]) -> LabelFile:
        """Read labels, or begin with none if the file does not exist.

        Args:
            path: The GeoPackage.
            grid: Grid of the map or scene.
            classes: Classes to choose from.

        Raises:
            InputError: If it is no GeoPackage with a column ``class``, or its folder cannot be written.
        """
        import geopandas

        if path.suffix.lower() != SUFFIX:
            raise InputError(
                f"--labels {path}",
                found=f"a name that ends with '{path.suffix}'",
                expected=f"a GeoPackage, whose name ends with '{SUFFIX}'",
                repair="name another file, or convert this one, e.g. 'ogr2ogr NEW.gpkg OLD'.",
            )
        refuse_unwritable(path.absolute().parent)
        if path.exists():
            return cls(path, grid, classes, _checked_table(path))
        empty = geopandas.GeoDataFrame({CLASS: []}, geometry=[], crs=DEGREES)
        return cls(path, grid, classes, empty)

    def describe(self) -> dict[str, Any]:
        """Return classes and features for the page; polygons of several parts are shown and can be deleted."""
        features = []
        for number, (name, geometry) in enumerate(zip(self.table[CLASS], self.table.geometry, strict=True)):
            features.append({"id": number, "class": str(name), "geometry": geometry.__geo_interface__})
        classes = [{"name": entry.name, "color": entry.color} for entry in self.classes]
        return {
            "title": printable(self.path.name),
            "version": self.version,
            "classes": classes,
            "palette": list(PALETTE),
            "features": features,
        }

    def save(self, document: object) -> dict[str, Any]:
        """Write the labels that the page sends; the file is replaced by rename once it is complete.

        Args:
            document: ``version`` of the labels that the page has read or saved last, and ``features``: each with its
                ``class``, and either the ``id`` of a feature that was not moved or a ``geometry`` in degrees, or both
                if a feature was moved.

        Returns:
            The new version; features are numbered anew in their order.

        Raises:
            InputError: If a feature cannot be used, or the labels were changed elsewhere. Nothing is written then.
        """
        if not isinstance(document, Mapping) or not isinstance(document.get("features"), list):
            raise _bad(WHERE, type(document).__name__, "a version and a list of features")
        with self._lock:
            self._refuse_stale(document.get("version"))
            table = self._table_of(document["features"])
            with locked(self.path):
                self._write(table, self.path)
            self.table = table
            self.classes = _with_classes_of(table, self.classes)
            self.version += 1
            self._stamp = FileStamp.of(self.path)
            return {"version": self.version}

    def counts(self) -> dict[str, int]:
        """Return the number of saved labels of each class that has any."""
        return {str(name): int(count) for name, count in self.table[CLASS].value_counts().items()}

    def copy_to(self, path: Path, version: object) -> None:
        """Write the saved labels to another file.

        Args:
            path: The file.
            version: Version of the labels that the page has read or saved last.

        Raises:
            InputError: If the labels were changed elsewhere, or the file cannot be written.
        """
        with self._lock:
            self._refuse_stale(version)
            self._write(self.table, path)

    def _write(self, table: geopandas.GeoDataFrame, path: Path) -> None:
        """Write labels in degrees as a GeoPackage in the CRS of the grid."""
        stored = table.to_crs(str(self.grid.crs))
        with whole(path) as unfinished:
            stored.to_file(unfinished, layer=path.stem, driver="GPKG", geometry_type="Unknown")

    def _refuse_stale(self, version: object) -> None:
        if version != self.version:
            raise InputError(
                self.path,
                found="labels that another tab of this viewer has saved since",
                expected="one tab that draws",
                repair="reload the page, which reads the saved labels, and draw the latest changes again.",
            )
        self._stamp.refuse_change("move that file away and save again, or start the viewer again to read it.")

    def _table_of(self, features: Sequence[object]) -> geopandas.GeoDataFrame:
        """Return the features as a table in degrees; those that were kept keep their other columns."""
        import geopandas
        import pandas as pd

        if len(features) > MOST_FEATURES:
            raise _bad(WHERE, counted(len(features), "feature"), f"at most {MOST_FEATURES:,}")
        kept: list[int] = []
        rows: list[dict[str, Any]] = []
        for number, feature in enumerate(features, 1):
            row, name, geometry = self._feature(feature, f"label {number}")
            kept.append(-1 if row is None else row)
            rows.append({CLASS: name, "geometry": geometry})
        # Whole numbers of rows that stay are kept as such beside new rows, which have none.
        stored = pd.DataFrame(self.table.drop(columns="geometry")).reset_index(drop=True)
        stored = stored.convert_dtypes(infer_objects=False, convert_string=False, convert_floating=False)
        others = stored.reindex(kept).reset_index(drop=True)
        others[CLASS] = pd.Series([row[CLASS] for row in rows], dtype=object)
        if len(others[CLASS].unique()) > MOST_CLASSES:
            raise _bad(WHERE, counted(others[CLASS].nunique(), "class", "classes"), f"at most {MOST_CLASSES}")
        return geopandas.GeoDataFrame(others, geometry=[row["geometry"] for row in rows], crs=DEGREES)

    def _feature(self, feature: object, where: str) -> tuple[int | None, str, shapely.Geometry]:
        """Return the former row, the class and the geometry of a feature."""
        if not isinstance(feature, Mapping):
            raise _bad(where, type(feature).__name__, "a class and a geometry")
        name = feature.get(CLASS)
        is_name = isinstance(name, str) and name.strip() != "" and printable(name) == name
        if not isinstance(name, str) or not is_name or len(name) > LONGEST_NAME:
            raise _bad(where, f"the class {str(name)[:LONGEST_NAME]!r}", f"a name of 1 to {LONGEST_NAME} characters")
        row = feature.get("id")
        is_known = isinstance(row, int) and not isinstance(row, bool) and 0 <= row < len(self.table)
        if row is not None and not is_known:
            raise _bad(where, f"the number {str(row)[:20]}", "the number of a feature that was read")
        if feature.get("geometry") is not None:
            return row, name, self._geometry(feature["geometry"], where)
        if row is None:
            raise _bad(where, "no geometry", "a point or a polygon")
        return row, name, self.table.geometry.iloc[row]

    def _geometry(self, value: object, where: str) -> shapely.Geometry:
        """Return a point or polygon in degrees that lies on the grid."""
        kind = value.get("type") if isinstance(value, Mapping) else None
        if kind not in GEOMETRIES:
            raise _bad(where, f"the geometry {str(kind)[:30]!r}", "a point or a polygon")
        expected = "longitude and latitude in degrees"
        with refusing(where, expected=expected, repair=REPAIR):  # Shapely raises many kinds of errors
            geometry = shape(value)
        _check_shape(geometry, where)
        if not self._is_on_grid(geometry):
            raise _bad(where, f"a {kind.lower()} outside of the map", "a place on the map")
        return geometry

    def _is_on_grid(self, geometry: shapely.Geometry) -> bool:
        """Whether a point lies on the grid, or any vertex of a polygon or its middle does."""
        places = [*shapely.get_coordinates(geometry).tolist(), [*geometry.representative_point().coords[0]]]
        return any(position_on(self.grid, longitude, latitude) for longitude, latitude in places)


def _check_shape(geometry: shapely.Geometry, where: str) -> None:
    """Refuse a geometry that is empty, not valid, too large, or not in degrees.

    Raises:
        InputError: If it is.
    """
    vertices = shapely.get_coordinates(geometry)
    if not 0 < len(vertices) <= MOST_VERTICES:
        raise _bad(where, counted(len(vertices), "vertex", "vertices"), f"1 to {MOST_VERTICES:,} vertices")
    for longitude, latitude in vertices.tolist():
        is_place = (
            math.isfinite(longitude) and abs(longitude) <= 180 and math.isfinite(latitude) and abs(latitude) <= 90
        )
        if not is_place:
            raise _bad(where, f"the place {longitude}, {latitude}", "longitude and latitude in degrees")
    if not geometry.is_valid or ("Polygon" in geometry.geom_type and geometry.area == 0):
        why = shapely.is_valid_reason(geometry).lower() if not geometry.is_valid else "it has no area"
        raise _bad(where, f"a polygon that cannot be used: {why}", "an outline that does not cross itself")


def _checked_table(path: Path) -> geopandas.GeoDataFrame:
    """Read labels of an existing file in degrees."""
    table = read_table(path)
    repair = "name a new file, or prepare this one, e.g. with 'ogr2ogr -sql' or QGIS."
    if "geometry" not in table.columns or CLASS not in table.columns:
        columns = ", ".join(printable(str(name)) for name in table.columns)
        raise InputError(
            path, found=f"the columns {columns}", expected=f"a geometry and a column '{CLASS}'", repair=repair
        )
    if table.crs is None:
        raise InputError(path, found="no CRS", expected="a georeferenced vector file", repair=repair)
    is_usable = table[CLASS].notna() & ~(table.geometry.isna() | table.geometry.is_empty)
    if not is_usable.all():
        missing = counted(int((~is_usable).sum()), "feature")
        raise InputError(path, found=f"{missing} without class or geometry", expected="both in each", repair=repair)
    table = table.to_crs(DEGREES)
    table[CLASS] = [printable(str(name)) for name in table[CLASS]]
    return table


def _with_classes_of(table: geopandas.GeoDataFrame, classes: Sequence[LabelClass]) -> tuple[LabelClass, ...]:
    """Return the classes, and after them those that only the labels have."""
    found = list(classes)
    known = {entry.name for entry in classes}
    for name in sorted(set(table[CLASS].astype(str)) - known):
        found.append(LabelClass(name, PALETTE[len(found) % len(PALETTE)]))
    return tuple(found)


def _bad(where: str, found: str, expected: str) -> InputError:
    return InputError(where, found=found, expected=expected, repair=REPAIR)
