"""Chips from a scene and labels: splits, what is written, running again, refusals."""

import io
import json
from itertools import combinations
from pathlib import Path

import geopandas
import h5py
import numpy as np
import pytest
import rasterio
from conftest import FEW_PIXELS, TINY
from drawn_parcels import GRID, LEFT, SIDE, TOP, UTM, frame_of, holds, parcels, save, scene_by_hand, square
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine
from rich.console import Console

from agrifm.chips.labels import read_labels
from agrifm.chips.leakage import find_leakage
from agrifm.chips.writer import ChipPlan, write_chips
from agrifm.config import load
from agrifm.data.chips import read_georeference
from agrifm.data.folder import ChipFolder
from agrifm.errors import InputError
from agrifm.opening import open_scene
from agrifm.scenes.scene import Scene
from agrifm.sensors import S2
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.training.fit import fit

FRANCE = Path(__file__).parents[2] / "shared/data/france_parcels_2018"
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two days of Sentinel-2 on 100 x 100 pixels, a corner of them clouded, as a Scene made by hand."""
    return scene_by_hand(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """The parcels in longitude and latitude."""
    return save(parcels(), tmp_path_factory.mktemp("fields") / "fields.gpkg", "EPSG:4326")


@pytest.fixture(scope="module")
def written(scene, fields, tmp_path_factory):
    """Chips of the scene, and the report."""
    out = tmp_path_factory.mktemp("chips") / "out"
    return out, write_chips(scene, fields, out, ChipPlan(size=16, distance=35, seed=1))


# Splits and what is written


def chips_of(out):
    """Of each split: (row, column, label) of its chips, read with h5py and rasterio's affine only."""
    found = {}
    for split in ("train", "val", "test"):
        found[split] = []
        for name in (out / "data_lists" / f"{split}.txt").read_text().split():
            with h5py.File(out / "h5_samples" / f"{name}.h5") as file:
                transform, label = file.attrs["transform"], file["label"][()]
            found[split].append((round((TOP - transform[5]) / 10), round((transform[2] - LEFT) / 10), label))
    return found


def test_splits_share_no_pixel_no_parcel_and_keep_their_distance(written, fields):
    out, report = written
    frame = geopandas.read_file(fields).to_crs(UTM)
    shown, owners, points = {}, {}, {}
    for split, chips in chips_of(out).items():
        assert chips
        shown[split], where = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
        for row, column, label in chips:
            shown[split][row : row + 16, column : column + 16] = True
            where[row : row + 16, column : column + 16] |= label >= 0
        points[split] = np.argwhere(where)
        owners[split] = {i for i, shape in enumerate(frame.geometry) if (holds(shape) & where).any()}
    for one, other in combinations(shown, 2):
        assert not (shown[one] & shown[other]).any()
        assert not owners[one] & owners[other]
        away = np.linalg.norm(points[one][:, None] - points[other][None], axis=-1).min() * 10
        assert away >= 35
    assert report.leaks.none
    assert report.leaks.distance >= 35
    assert report.leaks.pixels == {
        split: np.bincount(np.concatenate([x[x >= 0] for *_, x in chips]), minlength=3).tolist()
        for split, chips in chips_of(out).items()
    }


def test_every_labeled_pixel_is_in_at_most_one_chip_and_right(written, fields):
    label = read_labels(fields, GRID).label
    count = np.zeros(label.shape, int)
    for chips in chips_of(written[0]).values():
        for row, column, part in chips:
            rows, columns = np.nonzero(part >= 0)
            assert np.array_equal(part[rows, columns], label[row + rows, column + columns])
            count[row + rows, column + columns] += 1
    assert count.max() == 1
    assert 0.3 < count.sum() / (label >= 0).sum() < 1


def test_every_class_is_in_every_split_near_its_share(written):
    _, report = written
    areas = np.array([report.areas[split] for split in ("train", "val", "test")])
    shares = areas / areas.sum(0)
    assert (shares[0] > 0.4).all()
    assert (shares[1:] > 0.08).all()


def test_the_same_seed_gives_the_same_chips(scene, fields, written, tmp_path):
    plan = ChipPlan(size=16, distance=35, seed=1)
    again = write_chips(scene, fields, tmp_path / "again", plan)
    other = write_chips(scene, fields, tmp_path / "other", ChipPlan(size=16, distance=35, seed=2))
    for split in ("train", "val", "test"):
        name = f"data_lists/{split}.txt"
        assert (tmp_path / "again" / name).read_text() == (written[0] / name).read_text()
    assert again.areas == written[1].areas
    assert other.areas != again.areas


