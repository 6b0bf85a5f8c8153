"""Confidence: temperature, reliability, class sets whose coverage is checked, flips, ensembles, files and maps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from conftest import SENSORS, TINY, random_sample, unit
from PIL import Image
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app
from agrifm.config import parse
from agrifm.errors import InputError
from agrifm.evaluation.calibration import calibrate, calibrate_checkpoint, fit_temperature, gather, threshold
from agrifm.evaluation.reliability import Pixels, covered, draw, measure
from agrifm.maps.files.writer import NODATA
from agrifm.maps.map_scene import MapOptions, map_scene
from agrifm.maps.provenance import Provenance
from agrifm.nn.ensemble import SYMMETRIES, orient
from agrifm.opening import open_scene
from agrifm.products.reproduce import reproduce
from agrifm.sample import collate
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.tasks.calibration import Calibration, at_temperature

NAMES = tuple(name for name, _ in CLASSES)
ABC = ("a", "b", "c")


def made_up(n, *, temperature=1.0, chips=1, classes=3, seed=0):
    """Probabilities whose truth is drawn from them, then spoiled: the logits are multiplied by the temperature."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((classes, n))
    chances = np.exp(logits) / np.exp(logits).sum(0)
    truth = (rng.random(n) > chances.cumsum(0)).sum(0)
    return Pixels(at_temperature(chances, 1 / temperature), truth, np.arange(n) * chips // n)


def new_chips(count, seed, pixels=40):
    """Chips whose pixels are alike: all of one chip are right or wrong together, more or less."""
    rng = np.random.default_rng(seed)
    luck = np.repeat(rng.standard_normal(count), pixels)
    logit = 1.0 + 1.5 * luck + 0.3 * rng.standard_normal(count * pixels)
    own = 1 / (1 + np.exp(-logit))
    return Pixels(np.stack([own, 1 - own]), np.zeros(len(own), int), np.repeat(np.arange(count), pixels))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature):
    pixels = made_up(40_000, temperature=temperature)
    assert fit_temperature(pixels) == pytest.approx(temperature, rel=0.03)


def test_probabilities_that_come_true_have_no_calibration_error():
    good, sharp = made_up(60_000), made_up(60_000, temperature=3)
    assert measure(*good[:2]).ECE < 0.01
    assert measure(*good[:2]).adaptive_ECE < 0.01
    assert measure(*sharp[:2]).ECE > 0.1
    mended = Calibration(3.0, (0.0,) * 3, 0.9, False, (), "val", "chips", 1, 1, (0, 0)).probabilities(sharp.chances)
    np.testing.assert_allclose(mended, good.chances, atol=1e-4)


def test_errors_and_scores_of_four_pixels():
    """Two classes; by hand: confidences 0.9, 0.9, 0.6, 0.6 of which the first, third and fourth are right."""
    chances = np.array([[0.9, 0.9, 0.4, 0.6], [0.1, 0.1, 0.6, 0.4]])
    found = measure(chances, np.array([0, 1, 1, 0]))
    assert (found.accuracy, found.confidence) == (0.75, pytest.approx(0.75))
    assert pytest.approx(0.5 * abs(0.9 - 0.5) + 0.5 * abs(0.6 - 1)) == found.ECE
    assert found.Brier == pytest.approx((0.02 + 1.62 + 0.32 + 0.32) / 4)
    assert pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]).mean()) == found.NLL
    assert sum(share for share, _, _ in found.bins) == 1
    ranked = measure(np.array([[0.6, 0.7, 0.8, 0.9], [0.4, 0.3, 0.2, 0.1]]), np.array([0, 1, 0, 0]), bins=2)
    assert ranked.adaptive_ECE == pytest.approx(0.5 * abs(0.65 - 0.5) + 0.5 * abs(0.85 - 1))


