"""Chips and runs in the viewer: what the server answers, and the pages in a browser."""

import io
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from conftest import FARM, FEW_PIXELS
from PIL import Image
from rich.console import Console
from starlette.testclient import TestClient
from viewer_ground import CHROMIUM, TOKEN, browser_page, running

from agrifm.checkpoint import Checkpoint
from agrifm.config import parse
from agrifm.data.chips import read_chip
from agrifm.errors import InputError
from agrifm.evaluation.reliability import measure_reliability
from agrifm.evaluation.scoring import write_scores
from agrifm.pixels.fitting import Comparison, MemberScore
from agrifm.sensors import S2
from agrifm.synthetic.chips import CLASSES
from agrifm.tasks.scores import scores
from agrifm.training.fit import fit
from agrifm.training.history import write_history
from agrifm.training.pixel_stage import write_members
from agrifm.viewer.chips import ChipSet
from agrifm.viewer.opening import open_page
from agrifm.viewer.runs import Run
from agrifm.viewer.server import application

PICTURES = Path(os.environ["AGRIFM_PICTURES"]).absolute() if "AGRIFM_PICTURES" in os.environ else None
NAMES = tuple(name for name, _ in CLASSES)


def client_of(shown):
    return TestClient(application(shown, TOKEN), base_url="http://127.0.0.1", raise_server_exceptions=False)


def get(client, path, status=200):
    answer = client.get(f"/{TOKEN}/{path}")
    assert answer.status_code == status, answer.text[:300]
    return answer


def image_of(answer):
    return np.array(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


@pytest.fixture(scope="module")
def chips(farm):
    return open_page([farm])


@pytest.fixture(scope="module")
def client(chips):
    return client_of(chips)


@pytest.fixture(scope="module")
def contents(client):
    return get(client, "chips.json").json()


@pytest.fixture(scope="module")
def unplaced(farm, tmp_path_factory):
    """The same chips without a place, one of them damaged."""
    root = tmp_path_factory.mktemp("unplaced") / "chips"
    shutil.copytree(farm, root)
    paths = sorted((root / "h5_samples").glob("*.h5"))
    for path in paths:
        with h5py.File(path, "a") as file:
            del file.attrs["crs"], file.attrs["transform"]
    paths[0].write_bytes(paths[0].read_bytes()[:2000])
    return root


@pytest.fixture(scope="module")
def run(farm, tmp_path_factory):
    """A folder with everything that a run, an evaluation and a calibration write."""
    folder = tmp_path_factory.mktemp("runs") / "wheat"
    values = {
        "name": "wheat",
        "data": {"root": str(farm), "sensors": ["S2"]},
        "network": False,
        "pixels": {**FEW_PIXELS, "folds": 2},
        "task": {"classes": [{"name": name, "color": color} for name, color in CLASSES]},
        "training": {"workers": 0},
    }
    fit(parse(values), folder, console=Console(quiet=True))
    best = folder / "best.safetensors"
    replace(Checkpoint.load(best), epoch=11).save(best)
    members = (MemberScore("lda", 0.81, 0.74, 0.2, True), MemberScore("svm", 0.7, 0.6, 3.1, False))
    write_members(Comparison(members, (0.81, 0.74), 5, 20, 400), folder / "members.csv")
    for epoch in range(12):
        write_history(
            folder / "history.csv",
            epoch,
            {"loss": 1.4 * 0.8**epoch, "mFscore": 0.8 - 0.5 * 0.7**epoch, "kappa": 0.7 - 0.6 * 0.7**epoch},
        )
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 120, (6, 6)) + np.diag(rng.integers(400, 2000, 6))
    write_scores(scores(confusion, NAMES), folder / "scores_test")
    probabilities = rng.dirichlet(np.ones(6) * 0.4, 4000).T
    tempered = probabilities**0.5 / (probabilities**0.5).sum(0)  # the truth follows less confident probabilities
    truth = (rng.random(4000) < tempered.cumsum(0)).argmax(0)
    before = asdict(measure_reliability(probabilities, truth))
    after = asdict(measure_reliability(tempered, truth))
    shutil.copy(folder / "best.safetensors", folder / "best_calibrated.safetensors")
    document = {"calibration": {}, "splits": {"val": {"before": before, "after": after, "pixels": 4000}}}
    (folder / "best_calibrated.json").write_text(json.dumps(document))
    return folder


def test_chips_are_listed_with_split_place_and_labeled_pixels(farm, contents):
    assert contents["splits"] == ["train", "val", "test"]
    listed = {chip["name"]: chip for chip in contents["chips"]}
    expected = {FARM.name(row, column): split for split, places in FARM.splits().items() for row, column in places}
    assert {name: chip["split"] for name, chip in listed.items()} == expected
    name = FARM.name(1, 2)
    label = read_chip(farm / "h5_samples" / f"{name}.h5", (S2,)).label.numpy()
    counts = {contents["classes"][value]["name"]: int((label == value).sum()) for value in np.unique(label[label >= 0])}
    assert listed[name]["pixels"] == counts
    west = min(x for x, _ in listed[FARM.name(0, 0)]["footprint"])
    east = max(x for x, _ in listed[FARM.name(0, 0)]["footprint"])
    assert east - west == pytest.approx(480 / (111_320 * np.cos(np.radians(listed[name]["footprint"][0][1]))), rel=0.01)
    assert listed[FARM.name(0, 0)]["footprint"][1] == pytest.approx(listed[FARM.name(0, 1)]["footprint"][0], abs=1e-6)


