"""Labels on a grid: polygons burned, rasters picked, class tables, and every way to be refused."""

from dataclasses import replace

import geopandas
import numpy as np
import pytest
import shapely
from drawn_parcels import GRID, LEFT, SIDE, TOP, UTM, frame_of, holds, parcels, save, square, write_tif
from rasterio.transform import Affine

from agrifm.chips.classes import ClassTable
from agrifm.chips.labels import read_labels
from agrifm.errors import InputError
from agrifm.tasks.class_table import Row


@pytest.mark.parametrize(("crs", "suffix"), [("EPSG:2154", "shp"), ("EPSG:4326", "geojson"), (UTM, "gpkg")])
def test_pixels_belong_to_the_polygon_their_center_lies_in(tmp_path, crs, suffix):
    rotated = parcels(step=20)
    rotated.geometry = rotated.rotate(27)
    path = save(rotated, tmp_path / f"fields.{suffix}", crs)
    labels = read_labels(path, GRID, class_column="crop")
    back = geopandas.read_file(path).to_crs(UTM)
    names = [entry.name for entry in labels.classes]
    assert names == ["grass", "maize", "wheat"]
    expected = np.full(GRID.shape, -1)
    for crop, shape in zip(back.crop, back.geometry, strict=True):
        expected[holds(shape)] = names.index(crop)
    assert (expected >= 0).sum() > 1000
    assert np.array_equal(labels.label, expected)
    assert np.array_equal(labels.parcel > 0, expected >= 0)
    assert len(np.unique(labels.parcel)) == len(back) + 1


def test_inner_buffer_shrinks_parcels_and_counts_those_it_uses_up(tmp_path):
    large, small = square(10, 10, 20), square(50, 50, 3)
    path = save(frame_of(wheat=[large, small], maize=[square(70, 10)]), tmp_path / "a.gpkg")
    labels = read_labels(path, GRID, buffer=16)
    assert np.array_equal(labels.label == 1, holds(large.buffer(-16)))
    assert labels.account.vanished == 1


def test_ground_under_parcels_of_two_classes_is_ignored_and_counted(tmp_path):
    one, other = square(10, 10, 20), square(20, 20, 20)
    path = save(frame_of(wheat=[one], maize=[other]), tmp_path / "a.gpkg")
    labels = read_labels(path, GRID)
    both = holds(one) & holds(other)
    assert both.any()
    assert (labels.label[both] == -1).all()
    assert np.array_equal(labels.label >= 0, (holds(one) | holds(other)) & ~both)
    assert labels.account.overlap == pytest.approx(both.sum() / 100)


def test_parcels_of_one_class_on_one_another_count_as_one(tmp_path):
    one, other, apart = square(10, 10, 20), square(20, 20, 20), square(60, 60)
    path = save(frame_of(wheat=[one, other, apart], maize=[square(80, 10)]), tmp_path / "a.gpkg")
    labels = read_labels(path, GRID)
    assert labels.account.merged == 1
    assert np.array_equal(labels.label == 1, holds(one) | holds(other) | holds(apart))
    assert len(np.unique(labels.parcel[holds(one) | holds(other)])) == 1
    assert len(np.unique(labels.parcel)) == 4


def test_what_is_left_out_is_counted(tmp_path):
    bow = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    bow = shapely.transform(bow, lambda xy: xy * 100 + (LEFT + 500, TOP - 900))
    frame = frame_of(
        wheat=[square(0, 0), bow, square(300, 300)], maize=[square(20, 0), square(40, 41, 0.2)], hemp=[square(40, 0)]
    )
    frame.loc[len(frame)] = [None, square(60, 0)]
    path = save(frame, tmp_path / "a.gpkg")
    table = ClassTable.of([Row("", "wheat", "wheat"), Row("", "maize", "maize")], "here")
    account = read_labels(path, GRID, table=table).account
    assert (account.parcels, account.outside, account.repaired, account.too_small) == (6, 1, 1, 1)
    assert account.unlisted.keys() == {"hemp"}
    assert account.unlisted["hemp"].parcels == account.empty.parcels == 1
    assert account.unlisted["hemp"].hectares == pytest.approx(0.8649)
    assert account.empty.hectares == pytest.approx(0.8649)
    sentences = account.sentences()
    assert sentences[:3] == [
        "1 feature lies outside the scene",
        "1 invalid polygon was repaired",
        "1 parcel contains no pixel center of its own",
    ]
    assert "1 parcel without a class, 0.86 ha" in sentences
    several = replace(account, outside=2, repaired=1200).sentences()
    assert several[:2] == ["2 features lie outside the scene", "1,200 invalid polygons were repaired"]


