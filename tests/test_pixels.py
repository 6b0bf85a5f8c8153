"""Classifiers of single pixels: features by hand, members equal to scikit-learn, checkpoints, and runs."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import rasterio
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier

import agrifm
from agrifm.checkpoint import Checkpoint, describe
from agrifm.config import parse
from agrifm.data.chips import write_chip
from agrifm.data.transforms import Augment
from agrifm.errors import InputError
from agrifm.evaluation.baselines import majority
from agrifm.evaluation.calibration import calibrate_checkpoint
from agrifm.evaluation.scoring import evaluate
from agrifm.maps.map_scene import map_scene, plan
from agrifm.maps.options import MapOptions
from agrifm.pixels.config import PixelsConfig
from agrifm.pixels.draw import PixelDraw, smallest_keys
from agrifm.pixels.features import PixelFeatures, index_bands
from agrifm.pixels.fitting import FEWER_PIXELS, _fewer, choose, compare_members, fit_ensemble
from agrifm.pixels.learners import LEARNERS, fit_member
from agrifm.pixels.members import widen
from agrifm.pixels.series import interpolate
from agrifm.pixels.trees import from_boosting, from_forest
from agrifm.products.reproduce import reproduce
from agrifm.sample import Sample, Season, collate
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.training.fit import fit
from agrifm.training.pixel_stage import draw_pixels, equal_share

CLASSES = ["other", "winter wheat", "maize", "rapeseed", "sugar beet", "grassland"]
QUIET = Console(quiet=True)
YEAR = Season(0.0, 365.0)


def table(pixels=400, features=30, classes=4, seed=0, gaps=0.05):
    """Features of single pixels in which classes can be told apart, with gaps."""
    rng = np.random.default_rng(seed)
    truth = np.arange(pixels) % classes
    values = rng.normal(size=(pixels, features)).astype(np.float32)
    values[:, :classes] += 1.5 * np.eye(classes, dtype=np.float32)[truth]
    values[rng.random(values.shape) < gaps] = np.nan
    return values, truth


# Features


def test_series_are_interpolated_between_valid_dates():
    days = torch.tensor([140.0, 100.0, 120.0, 160.0])
    image = torch.tensor([30.0, 10.0, 999.0, 50.0])[:, None, None].repeat(1, 1, 3)
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[2, 0] = False  # a cloud between
    valid[:3, 1] = False  # seen only at the end
    valid[:, 2] = False  # never seen
    series = interpolate(image, valid, days, torch.tensor([90.0, 100.0, 120.0, 150.0, 170.0]))
    torch.testing.assert_close(series[0, :, 0], torch.tensor([10.0, 10.0, 20.0, 40.0, 50.0]))
    assert (series[1] == 50).all()
    assert series[2].isnan().all()


def test_features_by_hand():
    # Two dates, red 0.1 and near infrared 0.3, then 0.2 and 0.2; all other bands 0.1.
    image = torch.full((2, 6, 1, 2), 1000.0)
    image[0, 3] = 3000.0
    image[1, 2:4] = 2000.0
    sample = Sample({"Landsat": image}, {"Landsat": torch.tensor([0, 365])}, name="x")
    features = PixelFeatures((LANDSAT,), YEAR, steps=2)
    values = features.of_sample(collate([sample]), 0, ["Landsat"], (1, 2), torch.arange(2))
    names = features.names(["Landsat"])
    assert values.shape == (2, len(names))
    by_name = dict(zip(names, values[0].tolist(), strict=True))
    assert by_name["Landsat B04 1"] == pytest.approx(0.1)
    assert by_name["Landsat nd(B04,B05) 1"] == pytest.approx(-0.5)  # red minus near infrared over their sum
    assert by_name["Landsat nd(B04,B05) 2"] == pytest.approx(0.0)
    assert by_name["Landsat B05 mean"] == pytest.approx(0.25)
    assert by_name["Landsat B05 deviation"] == pytest.approx(0.05)
    assert by_name["Landsat B05 minimum"] == pytest.approx(0.2)
    assert by_name["Landsat B05 maximum"] == pytest.approx(0.3)


def test_one_band_for_each_part_of_the_spectrum_makes_indices():
    pairs = {tuple(S2.bands[i].common_name for i in pair) for pair in index_bands(S2)}
    assert ("red", "nir") in pairs
    assert not any("nir08" in pair for pair in pairs)
    assert ("red", "nir08") in {tuple(LANDSAT.bands[i].common_name for i in pair) for pair in index_bands(LANDSAT)}


def test_a_coarse_sensor_is_brought_to_the_grid_of_the_label():
    image = torch.arange(4.0).view(1, 1, 2, 2).repeat(1, 6, 1, 1) * 1000
    sample = Sample({"Landsat": image}, {"Landsat": torch.tensor([10])}, name="x")
    features = PixelFeatures((LANDSAT,), YEAR, steps=2, indices=False, statistics=False)
    values = features.of_sample(collate([sample]), 0, ["Landsat"], (4, 4), torch.arange(16))
    expected = torch.arange(4.0).view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1) / 10
    torch.testing.assert_close(values[:, 0].view(4, 4), expected)


def plain_context(image, valid, row, column):
    """Mean of the valid pixels around a pixel by date and band, and the dates that have one, as plain loops."""
    values, dates = [], []
    for date in range(len(image)):
        near = []
        for r in range(max(0, row - 1), min(image.shape[2], row + 2)):
            for c in range(max(0, column - 1), min(image.shape[3], column + 2)):
                if valid[date, r, c]:
                    near.append(image[date, :, r, c])
        if near:
            values.append(np.mean(near, 0))
            dates.append(date)
    return np.array(values), np.array(dates)


def test_context_is_the_series_of_the_mean_of_the_neighbors():
    rng = np.random.default_rng(0)
    image = rng.integers(100, 4000, (5, 6, 4, 6)).astype(np.float32)
    valid = rng.random((5, 4, 6)) < 0.3
    valid[:, :2, :2] = False  # the corner is never seen, nor are its neighbors
    valid[:, :3, :1] = False
    image[~valid[:, None].repeat(6, 1)] = np.nan  # masked pixels may hold anything
    days = np.array([40, 300, 120, 200, 10])
    as_tensors = torch.from_numpy(image), torch.from_numpy(valid), torch.from_numpy(days)
    sample = Sample({"Landsat": as_tensors[0]}, {"Landsat": as_tensors[2]}, {"Landsat": as_tensors[1]}, name="x")
    features = PixelFeatures((LANDSAT,), YEAR, steps=7, statistics=False, context=True)
    batch = collate([sample])
    # Every pixel of the sensor lies under two rows of labels.
    values = features.of_sample(batch, 0, ["Landsat"], (8, 6), torch.arange(48)).numpy()
    names = features.names(["Landsat"])
    assert values.shape == (48, len(names))
    first = names.index("Landsat context B02 1")
    alone = replace(features, context=False).of_sample(batch, 0, ["Landsat"], (8, 6), torch.arange(48)).numpy()
    np.testing.assert_array_equal(values[:, :first], alone)
    steps = np.linspace(0, 365, 7)
    red_infrared = names.index("Landsat context nd(B04,B05) 1")
    for row, column in ((0, 0), (0, 5), (1, 3), (3, 0), (2, 2)):
        means, dates = plain_context(image, valid, row, column)
        found = values[2 * row * 6 + column]
        if not len(dates):
            assert np.isnan(found[first:]).all()
            continue
        order = np.argsort(days[dates])
        for step, day in enumerate(steps):
            at = step * (len(names) - first) // 7
            bands = [np.interp(day, days[dates][order], means[order, band]) / 1e4 for band in range(6)]
            np.testing.assert_allclose(found[first + at : first + at + 6], bands, rtol=1e-5)
            index = (bands[2] - bands[3]) / (bands[2] + bands[3])
            assert found[red_infrared + at] == pytest.approx(index, rel=1e-4, abs=1e-5)
    assert np.isnan(values[0, first:]).all()
    assert np.isfinite(values[6 * 6 :, first:]).all()


def test_context_of_a_single_pixel_is_the_pixel():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(100, 4000, (5, 6, 1, 1)))
    sample = Sample({"Landsat": image}, {"Landsat": torch.arange(0, 350, 70)}, name="x")
    features = PixelFeatures((LANDSAT,), YEAR, steps=4, statistics=False, context=True)
    values = features.of_sample(collate([sample]), 0, ["Landsat"], (1, 1), torch.arange(1))[0]
    own, context = values.chunk(2)
    assert torch.equal(own, context)


# Members


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_members_learn_and_give_probabilities(name, classes):
    features, truth = table(classes=classes)
    member = fit_member(name, features, truth, 0)
    unseen, expected = table(classes=classes, seed=1)
    probabilities = member(torch.from_numpy(unseen))
    assert probabilities.shape == (len(unseen), classes)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(unseen)), atol=1e-4, rtol=0)
    assert (probabilities.argmax(1).numpy() == expected).mean() > 1.5 / classes


@pytest.mark.parametrize("classes", [2, 5])
def test_trees_equal_those_of_scikit_learn(classes):
    features, truth = table(classes=classes)
    unseen, _ = table(classes=classes, seed=1)
    for model in (RandomForestClassifier(20, random_state=0), ExtraTreesClassifier(20, random_state=0)):
        ours = from_forest(model.fit(features, truth).estimators_)(torch.from_numpy(unseen))
        np.testing.assert_allclose(ours, model.predict_proba(unseen), atol=1e-5)
    model = HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(features, truth)
    np.testing.assert_allclose(from_boosting(model)(torch.from_numpy(unseen)), model.predict_proba(unseen), atol=1e-5)


def test_discriminant_analysis_equals_that_of_scikit_learn():
    features, truth = table(pixels=90, features=120, classes=3, gaps=0)
    features[:, 7] = 1.0  # a feature that never varies
    unseen, _ = table(pixels=90, features=120, classes=3, gaps=0, seed=1)
    mean, std = features.mean(0), features.std(0)
    std[7] = 1.0
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit((features - mean) / std, truth)
    ours = fit_member("lda", features, truth, 0)(torch.from_numpy(unseen))
    np.testing.assert_allclose(ours, model.predict_proba((unseen - mean) / std), atol=1e-4)


@pytest.mark.parametrize("name", ["lda", "lda_kernel", "boosting", "extra_trees"])
def test_a_class_that_a_member_never_saw_gets_probability_0(name):
    features, truth = table(classes=3)
    narrow = fit_member(name, features, truth, 0)
    expected = narrow(torch.from_numpy(features))
    wide = widen(narrow, np.array([0, 2, 3]), 4)(torch.from_numpy(features))
    torch.testing.assert_close(wide[:, [0, 2, 3]], expected)
    assert (wide[:, 1] == 0).all()


# The draw, the comparison and the ensemble


LAND = Landscape(rows=2, columns=4, size=48, frames=(("S2", 6), ("Landsat", 4)))


@cache
def sample(number):
    """A chip of the farmland with both sensors."""
    return LAND.sample(number % 2, number // 2, (S2, LANDSAT))


def samples(count=6):
    """Several chips of the farmland."""
    return [sample(number) for number in range(count)]


def drawn(train, sensors=(S2, LANDSAT), most=600):
    features = PixelFeatures(sensors, Season.of([sample.span() for sample in train]), 12)
    draw = PixelDraw(features, most, 0)
    for sample in train:
        batch = collate([sample])
        draw.add(batch, batch.label, -1)
    return draw


def test_every_labeled_pixel_is_drawn_with_the_same_probability():
    train = samples(4)
    everything = drawn(train, most=10**6)
    assert len(everything.pixels()) == everything.labeled == sum(int((s.label >= 0).sum()) for s in train)
    few = drawn(train, most=300).pixels()
    assert len(few) == 300
    counts = np.bincount(few.sample, minlength=4)
    assert counts.min() > 40  # 75 are expected
    rows = {(sample, block.tobytes()) for sample, block in zip(few.sample, few.blocks["S2"], strict=True)}
    all_pixels = everything.pixels()
    assert rows <= {(s, b.tobytes()) for s, b in zip(all_pixels.sample, all_pixels.blocks["S2"], strict=True)}


def classes_only(counts, most, seed=0, labels=40):
    """A draw of pixels with these numbers of each class, spread over several samples, and all of its keys."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    draw = PixelDraw(PixelFeatures((LANDSAT,), YEAR, 2, indices=False, statistics=False), most, seed)
    for part in np.array_split(classes, labels):
        image = torch.ones(1, 6, 1, len(part))
        sample = Sample(
            {"Landsat": image}, {"Landsat": torch.tensor([9])}, label=torch.from_numpy(part[None]), name="x"
        )
        batch = collate([sample])
        draw.add(batch, batch.label, -1)
    return draw, np.random.default_rng(seed).random(len(classes)), classes


