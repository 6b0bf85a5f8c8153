"""Maps of chips: georeferenced independently of the batch; invalid output never becomes a class."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import rasterio
import torch
from conftest import FARM, TINY, unit
from PIL import Image
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app
from agrifm.config import parse
from agrifm.data.chips import write_chip
from agrifm.data.folder import ChipFolder, CustomDataset
from agrifm.errors import InputError
from agrifm.maps.predict_chips import predict
from agrifm.sensors import LANDSAT, S2
from agrifm.settings.overrides import override

SENSORS = (S2, LANDSAT)
NAMES = ["other", "wheat", "maize"]


@pytest.fixture(scope="module")
def model():
    """A model with random weights."""
    values = {"data": {"sensors": ["S2"], "footprint": 480}, "model": {"size": TINY}, "task": {"classes": NAMES}}
    experiment = parse(values).with_sensors([unit(sensor) for sensor in SENSORS])
    experiment = experiment.model_copy(update={"training": experiment.training.model_copy(update={"batch_size": 4})})
    torch.manual_seed(1)
    return Checkpoint(experiment, build(experiment).state_dict())


@pytest.fixture(scope="module")
def samples():
    """Two unlabeled chips."""
    return [replace(FARM.sample(0, column, SENSORS), label=None) for column in (0, 1)]


def chips(folder, **samples):
    """Write samples, their Landsat-only versions on a grid of 30 m, as chips."""
    for name, sample in samples.items():
        place = FARM.place(0, 0)
        place = place if "S2" in sample.images else place.resized((48, 48), 16, 16)
        write_chip(folder / f"{name}.h5", sample, SENSORS, place)
    return ChipFolder.in_folder(folder, SENSORS, allow_missing=True)


def test_a_map_does_not_depend_on_its_batch_and_lies_where_the_chip_lies(model, samples, tmp_path):
    """A Landsat-only chip in a batch with Sentinel-2 once got that sensor's pixel size, and so the wrong location."""
    both, alone = samples[0], samples[1].only(("Landsat",))
    predict(model, chips(tmp_path / "one", alone=alone), tmp_path / "a")
    predict(model, chips(tmp_path / "two", both=both, alone=alone), tmp_path / "b")
    with rasterio.open(tmp_path / "a" / "alone.tif") as one, rasterio.open(tmp_path / "b" / "alone.tif") as two:
        assert np.array_equal(one.read(), two.read())
        assert (one.transform, one.bounds) == (two.transform, two.bounds)
        assert one.res == (30, 30)
        bounds = one.bounds
    with rasterio.open(tmp_path / "b" / "both.tif") as file:
        assert file.res == (10, 10)
        assert file.bounds == bounds


def test_the_transform_belongs_to_the_grid_of_the_label(model, samples, tmp_path):
    """The label has pixels of 10 m; a map from Landsat alone has pixels of 30 m in the same extent."""
    sample = replace(samples[1].only(("Landsat",)), label=FARM.sample(0, 1, SENSORS).label)
    write_chip(tmp_path / "chips" / "x.h5", sample, SENSORS, FARM.place(0, 1))
    predict(model, ChipFolder.in_folder(tmp_path / "chips", SENSORS, allow_missing=True), tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "x.tif") as file:
        assert file.shape == (16, 16)
        assert tuple(file.transform)[:6] == FARM.place(0, 1).resized((48, 48), 16, 16).transform
        assert (file.bounds.right - file.bounds.left, file.bounds.top - file.bounds.bottom) == (480, 480)


def test_equal_names_in_two_folders_become_two_maps(model, samples, tmp_path):
    for folder, sample in zip(("east", "west"), samples, strict=True):
        chips(tmp_path / "chips" / folder, x=sample)
    source = ChipFolder(tmp_path / "chips", ("east/x", "west/x"), SENSORS, None)
    paths = predict(model, source, tmp_path / "out", suffix="_pred", force_png=True)
    assert paths == [tmp_path / "out" / folder / "x_pred.png" for folder in ("east", "west")]
    one, two = (np.asarray(Image.open(path)) for path in paths)
    assert (one != two).any()


