"""The viewer: what its server answers and refuses, and the page in a browser."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import geopandas
import numpy as np
import pytest
import torch
from PIL import Image
from rasterio.warp import transform
from shapely.geometry import Point
from starlette.testclient import TestClient
from viewer_ground import (
    CHROMIUM,
    TOKEN,
    browser_page,
    drawn,
    experiment_of_ground,
    place_of,
    running,
    write_ground,
    write_model,
    write_provenance,
)

import agrifm
from agrifm.api import WrittenMap
from agrifm.checkpoint import Checkpoint, build
from agrifm.errors import InputError
from agrifm.maps.files.legend import NODATA
from agrifm.maps.map_scene import plan
from agrifm.maps.options import MapOptions
from agrifm.maps.seam_audit import Seams
from agrifm.opening import open_scene
from agrifm.pixels.ensemble import PixelEnsemble
from agrifm.scenes.scene import Layer
from agrifm.scenes.tile import Area
from agrifm.sensors import names
from agrifm.synthetic.chips import CLASSES
from agrifm.viewer.server import application, serve
from agrifm.viewer.tiles import TileCache, TileIndex
from agrifm.viewer.view import open_view
from agrifm.viewer.votes import Votes


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Folder with a scene, two maps of it and their arrays; the first map names a model."""
    folder, grid, arrays = write_ground(tmp_path_factory.mktemp("viewer"))
    write_model(folder)
    return folder, grid, arrays


@pytest.fixture(scope="module")
def view(ground):
    folder, *_ = ground
    return open_view([folder / "map.tif"], folder / "images", folder / "images" / "parcels.gpkg")