def test_rare_classes_keep_their_pixels():
    draw, keys, classes = classes_only([40_000, 2_000, 60, 7], 1_000)
    pixels = draw.pixels()
    counts = np.bincount(pixels.classes)
    assert len(pixels) == 1_000
    assert counts[2:].tolist() == [20, 7]
    # The pixels of each class are those with the smallest keys, however many samples were read before.
    for number, count in enumerate(counts):
        np.testing.assert_array_equal(
            np.sort(pixels.key[pixels.classes == number]), np.sort(keys[classes == number])[:count]
        )
    assert max(draw.held, len(draw.parts[0])) <= 1_000 + 4 * 20
    again, _, _ = classes_only([40_000, 2_000, 60, 7], 1_000)
    np.testing.assert_array_equal(again.pixels().key, pixels.key)


def test_without_rare_classes_the_smallest_keys_are_drawn():
    draw, keys, _ = classes_only([12_000, 9_000, 900], 1_000)
    pixels = draw.pixels()
    np.testing.assert_array_equal(pixels.key, keys[np.sort(np.argsort(keys)[:1_000])])


def test_a_rare_class_that_comes_late_is_drawn_and_many_classes_share():
    key = np.random.default_rng(0).random(5_000)
    classes = np.arange(5_000) % 100
    assert np.bincount(classes[smallest_keys(key, classes, 1_000)]).tolist() == [10] * 100
    draw, _, _ = classes_only([5_000], 300)
    late = torch.ones(1, 5, dtype=torch.long)
    sample = Sample({"Landsat": torch.ones(1, 6, 1, 5)}, {"Landsat": torch.tensor([9])}, label=late, name="late")
    draw.add(collate([sample]), late[None], -1)
    assert np.bincount(draw.pixels().classes).tolist() == [295, 5]


