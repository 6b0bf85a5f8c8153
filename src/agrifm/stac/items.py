"""Lists of STAC items: written whole, and read as layers of a scene without any network.

Specification: STAC 1.0 and 1.1, ItemCollection (stacspec.org).
"""

from __future__ import annotations

import datetime as dt
import json
import math
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
from agrifm.scenes.units import Units
from agrifm.sensors import SENSORS
from agrifm.stac.providers import MissingBand, Product, Provider, provider_of, scaling

MEMBER = "agrifm"  # of the item list, beside the items: how they were searched for


def save(items: Mapping, path: Path, **saved: Any) -> None:
    """Write an ItemCollection whole; ``saved`` joins the record of the search under ``"agrifm"``."""
    document = {**items, MEMBER: {**items.get(MEMBER, {}), **saved}}
    write_whole(path, json.dumps(document, indent=1, default=str))


def frames_of(path: Path, *, skip_incomplete: bool = False, folders: Sequence[Path] = ()) -> tuple[list[Layer], dict]:
    """Layers of an item list and the record of its search; nothing is fetched.

    Local files must lie in the folder of the list. What the list says of itself does not widen that; the user may.

    Args:
        path: Path of an ItemCollection, written by ``save`` or by another tool.
        folders: Other folders in which its files may lie.
        skip_incomplete: Leave out items that lack a band; what was left out then stands under ``"skipped"``.

    Raises:
        InputError: If it is no item list, or an item lacks a band, is of no known sensor or points where it must not.
    """
    document = _item_list(path)
    record = {**_record(document, path), "skipped": []}
    allowed = (*roots(str(path)), *(Path(folder).resolve() for folder in folders))
    stated = record.get("stac")
    catalog = Path(stated).parent if isinstance(stated, str) and Path(stated).is_absolute() else None
    frames: dict[str, list[Frame]] = {}
    for item in sorted((checked(item, path) for item in document["features"]), key=order):
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
    return [Layer(SENSORS[name], tuple(frames[name])) for name in SENSORS if name in frames], record


def checked(item: Any, where: object) -> dict:
    """An item whose parts are all of the types that STAC gives them; assets and links that are null are left out.

    Raises:
        InputError: If a part is missing, or of another type.
    """
    if not isinstance(item, dict):
        raise _odd(where, f"an item without id and properties and assets: {str(item)[:80]}")
    parts = {"id": str, "properties": dict, "assets": dict}
    missing = [name for name, kind in parts.items() if not isinstance(item.get(name), kind)]
    if missing:
        raise _odd(where, f"an item without {' and '.join(missing)}: {str(item)[:80]}")
    place = f"{where}: item {item['id']}"
    wrong = next(_wrong_types(item), None)
    if wrong is not None:
        raise _odd(place, wrong)
    assets = {key: asset for key, asset in item["assets"].items() if asset and asset.get("href")}
    return {**item, "assets": assets, "links": links_of(item, place)}


def _odd(where: object, found: str) -> InputError:
    return InputError(where, found=found, expected="STAC items", repair="correct the item, or delete it from the list.")


def _wrong_types(item: Mapping) -> Iterator[str]:
    """What is of another type than STAC gives it."""
    optional: dict[str, tuple[Mapping, type | tuple[type, ...]]] = {
        "collection": (item, str),
        "geometry": (item, dict),
        "bbox": (item, list),
        **dict.fromkeys(("datetime", "start_datetime", "platform", "constellation"), (item["properties"], str)),
        "eo:cloud_cover": (item["properties"], (int, float)),
    }
    for name, (holder, kind) in optional.items():
        value = holder.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            yield f"{name} {str(value)[:80]!r}"
    box = item.get("bbox")
    if isinstance(box, list) and not (len(box) in (4, 6) and all(map(_is_number, box))):
        yield f"bbox {str(box)[:80]}"
    for key, asset in item["assets"].items():
        if asset is not None and not isinstance(asset, dict):
            yield f"asset {key}: {str(asset)[:80]!r}"
        elif asset:
            yield from (f"asset {key}: {found}" for found in _wrong_in_asset(asset))


def _wrong_in_asset(asset: Mapping) -> Iterator[str]:
    if not isinstance(asset.get("href"), str | None):
        yield f"href {str(asset['href'])[:80]!r}"
    for name in ("roles", "eo:bands", "bands", "raster:bands"):
        kind = str if name == "roles" else dict
        several = asset.get(name)
        if several is not None and not (isinstance(several, list) and all(isinstance(one, kind) for one in several)):
            yield f"{name} {str(several)[:80]!r}"


