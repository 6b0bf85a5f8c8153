"""A stratified random sample of the pixels of a map, and the file that interpreters fill in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
from pyproj import Transformer
from rasterio.transform import Affine

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
from agrifm.statistics.response import ResponseDesign
from agrifm.statistics.tables import write_points


@dataclass(frozen=True)
class Plan:
    """Options of the sample.

    Args:
        size: Number of pixels; by default it follows from the next two options.
        target_se: Wanted standard error of overall accuracy.
        user_accuracy: Expected accuracies, e.g. ``("0.85", "maize=0.7")``.
        floor: Smallest number of pixels in a stratum.
        seed: Equal seeds draw equal samples.
    """

    size: int | None = None
    target_se: float = 0.01
    user_accuracy: tuple[str, ...] = ("0.85",)
    floor: int = 50
    seed: int = 0


def draw(path: Path, plan: Plan = Plan(), strata: Path | None = None) -> tuple[Design, Census]:
    """Draw a sample. It depends on the pixels, the plan and the seed, but not on how the files are stored.

    Args:
        path: Map of classes: any raster of whole numbers. Pixels without data are not part of the population.
        plan: Options of the sample.
        strata: Raster of strata on the same grid; by default the classes of the map are the strata.

    Raises:
        InputError: If a file is not a map of classes or strata, or the size is smaller than the sum of the floors.
    """
    with Population.open(path, strata) as population:
        census = population.census()
        names = class_names(population.file)
        # Classes that have a name but no pixel may still be named by a reference.
        absent = {code: (0, 0.0) for code in sorted(names.keys() - census.classes.keys())}
        parts = _describe(census.strata, class_names(population.other) if population.other else names)
        drawn, sizing = _sizes(parts, plan)
        with_sample = []
        for part, count in zip(parts, drawn, strict=True):
            probability = count / part.pixels
            with_sample.append(Stratum(**part.model_dump(), drawn=count, inclusion_probability=probability))
        design = Design(
            map=Source(path=str(path), sha256=sha256(path)),
            crs=population.file.crs.to_string(),
            strata_from=Source(path=str(strata), sha256=sha256(strata)) if strata else None,
            pixel=_pixel(population.file.transform),
            seed=plan.seed,
            sizing=sizing,
            classes=_describe(census.classes | absent, names),
            strata=tuple(with_sample),
            units=_units(population, parts, drawn, plan.seed),
        )
    return design, census


def _pixel(transform: Affine) -> tuple[float, float] | None:
    """Return width and height of the pixels of a map; None if it is rotated."""
    if transform.b or transform.d:
        return None
    return abs(transform.a), abs(transform.e)


def _describe(sizes: Sizes, names: Mapping[int, str]) -> tuple[MapClass, ...]:
    """Combine sizes and names. Names that several codes share are followed by the code."""
    uses = Counter(name.casefold() for name in names.values())
    classes = []
    for code, (pixels, hectares) in sizes.items():
        name = names.get(code, str(code))
        if uses[name.casefold()] > 1:
            name = f"{name} ({code})"
        classes.append(MapClass(code=code, name=name, pixels=pixels, hectares=hectares))
    return tuple(classes)


def _sizes(strata: Sequence[MapClass], plan: Plan) -> tuple[list[int], str]:
    """Return the pixels to draw from each stratum, and the reason for their number."""
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
        size = plan.size
        reason = f"{size} as asked for"
    drawn = allocate(pixels, size, plan.floor)
    return drawn, f"{reason}; {sum(drawn)} drawn, {plan.floor} or more in each stratum, the rest in proportion to area"


def _units(population: Population, strata: Sequence[MapClass], drawn: Sequence[int], seed: int) -> tuple[Unit, ...]:
    """Draw pixels and number them in random order, so that their numbers reveal nothing about their strata."""
    rng = np.random.default_rng(seed)
    # The pixels of a stratum are ranked in the order of the file; draw ranks, then find their pixels strip by strip.
    ranks = []
    for part, count in zip(strata, drawn, strict=True):
        ranks.append(np.sort(rng.choice(part.pixels, count, replace=False, shuffle=False)))
    passed = [0] * len(strata)
    selected: list[list[np.ndarray]] = [[] for _ in strata]
    for strip in population.strips():
        width = strip.mapped.shape[1]
        for i, part in enumerate(strata):
            pixels = np.flatnonzero((strip.stratum == part.code) & strip.inside)
            first, last = np.searchsorted(ranks[i], (passed[i], passed[i] + len(pixels)))
            row, column = np.divmod(pixels[ranks[i][first:last] - passed[i]], width)
            passed[i] += len(pixels)
            codes = np.full(len(row), part.code)
            classes = strip.mapped[row, column].astype(np.int64)
            selected[i].append(np.stack([row + strip.top, column, codes, classes]))
    by_stratum = np.concatenate([np.concatenate(arrays, axis=1) for arrays in selected], axis=1)
    row, column, codes, classes = by_stratum[:, rng.permutation(sum(drawn))]
    x, y = population.file.transform @ (column + 0.5, row + 0.5)
    hectares = population.hectares(row, column)
    units = []
    for i in range(len(row)):
        unit = Unit(
            id=i + 1,
            stratum=int(codes[i]),
            map_class=int(classes[i]),
            x=float(x[i]),
            y=float(y[i]),
            hectares=float(hectares[i]),
        )
        units.append(unit)
    return tuple(units)


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a path to which no sample can be written.

    Raises:
        InputError: If the suffix is another, or the file exists.
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


def write_sample(
    out: Path,
    design: Design,
    *,
    open_book: bool = False,
    overwrite: bool = False,
    columns: Mapping[str, np.ndarray] | None = None,
) -> list[Path]:
    """Write a sample as CSV or GeoPackage with an empty column ``reference``, and beside it its two designs.

    The sampling design is for those who estimate, the response design for those who interpret.

    Args:
        out: Path that ends in ``.csv`` or ``.gpkg``.
        design: Design of the sample.
        open_book: Also write stratum, class on the map, probability and weight. They influence interpreters.
        overwrite: Replace an existing sample with its references.
        columns: More columns ``(n)``, in the order of the units.

    Raises:
        InputError: If the suffix is another, or the file exists.
    """
    check_target(out, overwrite)
    frame = _frame(design, open_book, columns or {})
    with whole(out) as unfinished:
        write_points(frame, unfinished, out.suffix, "sample")
        write_whole(Design.beside(out), design.model_dump_json(indent=1))
        write_whole(ResponseDesign.beside(out), ResponseDesign.of(design).model_dump_json(indent=1))
    return [out, Design.beside(out), ResponseDesign.beside(out)]


def _frame(design: Design, open_book: bool, more: Mapping[str, np.ndarray]) -> geopandas.GeoDataFrame:
    """Return one row for each unit, with an empty reference."""
    x = np.array([unit.x for unit in design.units])
    y = np.array([unit.y for unit in design.units])
    lon, lat = Transformer.from_crs(design.crs, "EPSG:4326", always_xy=True).transform(x, y)
    columns = {
        "sample_id": [unit.id for unit in design.units],
        "lon": lon.round(7),
        "lat": lat.round(7),
        "x": x,
        "y": y,
    }
    if open_book:
        by_code = {stratum.code: stratum for stratum in design.strata}
        names = {entry.code: entry.name for entry in design.classes}
        strata = [by_code[unit.stratum] for unit in design.units]
        columns |= {
            "stratum": [stratum.code for stratum in strata],
            "stratum_name": [stratum.name for stratum in strata],
            "map_class": [unit.map_class for unit in design.units],
            "map_class_name": [names[unit.map_class] for unit in design.units],
            "inclusion_probability": [stratum.inclusion_probability for stratum in strata],
            "weight": [1 / stratum.inclusion_probability for stratum in strata],
        }
    columns |= more
    columns |= {"design": [design.key] * len(x), "reference": [""] * len(x)}
    return geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(x, y), crs=design.crs)
