"""Write a large made-up scene of two sensors, to measure memory and speed of mapping on.

``python benchmarks/make_scene.py --out DIR --size 5000 --dates 12`` writes the files ``agrifm.data.farmland`` writes,
in compressed blocks of 512: ten bands and SCL of Sentinel-2, six bands and Fmask of Landsat, for every date.

A block of 960 x 960 pixels of the farmland is rendered once, with its clouds, and laid out again and again, every
second time mirrored, so that fields and clouds meet at its borders. The numbers repeat every 1920 pixels; the work of
reading, computing and writing does not depend on that, since the compressor looks back only 32 kB. Rows are
written 512 at a time, so memory holds the block and one strip whatever the size.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from agrifm.data.farmland import Part, Raster, new_folder
from agrifm.data.synthetic import GRID, Landscape
from agrifm.sensors import LANDSAT, S2

CELL, CELLS = 240, 4  # pixels of a rendered cell, and cells along a side of the block
STRIP = 512  # rows written at a time; also the side of a compressed block


def mirrored(count: int, start: int, stop: int) -> np.ndarray:
    """Positions inside a block of ``count`` pixels for positions of the scene, to and fro."""
    position = np.arange(start, stop) % (2 * count)
    return np.minimum(position, 2 * count - 1 - position)


def write_repeated(raster: Raster, root: Path, meters: float) -> None:
    """Write a raster laid out to and fro over a square of ``meters``, strip by strip."""
    path, (height, width) = root / raster.name, raster.values.shape
    side = -int(-meters // raster.place.transform[0])
    profile = raster.profile(block=STRIP, level=1) | {"height": side, "width": side}
    across = mirrored(width, 0, side)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile) as file:
        for start in range(0, side, STRIP):
            down = mirrored(height, start, min(start + STRIP, side))
            file.write(raster.values[down[:, None], across], 1, window=Window(0, start, side, len(down)))


def make(out: Path, size: int, dates: int, seed: int = 0) -> Path:
    """Write a scene of ``size`` x ``size`` pixels of 10 m with ``dates`` dates of each sensor; it appears whole."""
    frames = (("S2", dates), ("Landsat", dates))
    landscape = Landscape(seed=seed, rows=CELLS, columns=CELLS, size=CELL, frames=frames)
    block, unfinished = Part(landscape, range(CELLS), range(CELLS)), new_folder(out)
    for sensor in (S2, LANDSAT):
        for raster in block.picture(sensor).rasters():
            write_repeated(raster, unfinished, size * GRID)
    return unfinished.replace(out)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--size", type=int, default=5000, help="pixels of 10 m along a side")
    parser.add_argument("--dates", type=int, default=12, help="dates of each sensor")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other farmland")
    asked = parser.parse_args()
    begun = time.monotonic()
    made = make(asked.out, asked.size, asked.dates, asked.seed)
    stored = sum(path.stat().st_size for path in made.rglob("*.tif"))
    print(f"{made}: {stored / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
