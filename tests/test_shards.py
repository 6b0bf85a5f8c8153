"""Shards: records are read back, bytes are reproducible, and every bad shard is named and counted."""

import hashlib
import io
import json
import os
import resource
import signal
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from agrifm.data.records import COVERS, Record
from agrifm.errors import InputError, Unreadable
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.pretraining.shards import Shards
from agrifm.tasks.fractions import COVERS as TASK_COVERS


def record(number, sensor="S2"):
    rng = np.random.default_rng(number)
    shares = rng.dirichlet(np.ones(9), (8, 8)).transpose(2, 0, 1).astype(np.float32)
    image = rng.integers(0, 60000, (3, 2, 8, 8)).astype(np.uint16)
    days, clear = np.arange(3, dtype=np.int32) + 19000, rng.integers(0, 2, (3, 8, 8)).astype(np.uint8)
    return Record(sensor, f"{sensor}{number}", image, days, clear, shares[:8], shares[8], 1.5, 46.25, 2022, "temperate")


def write(folder, count=7, size=3, **options):
    with ShardWriter(folder, size=size, **options) as writer:
        for number in range(count):
            writer.add(record(number))
            writer.add(record(100 + number, "Modis"))
    return folder


def test_everything_is_read_back_by_sensor(tmp_path):
    shards = Shards.open(write(tmp_path / "set"))
    assert len(shards) == 14
    assert shards.groups == {"Modis": (0, (3, 3, 1)), "S2": (7, (3, 3, 1))}
    for number in range(7):
        found, expected = vars(shards.record(7 + number)), vars(record(number))
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    sample = shards.read(7, lambda total: np.array([0, 2]))
    assert sample.images["S2"].shape == (2, 2, 8, 8)
    assert sample.dates["S2"].tolist() == [19000, 19002]


def test_label_is_the_known_part_and_nan_where_most_is_unknown():
    one = record(0)
    one.unknown[0, 0], one.fractions[:, 0, 0] = 0.6, 0.05
    label = one.sample().label
    assert label[:, 0, 0].isnan().all()
    np.testing.assert_allclose(label.nansum(0).ravel()[1:], 1, rtol=1e-5)


def test_equal_records_give_equal_bytes_and_errors_leave_nothing(tmp_path):
    one, two = write(tmp_path / "a"), write(tmp_path / "b")
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.iterdir())
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "c") as writer:  # noqa: PT012
        writer.add(record(0))
        raise KeyboardInterrupt
    names = (path.name for path in tmp_path.iterdir() if path.suffix != ".lock")  # locks stay, empty
    assert sorted(names) == ["a", "b"]
    with pytest.raises(InputError, match="overwrite"):
        write(one)
    assert len(Shards.open(write(one, count=2, overwrite=True))) == 4
    assert COVERS == TASK_COVERS


@pytest.mark.parametrize("damage", ["missing", "truncated", "corrupt"])
def test_bad_shard_is_named_and_its_samples_are_counted(tmp_path, damage):
    folder = write(tmp_path / "set")
    path = folder / "S2-00001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.unlink() if damage == "missing" else path.write_bytes(data[:-9] if damage == "truncated" else data)
    with pytest.raises(InputError, match=rf"S2-00001.tar\n.*{damage}(.|\n)*3 samples of S2(.|\n)*damaged: skip"):
        Shards.open(folder).record(10)
    remaining = Shards.open(folder, damaged="skip")
    assert [(lost.name, lost.samples) for lost in remaining.lost] == [("S2-00001.tar", 3)]
    assert [remaining.record(i).name for i in range(7, 11)] == ["S20", "S21", "S22", "S26"]


def test_wrong_shares_and_manifests_are_refused(tmp_path):
    wrong = replace(record(0), unknown=record(0).unknown + 0.5)
    with ShardWriter(tmp_path / "x") as writer:
        writer.add(record(1))
        with pytest.raises(InputError, match=r"sums to 1\.5"):
            writer.add(wrong)
    with pytest.raises(InputError, match=r"manifest\.json"):
        Shards.open(tmp_path)


