"""What the names of files and bands say: date, band, tile, sensor. One entry for each product's way of naming.

Sources: Sentinel-2 Products Specification Document 14.9 (ESA), HLS User Guide v2.0 (NASA), Landsat 8-9 Collection 2
Level 2 Product Guide (USGS), MOD09 User's Guide v1.4 and AppEEARS documentation (NASA).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from agrifm.scenes.naming.dates import CLOCK, DATE, TIME, acquisition, days_in, parse_day, product_of
from agrifm.scenes.naming.patterns import NamePattern
from agrifm.scenes.naming.safe import safe_units
from agrifm.scenes.quality import RULES
from agrifm.scenes.scene import Raster
from agrifm.scenes.units import HLS, LANDSAT_C2, MODIS, Units
from agrifm.sensors import SENSORS, Sensor


@dataclass(frozen=True)
class NamingScheme:
    """A way of naming files.

    Args:
        title: Title for people.
        example: A name of that form.
        pattern: Pattern of the path below the scene's folder, with named parts ``date``, ``band``, ``time``, ``tile``,
            ``res`` and ``sensor``, and ``last`` where the name states a period. Without ``band`` a file holds several
            bands. Without ``date`` the only date in the name counts.
        sensor: Sensor of the files; empty if the bands show it.
        bands: Their names in the files, where they are not the sensor's own, and its ids.
        units: Units from the path of a file and the id of a band.
        nodata: Nodata of the bands, where the files do not say.
        real: Units of files that hold floating-point numbers.
    """

    title: str
    example: str
    pattern: re.Pattern[str] | NamePattern
    sensor: str = ""
    bands: Mapping[str, str] = field(default_factory=dict)
    units: Callable[[Path, str], Units] | None = None
    nodata: float | None = None
    real: Units | None = None

    def parts(self, shown: str, parts: Sequence[str], where: object) -> tuple[dt.date, dict[str, str]] | None:
        """The day and the named parts of a path that follows this layout, or None.

        Args:
            shown: Path below the scene's folder.
            parts: Parts of the whole path, from the file upward; they may name the product.
            where: Where for errors.

        Raises:
            InputError: If it is not clear which of several dates is meant.
        """
        found = self._matches(shown)
        if not found:
            return None
        days = _days(found) if "date" in found[0] else _days_of_file(parts[0])
        if not days:
            return None
        day = acquisition(days, parts, where)
        return day, next((one for one in found if parse_day(one.get("date", "")) == day), found[0])

    def _matches(self, shown: str) -> list[dict[str, str]]:
        if isinstance(self.pattern, NamePattern):
            return self.pattern.matches(shown)
        match = self.pattern.fullmatch(shown)
        return [] if match is None else [{key: value for key, value in match.groupdict().items() if value}]


def _days(found: Sequence[Mapping[str, str]]) -> tuple[dt.date, ...]:
    """The different days that a name may mean; first and last of a period."""
    texts = [one[part] for one in found for part in ("date", "last") if part in one]
    days = [day for day in map(parse_day, texts) if day is not None]
    return tuple(dict.fromkeys(days))


def _days_of_file(name: str) -> tuple[dt.date, ...]:
    # Some products write the acquisition without a gap to other digits.
    product = product_of([name])
    return days_in(name) if product is None else (product.day,)


@dataclass(frozen=True)
class BandSource:
    """One band of one day, as the names tell it.

    Args:
        raster: Where it is stored.
        name: Name of the band, in the files; empty if the file holds several that are not told apart yet.
        day: Day of the acquisition.
        group: Pieces of one group are of one sensor.
        layout: How it is named.
        shown: Path below the scene's folder, or variable and file.
        stamp: Date and time, as the name has them.
        tile: Tile of the product's tiling.
        order: Tells apart several looks of one day.
        res: Pixel size in the name, 0 if there is none.
        units: Units of the stored numbers, if the file or the product says.
    """

    raster: Raster
    name: str
    day: dt.date
    group: str
    layout: NamingScheme
    shown: str
    stamp: str
    tile: str = ""
    order: str = ""
    res: float = 0.0
    units: Units | None = None

    @property
    def product(self) -> str:
        """What stands in the name before the band, or the date."""
        name = self.shown.rsplit("/", 1)[-1]
        before = name[: name.find(self.name)] if self.name and self.name in name else ""
        return before.strip("_.-") if self.stamp in before else self.stamp


def _named(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE)


def _landsat(example: str, satellites: str, bands: str) -> NamingScheme:
    """Collection 2 Level 2; ``bands`` are the numbers of blue, green, red, near and two short-wave infrared bands."""
    ids = SENSORS["Landsat"].band_ids
    return NamingScheme(
        "Landsat Collection 2 Level 2",
        example,
        _named(
            rf"{satellites}_L2S[PR]_(?P<tile>\d{{6}})_(?P<date>\d{{8}})_\d{{8}}_02_(?:T1|T2|RT)"
            rf"_(?P<band>SR_B[{bands}]|QA_PIXEL)\.tiff?"
        ),
        "Landsat",
        MappingProxyType({f"SR_B{number}": band for number, band in zip(bands, ids, strict=True)}),
        lambda path, band: LANDSAT_C2,
        0,
    )


def _modis(example: str, pattern: str) -> NamingScheme:
    return NamingScheme("MOD09A1", example, _named(pattern), "Modis", units=lambda path, band: MODIS, nodata=-28672)


MODIS_BAND = r"(?P<band>sur_refl_b0[1-7]|sur_refl_state_500m)"
DAY = r"\d{4}-\d\d-\d\d"
EXTENSION = r"\.(?:tiff?|jp2|img|vrt)"

NAMING_SCHEMES: tuple[NamingScheme, ...] = (
    NamingScheme(
        "Sentinel-2 Level-2A SAFE folders",
        "S2A_MSIL2A_...SAFE/GRANULE/.../R10m/T31TEJ_20180707T104021_B04_10m.jp2",
        # Every band at the pixel size it was taken with.
        _named(
            r"(?:L2A_)?T(?P<tile>\d\d[A-Z]{3})_(?P<date>\d{8})T(?P<time>\d{6})_"
            r"(?=B0[2348]_10m|(?:B0[567]|B8A|B1[12]|SCL)_20m)(?P<band>\w{3})_(?P<res>\d\d)m\.(?:jp2|tiff?)"
        ),
        "S2",
        units=safe_units,
        nodata=0,
    ),
    *(
        NamingScheme(
            "HLS v2.0",
            f"HLS.{product}.T31TEJ.2018001T103000.v2.0.B02.tif",
            _named(
                rf"HLS\.{product}\.T(?P<tile>\w{{5}})\.(?P<date>\d{{7}})T(?P<time>\d{{6}})\.v\d\.\d\."
                r"(?P<band>B\d[\dA]|Fmask)\.tiff?"
            ),
            sensor,
            units=lambda path, band: HLS,
            nodata=-9999,
        )
        for product, sensor in (("L30", "Landsat"), ("S30", "S2"))
    ),
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
        "Copernicus Browser",
        "2018-07-07-00:00_2018-07-07-23:59_Sentinel-2_L2A_B04_(Raw).tiff",
        # A period, which may be longer than a day; unpacked on Windows, the colons are other characters.
        _named(
            rf"(?P<date>{DAY})[-T]\d\d[^/\w]?_?\d\d_(?P<last>{DAY})[-T]\d\d[^/\w]?_?\d\d_Sentinel-2[^/]*?_L2A_"
            r"(?P<band>B\d[\dA]|SCL)(?:_\(Raw\)|_Raw)?\.tiff?"
        ),
        "S2",
        real=Units(1.0, 0.0, "reflectance in floating-point numbers, Copernicus Browser"),
    ),
    NamingScheme(
        "one file for each date and band",
        "20180707_B04_10m.jp2 or 2018-07-07_B04.tif",
        _named(rf"{DATE}{TIME}{CLOCK}_(?P<band>[^/.]+?)(?:_R?(?P<res>\d+)m)?{EXTENSION}"),
    ),
)

STACKED = NamingScheme("one GeoTIFF for each date, with all bands", "sentinel2_20180707.tif", _named(r"[^/]*\.tiff?"))
CUBE = NamingScheme("netCDF or Zarr with a time axis", "sentinel2.nc, sentinel2.zarr", re.compile("(?!)"))


def layout_of(pattern: str) -> NamingScheme:
    """The layout a user wrote, e.g. ``{tile}/{date}_{band}_{res}.jp2``; ``*`` and ``?`` stand for any letters.

    Raises:
        InputError: If an unknown part, or no date.
    """
    return NamingScheme(f"the pattern '{pattern}'", pattern, NamePattern.of(pattern))


# How the names of files and folders hint at a sensor.
HINTS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "S2": re.compile(r"S2[ABC]?|S30|SENTINEL2[ABC]?|MSIL2A"),
        "Landsat": re.compile(r"L[C]?0?[4-9]|L30|LANDSAT\d?|LE07|LT05"),
        "Modis": re.compile(r"MODIS|M[OY]D09A1"),
    }
)
# Quality layers that only one sensor has.
OWN_QUALITY = MappingProxyType(
    {"SCL": "S2", "QA_PIXEL": "Landsat", "pixel_qa": "Landsat", "sur_refl_state_500m": "Modis"}
)
# Further bands of the products, which tell sensors apart.
UNUSED = MappingProxyType({"S2": ("B01", "B09", "B10"), "Landsat": ("B01", "B09", "B10", "B11")})


def known_names(sensor: Sensor) -> dict[str, str]:
    """What the sensor's bands are called, in small letters, and their ids: ``B02``, ``B2``, ``blue``, ``SR_B2``."""
    names: dict[str, str] = {}
    for band in sensor.bands:
        short = re.sub(r"^([A-Za-z]+)0+(\d)", r"\1\2", band.id)
        prefixed = (f"SR_{short}", f"SR_{band.id}") if sensor.name == "Landsat" else ()
        names |= {name.lower(): band.id for name in (band.common_name, *prefixed, short, band.id)}
    return names


