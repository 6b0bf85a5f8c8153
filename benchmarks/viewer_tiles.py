"""How long the viewer takes for a tile of a large map: ``python benchmarks/viewer_tiles.py --side 5000``.

A made-up map of fields is written as a Cloud-Optimized GeoTIFF. Tiles at every zoom at which the map is looked at are
asked for in random order, each once, through the server without a network; the cache holds none of them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.warp import transform_bounds
from run_log import append
from starlette.testclient import TestClient

from agrifm.viewer.class_map import ClassMap
from agrifm.viewer.server import application
from agrifm.viewer.view import View

CLASSES = 8
FIELD = 23  # pixels along a field
ZOOMS = range(8, 17)
MOST = 60  # tiles of one zoom
TOKEN = "benchmark"


def write_map(path: Path, side: int) -> None:
    """Write a map of square fields whose borders are noisy."""
    rng = np.random.default_rng(0)
    fields = rng.integers(0, CLASSES, (side // FIELD + 1, side // FIELD + 1), dtype=np.uint8)
    rows = (np.arange(side) + rng.integers(-1, 2, side)).clip(0) // FIELD
    columns = (np.arange(side) + rng.integers(-1, 2, side)).clip(0) // FIELD
    profile = {
        "driver": "COG",
        "dtype": "uint8",
        "count": 1,
        "height": side,
        "width": side,
        "crs": "EPSG:32631",
        "transform": rasterio.Affine(10, 0, 480_000, 0, -10, 5_530_000),
        "nodata": 255,
        "compress": "deflate",
        "overview_resampling": "mode",
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write_colormap(1, {value: (30 * value, 200 - 20 * value, 90, 255) for value in range(CLASSES)})
        file.write(fields[rows[:, None], columns], 1)


def tiles_over(path: Path, zoom: int) -> list[tuple[int, int]]:
    """Columns and rows of the tiles of a zoom over a map."""
    with rasterio.open(path) as file:
        west, south, east, north = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    count = 2**zoom

    def row(latitude: float) -> int:
        angle = math.radians(latitude)
        return int((1 - math.asinh(math.tan(angle)) / math.pi) / 2 * count)

    columns = range(int((west + 180) / 360 * count), int((east + 180) / 360 * count) + 1)
    return [(x, y) for x in columns for y in range(row(north), row(south) + 1)]


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=5000, help="pixels of 10 m along a side of the map")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.tif"
        write_map(path, options.side)
        client = TestClient(application(View((ClassMap.open(path),)), TOKEN), base_url="http://127.0.0.1:8000")
        [first] = client.get(f"/{TOKEN}/view.json").json()["maps"]
        rng = np.random.default_rng(1)
        seconds = []
        print("| zoom | tiles | median, ms | 95 %, ms |\n|---:|---:|---:|---:|")
        for zoom in ZOOMS:
            tiles = tiles_over(path, zoom)
            chosen = rng.permutation(len(tiles))[:MOST]
            of_zoom = []
            for number in chosen:
                x, y = tiles[number]
                begun = time.perf_counter()
                answer = client.get(f"/{TOKEN}/map/{first['number']}/0/{zoom}/{x}/{y}.png")
                of_zoom.append(time.perf_counter() - begun)
                assert answer.status_code == 200, answer.text
            print(
                f"| {zoom} | {len(of_zoom)} | {1e3 * np.median(of_zoom):.0f} | {1e3 * np.quantile(of_zoom, 0.95):.0f} |"
            )
            seconds += of_zoom
        slow = 1e3 * np.quantile(seconds, 0.95)
        text = f"viewer: tiles of a map of {options.side:,} x {options.side:,} pixels, 95 % within {slow:.0f} ms"
        print(text)
        append(text)


if __name__ == "__main__":
    main()
