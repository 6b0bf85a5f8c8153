"""Work off the tiles of a map, in this process or on a dask cluster: same pixels, to the bit."""

from __future__ import annotations

import os
import pickle
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import ProgressColumn as Column
from rich.text import Text

from agrifm.errors import InputError
from agrifm.maps.tiles import Job, Store
from agrifm.memory import keep_freed_memory
from agrifm.scenes.scene import Area

if TYPE_CHECKING:
    from distributed import Client

QUEUED = 2  # tiles waiting for each worker, so that none is idle
SAY_EVERY = 60.0  # seconds
DEATHS = 3  # workers that may die over one tile before the map stops

Made = tuple[Area, dict[str, np.ndarray]]


def work(job: Job, store: Store, console: Console, *, workers: int = 1, dask: str | None = None) -> None:
    """Compute all tiles that are not finished yet.

    Args:
        job: what to compute.
        store: where finished tiles are kept.
        console: where progress is shown.
        workers: processes on this machine; 1 computes here, on as many threads as there are cores.
        dask: address of a dask scheduler whose workers do it instead.
    """
    tiles = job.windows.tiles()
    todo = [tile for tile in tiles if not store.done(tile)]
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


def here(job: Job, tiles: Sequence[Area]) -> Iterator[Made]:
    """Compute tiles in this process; the next is read meanwhile."""
    with one_thread(), ThreadPoolExecutor(os.cpu_count()) as threads, ThreadPoolExecutor(1) as reader:
        coming = deque(reader.submit(job.read, tile) for tile in tiles[:1])
        for number, tile in enumerate(tiles):
            data = coming.popleft().result()
            coming.extend(reader.submit(job.read, following) for following in tiles[number + 1 : number + 2])
            yield tile, job.make(tile, data, threads)


@contextmanager
def one_thread() -> Generator[None]:
    """Every operation of torch runs on the thread that calls it: sums then have one order, however many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread(job: Job, tiles: Sequence[Area], workers: int, address: str | None) -> Iterator[Made]:
    """Compute tiles on dask workers, one tile to a task; a tile whose worker dies is given to another.

    Raises:
        InputError: the scheduler does not answer, or tiles kill their workers.
    """
    from distributed import KilledWorker, as_completed

    with _client(workers, address) as client, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")
        shared = client.submit(pickle.loads, pickle.dumps(job), pure=False)  # a task: made again where it is lost
        rest = iter(tiles)
        slots = QUEUED * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        running = as_completed([client.submit(_task, shared, tile, pure=False) for tile in islice(rest, slots)])
        for future in running:
            try:
                made = future.result()
            except KilledWorker as error:
                raise InputError(
                    "workers",
                    found=f"{DEATHS} workers in a row died over one tile",
                    expected="workers that live",
                    repair="give them more memory or a smaller --memory; the same command goes on from here.",
                ) from error
            future.release()
            for tile in islice(rest, 1):
                running.add(client.submit(_task, shared, tile, pure=False))
            yield made


def _task(job: Job, tile: Area) -> Made:
    with one_thread(), ThreadPoolExecutor(1) as thread:
        return tile, job.make(tile, job.read(tile), thread)


@contextmanager
def _client(workers: int, address: str | None) -> Generator[Client]:
    import dask
    from distributed import Client, LocalCluster

    settings = {"distributed.scheduler.allowed-failures": DEATHS, "distributed.comm.timeouts.connect": "20s"}
    with dask.config.set(settings):
        if address is not None:
            try:
                client = Client(address)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"--dask {address}",
                    found=f"no scheduler that answers: {error}",
                    expected="a running dask scheduler, e.g. tcp://10.0.0.1:8786",
                    repair="start one with 'dask scheduler' and workers with 'dask worker tcp://...'.",
                ) from error
            with client:
                client.wait_for_workers(1)
                yield client
            return
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=None, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client


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
