"""Vector files as others write them: virtual formats, encodings, damaged shapes and columns, the 180th meridian."""

import copy
import http.server
import json
import shutil
import sqlite3
import threading
import zipfile

import geopandas
import numpy as np
import pytest
import shapely
from drawn_parcels import GRID, UTM, frame_of, holds, save, square
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

from agrifm.chips.labels import read_labels
from agrifm.errors import InputError
from agrifm.scenes.description import read_area


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Two parcels as GeoJSON, GeoPackage and Shapefile."""
    folder = tmp_path_factory.mktemp("fields")
    frame = frame_of(wheat=[square(0, 0)], maize=[square(30, 0)])
    save(frame, folder / "fields.geojson", "EPSG:4326")
    save(frame, folder / "fields.gpkg")
    return folder


@pytest.fixture
def listener():
    """Address of a server on this machine, and the requests that it got."""
    requests = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


VIRTUAL = {
    "labels.vrt": "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>/vsicurl/{url}/a.geojson</SrcDataSource>"
    "</OGRVRTLayer></OGRVRTDataSource>",
    "labels.ovf": "\n <OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>WFS:{url}</SrcDataSource></OGRVRTLayer>"
    "</OGRVRTDataSource>",
    "labels.gpkg": "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>fields.gpkg</SrcDataSource>"
    "<SrcSQL>SELECT * FROM fields</SrcSQL></OGRVRTLayer></OGRVRTDataSource>",
    "labels.xml": "<OGRWFSDataSource><URL>{url}/wfs</URL></OGRWFSDataSource>",
    "labels.gdalg.json": '{{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read '
    '/vsicurl/{url}/a.geojson"}}',
    "labels.gml": '<!DOCTYPE a [<!ENTITY b SYSTEM "{url}/b">]><FeatureCollection>&b;</FeatureCollection>',
}


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_formats_are_refused_before_they_are_opened(tmp_path, fields, listener, name):
    url, requests = listener
    shutil.copy(fields / "fields.gpkg", tmp_path)
    (tmp_path / name).write_text(VIRTUAL[name].format(url=url))
    with pytest.raises(InputError, match=rf"(?s){name}.*(virtual|entities).*ogr2ogr"):
        read_labels(tmp_path / name, GRID)
    with pytest.raises(InputError, match=name):
        read_area(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(tmp_path / name, name)
    with pytest.raises(InputError, match=r"(?s)packed\.zip.*(virtual|entities)"):
        read_labels(tmp_path / "packed.zip", GRID)
    assert not requests


def test_files_lead_to_no_network(tmp_path, fields, listener):
    url, requests = listener
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / f"vsicurl/{url}/a.geojson", GRID)
    ring = "500000,4800000 500300,4800000 500300,4799000 500000,4800000"
    (tmp_path / "a.gml").write_text(
        f'<x:FeatureCollection xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:x="http://x.org/" '
        f'xsi:schemaLocation="http://x.org/ {url}/s.xsd" xmlns:gml="http://www.opengis.net/gml"><gml:featureMember>'
        f'<x:f><x:g><gml:Polygon srsName="{UTM}"><gml:outerBoundaryIs><gml:LinearRing><gml:coordinates>{ring}'
        "</gml:coordinates></gml:LinearRing></gml:outerBoundaryIs></gml:Polygon></x:g><x:crop>wheat</x:crop></x:f>"
        "</gml:featureMember></x:FeatureCollection>"
    )
    with pytest.raises(InputError, match="one class only, 'wheat'"):
        read_labels(tmp_path / "a.gml", GRID, class_column="crop")
    shutil.copy(fields / "fields.gpkg", tmp_path / "view.gpkg")
    with sqlite3.connect(tmp_path / "view.gpkg") as database:
        database.execute("CREATE VIEW v AS SELECT fid, geom, ogr_geocode('Paris') AS crop FROM fields")
    with pytest.raises(InputError, match=r"(?s)view that calls.*ogr_geocode"):
        read_labels(tmp_path / "view.gpkg", GRID)
    assert not requests


# Encodings

WORDS = ("Körnermais", "blé tendre")


@pytest.mark.parametrize(
    ("written", "stated"),
    [
        ("UTF-8", None),
        ("UTF-8", "ISO-8859-1"),
        ("UTF-8", "1252"),
        ("UTF-8", "nonsense"),
        ("ISO-8859-1", None),
        ("CP1252", "ANSI 1252"),
    ],
)
def test_text_of_shapefiles_is_read_as_it_was_written(tmp_path, written, stated):
    frame = frame_of(**{WORDS[0]: [square(0, 0)], WORDS[1]: [square(30, 0)]}).rename(columns={"crop": "größe"})
    frame.to_file(tmp_path / "a.shp", encoding=written)
    (tmp_path / "a.cpg").unlink()
    if stated is not None:
        (tmp_path / "a.cpg").write_text(stated)
    labels = read_labels(tmp_path / "a.shp", GRID, class_column="größe")
    assert [entry.name for entry in labels.classes] == list(WORDS)
    assert np.array_equal(labels.label == 0, holds(square(0, 0)))


def test_a_character_that_the_column_cuts_off_does_not_matter(tmp_path):
    # A column of text in a Shapefile holds 254 bytes; the last character of this name has only one of two bytes there.
    name = 127 * "x" + 64 * "é"
    with pytest.warns(RuntimeWarning, match="truncated"):
        frame_of(**{name: [square(0, 0)], "wheat": [square(30, 0)]}).to_file(tmp_path / "a.shp", encoding="UTF-8")
    (tmp_path / "a.cpg").unlink()
    names = [entry.name for entry in read_labels(tmp_path / "a.shp", GRID).classes]
    assert names == ["wheat", 127 * "x" + 63 * "é"]


def test_text_in_another_encoding_than_stated_is_refused(tmp_path, fields):
    frame_of(**{WORDS[0]: [square(0, 0)]}).to_file(tmp_path / "a.shp", encoding="ISO-8859-1")
    (tmp_path / "a.cpg").write_text("UTF-8")
    with pytest.raises(InputError, match=r"(?s)a\.cpg.*no UTF-8.*CP1252"):
        read_labels(tmp_path / "a.shp", GRID)
    text = (fields / "fields.geojson").read_text().replace("wheat", "blé")
    (tmp_path / "a.geojson").write_text(text, encoding="ISO-8859-1")
    with pytest.raises(InputError, match=r"(?s)a\.geojson.*utf-8"):
        read_labels(tmp_path / "a.geojson", GRID)


# Shapes


def ring(fields):
    """A closed ring of a third parcel, in degrees."""
    first = json.loads((fields / "fields.geojson").read_text())["features"][0]
    return [[x + 0.002, y - 0.002] for x, y in first["geometry"]["coordinates"][0]]


def with_third(fields, path, geometry, crop="third"):
    """The two parcels, and a third."""
    document = json.loads((fields / "fields.geojson").read_text())
    document["features"].append({"type": "Feature", "properties": {"crop": crop}, "geometry": geometry})
    path.write_text(json.dumps(document))
    return path


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def changed(place, ring):
    return [ring[0], place, *ring[2:-1], ring[0]]


# What becomes of the third parcel: the count in the account that says so, and whether it is burned.
SHAPES = {
    "closed": (polygon, None, True),
    "open ring": (lambda ring: polygon(ring[:-1]), "repaired", True),
    "heights": (lambda ring: polygon([[*place, 3] for place in ring]), None, True),
    "two places": (lambda ring: polygon(ring[:2]), "outside", False),
    "nothing": (lambda ring: None, "outside", False),
    "no ring": (lambda ring: polygon(), "outside", False),
    "NaN": (lambda ring: polygon(changed([float("nan"), 43.3], ring)), "damaged", False),
    "infinity": (lambda ring: polygon(changed([1e400, 43.3], ring)), "damaged", False),
    "hole beside": (lambda ring: polygon(ring, [[x + 0.003, y] for x, y in ring]), "damaged", False),
    "empty part": (lambda ring: {"type": "MultiPolygon", "coordinates": [[ring], []]}, None, True),
    "line in a collection": (
        lambda ring: {
            "type": "GeometryCollection",
            "geometries": [polygon(ring), {"type": "LineString", "coordinates": [[3.0, 43.35], [3.01, 43.34]]}],
        },
        "mixed",
        True,
    ),
    "nested collection": (
        lambda ring: {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "Point", "coordinates": [3.005, 43.35]},
                {"type": "GeometryCollection", "geometries": [polygon(ring)]},
            ],
        },
        "mixed",
        True,
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_odd_shapes_are_right_or_counted(tmp_path, fields, kind):
    make, count, burned = SHAPES[kind]
    third = ring(fields)
    labels = read_labels(with_third(fields, tmp_path / "a.geojson", make(third)), GRID)
    own = geopandas.GeoSeries([shapely.Polygon(third)], crs="EPSG:4326").to_crs(UTM)[0]
    expected = holds(square(0, 0)) | holds(square(30, 0)) | (holds(own) if burned else False)
    assert np.array_equal(labels.label >= 0, expected)
    counts = {name: getattr(labels.account, name) for name in ("outside", "repaired", "damaged", "mixed")}
    assert counts == dict.fromkeys(counts, 0) | ({count: 1} if count else {})


def test_shapes_that_cannot_be_told_are_refused(tmp_path, fields):
    path = with_third(fields, tmp_path / "a.geojson", polygon([["a", "b"], *ring(fields)[1:]]))
    with pytest.raises(InputError, match=r"a\.geojson"):
        read_labels(path, GRID)
    path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match=r"a\.geojson"):
        read_labels(path, GRID)
    far = geopandas.read_file(fields / "fields.geojson")
    far.geometry = shapely.transform(far.geometry.to_numpy(), lambda places: places + 1e300)
    far.to_file(tmp_path / "far.gpkg")
    with pytest.raises(InputError, match="no overlap") as caught:
        read_labels(tmp_path / "far.gpkg", GRID)
    assert len(str(caught.value)) < 1000


def test_crs_that_cannot_be_related_are_refused(tmp_path, fields):
    frame = geopandas.read_file(fields / "fields.gpkg")
    for name, crs, words in (
        ("local", 'LOCAL_CS["site",UNIT["metre",1]]', "not tied to the Earth"),
        ("moon", "ESRI:104903", "no overlap"),
    ):
        moved = frame if name == "local" else frame.to_crs("EPSG:4326")
        moved.set_crs(crs, allow_override=True).to_file(tmp_path / f"{name}.gpkg")
        with pytest.raises(InputError, match=f"(?s){name}.gpkg.*{words}"):
            read_labels(tmp_path / f"{name}.gpkg", GRID)


# Columns


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1, 2], [3]], "a list at feature 0"),
        ([["a"], ["b"]], "a list"),
        (["2024-01-01", "2024-01-02"], "dates"),
        (["a\x1b[31m", "b"], "control characters"),
        (["a" * 500, "b"], "500 characters"),
        ([1.5, 1e400], "infinity"),
    ],
)
def test_columns_without_codes_are_refused(tmp_path, fields, values, words):
    document = json.loads((fields / "fields.geojson").read_text())
    for feature, value in zip(document["features"], values, strict=True):
        feature["properties"]["crop"] = value
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"(?s)a\.geojson: crop.*{words}"):
        read_labels(path, GRID)


def test_codes_are_compared_in_one_form(tmp_path, fields):
    document = json.loads((fields / "fields.geojson").read_text())
    names = {}
    for values in ([2.0, 3.5], [2, None], ["a  \n b ", "c"], [True, False], ["NaN", "7"]):
        changed = copy.deepcopy(document)
        for feature, value in zip(changed["features"], values, strict=True):
            feature["properties"]["crop"] = value
        third = {"type": "Feature", "properties": {"crop": "z"}, "geometry": polygon(ring(fields))}
        if isinstance(values[0], str):
            changed["features"].append(third)
        (tmp_path / "a.geojson").write_text(json.dumps(changed))
        try:
            labels = read_labels(tmp_path / "a.geojson", GRID)
        except InputError as error:
            names[str(values)] = error.found
        else:
            names[str(values)] = [entry.name for entry in labels.classes]
    assert names == {
        "[2.0, 3.5]": ["2", "3.5"],
        "[2, None]": "one class only, '2'",
        "['a  \\n b ', 'c']": ["a b", "c", "z"],
        "[True, False]": ["False", "True"],
        "['NaN', '7']": ["7", "NaN", "z"],
    }


# The 180th meridian


@pytest.fixture(scope="module")
def fiji():
    """A grid that the 180th meridian crosses, its parcels in degrees from 0 to 360, and where they lie."""
    crs = "EPSG:32760"
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180, -17)
    grid = GeoBox((100, 100), Affine(10, 0, round(x) - 500, 0, -10, round(y) + 500), crs)
    places = [(column, row) for row in range(0, 100, 17) for column in range(0, 100, 17)]
    left, top = grid.affine.c, grid.affine.f
    boxes = [shapely.box(left + 10 * c, top - 10 * r - 93, left + 10 * c + 93, top - 10 * r) for c, r in places]
    frame = geopandas.GeoDataFrame({"crop": ["ab"[i % 2] for i in range(len(boxes))]}, geometry=boxes, crs=crs)
    expected = np.any([holds(box, grid) for box in boxes], axis=0)
    return grid, frame.to_crs("EPSG:4326"), expected


def turned(frame, first):
    """Longitudes from ``first`` on."""
    shapes = shapely.transform(
        frame.geometry.to_numpy(), lambda xy: np.stack([(xy[:, 0] - first) % 360 + first, xy[:, 1]], 1)
    )
    return frame.set_geometry(geopandas.GeoSeries(shapes, crs="EPSG:4326"))


def cut(frame):
    """Parcels cut at the meridian, as the standard of GeoJSON asks for."""
    halves = []
    for shape in turned(frame, 0).geometry:
        west = shapely.intersection(shape, shapely.box(170, -90, 180, 90))
        east = shapely.transform(shapely.intersection(shape, shapely.box(180, -90, 190, 90)), lambda xy: xy - [360, 0])
        halves.append(shapely.multipolygons([part for part in (west, east) if not part.is_empty]))
    return frame.set_geometry(geopandas.GeoSeries(halves, crs="EPSG:4326"))


@pytest.mark.parametrize(
    "write",
    [
        lambda frame: turned(frame, -180),
        lambda frame: turned(frame, 0),
        lambda frame: turned(frame, -360),
        cut,
        lambda frame: frame.to_crs("EPSG:3832"),
        lambda frame: frame.to_crs("EPSG:3857"),
    ],
    ids=["-180 to 180", "0 to 360", "-360 to 0", "cut", "Pacific", "Mercator"],
)
def test_parcels_across_the_180th_meridian(fiji, tmp_path, write):
    grid, frame, expected = fiji
    write(frame).to_file(tmp_path / "a.gpkg")
    labels = read_labels(tmp_path / "a.gpkg", grid)
    assert labels.account.parcels == len(frame)
    assert labels.account.outside == 0
    assert np.array_equal(labels.label >= 0, expected)


def test_parcels_around_the_pole(tmp_path):
    grid = GeoBox((100, 100), Affine(10, 0, -500, 0, -10, 500), "EPSG:3413")
    boxes = [shapely.box(-400, -400, -100, -100), shapely.box(-50, -50, 300, 300)]
    frame = geopandas.GeoDataFrame({"crop": ["a", "b"]}, geometry=boxes, crs="EPSG:3413")
    frame.geometry = frame.segmentize(20)
    frame.to_crs("EPSG:4326").to_file(tmp_path / "a.gpkg")
    labels = read_labels(tmp_path / "a.gpkg", grid)
    assert np.array_equal(labels.label >= 0, holds(boxes[0], grid) | holds(boxes[1], grid))
