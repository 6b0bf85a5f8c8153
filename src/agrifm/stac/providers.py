"""Differences between providers of the same product, in one table.

Sources: the catalogs' own pages. That Earth Search leaves an offset of -0.1 in ``raster:bands`` of items whose
numbers no longer carry it is reported in its issues 66 and 71 (github.com/Element84/earth-search).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from agrifm.errors import InputError
from agrifm.network.tokens import SIGNED
from agrifm.scenes import units
from agrifm.scenes.units import Units, common_units
from agrifm.sensors import LANDSAT, MODIS, S2, Sensor

PICTURES = {"visual", "overview", "thumbnail"}  # roles of assets that hold no reflectance
LARGEST = 1e300  # larger whole numbers may not fit into a float


class MissingBand(InputError):
    """An item without one of its sensor's bands."""


@dataclass(frozen=True)
class AssetBand:
    """A band of the file of an asset.

    Args:
        asset: Asset of an item.
        index: Number of the band in its file, from 1.
    """

    asset: Mapping
    index: int = 1

    def number(self, name: str) -> float | None:
        """Return the ``scale``, ``offset`` or ``nodata`` of the band; None if the asset does not state it."""
        bands = self.asset.get("raster:bands") or self.asset.get("bands") or ()
        band = bands[self.index - 1] if self.index <= len(bands) else {}
        # STAC 1.1 moved these values from 'raster:bands' to 'bands', or to the asset if all of its bands share them.
        for holder, key in ((band, name), (band, f"raster:{name}"), (self.asset, f"raster:{name}"), (self.asset, name)):
            if holder.get(key) is not None:
                return _as_float(holder[key])
        return None


