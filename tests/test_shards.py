"""Shards: what is written is read back, bytes are reproducible, and every bad shard is named and counted."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from agrifm.data.records import COVERS, Record
from agrifm.data.shard_writer import ShardWriter
from agrifm.data.shards import Shards
from agrifm.errors import InputError, Unreadable
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
    left = (path.name for path in tmp_path.iterdir() if path.suffix != ".lock")  # locks stay, empty
    assert sorted(left) == ["a", "b"]
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
    with pytest.raises(InputError, match=rf"S2-00001.tar\n.*{damage}(.|\n)*3 samples of S2(.|\n)*lost: count"):
        Shards.open(folder).record(10)
    rest = Shards.open(folder, lost="count")
    assert [(lost.name, lost.samples) for lost in rest.lost] == [("S2-00001.tar", 3)]
    assert [rest.record(i).name for i in range(7, 11)] == ["S20", "S21", "S22", "S26"]


def test_wrong_shares_and_manifests_are_refused(tmp_path):
    wrong = replace(record(0), unknown=record(0).unknown + 0.5)
    with ShardWriter(tmp_path / "x") as writer:
        writer.add(record(1))
        with pytest.raises(InputError, match=r"sums to 1\.5"):
            writer.add(wrong)
    with pytest.raises(InputError, match=r"manifest\.json"):
        Shards.open(tmp_path)


def test_records_are_checked_when_they_are_read(tmp_path, monkeypatch):
    """Whoever wrote them: the checksums are right, what they hold is not."""
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
    with pytest.raises(Unreadable, match=rf"S2-00000\.tar\n.*{found}(.|\n)*1 samples of S2"):
        Shards.open(folder).record(1)
