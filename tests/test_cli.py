"""The command as a user runs it."""

import json
import signal
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from conftest import FARM, FEW_PIXELS
from PIL import Image
from typer.testing import CliRunner

from agrifm.cli import app, main
from agrifm.data.chips import read_chip, write_chip
from agrifm.evaluation.baselines import random_forest
from agrifm.sensors import LANDSAT, S2

runner = CliRunner()


def agrifm(*arguments):
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


@pytest.fixture
def fails(monkeypatch, capsys):
    """Runs a command that is refused, and returns what it prints on the error stream."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["agrifm", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 2
        assert "Traceback" not in printed.out + printed.err
        return printed.err

    usual = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    yield run
    signal.signal(signal.SIGTERM, usual)


@pytest.fixture(scope="module")
def trained(farm, tmp_path_factory):
    """A checkpoint trained for one epoch by the command."""
    import yaml

    out = tmp_path_factory.mktemp("run")
    names = ["other", "winter wheat", "maize", "rapeseed", "sugar beet", "grassland"]
    size = {"width": 16, "depths": [1, 1, 1, 1], "heads": [1, 2, 4, 8]}
    settings = {
        "data": {"root": str(farm), "sensors": ["S2", "Landsat"]},
        "task": {"classes": names},
        "model": {"size": size},
        "pixels": FEW_PIXELS,
        "training": {"epochs": 1, "workers": 1},
    }
    config = out / "experiment.yaml"
    config.write_text(yaml.safe_dump(settings))
    text = agrifm("train", config, "--out", out / "run")
    assert "agrifm evaluate" in text
    return out / "run" / "best.safetensors"


def test_evaluate_writes_scores_tables_and_a_picture(trained, tmp_path, farm):
    text = agrifm("evaluate", trained, "--split", "test", "--out", tmp_path)
    assert "winter wheat" in text
    assert "kappa" in text
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["summary"]) == {"aAcc", "mIoU", "mAcc", "mFscore", "mPrecision", "mRecall", "kappa"}
    chips = (farm / "data_lists" / "test.txt").read_text().split()
    assert sum(map(sum, scores["confusion"])) == len(chips) * 48 * 48
    assert "torch" in json.loads((tmp_path / "environment.json").read_text())
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 7
    assert len((tmp_path / "confusion.csv").read_text().splitlines()) == 7
    assert Image.open(tmp_path / "confusion.png").size[0] > 300
    other = agrifm("evaluate", trained, "--root", farm, "--split", "val", "--out", tmp_path / "val")
    assert "mFscore" in other


def test_predictions_lie_where_the_chips_lie(trained, tmp_path, farm):
    agrifm("predict", trained, farm, tmp_path, "--probabilities", "--confidence")
    name = (farm / "data_lists" / "test.txt").read_text().split()[0]
    with rasterio.open(tmp_path / f"{name}.tif") as file:
        classes = file.read(1)
        assert file.crs.to_epsg() == 32631
        assert file.res == (10, 10)
        assert (file.nodata, file.dtypes[0]) == (255, "uint8")
        assert file.colormap(1)[1][:3] != file.colormap(1)[2][:3]
        assert file.tags(1)["class_1"] == "winter wheat"
    assert "<F>winter wheat</F>" in (tmp_path / f"{name}.tif.aux.xml").read_text()
    with rasterio.open(tmp_path / f"{name}_probabilities.tif") as file:
        chances = file.read()
        assert file.descriptions[1] == "winter wheat"
    np.testing.assert_allclose(chances.sum(0), 1, atol=1e-5)
    seen = classes != 255
    assert (chances.argmax(0) == classes)[seen].all()
    with rasterio.open(tmp_path / f"{name}_confidence.tif") as file:
        np.testing.assert_allclose(file.read(1), chances.max(0))


def test_a_chip_without_place_or_label_becomes_a_picture(trained, tmp_path, farm):
    name = (farm / "data_lists" / "test.txt").read_text().split()[0]
    sample = read_chip(farm / "h5_samples" / f"{name}.h5", [S2, LANDSAT], label_key=None)
    sample.valid["S2"][:, :10, :10] = False
    only = sample.without("Landsat")
    write_chip(tmp_path / "chips" / "a.h5", only, [S2])
    agrifm("predict", trained, tmp_path / "chips", tmp_path / "maps", "--confidence")
    colors = np.asarray(Image.open(tmp_path / "maps" / "a.png"))
    assert colors.shape == (48, 48, 3)
    assert (colors[:10, :10] == 255).all()
    assert np.load(tmp_path / "maps" / "a_confidence.npy").shape == (1, 48, 48)
    found = {path.name for path in (tmp_path / "maps").iterdir()}
    assert found == {"a.png", "a_confidence.npy", "experiment.yaml", "environment.json"}


def test_show(trained, config_file):
    text = agrifm("show", trained)
    assert "sensors: S2, Landsat" in text
    assert "winter wheat" in text
    assert "decoder: pyramid" in agrifm("show", config_file)
    import yaml

    values = yaml.safe_load(config_file.read_text())
    values["data"]["sensors"] = ["S2"]
    config_file.write_text(yaml.safe_dump(values))
    assert "weights: " in agrifm("show", config_file)


def test_data_check_and_stats(config_file, farm, fails):
    text = agrifm("data", "check", config_file)
    assert "no problems found" in text
    assert "winter wheat" in text
    import yaml

    figures = yaml.safe_load(agrifm("data", "stats", config_file))
    assert len(figures["S2"]["mean"]) == 10
    assert 0 < figures["Landsat"]["std"][0] < 5000
    bad = fails("train", config_file, "--set", "data.root=/nowhere")
    assert "no such file" in bad


def test_data_check_lists_all_problems(config_file):
    result = runner.invoke(app, ["data", "check", str(config_file), "--set", "task.classes=[a, b]"])
    assert result.exit_code == 2
    assert "10 problems found" in result.output
    assert "task.classes" in result.output


def test_weights_commands(trained, tmp_path):
    state = {
        f"encoders.encoders.{key}": value
        for key, value in {"S2.patch_emd.proj.weight": torch.zeros(2, 3, 4, 2, 2)}.items()
    }
    torch.save(state, tmp_path / "x.pth")
    assert "1 tensor written" in agrifm("weights", "convert", tmp_path / "x.pth", tmp_path / "x.safetensors")
    text = agrifm("weights", "show", trained)
    assert "AgriFM checkpoint" in text
    assert "width    16" in text


def test_errors_have_no_traceback(tmp_path, config_file, fails):
    assert "no such file" in fails("train", tmp_path / "no.yaml")
    assert "did you mean 'epochs'" in fails("train", config_file, "--set", "training.epcohs=3")
    assert "no such file" in fails("evaluate", tmp_path / "no.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    assert "cut off" in fails("show", tmp_path / "cut.safetensors")
    command = [sys.executable, "-m", "agrifm.cli", "show", "no.safetensors"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no.safetensors\n")


def test_example_data_is_written_once(tmp_path, monkeypatch):
    import agrifm.demo as module

    monkeypatch.setattr(module, "Landscape", lambda seed, paddy=False: FARM)
    assert "written to" in agrifm("data", "example", tmp_path / "farm")
    assert "already" in agrifm("data", "example", tmp_path / "farm")


def test_the_demo_from_end_to_end(tmp_path, config_file, farm, monkeypatch):
    import yaml

    import agrifm.demo as module

    monkeypatch.setattr(module, "Landscape", lambda seed, paddy=False: FARM)
    monkeypatch.setattr(module, "random_forest", partial(random_forest, trees=20))

    values = yaml.safe_load(config_file.read_text())
    values["training"]["epochs"] = 1
    config_file.write_text(yaml.safe_dump(values))
    text = agrifm("demo", config_file, "--out", tmp_path / "demo")
    assert "random forest" in text
    assert "majority class" in text
    assert Image.open(tmp_path / "demo" / "demo.png").size[0] > 800
    assert set(json.loads((tmp_path / "demo" / "scores.json").read_text())) >= {"random forest", "majority class"}
    assert list((tmp_path / "demo" / "maps").glob("*.tif"))
    assert Image.open(tmp_path / "demo" / "scene.png").size[0] > 800
    with rasterio.open(tmp_path / "demo" / "scene.tif") as file:
        assert file.shape == (96, 48)
        assert file.tags(1)["class_1"] == "winter wheat"
