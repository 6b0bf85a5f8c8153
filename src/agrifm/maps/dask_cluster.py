"""Computation of tiles on dask workers, with a refusal for every way in which a cluster can fail."""

from __future__ import annotations

import asyncio
import logging
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING

from agrifm.errors import InputError, reason
from agrifm.maps.tiles import ComputedTile, TileJob, one_thread
from agrifm.scenes.scene import Area

if TYPE_CHECKING:
    from distributed import Client, Future

QUEUED = 2  # tiles waiting for each worker, so that none is idle
DEATHS = 3  # workers that may die on one tile before the map stops
CONNECTING = 10.0  # seconds until a scheduler must have answered for the first time
ANSWERING = 10.0  # seconds that it may take to say how many workers there are
WITHOUT_WORKERS = 15.0  # seconds without a worker until the map stops
CHECKING = 2.0  # seconds between checks of scheduler and workers

STOPPED = "finished tiles are kept, and the same command resumes."


def spread(job: TileJob, tiles: Sequence[Area], workers: int, address: str | None) -> Iterator[ComputedTile]:
    """Compute tiles on dask workers, one tile for each task; a tile whose worker dies is given to another worker.

    Raises:
        InputError: If the scheduler does not answer, there are no workers, or workers die repeatedly.
    """
    from distributed import KilledWorker

    with _client(workers, address) as client, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")
        watch = _Watch(client, address)
        watch.wait_for_worker()
        # The job is sent once. It is the result of a task, which dask computes again if its worker dies.
        shared = client.submit(pickle.loads, pickle.dumps(job), pure=False)
        waiting = iter(tiles)
        slots = QUEUED * max(1, watch.workers())
        running = {client.submit(_task, shared, tile, pure=False) for tile in islice(waiting, slots)}
        while running:
            for future in watch.finished(running):
                running.remove(future)
                try:
                    computed = future.result(timeout=CONNECTING + WITHOUT_WORKERS)
                except KilledWorker as error:
                    raise _deaths() from error
                except ImportError as error:
                    raise _without_package(address, error) from error
                except (CancelledError, asyncio.CancelledError, TimeoutError, OSError) as error:
                    raise watch.lost(reason(error)) from error
                future.release()
                for tile in islice(waiting, 1):
                    running.add(client.submit(_task, shared, tile, pure=False))
                yield computed


def _task(job: TileJob, tile: Area) -> ComputedTile:
    with one_thread(), ThreadPoolExecutor(1) as thread:
        return tile, job.make(tile, job.read(tile), thread)


