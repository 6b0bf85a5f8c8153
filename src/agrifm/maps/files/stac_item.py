"""STAC item of a map or of embeddings: footprint, time of the images, and the meaning of the numbers."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.warp import transform
from shapely import Polygon, box, intersection
from shapely.affinity import translate
from shapely.geometry.polygon import orient

from agrifm.maps.files.cog import MapProduct
from agrifm.maps.files.legend import NODATA, Legend
from agrifm.rasters.grid import pixel_size

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
ZARR = "application/vnd.zarr"
# Extensions of STAC with the versions that are written.
PROJECTION, RASTER, CLASSIFICATION = "projection/v2.0.0", "raster/v2.0.0", "classification/v2.0.0"
EXTENSIONS = (PROJECTION, RASTER, CLASSIFICATION)
CORNERS = 8  # points along each side of the footprint: sides of a projected grid are curved in longitude and latitude


def stac_item(
    target: Path,
    grid: GeoBox,
    products: Sequence[MapProduct],
    interval: tuple[dt.date, dt.date],
    properties: Mapping[str, Any],
    *,
    extensions: Sequence[str] = EXTENSIONS,
    assets: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Create the STAC 1.1 item of a product whose files are beside it; every href is relative.

    Args:
        target: Main file; its stem becomes the id of the item.
        grid: Grid of the product.
        products: Written rasters, including the main file.
        interval: First and last day of the images.
        properties: Further properties, which replace those with the same key.
        extensions: Names and versions of the extensions that are used.
        assets: Further assets; None stands for those of a map of classes, its style and its attribute table.

    Source: STAC 1.1.0; extensions projection 2.0, raster 2.0, classification 2.0.
    """
    geometry, bbox = footprint(grid)
    rasters = {product.key: _asset(target, grid, product) for product in products}
    more = _assets_of_classes(target) if assets is None else assets
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": schemas(extensions),
        "id": target.stem,
        "geometry": geometry,
        "bbox": bbox,
        "properties": _properties(grid, interval) | dict(properties),
        "links": [],
        "assets": {**rasters, **more},
    }


def schemas(extensions: Sequence[str]) -> list[str]:
    """Addresses of the schemas of some extensions."""
    return [f"https://stac-extensions.github.io/{name}/schema.json" for name in extensions]


def _assets_of_classes(target: Path) -> dict[str, Any]:
    """Style and attribute table of a map of classes."""
    assets: dict[str, Any] = {}
    assets["style"] = {
        "type": "application/xml",
        "href": f"./{target.stem}.qml",
        "title": "QGIS style",
        "roles": ["style"],
    }
    assets["attribute_table"] = {
        "type": "application/xml",
        "href": f"./{target.name}.aux.xml",
        "title": "GDAL raster attribute table",
        "roles": ["metadata"],
    }
    return assets


def _properties(grid: GeoBox, interval: tuple[dt.date, dt.date]) -> dict[str, Any]:
    code = None if grid.crs is None else grid.crs.to_epsg()
    place = {"proj:code": None if code is None else f"EPSG:{code}"}
    if code is None and grid.crs is not None:
        place["proj:wkt2"] = grid.crs.to_wkt()
    return {
        "datetime": None,
        "start_datetime": f"{interval[0]}T00:00:00Z",
        "end_datetime": f"{interval[1]}T23:59:59Z",
        **place,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.affine)[:6],
        "proj:bbox": list(grid.extent.boundingbox),
    }


def _asset(target: Path, grid: GeoBox, product: MapProduct) -> dict[str, Any]:
    asset: dict[str, Any] = {
        "href": f"./{product.path(target).name}",
        "type": ZARR if target.suffix.lower() == ".zarr" else COG,
        "title": product.key,
        "description": product.meaning,
        "roles": ["data"],
        "data_type": product.dtype,
        "raster:sampling": "area",
    }
    if grid.crs is not None and grid.crs.projected:
        asset["raster:spatial_resolution"] = pixel_size(grid)[0]  # in meters, as the extension says
    if product.nodata is not None:
        # JSON has no NaN; STAC writes it as text.
        asset["nodata"] = "nan" if isnan(product.nodata) else product.nodata
    if product.scale != 1:
        asset |= {"raster:scale": product.scale, "raster:offset": 0}
    bands: list[dict[str, Any]] = [{"name": name} for name in product.bands]
    for band, scale, offset in zip(bands, product.scales, product.offsets, strict=False):
        band |= {"raster:scale": scale, "raster:offset": offset}
    asset["bands"] = bands
    if product.legend is not None:
        asset["classification:classes"] = classes(product.legend)
    return asset


def classes(legend: Legend) -> list[dict[str, Any]]:
    """Values of ``classification:classes``: identifiers, titles, and no data."""
    entries: list[dict[str, Any]] = []
    taken = {"", "nodata"}
    for value, (label, color) in enumerate(zip(legend.labels, legend.colors, strict=True)):
        short = _short(label)
        while short in taken:
            short = f"{short or 'class'}_{value}"
        taken.add(short)
        entries.append({"value": value, "name": short, "title": label, "color_hint": color[1:].upper()})
    return [*entries, {"value": NODATA, "name": "nodata", "title": "no data", "nodata": True}]


def _short(label: str) -> str:
    """Reduce a name to letters, digits, ``-`` and ``_``, as the extension requires."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub(r"[^0-9A-Za-z_-]+", "_", plain).strip("_")


def footprint(grid: GeoBox) -> tuple[dict[str, Any], list[float]]:
    """Geometry and bounding box in longitude and latitude, cut in two at the 180th meridian (RFC 7946)."""
    longitudes, latitudes = _outline(grid)
    outline = Polygon(np.c_[longitudes, latitudes])
    if longitudes.max() <= 180:
        return {"type": "Polygon", "coordinates": [_ring(outline)]}, list(outline.bounds)
    before = intersection(outline, box(-180, -90, 180, 90))
    after = translate(intersection(outline, box(180, -90, 540, 90)), -360)
    # West of the meridian begins, east of it ends the bounding box, so that its first longitude is the larger one.
    west, south, _, north = before.bounds
    _, south_after, east, north_after = after.bounds
    bounds = [west, min(south, south_after), east, max(north, north_after)]
    return {"type": "MultiPolygon", "coordinates": [[_ring(before)], [_ring(after)]]}, bounds


def _outline(grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes along the edge of a grid, to a centimeter; the westernmost is within -180 to 180."""
    steps = np.arange(CORNERS) / CORNERS
    ones = np.ones(CORNERS)
    zeros = np.zeros(CORNERS)
    columns = np.concatenate([steps, ones, 1 - steps, zeros]) * grid.shape[1]
    rows = np.concatenate([zeros, steps, ones, 1 - steps]) * grid.shape[0]
    a, b, c, d, e, f = list(grid.affine)[:6]
    x = a * columns + b * rows + c
    y = d * columns + e * rows + f
    longitudes, latitudes = transform(str(grid.crs), "EPSG:4326", x, y)
    longitudes = np.unwrap(longitudes, period=360)  # no jump where the edge crosses 180 degrees
    longitudes -= 360 * np.floor((longitudes.min() + 180) / 360)
    return np.round(longitudes, 7), np.round(latitudes, 7)


def _ring(polygon: Any) -> list[list[float]]:
    """The outer ring, counterclockwise."""
    return [list(point) for point in orient(polygon).exterior.coords]
