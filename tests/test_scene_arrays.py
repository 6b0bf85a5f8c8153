"""Scenes as lazy xarray datasets hold what the scene reads."""

import numpy as np
import pytest

from agrifm.opening import open_scene
from agrifm.scenes.datasets import to_xarray
from agrifm.scenes.scene import Area, Scene
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    land = Landscape(rows=1, columns=2, size=48, frames=(("S2", 3), ("Landsat", 3), ("Modis", 3)))
    root = tmp_path_factory.mktemp("arrays") / "scene"
    return open_scene(write_scene(root, land, rows=range(1), columns=range(2), sensors=(S2, LANDSAT)))


@pytest.mark.parametrize("sensor", ["S2", "Landsat"])
@pytest.mark.parametrize("chunk", [20, 1024])
def test_a_dataset_holds_what_the_scene_reads(scene, sensor, chunk):
    stack = scene.read(Area(0, 0, 48, 96)).stacks[sensor]
    dataset = to_xarray(scene, sensor, chunk)
    assert len(dataset.images.data.chunks[2]) == (3 if chunk == 20 else 1)
    np.testing.assert_array_equal(dataset.images, stack.images)
    np.testing.assert_array_equal(dataset.clear, stack.clear)
    assert dataset.images.dtype == stack.images.dtype
    assert [str(day)[:10] for day in dataset.time.values] == [
        str(day) for day in scene.layers[0].days
    ] or sensor != "S2"
    assert dataset.odc.geobox.crs == scene.grid.crs
    assert dataset.odc.geobox.resolution.x == (10 if sensor == "S2" else 30)
    assert tuple(dataset.band.values) == {"S2": S2, "Landsat": LANDSAT}[sensor].band_ids


def test_nothing_is_read_before_it_is_asked_for(scene, monkeypatch):
    read = []
    monkeypatch.setattr(Scene, "read", lambda *arguments: read.append(arguments))
    dataset = to_xarray(scene, "S2")
    assert (dataset.sizes["x"], read) == (96, [])
