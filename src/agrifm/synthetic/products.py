"""What providers make of a picture of the land: bands and a quality layer of each date, under the names they give.

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

CLEAR, SHADOW, THIN, THICK, NOTHING = range(5)  # what a pixel saw; thin and thick are clouds

Seen = Callable[[tuple[int, int, int]], np.ndarray]


@dataclass(frozen=True)
class Raster:
    """A single-band raster that is to become a file.

    Args:
        name: Path inside the scene's folder.
        values: ``(h, w)``.
        place: Where they lie.
        nodata: Stands where there is no pixel.
    """

    name: str
    values: np.ndarray
    place: Georeference
    nodata: float

    def profile(self, block: int = 256, level: int = 6) -> dict:
        """How rasterio writes it: in compressed square blocks."""
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
        """Write it below a folder, with a color table if one is given."""
        path = root / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", **self.profile()) as file:
            file.write(self.values, 1)
            if colors is not None:
                file.write_colormap(1, dict(colors))


def _all(shape: tuple[int, int, int]) -> np.ndarray:
    return np.ones(shape, bool)


def _all_but_a_date(shape: tuple[int, int, int]) -> np.ndarray:
    """Nothing on the middle one of three or more dates ``(t, h, w)``: the swath ended before the scene."""
    there = np.ones(shape, bool)
    if shape[0] > 2:
        there[shape[0] // 2] = False
    return there


def _all_but_half_a_date(shape: tuple[int, int, int]) -> np.ndarray:
    """Only the west on one of three or more dates ``(t, h, w)``, up to the slanted border of the swath."""
    there = np.ones(shape, bool)
    frames, height, width = shape
    if frames > 2:
        y, x = np.mgrid[:height, :width] + 0.5
        there[frames // 3] = x + 0.2 * (y - height / 2) < width / 2
    return there


@dataclass(frozen=True)
class ProductFormat:
    """How the pictures of one sensor are stored.

    Args:
        path: Path of a band, with fields ``day``, ``band`` and ``meters``.
        quality: Name of the quality layer.
        codes: What the quality layer holds for clear, shadow, thin cloud, thick cloud and no pixel.
        dtype: Data type of the quality layer.
        halved: Bands stored with pixels of twice the size; the quality layer may be one.
        seen: What the sensor covers of each date ``(t, h, w)``.
    """

    path: str
    quality: str
    codes: tuple[int, int, int, int, int]
    dtype: str = "uint8"
    halved: frozenset[str] = frozenset()
    seen: Seen = _all


PRODUCTS: Mapping[str, ProductFormat] = MappingProxyType(
    {
        "S2": ProductFormat(
            "S2/{day:%Y%m%d}_{band}_{meters}m.tif",
            quality="SCL",
            codes=(4, 3, 8, 9, 0),
            halved=frozenset({"B05", "B06", "B07", "B8A", "B11", "B12", "SCL"}),
            seen=_all_but_a_date,
        ),
        # Bits 6 and 7 hold the aerosol level, 1 is low; bit 1 is cloud, bit 3 shadow.
        "Landsat": ProductFormat(
            "Landsat/HLS.L30.T31UDR.{day:%Y%j}T104500.v2.0.{band}.tif",
            quality="Fmask",
            codes=(64, 72, 66, 66, 255),
            seen=_all_but_half_a_date,
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
    """What one sensor saw of a part of the land.

    Args:
        sensor: Who looked.
        days: Days of the acquisitions ``(t)``.
        images: Stored numbers ``(t, c, h, w)``.
        state: CLEAR, SHADOW, THIN, THICK or NOTHING ``(t, h, w)``.
        place: Place of the sensor's pixels.
    """

    sensor: Sensor
    days: tuple[dt.date, ...]
    images: np.ndarray
    state: np.ndarray
    place: Georeference

    def where(self, there: np.ndarray) -> SensorSeries:
        """The same picture with no data where ``there (t, h, w)`` is false."""
        images = np.where(there[:, None], self.images, _nodata(self.sensor)).astype(self.images.dtype)
        return replace(self, images=images, state=np.where(there, self.state, NOTHING).astype(np.uint8))

    def rasters(self) -> Iterator[Raster]:
        """One for each date and band, and the quality layer of each date."""
        stored = PRODUCTS[self.sensor.name]
        codes, fill = np.array(stored.codes, stored.dtype), stored.codes[NOTHING]
        nodata = _nodata(self.sensor)
        for day, image, state in zip(self.days, self.images, self.state, strict=True):
            for band, values in zip(self.sensor.band_ids, image, strict=True):
                coarse = band in stored.halved
                yield self._raster(day, band, _averaged(values, nodata) if coarse else values, nodata)
            coarse = stored.quality in stored.halved
            yield self._raster(day, stored.quality, codes[_majority(state) if coarse else state], fill)

    def _raster(self, day: dt.date, band: str, values: np.ndarray, nodata: float) -> Raster:
        a, b, c, d, e, f = self.place.transform
        times = self.images.shape[-1] // values.shape[-1]
        name = PRODUCTS[self.sensor.name].path.format(day=day, band=band, meters=round(a * times))
        return Raster(name, values, Georeference(self.place.crs, (a * times, b, c, d, e * times, f)), nodata)


def _nodata(sensor: Sensor) -> float:
    return 0 if sensor.nodata is None else sensor.nodata


def _quads(values: np.ndarray) -> np.ndarray:
    """Values ``(h, w)`` as ``(h / 2, w / 2, 4)``."""
    h, w = values.shape
    return values.reshape(h // 2, 2, w // 2, 2).swapaxes(1, 2).reshape(h // 2, w // 2, 4)


def _averaged(values: np.ndarray, nodata: float) -> np.ndarray:
    """Means of two by two pixels, as far as they have data."""
    quads = _quads(values)
    there = quads != nodata
    mean = np.where(there, quads, 0).sum(-1) / np.maximum(there.sum(-1), 1)
    return np.where(there.any(-1), np.rint(mean), nodata).astype(values.dtype)


def _majority(state: np.ndarray) -> np.ndarray:
    """States of two by two pixels: clear where at most one of them is not."""
    return np.sort(_quads(state), -1)[..., 2]
