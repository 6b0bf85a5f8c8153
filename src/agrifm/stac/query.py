"""What is searched for in a catalogue, and which items answer it."""

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
    """What is searched for.

    Args:
        collections: ids; empty for all of a static catalog.
        boxes: west, south, east, north in degrees; two of them for an area across 180 degrees.
        start, end: first and last day.
        max_cloud: percent; items that do not say stay.
        shape: the area in degrees (shapely), if there is more to it than the box.
    """

    collections: tuple[str, ...]
    boxes: tuple[Box, ...]
    start: dt.date
    end: dt.date
    max_cloud: float | None = None
    shape: Any = field(default=None, compare=False)

    def filters(self) -> Iterator[tuple[str, str, Callable[[Mapping], bool]]]:
        """Name of the option, what it removes, and what it keeps."""
        area = _union(self.boxes)

        def there(item: Mapping, wanted: Any) -> bool:
            found = _outline(item)
            return found is not None and found.intersects(wanted)

        if self.collections:
            yield "--collection", "of other collections", lambda item: item.get("collection") in self.collections
        yield "--bbox", "outside the box", lambda item: there(item, area)
        if self.shape is not None:
            yield "--aoi", "outside the area", lambda item: there(item, self.shape)
        yield "--start or --end", "outside the dates", lambda item: self.start <= day_of(item) <= self.end
        if self.max_cloud is not None:
            yield "--max-cloud", "cloudier", self._clear_enough
        yield "--collection", "of other sensors or platforms", _ours

    def _clear_enough(self, item: Mapping) -> bool:
        stated = item["properties"].get("eo:cloud_cover")
        return stated is None or self.max_cloud is None or not stated > self.max_cloud

    def sift(self, items: Sequence[dict], removed: Counter[tuple[str, str]]) -> list[dict]:
        """The items that pass every filter, in a fixed order; how many each removed is added to ``removed``."""
        for option, told, keep in self.filters():
            passed = [item for item in items if keep(item)]
            removed[option, told] += len(items) - len(passed)
            items = passed
        newest = _newest(items)
        removed["--collection", "repeated or older versions of the same acquisition"] += len(items) - len(newest)
        return sorted(newest, key=order)


def _newest(items: Sequence[dict]) -> list[dict]:
    """Without repeats, and without what was processed again later with a newer baseline."""
    last: dict[tuple, tuple[int, ...]] = {}
    for item in items:
        last[_acquisition(item)] = max(last.get(_acquisition(item), ()), _version(item))
    kept = [item for item in items if _version(item) == last[_acquisition(item)]]
    return list({(item.get("collection"), item["id"]): item for item in kept}.values())


def _acquisition(item: Mapping) -> tuple:
    properties = item["properties"]
    tile = properties.get("s2:mgrs_tile") or properties.get("grid:code")
    own = (str(properties.get("datetime"))[:19], tile) if tile and _baseline(item) else (item["id"],)
    return (item.get("collection"), *own)


def _baseline(item: Mapping) -> str:
    properties = item["properties"]
    return str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")


def _version(item: Mapping) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", _baseline(item)))


def _ours(item: Mapping) -> bool:
    product = provider_of(item).product(item)
    return product is not None and product.fits(item)


def _outline(item: Mapping) -> Any:
    """What an item covers, in degrees (shapely); None if it does not say.

    Raises:
        InputError: its geometry is none.
    """
    from shapely import get_coordinates
    from shapely.geometry import shape

    geometry, bbox = item.get("geometry"), item.get("bbox")
    if geometry:
        with refusing(
            f"item {item.get('id')}: geometry",
            expected="a GeoJSON geometry in degrees",
            repair="ask the operator of the catalog to correct the item, or search in another collection.",
        ):
            with np.errstate(invalid="ignore"):
                found = shape(geometry)
            if not np.isfinite(get_coordinates(found)).all():
                raise ValueError("coordinates that are no numbers")
            return found
    return None if not bbox else _union(split_box(flat(bbox)))


def _union(boxes: Sequence[Box]) -> Any:
    from shapely import union_all
    from shapely.geometry import box

    return union_all([box(*each) for each in boxes])


def flat(bbox: Sequence[float]) -> Box:
    """A box without heights."""
    half = len(bbox) // 2
    return bbox[0], bbox[1], bbox[half], bbox[half + 1]


def split_box(bbox: Box) -> tuple[Box, ...]:
    """The box, or its parts west and east of 180 degrees where its west is greater than its east (RFC 7946)."""
    west, south, east, north = bbox
    if west <= east:
        return (bbox,)
    return (west, south, 180.0, north), (-180.0, south, east, north)


def joined(boxes: Sequence[Box]) -> list[float]:
    """One box of one or two; its west is greater than its east if it lies across 180 degrees."""
    return [boxes[0][0], min(box[1] for box in boxes), boxes[-1][2], max(box[3] for box in boxes)]


def season(start: str | dt.date, end: str | dt.date) -> tuple[dt.date, dt.date]:
    """First and last day.

    Raises:
        InputError: they are no days, or the last comes before the first.
    """
    first, last = _day("--start", start), _day("--end", end)
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
            option, found=repr(value), expected="a day such as 2018-03-01", repair="write year-month-day."
        ) from error


def area(bbox: Box | None, aoi: Path | None) -> tuple[tuple[Box, ...], Any, int]:
    """The boxes in degrees, the shape if there is more to it, and how many lines and points were left out of it.

    Raises:
        InputError: there are none or both, the box is no box, or the vector file cannot be used.
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

    found = read_area(aoi)
    with refusing(
        f"{aoi} (aoi)",
        expected="areas in a CRS that can be transformed to degrees",
        repair="save the area again in EPSG:4326, e.g. with 'ogr2ogr -t_srs EPSG:4326'.",
    ):
        parts = [part for piece in get_parts([found.to_crs("EPSG:4326").geom]) for part in get_parts([piece])]
    areas = [part for part in parts if part.geom_type == "Polygon"]
    kept = areas or parts  # points alone are a search for what covers them
    # One lap of the globe, from 0 to 360 degrees: an area across 180 degrees is in one piece there.
    east = [_eastward(part) for part in kept]
    whole, lap = union_all(kept), union_all(east)
    _check_degrees(whole, 360, aoi)  # beyond 180 degrees some files go on counting
    fits = whole.bounds[0] >= -180 and whole.bounds[2] <= 180
    if fits and _width(lap) >= min(_width(whole), 180):
        return (whole.bounds,), whole, len(parts) - len(kept)
    sides = [intersection(lap, box(0, -90, 180, 90)), translate(intersection(lap, box(180, -90, 360, 90)), -360)]
    present = [side for side in sides if not side.is_empty]
    return tuple(side.bounds for side in present), union_all(present), len(parts) - len(kept)


def _eastward(part: Any) -> Any:
    """The shape with longitudes from 0 to 360."""
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
