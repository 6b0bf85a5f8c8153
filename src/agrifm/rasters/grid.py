"""Sizes of pixels on the ground, and grids that no image of the Earth can have.

Every area, distance and pixel size in meters comes from here, whatever the unit of the CRS is.
"""

from __future__ import annotations

import math

from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from agrifm.errors import InputError

METERS_PER_DEGREE = 111_195.0  # along a meridian of a sphere with a radius of 6,371 km

# At 10 m, a side of this length goes around the Earth, and this number of pixels covers a continent.
SMALLEST_PIXEL, LARGEST_PIXEL = 0.01, 1e6  # meters
LONGEST_SIDE = 1 << 22
MOST_PIXELS = 250 * 10**9


def meters_per_unit(crs: CRS | None) -> float:
    """Meters per unit of a projected CRS, e.g. 0.3048 for feet; 1 where there is no CRS."""
    if crs is None or not crs.projected:
        return 1.0
    return float(crs.proj.axis_info[0].unit_conversion_factor)


def sides(box: GeoBox) -> tuple[float, float]:
    """Lengths of a pixel along rows and columns, in units of the CRS; the grid may be rotated."""
    affine = box.affine
    return math.hypot(affine.a, affine.d), math.hypot(affine.b, affine.e)


def pixel_size(box: GeoBox) -> tuple[float, float]:
    """Meters per pixel along rows and columns; in degrees, those in the middle of the grid."""
    affine = box.affine
    across, up = _meters(box)
    along_rows = math.hypot(affine.a * across, affine.d * up)
    along_columns = math.hypot(affine.b * across, affine.e * up)
    return along_rows, along_columns


def pixel_area(box: GeoBox) -> float:
    """Square meters of a pixel; in degrees, of one in the middle of the grid."""
    across, up = _meters(box)
    return abs(box.affine.determinant) * across * up


def _meters(box: GeoBox) -> tuple[float, float]:
    """Meters per unit of the CRS to the east and to the north."""
    if box.crs is None or box.crs.projected:
        unit = meters_per_unit(box.crs)
        return unit, unit
    affine, (rows, columns) = box.affine, box.shape
    latitude = affine.f + affine.d * columns / 2 + affine.e * rows / 2
    return METERS_PER_DEGREE * math.cos(math.radians(latitude)), METERS_PER_DEGREE


def check_grid(box: GeoBox, where: object) -> None:
    """Refuse a grid that has no place on the ground, or more pixels than any image, before memory is asked for.

    Raises:
        InputError: If the transform holds NaN, infinity or no area, the CRS is not one of the Earth's surface, or there
            are too many pixels.
    """
    if box.crs is not None and not (box.crs.projected or box.crs.geographic):
        raise InputError(
            where,
            found=f"a CRS that is not tied to the Earth's surface ({str(box.crs)[:80]})",
            expected="a projected or geographic CRS, e.g. EPSG:32631",
            repair="write the right CRS into the file, e.g. 'gdal_edit.py -a_srs EPSG:32631 FILE'.",
        )
    numbers = list(box.affine)[:6]
    if not all(map(math.isfinite, numbers)) or not pixel_area(box) > 0:
        raise InputError(
            where,
            found=f"a transform that has no place on the ground: {', '.join(f'{number:g}' for number in numbers)}",
            expected="six finite numbers, and pixels with an area",
            repair="write the right transform into the file, e.g. 'gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM FILE'.",
        )
    across, down = pixel_size(box)
    if not (min(across, down) >= SMALLEST_PIXEL and max(across, down) <= LARGEST_PIXEL):
        raise InputError(
            where,
            found=f"pixels of {across:g} x {down:g} m",
            expected=f"pixels between {SMALLEST_PIXEL:g} and {LARGEST_PIXEL:g} m",
            repair="correct the transform or the CRS of the file; one of them is of another unit than the other.",
        )
    rows, columns = box.shape
    if min(rows, columns) < 1 or max(rows, columns) > LONGEST_SIDE or rows * columns > MOST_PIXELS:
        raise InputError(
            where,
            found=f"a grid of {rows:,} x {columns:,} pixels of {pixel_size(box)[0]:g} m",
            expected=f"at most {LONGEST_SIDE:,} pixels along a side and {MOST_PIXELS:,} in all",
            repair="correct the file whose extent is wrong, cut the scene with --set bbox=west,south,east,north, or "
            "choose larger pixels with --set resolution=10.",
        )
