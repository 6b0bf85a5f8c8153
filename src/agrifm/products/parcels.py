"""From a map's layers to polygons of fields: the watershed over the whole map, clean common borders, what grows there.

Memory: some 12 bytes for each pixel of the map, and 100 MB for a block while seeds grow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from shapely.geometry import shape

from agrifm.errors import InputError, refusing
from agrifm.maps.files.legend import MOST_CLASSES, NODATA
from agrifm.maps.provenance import Provenance
from agrifm.tasks.fields import LAYERS
from agrifm.tasks.watershed import Watershed

STRAIGHT = 0.01  # pixels: a tolerance that takes points off straight lines and nothing else
CLASS_TAG = re.compile(r"class_(0|[1-9]\d{0,3})")  # of a band, by number
Slices = tuple[slice, ...]

BLOCK = 1024  # pixels along the side of a block


@dataclass(frozen=True)
class ParcelRule:
    """How layers become polygons.

    Args:
        min_area: hectares; a smaller field joins the neighbor that it shares at least half of its outline with, the
            one with most of it, and is dropped where there is none.
        tolerance: meters; outlines lose corners whose triangle is smaller than its square (Visvalingam & Whyatt,
            1993), shared ones together; one pixel of the map if left out, 0 keeps them all.
        watershed: how layers become fields; as the model's task says if left out.

    Raises:
        InputError: a number is negative or not finite.
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
        polygons: ``(n)`` in the map's CRS, in meters.
        columns: ``(n)`` each, what is known of them.
        crs: of the polygons.
        passport: of the map.
        details: how they were made.
        joined, dropped: how many were too small, and where they went.
    """

    polygons: np.ndarray
    columns: dict[str, np.ndarray]
    crs: str
    passport: Provenance
    details: str
    joined: int
    dropped: int

    def __str__(self) -> str:
        hectares = self.columns["area_ha"].sum()
        small = f"{self.joined} too small ones joined a neighbor, {self.dropped} were dropped"
        return f"{len(self.polygons):,} fields, {hectares:,.1f} ha; {small}"


def parcels_of(target: Path, rule: ParcelRule = ParcelRule(), crops: Path | None = None) -> Parcels:
    """Polygons of the fields of a finished map.

    Columns: ``area_ha``; where the map knows crops, ``crop`` (that of most pixels), its ``crop_share`` of the pixels
    and mean ``crop_probability``, ``second_crop`` and ``second_share``; ``clear_observations`` (a pixel's mean).
    Probability and observations need the map's files of these names.

    Args:
        target: the map, written with a checkpoint of task ``fields``.
        rule: how layers become polygons.
        crops: another map on the same grid that says what grows; if left out, the map itself where its model knows.

    Raises:
        InputError: layers or passport are missing, a raster is of another kind, or grids differ.
    """
    passport, layers = Provenance.load(Provenance.beside(target)), _beside(target, "fields")
    if not layers.is_file():
        raise InputError(
            layers,
            found="no such file",
            expected="the layers of fields beside the map",
            repair="map the scene with a checkpoint of task 'fields'.",
        )
    with _opened(layers, len(LAYERS), "the layers of fields that 'agrifm map' writes") as file:
        crs, transform = file.crs, file.transform
    pixel, task = _in_meters(layers, crs, transform), passport.document.experiment.task
    watershed = rule.watershed or task.watershed
    fields, joined, dropped = join_small(find_fields(layers, watershed), rule.min_area * 1e4 / pixel**2)
    tolerance = pixel if rule.tolerance is None else rule.tolerance
    polygons = outlines(fields, transform, tolerance)
    columns = {"area_ha": shapely.area(polygons) / 1e4} | _measured(fields, target)
    if crops is not None or task.classes:
        columns |= _crops(fields, crops or target, layers)
    rule_text = ", ".join(f"{key} {value}" for key, value in asdict(watershed).items())
    details = f"model {passport.document.model.name}; watershed by topographic distance, {rule_text}"
    details += f"; at least {rule.min_area:g} ha; simplified within {tolerance:g} m"
    return Parcels(polygons, columns, str(crs), passport, details, joined, dropped)


def find_fields(layers: Path, rule: Watershed, block: int = BLOCK) -> np.ndarray:
    """Fields ``(h, w)`` int32 of a file of layers. Seeds are planted on the whole map; radii before and growth after
    are computed in blocks that see ``reach`` pixels beyond their edge, farther than anything matters: the size of a
    block changes nothing.
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
    """Blocks, the same with what they see around, and where they lie in that."""
    for part in product(*(_strips(size, step) for size in shape)):
        wide = tuple(slice(max(0, s.start - reach), min(s.stop + reach, n)) for s, n in zip(part, shape, strict=True))
        inner = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(part, wide, strict=True))
        yield part, wide, inner


