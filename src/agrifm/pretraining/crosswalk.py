"""Crosswalks: which code of a land-cover product means which of the eight covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from agrifm.errors import InputError, nearest
from agrifm.settings.problems import explain, shown
from agrifm.tasks.class_table import read_rows
from agrifm.tasks.fractions import COVERS
from agrifm.yaml_text import read_yaml

UNKNOWN = len(COVERS)  # number of unknown land cover
NUMBER_OF_COVER = {cover: number for number, cover in enumerate((*COVERS, "unknown"))}

# The class tables with a column "cover", each with the guide that states its codes.
SHIPPED = {
    # 10 m, 2021 v200. Moss and lichen count as grassland: low vegetation without wood.
    "worldcover": "ESA WorldCover Product User Manual v2.0 (2022), table of land cover classes",
    # 30 m, 35 fine classes; the annual files have one band for each year. Sparse vegetation (cover below 15 %) counts
    # as bare ground, lichens and mosses as grassland.
    "glc_fcs30d": (
        "Zhang et al. (2024), GLC_FCS30D, Earth System Science Data 16, 1353-1381, table of the classification system"
    ),
    # 30 m. Every planted or fallow field counts as cropland: orchards, Christmas trees, hay, sod and switchgrass too.
    # Codes of older years (62-65, 82, 83, 87, 171, 181) are listed beside those of today.
    "cdl": "USDA NASS Cropland Data Layer metadata, categorization codes and land covers (2023 edition)",
    # 500 m, layer LC_Type1 (IGBP). Woody savannas (trees on 30 to 60 %) count as forest, savannas (trees on 10 to 30 %)
    # as grassland, mosaics with 40 to 60 % of crops as cropland.
    "mcd12q1": "MCD12Q1 v6.1 User Guide (Sulla-Menashe and Friedl, 2022), table of the IGBP legend",
}

Code = Annotated[int, Field(ge=-(2**53), le=2**53)]  # rasters of 64-bit numbers hold these without rounding
FORM = "a crosswalk, source: TEXT, covers: {cropland: [40], ...}, unknown: [0]"


class _CrosswalkFile(BaseModel, extra="forbid"):
    """A crosswalk in the form of a user's file."""

    source: str
    covers: dict[str, Annotated[list[Code], Field(min_length=1)]] = Field(min_length=1)
    unknown: list[Code] = []

    @classmethod
    def read(cls, name: str) -> _CrosswalkFile:
        if not Path(name).is_file():
            raise InputError(
                f"--classes {name}",
                found="no such file",
                expected=f"one of {', '.join(SHIPPED)}, or a YAML file",
                repair=nearest(name, SHIPPED),
            )
        values = read_yaml(Path(name), FORM)
        if not isinstance(values, Mapping):
            raise InputError(name, found=shown(values), expected=FORM, repair="write the file in that form.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise explain(error, name, cls) from error

    def codes_and_covers(self) -> list[tuple[int, str]]:
        pairs = [(code, cover) for cover, codes in self.covers.items() for code in codes]
        return pairs + [(code, "unknown") for code in self.unknown]


@dataclass(frozen=True)
class Crosswalk:
    """Codes of a land-cover product and the cover that each of them means.

    Args:
        name: Name of a shipped table, or the path of a file.
        source: The product guide that states the codes.
        covers: Position in ``COVERS`` by code, or ``UNKNOWN``.
    """

    name: str
    source: str
    covers: Mapping[int, int]

    @classmethod
    def read(cls, name: str | Path) -> Crosswalk:
        """Read a shipped class table by its name, or a YAML file with ``source``, ``covers`` and ``unknown``.

        Raises:
            InputError: If there is no such table, it has another form, or it lists a code twice.
        """
        name = str(name)
        if name in SHIPPED:
            rows = read_rows(name, shipped=SHIPPED)
            pairs = [(int(row.code), row.cover) for row in rows]
            return cls(name, SHIPPED[name], _numbers(name, pairs))
        file = _CrosswalkFile.read(name)
        return cls(name, file.source, _numbers(name, file.codes_and_covers()))

    def positions(self, codes: np.ndarray, where: object) -> np.ndarray:
        """Return the position of the cover of each code, uint8 of the same shape; ``UNKNOWN`` where it is not known.

        Raises:
            InputError: If a code is not listed.
        """
        listed_codes = np.array(sorted(self.covers))
        covers = np.array([self.covers[code] for code in listed_codes.tolist()], np.uint8)
        index = np.searchsorted(listed_codes, codes).clip(max=len(listed_codes) - 1)
        if (listed_codes[index] != codes).any():
            present, counts = np.unique(codes, return_counts=True)
            self.must_know(present, counts, where)
        return covers[index]

    def must_know(self, codes: np.ndarray, counts: np.ndarray, where: object) -> None:
        """Refuse codes that the table does not list; ``counts`` are their pixels.

        Raises:
            InputError: If codes are missing; it names them, their shares and the codes of the table.
        """
        shares = []
        for code, count in zip(codes, counts, strict=True):
            if code not in self.covers:
                shares.append(f"code {code:g} ({count / counts.sum():.3%} of the pixels)")
        if shares:
            raise InputError(
                where,
                found=", ".join(shares),
                expected=f"codes of the crosswalk {self.name}: {', '.join(map(str, sorted(self.covers)))}",
                repair="add the code to a cover of the table (--classes FILE.yaml), or list it under 'unknown:'.",
            )


def _numbers(name: str, codes_and_covers: Iterable[tuple[int, str]]) -> dict[int, int]:
    """Return the number of the cover by code.

    Raises:
        InputError: If there is no such cover, or a code is listed twice.
    """
    numbers: dict[int, int] = {}
    for code, cover in codes_and_covers:
        if cover not in NUMBER_OF_COVER:
            repair = nearest(cover, COVERS)
            raise InputError(f"{name}: covers", found=f"'{cover}'", expected=", ".join(COVERS), repair=repair)
        if code in numbers:
            raise InputError(
                f"{name}: {cover}",
                found=f"code {code}, which is listed before",
                expected="every code once",
                repair="delete one of the two.",
            )
        numbers[code] = NUMBER_OF_COVER[cover]
    return numbers