def test_the_cross_validation_keeps_rare_classes():
    rng = np.random.default_rng(0)
    common = rng.integers(0, 3, 9_000)
    rows = np.flatnonzero(rng.random(9_000) < 0.9)
    today = np.sort(np.random.default_rng(5).choice(rows, FEWER_PIXELS, replace=False))
    np.testing.assert_array_equal(_fewer(rows, common, 5), today)
    rare = common.copy()
    rare[rows[10:110]] = 3  # of these 100, some 50 were drawn
    kept = _fewer(rows, rare, 5)
    assert len(kept) == FEWER_PIXELS
    assert np.count_nonzero(rare[kept] == 3) == 80
    assert len(np.intersect1d(kept, today)) > FEWER_PIXELS - 80
    assert (np.diff(kept) > 0).all()


TWO_LINEAR = PixelsConfig(members=("lda", "logistic"))


def ensemble_of(train, config=TWO_LINEAR):
    draw = drawn(train)
    pixels = draw.pixels()
    names = [sensor.name for sensor in draw.features.sensors]
    comparison = compare_members(pixels, pixels.sample, names, config, 0, lambda line: None)
    chosen = comparison.chosen or config.members
    return fit_ensemble(pixels, draw.features, 6, chosen, 0, lambda line: None), comparison


