"""Lists of STAC items: written whole, and read as layers of a scene without any network.

Specification: STAC 1.0 and 1.1, ItemCollection (stacspec.org).
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from agrifm.errors import InputError
from agrifm.io import write_whole
from agrifm.scenes.providers import MissingBand, Product, Provider, provider_of, scaling
from agrifm.scenes.quality import Quality
from agrifm.scenes.raster import FileBand
from agrifm.scenes.scene import Frame, Layer, Units
from agrifm.sensors import SENSORS

MEMBER = "agrifm"  # of the item list, beside the items: how they were searched for
OPENED = ("http", "https", "s3", "gs")


def save(items: Mapping, path: Path, **saved: Any) -> None:
    """Write an ItemCollection whole; ``saved`` joins the record of the search under ``"agrifm"``."""
    document = {**items, MEMBER: {**items.get(MEMBER, {}), **saved}}
    write_whole(path, json.dumps(document, indent=1, default=str))


def frames_of(path: Path, *, skip_incomplete: bool = False) -> tuple[list[Layer], dict]:
    """Layers of an item list and the record of its search; nothing is fetched.

    Args:
        path: of an ItemCollection, written by ``save`` or by another tool.
        skip_incomplete: leave out items that lack a band; what was left out then stands under ``"skipped"``.

    Raises:
        InputError: it is no item list, or an item lacks a band, is of no known sensor or points where it must not.
    """
    document = _item_list(path)
    record = {**document.get(MEMBER, {}), "skipped": []}
    allowed = roots(str(path), str(record.get("stac") or path))
    frames: dict[str, list[Frame]] = {}
    for item in sorted((checked(item, path) for item in document["features"]), key=order):
        provider = provider_of(item)
        product = _product(item, provider)
        try:
            frame = _frame(item, product, _files(item, path, allowed, provider))
        except MissingBand as error:
            if not skip_incomplete:
                raise
            record["skipped"].append(f"{error.where}: {error.found}")
            continue
        frames.setdefault(product.sensor.name, []).append(frame)
    return [Layer(SENSORS[name], tuple(frames[name])) for name in SENSORS if name in frames], record


def checked(item: Any, where: object) -> dict:
    """An item with the parts that every item has.

    Raises:
        InputError: it lacks one.
    """
    parts = {"id": str, "properties": dict, "assets": dict}
    lacks = [name for name, kind in parts.items() if not isinstance(item, dict) or not isinstance(item.get(name), kind)]
    if lacks:
        raise InputError(
            where,
            found=f"an item without {' and '.join(lacks)}: {str(item)[:80]}",
            expected="STAC items",
            repair="mend the item, or delete it from the list.",
        )
    return {**item, "links": item.get("links") or []}


def order(item: Mapping) -> tuple[str, str, str]:
    """Sorts items by time, collection and name."""
    return f"{_moment(item)}", str(item.get("collection")), str(item.get("id"))


def day_of(item: Mapping) -> dt.date:
    """The day of an item; of a composite, the first.

    Raises:
        InputError: it states none.
    """
    try:
        return dt.date.fromisoformat(str(_moment(item))[:10])
    except ValueError as error:
        raise InputError(
            f"item {item.get('id')}",
            found=f"datetime {_moment(item)!r}",
            expected="a date such as 2018-03-01T10:56:21Z in 'datetime' or 'start_datetime'",
            repair="mend the item, or delete it from the list.",
        ) from error


def _moment(item: Mapping) -> str | None:
    return item["properties"].get("datetime") or item["properties"].get("start_datetime")


def roots(*places: str) -> tuple[Path, ...]:
    """Folders of local catalogues and item lists, inside which their files must lie."""
    return tuple(Path(place).resolve().parent for place in places if not urlsplit(place).scheme)


def resolve(href: str, base: str, allowed: Sequence[Path], where: str) -> str:
    """The address that ``href`` means in a document at ``base``: http, https, s3, gs or an absolute path.

    Raises:
        InputError: another scheme, a path of GDAL's virtual file systems, or a local file outside ``allowed``.
    """
    scheme = urlsplit(href).scheme
    if scheme in OPENED and "/vsi" not in href:
        return href
    if scheme or "/vsi" in href:
        raise InputError(
            where,
            found=href,
            expected=f"a path, or an address that begins with {', '.join(f'{name}://' for name in OPENED)}",
            repair="mend the item, or delete it from the list.",
        )
    parts = urlsplit(base)
    if parts.scheme in ("http", "https"):
        return urljoin(base, href)
    if parts.scheme in OPENED:
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(parts.path), href))
        return urlunsplit(parts._replace(path=joined, query="", fragment=""))
    path = (Path(base).parent / href).resolve()
    if not any(path.is_relative_to(folder) for folder in allowed):
        raise InputError(
            where,
            found=f"{href}, which is {path}",
            expected=f"a file inside {' or '.join(map(str, allowed)) or 'the folder of the catalogue'}",
            repair="move the files beside the item list, or write the list beside the files.",
        )
    return str(path)


def _item_list(path: Path) -> dict:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = "no items"
    except (OSError, ValueError) as error:
        document, found = None, f"a file that does not open: {error}"
    if not isinstance(document, dict) or not document.get("features"):
        raise InputError(
            path,
            found=found,
            expected="a STAC ItemCollection (a GeoJSON FeatureCollection of items)",
            repair="write one with 'agrifm scene search'.",
        )
    return document


def _product(item: Mapping, provider: Provider) -> Product:
    product = provider.product(item)
    if product is not None and product.fits(item):
        return product
    platform = item["properties"].get("platform")
    raise InputError(
        f"item {item.get('id')}",
        found=f"collection {item.get('collection')!r}, platform {platform!r}",
        expected="surface reflectance of Sentinel-2 (Level 2A), Landsat 8 or 9 (Collection 2 Level 2, HLS) or MOD09A1",
        repair="delete it from the list, or search in another collection.",
    )


@dataclass(frozen=True)
class Files:
    """Where the files of an item lie.

    Args:
        where: list and item, for people.
        base: address or path that relative ones start from.
        allowed: folders of local files.
        provider: whose files they are.
    """

    where: str
    base: str
    allowed: tuple[Path, ...]
    provider: Provider

    def band(self, asset: Mapping, index: int, nodata: float | None = None) -> FileBand:
        """A band of one of the files."""
        href = resolve(str(asset.get("href")), self.base, self.allowed, self.where)
        return FileBand(self.provider.address(href), index, nodata)


def _files(item: Mapping, path: Path, allowed: tuple[Path, ...], provider: Provider) -> Files:
    own = next((str(link.get("href")) for link in item["links"] if link.get("rel") == "self"), None)
    here, where = str(path.resolve()), f"{path}: item {item['id']}"
    return Files(where, here if own is None else resolve(own, here, allowed, where), allowed, provider)


def _frame(item: Mapping, product: Product, files: Files) -> Frame:
    places, mask = product.match(item), product.mask(item)
    bands = {}
    for band, (asset, index) in places.items():
        nodata = scaling(asset, index)[2]
        bands[band] = files.band(asset, index, product.nodata if nodata is None else nodata)
    quality = None if mask is None else Quality(files.band(mask[0], 1), mask[1])
    return Frame(str(item["id"]), day_of(item), bands, quality, _units(item, files.provider, product, places))


def _units(item: Mapping, provider: Provider, product: Product, places: Mapping[str, tuple[Mapping, int]]) -> Units:
    stated = {scaling(asset, index)[:2] for asset, index in places.values()}
    if len(stated) > 1:
        raise InputError(
            f"item {item.get('id')}",
            found=f"several scales and offsets among its bands: {sorted(map(str, stated))}",
            expected="one for all bands",
            repair="mend the item's raster:bands, or delete it from the list.",
        )
    return provider.units(item, product, stated.pop())
