"""Shards over HTTP and in the memory of fsspec: equal records, new attempts, and names of shards that stay bad."""

import time
from types import SimpleNamespace

import fsspec
import pytest
from loopback import BUSY, CUT, MISSING, Fault, Loopback
from test_shards import record, write
from torch.utils.data import DataLoader, Dataset

from agrifm.errors import InputError, Unreadable
from agrifm.network import files as remote
from agrifm.network import retry as attempts
from agrifm.pretraining.shards import MANIFEST, Shards

BAD = "S2-00001.tar"


@pytest.fixture
def waits(monkeypatch):
    """The pauses before new attempts, which are recorded and not slept."""
    pauses = []
    monkeypatch.setattr(attempts, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    return pauses


@pytest.fixture
def server(tmp_path, waits):
    write(tmp_path / "set")
    with Loopback(tmp_path / "set") as opened:
        yield opened


def in_memory(tmp_path, name):
    """The same shards at an address of ``memory://``."""
    system, folder = fsspec.filesystem("memory"), write(tmp_path / "set")
    for path in folder.iterdir():
        system.pipe_file(f"/{name}/{path.name}", path.read_bytes())
    return f"memory://{name}"


def test_over_http_all_is_read_with_one_request_for_each_file(server, tmp_path):
    near, far = Shards.open(tmp_path / "set"), Shards.open(server.address + "/")
    assert far.groups == near.groups
    assert far.fingerprint == near.fingerprint
    assert [far.record(i).to_bytes() for i in range(14)] == [near.record(i).to_bytes() for i in range(14)]
    assert sorted(request.path for request in server.requests) == sorted(x.name for x in (tmp_path / "set").iterdir())


def test_from_memory(tmp_path):
    far = Shards.open(in_memory(tmp_path, "whole"), damaged="skip")
    assert [far.record(7 + i).name for i in range(7)] == [f"S2{i}" for i in range(7)]


@pytest.mark.parametrize("faults", [[BUSY], [CUT, BUSY, CUT], [Fault(429)] * 4])
def test_what_passes_is_waited_for(server, waits, faults):
    source = Shards.open(server.address)
    server.faults[BAD] = list(faults)
    assert source.record(10).name == "S23"
    assert waits == list(remote.WAITS[: len(faults)])


def test_a_busy_manifest_is_waited_for(server, waits):
    server.faults[MANIFEST] = [BUSY, CUT]
    assert len(Shards.open(server.address)) == 14
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("fault", "found", "asked"),
    [
        (BUSY, "503.*; tried 5 times", 5),
        (CUT, "payload is not completed.*; tried 5 times", 5),
        (MISSING, "FileNotFoundError", 1),
        (Fault(403), "403", 1),
    ],
)
def test_what_stays_bad_is_named_and_its_samples_are_counted(server, fault, found, asked):
    source = Shards.open(server.address)
    server.faults[BAD] = [fault] * 9
    with pytest.raises(Unreadable, match=rf"{BAD}\n.*{found}(.|\n)*3 samples of S2 are lost(.|\n)*{MANIFEST}"):
        source.record(10)
    assert server.count(BAD) == asked
    assert source.record(7).name == "S20"


@pytest.mark.parametrize("mode", ["refuse", "skip"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_damage_stops_the_run_in_both_modes(server, tmp_path, damage, mode):
    """Nothing is left out in mid-run: that would change the order of all that follows."""
    path = tmp_path / "set" / BAD
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data[:-9] if damage == "truncated" else data)
    source = Shards.open(server.address, damaged=mode)
    assert (len(source), source.lost) == (14, ())
    with pytest.raises(Unreadable, match=rf"{BAD}\n.*{damage}.*tried 5 times"):
        source.record(10)


def test_a_local_shard_that_goes_bad_in_mid_run_stops_it_too(tmp_path, waits):
    source = Shards.open(write(tmp_path / "set"), damaged="skip")
    (tmp_path / "set" / BAD).unlink()
    with pytest.raises(Unreadable, match=rf"{BAD}\n.*No such file(.|\n)*damaged: skip"):
        source.record(10)
    assert waits == []


@pytest.mark.parametrize("place", ["nowhere://data", "memory://empty", "http://127.0.0.1:9/data"])
def test_places_that_do_not_open_are_refused(place, waits):
    with pytest.raises(InputError, match=rf"{place}/manifest.json\n(.|\n)*agrifm fractions build"):
        Shards.open(place)


class Names(Dataset):
    """Names of the records of a source."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source.record(index).name


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_processes_read_over_http_after_the_main_one_did(server, start):
    source = Shards.open(server.address)
    source.record(0)
    loader = DataLoader(Names(source), num_workers=2, batch_size=None, multiprocessing_context=start)
    assert list(loader)[7:] == [record(i).name for i in range(7)]