def test_members_are_compared_and_only_those_close_to_the_best_are_chosen():
    assert choose({"lda": 0.80, "logistic": 0.79, "kernel": 0.70}) == ("lda", "logistic")
    ensemble, comparison = ensemble_of(samples(), PixelsConfig(members=("lda", "extra_trees")))
    assert comparison.folds == 5
    assert comparison.blocks == 6
    assert {member.name for member in comparison.members} == {"lda", "extra_trees"}
    assert {member.name for member in ensemble.members} == set(comparison.chosen)
    weights = [member.weight for member in ensemble.members if member.sensors == ("S2", "Landsat")]
    assert sum(weights) == pytest.approx(1)


def test_few_blocks_need_no_comparison_and_one_class_is_refused():
    train = samples(1)
    ensemble, comparison = ensemble_of(train)
    assert comparison.members == ()
    assert {member.name for member in ensemble.members} == {"lda", "logistic"}
    single = [replace(train[0], label=torch.zeros_like(train[0].label))]
    with pytest.raises(InputError, match="at least two classes"):
        ensemble_of(single)


def test_a_missing_sensor_has_members_of_its_own():
    train = samples()
    ensemble, _ = ensemble_of(train)
    assert {member.sensors for member in ensemble.members} == {("S2", "Landsat"), ("S2",), ("Landsat",)}
    # The best one alone stands in where a sensor is missing.
    assert len([member for member in ensemble.members if member.sensors == ("S2",)]) == 1
    test = sample(7)
    both = ensemble(collate([test]))
    assert both.shape == (1, 6, 48, 48)
    for sensor in ("S2", "Landsat"):
        alone = ensemble(collate([test.only([sensor])]))
        assert (alone.argmax(1) == test.label).float().mean() > 0.5
    with pytest.raises(InputError, match="at least S2, Landsat or S2 or Landsat"):
        ensemble(collate([replace(test, images={"Modis": torch.zeros(1, 7, 2, 2)}, dates={}, valid={})]))


