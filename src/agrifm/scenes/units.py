"""What stored numbers mean: scale and offset by product.

Sources: Sentinel-2 Products Specification Document 14.9 and the notice on processing baseline 04.00 (ESA, January
2022), Landsat 8-9 Collection 2 Level 2 Product Guide (USGS), HLS User Guide v2.0, MOD09 User's Guide v1.4 (NASA).
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass

from agrifm.errors import InputError


@dataclass(frozen=True)
class Units:
    """What stored numbers mean: ``reflectance = stored * scale + offset``, and who says so."""

    scale: float = 1e-4
    offset: float = 0.0
    source: str = "the sensor's own"


OF_SENSOR = Units()
HLS = Units(1e-4, 0.0, "HLS v2.0")
LANDSAT_C2 = Units(2.75e-5, -0.2, "Landsat Collection 2 Level 2")
MODIS = Units(1e-4, 0.0, "MOD09A1")

SHIFT = 0.1  # what Sentinel-2 adds to reflectance from processing baseline 04.00 on
SHIFTED_BASELINE = 4  # major number
SHIFTED_FROM = dt.date(2022, 1, 25)  # the first day on which products were made with that baseline


def sentinel2(baseline: object, *, applied: bool = False) -> Units:
    """Units of a Sentinel-2 Level-2A product.

    Args:
        baseline: Processing baseline such as ``04.00``, ``N0400``, ``0509`` or ``5.1``; None if it is not known.
        applied: Whether the provider has taken the offset out of the numbers.

    Returns:
        The units; the offset is NaN where the baseline is no version, until the user or the item gives the offset.
    """
    if applied:
        return Units(1e-4, 0.0, f"baseline {baseline or 'unknown'}, offset taken out by the provider")
    if baseline is None:
        return Units(1e-4, 0.0, "baseline unknown, no offset assumed")
    text = str(baseline).strip()
    version = _version(text)
    if version is None:
        return Units(1e-4, math.nan, f"baseline {text!r}, which is no version")
    major, minor = version
    return Units(1e-4, -SHIFT if major >= SHIFTED_BASELINE else 0.0, f"baseline {major:02d}.{minor}")


def _version(text: str) -> tuple[int, str] | None:
    """Major and minor number of a baseline: ``5.10``, ``05.09``, ``N0509``, ``0509``, or ``509`` and ``4`` of JSON."""
    dotted = re.fullmatch(r"[Nn]?(\d{1,2})[._](\d{1,2})", text)
    packed = re.fullmatch(r"[Nn]?(\d{1,2})(\d{2})", text)
    whole = re.fullmatch(r"(\d)", text)
    if dotted or packed:
        match = dotted or packed
        assert match is not None
        return int(match[1]), match[2]
    return (int(whole[1]), "00") if whole else None


def refuse_unknown_offset(units: Units, where: object) -> None:
    """Refuse units whose offset follows from a processing baseline that cannot be read.

    Raises:
        InputError: If nothing else gave the offset.
    """
    if not math.isnan(units.offset):
        return
    raise InputError(
        where,
        found=units.source,
        expected="a processing baseline of Sentinel-2 such as 04.00, 5.10 or N0509",
        repair="correct it in the item or file name, or give the offset: '--set offset=-0.1' for numbers that hold "
        "reflectance + 0.1 (baseline 04.00 and later), else '--set offset=0'.",
    )
