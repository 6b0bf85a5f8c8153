"""Refusals before and while a map is computed; no error silently becomes class 0."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from test_mapping import EVERYTHING, SMALL, checkpoint, folder, model, scene, whole  # noqa: F401
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app
from agrifm.config import parse
from agrifm.errors import InputError
from agrifm.io import writing
from agrifm.maps import resumable, store, tiles
from agrifm.maps.files import legend as style
from agrifm.maps.map_scene import map_scene, plan
from agrifm.maps.options import MapOptions
from agrifm.maps.windows import lay_out
from agrifm.products.parcels import ParcelRule
from agrifm.sensors import LANDSAT, S2, Statistics


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"window": 0}, "--window"),
        ({"window": -3}, "--window"),
        ({"window": 10**9}, "--window"),
        ({"memory": float("nan")}, "--memory"),
        ({"memory": float("inf")}, "--memory"),
        ({"memory": 0.0}, "--memory"),
        ({"seam_limit": float("nan")}, "--seam-limit"),
        ({"seam_limit": -1.0}, "--seam-limit"),
        ({"extras": ("confidenec",)}, "did you mean 'confidence'"),
        ({"device": "tpu; rm"}, "device"),
    ],
)
def test_options_without_sense_are_refused_by_name(options, name):
    with pytest.raises(InputError, match=name):
        MapOptions(**options)


@pytest.mark.parametrize("options", [{"min_area": float("nan")}, {"tolerance": -1.0}, {"tolerance": float("inf")}])
def test_rules_of_parcels_without_sense_are_refused_by_name(options):
    with pytest.raises(InputError, match=f"--{next(iter(options)).replace('_', '-')}"):
        ParcelRule(**options)


@pytest.mark.parametrize(
    "option", [("--window", "0"), ("--seam-limit", "nan"), ("--memory", "nan"), ("--memory", "inf")]
)
def test_the_command_names_the_option(option, model, folder, tmp_path):  # noqa: F811
    result = CliRunner().invoke(app, ["map", str(model), str(folder), str(tmp_path / "map.tif"), *option])
    assert result.exit_code != 0
    assert option[0] in f"{result.output}{result.exception}"
    assert not list(tmp_path.iterdir())


def test_grids_and_windows_beyond_measure_are_refused_and_not_counted():
    with pytest.raises(InputError, match="tiles"):
        lay_out((10**9, 10**9), 48, [1], 10.0, 1e8)
    with pytest.raises(InputError, match="--window"):
        lay_out((100, 100), 10**6, [1], 10.0, 1e8)
    assert lay_out((100, 100), 48, [1], 1e-300, 1e300).tile > 48


def poisoned(key):
    """A checkpoint whose last weights are finite, but so large that their sums overflow."""
    torch.manual_seed(1)
    statistics = [
        s.with_statistics(Statistics((0.0,) * len(s.bands), (1.0,) * len(s.bands), "test")) for s in (S2, LANDSAT)
    ]
    values = {"data": {"sensors": ["S2"], "footprint": 480}, "task": {"classes": ["a", "b"]}}
    experiment = parse(values | {"model": {"size": {"width": 16, "depths": [1] * 4, "heads": [1, 2, 4, 8]}}})
    experiment = experiment.with_sensors(statistics)
    weights = build(experiment).state_dict()
    name = [name for name in weights if key in name][-1]
    weights[name].fill_(3e38)
    return Checkpoint(experiment, weights)


def test_outputs_that_are_no_numbers_are_refused_and_never_class_0(scene):  # noqa: F811
    job = plan(poisoned("weight"), scene, SMALL)
    tile = job.windows.tiles()[0]
    with (
        ThreadPoolExecutor() as threads,
        pytest.raises(InputError, match=r"window at row 0, column 0[^@]*not a number"),
    ):
        job.make(tile, job.read(tile), threads)


def test_infinite_input_is_refused_as_well(model, scene):  # noqa: F811
    job = plan(Checkpoint.load(model), scene, SMALL)
    tile = job.windows.tiles()[0]
    data = job.read(tile)
    stack = data.stacks["S2"]
    huge = replace(stack, images=np.where(stack.images > 0, np.float32(3e38), np.float32(0)), clear=stack.clear | True)
    data.stacks["S2"] = huge
    with ThreadPoolExecutor() as threads, pytest.raises(InputError, match="infinite or not a number"):
        job.make(tile, data, threads)


def test_more_classes_than_a_byte_holds_are_refused_before_anything_is_computed(model, scene, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(tiles.MapJob, "make", None)
    monkeypatch.setattr(style, "MOST_CLASSES", 3)
    with pytest.raises(InputError, match=r"classes[^@]*at most 3"):
        map_scene(model, scene, tmp_path / "map.tif", SMALL)


def test_threads_share_one_model(model, scene, monkeypatch):  # noqa: F811
    """All threads need the model before any of them has built it."""
    built, build_model = [], Checkpoint.model
    monkeypatch.setattr(Checkpoint, "model", lambda self: built.append(1) or build_model(self))
    job = plan(Checkpoint.load(model), scene, replace(SMALL, memory=100.0))
    tile = job.windows.tiles()[0]
    with ThreadPoolExecutor(8) as threads:
        job.make(tile, job.read(tile), threads)
    assert built == [1]


def test_a_place_that_cannot_be_written_is_refused_in_a_sentence(model, scene, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Not a directory|File exists"):
        map_scene(model, scene, tmp_path / "file" / "map.tif", SMALL)
    (tmp_path / "map.tif.parts").write_text("in the way")
    with pytest.raises(InputError, match=r"map\.tif\.parts[^@]*move the file"):
        map_scene(model, scene, tmp_path / "map.tif", SMALL)
    with pytest.raises(InputError, match="/sys/none"):
        map_scene(model, scene, Path("/sys/none/map.tif"), SMALL)


@pytest.mark.parametrize(
    "where", [(rasterio.io.DatasetWriter, "write"), (resumable, "write_whole"), (store, "write_whole")]
)
def test_a_full_disk_at_the_end_keeps_the_tiles(where, whole, model, scene, tmp_path, monkeypatch):  # noqa: F811
    """The disk becomes full while the rasters, the provenance, or the commit are written."""
    write, out = getattr(*where), tmp_path / "map.tif"

    def full(path, *args, **options):
        if where[0] is store and path.name != "commit.json":
            return write(path, *args, **options)
        with writing(Path(str(path))):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(*where, full)
    with pytest.raises(InputError, match=r"full disk|no space left"):
        map_scene(model, scene, out, EVERYTHING)
    monkeypatch.undo()
    assert not out.exists()
    computed, make = [], tiles.MapJob.make
    monkeypatch.setattr(tiles.MapJob, "make", lambda *args: computed.append(args[1]) or make(*args))
    map_scene(model, scene, out, EVERYTHING)
    assert len(computed) == 1  # of the audit
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole[0].parent.iterdir()}