def test_records_are_checked_when_they_are_read(tmp_path, monkeypatch):
    """A shard may have the right checksum and hold wrong values."""
    wrong = replace(record(0), unknown=record(0).unknown + 0.5)
    with monkeypatch.context() as patch, ShardWriter(tmp_path / "set") as writer:
        patch.setattr(Record, "check", lambda self, where: None)
        writer.add(wrong)
    with pytest.raises(InputError, match=r"S2-00000\.tar: record 0: fractions\n.*64 cells.*sums to 1\.5"):
        Shards.open(tmp_path / "set").record(0)


@pytest.mark.parametrize(("content", "found"), [(b"x" * 2048, "no tar"), (b"\0" * 10240, "0 records where")])
def test_shards_of_another_content_are_named(tmp_path, content, found):
    folder = write(tmp_path / "set", count=1)
    (folder / "S2-00000.tar").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][1] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Unreadable, match=rf"S2-00000\.tar\n.*{found}(.|\n)*1 sample of S2 is lost"):
        Shards.open(folder).record(1)


# Stopped and concurrent writers


@pytest.mark.parametrize("between", [False, True])
def test_a_killed_writer_loses_nothing_and_the_next_one_finishes(tmp_path, monkeypatch, between):
    """Killed before its first rename, or between putting the old data set aside and the new one into its place."""
    folder, real = write(tmp_path / "set", count=1), Path.replace

    def replace(self, target):
        if between:
            real(self, target)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        monkeypatch.setattr(Path, "replace", replace)
        write(folder, count=2, overwrite=True)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(list(tmp_path.glob(".set.*"))) == (3 if between else 2)  # the lock, and the unfinished folder
    with pytest.raises(KeyboardInterrupt), ShardWriter(folder, overwrite=True):  # noqa: PT012
        assert len(Shards.open(folder)) == 2  # the old one is there until the new one is complete
        raise KeyboardInterrupt
    assert len(Shards.open(write(folder, count=2, overwrite=True))) == 4
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["set"]


