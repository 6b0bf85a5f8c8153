"""STAC: find items in an API or a static catalogue, keep them as a list, and read the list as layers of a scene.

Searching needs the network, reading the list does not: a saved list gives the same scene again.
Specification: STAC 1.0 and 1.1 (stacspec.org), STAC API item search.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from rich.console import Console
from urllib3 import Retry

from agrifm.errors import InputError, nearest
from agrifm.scenes.items import MEMBER, OPENED, day_of, frames_of, order, resolve, roots, save
from agrifm.scenes.providers import provider_at, provider_of

__all__ = ["frames_of", "get_json", "save", "search"]

Box = tuple[float, float, float, float]
ATTEMPTS = 5
TIMEOUT = 60.0


class _Patience(Retry):
    """Asks again after passing failures; waits as long as the server asks for, but two minutes at most."""

    def get_retry_after(self, response: Any) -> float | None:
        after = super().get_retry_after(response)
        return None if after is None else min(after, 120.0)


RETRY = _Patience(ATTEMPTS, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)


class _Reader(StacApiIO):
    """Reads JSON at no more than so many requests per second; a remote document cannot send it to local files."""

    def __init__(self, rate: float) -> None:
        super().__init__(timeout=TIMEOUT, max_retries=RETRY)
        self._gap, self._next, self._lock = 1 / rate, 0.0, threading.Lock()

    def request(self, href: str, *args: Any, **kwargs: Any) -> str:
        """One request, asked again if the connection is cut in the middle of the answer."""
        for left in reversed(range(ATTEMPTS)):
            self._pace()
            self.timeout = TIMEOUT
            try:
                return super().request(href, *args, **kwargs)
            except APIError as error:
                final = getattr(error, "status_code", None) is not None or "Max retries exceeded" in str(error)
                if final or not left:
                    raise
        raise AssertionError

    def _pace(self) -> None:
        with self._lock:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._gap


@contextmanager
def _asking(address: str, what: str) -> Iterator[None]:
    """Turn failures of network and files into the one kind of error."""
    try:
        yield
    except (APIError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        status = getattr(error, "status_code", None)
        tried = f" ({ATTEMPTS + 1} attempts)" if urlsplit(address).scheme in OPENED and status is None else ""
        told = " ".join(str(error).split())[:300]
        raise InputError(
            address,
            found=f"no usable answer{tried}: {f'status {status}, ' if status else ''}{told or type(error).__name__}",
            expected=what,
            repair="check the address and the network and try again; an item list saved earlier works without.",
        ) from error


def get_json(address: str, what: str) -> Any:
    """Fetch JSON with patience.

    Raises:
        InputError: there is no usable answer.
    """
    with _asking(address, what):
        return json.loads(_Reader(provider_at(address).rate).request(address))


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
            limit = self.max_cloud
            yield "--max-cloud", "cloudier", lambda item: item["properties"].get("eo:cloud_cover", 0) <= limit
        yield "--collection", "of other sensors or platforms", _ours

    def sift(self, items: Sequence[dict], removed: Counter[tuple[str, str]]) -> list[dict]:
        """The items that pass every filter; how many each removed is added to ``removed``."""
        for option, told, keep in self.filters():
            passed = [item for item in items if keep(item)]
            removed[option, told] += len(items) - len(passed)
            items = passed
        newest = _newest(items)
        removed["--collection", "older versions of the same acquisition"] += len(items) - len(newest)
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
    return str(item["properties"].get("s2:processing_baseline") or "")


def _ours(item: Mapping) -> bool:
    product = provider_of(item).product(item)
    return product is not None and product.fits(item)


def search(
    url: str,
    collections: Sequence[str],
    *,
    bbox: Box | None = None,
    aoi: Path | None = None,
    start: str | dt.date,
    end: str | dt.date,
    max_cloud: float | None = None,
    limit: int | None = None,
    console: Console | None = None,
) -> dict:
    """Search an API or a static catalogue (address or path of its ``catalog.json``).

    Args:
        url: of the API's first page, or of the catalogue.
        collections: ids.
        bbox: west, south, east, north in degrees; or
        aoi: a vector file whose area is meant.
        start, end: first and last day, as dates or ``2018-03-01``.
        max_cloud: percent of cloud that an item may state.
        limit: keep no more than the first so many.
        console: for a line about what was found.

    Returns:
        A STAC ItemCollection in a fixed order, with the search under ``"agrifm"``.

    Raises:
        InputError: nothing is found, a collection or the address is unknown, or the network fails.
    """
    box, shape = _area(bbox, aoi)
    query = Query(tuple(collections), box, _date("--start", start), _date("--end", end), max_cloud, shape)
    reader, removed = _Reader(provider_at(url).rate), Counter()
    with _asking(url, "a STAC API or the catalog.json of a static catalogue"):
        root = json.loads(reader.read_text(url))
        found = _ask(url, root, query, reader) if _is_api(root) else list(_walk(url, root, reader, url))
    if not _is_api(root):
        _known(url, query.collections, {str(item.get("collection")) for item in found})
    items = query.sift(found, removed)[:limit]
    gone = [f"{count} {told} ({option})" for (option, told), count in removed.items() if count]
    if not items:
        raise _nothing(url, len(found), gone, query)
    if console:
        console.print(f"{len(items)} items" + (f"; removed: {', '.join(gone)}" if gone else ""), highlight=False)
    asked = {"collections": list(collections), "start": f"{query.start}", "end": f"{query.end}"}
    member = {"stac": url, "bbox": list(box), "aoi": str(aoi) if aoi else None, **asked, "max_cloud": max_cloud}
    return {"type": "FeatureCollection", "features": items, MEMBER: member}


def _nothing(url: str, found: int, gone: Sequence[str], query: Query) -> InputError:
    where = ", ".join(f"{x:.4f}" for x in query.bbox)
    asked = f"{', '.join(query.collections) or 'any collection'}, {query.start} to {query.end}, box {where}"
    return InputError(
        url,
        found=f"no item for {asked}; "
        + (f"of {found}: {', '.join(gone)}" if found else "the catalogue has none there"),
        expected="at least one item",
        repair=f"widen {gone[-1].split('(')[-1].rstrip(')') if gone else 'the dates or the box'}.",
    )


def _is_api(root: Mapping) -> bool:
    return any(link.get("rel") == "search" for link in root.get("links", ()))


def _ask(url: str, root: Mapping, query: Query, reader: _Reader) -> list[dict]:
    """Items of an API; cloud cover is left to the filters, as not every API can ask for it."""
    import warnings

    from pystac_client import Client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = Client.open(url, stac_io=reader)
        if not client.conforms_to("ITEM_SEARCH"):
            client.add_conforms_to("ITEM_SEARCH")
        methods = {link.get("method", "GET") for link in root["links"] if link.get("rel") == "search"}
        period = f"{query.start}T00:00:00Z/{query.end}T23:59:59Z"
        method = "POST" if "POST" in methods else "GET"
        asked = client.search(
            method=method, collections=list(query.collections), bbox=list(query.bbox), datetime=period, limit=100
        )
        found = [_with_self(item, None) for item in asked.items_as_dicts()]
        if not found:
            _known(url, query.collections, {collection.id for collection in client.get_collections()})
        return found


def _known(url: str, asked: Sequence[str], present: set[str]) -> None:
    for name in asked:
        if name not in present:
            raise InputError(
                url,
                found=f"no collection '{name}'",
                expected="a collection of the catalogue",
                repair=nearest(name, present) if present else "look at the catalogue: it lists no collection.",
            )


def _walk(href: str, document: Mapping, reader: _Reader, root: str) -> Iterator[dict]:
    """Items under a static catalogue, in the order of its links."""
    if document.get("type") == "FeatureCollection":
        yield from (_with_self(item, None) for item in document["features"])
    if document.get("type") == "Feature":
        yield _with_self(document, href)
    for link in document.get("links", ()):
        if link.get("rel") in ("child", "item", "items"):
            address = resolve(link["href"], href, roots(root), f"{href}: link {link['rel']}")
            with _asking(address, f"a STAC document, linked from {href}"):
                below = json.loads(reader.read_text(address))
            yield from _walk(address, below, reader, root)


def _with_self(item: Mapping, href: str | None) -> dict:
    """The item with a link to the place it was read from; where it had another, that stays as its canonical one."""
    if href is None:
        return dict(item)
    place = href if urlsplit(href).scheme in OPENED else str(Path(href).resolve())
    links = [{**link, "rel": "canonical"} if link.get("rel") == "self" else link for link in item.get("links", ())]
    return {**item, "links": [{"rel": "self", "href": place}, *links]}


def _area(bbox: Box | None, aoi: Path | None) -> tuple[Box, Any]:
    """The box in degrees, and the shape if there is more to it."""
    if (bbox is None) == (aoi is None):
        raise InputError(
            "the area of the search",
            found="both --bbox and --aoi" if bbox else "neither --bbox nor --aoi",
            expected="one of them",
            repair="give --bbox 'west,south,east,north' in degrees, or --aoi with a vector file.",
        )
    if aoi is not None:
        shape = _shape(aoi)
        return tuple(shape.bounds), shape
    west, south, east, north = bbox
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise InputError(
            "--bbox",
            found=f"{west:g},{south:g},{east:g},{north:g}",
            expected="west < east within -180 to 180 and south < north within -90 to 90, in degrees",
            repair="give west,south,east,north in degrees; cut an area that crosses 180 degrees in two.",
        )
    return (west, south, east, north), None


def _shape(aoi: Path) -> Any:
    """The area of a vector file in degrees."""
    import geopandas
    from pyogrio.errors import DataSourceError

    try:
        table = geopandas.read_file(aoi)
    except (DataSourceError, OSError) as error:
        raise InputError(
            aoi,
            found=f"a file that does not open: {error}",
            expected="a vector file such as GeoPackage, GeoJSON or Shapefile",
            repair="check the path of --aoi.",
        ) from error
    if table.crs is None or table.geometry.is_empty.all():
        raise InputError(
            aoi,
            found="no CRS" if table.crs is None else "no geometry",
            expected="polygons with a CRS",
            repair="write them into the file, e.g. with QGIS or 'ogr2ogr -a_srs'.",
        )
    return table.geometry.to_crs("EPSG:4326").union_all()


def _flat(bbox: Sequence[float]) -> Sequence[float]:
    """A box without heights."""
    half = len(bbox) // 2
    return [*bbox[:2], *bbox[half : half + 2]]


def _date(option: str, value: str | dt.date) -> dt.date:
    try:
        return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)
    except ValueError as error:
        raise InputError(
            option, found=repr(value), expected="a day such as 2018-03-01", repair="write year-month-day."
        ) from error
