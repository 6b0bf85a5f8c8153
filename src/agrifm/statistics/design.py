"""The design of a sample: its size, its strata, and the record that makes an estimate possible.

Source: Olofsson et al. 2014, Good practices for estimating area and assessing accuracy of land change, Remote Sensing
of Environment 148, 42-57.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from math import ceil, inf, isclose, isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from pyproj import CRS

from agrifm.errors import InputError, nearest, refusing

FORMAT = "agrifm-area-design-1"
METHOD = "stratified random sampling of pixels, without replacement within strata"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MapClass(_Record):
    """A class of the map and its extent on the map."""

    code: int
    name: str
    pixels: int
    hectares: float


class Stratum(MapClass):
    """A part of the population, with the number of pixels drawn from it."""

    drawn: int
    inclusion_probability: float


class Unit(_Record):
    """A pixel of the sample: codes of its stratum and of its class on the map, its center and its area."""

    id: int
    stratum: int
    map_class: int
    x: float
    y: float
    hectares: float


class Source(_Record):
    """A raster from which the design was made."""

    path: str
    sha256: str


class Design(_Record):
    """Everything that makes a sample a probability sample; it is stored beside the sample as ``SAMPLE.design.json``.

    Args:
        map: The map.
        crs: CRS of the map and of ``x`` and ``y``.
        strata_from: Raster of the strata; None where the strata are the classes of the map.
        seed: Seed of the draw.
        sizing: Reason for the size of the sample.
        classes: Classes of the map, and others that a reference may name (with 0 pixels).
        strata: Sizes of the strata and the number of pixels drawn from each.
        units: The sample.
    """

    format: Literal["agrifm-area-design-1"] = FORMAT
    method: str = METHOD
    map: Source
    crs: str
    strata_from: Source | None
    seed: int
    sizing: str
    classes: tuple[MapClass, ...]
    strata: tuple[Stratum, ...]
    units: tuple[Unit, ...]

    @property
    def key(self) -> str:
        """A key in every row of the sample, so that two draws cannot be mixed up."""
        places = repr([(unit.id, unit.x, unit.y) for unit in self.units])
        return f"d{hashlib.sha256(places.encode()).hexdigest()[:8]}"

    @staticmethod
    def beside(sample: Path) -> Path:
        """Path of a sample's design."""
        return sample.with_name(sample.name + ".design.json")

    @classmethod
    def load(cls, sample: Path) -> Design:
        """Read the design of a sample.

        Raises:
            InputError: If there is none, something in it is missing, or its numbers do not agree.
        """
        path = cls.beside(sample)
        if not path.is_file():
            raise no_chance(sample, f"no design beside it ({path.name})")
        try:
            design = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, OSError, ValueError) as error:
            problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            where = ".".join(map(str, problem["loc"])) or "the file"
            raise no_chance(path, f"{where}: {problem['msg']}") from error
        design._check(path)
        return design

    def _check(self, path: Path) -> None:
        self._check_numbers(path)
        with refusing(f"{path}: crs", expected="the CRS of the map", repair=AS_WRITTEN):
            CRS.from_user_input(self.crs)
        drawn = Counter(unit.stratum for unit in self.units)
        for stratum in self.strata:
            where = f"{path}: stratum '{stratum.name}'"
            count = drawn.pop(stratum.code, 0)
            if count != stratum.drawn or not 0 < count <= stratum.pixels:
                raise no_chance(where, f"{count} units, {stratum.drawn} drawn, of {stratum.pixels} pixels")
            if not isclose(stratum.inclusion_probability * stratum.pixels, count, rel_tol=1e-6):
                share = f"{count} of {stratum.pixels}"
                raise no_chance(where, f"inclusion probability {stratum.inclusion_probability:g}, but {share} drawn")
        classes = {entry.code for entry in self.classes}
        unknown = [*drawn, *({unit.map_class for unit in self.units} - classes)]
        if unknown:
            raise no_chance(path, f"units of a stratum or class {unknown[0]}, which has no size")

    def _check_numbers(self, path: Path) -> None:
        """Refuse codes, names and units that occur twice, and impossible sizes."""
        for what, values in (
            ("class", [entry.code for entry in self.classes]),
            ("class", [entry.name.strip().casefold() for entry in self.classes]),
            ("stratum", [entry.code for entry in self.strata]),
            ("unit", [unit.id for unit in self.units]),
        ):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise no_chance(path, f"{what} {twice[0]!r} more than once")
        for entry in (*self.classes, *self.strata):
            possible = entry.pixels >= 0 and 0 <= entry.hectares < inf
            if not possible or (entry.hectares > 0) != (entry.pixels > 0):
                raise no_chance(path, f"{entry.pixels} pixels and {entry.hectares:g} hectares of '{entry.name}'")
        for unit in self.units:
            if not (isfinite(unit.x) and isfinite(unit.y) and 0 < unit.hectares < inf):
                raise no_chance(path, f"unit {unit.id} at {unit.x:g}, {unit.y:g} with {unit.hectares:g} hectares")


