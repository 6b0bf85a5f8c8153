"""What a user says about a scene: its sources, and the grid, area and season that are wanted of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from agrifm.config import Section, override
from agrifm.errors import InputError, nearest
from agrifm.scenes.quality import RULES
from agrifm.sensors import SENSORS

Box = tuple[float, float, float, float]


def _keyed(value: Any) -> Any:
    """Positions as keys, and band ids that YAML takes for numbers, are text."""
    if isinstance(value, Mapping):
        return {str(key): str(entry) for key, entry in value.items()}
    return [str(entry) for entry in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _one_of(value: str | None, valid: Mapping[str, Any]) -> str | None:
    known = {name.lower(): name for name in valid}
    if value is not None and value.lower() not in known:
        raise ValueError(nearest(value, valid))
    return value and known[value.lower()]


class Source(Section):
    """Where images of one or several sensors lie, and how to read them where the files do not say.

    Args:
        path: folder, file, cube, item list, or a path with a pattern in it.
        pattern: of file names below the folder, e.g. ``{date}_{band}_{res}.jp2``.
        sensor: whose images they are.
        bands: the sensor's band ids by name in the files, or by position (from 1) in files with several bands; or the
            names of all bands of such files, in order.
        quality: name of the band that tells clear ground from cloud; ``false`` uses none.
        rule: how to read it: SCL, Fmask, QA_PIXEL, pixel_qa, sur_refl_state_500m or mask.
        scale, offset: ``reflectance = stored * scale + offset``.
        nodata: stored number that marks a missing pixel; NaN does anyway.
        folders: one or several in which the files of an item list may lie, beside the folder of the list.
    """

    path: Path
    pattern: str | None = None
    sensor: str | None = None
    bands: Annotated[dict[str, str] | tuple[str, ...] | None, BeforeValidator(_keyed)] = None
    quality: Literal[False] | str | None = None
    rule: str | None = None
    scale: float | None = Field(None, gt=0)
    offset: float | None = None
    nodata: float | None = Field(None, allow_inf_nan=False)
    folders: Annotated[tuple[Path, ...] | None, BeforeValidator(_several)] = None

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
        sources: where its images lie.
        crs: of the scene's grid, e.g. ``EPSG:32631``; that of the finest sensor if left out.
        resolution: pixel size of the grid in units of the CRS.
        bbox: west, south, east, north in degrees.
        aoi: vector file of the area; what lies outside its bounds is left out.
        start, end: first and last day.
    """

    sources: tuple[Source, ...] = Field(min_length=1)
    crs: Annotated[str | None, Field(coerce_numbers_to_str=True)] = None
    resolution: float | None = Field(None, gt=0)
    bbox: Annotated[Box | None, BeforeValidator(_split)] = None
    aoi: Path | None = None
    start: dt.date | None = None
    end: dt.date | None = None

    @field_validator("crs")
    @classmethod
    def _known_crs(cls, value: str | None) -> str | None:
        value = f"EPSG:{value}" if value and value.isdigit() else value
        try:
            return value and str(CRS(value))
        except RuntimeError as error:  # pyproj's
            raise ValueError(f"a CRS such as EPSG:32631 ({error})") from error

    @field_validator("bbox")
    @classmethod
    def _box(cls, value: Box | None) -> Box | None:
        if value and not (-180 <= value[0] < value[2] <= 180 and -90 <= value[1] < value[3] <= 90):
            raise ValueError("west,south,east,north in degrees, the smaller ones first")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        if self.bbox and self.aoi:
            raise ValueError("either bbox or aoi, not both")
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"a start before the end ({self.start} to {self.end})")
        return self

    def bounds(self) -> Geometry | None:
        """The area that is wanted, in its own CRS.

        Raises:
            InputError: the vector file does not open, is empty or has no CRS.
        """
        return read_area(self.aoi) if self.aoi else box(*self.bbox, "EPSG:4326") if self.bbox else None


def read_area(path: Path) -> Geometry:
    """All that is in a vector file, as one shape in its own CRS.

    Raises:
        InputError: the file does not open, is empty or has no CRS.
    """
    import geopandas

    try:
        table = geopandas.read_file(path)
        found = "nothing in it" if table.empty or table.geometry.is_empty.all() else "no CRS"
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        table, found = None, f"a file that does not open: {error}"
    if table is None or table.crs is None or found != "no CRS":
        raise InputError(
            f"{path} (aoi)",
            found=found,
            expected="a vector file with areas and a CRS, e.g. GeoPackage or GeoJSON",
            repair="correct the path, or save the area again with a CRS, e.g. with QGIS or 'ogr2ogr -a_srs'.",
        )
    return Geometry(table.geometry.union_all(), table.crs)


OF_SCENE = tuple(name for name in Description.model_fields if name != "sources")
OF_SOURCE = tuple(name for name in Source.model_fields if name != "path")


def describe(values: Mapping[str, Any], overrides: Sequence[str], where: Path) -> Description:
    """A description from plain values and ``key=value`` strings, whose values are YAML.

    Raises:
        InputError: a key or value is wrong.
    """
    given = _overrides(overrides)
    of_source = {key: value for key, value in given.items() if key in OF_SOURCE}
    sources = values.get("sources")
    if of_source and isinstance(sources, Sequence) and len(sources) != 1:
        raise InputError(
            f"--set {next(iter(of_source))}=...",
            found=f"{len(sources)} sources in {where}",
            expected=f"a key of the whole scene: {', '.join(OF_SCENE)}",
            repair="write it below the source that is meant, in that file.",
        )
    if of_source and isinstance(sources, Sequence) and isinstance(sources[0], Mapping):
        sources = [{**sources[0], **of_source}]
    whole = {key: value for key, value in given.items() if key in OF_SCENE}
    try:
        return Description.model_validate({**values, "sources": sources, **whole})
    except ValidationError as error:
        raise _explain(error.errors(), where) from error


def load_description(path: Path, overrides: Sequence[str]) -> Description:
    """A description from ``scene.yaml``; relative paths in it start at its folder.

    Raises:
        InputError: it is missing, is no YAML, or a key or value is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(path, found=str(error), expected="a scene in YAML", repair="mend the file.") from error
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
    try:
        return override({}, texts)
    except yaml.YAMLError as error:
        raise InputError(
            f"--set {' '.join(texts)}", found=str(error), expected="values in YAML", repair="mend the value."
        ) from error


def _explain(problems: Sequence[ErrorDetails], where: Path) -> InputError:
    problem = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    place = [str(part) for part in problem["loc"]]
    at = f"{where}: {'.'.join(place)}" if place else str(where)
    if problem["type"] == "extra_forbidden":
        valid = Source.model_fields if place[0] == "sources" else Description.model_fields
        expected, repair = f"one of {', '.join(valid)}", nearest(place[-1], valid)
        return InputError(at, found="an unknown key", expected=expected, repair=repair)
    found = "nothing" if problem["type"] == "missing" else repr(problem["input"])[:80]
    return InputError(
        at, found=found, expected=problem["msg"].removeprefix("Value error, "), repair="correct the value."
    )
