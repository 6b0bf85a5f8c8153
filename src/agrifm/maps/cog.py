"""Tiles to Cloud-Optimized GeoTIFF, with a few tiles in memory and the same bytes every time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.shutil import copy  # ty: ignore[import-not-found]
from rasterio.windows import Window

from agrifm.errors import InputError
from agrifm.maps.style import NODATA, Legend

Piece = tuple[int, int, np.ndarray]  # row and column of the upper left pixel, and the pixels (n, h, w) or (h, w)
Tiles = Callable[[str], Iterable[Piece]]  # the pieces of a product, made anew at every call

CACHE = 256 * 2**20  # bytes; GDAL would take a twentieth of the machine's memory
LARGE = 512  # from this size on, blocks of 512 pixels, else of 256
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Product:
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
        """Most that writing it can take: the pixels twice, and their overviews."""
        return int(2.4 * grid.shape[0] * grid.shape[1] * len(self.bands) * np.dtype(self.dtype).itemsize)


def class_map(legend: Legend) -> Product:
    """The map of classes itself."""
    return Product("classes", ("class",), "Class of each pixel.", overviews="mode", legend=legend)


def products(legend: Legend, sensors: Sequence[str]) -> tuple[Product, ...]:
    """Everything that a map can consist of; shares are stored in percent."""
    share = "in percent; times the band's scale, 0.01, it is 0 to 1."
    return (
        class_map(legend),
        Product("probabilities", legend.labels, f"Probability of each class, {share}", scale=0.01),
        Product("confidence", ("confidence",), f"Probability of the chosen class, {share}", scale=0.01),
        Product("entropy", ("entropy",), f"Entropy as a share of the largest possible, {share}", scale=0.01),
        # 0 is an answer here, not a gap: nobody saw the pixel.
        Product("observations", tuple(sensors), "Clear dates of each sensor.", nodata=None, overviews="nearest"),
    )


def write_cog(path: Path, grid: GeoBox, product: Product, pieces: Iterable[Piece]) -> None:
    """Write one product; the file appears whole. What no piece covers is no data.

    The bytes depend on the pixels alone, not on the pieces' sizes or order. Pieces whose borders are multiples
    of 512 are written fastest.

    Args:
        path: of the file; a folder ``<name>.part`` stands beside it meanwhile.
        grid: of the map.
        product: what the bands are.
        pieces: each ``(row, column, pixels)`` with pixels ``(n, h, w)``, or ``(h, w)`` of a single band.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    with workplace(path, product.bytes(grid)) as folder:
        build(folder / path.name, grid, product, pieces)
        (folder / path.name).replace(path)


@contextmanager
def workplace(target: Path, needed: int, kept: str = "") -> Generator[Path]:
    """A folder ``<name>.part`` beside the target, gone afterwards, whose failed writing is told as an input error.

    Args:
        target: what will be written.
        needed: most bytes that it can take.
        kept: what the reader need not fear for, for the error's last sentence.
    """
    folder = target.with_name(f"{target.name}.part")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        yield folder
    except (OSError, RasterioError) as error:
        raise _unwritable(target, error, needed, kept) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build(path: Path, grid: GeoBox, product: Product, pieces: Iterable[Piece]) -> None:
    """Write one product into a folder of its own; other files may be left there when it fails."""
    plain = path.with_name(path.name + ".tiles")
    block = 512 if max(grid.shape) > LARGE else 256
    with rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_NUM_THREADS="1"):
        _write_plain(plain, grid, product, pieces, block)
        _copy(plain, path, product, block)
    plain.unlink()


def _write_plain(path: Path, grid: GeoBox, product: Product, pieces: Iterable[Piece], block: int) -> None:
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
        blockxsize=block,
        blockysize=block,
        compress="deflate",
        zlevel=1,
        photometric="minisblack",
        bigtiff="if_safer",
    ) as file:
        _describe(file, product)
        for row, column, pixels in pieces:
            height, width = pixels.shape[-2:]
            window = Window(column, row, width, height)  # ty: ignore[too-many-positional-arguments]
            file.write(pixels.reshape(-1, height, width), window=window)


def _copy(plain: Path, path: Path, product: Product, block: int) -> None:
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


def _describe(file: rasterio.io.DatasetWriter, product: Product) -> None:
    for i, text in enumerate(product.bands, 1):
        file.set_band_description(i, text)
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
    room = f"{needed / 1e6:,.0f} MB" if needed > 1e6 else f"{needed / 1e3:,.0f} kB"
    if getattr(error, "errno", None) in FULL or free < needed:
        return InputError(
            target,
            found=f"a full disk: {free / 1e6:,.0f} MB were left in {parent} ({error.__cause__ or error})",
            expected=f"at most {room} to be free there while the map is put together",
            repair=f"free that much, then run the same command again{kept}.",
        )
    return InputError(
        target,
        found=f"a file that cannot be written: {error.__cause__ or error}",
        expected="a folder in which files can be written",
        repair=f"see to the folder's rights and its disk, then run the same command again{kept}.",
    )
