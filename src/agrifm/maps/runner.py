"""Work off the tiles of a map, in this process or on a dask cluster: same pixels, to the bit."""

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

from agrifm.maps.dask_cluster import spread
from agrifm.maps.store import DamagedTile, Store
from agrifm.maps.tiles import ComputedTile, MapJob, one_thread
from agrifm.scenes.scene import Area

SAY_EVERY = 60.0  # seconds


def work(job: MapJob, store: Store, console: Console, *, workers: int = 1, dask: str | None = None) -> None:
    """Compute all tiles that are not finished yet.

    Args:
        job: what to compute.
        store: where finished tiles are kept.
        console: where progress is shown.
        workers: processes on this machine; 1 computes here, on as many threads as there are cores.
        dask: address of a dask scheduler whose workers do it instead.
    """
    tiles = job.windows.tiles()
    todo = list(_unfinished(tiles, store, console))
    if len(todo) < len(tiles):
        console.print(f"going on: {len(tiles) - len(todo)} of {len(tiles)} tiles are finished", highlight=False)
    if not todo:
        return
    alone = workers == 1 and dask is None
    km2 = partial(_km2, job.scene.resolution)
    with _progress(console, sum(map(km2, tiles)), sum(map(km2, todo))) as step, ThreadPoolExecutor(1) as writer:
        saved: deque = deque()
        for tile, arrays in here(job, todo) if alone else spread(job, todo, workers, dask):
            saved.append(writer.submit(store.save, tile, arrays))
            while len(saved) > 1:
                saved.popleft().result()
            step(km2(tile))
        for waiting in saved:
            waiting.result()


def _unfinished(tiles: Sequence[Area], store: Store, console: Console) -> Iterator[Area]:
    """Tiles that are still to be computed: missing ones, and damaged ones, of which a line tells."""
    for tile in tiles:
        try:
            if not store.done(tile):
                yield tile
        except DamagedTile as error:
            console.print(f"computed again, as it was damaged: tile {error.path.name}", highlight=False)
            store.drop(error.path)
            yield tile


def here(job: MapJob, tiles: Sequence[Area]) -> Iterator[ComputedTile]:
    """Compute tiles in this process; the next is read meanwhile."""
    with one_thread(), ThreadPoolExecutor(os.cpu_count()) as threads, ThreadPoolExecutor(1) as reader:
        coming = deque(reader.submit(job.read, tile) for tile in tiles[:1])
        for number, tile in enumerate(tiles):
            data = coming.popleft().result()
            coming.extend(reader.submit(job.read, following) for following in tiles[number + 1 : number + 2])
            yield tile, job.make(tile, data, threads)


def _km2(resolution: float, tile: Area) -> float:
    return tile.height * tile.width * resolution**2 / 1e6


class _Speed(Column):
    """Square kilometers a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{task.completed:,.1f} of {task.total:,.1f} km2" + (f", {speed:.2f} km2/s" if speed else ""))


@contextmanager
def _progress(console: Console, total: float, left: float) -> Generator[Callable[[float], None]]:
    """A bar with km2/s and time left; where there is no terminal, a line now and then."""
    columns = (TextColumn("mapping"), BarColumn(), _Speed(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, speed_estimate_period=120)
    task, begun, said, done = bar.add_task("", total=total, completed=0), time.monotonic(), time.monotonic(), 0.0
    bar.advance(task, total - left)

    def step(km2: float) -> None:
        nonlocal said, done
        done, now = done + km2, time.monotonic()
        bar.advance(task, km2)
        if now - said > SAY_EVERY and not console.is_terminal:
            said, speed = now, done / (now - begun)
            rest = timedelta(seconds=round((left - done) / speed))
            console.print(
                f"{total - left + done:,.1f} of {total:,.1f} km2, {speed:.2f} km2/s, {rest} left", highlight=False
            )

    with bar if console.is_terminal else nullcontext():
        yield step
