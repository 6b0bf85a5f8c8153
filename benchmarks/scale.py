"""What large areas cost, and how well many workers share them: the real planner with simulated workers.

``python benchmarks/scale.py`` lays out tiles as ``agrifm map`` does on whole Sentinel-2 granules and hands them to
workers from one queue, each worker the next tile as soon as it is free. Tiles differ in time, some workers are
stragglers, and some tiles fail after a random part of their time and go to the next free worker. Efficiency is the time
that the work would take without stragglers, failures and waiting, divided by the time until the last tile is there.

Seconds of one tile come from ``--seconds``, CPU seconds for a million pixels as ``benchmarks/map_speed.py`` measures.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass

import numpy as np

from agrifm.maps.options import DEFAULTS
from agrifm.maps.windows import lay_out

GRANULE = 10_980  # pixels of 10 m along a side of a Sentinel-2 granule
BYTES = 4  # of a pixel of one band and date in memory
BANDS = 10
SPREAD = 0.2  # deviation of the logarithm of the time of a tile: clouds leave less to compute
STRAGGLERS = 0.01  # share of workers that are slow
SLOWER = 5.0  # times as long on a straggler
FAILURES = 0.01  # share of tiles that fail and are computed again
WORKERS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Outcome:
    """Result of a simulation.

    Args:
        hours: Hours until the last tile is finished.
        efficiency: Share of the workers' time that went into work that was needed, at the usual speed.
    """

    hours: float
    efficiency: float


def tiles_of_granule(dates: int, window: int, *, overlap: bool) -> np.ndarray:
    """Pixels that are computed for each tile of a granule, with what neighboring tiles compute again.

    Args:
        dates: Dates of the series.
        window: Side of a window in pixels.
        overlap: Whether windows overlap, as those of a network do.
    """
    pixel_bytes = BYTES * BANDS * dates
    windows = lay_out((GRANULE, GRANULE), window, [1], pixel_bytes, DEFAULTS.memory * 1e6, overlap=overlap)
    pixels = []
    for tile in windows.tiles():
        pixels.append(len(windows.over(tile)) * window**2 if overlap else tile.height * tile.width)
    return np.array(pixels, float)


def simulate(seconds: np.ndarray, workers: int, seed: int = 0) -> Outcome:
    """Hand tiles to workers from one queue.

    Args:
        seconds: Usual time of each tile.
        workers: Number of workers.
        seed: Seed of the times, stragglers and failures.
    """
    rng = np.random.default_rng(seed)
    slowness = np.where(rng.random(workers) < STRAGGLERS, SLOWER, 1.0)
    queue = list(seconds * np.exp(SPREAD * rng.standard_normal(len(seconds)) - SPREAD**2 / 2))
    needed = sum(queue)
    free = [(0.0, worker) for worker in range(workers)]
    end = 0.0
    for tile in queue:  # grows while it is read: a tile that fails is appended
        moment, worker = heapq.heappop(free)
        duration = tile * slowness[worker]
        if rng.random() < FAILURES:
            duration *= rng.random()
            queue.append(tile)
        moment += duration
        end = max(end, moment)
        heapq.heappush(free, (moment, worker))
    return Outcome(end / 3600, needed / (workers * end))


def main() -> None:
    """Plan, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="CPU seconds for a million pixels")
    parser.add_argument("--dates", type=int, default=30)
    parser.add_argument("--window", type=int, default=64, help="side of a window in pixels")
    parser.add_argument("--overlap", action="store_true", help="windows overlap, as those of a network")
    asked = parser.parse_args()
    pixels = tiles_of_granule(asked.dates, asked.window, overlap=asked.overlap)
    repeated = pixels.sum() / GRANULE**2 - 1
    km2 = (GRANULE / 100) ** 2
    print(f"{len(pixels)} tiles a granule of {km2:,.0f} km2; {repeated:.0%} of the pixels computed again")
    print("| area | workers | hours | km2 an hour | efficiency |")
    print("|---|---:|---:|---:|---:|")
    for name, granules in (("one granule", 1), ("100 granules", 100)):
        seconds = np.tile(pixels, granules) / 1e6 * asked.seconds
        for workers in WORKERS:
            outcome = simulate(seconds, workers)
            speed = granules * km2 / outcome.hours
            print(f"| {name} | {workers:,} | {outcome.hours:,.2f} | {speed:,.0f} | {outcome.efficiency:.0%} |")


if __name__ == "__main__":
    main()
