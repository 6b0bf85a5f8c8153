"""Tiles to Cloud-Optimized GeoTIFF, with a few tiles in memory and the same bytes every time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.shutil import copy  # ty: ignore[import-not-found]

from agrifm.errors import InputError
from agrifm.io import sync
from agrifm.maps.files.legend import NODATA, Legend
from agrifm.tasks.calibration import Calibration
from agrifm.tasks.fields import LAYERS

Strip = tuple[int, int, np.ndarray]  # row and column of the upper left pixel, and the pixels (n, h, w) or (h, w)
Tiles = Callable[[str], Iterable[Strip]]  # the pieces of a product, made anew at every call

CACHE = 256 * 2**20  # bytes; GDAL would take a twentieth of the machine's memory
SET_SIZE = "number of possible classes"  # first band of sets
TRAILER = 4  # bytes that follow each block of a Cloud-Optimized GeoTIFF; the lower right one comes last
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class MapProduct:
    """One file of a map: what its bands are and how they are stored.

    Args:
        key: what it is called in tiles and file names.
        bands: description of each.
        meaning: one sentence for people.
        nodata: value of pixels that have none.
        scale: stored number times this is the value.
        overviews: how GDAL makes the smaller copies; no-data pixels never count.
        legend: of a map of classes.
        dtype: of the pixels.
    """

    key: str
    bands: tuple[str, ...]
    meaning: str
    nodata: float | None = NODATA
    scale: float = 1.0
    overviews: str = "average"
    legend: Legend | None = None
    dtype: str = "uint8"

    def path(self, target: Path) -> Path:
        """Where it lies when the map of classes is ``target``."""
        return target if self.legend else target.with_name(f"{target.stem}_{self.key}{target.suffix}")

    def bytes(self, grid: GeoBox) -> int:
        """Most that writing it can take: whole blocks of pixels twice, their overviews twice, and headers."""
        block = block_size(grid)
        rows, columns = (-(-side // block) * block for side in grid.shape)
        return int(2.8 * rows * columns * len(self.bands) * np.dtype(self.dtype).itemsize) + 2**16


def block_size(grid: GeoBox) -> int:
    """Side of a compressed block in pixels; small maps have smaller ones, as the last are filled up."""
    return 512 if max(grid.shape) > 512 else 256


def class_map(legend: Legend) -> MapProduct:
    """The map of classes itself."""
    return MapProduct("classes", ("class",), "Class of each pixel.", overviews="mode", legend=legend)


def products(legend: Legend, sensors: Sequence[str], calibration: Calibration | None = None) -> tuple[MapProduct, ...]:
    """Everything that a map can consist of; shares are stored in percent."""
    kind, coverage = ("Calibrated probability", calibration.coverage) if calibration else ("Probability", 0)
    share = "in percent; times the band's scale, 0.01, it is 0 to 1."
    sets = f"Possible classes, the true one among them for {coverage:.0%} of the pixels: how many, then 1 for each."
    return (
        class_map(legend),
        MapProduct("probabilities", legend.labels, f"{kind} of each class, {share}", scale=0.01),
        MapProduct("confidence", ("confidence",), f"{kind} of the chosen class, {share}", scale=0.01),
        MapProduct("entropy", ("entropy",), f"Entropy as a share of the largest possible, {share}", scale=0.01),
        MapProduct("fields", LAYERS, f"Probability of fields and boundaries, and distance inside, {share}", scale=0.01),
        # 0 is an answer here, not a gap: nobody saw the pixel.
        MapProduct("observations", tuple(sensors), "Clear dates of each sensor.", nodata=None, overviews="nearest"),
        MapProduct("sets", (SET_SIZE, *legend.labels), sets, overviews="mode"),
    )


def write_cog(path: Path, grid: GeoBox, product: MapProduct, pieces: Iterable[Strip]) -> None:
    """Write one product; the file appears whole. What no piece covers is no data.

    The bytes depend on the pixels alone, not on the pieces' sizes or order.

    Args:
        path: of the file.
        grid: of the map.
        product: what the bands are.
        pieces: each ``(row, column, pixels)`` with pixels ``(n, h, w)``, or ``(h, w)`` of a single band.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    write_files(path, grid, {path: product}, lambda _: pieces, {})


