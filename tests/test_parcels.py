"""From layers to polygons: shared borders, blocks, small fields, files in the fiboa schema, and the commands."""

import json
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import h5py
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from conftest import FARM, FEW_PIXELS, TINY
from drawn_parcels import GRID, LEFT, TOP, frame_of, holds, save, square, write_tif
from pyproj import CRS
from test_cli import agrifm, runner
from test_fields import layers_of, random_fields
from test_scene_chips import scene  # noqa: F401

from agrifm.chips.writer import ChipPlan, write_chips
from agrifm.cli import app
from agrifm.config import load, parse
from agrifm.data.chips import read_chip
from agrifm.errors import InputError
from agrifm.maps.files.legend import Legend
from agrifm.products import fiboa
from agrifm.products.field_shapes import find_fields, join_small, outlines
from agrifm.products.parcels import ParcelRule, parcels_of
from agrifm.sensors import S2
from agrifm.synthetic.scenes import write_scene
from agrifm.tasks.watershed import Watershed

FIELDS = Path(__file__).parents[1] / "configs/fields.yaml"


def noisy_layers(seed, size=90):
    """Layers of an uncertain model."""
    rng = np.random.default_rng(seed)
    fields = random_fields(seed, size, 14)
    fields[fields < 0] = 0
    layers = layers_of(fields, 3).astype(float) * 0.6 + rng.uniform(0, 45, (3, size, size))
    layers[:, :7, :11] = 255
    return layers.astype(np.uint8)


def refused(*arguments):
    error = runner.invoke(app, [str(argument) for argument in arguments]).exception
    assert isinstance(error, InputError)
    return str(error)


# Fields over blocks


@pytest.mark.parametrize("reach", [3, 60])
def test_the_size_of_a_block_changes_nothing(tmp_path, reach):
    layers, rule = noisy_layers(0), Watershed(boundary=40, waist=0.8, reach=reach)
    path = write_tif(tmp_path / "layers.tif", layers)
    whole = rule.find(layers)
    assert len(np.unique(whole)) > 30
    for block in (7, 16, 33, 1024):
        assert np.array_equal(find_fields(path, rule, block), whole)


def test_small_fields_join_whom_they_share_most_of_their_outline_with_or_go():
    fields = np.zeros((12, 20), np.int32)
    fields[1:11, 1:9], fields[1:11, 9:17] = 4, 7
    fields[3, 3] = 8  # inside field 4
    fields[5, 9] = 9  # three sides on field 7, one on field 4
    fields[11, 3] = 10  # one of three sides on field 4; the edge of the map is none
    fields[1, 18] = 11  # touches nothing
    after, joined, dropped = join_small(fields, 2)
    expected = np.where(np.isin(fields, (4, 8)), 1, np.where(np.isin(fields, (7, 9)), 2, 0))
    assert np.array_equal(after, expected)
    assert (joined, dropped) == (2, 2)
    assert np.array_equal(join_small(fields, 0)[0] > 0, fields > 0)


@pytest.mark.parametrize("tolerance", [0.0, 10.0, 25.0])
def test_polygons_share_borders_without_gaps_and_overlaps(tolerance):
    fields = join_small(Watershed(boundary=40, waist=0.8).find(noisy_layers(3)), 5)[0]
    polygons = outlines(fields, GRID.affine, tolerance)
    assert len(polygons) == fields.max() > 10
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    together = shapely.union_all(polygons)
    assert together.area == pytest.approx(shapely.area(polygons).sum())
    exact = outlines(fields, GRID.affine, 0.0)
    moved = shapely.hausdorff_distance(together.boundary, shapely.union_all(exact).boundary)
    assert moved <= 2 * tolerance + 1e-6
    if not tolerance:
        assert together.area == 100 * np.count_nonzero(fields)
    else:
        assert shapely.get_num_coordinates(polygons).sum() < 0.8 * shapely.get_num_coordinates(exact).sum()


def test_neighbors_stay_neighbors_and_holes_stay():
    fields = np.zeros((40, 60), np.int32)
    fields[5:35, 5:30], fields[5:35, 30:55], fields[15:25, 10:20] = 1, 2, 0
    one, two = outlines(fields, GRID.affine, 15.0)
    assert one.intersection(two).length == pytest.approx(300)
    assert len(one.interiors) == 1
    assert one.area == pytest.approx(100 * (30 * 25 - 100))


# A finished map


