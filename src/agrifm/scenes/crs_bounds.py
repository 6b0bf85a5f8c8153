"""Bounds of images in other coordinate reference systems, and the errors where these have no place for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, Geometry, point
from pyproj import Transformer

from agrifm.errors import InputError, refusing
from agrifm.rasters.grid import METERS_PER_DEGREE, meters_per_unit, pixel_size

DEGREES = CRS("EPSG:4326")
MAX_WIDTH = 5e6  # meters; wider images may really span half of the Earth
STEPS = 32  # into which each side of an area is divided when it is transformed to another CRS


def crs_of(grid: GeoBox) -> CRS:
    """Return the CRS of a grid, which must have one."""
    if grid.crs is None:
        raise ValueError("a grid without a CRS")
    return grid.crs


@cache
def refuse_unrelated(source: CRS, target: CRS) -> None:
    """Refuse CRSs between which PROJ cannot transform, e.g. those of two celestial bodies.

    Raises:
        InputError: If there is no transformation.
    """
    with refusing(
        f"CRS {str(source)[:80]}",
        expected=f"a CRS that PROJ can relate to {target}",
        repair="write the right CRS into the files, e.g. 'gdal_edit.py -a_srs EPSG:32631 FILE'.",
    ):
        Transformer.from_crs(source.to_wkt(), target.to_wkt(), always_xy=True)


def area_bounds(area: Geometry, crs: CRS) -> BoundingBox:
    """Return the bounds of an area in another CRS."""
    if area.crs == crs:
        return area.boundingbox
    # Straight borders bend in another CRS, so points along them are transformed too.
    step = max(area.boundingbox.span_x, area.boundingbox.span_y) / STEPS
    if not step:
        return area.to_crs(crs).boundingbox
    return area.to_crs(crs, resolution=step).boundingbox


def grid_bounds(grid: GeoBox, crs: CRS) -> BoundingBox:
    """Return the bounds of a grid in another CRS.

    Raises:
        InputError: If the CRSs are unrelated, or the grid lies across an end of one of them.
    """
    source = crs_of(grid)
    if source == crs:
        return grid.boundingbox
    farthest = max(abs(grid.boundingbox.left), abs(grid.boundingbox.right))
    if source.geographic and farthest > 180 + abs(grid.affine.a):
        # GDAL and PROJ give longitudes from -180 to 180, so that pixels beyond would be lost.
        raise InputError(
            f"{source} to {crs}",
            found=f"images that reach beyond 180 degrees of longitude: {format_bounds(grid.boundingbox)}",
            expected="longitudes from -180 to 180",
            repair=f"transform the images themselves, e.g. with 'gdalwarp -t_srs {suggest_utm(grid.extent)}', or keep "
            f"their CRS with --set crs={source}.",
        )
    refuse_unrelated(source, crs)
    bounds = area_bounds(grid.extent, crs)
    width = pixel_size(grid)[0] * grid.shape[1]
    if bounds.span_x > _half_of_earth(crs) and width < MAX_WIDTH:
        raise _across_antimeridian(f"{source} to {crs}", grid, crs)
    return bounds


def refuse_gap(bounds: Sequence[BoundingBox], grid: GeoBox, crs: CRS, where: str) -> None:
    """Refuse images that lie at the two ends of a CRS, with most of the Earth between them.

    Args:
        bounds: Bounds of all images in the CRS.
        grid: Grid of one of the images, for the suggestion.
        crs: CRS of the scene.
        where: Scene and setting, for the error.

    Raises:
        InputError: If there is such a gap.
    """
    half = _half_of_earth(crs)
    from_west = sorted(bounds, key=lambda box: box.left)
    reached = from_west[0].right
    for box in from_west[1:]:
        # A gap larger than the Earth has another cause: the grid is then refused for its size.
        if half < box.left - reached < 2 * half:
            raise _across_antimeridian(where, grid, crs)
        reached = max(reached, box.right)


def _half_of_earth(crs: CRS) -> float:
    return 180.0 if crs.geographic else 180 * METERS_PER_DEGREE / meters_per_unit(crs)


def _across_antimeridian(where: str, grid: GeoBox, crs: CRS) -> InputError:
    return InputError(
        where,
        found=f"images on both sides of 180 degrees of longitude, which are the two ends of {crs}",
        expected="a CRS in which they lie side by side",
        repair=f"choose one, e.g. --set crs={suggest_utm(grid.extent)}.",
    )


def suggest_utm(area: Geometry) -> str:
    """Return the UTM zone in which the center of an area lies, as a suggestion."""
    bounds = area.boundingbox
    try:
        center = point((bounds.left + bounds.right) / 2, (bounds.bottom + bounds.top) / 2, area.crs)
        ((longitude, latitude),) = center.to_crs(DEGREES).coords
    except Exception:  # PROJ raises various kinds for CRSs that it cannot relate
        return "EPSG:3857"
    if not (math.isfinite(longitude) and math.isfinite(latitude)):
        return "EPSG:3857"
    zone = int((longitude + 180) // 6) % 60 + 1
    first_code = 32600 if latitude >= 0 else 32700
    return f"EPSG:{first_code + zone}"


def overlap(one: BoundingBox, other: BoundingBox) -> bool:
    """Whether two boxes share an area."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.top, other.top) - max(one.bottom, other.bottom)
    return width > 0 and height > 0


def format_bounds(bounds: BoundingBox) -> str:
    """Format bounds for people: six digits, meters without decimals."""
    return " ".join(f"{value:.6g}" if abs(value) < 1000 else f"{value:.0f}" for value in bounds)
