"""The grid of a scene: decided once, from the grids of its files and what the user asks for."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, Geometry

from agrifm.errors import InputError, refusing
from agrifm.rasters.grid import METERS_PER_DEGREE, meters_per_unit, pixel_size, sides
from agrifm.scenes.crs_bounds import (
    DEGREES,
    area_bounds,
    crs_of,
    format_bounds,
    grid_bounds,
    overlap,
    refuse_gap,
    refuse_unrelated,
    suggest_utm,
)
from agrifm.scenes.scene import READERS, Frame, Layer, Scene

EDGE = 1e-3  # share of a pixel by which borders may differ and still count as the same
SQUARE = 0.01  # share of a side by which a pixel may be longer than wide and still count as square

Grids = Mapping[str, Sequence[GeoBox]]  # of all frames, by name of the sensor


@dataclass(frozen=True)
class Lattice:
    """An endless raster of pixels of size ``dx, dy``, one corner of which lies at ``x, y``."""

    crs: CRS
    dx: float
    dy: float
    x: float = 0.0
    y: float = 0.0

    @classmethod
    def of(cls, grid: GeoBox) -> Lattice:
        """Return the lattice of which a grid is a part.

        Models know square pixels that are not rotated. A rotated grid, or one in meters whose pixels are longer than
        wide, therefore gives a lattice whose pixels have the shorter of the two sides.
        """
        crs = crs_of(grid)
        affine = grid.affine
        if affine.b or affine.d:
            size = _pixel_side(grid, crs)
            return cls(crs, size, size)
        dx, dy = sides(grid)
        shorter = min(dx, dy)
        if crs.projected and abs(dx - dy) > SQUARE * shorter:
            dx = dy = shorter
        return cls(crs, dx, dy, affine.c, affine.f)

    def over(self, bounds: BoundingBox) -> GeoBox:
        """Return the grid of all pixels that an area touches."""
        # Steps count columns from the west, and rows from the south.
        first_column, end_column = _touched_steps(bounds.left - self.x, bounds.right - self.x, self.dx)
        first_row, end_row = _touched_steps(bounds.bottom - self.y, bounds.top - self.y, self.dy)
        left = self.x + first_column * self.dx
        top = self.y + end_row * self.dy
        shape = (end_row - first_row, end_column - first_column)
        return GeoBox(shape, Affine(self.dx, 0, left, 0, -self.dy, top), self.crs)


def _touched_steps(low: float, high: float, step: float) -> tuple[int, int]:
    """Return the first step that a range touches, and the end behind the last; at least one step."""
    first = math.floor(low / step + EDGE)
    end = math.ceil(high / step - EDGE)
    return first, max(end, first + 1)


def _pixel_side(grid: GeoBox, crs: CRS) -> float:
    """Return the shorter side of a pixel in units of a CRS; meters and degrees are converted as at the equator."""
    source = crs_of(grid)
    size = min(sides(grid))
    if source == crs:
        return size
    meters = size * (meters_per_unit(source) if source.projected else METERS_PER_DEGREE)
    size = meters / (meters_per_unit(crs) if crs.projected else METERS_PER_DEGREE)
    if meters_per_unit(source) != meters_per_unit(crs):
        return float(f"{size:.9g}")  # without the rounding error of the conversion
    return size


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
        layers: One or several layers for each sensor.
        crs: CRS of the grid.
        resolution: Pixel size in units of the CRS.
        bounds: Area of the scene; frames outside are left out.
        start, end: First and last day.
        name: Name of the scene, for people.
        skipped: What was left out before.

    Raises:
        InputError: If no frame is left, files are of several CRSs or in degrees and no CRS is asked for, or sensors,
            or the bounds, do not overlap.
        Unreadable: If a file does not open.
    """
    merged = _merge(layers, start, end)
    if not merged:
        raise _no_frames(name, start, end, skipped)
    grids = _read_grids(merged)
    all_grids = [grid for sensor_grids in grids.values() for grid in sensor_grids]
    # Degrees are what bounds and suggestions are given in.
    for source in {crs_of(grid) for grid in all_grids}:
        refuse_unrelated(source, DEGREES)
    finest = min(merged, key=lambda layer: layer.sensor.gsd)
    grid = _scene_grid(grids[finest.sensor.name], _choose_crs(grids, crs, name), resolution, name)
    if bounds is not None:
        grid = _cut(grid, bounds, name)
    return Scene(_overlapping_layers(merged, grids, grid, cut=bounds is not None), grid, name, tuple(skipped))