@pytest.fixture(scope="module")
def model(farm, tmp_path_factory):
    """A checkpoint from the shipped configuration, one epoch of a tiny model."""
    folder = tmp_path_factory.mktemp("fields")
    values = yaml.safe_load(FIELDS.read_text())
    values["data"]["root"], values["model"], values["augment"]["crop"] = str(farm), {"size": TINY}, 24
    values["training"] |= {"epochs": 1, "batch_size": 4, "accelerator": "cpu"}
    values["pixels"] = FEW_PIXELS
    (folder / "fields.yaml").write_text(yaml.safe_dump(values))
    agrifm("train", folder / "fields.yaml", "--out", folder / "run")
    return folder / "run" / "best.safetensors"


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("land") / "scene", FARM, rows=range(2), columns=range(2), sensors=(S2,))


@pytest.fixture(scope="module")
def made(model, land, tmp_path_factory):
    """A map and its polygons from one command."""
    target = tmp_path_factory.mktemp("map") / "map.tif"
    said = agrifm("map", model, land, target, "--parcels", target.with_suffix(".parquet"), "--seam-limit", 99)
    assert "fields," in said
    return target


@pytest.fixture
def drawn(made, tmp_path):
    """The same map with layers drawn by hand: two fields, the first mostly maize."""
    for path in made.parent.glob("map*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    fields, target = np.zeros((96, 96), int), tmp_path / "map.tif"
    fields[10:50, 10:40], fields[10:50, 40:80] = 1, 2
    crop = np.where(np.arange(96) < 17, 1, 2) * np.ones((96, 1), int)
    crop[:, 40:] = 3
    chances = np.full((6, 96, 96), 4)
    np.put_along_axis(chances, crop[None], 80, 0)
    for name, values in (("map_fields", layers_of(fields)), ("map", crop[None]), ("map_probabilities", chances)):
        _overwrite(tmp_path / f"{name}.tif", values)
    _overwrite(tmp_path / "map_observations.tif", np.where(crop == 3, 4, 6)[None].repeat(2, 0))
    return target


def _overwrite(path, values):
    with rasterio.open(path) as file:
        profile, tags = file.profile | {"driver": "GTiff", "dtype": "uint8"}, file.tags(1)
    profile["count"] = len(values)
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.astype(np.uint8))
        file.update_tags(1, **tags)


def test_each_polygon_carries_what_grows_there(drawn):
    found = parcels_of(drawn)
    columns = found.columns
    assert columns["area_ha"] == pytest.approx([12, 16])
    assert columns["crop"].tolist() == ["maize", "rapeseed"]
    assert columns["crop_share"] == pytest.approx([23 / 30, 1])
    assert columns["crop_probability"] == pytest.approx([(23 * 0.8 + 7 * 0.04) / 30, 0.8])
    assert columns["second_crop"].tolist() == ["winter wheat", None]
    assert columns["second_share"] == pytest.approx([7 / 30, np.nan], nan_ok=True)
    assert columns["clear_observations"] == pytest.approx([12, 8])
    assert str(found) == "2 fields, 28.0 ha; 0 small ones merged into a neighbor, 0 dropped"
    assert len(parcels_of(drawn, ParcelRule(min_area=13)).polygons) == 1


def test_crops_of_another_map_and_grids_that_differ(drawn, tmp_path):
    other = tmp_path / "other.tif"
    for name in ("", "_probabilities"):
        (tmp_path / f"other{name}.tif").write_bytes((tmp_path / f"map{name}.tif").read_bytes())
    _overwrite(other, np.full((1, 96, 96), 5))
    (tmp_path / "other_probabilities.tif").unlink()
    found = parcels_of(drawn, crops=other).columns
    assert found["crop"].tolist() == ["grassland"] * 2
    assert "crop_probability" not in found
    with rasterio.open(other) as file:
        profile, values = file.profile, file.read()
    with rasterio.open(other, "w", **(profile | {"width": 95})) as file:
        file.write(values[:, :, :95])
    with pytest.raises(InputError, match=r"(?s)96 x 95 .*map both from the same scene"):
        parcels_of(drawn, crops=other)


def _rewrite(path, values, dtype="uint8", crs="same", tags=None):
    with rasterio.open(path) as file:
        profile, before = file.profile | {"driver": "GTiff", "dtype": dtype, "nodata": None}, file.tags(1)
    profile |= {"count": len(values)} | ({} if crs == "same" else {"crs": crs})
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.astype(dtype))
        file.update_tags(1, **(before if tags is None else tags))


