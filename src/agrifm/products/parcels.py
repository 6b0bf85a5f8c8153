"""From the layers of a map to polygons of fields: watershed over the whole map, shared borders, and crops.

Memory: some 12 bytes for each pixel of the map, and 100 MB for a block while seeds grow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from shapely.geometry import shape

from agrifm.errors import InputError, counted, refusing
from agrifm.maps.files.legend import MOST_CLASSES, NODATA
from agrifm.maps.provenance import Provenance
from agrifm.tasks.fields import LAYERS
from agrifm.tasks.watershed import Watershed

STRAIGHT = 0.01  # tolerance in pixels that removes points of straight lines and nothing else
CLASS_TAG = re.compile(r"class_(0|[1-9]\d{0,3})")  # of a band, by number
Slices = tuple[slice, ...]

BLOCK = 1024  # pixels along the side of a block


@dataclass(frozen=True)
class ParcelRule:
    """Rule by which layers become polygons.

    Args:
        min_area: Smallest field in hectares. A smaller field is merged into the neighbor with which it shares the most,
            and at least half, of its outline, and is dropped if there is none.
        tolerance: Tolerance of the simplification in meters: corners whose triangle is smaller than its square are
            removed, from shared borders together (Visvalingam & Whyatt, 1993). None is one pixel, 0 keeps all corners.
        watershed: Rule by which layers become fields; None takes that of the model's task.

    Raises:
        InputError: If a number is negative or not finite.
    """

    min_area: float = 0.05
    tolerance: float | None = None
    watershed: Watershed | None = None

    def __post_init__(self) -> None:
        for name, value in (("--min-area", self.min_area), ("--tolerance", self.tolerance or 0.0)):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(name, found=f"{value:g}", expected="0 or more", repair="give another number.")


@dataclass(frozen=True)
class Parcels:
    """Fields of a map.

    Args:
        polygons: Polygons ``(n)`` in the CRS of the map, in meters.
        columns: Attributes ``(n)`` by name.
        crs: CRS of the polygons.
        provenance: Provenance of the map.
        details: Description of the method.
        joined: Number of small fields that were merged into a neighbor.
        dropped: Number of small fields that were dropped.
    """

    polygons: np.ndarray
    columns: dict[str, np.ndarray]
    crs: str
    provenance: Provenance
    details: str
    joined: int
    dropped: int

    def __str__(self) -> str:
        hectares = self.columns["area_ha"].sum()
        small = f"{counted(self.joined, 'small one')} merged into a neighbor, {self.dropped} dropped"
        return f"{counted(len(self.polygons), 'field')}, {hectares:,.1f} ha; {small}"


def parcels_of(target: Path, rule: ParcelRule = ParcelRule(), crops: Path | None = None) -> Parcels:
    """Polygons of the fields of a finished map.

    Columns: ``area_ha``; with crops, ``crop`` (that of most pixels), its ``crop_share`` of the pixels and mean
    ``crop_probability``, ``second_crop`` and ``second_share``; ``clear_observations`` (mean of the pixels). Probability
    and observations need the files of the map with these names.

    Args:
        target: Map that was written with a checkpoint of task ``fields``.
        rule: Rule by which layers become polygons.
        crops: Crop map on the same grid; None takes the map itself, if its model knows crops.

    Raises:
        InputError: If layers or provenance are missing, a raster is of another kind, or grids differ.
    """
    provenance = Provenance.load(Provenance.beside(target))
    layers = _beside(target, "fields")
    if not layers.is_file():
        raise InputError(
            layers,
            found="no such file",
            expected="the layers of fields beside the map",
            repair="map the scene with a checkpoint of task 'fields'.",
        )
    with _opened(layers, len(LAYERS), "the layers of fields that 'agrifm map' writes") as file:
        crs = file.crs
        transform = file.transform
    pixel = _in_meters(layers, crs, transform)
    task = provenance.document.experiment.task
    watershed = rule.watershed or task.watershed
    least_pixels = rule.min_area * 1e4 / pixel**2
    fields, joined, dropped = join_small(find_fields(layers, watershed), least_pixels)
    tolerance = pixel if rule.tolerance is None else rule.tolerance
    polygons = outlines(fields, transform, tolerance)
    columns = {"area_ha": shapely.area(polygons) / 1e4} | _measured(fields, target)
    if crops is not None or task.classes:
        columns |= _crops(fields, crops or target, layers)
    rule_text = ", ".join(f"{key} {value}" for key, value in asdict(watershed).items())
    details = f"model {provenance.document.model.name}; watershed by topographic distance, {rule_text}"
    details += f"; at least {rule.min_area:g} ha; simplified within {tolerance:g} m"
    return Parcels(polygons, columns, str(crs), provenance, details, joined, dropped)


def find_fields(layers: Path, rule: Watershed, block: int = BLOCK) -> np.ndarray:
    """Fields ``(h, w)`` int32 of a file of layers.

    Seeds are placed on the whole map. Radii before and growth after that are computed in blocks with a margin of
    ``reach`` pixels, beyond which nothing has an influence, so that the result does not depend on the size of a block.
    """
    with rasterio.open(layers) as file:
        radius = np.zeros(file.shape, np.uint8)
        for part, wide, inner in _blocks(file.shape, block, rule.reach):
            radius[part] = rule.radius(_read(file, wide))[inner]
        seeds = rule.plant(radius)
        fields = np.zeros_like(seeds)
        for part, wide, inner in _blocks(file.shape, block, rule.reach):
            fields[part] = rule.grow(seeds[wide], _read(file, wide))[inner]
    return fields


def _blocks(shape: tuple[int, int], step: int, reach: int) -> Iterator[tuple[Slices, Slices, Slices]]:
    """Blocks, the same blocks with their margins, and their position inside of those."""
    height, width = shape
    for rows in _strips(height, step):
        for columns in _strips(width, step):
            wide_rows = _widened(rows, reach, height)
            wide_columns = _widened(columns, reach, width)
            inner = (_relative(rows, wide_rows), _relative(columns, wide_columns))
            yield (rows, columns), (wide_rows, wide_columns), inner


def _widened(side: slice, reach: int, size: int) -> slice:
    return slice(max(0, side.start - reach), min(side.stop + reach, size))


def _relative(side: slice, wide: slice) -> slice:
    return slice(side.start - wide.start, side.stop - wide.start)


def _read(file: rasterio.DatasetReader, part: Slices) -> np.ndarray:
    with refusing(file.name, expected="a complete raster file"):
        return file.read(window=tuple((side.start, side.stop) for side in part))


def _strips(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def join_small(fields: np.ndarray, least: float) -> tuple[np.ndarray, int, int]:
    """Merge or drop small fields.

    Args:
        fields: Numbers of fields ``(h, w)``, 0 outside of fields.
        least: Smallest number of pixels of a field.

    Returns:
        Fields ``(h, w)`` numbered from 1, the number of merged fields, and the number of dropped fields.
    """
    count = np.bincount(fields.ravel())
    small = (count < least) & (count > 0)
    small[0] = False
    field, neighbor, shared = _shared_outlines(fields, small)
    outline = np.bincount(field, shared, len(count))
    fits = (neighbor > 0) & ~small[neighbor] & (2 * shared >= outline[field])
    target = np.where(small, 0, np.arange(len(count)))
    # Of several assignments to one field the last counts, so the neighbor with the longest shared outline comes last.
    order = np.argsort(-shared[fits], kind="stable")[::-1]
    target[field[fits][order]] = neighbor[fits][order]
    joined = int((target[small] > 0).sum())
    remaining = np.unique(target[count > 0])
    numbers = np.searchsorted(remaining[remaining > 0], target) + 1
    numbers[target == 0] = 0
    return numbers.astype(np.int32)[fields], joined, int(small.sum()) - joined


def _shared_outlines(fields: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each small field with each of its neighbors, and the number of pixel edges that they share."""
    size = len(small)
    keys = []
    for first, second in ((fields[:, :-1], fields[:, 1:]), (fields[:-1], fields[1:])):
        touching = (first != second) & (small[first] | small[second])
        a = first[touching].astype(np.int64)
        b = second[touching].astype(np.int64)
        # A pair becomes one number, field * size + neighbor, so that equal pairs can be counted.
        keys.append(a[small[a]] * size + b[small[a]])
        keys.append(b[small[b]] * size + a[small[b]])
    pairs, shared = np.unique(np.concatenate(keys), return_counts=True)
    return pairs // size, pairs % size, shared


