"""The query of a search in a STAC catalog, and the items that satisfy it."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agrifm.errors import InputError, refusing
from agrifm.scenes.description import read_area
from agrifm.stac.providers import provider_of
from agrifm.stac.validation import day_of, order

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Query:
    """The query of a search.

    Args:
        collections: Ids of collections; empty for all of a static catalog.
        boxes: West, south, east, north in degrees; two of them for an area across 180 degrees.
        start, end: First and last day.
        max_cloud: Highest cloud cover in percent; items without a statement are kept.
        shape: The area in degrees (shapely); None if it is the boxes.
    """

    collections: tuple[str, ...]
    boxes: tuple[Box, ...]
    start: dt.date
    end: dt.date
    max_cloud: float | None = None
    shape: Any = field(default=None, compare=False)

    def filters(self) -> Iterator[tuple[str, str, Callable[[Mapping], bool]]]:
        """Yield for each filter the option, a description of what it removes, and a test that items must pass."""
        boxes = _union(self.boxes)
        if self.collections:
            yield "--collection", "of other collections", lambda item: item.get("collection") in self.collections
        yield "--bbox", "outside the box", lambda item: _intersects(item, boxes)
        if self.shape is not None:
            yield "--aoi", "outside the area", lambda item: _intersects(item, self.shape)
        yield "--start or --end", "outside the dates", lambda item: self.start <= day_of(item) <= self.end
        if self.max_cloud is not None:
            yield "--max-cloud", "cloudier", self._clear_enough
        yield "--collection", "of other sensors or platforms", _is_known_product

    def _clear_enough(self, item: Mapping) -> bool:
        cloud_cover = item["properties"].get("eo:cloud_cover")
        # 'not greater' keeps items whose cloud cover is NaN.
        return cloud_cover is None or self.max_cloud is None or not cloud_cover > self.max_cloud

    def sift(self, items: Sequence[dict], removed: Counter[tuple[str, str]]) -> list[dict]:
        """Return the items that pass every filter, in a fixed order; count those that each filter removes."""
        for option, description, keep in self.filters():
            passed = [item for item in items if keep(item)]
            removed[option, description] += len(items) - len(passed)
            items = passed
        newest = _newest(items)
        removed["--collection", "repeated or older versions of the same acquisition"] += len(items) - len(newest)
        return sorted(newest, key=order)


def _newest(items: Sequence[dict]) -> list[dict]:
    """Drop repeated items, and items that were processed again with a newer baseline."""
    newest_version: dict[tuple, tuple[int, ...]] = {}
    for item in items:
        acquisition = _acquisition(item)
        newest_version[acquisition] = max(newest_version.get(acquisition, ()), _version(item))
    by_id: dict[tuple, dict] = {}
    for item in items:
        if _version(item) == newest_version[_acquisition(item)]:
            by_id[item.get("collection"), item["id"]] = item
    return list(by_id.values())


def _acquisition(item: Mapping) -> tuple:
    """Identify an acquisition: all versions of one Sentinel-2 product share it; other items are their own."""
    properties = item["properties"]
    tile = properties.get("s2:mgrs_tile") or properties.get("grid:code")
    if tile and _baseline(item):
        second = str(properties.get("datetime"))[:19]  # without the fraction and the time zone
        return item.get("collection"), second, tile
    return item.get("collection"), item["id"]


def _baseline(item: Mapping) -> str:
    properties = item["properties"]
    return str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")


def _version(item: Mapping) -> tuple[int, ...]:
    parts = re.findall(r"[0-9]{1,9}", _baseline(item))
    return tuple(map(int, parts))


def _is_known_product(item: Mapping) -> bool:
    product = provider_of(item).product(item)
    return product is not None and product.fits(item)


def _intersects(item: Mapping, area: Any) -> bool:
    outline = _outline(item)
    return outline is not None and outline.intersects(area)


def _outline(item: Mapping) -> Any:
    """Return the outline of an item in degrees (shapely); None if the item does not state it.

    Raises:
        InputError: If its geometry is invalid.
    """
    from shapely import get_coordinates
    from shapely.geometry import shape

    geometry = item.get("geometry")
    bbox = item.get("bbox")
    if geometry:
        with refusing(
            f"item {item.get('id')}: geometry",
            expected="a GeoJSON geometry in degrees",
            repair="ask the operator of the catalog to correct the item, or search in another collection.",
        ):
            with np.errstate(invalid="ignore"):
                outline = shape(geometry)
            if not np.isfinite(get_coordinates(outline)).all():
                raise ValueError("coordinates that are no numbers")
            return outline
    if bbox:
        return _union(split_box(flat(bbox)))
    return None


def _union(boxes: Sequence[Box]) -> Any:
    from shapely import union_all
    from shapely.geometry import box

    return union_all([box(*each) for each in boxes])


def flat(bbox: Sequence[float]) -> Box:
    """Return a box without its heights."""
    half = len(bbox) // 2  # of four or six numbers: the first half is one corner
    return bbox[0], bbox[1], bbox[half], bbox[half + 1]


def split_box(bbox: Box) -> tuple[Box, ...]:
    """Split a box at 180 degrees if its west is greater than its east (RFC 7946)."""
    west, south, east, north = bbox
    if west <= east:
        return (bbox,)
    return (west, south, 180.0, north), (-180.0, south, east, north)


def joined(boxes: Sequence[Box]) -> list[float]:
    """Join one or two boxes into one; its west is greater than its east if it lies across 180 degrees."""
    west = boxes[0][0]
    east = boxes[-1][2]
    south = min(box[1] for box in boxes)
    north = max(box[3] for box in boxes)
    return [west, south, east, north]


def season(start: str | dt.date, end: str | dt.date) -> tuple[dt.date, dt.date]:
    """Check the first and the last day of a search.

    Raises:
        InputError: If they are not dates, or the last comes before the first.
    """
    first = _day("--start", start)
    last = _day("--end", end)
    if first > last:
        raise InputError(
            "--start and --end",
            found=f"{first} to {last}",
            expected="a first day that is not after the last",
            repair="exchange them.",
        )
    return first, last


def _day(option: str, value: str | dt.date) -> dt.date:
    try:
        return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)
    except ValueError as error:
        raise InputError(
            option, found=repr(value), expected="a day such as 2018-03-01", repair="give year-month-day."
        ) from error


def area(bbox: Box | None, aoi: Path | None) -> tuple[tuple[Box, ...], Any, int]:
    """Read the area of a search.

    Args:
        bbox: West, south, east, north in degrees.
        aoi: Vector file, instead of the box.

    Returns:
        Boxes in degrees, the shape if it is more than a box, and the number of lines and points that were left out.

    Raises:
        InputError: If neither or both are given, the box is invalid, or the vector file cannot be used.
    """
    if bbox is not None and aoi is None:
        return split_box(_checked_box(bbox)), None, 0
    if bbox is None and aoi is not None:
        return _area_of(aoi)
    raise InputError(
        "the area of the search",
        found="both --bbox and --aoi" if bbox else "neither --bbox nor --aoi",
        expected="one of them",
        repair="give --bbox 'west,south,east,north' in degrees, or --aoi with a vector file.",
    )


def _area_of(aoi: Path) -> tuple[tuple[Box, ...], Any, int]:
    from shapely import get_parts, intersection, union_all
    from shapely.affinity import translate
    from shapely.geometry import box

    area_of_interest = read_area(aoi)
    with refusing(
        f"{aoi} (aoi)",
        expected="areas in a CRS that can be transformed to degrees",
        repair="save the area again in EPSG:4326, e.g. with 'ogr2ogr -t_srs EPSG:4326'.",
    ):
        pieces = get_parts([area_of_interest.to_crs("EPSG:4326").geom])
        parts = list(get_parts(pieces))
    areas = [part for part in parts if part.geom_type == "Polygon"]
    searched_parts = areas or parts  # a file of points alone searches for the images that cover them
    unused = len(parts) - len(searched_parts)
    whole = union_all(searched_parts)
    # With longitudes from 0 to 360 degrees, an area across 180 degrees is in one piece.
    from_zero = union_all([_eastward(part) for part in searched_parts])
    _check_degrees(whole, 360, aoi)  # some files count beyond 180 degrees
    is_within_180 = whole.bounds[0] >= -180 and whole.bounds[2] <= 180
    if is_within_180 and _width(from_zero) >= min(_width(whole), 180):
        return (whole.bounds,), whole, unused
    eastern = intersection(from_zero, box(0, -90, 180, 90))
    western = translate(intersection(from_zero, box(180, -90, 360, 90)), -360)
    sides = [side for side in (eastern, western) if not side.is_empty]
    return tuple(side.bounds for side in sides), union_all(sides), unused


def _eastward(part: Any) -> Any:
    """Shift longitudes to the range from 0 to 360."""
    from shapely import transform

    def shifted(points: np.ndarray) -> np.ndarray:
        longitudes = points[:, 0] % 360
        latitudes = points[:, 1]
        return np.column_stack([longitudes, latitudes])

    return transform(part, shifted)


def _width(shape: Any) -> float:
    return shape.bounds[2] - shape.bounds[0]


def _check_degrees(shape: Any, farthest: float, aoi: Path) -> None:
    west, south, east, north = shape.bounds
    if not (-farthest <= west <= east <= farthest and -90 <= south <= north <= 90):
        raise InputError(
            f"{aoi} (aoi)",
            found=f"an area from {west:g},{south:g} to {east:g},{north:g} degrees",
            expected="an area on the Earth",
            repair="check the CRS and the coordinates of the vector file.",
        )


def _checked_box(bbox: Box) -> Box:
    west, south, east, north = bbox
    # Across 180 degrees, west is greater than east; a box of half the globe or more is a mistake.
    valid_order = west < east or (west > east and (east - west) % 360 < 180)
    valid_longitudes = -180 <= west <= 180 and -180 <= east <= 180 and valid_order
    valid_latitudes = -90 <= south < north <= 90
    if not (valid_longitudes and valid_latitudes):
        raise InputError(
            "--bbox",
            found=f"{west:g},{south:g},{east:g},{north:g}",
            expected="west < east within -180 to 180 and south < north within -90 to 90, in degrees",
            repair="give west,south,east,north in degrees; west is greater than east only across 180 degrees.",
        )
    return west, south, east, north
