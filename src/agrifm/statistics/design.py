"""The design of a sample: how many pixels, in which strata, and the record that estimation requires.

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

from agrifm.errors import InputError, counted, nearest, refusing
from agrifm.settings.problems import explain

FORMAT = "agrifm-area-design-1"
METHOD = "stratified random sampling of pixels, without replacement within strata"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MapClass(_Record):
    """A class of the map with its mapped area."""

    code: int
    name: str
    pixels: int
    hectares: float


class Stratum(MapClass):
    """A part of the population with the number of pixels drawn from it."""

    drawn: int
    inclusion_probability: float


class Unit(_Record):
    """A pixel of the sample: the codes of its stratum and of its class on the map, its center and its area."""

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
    """Everything that makes a sample a probability sample, stored beside the sample as ``SAMPLE.design.json``.

    Args:
        map: The map.
        crs: CRS of the map, and of ``x`` and ``y``.
        strata_from: Raster of the strata; None if the strata are the classes of the map.
        pixel: Width and height of a pixel in units of the CRS; None if rows do not run from west to east.
        seed: Seed of the draw.
        sizing: Reason for the size of the sample.
        classes: Classes of the map, and others that a reference may name (with 0 pixels).
        strata: Sizes of the strata, and the number of pixels drawn from each.
        units: The sample.
    """

    format: Literal["agrifm-area-design-1"] = FORMAT
    method: str = METHOD
    map: Source
    crs: str
    strata_from: Source | None
    pixel: tuple[float, float] | None = None
    seed: int
    sizing: str
    classes: tuple[MapClass, ...]
    strata: tuple[Stratum, ...]
    units: tuple[Unit, ...]

    @property
    def key(self) -> str:
        """Key that every row of the sample repeats, so that two draws are never mixed."""
        places = repr([(unit.id, unit.x, unit.y) for unit in self.units])
        return f"d{hashlib.sha256(places.encode()).hexdigest()[:8]}"

    @staticmethod
    def beside(sample: Path) -> Path:
        """Return the path of a sample's design."""
        return sample.with_name(sample.name + ".design.json")

    @classmethod
    def load(cls, sample: Path) -> Design:
        """Read the design of a sample.

        Raises:
            InputError: If it does not exist, is incomplete, or has numbers that do not agree.
        """
        path = cls.beside(sample)
        if not path.is_file():
            raise not_a_probability_sample(sample, f"no design beside it ({path.name})")
        try:
            design = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise explain(error, path, cls, repair=REPAIR) from error
        except (OSError, ValueError) as error:
            raise not_a_probability_sample(path, f"the file: {error}") from error
        design._check(path)
        return design

    def _check(self, path: Path) -> None:
        self._check_unique(path)
        self._check_sizes(path)
        with refusing(f"{path}: crs", expected="the CRS of the map", repair=REPAIR):
            CRS.from_user_input(self.crs)
        drawn = Counter(unit.stratum for unit in self.units)
        for stratum in self.strata:
            self._check_stratum(path, stratum, drawn.pop(stratum.code, 0))
        codes = {entry.code for entry in self.classes}
        unknown = [*drawn, *({unit.map_class for unit in self.units} - codes)]
        if unknown:
            raise not_a_probability_sample(path, f"units of a stratum or class {unknown[0]}, which has no size")

    def _check_unique(self, path: Path) -> None:
        for what, values in (
            ("class", [entry.code for entry in self.classes]),
            ("class", [entry.name.strip().casefold() for entry in self.classes]),
            ("stratum", [entry.code for entry in self.strata]),
            ("unit", [unit.id for unit in self.units]),
        ):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise not_a_probability_sample(path, f"{what} {repeated[0]!r} more than once")

    def _check_sizes(self, path: Path) -> None:
        for entry in (*self.classes, *self.strata):
            is_possible = entry.pixels >= 0 and 0 <= entry.hectares < inf
            if not is_possible or (entry.hectares > 0) != (entry.pixels > 0):
                raise not_a_probability_sample(
                    path, f"{entry.pixels} pixels and {entry.hectares:g} hectares of '{entry.name}'"
                )
        for unit in self.units:
            if not (isfinite(unit.x) and isfinite(unit.y) and 0 < unit.hectares < inf):
                raise not_a_probability_sample(
                    path, f"unit {unit.id} at {unit.x:g}, {unit.y:g} with {unit.hectares:g} hectares"
                )

    @staticmethod
    def _check_stratum(path: Path, stratum: Stratum, units: int) -> None:
        where = f"{path}: stratum '{stratum.name}'"
        if units != stratum.drawn or not 0 < units <= stratum.pixels:
            raise not_a_probability_sample(
                where, f"{counted(units, 'unit')}, {stratum.drawn} drawn, of {stratum.pixels} pixels"
            )
        probability = stratum.inclusion_probability
        if not isclose(probability * stratum.pixels, units, rel_tol=1e-6):
            raise not_a_probability_sample(
                where, f"inclusion probability {probability:g}, but {units} of {stratum.pixels} drawn"
            )


REPAIR = (
    "draw one with 'agrifm area design MAP SAMPLE', and keep SAMPLE.design.json beside it as it was written: "
    "points picked by hand say nothing about the area between them."
)


def not_a_probability_sample(where: object, found: str, repair: str = REPAIR) -> InputError:
    """Return the error for a sample whose inclusion probabilities are not known."""
    expected = "a sample drawn at random, with the size of every stratum and the inclusion probability of every unit"
    return InputError(where, found=found, expected=expected, repair=repair)


def sample_size(pixels: Sequence[int], accuracies: Sequence[float], target: float) -> int:
    """Return the pixels needed for a standard error of overall accuracy (Olofsson et al. 2014, eq. 13).

    Args:
        pixels: Number of pixels in each stratum.
        accuracies: Expected share of each stratum that is mapped correctly.
        target: The standard error.
    """
    total = sum(pixels)
    weight = np.array(pixels) / total
    correct = np.array(accuracies)
    deviation = np.sqrt(correct * (1 - correct))
    size = (weight @ deviation) ** 2 / (target**2 + weight @ deviation**2 / total)
    # Rounding first keeps an exact whole number from being rounded up by its last digit.
    return ceil(round(float(size), 6))


def allocate(pixels: Sequence[int], size: int, floor: int) -> list[int]:
    """Return the pixels to draw from each stratum: at least ``floor``, and the rest in proportion to area.

    A stratum smaller than the floor is taken whole. The sum is ``size``, or the sum of the floors if that is larger.
    """
    count = np.array(pixels)
    least = np.minimum(pixels, floor)
    size = min(max(size, least.sum()), count.sum())
    # Strata below their floor get the floor. The others share what remains, which may bring more of them below it.
    at_floor = np.zeros(len(count), bool)
    while True:
        remaining = size - least[at_floor].sum()
        among = max(count[~at_floor].sum(), 1)
        exact = np.where(at_floor, least, remaining * count / among)
        below = ~at_floor & (exact < least)
        if not below.any():
            break
        at_floor = at_floor | below
    drawn = np.floor(exact + 1e-9).astype(int)
    # The pixels lost by rounding down go to the strata with the largest fractions.
    by_fraction = np.argsort(drawn - exact, kind="stable")
    drawn[by_fraction[: size - drawn.sum()]] += 1
    return drawn.tolist()


def expected_accuracies(names: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Return the accuracy expected in each stratum, from texts like ``0.85`` (all) and ``maize=0.7``; later ones win.

    Raises:
        InputError: If there is no such stratum, or the number is not from 0 to 1.
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
        accuracies |= {name: value} if name else dict.fromkeys(names, value)
    return [accuracies[name] for name in names]