def test_chips_hold_the_pixels_dates_and_masks_of_the_scene(written, scene):
    out, _ = written
    images = []
    for frame in scene.layers[0].frames:
        with rasterio.open(frame.bands["B02"].href) as file:
            images.append(file.read())
    whole, masked = np.stack(images), 0
    chips = ChipFolder.from_list(out / "h5_samples", out / "data_lists" / "train.txt", [S2])
    for i in range(len(chips)):
        sample, place = chips.read(i), read_georeference(chips.path(i))
        assert place is not None
        assert place.crs == UTM
        row, column = round((TOP - place.transform[5]) / 10), round((place.transform[2] - LEFT) / 10)
        window = slice(row, row + 16), slice(column, column + 16)
        assert np.array_equal(sample.images["S2"].numpy(), whole[:, :, *window])
        clear = np.ones((SIDE, SIDE), bool)
        clear[:20, :30] = False
        assert np.array_equal(sample.valid["S2"].numpy(), np.stack([clear[window]] * 2))
        days = sample.dates["S2"].numpy().astype("datetime64[D]").astype(str)
        assert days.tolist() == ["2020-04-01", "2020-07-01"]
        assert sample.label is not None
        masked += int((~clear[window]).sum())
    assert masked > 0


def test_planted_leaks_are_found(scene, fields, tmp_path):
    out = tmp_path / "out"
    report = write_chips(scene, fields, out, ChipPlan(size=16))
    parcel = read_labels(fields, GRID).parcel
    names = {split: (out / f"data_lists/{split}.txt").read_text().split() for split in ("train", "val", "test")}

    def leaks(names, asked=0.0):
        return find_leakage(out / "h5_samples", names, parcel, GRID, len(report.classes), asked)

    assert leaks(names).none
    others = set()
    for row, column, label in chips_of(out)["train"] + chips_of(out)["test"]:
        others |= set(parcel[row : row + 16, column : column + 16][label >= 0].tolist())
    beside = [parcel[row : row + 16, column : column + 16] for row, column, _ in chips_of(out)["val"]]
    crossing = len(others.intersection(np.unique(beside).tolist()) - {0})
    assert crossing > 0
    shared = leaks(names | {"test": [*names["test"], names["train"][0]]})
    assert not shared.none
    assert shared.shared == 256
    assert shared.distance == 0
    assert shared.parcels
    with pytest.raises(InputError, match="parcels in two splits"):
        shared.refuse(out)
    assert not leaks(names, asked=1 + (report.leaks.distance or 0)).none
    for name in names["val"]:
        with h5py.File(out / "h5_samples" / f"{name}.h5", "r+") as file:
            file["label"][...] = 0
    planted = leaks(names)
    assert not planted.none
    assert len(planted.parcels) == crossing
    assert planted.shared == 0


def test_report_and_picture_are_written(written):
    out, report = written
    text = (out / "report.md").read_text()
    assert "| wheat |" in text
    assert "no leak" in text
    assert "within 35 m" in text
    assert json.loads((out / "report.json").read_text())["chips"] == report.chips
    with rasterio.open(out / "split.png") as picture:
        colors = set(map(tuple, picture.read()[:3].reshape(3, -1).T.tolist()))
    for entry in report.classes:
        assert tuple(bytes.fromhex(entry.color[1:])) in colors
    shown = Console(width=120, record=True, file=io.StringIO())
    report.show(shown)
    assert "train (ha)" in shown.export_text()
    assert not list(out.rglob("*.part*"))


def test_the_written_experiment_trains(written, tmp_path):
    out, report = written
    tiny = [f"model.size.{key}={json.dumps(value)}" for key, value in TINY.items()]
    settings = ["training.epochs=1", "training.accelerator=cpu", "training.batch_size=8", "data.check_bands=false"]
    settings.append(f"pixels={json.dumps(FEW_PIXELS)}")
    experiment = load(out / "crops.yaml", ["model.size={}", *tiny, *settings])
    assert experiment.task.names == tuple(entry.name for entry in report.classes)
    best = fit(experiment, tmp_path / "run", console=QUIET)
    assert best.is_file()


def test_chips_at_the_border_are_full_and_own_labels_once(scene, fields, tmp_path):
    report = write_chips(scene, fields, tmp_path, ChipPlan(size=24, test=0))
    assert set(report.chips) == {"train", "val"}
    assert not (tmp_path / "data_lists/test.txt").exists()
    count, paths = np.zeros((SIDE, SIDE), int), list(tmp_path.glob("h5_samples/*.h5"))
    for path in paths:
        with h5py.File(path) as file:
            label, transform = file["label"][()], file.attrs["transform"]
        row, column = round((TOP - transform[5]) / 10), round((transform[2] - LEFT) / 10)
        assert label.shape == (24, 24)
        assert min(row, column) >= 0
        assert max(row, column) <= SIDE - 24
        count[row : row + 24, column : column + 24] += label >= 0
    assert len(paths) == 25
    assert count.max() == 1
    assert count[96:].any()


# Running again