def write_files(
    target: Path, grid: GeoBox, rasters: Mapping[Path, MapProduct], tiles: Tiles, texts: Mapping[Path, str]
) -> None:
    """Write rasters and texts into one folder; all are finished before any appears there, the first one last.

    Args:
        target: the main file; a folder ``.<name>.part`` stands beside it meanwhile.
        grid: of the rasters.
        rasters: products by path.
        tiles: gives the pieces of a product by its key; called once for each raster.
        texts: contents by path.

    Raises:
        InputError: the disk is full or the folder cannot be written; nothing has changed then.
    """
    folder = target.with_name(f".{target.name}.part")
    found = [*rasters, *texts]
    try:
        with writing_files(target, folder, rasters.values(), grid):
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            folder.mkdir(parents=True)
            build_files(folder, grid, rasters, tiles, texts)
            for path in reversed(found):
                sync(folder / path.name)
                (folder / path.name).replace(path)
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_files(
    folder: Path, grid: GeoBox, rasters: Mapping[Path, MapProduct], tiles: Tiles, texts: Mapping[Path, str]
) -> None:
    """Write rasters and texts, under the names of their paths, into a folder; arguments as of ``write_files``."""
    for path, product in rasters.items():
        _build(folder / path.name, grid, product, tiles(product.key))
    for path, text in texts.items():
        (folder / path.name).write_text(text, encoding="utf-8")


@contextmanager
def writing_files(
    target: Path, folder: Path, products: Iterable[MapProduct], grid: GeoBox, kept: str = ""
) -> Generator[None]:
    """Turn what goes wrong while files are written in a folder into one sentence.

    Args:
        target: the main file.
        folder: where it is written.
        products: what is written.
        grid: of the products.
        kept: what the reader need not fear for, for the error's last sentence.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    needed = sum(product.bytes(grid) for product in products)
    try:
        yield
    except (OSError, RasterioError) as error:
        if not _of_writing(error, folder):
            raise
        raise _unwritable(target, error, needed, kept) from error


def _of_writing(error: Exception, folder: Path) -> bool:
    """Whether an error is not of reading the tiles: it names no file, one of the folder's, or a folder above."""
    name = getattr(error, "filename", None)
    return name is None or Path(name).parent in (folder, folder.parent) or folder.is_relative_to(name)


def _build(path: Path, grid: GeoBox, product: MapProduct, pieces: Iterable[Strip]) -> None:
    plain = path.with_name(path.name + ".tiles")
    with rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_NUM_THREADS="1"):
        _write_plain(plain, grid, product, pieces)
        _copy(plain, path, product, block_size(grid))
    plain.unlink()


def _write_plain(path: Path, grid: GeoBox, product: MapProduct, pieces: Iterable[Strip]) -> None:
    """Uncompressed, so that a block can be written in several parts and still lies where it lay."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.shape[0],
        width=grid.shape[1],
        count=len(product.bands),
        dtype=product.dtype,
        crs=str(grid.crs),
        transform=grid.affine,
        nodata=product.nodata,
        tiled=True,
        blockxsize=block_size(grid),
        blockysize=block_size(grid),
        photometric="minisblack",
        bigtiff="if_safer",
    ) as file:
        _describe(file, product)
        for row, column, pixels in pieces:
            height, width = pixels.shape[-2:]
            window = (row, row + height), (column, column + width)
            file.write(pixels.reshape(-1, height, width), window=window)


def _copy(plain: Path, path: Path, product: MapProduct, block: int) -> None:
    try:
        copy(
            plain,
            path,
            driver="COG",
            compress="DEFLATE",
            blocksize=block,
            overview_resampling=product.overviews.upper(),
            bigtiff="IF_SAFER",
            num_threads=1,
        )
    except Exception as error:  # its kinds are private to rasterio
        raise RasterioIOError(str(error)) from error
    _check_end(path, block)


def _check_end(path: Path, block: int) -> None:
    """Refuse a file that lost its last bytes: GDAL tells of a failed write, but not of one put off until it closes."""
    with rasterio.open(path) as file:
        last = f"{(file.width - 1) // block}_{(file.height - 1) // block}"
        start, size = (int(file.get_tag_item(f"BLOCK_{key}_{last}", "TIFF", bidx=1)) for key in ("OFFSET", "SIZE"))
    if path.stat().st_size != start + size + TRAILER:
        raise RasterioIOError("the last bytes of the file were not written")


def _describe(file: rasterio.io.DatasetWriter, product: MapProduct) -> None:
    for i, text in enumerate(product.bands, 1):
        file.set_band_description(i, text)
    if product.meaning:
        file.update_tags(TIFFTAG_IMAGEDESCRIPTION=product.meaning)
    if product.scale != 1:
        file.scales = (product.scale,) * len(product.bands)
    if product.legend is None:
        file.colorinterp = (ColorInterp.gray, *[ColorInterp.undefined] * (len(product.bands) - 1))
        return
    file.write_colormap(1, product.legend.colormap)
    file.update_tags(1, **product.legend.tags)


def _unwritable(target: Path, error: Exception, needed: int, kept: str) -> InputError:
    parent = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    full = getattr(error, "errno", None) in FULL or free < needed
    return InputError(
        target,
        found=f"{'a full disk' if full else 'a file that cannot be written'}: {error.__cause__ or error}",
        expected=f"at most {_size(needed)} of room in {parent} while files are put together; {_size(free)} are free",
        repair=f"free that much{'' if full else ' (is there a quota?), or see to the rights of that folder'}, "
        f"then run the same command again{kept}.",
    )


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