def outlines(fields: np.ndarray, transform: Affine, tolerance: float) -> np.ndarray:
    """Polygons ``(n)`` of the fields 1 to n, with holes; shared borders stay shared when they are simplified.

    Outlines first get a point at every corner of a pixel, so that neighbors have the same points.
    """
    parts: list[list] = [[] for _ in range(int(fields.max(initial=0)))]
    for outline, number in shapes(fields, fields > 0, connectivity=4):
        parts[int(number) - 1].append(shape(outline))
    polygons = np.empty(len(parts), object)
    for i, part in enumerate(parts):
        polygons[i] = part[0] if len(part) == 1 else shapely.multipolygons(part)
    if not len(polygons):
        return polygons
    with_all_corners = shapely.transform(shapely.segmentize(polygons, 1.0), np.rint)
    tolerance_in_pixels = max(tolerance / abs(transform.a), STRAIGHT)
    simplified = shapely.coverage_simplify(with_all_corners, tolerance_in_pixels)
    matrix = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    corner = [transform.c, transform.f]
    return shapely.transform(simplified, lambda points: points @ matrix + corner)


def _measured(fields: np.ndarray, target: Path) -> dict[str, np.ndarray]:
    """Mean number of clear dates of the pixels of each field, of all sensors together."""
    path = _beside(target, "observations")
    if not path.is_file():
        return {}
    _check_grid(path, _beside(target, "fields"))
    total = np.zeros(int(fields.max(initial=0)) + 1)
    for rows, part in _bands(path):
        dates = part.sum(0, dtype=np.int64)
        total += np.bincount(fields[rows].ravel(), dates.ravel(), len(total))
    pixels = np.bincount(fields.ravel(), minlength=len(total)).clip(1)
    return {"clear_observations": (total / pixels)[1:]}