# Class tables and rasters

TABLES = {
    "t.csv": "code,name,color\n110,wheat,#e0b83e\n111,wheat,\n7,maize,#00ff00\n",
    "semicolons.csv": "\ufeffcode;name;color\n110;wheat;#e0b83e\n111;wheat;\n7;maize;#00ff00\n",
    "mac.csv": "code,name,color\r110,wheat ,#e0b83e\r111,  wheat,\r7,maize,#00ff00\r",
    "t.yaml": "- {name: wheat, color: '#e0b83e', codes: [110, 111]}\n- {name: maize, color: '#00ff00', codes: 7}\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_class_table_maps_codes_to_names_and_colors(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    table = ClassTable.read(tmp_path / name)
    assert [(entry.name, entry.color) for entry in table.classes] == [("wheat", "#e0b83e"), ("maize", "#00ff00")]
    assert table.codes == {"110": 0, "111": 0, "7": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "number,name\n1,wheat\n", "'code' is missing"),
        ("a.csv", "code,name\n1,wheat\n1,maize\n", "line 3.*code 1 as maize, before as wheat"),
        ("a.csv", "code,name\n1,wheat\n,maize\n", "line 3.*name 'maize'"),
        ("a.csv", "code,name\n1,wheat\n", "one class only, 'wheat'"),
        ("a.csv", "code,name,color\n1,wheat,red\n2,maize,\n", "#rrggbb"),
        ("a.yaml", "- {name: wheat, colour: '#ffffff'}\n", "did you mean 'color'"),
        ("a.yaml", "- [1, wheat]\n", "entry 1"),
        ("a.yaml", "- {name: [\n", "YAML"),
        ("b.yaml", None, "No such file"),
        ("a.yaml", "[" * 100_000, "a class table"),
        ("a.yaml", "- {name: wheat, codes: [yes, 2]}", "truth value.*quotes"),
        ("a.yaml", "- {name: [wheat, maize], codes: 1}", "a list"),
        ("a.yaml", "- {name: wheat, codes: [{a: 1}]}", "a dict"),
        ("a.yaml", "- {name: wheat, codes: " + "9" * 5000 + "}", "5000 characters"),
        ("a.csv", "code,name\n1,wh\x1b[31meat\n2,maize\n", "line 2.*control characters"),
        ("a.csv", "code,name\n1," + "x" * 300 + "\n2,maize\n", "line 2.*300 characters"),
        ("a.csv", 'code,name\n1,"' + "x" * 200_000 + '"\n', "field limit"),
    ],
)
def test_class_tables_that_cannot_be_used_say_why(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"(?s){name}.*{words}"):
        ClassTable.read(tmp_path / name)


@pytest.mark.parametrize("kind", [np.int32, np.float64])
def test_codes_of_a_vector_file_may_be_numbers(tmp_path, kind):
    frame = frame_of(a=[square(0, 0)], b=[square(30, 0)], c=[square(60, 0)])
    frame["crop"] = np.array([110, 7, 9], kind)
    (tmp_path / "t.csv").write_text(TABLES["t.csv"])
    table = ClassTable.read(tmp_path / "t.csv")
    labels = read_labels(save(frame, tmp_path / "a.gpkg"), GRID, table=table)
    assert np.array_equal(labels.label == 0, holds(square(0, 0)))
    assert np.array_equal(labels.label == 1, holds(square(30, 0)))
    assert labels.account.unlisted["9"].parcels == 1