def test_thresholds_by_hand():
    """Of nine units the ninth-best counts for 90 %; of two chips each weighs the same, however many pixels it has."""
    own = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert threshold(own, np.arange(9), 0.9) == 0.1
    assert threshold(own, np.arange(9), 0.5) == 0.5
    assert threshold(own, np.arange(9), 0.91) is None
    chip = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1])
    assert threshold(own, chip, 1 / 3) == 0.2  # all of the first chip's
    assert threshold(own, chip, 1 / 3 + 0.01) == 0.1


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_new_chips_are_covered_as_often_as_was_asked_for(coverage):
    """Over many draws of a few chips; single pixels as units promise more than they keep."""
    held: dict[str, list[float]] = {"chips": [], "pixels": []}
    for draw_ in range(300):
        seen, new = new_chips(12, draw_), new_chips(60, 10_000 + draw_)
        for unit_, found in held.items():
            units = seen.chip if unit_ == "chips" else np.arange(len(seen.chip))
            least = threshold(seen.chances[0], units, coverage)
            found.append(float((new.chances[0] >= least).mean()))
    mean = {unit_: np.mean(found) for unit_, found in held.items()}
    error = 4 * np.std(held["chips"]) / 300**0.5
    assert coverage - error < mean["chips"] < coverage + 1 / 13 + error
    assert mean["pixels"] < mean["chips"]
    assert mean["pixels"] < coverage


def test_sets_grow_with_coverage_and_always_hold_the_chosen_class():
    pixels, test = made_up(20_000, temperature=2, chips=200), made_up(20_000, temperature=2, chips=200, seed=1)
    sizes, before = [], None
    for coverage in (0.3, 0.8, 0.9, 0.99):
        found = calibrate(pixels, ABC, coverage)
        sets = found.sets(found.probabilities(test.chances))
        assert sets[test.chances.argmax(0), np.arange(20_000)].all()
        assert before is None or (sets | ~before).all()  # none lost
        before, told = sets, covered(found, test, ABC)
        assert told.pixels > coverage - 0.02
        assert coverage < 0.8 or told.pixels < coverage + 0.02
        sizes.append(told.size)
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert (found.bands(found.probabilities(test.chances))[0] == sets.sum(0)).all()


def test_every_class_is_covered_by_its_own_threshold_and_a_class_without_samples_is_named():
    pixels, test = made_up(30_000, chips=300), made_up(30_000, chips=300, seed=1)
    bias = np.array([1.0, 0.2, 1.0])[:, None]  # the model doubts b
    pixels, test = (
        part._replace(chances=part.chances * bias / (part.chances * bias).sum(0)) for part in (pixels, test)
    )
    lopsided = covered(calibrate(pixels, ABC, 0.8), test, ABC).classes
    even = covered(calibrate(pixels, ABC, 0.8, by_class=True), test, ABC).classes
    assert lopsided["b"] < 0.7
    assert all(share == pytest.approx(0.8, abs=0.03) for share in even.values())
    few = Pixels(*(part[..., pixels.truth != 2] for part in pixels))
    found = calibrate(few, ABC, 0.8, by_class=True)
    assert found.shared == ("c",)
    assert found.thresholds[2] == calibrate(few, ABC, 0.8).thresholds[0]
    assert calibrate(few, ABC, 0.8).shared == ("c",)


def test_too_few_chips_and_no_share_are_refused():
    with pytest.raises(InputError, match=r"5 labeled chips in val.*\n.*at least 9.*\n.*at most 0\.83"):
        calibrate(made_up(500, chips=5), ABC, 0.9)
    assert calibrate(made_up(500, chips=5), ABC, 0.9, unit="pixels").chips == 5
    with pytest.raises(InputError, match="between 0 and 1"):
        calibrate(made_up(500, chips=5), ABC, 90)


def network(seed=1, classes=NAMES, sensors=SENSORS, **data):
    """A checkpoint with random weights."""
    values = {"data": {"sensors": ["S2"], "footprint": 480, **data}, "model": {"size": TINY}}
    experiment = parse(values | {"task": {"classes": list(classes)}}).with_sensors(sensors)
    torch.manual_seed(seed)
    return Checkpoint(experiment, build(experiment).state_dict())


def test_flips_are_equivariant_and_change_nothing_else():
    """Turned ground gives the turned map: eight looks are the same looks in another order."""
    checkpoint, batch = network(), collate([random_sample(0), random_sample(1)])
    plain, model = checkpoint.model(), checkpoint.looking(flips=True).model()
    with torch.inference_mode():
        before, straight = model(batch).softmax(1), plain(batch).softmax(1)
        for quarters, mirrored in SYMMETRIES[1:6:2]:
            after = model(orient(batch, quarters, mirrored)).softmax(1)
            expected = torch.rot90(before.flip(-1) if mirrored else before, quarters, (-2, -1))
            torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    assert (before - straight).abs().max() > 1e-3
    assert before.shape == straight.shape == (2, len(NAMES), 24, 28)