def rule_of(name: str) -> str | None:
    """The rule that reads a quality layer of that name."""
    return next((rule for rule in RULES if rule.lower() == name.lower()), None)


def hinted(text: str) -> list[Sensor]:
    """Sensors at which a path hints."""
    tokens = re.split(r"[^A-Z0-9]+", text.upper())
    return [SENSORS[name] for name, hint in HINTS.items() if any(hint.fullmatch(token) for token in tokens)]


def infer(names: Collection[str], path: str) -> list[Sensor]:
    """The sensors to which bands of these names may belong, judged by quality layer, path and names; at best one."""
    rules = {rule for name in names if (rule := rule_of(name))}
    owners = {SENSORS[OWN_QUALITY[rule]] for rule in rules if rule in OWN_QUALITY}
    options = [sensor for sensor in owners or hinted(path) or SENSORS.values() if _explained(sensor, names)[0]]
    best = max((_explained(sensor, names) for sensor in options), default=None)
    return [sensor for sensor in options if _explained(sensor, names) == best]


def _explained(sensor: Sensor, names: Iterable[str]) -> tuple[int, bool]:
    """How many names are bands of the sensor, unless none is one of those needed, and whether it has all it needs."""
    small = {name.lower() for name in names}
    if small and all(name.isdigit() for name in small):
        return (1, True) if len(small) == len(sensor.bands) else (0, False)
    needed = {band for name, band in known_names(sensor).items() if name in small}
    further = sum(name.lower() in small for name in UNUSED.get(sensor.name, ()))
    return (len(needed) + further if needed else 0, len(needed) == len(sensor.bands))
