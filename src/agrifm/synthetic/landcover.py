"""Synthetic land of eight covers with known shares: an endless supply of samples to pre-train on, without downloads.

Every index is another place, year and climate, drawn from the seed, the sensor's name and the index alone. The ground
is a grid finer than the pixels: pixels are its averages, and the shares of the cells are counted on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from agrifm.data.chips import FrameChoice
from agrifm.data.randomness import key
from agrifm.data.records import Record
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, MODIS, S2, Sensor
from agrifm.synthetic.landcover_ground import LandCoverGround, draw_ground, portions, smooth_field
from agrifm.synthetic.observation import (
    CLOUD_LAYERS,
    PATCH_METERS,
    SHADOW_OFFSET,
    add_clouds,
    add_haze,
    add_pixel_noise,
    clear_mask,
    cloud_density,
    cloud_opacity,
    cloud_thresholds,
    date_errors,
    digital_numbers,
    haze_opacity,
    nodata_value,
    together,
)
from agrifm.synthetic.optics import blur_meters
from agrifm.synthetic.spectra import spectra
from agrifm.synthetic.varieties import CLOUD, MEMBERS, OF_VARIETY, Climate, yearly_reflectance


@dataclass(frozen=True)
class SyntheticLandCover:
    """An endless source; equal seeds give equal samples, in any order and process.

    Args:
        seed: Seed of everything random.
        sizes: Pixels along a side, by sensor.
        cells: Output cells along a side; they hold whole numbers of pixels.
        frames: Dates of a sample, from the passes of one year that begins on any day.
        sensors: Sensors in turn; index ``i`` belongs to ``sensors[i % len(sensors)]``.
        unknown: Share of the ground without known land cover.
    """

    seed: int = 0
    sizes: Mapping[str, int] = field(default_factory=lambda: {"S2": 48, "Landsat": 48, "Modis": 16})
    cells: int = 8
    frames: int = 24
    sensors: tuple[Sensor, ...] = (S2, LANDSAT, MODIS)
    unknown: float = 0.0

    def __post_init__(self) -> None:
        for sensor in self.sensors:
            size = self.sizes.get(sensor.name, 0)
            if size < 1 or size % self.cells:
                raise InputError(
                    f"SyntheticLandCover: sizes of {sensor.name}",
                    found=str(size or "none"),
                    expected=f"a multiple of cells, {self.cells}",
                    repair="set its size in pixels.",
                )
        longest_revisit = max(_revisit_days(sensor) for sensor in self.sensors)
        passes = 365 // longest_revisit
        if not 1 <= self.frames <= passes or not 0 <= self.unknown < 1:
            raise InputError(
                "SyntheticLandCover",
                found=f"{self.frames} frames, a share of {self.unknown} unknown",
                expected=f"1 to {passes} frames, a share of at least 0 and below 1",
                repair="change them.",
            )

    def __len__(self) -> int:
        return 2**40

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """Render one sample, only the chosen frames; the sensor follows from the index."""
        sensor = self.sensors[index % len(self.sensors)]
        return self.record(sensor.name, index).sample(frames)

    def ground(self, sensor: str, index: int) -> LandCoverGround:
        """The ground under a sample, on a grid finer than the pixels."""
        observer = self._sensor(sensor)
        warmth = self._climate(observer, index).warmth
        points = _points_per_pixel(observer)
        rng = self._rng(sensor, index, "ground")
        return draw_ground(rng, warmth, points * self.sizes[sensor], observer.gsd / points, self.unknown)

    def record(self, sensor: str, index: int) -> Record:
        """Render one sample of a sensor as it is stored.

        Raises:
            InputError: If the sensor is not among ``sensors``.
        """
        observer = self._sensor(sensor)
        climate = self._climate(observer, index)
        ground = self.ground(sensor, index)
        image, clear = self._observe(self._rng(sensor, index, "picture"), climate, ground, observer)
        fractions, unknown = ground.shares(self.cells)
        return Record(
            sensor=sensor,
            name=f"{sensor}-{self.seed}-{index:08d}",
            image=image,
            days=climate.days,
            clear=clear.astype(np.uint8),
            fractions=fractions,
            unknown=unknown,
            lon=climate.lon,
            lat=climate.lat,
            year=climate.year,
            biome=climate.biome,
            source=f"synthetic land cover, seed {self.seed}",
        )

    def _observe(
        self, rng: np.random.Generator, climate: Climate, ground: LandCoverGround, sensor: Sensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Stored numbers ``(t, c, h, w)`` and mask ``(t, h, w)``; the order of the draws decides what a seed shows."""
        size = self.sizes[sensor.name]
        cloud, haze, shadow = _draw_sky(rng, climate, size, sensor.gsd)
        image = _clear_sky_reflectance(rng, climate, ground, sensor, size)
        image = _blur(image, sensor)
        image = add_haze(image, haze, sensor, _colors(sensor)[CLOUD])
        image = add_clouds(image, cloud, shadow, _colors(sensor)[CLOUD])
        image = add_pixel_noise(image, rng)
        uncertainty = rng.random((len(cloud), 1, 1), np.float32)
        clear = clear_mask(together(cloud, haze), shadow, uncertainty)
        covered = _draw_swath(rng, cloud.shape)
        numbers = digital_numbers(image, sensor)
        nodata = numbers.dtype.type(nodata_value(sensor))
        return np.where(covered[:, None], numbers, nodata), clear & covered

    def _sensor(self, name: str) -> Sensor:
        for sensor in self.sensors:
            if sensor.name == name:
                return sensor
        expected = ", ".join(sensor.name for sensor in self.sensors)
        raise InputError(
            "SyntheticLandCover: sensor", found=name, expected=f"one of {expected}", repair="name one of them."
        )

    def _rng(self, sensor: str, index: int, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, key(sensor, purpose), index])

    def _climate(self, sensor: Sensor, index: int) -> Climate:
        """Place and dates: seasons come later towards the poles and half a year later in the south."""
        rng = self._rng(sensor.name, index, "weather")
        degrees_from_equator = rng.uniform(0, 64)
        lon = rng.uniform(-180, 180)
        year = int(rng.integers(2016, 2025))
        if degrees_from_equator > 22:
            delay = 1.1 * (degrees_from_equator - 47) + rng.normal(0, 9)
        else:
            delay = rng.uniform(-182, 182)  # the tropics have no common season
        south = rng.random() < 0.4

        revisit = _revisit_days(sensor)
        first_pass = int(rng.integers(365))
        passes = first_pass + revisit * np.arange(365 // revisit)
        days = np.sort(rng.choice(passes, self.frames, replace=False))
        new_year = np.datetime64(f"{year}-01-01", "D").astype(int)
        return Climate(
            lon=round(lon, 4),
            lat=round(-degrees_from_equator if south else degrees_from_equator, 4),
            year=year,
            days=(new_year + days).astype(np.int32),
            delay=delay + (182.6 if south else 0),
            warmth=float(np.clip((36 - degrees_from_equator) / 26, -1, 1)),
        )


def _revisit_days(sensor: Sensor) -> int:
    return 5 if sensor.gsd <= 20 else 8


def _points_per_pixel(sensor: Sensor) -> int:
    """Points of the fine grid along a pixel."""
    if sensor.gsd <= 10:
        return 2
    return 3 if sensor.gsd <= 100 else 8


def _colors(sensor: Sensor) -> np.ndarray:
    """Reflectance of the end members ``(m, c)``."""
    return spectra(sensor.bands, MEMBERS).astype(np.float32)


def _clear_sky_reflectance(
    rng: np.random.Generator, climate: Climate, ground: LandCoverGround, sensor: Sensor, size: int
) -> np.ndarray:
    """Reflectance of the ground ``(t, c, h, w)`` without clouds."""
    frames = len(climate.days)
    bands = len(sensor.bands)
    pieces = len(ground.cover)
    reflectance, change = yearly_reflectance(rng, climate, ground.variety, _colors(sensor))
    reflectance = _add_atmosphere(rng, reflectance.astype(np.float32), sensor)

    detail = min(1.0, 20 / sensor.gsd)  # larger pixels average the scatter away
    vigor_field = smooth_field(rng, size, max(2.0, 250 / sensor.gsd))
    vigor = (0.2 * (vigor_field - 0.5)).astype(np.float32)
    vigor += 0.1 * detail * _patches(rng, size, sensor.gsd)
    shares = portions(ground.piece, pieces, size)
    rough = OF_VARIETY["rough"][ground.variety].astype(np.float32)
    roughness = (rough @ shares).reshape(size, size)
    texture = rng.standard_normal((size, size), np.float32) + _patches(rng, size, sensor.gsd)
    roughness *= detail**0.5 * texture

    image = reflectance.reshape(-1, pieces) @ shares
    change_of_pixels = change.astype(np.float32).reshape(-1, pieces) @ shares
    image += change_of_pixels * vigor.ravel()
    brightness = np.clip(1 + roughness, 0.4, 1.8)
    return image.reshape(frames, bands, size, size) * brightness


def _patches(rng: np.random.Generator, size: int, gsd: float) -> np.ndarray:
    """Patches within pieces of ground ``(h, w)`` with a deviation of about one, of two sizes, as in the farmland."""
    small, large = (smooth_field(rng, size, max(1.5, meters / gsd)) for meters in PATCH_METERS)
    return (3.5 * (small + large - 1)).astype(np.float32)


def _add_atmosphere(rng: np.random.Generator, reflectance: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Scatter the calibration of the bands, and add the errors of the dates ``(t, c, k)``."""
    frames, bands, _ = reflectance.shape
    calibration = 1 + 0.03 * rng.standard_normal(bands)
    factor, addition = date_errors(
        sensor,
        gain=rng.standard_normal(frames),
        band_gain=rng.standard_normal((frames, bands)),
        aerosol=rng.standard_normal(frames),
    )
    gain = calibration * factor
    return (reflectance * gain[..., None] + addition[..., None]).astype(np.float32)


def _blur(image: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Spread the light of each pixel ``(t, c, h, w)`` over its neighbors."""
    deviation = blur_meters(sensor) / sensor.gsd
    if deviation < 0.1:
        return image
    for axis in (-2, -1):
        image = ndimage.gaussian_filter1d(image, deviation, axis=axis, mode="nearest", radius=1)
    return image


def _draw_sky(rng: np.random.Generator, climate: Climate, size: int, gsd: float) -> tuple[np.ndarray, ...]:
    """Opacity 0..1 of clouds, of haze and of the clouds' shadows, which lie towards the pole ``(t, h, w)``."""
    frames = len(climate.days)
    cloudiness = rng.uniform(0.2, 0.8)
    if gsd > 100:
        cloudiness *= 0.6  # coarse products choose the best of several days
    kind, degree = rng.random((2, frames, 1, 1))
    thresholds = cloud_thresholds(cloudiness, kind, degree)

    east = round(SHADOW_OFFSET[0] / gsd)
    poleward = round(SHADOW_OFFSET[1] / gsd)
    n = size + max(east, poleward)
    layers = []
    for scale, _ in CLOUD_LAYERS:
        layers.append(smooth_field(rng, n, scale / gsd, np.arange(frames)))
    density = cloud_density(layers)
    opacity = cloud_opacity(density, thresholds).astype(np.float32)
    hazy, haze_degree = rng.random((2, frames, 1, 1))
    haze = haze_opacity(cloudiness, density[:, :size, :size], hazy, haze_degree).astype(np.float32)
    # One sky is cut twice; a pixel of the second cut lies under the cloud that casts the shadow on it.
    northern_rows = opacity[:, :size]
    southern_rows = opacity[:, poleward : poleward + size]
    cloud, shadow = (northern_rows, southern_rows) if climate.lat > 0 else (southern_rows, northern_rows)
    return cloud[..., :size], haze, shadow[..., east : east + size]


def _draw_swath(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels inside the swath ``(t, h, w)``, whose slanted border crosses the sample on a few dates."""
    frames, height, width = shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    crosses = rng.random(frames) < 0.06
    position = rng.random(frames)
    border = np.where(crosses, position, 2.0)  # no pixel lies beyond 2
    return x + 0.2 * y < border[:, None, None]