def _crops(fields: np.ndarray, crops: Path, layers: Path) -> dict[str, np.ndarray]:
    """Crops of each field, by the classes of its pixels."""
    names = _class_names(crops, layers)
    count = len(names)
    pixels = _pixels_by_class(fields, crops, count)[1:]
    total = pixels.sum(1)
    share = pixels / total.clip(1)[:, None]
    order = np.argsort(-pixels, 1, kind="stable")
    first = order[:, 0]
    second = order[:, min(1, count - 1)]
    rows = np.arange(len(pixels))
    has_crop = total > 0
    has_second = pixels[rows, second] > 0
    names_or_none = np.array([*names, None], object)
    columns = {
        "crop": names_or_none[np.where(has_crop, first, count)],
        "crop_share": np.where(has_crop, share[rows, first], np.nan),
        "second_crop": names_or_none[np.where(has_second, second, count)],
        "second_share": np.where(has_second, share[rows, second], np.nan),
    }
    path = _beside(crops, "probabilities")
    if path.is_file():
        _check_grid(path, layers)
        with _opened(path, count, f"one band for each of the {counted(count, 'class', 'classes')} of {crops.name}"):
            pass
        percent = _summed_probabilities(fields, path, count)[1:]
        mean = percent[rows, first] / total.clip(1) / 100
        columns["crop_probability"] = np.where(has_crop, mean, np.nan)
    return columns


def _pixels_by_class(fields: np.ndarray, crops: Path, count: int) -> np.ndarray:
    """Number of pixels of each class ``(n, k)`` in each field, from number 0 on."""
    number = int(fields.max(initial=0)) + 1
    pixels = np.zeros((number, count))
    for rows, part in _bands(crops):
        classes = part[0]
        _check_codes(classes, count, crops)
        known = (fields[rows] > 0) & (classes < count)
        cell = fields[rows][known].astype(np.int64) * count + classes[known]
        pixels += np.bincount(cell, minlength=number * count).reshape(number, count)
    return pixels


