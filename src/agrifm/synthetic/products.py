"""Files in which providers deliver observations: bands and a quality layer of each date, under their own names.

Sources of the codes: Sentinel-2 Products Specification (ESA), HLS User Guide v2.0, MOD09 User's Guide v1.4.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import rasterio
from rasterio.transform import Affine

from agrifm.data.chips import Georeference
from agrifm.sensors import Sensor
from agrifm.synthetic.observation import nodata_value

CLEAR, SHADOW, THIN, THICK, NOTHING = range(5)  # state of a pixel; thin and thick are clouds

Coverage = Callable[[tuple[int, int, int]], np.ndarray]


@dataclass(frozen=True)
class Raster:
    """A raster of one band that becomes a file.

    Args:
        name: Path inside the folder of the scene.
        values: Pixels ``(h, w)``.
        place: Georeference of the pixels.
        nodata: Value of pixels without data.
    """

    name: str
    values: np.ndarray
    place: Georeference
    nodata: float

    def profile(self, block: int = 256, level: int = 6) -> dict:
        """Options of rasterio, for compressed square blocks."""
        height, width = self.values.shape
        return {
            "driver": "GTiff",
            "count": 1,
            "height": height,
            "width": width,
            "dtype": self.values.dtype,
            "crs": self.place.crs,
            "transform": Affine(*self.place.transform),
            "nodata": self.nodata,
            "tiled": True,
            "blockxsize": block,
            "blockysize": block,
            "compress": "deflate",
            "predictor": 2,
            "zlevel": level,
        }

    def write(self, root: Path, colors: Mapping[int, tuple[int, ...]] | None = None) -> None:
        """Write the raster below a folder, with a color table if one is given."""
        path = root / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", **self.profile()) as file:
            file.write(self.values, 1)
            if colors is not None:
                file.write_colormap(1, dict(colors))


def _full_coverage(shape: tuple[int, int, int]) -> np.ndarray:
    return np.ones(shape, bool)


def _one_empty_date(shape: tuple[int, int, int]) -> np.ndarray:
    """Nothing on the middle one of three or more dates ``(t, h, w)``: the swath ended before the scene."""
    covered = np.ones(shape, bool)
    if shape[0] > 2:
        covered[shape[0] // 2] = False
    return covered


def _one_half_date(shape: tuple[int, int, int]) -> np.ndarray:
    """Only the west on one of three or more dates ``(t, h, w)``, up to the slanted border of the swath."""
    covered = np.ones(shape, bool)
    frames, height, width = shape
    if frames > 2:
        y, x = np.mgrid[:height, :width] + 0.5
        covered[frames // 3] = x + 0.2 * (y - height / 2) < width / 2
    return covered


@dataclass(frozen=True)
class ProductFormat:
    """How the observations of one sensor are stored.

    Args:
        path: Path of a band, with fields ``day``, ``band`` and ``meters``.
        quality: Name of the quality layer.
        codes: Codes of the quality layer for clear, shadow, thin cloud, thick cloud and no pixel.
        dtype: Type of the quality layer.
        halved: Bands stored with pixels of twice the size; the quality layer may be one.
        coverage: Pixels that the sensor covers on each date ``(t, h, w)``.
    """

    path: str
    quality: str
    codes: tuple[int, int, int, int, int]
    dtype: str = "uint8"
    halved: frozenset[str] = frozenset()
    coverage: Coverage = _full_coverage


PRODUCTS: Mapping[str, ProductFormat] = MappingProxyType(
    {
        "S2": ProductFormat(
            "S2/{day:%Y%m%d}_{band}_{meters}m.tif",
            quality="SCL",
            codes=(4, 3, 8, 9, 0),
            halved=frozenset({"B05", "B06", "B07", "B8A", "B11", "B12", "SCL"}),
            coverage=_one_empty_date,
        ),
        # Bits 6 and 7 hold the aerosol level, 1 is low; bit 1 is cloud, bit 3 shadow.
        "Landsat": ProductFormat(
            "Landsat/HLS.L30.T31UDR.{day:%Y%j}T104500.v2.0.{band}.tif",
            quality="Fmask",
            codes=(64, 72, 66, 66, 255),
            coverage=_one_half_date,
        ),
        # Bits 0 and 1 hold the state, 1 is cloudy; bit 2 is shadow.
        "Modis": ProductFormat(
            "Modis/MOD09A1.A{day:%Y%j}.h18v03.061.{band}.tif",
            quality="sur_refl_state_500m",
            codes=(0, 4, 1, 1, 65535),
            dtype="uint16",
        ),
    }
)


@dataclass(frozen=True)
class SensorSeries:
    """Observations of a part of the land by one sensor.

    Args:
        sensor: The sensor.
        days: Days of the acquisitions ``(t)``.
        images: Stored numbers ``(t, c, h, w)``.
        state: CLEAR, SHADOW, THIN, THICK or NOTHING ``(t, h, w)``.
        place: Georeference of the sensor's pixels.
    """

    sensor: Sensor
    days: tuple[dt.date, ...]
    images: np.ndarray
    state: np.ndarray
    place: Georeference

    def where(self, covered: np.ndarray) -> SensorSeries:
        """The same series without data where ``covered (t, h, w)`` is false."""
        images = np.where(covered[:, None], self.images, nodata_value(self.sensor)).astype(self.images.dtype)
        state = np.where(covered, self.state, NOTHING).astype(np.uint8)
        return replace(self, images=images, state=state)

    def rasters(self) -> Iterator[Raster]:
        """One raster for each date and band, and the quality layer of each date."""
        product = PRODUCTS[self.sensor.name]
        codes = np.array(product.codes, product.dtype)
        nodata = nodata_value(self.sensor)
        for day, image, state in zip(self.days, self.images, self.state, strict=True):
            for band, values in zip(self.sensor.band_ids, image, strict=True):
                if band in product.halved:
                    values = _mean_of_quads(values, nodata)
                yield self._raster(day, band, values, nodata)
            if product.quality in product.halved:
                state = _majority_of_quads(state)
            yield self._raster(day, product.quality, codes[state], product.codes[NOTHING])

    def _raster(self, day: dt.date, band: str, values: np.ndarray, nodata: float) -> Raster:
        factor = self.images.shape[-1] // values.shape[-1]
        width, row_rotation, west, column_rotation, height, north = self.place.transform
        width *= factor
        height *= factor
        place = Georeference(self.place.crs, (width, row_rotation, west, column_rotation, height, north))
        path = PRODUCTS[self.sensor.name].path
        name = path.format(day=day, band=band, meters=round(width))
        return Raster(name, values, place, nodata)


def _quads(values: np.ndarray) -> np.ndarray:
    """Values ``(h, w)`` as blocks of two by two ``(h / 2, w / 2, 4)``."""
    corners = [values[::2, ::2], values[::2, 1::2], values[1::2, ::2], values[1::2, 1::2]]
    return np.stack(corners, axis=-1)


def _mean_of_quads(values: np.ndarray, nodata: float) -> np.ndarray:
    """Means of two by two pixels, without those that have no data."""
    quads = _quads(values)
    valid = quads != nodata
    count = valid.sum(-1)
    total = np.where(valid, quads, 0).sum(-1)
    mean = np.rint(total / np.maximum(count, 1))
    return np.where(count > 0, mean, nodata).astype(values.dtype)


def _majority_of_quads(state: np.ndarray) -> np.ndarray:
    """States of two by two pixels: clear where at most one of them is not."""
    # Clear is the lowest state: the third in ascending order is clear if three of four are.
    return np.sort(_quads(state), -1)[..., 2]
