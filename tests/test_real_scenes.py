"""Real scenes, where they are on this machine: netCDF of two sensors from files to chips and a map."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from conftest import TINY

from agrifm.chips.writer import ChipPlan, write_chips
from agrifm.config import load
from agrifm.data.chips import read_chip
from agrifm.maps.map_scene import MapOptions, map_scene
from agrifm.opening import open_scene
from agrifm.scenes.checks.units import check_units
from agrifm.scenes.scene import Area
from agrifm.training.fit import fit

PATCH = Path(__file__).parents[2] / "shared" / "data" / "worldcereal_patches" / "netcdf_be_a"
pytestmark = pytest.mark.skipif(not PATCH.is_dir(), reason=f"needs {PATCH.parent.name}/{PATCH.name} of the real series")


@pytest.fixture(scope="module")
def scene():
    return check_units(open_scene(PATCH))


@pytest.fixture(scope="module")
def labels(scene, tmp_path_factory):
    """Crop codes of the patch as GeoTIFF; 0 is no crop."""
    path = tmp_path_factory.mktemp("labels") / "crops.tif"
    with xr.open_dataset(next(PATCH.glob("*OUTPUT*"))) as cube:
        codes = np.nan_to_num(cube["CT"].values).astype(np.uint16).reshape(64, 64)
    profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 1, "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", crs=str(scene.grid.crs), transform=scene.grid.affine, **profile) as file:
        file.write(codes, 1)
    return path


def test_a_folder_of_cubes_is_one_scene_of_two_sensors(scene):
    assert [sensor.name for sensor in scene.sensors] == ["S2", "Landsat"]
    assert [len(layer.frames) for layer in scene.layers] == [118, 26]
    assert (tuple(scene.grid.shape), scene.grid.crs.to_epsg()) == ((64, 64), 32631)
    tile = scene.read(Area(0, 0, 64, 64))
    assert tile.stacks["S2"].images.shape == (118, 10, 64, 64)
    assert tile.stacks["Landsat"].images.shape[1:] == (6, 22, 22)
    clear = {name: float(stack.clear.mean()) for name, stack in tile.stacks.items()}
    assert all(0.1 < share < 0.9 for share in clear.values()), clear
    with xr.open_dataset(next(PATCH.glob("*10*m*")), mask_and_scale=False) as cube:
        np.testing.assert_array_equal(tile.stacks["S2"].images[5, 0], cube["B02"].values[5])


def test_from_cubes_to_a_map(scene, labels, tmp_path):
    """Chips, one epoch of training and a map on which every pixel has a class, of the first four months."""
    scene = scene.until(date(2018, 4, 30))
    write_chips(scene, labels, tmp_path / "chips", ChipPlan(size=16))
    config = tmp_path / "chips" / "crops.yaml"
    names = (tmp_path / "chips" / "data_lists" / "train.txt").read_text().split()
    sample = read_chip(tmp_path / "chips" / "h5_samples" / f"{names[0]}.h5", scene.sensors)
    assert sample.images["Landsat"].shape[-2:] == (5, 5)
    torch.manual_seed(0)
    size = f"model.size={TINY}".replace("'", '"')
    small = [size, "start_from=null", "training.epochs=1", "data.frames=12"]
    small += ["pixels.max_pixels=400", "pixels.time_steps=6"]
    best = fit(load(config, small), tmp_path / "run")
    mapped = map_scene(best, scene, tmp_path / "map.tif", MapOptions(("observations",)))
    assert "no data" not in mapped.hectares
    with rasterio.open(tmp_path / "map_observations.tif") as file:
        assert file.descriptions == ("S2", "Landsat")
        assert file.read().min(axis=(1, 2))[0] >= 1