def test_an_ensemble_is_the_mean_and_comes_back_from_its_file(tmp_path):
    batch = collate([random_sample(0)])
    for seed in (2, 3):
        network(seed).save(tmp_path / f"{seed}.safetensors")
    both = network(1).looking(others=[tmp_path / "2.safetensors", tmp_path / "3.safetensors"])
    flipped = network(1).looking(flips=True)
    flipped.save(tmp_path / "flipped.safetensors")
    both.save(tmp_path / "all.safetensors")
    with torch.inference_mode():
        single = [network(seed).model()(batch).softmax(1) for seed in (1, 2, 3)]
        mean = Checkpoint.load(tmp_path / "all.safetensors").model()(batch).softmax(1)
        torch.testing.assert_close(mean, sum(single) / 3, atol=1e-6, rtol=1e-5)
        again = Checkpoint.load(tmp_path / "flipped.safetensors").model()(batch)
        torch.testing.assert_close(again, flipped.model()(batch))


def test_models_that_differ_are_not_averaged(tmp_path):
    network(2, classes=NAMES[::-1]).save(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"b\.safetensors: classes\n.*grassland, sugar beet"):
        network().looking(others=[tmp_path / "b.safetensors"])
    network(2, sensors=SENSORS[:1]).save(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=r"c\.safetensors: sensors"):
        network().looking(others=[tmp_path / "c.safetensors"])


CALIBRATED = Calibration(2.5, (0.1,) * 6, 0.9, False, (), "val", "chips", 9, 500, (0.2, 0.1))


def test_calibration_travels_in_the_checkpoint_and_old_files_open_as_before(tmp_path):
    network().save(tmp_path / "old.safetensors")
    old = Checkpoint.load(tmp_path / "old.safetensors")
    assert (old.calibration, old.flips, old.others) == (None, False, ())
    replace(old, calibration=CALIBRATED).save(tmp_path / "new.safetensors")
    new = Checkpoint.load(tmp_path / "new.safetensors")
    assert new.calibration == CALIBRATED
    assert all(torch.equal(new.weights[key], value) for key, value in old.weights.items())
    with pytest.raises(InputError, match="calibrated without them"):
        new.looking(flips=True)
    text = CliRunner().invoke(app, ["show", str(tmp_path / "new.safetensors")]).output
    assert "temperature 2.500" in " ".join(text.split())


@pytest.fixture(scope="module")
def farmer(farm, tmp_path_factory):
    """A checkpoint with random weights that knows where the farm's chips are."""
    path = tmp_path_factory.mktemp("farmer") / "best.safetensors"
    network(sensors=[unit(S2), unit(LANDSAT)], root=str(farm)).save(path)
    return path


def test_the_command_calibrates_checks_and_draws(farmer, farm):
    chips = {split: len((farm / "data_lists" / f"{split}.txt").read_text().split()) for split in ("train", "val")}
    result = CliRunner().invoke(app, ["calibrate", str(farmer), "--coverage", "0.5"])
    assert result.exit_code == 0, result.output
    assert "val chose the epoch" in " ".join(result.output.split())
    told = json.loads(farmer.with_name("calibrated.json").read_text())
    assert set(told["splits"]) == {"train", "val", "test"}
    assert told["calibration"]["chips"] == told["splits"]["val"]["chips"] == chips["val"]
    found = Checkpoint.load(farmer.with_name("calibrated.safetensors")).calibration
    assert found.ece[0] == told["splits"]["val"]["before"]["ECE"]
    assert told["splits"]["val"]["sets"]["chips"] >= 0.5
    assert Image.open(farmer.with_name("calibrated.png")).size[0] > 900
    for split in ("train", "val", "test"):
        before, after = (told["splits"][split][key] for key in ("before", "after"))
        assert before["accuracy"] == after["accuracy"]
    assert told["splits"]["val"]["after"]["NLL"] <= told["splits"]["val"]["before"]["NLL"]


