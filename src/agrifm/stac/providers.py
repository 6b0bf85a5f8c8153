"""Differences between providers of the same product, in one table.

Sources: the catalogues' own pages. That Earth Search leaves an offset of -0.1 in ``raster:bands`` of items whose
numbers no longer carry it is reported in its issues 66 and 71 (github.com/Element84/earth-search).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from agrifm.errors import InputError
from agrifm.network.tokens import SIGNED
from agrifm.scenes import units
from agrifm.scenes.units import Units
from agrifm.sensors import LANDSAT, MODIS, S2, Sensor


class MissingBand(InputError):
    """An item without one of its sensor's bands."""


@dataclass(frozen=True)
class Product:
    """A collection as one provider serves it.

    Args:
        sensor: Whose bands it holds.
        assets: Band id by asset key.
        quality: Rule by asset key; the first that is there is used.
        units: Units of the stored numbers; None for Sentinel-2, whose baseline decides.
        nodata: What marks a missing pixel where the item does not say.
        platforms: Platforms that belong to the sensor; empty for all.
    """

    sensor: Sensor
    assets: Mapping[str, str]
    quality: Mapping[str, str]
    units: Units | None = None
    nodata: float | None = None
    platforms: tuple[str, ...] = ()

    def fits(self, item: Mapping) -> bool:
        """Whether the item comes from one of the sensor's platforms, as far as it says."""
        platform = str(item.get("properties", {}).get("platform") or "").lower()
        return not self.platforms or not platform or platform in self.platforms

    def match(self, item: Mapping) -> dict[str, tuple[Mapping, int]]:
        """Asset and number of the band in its file, from 1, for each band: by key, then by stated names.

        Raises:
            InputError: If a band is missing.
        """
        assets = item.get("assets", {})
        by_name = {name: place for asset in assets.values() for name, place in _named_bands(asset)}
        by_key = {band: (assets[key], 1) for key, band in reversed([*self.assets.items()]) if key in assets}
        found = {}
        for band in self.sensor.bands:
            place = by_key.get(band.id) or by_name.get(band.id) or by_name.get(band.common_name)
            if place is None:
                raise MissingBand(
                    f"item {item.get('id')}",
                    found=f"no asset for band {band.id} ({band.common_name}) of {self.sensor.name} "
                    f"among {', '.join(sorted(assets)) or 'none'}",
                    expected="every band of the sensor",
                    repair="delete the item from the list, or leave it out with --skip-unreadable.",
                )
            found[band.id] = place
        return found

    def mask(self, item: Mapping) -> tuple[Mapping, str] | None:
        """The quality asset and the name of its rule, if there is one."""
        assets = item.get("assets", {})
        return next(((assets[key], rule) for key, rule in self.quality.items() if key in assets), None)


def _named_bands(asset: Mapping) -> Iterator[tuple[str, tuple[Mapping, int]]]:
    """Names and common names that an asset states for its bands; not those of pictures."""
    if set(asset.get("roles") or ()) & {"visual", "overview", "thumbnail"}:
        return
    for index, band in enumerate(asset.get("eo:bands") or asset.get("bands") or (), start=1):
        for key in ("name", "common_name", "eo:common_name"):
            if isinstance(band.get(key), str):
                yield band[key], (asset, index)


def scaling(asset: Mapping, index: int) -> tuple[float | None, float | None, float | None]:
    """Scale, offset and no-data value that an asset states for one of its bands; None where it does not."""
    bands = asset.get("raster:bands") or asset.get("bands") or ()
    band = bands[index - 1] if index <= len(bands) else {}

    def number(name: str) -> float | None:
        places = ((band, name), (band, f"raster:{name}"), (asset, f"raster:{name}"), (asset, name))
        value = next((place[key] for place, key in places if place.get(key) is not None), None)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return float(value) if abs(value) < 1e300 or not isinstance(value, int) else math.inf

    return number("scale"), number("offset"), number("nodata")


