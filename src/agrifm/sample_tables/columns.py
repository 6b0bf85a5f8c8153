"""What the columns of a table mean: identifier, date, label, group and place, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
from pyproj import Transformer

from agrifm.errors import InputError, counted, nearest
from agrifm.sample_tables.reading import listed
from agrifm.vectors.cells import row_name, texts
from agrifm.vectors.coordinates import check_degrees, coordinates
from agrifm.vectors.crs import known_crs

IDS = ("id", "sample_id", "sampleid", "point_id", "pointid", "plot_id", "pixel_id", "fid", "uid")
DATES = ("date", "time", "datetime", "timestamp", "acquisition_date", "day")
LABELS = ("label", "class", "crop", "crop_type", "croptype", "crop_name", "class_name", "landcover", "land_cover")
LONGITUDES = ("lon", "longitude", "long", "lng")
LATITUDES = ("lat", "latitude")
SYSTEMS = ("crs", "epsg")
KM_PER_DEGREE = 111.3


@dataclass(frozen=True)
class TableOptions:
    """How a table of samples is read; what is None or empty follows from the table.

    Args:
        sensor: Name of the sensor.
        bands: Columns that hold bands, or names of bands in wide tables.
        label: Column with the class.
        id: Column with the name of the sample.
        group: Column with the parcel, village or survey that stays in one split.
        date: Column with the date.
        scale: Factor from values to reflectance.
        offset: Offset that is added after scaling.
        nodata: Values that mark missing data.
        dates: Dates of numbered steps: a file with one a line, dates with commas, or ``START/DAYS``.
        crs: CRS of the columns ``x`` and ``y``.
    """

    sensor: str | None = None
    bands: tuple[str, ...] = ()
    label: str | None = None
    id: str | None = None
    group: str | None = None
    date: str | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: tuple[float, ...] = ()
    dates: str | None = None
    crs: str | None = None


@dataclass(frozen=True)
class Roles:
    """Columns by what they mean; those that a table lacks are None.

    Args:
        label: Column with the class.
        id: Column with the name of the sample.
        date: Column with the date.
        group: Column with the group.
        place: Columns with two coordinates.
        crs: Column with the CRS of the coordinates.
    """

    label: str
    id: str | None
    date: str | None
    group: str | None
    place: tuple[str, str] | None
    crs: str | None

    def others(self, columns: Sequence[str]) -> list[str]:
        """Columns without a role; bands are among them."""
        used = {self.label, self.id, self.date, self.group, self.crs, *(self.place or ())}
        return [column for column in columns if column not in used]


def find_roles(frame: pandas.DataFrame, path: Path, options: TableOptions) -> Roles:
    """Find the columns by their names, or by those that the options give.

    Raises:
        InputError: If a column that the options name does not exist, or there is no column of labels.
    """
    columns = list(frame.columns)
    label = _named(columns, options.label, "--label-column", path) or _only(columns, LABELS, "--label-column", path)
    if label is None:
        raise InputError(
            path,
            found=f"no column that is called like a label; columns {listed(columns)}",
            expected=f"a column with the class of each sample, e.g. {', '.join(LABELS[:3])}",
            repair="name it with --label-column.",
        )
    place = _pair(columns, LONGITUDES, LATITUDES) or _pair(columns, ("x",), ("y",))
    return Roles(
        label=label,
        id=_named(columns, options.id, "--id-column", path) or _first(columns, IDS),
        date=_named(columns, options.date, "--date-column", path) or _first(columns, DATES),
        group=_named(columns, options.group, "--group-column", path),
        place=place,
        crs=_first(columns, SYSTEMS),
    )


def _named(columns: Sequence[str], name: str | None, option: str, path: Path) -> str | None:
    """A column that the user named."""
    if name is None or name in columns:
        return name
    raise InputError(
        f"{path}: {option} {name}",
        found=f"columns {listed(columns)}",
        expected="the name of a column",
        repair=nearest(name, columns),
    )


def _candidates(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Columns with one of several names, in the order of the names."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return [by_name[name] for name in names if name in by_name]


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    found = _candidates(columns, names)
    return found[0] if found else None


def _only(columns: Sequence[str], names: Sequence[str], option: str, path: Path) -> str | None:
    found = _candidates(columns, names)
    if len(found) > 1:
        raise InputError(
            path,
            found=f"columns {' and '.join(found)}, which may all be the label",
            expected="one of them",
            repair=f"name it, e.g. {option} {found[0]}.",
        )
    return found[0] if found else None


def _pair(columns: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[str, str] | None:
    x = _first(columns, first)
    y = _first(columns, second)
    return None if x is None or y is None else (x, y)


@dataclass(frozen=True)
class Places:
    """Where samples lie.

    Args:
        plane: Coordinates ``(n, 2)`` in which distances can be compared.
        lonlat: Longitude and latitude ``(n, 2)`` in degrees; None if the CRS is not known.
    """

    plane: np.ndarray
    lonlat: np.ndarray | None


def places_of(
    frame: pandas.DataFrame, first_row: np.ndarray, roles: Roles, path: Path, crs: str | None
) -> tuple[Places | None, str]:
    """Places of samples, and a sentence where there are none although there are coordinates.

    Args:
        frame: The table.
        first_row: Row of each sample that states its place.
        roles: What the columns mean.
        path: Path of the table, for errors.
        crs: CRS of the columns ``x`` and ``y``, if the table states none.

    Raises:
        InputError: If a coordinate is text, no place on the Earth, or its CRS is unknown.
    """
    if roles.place is None:
        return None, ""
    x, y, is_missing = coordinates(frame, roles.place, path)
    missing = int(is_missing[first_row].sum())
    if missing:
        samples = counted(missing, "sample has", "samples have")
        return None, f"{samples} no coordinates, so the places of the others are not used either"
    points = np.stack([x, y], 1)[first_row]
    if roles.place[0].lower() in LONGITUDES:
        check_degrees(path, roles.place, x, y)
        return _on_earth(points), ""
    systems = np.full(len(points), crs or "")
    if roles.crs is not None:
        systems = texts(frame[roles.crs])[first_row]
    if (systems == "").any():
        return Places(points, None), "x and y have no CRS (--crs), so they are used for the split only"
    lonlat = _in_degrees(points, systems, path)
    beyond = np.flatnonzero(~np.isfinite(lonlat).all(1) | (np.abs(lonlat[:, 1]) > 90))
    if len(beyond):
        sample = beyond[0]
        raise InputError(
            f"{path}: {row_name(first_row[sample])}",
            found=f"x {points[sample, 0]:.10g} and y {points[sample, 1]:.10g}, nowhere in the CRS {systems[sample]}",
            expected="coordinates in the stated CRS",
            repair="correct the coordinates, or the CRS: that of the table, or --crs.",
        )
    return _on_earth(lonlat), ""


def _in_degrees(points: np.ndarray, systems: np.ndarray, path: Path) -> np.ndarray:
    """Longitudes and latitudes of points, each in a CRS of its own; not finite where the CRS does not reach.

    Raises:
        InputError: If a CRS is not known.
    """
    lonlat = np.zeros_like(points)
    for system in np.unique(systems).tolist():
        chosen = systems == system
        transformer = Transformer.from_crs(known_crs(system, f"{path}: CRS {system}"), "EPSG:4326", always_xy=True)
        lonlat[chosen] = np.stack(transformer.transform(*points[chosen].T), 1)
    return lonlat


def _on_earth(lonlat: np.ndarray) -> Places:
    """Places with kilometers as plane coordinates, good enough to tell near from far."""
    shrink = np.cos(np.radians(lonlat[:, 1].mean()))
    plane = lonlat * KM_PER_DEGREE * np.array([shrink, 1.0])
    return Places(plane, lonlat)
