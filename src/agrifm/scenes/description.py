"""What a user says about a scene: its sources, and the grid, area and season that are wanted of it."""

from __future__ import annotations

import datetime as dt
import math
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from agrifm.config import Section, override
from agrifm.config.problems import explain
from agrifm.errors import InputError, nearest, reason, refusing
from agrifm.scenes.folders import kind_of
from agrifm.scenes.naming.dates import parse_day
from agrifm.scenes.naming.patterns import normalized
from agrifm.scenes.quality import RULES
from agrifm.scenes.scene import ReflectanceLimits
from agrifm.sensors import SENSORS
from agrifm.vectors.reading import read_table
from agrifm.yaml_text import read_yaml

Box = tuple[float, float, float, float]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _keyed(value: Any) -> Any:
    """Positions as keys, and band ids that YAML takes for numbers, are text."""
    if isinstance(value, Mapping):
        entries = {_text(key): _text(entry) for key, entry in value.items()}
        twice = next((band for band, count in Counter(entries.values()).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"each band once; {twice} stands there twice")
        return entries
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_text(entry) for entry in value]
    return value


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return normalized(str(value))
    raise ValueError("names and band ids, such as {b1: B02}")


def _number(value: Any) -> Any:
    """Yes and no count as 1 and 0 in Python."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _day(value: Any) -> Any:
    """Numbers are dates as they stand in file names; pydantic would take them for seconds."""
    if value is None or isinstance(value, dt.date):
        return value
    day = parse_day(str(value)) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
    if day is None and not isinstance(value, str):
        raise ValueError("a date such as 2018-03-01")
    return value if day is None else day


def _dated(value: Any) -> Any:
    """Dates as keys or entries, which YAML turns into dates, are text."""
    if isinstance(value, Mapping):
        return {_date_text(key): entry for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_date_text(entry) for entry in value]
    return value


def _date_text(value: Any) -> str:
    day = parse_day(str(value))
    return str(value if day is None else day)


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _one_of(value: str | None, valid: Mapping[str, Any]) -> str | None:
    known = {name.lower(): name for name in valid}
    if value is not None and value.lower() not in known:
        raise ValueError(nearest(value, valid))
    return value and known[value.lower()]


Finite = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Day = Annotated[dt.date, BeforeValidator(_day)]


class Source(Section):
    """Where images of one or several sensors lie, and how to read them where the files do not say.

    Args:
        path: Folder, file, cube, item list, or a path with a pattern in it.
        pattern: Pattern of file names below the folder, e.g. ``{date}_{band}_{res}.jp2``.
        sensor: Whose images they are.
        bands: The sensor's band ids by name in the files, or by position (from 1) in files with several bands; or the
            names of all bands of such files, in order.
        quality: Name of the band that tells clear ground from cloud; ``false`` uses none.
        rule: How to read it: SCL, Fmask, QA_PIXEL, pixel_qa, sur_refl_state_500m or mask.
        scale, offset: ``reflectance = stored * scale + offset``.
        nodata: Stored number that marks a missing pixel; NaN does anyway.
        folders: One or several in which the files of an item list may lie, beside the folder of the list.
    """

    path: Path
    pattern: str | None = None
    sensor: str | None = None
    bands: Annotated[dict[str, str] | tuple[str, ...] | None, BeforeValidator(_keyed)] = None
    quality: Literal[False] | str | None = None
    rule: str | None = None
    scale: Annotated[Finite, Field(gt=0)] | None = None
    offset: Finite | None = None
    nodata: Finite | None = None
    folders: Annotated[tuple[Path, ...] | None, BeforeValidator(_several)] = None

    @field_validator("path")
    @classmethod
    def _local(cls, value: Path) -> Path:
        # Addresses lose a slash as paths. A single letter is a drive of Windows.
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value.as_posix()):
            raise ValueError("a path of this machine, or an item list that 'agrifm scene search' writes for addresses")
        return value

    @field_validator("sensor")
    @classmethod
    def _known_sensor(cls, value: str | None) -> str | None:
        return _one_of(value, SENSORS)

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, value: str | None) -> str | None:
        return _one_of(value, RULES)


class Description(Section):
    """A scene.

    Args:
        sources: Where its images lie.
        crs: CRS of the scene's grid, e.g. ``EPSG:32631``; that of the finest sensor if left out.
        resolution: Pixel size of the grid in units of the CRS.
        bbox: West, south, east, north in degrees; west of 180 degrees to east of it, such as 179,-17,-179,-16, is an
            area across that meridian.
        aoi: Vector file of the area; what lies outside its bounds is left out.
        start, end: First and last day.
        offsets, scales: Of single dates, by date (``2023-05-01``), sensor and date (``S2 2023-05-01``) or product.
        skip_dates: Dates, or products, to leave out.
        check_units: Hold the numbers against their units.
        reflectance: Lowest and highest that land can have; pixels outside do not count as seen.
        impossible: Largest share of such pixels on a date that is used at all.
    """

    sources: tuple[Source, ...] = Field(min_length=1)
    crs: Annotated[str | None, Field(coerce_numbers_to_str=True)] = None
    resolution: Annotated[Finite, Field(gt=0)] | None = None
    bbox: Annotated[Box | None, BeforeValidator(_split)] = None
    aoi: Path | None = None
    offsets: Annotated[dict[str, Finite], BeforeValidator(_dated)] = Field({})
    scales: Annotated[dict[str, Annotated[Finite, Field(gt=0)]], BeforeValidator(_dated)] = Field({})
    skip_dates: Annotated[tuple[str, ...], BeforeValidator(_dated)] = ()
    check_units: bool = True
    start: Day | None = None
    end: Day | None = None
    reflectance: Annotated[tuple[Finite, Finite], BeforeValidator(_split)] = (
        ReflectanceLimits.low,
        ReflectanceLimits.high,
    )
    impossible: float = Field(ReflectanceLimits.most, ge=0, le=1)

    @field_validator("crs")
    @classmethod
    def _known_crs(cls, value: str | None) -> str | None:
        if value is None:
            return None
        text = f"EPSG:{value}" if value.isdecimal() else value
        try:
            crs = CRS(text)
        except Exception as error:  # pyproj and odc-geo raise various kinds
            raise ValueError(f"a CRS such as EPSG:32631 ({reason(error)})") from error
        if not (crs.projected or crs.geographic):
            raise ValueError("a projected or geographic CRS, such as EPSG:32631")
        return str(crs)

    @field_validator("bbox")
    @classmethod
    def _box(cls, value: Box | None) -> Box | None:
        if value is None:
            return None
        west, south, east, north = value
        inside = all(-180 <= x <= 180 for x in (west, east)) and -90 <= south < north <= 90
        # Nobody means an area around more than half of the Earth: west and east were exchanged.
        if not inside or west == east or (west > east and west - east < 180):
            raise ValueError("west,south,east,north in degrees, the smaller ones first")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        if self.bbox and self.aoi:
            raise ValueError("either bbox or aoi, not both")
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"a start before the end ({self.start} to {self.end})")
        if self.reflectance[0] >= self.reflectance[1]:
            raise ValueError("a lowest reflectance below the highest, e.g. [-0.2, 1.6]")
        return self

    def bounds(self) -> Geometry | None:
        """The area that is wanted, in its own CRS.

        Raises:
            InputError: If the vector file does not open, is empty or has no CRS.
        """
        if self.aoi:
            return read_area(self.aoi)
        if self.bbox is None:
            return None
        west, south, east, north = self.bbox
        return box(west, south, east if west < east else east + 360, north, "EPSG:4326")


def read_area(path: Path) -> Geometry:
    """All that is in a vector file, as one shape in its own CRS.

    Raises:
        InputError: If the file does not open, is empty or has no CRS.
    """
    import geopandas

    expected = "a vector file with areas and a CRS, e.g. GeoPackage or GeoJSON"
    repair = "correct the path, or save the area again with a CRS, e.g. with QGIS or 'ogr2ogr -a_srs'."
    if kind_of(path) not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path} (aoi)", found="no such file", expected=expected, repair=repair)
    with refusing(f"{path} (aoi)", expected=expected, repair=repair):
        table = read_table(path)
        # A table without geometry opens as one without areas.
        areas = table.geometry if isinstance(table, geopandas.GeoDataFrame) else geopandas.GeoSeries()
        area = areas[~(areas.is_empty | areas.isna())].union_all()
    if area is None or area.is_empty or areas.crs is None or not all(map(math.isfinite, area.bounds)):
        found = "no CRS" if area is not None and not area.is_empty and areas.crs is None else "no areas in it"
        raise InputError(f"{path} (aoi)", found=found, expected=expected, repair=repair)
    return Geometry(area, areas.crs)


OF_SCENE = tuple(name for name in Description.model_fields if name != "sources")
AS_TEXT = ("pattern", "aoi")  # their values may hold braces and colons, which mean something else in YAML
OF_SOURCE = tuple(name for name in Source.model_fields if name != "path")


def describe(values: Mapping[str, Any], overrides: Sequence[str], where: Path) -> Description:
    """A description from plain values and ``key=value`` strings, whose values are YAML.

    Raises:
        InputError: If a key or value is wrong.
    """
    given = _overrides(overrides)
    of_source = {key: value for key, value in given.items() if key in OF_SOURCE}
    sources = values.get("sources")
    listed = isinstance(sources, Sequence) and not isinstance(sources, str)
    if of_source and listed and len(sources) != 1:
        raise InputError(
            f"--set {next(iter(of_source))}=...",
            found=f"{len(sources)} sources in {where}",
            expected=f"a key of the whole scene: {', '.join(OF_SCENE)}",
            repair="write it below the source that is meant, in that file.",
        )
    if of_source and listed and isinstance(sources[0], Mapping):
        sources = [{**sources[0], **of_source}]
    whole = {key: value for key, value in given.items() if key in OF_SCENE}
    try:
        return Description.model_validate({**values, "sources": sources, **whole})
    except ValidationError as error:
        raise explain(error, where, Description) from error


def load_description(path: Path, overrides: Sequence[str]) -> Description:
    """A description from ``scene.yaml``; relative paths in it start at its folder.

    Raises:
        InputError: If it is missing, is no YAML, or a key or value is wrong.
    """
    values = read_yaml(path, "a scene in YAML")
    if not isinstance(values, Mapping):
        raise InputError(
            path, found="no keys", expected="'sources:' with a list of paths", repair="write 'sources: [{path: .}]'."
        )
    found, folder = describe(values, overrides, path), path.absolute().parent
    sources = tuple(source.model_copy(update={"path": folder / source.path}) for source in found.sources)
    if "folders" not in _overrides(overrides):
        sources = tuple(_at(source, folder) for source in sources)
    aoi = folder / found.aoi if found.aoi and "aoi" not in _overrides(overrides) else found.aoi
    return found.model_copy(update={"sources": sources, "aoi": aoi})


def _at(source: Source, folder: Path) -> Source:
    """The source whose other folders start at that of its description."""
    if source.folders is None:
        return source
    return source.model_copy(update={"folders": tuple(folder / one for one in source.folders)})


def _overrides(texts: Sequence[str]) -> dict[str, Any]:
    valid = (*OF_SCENE, *OF_SOURCE)
    for text in texts:
        key, found, _ = text.partition("=")
        name = key.split(".")[0]
        if not found or name not in valid:
            raise InputError(
                f"--set {text}",
                found=f"an unknown key '{name}'" if found else "no '='",
                expected=f"key=value with one of {', '.join(valid)}",
                repair=nearest(name, valid),
            )
    given = override({}, texts, as_text=AS_TEXT)
    nothing = {key: None for key in AS_TEXT if given.get(key) in ("", "null", "~")}
    return {**given, **nothing}
