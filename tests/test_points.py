"""Points as labels: tables and vector files, what a point labels, what is counted, and what is refused."""

import json
import re
from itertools import combinations
from pathlib import Path

import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from conftest import FEW_PIXELS, TINY
from drawn_parcels import GRID, LEFT, SIDE, TOP, UTM, save, scene_by_hand, square
from rich.console import Console
from typer.testing import CliRunner

import agrifm
from agrifm.chips.classes import ClassTable
from agrifm.chips.labels import read_labels
from agrifm.chips.plan import ChipPlan
from agrifm.chips.unseen import without_unseen
from agrifm.chips.writer import write_chips
from agrifm.cli import app
from agrifm.config import load
from agrifm.errors import InputError
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.training.fit import fit
from agrifm.vectors.points import located

CROPS = ("grass", "maize", "wheat")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return scene_by_hand(tmp_path_factory.mktemp("scene"))


def place(row, column, down=0.3, across=0.6):
    """A point in a pixel, not at its center."""
    return shapely.Point(LEFT + 10 * (column + across), TOP - 10 * (row + down))


def points_at(pixels, crops, **more):
    return geopandas.GeoDataFrame({"crop": crops, **more}, geometry=[place(*pixel) for pixel in pixels], crs=UTM)


def scattered(step=7):
    """A point in every seventh row and column, with alternating crops."""
    pixels = [(row, column) for row in range(3, SIDE, step) for column in range(3, SIDE, step)]
    return points_at(pixels, [CROPS[(i + i // 10) % 3] for i in range(len(pixels))])


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return save(scattered(), tmp_path_factory.mktemp("points") / "points.gpkg")


def degrees(frame):
    """The points as a table of longitudes and latitudes."""
    moved = frame.to_crs("EPSG:4326")
    return pd.DataFrame({"lon": moved.geometry.x, "lat": moved.geometry.y, "crop": frame["crop"]})


def labeled(labels):
    """Class by pixel of all labeled pixels."""
    names = [entry.name for entry in labels.classes]
    found = {}
    for row, column in np.argwhere(labels.label >= 0).tolist():
        found[row, column] = names[labels.label[row, column]]
    return found


FEW = {(10, 10): "wheat", (40, 12): "maize", (70, 80): "wheat"}


def few():
    return points_at(list(FEW), list(FEW.values()))


# Files and tables


def write_csv(path, table, **options):
    table.to_csv(path, index=False, **options)


def decimal_commas(path):
    table = degrees(few())
    for name in ("lon", "lat"):
        table[name] = [f"{value:.8f}".replace(".", ",") for value in table[name]]
    write_csv(path, table, sep=";")


def lucas(path):
    """West of Greenwich as early years of LUCAS state it; the scene lies east, so that the mark says so."""
    table = degrees(few()).rename(columns={"lon": "TH_LONG", "lat": "TH_LAT"})
    write_csv(path, table.assign(TH_EW=1))


def with_crs_column(path):
    moved = few().to_crs("EPSG:2154")
    table = pd.DataFrame({"x": moved.geometry.x, "y": moved.geometry.y, "epsg": 2154, "crop": moved["crop"]})
    lambert, other = table[:2], few()[2:]
    more = pd.DataFrame({"x": other.geometry.x, "y": other.geometry.y, "epsg": 32631, "crop": other["crop"]})
    write_csv(path, pd.concat([lambert, more]))


WRITERS = {
    "a.csv": lambda path: write_csv(path, degrees(few())),
    "semicolons.csv": decimal_commas,
    "tabs.tsv": lambda path: write_csv(path, degrees(few()), sep="\t"),
    "capitals.csv": lambda path: write_csv(
        path, degrees(few()).rename(columns={"lon": "Longitude", "lat": "LATITUDE"})
    ),
    "lucas.csv": lucas,
    "several_crs.csv": with_crs_column,
    "a.gpkg": lambda path: save(few(), path, "EPSG:2154"),
    "a.geojson": lambda path: save(few(), path, "EPSG:4326"),
    "a.shp": lambda path: save(few(), path),
    "multi.gpkg": lambda path: save(few().dissolve("crop").reset_index(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_point_labels_the_pixel_it_lies_in(name, tmp_path):
    WRITERS[name](tmp_path / name)
    labels = read_labels(tmp_path / name, GRID, class_column="crop")
    assert labeled(labels) == FEW
    assert labels.account.points == 3
    assert labels.account.outside == labels.account.no_place == 0


@pytest.mark.parametrize("geo", [False, True])
def test_parquet_is_read_where_pyarrow_is(geo, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    table = few().to_crs("EPSG:4326") if geo else degrees(few())
    table.to_parquet(tmp_path / "a.parquet")
    assert labeled(read_labels(tmp_path / "a.parquet", GRID, class_column="crop")) == FEW
    monkeypatch.setattr("agrifm.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"(?s)no pyarrow.*agrifm\[parquet\].*CSV"):
        read_labels(tmp_path / "a.parquet", GRID)


def test_a_crs_may_be_given_where_none_is_stated(tmp_path):
    moved = few().to_crs("EPSG:2154")
    write_csv(tmp_path / "a.csv", pd.DataFrame({"x": moved.geometry.x, "y": moved.geometry.y, "crop": moved["crop"]}))
    assert labeled(read_labels(tmp_path / "a.csv", GRID, crs="EPSG:2154")) == FEW
    few().set_crs(None, allow_override=True).to_file(tmp_path / "a.shp")
    assert labeled(read_labels(tmp_path / "a.shp", GRID, crs=UTM)) == FEW


def test_western_longitudes_of_lucas_are_negative():
    table = pd.DataFrame({"GPS_LONG": [5.5, -6.5, 7.5], "GPS_LAT": [40.0, 41.0, 42.0], "GPS_EW": [2, 2, 1]})
    assert located(table, "table").geometry.x.tolist() == [-5.5, -6.5, 7.5]


# What a point labels


def test_a_radius_labels_the_pixels_whose_centers_lie_in_it(tmp_path):
    path = save(points_at([(10, 10), (60, 50), (99, 0)], ["wheat", "maize", "maize"]), tmp_path / "a.gpkg")
    label = read_labels(path, GRID, radius=33).label
    rows, columns = np.indices(GRID.shape)
    for number, pixels in ((1, [(10, 10)]), (0, [(60, 50), (99, 0)])):
        expected = np.zeros(GRID.shape, bool)
        for row, column in pixels:
            point = place(row, column)
            x, y = LEFT + 10 * (columns + 0.5), TOP - 10 * (rows + 0.5)
            expected |= np.hypot(x - point.x, y - point.y) <= 33
        assert expected.sum() > 30
        assert np.array_equal(label == number, expected)


def test_points_and_polygons_may_be_mixed(tmp_path):
    field = square(50, 50)
    frame = few()
    inside = points_at([(54, 54), (54, 57)], ["wheat", "maize"])
    polygon = geopandas.GeoDataFrame({"crop": ["wheat"]}, geometry=[field], crs=UTM)
    path = save(pd.concat([frame, inside, polygon]), tmp_path / "a.gpkg")
    labels = read_labels(path, GRID)
    found = labeled(labels)
    assert found.items() >= FEW.items()
    assert found[54, 54] == "wheat"
    assert (54, 57) not in found
    # The point of the same class belongs to the parcel, the one of another class is disputed.
    assert labels.parcel[54, 54] == labels.parcel[55, 55]
    assert labels.account.same_pixel == 1
    assert labels.account.disputed == {"maize and wheat": [5]}
    assert (labels.account.parcels, labels.account.points) == (1, 5)
    assert labels.counts() == [1, 3]


def test_points_in_one_pixel_count_once_or_are_disputed(tmp_path):
    pixels = [(10, 10), (10, 10, 0.8, 0.1), (40, 40), (40, 40, 0.7, 0.2), (70, 70), (20, 70)]
    frame = points_at(pixels, ["wheat", "wheat", "wheat", "maize", "maize", "wheat"])
    labels = read_labels(save(frame, tmp_path / "a.gpkg"), GRID)
    assert labeled(labels) == {(10, 10): "wheat", (70, 70): "maize", (20, 70): "wheat"}
    assert labels.account.same_pixel == 1
    assert labels.account.disputed == {"maize and wheat": [3, 4]}
    assert "2 points lie in a pixel with labels of other classes" in str(labels.account)
    assert "maize and wheat (features 3, 4)" in str(labels.account)


def test_pixels_in_reach_of_two_classes_stay_unlabeled(tmp_path):
    frame = points_at([(10, 10), (10, 14), (60, 60)], ["wheat", "maize", "maize"])
    path = save(frame, tmp_path / "a.gpkg")
    alone = read_labels(path, GRID, radius=10).label
    near = read_labels(path, GRID, radius=30)
    assert (alone[10, 10], alone[10, 14]) == (1, 0)
    assert near.label[10, 12] == -1
    assert (near.label[10, 8], near.label[10, 16]) == (1, 0)
    assert near.account.overlap > 0
    assert not near.account.disputed


def test_points_without_a_place_are_counted(tmp_path):
    table = degrees(few())
    table.loc[3] = [np.nan, 43.3, "wheat"]
    table.loc[4] = [3.001, np.nan, "maize"]
    table.loc[5] = [30.0, 43.3, "maize"]
    write_csv(tmp_path / "a.csv", table)
    frame = few()
    frame.loc[3] = ["wheat", None]
    frame.loc[4] = ["wheat", shapely.Point()]
    frame.loc[5] = ["maize", shapely.Point(LEFT - 1, TOP - 1)]
    for path in (tmp_path / "a.csv", save(frame, tmp_path / "a.gpkg"), save(frame, tmp_path / "a.geojson")):
        labels = read_labels(path, GRID)
        assert labeled(labels) == FEW
        assert (labels.account.no_place, labels.account.outside) == (2, 1)
        assert "2 points have no coordinates" in str(labels.account)


# Chips


@pytest.fixture(scope="module")
def written(scene, points, tmp_path_factory):
    out = tmp_path_factory.mktemp("chips") / "out"
    return out, write_chips(scene, points, out, ChipPlan(size=16, distance=45, radius=12, seed=1))


def labels_of(out):
    """Of each split: rows, columns and classes of its labeled pixels."""
    found = {}
    for split in ("train", "val", "test"):
        parts = [np.empty((0, 3), int)]
        for name in (out / "data_lists" / f"{split}.txt").read_text().split():
            with h5py.File(out / "h5_samples" / f"{name}.h5") as file:
                label, transform = file["label"][()], file.attrs["transform"]
                assert "instances" not in file
            rows, columns = np.nonzero(label >= 0)
            assert len(rows)
            corner = round((TOP - transform[5]) / 10), round((transform[2] - LEFT) / 10)
            parts.append(np.stack([rows + corner[0], columns + corner[1], label[rows, columns]], 1))
        found[split] = np.concatenate(parts)
    return found


def test_labels_of_splits_keep_their_distance_and_only_labeled_chips_are_written(written, points):
    out, report = written
    found = labels_of(out)
    label = read_labels(points, GRID, radius=12).label
    for one, other in combinations(found.values(), 2):
        gaps = np.linalg.norm(one[:, None, :2] - other[None, :, :2], axis=-1)
        assert gaps.min() * 10 >= 45
    for pixels in found.values():
        assert np.array_equal(label[pixels[:, 0], pixels[:, 1]], pixels[:, 2])
    assert report.leaks.none
    assert sum(map(len, found.values())) > 300


def test_the_report_counts_pixels_and_the_picture_is_written(written):
    out, report = written
    text = (out / "report.md").read_text()
    assert "| class | train (pixels) |" in text
    assert "no leak: 0 points" in text
    assert "points lie where no image ever shows the ground" in text
    assert json.loads((out / "report.json").read_text())["account"]["no_data"] == 12
    assert (out / "split.png").stat().st_size > 0
    assert report.plan["size"] == 16


def test_points_are_no_fields(scene, tmp_path):
    """Chips of points and polygons have numbers of fields; around points no outline is known."""
    frame = scattered(14)
    frame.loc[::2, "geometry"] = frame.geometry[::2].buffer(25)
    path = save(frame, tmp_path / "a.gpkg")
    label = read_labels(path, GRID)
    write_chips(scene, path, tmp_path / "out", ChipPlan(size=16))
    seen = 0
    for chip in sorted((tmp_path / "out/h5_samples").glob("*.h5")):
        with h5py.File(chip) as file:
            instances, transform = file["instances"][()], file.attrs["transform"]
            rows, columns = np.nonzero(file["label"][()] >= 0)
        corner = round((TOP - transform[5]) / 10), round((transform[2] - LEFT) / 10)
        is_point = label.parcel[rows + corner[0], columns + corner[1]] > label.outlined
        assert (instances[rows, columns][is_point] == -1).all()
        assert (instances[rows, columns][~is_point] > 0).all()
        seen += is_point.sum()
    assert seen > 10


@pytest.mark.parametrize(("kind", "side"), [("points", 24), ("polygons", 96)])
def test_chips_of_points_are_smaller_by_default(kind, side, points, tmp_path):
    if kind == "polygons":
        points = save(scattered().set_geometry(scattered().buffer(20)), tmp_path / "a.gpkg")
    assert ChipPlan().side(read_labels(points, GRID)) == side
    assert ChipPlan(size=40).side(read_labels(points, GRID)) == 40


@pytest.mark.parametrize("buffered", [False, True])
def test_groups_stay_in_one_split(buffered, scene, tmp_path):
    frame = scattered()
    villages = []
    for geometry in frame.geometry:
        villages.append(f"v{int((geometry.x - LEFT) // 340)}{int((TOP - geometry.y) // 340)}")
    frame["village"] = villages
    if buffered:
        frame.geometry = frame.buffer(22)
    path = save(frame, tmp_path / "a.gpkg")
    plan = ChipPlan(size=12, class_column="crop", group_column="village")
    report = agrifm.make_chips(scene, path, tmp_path / "out", plan)
    split_of = {}
    for split in ("train", "val", "test"):
        for name in (tmp_path / "out/data_lists" / f"{split}.txt").read_text().split():
            with h5py.File(tmp_path / "out/h5_samples" / f"{name}.h5") as file:
                label, transform = file["label"][()], file.attrs["transform"]
            for row, column in np.argwhere(label >= 0):
                spot = shapely.Point(transform[2] + 10 * (column + 0.5), transform[5] - 10 * (row + 0.5))
                village = frame.village[frame.distance(spot).idxmin()]
                split_of.setdefault(village, set()).add(split)
    assert len(split_of) > 4
    assert all(len(splits) == 1 for splits in split_of.values())
    assert {split for splits in split_of.values() for split in splits} == {"train", "val", "test"}
    assert report.leaks.none
    assert "groups" in report.check()


def test_labels_without_a_group_are_counted(tmp_path):
    frame = few().assign(farm=["a", None, "a"])
    labels = read_labels(save(frame, tmp_path / "a.gpkg"), GRID, class_column="crop", group_column="farm")
    assert labels.account.no_group == 1
    assert labels.group[10, 10] == labels.group[70, 80] != labels.group[40, 12]


def test_the_written_experiment_trains(written, tmp_path):
    out, _ = written
    tiny = [f"model.size.{key}={json.dumps(value)}" for key, value in TINY.items()]
    settings = ["training.epochs=1", "training.accelerator=cpu", "training.batch_size=8", "data.check_bands=false"]
    settings.append(f"pixels={json.dumps(FEW_PIXELS)}")
    experiment = load(out / "crops.yaml", ["model.size={}", *tiny, *settings])
    assert experiment.task.names == CROPS
    assert fit(experiment, tmp_path / "run", console=Console(quiet=True)).is_file()


def test_points_where_no_image_shows_the_ground_are_left_out_and_counted(scene, tmp_path):
    pixels = [(5, 5), (19, 29), (20, 29), (50, 50), (60, 60)]
    path = save(points_at(pixels, ["wheat", "maize", "maize", "wheat", "wheat"]), tmp_path / "a.gpkg")
    labels = without_unseen(read_labels(path, GRID), scene, path)
    assert set(labeled(labels)) == {(20, 29), (50, 50), (60, 60)}
    assert labels.account.no_data == 2
    path = save(points_at(pixels[:2], ["wheat", "maize"]), tmp_path / "b.gpkg")
    with pytest.raises(InputError, match=r"2 points, all of them where no image ever shows the ground"):
        without_unseen(read_labels(path, GRID), scene, path)


def test_rare_classes_are_named_and_kept(scene, tmp_path):
    frame = pd.concat([scattered(), points_at([(50, 51), (80, 81)], ["rye", "rye"])])
    report = write_chips(scene, save(frame, tmp_path / "a.gpkg"), tmp_path / "out", ChipPlan(size=16))
    assert any("class rye has only 2 labels" in note for note in report.notes)
    assert "rye" in [entry.name for entry in report.classes]
    assert not any("class wheat has" in note for note in report.notes)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    """On points of a synthetic farmland; of the classifiers only the fastest is trained."""
    page = (Path(__file__).parents[1] / "docs" / "scenes.md").read_text().split("### Points\n")[1].split("\n## ")[0]
    table, chips, train = re.search(r"```\n(.*?)```\s+```shell\n(.*?)\n(.*?)\n```", page, re.DOTALL).groups()
    ground = Landscape(rows=2, columns=3, size=48, frames=(("S2", 6),))
    folder = write_scene(tmp_path / "farm", ground, rows=range(2), columns=range(3))
    fields = geopandas.read_file(folder / "parcels.gpkg").to_crs("EPSG:4326")
    spots = fields.representative_point()
    farms = np.arange(len(fields)) // 2
    points = pd.DataFrame({"lon": spots.x, "lat": spots.y, "crop": fields["crop"], "farm": farms})
    assert list(points.columns) == table.splitlines()[0].split(",")
    write_csv(tmp_path / "points.csv", points)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, chips.replace("SCENE", str(folder)).split()[1:])
    assert result.exit_code == 0, result.output
    assert "train (pixels)" in result.output
    assert "size 24" in Path("chips/report.md").read_text()
    result = CliRunner().invoke(app, [*train.split()[1:], "--set", f"pixels={json.dumps(FEW_PIXELS)}"])
    assert result.exit_code == 0, result.output
    assert Path("runs/points/best.safetensors").is_file()
    result = CliRunner().invoke(app, ["data", "check", "chips/crops.yaml"])
    assert "no problems found" in result.output


# Refusals


def csv_of(text):
    return lambda path: path.write_text(text)


def changed(**columns):
    return lambda path: write_csv(path, degrees(few()).rename(columns=columns))


def lines(path):
    frame = few()
    frame.loc[3] = ["wheat", shapely.LineString([place(1, 1), place(30, 30)])]
    frame.loc[4] = ["wheat", shapely.GeometryCollection([place(1, 1), place(30, 30)])]
    frame.to_file(path)


def shifted(path):
    frame = few()
    frame.geometry = frame.translate(50_000, 0)
    save(frame, path)


REFUSED = {
    "swapped.csv": (
        changed(lon="lat", lat="lon"),
        {},
        "3 points, all of them outside.*3 of them would lie on it with longitude and latitude exchanged",
    ),
    "swapped.gpkg": (
        lambda path: save(few().set_geometry([shapely.Point(p.y, p.x) for p in few().geometry], crs=UTM), path),
        {},
        "3 of them would lie on it with x and y exchanged",
    ),
    "far.gpkg": (shifted, {}, "all of them outside.*lie within 550106, .*in EPSG:32631.*reaches over 500000, 4799000"),
    "meters.csv": (
        csv_of("lon,lat,crop\n500100,4799900,wheat\n500200,4799800,maize\n"),
        {},
        "500100 and lat 4799900 in row 1.*look like meters.*--crs",
    ),
    "typo.csv": (
        csv_of("lon,lat,crop\n3.001,43.35,wheat\n3.002,433.5,maize\n3.003,43.35,maize\n"),
        {},
        "lon 3.002 and lat 433.5 in row 2.*correct this row",
    ),
    "china.csv": (csv_of("lon,lat,crop\n40.1,116.2,wheat\n40.2,116.3,maize\n"), {}, "seem to be exchanged"),
    "bare.csv": (changed(lon="x", lat="y"), {}, "columns x and y, and no CRS.*--crs EPSG:32631"),
    "bare.shp": (lambda path: few().set_crs(None, allow_override=True).to_file(path), {}, "no CRS.*--crs"),
    "nonsense.csv": (changed(lon="x", lat="y"), {"crs": "EPSG:0"}, "--crs EPSG:0.*a CRS that PROJ understands"),
    "two_crs.gpkg": (lambda path: save(few(), path), {"crs": "EPSG:2154"}, "but --crs says.*leave out --crs"),
    "some_crs.csv": (
        csv_of("x,y,crs,crop\n500100,4799900,EPSG:32631,wheat\n500200,4799800,,maize\n"),
        {"class_column": "crop"},
        "some_crs.csv: crs.*nothing in row 2",
    ),
    "words.csv": (
        csv_of("lon,lat,crop\n3.001,43.35,wheat\n3°12'E,43.35,maize\nnorth,43.35,maize\n"),
        {},
        "words.csv: lon, row 2.*the text '3°12'E', and 1 more.*coordinates as numbers",
    ),
    "none.csv": (csv_of("lon,lat,crop\n,,wheat\nNA,43.3,maize\n"), {}, "2 features, none of them with coordinates"),
    "columns.csv": (changed(), {"class_column": "crops"}, "columns lon, lat, crop.*did you mean 'crop'"),
    "several.csv": (
        lambda path: write_csv(path, degrees(few()).assign(year=2020)),
        {},
        "columns crop, year.*--class-column",
    ),
    "groups.csv": (
        changed(),
        {"group_column": "farm"},
        "groups.csv: farm.*columns lon, lat, crop.*the column that holds the group",
    ),
    "no_places.csv": (csv_of("plot,crop\n1,wheat\n2,maize\n"), {}, "no geometry, and columns plot, crop.*lon and lat"),
    "one.csv": (lambda path: write_csv(path, degrees(few()).assign(crop="wheat")), {}, "one class only, 'wheat'"),
    "lines.gpkg": (lines, {}, r"1 line and 1 collection without a polygon in the scene.*polygons or points"),
    "buffer.csv": (changed(), {"buffer": 5}, "points only.*leave out --buffer"),
    "radius.gpkg": (
        lambda path: save(few().set_geometry(few().buffer(30)), path),
        {"radius": 5},
        "polygons only.*leave out --radius",
    ),
    "latin.csv": (
        lambda path: write_csv(path, degrees(few()).assign(crop=["blé", "maïs", "blé"]), encoding="latin-1"),
        {},
        "another encoding than UTF-8.*CSV UTF-8",
    ),
    "clash.csv": (
        lambda path: write_csv(path, pd.concat([degrees(few()), degrees(few()).assign(crop="rye")])),
        {},
        r"no pixel of the scene gets a class \(6 points lie in a pixel.*rye and wheat \(features 1, 3, 4, 6\).*radius",
    ),
    "empty.csv": (csv_of("lon,lat,crop\n"), {}, "0 features, none of them with coordinates"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_points_that_cannot_be_used_say_why(name, tmp_path):
    write, options, words = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"(?s){words}") as caught:
        read_labels(tmp_path / name, GRID, **options)
    assert all((caught.value.where, caught.value.found, caught.value.expected, caught.value.repair))


def test_one_class_that_is_left_on_the_scene_is_refused(tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text("code,name\nwheat,cereal\nbarley,cereal\nmaize,maize\n")
    frame = points_at([(10, 10), (40, 40)], ["wheat", "barley"])
    with pytest.raises(InputError, match=r"(?s)labels of one class only on the scene, 'cereal'"):
        read_labels(save(frame, tmp_path / "a.gpkg"), GRID, table=ClassTable.read(table))


@pytest.mark.parametrize("wrong", [{"radius": -1}, {"radius": float("nan")}, {"radius": 1e5}, {"group_column": ""}])
def test_plans_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        ChipPlan(**wrong)
