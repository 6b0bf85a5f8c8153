"""Small random maps with awkward class names, for the tests of their files."""

import datetime as dt
import itertools

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from agrifm.maps.files.writer import NODATA, Legend, build, map_files
from agrifm.maps.store import Store

NAMES = ("other", "wheat & <rye>", "Zuckerrübe", "日本", "bell\x07\nhalf\ud800", '"quoted" 50 %')
LABELS = ("other", "wheat & <rye>", "Zuckerrübe", "日本", "bell\ufffd\ufffdhalf\ufffd", '"quoted" 50 %')
COLORS = ("#9a9a9a", "#E3B23C", "#117733", "#88ccee", "#aa4499", "#000000")
LEGEND = Legend(NAMES, COLORS)
SEASON = (dt.date(2023, 3, 5), dt.date(2023, 10, 29))
EXTRAS = ("probabilities", "confidence", "entropy", "observations")


def grid_of(height, width, crs="EPSG:32631", corner=(480_000, 5_530_000), step=10.0):
    return GeoBox((height, width), Affine(step, 0, corner[0], 0, -step, corner[1]), crs)


def random_classes(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, len(NAMES), (height, width)).astype(np.uint8)
    pixels[: height // 4, : width // 3] = NODATA
    return pixels


def cut(pixels, height, width):
    """Strips ``(row, column, pixels)`` of at most this size."""
    rows, columns = range(0, pixels.shape[-2], height), range(0, pixels.shape[-1], width)
    return [(r, c, pixels[..., r : r + height, c : c + width]) for r, c in itertools.product(rows, columns)]


def a_map(target, *, seed=0, size=(300, 260), extras=EXTRAS, **more):
    """Write a map of two sensors with random products."""
    rng, (h, w) = np.random.default_rng(seed), size
    arrays = {
        "classes": random_classes(h, w, seed),
        "probabilities": rng.integers(0, 101, (len(NAMES), h, w)).astype(np.uint8),
        "confidence": rng.integers(0, 101, (1, h, w)).astype(np.uint8),
        "entropy": rng.integers(0, 101, (1, h, w)).astype(np.uint8),
        "observations": rng.integers(0, 30, (2, h, w)).astype(np.uint8),
    }
    tiles = more.pop("tiles", lambda key: cut(arrays[key], 96, 144))
    grid = more.pop("grid", grid_of(h, w))
    store = Store.beside(target)
    folder = store.empty_files()
    files = build(folder, target, grid, tiles, LEGEND, ("S2", "Landsat"), SEASON, extras=extras, **more)
    store.commit([path.name for path in files])
    store.complete(target, map_files(target))
    return files, arrays


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
