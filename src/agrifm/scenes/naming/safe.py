"""Metadata of Sentinel-2 products: level, baseline, scale and offsets, from ``MTD_MSIL2A.xml`` or the name.

Source: Sentinel-2 Products Specification Document 14.9 (ESA).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from xml.parsers.expat import ParserCreate

from agrifm.errors import InputError, refusing
from agrifm.scenes.naming.dates import not_surface_reflectance
from agrifm.scenes.units import Units, sentinel2

MAX_BYTES = 32 * 2**20  # the metadata of real products have some 60 kB
MAX_LEVELS = 8  # folders above a file that are searched; images of a product lie four below its metadata
METADATA = ("MTD_MSIL2A.xml", "mtd_msil2a.xml", "MTD_MSIL1C.xml", "mtd_msil1c.xml")
BASELINE = re.compile(r"(?<![A-Z0-9])S2[A-D]_MSIL2A_\d{8}T\d{6}_N(\d{4})_|_N(\d{4})_R\d{3}_", re.IGNORECASE)
# The metadata number the bands of the instrument from 0 on.
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SCALES = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")
TEXTS = ("PROCESSING_BASELINE", "PROCESSING_LEVEL", "PRODUCT_TYPE", *SCALES)
OFFSET = "BOA_ADD_OFFSET"


@dataclass(frozen=True)
class Metadata:
    """Metadata of a product.

    Args:
        path: Path of the file.
        texts: First text of each element that is needed, by its name.
        offsets: Offsets that are added to the stored numbers, by band id, in stored units.
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
        """Return the units of a band.

        Raises:
            InputError: If a number is invalid.
        """
        baseline = self.texts.get("PROCESSING_BASELINE")
        scale = self._scale()
        offset = self.offsets.get(band)
        if offset is None:
            return replace(sentinel2(baseline), scale=scale)
        stored_offset = self._parse_number(f"offset of {band}", offset)
        return Units(scale, stored_offset * scale, f"baseline {baseline or 'unknown'}, {self.path.name}")

    def _scale(self) -> float:
        for name in SCALES:
            if name in self.texts:
                return 1 / self._parse_number("quantification value", self.texts[name], positive=True)
        return 1e-4

    def _parse_number(self, name: str, text: str, *, positive: bool = False) -> float:
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
    """Return the metadata of the product to which a file belongs, if they lie in a folder above it.

    Raises:
        InputError: If they cannot be read.
    """
    metadata_path = _metadata_path(path.parent)
    if metadata_path is None:
        return None
    return _read(str(metadata_path), metadata_path.stat().st_mtime_ns)


def refuse_top_of_atmosphere(path: Path) -> None:
    """Refuse a file whose product is of Level 1C by its metadata.

    Raises:
        InputError: If it is, or the metadata cannot be read.
    """
    metadata = metadata_above(path)
    if metadata is not None and metadata.top_of_atmosphere:
        raise not_surface_reflectance(path, f"a file of a Level-1C product, as {metadata.path.name} says")


def product_units(path: Path, band: str) -> Units | None:
    """Return the units of a band by the metadata or name of its product; None if the path belongs to no product.

    Raises:
        InputError: If the metadata cannot be read, or a number in them is invalid.
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
    """Return the units of a band in a SAFE folder."""
    return product_units(path, band) or sentinel2(None)


def forget_metadata_paths() -> None:
    """Forget where metadata were found; files may have appeared since the last scene was opened."""
    _metadata_path.cache_clear()


@lru_cache(maxsize=65536)
def _metadata_path(folder: Path) -> Path | None:
    for above in (folder, *folder.parents[: MAX_LEVELS - 1]):
        for name in METADATA:
            path = os.path.join(above, name)
            if os.path.isfile(path):  # faster than the method, and bands are many
                return Path(path)
    return None


@lru_cache(maxsize=512)
def _read(path: str, changed: int) -> Metadata:
    """Read the few elements that are needed, in one pass and without entities.

    Args:
        path: Path of the file.
        changed: Time of its last change, so that the cache notices a new version.
    """
    expected = "the metadata of a Sentinel-2 product, in XML"
    file = Path(path)
    if file.stat().st_size > MAX_BYTES:
        raise InputError(
            path,
            found=f"{file.stat().st_size / 2**20:.0f} MB",
            expected=f"{expected}, below {MAX_BYTES // 2**20} MB",
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
        parser.Parse(file.read_bytes(), True)
    return Metadata(file, MappingProxyType(elements.texts), MappingProxyType(elements.offsets))


class _Elements:
    """Collects texts of elements while a file is parsed."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.offsets: dict[str, str] = {}
        self._name = ""
        self._band = ""
        self._text = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._name = name.rpartition(":")[2]  # without the namespace
        self._text = ""
        self._band = ""
        number = attributes.get("band_id", "")
        if re.fullmatch(r"\d|1[0-2]", number, re.ASCII):
            self._band = BANDS[int(number)]

    def text(self, text: str) -> None:
        if self._name in TEXTS or self._name == OFFSET:
            self._text += text

    def end(self, name: str) -> None:
        text = self._text.strip()
        if self._name in TEXTS and text:
            self.texts.setdefault(self._name, text)
        elif self._name == OFFSET and self._band and text:
            self.offsets.setdefault(self._band, text)
        self._name = ""
        self._text = ""

    def doctype(self, *_: object) -> None:
        # Document types define entities, which could grow without bounds or name other files.
        raise ValueError("it holds a document type, which metadata of products do not")