def _summed_probabilities(fields: np.ndarray, path: Path, count: int) -> np.ndarray:
    """Sum of the probabilities in percent of each class ``(n, k)`` in each field, from number 0 on."""
    number = int(fields.max(initial=0)) + 1
    sums = np.zeros((number, count))
    for rows, part in _bands(path):
        seen = part[0] != NODATA
        for k in range(count):
            sums[:, k] += np.bincount(fields[rows][seen], part[k][seen], number)
    return sums


def _class_names(crops: Path, layers: Path) -> list[str]:
    """Names of the classes of a map from the tags of its band, in the order of the pixel values."""
    _check_grid(crops, layers)
    with _opened(crops, 1, "a map of classes written by 'agrifm map'") as file:
        tags = file.tags(1)
    matches = [CLASS_TAG.fullmatch(tag) for tag in tags]
    numbers = [int(match[1]) for match in matches if match]
    if sorted(numbers) != list(range(len(numbers))) or not 0 < len(numbers) <= MOST_CLASSES:
        raise InputError(
            crops,
            found=f"names of the classes {', '.join(map(str, sorted(numbers)))}" if numbers else "no class names",
            expected="a map of 'agrifm map' with a name for each class from 0 on",
            repair="give OUT.tif of a map.",
        )
    return [tags[f"class_{number}"] for number in range(len(numbers))]


def _check_codes(part: np.ndarray, count: int, crops: Path) -> None:
    """Refuse pixels of a class that has no name."""
    unnamed = part[(part >= count) & (part != NODATA)]
    if unnamed.size:
        raise InputError(
            crops,
            found=f"pixels of class {unnamed[0]}",
            expected=f"classes 0 to {count - 1}, which have names, and {NODATA} for no data",
            repair="give OUT.tif of a map as 'agrifm map' wrote it.",
        )


def _check_grid(path: Path, layers: Path) -> None:
    """Refuse a raster on another grid than the layers."""
    with _opened(path, None, "a raster on the map's grid") as file, rasterio.open(layers) as other:
        if (file.shape, file.transform, file.crs) != (other.shape, other.transform, other.crs):
            raise InputError(
                path,
                found=f"{file.height} x {file.width} pixels of {file.crs} from {file.bounds[:2]}",
                expected=f"the grid of {layers.name}: {other.height} x {other.width} of {other.crs}",
                repair="map both from the same scene.",
            )


@contextmanager
def _opened(path: Path, bands: int | None, expected: str) -> Generator[rasterio.DatasetReader]:
    """Open a raster of bytes, as all files of a map are.

    Raises:
        InputError: If it does not open, or has other bands or data types.
    """
    repair = "give OUT.tif of a map, and keep the files that 'agrifm map' wrote beside it."
    with refusing(path, expected=expected, repair=repair):
        file = rasterio.open(path)
    with file:
        if set(file.dtypes) != {"uint8"} or bands not in (None, file.count):
            kinds = ", ".join(sorted(set(file.dtypes)))
            raise InputError(path, found=f"{counted(file.count, 'band')} of {kinds}", expected=expected, repair=repair)
        yield file


def _bands(path: Path) -> Iterator[tuple[slice, np.ndarray]]:
    """Read rows and bands ``(n, h, w)`` in strips."""
    with rasterio.open(path) as file:
        for rows in _strips(file.height, BLOCK):
            with refusing(path, expected="a complete raster file"):
                part = file.read(window=((rows.start, rows.stop), (0, file.width)))
            yield rows, part


def _beside(target: Path, key: str) -> Path:
    return target.with_name(f"{target.stem}_{key}{target.suffix}")


def _in_meters(path: Path, crs: rasterio.CRS | None, transform: Affine) -> float:
    """Size of a pixel."""
    if crs is None or not crs.is_projected or abs(crs.linear_units_factor[1] - 1) > 1e-9:
        raise InputError(
            path,
            found=f"a map in {crs}",
            expected="a CRS in meters: areas and tolerances are measured on it",
            repair="map a scene on such a grid, e.g. of its UTM zone.",
        )
    return abs(transform.a)
