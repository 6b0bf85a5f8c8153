"""Computation of all tiles of a map, in this process or on a dask cluster, with the same pixels to the bit."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import ProgressColumn as Column
from rich.text import Text

from agrifm.errors import counted
from agrifm.maps.dask_cluster import spread
from agrifm.maps.store import DamagedTile, Store
from agrifm.maps.tiles import ComputedTile, TileJob, one_thread
from agrifm.progress import Timing
from agrifm.scenes.scene import Area

REPORT_EVERY = 60.0  # seconds between lines of progress where there is no terminal


def work(
    job: TileJob, store: Store, console: Console, timing: Timing, *, workers: int = 1, dask: str | None = None
) -> None:
    """Compute all tiles that are not finished yet.

    Args:
        job: What to compute.
        store: Where finished tiles are stored.
        console: Where progress is shown.
        timing: Where the seconds of reading, computing and writing are added.
        workers: Processes on this machine; 1 computes in this process, on as many threads as there are cores.
        dask: Address of a dask scheduler whose workers compute the tiles instead.
    """
    tiles = job.windows.tiles()
    todo = list(_unfinished(tiles, store, console))
    if len(todo) < len(tiles):
        console.print(f"resuming: {len(tiles) - len(todo)} of {counted(len(tiles), 'tile')} finished", highlight=False)
    if not todo:
        return
    km2 = partial(_km2, job.scene.resolution)
    total = sum(km2(tile) for tile in tiles)
    left = sum(km2(tile) for tile in todo)
    in_this_process = workers == 1 and dask is None
    if in_this_process:
        results = here(job, todo, timing)
    else:
        results = timing.each("computing", spread(job, todo, workers, dask))
    # One tile is written while the next is computed; more would pile up in memory on a slow disk.
    with _progress(console, total, left) as step, ThreadPoolExecutor(1) as writer:
        writing: deque = deque()
        for tile, arrays in results:
            writing.append(writer.submit(store.save, tile, arrays))
            with timing.during("writing"):
                while len(writing) > 1:
                    writing.popleft().result()
            step(km2(tile))
        with timing.during("writing"):
            for unfinished in writing:
                unfinished.result()


def _unfinished(tiles: Sequence[Area], store: Store, console: Console) -> Iterator[Area]:
    """Tiles that must be computed: missing and damaged ones; a line is printed for each damaged one."""
    for tile in tiles:
        try:
            if not store.done(tile):
                yield tile
        except DamagedTile as error:
            console.print(f"computed again because it was damaged: tile {error.path.name}", highlight=False)
            store.drop(error.path)
            yield tile


def here(job: TileJob, tiles: Sequence[Area], timing: Timing) -> Iterator[ComputedTile]:
    """Compute tiles in this process, and read the next one meanwhile."""
    with one_thread(), ThreadPoolExecutor(os.cpu_count()) as threads, ThreadPoolExecutor(1) as reader:
        reading = reader.submit(job.read, tiles[0]) if tiles else None
        for number, tile in enumerate(tiles):
            assert reading is not None
            with timing.during("reading"):
                data = reading.result()
            if number + 1 < len(tiles):
                reading = reader.submit(job.read, tiles[number + 1])
            with timing.during("computing"):
                arrays = job.make(tile, data, threads)
            yield tile, arrays


def _km2(resolution: float, tile: Area) -> float:
    return tile.height * tile.width * resolution**2 / 1e6


class _Speed(Column):
    """Square kilometers done and per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        text = f"{task.completed:,.1f} of {task.total:,.1f} km2"
        return Text(f"{text}, {speed:.2f} km2/s" if speed else text)


@contextmanager
def _progress(console: Console, total: float, left: float) -> Generator[Callable[[float], None]]:
    """Show a bar with km2/s and time left; where there is no terminal, print a line now and then."""
    columns = (TextColumn("mapping"), BarColumn(), _Speed(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, speed_estimate_period=120)
    task = bar.add_task("", total=total, completed=0)
    bar.advance(task, total - left)
    start = time.monotonic()
    reported = start
    done = 0.0

    def step(km2: float) -> None:
        nonlocal reported, done
        now = time.monotonic()
        done += km2
        bar.advance(task, km2)
        if now - reported > REPORT_EVERY and not console.is_terminal:
            reported = now
            speed = done / (now - start)
            rest = timedelta(seconds=round((left - done) / speed))
            console.print(
                f"{total - left + done:,.1f} of {total:,.1f} km2, {speed:.2f} km2/s, {rest} left", highlight=False
            )

    with bar if console.is_terminal else nullcontext():
        yield step
