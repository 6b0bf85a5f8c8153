"""Made-up land of eight covers with known shares: an endless supply of samples to pre-train on, without downloads.

Every index is another place, year and weather, drawn from the seed, the sensor's name and the index alone. The ground
is a grid finer than the pixels: pixels are its averages, and the shares of the cells are counted on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from agrifm.data import randomness
from agrifm.data.chips import FrameChoice
from agrifm.data.randomness import key, smooth
from agrifm.data.records import Record
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, MODIS, S2, Sensor
from agrifm.synthetic.chips import stored
from agrifm.synthetic.phenology import spectra
from agrifm.synthetic.varieties import (
    CLOUD,
    CROPLAND,
    FOREST,
    GRASSLAND,
    IMPERVIOUS,
    MEMBERS,
    OF_VARIETY,
    VARIETIES,
    WATER,
    WETLAND,
    Weather,
    series_of,
)


@dataclass(frozen=True)
class Ground:
    """What lies on the fine grid of a sample.

    Args:
        piece: Number of the piece of ground ``(n, n)``.
        cover: Land cover of every piece ``(k)``.
        variety: Index into ``VARIETIES`` of every piece ``(k)``.
        hidden: Where no land cover is known ``(n, n)``.
    """

    piece: np.ndarray
    cover: np.ndarray
    variety: np.ndarray
    hidden: np.ndarray

    def shares(self, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the eight covers ``(8, y, x)`` and of what is unknown ``(y, x)`` in every cell."""
        kind = np.where(self.hidden, 8, self.cover[self.piece])
        shares = _portions(kind, 9, cells).reshape(9, cells, cells)
        return shares[:8], shares[8]


