"""STAC: find items in an API or a static catalogue, to be kept as a list.

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
from urllib.parse import urlsplit

from rich.console import Console

from agrifm.errors import InputError, nearest
from agrifm.scenes.fetch import TIMEOUT, Reader, asking
from agrifm.scenes.items import MEMBER, checked, resolve, roots
from agrifm.scenes.providers import provider_at
from agrifm.scenes.query import Box, Query, area, season

PAGE = 100  # items that an API is asked for at a time


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
    box, shape = area(bbox, aoi)
    query = Query(tuple(collections), box, *season(start, end), max_cloud, shape)
    place = url if urlsplit(url).scheme else str(Path(url).resolve())
    reader = Reader(provider_at(place).rate)
    root = reader.document(place, "a STAC API or the catalog.json of a static catalogue")
    removed: Counter[tuple[str, str]] = Counter()
    found = _ask(place, root, query, reader) if _is_api(root) else _walk(place, root, query, reader)
    items = query.sift(found, removed)
    gone = {f"{count} {told} ({option})": option for (option, told), count in removed.items() if count}
    if not items:
        raise _nothing(url, len(found), gone, query)
    if limit is not None and len(items) > limit:
        gone[f"{len(items) - limit} later ones (--limit)"] = "--limit"
        items = items[:limit]
    if console:
        console.print(f"{len(items)} items" + (f"; left out: {', '.join(gone)}" if gone else ""), highlight=False)
    asked = {"collections": list(collections), "start": f"{query.start}", "end": f"{query.end}"}
    member = {"stac": place, "bbox": list(box), "aoi": str(aoi) if aoi else None, **asked, "max_cloud": max_cloud}
    return {"type": "FeatureCollection", "features": items, MEMBER: member}


def _nothing(url: str, found: int, gone: Mapping[str, str], query: Query) -> InputError:
    where = ", ".join(f"{x:.4f}" for x in query.bbox)
    asked = f"{', '.join(query.collections) or 'any collection'}, {query.start} to {query.end}, box {where}"
    last = ["the dates or the box", *gone.values()][-1]
    return InputError(
        url,
        found=f"no item for {asked}; "
        + (f"of {found}: {', '.join(gone)}" if found else "the catalogue has none there"),
        expected="at least one item",
        repair="name another --collection." if last == "--collection" else f"widen {last}.",
    )


def _is_api(root: Mapping) -> bool:
    return any(link.get("rel") == "search" for link in root.get("links", ()))


def _ask(url: str, root: Mapping, query: Query, reader: Reader) -> list[dict]:
    """Items of an API; cloud cover is left to the filters, as not every API can ask for it."""
    from pystac_client import Client

    methods = {link.get("method", "GET") for link in root["links"] if link.get("rel") == "search"}
    with asking(url, "answers of a STAC API"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = Client.open(url, stac_io=reader, timeout=TIMEOUT)
        client.add_conforms_to("ITEM_SEARCH")
        asked = client.search(
            method="POST" if "POST" in methods else "GET",
            collections=list(query.collections) or None,
            bbox=list(query.bbox),
            datetime=f"{query.start}T00:00:00Z/{query.end}T23:59:59Z",
            limit=PAGE,
        )
        found = [_placed(item, url) for item in asked.items_as_dicts()]
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


def _walk(url: str, root: Mapping, query: Query, reader: Reader) -> list[dict]:
    """Items of a static catalogue."""
    walk = _Walk(reader, query.collections, roots(url))
    found = list(walk.items(url, root))
    _known(url, query.collections, walk.collections)
    return found


@dataclass(frozen=True)
class _Walk:
    """A walk down the links of a static catalogue.

    Args:
        reader: of its documents.
        wanted: collections whose items are read; all if empty.
        allowed: folders in which a local catalogue lies.
        collections: those met.
        seen: documents met; links may lead in circles.
    """

    reader: Reader
    wanted: tuple[str, ...]
    allowed: tuple[Path, ...]
    collections: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def items(self, href: str, document: Mapping) -> Iterator[dict]:
        """Items of a document and below it, in the order of its links."""
        self.seen.add(href)
        kind, name = document.get("type"), str(document.get("id"))
        if kind == "Feature":
            yield self._met(_moved(document, href))
            return
        for item in document.get("features", ()) if kind == "FeatureCollection" else ():
            yield self._met(_placed(item, href, self.allowed))
        rels = ("child", "item", "items", "next")
        if kind == "Collection":
            self.collections.add(name)
            rels = rels if not self.wanted or name in self.wanted else ("child",)
        for link in document.get("links", ()):
            if link.get("rel") in rels:
                address = resolve(str(link.get("href")), href, self.allowed, f"{href}: link {link['rel']}")
                if address not in self.seen:
                    below = self.reader.document(address, f"a STAC document, linked from {href}")
                    yield from self.items(address, below)

    def _met(self, item: dict) -> dict:
        if item.get("collection"):
            self.collections.add(str(item["collection"]))
        return item


def _moved(item: Mapping, href: str) -> dict:
    """The item with a link to the place it was read from; where it had another, that stays as its canonical one."""
    found = checked(item, href)
    links = [{**link, "rel": "canonical"} if link.get("rel") == "self" else link for link in found["links"]]
    return {**found, "links": [{"rel": "self", "href": href}, *links]}


def _placed(item: Mapping, href: str, allowed: Sequence[Path] = ()) -> dict:
    """An item out of a list, with a link to its own place, or to that of the list if it states none."""
    found = checked(item, href)
    own = next((str(link.get("href")) for link in found["links"] if link.get("rel") == "self"), None)
    place = href if own is None else resolve(own, href, allowed, f"{href}: item {found['id']}")
    others = [link for link in found["links"] if link.get("rel") != "self"]
    return {**found, "links": [{"rel": "self", "href": place}, *others]}
