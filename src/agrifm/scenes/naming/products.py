"""Naming schemes of products: date, band, tile and sensor in the names of files and bands.

Sources: Sentinel-2 Products Specification Document 14.9 (ESA), HLS User Guide v2.0 (NASA), Landsat 8-9 Collection 2
Level 2 Product Guide (USGS), MOD09 User's Guide v1.4 and AppEEARS documentation (NASA).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from agrifm.scenes.naming.dates import CLOCK, DATE, TIME, acquisition, days_in, parse_day, product_of
from agrifm.scenes.naming.patterns import NamePattern
from agrifm.scenes.naming.safe import safe_units
from agrifm.scenes.quality import rule_of
from agrifm.scenes.scene import Raster
from agrifm.scenes.units import HLS, LANDSAT_C2, MODIS, Units
from agrifm.sensors import SENSORS, Sensor


@dataclass(frozen=True)
class NamingScheme:
    """How the files of a product are named.

    Args:
        title: Name of the scheme, for people.
        example: A name that follows it.
        pattern: Pattern of the path below the scene's folder, with named parts ``date``, ``band``, ``time``, ``tile``,
            ``res`` and ``sensor``, and ``last`` where the name states a period. Without ``band`` a file holds several
            bands; without ``date`` the only date in the name counts.
        sensor: Name of the sensor; inferred from the bands if it is empty.
        bands: Band ids by the names in the files, where these are not the sensor's own.
        units: Function that returns the units from the path of a file and a band id.
        nodata: Number that marks missing pixels where the files state none.
        float_units: Units of files that hold floating-point numbers.
    """

    title: str
    example: str
    pattern: re.Pattern[str] | NamePattern
    sensor: str = ""
    bands: Mapping[str, str] = field(default_factory=dict)
    units: Callable[[Path, str], Units] | None = None
    nodata: float | None = None
    float_units: Units | None = None

    def parse(self, label: str, parts: Sequence[str], where: object) -> tuple[dt.date, dict[str, str]] | None:
        """Return the day and the named parts of a path; None if it does not follow this scheme.

        Args:
            label: Path below the scene's folder.
            parts: Names in the whole path, from the file upward; they may name the product.
            where: Path, for errors.

        Raises:
            InputError: If it is not clear which of several dates is the acquisition.
        """
        matches = self._matches(label)
        if not matches:
            return None
        days = _days_of(matches) if "date" in matches[0] else _days_of_name(parts[0])
        if not days:
            return None
        day = acquisition(days, parts, where)
        for match in matches:
            if parse_day(match.get("date", "")) == day:
                return day, match
        return day, matches[0]

    def _matches(self, label: str) -> list[dict[str, str]]:
        """Return the named parts for each date that the pattern may mean."""
        if isinstance(self.pattern, NamePattern):
            return self.pattern.matches(label)
        match = self.pattern.fullmatch(label)
        if match is None:
            return []
        return [{key: value for key, value in match.groupdict().items() if value}]


def _days_of(matches: Sequence[Mapping[str, str]]) -> tuple[dt.date, ...]:
    """Return the different days that a name may mean; first and last day of a period."""
    days = []
    for match in matches:
        for part in ("date", "last"):
            day = parse_day(match.get(part, ""))
            if day is not None:
                days.append(day)
    return tuple(dict.fromkeys(days))


def _days_of_name(name: str) -> tuple[dt.date, ...]:
    # Some products write the acquisition without a gap to other digits.
    product = product_of([name])
    return days_in(name) if product is None else (product.day,)


@dataclass(frozen=True)
class BandSource:
    """One band of one day, with what its name states.

    Args:
        raster: Where the band is stored.
        name: Name of the band in the files; empty if the file holds several bands that are not separated yet.
        day: Day of the acquisition.
        group: Bands of one group belong to one sensor.
        scheme: Naming scheme.
        label: Path below the scene's folder, or variable and file.
        stamp: Date and time, as the name has them.
        tile: Tile of the product.
        sequence: Distinguishes several observations of one day.
        resolution: Pixel size in the name, 0 if there is none.
        units: Units of the stored numbers, if the file or the product states them.
    """

    raster: Raster
    name: str
    day: dt.date
    group: str
    scheme: NamingScheme
    label: str
    stamp: str
    tile: str = ""
    sequence: str = ""
    resolution: float = 0.0
    units: Units | None = None

    @property
    def product(self) -> str:
        """Part of the file name before the band; the date if the band comes first."""
        name = self.label.rsplit("/", 1)[-1]
        before = ""
        if self.name and self.name in name:
            before = name[: name.find(self.name)]
        return before.strip("_.-") if self.stamp in before else self.stamp


def _in_any_folder(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE)


def _hls(product: str, sensor: str) -> NamingScheme:
    return NamingScheme(
        title="HLS v2.0",
        example=f"HLS.{product}.T31TEJ.2018001T103000.v2.0.B02.tif",
        pattern=_in_any_folder(
            rf"HLS\.{product}\.T(?P<tile>\w{{5}})\.(?P<date>\d{{7}})T(?P<time>\d{{6}})\.v\d\.\d\."
            r"(?P<band>B\d[\dA]|Fmask)\.tiff?"
        ),
        sensor=sensor,
        units=lambda path, band: HLS,
        nodata=-9999,
    )


def _landsat(example: str, satellites: str, numbers: str) -> NamingScheme:
    """Return the scheme of Collection 2 Level 2.

    Args:
        example: A name that follows it.
        satellites: Pattern of sensor and satellite.
        numbers: Numbers of the blue, green, red, near-infrared and two short-wave infrared bands.
    """
    band_ids = SENSORS["Landsat"].band_ids
    bands = {f"SR_B{number}": band for number, band in zip(numbers, band_ids, strict=True)}
    return NamingScheme(
        title="Landsat Collection 2 Level 2",
        example=example,
        pattern=_in_any_folder(
            rf"{satellites}_L2S[PR]_(?P<tile>\d{{6}})_(?P<date>\d{{8}})_\d{{8}}_02_(?:T1|T2|RT)"
            rf"_(?P<band>SR_B[{numbers}]|QA_PIXEL)\.tiff?"
        ),
        sensor="Landsat",
        bands=MappingProxyType(bands),
        units=lambda path, band: LANDSAT_C2,
        nodata=0,
    )


def _modis(example: str, pattern: str) -> NamingScheme:
    return NamingScheme(
        title="MOD09A1",
        example=example,
        pattern=_in_any_folder(pattern),
        sensor="Modis",
        units=lambda path, band: MODIS,
        nodata=-28672,
    )


MODIS_BAND = r"(?P<band>sur_refl_b0[1-7]|sur_refl_state_500m)"
DAY = r"\d{4}-\d\d-\d\d"
EXTENSION = r"\.(?:tiff?|jp2|img|vrt)"

NAMING_SCHEMES: tuple[NamingScheme, ...] = (
    NamingScheme(
        title="Sentinel-2 Level-2A SAFE folders",
        example="S2A_MSIL2A_...SAFE/GRANULE/.../R10m/T31TEJ_20180707T104021_B04_10m.jp2",
        # Every band at the pixel size it was taken with.
        pattern=_in_any_folder(
            r"(?:L2A_)?T(?P<tile>\d\d[A-Z]{3})_(?P<date>\d{8})T(?P<time>\d{6})_"
            r"(?=B0[2348]_10m|(?:B0[567]|B8A|B1[12]|SCL)_20m)(?P<band>\w{3})_(?P<res>\d\d)m\.(?:jp2|tiff?)"
        ),
        sensor="S2",
        units=safe_units,
        nodata=0,
    ),
    _hls("L30", "Landsat"),
    _hls("S30", "S2"),
    _landsat("LC08_L2SP_198030_20180101_20200101_02_T1_SR_B2.TIF", "L[CO]0[89]", "234567"),
    _landsat("LE07_L2SP_198030_20180109_20200829_02_T1_SR_B1.TIF", "L[ET]0[457]", "123457"),
    _modis(
        "MOD09A1.A2018001.h18v04.061.2018010030442_sur_refl_b01.tif",
        rf"M[OY]D09A1\.A(?P<date>\d{{7}})\.(?P<tile>h\d\dv\d\d)\.\d{{3}}[._].*?{MODIS_BAND}\.tiff?",
    ),
    _modis(
        "MOD09A1.061_sur_refl_b01_doy2018001_aid0001.tif",
        rf"M[OY]D09A1\.\d{{3}}_{MODIS_BAND}_doy(?P<date>\d{{7}})(?:\d{{6}})?_(?P<tile>aid\d+)\.tiff?",
    ),
    NamingScheme(
        title="Copernicus Browser",
        example="2018-07-07-00:00_2018-07-07-23:59_Sentinel-2_L2A_B04_(Raw).tiff",
        # A period, which may be longer than a day; unpacked on Windows, the colons are other characters.
        pattern=_in_any_folder(
            rf"(?P<date>{DAY})[-T]\d\d[^/\w]?_?\d\d_(?P<last>{DAY})[-T]\d\d[^/\w]?_?\d\d_Sentinel-2[^/]*?_L2A_"
            r"(?P<band>B\d[\dA]|SCL)(?:_\(Raw\)|_Raw)?\.tiff?"
        ),
        sensor="S2",
        float_units=Units(1.0, 0.0, "reflectance in floating-point numbers, Copernicus Browser"),
    ),
    NamingScheme(
        title="one file for each date and band",
        example="20180707_B04_10m.jp2 or 2018-07-07_B04.tif",
        pattern=_in_any_folder(rf"{DATE}{TIME}{CLOCK}_(?P<band>[^/.]+?)(?:_R?(?P<res>\d+)m)?{EXTENSION}"),
    ),
)

STACKED = NamingScheme(
    title="one GeoTIFF for each date, with all bands",
    example="sentinel2_20180707.tif",
    pattern=_in_any_folder(r"[^/]*\.tiff?"),
)
CUBE = NamingScheme(
    title="netCDF or Zarr with a time axis",
    example="sentinel2.nc, sentinel2.zarr",
    pattern=re.compile("(?!)"),  # cubes state dates and bands themselves
)


def scheme_of_pattern(pattern: str) -> NamingScheme:
    """Return the scheme of a pattern such as ``{tile}/{date}_{band}_{res}.jp2``, with ``*`` and ``?`` as wildcards.

    Raises:
        InputError: If the pattern has an unknown part, or no date.
    """
    return NamingScheme(title=f"the pattern '{pattern}'", example=pattern, pattern=NamePattern.of(pattern))


# How the names of files and folders hint at a sensor.
HINTS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "S2": re.compile(r"S2[ABC]?|S30|SENTINEL2[ABC]?|MSIL2A"),
        "Landsat": re.compile(r"L[C]?0?[4-9]|L30|LANDSAT\d?|LE07|LT05"),
        "Modis": re.compile(r"MODIS|M[OY]D09A1"),
    }
)
# Quality layers that only one sensor has.
QUALITY_OF_SENSOR = MappingProxyType(
    {"SCL": "S2", "QA_PIXEL": "Landsat", "pixel_qa": "Landsat", "sur_refl_state_500m": "Modis"}
)
# Further bands of the products, which are not read but distinguish sensors.
UNUSED_BANDS = MappingProxyType({"S2": ("B01", "B09", "B10"), "Landsat": ("B01", "B09", "B10", "B11")})


def known_names(sensor: Sensor) -> dict[str, str]:
    """Return the band ids of a sensor by their usual names in lower case: ``b02``, ``b2``, ``blue``, ``sr_b2``."""
    band_ids: dict[str, str] = {}
    for band in sensor.bands:
        without_zero = re.sub(r"^([A-Za-z]+)0+(\d)", r"\1\2", band.id)
        names = [band.common_name, without_zero, band.id]
        if sensor.name == "Landsat":
            names += [f"SR_{without_zero}", f"SR_{band.id}"]
        for name in names:
            band_ids[name.lower()] = band.id
    return band_ids


def hinted(text: str) -> list[Sensor]:
    """Return the sensors at which a path hints."""
    words = re.split(r"[^A-Z0-9]+", text.upper())
    return [SENSORS[name] for name, hint in HINTS.items() if any(hint.fullmatch(word) for word in words)]


def infer_sensors(names: Collection[str], path: str) -> list[Sensor]:
    """Return the sensors to which bands of these names may belong; one, if the names are clear.

    A quality layer of one sensor decides first, then the hints in the path, then the names of the bands.
    """
    candidates = _sensors_of_quality(names) or hinted(path) or list(SENSORS.values())
    scores = {sensor.name: _match_score(sensor, names) for sensor in candidates}
    best = max(scores.values())
    known_bands, _ = best
    if not known_bands:
        return []
    return [sensor for sensor in candidates if scores[sensor.name] == best]


def _sensors_of_quality(names: Collection[str]) -> list[Sensor]:
    """Return the sensors to which the quality layers among these names belong."""
    rules = {rule_of(name) for name in names}
    owners = {sensor for quality, sensor in QUALITY_OF_SENSOR.items() if quality in rules}
    return [sensor for name, sensor in SENSORS.items() if name in owners]


def _match_score(sensor: Sensor, names: Collection[str]) -> tuple[int, bool]:
    """Return how many names are bands of the sensor (0 if none is a band that is read), and whether all are there."""
    lower_names = {name.lower() for name in names}
    if lower_names and all(name.isdigit() for name in lower_names):
        # Positions say nothing but how many bands there are.
        fits = len(lower_names) == len(sensor.bands)
        return int(fits), fits
    bands = {band for name, band in known_names(sensor).items() if name in lower_names}
    if not bands:
        return 0, False
    unused = {name.lower() for name in UNUSED_BANDS.get(sensor.name, ())} & lower_names
    is_complete = len(bands) == len(sensor.bands)
    return len(bands) + len(unused), is_complete
