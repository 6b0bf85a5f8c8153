"""Maps that are stopped, damaged or started twice: the same command resumes and ends with the same files."""

import io
import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from processes import Command, slow_audit
from rich.console import Console
from test_mapping import EVERYTHING, SMALL, folder, model, scene, whole  # noqa: F401

from agrifm.errors import InputError
from agrifm.io import locked
from agrifm.maps import map_scene as mapping
from agrifm.maps import tiles
from agrifm.maps.map_scene import map_scene
from agrifm.maps.provenance import Provenance
from agrifm.maps.store import DamagedTile, Store
from agrifm.opening import open_scene
from agrifm.scenes.scene import Area

TILE = Area(0, 48, 8, 8)
OPERATIONS = ("replace", "unlink", "rmdir", "mkdir", "write_text")  # of pathlib
KNOWN = ("m.tif", "m.tif.aux.xml", "m.qml", "m_entropy.tif", "m.passport.json")


def contents(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}


# Kills


def publish(target):
    """Replace a map of two files by one of three."""
    store = Store.beside(target)
    made = store.empty_files()
    (store.folder / "0000000_0000000.npz").write_bytes(b"a tile")
    for name in (KNOWN[0], KNOWN[1], KNOWN[4]):
        (made / name).write_text(f"new {name}")
    store.commit([KNOWN[0], KNOWN[1], KNOWN[4]])
    store.complete(target, [target.with_name(name) for name in KNOWN])


