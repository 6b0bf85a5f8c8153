"""Tiles to Cloud-Optimized GeoTIFF, with few tiles in memory and reproducible bytes."""

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
Tiles = Callable[[str], Iterable[Strip]]  # yields the strips of a product at every call

CACHE = 256 * 2**20  # bytes; GDAL would take a twentieth of the machine's memory
SET_SIZE = "number of possible classes"  # first band of prediction sets
TRAILER = 4  # bytes after each block of a Cloud-Optimized GeoTIFF; the lower right block is the last one
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class MapProduct:
    """One raster of a product: its bands and how they are stored.

    Args:
        key: Name in tiles and file names.
        bands: Description of each band.
        meaning: Description in one sentence.
        nodata: Value of pixels without data.
        scale: Factor from stored numbers to values.
        overviews: Resampling of the overviews, in which pixels without data never count.
        legend: Legend of a map of classes.
        dtype: Data type of the pixels.
        scales: Factor of each band, if the bands differ.
        offsets: Value of the stored number 0 of each band, if the bands differ.
        main: Whether this is the main file of its product, as the map of classes is.
        block: Side of a compressed block in pixels; None takes that of maps.
        predictor: Whether differences of neighboring numbers are compressed, which suits smooth numbers.
    """

    key: str
    bands: tuple[str, ...]
    meaning: str
    nodata: float | None = NODATA
    scale: float = 1.0
    overviews: str = "average"
    legend: Legend | None = None
    dtype: str = "uint8"
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    main: bool = False
    block: int | None = None
    predictor: bool = False

    def path(self, target: Path) -> Path:
        """Path of the file if the main file of the product is ``target``."""
        return target if self.main else target.with_name(f"{target.stem}_{self.key}{target.suffix}")

    def bytes(self, grid: GeoBox) -> int:
        """Upper bound of the space that writing takes: full blocks twice, their overviews twice, and headers."""
        block = self.block_size(grid)
        height, width = grid.shape
        rows = -(-height // block) * block
        columns = -(-width // block) * block
        return int(2.8 * rows * columns * len(self.bands) * np.dtype(self.dtype).itemsize) + 2**16

    def block_size(self, grid: GeoBox) -> int:
        """Side of a compressed block in pixels; smaller for small maps, because the last blocks are padded."""
        if self.block is not None:
            return self.block
        return 512 if max(grid.shape) > 512 else 256


def class_map(legend: Legend) -> MapProduct:
    """The map of classes."""
    return MapProduct("classes", ("class",), "Class of each pixel.", overviews="mode", legend=legend, main=True)


def products(legend: Legend, sensors: Sequence[str], calibration: Calibration | None = None) -> tuple[MapProduct, ...]:
    """All files that a map can consist of; shares are stored in percent."""
    kind = "Calibrated probability" if calibration else "Probability"
    coverage = calibration.coverage if calibration else 0
    share = "in percent; times the band's scale, 0.01, it is 0 to 1."
    sets = f"Possible classes, the true one among them for {coverage:.0%} of the pixels: how many, then 1 for each."
    return (
        class_map(legend),
        MapProduct("probabilities", legend.labels, f"{kind} of each class, {share}", scale=0.01),
        MapProduct("confidence", ("confidence",), f"{kind} of the chosen class, {share}", scale=0.01),
        MapProduct("entropy", ("entropy",), f"Entropy as a share of the largest possible, {share}", scale=0.01),
        MapProduct("fields", LAYERS, f"Probability of fields and boundaries, and distance inside, {share}", scale=0.01),
        # 0 is a valid value here: no sensor saw the pixel.
        MapProduct("observations", tuple(sensors), "Clear dates of each sensor.", nodata=None, overviews="nearest"),
        MapProduct("sets", (SET_SIZE, *legend.labels), sets, overviews="mode"),
    )


def write_cog(path: Path, grid: GeoBox, product: MapProduct, pieces: Iterable[Strip]) -> None:
    """Write one product atomically. Pixels that no strip covers are no data.

    The bytes depend on the pixels alone, not on sizes or order of the strips.

    Args:
        path: Path of the file.
        grid: Grid of the map.
        product: Description of the bands.
        pieces: Strips ``(row, column, pixels)`` with pixels ``(n, h, w)``, or ``(h, w)`` of a single band.

    Raises:
        InputError: If the disk is full or the folder is not writable.
    """
    write_files(path, grid, {path: product}, lambda _: pieces, {})


def write_files(
    target: Path, grid: GeoBox, rasters: Mapping[Path, MapProduct], tiles: Tiles, texts: Mapping[Path, str]
) -> None:
    """Write rasters and texts into one folder; all are complete before any appears there, the first one last.

    Args:
        target: Main file; a folder ``.<name>.part`` exists beside it in the meantime.
        grid: Grid of the rasters.
        rasters: Products by path.
        tiles: Function that yields the strips of a product by its key; called once for each raster.
        texts: Contents by path.

    Raises:
        InputError: If the disk is full or the folder is not writable; nothing has changed then.
    """
    folder = target.with_name(f".{target.name}.part")
    try:
        with writing_files(target, folder, rasters.values(), grid):
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            folder.mkdir(parents=True)
            build_files(folder, grid, rasters, tiles, texts)
            for path in reversed([*rasters, *texts]):
                sync(folder / path.name)
                (folder / path.name).replace(path)
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_files(
    folder: Path, grid: GeoBox, rasters: Mapping[Path, MapProduct], tiles: Tiles, texts: Mapping[Path, str]
) -> None:
    """Write rasters and texts into a folder, under the names of their paths; see ``write_files`` for the arguments."""
    for path, product in rasters.items():
        _build(folder / path.name, grid, product, tiles(product.key))
    for path, text in texts.items():
        (folder / path.name).write_text(text, encoding="utf-8")


@contextmanager
def writing_files(
    target: Path, folder: Path, products: Iterable[MapProduct], grid: GeoBox, kept: str = ""
) -> Generator[None]:
    """Turn errors while files are written to a folder into one refusal.

    Args:
        target: Main file.
        folder: Folder to which it is written.
        products: Written products.
        grid: Grid of the products.
        kept: End of the error's last sentence, which says what is not lost.

    Raises:
        InputError: If the disk is full or the folder is not writable.
    """
    needed = sum(product.bytes(grid) for product in products)
    try:
        yield
    except (OSError, RasterioError) as error:
        if not _of_writing(error, folder):
            raise
        raise _unwritable(target, error, needed, kept) from error


def _of_writing(error: Exception, folder: Path) -> bool:
    """Whether an error comes from writing: it names no file, a file below the folder, or a folder above it."""
    name = getattr(error, "filename", None)
    if name is None or Path(name).parent == folder.parent:
        return True
    return Path(name).is_relative_to(folder) or folder.is_relative_to(name)


def _build(path: Path, grid: GeoBox, product: MapProduct, pieces: Iterable[Strip]) -> None:
    plain = path.with_name(path.name + ".tiles")
    with rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_NUM_THREADS="1"):
        _write_plain(plain, grid, product, pieces)
        _copy(plain, path, product, product.block_size(grid))
    plain.unlink()


def _write_plain(path: Path, grid: GeoBox, product: MapProduct, pieces: Iterable[Strip]) -> None:
    """Write without compression, so that a block can be written in several parts without changing its position."""
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
        blockxsize=product.block_size(grid),
        blockysize=product.block_size(grid),
        photometric="minisblack",
        bigtiff="if_safer",
    ) as file:
        _describe(file, product)
        for row, column, pixels in pieces:
            height, width = pixels.shape[-2:]
            window = (row, row + height), (column, column + width)
            file.write(pixels.reshape(-1, height, width), window=window)