def test_ground_that_was_learned_or_is_tested_is_refused(farmer, farm, tmp_path):
    loaded = Checkpoint.load(farmer)
    for split in ("train", "test"):
        with pytest.raises(InputError, match=f"the {split} split"):
            calibrate_checkpoint(loaded, tmp_path / "c.safetensors", split)
    learned = (farm / "data_lists" / "train.txt").read_text().split()[:1]
    (tmp_path / "list.txt").write_text("\n".join(learned))
    with pytest.raises(InputError, match="also in the train list"):
        calibrate_checkpoint(loaded, tmp_path / "c.safetensors", str(tmp_path / "list.txt"))
    val = (farm / "data_lists" / "val.txt").read_text()
    (tmp_path / "list.txt").write_text(val)
    found, splits = calibrate_checkpoint(loaded, tmp_path / "c.safetensors", str(tmp_path / "list.txt"), 0.5)
    assert found.split == str(tmp_path / "list.txt")
    assert len(splits) == 4
    words = ["calibrate", str(tmp_path / "c.safetensors"), "--flips", "--coverage", "0.5"]
    again = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "d.safetensors")])
    assert again.exit_code == 0, again.output
    assert Checkpoint.load(tmp_path / "d.safetensors").flips
    out = CliRunner().invoke(app, ["calibrate", str(farmer), "--out", str(farmer)])
    assert isinstance(out.exception, InputError)


def test_pixels_are_drawn_from_every_chip(farmer):
    loaded = Checkpoint.load(farmer)
    source = loaded.experiment.data.split("val")
    some, every = gather(loaded, source, most=50), gather(loaded, source, most=10**6)
    assert (np.bincount(some.chip) == 50).all()
    assert len(every.truth) > 10 * len(some.truth)
    again = gather(loaded, source, most=50)
    assert (again.chances == some.chances).all()
    places = {tuple(column) for column in every.chances.T.tolist()}
    assert all(tuple(column) in places for column in some.chances.T.tolist())


def test_codes_count_for_their_classes(farmer):
    """Labels as numbers of a table: each class has the number ten times its place."""
    loaded = Checkpoint.load(farmer)
    task = loaded.experiment.task
    coded = replace(task, classes=tuple(replace(c, codes=(10 * i,)) for i, c in enumerate(task.classes)))

    class Coded:
        def __init__(self, source):
            self.source = source

        def __len__(self):
            return len(self.source)

        def read(self, index, frames=None):
            sample = self.source.read(index, frames)
            return replace(sample, label=torch.where(sample.label < 0, -1, 10 * sample.label))

    source = loaded.experiment.data.split("val")
    plain = gather(loaded, source, most=50)
    with_codes = replace(loaded, experiment=loaded.experiment.model_copy(update={"task": coded}))
    assert (gather(with_codes, Coded(source), most=50).truth == plain.truth).all()


def test_scores_of_flips_and_ensembles_stand_apart(farmer):
    result = CliRunner().invoke(app, ["evaluate", str(farmer), "--split", "val", "--flips", "--ensemble", str(farmer)])
    assert result.exit_code == 0, result.output
    assert (farmer.parent / "scores_val_flips_ensemble" / "scores.json").is_file()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    land = Landscape(rows=2, columns=2, size=48, frames=(("S2", 4), ("Landsat", 3), ("Modis", 3)))
    root = tmp_path_factory.mktemp("land") / "scene"
    return open_scene(write_scene(root, land, rows=range(2), columns=range(2), sensors=(S2, LANDSAT)))


EXTRAS = ("probabilities", "confidence", "entropy", "sets")
OPTIONS = MapOptions(extras=EXTRAS, memory=0.5)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


@pytest.fixture(scope="module")
def maps(scene, tmp_path_factory):
    """The same model before and after calibration, mapped."""
    folder, model = tmp_path_factory.mktemp("maps"), network(sensors=[unit(S2), unit(LANDSAT)])
    model.save(folder / "old.safetensors")
    replace(model, calibration=CALIBRATED).save(folder / "new.safetensors")
    map_scene(folder / "old.safetensors", scene, folder / "old.tif", replace(OPTIONS, extras=EXTRAS[:3]))
    map_scene(folder / "new.safetensors", scene, folder / "new.tif", OPTIONS)
    return folder


