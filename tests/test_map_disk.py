"""Writing a map: complete or not at all, whatever the disk does."""

import errno
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from made_maps import LEGEND, a_map, contents, grid_of

from agrifm.errors import InputError
from agrifm.maps.files import cog
from agrifm.maps.files.cog import class_map, write_cog


def test_a_new_map_leaves_nothing_of_the_old_one(tmp_path):
    target = tmp_path / "m.tif"
    a_map(target)
    a_map(target, seed=1, extras=("confidence",))
    expected = {"m.tif", "m.tif.aux.xml", "m.qml", "m.qlr", "m.json", "m_confidence.tif"}
    assert set(contents(tmp_path)) == expected
    a_map(tmp_path / "other" / "m.tif", seed=1, extras=("confidence",))
    assert contents(tmp_path / "other") == contents(tmp_path)


def refuse(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def failing(pieces):
    """Strips that end with an error while they are read."""
    yield from pieces
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", "tiles/0000.npz")


@pytest.mark.parametrize("where", ["pixels", "copy", "text", "folder"])
def test_a_full_disk_is_told_and_the_old_map_stays(tmp_path, monkeypatch, where):
    target = tmp_path / "m.tif"
    a_map(target)
    before = contents(tmp_path)
    place = {
        "pixels": (rasterio.io.DatasetWriter, "write"),
        "copy": (cog, "copy"),
        "text": (Path, "write_text"),
        "folder": (Path, "mkdir"),
    }[where]
    if where == "copy":  # GDAL gives no error number
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    monkeypatch.setattr(*place, refuse)
    with pytest.raises(InputError, match=r"a full disk|no space left") as caught:
        a_map(target, seed=1)
    monkeypatch.undo()
    assert where == "folder" or "MB of space in" in caught.value.expected
    assert "finished tiles are kept" in caught.value.repair
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob(".*.part"))
    a_map(target, seed=1)
    assert contents(tmp_path) != before


def write_limited(folder, limit):
    """Write in a child process whose files may have ``limit`` bytes; returns 0 if written, 7 if refused.

    The process ends at once: what measures coverage would write a file of its own, under the same limit.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 9
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        write_cog(folder / "m.tif", *noise())
        code = 0
    except InputError as error:
        code = 7 if "space" in error.expected and "quota" in error.repair else 8
    finally:
        os._exit(code)


def noise():
    """Pixels that do not compress: the Cloud-Optimized GeoTIFF, with its overviews, is longer than the plain pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (1024, 1024)).astype(np.uint8)
    return grid_of(1024, 1024), class_map(LEGEND), [(0, 0, pixels)]


def test_no_file_is_cut_off_wherever_a_quota_ends(tmp_path):
    write_cog(tmp_path / "whole.tif", *noise())
    whole = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "m.tif").write_text("of before")
    size = len(whole)
    for limit in (1000, 700_000, 2**20 + 100, 1_200_000, size - 3000, size - 10, size - 1, size):
        assert write_limited(tmp_path, limit) == (0 if limit == size else 7), limit
        assert set(contents(tmp_path)) == {"whole.tif", "m.tif"}
        assert not list(tmp_path.glob(".*.part"))
        assert (tmp_path / "m.tif").read_bytes() == (whole if limit == size else b"of before")


def test_the_room_named_is_enough(tmp_path, monkeypatch):
    """The disk holds at most the uncompressed pixels, their overviews and the file itself at one time."""
    seen, unlink = [], Path.unlink
    grid, product, pieces = noise()

    def spy(path, **how):
        seen.append(sum(other.stat().st_size for other in path.parent.iterdir()))
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", spy)
    write_cog(tmp_path / "m.tif", grid, product, pieces)
    overviews = 2**20 / 3
    assert seen
    assert 2 * 2**20 < max(seen) + overviews <= product.bytes(grid) < 1.5 * max(seen)


def test_errors_of_reading_tiles_are_not_told_as_errors_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="0000"):
        a_map(tmp_path / "m.tif", tiles=lambda _: failing([]))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        a_map(tmp_path / "file" / "m.tif")
    with pytest.raises(InputError, match="cannot be written"):
        write_cog(tmp_path / "file" / "m.tif", *noise())


def test_what_a_killed_run_left_is_cleaned(tmp_path):
    left = tmp_path / "m.tif.parts" / "files"
    left.mkdir(parents=True)
    (left / "m.tif.tiles").write_bytes(b"half")
    (left / "m.tif").write_bytes(b"half")
    a_map(tmp_path / "m.tif", extras=())
    assert {path.name for path in tmp_path.iterdir()} == {"m.tif", "m.tif.aux.xml", "m.qml", "m.qlr", "m.json"}