@dataclass
class _Watch:
    """Checks of scheduler and workers, for which dask itself waits without a limit."""

    client: Client
    address: str | None

    def workers(self) -> int:
        """Count the workers.

        Raises:
            InputError: If the scheduler does not answer.
        """
        try:
            scheduler = self.client.scheduler
            assert scheduler is not None
            identity = self.client.sync(scheduler.identity, n_workers=-1, callback_timeout=ANSWERING)
        except (OSError, TimeoutError, AssertionError) as error:
            raise self.lost(reason(error)) from error
        return len(identity["workers"])

    def wait_for_worker(self) -> None:
        """Wait for the first worker.

        Raises:
            InputError: If there is none in time.
        """
        start = time.monotonic()
        while not self.workers():
            if time.monotonic() - start > WITHOUT_WORKERS:
                raise self._without_workers()
            time.sleep(min(0.2, WITHOUT_WORKERS))

    def finished(self, running: set[Future]) -> set[Future]:
        """Wait until some of the tasks have ended, with or without an error.

        Raises:
            InputError: If scheduler or workers are gone.
        """
        from distributed import wait

        last_worker = time.monotonic()  # when there was a worker
        while True:
            try:
                return wait(running, timeout=CHECKING, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                if self.client.status not in ("running", "connecting"):
                    raise self.lost(f"the connection is {self.client.status}") from None
            except (CancelledError, asyncio.CancelledError) as error:
                raise self.lost("the connection was lost") from error
            if self.workers():
                last_worker = time.monotonic()
            elif time.monotonic() - last_worker > WITHOUT_WORKERS:
                raise self._without_workers()

    def lost(self, why: str) -> InputError:
        """The error for a scheduler that no longer answers."""
        return InputError(
            self._where,
            found=f"a dask scheduler that no longer answers: {why}",
            expected="a scheduler that runs until the map is finished",
            repair=f"start it again: {STOPPED}",
        )

    def _without_workers(self) -> InputError:
        return InputError(
            self._where,
            found=f"no workers for {WITHOUT_WORKERS:g} seconds",
            expected="at least one dask worker",
            repair=f"start some with 'dask worker {self.address or 'tcp://...'}': {STOPPED}",
        )

    @property
    def _where(self) -> str:
        return "--workers" if self.address is None else f"--dask {self.address}"


def _deaths() -> InputError:
    return InputError(
        "workers",
        found=f"{DEATHS} workers in a row died on one tile",
        expected="workers that run until the map is finished",
        repair="give them more memory or a smaller --memory; the same command resumes from here.",
    )


def _without_package(address: str | None, error: ImportError) -> InputError:
    return InputError(
        f"--dask {address}",
        found=f"a worker that cannot import what it needs: {reason(error)}",
        expected="workers with this version of agrifm",
        repair="install the same environment for the workers.",
    )


def dask_setup(worker: object) -> None:
    """Ignore Ctrl-C in workers, because the main process ends them; dask calls this in each worker."""
    with suppress(ValueError):  # outside of the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _client(workers: int, address: str | None) -> Generator[Client]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": DEATHS,
        "distributed.comm.timeouts.connect": f"{CONNECTING:g}s",
    }
    forked = address is None and sys.platform == "linux"
    if forked:
        settings["distributed.worker.multiprocessing-method"] = "forkserver"
    with dask.config.set(settings), _quiet():
        if forked:
            _import_before_workers_start()
        if address is None:
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=None,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                preload=[__name__],
            )
            with local as cluster, Client(cluster) as client:
                yield client
            return
        client = _connected(address)
        try:
            yield client
        finally:
            with suppress(Exception):  # it may be gone, which was reported before
                client.close(timeout=CONNECTING)


def _import_before_workers_start() -> None:
    """Let the process from which workers are forked import what they need, once instead of in each of them."""
    from distributed.utils import get_mp_context

    context = get_mp_context()  # the first call sets dask's own list of modules, which this one replaces
    context.set_forkserver_preload(["distributed", __name__])


def _connected(address: str) -> Client:
    from distributed import Client

    try:
        _greet(address)
        return Client(address, timeout=CONNECTING)
    except Exception as error:  # for invalid addresses and ports of other services, dask raises any exception
        raise InputError(
            f"--dask {address}",
            found=f"no scheduler that answers: {reason(error)}",
            expected="a running dask scheduler, e.g. tcp://10.0.0.1:8786",
            repair="start one with 'dask scheduler' and workers with 'dask worker tcp://...'.",
        ) from error


def _greet(address: str) -> None:
    """Ask for the identity of a scheduler first, because a client waits without a limit at a port that never answers.

    Raises:
        TimeoutError: If there was no answer.
        Exception: Any exception that dask raises if there is no scheduler.
    """
    answers: Queue[Exception | None] = Queue()

    async def ask() -> None:
        from distributed.core import rpc

        async with rpc(address) as scheduler:
            await scheduler.identity(n_workers=0)

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(ask(), CONNECTING))
            answers.put(None)
        except Exception as error:
            answers.put(error)

    Thread(target=run, daemon=True).start()  # it may never return
    try:
        error = answers.get(timeout=CONNECTING + 1)
    except Empty:
        error = TimeoutError(f"no answer within {CONNECTING:g} seconds")
    if error is not None:
        raise error


@contextmanager
def _quiet() -> Generator[None]:
    """Keep dask from logging tracebacks of errors that are reported as a refusal."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