def test_a_sample_does_not_depend_on_its_batch():
    ensemble, _ = ensemble_of(samples())
    first, second = sample(6), sample(7)
    together = ensemble(collate([first, second.only(["S2"])]))
    alone = torch.cat([ensemble(collate([first])), ensemble(collate([second.only(["S2"])]))])
    torch.testing.assert_close(together, alone)


def test_labels_without_some_class_leave_its_probability_at_the_least():
    train = samples()
    without = [replace(s, label=torch.where(s.label == 2, -1, s.label)) for s in train]
    ensemble, _ = ensemble_of(without)
    assert ensemble.known.tolist() == [0, 1, 3, 4, 5]
    assert (ensemble(collate([train[0]])).argmax(1) != 2).all()


# Runs and checkpoints


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory, farm):
    """A run of pixel classifiers on the chips of the farm."""
    values = {
        "data": {"root": str(farm), "sensors": ["S2", "Landsat"]},
        "pixels": {"members": ["lda", "extra_trees"], "time_steps": 12, "max_pixels": 3000},
        "network": False,
        "task": {"classes": CLASSES},
        "training": {"workers": 0},
    }
    out = tmp_path_factory.mktemp("quick")
    fit(parse(values, "experiment"), out, console=QUIET)
    return out


def read_all(source):
    """All samples of a split."""
    return [source.read(number) for number in range(len(source))]


def test_a_quick_run_beats_chance_and_leaves_its_table(quick_run, farm):
    checkpoint = Checkpoint.load(quick_run / "best.safetensors")
    assert checkpoint.weights == {}
    data = checkpoint.experiment.data
    test = data.split("test")
    train = data.split("train")
    of_majority = majority(read_all(train), read_all(test), 6)
    chance = np.trace(of_majority) / of_majority.sum()
    assert evaluate(checkpoint, test).summary["aAcc"] > chance + 0.2
    rows = list(csv.DictReader((quick_run / "members.csv").open()))
    assert [row["classifier"] for row in rows] == ["lda", "extra_trees", "mean of the chosen"]
    assert not (quick_run / "history.csv").exists()


def test_a_summary_names_the_classifiers_and_no_network(quick_run):
    checkpoint = Checkpoint.load(quick_run / "best.safetensors")
    facts = describe(checkpoint)
    assert facts.keys().isdisjoint({"epoch", "model", "weights", "compared"})
    assert facts["pixels"].endswith(": 100% of the probabilities")
    fitted = checkpoint.pixels
    for member in fitted.members:
        assert f"on {len(fitted.features.names(member.sensors))} features" in facts["pixel classifiers"]
        assert f"{', '.join(member.sensors)}: " in facts["pixel classifiers"]
    assert facts["pixel classes"] == f"{len(fitted.known)} of 6 classes in training labels"
    assert facts["scores"]
    assert "scores" not in describe(replace(checkpoint, scores={}))