def _is_number(value: object) -> bool:
    """Whether it is a number that computations can use."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def links_of(document: Mapping, where: object) -> list[dict]:
    """The links of a STAC document; those that are null, or lead nowhere, are left out.

    Raises:
        InputError: If they are no links.
    """
    links = document.get("links") or []
    if not isinstance(links, list):
        raise _odd(where, f"links {str(links)[:80]!r}")
    for link in links:
        if link is not None and not isinstance(link, dict):
            raise _odd(where, f"the link {str(link)[:80]!r}")
        if link and not (isinstance(link.get("href"), str | None) and isinstance(link.get("rel"), str | None)):
            raise _odd(where, f"the link {str(link)[:80]}")
    return [link for link in links if link and link.get("href")]


def order(item: Mapping) -> tuple[str, str, str]:
    """Sorts items by time, collection and name."""
    return f"{_moment(item)}", str(item.get("collection")), str(item.get("id"))


def day_of(item: Mapping) -> dt.date:
    """The day of an item; of a composite, the first.

    Raises:
        InputError: If it states none.
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
    """Folders of local catalogs and item lists, inside which their files must lie."""
    return tuple(Path(place).resolve().parent for place in places if not is_address(place))


def resolve(href: str, base: str, allowed: Sequence[Path], where: str, catalog: Path | None = None) -> str:
    """The address that ``href`` means in a document at ``base``: http, https, s3, gs or an absolute path.

    Args:
        href: As it stands in the document.
        base: Address or path of the document.
        allowed: Folders in which local files may lie.
        where: It stands, for the error.
        catalog: Folder to propose to the user if the file lies outside the others.

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
        raise _odd(where, f"{href}: {error}") from error
    if not any(path.is_relative_to(folder) for folder in allowed):
        sensible = catalog is not None and len(catalog.parts) > 2 and path.is_relative_to(catalog)
        raise InputError(
            where,
            found=f"{href}, which is {path}",
            expected=f"a file inside {' or '.join(map(str, allowed)) or 'the folder of the catalog'}",
            repair="move the files beside the list, or, if you trust the list, allow their folder: --set "
            + setting(catalog if catalog is not None and sensible else path.parent),
        )
    return str(path)


def setting(folder: Path) -> str:
    """The setting that allows a folder of files, quoted for the shell and for YAML where that is needed."""
    plain = re.fullmatch(r"[\w./-]+", str(folder))
    return f"folders={folder}" if plain else shlex.quote(f"folders={json.dumps(str(folder), ensure_ascii=False)}")


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
        document, found = {}, f"a file that cannot be read: {error}"
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
    """Where the files of an item lie.

    Args:
        where: List and item, for people.
        base: Address or path that relative ones start from.
        allowed: Folders of local files.
        provider: Whose files they are.
        catalog: Folder in which the list says that they were found; it allows nothing.
    """

    where: str
    base: str
    allowed: tuple[Path, ...]
    provider: Provider
    catalog: Path | None

    def band(self, asset: Mapping, index: int, nodata: float | None = None) -> FileBand:
        """A band of one of the files."""
        href = resolve(asset["href"], self.base, self.allowed, self.where, self.catalog)
        return FileBand(self.provider.address(href), index, nodata, "file" if is_address(href) else "listed")


def self_link(item: Mapping) -> str | None:
    """Where an item says that it lies."""
    return next((link["href"] for link in item["links"] if link.get("rel") == "self"), None)


def _files(item: Mapping, path: Path, allowed: tuple[Path, ...], provider: Provider, catalog: Path | None) -> Files:
    own = self_link(item)
    here, where = str(path.resolve()), f"{path}: item {item['id']}"
    base = here if own is None else resolve(own, here, allowed, where, catalog)
    return Files(where, base, allowed, provider, catalog)


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
            repair="correct the item's raster:bands, or delete it from the list.",
        )
    scale, offset = stated.pop()
    if not all(value is None or math.isfinite(value) for value in (scale, offset)) or (scale or 1) <= 0:
        raise _odd(f"item {item.get('id')}", f"scale {scale} and offset {offset}")
    return provider.units(item, product, (scale, offset))
