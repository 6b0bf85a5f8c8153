"""Description of a scene by the user: its sources, and the grid, area and period that are wanted of it."""

from __future__ import annotations

import datetime as dt
import math
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from agrifm.config import Section, override
from agrifm.config.problems import explain
from agrifm.errors import InputError, counted, nearest, reason, refusing
from agrifm.scenes.folders import kind_of
from agrifm.scenes.frame_pixels import ReflectanceLimits
from agrifm.scenes.naming.dates import parse_day
from agrifm.scenes.naming.patterns import normalized
from agrifm.scenes.quality import RULES
from agrifm.scenes.units import Units
from agrifm.sensors import SENSORS
from agrifm.vectors.reading import read_table
from agrifm.yaml_text import read_yaml

# Validators that run before pydantic converts a value.


def _band_names(value: Any) -> Any:
    """Convert positions and band ids to text; YAML takes some of them for numbers."""
    if isinstance(value, Mapping):
        names = {_text(name): _text(band) for name, band in value.items()}
        bands = list(names.values())
        for band in bands:
            if bands.count(band) > 1:
                raise ValueError(f"each band once; {band} is given twice")
        return names
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_text(name) for name in value]
    return value


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return normalized(str(value))
    raise ValueError("names and band ids, such as {b1: B02}")