def test_series_that_end_early_in_training_help_early_maps(quick_run, farm, tmp_path):
    experiment = Checkpoint.load(quick_run / "best.safetensors").experiment
    truncated = experiment.model_copy(update={"augment": Augment(truncate=1.0)})
    fit(truncated, tmp_path, console=QUIET)
    test = read_all(experiment.data.split("test"))
    day = np.median([sample.span() for sample in test])
    accuracies = []
    for run in (quick_run, tmp_path):
        model = Checkpoint.load(run / "best.safetensors").model()
        correct = 0
        for sample in test:
            early = sample.hide(day, np.inf)
            correct += int((model(collate([early])).argmax(1)[0] == sample.label).sum())
        accuracies.append(correct)
    assert accuracies[1] > accuracies[0]


def test_classifiers_learn_from_val_and_are_judged_there_without_it(quick_run, farm, tmp_path):
    checkpoint = Checkpoint.load(quick_run / "best.safetensors")
    data = checkpoint.experiment.data
    val = data.split("val")
    batch = collate([val.read(0)])
    held_out = checkpoint.for_split("val")
    assert not torch.equal(checkpoint.model()(batch), held_out.model()(batch))
    assert evaluate(held_out, val).summary["mFscore"] == pytest.approx(checkpoint.scores["mFscore"])
    assert checkpoint.for_split("test") is checkpoint
    # A run that may not learn from val ends with the classifiers that the other one keeps aside.
    config = replace(checkpoint.experiment.pixels, learn_from_val=False)
    fit(checkpoint.experiment.model_copy(update={"pixels": config}), tmp_path, console=QUIET)
    without = Checkpoint.load(tmp_path / "best.safetensors")
    assert without.held_out is None
    assert torch.equal(without.model()(batch), held_out.model()(batch))
    # Other chips may not be calibrated on if they are those of val, which the model has learned from.
    names = (farm / "data_lists" / "val.txt").read_text()
    others = tmp_path / "others.txt"
    others.write_text(names)
    with pytest.raises(InputError, match="val"):
        calibrate_checkpoint(checkpoint, tmp_path / "c.safetensors", str(others), console=QUIET)


@pytest.mark.parametrize(
    ("changes", "network"),
    [
        ({}, False),
        ({"training": {"batch_size": 4}}, False),
        ({"training": {"epochs": 3}}, True),
        ({"model": {"branch": "pixel"}}, True),
        ({"start_from": "agrifm-tiny"}, True),
        ({"pixels": None}, True),
        ({"network": True}, True),
        ({"network": False, "training": {"epochs": 3}}, False),
    ],
)
def test_a_network_is_trained_only_where_one_is_described(changes, network):
    values = {"data": {"root": ".", "sensors": ["S2"]}, "task": {"classes": CLASSES}, **changes}
    assert parse(values, "experiment").network is network


def test_a_checkpoint_survives_the_disk_bit_by_bit(quick_run, tmp_path):
    checkpoint = Checkpoint.load(quick_run / "best.safetensors")
    checkpoint.save(tmp_path / "copy.safetensors")
    again = Checkpoint.load(tmp_path / "copy.safetensors")
    batch = collate([checkpoint.experiment.data.split("test").read(0)])
    assert torch.equal(checkpoint.model()(batch), again.model()(batch))


