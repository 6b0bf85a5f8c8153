"""Embeddings as files and tables: the numbers of ``embed`` in memory, and the same bytes however they come about."""

import errno
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import geopandas
import numpy as np
import odc.geo.xr  # noqa: F401 - registers the accessor
import pandas as pd
import pystac
import pytest
import rasterio
import shapely
import xarray as xr
from conftest import TINY, unit
from processes import Command
from rio_cogeo.cogeo import cog_validate
from test_mapping import folder, model, scene  # noqa: F401
from typer.testing import CliRunner

import agrifm
from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app
from agrifm.config import parse
from agrifm.errors import InputError
from agrifm.maps.embedding import files
from agrifm.maps.embedding import job as jobs
from agrifm.maps.embedding import scene as embedding
from agrifm.maps.embedding.coding import Coding
from agrifm.maps.embedding.job import EmbedJob, plan_embedding
from agrifm.maps.embedding.points import embed_points
from agrifm.maps.embedding.scene import write_embedding
from agrifm.maps.map_scene import map_scene
from agrifm.maps.options import EmbedOptions, MapOptions
from agrifm.maps.provenance import EmbeddingDocument, Provenance
from agrifm.maps.store import Store
from agrifm.opening import open_scene
from agrifm.products.reproduce import reproduce
from agrifm.rasters.cube_grid import grid_of
from agrifm.sensors import S2
from agrifm.synthetic.chips import CLASSES

FEATURES = 32  # of the model with random weights
SMALL = EmbedOptions(memory=0.5)  # several tiles even here
ENDINGS = (".tif", ".zarr")


@pytest.fixture(scope="module")
def memory(model, scene):  # noqa: F811
    """Features of the scene as they are computed in memory."""
    return agrifm.load(model).embed(scene).embedding.values


@pytest.fixture(scope="module")
def undisturbed(model, scene, tmp_path_factory):  # noqa: F811
    """Folders of int8 embeddings by ending, computed at once."""
    folders = {}
    for ending in ENDINGS:
        folders[ending] = tmp_path_factory.mktemp("undisturbed")
        write_embedding(model, scene, folders[ending] / f"e{ending}", SMALL)
    return folders


def contents(place):
    """Bytes of all files below a folder by their relative paths."""
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def without_provenance(place):
    """The same without the provenance, which states the options."""
    return {name: data for name, data in contents(place).items() if not name.endswith(".passport.json")}


def decoded(path):
    """Features of a file by the scales and offsets that it states, and NaN where it has no data."""
    if path.suffix == ".zarr":
        with xr.open_zarr(path) as store:
            values = store.embedding.astype(np.float64)
            if "scale" in store.coords:
                values = values * store.scale + store.offset
            return values.values
    with rasterio.open(path) as file:
        values = file.read(masked=True).astype(np.float64)
        scales = np.array(file.scales)[:, None, None]
        offsets = np.array(file.offsets)[:, None, None]
        return (values * scales + offsets).filled(np.nan)


def scales(path):
    """Step of int8 of each band."""
    with rasterio.open(path) as file:
        return np.array(file.scales)


# Rasters


