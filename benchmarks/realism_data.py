"""Real and synthetic series in one form, for realism.py: a place is one grid for each pixel size of a sensor.

Real sets lie outside this project; their README names origin and license. ``worldcereal_patches``: Flanders 2018 and
2019, Tanzania 2021; a field is a connected component of one code of crop or grassland, so neighbors with the same crop
count as one. ``france_parcels_2018``: a field is a parcel. ``worldcereal_france_2023``: points in parcels, monthly
means. Synthetic: chips of the farmland of the demo, and samples of the land covers of pre-training, where a field is a
piece of cropland or grassland, and a crop one of its varieties.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_data import NO_DATA_16_BITS, QA_CLEAR, SATURATED, SCL_CLEAR, dates_of
from scipy import ndimage

from agrifm.sensors import LANDSAT, S2, Sensor
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.landcover import SyntheticLandCover
from agrifm.synthetic.varieties import CROPLAND, GRASSLAND

FINE = ("B02", "B03", "B04", "B08")  # bands of 10 m; the other ones have 20 m
COARSE = ("B05", "B06", "B07", "B8A", "B11", "B12")
SIZES = {"s2_10m": (FINE, 1), "s2_20m": (COARSE, 2)}  # bands of an array, and the side of its pixels in 10 m
GRASS = 9120  # code of crop in Flanders
WINTER_WHEAT = 1101010011  # code of points in France
SCALE = 1e-4
SEASON = (60, 304)  # March to October: days of the year in which the demo's dates lie


@dataclass(frozen=True)
class Grid:
    """A series on pixels of one size.

    Args:
        gsd: Pixel size in meters.
        wavelengths: Wavelengths of the bands ``(c)`` in micrometers.
        image: Reflectance ``(t, c, h, w)`` float32.
        clear: Pixels that the mask of the product calls clear ``(t, h, w)``.
        days: Days since 1970-01-01 ``(t)``.
        fields: Number of the field ``(h, w)``; 0 outside, and where a pixel holds more than one.
        crop: Code of the crop ``(h, w)``; 0 where there is none.
        annual: Codes of crops that are sown and harvested within a year.
    """

    gsd: float
    wavelengths: np.ndarray
    image: np.ndarray
    clear: np.ndarray
    days: np.ndarray
    fields: np.ndarray
    crop: np.ndarray
    annual: tuple[int, ...]


Place = list[Grid]


def components(codes: np.ndarray) -> np.ndarray:
    """Numbers of the connected components of one code ``(h, w)``, from 1; 0 where the code is 0."""
    numbers = np.zeros(codes.shape, int)
    count = 0
    for code in np.unique(codes[codes > 0]):
        pieces, found = ndimage.label(codes == code)
        numbers[pieces > 0] = pieces[pieces > 0] + count
        count += found
    return numbers


def _pure(layer: np.ndarray, size: int) -> np.ndarray:
    """A layer of numbers ``(h, w)`` on pixels that are ``size`` times larger: 0 where they hold several numbers."""
    height, width = layer.shape
    blocks = layer[: height // size * size, : width // size * size]
    blocks = blocks.reshape(height // size, size, width // size, size)
    low = blocks.min((1, 3))
    return np.where(low == blocks.max((1, 3)), low, 0)


def _means(values: np.ndarray, size: int) -> np.ndarray:
    """Means of squares of pixels ``(..., h, w)``."""
    *leading, height, width = values.shape
    return values.reshape(*leading, height // size, size, width // size, size).mean((-3, -1))


def _wavelengths(sensor: Sensor, names: Sequence[str]) -> np.ndarray:
    return np.array([sensor.bands[sensor.band_ids.index(name)].wavelength for name in names])


def _in_season(dates: np.ndarray, year: int) -> np.ndarray:
    """Dates from March to October of a year."""
    day_of_year = (dates - np.datetime64(f"{year}-01-01")).astype(int) + 1
    return (day_of_year >= SEASON[0]) & (day_of_year <= SEASON[1])


def worldcereal(data: Path, name: str, year: int | None) -> Place:
    """Sentinel-2 of a patch from March to October of a year, or at all dates where the tropics have no such season."""
    with np.load(data / "worldcereal_patches" / "npz" / f"{name}.npz") as arrays:
        dates = dates_of(arrays["s2_dates"])
        seen = np.ones(len(dates), bool) if year is None else _in_season(dates, year)
        crop = arrays["ct"].astype(int)
        fields = components(crop)
        annual = tuple(int(code) for code in np.unique(crop) if code not in (0, GRASS))
        clear = np.isin(arrays["s2_scl_20m"][seen], SCL_CLEAR)
        images = {key: arrays[key][seen] for key in SIZES if key in arrays.files}
    return _sentinel2(images, clear, dates[seen].astype(int), fields, crop, annual)


def worldcereal_landsat(data: Path) -> Place:
    """Landsat-8 of the patch of 2018; its pixels of 30 m begin at the second row and third column of 10 m."""
    with np.load(data / "worldcereal_patches" / "npz" / "be_a_2018.npz") as arrays:
        dates = dates_of(arrays["l8_dates"])
        seen = _in_season(dates, 2018)
        inner = (..., slice(2, 62), slice(1, 61))
        one_of_nine = (..., slice(None, None, 3), slice(None, None, 3))
        image = arrays["l8_10m"][seen][inner][one_of_nine]
        quality = arrays["l8_pixel_qa"][seen][inner][one_of_nine]
        crop = arrays["ct"].astype(int)
        clear = np.isin(quality, QA_CLEAR) & (image < SATURATED).all(1) & (image > 0).all(1)
        grid = Grid(
            gsd=30.0,
            wavelengths=np.array([band.wavelength for band in LANDSAT.bands]),
            image=image.astype(np.float32) * SCALE,
            clear=clear,
            days=dates[seen].astype(int),
            fields=_pure(components(crop)[inner], 3),
            crop=_pure(crop[inner], 3),
            annual=tuple(int(code) for code in np.unique(crop) if code not in (0, GRASS)),
        )
    return [grid]


def france(data: Path) -> Place:
    """Sentinel-2 of the parcels in France at nine chosen dates; no statistic of dates can be measured on them."""
    with np.load(data / "france_parcels_2018" / "npz" / "france_2018.npz") as arrays:
        crop = arrays["crop"].astype(int)
        parcels = np.maximum(arrays["parcel_id"].astype(int), 0)
        fields = np.where(crop > 0, parcels, 0)
        names = [str(name) for name in arrays["crop_names"]]
        annual = tuple(k for k, crop_name in enumerate(names) if "wheat" in crop_name or "maize" in crop_name)
        height, width = (2 * (side // 2) for side in crop.shape)
        clear = np.isin(arrays["scl_20m"], SCL_CLEAR)[..., : height // 2, : width // 2]
        images = {}
        for key, (_, size) in SIZES.items():
            images[key] = arrays[key][..., : height // size, : width // size]
        days = dates_of(arrays["dates"]).astype(int)
    return _sentinel2(images, clear, days, fields[:height, :width], crop[:height, :width], annual)


def _sentinel2(
    images: Mapping[str, np.ndarray],
    clear: np.ndarray,
    days: np.ndarray,
    fields: np.ndarray,
    crop: np.ndarray,
    annual: tuple[int, ...],
) -> Place:
    """Sentinel-2 on its own pixels of 10 m and 20 m.

    Args:
        images: Stored numbers ``(t, c, h, w)`` by the keys of ``SIZES``.
        clear: Pixels of 20 m that the mask calls clear ``(t, h, w)``.
        days: Days since 1970-01-01 ``(t)``.
        fields, crop: Number of the field and code of the crop on pixels of 10 m ``(h, w)``.
        annual: Codes of crops that are sown and harvested within a year.
    """
    place = []
    for key, image in images.items():
        bands, size = SIZES[key]
        mask = clear.repeat(2, -2).repeat(2, -1) if size == 1 else clear
        place.append(
            Grid(
                gsd=10.0 * size,
                wavelengths=_wavelengths(S2, bands),
                image=image.astype(np.float32) * SCALE,
                clear=mask & (image > 0).all(1),
                days=days,
                fields=_pure(fields, size),
                crop=_pure(crop, size),
                annual=annual,
            )
        )
    return place


def wheat_points(data: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Middle days of months and NDVI of points of winter wheat in France, 2022 to 2023, over some 100 km."""
    with np.load(data / "worldcereal_france_2023" / "npz" / "points.npz") as arrays:
        names = list(arrays["bands"])
        wheat = arrays["x"][arrays["ewoc"] == WINTER_WHEAT].astype(np.float64)
    red, nir = wheat[..., names.index("B04")], wheat[..., names.index("B08")]
    known = np.isfinite(red) & np.isfinite(nir) & (red < NO_DATA_16_BITS) & (nir < NO_DATA_16_BITS)
    middles = (30.4 * np.arange(wheat.shape[1]) + 15).astype(int)
    for point in np.flatnonzero(known.sum(1) >= 9):
        seen = known[point]
        difference, total = (nir - red)[point, seen], (nir + red)[point, seen]
        yield middles[seen], difference / total


