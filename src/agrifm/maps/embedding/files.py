"""Embeddings as files: a Cloud-Optimized GeoTIFF or a Zarr store, with a STAC item beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.xr import xr_coords

from agrifm.maps.embedding.coding import Coding
from agrifm.maps.embedding.job import EmbedJob
from agrifm.maps.files.cog import MapProduct, Strip, Tiles, build_files, writing_files
from agrifm.maps.files.model_item import MLM, model_asset, model_properties
from agrifm.maps.files.stac_item import PROJECTION, RASTER, stac_item
from agrifm.maps.files.writer import item_text
from agrifm.maps.map_scene import interval_of
from agrifm.maps.store import TILES_ARE_KEPT

BLOCK = 128  # side of a block: all bands of a pixel lie in one, so that blocks of maps would be too large
ZARR_LEVEL = 6  # of zlib, which every reader of Zarr knows
MEANING = {
    "int8": "Features of each pixel; stored number times scale plus offset of its band.",
    "float16": "Features of each pixel, rounded to half precision.",
    "float32": "Features of each pixel.",
}


def band_names(count: int) -> tuple[str, ...]:
    """Names of features: ``e000``, ``e001`` and so on."""
    return tuple(f"e{number:03d}" for number in range(count))


def is_zarr(target: Path) -> bool:
    """Whether a target is a Zarr store."""
    return target.suffix.lower() == ".zarr"


def item_path(target: Path) -> Path:
    """Path of the STAC item of embeddings."""
    return target.with_suffix(".json")


def raster_of(target: Path, coding: Coding, features: int) -> MapProduct:
    """Describe the raster of features."""
    # GDAL has no type for half precision before 3.11, so that GeoTIFFs hold such numbers in single precision.
    dtype = "float32" if coding.dtype == "float16" and not is_zarr(target) else coding.dtype
    return MapProduct(
        "embedding",
        band_names(features),
        MEANING[coding.dtype],
        nodata=coding.nodata,
        dtype=dtype,
        scales=() if coding.scale is None else tuple(coding.scale.tolist()),
        offsets=() if coding.offset is None else tuple(coding.offset.tolist()),
        main=True,
        block=BLOCK,
        predictor=True,
    )


def build_embedding(folder: Path, target: Path, job: EmbedJob, tiles: Tiles, sha256: str) -> list[Path]:
    """Write the raster of features and its STAC item from tiles.

    Args:
        folder: Folder to which they are written, under their final names.
        target: Path of the raster.
        job: What was computed.
        tiles: Function that yields the strips of a product by its key.
        sha256: Checksum of the checkpoint.

    Returns:
        The final paths, the raster first.

    Raises:
        InputError: If the disk is full or the folder is not writable.
    """
    assert job.coding is not None
    grid = job.scene.grid
    product = raster_of(target, job.coding, job.channels)
    texts = {item_path(target): item_text(_item(target, job, product, sha256))}
    try:
        with writing_files(target, folder, [product], grid, f"; {TILES_ARE_KEPT}"):
            if is_zarr(target):
                _write_zarr(folder / target.name, job, product, tiles("embedding"))
                build_files(folder, grid, {}, tiles, texts)
            else:
                build_files(folder, grid, {target: product}, tiles, texts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # incomplete files would only take space on a disk that may be full
        raise
    return [target, *texts]


def _item(target: Path, job: EmbedJob, product: MapProduct, sha256: str) -> dict[str, Any]:
    sensors = job.scene.sensors
    return stac_item(
        target,
        job.scene.grid,
        [product],
        interval_of(job.scene),
        model_properties(job.checkpoint, sensors, job.channels),
        extensions=(PROJECTION, RASTER, MLM),
        assets={"model": model_asset(sha256, sensors)},
    )


def _write_zarr(path: Path, job: EmbedJob, product: MapProduct, pieces: Iterable[Strip]) -> None:
    """Write a store of format 2, which GDAL, xarray and every version of zarr read."""
    import dask.array  # slow to import, as are the others
    import numcodecs
    import xarray as xr
    import zarr

    assert job.coding is not None
    y, x = job.scene.grid.dimensions
    height, width = job.scene.grid.shape
    count = len(product.bands)
    chunks = (count, BLOCK, BLOCK)
    # Only the description is written from this array; the pixels follow tile by tile.
    pixels = dask.array.zeros((count, height, width), chunks=chunks, dtype=product.dtype)
    attributes = {"long_name": product.meaning, "grid_mapping": "spatial_ref"}
    coordinates: dict[Any, Any] = dict(xr_coords(job.scene.grid))
    coordinates["band"] = np.array(product.bands)
    if job.coding.scale is not None and job.coding.offset is not None:
        coordinates["scale"] = ("band", job.coding.scale)
        coordinates["offset"] = ("band", job.coding.offset)
    dataset = xr.Dataset({"embedding": (("band", y, x), pixels, attributes)}, coords=coordinates)
    encoding = {
        "chunks": chunks,
        "compressors": (numcodecs.Zlib(ZARR_LEVEL),),
        "_FillValue": np.dtype(product.dtype).type(product.nodata),
    }
    dataset.to_zarr(path, mode="w", compute=False, zarr_format=2, consolidated=True, encoding={"embedding": encoding})
    array = zarr.open_group(path, mode="r+", use_consolidated=False)["embedding"]
    for row, column, part in pieces:
        array[:, row : row + part.shape[-2], column : column + part.shape[-1]] = part  # ty: ignore[invalid-assignment]