def test_runs_with_equal_seeds_are_equal(quick_run, tmp_path):
    experiment = Checkpoint.load(quick_run / "best.safetensors").experiment
    fit(experiment, tmp_path, console=QUIET)
    first, second = load_file(quick_run / "best.safetensors"), load_file(tmp_path / "best.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def with_context(tmp_path_factory, farm):
    """A checkpoint of classifiers that read the neighbors of each pixel."""
    values = {
        "data": {"root": str(farm), "sensors": ["S2", "Landsat"]},
        "pixels": {"members": ["lda"], "features": ["series", "context"], "time_steps": 6, "max_pixels": 1000},
        "network": False,
        "task": {"classes": CLASSES},
        "training": {"workers": 0},
    }
    return fit(parse(values, "experiment"), tmp_path_factory.mktemp("context"), console=QUIET)


def test_context_survives_the_disk_and_old_checkpoints_have_none(with_context, quick_run, tmp_path):
    checkpoint = Checkpoint.load(with_context)
    assert checkpoint.pixels.features.context
    assert (checkpoint.uses_context, checkpoint.sees_neighbors) == (True, False)
    checkpoint.save(tmp_path / "copy.safetensors")
    again = Checkpoint.load(tmp_path / "copy.safetensors")
    batch = collate([checkpoint.experiment.data.split("test").read(0)])
    assert torch.equal(checkpoint.model()(batch), again.model()(batch))
    # Without the key, the description is that of earlier versions.
    plain = Checkpoint.load(quick_run / "best.safetensors")
    assert "context" not in plain.pixels.description()
    assert not plain.uses_context
    # Arrays for features with context do not fit a description without it.
    without = lambda arrays, header: header.update(pixels=header["pixels"].replace(',\\"context\\":true', ""))  # noqa: E731
    with pytest.raises(InputError, match="pixels"):
        Checkpoint.load(damage(with_context, tmp_path / "damaged.safetensors", without))


def test_a_map_with_context_is_seamless_and_the_same_for_any_tiles(with_context, tmp_path):
    folder = write_scene(tmp_path / "scene", LAND, rows=range(2), columns=range(3), sensors=(S2, LANDSAT))
    scene = agrifm.open_scene(folder)
    options = MapOptions(extras=("probabilities",))
    checkpoint = Checkpoint.load(with_context)
    job = plan(checkpoint, scene, options)
    assert (job.windows.margin, len(job.windows.rows.starts), len(job.windows.columns.starts)) == (3, 2, 3)
    # As if the whole scene were one window.
    whole = Area(0, 0, *scene.grid.shape)
    data = scene.read(whole)
    expected = checkpoint.model()(collate([cut_sample(data, whole)])).softmax(1)[0].numpy()
    with ThreadPoolExecutor(1) as threads:
        blended, _ = job.blend(whole, job.read(whole), threads)
    np.testing.assert_allclose(blended, expected, atol=1e-4)

    mapped = map_scene(with_context, scene, tmp_path / "large" / "map.tif", options)
    small = replace(options, memory=0.1)
    assert len(plan(checkpoint, scene, small).windows.tiles()) > len(job.windows.tiles())
    map_scene(with_context, scene, tmp_path / "small" / "map.tif", small)
    for name in ("map.tif", "map_probabilities.tif"):
        assert (tmp_path / "large" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
    assert mapped.seams.agreement > 0.999
    assert reproduce(tmp_path / "large" / "map.passport.json").identical


def test_context_needs_pixels_that_are_neighbors(with_context, farm, tmp_path):
    experiment = Checkpoint.load(with_context).experiment
    source = experiment.data.split("train")
    folder = tmp_path / "h5"
    folder.mkdir()
    write_chip(folder / "a.h5", source.read(0), (S2, LANDSAT), block="a")
    packed = replace(source, folder=folder, names=("a",))
    with pytest.raises(InputError, match="leave out 'context'"):
        draw_pixels(experiment, packed, None, 100, lambda line: None)
    values = {
        "data": {"root": str(farm), "sensors": ["S2"], "resize": {"S2": [64, 64]}},
        "pixels": {"features": ["series", "context"]},
        "task": {"classes": CLASSES},
    }
    with pytest.raises(InputError, match=r"leave S2 out of data\.resize"):
        parse(values, "experiment")


def damage(path, out, edit):
    """A copy of a checkpoint with other arrays or another header."""
    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
    arrays = load_file(path)
    edit(arrays, header)
    save_file(arrays, out, header)
    return out


def trees(arrays, name):
    """Key of an array of the trees in a checkpoint."""
    return next(key for key in arrays if key.startswith("pixels.") and key.endswith(f".{name}"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda arrays, header: arrays.pop(next(iter(arrays))),
        lambda arrays, header: header.pop("pixels"),
        lambda arrays, header: header.update(pixels="[null, null]"),
        lambda arrays, header: header.update(pixels=header["pixels"].replace("linear", "module")),
        lambda arrays, header: header.update(pixels=header["pixels"].replace('\\"S2\\"', '\\"S9\\"')),
        lambda arrays, header: arrays[trees(arrays, "left")].fill_(10**6),
        lambda arrays, header: arrays[trees(arrays, "feature")].fill_(-1),
        lambda arrays, header: arrays[trees(arrays, "depth")].fill_(10**9),
        lambda arrays, header: arrays[trees(arrays, "std")].fill_(0),
        lambda arrays, header: arrays[trees(arrays, "weight")].fill_(float("nan")),
    ],
)
def test_damaged_checkpoints_are_refused(quick_run, tmp_path, edit):
    # Both kinds of members, whatever the comparison chose.
    checkpoint = Checkpoint.load(quick_run / "best.safetensors")
    both, _ = ensemble_of(samples(1), PixelsConfig(members=("lda", "extra_trees")))
    task = checkpoint.experiment.task
    assert both.classes == task.outputs
    whole = tmp_path / "whole.safetensors"
    replace(checkpoint, pixels=both).save(whole)
    Checkpoint.load(whole)
    with pytest.raises(InputError):
        Checkpoint.load(damage(whole, tmp_path / "damaged.safetensors", edit))


def test_a_run_with_network_averages_both(settings, tmp_path):
    pixels = {"members": ["lda", "logistic"], "time_steps": 8, "max_pixels": 800}
    experiment = parse({**settings, "pixels": pixels}, "experiment")
    out = fit(experiment, tmp_path, console=QUIET)
    checkpoint = Checkpoint.load(out)
    assert checkpoint.pixels is not None
    assert checkpoint.pixel_share in (equal_share(checkpoint.pixels), 1.0)
    assert checkpoint.weights
    alone = Checkpoint.load(tmp_path / "pixels.safetensors")
    batch = collate([experiment.data.split("test").read(0)])
    network = replace(checkpoint, pixel_share=0.0).model()(batch).softmax(1)
    expected = (network + alone.model()(batch).softmax(1)) / 2
    half = replace(checkpoint, pixel_share=0.5).model()(batch).softmax(1)
    torch.testing.assert_close(half, expected, atol=1e-5, rtol=0)
    # The finished run goes on where it was: nothing is trained, and the classifiers are taken up.
    before = load_file(out)
    fit(experiment, tmp_path, console=QUIET)
    after = load_file(out)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_does_not_fit_is_refused_in_a_sentence(settings, tmp_path, quick_run):
    for changes, message in (
        ({"network": False}, "needs a section pixels"),
        ({"network": False, "pixels": {}, "start_from": "agrifm-tiny"}, "start_from holds weights of a network"),
        ({"pixels": {"members": ["lda", "lda"]}}, "each once"),
        ({"pixels": {"members": []}}, "at least one member"),
        ({"pixels": {"members": ["svm"]}}, "extra_trees"),
        ({"pixels": {"features": ["indices"]}}, "add 'series'"),
        ({"pixels": {"time_steps": 1}}, "from 2 to"),
    ):
        with pytest.raises(InputError, match=message):
            parse({**settings, **changes}, "experiment")
    start = parse({**settings, "pixels": {}, "start_from": str(quick_run / "best.safetensors")}, "experiment")
    with pytest.raises(InputError, match="pixel classifiers alone, which has no encoder"):
        fit(start, tmp_path, console=QUIET)
    assert not (tmp_path / "pixels.safetensors").exists()
    quick = parse(settings, "experiment").quick()
    (tmp_path / "history.csv").write_text("epoch\n")
    with pytest.raises(InputError, match="trained a network"):
        fit(quick, tmp_path, console=QUIET)


def test_scenes_are_mapped_and_calibrated_as_with_a_network(quick_run, tmp_path):
    path = tmp_path / "calibrated.safetensors"
    checkpoint = Checkpoint.load(quick_run / "best.safetensors")
    calibrate_checkpoint(checkpoint, path, "val", unit="pixels", console=QUIET)
    scene = agrifm.open_scene(
        write_scene(tmp_path / "scene", LAND, rows=range(1), columns=range(2), sensors=(S2, LANDSAT))
    )
    model = agrifm.load(path)
    mapped = model.map(scene, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        classes = file.read(1)
    assert mapped is not None
    in_memory = model.predict(scene)
    np.testing.assert_array_equal(classes, in_memory["classes"].values)
    assert len(np.unique(classes)) > 2
