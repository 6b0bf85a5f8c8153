"""Metadata of Sentinel-2 products: level, baseline, scale and offsets, from ``MTD_MSIL2A.xml`` or the product's name.

Source: Sentinel-2 Products Specification Document 14.9 (ESA).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from xml.parsers.expat import ParserCreate

from agrifm.errors import InputError, refusing
from agrifm.scenes.naming.dates import no_surface
from agrifm.scenes.units import Units, sentinel2

LARGEST = 32 * 2**20  # bytes; those of real products have some 60 kB
LEVELS = 8  # folders above a file that are searched; images of a product lie four below its metadata
METADATA = ("MTD_MSIL2A.xml", "mtd_msil2a.xml", "MTD_MSIL1C.xml", "mtd_msil1c.xml")
BASELINE = re.compile(r"(?<![A-Z0-9])S2[A-D]_MSIL2A_\d{8}T\d{6}_N(\d{4})_|_N(\d{4})_R\d{3}_", re.IGNORECASE)
# The metadata number the bands of the instrument from 0 on.
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SCALES = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")
TEXTS = ("PROCESSING_BASELINE", "PROCESSING_LEVEL", "PRODUCT_TYPE", *SCALES)
OFFSET = "BOA_ADD_OFFSET"


@dataclass(frozen=True)
class Metadata:
    """What a product's metadata say.

    Args:
        path: Path of the file.
        texts: The first text of each element that is needed.
        offsets: Added to the stored numbers of each band, in the units of those.
    """

    path: Path
    texts: Mapping[str, str] = field(default_factory=dict)
    offsets: Mapping[str, str] = field(default_factory=dict)

    @property
    def top_of_atmosphere(self) -> bool:
        """Whether the product is of Level 1C."""
        stated = self.texts.get("PROCESSING_LEVEL") or self.texts.get("PRODUCT_TYPE") or self.path.name
        return re.search(r"1C", stated, re.IGNORECASE) is not None

    def units(self, band: str) -> Units:
        """What the stored numbers of a band mean.

        Raises:
            InputError: If a number is none, or the baseline is needed and is none.
        """
        baseline = self.texts.get("PROCESSING_BASELINE")
        stated = next((self.texts[name] for name in SCALES if name in self.texts), None)
        scale = 1 / self._number("quantification value", stated, positive=True) if stated else 1e-4
        offset = self.offsets.get(band)
        if offset is None:
            by_baseline = sentinel2(baseline)
            return Units(scale, by_baseline.offset, by_baseline.source)
        added = self._number(f"offset of {band}", offset)
        return Units(scale, added * scale, f"baseline {baseline or 'unknown'}, {self.path.name}")

    def _number(self, name: str, text: str, *, positive: bool = False) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (positive and value <= 0):
            raise InputError(
                f"{self.path}: {name}",
                found=repr(text),
                expected="a positive number" if positive else "a number",
                repair="restore the file from the product, or give both --set scale=0.0001 and --set offset=-0.1.",
            )
        return value


def metadata_above(path: Path) -> Metadata | None:
    """The metadata of the product to which a file belongs, if they lie in a folder above it.

    Raises:
        InputError: If they cannot be read.
    """
    found = _metadata_of(path.parent)
    return None if found is None else _read(str(found), found.stat().st_mtime_ns)


def refuse_top_of_atmosphere(path: Path) -> None:
    """Refuse a file that belongs to a product of Level 1C, by the product's metadata.

    Raises:
        InputError: If it does, or the metadata cannot be read.
    """
    metadata = metadata_above(path)
    if metadata is not None and metadata.top_of_atmosphere:
        raise no_surface(path, f"a file of a Level-1C product, as {metadata.path.name} says")


def product_units(path: Path, band: str) -> Units | None:
    """What the numbers of a band mean by its product's metadata or name; None if the path belongs to no product.

    Raises:
        InputError: If the metadata cannot be read, or hold nonsense.
    """
    metadata = metadata_above(path)
    if metadata is not None:
        return metadata.units(band)
    for part in (path.name, *(folder.name for folder in path.parents)):
        match = BASELINE.search(part)
        if match:
            return sentinel2(match[1] or match[2])
    return None


def safe_units(path: Path, band: str) -> Units:
    """What the numbers of a band in a SAFE folder mean."""
    return product_units(path, band) or sentinel2(None)


def look_again() -> None:
    """Forget where metadata were found; files may have come since the last scene was opened."""
    _metadata_of.cache_clear()


@lru_cache(maxsize=65536)
def _metadata_of(folder: Path) -> Path | None:
    for above in (folder, *folder.parents[: LEVELS - 1]):
        for name in METADATA:
            path = os.path.join(above, name)
            if os.path.isfile(path):  # faster than the method, and bands are many
                return Path(path)
    return None


@lru_cache(maxsize=512)
def _read(path: str, changed: int) -> Metadata:
    """Read the few elements that are needed, in one pass, without entities."""
    expected = "the metadata of a Sentinel-2 product, in XML"
    place = Path(path)
    if place.stat().st_size > LARGEST:
        raise InputError(
            path,
            found=f"{place.stat().st_size / 2**20:.0f} MB",
            expected=f"{expected}, below {LARGEST // 2**20} MB",
            repair="restore the file from the product.",
        )
    elements = _Elements()
    with refusing(path, expected=expected, repair="restore the file from the product."):
        parser = ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = elements.start
        parser.EndElementHandler = elements.end
        parser.CharacterDataHandler = elements.text
        parser.StartDoctypeDeclHandler = elements.doctype
        parser.Parse(place.read_bytes(), True)
    return Metadata(place, MappingProxyType(elements.texts), MappingProxyType(elements.offsets))


class _Elements:
    """Collects texts of elements while a file is parsed."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.offsets: dict[str, str] = {}
        self._name, self._band, self._text = "", "", ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._name, self._text = name.rpartition(":")[2], ""
        number = attributes.get("band_id", "")
        self._band = BANDS[int(number)] if re.fullmatch(r"\d|1[0-2]", number, re.ASCII) else ""

    def text(self, text: str) -> None:
        if self._name in TEXTS or self._name == OFFSET:
            self._text += text

    def end(self, name: str) -> None:
        text = self._text.strip()
        if self._name in TEXTS and text:
            self.texts.setdefault(self._name, text)
        elif self._name == OFFSET and self._band and text:
            self.offsets.setdefault(self._band, text)
        self._name = self._text = ""

    def doctype(self, *_: object) -> None:
        # Entities are defined there: they could grow without bounds or name other files.
        raise ValueError("it holds a document type, which metadata of products do not")