def _as_float(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if isinstance(value, int) and abs(value) >= LARGEST:
        return math.inf
    return float(value)


@dataclass(frozen=True)
class Product:
    """A collection as one provider serves it.

    Args:
        sensor: Sensor whose bands it holds.
        assets: Band id by asset key.
        quality: Name of the quality rule by asset key; the first asset that an item has is used.
        units: Units of the stored numbers; None for Sentinel-2, whose baseline decides.
        nodata: Value of missing pixels where the item does not state one.
        platforms: Platforms that belong to the sensor; empty for all.
    """

    sensor: Sensor
    assets: Mapping[str, str]
    quality: Mapping[str, str]
    units: Units | None = None
    nodata: float | None = None
    platforms: tuple[str, ...] = ()

    def fits(self, item: Mapping) -> bool:
        """Whether the item comes from one of the sensor's platforms, or states none."""
        platform = str(item.get("properties", {}).get("platform") or "").lower()
        return not self.platforms or not platform or platform in self.platforms

    def match(self, item: Mapping) -> dict[str, AssetBand]:
        """Find the bands of the sensor: by asset key first, then by the names that assets state for their bands.

        Raises:
            MissingBand: If the item does not have one of them.
        """
        assets = item.get("assets", {})
        by_key: dict[str, AssetBand] = {}
        for key, band_id in self.assets.items():
            if key in assets:
                by_key.setdefault(band_id, AssetBand(assets[key]))
        by_name: dict[str, AssetBand] = {}
        for asset in assets.values():
            by_name.update(_named_bands(asset))
        bands = {}
        for band in self.sensor.bands:
            asset_band = by_key.get(band.id) or by_name.get(band.id) or by_name.get(band.common_name)
            if asset_band is None:
                raise MissingBand(
                    f"item {item.get('id')}",
                    found=f"no asset for band {band.id} ({band.common_name}) of {self.sensor.name} "
                    f"among {', '.join(sorted(assets)) or 'none'}",
                    expected="every band of the sensor",
                    repair="delete the item from the list, or leave it out with --skip-unreadable.",
                )
            bands[band.id] = asset_band
        return bands

    def mask(self, item: Mapping) -> tuple[Mapping, str] | None:
        """Return the quality asset of an item and the name of its rule; None if it has no such asset."""
        assets = item.get("assets", {})
        for key, rule in self.quality.items():
            if key in assets:
                return assets[key], rule
        return None


def _named_bands(asset: Mapping) -> Iterator[tuple[str, AssetBand]]:
    """Yield the bands of an asset by each name and common name that it states for them; pictures have none."""
    if PICTURES.intersection(asset.get("roles") or ()):
        return
    for index, band in enumerate(asset.get("eo:bands") or asset.get("bands") or (), start=1):
        for key in ("name", "common_name", "eo:common_name"):
            if isinstance(band.get(key), str):
                yield band[key], AssetBand(asset, index)


@dataclass(frozen=True)
class Provider:
    """A catalog and its peculiarities.

    Args:
        name: Name for people.
        hosts: Hosts of its catalog and files; a bucket counts as a host.
        products: Products by a regular expression that the whole collection id matches.
        baseline: Properties that may hold the processing baseline of Sentinel-2.
        applied: Properties that state that the provider removed the offset; the item's own scaling is then ignored.
        rate: Requests per second while searching.
        tokens: Whether files are read with a token.
    """

    name: str
    hosts: tuple[str, ...]
    products: Mapping[str, Product]
    baseline: tuple[str, ...] = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
    applied: tuple[str, ...] = ()
    rate: float = 5.0
    tokens: bool = False

    def product(self, item: Mapping) -> Product | None:
        """Find the product of an item's collection; None if it holds none of the known sensors."""
        name = str(item.get("collection") or "")
        product = _product_named(name, self.products)
        if product is not None:
            return product
        if not name:
            properties = item.get("properties", {})
            name = " ".join(str(properties.get(key) or "") for key in ("constellation", "platform", "instruments"))
        return _product_named(name, GENERIC.products)

    def units(self, item: Mapping, product: Product, bands: Sequence[AssetBand]) -> Units:
        """Return the units of an item with these bands.

        Raises:
            InputError: If the bands state different scales or offsets, or values that cannot be used.
        """
        properties = item.get("properties", {})
        is_applied = product.units is None and any(properties.get(name) is True for name in self.applied)
        usual = product.units or units.sentinel2(self._baseline(item), applied=is_applied)
        usual = Units(usual.scale, usual.offset, f"{usual.source} ({self.name})")
        stated = common_units(
            [self._stated_units(item, band, usual) for band in bands],
            f"item {item.get('id')}",
            repair="correct the item's raster:bands, or delete it from the list.",
        )
        return usual if is_applied else stated

    def _stated_units(self, item: Mapping, band: AssetBand, usual: Units) -> Units:
        """Return the units that an asset states for a band; the usual ones where it states none.

        Raises:
            InputError: If the scale is not positive, or one of them is not finite.
        """
        scale = band.number("scale")
        offset = band.number("offset")
        if scale is None and offset is None:
            return usual
        scale_valid = scale is None or (math.isfinite(scale) and scale > 0)
        offset_valid = offset is None or math.isfinite(offset)
        if not (scale_valid and offset_valid):
            raise InputError(
                f"item {item.get('id')}",
                found=f"scale {scale} and offset {offset}",
                expected="a positive scale and a finite offset",
                repair="correct the item, or delete it from the list.",
            )
        source = f"scale and offset in the item{self._offset_statement(item)} ({self.name})"
        return Units(
            scale=usual.scale if scale is None else scale,
            offset=usual.offset if offset is None else offset,
            source=source,
        )

    def _offset_statement(self, item: Mapping) -> str:
        """Quote the item's statement on the offset, so that a check of the pixels can contradict it."""
        properties = item.get("properties", {})
        for name in self.applied:
            if properties.get(name) is not None:
                return f", which says {name}: {json.dumps(properties[name])[:20]}"
        return ""

    def _baseline(self, item: Mapping) -> str | None:
        properties = item.get("properties", {})
        for key in self.baseline:
            if properties.get(key):
                return str(properties[key])
        match = re.search(r"_N(\d{4})_", f"{item.get('id')} {properties.get('s2:product_uri')}")
        return match[1] if match else None

    def address(self, href: str) -> str:
        """Return the address of a file as a scene stores it: addresses that need a token are marked."""
        host = urlsplit(href).hostname or ""
        if self.tokens and host.endswith(".blob.core.windows.net"):
            return SIGNED + href
        return href


def _product_named(name: str, products: Mapping[str, Product]) -> Product | None:
    for pattern, product in products.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return product
    return None


def _size_in_name(band_id: str) -> str:
    size = "10m" if band_id in ("B02", "B03", "B04", "B08") else "20m"
    return f"{band_id}_{size}"


# Band ids by the keys of assets.
_S2_IDS = {band_id: band_id for band_id in S2.band_ids}
_S2_SIZED = {_size_in_name(band_id): band_id for band_id in S2.band_ids}
_S2_COMMON = dict(
    zip(
        ("blue", "green", "red", "nir", "rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22"),
        S2.band_ids,
        strict=True,
    )
)
_LANDSAT_IDS = {band_id: band_id for band_id in LANDSAT.band_ids}
_LANDSAT_COMMON = {band.common_name: band.id for band in LANDSAT.bands}
_MODIS_IDS = {band_id: band_id for band_id in MODIS.band_ids}

_SCL = {"SCL": "SCL", "scl": "SCL", "SCL_20m": "SCL"}
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_OLI = ("landsat-8", "landsat-9", "landsat_8", "landsat_9")

S2_COMMON = Product(S2, _S2_COMMON, _SCL, nodata=0)
S2_BY_ID = Product(S2, _S2_IDS, _SCL, nodata=0)
S2_SIZED = Product(S2, _S2_SIZED, _SCL, nodata=0)
S2_ANY = Product(S2, {**_S2_IDS, **_S2_SIZED, **_S2_COMMON}, _SCL, nodata=0)
HLS_S30 = Product(S2, _S2_IDS, {"Fmask": "Fmask"}, units.HLS, -9999)
HLS_L30 = Product(LANDSAT, _LANDSAT_IDS, {"Fmask": "Fmask"}, units.HLS, -9999)
LANDSAT_C2 = Product(LANDSAT, _LANDSAT_COMMON, {"qa_pixel": "QA_PIXEL"}, units.LANDSAT_C2, 0, _OLI)
MOD09A1 = Product(MODIS, _MODIS_IDS, {"sur_refl_state_500m": "sur_refl_state_500m"}, units.MODIS, -28672)

PLANETARY_COMPUTER = Provider(
    name="Planetary Computer",
    hosts=("planetarycomputer.microsoft.com",),
    products={
        "sentinel-2-l2a": S2_BY_ID,
        "landsat-c2-l2": LANDSAT_C2,
        "hls2-s30": HLS_S30,
        "hls2-l30": HLS_L30,
        "modis-09A1-061": MOD09A1,
    },
    rate=10,
    tokens=True,
)
EARTH_SEARCH = Provider(
    name="Earth Search",
    hosts=("earth-search.aws.element84.com", "sentinel-cogs", "e84-earth-search-sentinel-data"),
    products={r"sentinel-2-(pre-)?(c1-)?l2a": S2_COMMON, "landsat-c2-l2": LANDSAT_C2},
    applied=_APPLIED,
    rate=10,
)
CDSE = Provider(
    name="Copernicus Data Space",
    hosts=("stac.dataspace.copernicus.eu", "catalogue.dataspace.copernicus.eu", "eodata"),
    products={"sentinel-2-l2a": S2_SIZED},
    baseline=("processing:version", "s2:processing_baseline"),
    rate=4,
)
LP_DAAC = Provider(
    name="LP DAAC",
    hosts=("cmr.earthdata.nasa.gov", "data.lpdaac.earthdatacloud.nasa.gov", "lp-prod-protected"),
    products={r"HLSS30[_.]v?2\.0": HLS_S30, r"HLSL30[_.]v?2\.0": HLS_L30},
    rate=4,
)
GENERIC = Provider(
    name="unknown provider",
    hosts=(),
    products={
        r".*hls.?s30.*|.*hls2-s30.*": HLS_S30,
        r".*hls.?l30.*|.*hls2-l30.*": HLS_L30,
        r"(?!.*l1c).*(sentinel-?_?2|s2).*": S2_ANY,
        r"(?!.*l1).*landsat.*": LANDSAT_C2,
        r".*m[oy]d09a1.*|.*09a1.*": MOD09A1,
    },
    applied=_APPLIED,
)
PROVIDERS = (PLANETARY_COMPUTER, EARTH_SEARCH, CDSE, LP_DAAC)


def provider_of(item: Mapping) -> Provider:
    """Find the provider of an item by the hosts of its links and files."""
    hosts: set[str] = set()
    for link in item.get("links", ()):
        hosts.update(_hosts(str(link.get("href"))))
    for asset in item.get("assets", {}).values():
        hosts.update(_hosts(str(asset.get("href"))))
    return _by_hosts(hosts)


def provider_at(url: str) -> Provider:
    """Find the provider at an address."""
    return _by_hosts(set(_hosts(url)))


def _by_hosts(hosts: set[str]) -> Provider:
    for provider in PROVIDERS:
        if hosts.intersection(provider.hosts):
            return provider
    return GENERIC


def _hosts(href: str) -> Iterator[str]:
    try:
        host = urlsplit(href).hostname or ""
    except ValueError:  # reported when the file is opened
        return
    yield host
    yield host.split(".s3.")[0]  # the bucket
