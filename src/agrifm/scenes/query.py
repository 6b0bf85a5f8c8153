"""What is searched for in a catalogue, and which items answer it."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agrifm.errors import InputError
from agrifm.scenes.description import read_area
from agrifm.scenes.items import day_of, order
from agrifm.scenes.providers import provider_of

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Args:
        collections: ids; empty for all of a static catalogue.
        bbox: west, south, east, north in degrees.
        start, end: first and last day.
        max_cloud: percent; items that do not say stay.
        shape: the area in degrees (shapely), if there is more to it than the box.
    """

    collections: tuple[str, ...]
    bbox: Box
    start: dt.date
    end: dt.date
    max_cloud: float | None = None
    shape: Any = field(default=None, compare=False)

    def filters(self) -> Iterator[tuple[str, str, Callable[[Mapping], bool]]]:
        """Name of the option, what it removes, and what it keeps."""
        from shapely.geometry import box, shape

        area = box(*self.bbox)

        def there(item: Mapping, wanted: Any) -> bool:
            geometry = item.get("geometry")
            found = shape(geometry) if geometry else box(*_flat(item["bbox"])) if item.get("bbox") else None
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
        return stated is None or self.max_cloud is None or stated <= self.max_cloud

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
    last: dict[tuple, str] = {}
    for item in items:
        last[_acquisition(item)] = max(last.get(_acquisition(item), ""), _baseline(item))
    kept = [item for item in items if _baseline(item) == last[_acquisition(item)]]
    return list({(item.get("collection"), item["id"]): item for item in kept}.values())


def _acquisition(item: Mapping) -> tuple:
    properties = item["properties"]
    tile = properties.get("s2:mgrs_tile") or properties.get("grid:code")
    own = (str(properties.get("datetime"))[:19], tile) if tile and _baseline(item) else (item["id"],)
    return (item.get("collection"), *own)


def _baseline(item: Mapping) -> str:
    properties = item["properties"]
    return str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")


def _ours(item: Mapping) -> bool:
    product = provider_of(item).product(item)
    return product is not None and product.fits(item)


def _flat(bbox: Sequence[float]) -> Sequence[float]:
    """A box without heights."""
    half = len(bbox) // 2
    return [*bbox[:2], *bbox[half : half + 2]]


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


def area(bbox: Box | None, aoi: Path | None) -> tuple[Box, Any]:
    """The box in degrees, and the shape if there is more to it.

    Raises:
        InputError: there are none or both, the box is no box, or the vector file cannot be used.
    """
    if bbox is not None and aoi is None:
        return _box(bbox), None
    if bbox is None and aoi is not None:
        shape = read_area(aoi).to_crs("EPSG:4326").geom
        return shape.bounds, shape
    raise InputError(
        "the area of the search",
        found="both --bbox and --aoi" if bbox else "neither --bbox nor --aoi",
        expected="one of them",
        repair="give --bbox 'west,south,east,north' in degrees, or --aoi with a vector file.",
    )


def _box(bbox: Box) -> Box:
    west, south, east, north = bbox
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise InputError(
            "--bbox",
            found=f"{west:g},{south:g},{east:g},{north:g}",
            expected="west < east within -180 to 180 and south < north within -90 to 90, in degrees",
            repair="give west,south,east,north in degrees; cut an area that crosses 180 degrees in two.",
        )
    return west, south, east, north
