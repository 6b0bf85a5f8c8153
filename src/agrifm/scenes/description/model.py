"""The keys of a description, and which values they take."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, Literal

from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box
from pydantic import BeforeValidator, Field, field_validator, model_validator

from agrifm.errors import reason
from agrifm.scenes.description.area import read_area
from agrifm.scenes.description.values import (
    as_day,
    as_list,
    band_names,
    date_names,
    known_name,
    no_boolean,
    split_at_commas,
)
from agrifm.scenes.frame_pixels import ReflectanceLimits
from agrifm.scenes.quality import RULES
from agrifm.scenes.units import Units
from agrifm.sensors import SENSORS
from agrifm.settings.section import Section

Finite = Annotated[float, BeforeValidator(no_boolean), Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
Box = tuple[float, float, float, float]
Day = Annotated[dt.date, BeforeValidator(as_day)]


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
    bands: Annotated[dict[str, str] | tuple[str, ...] | None, BeforeValidator(band_names)] = None
    quality: Literal[False] | str | None = None
    rule: str | None = None
    scale: Positive | None = None
    offset: Finite | None = None
    nodata: Finite | None = None
    folders: Annotated[tuple[Path, ...] | None, BeforeValidator(as_list)] = None

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
        return known_name(value, SENSORS)

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, value: str | None) -> str | None:
        return known_name(value, RULES)

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
    bbox: Annotated[Box | None, BeforeValidator(split_at_commas)] = None
    aoi: Path | None = None
    offsets: Annotated[dict[str, Finite], BeforeValidator(date_names)] = Field({})
    scales: Annotated[dict[str, Positive], BeforeValidator(date_names)] = Field({})
    skip_dates: Annotated[tuple[str, ...], BeforeValidator(date_names)] = ()
    check_units: bool = True
    start: Day | None = None
    end: Day | None = None
    reflectance: Annotated[tuple[Finite, Finite], BeforeValidator(split_at_commas)] = (
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
