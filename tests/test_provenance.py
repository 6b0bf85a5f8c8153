"""Provenance files come from elsewhere: none of them leads out of a folder, to the network, a hang or a traceback."""

import copy
import json
import random
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import TINY, unit
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app
from agrifm.config import parse
from agrifm.errors import InputError
from agrifm.maps.map_scene import map_scene
from agrifm.maps.options import MapOptions
from agrifm.maps.provenance import Provenance
from agrifm.opening import open_scene
from agrifm.products.reproduce import reproduce
from agrifm.sensors import S2

STRANGE = (None, "", "x", -1, 0, 1e9, 10**30, 1e308, float("inf"), float("nan"), [], {}, True, "\0", "x" * 9000, [[]])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A map of 24 x 24 pixels."""
    root = tmp_path_factory.mktemp("provenance")
    rng = np.random.default_rng(0)
    (root / "scene").mkdir()
    profile = {"driver": "GTiff", "height": 24, "width": 24, "count": 10, "dtype": "uint16", "nodata": 0}
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 4_800_000)}
    with rasterio.open(root / "scene" / "sentinel2_20180401.tif", "w", **profile, **place) as file:
        file.write(rng.integers(500, 4000, (10, 24, 24)).astype(np.uint16))
    values = {"data": {"sensors": ["S2"], "footprint": 240}, "model": {"size": TINY}, "task": {"classes": ["a", "b"]}}
    experiment = parse(values).with_sensors([unit(S2)])
    Checkpoint(experiment, build(experiment).state_dict()).save(root / "best.safetensors")
    (root / "map").mkdir()
    map_scene(
        root / "best.safetensors", open_scene(root / "scene"), root / "map" / "map.tif", MapOptions(("confidence",))
    )
    return root / "map" / "map.passport.json"


@pytest.fixture
def changed(made, tmp_path):
    """Write a provenance file in which the value at a place is another."""

    def write(place, value):
        values = json.loads(made.read_text())
        node = values
        for key in place[:-1]:
            node = node[key]
        if value is KeyError:
            del node[place[-1]]
        else:
            node[place[-1]] = value
        path = tmp_path / "first" / made.name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values))
        return path

    return write


@pytest.mark.parametrize("name", ["../../x.tif", "/tmp/agrifm-x.tif", "a/b.tif", "..", "", "C:\\x.tif", "x\n.tif", 3])
def test_names_of_files_stay_in_their_folder(name, made, changed, tmp_path):
    sums = json.loads(made.read_text())["files"]
    first, second = list(sums)[:2]
    for files in ({name: sums[first], second: sums[second]}, {first: sums[first], name: sums[second]}):
        with pytest.raises(InputError, match="files"):
            reproduce(changed(["files"], files), out=tmp_path / "again" / "deep")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["map.passport.json", "other.tif", "passwd"])
def test_only_files_of_the_map_are_compared(name, made, changed, tmp_path):
    files = json.loads(made.read_text())["files"]
    with pytest.raises(InputError, match=f"found:    {name}"):
        reproduce(changed(["files"], files | {name: "0" * 64}), out=tmp_path / "again")


def places(node, above=()):
    """Keys that lead to every value of a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def test_provenance_files_with_missing_and_strange_parts_are_refused_or_right(made, changed, tmp_path):
    """No value makes it hang or ends in a traceback; 'make fuzz' tries thousands."""
    rng = random.Random(0)
    known = [place for place in places(json.loads(made.read_text())) if place[0] != "experiment"]
    refused = 0
    for _ in range(40):
        place, value = rng.choice(known), rng.choice((KeyError, *STRANGE))
        path = changed(place, value)
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        try:
            result = reproduce(path, out=tmp_path / "again")
        except InputError:
            refused += 1
        else:
            assert result.files
    assert refused > 15