def _copy(plain: Path, path: Path, product: MapProduct, block: int) -> None:
    options = {"predictor": "YES"} if product.predictor else {}
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
            **options,
        )
    except Exception as error:  # private classes of rasterio
        raise RasterioIOError(str(error)) from error
    _check_end(path, block)


def _check_end(path: Path, block: int) -> None:
    """Refuse a file without its last bytes: GDAL reports failed writes, but not those that it delays until closing."""
    with rasterio.open(path) as file:
        last = f"{(file.width - 1) // block}_{(file.height - 1) // block}"
        start = int(file.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", bidx=1))
        size = int(file.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", bidx=1))
    if path.stat().st_size != start + size + TRAILER:
        raise RasterioIOError("the last bytes of the file were not written")


def _describe(file: rasterio.io.DatasetWriter, product: MapProduct) -> None:
    for i, text in enumerate(product.bands, 1):
        file.set_band_description(i, text)
    if product.meaning:
        file.update_tags(TIFFTAG_IMAGEDESCRIPTION=product.meaning)
    if product.scale != 1:
        file.scales = (product.scale,) * len(product.bands)
    if product.scales:
        file.scales = product.scales
        file.offsets = product.offsets
    if product.legend is None:
        file.colorinterp = (ColorInterp.gray, *[ColorInterp.undefined] * (len(product.bands) - 1))
        return
    file.write_colormap(1, product.legend.colormap)
    file.update_tags(1, **product.legend.tags)


def _unwritable(target: Path, error: Exception, needed: int, kept: str) -> InputError:
    parent = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    full = getattr(error, "errno", None) in FULL or free < needed
    problem = "a full disk" if full else "a file that cannot be written"
    repair = "free that much" if full else "free that much (is there a quota?), or check the permissions of that folder"
    return InputError(
        target,
        found=f"{problem}: {error.__cause__ or error}",
        expected=f"at most {_size(needed)} of space in {parent} while files are written; {_size(free)} are free",
        repair=f"{repair}, then run the same command again{kept}.",
    )


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
