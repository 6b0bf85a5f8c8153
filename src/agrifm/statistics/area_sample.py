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
        size: of the sample; computed from the next two if left out.
        target_se: wanted standard error of overall accuracy.
        user_accuracy: expected accuracies, e.g. ``("0.85", "maize=0.7")``.
        floor: least number of pixels in a stratum.
        seed: equal seeds draw equal samples.
    """

    size: int | None = None
    target_se: float = 0.01
    user_accuracy: tuple[str, ...] = ("0.85",)
    floor: int = 50
    seed: int = 0


def draw(path: Path, plan: Plan = Plan(), strata: Path | None = None) -> tuple[Design, Census]:
    """Draw a sample. It depends on the pixels, the plan and the seed, not on how the files are stored.

    Args:
        path: map of classes, any raster of whole numbers; its no data is not part of the population.
        plan: how many pixels, and of what.
        strata: raster of strata on the same grid; the classes of the map if left out.

    Raises:
        InputError: a file cannot be used as a map of classes or strata, or the size does not reach for the floors.
    """
    with Population.open(path, strata) as population:
        census, names = population.census(), class_names(population.file)
        absent = {code: (0, 0.0) for code in sorted(names.keys() - census.classes.keys())}
        parts = _described(census.strata, class_names(population.other) if population.other else names)
        drawn, sizing = _sizes(parts, plan)
        design = Design(
            map=Source(path=str(path), sha256=sha256(path)),
            crs=population.file.crs.to_string(),
            strata_from=Source(path=str(strata), sha256=sha256(strata)) if strata else None,
            seed=plan.seed,
            sizing=sizing,
            classes=_described(census.classes | absent, names),
            strata=tuple(
                Stratum(**part.model_dump(), drawn=n, inclusion_probability=n / part.pixels)
                for part, n in zip(parts, drawn, strict=True)
            ),
            units=_units(population, parts, drawn, plan.seed),
        )
    return design, census


def _described(sizes: Sizes, names: Mapping[int, str]) -> tuple[MapClass, ...]:
    """Codes with their names, which are made different where they are not."""
    twice = {name for name, count in Counter(map(str.casefold, names.values())).items() if count > 1}

    def named(code: int) -> str:
        name = names.get(code, str(code))
        return f"{name} ({code})" if name.casefold() in twice else name

    return tuple(
        MapClass(code=code, name=named(code), pixels=pixels, hectares=hectares)
        for code, (pixels, hectares) in sizes.items()
    )


def _sizes(strata: Sequence[MapClass], plan: Plan) -> tuple[list[int], str]:
    """Pixels to draw from each stratum, and why so many in all."""
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
    """The pixels drawn, in random order: their numbers tell nothing about their strata."""
    rng = np.random.default_rng(seed)
    pairs = list(zip(strata, drawn, strict=True))
    ranks = [np.sort(rng.choice(part.pixels, n, replace=False, shuffle=False)) for part, n in pairs]
    seen = [0] * len(strata)
    found: list[list[np.ndarray]] = [[] for _ in strata]
    for top, mapped, stratum, _, inside in population.strips():
        for i, part in enumerate(strata):
            places = np.flatnonzero((stratum == part.code) & inside)
            first, last = np.searchsorted(ranks[i], (seen[i], seen[i] + len(places)))
            row, column = np.divmod(places[ranks[i][first:last] - seen[i]], mapped.shape[1])
            seen[i] += len(places)
            codes = np.full(len(row), part.code)
            found[i].append(np.stack([row + top, column, codes, mapped[row, column].astype(np.int64)]))
    ordered = np.concatenate([array for arrays in found for array in arrays], axis=1)
    row, column, codes, classes = ordered[:, rng.permutation(sum(drawn))]
    x, y = population.file.transform @ (column + 0.5, row + 0.5)
    numbers = (array.tolist() for array in (codes, classes, x, y, population.hectares(row, column)))
    return tuple(
        Unit(id=i, stratum=code, map_class=label, x=east, y=north, hectares=area)
        for i, (code, label, east, north, area) in enumerate(zip(*numbers, strict=True), 1)
    )


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse to write a sample under this name.

    Raises:
        InputError: another suffix, or the file is there.
    """
    if out.suffix not in (".csv", ".gpkg"):
        raise InputError(out, found=out.suffix or "no suffix", expected=".csv or .gpkg", repair="rename it.")
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
        out: ``.csv`` or ``.gpkg``.
        design: as drawn.
        open_book: also write stratum, class on the map, probability and weight: whoever sees them is led by them.
        overwrite: replace a sample that is there, with what was filled in.

    Raises:
        InputError: another suffix, or the file is there.
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
    """One row for each unit; the reference is empty."""
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
        own = [strata[unit.stratum] for unit in design.units]
        columns |= {
            "stratum": [stratum.code for stratum in own],
            "stratum_name": [stratum.name for stratum in own],
            "map_class": [unit.map_class for unit in design.units],
            "map_class_name": [names[unit.map_class] for unit in design.units],
            "inclusion_probability": [stratum.inclusion_probability for stratum in own],
            "weight": [1 / stratum.inclusion_probability for stratum in own],
        }
    columns |= {"design": [design.key] * len(x), "reference": [""] * len(x)}
    return geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(x, y), crs=design.crs)
