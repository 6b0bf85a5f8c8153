"""A stratified random sample of the pixels of a map, and the file that interpreters fill in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
from pyproj import Transformer

from agrifm.errors import InputError
from agrifm.io import sha256, whole, write_whole
from agrifm.statistics.design import (
    Design,
    MapClass,
    Source,
    Stratum,
    Unit,
    allocate,
    expected_accuracies,
    sample_size,
)
from agrifm.statistics.population import Census, Population, Sizes, class_names
from agrifm.statistics.tables import cell


@dataclass(frozen=True)
class Plan:
    """How to sample.

    Args:
        size: Size of the sample; None computes it from the next two.
        target_se: Wanted standard error of the overall accuracy.
        user_accuracy: Expected user's accuracies, e.g. ``("0.85", "maize=0.7")``.
        floor: Smallest number of pixels in a stratum.
        seed: Seed of the draw; equal seeds draw equal samples.
    """

    size: int | None = None
    target_se: float = 0.01
    user_accuracy: tuple[str, ...] = ("0.85",)
    floor: int = 50
    seed: int = 0


def draw(path: Path, plan: Plan = Plan(), strata: Path | None = None) -> tuple[Design, Census]:
    """Draw a sample, which depends on the pixels, the plan and the seed, not on how the files are stored.

    Args:
        path: Map of classes, a raster of whole numbers; pixels without data are not part of the population.
        plan: Size of the sample and its allocation to the strata.
        strata: Raster of strata on the same grid; None takes the classes of the map.

    Returns:
        The design with the sampled units, and counts of the population.

    Raises:
        InputError: If a file is no map of classes or strata, or the size is too small for the floors.
    """
    with Population.open(path, strata) as population:
        census = population.census()
        names = class_names(population.file)
        stratum_names = class_names(population.other) if population.other else names
        # A reference may name a class of the legend that the map does not show anywhere.
        absent = {code: (0, 0.0) for code in sorted(names.keys() - census.classes.keys())}
        parts = _described(census.strata, stratum_names)
        counts, sizing = _sizes(parts, plan)
        drawn_strata = []
        for part, count in zip(parts, counts, strict=True):
            probability = count / part.pixels
            drawn_strata.append(Stratum(**part.model_dump(), drawn=count, inclusion_probability=probability))
        design = Design(
            map=Source(path=str(path), sha256=sha256(path)),
            crs=population.file.crs.to_string(),
            strata_from=Source(path=str(strata), sha256=sha256(strata)) if strata else None,
            seed=plan.seed,
            sizing=sizing,
            classes=_described(census.classes | absent, names),
            strata=tuple(drawn_strata),
            units=_units(population, parts, counts, plan.seed),
        )
    return design, census


def _described(sizes: Sizes, names: Mapping[int, str]) -> tuple[MapClass, ...]:
    """Classes with unique names: the code is added to names that occur twice."""
    occurrences = Counter(name.casefold() for name in names.values())
    classes = []
    for code, (pixels, hectares) in sizes.items():
        name = names.get(code, str(code))
        if occurrences[name.casefold()] > 1:
            name = f"{name} ({code})"
        classes.append(MapClass(code=code, name=name, pixels=pixels, hectares=hectares))
    return tuple(classes)


def _sizes(strata: Sequence[MapClass], plan: Plan) -> tuple[list[int], str]:
    """Number of pixels to draw from each stratum, and the reason for their total."""
    pixels = [part.pixels for part in strata]
    least = sum(min(count, plan.floor) for count in pixels)
    if plan.size is None:
        accuracies = expected_accuracies([part.name for part in strata], plan.user_accuracy)
        size = sample_size(pixels, accuracies, plan.target_se)
        reason = (
            f"{size} for a standard error of overall accuracy of {plan.target_se:g} where user's accuracies are "
            f"{', '.join(plan.user_accuracy)} (Olofsson et al. 2014, eq. 13)"
        )
    elif plan.size < least:
        raise InputError(
            f"--size {plan.size}",
            found=f"{len(strata)} strata with a floor of {plan.floor}",
            expected=f"at least {least}",
            repair=f"write --size {least}, or a lower --floor.",
        )
    else:
        size, reason = plan.size, f"{plan.size} as asked for"
    drawn = allocate(pixels, size, plan.floor)
    return drawn, f"{reason}; {sum(drawn)} drawn, {plan.floor} or more in each stratum, the rest in proportion to area"


def _units(population: Population, strata: Sequence[MapClass], drawn: Sequence[int], seed: int) -> tuple[Unit, ...]:
    """The sampled pixels in random order, so that their numbers do not reveal their strata."""
    rng = np.random.default_rng(seed)
    # Positions of the drawn pixels among all pixels of their stratum, which are counted from top to bottom.
    ranks = []
    for part, count in zip(strata, drawn, strict=True):
        ranks.append(np.sort(rng.choice(part.pixels, count, replace=False, shuffle=False)))
    passed = [0] * len(strata)
    chosen: list[list[np.ndarray]] = [[] for _ in strata]
    for strip in population.strips():
        width = strip.classes.shape[1]
        for i, part in enumerate(strata):
            places = np.flatnonzero((strip.strata == part.code) & strip.inside)
            first, last = np.searchsorted(ranks[i], (passed[i], passed[i] + len(places)))
            row, column = np.divmod(places[ranks[i][first:last] - passed[i]], width)
            passed[i] += len(places)
            stratum = np.full(len(row), part.code)
            map_class = strip.classes[row, column].astype(np.int64)
            chosen[i].append(np.stack([row + strip.top, column, stratum, map_class]))
    by_stratum = [np.concatenate(arrays, axis=1) for arrays in chosen]
    row, column, stratum, map_class = np.concatenate(by_stratum, axis=1)[:, rng.permutation(sum(drawn))]
    x, y = population.file.transform @ (column + 0.5, row + 0.5)
    hectares = population.hectares(row, column)
    units = []
    for i in range(len(row)):
        units.append(
            Unit(
                id=i + 1,
                stratum=int(stratum[i]),
                map_class=int(map_class[i]),
                x=float(x[i]),
                y=float(y[i]),
                hectares=float(hectares[i]),
            )
        )
    return tuple(units)


def check_target(out: Path, overwrite: bool) -> None:
    """Check that a sample may be written to a path.

    Raises:
        InputError: If the suffix is unknown or the file exists.
    """
    if out.suffix not in (".csv", ".gpkg"):
        raise InputError(
            out,
            found=out.suffix or "no suffix",
            expected=".csv or .gpkg",
            repair="give the file one of these suffixes.",
        )
    if out.exists() and not overwrite:
        raise InputError(
            out,
            found="a sample, maybe with references filled in",
            expected="no such file",
            repair="choose another name, or add --overwrite.",
        )


def write_sample(out: Path, design: Design, *, open_book: bool = False, overwrite: bool = False) -> list[Path]:
    """Write a sample as CSV or GeoPackage with an empty column ``reference``, and its design beside it.

    Args:
        out: Path with the suffix ``.csv`` or ``.gpkg``.
        design: Design with the sampled units.
        open_book: Whether to write stratum, class on the map, probability and weight, too. An interpreter who sees them
            is biased by them.
        overwrite: Whether to replace an existing sample, with the references in it.

    Returns:
        Paths of the sample and of its design.

    Raises:
        InputError: If the suffix is unknown or the file exists.
    """
    check_target(out, overwrite)
    frame = _frame(design, open_book)
    with whole(out) as unfinished:
        if out.suffix == ".csv":
            frame.drop(columns="geometry").map(cell).to_csv(unfinished, index=False)
        else:
            frame.to_file(unfinished, layer="sample", driver="GPKG")
        write_whole(Design.beside(out), design.model_dump_json(indent=1))
    return [out, Design.beside(out)]


def _frame(design: Design, open_book: bool) -> geopandas.GeoDataFrame:
    """One row for each unit, with an empty reference."""
    x, y = np.array([(unit.x, unit.y) for unit in design.units]).T
    lon, lat = Transformer.from_crs(design.crs, "EPSG:4326", always_xy=True).transform(x, y)
    columns = {
        "sample_id": [unit.id for unit in design.units],
        "lon": lon.round(7),
        "lat": lat.round(7),
        "x": x,
        "y": y,
    }
    if open_book:
        strata = {stratum.code: stratum for stratum in design.strata}
        names = {entry.code: entry.name for entry in design.classes}
        unit_strata = [strata[unit.stratum] for unit in design.units]
        columns |= {
            "stratum": [stratum.code for stratum in unit_strata],
            "stratum_name": [stratum.name for stratum in unit_strata],
            "map_class": [unit.map_class for unit in design.units],
            "map_class_name": [names[unit.map_class] for unit in design.units],
            "inclusion_probability": [stratum.inclusion_probability for stratum in unit_strata],
            "weight": [1 / stratum.inclusion_probability for stratum in unit_strata],
        }
    columns |= {"design": [design.key] * len(x), "reference": [""] * len(x)}
    return geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(x, y), crs=design.crs)
