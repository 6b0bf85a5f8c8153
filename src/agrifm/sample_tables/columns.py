"""What the columns of a table mean: identifier, date, label, group and place, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
from pyproj import CRS, Transformer

from agrifm.errors import InputError, nearest, refusing
from agrifm.sample_tables.reading import listed, numbers, texts

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


def places_of(rows: pandas.DataFrame, roles: Roles, path: Path, crs: str | None) -> tuple[Places | None, str]:
    """Places of samples, one row each, and a sentence where there are none although there are coordinates.

    Raises:
        InputError: If a coordinate is text, or the CRS is unknown.
    """
    if roles.place is None:
        return None, ""
    x = numbers(rows[roles.place[0]], path)
    y = numbers(rows[roles.place[1]], path)
    missing = int((~np.isfinite(x) | ~np.isfinite(y)).sum())
    if missing:
        return None, f"{missing:,} samples have no coordinates, so the places of the others are not used either"
    points = np.stack([x, y], 1)
    if roles.place[0].lower() in LONGITUDES:
        _check_degrees(points, roles.place, path)
        return _on_earth(points), ""
    systems = texts(rows[roles.crs]) if roles.crs is not None else np.full(len(rows), crs or "")
    if (systems == "").any():
        return Places(points, None), "x and y have no CRS (--crs), so they are used for the split only"
    lonlat = np.zeros_like(points)
    for system in np.unique(systems).tolist():
        chosen = systems == system
        name = f"EPSG:{system}" if system.isdigit() else system
        with refusing(f"{path}: CRS {name}", expected="a CRS such as EPSG:32631", repair="correct it."):
            transformer = Transformer.from_crs(CRS.from_user_input(name), "EPSG:4326", always_xy=True)
            lonlat[chosen] = np.stack(transformer.transform(*points[chosen].T), 1)
    _check_degrees(lonlat, roles.place, path)
    return _on_earth(lonlat), ""


def _check_degrees(points: np.ndarray, columns: tuple[str, str], path: Path) -> None:
    outside = (np.abs(points[:, 0]) > 360) | (np.abs(points[:, 1]) > 90) | ~np.isfinite(points).all(1)
    if outside.any():
        lon, lat = points[outside][0]
        raise InputError(
            f"{path}: columns {columns[0]} and {columns[1]}",
            found=f"longitude {lon:g} and latitude {lat:g}",
            expected="degrees on the Earth",
            repair="exchange the two columns, or call coordinates in meters x and y and give --crs.",
        )


def _on_earth(lonlat: np.ndarray) -> Places:
    """Places with kilometers as plane coordinates, good enough to tell near from far."""
    shrink = np.cos(np.radians(lonlat[:, 1].mean()))
    plane = lonlat * KM_PER_DEGREE * np.array([shrink, 1.0])
    return Places(plane, lonlat)