def test_a_chip_has_pictures_and_the_mean_of_its_classes(farm, client, contents):
    number = [chip["name"] for chip in contents["chips"]].index(FARM.name(1, 2))
    sample = read_chip(farm / "h5_samples" / f"{FARM.name(1, 2)}.h5", (S2,))
    detail = get(client, f"chip/{number}.json").json()
    assert [sensor["name"] for sensor in detail["sensors"]] == ["S2", "Landsat", "Modis"]
    first = detail["sensors"][0]
    valid = sample.valid["S2"].numpy()
    assert first["clear"] == pytest.approx(valid.mean((1, 2)).tolist(), abs=1e-3)
    label = sample.label.numpy()
    series = first["series"][0]
    step = next(i for i, value in enumerate(series["ndvi"]) if value is not None)
    mask = (label == series["class"]) & valid[step]
    mean = (sample.images["S2"].numpy()[step][:, mask] * S2.scale + S2.offset).mean(1)
    red, infrared = mean[S2.index("red")], mean[S2.index("nir")]
    assert series["ndvi"][step] == pytest.approx((infrared - red) / (infrared + red), abs=1e-4)

    colors = np.zeros((256, 4), np.uint8)
    for value, entry in enumerate(contents["classes"]):
        colors[value] = (*bytes.fromhex(entry["color"][1:]), 255)
    drawn = image_of(get(client, f"chip/{number}/label.png"))
    assert np.array_equal(drawn, np.where(label[..., None] >= 0, colors[label], 0))
    clearest = int(np.argmax(first["clear"]))
    picture = image_of(get(client, f"chip/{number}/0/{clearest}.png"))
    assert picture.shape == (48, 48, 4)
    assert picture[..., :3].std() > 10
    assert np.array_equal(image_of(get(client, f"chip/{number}/thumbnail.png")), picture)

    pixel = get(client, f"chip/{number}/series.json?x=0.51&y=0.26").json()
    row, column = int(0.26 * 48), int(0.51 * 48)
    assert pixel["class"] == (None if label[row, column] < 0 else label[row, column])
    assert pixel["series"][0]["clear"] == valid[:, row, column].tolist()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("chip/999.json", 404),
        ("chip/999/label.png", 404),
        ("chip/0/9/0.png", 404),
        ("chip/0/0/99.png", 404),
        ("chip/0/series.json", 400),
        ("chip/0/series.json?x=1&y=0", 400),
        ("chip/0/series.json?x=nan&y=0", 400),
        ("view.json", 404),
    ],
)
def test_chips_that_are_not_there_end_in_a_sentence(client, path, status):
    assert len(get(client, path, status).json()["error"]) > 5


def test_chips_without_place_or_experiment_are_shown(unplaced):
    client = client_of(ChipSet.open(unplaced))
    contents = get(client, "chips.json").json()
    assert {entry["footprint"] is None for entry in contents["chips"]} == {True}
    problems = [entry for entry in contents["chips"] if "problem" in entry]
    assert len(problems) == 1
    assert problems[0]["name"] in problems[0]["problem"]
    with pytest.raises(InputError, match="no list"):
        ChipSet.open(unplaced / "h5_samples")


def test_the_experiment_beside_chips_says_what_labels_mean(farm, tmp_path):
    for name in ("h5_samples", "data_lists"):
        (tmp_path / name).symlink_to(farm / name)
    codes = [{"name": name, "color": color, "codes": [value]} for value, (name, color) in enumerate(CLASSES)]
    merged = [{**codes[0], "codes": [0, 5]}, *codes[1:5]]
    values = {"data": {"root": "elsewhere", "sensors": ["Landsat"]}, "task": {"classes": merged}}
    (tmp_path / "crops.yaml").write_text(yaml.safe_dump(values))
    contents = ChipSet.open(tmp_path).contents
    assert contents["classes"] == [{"name": name, "color": color} for name, color in CLASSES[:5]]
    numbered = ChipSet.open(farm).contents["chips"]
    for chip, plain in zip(contents["chips"], numbered, strict=True):
        other = plain["pixels"].get("class 0", 0) + plain["pixels"].get("class 5", 0)
        assert chip["pixels"].get("other", 0) == other
    assert [sensor["name"] for sensor in ChipSet.open(tmp_path).chip(0)["sensors"]] == ["Landsat"]


