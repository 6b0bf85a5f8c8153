"""Units of stored numbers: scale and offset of each product.

Sources: Sentinel-2 Products Specification Document 14.9 and the notice on processing baseline 04.00 (ESA, January
2022), Landsat 8-9 Collection 2 Level 2 Product Guide (USGS), HLS User Guide v2.0, MOD09 User's Guide v1.4 (NASA).
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agrifm.errors import InputError


@dataclass(frozen=True)
class Units:
    """Meaning of stored numbers: ``reflectance = stored * scale + offset``, and the source of this statement."""

    scale: float = 1e-4
    offset: float = 0.0
    source: str = "the sensor's own"

    def __str__(self) -> str:
        return f"scale {self.scale:g}, offset {self.offset:g}: {self.source}"


OF_SENSOR = Units()
HLS = Units(1e-4, 0.0, "HLS v2.0")
LANDSAT_C2 = Units(2.75e-5, -0.2, "Landsat Collection 2 Level 2")
MODIS = Units(1e-4, 0.0, "MOD09A1")

SHIFT = 0.1  # reflectance that Sentinel-2 products add from processing baseline 04.00 on
SHIFTED_BASELINE = 4  # major number of that baseline
SHIFTED_FROM = dt.date(2022, 1, 25)  # first day on which products were made with that baseline


def sentinel2(baseline: object, *, applied: bool = False) -> Units:
    """Return the units of a Sentinel-2 Level-2A product.

    Args:
        baseline: Processing baseline such as ``04.00``, ``N0400``, ``0509`` or ``5.1``; None if it is unknown.
        applied: Whether the provider has already removed the offset from the numbers.

    Returns:
        The units. The offset is NaN if the baseline is not a version; the user or the item must then give it.
    """
    if applied:
        return Units(1e-4, 0.0, f"baseline {baseline or 'unknown'}, offset taken out by the provider")
    if baseline is None:
        return Units(1e-4, 0.0, "baseline unknown, no offset assumed")
    text = str(baseline).strip()
    version = _parse_baseline(text)
    if version is None:
        return Units(1e-4, math.nan, f"baseline {text!r}, which is no version")
    major, minor = version
    offset = -SHIFT if major >= SHIFTED_BASELINE else 0.0
    return Units(1e-4, offset, f"baseline {major:02d}.{minor}")


def _parse_baseline(text: str) -> tuple[int, str] | None:
    """Split a baseline (``5.10``, ``N0509``, ``0509``, or ``509`` and ``4`` of JSON) into major and minor number."""
    dotted = re.fullmatch(r"[Nn]?(\d{1,2})[._](\d{1,2})", text)
    packed = re.fullmatch(r"[Nn]?(\d{1,2})(\d{2})", text)
    match = dotted or packed
    if match is not None:
        return int(match[1]), match[2]
    if re.fullmatch(r"\d", text):
        return int(text), "00"
    return None


def common_units(units: Sequence[Units], where: object, repair: str | None = None) -> Units:
    """Return the units that all bands of an image share.

    Args:
        units: Units of each band.
        where: File or item, for the error.
        repair: What to do about bands that differ; by default, to give scale and offset.

    Raises:
        InputError: If the bands have several scales or offsets.
    """
    distinct: dict[tuple[float, float], Units] = {}
    for band_units in units:
        distinct.setdefault((band_units.scale, band_units.offset), band_units)
    if len(distinct) > 1:
        values = ", ".join(f"{one.scale:g} and {one.offset:g} ({one.source})" for one in distinct.values())
        raise InputError(
            where,
            found=f"several scales and offsets among the bands: {values}",
            expected="one for all bands",
            repair=repair
            or "correct the files, or state what holds for all bands, e.g. with "
            f"--set scale={units[0].scale:g} --set offset={units[0].offset:g}.",
        )
    return units[0]


def refuse_unknown_offset(units: Units, where: object) -> None:
    """Refuse units whose offset depends on a processing baseline that cannot be read.

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
        "reflectance + 0.1 (baseline 04.00 and later), otherwise '--set offset=0'.",
    )