@pytest.fixture(scope="module")
def client(view):
    return TestClient(application(view, TOKEN), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def get(client, path, status=200):
    answer = client.get(f"/{TOKEN}/{path}")
    assert answer.status_code == status, answer.text[:300]
    return answer


def tile_at(grid, row, column, zoom):
    """The tile over a pixel, and row and column on the grid ``(256, 256)`` of each of its pixels, with fractions."""
    longitude, latitude = place_of(grid, row, column)
    x, y = transform("EPSG:4326", "EPSG:3857", [longitude], [latitude])
    corner = TileIndex(zoom, 0, 0).box
    left, top = ~corner.affine * (x[0], y[0])
    tile = TileIndex(zoom, int(left // 256), int(top // 256))
    rows, columns = np.mgrid[:256, :256] + 0.5
    xs, ys = tile.box.affine * (columns.ravel(), rows.ravel())
    east, north = transform("EPSG:3857", str(grid.crs), xs, ys)
    found_columns, found_rows = ~grid.affine * (np.array(east), np.array(north))
    return tile, found_rows.reshape(256, 256), found_columns.reshape(256, 256)


def image_of(answer):
    return np.array(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


def test_only_the_secret_address_is_answered(client):
    assert "AgriFM" in get(client, "").text
    for path in ("/", "/view.json", f"/{TOKEN}x/view.json", f"/x/{TOKEN}/view.json", f"//{TOKEN}/view.json"):
        answer = client.get(path)
        assert answer.status_code == 403, path
        assert "secret" in answer.json()["error"]
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
        assert client.get(f"/{TOKEN}/view.json", headers={"Host": host}).status_code == 403, host
    assert client.get(f"/{TOKEN}/view.json", headers={"Host": "localhost:1234"}).status_code == 200
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert client.request(method, f"/{TOKEN}/view.json").status_code == 405, method


def test_every_answer_restricts_the_page(client):
    for path in ("", "view.json", "nothing", "map/0/0/0/0/0.png"):
        headers = client.get(f"/{TOKEN}/{path}").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_no_request_names_a_file(client, ground):
    names = ("../server.py", "%2e%2e/server.py", "..%2fserver.py", "vendor/maplibre-gl.mjs", "map.tif", str(ground[0]))
    for name in (*names, "/etc/passwd", "%2fetc%2fpasswd", "map/0/..%2f..%2fmap.tif/0/0/0.png"):
        answer = client.get(f"/{TOKEN}/{name}")
        assert answer.status_code in (403, 404), name
        assert "root:" not in answer.text


def test_the_page_never_turns_text_into_markup():
    folder = Path(__file__).parents[1] / "src/agrifm/viewer/static"
    scripts = [*folder.glob("*.js"), *folder.glob("js/*.js")]
    assert len(scripts) > 10
    for path in scripts:
        script = path.read_text()
        found = re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|eval\(|new Function", script)
        assert found is None, path


def test_the_page_learns_what_is_shown(client, ground):
    shown = get(client, "view.json").json()
    (first,) = shown["maps"]
    assert [(entry["name"], entry["color"]) for entry in first["classes"]] == [*CLASSES]
    kinds = {surface["product"] for surface in first["surfaces"]}
    assert kinds == {"probabilities", "confidence", "observations", "sets"}
    assert [len(sensor["days"]) for sensor in shown["images"]["sensors"]] == [8, 4]
    west, south, east, north = first["bounds"]
    longitude, latitude = place_of(ground[1], 50, 60)
    assert west < longitude < east
    assert south < latitude < north
    assert shown["parcels"]["crop"] == "crop"


def test_tiles_have_the_colors_of_the_classes(client, ground):
    _, grid, arrays = ground
    zoom = get(client, "view.json").json()["maps"][0]["zoom"]
    tile, rows, columns = tile_at(grid, 60, 70, zoom)
    image = image_of(get(client, f"map/0/0/{tile.z}/{tile.x}/{tile.y}.png"))
    # GDAL's transformation is exact to an eighth of a pixel, so borders of pixels are left out.
    inner = (np.abs(rows % 1 - 0.5) < 0.35) & (np.abs(columns % 1 - 0.5) < 0.35)
    assert inner.mean() > 0.4
    values = arrays["classes"][0][rows[inner].astype(int), columns[inner].astype(int)]
    assert len(set(values.tolist())) > 1
    expected = np.array([bytes.fromhex(color[1:]) for _, color in CLASSES], "S3")
    colors = np.frombuffer(b"".join(expected[values].tolist()), np.uint8).reshape(-1, 3)
    assert np.array_equal(image[inner][:, :3], colors)
    assert (image[inner][:, 3] == 255).all()
    some = int(values[0])
    without = image_of(get(client, f"map/0/0/{tile.z}/{tile.x}/{tile.y}.png?hidden={some}"))
    assert np.array_equal(without[inner][:, 3] == 0, values == some)


def test_tiles_of_numbers_leave_gaps_transparent(client, ground):
    _, grid, arrays = ground
    surfaces = get(client, "view.json").json()["maps"][0]["surfaces"]
    layer = 1 + [surface["product"] for surface in surfaces].index("confidence")
    tile, rows, columns = tile_at(grid, 18, 24, 16)
    image = image_of(get(client, f"map/0/{layer}/{tile.z}/{tile.x}/{tile.y}.png"))
    inside = (rows > 0.5) & (columns > 0.5) & (rows < grid.shape[0]) & (columns < grid.shape[1])
    inner = inside & (np.abs(rows % 1 - 0.5) < 0.35) & (np.abs(columns % 1 - 0.5) < 0.35)
    values = arrays["confidence"][0][rows[inner].astype(int), columns[inner].astype(int)]
    assert {True, False} == set((values == NODATA).tolist())
    assert np.array_equal(image[inner][:, 3] == 0, values == NODATA)
    same = {}
    for value, color in zip(values.tolist(), image[inner].tolist(), strict=True):
        assert same.setdefault(value, color) == color  # one number, one color
    assert len(same) > 20


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("map/0/0/3/9/0.png", 404),  # no such tile
        ("map/0/0/99/0/0.png", 404),
        ("map/1/0/0/0/0.png", 404),  # no second map
        ("map/0/99/0/0/0.png", 404),
        ("map/0/0/0/0/0.png?hidden=x", 400),
        ("map/0/0/0/0/0.png?hidden=256", 400),
        ("image/0/99/0/0/0/0.png", 404),
        ("image/9/0/0/0/0/0.png", 404),
        ("image/0/0/9/0/0/0.png", 404),
        ("clear/0/99.json", 404),
        ("areas/3.json", 404),
        ("pixel.json", 400),
        ("pixel.json?lon=nan&lat=1", 400),
        ("pixel.json?lon=200&lat=1", 400),
        ("series.json?lon=a&lat=b", 400),
        ("votes/3.json?lon=2&lat=49", 404),
        ("votes/0.json?lon=nan&lat=1", 400),
        ("nothing.js", 404),
    ],
)
def test_requests_for_what_is_not_there_end_in_a_sentence(client, path, status):
    answer = get(client, path, status)
    assert len(answer.json()["error"]) > 5


def test_a_click_tells_what_the_map_holds(client, ground):
    _, grid, arrays = ground
    row, column = 77, 130
    longitude, latitude = place_of(grid, row, column)
    (pixel,) = get(client, f"pixel.json?lon={longitude}&lat={latitude}").json()
    assert (pixel["row"], pixel["column"]) == (row, column)
    value = arrays["classes"][0, row, column]
    assert (pixel["class"], pixel["color"]) == CLASSES[value]
    for product in ("probabilities", "confidence", "observations", "sets"):
        found = [layer["value"] for layer in pixel["layers"] if layer["product"] == product]
        assert found == arrays[product][:, row, column].tolist(), product
    longitude, latitude = place_of(grid, 3, 3)
    (gap,) = get(client, f"pixel.json?lon={longitude}&lat={latitude}").json()
    assert gap["class"] is None
    assert {layer["value"] for layer in gap["layers"] if layer["product"] == "confidence"} == {None}
    assert get(client, "pixel.json?lon=100&lat=10").json() == [None]


def test_areas_are_counted_pixels(client, ground):
    _, _, arrays = ground
    found = get(client, "areas/0.json").json()
    for value in range(len(CLASSES)):
        assert found[str(value)] == pytest.approx((arrays["classes"] == value).sum() * 0.01)


def test_the_series_of_a_pixel_is_that_of_the_scene(client, ground):
    folder, grid, _ = ground
    row, column = 100, 45
    longitude, latitude = place_of(grid, row, column)
    found = get(client, f"series.json?lon={longitude}&lat={latitude}").json()
    scene = open_scene(folder / "images")
    tile = scene.read(Area(row, column, 1, 1))
    assert [one["sensor"] for one in found] == ["S2", "Landsat"]
    for one, layer in zip(found, scene.layers, strict=True):
        stack = tile.stacks[one["sensor"]]
        assert one["days"] == [day.isoformat() for day in layer.days]
        assert one["clear"] == stack.clear[:, 0, 0].tolist()
        assert any(one["clear"])
        has_data = stack.has_data[:, 0, 0]
        reflectance = stack.images[:, :, 0, 0] * layer.sensor.scale + layer.sensor.offset
        for number, band in enumerate(one["bands"]):
            assert [value is not None for value in band["values"]] == has_data.tolist()
            values = [value for value in band["values"] if value is not None]
            assert np.allclose(values, reflectance[has_data, number], atol=1e-5)
        red, infrared = layer.sensor.index("red"), 3
        step = int(np.flatnonzero(stack.clear[:, 0, 0])[0])
        difference = reflectance[step, infrared] - reflectance[step, red]
        total = reflectance[step, infrared] + reflectance[step, red]
        assert one["ndvi"][step] == pytest.approx(difference / total, abs=1e-4)
    assert get(client, "series.json?lon=100&lat=10").json() is None


def probabilities_at(checkpoint, scene, pixel):
    """The probabilities of which a map is made at a pixel."""
    job = plan(checkpoint, scene, MapOptions(device="cpu"))
    with ThreadPoolExecutor(1) as threads:
        total, _ = job.blend(pixel, job.read(pixel), threads)
    return total[:, 0, 0]


def check_votes(votes, checkpoint, scene, pixel):
    """Compare every vote with a model that has this member alone, and their mean with the whole model."""
    alone = [replace(checkpoint, pixels=None, pixel_share=0.0)] if checkpoint.uses_network else []
    pixels = checkpoint.pixels
    for member in pixels.members_for(names(scene.sensors), "test"):
        only = PixelEnsemble(pixels.features, pixels.classes, pixels.known.tolist(), [replace(member, weight=1.0)])
        alone.append(replace(checkpoint, pixels=only, pixel_share=1.0))
    expected = np.stack([probabilities_at(one, scene, pixel) for one in alone])
    found = np.array([vote["probabilities"] for vote in votes])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert [vote["class"] for vote in votes] == expected.argmax(1).tolist()
    mean = np.array([vote["weight"] for vote in votes]) @ found
    np.testing.assert_allclose(mean, probabilities_at(checkpoint, scene, pixel), atol=2e-5)


def test_the_members_of_a_model_vote(client, ground):
    folder, grid, _ = ground
    row, column = 100, 45
    longitude, latitude = place_of(grid, row, column)
    votes = get(client, f"votes/0.json?lon={longitude}&lat={latitude}").json()
    assert [(vote["name"], vote["weight"]) for vote in votes] == [("lda", 0.75), ("logistic", 0.25)]
    scene = open_scene(folder / "images")
    check_votes(votes, Checkpoint.load(folder / "model.safetensors"), scene, Area(row, column, 1, 1))
    assert get(client, "votes/0.json?lon=100&lat=10").json() == []


def test_votes_of_resized_images_are_interpolated_like_the_map(tmp_path, ground):
    folder, grid, _ = ground
    scene = open_scene(folder / "images")
    checkpoint = Checkpoint.load(folder / "model.safetensors")
    experiment = checkpoint.experiment.with_data(resize={"S2": (40, 40), "Landsat": (20, 20)})
    resized = replace(checkpoint, experiment=experiment)
    resized.save(tmp_path / "resized.safetensors")
    write_provenance(tmp_path / "map.tif", scene, tmp_path / "resized.safetensors")
    row, column = 61, 110
    votes = Votes().at(tmp_path / "map.tif", *place_of(grid, row, column))
    check_votes(votes, resized, scene, Area(row, column, 1, 1))


def test_the_network_votes_in_the_windows_of_the_map(tmp_path, ground):
    folder, grid, _ = ground
    scene = open_scene(folder / "images")
    checkpoint = Checkpoint.load(folder / "model.safetensors")
    experiment = experiment_of_ground()
    torch.manual_seed(0)
    weights = build(experiment).state_dict()
    both = replace(checkpoint, experiment=experiment, weights=weights, pixel_share=0.6)
    both.save(tmp_path / "both.safetensors")
    write_provenance(tmp_path / "map.tif", scene, tmp_path / "both.safetensors")
    row, column = 100, 90  # under four overlapping windows
    votes = Votes().at(tmp_path / "map.tif", *place_of(grid, row, column))
    assert [(vote["name"], vote["weight"]) for vote in votes] == [("network", 0.4), ("lda", 0.45), ("logistic", 0.15)]
    pixel = Area(row, column, 1, 1)
    assert len(plan(both, scene, MapOptions()).windows.over(pixel)) == 4
    check_votes(votes, both, scene, pixel)


def test_pixels_that_no_sensor_saw_have_no_votes(tmp_path, ground):
    folder, *_ = ground
    scene = open_scene(folder / "images").only(("Landsat",))
    layer = scene.layers[0]
    clear = scene.read(Area(0, 0, *scene.grid.shape)).stacks["Landsat"].clear
    step = next(step for step, mask in enumerate(clear) if mask.any() and not mask.all())  # the date that remains
    frames = tuple(frame for frame in layer.frames if frame.day == layer.days[step])
    write_provenance(
        tmp_path / "map.tif",
        replace(scene, layers=(Layer(layer.sensor, frames),)),
        folder / "model.safetensors",
    )
    votes = Votes()
    for is_clear, count in ((True, 2), (False, 0)):
        row, column = np.argwhere(clear[step] == is_clear)[0]
        assert len(votes.at(tmp_path / "map.tif", *place_of(scene.grid, row, column))) == count


def test_without_the_model_of_the_map_there_are_no_votes(tmp_path, ground):
    folder, grid, _ = ground
    place = place_of(grid, 100, 45)
    scene = open_scene(folder / "images")
    target = tmp_path / "map.tif"
    model = Path(shutil.copy(folder / "model.safetensors", tmp_path))
    assert Votes().at(target, *place) is None  # no provenance
    write_provenance(target, scene, model)
    assert len(Votes().at(target, *place)) == 2
    write_provenance(target, scene, model, {"flips": True})
    assert Votes().at(target, *place) is None
    write_provenance(target, scene, model, {"ensemble": [str(model)]})
    assert Votes().at(target, *place) is None

    write_provenance(target, scene, model)
    checkpoint = Checkpoint.load(model)
    replace(checkpoint, epoch=7).save(model)
    assert Votes().at(target, *place) is None  # another checksum
    model.unlink()
    assert Votes().at(target, *place) is None
    pixels = checkpoint.pixels
    only = PixelEnsemble(pixels.features, pixels.classes, pixels.known.tolist(), pixels.members[-1:])
    replace(checkpoint, pixels=only).save(model)
    write_provenance(target, scene, model)
    assert Votes().at(target, *place) is None  # a single member is the model itself


def test_images_of_all_dates_and_composites(client, ground, view):
    _, grid, _ = ground
    tile, rows, columns = tile_at(grid, 60, 70, 15)
    inside = (rows > 1) & (columns > 1) & (rows < grid.shape[0] - 1) & (columns < grid.shape[1] - 1)
    shares = [get(client, f"clear/0/{step}.json").json()["clear"] for step in range(8)]
    assert 0 in shares  # the empty date
    clearest = int(np.argmax(shares))
    address = f"{tile.z}/{tile.x}/{tile.y}.png"
    image = image_of(get(client, f"image/0/{clearest}/0/{address}"))
    assert (image[inside][:, 3] == 255).mean() > 0.95
    assert (image[~inside][:, 3] == 0).any()
    infrared = image_of(get(client, f"image/0/{clearest}/1/{address}"))
    assert not np.array_equal(image, infrared)
    cloudy = min((share, step) for step, share in enumerate(shares) if share > 0)[1]
    plain = image_of(get(client, f"image/0/{cloudy}/0/{address}")).astype(int)
    veil = image_of(get(client, f"image/0/{cloudy}/0/{address}?veil=1")).astype(int)
    assert (plain != veil).any(-1)[inside].mean() > 0.1
    landsat = image_of(get(client, f"image/1/0/0/{address}"))
    assert landsat.shape == (256, 256, 4)
    assert view.cache.bytes > 0


def test_memory_for_tiles_is_bounded():
    cache = TileCache(250)
    made = []

    def tile(key, size):
        return cache.get(key, lambda: made.append(key) or bytes(size))

    tile("a", 100)
    tile("b", 100)
    tile("a", 100)
    assert made == ["a", "b"]
    tile("c", 100)  # "b" was used before "a"
    assert cache.bytes == 200
    tile("a", 100)
    tile("b", 100)
    assert made == ["a", "b", "c", "b"]
    assert len(tile("too large", 300)) == 300
    assert cache.bytes <= 250


def test_a_damaged_layer_is_one_sentence(tmp_path, ground):
    folder, grid, _ = ground
    for path in folder.glob("map*.tif"):
        shutil.copy(path, tmp_path)
    view = open_view([tmp_path / "map.tif"])
    broken = tmp_path / "map_confidence.tif"
    broken.write_bytes(broken.read_bytes()[:600])
    client = TestClient(application(view, TOKEN), base_url="http://127.0.0.1")
    longitude, latitude = place_of(grid, 9, 50)
    text = get(client, f"pixel.json?lon={longitude}&lat={latitude}", 422).json()["error"]
    assert "map_confidence.tif" in text
    assert "\n" not in text


def test_defects_reach_the_page_as_a_sentence(view, monkeypatch):
    def fail(self):
        raise RuntimeError("no luck")

    monkeypatch.setattr("agrifm.viewer.view.View.describe", fail)
    client = TestClient(application(view, TOKEN), base_url="http://127.0.0.1", raise_server_exceptions=False)
    assert get(client, "view.json", 500).json()["error"] == "Internal error: RuntimeError: no luck"


def test_parcels_are_outlines_in_degrees(client, ground):
    folder, _, _ = ground
    content = get(client, "parcels.json").json()
    table = geopandas.read_file(folder / "images" / "parcels.gpkg")
    assert len(content["features"]) == len(table)
    properties = content["features"][7]["properties"]
    assert properties["crop"] == table["crop"][7]
    assert properties["parcel"] == str(table["parcel"][7])
    bounds = geopandas.GeoDataFrame.from_features(content).total_bounds
    assert np.allclose(bounds, table.total_bounds, atol=2e-6)


def test_points_are_no_parcels(tmp_path, ground):
    folder, _, _ = ground
    path = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame({"crop": ["maize"]}, geometry=[Point(2.7, 49.9)], crs="EPSG:4326").to_file(path)
    with pytest.raises(InputError, match="no polygons"):
        open_view([folder / "map.tif"], parcels=path)


def test_images_are_found_by_the_provenance(tmp_path, ground):
    folder, _, _ = ground
    shutil.copy(folder / "map.tif", tmp_path)
    shutil.copytree(folder / "images", tmp_path / "images")
    alone = open_view([tmp_path / "map.tif"])
    assert alone.images is None
    assert "--scene" in alone.notes[0]
    write_provenance(tmp_path / "map.tif", open_scene(tmp_path / "images"))
    found = open_view([tmp_path / "map.tif"])
    assert found.notes == ()
    assert found.images.describe()["sensors"][0]["name"] == "S2"
    next((tmp_path / "images" / "S2").glob("*B04*")).unlink()
    missing = open_view([tmp_path / "map.tif"])
    assert missing.images is None
    assert "no file on this machine" in missing.notes[0]


def test_rasters_of_codes_without_names_are_shown(ground):
    folder, _, _ = ground
    view = open_view([folder / "images" / "truth.tif", folder / "images"])
    assert [entry.name for entry in view.maps[0].classes] == [f"class {value}" for value in range(6)]
    assert [entry.color for entry in view.maps[0].classes] == [color for _, color in CLASSES]
    assert view.title == "truth.tif"
    assert "8 dates of S2" in str(view)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no such file"),
        ("chips", "folder of chips"),
        ("run", "a run or a checkpoint"),
        ("map_confidence.tif", "without classes"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, ground, name, message):
    folder, _, _ = ground
    (tmp_path / "chips" / "data_lists").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").touch()
    path = folder / name if name.endswith(".tif") else tmp_path / name
    with pytest.raises(InputError, match=message):
        open_view([path])


def test_two_maps_and_one_scene_are_the_most(ground):
    folder, _, _ = ground
    first, second = folder / "map.tif", folder / "earlier.tif"
    with pytest.raises(InputError, match="3 maps"):
        open_view([first, second, first])
    with pytest.raises(InputError, match="2 scenes"):
        open_view([folder / "images"], folder / "images")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_serves_until_a_signal(ground, number, code):
    folder, _, _ = ground
    command = [sys.executable, "-m", "agrifm.cli", "view", str(folder / "map.tif"), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        match = re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/", "".join(lines))
        assert match, lines
        with socket.create_connection(("127.0.0.1", int(match[1])), timeout=30) as connection:
            connection.sendall(f"GET /{match[2]}/view.json HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b"200 OK" in connection.recv(1000)
            process.send_signal(number)
            rest = process.stdout.read()
        assert process.wait(60) == code
    assert "Traceback" not in rest


def test_notebooks_show_a_page_in_a_frame(ground):
    path = ground[0] / "map.tif"
    with agrifm.view(path, scene=ground[0] / "images", height=500) as shown:
        html = shown._repr_html_()
        assert f'<iframe src="{shown.address}"' in html
        assert 'height="500"' in html
        assert "map.tif (6 classes)" in repr(shown)
        with urlopen(f"{shown.address}view.json") as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert json.load(answer)["images"]["sensors"][0]["name"] == "S2"
        assert "frame-ancestors http://127.0.0.1:* http://localhost:*" in policy
        port = int(shown.address.split(":")[2].split("/")[0])
    with pytest.raises(URLError):
        urlopen(shown.address)
    mapped = WrittenMap((path,), {}, Seams(None, 0, None, 0), visible_seams=False)
    with mapped.explore(port=port) as explored:
        assert explored.shown.maps[0].path == path
    with pytest.raises(InputError, match="no path"):
        agrifm.view()


def test_a_taken_port_is_refused(view):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            serve(view, taken.getsockname()[1], print)


@pytest.fixture
def address(ground):
    """Address of a running server with two maps, images and parcels."""
    folder, _, _ = ground
    paths = [folder / "map.tif", folder / "earlier.tif"]
    shown = open_view(paths, folder / "images", folder / "images" / "parcels.gpkg")
    with running(application(shown, TOKEN)) as found:
        yield found


def seen(page, color):
    """Share of the map in the middle of the page that has a color."""
    picture = page.screenshot(clip={"x": 340, "y": 60, "width": 560, "height": 600})
    pixels = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
    return (pixels == list(bytes.fromhex(color.removeprefix("#")))).all(-1).mean()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, e.g. 'apt-get install chromium'")
def test_the_page_in_a_browser(address, tmp_path):
    """What an analyst does. AGRIFM_VIEWER_PICTURE=docs/images/viewer.png writes the picture of the documentation."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    problems = []
    requests = []
    with browser_page(playwright, problems, requests) as page:
        page.goto(address)
        drawn(page)
        maize = dict(CLASSES)["maize"]
        shown = seen(page, maize)
        assert shown > 0.02

        row = page.locator(".legend tr", has_text="maize")
        row.locator("input").uncheck()
        drawn(page)
        assert seen(page, maize) < shown / 10
        row.locator("input").check()
        drawn(page)
        assert seen(page, maize) == pytest.approx(shown, abs=0.01)

        page.mouse.click(640, 400)
        page.wait_for_selector("#series .chart")
        assert page.locator("#pixel .class").first.inner_text()
        assert page.locator("#series .chart").count() == 2
        page.wait_for_selector("#pixel .votes table")
        assert page.locator("#pixel .votes th").all_inner_texts() == ["lda", "logistic"]
        assert re.fullmatch(r"\d+ %", page.locator("#pixel .votes td").nth(1).inner_text())
        assert page.locator("#pixel .votes td .swatch").count() == 2
        page.keyboard.press("Escape")
        assert page.locator("#pixel").is_hidden()

        before = page.locator("#shown").inner_text()
        page.locator("#date").focus()
        page.keyboard.press("ArrowRight")
        drawn(page)
        assert page.locator("#shown").inner_text() != before
        page.keyboard.press("ArrowLeft")
        drawn(page)
        assert page.locator("#shown").inner_text() == before

        page.select_option("#layer", "Confidence")
        drawn(page)
        assert seen(page, maize) < 0.001
        page.select_option("#layer", "classes")

        page.locator("#groups input[name=compare]").last.check(force=True)
        page.wait_for_selector("#right:not([hidden])")
        drawn(page)
        divider = page.locator("#divider").bounding_box()
        page.mouse.move(divider["x"] + 12, 300)
        page.mouse.down()
        page.mouse.move(600, 300)
        page.mouse.up()
        assert abs(page.locator("#divider").bounding_box()["x"] + 12 - 600) < 3
        page.locator("#groups input[value=images]").check(force=True)
        drawn(page)

        with page.expect_download() as download:
            page.locator("#save").click()
        download.value.save_as(tmp_path / "view.png")
        with Image.open(tmp_path / "view.png") as saved:
            assert saved.size == (1280, 800)
            colors = {color for _, color in saved.convert("RGB").getcolors(1 << 24)}
        assert tuple(bytes.fromhex(maize[1:])) in colors

        page.set_viewport_size({"width": 1280, "height": 1000})
        page.locator("#zoom").click()
        page.mouse.click(480, 400)
        page.wait_for_selector("#series .chart")
        page.wait_for_timeout(1000)  # for the movement of the map
        drawn(page)
        picture = page.screenshot()
    assert problems == []
    assert {url.split("/")[2] for url in requests if url.startswith("http")} == {address.split("/")[2]}
    target = os.environ.get("AGRIFM_VIEWER_PICTURE")
    if target:
        Image.open(io.BytesIO(picture)).quantize(255).save(target, optimize=True)
