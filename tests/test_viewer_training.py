"""Training in the viewer: from drawn labels to a map that is shown, and what is refused, cancelled and reported."""

import math
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import geopandas
import numpy as np
import psutil
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from PIL import Image
from processes import Command
from shapely.geometry import Point
from starlette.testclient import TestClient
from viewer_ground import CHROMIUM, TOKEN, browser_page, drawn, place_of, running, write_ground, write_map

from agrifm.cli.scenes import opened
from agrifm.errors import InputError
from agrifm.maps.files.legend import NODATA
from agrifm.opening import open_scene
from agrifm.products.reproduce import EXTENSIONS, NO_EXTENSIONS
from agrifm.sensors import S2
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.viewer import server
from agrifm.viewer.labeling import training
from agrifm.viewer.labeling.process_group import ProcessGroup, last_line, refusal_in
from agrifm.viewer.labeling.training import PROGRAM
from agrifm.viewer.opening import open_page
from agrifm.viewer.server import application
from agrifm.viewer.view import open_view

ORIGIN = "http://127.0.0.1:8000"
LAND = Landscape(seed=4, rows=1, columns=2, size=48, frames=(("S2", 5),))
NAMES = [name for name, _ in CLASSES]

# Stands in for the command line: takes the map that was prepared, a behavior, and the words of a command.
STAND_IN = """
import shutil, subprocess, sys, time
prepared, behavior, verb, *words = sys.argv[1:]
print(f"{verb} begins", flush=True)
if behavior == "refuse" and verb == "train":
    lines = ["labels of the training samples", "found:    1 class", "expected: at least two", "repair:   add labels."]
    sys.exit("error: " + "\\n  ".join(lines))
if behavior == "slow" and verb == "chips":
    time.sleep(3)
if behavior == "break":
    sys.exit(70)
if behavior == "hang":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("as long as it takes", flush=True)
    time.sleep(600)
if verb == "map":
    target = next(word for word in words if word.endswith(".tif"))
    shutil.copy(prepared, target)
    shutil.copy(prepared.replace(".tif", "_confidence.tif"), target.replace(".tif", "_confidence.tif"))
    sys.exit(3)  # the borders of windows are visible
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Folder with a small scene and two maps of it, its grid and the true classes."""
    folder = tmp_path_factory.mktemp("training")
    write_scene(folder / "images", LAND, rows=range(1), columns=range(2), sensors=(S2,))
    with rasterio.open(folder / "images" / "truth.tif") as file:
        truth = file.read(1)
        grid = GeoBox.from_rio(file)
    write_map(folder / "map.tif", truth, grid, 1, 6.0)
    write_map(folder / "other.tif", truth, grid, 2, 9.0)
    return SimpleNamespace(folder=folder, grid=grid, truth=truth)


def write_labels(path, ground, counts):
    """Points of the first classes, spread over their pixels."""
    names = []
    points = []
    for value, count in enumerate(counts):
        rows, columns = (ground.truth == value).nonzero()
        for i in range(count):
            pixel = (2 * i + 1) * len(rows) // (2 * count)
            names.append(NAMES[value])
            points.append(Point(ground.grid.affine * (columns[pixel] + 0.5, rows[pixel] + 0.5)))
    geopandas.GeoDataFrame({"class": names}, geometry=points, crs=str(ground.grid.crs)).to_file(path)
    return path


def page_of(paths, labels, folder, stand_in=None, **options):
    """Open what the page shows; the stand-in is a prepared map and a behavior."""
    view = open_page(paths, labels=labels, train=folder, **options)
    if stand_in is not None:
        script = labels.with_name("stand_in.py")
        script.write_text(STAND_IN, encoding="utf-8")
        view.training.program = (sys.executable, str(script), *map(str, stand_in))
    return view


def client_of(view):
    return TestClient(application(view, TOKEN), base_url=ORIGIN, headers={"Origin": ORIGIN})