def _no_boolean(value: Any) -> Any:
    """Refuse yes and no, which count as 1 and 0 in Python."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _day(value: Any) -> Any:
    """Parse numbers as dates of file names; pydantic would take them for seconds."""
    if value is None or isinstance(value, dt.date):
        return value
    if isinstance(value, str):
        return parse_day(value) or value
    day = None
    if isinstance(value, int) and not isinstance(value, bool):
        day = parse_day(str(value))
    if day is None:
        raise ValueError("a date such as 2018-03-01")
    return day


def _date_names(value: Any) -> Any:
    """Convert dates as keys or entries to text; YAML turns them into dates."""
    if isinstance(value, Mapping):
        return {_date_name(name): entry for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_date_name(name) for name in value]
    return value


def _date_name(value: Any) -> str:
    return str(parse_day(str(value)) or value)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _split_at_commas(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _known_name(value: str | None, valid: Mapping[str, Any]) -> str | None:
    """Return a name as it is spelled among the valid ones, whatever its case."""
    if value is None:
        return None
    for name in valid:
        if name.lower() == value.lower():
            return name
    raise ValueError(nearest(value, valid))


Finite = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
Box = tuple[float, float, float, float]
Day = Annotated[dt.date, BeforeValidator(_day)]


class Source(Section):
    """Files of one or several sensors, and how to read them where the files do not state it.

    Args:
        path: Folder, file, cube, item list, or a path that contains a pattern.
        pattern: Pattern of file names below the folder, e.g. ``{date}_{band}_{res}.jp2``.
        sensor: Sensor of the images.
        bands: Band ids of the sensor by name in the files, or by position (from 1) in files with several bands; or the
            names of all bands of such files, in order.
        quality: Name of the quality layer; ``false`` uses none.
        rule: Rule that reads it: SCL, Fmask, QA_PIXEL, pixel_qa, sur_refl_state_500m or mask.
        scale, offset: Units: ``reflectance = stored * scale + offset``.
        nodata: Stored number that marks a missing pixel; NaN always does.
        folders: One or several folders in which the files of an item list may lie, beside that of the list.
    """

    path: Path
    pattern: str | None = None
    sensor: str | None = None
    bands: Annotated[dict[str, str] | tuple[str, ...] | None, BeforeValidator(_band_names)] = None
    quality: Literal[False] | str | None = None
    rule: str | None = None
    scale: Positive | None = None
    offset: Finite | None = None
    nodata: Finite | None = None
    folders: Annotated[tuple[Path, ...] | None, BeforeValidator(_as_list)] = None

    @field_validator("path")
    @classmethod
    def _local_path(cls, value: Path) -> Path:
        # Addresses lose a slash as paths. A single letter is a drive of Windows.
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value.as_posix()):
            raise ValueError("a path of this machine, or an item list that 'agrifm scene search' writes for addresses")
        return value

    @field_validator("sensor")
    @classmethod
    def _known_sensor(cls, value: str | None) -> str | None:
        return _known_name(value, SENSORS)

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, value: str | None) -> str | None:
        return _known_name(value, RULES)

    def override(self, units: Units) -> Units:
        """Return the units with the scale and offset of the user, if there are any."""
        if self.scale is None and self.offset is None:
            return units
        scale = units.scale if self.scale is None else self.scale
        offset = units.offset if self.offset is None else self.offset
        return Units(scale, offset, "given by the user")


class Description(Section):
    """Description of a scene.

    Args:
        sources: Files of the scene.
        crs: CRS of the grid, e.g. ``EPSG:32631``; by default that of the finest sensor.
        resolution: Pixel size of the grid in units of the CRS.
        bbox: West, south, east, north in degrees; west of 180 degrees to east of it, such as 179,-17,-179,-16, is an
            area across that meridian.
        aoi: Vector file of the area of interest; everything outside its bounds is left out.
        offsets, scales: Units of single dates, by date (``2023-05-01``), sensor and date (``S2 2023-05-01``) or
            product.
        skip_dates: Dates, or products, to leave out.
        check_units: Whether to compare the numbers with their units.
        reflectance: Lowest and highest reflectance of land; pixels outside do not count as clear.
        impossible: Largest share of such pixels at which a date is still used.
        start, end: First and last day.
    """

    sources: tuple[Source, ...] = Field(min_length=1)
    crs: Annotated[str | None, Field(coerce_numbers_to_str=True)] = None
    resolution: Positive | None = None
    bbox: Annotated[Box | None, BeforeValidator(_split_at_commas)] = None
    aoi: Path | None = None
    offsets: Annotated[dict[str, Finite], BeforeValidator(_date_names)] = Field({})
    scales: Annotated[dict[str, Positive], BeforeValidator(_date_names)] = Field({})
    skip_dates: Annotated[tuple[str, ...], BeforeValidator(_date_names)] = ()
    check_units: bool = True
    start: Day | None = None
    end: Day | None = None
    reflectance: Annotated[tuple[Finite, Finite], BeforeValidator(_split_at_commas)] = (
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
    def _valid_box(cls, value: Box | None) -> Box | None:
        if value is None:
            return None
        west, south, east, north = value
        on_earth = -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90
        # Nobody means an area around more than half of the Earth: west and east were exchanged.
        exchanged = west > east and west - east < 180
        if not on_earth or west == east or exchanged:
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

    @property
    def limits(self) -> ReflectanceLimits:
        """Limits of reflectance."""
        low, high = self.reflectance
        return ReflectanceLimits(low, high, self.impossible)

    def bounds(self) -> Geometry | None:
        """Return the area of the scene in the CRS in which it is given; None if it is not limited.

        Raises:
            InputError: If the vector file does not open, is empty or has no CRS.
        """
        if self.aoi:
            return read_area(self.aoi)
        if self.bbox is None:
            return None
        west, south, east, north = self.bbox
        if east < west:  # across 180 degrees
            east += 360
        return box(west, south, east, north, "EPSG:4326")


def read_area(path: Path) -> Geometry:
    """Read everything in a vector file as one shape, in the CRS of the file.

    Raises:
        InputError: If the file does not open, is empty or has no CRS.
    """
    # Importing geopandas takes long.
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
    is_empty = area is None or area.is_empty
    if is_empty or areas.crs is None or not all(map(math.isfinite, area.bounds)):
        found = "no areas in it" if is_empty or areas.crs is not None else "no CRS"
        raise InputError(f"{path} (aoi)", found=found, expected=expected, repair=repair)
    return Geometry(area, areas.crs)


SCENE_KEYS = tuple(name for name in Description.model_fields if name != "sources")
SOURCE_KEYS = tuple(name for name in Source.model_fields if name != "path")
TEXT_KEYS = ("pattern", "aoi")  # their values may hold braces and colons, which have a meaning in YAML


def describe(values: Mapping[str, Any], overrides: Sequence[str], where: Path) -> Description:
    """Build a description from plain values and ``key=value`` strings, whose values are YAML.

    Args:
        values: Keys and values of ``Description``.
        overrides: Strings with keys of ``Description`` or, for a single source, of ``Source``.
        where: File of the description, for errors.

    Raises:
        InputError: If a key or value is wrong.
    """
    given = _parse_overrides(overrides)
    of_source = {key: value for key, value in given.items() if key in SOURCE_KEYS}
    of_scene = {key: value for key, value in given.items() if key in SCENE_KEYS}
    sources = values.get("sources")
    # Sources that are no list are refused by the validation below.
    if of_source and isinstance(sources, Sequence) and not isinstance(sources, str):
        if len(sources) != 1:
            raise InputError(
                f"--set {next(iter(of_source))}=...",
                found=f"{counted(len(sources), 'source')} in {where}",
                expected=f"a key of the whole scene: {', '.join(SCENE_KEYS)}",
                repair="write it below the source that is meant, in that file.",
            )
        if isinstance(sources[0], Mapping):
            sources = [{**sources[0], **of_source}]
    try:
        return Description.model_validate({**values, "sources": sources, **of_scene})
    except ValidationError as error:
        raise explain(error, where, Description) from error


def load_description(path: Path, overrides: Sequence[str]) -> Description:
    """Load a description from ``scene.yaml``; relative paths in it start at its folder.

    Raises:
        InputError: If the file is missing or no YAML, or a key or value is wrong.
    """
    values = read_yaml(path, "a scene in YAML")
    if not isinstance(values, Mapping):
        raise InputError(
            path, found="no keys", expected="'sources:' with a list of paths", repair="write 'sources: [{path: .}]'."
        )
    description = describe(values, overrides, path)
    overridden = _parse_overrides(overrides)
    folder = path.absolute().parent
    sources = []
    for source in description.sources:
        changes: dict[str, Any] = {"path": folder / source.path}
        if source.folders is not None and "folders" not in overridden:
            changes["folders"] = tuple(folder / other for other in source.folders)
        sources.append(source.model_copy(update=changes))
    aoi = description.aoi
    if aoi and "aoi" not in overridden:
        aoi = folder / aoi
    return description.model_copy(update={"sources": tuple(sources), "aoi": aoi})


def _parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    valid = (*SCENE_KEYS, *SOURCE_KEYS)
    for text in texts:
        key, equals_sign, _ = text.partition("=")
        name = key.split(".")[0]
        if not equals_sign or name not in valid:
            raise InputError(
                f"--set {text}",
                found=f"an unknown key '{name}'" if equals_sign else "no '='",
                expected=f"key=value with one of {', '.join(valid)}",
                repair=nearest(name, valid),
            )
    values = override({}, texts, as_text=TEXT_KEYS)
    for key in TEXT_KEYS:
        if values.get(key) in ("", "null", "~"):
            values[key] = None
    return values
