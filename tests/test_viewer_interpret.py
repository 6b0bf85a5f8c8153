"""Interpreting a sample in the viewer: what the page learns and must not learn, what is written, and a browser."""

import io
import json
import os
import sqlite3

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from PIL import Image
from shapely.geometry import Point
from starlette.testclient import TestClient
from viewer_ground import CHROMIUM, TOKEN, browser_page, running, write_map

from agrifm.errors import InputError
from agrifm.statistics.area_sample import Plan, draw, write_sample
from agrifm.statistics.design import Design
from agrifm.statistics.interpretation import estimates, read_answers
from agrifm.statistics.response import ResponseDesign
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.viewer.answers.interpretation import LONGEST_BODY
from agrifm.viewer.interpretation.point_images import SIDE
from agrifm.viewer.opening import open_page
from agrifm.viewer.server import application

ORIGIN = "http://127.0.0.1:8000"
NAMES = [name for name, _ in CLASSES]
LAND = Landscape(seed=4, rows=2, columns=2, size=66, frames=(("S2", 8), ("Landsat", 3)))
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Folder with a scene and a map of it, the truth, and a design of 30 points."""
    folder = tmp_path_factory.mktemp("interpret")
    write_scene(folder / "images", LAND, rows=slice(None), columns=slice(None))
    with rasterio.open(folder / "images" / "truth.tif") as file:
        truth = file.read(1)
        grid = GeoBox.from_rio(file)
    write_map(folder / "map.tif", truth, grid, 1, 6.0)
    design, _ = draw(folder / "map.tif", Plan(size=30, floor=4, seed=10))
    return folder, grid, truth, design


@pytest.fixture
def sample(ground, tmp_path):
    path = tmp_path / "sample.gpkg"
    write_sample(path, ground[3])
    return path


def client_of(path, scene=None):
    app = application(open_page([path], scene), TOKEN)
    return TestClient(app, base_url=ORIGIN, headers={"Origin": ORIGIN}, raise_server_exceptions=False)


def get(client, path, status=200):
    answer = client.get(f"/{TOKEN}/{path}")
    assert answer.status_code == status, answer.text[:300]
    return answer


def put(client, number, answer, before="", **options):
    document = {"id": number, "answer": answer, "before": before}
    return client.put(f"/{TOKEN}/answer.json", json=document, **options)


def truth_of(ground):
    """The true class at each point by its number."""
    _, grid, truth, design = ground
    found = {}
    for unit in design.units:
        column, row = ~grid.affine * (unit.x, unit.y)
        found[unit.id] = NAMES[truth[int(row), int(column)]]
    return found


def everything(client, design):
    """All that the page could ask for before the last answer, by request."""
    found = {}
    paths = ["", "sample.json", "estimate.json", "view.json", "labels.json", "point/999.json", "nothing"]
    for number in (0, 7, 29):
        paths += [f"point/{number}.json", f"point/{number}/0/2/0.png", f"point/{number}/1/1/1.png"]
    for path in paths:
        found[path] = client.get(f"/{TOKEN}/{path}").content
    for unit in design.units[1:]:
        found[f"wrong {unit.id}"] = put(client, unit.id, "no such class").content
        found[f"right {unit.id}"] = put(client, unit.id, NAMES[unit.id % 6]).content
    found["after"] = get(client, "sample.json").content
    found["still"] = get(client, "estimate.json", 422).content
    return found


def shuffled(design):
    """The same points as if other classes and strata stood at each of them."""
    others = np.random.default_rng(0).permutation(len(design.units))
    units = []
    for unit, other in zip(design.units, others, strict=True):
        source = design.units[other]
        units.append(unit.model_copy(update={"stratum": source.stratum, "map_class": source.map_class}))
    return design.model_copy(update={"units": tuple(units)})


def test_no_answer_depends_on_strata_or_map(ground, tmp_path):
    """The strongest form of blindness: with other strata and map classes, every byte is the same."""
    folder, _, _, design = ground
    path = tmp_path / "sample.csv"
    found = []
    for each in (design, shuffled(design)):
        write_sample(path, each, open_book=True, overwrite=True)
        shown = everything(client_of(path, folder / "images"), each)
        assert len(shown) == 7 + 3 * 3 + 2 * 29 + 2
        client = client_of(path)
        put(client, design.units[0].id, "maize")
        found.append((shown, get(client, "estimate.json").content, path.read_text()))
    assert found[0][2] != found[1][2]
    assert found[0][1] != found[1][1]  # the estimate does depend on them
    assert found[0][0] == found[1][0]


def test_hidden_columns_are_not_sent(ground, tmp_path):
    design = ground[3]
    path = tmp_path / "sample.csv"
    write_sample(path, design, open_book=True)
    table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    hidden = ["stratum", "stratum_name", "map_class", "map_class_name", "inclusion_probability", "weight"]
    for name in hidden:
        table[name] = f"SECRET {name}"
    table.to_csv(path, index=False)
    secret = design.model_dump(mode="json")
    for stratum in secret["strata"]:
        stratum["name"] = f"SECRET {stratum['name']}"
    secret["map"]["path"] = "SECRET.tif"
    Design.beside(path).write_text(json.dumps(secret))
    shown = everything(client_of(path), design)
    for request, content in shown.items():
        assert b"SECRET" not in content, request
        assert not any(name.encode() in content for name in (*hidden, "hectares")), request
    points = json.loads(shown["sample.json"])["points"]
    assert {tuple(point) for point in points} == {("id", "lon", "lat", "answer")}
    assert b"SECRET" in path.read_bytes()


def test_the_chip_shows_the_pixel_and_its_series(ground, sample):
    folder, grid, _, design = ground
    client = client_of(sample, folder / "images")
    shown = get(client, "sample.json").json()
    assert [entry["name"] for entry in shown["classes"]] == NAMES
    assert [point["id"] for point in shown["points"]] == [unit.id for unit in design.units]
    assert [len(sensor["days"]) for sensor in shown["images"]["sensors"]] == [8, 3]
    point = shown["points"][5]
    detail = get(client, "point/5.json").json()
    middle = (SIDE // 2) / SIDE, (SIDE // 2 + 1) / SIDE
    corners = [[x, y] for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    np.testing.assert_allclose(detail["outline"], [[middle[x], middle[y]] for x, y in corners], atol=2e-4)
    assert detail["meters"] == 10 * SIDE
    view = open_page([folder / "map.tif"], folder / "images")
    assert detail["series"] == view.images.series(point["lon"], point["lat"])

    step = int(np.argmax(detail["series"][0]["clear"]))
    picture = Image.open(io.BytesIO(get(client, f"point/5/0/{step}/0.png").content))
    assert picture.size == (SIDE, SIDE)
    column, row = ~grid.affine * (design.units[5].x, design.units[5].y)
    corner = rasterio.Affine.translation(int(column) - SIDE // 2, int(row) - SIDE // 2)
    box = GeoBox((SIDE, SIDE), grid.affine * corner, grid.crs)
    assert np.array_equal(np.array(picture), view.images.composite(0, step, "true color", box, veil=False))
    for path in ("point/30.json", "point/5/0/99/0.png", "point/5/9/0/0.png", "point/5/0/0/9.png"):
        assert "reload" in get(client, path, 404).json()["error"]


def test_coarser_pixels_of_a_map_are_outlined_as_they_are(ground, sample):
    coarse = ResponseDesign.load(sample).model_dump(mode="json") | {"pixel": [30, 20]}
    Design.beside(sample).unlink()
    ResponseDesign.beside(sample).write_text(json.dumps(coarse))
    client = client_of(sample, ground[0] / "images")
    outline = np.array(get(client, "point/5.json").json()["outline"])
    np.testing.assert_allclose(np.ptp(outline, axis=0), [3 / SIDE, 2 / SIDE], rtol=1e-3)
    np.testing.assert_allclose(outline.mean(0), [0.5, 0.5], atol=1e-4)


def test_without_a_scene_and_outside_of_it_there_are_places_alone(ground, sample):
    client = client_of(sample)
    assert get(client, "sample.json").json()["images"] is None
    assert get(client, "point/0.json").json() is None
    get(client, "point/0/0/0/0.png", 404)
    table = geopandas.read_file(sample)
    table["lon"] += 10
    table.to_file(sample, layer="sample")
    client = client_of(sample, ground[0] / "images")
    assert get(client, "point/0.json").json() is None
    get(client, "point/0/0/0/0.png", 404)


def other_content(path):
    """All tables of a GeoPackage but the references and the time of the last change."""
    with sqlite3.connect(path) as file:
        names = [row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        tables = {name: file.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
    columns = [row[1] for row in file.execute("PRAGMA table_info(sample)")]
    position = columns.index("reference")
    tables["sample"] = [row[:position] + row[position + 1 :] for row in tables["sample"]]
    tables["gpkg_contents"] = [row[:4] + row[5:] for row in tables["gpkg_contents"]]
    file.close()
    return tables


def test_an_answer_is_written_at_once_and_nothing_else_changes(ground, sample):
    table = geopandas.read_file(sample, layer="sample")
    table["visited"] = pandas.array([7, None] * 15, dtype="Int64")
    table.to_file(sample, layer="sample")
    with sqlite3.connect(sample) as file:  # as QGIS stores the style of a layer
        file.execute("CREATE TABLE layer_styles (id INTEGER PRIMARY KEY, styleQML TEXT)")
        file.execute("INSERT INTO layer_styles VALUES (1, '<qgis/>')")
    file.close()
    before = other_content(sample)
    client = client_of(sample)
    first, second = (unit.id for unit in ground[3].units[:2])
    assert put(client, first, "maize").json() == {"answered": 1}
    assert put(client, second, "grassland").json() == {"answered": 2}
    assert put(client, first, "rapeseed", "maize").json() == {"answered": 2}
    assert other_content(sample) == before
    found = geopandas.read_file(sample, layer="sample").set_index("sample_id").reference
    assert (found[first], found[second]) == ("rapeseed", "grassland")
    assert (found.drop([first, second]) == "").all()
    assert put(client, first, "", "rapeseed").json() == {"answered": 1}
    assert get(client_of(sample), "sample.json").json()["points"][1]["answer"] == "grassland"
    assert {path.name for path in sample.parent.iterdir()} == {
        "sample.gpkg",
        "sample.gpkg.design.json",
        "sample.gpkg.response.json",
    }


@pytest.mark.parametrize(
    ("encoding", "separator", "line_end"), [("utf-8", ",", "\n"), ("utf-8-sig", ";", "\r\n"), ("utf-16", "\t", "\r\n")]
)
def test_a_table_stays_as_the_spreadsheet_wrote_it(ground, tmp_path, encoding, separator, line_end):
    path = tmp_path / "sample.csv"
    write_sample(path, ground[3])
    table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    table["sample_id"] += ".0"
    table["note"] = f'a "hedge"{separator} über dem Bach'
    table.to_csv(path, index=False, sep=separator, lineterminator=line_end, encoding=encoding)
    before = path.read_bytes()
    client = client_of(path)
    number = ground[3].units[8].id
    assert put(client, number, "maize").json() == {"answered": 1}
    content = path.read_bytes().decode(encoding)
    assert content.count("maize") == 1
    assert content.replace("maize", "") == before.decode(encoding)
    assert pandas.read_csv(io.StringIO(content), sep=separator).reference[8] == "maize"
    assert put(client, number, "", "maize").json() == {"answered": 0}
    assert path.read_bytes() == before


def test_bad_answers_are_refused_and_nothing_is_written(ground, sample):
    client = client_of(sample)
    number = ground[3].units[0].id
    before = sample.read_bytes()
    for answer in ("Maize", "nothing", None, 3, ["maize"]):
        assert "name of a class" in put(client, number, answer).json()["error"], answer
    for other in (0, 31, True, "1", None, 1.5):
        assert "number of a point" in put(client, other, "maize").json()["error"], other
    assert put(client, number, "maize", None).status_code == 422
    assert "another tab" in put(client, number, "maize", "grassland").json()["error"]
    address = f"/{TOKEN}/answer.json"
    assert client.put(address, json=[]).status_code == 422
    for body in (b"{", b"\xff", b"[" * 50_000):
        assert client.put(address, content=body, headers=JSON).status_code == 400
    assert client.put(address, content=b" " * (LONGEST_BODY + 1), headers=JSON).status_code == 413
    assert client.put(address, content=b"{}").status_code == 415
    for origin in ("http://evil.example", "null", ""):
        assert put(client, number, "maize", headers={"Origin": origin}).status_code == 403
    assert client.put(f"/{TOKEN}/sample.json", json={}).status_code == 405
    assert sample.read_bytes() == before
    assert put(client, number, "maize").status_code == 200


def test_changes_of_other_programs_are_not_overwritten(ground, sample):
    client = client_of(sample)
    first, second = (unit.id for unit in ground[3].units[:2])
    assert put(client, first, "maize").status_code == 200
    table = geopandas.read_file(sample)
    table.loc[table.sample_id == second, "reference"] = "rapeseed"
    table.to_file(sample, layer="sample")
    content = sample.read_bytes()
    assert "another program" in put(client, first, "grassland", "maize").json()["error"]
    assert sample.read_bytes() == content
    client = client_of(sample)
    journal = sample.with_name("sample.gpkg-wal")
    journal.write_bytes(b"unfinished")
    assert "QGIS" in put(client, first, "grassland", "maize").json()["error"]
    with pytest.raises(InputError, match="QGIS"):
        open_page([sample])


def test_the_estimate_is_that_of_the_command(ground, sample):
    client = client_of(sample)
    truth = truth_of(ground)
    for number, name in truth.items():
        assert "nothing of the estimate" in get(client, "estimate.json", 422).json()["error"]
        assert put(client, number, name).status_code == 200
    found = get(client, "estimate.json").json()
    (expected,) = estimates(read_answers(sample))
    assert found["total"]["overall"]["value"] == pytest.approx(expected.overall.value)
    for entry, one in zip(found["total"]["classes"], expected.classes, strict=True):
        assert (entry["hectares"]["low"], entry["hectares"]["high"]) == pytest.approx(
            (one.hectares.low, one.hectares.high)
        )
    assert found["mapped"] == pytest.approx([entry.hectares for entry in ground[3].classes])
    assert any("95 %" in line for line in found["notes"])
    (certain,) = [line for line in found["notes"] if "no certainty" in line]
    assert certain.endswith("sugar beet")  # all points of its stratum agreed
    Design.beside(sample).unlink()
    client = client_of(sample)
    shown = get(client, "sample.json").json()
    assert (shown["estimates"], len(shown["classes"])) == (False, 6)
    assert "design.json" in get(client, "estimate.json", 422).json()["error"]


def test_other_files_are_refused_in_one_sentence(ground, sample, tmp_path):
    points = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame({"class": ["maize"]}, geometry=[Point(0, 0)], crs=4326).to_file(points)
    with pytest.raises(InputError, match=r"no column sample_id(.|\n)*area design"):
        open_page([points])
    with pytest.raises(InputError, match=r"together with .*map\.tif and --labels"):
        open_page([sample, ground[0] / "map.tif"], labels=points)
    table = geopandas.read_file(sample)
    for column, values, message in (
        ("design", "d0", "another draw"),
        ("sample_id", 1, "more than once"),
        ("lat", 91.0, "a place in degrees"),
    ):
        changed = tmp_path / "changed" / "sample.gpkg"
        changed.parent.mkdir(exist_ok=True)
        table.assign(**{column: values}).to_file(changed, layer="sample")
        Design.beside(changed).write_bytes(Design.beside(sample).read_bytes())
        with pytest.raises(InputError, match=message):
            open_page([changed])
    table = tmp_path / "table.csv"
    write_sample(table, ground[3])
    Design.beside(table).unlink()
    response = ResponseDesign.load(table).model_dump(mode="json")
    for key, value, message in (
        ("classes", ["=1+1"], "formula"),
        ("classes", ["maize "], "spaces"),
        ("classes", ["a\nb"], "control"),
        ("classes", ["\ud800"], "Invalid JSON"),
        ("classes", [""], "spaces"),
        ("classes", [], "classes"),
        ("crs", "nowhere", "crs"),
        ("pixel", [0, 10], "pixel"),
        ("stratum", 1, "stratum"),
    ):
        ResponseDesign.beside(table).write_text(json.dumps(response | {key: value}))
        with pytest.raises(InputError, match=message):
            open_page([table])
    elsewhere = {"crs": "+proj=gnom +lat_0=-50 +lon_0=-177"}
    ResponseDesign.beside(table).write_text(json.dumps(response | elsewhere))
    client = client_of(table, ground[0] / "images")
    assert "within the CRS" in get(client, "point/0.json", 422).json()["error"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, e.g. 'apt-get install chromium'")
def test_a_person_interprets_in_a_browser(ground, sample, tmp_path):
    """AGRIFM_INTERPRET_PICTURE=docs/images/viewer_interpret.png writes the picture of the documentation."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    truth = truth_of(ground)
    order = [unit.id for unit in ground[3].units]
    app = application(open_page([sample], ground[0] / "images"), TOKEN)
    client = TestClient(app, base_url=ORIGIN, headers={"Origin": ORIGIN})
    for number in order[:12]:  # as answered on another day
        assert put(client, number, truth[number]).status_code == 200
    problems = []
    requests = []
    app = application(open_page([sample], ground[0] / "images"), TOKEN)
    with running(app) as address, browser_page(playwright, problems, requests, height=760) as page:

        def reads(selector, text):
            page.locator(selector, has_text=text).wait_for()

        def answered(count):
            reads("#progress", f"{count} of 30 answered")
            reads("#saved", "saved in sample.gpkg at once")

        page.goto(address)
        page.wait_for_selector("#point[aria-busy=false]")
        answered(12)
        reads("#head h2", f"Point {order[12]}")
        assert page.locator("#estimate-group").is_hidden()
        image = page.locator("#chip img")
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == SIDE
        assert page.locator("#series .chart").count() == 2
        box = page.locator("#chip").bounding_box()
        middle = page.locator("#chip polygon.core").bounding_box()
        assert abs(middle["x"] + middle["width"] / 2 - box["x"] - box["width"] / 2) < 2
        assert abs(middle["y"] + middle["height"] / 2 - box["y"] - box["height"] / 2) < 2

        before = page.locator("#date-text").inner_text()
        source = image.get_attribute("src")
        page.keyboard.press("ArrowRight")
        assert page.locator("#date-text").inner_text() != before
        assert image.get_attribute("src") != source
        page.locator("#when").focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("#date-text").inner_text() == before
        page.locator("#series circle.dot").first.click()
        assert page.locator("#date-text").inner_text() != before
        page.locator("#composites input").last.check(force=True)
        assert image.get_attribute("src").endswith("/1.png")
        page.locator("input[name=sensor]").last.check(force=True)
        assert "/1/" in image.get_attribute("src")
        page.keyboard.press("z")
        assert page.locator("#chip polygon.core").bounding_box()["width"] > 2.5 * middle["width"]
        page.keyboard.press("z")
        page.locator("input[name=sensor]").first.check(force=True)
        page.locator("#composites input").first.check(force=True)

        page.keyboard.press("3")
        answered(13)
        assert page.locator("#classes [aria-pressed=true]").inner_text().split() == [NAMES[2], "3"]
        page.keyboard.press("u")
        answered(12)
        for _ in range(30):  # by keyboard alone, from wherever the focus is
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent").startswith(NAMES[1]):
                break
        page.keyboard.press("Enter")
        answered(13)
        page.keyboard.press("n")
        reads("#head h2", f"Point {order[13]}")
        page.keyboard.press("p")
        page.keyboard.press("p")
        reads("#head h2", f"Point {order[11]}")
        page.keyboard.press("f")
        reads("#head h2", f"Point {order[13]}")
        page.wait_for_selector("#series .chart")
        page.evaluate("document.activeElement.blur()")
        image.evaluate("image => image.decode()")
        page.screenshot(path=tmp_path / "page.png")

        while page.locator("#first-open").is_enabled():
            number = int(page.locator("#head h2").inner_text().removeprefix("Point "))
            page.keyboard.press(str(1 + NAMES.index(truth[number])))
            page.keyboard.press("f")
        answered(30)
        page.locator("#compute").click()
        page.wait_for_selector("#estimate table")
        assert page.locator("#estimate tbody tr").count() == 6
        assert page.locator("#estimate .bars").count() == 3
        page.screenshot(path=tmp_path / "estimate.png")
        page.keyboard.press("u")
        answered(29)
        assert page.locator("#estimate").is_hidden()
        assert page.locator("#estimate-group").is_hidden()

        sample.touch()  # another program has written it
        page.keyboard.press("1")
        reads("#toast", "another program")
        reads("#saved", "was not saved")
        reads("#progress", "29 of 30")
    (refusal,) = problems  # browsers log refused requests
    assert "422" in refusal
    assert {url.split("/")[2] for url in requests} == {address.split("/")[2]}
    found = geopandas.read_file(sample).set_index("sample_id").reference
    assert (found == "").sum() == 1
    assert found[order[12]] == NAMES[1]
    target = os.environ.get("AGRIFM_INTERPRET_PICTURE")
    if target:
        Image.open(tmp_path / "page.png").convert("RGB").quantize(255, kmeans=1).save(target, optimize=True)
