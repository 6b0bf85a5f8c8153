"""Labels in the viewer: what is written and refused, where the map is least sure, and drawing in a browser."""

import json
import os

import geopandas
import numpy as np
import pytest
from PIL import Image
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Point, box, shape
from starlette.testclient import TestClient
from viewer_ground import CHROMIUM, TOKEN, browser_page, drawn, place_of, running, write_ground

from agrifm.chips.labels import read_labels
from agrifm.errors import InputError
from agrifm.synthetic.chips import CLASSES
from agrifm.viewer.answers.labels import LONGEST_BODY
from agrifm.viewer.labeling.worklist import worklist
from agrifm.viewer.server import application
from agrifm.viewer.view import open_view

ORIGIN = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("labels"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.gpkg"


@pytest.fixture
def client(ground, path):
    return client_of(ground, path)


def client_of(ground, path):
    view = open_view([ground[0] / "map.tif"], ground[0] / "images", labels=path)
    return TestClient(application(view, TOKEN), base_url=ORIGIN, headers={"Origin": ORIGIN})


def point(grid, row, column):
    return {"type": "Point", "coordinates": place_of(grid, row, column)}


def square(grid, row, column, size=6):
    corners = [(row, column), (row, column + size), (row + size, column + size), (row + size, column), (row, column)]
    return {"type": "Polygon", "coordinates": [[place_of(grid, *corner) for corner in corners]]}


def label(geometry, name="maize", number=None):
    return {"id": number, "class": name, "geometry": geometry}


def save(client, *features, version=0, **options):
    return client.put(f"/{TOKEN}/labels.json", json={"version": version, "features": features}, **options)


def test_labels_are_written_on_the_grid_of_the_map(ground, path, client):
    grid = ground[1]
    answer = save(client, label(point(grid, 40, 50)), label(square(grid, 60, 70), "new class"))
    assert answer.json() == {"version": 1}
    table = geopandas.read_file(path)
    assert table.crs == str(grid.crs)
    assert table["class"].tolist() == ["maize", "new class"]
    assert table.geometry[0].distance(Point(grid.affine * (50.5, 40.5))) < 1e-3
    corners = [grid.affine * (70.5, 60.5), grid.affine * (76.5, 66.5)]
    assert table.geometry[1].symmetric_difference(box(*corners[0], *corners[1]).normalize()).area < 0.1
    labels = read_labels(path, grid)  # what 'agrifm data chips' reads
    assert {entry.name for entry in labels.classes} == {"maize", "new class"}
    assert (labels.label >= 0).sum() == 37
    assert not list(path.parent.glob(".*"))


def test_rows_that_stay_keep_what_else_the_file_holds(ground, path):
    grid = ground[1]
    points = [Point(grid.affine * (column + 0.5, 30.5)) for column in (30, 40, 50)]
    columns = {"class": ["maize", "oats", "maize"], "visited": [7, 8, 9], "by": ["a", "b", "c"]}
    geopandas.GeoDataFrame(columns, geometry=points, crs=str(grid.crs)).to_file(path)
    client = client_of(ground, path)
    found = client.get(f"/{TOKEN}/labels.json").json()
    assert [entry["class"] for entry in found["features"]] == columns["class"]
    assert [entry["name"] for entry in found["classes"]] == [*(name for name, _ in CLASSES), "oats"]
    moved = point(grid, 31, 45)
    assert save(client, label(None, "oats", 2), label(moved, "oats", 1), label(moved)).status_code == 200
    table = geopandas.read_file(path)
    assert table["class"].tolist() == ["oats", "oats", "maize"]
    assert table["visited"].tolist()[:2] == [9, 8]
    assert table["by"].tolist()[:2] == ["c", "b"]
    assert table["by"].isna().tolist() == [False, False, True]
    assert table.geometry[0].distance(points[2]) < 1e-3
    assert table.geometry[1].distance(Point(grid.affine * (45.5, 31.5))) < 1e-3
    assert save(client, version=1).status_code == 200  # all are deleted
    assert len(geopandas.read_file(path)) == 0
    assert client_of(ground, path).get(f"/{TOKEN}/labels.json").json()["features"] == []


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Point", "coordinates": [100.0, 10.0]}, "outside"),
        ({"type": "Point", "coordinates": [float("nan"), 1.0]}, "degrees"),
        ({"type": "Point", "coordinates": [500.0, 1.0]}, "degrees"),
        ({"type": "Point", "coordinates": "x"}, "degrees"),
        ({"type": "Point"}, "degrees"),
        ({"type": "LineString", "coordinates": [[1, 1], [2, 2]]}, "a point or a polygon"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}, "degrees"),
        ({"type": "Polygon", "coordinates": []}, "vertices"),
        (7, "a point or a polygon"),
        (None, "no geometry"),
        ("bow", "cross"),
        ("flat", "cross"),
    ],
)
def test_bad_geometries_are_one_sentence_and_nothing_is_written(ground, path, client, geometry, message):
    (a, b, c, d, _) = square(ground[1], 60, 70)["coordinates"][0]
    shapes = {"bow": [a, c, b, d, a], "flat": [a, b, a, a]}
    if geometry in ("bow", "flat"):
        geometry = {"type": "Polygon", "coordinates": [shapes[geometry]]}
    body = json.dumps({"version": 0, "features": [label(point(ground[1], 40, 50)), label(geometry)]})
    answer = client.put(f"/{TOKEN}/labels.json", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    text = answer.json()["error"]
    assert "label 2" in text
    assert message in text
    assert "\n" not in text
    assert not path.exists()


def test_shapes_of_several_parts_can_be_moved(ground, path):
    grid = ground[1]
    parts = [
        box(*grid.affine * (20, 40), *grid.affine * (30, 30)),
        box(*grid.affine * (50, 40), *grid.affine * (60, 30)),
    ]
    geopandas.GeoDataFrame({"class": ["oats"]}, geometry=[MultiPolygon(parts)], crs=str(grid.crs)).to_file(path)
    client = client_of(ground, path)
    (feature,) = client.get(f"/{TOKEN}/labels.json").json()["features"]
    degrees = geopandas.GeoSeries([shape(feature["geometry"])], crs="EPSG:4326").to_crs(str(grid.crs))
    moved = degrees.translate(10, -20).to_crs("EPSG:4326")[0].__geo_interface__
    assert save(client, label(moved, "oats", 0)).status_code == 200
    (found,) = geopandas.read_file(path).geometry
    assert found.symmetric_difference(translate(MultiPolygon(parts), 10, -20)).area < 0.1


def test_bad_documents_are_refused(ground, path, client):
    place = point(ground[1], 40, 50)
    for document in ([], {"version": 0}, {"version": 0, "features": {}}, {"version": 0, "features": [1]}):
        assert client.put(f"/{TOKEN}/labels.json", json=document).status_code == 422, document
    for name in ("", " ", None, 3, "a\nb", "x" * 101):
        assert save(client, label(place, name)).status_code == 422, name
    for number in (0, -1, True, "0", 1.5):
        assert save(client, label(place, number=number)).status_code == 422, number
    kind = {"Content-Type": "application/json"}
    for body in (b"{", b"[" * 100_000, b"\xff"):
        assert client.put(f"/{TOKEN}/labels.json", content=body, headers=kind).status_code == 400, body[:3]
    assert client.put(f"/{TOKEN}/labels.json", content=b"{}").status_code == 415
    large = client.put(f"/{TOKEN}/labels.json", content=b" " * (LONGEST_BODY + 1), headers=kind)
    assert large.status_code == 413
    assert not path.exists()


def test_only_the_page_itself_may_write(ground, path, client):
    one = label(point(ground[1], 40, 50))
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8000", ""):
        assert save(client, one, headers={"Origin": origin}).status_code == 403, origin
    assert save(client, one, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert save(client, one, headers={"Host": "evil.example", "Origin": "http://evil.example"}).status_code == 403
    assert client.put("/x/labels.json", json={}).status_code == 403
    for method in ("POST", "DELETE", "PATCH"):
        assert client.request(method, f"/{TOKEN}/labels.json").status_code == 405, method
    assert client.put(f"/{TOKEN}/view.json", json={}).status_code == 405
    assert not path.exists()
    assert save(client, one, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_without_labels_nothing_can_be_written(ground):
    view = open_view([ground[0] / "map.tif"])
    client = TestClient(application(view, TOKEN), base_url=ORIGIN, headers={"Origin": ORIGIN})
    assert save(client).status_code == 405
    assert client.get(f"/{TOKEN}/labels.json").status_code == 404


def test_changes_from_elsewhere_are_not_overwritten(ground, path, client):
    one = label(point(ground[1], 40, 50))
    assert save(client, one).status_code == 200
    assert "another tab" in save(client, one).json()["error"]
    geopandas.GeoDataFrame({"class": ["x", "y"]}, geometry=[Point(0, 0)] * 2, crs=str(ground[1].crs)).to_file(path)
    before = path.read_bytes()
    assert "another program" in save(client, one, version=1).json()["error"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("labels.shp", None, "GeoPackage"),
        ("labels.gpkg", {"crop": ["maize"]}, "a column 'class'"),
        ("labels.gpkg", {"class": [None]}, "without class"),
    ],
)
def test_files_that_are_no_labels_are_refused_at_the_start(ground, tmp_path, name, columns, message):
    path = tmp_path / name
    if columns is not None:
        geopandas.GeoDataFrame(columns, geometry=[Point(0, 0)], crs=str(ground[1].crs)).to_file(path)
    with pytest.raises(InputError, match=message):
        open_view([ground[0] / "map.tif"], labels=path)


def test_a_scene_alone_can_be_labeled(ground, path):
    view = open_view([ground[0] / "images"], labels=path)
    client = TestClient(application(view, TOKEN), base_url=ORIGIN, headers={"Origin": ORIGIN})
    found = client.get(f"/{TOKEN}/labels.json").json()
    assert (found["classes"], found["features"]) == ([], [])
    assert client.get(f"/{TOKEN}/worklist.json").json() == []
    assert save(client, label(point(ground[1], 40, 50))).status_code == 200


def test_the_worklist_names_the_least_sure_places_apart(ground, client):
    _, grid, arrays = ground
    found = client.get(f"/{TOKEN}/worklist.json").json()
    assert found == client.get(f"/{TOKEN}/worklist.json").json()
    confidence = arrays["confidence"][0]
    values = [place["confidence"] for place in found]
    assert values == sorted(values)
    assert values[0] == confidence.min()
    assert len(found) > 20
    places = geopandas.points_from_xy([p["lon"] for p in found], [p["lat"] for p in found], crs="EPSG:4326")
    points = places.to_crs(str(grid.crs))
    column, row = ~grid.affine * (points.x, points.y)
    assert confidence[row.astype(int), column.astype(int)].tolist() == values
    apart = np.hypot(row[:, None] - row, column[:, None] - column) + 1e9 * np.eye(len(row))
    assert apart.min() >= 10
    assert len(worklist(open_view([ground[0] / "map.tif"]).maps[0], 5)) == 5


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, e.g. 'apt-get install chromium'")
def test_a_person_labels_in_a_browser(ground, path, tmp_path):
    """AGRIFM_LABELS_PICTURE=docs/images/viewer_labels.png writes the picture of the documentation."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    view = open_view([ground[0] / "map.tif"], ground[0] / "images", labels=path)
    problems = []
    with running(application(view, TOKEN)) as address, browser_page(playwright, problems, [], height=1000) as page:
        page.goto(address)
        drawn(page)
        page.wait_for_selector("#worklist button")
        status = page.locator("#label-status")
        page.keyboard.press("n")
        page.wait_for_selector("#series .chart")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        assert "1 label. Not saved yet" in status.inner_text()
        assert "Place 2" in page.locator("#worklist").inner_text()
        page.wait_for_timeout(600)  # for the movement of the map
        page.keyboard.press("Escape")

        page.locator("input[name=tool][value=point]").check(force=True)
        for x, y in ((600, 380), (700, 460)):
            page.mouse.click(x, y)
        page.keyboard.press("3")
        page.locator("input[name=tool][value=polygon]").check(force=True)
        for x, y in ((760, 520), (840, 530), (830, 600), (750, 590)):
            page.mouse.click(x, y)
        page.keyboard.press("Enter")
        assert "4 labels" in status.inner_text()
        for x, y in ((500, 600), (560, 660), (560, 600), (500, 660)):
            page.mouse.click(x, y)
        page.keyboard.press("Enter")
        assert "crosses itself" in page.locator("#toast").inner_text()
        page.keyboard.press("Escape")
        assert page.locator("#pixel").is_hidden()

        page.locator("input[name=tool][value=edit]").check(force=True)
        page.wait_for_timeout(500)
        page.mouse.move(600, 380)
        page.mouse.down()
        page.mouse.move(640, 400, steps=4)
        page.mouse.up()
        page.wait_for_timeout(500)
        page.mouse.click(700, 460)
        page.keyboard.press("Delete")
        assert "3 labels" in status.inner_text()
        page.keyboard.press("Control+z")
        assert "4 labels" in status.inner_text()
        page.locator("input[name=tool][value=point]").check(force=True)
        for _ in range(20):
            page.keyboard.press("Shift+Tab")
            if page.evaluate("document.activeElement.tagName") == "CANVAS":
                break
        assert page.locator("#cross").is_visible()
        page.keyboard.press("Space")
        assert "5 labels" in status.inner_text()
        page.keyboard.press("Control+z")
        page.locator("#new-class").fill("fallow")
        page.keyboard.press("Enter")
        page.keyboard.press("Control+s")
        page.get_by_text("As in labels.gpkg").wait_for()
        page.locator("input[name=tool][value=look]").check(force=True)
        page.keyboard.press("p")
        page.keyboard.press("n")
        page.wait_for_selector("#series .chart")
        page.wait_for_timeout(600)  # for the movement of the map
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1000)  # for the last tiles
        page.locator("#toast").evaluate("toast => (toast.hidden = true)")
        page.screenshot(path=tmp_path / "page.png")
        assert page.locator("#label-classes .label-class").last.inner_text().split() == [
            str(len(CLASSES) + 1),
            "fallow",
            "0",
        ]
    assert problems == []
    table = geopandas.read_file(path)
    names = [name for name, _ in CLASSES]
    assert table["class"].tolist() == [names[1], names[1], names[1], names[2]]
    assert table.geom_type.tolist() == ["Point"] * 3 + ["Polygon"]
    pixels = table.geometry[1].x - table.geometry[2].x, table.geometry[1].y - table.geometry[2].y
    scale = table.geometry[3].bounds[2] - table.geometry[3].bounds[0]
    # The moved point lies 60 pixels to the left of the other one and 60 above it; the polygon is 90 pixels wide.
    assert np.allclose(np.array(pixels) / scale, [-60 / 90, 60 / 90], atol=0.05)
    target = os.environ.get("AGRIFM_LABELS_PICTURE")
    if target:
        Image.open(tmp_path / "page.png").convert("RGB").quantize(255).save(target, optimize=True)
