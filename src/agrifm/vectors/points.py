"""Points in tables: coordinates in two columns, which become geometries with a CRS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import CRS

from agrifm.errors import InputError, refusing
from agrifm.vectors.coordinates import (
    check_degrees,
    columns_of_places,
    coordinates,
    crs_of_rows,
    find_pair,
    is_geographic,
)
from agrifm.vectors.crs import known_crs, same_crs
from agrifm.vectors.parquet import PARQUET, is_parquet, read_parquet
from agrifm.vectors.reading import chosen_column, read_table

if TYPE_CHECKING:
    import geopandas

TABLES = (".csv", ".tsv", *PARQUET)
DEGREES = CRS.from_epsg(4326)
BLOCK = 1 << 20  # characters that are decoded at once


@dataclass(frozen=True)
class PointTable:
    """A table of points, with the interface of a :class:`~agrifm.vectors.reading.Layer`.

    Args:
        path: Path of the file.
        frame: GeoDataFrame.
        of_places: Columns that hold coordinates or the CRS.
    """

    path: Path
    frame: geopandas.GeoDataFrame
    of_places: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path, crs: str | None = None) -> PointTable:
        """Read a table.

        Args:
            path: CSV, TSV or Parquet file.
            crs: CRS of the coordinates, for columns other than longitude and latitude.

        Raises:
            InputError: If it cannot be read, or has no coordinates that can be used.
        """
        table = read_points(path)
        frame = located(table, path, crs)
        return cls(path, frame, columns_of_places(table))

    @property
    def columns(self) -> list[str]:
        """Names of the attributes."""
        return [str(name) for name in self.frame.columns if name != self.frame.geometry.name]

    @property
    def features(self) -> int:
        """Number of rows."""
        return len(self.frame)

    @property
    def has_points(self) -> bool:
        """Whether there are points, which is what tables are for."""
        return True

    @property
    def may_have_points(self) -> bool:
        """Whether there may be points."""
        return True

    @property
    def bounds(self) -> tuple[float, ...] | None:
        """Left, bottom, right and top; None if no row has a place."""
        bounds = self.frame.total_bounds
        return tuple(bounds.tolist()) if np.isfinite(bounds).all() else None

    @property
    def crs(self) -> CRS:
        """CRS of the points."""
        return CRS.from_user_input(self.frame.crs)

    def column(self, wanted: str | None, option: str = "--class-column", purpose: str = "class") -> str:
        """Find a column by name, or the only one beside the coordinates.

        Raises:
            InputError: If there is none of that name, or there are several to choose from.
        """
        columns = self.columns
        if wanted is None:
            columns = [name for name in columns if name not in self.of_places]
        return chosen_column(self.path, columns, wanted, option, purpose)

    def read(
        self, columns: Sequence[str], boxes: Sequence[tuple[float, ...]] | None = None
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Return numbers from 1, values of columns and geometries (WKB) of all rows; ``boxes`` change nothing."""
        by_name = {str(name): name for name in self.frame.columns}
        values = [self.frame[by_name[name]].to_numpy(object) for name in columns]
        shapes = np.array(self.frame.geometry.to_wkb(), object)
        return np.arange(1, len(self.frame) + 1), values, shapes


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.suffix.lower() in TABLES


def read_points(path: Path) -> Any:
    """Read a vector file or a table: a GeoDataFrame, or a DataFrame without geometries.

    Raises:
        InputError: If it cannot be read, or is Parquet and pyarrow is missing.
    """
    if not is_parquet(path):
        if is_table(path):
            _check_text(path)
        return read_table(path)
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a table of points", repair="check the path.")
    with refusing(path, expected="a Parquet table of points"):
        return read_parquet(path)


def _check_text(path: Path) -> None:
    """Refuse a table that GDAL could not decode.

    Raises:
        InputError: If it is not UTF-8.
    """
    if not path.is_file():
        return
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(BLOCK):
                pass
    except UnicodeDecodeError as error:
        raise InputError(
            path,
            found="text in another encoding than UTF-8",
            expected="a table in UTF-8",
            repair="save it as UTF-8; Excel calls that 'CSV UTF-8'.",
        ) from error


def located(table: Any, where: object, crs: str | None = None) -> geopandas.GeoDataFrame:
    """Give a table its geometries; rows without coordinates get none.

    Args:
        table: GeoDataFrame, or a DataFrame with columns such as ``lon`` and ``lat`` in degrees, or ``x`` and ``y`` in
            another CRS, which a column ``crs`` or ``epsg`` may state.
        where: Name of the table in messages.
        crs: CRS of the coordinates, if the table does not state one.

    Raises:
        InputError: If there are no such columns, coordinates are no numbers, or there is no CRS.
    """
    import geopandas  # slow to import

    given = None if crs is None else known_crs(crs, f"--crs {crs}")
    if isinstance(table, geopandas.GeoDataFrame):
        return _with_crs(table, where, given)
    pair = find_pair(table)
    if pair is None:
        raise InputError(
            where,
            found=f"no geometry, and columns {', '.join(map(str, table.columns)) or '(none)'}",
            expected="a vector file of points, or a table with columns lon and lat in degrees, or x and y with --crs",
            repair="rename the columns to lon and lat, or write the points as GeoPackage.",
        )
    x, y, missing = coordinates(table, pair, where)
    stated = given if given is not None else crs_of_rows(table, missing, where)
    if stated is None and not is_geographic(pair):
        raise _no_crs(where, found=f"columns {pair[0]} and {pair[1]}, and no CRS")
    if stated is None:
        check_degrees(where, pair, x, y)
        stated = DEGREES
    points = geopandas.GeoSeries(geopandas.points_from_xy(x, y), index=table.index)
    points[missing] = None
    if isinstance(stated, CRS):
        return geopandas.GeoDataFrame(table, geometry=points, crs=stated)
    return geopandas.GeoDataFrame(table, geometry=_in_degrees(points, stated), crs=DEGREES)


def _with_crs(frame: Any, where: object, given: CRS | None) -> Any:
    if frame.crs is None:
        if given is None:
            raise _no_crs(where, found="no CRS")
        return frame.set_crs(given)
    if given is not None:
        same_crs(CRS.from_user_input(frame.crs), given, where)
    return frame


def _no_crs(where: object, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected="points with a CRS",
        repair="state it with --crs, e.g. --crs EPSG:32631; only columns lon and lat are degrees without that.",
    )


def _in_degrees(points: Any, names: np.ndarray) -> Any:
    """Return points whose rows have different CRS in degrees."""
    moved = points.copy()
    for name in set(names):
        rows = (names == name) & points.notna().to_numpy()
        if rows.any():
            moved[rows] = points[rows].set_crs(known_crs(name, name)).to_crs(DEGREES)
    return moved