def test_a_map_has_calibrated_probabilities_and_the_same_classes(maps):
    classes = read(maps / "new.tif")[0]
    assert (classes == read(maps / "old.tif")[0]).all()
    seen = classes != NODATA
    before, after = (read(maps / f"{name}_probabilities.tif")[:, seen] / 100 for name in ("old", "new"))
    expected = at_temperature(before, 2.5)
    assert np.abs(after - expected).max() < 0.02  # before is rounded to percent
    assert (read(maps / "new_confidence.tif")[0][seen] <= read(maps / "old_confidence.tif")[0][seen]).all()
    with rasterio.open(maps / "new_confidence.tif") as file:
        assert file.tags()["TIFFTAG_IMAGEDESCRIPTION"].startswith("Calibrated probability")


def test_sets_on_a_map(maps):
    with rasterio.open(maps / "new_sets.tif") as file:
        bands, names, text = file.read(), file.descriptions, file.tags()["TIFFTAG_IMAGEDESCRIPTION"]
    assert names == ("number of possible classes", *NAMES)
    assert "90%" in text
    classes = read(maps / "new.tif")[0]
    seen = classes != NODATA
    assert (bands[:, ~seen] == NODATA).all()
    size, members = bands[0][seen], bands[1:, seen]
    assert (members.sum(0) == size).all()
    assert (np.take_along_axis(members, classes[seen][None].astype(int), 0) == 1).all()
    percent = read(maps / "new_probabilities.tif")[:, seen].astype(int)
    assert (members[percent > 11] == 1).all()
    assert (members[(percent < 10) & (percent < percent.max(0))] == 0).all()
    item = json.loads((maps / "new.json").read_text())
    assert item["properties"]["agrifm:calibration"]["temperature"] == 2.5
    assert "sets" in item["assets"]


def test_sets_need_a_calibrated_model(maps, scene, tmp_path):
    with pytest.raises(InputError, match="agrifm calibrate"):
        map_scene(maps / "old.safetensors", scene, tmp_path / "map.tif", OPTIONS)


def test_flips_and_ensembles_stand_in_the_passport_and_are_made_again(maps, scene, tmp_path):
    other = tmp_path / "other.safetensors"
    network(5, sensors=[unit(S2), unit(LANDSAT)]).save(other)
    options = replace(OPTIONS, extras=("confidence",), flips=True, ensemble=(str(other),))
    mapped = map_scene(maps / "old.safetensors", scene, tmp_path / "map.tif", options)
    assert (read(tmp_path / "map_confidence.tif") != read(maps / "old_confidence.tif")).any()
    values = Provenance.load(mapped.files[-1]).values
    assert (values["options"]["flips"], values["ensemble"][0]["path"]) == (True, str(other))
    assert reproduce(mapped.files[-1]).identical
    network(6, sensors=[unit(S2), unit(LANDSAT)]).save(other)
    with pytest.raises(InputError, match=r"other\.safetensors\n.*another model"):
        reproduce(mapped.files[-1])


def test_chips_get_sets_and_calibrated_probabilities(farmer, farm, tmp_path):
    name = (farm / "data_lists" / "test.txt").read_text().split()[0]
    (tmp_path / "chips").mkdir()
    (tmp_path / "chips" / f"{name}.h5").symlink_to(farm / "h5_samples" / f"{name}.h5")
    new = tmp_path / "new.safetensors"
    replace(Checkpoint.load(farmer), calibration=CALIBRATED).save(new)
    for path, out, more in ((farmer, "old", []), (new, "new", ["--sets"])):
        words = ["predict", str(path), str(tmp_path / "chips"), str(tmp_path / out), "--probabilities", *more]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output + str(result.exception)
    before, after = (read(tmp_path / key / f"{name}_probabilities.tif") for key in ("old", "new"))
    np.testing.assert_allclose(after, at_temperature(before, 2.5), atol=1e-5)
    assert (read(tmp_path / "new" / f"{name}_sets.tif") == CALIBRATED.bands(after)).all()


def test_the_diagram_is_a_picture(tmp_path):
    pairs = {"val": (measure(*made_up(500, temperature=3)[:2]), measure(*made_up(500)[:2]))}
    draw(pairs, tmp_path / "r.png")
    assert Image.open(tmp_path / "r.png").size[0] > 300
