"""Whether an item is STAC as far as this package reads it, and its links and date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from agrifm.errors import InputError

# Types of what items may leave out; without it they may still be used.
OPTIONAL_MEMBERS = {"collection": str, "geometry": dict, "bbox": list}
OPTIONAL_PROPERTIES = {
    "datetime": str,
    "start_datetime": str,
    "platform": str,
    "constellation": str,
    "eo:cloud_cover": (int, float),
}
LISTS_OF_ASSETS = {"roles": str, "eo:bands": dict, "bands": dict, "raster:bands": dict}  # types of their entries
LARGEST = 1e300  # numbers beyond it would overflow in computations


def checked(item: Any, where: object) -> dict:
    """Return an item whose parts have the types of the specification, without assets and links that are null.

    Raises:
        InputError: If a part is missing or of another type.
    """
    if not isinstance(item, dict):
        raise not_stac(where, f"an item without id and properties and assets: {str(item)[:80]}")
    required = {"id": str, "properties": dict, "assets": dict}
    missing = [name for name, kind in required.items() if not isinstance(item.get(name), kind)]
    if missing:
        raise not_stac(where, f"an item without {' and '.join(missing)}: {str(item)[:80]}")
    place = f"{where}: item {item['id']}"
    first_error = next(_type_errors(item), None)
    if first_error is not None:
        raise not_stac(place, first_error)
    assets = {key: asset for key, asset in item["assets"].items() if asset and asset.get("href")}
    return {**item, "assets": assets, "links": links_of(item, place)}


def not_stac(where: object, found: str) -> InputError:
    return InputError(where, found=found, expected="STAC items", repair="correct the item, or delete it from the list.")


def _type_errors(item: Mapping) -> Iterator[str]:
    """Yield the parts of an item that have another type than in the specification."""
    for name, kind in OPTIONAL_MEMBERS.items():
        yield from _type_error(name, item.get(name), kind)
    for name, kind in OPTIONAL_PROPERTIES.items():
        yield from _type_error(name, item["properties"].get(name), kind)
    bbox = item.get("bbox")
    if isinstance(bbox, list) and not (len(bbox) in (4, 6) and all(map(_is_number, bbox))):
        yield f"bbox {str(bbox)[:80]}"
    for key, asset in item["assets"].items():
        if asset is not None and not isinstance(asset, dict):
            yield f"asset {key}: {str(asset)[:80]!r}"
        elif asset:
            for error in _asset_errors(asset):
                yield f"asset {key}: {error}"


def _type_error(name: str, value: Any, kind: type | tuple[type, ...]) -> Iterator[str]:
    # In Python, true and false are numbers; in JSON they are not.
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        yield f"{name} {str(value)[:80]!r}"


def _asset_errors(asset: Mapping) -> Iterator[str]:
    if not isinstance(asset.get("href"), str | None):
        yield f"href {str(asset['href'])[:80]!r}"
    for name, kind in LISTS_OF_ASSETS.items():
        entries = asset.get(name)
        if entries is None:
            continue
        if not (isinstance(entries, list) and all(isinstance(entry, kind) for entry in entries)):
            yield f"{name} {str(entries)[:80]!r}"


def _is_number(value: object) -> bool:
    """Whether a value is a number that computations can use."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def links_of(document: Mapping, where: object) -> list[dict]:
    """Return the links of a STAC document, without those that are null or have no address.

    Raises:
        InputError: If one of them is no link.
    """
    links = document.get("links") or []
    if not isinstance(links, list):
        raise not_stac(where, f"links {str(links)[:80]!r}")
    usable = []
    for link in links:
        if link is not None and not isinstance(link, dict):
            raise not_stac(where, f"the link {str(link)[:80]!r}")
        if not link:
            continue
        if not (isinstance(link.get("href"), str | None) and isinstance(link.get("rel"), str | None)):
            raise not_stac(where, f"the link {str(link)[:80]}")
        if link.get("href"):
            usable.append(link)
    return usable


def order(item: Mapping) -> tuple[str, str, str]:
    """Sort key of items: time, collection and name."""
    return f"{_moment(item)}", str(item.get("collection")), str(item.get("id"))


def day_of(item: Mapping) -> dt.date:
    """Return the day of an item, or the first day of a composite.

    Raises:
        InputError: If the item states none.
    """
    try:
        return dt.date.fromisoformat(str(_moment(item))[:10])
    except ValueError as error:
        raise InputError(
            f"item {item.get('id')}",
            found=f"datetime {_moment(item)!r}",
            expected="a date such as 2018-03-01T10:56:21Z in 'datetime' or 'start_datetime'",
            repair="correct the item, or delete it from the list.",
        ) from error


def _moment(item: Mapping) -> str | None:
    return item["properties"].get("datetime") or item["properties"].get("start_datetime")