@pytest.mark.parametrize(
    ("name", "values", "more", "said"),
    [
        ("map_fields", np.ones((2, 96, 96)), {}, r"2 bands of uint8"),
        ("map_fields", np.ones((3, 96, 96)), {"dtype": "float32"}, r"3 bands of float32"),
        ("map_fields", np.ones((3, 96, 96)), {"crs": None}, "a map in None"),
        ("map_fields", np.ones((3, 96, 96)), {"crs": "EPSG:4326"}, "a CRS in meters"),
        ("map", np.full((1, 96, 96), -1), {"dtype": "int16"}, r"1 band of int16"),
        ("map", np.full((1, 96, 96), 77), {}, "pixels of class 77"),
        ("map", np.ones((1, 96, 96)), {"crs": "EPSG:32632"}, "the grid of map_fields.tif"),
        ("map", np.ones((1, 96, 96)), {"tags": {}}, "no class names"),
        ("map", np.ones((1, 96, 96)), {"tags": {"class_0": "a", "class_2": "b"}}, "classes 0, 2"),
        ("map_probabilities", np.ones((2, 96, 96)), {}, "one band for each of the 6 classes"),
    ],
)
def test_rasters_of_another_kind_are_refused_by_name(name, values, more, said, drawn):
    path = drawn.with_name(f"{name}.tif")
    _rewrite(path, values, **more)
    with pytest.raises(InputError, match=said) as caught:
        parcels_of(drawn)
    assert path.name in caught.value.where


@pytest.mark.parametrize("name", ["map_fields.tif", "map.tif", "map_observations.tif", "map.passport.json"])
def test_files_that_do_not_open_are_refused_by_name(name, drawn):
    drawn.with_name(name).write_bytes(b"II*\0 no more")
    with pytest.raises(InputError, match=name):
        parcels_of(drawn)


def test_a_map_without_fields_is_refused(drawn):
    drawn.with_name("map_fields.tif").unlink()
    with pytest.raises(InputError, match="checkpoint of task 'fields'"):
        parcels_of(drawn)


@pytest.mark.parametrize("ending", ["gpkg", "parquet"])
def test_files_follow_the_fiboa_schema(drawn, tmp_path, ending):
    path = tmp_path / f"made.{ending}"
    agrifm("parcels", drawn, path, "--tolerance", 0, "--min-area", 0)
    frame = geopandas.read_file(path) if ending == "gpkg" else geopandas.read_parquet(path)
    assert frame.crs.to_epsg() == 32631
    assert frame["id"].tolist() == ["1", "2"]
    assert frame["metrics:area"].tolist() == [120_000, 160_000]
    assert frame["metrics:perimeter"].tolist() == [1400, 1600]
    assert frame["determination:method"].tolist() == ["auto-imagery"] * 2
    assert str(frame["determination:datetime"].dtype) == "datetime64[ms, UTC]"
    assert frame["determination:datetime"].dt.date.nunique() == 1
    assert frame["crop"].tolist() == ["maize", "rapeseed"]
    assert not list(tmp_path.glob("*.part*"))
    assert "an existing file" in refused("parcels", drawn, path)