def _merge(layers: Sequence[Layer], start: dt.date | None, end: dt.date | None) -> list[Layer]:
    """Return one layer for each sensor with a frame in the period, by day."""
    sensors = {}
    frames: dict[str, list[Frame]] = {}
    for layer in layers:
        sensors[layer.sensor.name] = layer.sensor
        frames.setdefault(layer.sensor.name, []).extend(layer.frames)
    merged = []
    for name, sensor in sensors.items():
        selected = []
        for frame in sorted(frames[name], key=lambda frame: frame.day):
            if (start is None or frame.day >= start) and (end is None or frame.day <= end):
                selected.append(frame)
        if selected:
            merged.append(Layer(sensor, tuple(selected)))
    return merged


def _no_frames(name: str, start: dt.date | None, end: dt.date | None, skipped: Sequence[str]) -> InputError:
    period = f" from {start or 'the first'} to {end or 'the last'}" if start or end else ""
    return InputError(
        name,
        found=f"no image is left{period}",
        expected="at least one date with all bands",
        repair=f"correct what was left out: {'; '.join(skipped[:3])}." if skipped else "ask for another period.",
    )


def _read_grids(layers: Sequence[Layer]) -> dict[str, list[GeoBox]]:
    """Return the grid of the finest band of every frame, by sensor."""
    grids = {}
    with ThreadPoolExecutor(READERS) as pool:
        for layer in layers:
            bands = layer.frames[0].bands
            band_grids = pool.map(lambda raster: raster.grid(), bands.values())
            side_of = {band: min(pixel_size(grid)) for band, grid in zip(bands, band_grids, strict=True)}
            finest = min(side_of, key=lambda band: side_of[band])
            rasters = [frame.bands[finest] for frame in layer.frames]
            grids[layer.sensor.name] = list(pool.map(lambda raster: raster.grid(), rasters))
    return grids


def _choose_crs(grids: Grids, requested: str | None, name: str) -> CRS:
    """Return the CRS that the user asks for, or the only one of the files."""
    if requested is not None:
        return CRS(requested)
    counts = Counter((str(crs_of(grid)), sensor) for sensor, boxes in grids.items() for grid in boxes)
    distinct = {text for text, _ in counts}
    if len(distinct) > 1:
        raise _several_crs(counts, name)
    first_grid = next(iter(grids.values()))[0]
    crs = crs_of(first_grid)
    if not crs.projected:
        raise InputError(
            f"{name}: crs",
            found=f"images in degrees ({crs})",
            expected="a CRS in meters, as sensors have square pixels on the ground",
            repair=f"choose one with --set crs={suggest_utm(first_grid.extent)}, or --set crs={crs} for a map in "
            "degrees.",
        )
    return crs


def _several_crs(counts: Counter[tuple[str, str]], name: str) -> InputError:
    """Return the error for files of several CRSs, from the number of frames by CRS and sensor."""

    def preference(key: tuple[str, str]) -> tuple:
        crs, _ = key
        return crs.startswith("EPSG"), CRS(crs).projected, counts[key]

    likely, _ = max(counts, key=preference)
    listed = [f"{crs[:60]} ({count} of {sensor})" for (crs, sensor), count in counts.most_common()]
    return InputError(
        f"{name}: crs",
        found=f"images in {len({crs for crs, _ in counts})} CRSs: {', '.join(listed)}",
        expected="one CRS, or the one that the map shall have",
        repair=f"choose it with --set crs=EPSG:..., e.g. --set crs={likely}.",
    )