AS_WRITTEN = (
    "draw one with 'agrifm area design MAP SAMPLE', and keep SAMPLE.design.json beside it as it was written: "
    "points picked by hand say nothing about the area between them."
)


def no_chance(where: object, found: str, repair: str = AS_WRITTEN) -> InputError:
    """The error for a sample whose inclusion probabilities are not known."""
    expected = "a probability sample, with the size of every stratum and the probability of every unit"
    return InputError(where, found=found, expected=expected, repair=repair)


def sample_size(pixels: Sequence[int], accuracies: Sequence[float], target: float) -> int:
    """Number of pixels that a standard error of the overall accuracy needs (Olofsson et al. 2014, eq. 13).

    Args:
        pixels: Number of pixels of each stratum.
        accuracies: Expected share of each stratum that is mapped correctly.
        target: Wanted standard error.
    """
    share = np.array(pixels) / sum(pixels)
    correct = np.array(accuracies)
    deviation = np.sqrt(correct * (1 - correct))
    size = (share @ deviation) ** 2 / (target**2 + share @ deviation**2 / sum(pixels))
    return ceil(round(float(size), 6))


def allocate(pixels: Sequence[int], size: int, floor: int) -> list[int]:
    """Allocate a sample to strata: at least ``floor`` pixels each, the rest in proportion to area.

    A stratum that is smaller than the floor is sampled in full. The sum is ``size``, or the sum of the floors if that
    is larger.
    """
    available = np.array(pixels)
    least = np.minimum(available, floor)
    size = min(max(size, least.sum()), available.sum())
    at_floor = np.zeros(len(available), bool)
    # Strata whose proportional share is below their floor get the floor, and the others share what is left, which may
    # bring further strata below their floors.
    while True:
        left = size - least[at_floor].sum()
        others = max(available[~at_floor].sum(), 1)
        exact = np.where(at_floor, least, left * available / others)
        below = ~at_floor & (exact < least)
        if not below.any():
            break
        at_floor = at_floor | below
    counts = np.floor(exact + 1e-9).astype(int)
    # Pixels that are lost by rounding go to the strata with the largest remainders.
    remainders = exact - counts
    missing = size - counts.sum()
    counts[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return counts.tolist()


def expected_accuracies(names: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Parse the accuracy expected in each stratum from texts like ``0.85`` (all) and ``maize=0.7``; later ones win.

    Raises:
        InputError: If there is no such stratum, or a number is not in the range from 0 to 1.
    """
    accuracies: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name and name not in names:
            raise InputError(
                f"--user-accuracy {text}", found=name, expected="the name of a stratum", repair=nearest(name, names)
            )
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise InputError(
                f"--user-accuracy {text}",
                found=number,
                expected="a number from 0 to 1",
                repair="write 0.85, or NAME=0.7.",
            )
        for stratum in (name,) if name else names:
            accuracies[stratum] = value
    return [accuracies[name] for name in names]
