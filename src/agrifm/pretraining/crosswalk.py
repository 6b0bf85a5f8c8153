"""Crosswalks: which code of a land-cover product means which of the eight covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from agrifm.errors import InputError, nearest
from agrifm.tasks.fractions import COVERS
from agrifm.yaml_text import load_yaml, read_yaml

UNKNOWN = len(COVERS)  # stands where the land cover is not known
SHIPPED = ("worldcover", "glc_fcs30d", "cdl", "mcd12q1")

Code = Annotated[int, Field(ge=-(2**53), le=2**53)]  # rasters of 64-bit numbers hold these without rounding
FORM = "a crosswalk, source: TEXT, covers: {cropland: [40], ...}, unknown: [0]"


class _Table(BaseModel, extra="forbid"):
    """A crosswalk as its file states it."""

    source: str
    covers: dict[str, Annotated[list[Code], Field(min_length=1)]] = Field(min_length=1)
    unknown: list[Code] = []


@dataclass(frozen=True)
class Crosswalk:
    """Codes of a land-cover product and the cover each one means.

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
        """Read a shipped table by its name, or a YAML file with ``source``, ``covers`` and ``unknown``.

        Raises:
            InputError: If there is no such table, it has another form, or it lists a code twice.
        """
        try:
            return cls._of(str(name), _Table.model_validate(_values(str(name))))
        except ValidationError as error:
            raise InputError(
                name,
                found=f"no crosswalk: {error}",
                expected=FORM,
                repair="write it like that; 'covers' holds whole numbers by name of the cover.",
            ) from error

    @classmethod
    def _of(cls, name: str, table: _Table) -> Crosswalk:
        covers: dict[int, int] = {}
        for cover, codes in (*table.covers.items(), ("unknown", table.unknown)):
            if cover not in (*COVERS, "unknown"):
                repair = nearest(cover, COVERS)
                raise InputError(f"{name}: covers", found=f"'{cover}'", expected=", ".join(COVERS), repair=repair)
            for code in codes:
                if code in covers:
                    raise InputError(
                        f"{name}: {cover}",
                        found=f"code {code}, which is listed before",
                        expected="every code once",
                        repair="delete one of the two.",
                    )
                covers[code] = COVERS.index(cover) if cover in COVERS else UNKNOWN
        return cls(name, table.source, covers)

    def positions(self, codes: np.ndarray, where: object) -> np.ndarray:
        """Position of the cover of each code, uint8 of the same shape; ``UNKNOWN`` where it is not known.

        Raises:
            InputError: If a code is not listed.
        """
        listed = np.array(sorted(self.covers))
        at = np.searchsorted(listed, codes).clip(max=len(listed) - 1)
        if (listed[at] != codes).any():
            self.must_know(*np.unique(codes, return_counts=True), where)
        return np.array([self.covers[code] for code in listed.tolist()], np.uint8)[at]

    def must_know(self, codes: np.ndarray, counts: np.ndarray, where: object) -> None:
        """Refuse codes that the table does not list; ``counts`` are their pixels.

        Raises:
            InputError: names them, their shares and the codes of the table.
        """
        missing = [i for i, code in enumerate(codes) if code not in self.covers]
        if missing:
            shares = ", ".join(f"code {codes[i]:g} ({counts[i] / counts.sum():.3%} of the pixels)" for i in missing)
            raise InputError(
                where,
                found=shares,
                expected=f"codes of the crosswalk {self.name}: {', '.join(map(str, sorted(self.covers)))}",
                repair="add the code to a cover of the table (--classes FILE.yaml), or list it under 'unknown:'.",
            )


def _values(name: str) -> Any:
    if name in SHIPPED:
        shipped = files("agrifm.pretraining").joinpath("crosswalks", f"{name}.yaml")
        return load_yaml(shipped.read_text(encoding="utf-8"), name)
    if not Path(name).is_file():
        raise InputError(
            f"--classes {name}",
            found="no such file",
            expected=f"one of {', '.join(SHIPPED)}, or a YAML file",
            repair=nearest(name, SHIPPED),
        )
    return read_yaml(Path(name), FORM)
