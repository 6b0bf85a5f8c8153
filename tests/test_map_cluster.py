"""Dask schedulers and workers that do not answer, or no longer: a refusal within seconds."""

import socket
import subprocess
import sys
import threading
import time

import pytest
from test_mapping import SMALL, folder, model, scene, whole  # noqa: F401

from agrifm.errors import InputError
from agrifm.maps import dask_cluster as cluster
from agrifm.maps import tiles
from agrifm.maps.map_scene import map_scene


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Time limits, about ten times shorter; the original ones add up to less than 30 s."""
    assert cluster.CONNECTING + cluster.ANSWERING < 30
    assert cluster.WITHOUT_WORKERS + cluster.CHECKING + cluster.ANSWERING < 30
    for name, seconds in (("CONNECTING", 2.0), ("ANSWERING", 2.0), ("WITHOUT_WORKERS", 1.0), ("CHECKING", 0.2)):
        monkeypatch.setattr(cluster, name, seconds)


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler in a separate process."""
    program = (
        "import asyncio, sys\n"
        "from distributed import Scheduler\n"
        "async def run():\n"
        "    async with Scheduler(port=0, dashboard=False, host='127.0.0.1') as scheduler:\n"
        "        print(scheduler.address, flush=True)\n"
        "        await scheduler.finished()\n"
        "asyncio.run(run())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    yield process, process.stdout.readline().decode().strip()
    process.kill()
    process.wait()


def refused(model, scene, tmp_path, address):  # noqa: F811
    with pytest.raises(InputError) as caught:
        map_scene(model, scene, tmp_path / "map.tif", SMALL, dask=address)
    assert address in caught.value.where
    return str(caught.value)


def test_a_port_that_says_nothing(model, scene, tmp_path):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as mute:
        said = refused(model, scene, tmp_path, f"tcp://127.0.0.1:{mute.getsockname()[1]}")
    assert "no scheduler that answers" in said


def test_a_port_at_which_nobody_listens(model, scene, tmp_path):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "no scheduler that answers" in refused(model, scene, tmp_path, f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["", "nonsense://127.0.0.1:1", "tcp://127.0.0.1:99999999", "127.0.0.1", "tcp://"])
def test_addresses_without_sense(address, model, scene, tmp_path):  # noqa: F811
    assert "no scheduler that answers" in refused(model, scene, tmp_path, address)


def test_a_scheduler_without_workers(scheduler, model, scene, tmp_path):  # noqa: F811
    said = refused(model, scene, tmp_path, scheduler[1])
    assert "no workers" in said
    assert "the same command resumes" in said


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_scheduler_that_dies_or_falls_silent(how, scheduler, model, scene, whole, tmp_path, monkeypatch):  # noqa: F811
    """The middle of a map whose only worker, in this process, is slow."""
    process, address = scheduler
    computing, gone = threading.Event(), threading.Event()

    def slow(*args):
        computing.set()
        gone.wait(30)
        raise RuntimeError

    monkeypatch.setattr(tiles.MapJob, "make", slow)

    def end():
        computing.wait(30)
        process.send_signal({"killed": 9, "stopped": 19}[how])

    worker = threading.Thread(target=run_worker, args=(address, gone), daemon=True)
    worker.start()
    threading.Thread(target=end, daemon=True).start()
    begun = time.monotonic()
    said = refused(model, scene, tmp_path, address)
    gone.set()
    worker.join(30)
    assert "no longer answers" in said
    assert "the same command resumes" in said
    assert time.monotonic() - begun < 60


def run_worker(address, gone):
    import asyncio

    from distributed import Worker

    async def run():
        async with Worker(address, nthreads=1, dashboard=False):
            while not gone.is_set():
                await asyncio.sleep(0.05)

    asyncio.run(run())