class Own(torch.utils.data.Dataset):
    """Samples with given names."""

    def __init__(self, sample, names):
        self.sample, self.names = sample, names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return {"data": {"Landsat": self.sample.images["Landsat"]}, "file_name": self.names[index]}


NAMED = {
    "out of the folder": (("../x",), "without folders"),
    "absolute": (("/tmp/x",), "without folders"),
    "none": (("",), "without folders"),
    "twice": (("x", "x"), "a unique name"),
    "as an extra of another": (("x", "x_confidence"), "a unique name"),
}


@pytest.mark.parametrize("case", NAMED)
def test_no_two_maps_go_to_one_file_and_none_out_of_the_folder(model, samples, tmp_path, case):
    names, message = NAMED[case]
    with pytest.raises(InputError, match=message):
        predict(model, CustomDataset(Own(samples[0], names)), tmp_path / "out", confidence=True)
    assert not (tmp_path / "x.png").exists()


def test_what_is_wrong_with_a_place_is_found_before_anything_is_computed(model, samples, tmp_path, monkeypatch):
    source = chips(tmp_path, a=samples[0], b=samples[1])
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file.attrs["crs"] = "nonsense"
    monkeypatch.setattr("agrifm.maps.predict_chips.outputs", None)
    with pytest.raises(InputError, match="nonsense") as caught:
        predict(model, source, tmp_path / "out")
    assert "b.h5: attribute 'crs'" in caught.value.where


def test_more_classes_than_a_map_holds_are_refused_before_anything_is_computed(model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="254"):
        parse({"data": {"sensors": ["S2"]}, "task": {"classes": [f"c{i}" for i in range(255)]}})
    task = replace(model.experiment.task)
    object.__setattr__(task, "classes", tuple(replace(task.classes[0], name=f"c{i}") for i in range(255)))
    many = replace(model, experiment=model.experiment.model_copy(update={"task": task}))
    monkeypatch.setattr("agrifm.maps.predict_chips.outputs", None)
    with pytest.raises(InputError, match="254"):
        predict(many, ChipFolder(tmp_path, ("x",), SENSORS), tmp_path / "out", force_png=True)


def test_output_that_is_not_finite_is_an_error_not_the_first_class(model, samples, tmp_path):
    image = samples[0].images["S2"].float().clone()
    image[:, :, 5, 5] = 1e38
    bright = replace(samples[0], images={**samples[0].images, "S2": image})
    with pytest.raises(InputError, match="not finite on") as caught:
        predict(model, chips(tmp_path / "a", bright=bright), tmp_path / "out")
    assert caught.value.where == "sample bright"
    # Weights that are not finite are refused before; these are finite, and what they give is not.
    large = {**model.weights, "head.weight": torch.full_like(model.weights["head.weight"], 3e38)}
    with pytest.raises(InputError, match="weights are damaged"):
        predict(replace(model, weights=large), chips(tmp_path / "b", x=samples[0]), tmp_path / "out")


def test_the_printed_repair_of_a_link_works_as_it_is_written(model, samples, tmp_path, settings):
    chips(tmp_path / "private", x=samples[0])
    (tmp_path / "chips").mkdir()
    with h5py.File(tmp_path / "chips" / "x.h5", "w") as file:
        for name in ("S2", "Landsat"):
            file[name] = h5py.ExternalLink(str(tmp_path / "private" / "x.h5"), name)
    path = tmp_path / "best.safetensors"
    model.save(path)
    command = ["predict", str(path), str(tmp_path / "chips"), str(tmp_path / "out")]
    refused = CliRunner().invoke(app, command).exception
    assert isinstance(refused, InputError)
    assert "--allow-links" in refused.repair
    assert CliRunner().invoke(app, [*command, "--allow-links"]).exit_code == 0
    assert (tmp_path / "out" / "x.png").is_file()
    assert parse(override(settings, ["data.allow_links=true"])).data.allow_links
