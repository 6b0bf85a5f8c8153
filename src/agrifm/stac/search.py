"""Search for items in a STAC API or a static catalog, which are saved as a list.

Searching needs the network, reading the list (``items.frames_of``) does not: a saved list gives the same scene again.
Specification: STAC 1.0 and 1.1 (stacspec.org), STAC API item search.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from agrifm.addresses import is_address, normalized
from agrifm.errors import InputError, nearest
from agrifm.network.http import PATIENCE, HttpReader, asking
from agrifm.stac.items import MEMBER, checked, links_of, resolve, roots, self_link
from agrifm.stac.providers import provider_at
from agrifm.stac.query import Box, Query, area, joined, season

PAGE = 100  # items that an API is asked for at a time
MOST_ITEMS = 100_000  # of one search
MOST_DOCUMENTS = 100_000  # of a static catalog that are read
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
    """Search an API or a static catalog (address or path of its ``catalog.json``).

    Args:
        url: Address of the API, or address or path of the catalog.
        collections: Ids.
        bbox: West, south, east, north in degrees; or
        aoi: A vector file whose area is meant.
        start, end: First and last day, as dates or ``2018-03-01``.
        max_cloud: Percent of cloud that an item may state.
        limit: Keep no more than the first so many.
        console: Console for a line about what was found.

    Returns:
        A STAC ItemCollection in a fixed order, with the search under ``"agrifm"``.

    Raises:
        InputError: If nothing is found, a collection or the address is unknown, or the network fails.
    """
    boxes, shape, unused = area(bbox, aoi)
    query = Query(tuple(collections), boxes, *season(start, end), max_cloud, shape)
    if unused and console:
        console.print(f"{aoi}: {unused} points or lines beside the areas are left out", highlight=False)
    place = normalized(url, "--stac", ("http", "https")) if is_address(url) else str(Path(url).resolve())
    reader = HttpReader(provider_at(place).rate, local=not is_address(place))
    root = reader.document(place, "a STAC API or the catalog.json of a static catalog")
    removed: Counter[tuple[str, str]] = Counter()
    if _is_api(root, place):
        answers = _ask(place, root, query, reader)
    else:
        answers = _walk(place, root, query, reader)
    items = query.sift(answers, removed)
    left_out: dict[str, str] = {}  # option by description
    for (option, description), count in removed.items():
        if count:
            left_out[f"{count} {description} ({option})"] = option
    if not items:
        raise _nothing(url, len(answers), left_out, query)
    if limit is not None and len(items) > limit:
        left_out[f"{len(items) - limit} later ones (--limit)"] = "--limit"
        items = items[:limit]
    if console:
        text = f"{len(items)} items"
        if left_out:
            text += f"; left out: {', '.join(left_out)}"
        console.print(text, highlight=False)
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


def _nothing(url: str, count: int, left_out: Mapping[str, str], query: Query) -> InputError:
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


def _is_api(root: Mapping, place: str) -> bool:
    return any(link.get("rel") == "search" for link in links_of(root, place))


def _ask(url: str, root: Mapping, query: Query, reader: HttpReader) -> list[dict]:
    """Items of an API; cloud cover is left to the filters, because not every API can filter by it."""
    from pystac_client import Client

    links = [link for link in links_of(root, url) if link.get("rel") == "search"]
    method = "POST" if any(link.get("method") == "POST" for link in links) else "GET"
    with asking(url, "answers of a STAC API"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = Client.open(url, stac_io=reader, timeout=PATIENCE)
        client.add_conforms_to("ITEM_SEARCH")
    found: dict[tuple, dict] = {}
    for box in query.boxes:
        with asking(url, "answers of a STAC API"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = client.search(
                method=method,
                collections=list(query.collections) or None,
                bbox=list(box),
                datetime=f"{query.start}T00:00:00Z/{query.end}T23:59:59Z",
                limit=PAGE,
            )
            pages = asked.pages_as_dicts()
        _collect(url, pages, found)
    if not found:
        with asking(url, "collections of a STAC API"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            present = {str(collection.id) for collection in client.get_collections()}
        _known(url, query.collections, present)
    return list(found.values())


def _collect(url: str, pages: Iterator[dict], found: dict[tuple, dict]) -> None:
    """Add the items of all pages to those found before.

    Raises:
        InputError: If a page is none, pages repeat, or they never end.
    """
    seen: set[tuple] = set()
    while True:
        with asking(url, "answers of a STAC API"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            page = next(pages, None)
        if page is None:
            return
        items = page.get("features")
        items = [_placed(item, url) for item in (items if isinstance(items, list) else [items])]
        fresh = {(item.get("collection"), item["id"]): item for item in items}
        if not set(fresh) - seen or len(found) > MOST_ITEMS:
            raise _endless(url, "pages that repeat items" if set(fresh) <= seen else f"more than {MOST_ITEMS:,} items")
        seen |= set(fresh)
        found |= fresh


def _endless(url: str, found: str) -> InputError:
    return InputError(
        url,
        found=found,
        expected="an answer that ends",
        repair="narrow the area, the dates or the collections; if that does not help, the catalog has a defect.",
    )


def _known(url: str, asked: Sequence[str], present: set[str]) -> None:
    for name in asked:
        if name not in present:
            raise InputError(
                url,
                found=f"no collection '{name}'",
                expected="a collection of the catalog",
                repair=nearest(name, present) if present else "check the catalog, which lists no collection.",
            )


def _walk(url: str, root: Mapping, query: Query, reader: HttpReader) -> list[dict]:
    """Items of a static catalog."""
    walk = _Walk(reader, query.collections, roots(url))
    found = list(walk.items(url, root))
    _known(url, query.collections, walk.collections)
    return found


@dataclass(frozen=True)
class _Linked:
    """A document to read: its address, the linking document, and the number of links to it."""

    address: str
    origin: str
    depth: int = 0
    pages: int = 0


@dataclass(frozen=True)
class _Walk:
    """A depth-first walk through the links of a static catalog.

    Args:
        reader: Reader of its documents.
        wanted: Collections whose items are read; all if empty.
        allowed: Folders in which a local catalog lies.
        collections: Those met.
        seen: Documents met; links may lead in circles.
    """

    reader: HttpReader
    wanted: tuple[str, ...]
    allowed: tuple[Path, ...]
    collections: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def items(self, href: str, document: Mapping) -> Iterator[dict]:
        """Items of a document and below it, in the order of its links.

        Raises:
            InputError: If a document cannot be read, or the catalog never ends.
        """
        place = _Linked(href, href)
        self.seen.add(href)
        waiting: list[_Linked] = []
        while True:
            yield from self._own(place.address, document)
            # The last entry is read next, which makes the walk depth-first in the order of the links.
            waiting += reversed(list(self._below(place, document)))
            while waiting and waiting[-1].address in self.seen:
                waiting.pop()
            if not waiting:
                return
            place = waiting.pop()
            self.seen.add(place.address)
            if place.depth > DEEPEST or place.pages > MOST_PAGES or len(self.seen) > MOST_DOCUMENTS:
                raise _endless(href, f"a catalog that does not end, with {len(self.seen):,} documents so far")
            document = self.reader.document(place.address, f"a STAC document, linked from {place.origin}")

    def _own(self, href: str, document: Mapping) -> Iterator[dict]:
        """Items in a document."""
        if document.get("type") == "Feature":
            yield self._met(_moved(document, href))
        elif document.get("type") == "FeatureCollection":
            items = document.get("features") or []
            for item in items if isinstance(items, list) else [items]:
                yield self._met(_placed(item, href, self.allowed))

    def _below(self, place: _Linked, document: Mapping) -> Iterator[_Linked]:
        """Documents to which a document links."""
        kind = document.get("type")
        name = str(document.get("id"))
        if kind == "Feature":
            return
        rels = ("child", "item", "items", "next")
        if kind == "Collection":
            self.collections.add(name)
            rels = rels if not self.wanted or name in self.wanted else ("child",)
        for link in links_of(document, place.address):
            rel = link.get("rel")
            if rel in rels:
                where = f"{place.address}: link {rel}"
                address = resolve(link["href"], place.address, self.allowed, where)
                pages = int(rel == "next")
                yield _Linked(address, place.address, place.depth + 1 - pages, place.pages + pages)

    def _met(self, item: dict) -> dict:
        if item.get("collection"):
            self.collections.add(item["collection"])
        return item


def _moved(item: Any, href: str) -> dict:
    """The item with a link to the place it was read from; another own link becomes its canonical one."""
    valid = checked(item, href)
    links = [{"rel": "self", "href": href}]
    for link in valid["links"]:
        links.append({**link, "rel": "canonical"} if link.get("rel") == "self" else link)
    return {**valid, "links": links}


def _placed(item: Any, href: str, allowed: Sequence[Path] = ()) -> dict:
    """The item of a list with a link to its own place, or to that of the list if it states none."""
    valid = checked(item, href)
    own = self_link(valid)
    place = href if own is None else resolve(own, href, allowed, f"{href}: item {valid['id']}")
    others = [link for link in valid["links"] if link.get("rel") != "self"]
    return {**valid, "links": [{"rel": "self", "href": place}, *others]}