def _scene_grid(grids: Sequence[GeoBox], crs: CRS, resolution: float | None, name: str) -> GeoBox:
    """Return the grid over the grids of all frames of the finest sensor."""
    lattice = _choose_lattice(grids, crs, resolution)
    all_bounds = [grid_bounds(grid, crs) for grid in set(grids)]
    union = BoundingBox(
        min(bounds.left for bounds in all_bounds),
        min(bounds.bottom for bounds in all_bounds),
        max(bounds.right for bounds in all_bounds),
        max(bounds.top for bounds in all_bounds),
        crs,
    )
    if not all(map(math.isfinite, union)):
        raise InputError(
            f"{name}: crs",
            found=f"{crs}, in which {format_bounds(grids[0].boundingbox)} in {grids[0].crs} has no place",
            expected="a CRS for that part of the Earth",
            repair=f"choose another, e.g. --set crs={suggest_utm(grids[0].extent)}.",
        )
    refuse_gap(all_bounds, grids[0], crs, f"{name}: crs")
    return lattice.over(union)


def _choose_lattice(grids: Sequence[GeoBox], crs: CRS, resolution: float | None) -> Lattice:
    """Return the lattice of the scene: that of a file in the CRS if possible, so that its pixels are not resampled."""
    if resolution is not None:
        return Lattice(crs, resolution, resolution)
    for grid in grids:
        if grid.crs == crs:
            return Lattice.of(grid)
    size = _pixel_side(grids[0], crs)
    return Lattice(crs, size, size)


def _cut(grid: GeoBox, area: Geometry, name: str) -> GeoBox:
    """Return the part of the grid that an area touches."""
    crs = crs_of(grid)
    with refusing(
        f"{name}: bbox or aoi",
        expected=f"an area that has a place in {crs}",
        repair="correct the area: west,south,east,north in degrees.",
    ):
        wanted = area_bounds(area, crs)
    available = grid.boundingbox
    if wanted.right > 180 >= available.right and crs.geographic:
        raise InputError(
            f"{name}: bbox or aoi",
            found="an area across 180 degrees of longitude, which is an end of the scene's grid",
            expected="a grid on which both sides lie side by side",
            repair=f"choose another CRS, e.g. --set crs={suggest_utm(area)}.",
        )
    if not overlap(wanted, available):
        in_degrees = format_bounds(area_bounds(grid.extent, DEGREES))
        raise InputError(
            f"{name}: bbox or aoi",
            found=f"no overlap: the area is {format_bounds(wanted)} in {crs}",
            expected=f"an area inside the images: {format_bounds(available)}; in degrees {in_degrees}",
            repair="correct the area: west,south,east,north in degrees.",
        )
    return Lattice.of(grid).over(wanted & available)


def _overlapping_layers(layers: Sequence[Layer], grids: Grids, grid: GeoBox, *, cut: bool) -> tuple[Layer, ...]:
    """Refuse sensors that see nothing of the grid; where the user cut it, leave out frames that do not.

    Args:
        layers: One layer for each sensor.
        grids: Grids of their frames.
        grid: Grid of the scene.
        cut: Whether the user limited the area.
    """
    overlapping = []
    for layer in layers:
        frame_grids = grids[layer.sensor.name]
        # Most frames share a grid, and transforming bounds is slow.
        bounds_of = {frame_grid: grid_bounds(frame_grid, crs_of(grid)) for frame_grid in set(frame_grids)}
        frames = []
        for frame, frame_grid in zip(layer.frames, frame_grids, strict=True):
            if overlap(bounds_of[frame_grid], grid.boundingbox):
                frames.append(frame)
        if not frames:
            raise InputError(
                f"images of {layer.sensor.name}",
                found=f"no overlap: they cover {format_bounds(bounds_of[frame_grids[0]])}",
                expected=f"something of the scene's grid: {format_bounds(grid.boundingbox)} in {grid.crs}",
                repair="open images of one area, or leave that sensor out.",
            )
        overlapping.append(replace(layer, frames=tuple(frames)) if cut else layer)
    return tuple(overlapping)
