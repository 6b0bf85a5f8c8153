"""The front door: ``import agrifm`` alone is enough to open, predict, map, embed, train and evaluate."""

import doctest

import numpy as np
import pytest
import rasterio
import torch
import yaml
from conftest import unit

import agrifm
import agrifm.api
from agrifm.checkpoint import Checkpoint, build
from agrifm.config import parse
from agrifm.scenes.datasets import to_xarray
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    land = Landscape(rows=1, columns=2, size=48, frames=(("S2", 4), ("Landsat", 3), ("Modis", 3)))
    root = tmp_path_factory.mktemp("front") / "scene"
    return agrifm.open_scene(write_scene(root, land, rows=range(1), columns=range(2), sensors=(S2, LANDSAT)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with random weights, for the numbers of the two sensors."""
    torch.manual_seed(0)
    values = {
        "data": {"root": "data", "sensors": ["S2", "Landsat"]},
        "model": {"size": {"width": 16, "depths": [1, 1, 1, 1], "heads": [1, 2, 4, 8]}},
        "task": {"classes": ["other", "winter wheat", "maize"]},
    }
    experiment = parse(values).with_sensors((unit(S2), unit(LANDSAT)))
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    Checkpoint(experiment, build(experiment).state_dict()).save(path)
    return agrifm.load(path)


def test_every_public_name_is_there():
    for name in agrifm.__all__:
        assert getattr(agrifm, name) is not None
    assert set(agrifm.__all__) <= set(dir(agrifm))
    with pytest.raises(AttributeError, match="nothing"):
        _ = agrifm.nothing


def test_the_examples_in_docstrings_run():
    for module in (agrifm, agrifm.api):
        results = doctest.testmod(module)
        assert results.attempted > 0
        assert results.failed == 0


def test_a_scene_is_predicted_as_it_is_mapped(scene, model, tmp_path):
    predicted = model.predict(scene, confidence=True)
    mapped = model.map(scene, tmp_path / "map.tif", agrifm.MapOptions(("confidence",)))
    with rasterio.open(mapped.files[0]) as file:
        np.testing.assert_array_equal(predicted.classes, file.read(1))
        assert predicted.odc.geobox.crs.to_epsg() == file.crs.to_epsg()
        assert tuple(predicted.odc.geobox.affine)[:6] == tuple(file.transform)[:6]
    with rasterio.open(tmp_path / "map_confidence.tif") as file:
        shares = file.read(1) / 100
    known = (predicted.classes != 255).values
    assert known.any()
    np.testing.assert_allclose(predicted.confidence.values[known], shares[known], atol=1e-6)
    assert list(predicted["class"].values) == list(model.classes)
    sums = predicted.probabilities.sum("class").values[known]
    assert (abs(sums - 1) <= 0.02).all()


def test_a_dataset_in_memory_is_predicted_like_its_cube(scene, model):
    stored = to_xarray(scene, "S2").compute()
    bands = {str(band): stored.images.sel(band=band, drop=True) for band in stored.band.values}
    dataset = stored.drop_vars(["images", "clear", "band"]).assign(bands)
    for band in bands:
        dataset[band].attrs = {"_FillValue": np.uint16(0), "grid_mapping": "spatial_ref"}
    predicted = model.predict(dataset)
    assert predicted.classes.shape == (48, 96)
    assert predicted.odc.geobox == scene.grid
    assert model.embed(dataset).embedding.shape[1:] == (48, 96)


def test_arrays_are_predicted(model):
    generator = torch.Generator().manual_seed(1)
    images = {"S2": torch.randn((4, 10, 24, 24), generator=generator).numpy()}
    dates = {"S2": ["2023-04-01", "2023-05-01", "2023-06-01", "2023-07-01"]}
    predicted = model.predict(images, dates=dates)
    sample = agrifm.Sample.from_item({"data": images, "dates": dates})
    assert predicted.identical(model.predict(sample))
    assert predicted.probabilities.dims == ("class", "y", "x")
    np.testing.assert_array_equal(predicted.classes, predicted.probabilities.argmax("class"))


def test_arrays_of_other_sensors_are_refused(model):
    with pytest.raises(agrifm.InputError, match="at least one of S2, Landsat"):
        model.predict({"Modis": np.zeros((3, 7, 2, 2), np.float32)})


def test_features_are_those_that_the_head_is_given(scene, model):
    embedded = model.embed(scene)
    inner = model.checkpoint.model()
    weight, bias = inner.head.weight.detach(), inner.head.bias.detach()
    features = torch.from_numpy(embedded.embedding.values)
    assert torch.isfinite(features).any()
    # One window covers the scene, so that the head on these features must give the classes of the map.
    outputs = torch.nn.functional.conv2d(features.nan_to_num()[None], weight, bias, padding=1)[0]
    inside = torch.isfinite(torch.nn.functional.conv2d(features[None], weight * 0 + 1, padding=1)[0][0]).numpy()
    expected = model.predict(scene).classes.values
    assert inside.sum() > 100
    agree = (outputs.argmax(0).numpy() == expected)[inside].mean()
    assert agree > 0.99


def test_weights_that_come_along_embed(scene):
    embedded = agrifm.load("agrifm-tiny").embed(scene)
    assert embedded.embedding.dims == ("feature", "y", "x")
    assert np.isfinite(embedded.embedding).any()


def test_a_missing_file_is_refused():
    with pytest.raises(agrifm.InputError, match="agrifm-tiny"):
        agrifm.load("agrifm-tinny")


def test_chips_training_and_scores(farm, settings, tmp_path):
    settings["training"]["epochs"] = 1
    path = tmp_path / "crops.yaml"
    path.write_text(yaml.safe_dump(settings))
    trained = agrifm.train(path, tmp_path / "run", ["name=front"])
    assert trained.experiment.name == "front"
    result = agrifm.evaluate(trained, "test")
    again = agrifm.evaluate(trained.path, "test", root=farm, out=tmp_path / "scores")
    assert result.summary == again.summary
    assert (tmp_path / "scores/scores.json").is_file()


def test_chips_are_made(scene, tmp_path):
    parcels = scene_parcels(scene, tmp_path)
    plan = agrifm.ChipPlan(size=16, class_column="crop")
    report = agrifm.make_chips(scene, parcels, tmp_path / "chips", plan)
    assert sum(report.chips.values()) > 0
    assert (tmp_path / "chips/crops.yaml").is_file()


def scene_parcels(scene, folder):
    """Twelve squares of two crops."""
    import geopandas as gpd
    from shapely.geometry import box

    left, bottom, _, _ = scene.grid.extent.boundingbox
    squares = [
        box(left + 160 * i, bottom + 160 * j, left + 160 * i + 120, bottom + 160 * j + 120)
        for i in range(6)
        for j in range(3)
    ]
    crops = [("wheat", "maize")[i % 2] for i in range(len(squares))]
    path = folder / "parcels.gpkg"
    gpd.GeoDataFrame({"crop": crops}, geometry=squares, crs=str(scene.grid.crs)).to_file(path)
    return path


def test_a_model_is_shown_in_one_line_without_its_weights():
    shown = repr(agrifm.load("agrifm-tiny"))
    assert shown.startswith("<agrifm.Model agrifm-tiny")
    assert "sensors S2, Landsat, Modis" in shown
    assert "cropland" in shown
    assert "tensor(" not in shown