@dataclass(frozen=True)
class SyntheticLandCover:
    """An endless source; equal seeds give equal samples, in any order and process.

    Args:
        seed: Decides everything random.
        sizes: Pixels along a side, by sensor.
        cells: Output cells along a side; they hold whole numbers of pixels.
        frames: Dates of a sample, from the passes of one year that begins anywhere.
        sensors: Index ``i`` belongs to ``sensors[i % len(sensors)]``.
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
                    f"Covers: sizes of {sensor.name}",
                    found=str(size or "none"),
                    expected=f"a multiple of cells, {self.cells}",
                    repair="set its size in pixels.",
                )
        passes = min(365 // _revisit(sensor) for sensor in self.sensors)
        if not 1 <= self.frames <= passes or not 0 <= self.unknown < 1:
            raise InputError(
                "Covers",
                found=f"{self.frames} frames, a share of {self.unknown} unknown",
                expected=f"1 to {passes} frames, a share of at least 0 and below 1",
                repair="change them.",
            )

    def __len__(self) -> int:
        return 2**40

    def read(self, index: int, frames: FrameChoice | None = None) -> Sample:
        """One sample, only the chosen frames; the sensor follows from the index."""
        return self.record(self.sensors[index % len(self.sensors)].name, index).sample(frames)

    def ground(self, sensor: str, index: int) -> Ground:
        """The ground under a sample, on a grid finer than the pixels."""
        chosen = self._sensor(sensor)
        times = 2 if chosen.gsd <= 10 else 3 if chosen.gsd <= 100 else 8
        n, rng = times * self.sizes[sensor], self._rng(sensor, index, "ground")
        return _ground(rng, self._weather(chosen, index).warmth, n, chosen.gsd / times, self.unknown)

    def record(self, sensor: str, index: int) -> Record:
        """One sample of a sensor as it is stored.

        Raises:
            InputError: If the sensor is none of these, or the index lies outside.
        """
        chosen = self._sensor(sensor)
        weather, rng = self._weather(chosen, index), self._rng(sensor, index, "picture")
        ground, size = self.ground(sensor, index), self.sizes[sensor]
        cloud, shadow = _sky(rng, weather, size, chosen.gsd, len(weather.days))
        image = _look(rng, weather, ground, chosen, size)
        image *= (1 - 0.55 * shadow * (1 - cloud))[:, None]
        image += cloud[:, None] * (_spectra(chosen)[CLOUD][:, None, None] - image)
        noise = 0.012 * min(1.0, 10 / chosen.gsd) ** 0.3
        image *= 1 + 2 * noise * rng.standard_normal(cloud.shape, np.float32)[:, None]
        image += noise / 2 * rng.standard_normal(image.shape, np.float32)
        doubt = 0.12 * rng.random(cloud.shape, np.float32)
        there = _swath(rng, cloud.shape)
        image = np.where(there[:, None], stored(image, chosen), np.int16(chosen.nodata or 0))
        fractions, unknown = ground.shares(self.cells)
        return Record(
            sensor=sensor,
            name=f"{sensor}-{self.seed}-{index:08d}",
            image=image.astype(np.uint16 if (chosen.nodata or 0) >= 0 else np.int16),
            days=weather.days,
            clear=((cloud < 0.04 + doubt) & (shadow < 0.2 + doubt) & there).astype(np.uint8),
            fractions=fractions,
            unknown=unknown,
            lon=weather.lon,
            lat=weather.lat,
            year=weather.year,
            biome=weather.biome,
            source=f"made-up land, seed {self.seed}",
        )

    def _sensor(self, name: str) -> Sensor:
        for sensor in self.sensors:
            if sensor.name == name:
                return sensor
        expected = ", ".join(sensor.name for sensor in self.sensors)
        raise InputError("Covers: sensor", found=name, expected=f"one of {expected}", repair="name one of them.")

    def _rng(self, sensor: str, index: int, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, key(sensor, what), index])

    def _weather(self, sensor: Sensor, index: int) -> Weather:
        """Place and dates: seasons come later towards the poles and half a year later in the south."""
        rng = self._rng(sensor.name, index, "weather")
        lat, lon, year = rng.uniform(0, 64), rng.uniform(-180, 180), int(rng.integers(2016, 2025))
        late = 1.1 * (lat - 47) + rng.normal(0, 9) if lat > 22 else rng.uniform(-182, 182)
        south = rng.random() < 0.4
        revisit = _revisit(sensor)
        passes = int(rng.integers(365)) + revisit * np.arange(365 // revisit)
        days = np.sort(rng.choice(passes, self.frames, replace=False))
        new_year = np.datetime64(f"{year}-01-01", "D").astype(int)
        where = round(lon, 4), round(-lat if south else lat, 4)
        days = (new_year + days).astype(np.int32)
        return Weather(*where, year, days, late + (182.6 if south else 0), float(np.clip((36 - lat) / 26, -1, 1)))


def _revisit(sensor: Sensor) -> int:
    return 5 if sensor.gsd <= 20 else 8


def _spectra(sensor: Sensor) -> np.ndarray:
    """Reflectance ``(m, c)``."""
    return spectra(sensor.bands, MEMBERS).astype(np.float32)


def _portions(kind: np.ndarray, kinds: int, parts: int) -> np.ndarray:
    """Portion of every kind ``(kinds, parts * parts)`` in the parts of a square ``(n, n)`` of kinds."""
    n = len(kind)
    row = np.arange(n) * parts // n
    codes = kind * parts**2 + (row[:, None] * parts + row)
    counts = np.bincount(codes.ravel(), minlength=kinds * parts**2).reshape(kinds, -1)
    return (counts * ((parts / n) ** 2)).astype(np.float32)


def _field(rng: np.random.Generator, n: int, size: float, keys: np.ndarray | int = 0) -> np.ndarray:
    """Smooth random field in 0..1 with features of ``size`` points."""
    at = np.arange(n) + n * rng.random()
    return randomness.field(at, at, size, int(rng.integers(2**40)), keys)


def _parcels(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of the parcel and what lies at its edge: a lane (1), trees (2) or nothing (0), all ``(n, n)``."""
    count = int(np.clip(side / 900, 1, 7)) + int(rng.integers(3))
    district = _nearest(rng, x, y, side, count)
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    width, length = np.exp(rng.uniform(np.log((35, 90)), np.log((260, 700)), (count, 2))).T.astype(np.float32)
    cos, sin, width = np.cos(angle)[district], np.sin(angle)[district], width[district]
    v = (y * cos - x * sin) / width
    v += 0.25 * np.sin(2.3 * v + district)  # strips of unequal width
    strip = np.floor(v).astype(int)
    vary = rng.random((2, 64), np.float32)[:, strip % 64]
    u = (x * cos + y * sin) / (length[district] * (0.7 + 0.6 * vary[0])) + vary[1]
    parcel = (district * 64 + strip % 64) * 64 + np.floor(u).astype(int) % 64
    near = np.minimum((v - strip) * width, (u - np.floor(u)) * length[district])
    edge = rng.choice(3, (count, 2), p=(0.5, 0.3, 0.2))[district, strip % 2]
    return parcel, edge * (near < rng.uniform(5, 16, count)[district])