def test_existing_chips_are_not_replaced_unasked(scene, fields, tmp_path):
    out = tmp_path / "out"
    write_chips(scene, fields, out, ChipPlan(size=24))
    (out / "h5_samples" / "mine.h5").write_bytes(b"kept")
    with pytest.raises(InputError, match="--overwrite"):
        write_chips(scene, fields, out, ChipPlan(size=16))
    write_chips(scene, fields, out, ChipPlan(size=16), overwrite=True)
    assert {label.shape for chips in chips_of(out).values() for *_, label in chips} == {(16, 16)}
    listed = {
        name for split in ("train", "val", "test") for name in (out / f"data_lists/{split}.txt").read_text().split()
    }
    assert {path.stem for path in (out / "h5_samples").iterdir()} == listed | {"mine"}


def test_an_unfinished_run_may_be_given_again(scene, fields, tmp_path, monkeypatch):
    out = tmp_path / "out"
    full = iter(range(5))

    def failing(*parts):
        if next(full, None) is None:
            raise OSError("no space left on device")
        return write(*parts)

    from agrifm.chips import writer as chips

    write = chips.write_chip
    monkeypatch.setattr(chips, "write_chip", failing)
    with pytest.raises(InputError, match="no space left"):
        write_chips(scene, fields, out, ChipPlan(size=16))
    assert len(list(out.glob("h5_samples/*.h5"))) == 5
    assert not list(out.glob("data_lists/*.txt"))
    monkeypatch.undo()
    report = write_chips(scene, fields, out, ChipPlan(size=16))
    assert sum(report.chips.values()) == len(list(out.glob("h5_samples/*.h5")))
    assert not (out / "chips.unfinished").exists()


# Refusals


def test_scenes_in_degrees_and_splits_without_labels_are_refused(scene, tmp_path):
    grid = GeoBox((SIDE, SIDE), Affine(1e-4, 0, 3, 0, -1e-4, 43), "EPSG:4326")
    fields = save(frame_of(wheat=[square(2, 2)], maize=[square(2, 14)]), tmp_path / "a.gpkg")
    with pytest.raises(InputError, match="grid in meters"):
        write_chips(Scene(scene.layers, grid), fields, tmp_path / "out")
    with pytest.raises(InputError, match=r"(?s)blocks? with labels for 3 splits.*--size"):
        write_chips(scene, fields, tmp_path / "out", ChipPlan(size=48))
    with pytest.raises(InputError, match=r"(?s)no labels left.*--distance"):
        write_chips(scene, save(parcels(), tmp_path / "b.gpkg"), tmp_path / "out", ChipPlan(size=16, distance=3000))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [{"size": 4}, {"buffer": -1}, {"distance": -1}, {"val": 0}, {"test": 0.9}, {"block": 0}, {"seed": -1}]
)
def test_plans_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        ChipPlan(**wrong)


# Synthetic and real scenes


def test_farmland_of_two_sensors_becomes_chips(tmp_path):
    ground = Landscape(rows=2, columns=3, size=48, frames=(("S2", 3), ("Landsat", 2)))
    folder = write_scene(tmp_path / "farm", ground, rows=range(2), columns=range(3))
    made = open_scene(folder)
    report = write_chips(made, folder / "parcels.gpkg", tmp_path / "out", ChipPlan("crop", size=24))
    assert report.leaks.none
    with rasterio.open(folder / "truth.tif") as file:
        truth = file.read(1)
    names, labeled = [entry.name for entry in report.classes], 0
    for split in ("train", "val", "test"):
        chips = ChipFolder.from_list(
            tmp_path / "out/h5_samples", tmp_path / f"out/data_lists/{split}.txt", made.sensors
        )
        for i in range(len(chips)):
            sample, place = chips.read(i), read_georeference(chips.path(i))
            assert place is not None
            assert sample.images["Landsat"].shape[-2:] == (8, 8)
            column, row = (round(x) for x in ~made.grid.affine @ (place.transform[2], place.transform[5]))
            label, real = sample.label.numpy(), truth[row : row + 24, column : column + 24]
            there = label >= 0
            assert [names[n] for n in label[there]] == [CLASSES[n][0] for n in real[there]]
            labeled += there.sum()
    assert labeled > 2000


@pytest.mark.skipif(not FRANCE.is_dir(), reason="needs shared/data/france_parcels_2018")
def test_real_parcels_are_shared_out_with_every_crop_in_every_split(tmp_path):
    real = open_scene(FRANCE / "jp2")
    shapes = FRANCE / "reference_data" / "parcels.shp"
    report = write_chips(real, shapes, tmp_path / "out", ChipPlan("EC_hcat_n", size=32))
    assert report.account.parcels == 82
    assert report.leaks.none
    areas = np.array([report.areas[split] for split in ("train", "val", "test")])
    frame = geopandas.read_file(shapes)
    several = [(frame.EC_hcat_n == entry.name).sum() > 1 for entry in report.classes]
    assert (areas[:, several] > 0.05).all()
    assert areas.sum() > 0.75 * frame.area.sum() / 1e4
    assert sum(report.chips.values()) > 20