def test_two_writers_of_one_folder_do_not_meet(tmp_path):
    with ShardWriter(tmp_path / "set") as one:
        one.add(record(0))
        with pytest.raises(InputError, match="another process"), ShardWriter(tmp_path / "set"):
            pass
        late = ShardWriter(tmp_path / "set")  # made while the folder did not exist yet
        one.attach("report.json", "{}")
    assert len(Shards.open(tmp_path / "set")) == 1
    assert (tmp_path / "set" / "report.json").read_text() == "{}"
    with pytest.raises(InputError, match="something of that name"), late:
        pass


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match="no space left"):
            write(tmp_path / "set", count=20, size=20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


# Manifests and members of unknown origin


def shard_line(**values):
    return {"name": "S2-00000.tar", "sensor": "S2", "samples": 1, "bytes": 10240, "sha256": "a" * 64, **values}


MANIFESTS = {
    "a list": [],
    "deep": None,
    "no shards": {"shards": []},
    "shards of text": {"shards": "abc"},
    "a name in another folder": {"shards": [shard_line(name="../x.tar")]},
    "a number as name": {"shards": [shard_line(name=5)]},
    "a list as sensor": {"shards": [shard_line(sensor=["S2"])]},
    "no checksum": {"shards": [shard_line(sha256=None)]},
    "samples as text": {"shards": [shard_line(samples="1")]},
    "half a sample": {"shards": [shard_line(samples=1.5)]},
    "true": {"shards": [shard_line(samples=True)]},
    "more samples than fit": {"shards": [shard_line(samples=10**12)]},
    "terabytes": {"shards": [shard_line(samples=10**9, bytes=10**15)]},
    "a key too many": {"shards": [shard_line(more=1)]},
    "one twice": {"shards": [shard_line(), shard_line()]},
    "counts that contradict": {"shards": [shard_line()], "sensors": {"S2": {"samples": 2}}},
    "another sensor": {"shards": [shard_line()], "sensors": {"Modis": {"samples": 1}}},
    "counts of another type": {"shards": [shard_line()], "sensors": [1]},
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_that_are_none_are_refused(tmp_path, case):
    values = MANIFESTS[case]
    values = {"format": "agrifm-shards-1", "classes": list(COVERS), **values} if isinstance(values, dict) else values
    (tmp_path / "manifest.json").write_text("[" * 100_000 if values is None else json.dumps(values))
    with pytest.raises(InputError, match="fractions build") as caught:
        Shards.open(tmp_path)
    assert caught.value.where == f"{tmp_path}/manifest.json"


def tar(*members):
    """A tar of members given as (name, data, type)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            file.addfile(member, io.BytesIO(content))
    return data.getvalue()


def resized(data, size):
    """The same tar; the header of its first member says another size."""
    header = bytearray(data)
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def wrong_sensor():
    return tar(("../../x.safetensors", record(0, "Modis").to_bytes(), tarfile.REGTYPE))


GOOD = ("S2-0.safetensors", record(0).to_bytes(), tarfile.REGTYPE)
TARS = {
    "a link": (tar(("S2-0.safetensors", b"", tarfile.SYMTYPE)), "0 records"),
    "cut off": (tar(GOOD)[:2048], "no tar"),
    "a size that is too large": (resized(tar(GOOD), b"77777777777\0"), "no tar"),
    "a negative size": (resized(tar(GOOD, GOOD), b"\xff" * 10 + b"\xfe\0"), "no tar|records where"),
    "two records": (tar(GOOD, GOOD), "2 records where"),
    "a record of another sensor": (wrong_sensor(), "a sample of Modis"),
}


@pytest.mark.parametrize("case", TARS)
def test_tars_that_lie_are_named_and_nothing_is_unpacked(tmp_path, case):
    data, message = TARS[case]
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "S2-00000.tar").write_bytes(data)
    line = shard_line(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = {"format": "agrifm-shards-1", "classes": list(COVERS), "shards": [line]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message) as caught:
        Shards.open(folder).record(0)
    assert "S2-00000.tar" in caught.value.where
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == []


def member(drop=(), **changes):
    """A record as bytes, with other values."""
    one = record(0)
    values = {"image": one.image, "days": one.days, "clear": one.clear, "fractions": one.fractions}
    values |= {"unknown": one.unknown} | {key: x for key, x in changes.items() if isinstance(x, np.ndarray)}
    metadata = {"sensor": "S2", "name": "x", "lon": "1", "lat": "2", "year": "2022", "biome": "", "source": ""}
    metadata |= {key: text for key, text in changes.items() if isinstance(text, str)}
    values["fractions"] = np.ascontiguousarray(values["fractions"])
    keep = {key: np.ascontiguousarray(x) for key, x in values.items() if key not in drop}
    return safetensors.numpy.save(keep, {key: text for key, text in metadata.items() if key not in drop})


MEMBERS = {
    "nothing": b"",
    "a huge header": (1 << 60).to_bytes(8, "little") + b"{}",
    "deep JSON": (50_000).to_bytes(8, "little") + b"[" * 50_000,
    "no metadata": safetensors.numpy.save({"image": np.zeros(3, np.float32)}),
    "no image": member(drop=("image",)),
    "text for an image": member(drop=("image",), image="5"),
    "no year": member(drop=("year",)),
    "a year of letters": member(year="soon"),
    "a place beyond the Earth": member(lon="nan"),
    "more metadata": member(more="x"),
    "no frames": member(image=np.zeros((0, 2, 8, 8), np.uint16), days=np.zeros(0, np.int32)),
    "days as fractions": member(days=np.array([0.5, 1, 2], np.float32)),
    "days of no year": member(days=np.array([1, 2, 2**31 - 1], np.int32)),
    "a mask of fractions": member(clear=np.zeros((3, 8, 8), np.float32)),
    "NaN": member(unknown=np.full((8, 8), np.nan, np.float32)),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_members_that_are_no_records_are_refused_by_name(case):
    assert Record.from_bytes(member(), "here").year == 2022
    with pytest.raises(InputError) as caught:
        Record.from_bytes(MEMBERS[case], "S2-00000.tar: record 3")
    assert caught.value.where.startswith("S2-00000.tar: record 3")
