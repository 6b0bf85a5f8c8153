"""Write a large synthetic scene of two sensors, to measure memory and speed of mapping on.

``python benchmarks/make_scene.py --out DIR --size 5000 --dates 12`` writes the files that
``agrifm.synthetic.scenes`` writes, in compressed blocks of 512: ten bands and SCL of Sentinel-2, six
bands and Fmask of Landsat, for every date.

A block of 960 x 960 pixels of the farmland is rendered once, with its clouds, and laid out again and again, every
second time mirrored, so that fields and clouds meet at its borders. The numbers repeat every 1920 pixels; the work of
reading, computing and writing does not depend on that, since the compressor looks back only 32 kB. Rows are
written 512 at a time, so memory holds the block and one strip whatever the size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import rasterio

from agrifm.io import whole_folder
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import GRID, Landscape
from agrifm.synthetic.products import Raster
from agrifm.synthetic.scenes import LandscapeBlock, refuse_folder

CELL, CELLS = 240, 4  # pixels of a rendered cell, and cells along a side of the block
STRIP = 512  # rows written at a time; also the side of a compressed block


def mirrored(pixels: int, start: int, stop: int) -> np.ndarray:
    """Positions inside a block of ``pixels`` for positions of the scene, to and fro."""
    position = np.arange(start, stop) % (2 * pixels)
    return np.minimum(position, 2 * pixels - 1 - position)


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
            file.write(raster.values[down[:, None], across], 1, window=((start, start + len(down)), (0, side)))


def ticker(what: str, total: int) -> Callable[[], None]:
    """A function to call after each of some equal steps; it shows the time left."""
    begun, steps = time.monotonic(), count(1)

    def advance() -> None:
        done = next(steps)
        left = (time.monotonic() - begun) / done * (total - done)
        end = "\n" if done == total else ""
        print(f"\r{what}: {done} of {total}, {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)

    return advance


def make(out: Path, size: int, dates: int, seed: int = 0) -> Path:
    """Write a scene of ``size`` x ``size`` pixels of 10 m with ``dates`` dates of each sensor; it appears whole."""
    frames = (("S2", dates), ("Landsat", dates))
    landscape = Landscape(seed=seed, rows=CELLS, columns=CELLS, size=CELL, frames=frames)
    block = LandscapeBlock(landscape, range(CELLS), range(CELLS))
    refuse_folder(out)
    with whole_folder(out) as unfinished:
        for sensor in (S2, LANDSAT):
            series = block.series(sensor, ticker(f"{sensor.name}, rendered cells", CELLS**2))
            advance = ticker(f"{sensor.name}, written files", dates * (len(sensor.bands) + 1))
            for raster in series.rasters():
                write_repeated(raster, unfinished, size * GRID)
                advance()
    return out


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder to make.")
    parser.add_argument("--size", type=int, default=5000, help="Pixels of 10 m along a side.")
    parser.add_argument("--dates", type=int, default=12, help="Dates of each sensor.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the farmland.")
    asked = parser.parse_args()
    begun = time.monotonic()
    made = make(asked.out, asked.size, asked.dates, asked.seed)
    stored = sum(path.stat().st_size for path in made.rglob("*.tif"))
    taken, area = time.monotonic() - begun, (asked.size * GRID / 1000) ** 2
    print(f"{made}: {area:,.0f} km2, {stored / 1e6:,.0f} MB ({stored / 1e6 / area:.2f} per km2) in {taken:.0f} s")


if __name__ == "__main__":
    main()
