"""Lists of STAC items: written whole, and read as layers of a scene without any network.

Specification: STAC 1.0 and 1.1, ItemCollection (stacspec.org).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agrifm.addresses import is_address
from agrifm.errors import InputError
from agrifm.io import write_whole
from agrifm.network.json_text import json_object, read_file, text_of
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.quality import Quality
from agrifm.scenes.scene import Frame, Layer
from agrifm.sensors import SENSORS
from agrifm.stac.hrefs import resolve, roots, self_link
from agrifm.stac.providers import AssetBand, MissingBand, Product, Provider, provider_of
from agrifm.stac.validation import checked, day_of, order

MEMBER = "agrifm"  # member of an item list, beside the items: the record of the search


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