def test_qgis_layers_lay_the_fields_over_their_map(made, tmp_path):
    for source in made.parent.glob("map*.*"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    folder = tmp_path / "fields"
    folder.mkdir()
    path = folder / "made.gpkg"
    agrifm("parcels", tmp_path / "map.tif", path)
    root = ElementTree.parse(folder / "made.gpkg.qlr").getroot()
    layers = list(root.iter("maplayer"))
    assert [layer.findtext("layername") for layer in layers] == ["fields", "classes"]
    assert [layer.findtext("datasource") for layer in layers] == ["./made.gpkg", "../map.tif"]
    assert [layer.findtext("provider") for layer in layers] == ["ogr", "gdal"]
    assert {layer.findtext("srs/spatialrefsys/wkt") for layer in layers} == {CRS.from_epsg(32631).to_wkt()}
    assert layers[0].find("renderer-v2//Option[@name='style']").get("value") == "no"
    assert [entry.get("label") for entry in layers[1].iter("paletteEntry")] == list(Legend.read(made).names)


def test_geoparquet_has_the_types_and_the_metadata_of_the_specification(made):
    """Vecorel 0.1.0 and fiboa 0.3.0: types, which columns may be null, and the collection in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(made.with_suffix(".parquet"))
    assert schema.field("id").type == schema.field("determination:method").type == pa.string()
    assert schema.field("metrics:area").type == schema.field("metrics:perimeter").type == pa.float32()
    assert schema.field("determination:datetime").type == pa.timestamp("ms", "UTC")
    assert [field.name for field in schema if not field.nullable] == ["id", "geometry"]
    collection = json.loads(schema.metadata[b"collection"])
    assert collection == {"collection": "map", "schemas": {"map": list(fiboa.SCHEMAS)}}
    assert json.loads(schema.metadata[b"geo"])["columns"]["geometry"]["encoding"] == "WKB"


def test_geoparquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("agrifm.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'agrifm\[parquet\]'"):
        fiboa.check_target(tmp_path / "fields.parquet")
    fiboa.check_target(tmp_path / "fields.gpkg")
    with pytest.raises(InputError, match=r"ends in \.gpkg or \.parquet"):
        fiboa.check_target(tmp_path / "fields.shp")


def test_one_model_gives_scores_maps_and_parcels(model, made, farm, tmp_path):
    said = agrifm("evaluate", model, "--out", tmp_path / "scores")
    assert "boundary_F1" in said
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert 0 <= scores["summary"]["extent_IoU"] <= 1
    assert (tmp_path / "scores" / "confusion.png").is_file()
    with rasterio.open(made) as file:
        assert file.tags(1)["class_2"] == "maize"
    with rasterio.open(made.with_name("map_fields.tif")) as file:
        assert file.descriptions == ("extent", "boundary", "distance")
        assert file.scales == (0.01,) * 3
        assert (file.read() <= 100).all()
    (tmp_path / "chips").mkdir()
    for path in sorted((farm / "h5_samples").glob("*.h5"))[:2]:
        (tmp_path / "chips" / path.name).symlink_to(path)
    agrifm("predict", model, tmp_path / "chips", tmp_path / "maps")
    with rasterio.open(next((tmp_path / "maps").glob("*.tif"))) as file:
        assert file.read(1).max() < 6
    assert "no problems found" in agrifm("data", "check", model.parents[1] / "fields.yaml")


def test_parcels_need_a_model_of_fields(settings, tmp_path, land):
    from conftest import unit

    from agrifm.checkpoint import Checkpoint, build
    from agrifm.sensors import LANDSAT

    experiment = parse(settings).with_sensors([unit(S2), unit(LANDSAT)])
    Checkpoint(experiment, build(experiment).state_dict()).save(tmp_path / "crops.safetensors")
    said = refused("map", tmp_path / "crops.safetensors", land, tmp_path / "m.tif", "--parcels", tmp_path / "f.gpkg")
    assert "task 'segmentation'" in said
    assert "--crops" in said


# Labels


def test_a_label_for_fields_alone_and_two_for_crops_as_well(settings):
    settings["task"] = {"kind": "fields"}
    settings["data"]["label_key"] = "instances"
    assert parse(settings).task.names == ("no field", "field")
    settings["data"]["label_key"] = ["instances", "label"]
    with pytest.raises(InputError, match=r"task 'fields' learns from one dataset"):
        parse(settings)
    settings["task"]["classes"] = ["other", "wheat"]
    assert parse(settings).task.outputs == 5
    settings["data"]["label_key"] = "label"
    with pytest.raises(InputError, match=r"with classes learns from two datasets, e\.g\. \[instances, label\]"):
        parse(settings)


def test_labels_are_stacked_and_must_lie_on_one_grid(farm, tmp_path):
    path = sorted((farm / "h5_samples").glob("*.h5"))[0]
    both = read_chip(path, [S2], label_key=("instances", "label")).label
    assert both.shape == (2, 48, 48)
    assert both[0].max() > 1
    assert both[1].max() <= 5
    copy = tmp_path / "chip.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "a") as file:
        del file["instances"]
        file["instances"] = np.zeros((24, 24), np.int32)
    with pytest.raises(InputError, match="labels on one grid"):
        read_chip(copy, [S2], label_key=("instances", "label"))


def test_chips_of_a_scene_carry_fields_and_do_not_know_what_two_parcels_claim(scene, tmp_path):  # noqa: F811
    shapes = {"wheat": [], "maize": []}
    for i, (column, row) in enumerate((c, r) for c in range(0, 100, 20) for r in range(0, 100, 20)):
        shapes[("wheat", "maize")[i % 2]].append(square(column, row, 18.3))
    crossed = shapely.box(LEFT + 3, TOP - 60, LEFT + 57, TOP - 10)  # self-crossing neighbors are test_labels' matter
    frame = frame_of(**shapes, grass=[crossed])
    report = write_chips(scene, save(frame, tmp_path / "p.gpkg"), tmp_path / "chips", ChipPlan("crop", size=20))
    assert report.account.overlap > 0
    experiment = load(tmp_path / "chips/crops.yaml", ["task.kind=fields", "data.label_key=[instances, label]"])
    assert experiment.task.outputs == 3 + 3
    seen = 0
    for path in sorted((tmp_path / "chips/h5_samples").glob("*.h5")):
        with h5py.File(path) as file:
            fields, label = file["instances"][()], file["label"][()]
            left, top = file.attrs["transform"][2], file.attrs["transform"][5]
        assert ((fields > 0) == (label >= 0)).all()
        if (left, top) == (LEFT, TOP):
            both = holds(shapes["wheat"][0]) & holds(crossed)
            assert (fields[both[:20, :20]] == -1).all()
        seen += len(np.unique(fields[fields > 0]))
    assert seen == 25  # every square is a field; of the one that lies on others no pixel is left