def _nearest(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, side: float, count: int) -> np.ndarray:
    """Which of scattered points is the nearest ``(n, n)``."""
    points = side * rng.uniform(-0.1, 1.1, (count, 2)).astype(np.float32)
    far = (points**2).sum(1) - 2 * (x[..., None] * points[:, 0] + y[..., None] * points[:, 1])
    return far.argmin(-1)


def _ground(rng: np.random.Generator, warmth: float, n: int, step: float, unknown: float) -> Ground:
    """Patches with natural borders, some of them cut into parcels; then mosaics, lanes, a road and a river."""
    x, y = np.meshgrid(*2 * [(np.arange(n, dtype=np.float32) + 0.5) * step])
    side, count = n * step, int(np.exp(rng.uniform(np.log(2), np.log(40))))
    weights = rng.dirichlet(np.full(8, np.exp(rng.uniform(np.log(0.12), np.log(0.9))))) * 0.97 + 0.00375
    wave, twist = side / count**0.5, rng.uniform(0.3, 1.2)
    warp = [sum(twist * part * wave * (_field(rng, n, part * wave / step) - 0.5) for part in (1, 0.4)) for _ in "xy"]
    patch = _nearest(rng, x + warp[0], y + warp[1], side, count)
    kind = rng.choice(8, count, p=weights)
    parcel, edge = _parcels(rng, x, y, side)
    tilled = (np.isin(kind, (CROPLAND, IMPERVIOUS)) | ((kind == GRASSLAND) & (rng.random(count) < 0.4)))[patch]
    base, cover = np.where(tilled, 42 + parcel, patch), kind[patch]
    odd = rng.choice((-1, -1, -1, -1, -1, -1, -1, -1, GRASSLAND, rng.choice(8, p=weights)), 4096)[parcel % 4096]
    cover = np.where(tilled & (odd >= 0), odd, cover)
    patchy = _field(rng, n, rng.uniform(1.5, 8)) + 0.1 * rng.standard_normal((n, n), np.float32)
    share = np.where(kind == IMPERVIOUS, 0.4, rng.uniform(0.25, 0.6, count) - (rng.random(count) < 0.4))
    other = rng.choice(8, count, p=0.5 * weights + 0.5 * np.array((0, 0.2, 0.35, 0.2, 0.05, 0.03, 0.02, 0.15)))
    mixed = (patchy < np.where(np.isin(kind, (CROPLAND, WATER)), -1, share)[patch]) & (cover == kind[patch])
    cover = np.where(mixed, other[patch], cover)
    cover = np.where(tilled & (edge > 0), np.where(edge == 1, IMPERVIOUS, FOREST), cover)
    base = np.where(mixed | (tilled & (edge > 0)), 41, base)
    for chance, wide, lines in ((0.4, 7, (IMPERVIOUS,)), (0.3, 25, (WETLAND, WATER))):
        bend = rng.uniform(0, 0.15) if lines == (IMPERVIOUS,) else 1
        turn, where = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3)
        away = (
            abs(
                (x / side - 0.5) * np.cos(turn)
                + (y / side - 0.5) * np.sin(turn)
                - where
                + 0.5 * bend * (_field(rng, n, n / 2.5) - 0.5)
            )
            * side
        )
        wide *= rng.uniform(0.5, 3) * (rng.random() < chance)
        for line, reach in zip(lines, (wide * (1 if len(lines) == 1 else rng.choice((1, 2.5))), wide), strict=False):
            cover, base = np.where(away < reach, line, cover), np.where(away < reach, 40, base)
    return _pieces(rng, warmth, base * 8 + cover, _hidden(rng, n, unknown))


