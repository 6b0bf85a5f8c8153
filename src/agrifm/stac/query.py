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
from agrifm.stac.items import day_of, order
from agrifm.stac.providers import provider_of

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Query:
    """The query of a search.

    Args:
        collections: Ids; empty for all of a static catalog.
        boxes: West, south, east, north in degrees; two of them for an area across 180 degrees.
        start, end: First and last day.
        max_cloud: Percent; items that do not say stay.
        shape: The area in degrees (shapely), if there is more to it than the box.
    """

    collections: tuple[str, ...]
    boxes: tuple[Box, ...]
    start: dt.date
    end: dt.date
    max_cloud: float | None = None
    shape: Any = field(default=None, compare=False)

    def filters(self) -> Iterator[tuple[str, str, Callable[[Mapping], bool]]]:
        """Yield for each filter the option, a description of what it removes, and a test that items must pass."""
        area = _union(self.boxes)

        def intersects(item: Mapping, wanted: Any) -> bool:
            outline = _outline(item)
            return outline is not None and outline.intersects(wanted)

        if self.collections:
            yield "--collection", "of other collections", lambda item: item.get("collection") in self.collections
        yield "--bbox", "outside the box", lambda item: intersects(item, area)
        if self.shape is not None:
            yield "--aoi", "outside the area", lambda item: intersects(item, self.shape)
        yield "--start or --end", "outside the dates", lambda item: self.start <= day_of(item) <= self.end
        if self.max_cloud is not None:
            yield "--max-cloud", "cloudier", self._clear_enough
        yield "--collection", "of other sensors or platforms", _ours

    def _clear_enough(self, item: Mapping) -> bool:
        stated = item["properties"].get("eo:cloud_cover")
        return stated is None or self.max_cloud is None or not stated > self.max_cloud

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
    newest: dict[tuple, tuple[int, ...]] = {}
    for item in items:
        acquisition = _acquisition(item)
        newest[acquisition] = max(newest.get(acquisition, ()), _version(item))
    by_id: dict[tuple, dict] = {}
    for item in items:
        if _version(item) == newest[_acquisition(item)]:
            by_id[item.get("collection"), item["id"]] = item
    return list(by_id.values())


def _acquisition(item: Mapping) -> tuple:
    properties = item["properties"]
    tile = properties.get("s2:mgrs_tile") or properties.get("grid:code")
    if tile and _baseline(item):
        return item.get("collection"), str(properties.get("datetime"))[:19], tile
    return item.get("collection"), item["id"]


def _baseline(item: Mapping) -> str:
    properties = item["properties"]
    return str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")


def _version(item: Mapping) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", _baseline(item)))


def _ours(item: Mapping) -> bool:
    product = provider_of(item).product(item)
    return product is not None and product.fits(item)


def _outline(item: Mapping) -> Any:
    """Outline of an item in degrees (shapely); None if the item does not state it.

    Raises:
        InputError: If its geometry is none.
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
    return None if not bbox else _union(split_box(flat(bbox)))


def _union(boxes: Sequence[Box]) -> Any:
    from shapely import union_all
    from shapely.geometry import box

    return union_all([box(*each) for each in boxes])


def flat(bbox: Sequence[float]) -> Box:
    """Drop the heights of a box."""
    half = len(bbox) // 2
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
        InputError: If they are no days, or the last comes before the first.
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
    """Boxes in degrees, the shape if it is more than a box, and the number of lines and points that were left out.

    Raises:
        InputError: If there are none or both, the box is no box, or the vector file cannot be used.
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
    used = areas or parts  # a file of points alone searches for the images that cover them
    unused = len(parts) - len(used)
    whole = union_all(used)
    # With longitudes from 0 to 360 degrees, an area across 180 degrees is in one piece.
    from_zero = union_all([_eastward(part) for part in used])
    _check_degrees(whole, 360, aoi)  # some files count beyond 180 degrees
    fits = whole.bounds[0] >= -180 and whole.bounds[2] <= 180
    if fits and _width(from_zero) >= min(_width(whole), 180):
        return (whole.bounds,), whole, unused
    eastern = intersection(from_zero, box(0, -90, 180, 90))
    western = translate(intersection(from_zero, box(180, -90, 360, 90)), -360)
    sides = [side for side in (eastern, western) if not side.is_empty]
    return tuple(side.bounds for side in sides), union_all(sides), unused


def _eastward(part: Any) -> Any:
    """Shift longitudes to the range from 0 to 360."""
    from shapely import transform

    def moved(points: np.ndarray) -> np.ndarray:
        return np.column_stack([points[:, 0] % 360, points[:, 1]])

    return transform(part, moved)


def _width(shape: Any) -> float:
    return shape.bounds[2] - shape.bounds[0]


def _check_degrees(shape: Any, most: float, aoi: Path) -> None:
    west, south, east, north = shape.bounds
    if not (-most <= west <= east <= most and -90 <= south <= north <= 90):
        raise InputError(
            f"{aoi} (aoi)",
            found=f"an area from {west:g},{south:g} to {east:g},{north:g} degrees",
            expected="an area on the Earth",
            repair="check the CRS and the coordinates of the vector file.",
        )


def _checked_box(bbox: Box) -> Box:
    west, south, east, north = bbox
    wide = (east - west) % 360  # across 180 degrees, west is greater than east
    sensible = west < east or (west > east and wide < 180)
    if not (-180 <= west <= 180 and -180 <= east <= 180 and sensible and -90 <= south < north <= 90):
        raise InputError(
            "--bbox",
            found=f"{west:g},{south:g},{east:g},{north:g}",
            expected="west < east within -180 to 180 and south < north within -90 to 90, in degrees",
            repair="give west,south,east,north in degrees; west is greater than east only across 180 degrees.",
        )
    return west, south, east, north
