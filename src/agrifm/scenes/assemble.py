"""The grid of a scene: decided once, from the grids of its files and what the user asks for."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, Geometry, point
from pyproj import Transformer

from agrifm.errors import InputError, refusing
from agrifm.rasters.grid import METERS_PER_DEGREE, meters_per_unit, pixel_size, sides
from agrifm.scenes.scene import READERS, Frame, Layer, Raster, Scene

DEGREES = CRS("EPSG:4326")
EDGE = 1e-3  # share of a pixel by which borders may differ and still count as the same
SQUARE = 0.01  # share of a side by which a pixel may be longer than wide and still count as square
NEAR = 5e6  # meters; wider images may really span half of the Earth
PIECES = 32  # into which each side of an area is cut when it is moved to another CRS


@dataclass(frozen=True)
class Lattice:
    """Pixels without an end: size ``dx, dy`` of one, and a corner that lies between pixels."""

    crs: CRS
    dx: float
    dy: float
    x: float = 0.0
    y: float = 0.0

    @classmethod
    def of(cls, grid: GeoBox) -> Lattice:
        """The one that a grid is a part of.

        Models know square pixels that do not turn, so a rotated grid, or one in meters with pixels that are longer
        than wide, gives a lattice whose pixels have the shorter of the two sides.
        """
        affine, (across, down) = grid.affine, sides(grid)
        if affine.b or affine.d:
            return cls(_crs(grid), _size(grid, _crs(grid)), _size(grid, _crs(grid)))
        if _crs(grid).projected and abs(across - down) > SQUARE * min(across, down):
            across = down = min(across, down)
        return cls(_crs(grid), across, down, affine.c, affine.f)

    def over(self, area: BoundingBox) -> GeoBox:
        """The grid of all pixels that an area touches."""
        left, right = _whole(area.left - self.x, area.right - self.x, self.dx)
        low, high = _whole(area.bottom - self.y, area.top - self.y, self.dy)
        affine = Affine(self.dx, 0, self.x + left * self.dx, 0, -self.dy, self.y + high * self.dy)
        return GeoBox((high - low, right - left), affine, self.crs)


def assemble(
    layers: Sequence[Layer],
    *,
    crs: str | None = None,
    resolution: float | None = None,
    bounds: Geometry | None = None,
    start: dt.date | None = None,
    end: dt.date | None = None,
    name: str = "scene",
    skipped: Sequence[str] = (),
) -> Scene:
    """Decide the grid of a scene; headers are opened, pixels are not read.

    Without ``crs`` and ``resolution`` it is that of the finest band of the finest sensor, over all its frames.

    Args:
        layers: One or several for each sensor.
        crs: CRS of the grid.
        resolution: Pixel size in units of the CRS.
        bounds: What is wanted of it; frames outside are left out.
        start, end: First and last day.
        name: Name for people.
        skipped: What was left out before.

    Raises:
        InputError: If nothing is left, files are of several CRSs or in degrees and no CRS is asked for, or sensors, or
            the bounds, do not overlap.
        Unreadable: If a file does not open.
    """
    merged = _between(_merged(layers), start, end)
    if not merged:
        raise _nothing(name, start, end, skipped)
    grids = _grids(merged)
    for known in {_crs(box) for boxes in grids.values() for box in boxes}:
        _relate(known, DEGREES)
    finest = min(merged, key=lambda layer: layer.sensor.gsd)
    grid = _grid(grids[finest.sensor.name], _target(grids, crs, name), resolution, name)
    if bounds is not None:
        grid = _cut(grid, bounds, name)
    return Scene(_overlapping(merged, grids, grid, bounds is not None), grid, name, tuple(skipped))


def _nothing(name: str, start: dt.date | None, end: dt.date | None, skipped: Sequence[str]) -> InputError:
    period = f" from {start or 'the first'} to {end or 'the last'}" if start or end else ""
    return InputError(
        name,
        found=f"no image is left{period}",
        expected="at least one date with all bands",
        repair=f"mend what was left out: {'; '.join(skipped[:3])}." if skipped else "ask for another period.",
    )


def _merged(layers: Sequence[Layer]) -> list[Layer]:
    """One layer for each sensor, by day."""
    frames: dict[str, list[Frame]] = {}
    for layer in layers:
        frames.setdefault(layer.sensor.name, []).extend(layer.frames)
    sensors = {layer.sensor.name: layer.sensor for layer in layers}
    return [Layer(sensors[key], tuple(sorted(found, key=lambda frame: frame.day))) for key, found in frames.items()]


def _between(layers: Sequence[Layer], start: dt.date | None, end: dt.date | None) -> list[Layer]:
    kept = [
        replace(layer, frames=tuple(f for f in layer.frames if (start or f.day) <= f.day <= (end or f.day)))
        for layer in layers
    ]
    return [layer for layer in kept if layer.frames]


def _grids(layers: Sequence[Layer]) -> dict[str, list[GeoBox]]:
    """The grid of the finest band of every frame, by sensor."""
    with ThreadPoolExecutor(READERS) as pool:
        found = {}
        for layer in layers:
            bands = layer.frames[0].bands
            sizes = list(pool.map(lambda band: _pixel(band.grid()), bands.values()))
            band = list(bands)[sizes.index(min(sizes))]
            rasters: list[Raster] = [frame.bands[band] for frame in layer.frames]
            found[layer.sensor.name] = list(pool.map(lambda raster: raster.grid(), rasters))
    return found


def _pixel(grid: GeoBox) -> float:
    """Meters along the shorter side of a pixel."""
    return min(pixel_size(grid))


def _crs(grid: GeoBox) -> CRS:
    if grid.crs is None:
        raise ValueError("a grid without a CRS")
    return grid.crs


def _target(grids: Mapping[str, Sequence[GeoBox]], asked: str | None, name: str) -> CRS:
    """The CRS that is asked for, or the only one there is."""
    if asked is not None:
        return CRS(asked)
    counts = Counter((str(_crs(grid)), sensor) for sensor, boxes in grids.items() for grid in boxes)
    known = {text for text, _ in counts}
    some = next(iter(grids.values()))[0]
    if len(known) > 1:
        likely = max(counts, key=lambda key: (key[0].startswith("EPSG"), CRS(key[0]).projected, counts[key]))[0]
        raise InputError(
            f"{name}: crs",
            found=f"images in {len(known)} CRSs: "
            + ", ".join(f"{text[:60]} ({count} of {sensor})" for (text, sensor), count in counts.most_common()),
            expected="one CRS, or the one that the map shall have",
            repair=f"choose it with --set crs=EPSG:..., e.g. --set crs={likely}.",
        )
    if not _crs(some).projected:
        raise InputError(
            f"{name}: crs",
            found=f"images in degrees ({_crs(some)})",
            expected="a CRS in meters, as sensors have square pixels on the ground",
            repair=f"choose one with --set crs={_utm(some.extent)}, or --set crs={_crs(some)} for a map in degrees.",
        )
    return _crs(some)


def _grid(boxes: Sequence[GeoBox], crs: CRS, resolution: float | None, name: str) -> GeoBox:
    """The grid over all boxes."""
    own = next((box for box in boxes if box.crs == crs), None)
    if resolution is not None:
        lattice = Lattice(crs, resolution, resolution)
    elif own is not None:
        lattice = Lattice.of(own)
    else:
        size = _size(boxes[0], crs)
        lattice = Lattice(crs, size, size)
    areas = [_moved(box, crs) for box in set(boxes)]
    union = BoundingBox(
        min(area.left for area in areas),
        min(area.bottom for area in areas),
        max(area.right for area in areas),
        max(area.top for area in areas),
        crs,
    )
    if not all(map(math.isfinite, union)):
        raise InputError(
            f"{name}: crs",
            found=f"{crs}, in which {_shown(boxes[0].boundingbox)} in {boxes[0].crs} has no place",
            expected="a CRS for that part of the Earth",
            repair=f"choose another, e.g. --set crs={_utm(boxes[0].extent)}.",
        )
    _refuse_torn(areas, boxes[0], crs, name)
    return lattice.over(union)


def _size(box: GeoBox, crs: CRS) -> float:
    """The shorter side of a pixel in units of a CRS; meters and degrees become each other at the equator."""
    size, own = min(sides(box)), _crs(box)
    if own == crs:
        return size
    meters = size * (meters_per_unit(own) if own.projected else METERS_PER_DEGREE)
    size = meters / (meters_per_unit(crs) if crs.projected else METERS_PER_DEGREE)
    return float(f"{size:.9g}") if meters_per_unit(own) != meters_per_unit(crs) else size


def _moved(box: GeoBox, crs: CRS) -> BoundingBox:
    own = _crs(box)
    if own == crs:
        return box.boundingbox
    beyond = max(abs(box.boundingbox.left), abs(box.boundingbox.right)) > 180 + abs(box.affine.a)
    if own.geographic and beyond:
        # GDAL and PROJ give longitudes from -180 to 180, so that pixels beyond would be lost.
        raise InputError(
            f"{own} to {crs}",
            found=f"images that reach beyond 180 degrees of longitude: {_shown(box.boundingbox)}",
            expected="longitudes from -180 to 180",
            repair=f"transform the images themselves, e.g. with 'gdalwarp -t_srs {_utm(box.extent)}', or keep their "
            f"CRS with --set crs={own}.",
        )
    _relate(own, crs)
    moved = _bounds(box.extent, crs)
    if moved.span_x > _half_of_the_earth(crs) and pixel_size(box)[0] * box.shape[1] < NEAR:
        raise _torn(f"{own} to {crs}", box, crs)
    return moved


def _utm(area: Geometry) -> str:
    """The zone of UTM in which the middle of an area lies; for suggestions."""
    middle = area.boundingbox
    try:
        place = point((middle.left + middle.right) / 2, (middle.bottom + middle.top) / 2, area.crs).to_crs(DEGREES)
    except Exception:  # whatever PROJ raises for CRSs that it cannot relate
        return "EPSG:3857"
    ((longitude, latitude),) = place.coords
    if not (math.isfinite(longitude) and math.isfinite(latitude)):
        return "EPSG:3857"
    zone = int((longitude + 180) // 6) % 60 + 1
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


def _half_of_the_earth(crs: CRS) -> float:
    return 180.0 if crs.geographic else 180 * METERS_PER_DEGREE / meters_per_unit(crs)


def _torn(where: str, box: GeoBox, crs: CRS) -> InputError:
    return InputError(
        where,
        found=f"images on both sides of 180 degrees of longitude, which are the two ends of {crs}",
        expected="a CRS in which they lie side by side",
        repair=f"choose one, e.g. --set crs={_utm(box.extent)}.",
    )


def _refuse_torn(areas: Sequence[BoundingBox], box: GeoBox, crs: CRS, name: str) -> None:
    """Refuse a grid whose images lie at its two ends with most of the Earth between them."""
    ordered = sorted(areas, key=lambda area: area.left)
    reached = ordered[0].right
    half = _half_of_the_earth(crs)
    for area in ordered[1:]:
        # A gap larger than the Earth is no matter of its two ends: the grid is then refused for its size.
        if half < area.left - reached < 2 * half:
            raise _torn(f"{name}: crs", box, crs)
        reached = max(reached, area.right)


@cache
def _relate(source: CRS, target: CRS) -> None:
    """Refuse CRSs that PROJ does not know how to relate, e.g. of two celestial bodies."""
    with refusing(
        f"CRS {str(source)[:80]}",
        expected=f"a CRS that PROJ can relate to {target}",
        repair="write the right CRS into the files, e.g. 'gdal_edit.py -a_srs EPSG:32631 FILE'.",
    ):
        Transformer.from_crs(source.to_wkt(), target.to_wkt(), always_xy=True)


def _bounds(area: Geometry, crs: CRS) -> BoundingBox:
    """Bounds in another CRS; straight borders bend there."""
    if area.crs == crs:
        return area.boundingbox
    step = max(area.boundingbox.span_x, area.boundingbox.span_y) / PIECES
    return area.to_crs(crs, resolution=step).boundingbox if step else area.to_crs(crs).boundingbox


def _cut(grid: GeoBox, bounds: Geometry, name: str) -> GeoBox:
    with refusing(
        f"{name}: bbox or aoi",
        expected=f"an area that has a place in {grid.crs}",
        repair="correct the area: west,south,east,north in degrees.",
    ):
        wanted, there = _bounds(bounds, _crs(grid)), grid.boundingbox
    if wanted.right > 180 >= there.right and _crs(grid).geographic:
        raise InputError(
            f"{name}: bbox or aoi",
            found="an area across 180 degrees of longitude, which is an end of the scene's grid",
            expected="a grid on which both sides lie side by side",
            repair=f"choose another CRS, e.g. --set crs={_utm(bounds)}.",
        )
    if not _touch(wanted, there):
        raise InputError(
            f"{name}: bbox or aoi",
            found=f"no overlap: the area is {_shown(wanted)} in {grid.crs}",
            expected=f"an area inside the images: {_shown(there)}; in degrees {_shown(_bounds(grid.extent, DEGREES))}",
            repair="correct the area: west,south,east,north in degrees.",
        )
    return Lattice.of(grid).over(wanted & there)


def _overlapping(
    layers: Sequence[Layer], grids: Mapping[str, Sequence[GeoBox]], grid: GeoBox, cut: bool
) -> tuple[Layer, ...]:
    """Every sensor sees some of the grid; where the user cut it, frames that do not are left out."""
    kept, crs = [], _crs(grid)
    for layer in layers:
        boxes = grids[layer.sensor.name]
        known = {box: _moved(box, crs) for box in set(boxes)}
        inside = [frame for frame, box in zip(layer.frames, boxes, strict=True) if _touch(known[box], grid.boundingbox)]
        if not inside:
            raise InputError(
                f"images of {layer.sensor.name}",
                found=f"no overlap: they cover {_shown(next(iter(known.values())))}",
                expected=f"something of the scene's grid: {_shown(grid.boundingbox)} in {crs}",
                repair="open images of one area, or leave that sensor out.",
            )
        kept.append(replace(layer, frames=tuple(inside)) if cut else layer)
    return tuple(kept)


def _touch(one: BoundingBox, other: BoundingBox) -> bool:
    across = min(one.right, other.right) - max(one.left, other.left)
    return across > 0 and min(one.top, other.top) - max(one.bottom, other.bottom) > 0


def _whole(low: float, high: float, step: float) -> tuple[int, int]:
    first, last = math.floor(low / step + EDGE), math.ceil(high / step - EDGE)
    return first, max(last, first + 1)


def _shown(area: BoundingBox) -> str:
    return " ".join(f"{value:.6g}" if abs(value) < 1000 else f"{value:.0f}" for value in area)