def _hidden(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """Blobs ``(n, n)`` that take a share of the ground."""
    if share == 0:
        return np.zeros((n, n), bool)
    blobs = _field(rng, n, n / 4)
    return blobs < np.quantile(blobs, share)


def _pieces(rng: np.random.Generator, warmth: float, codes: np.ndarray, hidden: np.ndarray) -> Ground:
    """Number the pieces of ground and give each a variety that its cover has in this climate and place."""
    used = np.bincount(codes.ravel()) > 0
    cover = np.flatnonzero(used) % 8
    liking = np.exp(1.5 * OF_VARIETY["warm"] * warmth + 0.8 * rng.standard_normal(len(VARIETIES)))
    below = np.cumsum(np.where(OF_VARIETY["cover"] == np.arange(8)[:, None], liking, 0), axis=1)
    draw = rng.random(len(cover)) * below[cover, -1]
    return Ground((np.cumsum(used) - 1)[codes], cover, (draw[:, None] >= below[cover]).sum(1), hidden)


def _look(rng: np.random.Generator, weather: Weather, ground: Ground, sensor: Sensor, size: int) -> np.ndarray:
    """Reflectance of the ground ``(t, c, h, w)`` under a clear sky."""
    colors = _spectra(sensor)
    series = series_of(rng, weather, ground.variety, colors).astype(np.float32)
    frames, bands = len(weather.days), len(sensor.bands)
    gain = 1 + 0.03 * rng.standard_normal((bands, 1)) + 0.03 * rng.standard_normal((frames, 1, 1))
    haze = (
        0.012 * rng.random((frames, 1, 1)) * (0.5 / np.array([band.wavelength for band in sensor.bands])[:, None]) ** 2
    )
    series[0] = series[0] * gain + haze
    portions = _portions(ground.piece, len(ground.cover), size)
    vigor = (0.35 * (_field(rng, size, max(2.0, 250 / sensor.gsd)) - 0.5)).astype(np.float32)
    vigor += 0.05 * min(1.0, 20 / sensor.gsd) * rng.standard_normal((size, size), np.float32)
    rough = (OF_VARIETY["rough"][ground.variety].astype(np.float32) @ portions).reshape(size, size)
    rough *= min(1.0, 20 / sensor.gsd) ** 0.5 * rng.standard_normal((size, size), np.float32)
    image, change = (part.reshape(-1, len(ground.cover)) @ portions for part in series)
    image += change * vigor.ravel()
    return image.reshape(frames, bands, size, size) * np.clip(1 + rough, 0.4, 1.8)


def _sky(
    rng: np.random.Generator, weather: Weather, size: int, gsd: float, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Opacity 0..1 of clouds and of their shadows, which lie towards the pole ``(t, h, w)``."""
    cloudiness = rng.uniform(0.2, 0.8) * (0.6 if gsd > 100 else 1)  # coarse products choose the best of several days
    kind, degree = rng.random((2, frames, 1, 1))
    threshold = np.where(kind < 0.5 * cloudiness, 0.05 + 0.25 * degree, 0.42 + 0.28 * degree)
    threshold = np.where(kind < cloudiness, threshold, 2.0)
    east, south = round(130 / gsd), round(190 / gsd)
    n, keys = size + max(east, south), np.arange(frames)
    cloud = sum(part * _field(rng, n, scale / gsd, keys) for scale, part in ((2400, 0.5), (800, 0.32), (260, 0.18)))
    cloud = smooth((cloud - threshold) / 0.1).astype(np.float32)
    top, low = (slice(0, size), slice(south, south + size))[:: 1 if weather.lat > 0 else -1]
    return cloud[:, top, :size], cloud[:, low, east : east + size]


def _swath(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """What lies inside the swath ``(t, h, w)``: on a few dates its slanted border crosses."""
    frames, h, w = shape
    y, x = np.mgrid[:h, :w] / max(h, w)
    border = np.where(rng.random(frames) < 0.06, rng.random(frames), 2.0)[:, None, None]
    return x + 0.2 * y < border
