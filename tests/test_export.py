"""Exported files compute what the model computes, and say what goes in and comes out."""

import json
import subprocess
import sys
from zipfile import ZipFile

import pytest
import torch
from conftest import unit
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app
from agrifm.config import parse
from agrifm.errors import InputError
from agrifm.pixels.ensemble import Fitted, PixelEnsemble
from agrifm.pixels.features import PixelFeatures
from agrifm.pixels.learners import fit_member
from agrifm.products.export import file
from agrifm.products.export.plain_classifiers import PlainClassifiers
from agrifm.products.export.plain_network import PlainNetwork
from agrifm.sample import Season
from agrifm.sensors import LANDSAT, S2

BOUND = 1e-4  # of probabilities
CLASSES = ["other", "winter wheat", "maize"]
YEAR = Season(60.0, 200.0)


def experiment(sensors=(S2, LANDSAT), depths=(2, 1), **model):
    size = {"width": 8, "depths": depths, "heads": [1] * len(depths), "window": [1, 2, 2]}
    values = {
        "name": "small",
        "data": {"root": "data", "sensors": [sensor.name for sensor in sensors]},
        "model": {"size": size, **model},
        "task": {"classes": CLASSES},
    }
    return parse(values).with_sensors([unit(sensor) for sensor in sensors])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network with random weights, on whose grid windows are shifted and padded. It is small: exporters are slow."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("export") / "network.safetensors"
    plan = experiment(sensors=(S2,), depths=(2,))
    Checkpoint(plan, build(plan).state_dict()).save(path)
    return path


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """A linear member, one with kernels, and trees, on two sensors."""
    path = tmp_path_factory.mktemp("export") / "classifiers.safetensors"
    sensors = (S2, LANDSAT)
    features = PixelFeatures(sensors, YEAR, steps=4)
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for sensor in sensors:
        series = 5000 * torch.rand(90, 4, len(sensor.bands), generator=generator)
        blocks.append(features.of_series(series, sensor))
    values = torch.cat(blocks, 1).numpy()
    truth = torch.arange(90).numpy() % 3
    names = ("S2", "Landsat")
    members = [Fitted(name, names, 1 / 3, fit_member(name, values, truth, 0)) for name in ("lda", "kernel", "forest")]
    pixels = PixelEnsemble(features, 3, (0, 1, 2), members)
    plan = experiment().quick()
    Checkpoint(plan, {}, pixels=pixels, pixel_share=1.0).save(path)
    return path


def run_alone(path, inputs, arrays):
    """What the file computes, with nothing but onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the group 'export'")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == inputs
    return session.run(["probabilities"], arrays)[0], session.get_modelmeta().custom_metadata_map


def refuse_without_libraries():
    for name in file.LIBRARIES:
        pytest.importorskip(name, reason=f"{name} is in the group 'export'")


def test_a_network(network, tmp_path):
    refuse_without_libraries()
    out = tmp_path / "model.onnx"
    answer = CliRunner().invoke(app, ["export", str(network), str(out), "--dates", "5", "--size", "9"])
    assert answer.exit_code == 0, answer.output
    assert "largest difference" in answer.output
    plain = PlainNetwork(Checkpoint.load(network), 5, 9).eval()
    tensors = plain.random_inputs(4)  # another number of samples than the file was made with
    with torch.no_grad():
        expected = plain.reference(tensors)
    arrays = {name: tensor.numpy() for name, tensor in zip(plain.inputs, tensors, strict=True)}
    found, facts = run_alone(out, plain.inputs, arrays)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=BOUND, rtol=0)
    assert json.loads(facts["classes"]) == CLASSES
    [s2] = json.loads(facts["sensors"])
    assert (s2["rows"], s2["columns"]) == (9, 9)
    assert s2["bands"] == list(S2.band_ids)
    assert (s2["scale"], s2["offset"]) == (S2.scale, S2.offset)


def test_classifiers_of_pixels(classifiers, tmp_path):
    refuse_without_libraries()
    out = tmp_path / "model.onnx"
    written = file.export(classifiers, out)
    assert written.difference < BOUND
    plain = PlainClassifiers(Checkpoint.load(classifiers)).eval()
    tensors = plain.random_inputs(30)  # the last one was never seen by Sentinel-2
    with torch.no_grad():
        expected = plain.reference(tensors)
    arrays = {name: tensor.numpy() for name, tensor in zip(plain.inputs, tensors, strict=True)}
    found, facts = run_alone(out, ["S2_series", "Landsat_series"], arrays)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=BOUND, rtol=0)
    assert json.loads(facts["step_days"]) == pytest.approx([0, 200 / 3, 400 / 3, 200], abs=1e-3)


RUN_ALONE = """
import sys
sys.modules["agrifm"] = None  # an import would fail
import torch
for name in sys.argv[1:]:
    program = torch.export.load(f"{name}.pt2").module()
    torch.save(program(*torch.load(f"{name}.inputs")), f"{name}.outputs")
