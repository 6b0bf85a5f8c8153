"""Dates and processing levels in the names of files and folders.

Names of products hold several dates. The documents that ``products`` cites state which of them is the acquisition.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from agrifm.errors import InputError

DATE = r"(?<!\d)(?P<date>\d{4}-\d{2}-\d{2}|\d{8}|\d{7})(?!\d)"
# What may follow a date: T105031, T1050, T10:50:31Z, T10-50-31.123Z; in names of one known form also _105031.
TIME = r"(?:T(?P<time>\d{6}|\d{4}|\d\d[:_-]\d\d(?:[:_-]\d\d)?)(?!\d)(?:[.,]\d{1,9})?Z?(?![A-Z0-9]))?"
CLOCK = r"(?:_(?P<clock>\d{6})(?!\d))?"
FORMATS = {10: "%Y-%m-%d", 8: "%Y%m%d", 7: "%Y%j"}  # by length of the text

# Names of products; the group is the acquisition.
PRODUCTS = tuple(
    re.compile(rf"(?<![A-Z0-9]){form}", re.IGNORECASE)
    for form in (
        r"S2[A-D]_MSIL\d[A-C]_(?P<date>\d{8})(?!\d)",
        r"S2[A-D]_(?:OPER|USER)_PRD_\w{1,80}?_V(?P<date>\d{8})T\d{6}",
        r"L[COTEM]\d\d_L\d[A-Z]{2}_\d{6}_(?P<date>\d{8})_\d{8}(?!\d)",
        r"L[COTEM]\d\d_[A-Z]{2}_\d{6}_(?P<date>\d{8})_\d{8}_",
        r"L[COTEM]\d\d\d{6}(?P<date>\d{8})\d\d(?:T1|T2|RT)",
        r"L[COTEM]\d\d{6}(?P<date>\d{7})[A-Z]{3}\d\d",
        r"HLS\.[LS]30\.T\w{5}\.(?P<date>\d{7})T\d{6}",
        r"M[OY]D09\w{1,3}\.A(?P<date>\d{7})(?!\d)",
    )
)
GRANULE = re.compile(r"S2[A-D]_(?:OPER|USER)_MSI_L\d[A-C]_TL_", re.IGNORECASE)  # its only date is that of processing

TOP_LEVELS = re.compile(r"(?<![A-Z0-9])(?:(?:S2)?MSI)?(?:L1C|LEVEL-?1C|L1TP|L1GT|L1GS)(?![A-Z0-9])", re.IGNORECASE)
SURFACE_LEVELS = re.compile(r"(?<![A-Z0-9])(?:(?:S2)?MSI)?(?:L2A|LEVEL-?2A|L2SP|L2SR)(?![A-Z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Product:
    """Dates in the name of a product.

    Args:
        name: File or folder that has the name.
        day: Day of the acquisition.
        others: Other dates in the name.
    """

    name: str
    day: dt.date
    others: tuple[dt.date, ...]


def parse_day(text: str) -> dt.date | None:
    """Parse YYYY-MM-DD, YYYYMMDD or YYYYDDD; None if it is no day from 1970 to 2099."""
    if not text.isascii():  # strptime accepts the digits of every script
        return None
    try:
        day = dt.datetime.strptime(text, FORMATS.get(len(text), "")).date()
    except ValueError:
        return None
    return day if 1970 <= day.year < 2100 else None


def date_spans(text: str) -> Iterator[tuple[int, int, dt.date]]:
    """Find the dates in a text: start, end and day of each."""
    for match in re.finditer(DATE, text):
        day = parse_day(match["date"])
        if day is not None:
            yield match.start(), match.end(), day


def days_in(name: str) -> tuple[dt.date, ...]:
    """Return the different days in a name, in its order.

    Numbers of seven digits count as dates only if there is no longer date.
    """
    all_days = []
    longer_days = []
    for start, end, day in date_spans(name):
        all_days.append(day)
        if end - start > 7:
            longer_days.append(day)
    return tuple(dict.fromkeys(longer_days or all_days))


def product_of(parts: Sequence[str]) -> Product | None:
    """Return the product that the parts of a path name; the part nearest to the file counts.

    Args:
        parts: Names from the file upward.
    """
    for part in parts:
        product = _parse_product(part)
        if product is not None:
            return product
    return None


@lru_cache(maxsize=4096)
def _parse_product(name: str) -> Product | None:
    for form in PRODUCTS:
        match = form.search(name)
        day = parse_day(match["date"]) if match else None
        if day is not None:
            others = [other for other in days_in(name) if other != day]
            return Product(name, day, tuple(others))
    return None


def acquisition(days: Sequence[dt.date], parts: Sequence[str], where: object) -> dt.date:
    """Choose the day on which an image was acquired.

    Args:
        days: Days that its name may mean, at least one.
        parts: Names in its path, from the file upward.
        where: Path, for the error.

    Raises:
        InputError: If several days are possible, or the name of the product contradicts the only one.
    """
    product = product_of(parts)
    if product is not None:
        if product.day in days:
            return product.day
        raise InputError(
            where,
            found=f"{' and '.join(map(str, days))}, but the product {product.name} was acquired on {product.day}",
            expected="the date of the acquisition",
            repair="move {date} in the pattern to the acquisition, or rename the file or folder that states another.",
        )
    is_processing_date = GRANULE.search(parts[0]) is not None
    if len(days) == 1 and not is_processing_date:
        return days[0]
    several = f"several dates: {', '.join(map(str, days))}"
    raise InputError(
        where,
        found=several if len(days) > 1 else f"{days[0]}, a date of processing",
        expected="one date, that of the acquisition",
        repair="rename the file so that it holds that date alone, or say where the date stands, e.g. "
        "--set pattern='{date}_{any}.tif' or --set pattern='{any}_{date}.tif'.",
    )


def is_top_of_atmosphere(parts: Sequence[str]) -> bool:
    """Whether the names in a path state a product without atmospheric correction.

    The part nearest to the file that states a level decides.

    Args:
        parts: Names from the file upward.
    """
    for part in parts:
        if SURFACE_LEVELS.search(part):
            return False
        if TOP_LEVELS.search(part):
            return True
    return False


def not_surface_reflectance(where: object, found: str) -> InputError:
    """Return the error for products at the top of the atmosphere."""
    return InputError(
        where,
        found=found,
        expected="surface reflectance: Sentinel-2 Level-2A or Landsat Level 2; top of atmosphere is no surface "
        "reflectance",
        repair="download the Level-2A product of the same date, make it with Sen2Cor, or remove these files.",
    )