def test_what_decides_how_much_is_read_has_a_limit(made, changed, tmp_path):
    for place, values in (
        (("options", "window"), (0, -1, 10**9, 1.5)),
        (("options", "memory"), (0, -1, float("nan"), float("inf"))),
        (("options", "seam_limit"), (float("nan"), 0)),
        (("scene", "grid", "shape"), ([10**9, 10**9], [0, 24], [24], [24, 24.5], [24, 2400])),
        (
            ("scene", "grid", "transform"),
            ([0] * 6, [float("inf")] * 6, [1e300] * 6, [10, 0, 0], [24, 24]),
        ),
        (("scene", "layers", 0, "frames", 0, "units", "scale"), (float("inf"), float("nan"), 0)),
        (("scene", "layers"), ([], {}, None)),
        (("scene", "layers", 0, "frames"), ([], [{}])),
        (("scene", "layers", 0, "sensor", "gsd"), (0, -10, 1e300, float("nan"))),
    ):
        for value in values:
            path = changed(place, value)
            if place[-1] == "shape":
                shutil.copy(made.with_name("map.tif"), path.parent)
            with pytest.raises(InputError):
                reproduce(path, out=tmp_path / "again")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"format": {}}', "[" * 200_000, "1" * 5000, "\ufeff{}"])
def test_files_of_another_kind_are_no_provenance(text, tmp_path):
    path = tmp_path / "map.passport.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"OUT\.passport\.json"):
        Provenance.load(path)
    for other in (tmp_path, Path("/dev/zero"), tmp_path / "none"):
        with pytest.raises(InputError, match=r"OUT\.passport\.json"):
            Provenance.load(other)


class Requests(BaseHTTPRequestHandler):
    """Counts the requests."""

    seen = 0

    def do_GET(self):
        type(self).seen += 1
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    served = HTTPServer(("127.0.0.1", 0), Requests)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{served.server_port}"
    served.shutdown()


def test_nothing_is_fetched_unless_the_user_allows_it(made, changed, server, tmp_path):
    scene = json.loads(made.read_text())["scene"]
    where = ("scene", "layers", 0, "frames", 0, "bands")
    bands = scene["layers"][0]["frames"][0]["bands"]
    vrt = tmp_path / "innocent.tif"
    source = f"<SourceFilename>/vsicurl/http://{server}/x.tif</SourceFilename><SourceBand>1</SourceBand>"
    band = f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>{source}</SimpleSource></VRTRasterBand>'
    vrt.write_text(f'<VRTDataset rasterXSize="24" rasterYSize="24">{band}</VRTDataset>')
    for href in (
        f"http://{server}/x.tif",
        f"http:/{server}/x.tif",
        f"/vsicurl/http://{server}/x.tif",
        f"WMS:http://{server}/",
        str(vrt),
    ):
        moved = copy.deepcopy(bands)
        moved["B02"]["href"] = href
        with pytest.raises(InputError, match=r"network|a path of a file"):
            reproduce(changed(where, moved), out=tmp_path / "again")
    assert Requests.seen == 0
    moved["B02"]["href"] = f"http://{server}/x.tif"
    arguments = ["reproduce", str(changed(where, moved)), "--out", str(tmp_path / "again")]
    assert "--allow-network" in str(CliRunner().invoke(app, arguments).exception)
    assert Requests.seen == 0
    assert CliRunner().invoke(app, [*arguments, "--allow-network"]).exit_code != 0
    assert Requests.seen > 0


def test_the_command_says_what_it_opens(made, tmp_path):
    result = CliRunner().invoke(app, ["reproduce", str(made), "--out", str(tmp_path / "again")])
    said = result.output.replace("\n", "")
    assert result.exit_code == 0, result.output
    assert f"model: {made.parents[1] / 'best.safetensors'}" in said
    assert f"images in: {made.parents[1] / 'scene'}" in said


def test_devices_and_folders_are_no_images(made, changed, tmp_path):
    bands = json.loads(made.read_text())["scene"]["layers"][0]["frames"][0]["bands"]
    for href in ("/dev/zero", "/dev/stdin", "", "x" * 300, str(tmp_path / "none.tif"), "/etc/passwd"):
        moved = copy.deepcopy(bands)
        moved["B02"]["href"] = href
        with pytest.raises(InputError):
            reproduce(changed(("scene", "layers", 0, "frames", 0, "bands"), moved), out=tmp_path / "again")