def killed_at(number, target):
    """Publish in a child process that dies before its n-th file operation; returns whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def deadly(operation):
        def counted(*args, **options):
            nonlocal count
            count += 1
            if count == number:
                os._exit(9)
            return operation(*args, **options)

        return counted

    code = 1
    try:
        for name in OPERATIONS:
            setattr(Path, name, deadly(getattr(Path, name)))
        publish(target)
        code = 0
    finally:
        os._exit(code)


def test_killed_before_any_file_operation_the_old_map_or_the_new_one_is_whole(tmp_path):
    target = tmp_path / "m.tif"
    old = {"m.tif": b"old m.tif", "m_entropy.tif": b"old m_entropy.tif", "other.txt": b"not ours"}
    new = {name: f"new {name}".encode() for name in (KNOWN[0], KNOWN[1], KNOWN[4])} | {"other.txt": b"not ours"}
    number, completed = 1, 0
    while True:
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        for name, data in old.items():
            (tmp_path / name).write_bytes(data)
        if not killed_at(number, target):
            break
        before = {name: data for name, data in contents_of_files(tmp_path).items()}
        if Store.beside(target).complete(target, [target.with_name(name) for name in KNOWN]):
            completed += 1
            assert contents_of_files(tmp_path) == new, number
            assert not Store.beside(target).folder.exists()
        else:
            assert before in (old, new), number
        number += 1
    assert contents_of_files(tmp_path) == new
    assert number > 12
    assert completed > 6


def contents_of_files(place):
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}


@pytest.fixture
def begun(model, scene, tmp_path, monkeypatch):  # noqa: F811
    """A map with all tiles finished, stopped by Ctrl-C during the seam audit."""
    monkeypatch.setattr(mapping, "audit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, scene, tmp_path / "map.tif", EVERYTHING)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["map.tif.parts"]
    return tmp_path / "map.tif"


def interrupted(*args, **options):
    raise KeyboardInterrupt


def stop_at(monkeypatch, number):
    """Ctrl-C before the n-th rename of a finished file."""
    moved, move = [], Path.replace

    def counted(path, target):
        if path.parent.name == "files" and "part" not in path.name:
            moved.append(path.name)
            if len(moved) == number:
                raise KeyboardInterrupt
        return move(path, target)

    monkeypatch.setattr(Path, "replace", counted)
    return moved


def never(*args):
    raise AssertionError("a tile was computed")


@pytest.mark.parametrize("number", [1, 3, 10])
def test_ctrl_c_between_two_renames_and_the_same_command_goes_on(number, begun, whole, model, scene, monkeypatch):  # noqa: F811
    moved = stop_at(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, scene, begun, EVERYTHING)
    assert moved[-1] == "map.tif" or number < 10
    assert not begun.exists()
    monkeypatch.undo()
    monkeypatch.setattr(tiles.MapJob, "make", never)
    mapped = map_scene(model, scene, begun, EVERYTHING)
    assert contents(begun.parent) == contents(whole[0].parent)
    assert (mapped.hectares, mapped.seams) == (whole[1].hectares, whole[1].seams)
    assert {path.name for path in mapped.files} == {path.name for path in whole[1].files}


def test_a_command_that_has_done_its_work_may_be_given_again(whole, model, scene, tmp_path, monkeypatch):  # noqa: F811
    """The run may have been stopped after its last rename; other commands do not change the map."""
    for path in whole[0].parent.iterdir():
        shutil.copy(path, tmp_path)
    before, out = contents(tmp_path), tmp_path / "map.tif"
    monkeypatch.setattr(tiles.MapJob, "make", never)
    again = map_scene(model, scene, out, EVERYTHING)
    assert (again.hectares, again.seams) == (whole[1].hectares, whole[1].seams)
    with pytest.raises(InputError, match="--overwrite"):
        map_scene(model, scene, out, SMALL)
    with pytest.raises(InputError, match="--overwrite"):
        map_scene(model, scene.until(scene.layers[0].days[1]), out, EVERYTHING)
    assert contents(tmp_path) == before
    out.write_bytes(out.read_bytes() + b"\0")
    with pytest.raises(InputError, match="--overwrite"):
        map_scene(model, scene, out, EVERYTHING)


def test_overwriting_goes_on_and_the_old_map_stays_until_then(begun, whole, model, scene, monkeypatch):  # noqa: F811
    map_scene(model, scene, begun.with_name("old.tif"), replace(SMALL, extras=("sets",) and ("confidence",)))
    for path in begun.parent.glob("old*"):
        path.rename(path.with_name(path.name.replace("old", "map")))
    before = contents_of_files(begun.parent)
    monkeypatch.setattr(tiles.MapJob, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, scene, begun, EVERYTHING, overwrite=True)
    assert contents_of_files(begun.parent) == before
    assert len(list(Store.beside(begun).folder.glob("[0-9]*.npz"))) > 1
    monkeypatch.undo()
    computed, make = [], tiles.MapJob.make
    monkeypatch.setattr(tiles.MapJob, "make", lambda *args: computed.append(args[1]) or make(*args))
    map_scene(model, scene, begun, EVERYTHING, overwrite=True)
    assert len(computed) == 1  # of the audit
    assert contents(begun.parent) == contents(whole[0].parent)


def test_two_at_once(model, scene, tmp_path):  # noqa: F811
    out = tmp_path / "map.tif"
    with locked(out), pytest.raises(InputError, match="another process"):
        map_scene(model, scene, out, SMALL)
    assert os.listdir(tmp_path) == []


# Damage


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "another's", "a folder"])
def test_a_damaged_tile_is_computed_again_and_a_line_says_so(how, begun, whole, model, scene):  # noqa: F811
    first, second = sorted(Store.beside(begun).folder.glob("[0-9]*.npz"))[:2]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 16
    if how == "a folder":
        first.unlink()
        first.mkdir()
    else:
        first.write_bytes({"flipped": data, "cut": data[:-7], "emptied": b"", "another's": second.read_bytes()}[how])
    said = io.StringIO()
    map_scene(model, scene, begun, EVERYTHING, console=Console(file=said))
    assert f"computed again because it was damaged: tile {first.name}" in said.getvalue()
    assert contents(begun.parent) == contents(whole[0].parent)


def test_a_tile_that_is_damaged_while_the_map_is_put_together(begun, whole, model, scene, monkeypatch):  # noqa: F811
    read, damaged = Store._read, []

    def once(store, path, product):
        if not damaged:
            damaged.append(path)
            raise DamagedTile(path)
        return read(store, path, product)

    monkeypatch.setattr(Store, "_read", once)
    map_scene(model, scene, begun, EVERYTHING)
    assert damaged
    assert contents(begun.parent) == contents(whole[0].parent)


def test_every_flipped_bit_of_a_tile_is_noticed(tmp_path):
    store = Store(tmp_path)
    store.open({"format": "test"})
    store.save(TILE, {"classes": np.arange(64, dtype=np.uint8).reshape(8, 8)})
    path = store.path(TILE)
    data = path.read_bytes()
    assert store.done(TILE)
    for position in range(0, len(data), 5):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(DamagedTile):
            store.done(TILE)
    path.write_bytes(data)
    store.open({"format": "test"})
    assert store.done(TILE)
    store.plan_sum = b"of another map"
    with pytest.raises(DamagedTile):
        store.done(TILE)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"inputs": 3}', "[" * 100_000])
def test_a_damaged_plan_costs_no_tile(text, begun, whole, model, scene, monkeypatch):  # noqa: F811
    (Store.beside(begun).folder / "plan.json").write_text(text)
    computed, make = [], tiles.MapJob.make
    monkeypatch.setattr(tiles.MapJob, "make", lambda *args: computed.append(args[1]) or make(*args))
    map_scene(model, scene, begun, EVERYTHING)
    assert len(computed) == 1  # of the audit
    assert contents(begun.parent) == contents(whole[0].parent)


def test_damaged_commits_and_files_are_made_again_and_nothing_else_is_touched(begun, whole, model, scene):  # noqa: F811
    parts = Store.beside(begun).folder
    (begun.parent / "precious.txt").write_text("stays")
    (parts / "files").mkdir(exist_ok=True)
    (parts / "files" / "map.tif").write_text("half a map")
    for text in ("", "{", '{"files": {"map.tif": "0"}}', '{"files": {"../precious.txt": "0", "precious.txt": "0"}}'):
        (parts / "commit.json").write_text(text)
        assert not Store.beside(begun).complete(begun, [begun])
        assert not (parts / "commit.json").exists()
    map_scene(model, scene, begun, EVERYTHING)
    assert (begun.parent / "precious.txt").read_text() == "stays"
    (begun.parent / "precious.txt").unlink()
    assert contents(begun.parent) == contents(whole[0].parent)


def test_files_of_others_among_the_tiles_stay(begun, whole, model, scene):  # noqa: F811
    foreign = Store.beside(begun).folder / "notes.txt"
    foreign.write_text("mine")
    said = io.StringIO()
    map_scene(model, scene, begun, EVERYTHING, console=Console(file=said, width=400))
    assert f"files of something else: {foreign.parent}" in said.getvalue()
    assert foreign.read_text() == "mine"
    shutil.rmtree(foreign.parent)
    assert contents(begun.parent) == contents(whole[0].parent)


def test_tiles_of_the_version_before_are_not_taken_for_ones_of_this_version(begun, whole, model, scene):  # noqa: F811
    plan = Store.beside(begun).folder / "plan.json"
    values = json.loads(plan.read_text())
    for key in ("format", "inputs"):
        del values[key]
    plan.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"another version of agrifm wrote them[^@]*--overwrite"):
        map_scene(model, scene, begun, EVERYTHING)
    map_scene(model, scene, begun, EVERYTHING, overwrite=True)
    assert contents(begun.parent) == contents(whole[0].parent)


# Inputs that change


@pytest.fixture
def own(folder, tmp_path):  # noqa: F811
    """A copy of the scene in a separate folder."""
    shutil.copytree(folder, tmp_path / "scene")
    return tmp_path / "scene"


def replaced(image):
    """Replace an image by another one of the same size."""
    size = image.stat().st_size
    with rasterio.open(image, "r+") as file:
        values = file.read(1)
        file.write(np.full_like(values, values.max()), 1)
    assert image.stat().st_size == size


@pytest.mark.parametrize("kind", ["image", "quality layer", "sidecar", "gone"])
def test_an_image_that_changed_between_stop_and_resume_is_refused_by_name(kind, own, model, tmp_path, monkeypatch):  # noqa: F811
    land, out = open_scene(own), tmp_path / "map.tif"
    monkeypatch.setattr(mapping, "audit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, land, out, SMALL)
    monkeypatch.undo()
    frame = land.layers[0].frames[1]
    image = Path(frame.bands["B08"].href if kind != "quality layer" else frame.quality.raster.href)
    if kind == "gone":
        image.unlink()
    elif kind == "sidecar":
        image = Path(f"{image}.aux.xml")
        image.write_text("<PAMDataset/>")
    else:
        replaced(image)
    with pytest.raises(InputError, match=rf"changed since: {image}[^@]*--overwrite"):
        map_scene(model, land, out, SMALL)
    assert not out.exists()
    if kind != "gone":
        map_scene(model, land, out, SMALL, overwrite=True)


def test_an_image_or_model_that_changes_while_the_map_is_made_is_refused_by_name(own, model, tmp_path, monkeypatch):  # noqa: F811
    land, out, copied = open_scene(own), tmp_path / "map.tif", tmp_path / "best.safetensors"
    shutil.copy(model, copied)
    audit, image = mapping.audit, Path(land.layers[0].frames[0].bands["B02"].href)
    for victim in (image, copied):

        def meanwhile(*args, victim=victim):
            victim.write_bytes(victim.read_bytes() + b"\0")
            return audit(*args)

        monkeypatch.setattr(mapping, "audit", meanwhile)
        with pytest.raises(
            InputError, match=rf"{victim.name}\n[^@]*changed while the map was computed[^@]*--overwrite"
        ):
            map_scene(copied, land, out, SMALL, overwrite=True)
        monkeypatch.undo()
        assert not out.exists()
        shutil.copy(model, copied)
    assert Provenance.load(map_scene(copied, land, out, SMALL, overwrite=True).files[-1])


# Signals


def alive(group):
    """Running processes of a group; zombies are not counted."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_stop_workers_as_well_without_a_traceback(number, code, folder, model, tmp_path):  # noqa: F811
    """Ctrl-C reaches every process of the group, SIGTERM the main one."""
    out = tmp_path / "map.tif"
    words = ["map", model, folder, out, "--memory", "0.1", "--workers", "2"]
    process = Command(words, tmp_path / "log", before=slow_audit)
    parts = Store.beside(out).folder
    while process.poll() is None and not list(parts.glob("[0-9]*.npz")):
        time.sleep(0.01)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    assert process.wait(60) == code, process.text()
    said = process.text()
    assert "the same command resumes from here" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 60
    while alive(process.pid):  # Python's own helper ends a moment after the rest
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert list(parts.glob("[0-9]*.npz"))