def test_a_run_is_described_by_its_files(run, farm):
    client = client_of(open_page([run]))
    shown = get(client, "run.json").json()
    assert shown["title"] == "wheat"
    assert len(shown["history"]["loss"]) == 12
    assert shown["history"]["mFscore"][0] == pytest.approx(0.3)
    (evaluated,) = shown["scores"]
    assert evaluated["name"] == "test"
    assert [row["name"] for row in evaluated["classes"]] == list(NAMES)
    stored = json.loads((run / "scores_test" / "scores.json").read_text())
    assert evaluated["confusion"] == stored["confusion"]
    assert evaluated["summary"] == stored["summary"]
    lda, svm, mean = shown["members"]
    assert lda == {"name": "lda", "accuracy": 0.81, "mFscore": 0.74, "seconds": 0.2, "chosen": True}
    assert (svm["chosen"], mean["name"], mean["seconds"]) == (False, "mean of the chosen", None)
    assert shown["calibrations"][0]["name"] == "best_calibrated.safetensors, val"
    chips = get(client, "chips.json").json()
    assert [entry["name"] for entry in chips["classes"]] == list(NAMES)
    assert "AgriFM" in get(client, "chips.html").text
    assert "wheat" in str(open_page([run]))


def test_damaged_files_of_a_run_are_one_sentence(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    client = client_of(Run.open(folder))
    for name in ("scores_test/scores.json", "best_calibrated.json", "members.csv"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(b'{"summary": 3, "splits": {"val": 7}}' if name.endswith("json") else b"\xff\xfe\x00")
        text = get(client, "run.json", 422).json()["error"]
        assert path.name in text
        assert "\n" not in text
        path.write_bytes(whole)
    (folder / "history.csv").write_bytes(b"\xff\x00epoch,loss\nx,y\n")
    assert get(client, "run.json").json()["history"] == {}


def test_a_run_without_its_chips_is_shown(run, tmp_path, farm):
    shutil.copy(run / "best.safetensors", tmp_path)
    moved = tmp_path / "farm"
    shutil.move(farm, moved)
    try:
        shown = Run.open(tmp_path).describe()
    finally:
        shutil.move(moved, farm)
    assert shown["chips"] is None
    assert "no list of chips" in shown["note"]
    assert (shown["history"], shown["members"], shown["scores"], shown["calibrations"]) == ({}, [], [], [])


def test_options_of_maps_are_refused_for_chips_and_runs(farm, run):
    with pytest.raises(InputError, match="--parcels and --labels"):
        open_page([farm], parcels=farm, labels=farm)
    with pytest.raises(InputError, match="a run or a checkpoint"):
        open_page([run, farm])


def keep(page, name):
    """Write the picture of a page where the documentation wants it."""
    if PICTURES is not None:
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.save(PICTURES / f"{name}.png", optimize=True)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, e.g. 'apt-get install chromium'")
def test_the_pages_in_a_browser(run, unplaced, monkeypatch):
    """AGRIFM_PICTURES=docs/images writes the pictures of the documentation."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    problems = []
    monkeypatch.chdir(run.parent)
    with browser_page(playwright, problems, []) as page:
        with running(application(Run.open(Path("wheat")), TOKEN)) as address:
            page.goto(address)
            page.wait_for_selector("#run[aria-busy=false]")
            assert page.locator(".plot svg.large").count() == 3
            assert page.locator(".confusion tbody tr").count() == 6
            assert "lda" in page.locator(".data").first.inner_text()
            page.set_viewport_size({"width": 1280, "height": 1640})
            keep(page, "viewer_run")
            page.set_viewport_size({"width": 1280, "height": 800})
            page.locator("#subtitle a").click()
            page.wait_for_selector("#stage[aria-busy=false]")
            page.locator("#subtitle a").click()
            page.wait_for_selector("#run[aria-busy=false]")
            page.locator("#subtitle a").click()
            page.wait_for_selector("#stage[aria-busy=false]")
            page.mouse.click(560, 400)
            page.wait_for_selector("#pixel .chart")
            page.locator(".chip-picture").first.click(position={"x": 40, "y": 50})
            page.wait_for_selector("#pixel .class")
            assert page.locator("#pixel .chart").count() == 2
            before = page.locator(".chip-day").inner_text()
            page.locator("#chip-date").focus()
            page.keyboard.press("ArrowRight" if before.startswith("7 Mar") else "ArrowLeft")
            assert page.locator(".chip-day").inner_text() != before
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(1000)
            keep(page, "viewer_chips")
            page.keyboard.press("Escape")
            assert page.locator("#pixel").is_hidden()
            page.select_option("#chip", "9")
            page.wait_for_selector("#pixel .chart")
            name = page.locator(".chip-name").inner_text()
            assert page.locator("#chip option:checked").inner_text() == f"{name} (test)"
        with running(application(ChipSet.open(unplaced), TOKEN)) as address:
            page.goto(address)
            page.wait_for_selector(".thumbnail")
            shown = page.locator(".thumbnail").count()
            page.locator("#groups input").first.uncheck()
            assert 0 < page.locator(".thumbnail").count() < shown
            page.locator(".thumbnail").last.click()
            page.wait_for_selector("#pixel .chart")
            page.wait_for_load_state("networkidle")
            keep(page, "viewer_thumbnails")
    problems = [text for text in problems if "422" not in text]  # the damaged chip has no picture
    assert problems == []