@pytest.mark.parametrize(("dtype", "stored"), [("int8", "int8"), ("float16", "float32"), ("float32", "float32")])
def test_the_geotiff_has_named_bands_on_the_grid_of_the_scene(dtype, stored, model, scene, tmp_path):  # noqa: F811
    out = tmp_path / "e.tif"
    embedded = write_embedding(model, scene, out, EmbedOptions(dtype))
    assert [path.name for path in embedded.files] == ["e.tif", "e.json", "e.passport.json"]
    assert sorted(os.listdir(tmp_path)) == ["e.json", "e.passport.json", "e.tif"]
    assert cog_validate(out, strict=True) == (True, [], [])
    with rasterio.open(out) as file:
        assert file.descriptions == tuple(f"e{i:03d}" for i in range(FEATURES))
        assert set(file.dtypes) == {stored}
        assert (file.crs.to_epsg(), file.shape, file.transform) == (32631, (96, 144), scene.grid.affine)
        assert file.nodata == -128 if dtype == "int8" else np.isnan(file.nodata)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_the_zarr_store_opens_with_its_grid(dtype, model, scene, tmp_path):  # noqa: F811
    out = tmp_path / "e.zarr"
    write_embedding(model, scene, out, EmbedOptions(dtype))
    with xr.open_zarr(out, mask_and_scale=False) as store:
        assert store.embedding.dims == ("band", "y", "x")
        assert store.embedding.dtype == dtype
        assert store.band.values.tolist() == [f"e{i:03d}" for i in range(FEATURES)]
        assert store.odc.geobox == scene.grid
    assert grid_of(out, "embedding") == scene.grid


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_floating_point_features_are_those_in_memory(ending, dtype, tolerance, model, scene, memory, tmp_path):  # noqa: F811
    out = tmp_path / f"e{ending}"
    write_embedding(model, scene, out, EmbedOptions(dtype, memory=0.5))
    np.testing.assert_allclose(decoded(out), memory, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ending", ENDINGS)
def test_int8_features_are_those_in_memory_to_half_a_step(ending, undisturbed, memory):
    values = decoded(undisturbed[ending] / f"e{ending}")
    np.testing.assert_array_equal(np.isnan(values), np.isnan(memory))
    steps = scales(undisturbed[".tif"] / "e.tif")
    assert (steps < np.nanstd(memory, axis=(1, 2)) / 5).all()
    clipped = json.loads((undisturbed[ending] / "e.passport.json").read_text())["clipped"]
    assert clipped == 0
    assert np.nanmax(np.abs(values - memory) / steps[:, None, None]) < 0.501


def test_what_lies_beyond_the_sampled_range_is_clipped_and_counted(model, scene, memory, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(jobs, "PLACES", 1)
    monkeypatch.setattr(jobs, "SAMPLED_SIDE", 1)
    out = tmp_path / "e.tif"
    embedded = write_embedding(model, scene, out)
    with rasterio.open(out) as file:
        low = -127 * np.array(file.scales) + np.array(file.offsets)
        high = 127 * np.array(file.scales) + np.array(file.offsets)
        halves = np.array(file.scales) / 2
    outside = (memory < (low - halves)[:, None, None]) | (memory > (high + halves)[:, None, None])
    assert 0 < outside.mean() < 0.2
    assert embedded.clipped == pytest.approx(outside.mean(), abs=1e-4)
    assert "were clipped" in str(embedded)
    limits = np.stack([low, high])[:, :, None, None]
    np.testing.assert_allclose(decoded(out), memory.clip(*limits), atol=halves.max() * 1.01)


def test_a_constant_band_and_pixels_without_data_survive_int8():
    features = np.stack([np.full((2, 2), 3.5), np.array([[0, 1], [2, np.nan]])]).astype(np.float32)
    features[:, 1, 1] = np.nan
    coding = Coding.spanning(np.nanmin(features, (1, 2)), np.nanmax(features, (1, 2)))
    stored, clipped = coding.encode(features)
    assert (stored.dtype, clipped, stored[0, 1, 1]) == (np.int8, 0, -128)
    np.testing.assert_allclose(coding.decode(stored), features, atol=2.4 / 254 / 2)


def test_half_precision_does_not_overflow():
    stored, clipped = Coding("float16").encode(np.full((1, 1, 2), [1e6, np.nan], np.float32))
    assert (stored[0, 0, 0], clipped, bool(np.isnan(stored[0, 0, 1]))) == (65504, 1, True)


def test_a_model_of_fields_and_an_ensemble_give_features(scene, model, memory, tmp_path):  # noqa: F811
    """Those of an ensemble are the features of its first member, as several models have no common ones."""
    loaded = Checkpoint.load(model)
    averaged = loaded.averaging(flips=True, others=[model])
    job = plan_embedding(averaged, scene, EmbedOptions("float32"))
    assert (job.checkpoint.flips, job.checkpoint.others) == (False, ())
    values = {"data": {"sensors": ["S2"], "footprint": 480}, "model": {"size": TINY}, "task": {"kind": "fields"}}
    experiment = parse(values).with_sensors([unit(S2)])
    Checkpoint(experiment, build(experiment).state_dict()).save(tmp_path / "fields.safetensors")
    embedded = write_embedding(tmp_path / "fields.safetensors", scene, tmp_path / "e.tif")
    assert embedded.bands == FEATURES


# The same bytes


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("budget", [0.3, 100.0])
def test_the_bytes_do_not_depend_on_the_size_of_tiles(ending, budget, model, scene, undisturbed, tmp_path):  # noqa: F811
    write_embedding(model, scene, tmp_path / f"e{ending}", EmbedOptions(memory=budget))
    assert without_provenance(tmp_path) == without_provenance(undisturbed[ending])
    counts = []
    for memory in (0.3, 0.5, 100.0):
        counts.append(len(plan_embedding(Checkpoint.load(model), scene, EmbedOptions(memory=memory)).windows.tiles()))
    assert counts[0] >= counts[1] > counts[2]


def test_the_bytes_do_not_depend_on_the_number_of_processes(model, scene, undisturbed, tmp_path):  # noqa: F811
    write_embedding(model, scene, tmp_path / "e.tif", SMALL, workers=2)
    assert contents(tmp_path) == contents(undisturbed[".tif"])


def interrupted(*args, **options):
    raise KeyboardInterrupt


def stopping_after(count, monkeypatch):
    """Ctrl-C in the computation of a later tile."""
    made, make = [], EmbedJob.make

    def stops(job, tile, data, threads):
        if len(made) == count:
            raise KeyboardInterrupt
        made.append(tile)
        return make(job, tile, data, threads)

    monkeypatch.setattr(EmbedJob, "make", stops)


@pytest.mark.parametrize("ending", ENDINGS)
def test_interrupted_and_resumed_equals_undisturbed(ending, model, scene, undisturbed, tmp_path, monkeypatch):  # noqa: F811
    """Stopped among the tiles, then while the files are written, then between two renames."""
    out = tmp_path / f"e{ending}"
    stopping_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        write_embedding(model, scene, out, SMALL)
    monkeypatch.undo()
    parts = Store.beside(out).folder
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert {path.name for path in finished} >= {"range.npz"}
    assert len(finished) > 1
    monkeypatch.setattr(EmbedJob, "with_range", interrupted)  # it is kept with the tiles
    monkeypatch.setattr(embedding, "build_embedding", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_embedding(model, scene, out, SMALL)
    monkeypatch.undo()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    monkeypatch.setattr(EmbedJob, "make", interrupted)
    replace = Path.replace

    def stops(path, target):
        if path.name == "e.json":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        write_embedding(model, scene, out, SMALL)
    monkeypatch.setattr(Path, "replace", replace)
    assert not out.exists()
    write_embedding(model, scene, out, SMALL)
    assert contents(tmp_path) == contents(undisturbed[ending])
    assert write_embedding(model, scene, out, SMALL).files[0] == out  # finished already


def test_a_damaged_range_is_derived_again(model, scene, undisturbed, tmp_path, monkeypatch):  # noqa: F811
    out = tmp_path / "e.tif"
    monkeypatch.setattr(embedding, "build_embedding", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_embedding(model, scene, out, SMALL)
    monkeypatch.undo()
    path = Store.beside(out).folder / "range.npz"
    path.write_bytes(path.read_bytes()[:-3] + b"\0\0\0")
    write_embedding(model, scene, out, SMALL)
    assert contents(tmp_path) == contents(undisturbed[".tif"])


def test_changed_inputs_are_refused_by_name(folder, model, tmp_path, monkeypatch):  # noqa: F811
    shutil.copytree(folder, tmp_path / "scene")
    land, out = open_scene(tmp_path / "scene"), tmp_path / "out" / "e.tif"
    monkeypatch.setattr(embedding, "build_embedding", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_embedding(model, land, out, SMALL)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"differs in: products[^@]*--overwrite"):
        write_embedding(model, land, out, EmbedOptions("float32", memory=0.5))
    image = Path(land.layers[0].frames[0].bands["B08"].href)
    image.write_bytes(image.read_bytes()[:-100] + bytes(100))
    with pytest.raises(InputError, match=rf"changed since: {image}"):
        write_embedding(model, land, out, SMALL)


def test_a_signal_ends_the_command_and_the_same_command_goes_on(folder, undisturbed, model, tmp_path):  # noqa: F811
    out = tmp_path / "e.tif"
    words = ["embed", str(model), str(folder), str(out), "--memory", "0.5"]
    process = Command(words, tmp_path / "log")
    parts = Store.beside(out).folder
    while process.poll() is None and not list(parts.glob("[0-9]*.npz")):
        time.sleep(0.005)
    process.send(signal.SIGTERM)
    code = process.wait(60)
    text = process.text()
    (tmp_path / "log").unlink()
    if code == 0:
        pytest.skip("it was finished before the signal came")
    assert (code, "Traceback" in text) == (143, False), text
    assert "the same command resumes from here" in text
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert without_provenance(tmp_path) == without_provenance(undisturbed[".tif"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_provenance_makes_the_embedding_again(ending, undisturbed, tmp_path):
    path = undisturbed[ending] / "e.passport.json"
    assert isinstance(Provenance.load(path).document, EmbeddingDocument)
    again = reproduce(path, out=tmp_path / "again")
    assert again.identical
    assert "the embedding is identical" in str(again)
    assert contents(tmp_path / "again") == contents(undisturbed[ending])


def test_the_item_describes_raster_and_model(undisturbed, model):  # noqa: F811
    for ending in ENDINGS:
        values = json.loads((undisturbed[ending] / "e.json").read_text())
        item = pystac.Item.from_dict(values)
        assert item.properties["mlm:tasks"] == ["similarity-search"]
        assert [entry["name"] for entry in item.properties["mlm:input"]] == ["S2", "Landsat"]
        assert item.properties["mlm:output"][0]["result"]["shape"][1] == FEATURES
        asset = item.assets["embedding"]
        assert (undisturbed[ending] / asset.href).exists()
        bands = asset.extra_fields["bands"]
        assert [band["name"] for band in bands] == [f"e{i:03d}" for i in range(FEATURES)]
        assert [band["raster:scale"] for band in bands] == scales(undisturbed[".tif"] / "e.tif").tolist()
        assert "mlm:model" in item.assets["model"].roles


def test_the_item_is_one_of_the_extension(undisturbed):
    mlm = pytest.importorskip("pystac.extensions.mlm")
    item = pystac.Item.from_file(undisturbed[".tif"] / "e.json")
    described = mlm.MLMExtension.ext(item)
    assert described.architecture == "Video Swin Transformer"
    assert described.input[0].bands[0] == "B02"


# Points


def points_at(scene, rows, columns, crs="EPSG:4326", **more):  # noqa: F811
    """Points near the centers of pixels."""
    x, y = scene.grid.affine * (np.asarray(columns) + 0.3, np.asarray(rows) + 0.6)
    frame = geopandas.GeoDataFrame(more, geometry=geopandas.points_from_xy(x, y), crs=str(scene.grid.crs))
    return frame.to_crs(crs)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_points_have_the_features_of_their_pixels(ending, model, folder, scene, memory, tmp_path):  # noqa: F811
    rows, columns = [0, 3, 70, 71, 95], [0, 50, 36, 36, 143]
    crops = ["wheat", "maize", "rye", "oat", "other"]
    points_at(scene, rows, columns, crop=crops).to_file(tmp_path / "points.gpkg")
    out = tmp_path / f"table{ending}"
    words = ["embed", str(model), str(folder), str(out), "--at", str(tmp_path / "points.gpkg")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"{FEATURES} features at 5 of 5 points" in result.output
    table = pd.read_csv(out) if ending == ".csv" else pd.read_parquet(out)
    assert list(table.columns) == ["crop", "lon", "lat", *(f"e{i:03d}" for i in range(FEATURES))]
    assert table.crop.tolist() == crops
    expected = memory[:, rows, columns].T
    if ending == ".parquet":
        assert (table.iloc[:, 3:].to_numpy() == expected).all()  # to the bit
    np.testing.assert_allclose(table.iloc[:, 3:], expected, rtol=1e-6)
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, InputError)
    assert "--overwrite" in str(again.exception)


def test_only_windows_over_points_are_computed(model, scene, monkeypatch):  # noqa: F811
    computed, features = [], EmbedJob.window_features
    monkeypatch.setattr(EmbedJob, "window_features", lambda *args: computed.append(args[2]) or features(*args))
    table = agrifm.load(model).embed_points(scene, points_at(scene, [60, 61], [60, 61]))
    assert len(table) == 2
    assert 1 <= len(computed) <= 4
    assert len(set(computed)) == len(computed)


def test_points_outside_and_points_never_seen_are_counted_and_named(folder, model, tmp_path):  # noqa: F811
    shutil.copytree(folder, tmp_path / "scene")
    for path in (tmp_path / "scene").rglob("*SCL*.tif"):
        with rasterio.open(path, "r+") as file:
            values = file.read(1)
            values[:20, :20] = 9  # clouds
            file.write(values, 1)
    land = open_scene(tmp_path / "scene" / "S2")
    frame = points_at(land, [5, 90, 300], [5, 100, 10], plot=["a", "b", "c"])
    sampled = embed_points(Checkpoint.load(model), land, frame, EmbedOptions("float32"))
    assert (sampled.outside, sampled.unseen) == ((3,), (1,))
    assert sampled.table["plot"].tolist() == ["a", "b", "c"]
    assert sampled.table.e000.notna().tolist() == [False, True, False]
    assert "outside of the scene: 1 (rows 3)" in str(sampled)
    assert "never seen by a sensor: 1 (rows 1)" in str(sampled)


def test_a_table_with_longitude_and_latitude_is_enough(model, folder, scene, memory, tmp_path):  # noqa: F811
    frame = points_at(scene, [10], [20])
    table = pd.DataFrame({"Lon": frame.geometry.x, "Lat": frame.geometry.y, "plot": [7]})
    table.to_csv(tmp_path / "points.csv", index=False)
    words = ["embed", str(model), str(folder), str(tmp_path / "out.csv"), "--at", str(tmp_path / "points.csv")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "out.csv").e003[0] == pytest.approx(memory[3, 10, 20], rel=1e-5)
    moved = frame.to_crs("EPSG:3857")
    pd.DataFrame({"x": moved.geometry.x, "y": moved.geometry.y}).to_csv(tmp_path / "points.csv", index=False)
    result = CliRunner().invoke(app, [*words, "--crs", "EPSG:3857", "--overwrite"])
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "out.csv").e003[0] == pytest.approx(memory[3, 10, 20], rel=1e-5)


# What is refused


def test_points_that_do_not_fit_are_refused(model, scene):  # noqa: F811
    opened = agrifm.load(model)
    good = points_at(scene, [10], [20])
    exchanged = geopandas.GeoDataFrame(geometry=[shapely.Point(p.y, p.x) for p in good.geometry], crs="EPSG:4326")
    refusals = [
        (exchanged, "longitude and latitude exchanged"),
        (points_at(scene, [500], [20]), "1 point, outside of the scene"),
        (good.assign(e001=1), "a column with the name of a feature"),
        (good.set_crs(None, allow_override=True), "no CRS"),
        (good.to_crs(3857).buffer(9).to_frame("geometry"), "geometries of type Polygon"),
        (good.iloc[:0], "no rows"),
        (pd.concat([good, good.assign(geometry=None)]), "rows without a geometry: 1"),
        (pd.DataFrame({"a": [1]}), "columns lon and lat"),
    ]
    for points, message in refusals:
        with pytest.raises(InputError, match=message) as caught:
            opened.embed_points(scene, points)
        assert all((caught.value.where, caught.value.found, caught.value.expected, caught.value.repair))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["OUT.png"], "a GeoTIFF or a Zarr store"),
        (["OUT.csv"], "needs --at"),
        (["OUT.tif", "--crs", "EPSG:4326"], "no points"),
        (["OUT.tif", "--dtype", "int4"], "any of int8, float16, float32"),
        (["OUT.tif", "--at", "POINTS"], "leave out --at"),
        (["OUT.csv", "--at", "POINTS", "--dtype", "int8"], "leave the option out"),
        (["OUT.csv", "--at", "nowhere.gpkg"], "no such file"),
        (["OUT.tif", "--as-of", "soon"], "YYYY-MM-DD"),
        (["OUT.tif", "--as-of", "2001-01-01"], "no image up to that day"),
    ],
)
def test_wrong_options_are_refused(words, message, model, folder, scene, tmp_path):  # noqa: F811
    points_at(scene, [10], [20]).to_file(tmp_path / "points.gpkg")
    before = sorted(os.listdir(tmp_path))
    places = {"OUT": str(tmp_path / "e"), "POINTS": str(tmp_path / "points.gpkg")}
    words = [re.sub("OUT|POINTS", lambda match: places[match[0]], word) for word in words]
    result = CliRunner().invoke(app, ["embed", str(model), str(folder), *words])
    error = result.exception
    assert isinstance(error, InputError), result.output
    assert message in str(error)
    assert all((error.where, error.found, error.expected, error.repair))
    assert sorted(os.listdir(tmp_path)) == before


def test_existing_files_stay(model, scene, tmp_path):  # noqa: F811
    """Also the item of another product, and a folder that is no Zarr store even with ``overwrite``."""
    for name in ("e.tif", "e.json"):
        place = tmp_path / name
        place.write_text("mine")
        with pytest.raises(InputError, match="--overwrite"):
            write_embedding(model, scene, tmp_path / "e.tif", SMALL)
        assert place.read_text() == "mine"
        place.unlink()
    (tmp_path / "e.zarr").mkdir()
    (tmp_path / "e.zarr" / "precious").write_text("mine")
    with pytest.raises(InputError, match="no Zarr store"):
        write_embedding(model, scene, tmp_path / "e.zarr", SMALL, overwrite=True)
    assert contents(tmp_path) == {"e.zarr/precious": b"mine"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_overwriting_leaves_nothing_of_what_was_there(ending, model, scene, undisturbed, tmp_path):  # noqa: F811
    out = tmp_path / f"e{ending}"
    if ending == ".tif":
        map_scene(model, scene, out, MapOptions(("confidence",)))
    else:
        write_embedding(model, scene, out, EmbedOptions("float32", window=24))
    write_embedding(model, scene, out, SMALL, overwrite=True)
    assert contents(tmp_path) == contents(undisturbed[ending])


def test_a_checkpoint_without_an_encoder_is_refused(model, scene):  # noqa: F811
    loaded = Checkpoint.load(model)
    for key in [key for key in loaded.weights if key.startswith("head.")]:
        del loaded.weights[key]
    with pytest.raises(InputError, match="no encoder"):
        plan_embedding(loaded, scene, SMALL)


def test_images_after_the_day_are_not_used(model, folder, scene, tmp_path):  # noqa: F811
    day = scene.layers[0].days[1]
    words = ["embed", str(model), str(folder), str(tmp_path / "e.tif"), "--as-of", str(day), "--dtype", "float32"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    expected = agrifm.load(model).embed(scene.until(day)).embedding.values
    np.testing.assert_array_equal(decoded(tmp_path / "e.tif"), expected.astype(np.float64))


def test_a_full_disk_is_one_refusal_and_keeps_the_tiles(model, scene, undisturbed, tmp_path, monkeypatch):  # noqa: F811
    """The name of the file is that of a chunk, deep in the store."""
    out = tmp_path / "e.zarr"

    def full(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device", str(path / "embedding" / "0.0.0"))

    monkeypatch.setattr(files, "_write_zarr", full)
    with pytest.raises(InputError, match="a full disk") as caught:
        write_embedding(model, scene, out, SMALL)
    assert "finished tiles are kept" in caught.value.repair
    monkeypatch.undo()
    monkeypatch.setattr(EmbedJob, "make", interrupted)
    write_embedding(model, scene, out, SMALL)
    assert contents(tmp_path) == contents(undisturbed[".zarr"])


def test_an_unreadable_file_is_left_out_on_request(folder, model, tmp_path):  # noqa: F811
    shutil.copytree(folder, tmp_path / "scene")
    victim = sorted((tmp_path / "scene").rglob("*_B08_10m.tif"))[1]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    land = open_scene(tmp_path / "scene")
    write_embedding(model, land, tmp_path / "e.tif", SMALL, skip_unreadable=True)
    write_embedding(model, land.without(str(victim)), tmp_path / "without.tif", SMALL)
    assert (tmp_path / "e.tif").read_bytes() == (tmp_path / "without.tif").read_bytes()
    skipped = Provenance.load(tmp_path / "e.passport.json").values["scene"]["skipped"]
    assert skipped == [str(victim)]


# The page


def snippets(heading, language):
    """Code of a language below a heading of the page."""
    page = (Path(__file__).parents[1] / "docs" / "embeddings.md").read_text()
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def worked(folder, scene, tmp_path_factory):  # noqa: F811
    """Folder with the results of the first example: points with crops, their features, the raster and a crop map."""
    place = tmp_path_factory.mktemp("page")
    with rasterio.open(folder / "truth.tif") as file:
        truth = file.read(1)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, truth.shape[0], 200), rng.integers(0, truth.shape[1], 200)
    crops = [CLASSES[number][0] for number in truth[rows, columns]]
    points_at(scene, rows, columns, crop=crops).to_file(place / "points.gpkg")
    before = Path.cwd()
    os.chdir(place)
    try:
        for line in snippets("Example: a classifier from points", "shell")[0].splitlines():
            words = line.replace("SCENE", str(folder)).split()
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, result.output
        exec(snippets("Example: a classifier from points", "python")[0], {})
    finally:
        os.chdir(before)
    return place, truth, crops


def test_the_example_of_a_classifier_runs(worked):
    """Better than always the most frequent crop, on all pixels."""
    place, truth, crops = worked
    with rasterio.open(place / "crops.tif") as file:
        classes = file.read(1)
        tags = file.tags(1)
    names = np.array([tags[f"class_{i}"] for i in range(len(set(crops)))])
    seen = classes != 255
    correct = names[classes[seen]] == np.array([name for name, _ in CLASSES])[truth[seen]]
    most_frequent = np.bincount(truth[seen]).max() / seen.sum()
    assert correct.mean() > most_frequent


def test_the_example_of_a_search_runs(worked, monkeypatch):
    monkeypatch.chdir(worked[0])
    variables = {}
    exec(snippets("Example: similar ground", "python")[0], variables)
    with rasterio.open("similarity.tif") as file:
        similarity = file.read(1)
    row, column = variables["row"], variables["column"]
    assert np.nanargmax(similarity) == row * 144 + column
    assert similarity[row, column] == pytest.approx(1, abs=1e-5)
    assert np.nanmin(similarity) >= -1.00001


def test_the_example_of_zarr_runs(undisturbed, memory, monkeypatch, tmp_path):
    shutil.copytree(undisturbed[".zarr"] / "e.zarr", tmp_path / "features.zarr")
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(snippets("Example: similar ground", "python")[1], variables)
    np.testing.assert_allclose(variables["features"], memory[:, :128, :128], atol=0.2)