"""


def test_programs_of_pytorch_run_without_this_package(network, classifiers, tmp_path):
    assert file.export(network, tmp_path / "network.pt2", 5, 9).difference < BOUND
    assert file.export(classifiers, tmp_path / "classifiers.pt2").difference < BOUND
    plain_models = {
        "network": PlainNetwork(Checkpoint.load(network), 5, 9).eval(),
        "classifiers": PlainClassifiers(Checkpoint.load(classifiers)).eval(),
    }
    inputs = {}
    for name, plain in plain_models.items():
        inputs[name] = plain.random_inputs(7)  # another number of samples than the file was made with
        torch.save(inputs[name], tmp_path / f"{name}.inputs")
    subprocess.run([sys.executable, "-c", RUN_ALONE, *plain_models], check=True, cwd=tmp_path)
    for name, plain in plain_models.items():
        with torch.no_grad():
            expected = plain.reference(inputs[name])
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.outputs"), expected, atol=BOUND, rtol=0)
        with ZipFile(tmp_path / f"{name}.pt2") as archive:
            [facts] = [entry for entry in archive.namelist() if entry.endswith(file.FACTS)]
            assert json.loads(archive.read(facts))["classes"] == CLASSES


def test_a_file_that_computes_something_else_is_not_kept(classifiers, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_run_program", lambda path, tensors: torch.tensor(torch.nan))
    with pytest.raises(InputError, match="differ by up to nan"):
        file.export(classifiers, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_missing_libraries_are_named(classifiers, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "LIBRARIES", ("no_such_library",))
    with pytest.raises(InputError, match=r"(?s)no no_such_library.*agrifm\[export\]"):
        file.export(classifiers, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"expected: \.onnx or \.pt2"):
        file.export(classifiers, tmp_path / "model.pt")


def test_what_cannot_be_exported_is_refused(network, classifiers, tmp_path):
    out = tmp_path / "model.pt2"
    with pytest.raises(InputError, match="leave them out"):
        file.export(classifiers, out, dates=4)
    flipped = tmp_path / "flipped.safetensors"
    Checkpoint.load(network).averaging(flips=True).save(flipped)
    with pytest.raises(InputError, match="an average of several models"):
        file.export(flipped, out)
    pixel = tmp_path / "pixel.safetensors"
    plan = experiment(branch="pixel", season={"start": 60.0, "length": 200.0})
    Checkpoint(plan, build(plan).state_dict()).save(pixel)
    with pytest.raises(InputError, match="operations by the data"):
        file.export(pixel, out)


@pytest.mark.parametrize("steps", [None, 4])
def test_the_plain_network_is_the_network(steps):
    """Without any exporter: the same probabilities, also of series that are interpolated inside the model."""
    torch.manual_seed(0)
    season = {"start": 60.0, "length": 200.0} if steps else None
    plan = experiment(time_steps=steps, season=season)
    plain = PlainNetwork(Checkpoint(plan, build(plan).state_dict()), 5, 9).eval()
    tensors = plain.random_inputs(2)
    with torch.no_grad():
        torch.testing.assert_close(plain(*tensors), plain.reference(tensors), atol=1e-5, rtol=0)
    assert plain.sizes == {"S2": (9, 9), "Landsat": (3, 3)}


def test_the_plain_classifiers_are_the_classifiers(classifiers):
    plain = PlainClassifiers(Checkpoint.load(classifiers)).eval()
    tensors = plain.random_inputs(40)
    with torch.no_grad():
        torch.testing.assert_close(plain(*tensors), plain.reference(tensors), atol=1e-5, rtol=0)