@dataclass(frozen=True)
class Provider:
    """A catalog and its quirks.

    Args:
        name: Name for people.
        hosts: Hosts of its catalog and files; a bucket counts as a host.
        products: Products by a regular expression that the whole collection id matches.
        baseline: Properties that may hold the processing baseline of Sentinel-2.
        applied: Properties that say that the offset was taken out; that then overrides the scaling in the item.
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
        """The product of an item's collection; None if it holds none of the known sensors."""
        collection = str(item.get("collection") or "")
        properties = item.get("properties", {})
        described = " ".join(str(properties.get(key) or "") for key in ("constellation", "platform", "instruments"))
        for name, products in ((collection, self.products), (collection or described, GENERIC.products)):
            for pattern, product in products.items():
                if re.fullmatch(pattern, name, re.IGNORECASE):
                    return product
        return None

    def units(self, item: Mapping, product: Product, scaling: tuple[float | None, float | None]) -> Units:
        """Units of an item whose assets state this scale and offset (None where they do not)."""
        properties = item.get("properties", {})
        scale, offset = scaling
        taken_out = product.units is None and any(properties.get(name) is True for name in self.applied)
        usual = product.units or units.sentinel2(self._baseline(item), applied=taken_out)
        if taken_out or (scale is None and offset is None):
            return Units(usual.scale, usual.offset, f"{usual.source} ({self.name})")
        if scale is None:
            scale = usual.scale
        if offset is None:
            offset = usual.offset
        return Units(scale, offset, f"scale and offset in the item{self._statement(properties)} ({self.name})")

    def _statement(self, properties: Mapping) -> str:
        """The item's statement on the offset, so that a check of the pixels can contradict it."""
        for name in self.applied:
            if properties.get(name) is not None:
                return f", which says {name}: {json.dumps(properties[name])[:20]}"
        return ""

    def _baseline(self, item: Mapping) -> str | None:
        properties = item.get("properties", {})
        for key in self.baseline:
            if properties.get(key):
                return str(properties[key])
        in_name = re.search(r"_N(\d{4})_", f"{item.get('id')} {properties.get('s2:product_uri')}")
        return in_name[1] if in_name else None

    def address(self, href: str) -> str:
        """The address of a file as a scene stores it: addresses that need a token are marked."""
        needed = self.tokens and (urlsplit(href).hostname or "").endswith(".blob.core.windows.net")
        return SIGNED + href if needed else href


def _own(sensor: Sensor, suffix: Mapping[str, str] | None = None) -> dict[str, str]:
    """Assets named by the sensor's band ids, with suffixes if given."""
    return {band + (suffix or {}).get(band, ""): band for band in sensor.band_ids}


_S2_COMMON = dict(
    zip(
        ("blue", "green", "red", "nir", "rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22"),
        S2.band_ids,
        strict=True,
    )
)
_S2_SIZED = _own(S2, {band: "_10m" if band in ("B02", "B03", "B04", "B08") else "_20m" for band in S2.band_ids})
_L30_COMMON = {band.common_name: band.id for band in LANDSAT.bands}
_SCL = {"SCL": "SCL", "scl": "SCL", "SCL_20m": "SCL"}
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_OLI = ("landsat-8", "landsat-9", "landsat_8", "landsat_9")

S2_COMMON = Product(S2, _S2_COMMON, _SCL, nodata=0)
S2_OWN = Product(S2, _own(S2), _SCL, nodata=0)
S2_SIZED = Product(S2, _S2_SIZED, _SCL, nodata=0)
S2_ANY = Product(S2, {**_own(S2), **_S2_SIZED, **_S2_COMMON}, _SCL, nodata=0)
HLS_S30 = Product(S2, _own(S2), {"Fmask": "Fmask"}, units.HLS, -9999)
HLS_L30 = Product(LANDSAT, _own(LANDSAT), {"Fmask": "Fmask"}, units.HLS, -9999)
LANDSAT_C2 = Product(LANDSAT, _L30_COMMON, {"qa_pixel": "QA_PIXEL"}, units.LANDSAT_C2, 0, _OLI)
MOD09A1 = Product(MODIS, _own(MODIS), {"sur_refl_state_500m": "sur_refl_state_500m"}, units.MODIS, -28672)

PLANETARY_COMPUTER = Provider(
    name="Planetary Computer",
    hosts=("planetarycomputer.microsoft.com",),
    products={
        "sentinel-2-l2a": S2_OWN,
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
    return _by_hosts(set(_hosts(item)))


def provider_at(url: str) -> Provider:
    """Find the provider at an address."""
    return _by_hosts(set(_names(url)))


def _by_hosts(hosts: set[str]) -> Provider:
    for provider in PROVIDERS:
        if hosts & set(provider.hosts):
            return provider
    return GENERIC


def _hosts(item: Mapping) -> Iterator[str]:
    for link in item.get("links", ()):
        yield from _names(str(link.get("href")))
    for asset in item.get("assets", {}).values():
        yield from _names(str(asset.get("href")))


def _names(href: str) -> Iterator[str]:
    try:
        host = urlsplit(href).hostname or ""
    except ValueError:  # reported when it is opened
        return
    yield host
    yield host.split(".s3.")[0]  # the bucket
