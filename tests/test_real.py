"""The real-data benchmark: what its chips hold, that no test pixel is learned, and one short run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from agrifm.checks.chips import splits_overlap, structure
from agrifm.data.chips import read_georeference
from agrifm.data.folder import ChipFolder

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real series are not on this machine ({DATA})")
sys.path.insert(0, str(ROOT / "benchmarks"))

import real  # noqa: E402
import real_data  # noqa: E402

FOLDS = 3


@pytest.fixture(scope="module")
def belgium(tmp_path_factory):
    return real_data.belgium(DATA, tmp_path_factory.mktemp("belgium"), FOLDS)


@pytest.fixture(scope="module")
def mato_grosso(tmp_path_factory):
    return real_data.mato_grosso(DATA, tmp_path_factory.mktemp("mato_grosso"), FOLDS)


def chips(prepared, fold, split):
    root = prepared.folds[fold]["root"]
    return ChipFolder.from_list(root / "h5_samples", root / "data_lists" / f"{split}.txt", prepared.sensors)


def labels(prepared, fold, split):
    """Labels on one grid over the whole ground, by season or patch, from wherever the chips lie."""
    found = {}
    source = chips(prepared, fold, split)
    for i in range(len(source)):
        place, label = read_georeference(source.path(i)), source.read(i).label.numpy()
        series = source.names[i].split(f"_{split}")[0]
        assert place is not None
        a, _, left, _, e, top = place.transform
        for row, column in np.argwhere(label >= 0):
            x, y = round((left + a * (column + 0.5)) / a * 2), round((top + e * (row + 0.5)) / e * 2)
            found[series, x, y] = int(label[row, column])
    return found


def test_chips_keep_each_sensor_on_its_own_grid(belgium):
    source = chips(belgium, 0, "train")
    for sample in map(source.read, range(len(source))):
        assert sample.images["S2"].shape == (48, 10, 12, 12)
        assert sample.images["Landsat"].shape == (11, 6, 4, 4)
        assert sample.label.shape == (12, 12)
        for name in ("S2", "Landsat"):
            days, mask = sample.dates[name].numpy().astype("datetime64[D]"), sample.valid[name]
            assert (np.diff(days) >= np.timedelta64(0)).all()
            assert set(days.astype("datetime64[Y]")) == {np.datetime64("2018")}
            assert mask.shape == (len(days), *sample.images[name].shape[2:])
            seen = sample.images[name].movedim(1, -1)[mask]
            assert seen.min() > 0
            assert name == "S2" or seen.max() < real_data.SATURATED
            assert mask.float().mean() > 0.3


def test_the_rim_is_neither_seen_nor_labeled():
    with np.load(DATA / "worldcereal_patches" / "npz" / "be_a_2018.npz") as arrays:
        sample = real_data._belgium(arrays)
    inside = np.zeros((72, 72), bool)
    inside[1:65, 2:66] = True
    assert not sample.valid["S2"].numpy()[:, ~inside].any()
    assert (np.asarray(sample.label)[~inside] == -1).all()
    cells, valid = inside.reshape(24, 3, 24, 3).any((1, 3)), sample.valid["Landsat"].numpy()
    assert not valid[:, ~cells].any()
    assert valid[:, cells].mean() > 0.9


def test_chips_know_their_place(belgium):
    source = chips(belgium, 0, "train")
    for i, name in enumerate(source.names):
        y, x = map(int, name.split("_")[-2:])
        place = read_georeference(source.path(i))
        assert place is not None
        assert (place.crs, place.transform) == ("EPSG:32631", (10, 0, 501340 + 10 * x, 0, -10, 5629690 - 10 * y))


def test_both_sensors_see_the_same_ground():
    with np.load(DATA / "worldcereal_patches" / "npz" / "be_a_2018.npz") as arrays:
        sample = real_data._belgium(arrays)
    days = {name: sample.dates[name].numpy() for name in sample.images}
    best = []
    for i, day in enumerate(days["Landsat"]):
        j = int(np.abs(days["S2"] - day).argmin())
        fine = sample.images["S2"][j, 3].double().reshape(24, 3, 24, 3).mean((1, 3))[2:20, 2:20].numpy()
        coarse = sample.images["Landsat"][i, 3].double().numpy()
        shifts = [coarse[2 + y : 20 + y, 2 + x : 20 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
        best.append(int(np.argmax([np.corrcoef(fine.ravel(), shift.ravel())[0, 1] for shift in shifts])))
    assert np.bincount(best, minlength=9).argmax() == 4


@pytest.mark.parametrize("name", ["belgium", "mato_grosso"])
def test_every_labeled_pixel_is_tested_once_and_never_learned(name, request):
    prepared = request.getfixturevalue(name)
    tested = [labels(prepared, fold, "test") for fold in range(FOLDS)]
    everything = {pixel for fold in tested for pixel in fold}
    assert sum(map(len, tested)) == len(everything)
    for fold in range(FOLDS):
        train, val = (labels(prepared, fold, split) for split in ("train", "val"))
        ground = {
            split: {(x, y) for _, x, y in part} for split, part in zip("abc", (train, val, tested[fold]), strict=True)
        }
        near = {(x + 2 * i, y + 2 * j) for x, y in ground["c"] for i in (-1, 0, 1) for j in (-1, 0, 1)}
        assert not ground["a"] & (near | ground["b"])
        assert not ground["b"] & ground["c"]
        assert set(train.values()) == set(range(len(prepared.classes)))


def test_counts_of_the_legend(belgium):
    tested = [label for fold in range(FOLDS) for label in labels(belgium, fold, "test").values()]
    assert np.bincount(tested).tolist() == [1249, 835, 96, 107, 1753]


def test_our_own_checks_pass(belgium):
    splits = {split: chips(belgium, 0, split) for split in real_data.SPLITS}
    assert not list(splits_overlap(splits))
    assert not [problem for source in splits.values() for problem in structure(source)]


def test_seasons_run_from_september_to_august(mato_grosso):
    source = chips(mato_grosso, 0, "train")
    for i in range(len(source)):
        sample = source.read(i)
        days = sample.dates["MOD13Q1"].numpy().astype("datetime64[D]")
        assert len(days) in (22, 23)
        assert days[-1] - days[0] < np.timedelta64(365)
        assert sample.images["MOD13Q1"].shape[1:] == (6, 6, 6)
        assert 0 <= sample.images["MOD13Q1"].min() <= sample.images["MOD13Q1"].max() <= 1


def test_blocks_are_dealt_out_evenly_and_the_same_each_time():
    counts = np.random.default_rng(0).integers(0, 50, (24, 3))
    group = real_data.most_even(counts, 4, seed=1)
    assert np.bincount(group).tolist() == [6] * 4
    shares = np.stack([counts[group == k].sum(0) for k in range(4)]) / counts.sum(0)
    assert np.abs(shares - 0.25).max() < 0.1
    np.testing.assert_array_equal(group, real_data.most_even(counts, 4, seed=1))


def test_a_quick_run_prints_and_writes_the_table(tmp_path, capsys):
    table = tmp_path / "table.md"
    words = ["--data", str(DATA), "--out", str(tmp_path / "out"), "--table", str(table), "--workers", "1", "--quick"]
    rows = real.main([*words, "--places", "be_a"])
    titles = list(dict.fromkeys(row.row for row in rows))
    assert titles[2:4] == ["Sentinel-2 + Landsat-8", "Sentinel-2 + Landsat-8, Landsat missing at test"]
    assert {row.model for row in rows} == set(real.MODELS)
    pixels = {row.row: {np.sum(r.pooled.confusion) for r in rows if r.row == row.row} for row in rows}
    assert all(len(counts) == 1 for counts in pixels.values())
    forest = {row.row: row.pooled.summary["aAcc"] for row in rows if row.model == real.FOREST}
    most = {row.row: row.pooled.summary["aAcc"] for row in rows if row.model == real.MAJORITY}
    assert all(forest[row] > most[row] for row in titles)
    assert "random forest" in table.read_text()
    assert "minutes" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "scores.json").read_text())) == len(rows)
