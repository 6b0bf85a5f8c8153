"""Maps of scenes: the same bytes, whether computed at once, resumed, distributed or reproduced."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import TINY, unit
from processes import Command, slow_audit
from rio_cogeo.cogeo import cog_validate
from typer.testing import CliRunner

from agrifm import io
from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app
from agrifm.config import parse
from agrifm.errors import InputError, Unreadable
from agrifm.maps import map_scene as mapping
from agrifm.maps import tiles
from agrifm.maps.files.writer import NODATA
from agrifm.maps.map_scene import fit_sensors, map_scene, plan
from agrifm.maps.options import MapOptions
from agrifm.maps.provenance import Provenance
from agrifm.maps.seam_audit import Seams, audit, audited_areas
from agrifm.maps.store import Store
from agrifm.maps.tiles import own_device
from agrifm.maps.windows import lay_out
from agrifm.opening import open_scene
from agrifm.products.reproduce import reproduce
from agrifm.sensors import LANDSAT, MODIS, S2
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene

LAND = Landscape(rows=2, columns=3, size=48, frames=(("S2", 4), ("Landsat", 3), ("Modis", 3)))
NAMES = [name for name, _ in CLASSES]
SMALL = MapOptions(memory=0.5)  # several tiles even here
EVERYTHING = replace(SMALL, extras=("probabilities", "confidence", "entropy", "observations"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """96 x 144 pixels of two sensors; one date of Sentinel-2 is missing, one of Landsat covers half of the scene."""
    root = tmp_path_factory.mktemp("land") / "scene"
    return write_scene(root, LAND, rows=range(2), columns=range(3), sensors=(S2, LANDSAT))


@pytest.fixture(scope="module")
def scene(folder):
    return open_scene(folder)


def checkpoint(path, sensors=(S2, LANDSAT), **data):
    """A model with random weights."""
    values = {"data": {"sensors": [S2.name], "footprint": 480, **data}, "model": {"size": TINY}}
    experiment = parse(values | {"task": {"classes": NAMES}})
    experiment = experiment.with_sensors([unit(sensor) for sensor in sensors])
    torch.manual_seed(1)
    Checkpoint(experiment, build(experiment).state_dict()).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model") / "best.safetensors")


@pytest.fixture(scope="module")
def whole(model, scene, tmp_path_factory):
    """A map computed without interruption, with all additional layers."""
    out = tmp_path_factory.mktemp("whole") / "map.tif"
    return out, map_scene(model, scene, out, EVERYTHING)


def same(first, second):
    """Whether the rasters of two maps are equal, byte for byte."""
    found = sorted(path.name for path in first.parent.glob("*.tif"))
    return found and all((first.parent / name).read_bytes() == (second.parent / name).read_bytes() for name in found)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def test_all_files_are_there_and_lie_where_the_scene_lies(whole, scene):
    out, mapped = whole
    assert {path.name for path in mapped.files} == {
        *("map.tif", "map.tif.aux.xml", "map.qml", "map.qlr", "map.json", "map.passport.json"),
        *(f"map_{name}.tif" for name in EVERYTHING.extras),
    }
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(path.name for path in mapped.files)
    for path in out.parent.glob("*.tif"):
        assert cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as file:
            assert (file.crs.to_epsg(), file.shape) == (32631, (96, 144))
            assert file.transform == scene.grid.affine
    with rasterio.open(out) as file:
        assert file.tags(1)["class_1"] == NAMES[1]
        assert file.nodata == NODATA
    assert sum(mapped.hectares.values()) == pytest.approx(96 * 144 / 100)


def test_windows_are_blended_with_weights_that_sum_to_one(whole, model, scene):
    """Compared with a plain loop over all windows, in which each fades out linearly."""
    job = plan(Checkpoint.load(model), scene, SMALL)
    size, starts = job.windows.rows.window, job.windows.rows.starts
    assert (size, len(job.windows.tiles()) > 1, len(starts) > 2) == (48, True, True)
    edge = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5)
    fade = np.clip(edge / (size / 4), 0, 1)
    total, weight = np.zeros((len(NAMES), 96, 144)), np.zeros((96, 144))
    data = scene.read(tiles.Area(0, 0, 96, 144))
    for i, top in enumerate(starts):
        for j, left in enumerate(job.windows.columns.starts):
            here = slice(top, top + size), slice(left, left + size)
            total[:, *here] += job._predict(data, [(i, j)])[0] * (fade[:, None] * fade)
            weight[here] += fade[:, None] * fade
    expected = total / weight
    percent = read(whole[0].with_name("map_probabilities.tif")).astype(float)
    assert np.abs(percent - 100 * expected).max() < 0.51
    clear = np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] > 1e-4
    assert (read(whole[0])[0] == expected.argmax(0))[clear].all()
    assert clear.mean() > 0.9


def test_extras_agree_with_each_other(whole):
    out, _ = whole
    chances, sure, unsure = (read(out.with_name(f"map_{name}.tif")) for name in EVERYTHING.extras[:3])
    classes = read(out)[0]
    assert (np.take_along_axis(chances, classes[None], 0) == sure).all()
    assert (sure[0] == chances.max(0)).all()
    shares = chances / 100
    entropy = -(shares * np.log(np.maximum(shares, 1e-9))).sum(0) / np.log(len(chances))
    assert np.abs(entropy - unsure[0] / 100).max() < 0.03


def test_ground_that_nobody_saw_is_no_data(model, scene, tmp_path):
    """Class 0 is a class; pixels without any clear observation are 255."""
    s2 = scene.layers[0]
    frames = [(frame, read_clear(scene, frame)) for frame in s2.frames]
    frame, clear = next((frame, clear) for frame, clear in frames if 0.02 < clear.mean() < 0.98)
    early = replace(scene, layers=(replace(s2, frames=(frame,)),))
    mapped = map_scene(model, early, tmp_path / "map.tif", replace(SMALL, extras=("observations", "confidence")))
    assert ((read(tmp_path / "map.tif")[0] != NODATA) == clear).all()
    assert ((read(tmp_path / "map_confidence.tif")[0] != NODATA) == clear).all()
    assert (read(tmp_path / "map_observations.tif")[0] == clear).all()
    assert mapped.hectares["no data"] == pytest.approx((~clear).sum() / 100)


def read_clear(scene, frame):
    return frame.read(S2, scene.grid).clear


def test_observations_are_counted_for_each_sensor(whole, scene):
    counts = read(whole[0].with_name("map_observations.tif"))
    stacks = scene.read(tiles.Area(0, 0, 96, 144)).stacks
    assert (counts[0] == stacks["S2"].clear.sum(0)).all()
    assert (counts[1] == stacks["Landsat"].clear.sum(0).repeat(3, 0).repeat(3, 1)).all()


@pytest.mark.parametrize("options", [replace(EVERYTHING, memory=0.1), replace(EVERYTHING, memory=100)])
def test_tiles_leave_no_trace(options, whole, model, scene, tmp_path):
    map_scene(model, scene, tmp_path / "map.tif", options)
    assert same(whole[0], tmp_path / "map.tif")


def test_any_subset_of_the_sensors_will_do(model, scene, tmp_path):
    alone = scene.only(("Landsat",))
    assert alone.grid.shape == (32, 48)
    map_scene(model, alone, tmp_path / "landsat.tif", SMALL)
    with rasterio.open(tmp_path / "landsat.tif") as file:
        assert (file.shape, file.res) == ((32, 48), (30, 30))
    job = plan(Checkpoint.load(checkpoint(tmp_path / "three.safetensors", (S2, LANDSAT, MODIS))), scene, SMALL)
    assert [sensor.name for sensor in job.scene.sensors] == ["S2", "Landsat"]


def test_a_model_sees_as_many_dates_as_it_learned_from(tmp_path, scene):
    job = plan(Checkpoint.load(checkpoint(tmp_path / "two.safetensors", frames=2)), scene, SMALL)
    for layer, before in zip(job.scene.layers, scene.layers, strict=True):
        assert layer.days == (before.days[0], before.days[-1])


def test_a_scene_without_the_sensors_or_their_bands_is_refused(scene, tmp_path):
    with pytest.raises(InputError, match=r"sensors Landsat.*\n.*the model's: S2, Modis"):
        fit_sensors(scene.only(("Landsat",)), (S2, MODIS))
    frame = scene.layers[0].frames[1]
    less = replace(frame, bands={key: band for key, band in frame.bands.items() if key != "B8A"})
    layer = replace(scene.layers[0], frames=(scene.layers[0].frames[0], less))
    with pytest.raises(InputError, match=rf"S2 on {frame.day}\n.*no band B8A"):
        fit_sensors(replace(scene, layers=(layer,)), (S2,))


def test_a_map_that_is_there_stays(whole, model, scene, tmp_path):
    shutil.copy(whole[0], tmp_path / "map.tif")
    before = (tmp_path / "map.tif").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        map_scene(model, scene, tmp_path / "map.tif", SMALL)
    with pytest.raises(InputError, match=r"ends in \.tif"):
        map_scene(model, scene, tmp_path / "map.png", SMALL)
    assert (tmp_path / "map.tif").read_bytes() == before
    map_scene(model, scene, tmp_path / "map.tif", EVERYTHING, overwrite=True)
    assert same(whole[0], tmp_path / "map.tif")


def test_killed_and_started_again_it_ends_with_the_same_bytes(whole, model, folder, tmp_path):
    out = tmp_path / "map.tif"
    extras = [f"--{name}" for name in EVERYTHING.extras]
    words = ["map", str(model), str(folder), str(out), "--memory", "0.1", *extras]
    parts = Store.beside(out).folder
    process = Command(words, tmp_path / "log", before=slow_audit)
    deadline = time.monotonic() + 120
    while not list(parts.glob("[0-9]*.npz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.npz")}
    assert kept
    assert not out.exists()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "resuming" in result.output
    assert same(whole[0], out)
    assert not parts.exists()


def test_finished_tiles_are_not_computed_again(whole, model, scene, tmp_path, monkeypatch):
    """Tiles of another map are not used either."""
    out, made, make = tmp_path / "map.tif", [], tiles.MapJob.make

    def stops(job, tile, data, threads):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(tile)
        return make(job, tile, data, threads)

    monkeypatch.setattr(tiles.MapJob, "make", stops)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, scene, out, EVERYTHING)
    monkeypatch.setattr(tiles.MapJob, "make", lambda *args: made.append(args[1]) or make(*args))
    first = scene.until(scene.layers[0].days[0])
    with pytest.raises(InputError, match="differs in: scene"):
        map_scene(model, first, out, EVERYTHING)
    map_scene(model, scene, out, EVERYTHING)
    every = plan(Checkpoint.load(model), scene, EVERYTHING).windows.tiles()
    audited = 1
    assert len(made) == len(every) + audited
    assert set(made[:-audited]) == set(every)
    assert same(whole[0], out)


def test_as_of_a_day_equals_a_scene_without_later_files(model, folder, scene, tmp_path):
    day = scene.layers[0].days[1]
    shutil.copytree(folder, tmp_path / "known")
    for layer in scene.layers:
        for frame in layer.frames:
            for href in frame.hrefs if frame.day > day else ():
                (tmp_path / "known" / Path(href).relative_to(folder)).unlink()
    arguments = ["--memory", "0.5", "--confidence"]
    for name, where, more in (("as_of", folder, ["--as-of", str(day)]), ("deleted", tmp_path / "known", [])):
        (tmp_path / name).mkdir()
        out = str(tmp_path / name / "map.tif")
        result = CliRunner().invoke(app, ["map", str(model), str(where), out, *arguments, *more])
        assert result.exit_code == 0, result.output
    assert same(tmp_path / "as_of" / "map.tif", tmp_path / "deleted" / "map.tif")
    assert read(tmp_path / "as_of" / "map.tif").tobytes() != read_whole(model, scene, tmp_path)
    with pytest.raises(InputError, match="the first is of"):
        scene.until(scene.layers[0].days[0].replace(year=1999))


def read_whole(model, scene, folder):
    map_scene(model, scene, folder / "all.tif", SMALL)
    return read(folder / "all.tif").tobytes()


def test_a_cluster_gives_the_same_bytes_though_a_worker_dies(whole, model, scene, tmp_path):
    import dask
    from distributed import Client, LocalCluster

    out = tmp_path / "map.tif"
    forked = dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    with (
        forked,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))

        def kill():
            while not list(Store.beside(out).folder.glob("[0-9]*.npz")):
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        map_scene(model, scene, out, replace(EVERYTHING, memory=0.1), dask=cluster.scheduler_address)
        killer.join(10)
        assert victim not in client.run(os.getpid).values()
    assert same(whole[0], out)


def test_two_processes_give_the_same_bytes(whole, model, scene, tmp_path):
    map_scene(model, scene, tmp_path / "map.tif", EVERYTHING, workers=2)
    assert same(whole[0], tmp_path / "map.tif")


def test_a_scheduler_that_is_not_there_is_named(model, scene, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="dask scheduler"):
        map_scene(model, scene, tmp_path / "map.tif", SMALL, dask="nonsense://127.0.0.1:1")


def test_workers_take_one_gpu_each(monkeypatch):
    assert own_device() == "cpu" if not torch.cuda.is_available() else own_device().startswith("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device() == "cuda"
    for name, device in ((0, "cuda:0"), (3, "cuda:1"), ("tcp://10.0.0.1:5", "cuda")):
        monkeypatch.setattr("distributed.get_worker", lambda name=name: type("Worker", (), {"name": name}))
        assert own_device() == device


def test_a_full_disk_keeps_what_was_done(whole, model, scene, tmp_path, monkeypatch):
    out, sync, saved = tmp_path / "map.tif", io.sync, []

    def full(path):
        if path.suffix == ".npz":
            if len(saved) == 2:
                raise OSError(28, "No space left on device")
            saved.append(path)
        sync(path)

    monkeypatch.setattr(io, "sync", full)
    with pytest.raises(InputError, match=r"no space left.*\n.*\n.*finished tiles are kept"):
        map_scene(model, scene, out, EVERYTHING)
    assert len(list(Store.beside(out).folder.glob("[0-9]*.npz"))) == 2
    assert not list(Store.beside(out).folder.glob("*.part*"))
    assert not out.exists()
    monkeypatch.setattr(io, "sync", sync)
    map_scene(model, scene, out, EVERYTHING)
    assert same(whole[0], out)


@pytest.fixture
def damaged(folder, tmp_path):
    """The scene with a truncated file that still opens."""
    shutil.copytree(folder, tmp_path / "damaged")
    victim = sorted((tmp_path / "damaged").rglob("*_B08_10m.tif"))[1]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with rasterio.open(victim) as file:
        assert file.shape == (96, 144)
    return victim


def test_an_unreadable_file_is_named_and_left_out_on_request(damaged, model, tmp_path, monkeypatch):
    scene, out = open_scene(tmp_path / "damaged"), tmp_path / "map.tif"
    with pytest.raises(Unreadable, match=damaged.name):
        map_scene(model, scene, out, SMALL)
    monkeypatch.setattr(mapping, "audit", stopped)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, scene, out, SMALL, skip_unreadable=True, overwrite=True)
    monkeypatch.setattr(mapping, "audit", audit)
    map_scene(model, scene, out, SMALL, skip_unreadable=True)  # goes on, without asking for the file again
    provenance = Provenance.load(tmp_path / "map.passport.json")
    assert provenance.values["scene"]["skipped"] == [str(damaged)]
    assert len(provenance.scene.layers[0].frames) == len(scene.layers[0].frames) - 1
    map_scene(model, scene.without(str(damaged)), tmp_path / "without.tif", SMALL)
    assert out.read_bytes() == (tmp_path / "without.tif").read_bytes()


def stopped(*args):
    raise KeyboardInterrupt


def test_the_provenance_makes_the_map_again(whole, model, scene, tmp_path):
    out, mapped = whole
    provenance = Provenance.load(mapped.files[-1])
    values = provenance.values
    assert values["scene"]["layers"][0]["frames"][0]["units"]["source"]
    assert {"torch", "gdal", "agrifm"} <= set(values["versions"])
    assert values["experiment"]["data"]["footprint"] == 480
    assert provenance.scene == plan(Checkpoint.load(model), scene, EVERYTHING).scene
    again = reproduce(provenance.path, out=tmp_path / "again")
    assert (again.identical, again.notes) == (True, ())
    assert same(out, tmp_path / "again" / "map.tif")
    result = CliRunner().invoke(app, ["reproduce", str(provenance.path)])
    assert (result.exit_code, "identical, byte for byte" in result.output) == (0, True)


def test_the_provenance_counts_pixels_that_no_land_reflects_by_date(folder, scene, model, tmp_path):
    """The counts do not depend on the tiles; such pixels are no data on that date."""
    shutil.copytree(folder, tmp_path / "scene")
    frame = scene.layers[0].frames[0]
    clear = frame.read(S2, scene.grid).clear
    with rasterio.open(tmp_path / "scene" / Path(frame.bands["B04"].href).relative_to(folder), "r+") as file:
        values = file.read(1)
        values[60:80, 60:80] = 60_000
        file.write(values, 1)
    expected = {"S2": {str(frame.day): [int(clear[60:80, 60:80].sum()), int(clear.sum())]}}
    assert expected["S2"][str(frame.day)][0] > 0
    for memory in (0.1, 100.0):
        mapped = map_scene(model, open_scene(tmp_path / "scene"), tmp_path / f"{memory}.tif", MapOptions(memory=memory))
        assert Provenance.load(mapped.files[-1]).values["impossible"] == expected


def test_a_map_that_comes_out_different_is_told(whole, folder, model, tmp_path):
    """One pixel of the map was changed, an input file was modified, and the model was moved."""
    shutil.copytree(folder, tmp_path / "scene")
    own = shutil.copy(model, tmp_path / "own.safetensors")
    (tmp_path / "maps").mkdir()
    mapped = map_scene(Path(own), open_scene(tmp_path / "scene"), tmp_path / "maps" / "map.tif", SMALL)
    image = sorted((tmp_path / "scene").rglob("*_B08_10m.tif"))[0]
    with rasterio.open(image, "r+") as file:
        file.write(file.read(1) // 2, 1)
    Path(own).unlink()
    with pytest.raises(InputError, match="--checkpoint"):
        reproduce(mapped.files[-1])
    with pytest.raises(InputError, match="another model"):
        reproduce(mapped.files[-1], checkpoint(tmp_path / "other.safetensors", frames=3))
    again = reproduce(mapped.files[-1], model)
    assert not again.identical
    assert "of 13,824 pixels" in again.files["map.tif"]
    assert [note for note in again.notes if str(image) in note]
    arguments = ["reproduce", str(mapped.files[-1]), "--checkpoint", str(model)]
    assert CliRunner().invoke(app, arguments).exit_code == 4
    with pytest.raises(InputError, match=r"OUT\.passport\.json"):
        Provenance.load(tmp_path / "maps" / "map.json")


def test_the_audit_finds_a_planted_seam(whole, model, scene, tmp_path):
    out, mapped = whole
    assert not mapped.visible_seams
    job = plan(Checkpoint.load(model), scene, SMALL)
    rng = np.random.default_rng(0)
    noise = (rng.random((96, 144)) < 0.2).astype(np.uint8)
    with rasterio.open(out) as file:
        profile = file.profile
    calm, seamed = tmp_path / "calm.tif", tmp_path / "seamed.tif"
    blocks = np.searchsorted(job.windows.rows.borders(), np.arange(96), side="right") % 2 * 2
    for path, values in ((calm, noise), (seamed, noise + blocks.astype(np.uint8)[:, None])):
        with rasterio.open(path, "w", **profile) as file:
            file.write(values, 1)
    assert not audit(calm, job).visible(1.25)
    found = audit(seamed, job)
    assert found.ratio > 1.5
    assert found.visible(1.25)


@pytest.mark.parametrize("side", [64, 100, 300, 1111, 4000])
@pytest.mark.parametrize("overlap", [True, False])
def test_the_audit_computes_at_most_a_twentieth_of_the_windows(side, overlap):
    windows = lay_out((side, side + 7), 32, [1], 100.0, 1e6, overlap=overlap)
    moved = windows.shifted(1)
    areas = audited_areas(windows, moved)
    computed = sum(len(moved.over(area)) for area in areas)
    whole = len(windows.rows.starts) * len(windows.columns.starts)
    assert 1 <= computed <= max(4, whole / 20)
    assert all(area.height > 0 and area.width > 0 for area in areas)
    crossed = [set(range(area.row + 1, area.row + area.height)) & {*windows.rows.borders()} for area in areas]
    assert all(crossed), "an area in which no window begins or ends shows nothing"


def test_seams_end_in_an_exit_code_of_their_own(model, folder, tmp_path, monkeypatch):
    assert not Seams(2.0, 9.0, 1.0, 100).visible(1.05)  # moved windows change no pixel
    monkeypatch.setattr(mapping, "audit", lambda path, job: Seams(2.0, 9.0, 0.5, 100))
    result = CliRunner().invoke(app, ["map", str(model), str(folder), str(tmp_path / "map.tif")])
    assert result.exit_code == 3, result.output
    assert "window borders are visible" in result.output
    assert json.loads((tmp_path / "map.passport.json").read_text())["seams"]["ratio"] == 2.0
    higher = ["map", str(model), str(folder), str(tmp_path / "other.tif"), "--seam-limit", "2.5"]
    assert CliRunner().invoke(app, higher).exit_code == 0
