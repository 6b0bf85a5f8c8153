"""Lists of STAC items: written whole, and read as layers of a scene without any network.

Specification: STAC 1.0 and 1.1, ItemCollection (stacspec.org).
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from agrifm.addresses import is_address, local, normalized
from agrifm.errors import InputError
from agrifm.io import write_whole
from agrifm.network.http import json_object, read_file, text_of
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.quality import Quality
from agrifm.scenes.scene import Frame, Layer
from agrifm.sensors import SENSORS
from agrifm.stac.providers import AssetBand, MissingBand, Product, Provider, provider_of

MEMBER = "agrifm"  # member of an item list, beside the items: the record of the search

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


def save(items: Mapping, path: Path, **saved: Any) -> None:
    """Write an ItemCollection whole; ``saved`` joins the record of the search under ``"agrifm"``."""
    document = {**items, MEMBER: {**items.get(MEMBER, {}), **saved}}
    write_whole(path, json.dumps(document, indent=1, default=str))


def frames_of(path: Path, *, skip_incomplete: bool = False, folders: Sequence[Path] = ()) -> tuple[list[Layer], dict]:
    """Read the layers of an item list and the record of its search; nothing is fetched.

    Local files must lie in the folder of the list. The list itself cannot widen that; the user can.

    Args:
        path: Path of an ItemCollection, written by ``save`` or by another tool.
        skip_incomplete: Leave out items without one of the bands, and list them as ``"skipped"`` in the record.
        folders: Other folders in which its files may lie.

    Raises:
        InputError: If it is no item list, or an item lacks a band, is of no known sensor or leads to other places.
    """
    document = _item_list(path)
    record = {**_record(document, path), "skipped": []}
    allowed = (*roots(str(path)), *(Path(folder).resolve() for folder in folders))
    catalog = _searched_folder(record)
    items = [checked(item, path) for item in document["features"]]
    frames: dict[str, list[Frame]] = {}
    for item in sorted(items, key=order):
        provider = provider_of(item)
        product = _product(item, provider)
        try:
            frame = _frame(item, product, _files(item, path, allowed, provider, catalog))
        except MissingBand as error:
            if not skip_incomplete:
                raise
            record["skipped"].append(f"{error.where}: {error.found}")
            continue
        frames.setdefault(product.sensor.name, []).append(frame)
    layers = [Layer(sensor, tuple(frames[name])) for name, sensor in SENSORS.items() if name in frames]
    return layers, record


def _searched_folder(record: Mapping) -> Path | None:
    """Return the folder of the local catalog that was searched."""
    stated = record.get("stac")
    if isinstance(stated, str) and Path(stated).is_absolute():
        return Path(stated).parent
    return None


def checked(item: Any, where: object) -> dict:
    """Return an item whose parts have the types of the specification, without assets and links that are null.

    Raises:
        InputError: If a part is missing or of another type.
    """
    if not isinstance(item, dict):
        raise _not_stac(where, f"an item without id and properties and assets: {str(item)[:80]}")
    required = {"id": str, "properties": dict, "assets": dict}
    missing = [name for name, kind in required.items() if not isinstance(item.get(name), kind)]
    if missing:
        raise _not_stac(where, f"an item without {' and '.join(missing)}: {str(item)[:80]}")
    place = f"{where}: item {item['id']}"
    first_error = next(_type_errors(item), None)
    if first_error is not None:
        raise _not_stac(place, first_error)
    assets = {key: asset for key, asset in item["assets"].items() if asset and asset.get("href")}
    return {**item, "assets": assets, "links": links_of(item, place)}


def _not_stac(where: object, found: str) -> InputError:
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
        raise _not_stac(where, f"links {str(links)[:80]!r}")
    usable = []
    for link in links:
        if link is not None and not isinstance(link, dict):
            raise _not_stac(where, f"the link {str(link)[:80]!r}")
        if not link:
            continue
        if not (isinstance(link.get("href"), str | None) and isinstance(link.get("rel"), str | None)):
            raise _not_stac(where, f"the link {str(link)[:80]}")
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


def roots(*places: str) -> tuple[Path, ...]:
    """Return the folders of local catalogs and item lists, inside which their files must lie."""
    return tuple(Path(place).resolve().parent for place in places if not is_address(place))


def resolve(href: str, base: str, allowed: Sequence[Path], where: str, catalog: Path | None = None) -> str:
    """Resolve a reference in a document to an address (http, https, s3, gs) or an absolute path.

    Args:
        href: Reference as the document states it.
        base: Address or path of the document.
        allowed: Folders in which local files may lie.
        where: Document or item, for the error.
        catalog: Folder to propose to the user if the file lies outside the allowed ones.

    Raises:
        InputError: If it has another scheme or a prefix of GDAL, or is a local file outside ``allowed``.
    """
    if is_address(href):
        return normalized(href, where)
    href = local(href, where)
    if is_address(base):
        parts = urlsplit(base)
        if parts.scheme in ("http", "https"):
            return normalized(urljoin(base, href), where)
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(parts.path), href))
        return normalized(urlunsplit(parts._replace(path=joined, query="", fragment="")), where)
    try:
        path = (Path(base).parent / href).resolve()
    except (OSError, RuntimeError) as error:  # a loop of symbolic links; a name that is too long
        raise _not_stac(where, f"{href}: {error}") from error
    if not any(path.is_relative_to(folder) for folder in allowed):
        proposed = path.parent
        # Allowing the root or one of its folders would allow almost everything.
        if catalog is not None and len(catalog.parts) > 2 and path.is_relative_to(catalog):
            proposed = catalog
        raise InputError(
            where,
            found=f"{href}, which is {path}",
            expected=f"a file inside {' or '.join(map(str, allowed)) or 'the folder of the catalog'}",
            repair="move the files beside the list, or, if you trust the list, allow their folder: --set "
            + setting(proposed),
        )
    return str(path)


def setting(folder: Path) -> str:
    """Return the setting that allows a folder of files, quoted for the shell and for YAML where that is needed."""
    if re.fullmatch(r"[\w./-]+", str(folder)):
        return f"folders={folder}"
    quoted_path = json.dumps(str(folder), ensure_ascii=False)
    return shlex.quote(f"folders={quoted_path}")


def _record(document: Mapping, path: Path) -> dict:
    record = document.get(MEMBER) or {}
    if not isinstance(record, dict):
        raise InputError(
            f"{path}: {MEMBER}",
            found=f"{str(record)[:80]!r}",
            expected="the record of a search",
            repair="search again, or delete that member.",
        )
    return dict(record)


def _item_list(path: Path) -> dict:
    try:
        document = json_object(text_of(read_file(path)))
        found = "no items"
    except (OSError, ValueError) as error:
        document = {}
        found = f"a file that cannot be read: {error}"
    items = document.get("features")
    if not isinstance(items, list) or not items:
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
    """Location of the files of an item.

    Args:
        where: List and item, for errors.
        base: Address or path from which relative references start.
        allowed: Folders in which local files may lie.
        provider: Provider of the files.
        catalog: Folder of the local catalog that was searched; it is proposed in errors, and allows nothing.
    """

    where: str
    base: str
    allowed: tuple[Path, ...]
    provider: Provider
    catalog: Path | None

    def band(self, asset_band: AssetBand, nodata: float | None = None) -> FileBand:
        """Return a band of one of the files."""
        href = resolve(asset_band.asset["href"], self.base, self.allowed, self.where, self.catalog)
        kind = "file" if is_address(href) else "listed"
        return FileBand(self.provider.address(href), asset_band.index, nodata, kind)


def self_link(item: Mapping) -> str | None:
    """Return the address of an item by its own statement."""
    for link in item["links"]:
        if link.get("rel") == "self":
            return link["href"]
    return None


def _files(item: Mapping, path: Path, allowed: tuple[Path, ...], provider: Provider, catalog: Path | None) -> Files:
    where = f"{path}: item {item['id']}"
    base = str(path.resolve())
    own_address = self_link(item)
    if own_address is not None:
        base = resolve(own_address, base, allowed, where, catalog)
    return Files(where, base, allowed, provider, catalog)


def _frame(item: Mapping, product: Product, files: Files) -> Frame:
    asset_bands = product.match(item)
    bands = {}
    for band_id, asset_band in asset_bands.items():
        nodata = asset_band.number("nodata")
        if nodata is None:
            nodata = product.nodata
        bands[band_id] = files.band(asset_band, nodata)
    quality = None
    mask = product.mask(item)
    if mask is not None:
        asset, rule = mask
        quality = Quality(files.band(AssetBand(asset)), rule)
    units = files.provider.units(item, product, list(asset_bands.values()))
    return Frame(str(item["id"]), day_of(item), bands, quality, units)
