"""Where to label next: a probability sample of a map, and points where the model is uncertain.

The probability sample is the one of ``agrifm area design``, so that areas and accuracies can be estimated from it. The
uncertain points are drawn with probability proportional to the entropy, by systematic sampling (Madow, "On the Theory
of Systematic Sampling, II", Annals of Mathematical Statistics 20, 1949), so that their inclusion probabilities are
known as well.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from pyproj import Transformer

from agrifm.errors import InputError, counted, refusing
from agrifm.io import whole
from agrifm.rasters.codes import refuse_sources_elsewhere
from agrifm.statistics.area_sample import Plan, check_target, draw, write_sample
from agrifm.statistics.design import Design
from agrifm.statistics.population import Population, class_names
from agrifm.statistics.tables import write_points

USUAL_FLOOR = 50  # points in each class that good practice asks for
LEAST_FLOOR = 2  # with fewer, no variance can be computed


@dataclass(frozen=True)
class Suggestion:
    """Points that were written.

    Args:
        design: The probability sample.
        uncertain: Number of uncertain points.
        files: Files that were written.
    """

    design: Design
    uncertain: int
    files: list[Path]


def suggest(
    path: Path, out: Path, count: int, uncertain: float = 0.0, seed: int = 0, *, overwrite: bool = False
) -> Suggestion:
    """Choose points to label on a map.

    Args:
        path: Map of classes that ``agrifm map`` wrote with its confidence; with its entropy for uncertain points.
        out: Sample to write, ``.gpkg`` or ``.csv``; uncertain points get a file of their own beside it.
        count: Number of all points.
        uncertain: Share of the points that are drawn where the model is uncertain.
        seed: Seed of the draw.
        overwrite: Replace files that exist.

    Raises:
        InputError: If a file is missing or exists, or the points are too few for the classes of the map.
    """
    extra_file = out.with_name(f"{out.stem}_uncertain{out.suffix}")
    of_uncertain = round(count * uncertain)
    check_target(out, overwrite)
    if of_uncertain:
        check_target(extra_file, overwrite)
        _beside(path, "entropy")
    _beside(path, "confidence")
    size = count - of_uncertain
    design, _ = draw(path, Plan(size=size, floor=_floor(path, size), seed=seed))
    x = np.array([unit.x for unit in design.units])
    y = np.array([unit.y for unit in design.units])
    columns = {"confidence": _values_at(_beside(path, "confidence"), x, y)}
    files = write_sample(out, design, open_book=True, overwrite=overwrite, columns=columns)
    drawn = 0
    if of_uncertain:
        points = _uncertain_points(path, of_uncertain, seed)
        with whole(extra_file) as unfinished:
            write_points(points, unfinished, out.suffix, "uncertain")
        files.append(extra_file)
        drawn = len(points)
    return Suggestion(design, drawn, files)


def _floor(path: Path, size: int) -> int:
    """Points in each class at least: half of all points are shared out equally, up to the usual number."""
    with Population.open(path, None) as population:
        classes = len(population.census().classes)
    floor = min(USUAL_FLOOR, size // (2 * classes))
    if floor < LEAST_FLOOR:
        raise InputError(
            "--count",
            found=f"{counted(size, 'point')} at random for {classes} classes",
            expected=f"at least {2 * LEAST_FLOOR * classes}",
            repair="give a larger --count, or a smaller --uncertain.",
        )
    return floor


def _beside(path: Path, layer: str) -> Path:
    """The file of another layer beside a map."""
    found = path.with_name(f"{path.stem}_{layer}{path.suffix}")
    if not found.is_file():
        raise InputError(
            found,
            found="no such file",
            expected=f"the {layer} of the map",
            repair=f"map the scene again with --{layer}.",
        )
    refuse_sources_elsewhere(found)
    return found


def _read(file: rasterio.DatasetReader, window: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """Shares from 0 to 1; NaN without data."""
    with refusing(file.name, expected="a complete raster that 'agrifm map' wrote"):
        percent = file.read(1, window=window, masked=True)
    return percent.astype(np.float64).filled(np.nan) * file.scales[0]


def _values_at(path: Path, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of a raster at points ``(n)``; NaN without data."""
    values = np.full(len(x), np.nan)
    with rasterio.open(path) as file:
        column, row = ~file.transform @ (x, y)
        rows, columns = np.floor(row).astype(int), np.floor(column).astype(int)
        for i in range(len(x)):
            window = ((rows[i], rows[i] + 1), (columns[i], columns[i] + 1))
            values[i] = _read(file, window).item()
    return values.round(2)


def _uncertain_points(path: Path, count: int, seed: int) -> geopandas.GeoDataFrame:
    """Draw pixels with probability proportional to their entropy; every selected one is at a step of the sum."""
    total = sum(float(entropy.sum()) for _, entropy, _ in _strips(path))
    if total <= 0:
        raise InputError(
            _beside(path, "entropy"),
            found="an entropy of 0 everywhere",
            expected="a model that is uncertain somewhere",
            repair="leave --uncertain out.",
        )
    step = total / count
    marks = (np.random.default_rng(seed).random() + np.arange(count)) * step
    before = 0.0
    parts = []
    for top, entropy, mapped in _strips(path):
        sums = before + np.cumsum(entropy.ravel())
        before = float(sums[-1])
        of_strip = marks[(marks >= sums[0] - entropy.flat[0]) & (marks < sums[-1])]
        # A pixel that is larger than the step may hold several marks; it is one point.
        pixels = np.unique(np.searchsorted(sums, of_strip, side="right"))
        row, column = np.divmod(pixels, entropy.shape[1])
        parts.append(np.stack([row + top, column, mapped[row, column], entropy[row, column]]))
    row, column, mapped, entropy = np.concatenate(parts, 1)
    with rasterio.open(path) as file:
        x, y = file.transform @ (column + 0.5, row + 0.5)
        crs, names = file.crs.to_string(), class_names(file)
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    columns = {
        "point_id": np.arange(1, len(row) + 1),
        "lon": lon.round(7),
        "lat": lat.round(7),
        "x": x,
        "y": y,
        "map_class": mapped.astype(int),
        "map_class_name": [names.get(int(code), str(int(code))) for code in mapped],
        "confidence": _values_at(_beside(path, "confidence"), x, y),
        "entropy": entropy.round(2),
        "inclusion_probability": np.minimum(entropy / step, 1.0),
        "reference": [""] * len(row),
    }
    return geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(x, y), crs=crs)


def _strips(path: Path) -> Generator[tuple[int, np.ndarray, np.ndarray]]:
    """First row, entropy ``(h, w)`` and classes ``(h, w)`` of strips of a map; the entropy is 0 without data."""
    with Population.open(path, None) as population, rasterio.open(_beside(path, "entropy")) as file:
        if (file.shape, file.transform) != (population.file.shape, population.file.transform):
            raise InputError(
                file.name,
                found="another grid than that of the map",
                expected="the entropy of this map",
                repair="map the scene again with --entropy.",
            )
        for strip in population.strips():
            height, width = strip.mapped.shape
            entropy = _read(file, ((strip.top, strip.top + height), (0, width)))
            yield strip.top, np.where(strip.inside, np.nan_to_num(entropy), 0.0), strip.mapped