def get(client, path):
    answer = client.get(f"/{TOKEN}/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def put(client, path, value, status=200):
    answer = client.put(f"/{TOKEN}/{path}", json=value)
    assert answer.status_code == status, answer.text
    return answer.json()


def until(client, wanted, seconds=120):
    """The state of the training once it is the wanted one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = get(client, "training.json")
        if found["state"] == wanted:
            return found
        assert found["state"] == "running", found
        time.sleep(0.05)
    raise TimeoutError(found)


@pytest.fixture
def labels(tmp_path, ground):
    return write_labels(tmp_path / "labels.gpkg", ground, (4, 4, 4))


class Forked:
    """A group of processes that is forked from one with all imports, so that it starts at once."""

    def __init__(self, command, log):
        assert tuple(command[: len(PROGRAM)]) == PROGRAM
        self._command = Command(command[len(PROGRAM) :], log)

    def wait(self):
        return self._command.wait()


def test_labels_become_a_map_that_is_shown(tmp_path, ground, monkeypatch):
    monkeypatch.setattr(training, "ProcessGroup", Forked)
    labels = write_labels(tmp_path / "labels.gpkg", ground, (10, 10, 10))
    view = page_of([ground.folder / "images"], labels, tmp_path / "out")
    client = client_of(view)
    assert get(client, "training.json") == {"state": "none"}
    colors = {entry["name"]: entry["color"] for entry in get(client, "labels.json")["classes"]}
    assert put(client, "training.json", {"version": 0})["state"] == "running"
    found = until(client, "done")
    assert found["map"] == 0
    (shown,) = get(client, "view.json")["maps"]
    assert shown["number"] == 0
    assert shown["title"] == "map_1.tif"
    assert {entry["name"]: entry["color"] for entry in shown["classes"]} == colors
    assert len(get(client, "worklist.json")) > 10
    with rasterio.open(tmp_path / "out" / "1" / "map_1.tif") as file:
        classes = file.read(1)
    names = [entry["name"] for entry in shown["classes"]]
    is_known = (ground.truth < 3) & (classes != NODATA)
    mapped = np.array([NAMES.index(name) for name in names])[classes[is_known]]
    assert (mapped == ground.truth[is_known]).mean() > 0.6  # of three classes; chance would be 0.4

    # The members of the model vote as the map was made.
    row, column = (int(part[len(part) // 2]) for part in is_known.nonzero())
    longitude, latitude = place_of(ground.grid, row, column)
    votes = get(client, f"votes/0.json?lon={longitude}&lat={latitude}")
    mean = sum(vote["weight"] * np.array(vote["probabilities"]) for vote in votes)
    assert mean.argmax() == classes[row, column]

    # The new map opens with the images that its provenance names, from which the next map is trained.
    again = open_view([tmp_path / "out" / "1" / "map_1.tif"], labels=labels, train=tmp_path / "out")
    provenance = again.training.scene.path
    assert again.training.scene.options == []
    monkeypatch.setenv(EXTENSIONS, "")  # the variable is as before after the test
    scene = opened(provenance, None, skip=False)
    assert os.environ[EXTENSIONS] == NO_EXTENSIONS
    assert scene.grid == ground.grid
    assert scene.layers[0].days == view.images.scene.layers[0].days
    with pytest.raises(InputError, match="leave out --set"):
        opened(provenance, ["resolution=20"], skip=False)


def test_the_program_is_the_command_line_and_its_refusals_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = tmp_path / "log.txt"
    missing = tmp_path / "scène.yaml"
    group = ProcessGroup([*PROGRAM, "scene", "show", str(missing)], log)
    assert group.wait() == 2
    with pytest.raises(InputError) as refused:
        open_scene(missing)
    assert refusal_in(log) == refused.value.sentence


def test_the_new_map_is_compared_with_the_former_one(tmp_path, ground, labels):
    prepared = ground.folder / "map.tif"
    stand_in = ground.folder / "other.tif", "work"
    view = page_of([prepared, ground.folder / "images"], labels, tmp_path / "out", stand_in)
    client = client_of(view)
    z, x, y = middle_tile(view)
    former = client.get(f"/{TOKEN}/map/0/0/{z}/{x}/{y}.png")
    for number in (1, 2):
        put(client, "training.json", {"version": 0})
        found = until(client, "done")
        assert found["map"] == number
        assert found["folder"] == str(tmp_path / "out" / str(number))
        titles = [(shown["title"], shown["number"]) for shown in get(client, "view.json")["maps"]]
        before = ("map.tif", 0) if number == 1 else ("map_1.tif", 1)
        assert titles == [(f"map_{number}.tif", number), before]
    # An address means the same map as before, whatever a page has learned since.
    assert client.get(f"/{TOKEN}/map/0/0/{z}/{x}/{y}.png").content == former.content
    latest = client.get(f"/{TOKEN}/map/2/0/{z}/{x}/{y}.png")
    assert latest.status_code == 200
    assert latest.content != former.content
    assert client.get(f"/{TOKEN}/map/3/0/{z}/{x}/{y}.png").status_code == 404
    longitude, latitude = place_of(ground.grid, 30, 40)
    query = f"pixel.json?lon={longitude}&lat={latitude}"
    assert len(get(client, query)) == 2
    assert len(get(client, f"{query}&maps=0")) == 1
    assert client.get(f"/{TOKEN}/{query}&maps=7").status_code == 404

    lines = (tmp_path / "out" / "2" / "commands.txt").read_text(encoding="utf-8").splitlines()
    assert lines[2:] == found["commands"]
    assert [line.split()[1] for line in lines[2:]] == ["chips", "train", "map"]
    assert str(ground.folder / "images") in lines[2]
    assert len(geopandas.read_file(tmp_path / "out" / "2" / "labels.gpkg")) == 12
    later = page_of([ground.folder / "images"], labels, tmp_path / "out", stand_in)
    put(client_of(later), "training.json", {"version": 0})
    assert until(client_of(later), "done")["folder"] == str(tmp_path / "out" / "3")


def middle_tile(view):
    """A tile that holds the middle of the first map."""
    west, south, east, north = view.maps[0].bounds
    zoom = int(view.maps[0].describe()["zoom"])
    tiles = 1 << zoom
    angle = math.radians((south + north) / 2)
    x = int(tiles * ((west + east) / 2 + 180) / 360)
    y = int(tiles * (1 - math.asinh(math.tan(angle)) / math.pi) / 2)
    return zoom, x, y


@pytest.mark.parametrize(
    ("counts", "version", "message"),
    [
        ((0, 0), 0, "0 classes"),
        ((9, 0), 0, "1 class,"),
        ((9, 2), 0, "2 labels of the class"),
        ((9, 9), 1, "another tab"),
        ((9, 9), None, "another tab"),
    ],
)
def test_too_few_labels_are_refused(tmp_path, ground, counts, version, message):
    labels = tmp_path / "labels.gpkg"
    if sum(counts):
        write_labels(labels, ground, counts)
    client = client_of(page_of([ground.folder / "images"], labels, tmp_path / "out"))
    assert message in put(client, "training.json", {"version": version}, 422)["error"]
    assert get(client, "training.json") == {"state": "none"}
    assert not any(path.is_dir() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("refuse", "labels of the training samples: found 1 class, expected at least two; add labels."),
        ("break", "'agrifm chips' ended with exit code 70: chips begins"),
    ],
)
def test_failures_are_one_sentence(tmp_path, ground, labels, behavior, message):
    prepared = ground.folder / "map.tif"
    client = client_of(page_of([prepared, ground.folder / "images"], labels, tmp_path / "out", (prepared, behavior)))
    put(client, "training.json", {"version": 0})
    found = until(client, "failed")
    assert (found["error"], found["map"]) == (message, None)
    assert len(get(client, "view.json")["maps"]) == 1


def hanging(tmp_path, ground, labels):
    """A page whose training has begun, never ends, and has started a process; and the numbers of both."""
    prepared = ground.folder / "map.tif"
    view = page_of([ground.folder / "images"], labels, tmp_path / "out", (prepared, "hang"))
    client = client_of(view)
    put(client, "training.json", {"version": 0})
    while get(client, "training.json")["line"] != "as long as it takes":
        time.sleep(0.02)
    script = str(labels.with_name("stand_in.py"))
    (process,) = [child for child in psutil.Process().children() if script in child.cmdline()]
    return view, client, [process, *process.children()]


def wait_for_the_end_of(processes, seconds=30):
    """Wait until processes have ended; those whose exit code nobody has asked for are zombies."""
    end = time.monotonic() + seconds
    for process in processes:
        while psutil.pid_exists(process.pid):
            with suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    break
            assert time.monotonic() < end, process
            time.sleep(0.02)


def test_a_training_can_be_cancelled(tmp_path, ground, labels):
    _, client, processes = hanging(tmp_path, ground, labels)
    assert len(processes) == 2
    assert "one at a time" in put(client, "training.json", {"version": 0}, 422)["error"]
    assert put(client, "training/cancel.json", {})["state"] == "cancelled"
    wait_for_the_end_of(processes)
    assert put(client, "training/cancel.json", {})["state"] == "cancelled"
    put(client, "training.json", {"version": 0})  # the labels are as they were
    assert put(client, "training/cancel.json", {})["state"] == "cancelled"


def test_the_end_of_the_viewer_ends_the_training(tmp_path, ground, labels, monkeypatch):
    view, _, processes = hanging(tmp_path, ground, labels)

    def interrupted(app):
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "_server", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.serve(view, 0, lambda address: None)
    wait_for_the_end_of(processes)
    assert view.training.describe()["state"] == "cancelled"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_command_that_does_not_end_is_killed(tmp_path):
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)"
    log = tmp_path / "log.txt"
    group = ProcessGroup([sys.executable, "-c", f"{program}; time.sleep(600)"], log)
    while last_line(log) != "ready":
        time.sleep(0.02)
    group.stop(0.1)
    assert group.wait() == -signal.SIGKILL


def test_what_cannot_be_trained_is_refused_at_the_start(tmp_path, ground, labels):
    images = ground.folder / "images"
    with pytest.raises(InputError, match="add --labels"):
        open_page([images], train=tmp_path / "out")
    with pytest.raises(InputError, match="--scene FOLDER"):
        open_page([ground.folder / "map.tif"], labels=labels, train=tmp_path / "out")
    with pytest.raises(InputError, match="name another folder"):
        open_page([images], labels=labels, train=ground.folder)
    (tmp_path / "chips" / "h5_samples").mkdir(parents=True)
    with pytest.raises(InputError, match="together with --train"):
        open_page([tmp_path / "chips"], train=tmp_path / "out")


def test_only_the_page_starts_a_training(tmp_path, ground, labels):
    images = ground.folder / "images"
    client = client_of(page_of([images], labels, tmp_path / "out"))
    for path in ("training.json", "training/cancel.json"):
        elsewhere = client.put(f"/{TOKEN}/{path}", json={"version": 0}, headers={"Origin": "http://example.org"})
        assert elsewhere.status_code == 403
        assert client.put(f"/other/{path}", json={"version": 0}).status_code == 403
        assert client.put(f"/{TOKEN}/{path}", content=b"{" * 2000).status_code == 415
    assert put(client, "training.json", {"version": "x" * 2000}, 413)
    assert put(client, "training.json", [], 422)
    assert get(client, "training.json") == {"state": "none"}
    without = client_of(open_page([images], labels=labels))
    assert put(without, "training.json", {"version": 0}, 405)
    assert get(without, "view.json")["training"] is False


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, e.g. 'apt-get install chromium'")
def test_a_person_trains_in_a_browser(tmp_path, ground, labels, monkeypatch):
    """AGRIFM_TRAINING_PICTURE=docs/images/viewer_training.png writes the picture of the documentation."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    target = os.environ.get("AGRIFM_TRAINING_PICTURE")
    picture = Path(target or "").absolute()
    monkeypatch.chdir(tmp_path)  # paths below are shown without what comes before
    if target:  # a larger ground, and the commands themselves
        folder, grid, _ = write_ground(tmp_path / "ground")
        with rasterio.open(folder / "images" / "truth.tif") as file:
            ground = SimpleNamespace(folder=folder, grid=grid, truth=file.read(1))
        write_labels(labels, ground, [20] * len(CLASSES))
    prepared = ground.folder / "map.tif"
    stand_in = None if target else (prepared, "work")
    view = page_of([prepared, ground.folder / "images"], labels, Path("out"), stand_in)
    problems = []
    requests = []
    with (
        running(application(view, TOKEN)) as address,
        browser_page(playwright, problems, requests, height=1000) as page,
    ):
        page.goto(address)
        drawn(page)
        train = page.locator("#train")
        train.wait_for()
        page.locator("input[name=tool][value=point]").check(force=True)
        page.mouse.click(700, 460)
        page.get_by_text("Training starts from saved labels").wait_for()
        assert train.is_disabled()
        page.keyboard.press("Control+s")
        page.get_by_text("As in labels.gpkg").wait_for()
        train.click()
        page.get_by_text("Trained within").wait_for()
        drawn(page)
        assert page.locator("#title").inner_text() == "map_1.tif and map.tif"
        assert page.locator("#left-name").inner_text() == "map_1.tif"
        assert page.locator("#right-name").inner_text() == "map.tif"
        assert page.locator("input[name=compare][value=map]").is_checked()
        assert f"{len(view.labels.table)} labels" in page.locator("#label-status").inner_text()
        page.locator("#training-commands summary").click()
        commands = page.locator("#training-commands pre").inner_text()
        assert commands.count("agrifm ") == 3
        assert " out/1/labels.gpkg out/1/chips " in commands
        page.locator("#training-commands summary").click()
        page.mouse.click(600, 380)
        page.wait_for_selector("#series .chart")
        assert page.locator("#pixel .class").count() == 2
        page.wait_for_load_state("networkidle")
        if target:
            page.screenshot(path=tmp_path / "page.png")
            Image.open(tmp_path / "page.png").convert("RGB").quantize(255).save(picture, optimize=True)
            return

        # What is drawn while a training runs is not lost.
        page.locator("input[name=tool][value=point]").check(force=True)
        program = view.training.program[:-1]
        view.training.program = (*program, "slow")
        train.click()
        page.get_by_text("Step 1 of 3").wait_for()
        page.mouse.click(720, 480)
        page.get_by_text("Save the labels to show it").wait_for()
        assert page.locator("#show-map").is_disabled()
        assert page.locator("#title").inner_text() == "map_1.tif and map.tif"
        page.keyboard.press("Control+s")
        page.get_by_text("As in labels.gpkg").wait_for()
        page.locator("#show-map").click()
        page.get_by_text("Trained within").wait_for()
        assert page.locator("#title").inner_text() == "map_2.tif and map_1.tif"
        drawn(page)
        assert any("/map/2/0/" in url for url in requests)

        view.training.program = (*program, "hang")
        train.click()
        page.locator("#training-line", has_text="as long as it takes").wait_for()
        page.locator("#cancel-training").click()
        page.get_by_text("Cancelled").wait_for()
        assert train.is_enabled()
        view.training.program = (*program, "refuse")
        train.click()
        page.get_by_text("found 1 class").wait_for()
    assert problems == []