def test_tables_from_spreadsheets_may_be_utf_16(tmp_path):
    (tmp_path / "a.csv").write_text("code;name\n1;blé\n2;maïs\n", encoding="utf-16")
    assert [entry.name for entry in ClassTable.read(tmp_path / "a.csv").classes] == ["blé", "maïs"]
    (tmp_path / "a.csv").write_text("code;name\n1;blé\n2;maïs\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"(?s)a\.csv.*CSV UTF-8"):
        ClassTable.read(tmp_path / "a.csv")
    with pytest.raises(InputError, match="null"):
        ClassTable.read("/dev/null")


def test_a_column_without_a_name_is_ignored(tmp_path):
    (tmp_path / "a.csv").write_text("code,name,\n110,wheat,seen in 2019\n7,maize,\n")
    assert [entry.parent for entry in ClassTable.read(tmp_path / "a.csv").classes] == [None, None]


def test_label_raster_is_picked_at_pixel_centers(tmp_path):
    coarse = np.random.default_rng(1).integers(0, 4, (35, 35)).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", coarse, transform=Affine(30, 0, LEFT, 0, -30, TOP))
    table = ClassTable.of([Row("", "1", "wheat"), Row("", "3", "maize")], "here")
    labels = read_labels(path, GRID, table=table)
    fine = coarse.repeat(3, 0).repeat(3, 1)[:SIDE, :SIDE]
    assert np.array_equal(labels.label, np.select([fine == 1, fine == 3], [0, 1], -1))
    assert labels.account.unlisted["2"].hectares == pytest.approx((fine == 2).sum() / 100)
    assert set(labels.account.unlisted) == {"0", "2"}
    assert not labels.parcel.any()


# Refusals


def test_labels_that_cannot_be_used_say_why(tmp_path):
    def refused(words, path, **options):
        with pytest.raises(InputError, match=f"(?s){words}") as caught:
            read_labels(path, GRID, **options)
        assert str(path) in caught.value.where
        assert caught.value.repair

    good = frame_of(wheat=[square(0, 0)], maize=[square(30, 0)])
    path = save(good.assign(year=2020), tmp_path / "a.gpkg")
    refused("did you mean 'crop'", path, class_column="crops")
    refused("crop, year.*--class-column", path)
    refused("no pixel of the scene gets a class.*buffer", path, class_column="crop", buffer=60)
    table = ClassTable.of([Row("", "1", "wheat"), Row("", "2", "maize")], "table.csv")
    refused("maize, wheat.*codes of table.csv: 1, 2", path, class_column="crop", table=table)
    refused("no such file", tmp_path / "none.gpkg")
    refused("layers a, none called 'b'", path, layer="b")
    far = good.set_geometry(good.translate(5000, 0))
    refused("no overlap.*505002.*500000", save(far, tmp_path / "far.gpkg"))
    antipodes = geopandas.GeoDataFrame({"crop": ["a"]}, geometry=[shapely.box(150, -30, 151, -29)], crs="EPSG:4326")
    refused("no overlap", save(antipodes, tmp_path / "b.gpkg", "EPSG:4326"))
    good.set_crs(None, allow_override=True).to_file(tmp_path / "bare.shp")
    refused("no CRS.*ogr2ogr", tmp_path / "bare.shp")
    refused("one class only, 'wheat'", save(frame_of(wheat=[square(0, 0)]), tmp_path / "one.gpkg"))
    lines = good.set_geometry(good.boundary)
    refused(r"2 lines in the scene.*polygons or points", save(lines, tmp_path / "lines.gpkg"))
    (tmp_path / "text.gpkg").write_text("nothing")
    refused("neither", tmp_path / "text.gpkg")


def test_label_rasters_that_cannot_be_used_say_why(tmp_path):
    def refused(words, path, **options):
        with pytest.raises(InputError, match=f"(?s){words}"):
            read_labels(path, GRID, **options)

    values = np.random.default_rng(1).integers(1, 4, (SIDE, SIDE)).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", values)
    refused("raster of labels.*--class-column", path, class_column="crop")
    refused("raster of labels.*--buffer", path, buffer=10)
    refused("fractions", write_tif(tmp_path / "b.tif", values / 2))
    refused("2 bands", write_tif(tmp_path / "c.tif", np.stack([values, values])))
    shifted = Affine(10, 0, LEFT + 5000, 0, -10, TOP)
    refused("no overlap", write_tif(tmp_path / "d.tif", values, transform=shifted))