def _sentinel_grids(image: np.ndarray, clear: np.ndarray, layers: Mapping[str, np.ndarray], **told) -> Place:
    """Bands of a synthetic sample on the pixels that Sentinel-2 has: some of 10 m, the others of 20 m."""
    place = []
    for names, size in ((FINE, 1), (COARSE, 2)):
        chosen = [S2.band_ids.index(name) for name in names]
        place.append(
            Grid(
                gsd=10.0 * size,
                wavelengths=_wavelengths(S2, names),
                image=_means(image[:, chosen], size),
                clear=_means(clear.astype(np.float32), size) == 1,
                fields=_pure(layers["fields"], size),
                crop=_pure(layers["crop"], size),
                **told,
            )
        )
    return place


def farmland(sensor: Sensor, count: int) -> Iterator[Place]:
    """Chips of the farmland of the demo; crops have the numbers 1 to 5 there, the fallow none."""
    land = Landscape()
    chips = [chip for members in land.splits().values() for chip in members]
    for row, column in chips[:: max(1, len(chips) // count)][:count]:
        sample = land.sample(row, column, (sensor,))
        ground = land.ground(row, column)
        crop = np.where(ground.parcel != 0, ground.label, 0)
        layers = {"crop": crop, "fields": np.where(crop > 0, ground.fields, 0)}
        told = {"days": sample.dates[sensor.name].numpy(), "annual": (1, 2, 3, 4)}
        image = sample.images[sensor.name].numpy().astype(np.float32) * sensor.scale
        clear = sample.mask(sensor.name).numpy()
        if sensor is S2:
            yield _sentinel_grids(image, clear, layers, **told)
        else:
            size = land.size // image.shape[-1]
            small = {name: _pure(layer, size) for name, layer in layers.items()}
            yield [Grid(sensor.gsd, _wavelengths(sensor, sensor.band_ids), image, clear, **small, **told)]


def land_cover(count: int) -> Iterator[Place]:
    """Samples of Sentinel-2 as pre-training sees them; a crop is a variety."""
    source = SyntheticLandCover(seed=0, sensors=(S2,), frames=24)
    for index in range(count):
        record = source.record("S2", index)
        ground = source.ground("S2", index)
        farmed = np.isin(ground.cover, (CROPLAND, GRASSLAND))[ground.piece]
        size = len(ground.piece) // record.image.shape[-1]
        layers = {
            "fields": _pure(np.where(farmed, ground.piece + 1, 0), size),
            "crop": _pure(np.where(farmed, ground.variety[ground.piece] + 1, 0), size),
        }
        image = record.image.astype(np.float32) * S2.scale
        yield _sentinel_grids(image, record.clear.astype(bool), layers, days=record.days.astype(int), annual=())
