"""Search for items in a STAC API or a static catalog, which are saved as a list.

Searching needs the network. Reading the list (``items.frames_of``) does not: a saved list gives the same scene again.
Specification: STAC 1.0 and 1.1 (stacspec.org), STAC API item search.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from agrifm.addresses import is_address, normalized
from agrifm.errors import InputError, counted, nearest
from agrifm.network.http import PATIENCE, HttpReader, asking
from agrifm.stac.items import MEMBER, checked, links_of, resolve, roots, self_link
from agrifm.stac.providers import provider_at
from agrifm.stac.query import Box, Query, area, joined, season

PAGE = 100  # items of one answer of an API
MOST_ITEMS = 100_000  # items of one search
MOST_DOCUMENTS = 100_000  # documents of a static catalog that are read
DEEPEST = 50  # links from the root of a static catalog down to an item
MOST_PAGES = 1000  # links from page to page


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
    """Search an API or a static catalog.

    Args:
        url: Address of the API, or address or path of the ``catalog.json`` of a static catalog.
        collections: Ids of collections.
        bbox: West, south, east, north in degrees.
        aoi: Vector file of the area of interest, instead of ``bbox``.
        start, end: First and last day, as dates or in the form ``2018-03-01``.
        max_cloud: Highest cloud cover of an item, in percent.
        limit: Highest number of items; the first ones are kept.
        console: Console for a summary in one line.

    Returns:
        A STAC ItemCollection in a fixed order, with the record of the search under ``"agrifm"``.

    Raises:
        InputError: If no item is found, a collection or the address is unknown, or the network fails.
    """
    boxes, shape, unused = area(bbox, aoi)
    query = Query(tuple(collections), boxes, *season(start, end), max_cloud, shape)
    if unused and console:
        console.print(
            f"{aoi}: {counted(unused, 'point or line', 'points or lines')} beside the areas left out", highlight=False
        )
    place = normalized(url, "--stac", ("http", "https")) if is_address(url) else str(Path(url).resolve())
    reader = HttpReader(provider_at(place).rate, local=not is_address(place))
    root = reader.document(place, "a STAC API or the catalog.json of a static catalog")
    search_links = [link for link in links_of(root, place) if link.get("rel") == "search"]
    if search_links:
        candidates = _query_api(place, search_links, query, reader)
    else:
        candidates = _walk_catalog(place, root, query, reader)
    items = _chosen(url, candidates, query, limit, console)
    record = {
        "stac": place,
        "bbox": joined(boxes),
        "aoi": str(aoi) if aoi else None,
        "collections": list(collections),
        "start": f"{query.start}",
        "end": f"{query.end}",
        "max_cloud": max_cloud,
    }
    return {"type": "FeatureCollection", "features": items, MEMBER: record}


def _chosen(
    url: str, candidates: Sequence[dict], query: Query, limit: int | None, console: Console | None
) -> list[dict]:
    """Return the first items that pass all filters, and print how many were left out and why.

    Raises:
        InputError: If none passes.
    """
    removed: Counter[tuple[str, str]] = Counter()
    items = query.sift(candidates, removed)
    left_out: dict[str, str] = {}  # option by description
    for (option, description), count in removed.items():
        if count:
            left_out[f"{count} {description} ({option})"] = option
    if not items:
        raise _no_items(url, len(candidates), left_out, query)
    if limit is not None and len(items) > limit:
        left_out[f"{counted(len(items) - limit, 'later one')} (--limit)"] = "--limit"
        items = items[:limit]
    if console:
        text = counted(len(items), "item")
        if left_out:
            text += f"; left out: {', '.join(left_out)}"
        console.print(text, highlight=False)
    return items


def _no_items(url: str, count: int, left_out: Mapping[str, str], query: Query) -> InputError:
    boxes = []
    for box in query.boxes:
        boxes.append(", ".join(f"{degrees:.4f}" for degrees in box))
    collections = ", ".join(query.collections) or "any collection"
    wanted = f"{collections}, {query.start} to {query.end}, box {' and '.join(boxes)}"
    reason = f"of {count}: {', '.join(left_out)}" if count else "the catalog has none there"
    # The last filter that removed items is the one to relax.
    last = ["the dates or the box", *left_out.values()][-1]
    return InputError(
        url,
        found=f"no item for {wanted}; {reason}",
        expected="at least one item",
        repair="name another --collection." if last == "--collection" else f"widen {last}.",
    )


@contextmanager
def _api_answer(url: str, expected: str = "answers of a STAC API") -> Generator[None]:
    """Turn failures of an API into errors that name it, and silence the warnings of pystac-client."""
    with asking(url, expected), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _query_api(url: str, links: Sequence[Mapping], query: Query, reader: HttpReader) -> list[dict]:
    """Return the items of an API; cloud cover is left to the filters, because not every API can filter by it."""
    from pystac_client import Client  # slow to import

    method = "GET"
    if any(link.get("method") == "POST" for link in links):
        method = "POST"
    with _api_answer(url):
        client = Client.open(url, stac_io=reader, timeout=PATIENCE)
        client.add_conforms_to("ITEM_SEARCH")
    items: dict[tuple, dict] = {}
    for box in query.boxes:
        with _api_answer(url):
            request = client.search(
                method=method,
                collections=list(query.collections) or None,
                bbox=list(box),
                datetime=f"{query.start}T00:00:00Z/{query.end}T23:59:59Z",
                limit=PAGE,
            )
            pages = request.pages_as_dicts()
        _add_pages(url, pages, items)
    if not items:
        with _api_answer(url, "collections of a STAC API"):
            available = {str(collection.id) for collection in client.get_collections()}
        _check_collections(url, query.collections, available)
    return list(items.values())


def _add_pages(url: str, pages: Iterator[dict], items: dict[tuple, dict]) -> None:
    """Add the items of all pages to those of earlier boxes, by collection and id.

    Raises:
        InputError: If a page holds no items, pages repeat, or they never end.
    """
    of_earlier_pages: set[tuple] = set()
    while True:
        with _api_answer(url):
            page = next(pages, None)
        if page is None:
            return
        features = page.get("features")
        if not isinstance(features, list):
            features = [features]  # refused by name as an item
        page_items = {}
        for feature in features:
            item = _placed(feature, url)
            page_items[item.get("collection"), item["id"]] = item
        if of_earlier_pages.issuperset(page_items):
            raise _endless(url, "pages that repeat items")
        if len(items) > MOST_ITEMS:
            raise _endless(url, f"more than {MOST_ITEMS:,} items")
        of_earlier_pages.update(page_items)
        items.update(page_items)


def _endless(url: str, found: str) -> InputError:
    return InputError(
        url,
        found=found,
        expected="an answer that ends",
        repair="narrow the area, the dates or the collections; if that does not help, the catalog has a defect.",
    )


def _check_collections(url: str, requested: Sequence[str], available: set[str]) -> None:
    for name in requested:
        if name not in available:
            raise InputError(
                url,
                found=f"no collection '{name}'",
                expected="a collection of the catalog",
                repair=nearest(name, available) if available else "check the catalog, which lists no collection.",
            )


def _walk_catalog(url: str, root: Mapping, query: Query, reader: HttpReader) -> list[dict]:
    """Return the items of a static catalog."""
    walk = _Walk(reader, query.collections, roots(url))
    items = list(walk.items(url, root))
    _check_collections(url, query.collections, walk.available)
    return items


@dataclass(frozen=True)
class _Linked:
    """A document to read.

    Args:
        address: Address or path of the document.
        origin: Document that links to it.
        depth: Number of links from the root down to it.
        pages: Number of links from page to page on the way.
    """

    address: str
    origin: str
    depth: int = 0
    pages: int = 0


@dataclass(frozen=True)
class _Walk:
    """A depth-first walk through the links of a static catalog.

    Args:
        reader: Reader of its documents.
        requested: Collections whose items are read; all if empty.
        allowed: Folders in which a local catalog lies.
        available: Collections of the documents visited so far.
        visited: Documents visited so far; links may lead in circles.
    """

    reader: HttpReader
    requested: tuple[str, ...]
    allowed: tuple[Path, ...]
    available: set[str] = field(default_factory=set)
    visited: set[str] = field(default_factory=set)

    def items(self, href: str, document: Mapping) -> Iterator[dict]:
        """Yield the items of a document and those below it, in the order of its links.

        Raises:
            InputError: If a document cannot be read, or the catalog never ends.
        """
        place = _Linked(href, href)
        self.visited.add(href)
        waiting: list[_Linked] = []
        while True:
            yield from self._items_in(place.address, document)
            # The last entry is read next, which makes the walk depth-first in the order of the links.
            waiting += reversed(list(self._linked_from(place, document)))
            while waiting and waiting[-1].address in self.visited:
                waiting.pop()
            if not waiting:
                return
            place = waiting.pop()
            self.visited.add(place.address)
            if place.depth > DEEPEST or place.pages > MOST_PAGES or len(self.visited) > MOST_DOCUMENTS:
                raise _endless(href, f"a catalog that does not end, with {len(self.visited):,} documents so far")
            document = self.reader.document(place.address, f"a STAC document, linked from {place.origin}")

    def _items_in(self, href: str, document: Mapping) -> Iterator[dict]:
        """Yield the items that a document holds itself."""
        items = []
        if document.get("type") == "Feature":
            items = [_moved(document, href)]
        elif document.get("type") == "FeatureCollection":
            features = document.get("features") or []
            if not isinstance(features, list):
                features = [features]  # refused by name as an item
            items = [_placed(feature, href, self.allowed) for feature in features]
        for item in items:
            if item.get("collection"):
                self.available.add(item["collection"])
            yield item

    def _linked_from(self, place: _Linked, document: Mapping) -> Iterator[_Linked]:
        """Yield the documents to which a document links."""
        kind = document.get("type")
        if kind == "Feature":
            return
        followed = ("child", "item", "items", "next")
        if kind == "Collection":
            name = str(document.get("id"))
            self.available.add(name)
            if self.requested and name not in self.requested:
                followed = ("child",)
        for link in links_of(document, place.address):
            rel = link.get("rel")
            if rel not in followed:
                continue
            address = resolve(link["href"], place.address, self.allowed, f"{place.address}: link {rel}")
            if rel == "next":
                yield _Linked(address, place.address, place.depth, place.pages + 1)
            else:
                yield _Linked(address, place.address, place.depth + 1, place.pages)


def _moved(item: Any, href: str) -> dict:
    """Return an item with a link to the place from which it was read; its own link becomes the canonical one."""
    valid = checked(item, href)
    links = [{"rel": "self", "href": href}]
    for link in valid["links"]:
        links.append({**link, "rel": "canonical"} if link.get("rel") == "self" else link)
    return {**valid, "links": links}


def _placed(item: Any, href: str, allowed: Sequence[Path] = ()) -> dict:
    """Return an item of a list with an absolute link to itself; without a link of its own, to the list."""
    valid = checked(item, href)
    address = href
    own_address = self_link(valid)
    if own_address is not None:
        address = resolve(own_address, href, allowed, f"{href}: item {valid['id']}")
    other_links = [link for link in valid["links"] if link.get("rel") != "self"]
    return {**valid, "links": [{"rel": "self", "href": address}, *other_links]}