def _read(file: rasterio.DatasetReader, part: Slices) -> np.ndarray:
    with refusing(file.name, expected="a complete raster file"):
        return file.read(window=tuple((side.start, side.stop) for side in part))


def _strips(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def join_small(fields: np.ndarray, least: float) -> tuple[np.ndarray, int, int]:
    """Fields ``(h, w)`` of at least so many pixels, numbered anew from 1, and how many others joined one or went."""
    size = np.bincount(fields.ravel())
    small = (size < least) & (size > 0)
    small[0] = False
    pairs = []
    for one, other in ((fields[:, :-1], fields[:, 1:]), (fields[:-1], fields[1:])):
        touching = (one != other) & (small[one] | small[other])
        a, b = one[touching].astype(np.int64), other[touching].astype(np.int64)
        pairs += [a[small[a]] * len(size) + b[small[a]], b[small[b]] * len(size) + a[small[b]]]
    keys, shared = np.unique(np.concatenate(pairs), return_counts=True)
    mine, neighbor = keys // len(size), keys % len(size)
    outline = np.bincount(mine, shared, len(size))
    fits = (neighbor > 0) & ~small[neighbor] & (2 * shared >= outline[mine])
    order = np.argsort(-shared[fits], kind="stable")[::-1]  # of several the one with most is written last
    target = np.where(small, 0, np.arange(len(size)))
    target[mine[fits][order]] = neighbor[fits][order]
    joined = int((target[small] > 0).sum())
    numbers = np.unique(target[size > 0])
    again = np.searchsorted(numbers[numbers > 0], target) + 1
    again[target == 0] = 0
    return again.astype(np.int32)[fields], joined, int(small.sum()) - joined


def outlines(fields: np.ndarray, transform: Affine, tolerance: float) -> np.ndarray:
    """Polygons ``(n)`` of the fields 1 to n, with holes; common borders stay common when they are simplified.

    They are first drawn with a point at every corner of a pixel, so that neighbors have the same points.
    """
    parts: list[list] = [[] for _ in range(int(fields.max(initial=0)))]
    for outline, number in shapes(fields, fields > 0, connectivity=4):
        parts[int(number) - 1].append(shape(outline))
    polygons = np.array([part[0] if len(part) == 1 else shapely.multipolygons(part) for part in parts], object)
    if not len(polygons):
        return polygons
    polygons = shapely.transform(shapely.segmentize(polygons, 1.0), np.rint)
    polygons = shapely.coverage_simplify(polygons, max(tolerance / abs(transform.a), STRAIGHT))
    a, b, c, d, e, f = tuple(transform)[:6]
    return shapely.transform(polygons, lambda at: at @ np.array([[a, d], [b, e]]) + [c, f])


def _measured(fields: np.ndarray, target: Path) -> dict[str, np.ndarray]:
    """The mean number of clear dates of a field's pixels, all sensors together."""
    path = _beside(target, "observations")
    if not path.is_file():
        return {}
    _check_grid(path, _beside(target, "fields"))
    total = np.zeros(int(fields.max(initial=0)) + 1)
    for rows, part in _bands(path):
        total += np.bincount(fields[rows].ravel(), part.sum(0, dtype=np.int64).ravel(), len(total))
    return {"clear_observations": (total / np.bincount(fields.ravel(), minlength=len(total)).clip(1))[1:]}


def _crops(fields: np.ndarray, crops: Path, layers: Path) -> dict[str, np.ndarray]:
    """What grows in each field, by pixels."""
    names = _class_names(crops, layers)
    count, n = len(names), int(fields.max(initial=0)) + 1
    votes, chances = np.zeros((n, count)), np.zeros((n, count))
    for rows, part in _bands(crops):
        _check_codes(part[0], count, crops)
        known = (fields[rows] > 0) & (part[0] < count)
        place = fields[rows][known].astype(np.int64) * count + part[0][known]
        votes += np.bincount(place, minlength=n * count).reshape(n, count)
    votes, total = votes[1:], votes[1:].sum(1)
    order = np.argsort(-votes, 1, kind="stable")
    rows = np.arange(len(votes))
    share = votes / total.clip(1)[:, None]
    second = order[:, min(1, count - 1)]
    some, several = total > 0, votes[rows, second] > 0
    words = np.array([*names, None], object)
    found = {
        "crop": words[np.where(some, order[:, 0], count)],
        "crop_share": np.where(some, share[rows, order[:, 0]], np.nan),
        "second_crop": words[np.where(several, second, count)],
        "second_share": np.where(several, share[rows, second], np.nan),
    }
    path = _beside(crops, "probabilities")
    if path.is_file():
        _check_grid(path, layers)
        with _opened(path, count, f"one band for each of the {count} classes of {crops.name}"):
            pass
        for strip, part in _bands(path):
            seen = part[0] != NODATA
            for k in range(count):
                chances[:, k] += np.bincount(fields[strip][seen], part[k][seen], n)
        mean = chances[1:][rows, order[:, 0]] / total.clip(1) / 100
        found["crop_probability"] = np.where(some, mean, np.nan)
    return found


def _class_names(crops: Path, layers: Path) -> list[str]:
    """Names of the classes of a map, which its band carries as tags; their positions are the pixels' values."""
    _check_grid(crops, layers)
    with _opened(crops, 1, "a map of classes written by 'agrifm map'") as file:
        tags = file.tags(1)
    numbers = [int(found[1]) for found in map(CLASS_TAG.fullmatch, tags) if found]
    if sorted(numbers) != list(range(len(numbers))) or not 0 < len(numbers) <= MOST_CLASSES:
        raise InputError(
            crops,
            found=f"names of the classes {', '.join(map(str, sorted(numbers)))}" if numbers else "no class names",
            expected="a map written by 'agrifm map', with a name for each class from 0 on",
            repair="name OUT.tif of a map.",
        )
    return [tags[f"class_{number}"] for number in range(len(numbers))]


def _check_codes(part: np.ndarray, count: int, crops: Path) -> None:
    """Refuse pixels of a class that has no name."""
    strange = part[(part >= count) & (part != NODATA)]
    if strange.size:
        raise InputError(
            crops,
            found=f"pixels of class {strange[0]}",
            expected=f"classes 0 to {count - 1}, which have names, and {NODATA} for no data",
            repair="name OUT.tif of a map as 'agrifm map' wrote it.",
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
    """A raster of bytes, as all files of a map are.

    Raises:
        InputError: it does not open, or has other bands or numbers.
    """
    repair = "name OUT.tif of a map, and keep the files that 'agrifm map' wrote beside it."
    with refusing(path, expected=expected, repair=repair):
        file = rasterio.open(path)
    with file:
        if set(file.dtypes) != {"uint8"} or bands not in (None, file.count):
            kinds = ", ".join(sorted(set(file.dtypes)))
            raise InputError(path, found=f"{file.count} band(s) of {kinds}", expected=expected, repair=repair)
        yield file


def _bands(path: Path) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows and the bands ``(n, h, w)`` there, strip after strip."""
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
