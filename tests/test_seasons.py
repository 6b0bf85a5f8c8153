"""Early in the season, without sensors, through gaps: nothing of what was not seen reaches a score or a map."""

import datetime as dt
import json
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from conftest import FEW_PIXELS, SENSORS, TINY, random_sample, unit
from PIL import Image
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint, build
from agrifm.cli import app, shell
from agrifm.config import load, parse
from agrifm.data.chips import write_chip
from agrifm.data.folder import ChipFolder, SampleSubset
from agrifm.data.growing_season import GrowingSeason, date_of, day_number, growing_season_of
from agrifm.data.loader import Split
from agrifm.data.transforms import Augment, truncate
from agrifm.errors import InputError
from agrifm.evaluation.as_of import SeasonSamples, as_of_day
from agrifm.evaluation.missing_sensors import early_season, failures, first_days
from agrifm.evaluation.score_table import ScoreTable
from agrifm.evaluation.scoring import evaluate
from agrifm.maps.files.writer import NODATA
from agrifm.maps.map_scene import map_scene
from agrifm.maps.predict_chips import predict
from agrifm.nn.embedding import Series, resample_in_time
from agrifm.nn.model import CropModel, ModelConfig
from agrifm.nn.swin import SwinSize
from agrifm.opening import open_scene
from agrifm.sample import Season, collate
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.training.fit import fit

NAMES = [name for name, _ in CLASSES]
CONFIG = Path(__file__).parents[1] / "configs" / "early_season.yaml"


def day(text):
    return day_number(dt.date.fromisoformat(text))


def dated(first, step, *, seed=0, frames=6, **more):
    """A random sample whose images are some days apart."""
    sample = random_sample(seed, frames=frames, **more)
    dates = {name: day(first) + step * torch.arange(len(x)) for name, x in sample.images.items()}
    return replace(sample, dates=dates)


class Listed:
    """Samples as a source."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def read(self, index, frames=None):
        return self.samples[index]


# Samples


def test_hidden_days_are_gone_with_their_dates_and_masks():
    sample = dated("2023-04-01", 10)
    kept = sample.hide(day("2023-04-11"), day("2023-04-21"))
    for name, image in sample.images.items():
        left = [i for i in range(len(image)) if i not in (1, 2)]
        assert torch.equal(kept.images[name], image[left])
        assert torch.equal(kept.valid[name], sample.valid[name][left])
        assert torch.equal(kept.dates[name], sample.dates[name][left])
    assert torch.equal(kept.label, sample.label)


def test_a_sensor_without_frames_is_gone_and_one_unseen_frame_stays_at_last():
    sample = dated("2023-04-01", 10)
    sample = replace(sample, dates=sample.dates | {"Landsat": sample.dates["Landsat"] + 100})
    early = sample.hide(day("2023-06-01"), inf)
    assert list(early.images) == ["S2", "Modis"]
    for nothing in (sample.hide(-inf, inf), early.only(["Landsat"])):
        assert {len(image) for image in nothing.images.values()} == {1}
        assert not any(mask.any() for mask in nothing.valid.values())
    assert list(sample.only(["Landsat", "Modis"]).images) == ["Landsat", "Modis"]


def test_frames_without_dates_keep_their_place_in_the_year():
    sample = random_sample(0, frames=6)
    kept = sample.hide(100, inf)
    assert torch.equal(kept.days("S2"), sample.days("S2")[:2])


# Training


def test_seasons_end_on_every_day_from_the_first_image_to_the_last():
    sample, ends = dated("2023-04-01", 10), set()
    for seed in range(500):
        cut = truncate(sample, np.random.default_rng(seed))
        ends.add(cut.span()[1])
        assert cut.span()[0] == sample.span()[0]
        for name, image in cut.images.items():
            assert torch.equal(image, sample.images[name][: len(image)])
    assert ends == set(range(day("2023-04-01"), day("2023-06-01"), 10))


def test_truncation_is_a_function_of_seed_epoch_and_sample():
    samples = Listed(*(dated("2023-04-01", 10, seed=i, size=(24, 24)) for i in range(8)))
    split = Split(samples, augment=Augment(truncate=0.5), seed=1)

    def lengths(epoch):
        return [len(split[(epoch, i)].images.get("S2", ())) for i in range(8)]

    assert lengths(0) == lengths(0)
    assert lengths(0) != lengths(1)
    full = [length for epoch in range(12) for length in lengths(epoch)].count(6) / 96
    assert 0.4 < full < 0.75  # half, and those that end on the last day
    alone = Split(samples, seed=1)
    assert all(len(alone[(0, i)].images["S2"]) == 6 for i in range(8))
    plain = Split(samples, augment=Augment(), seed=1)[(0, 3)]
    assert torch.equal(Split(samples, augment=Augment(truncate=0.0), seed=1)[(0, 3)].images["S2"], plain.images["S2"])


def test_the_shipped_experiment_trains_a_step(farm, tmp_path):
    settings = [
        f"data.root={farm}",
        "data.sensors=[S2, Landsat]",
        "augment.crop=24",
        "training.epochs=1",
        "training.limit_train_batches=1",
        f"pixels={json.dumps(FEW_PIXELS)}",
    ]
    values = yaml.safe_load(CONFIG.read_text())
    assert values["augment"]["truncate"] > 0
    experiment = load(CONFIG, [*settings, "training.limit_train_batches=1", f"model.size={json.dumps(TINY)}"])
    checkpoint = Checkpoint.load(fit(experiment, tmp_path))
    assert checkpoint.experiment.data.seasons == (GrowingSeason("03-01", "10-31", "growing season"),)
    assert checkpoint.experiment.model.season is not None


# The model


@pytest.mark.parametrize("calendar", [None, 8])
def test_a_truncated_batch_equals_deleted_frames_and_hides_the_future(calendar):
    """The same output from frames that are gone, from frames that are masked, and whatever the future holds."""
    torch.manual_seed(0)
    config = ModelConfig(SwinSize(16, (1, 1), (1, 2)), (1, 2, 2), time_steps=calendar, season=Season(90.0, 70.0))
    model = CropModel(SENSORS, 5, config).eval()
    for parameter in model.context.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    samples = [dated("2023-04-01", 10, seed=i) for i in range(3)]
    cuts = [day("2023-04-15"), day("2023-05-02"), day("2023-07-01")]
    cut = [sample.hide(end + 1, inf) for sample, end in zip(samples, cuts, strict=True)]
    with torch.no_grad():
        together = model(collate(cut))
        for sample, expected in zip(cut, together, strict=True):
            torch.testing.assert_close(model(collate([sample]))[0], expected, rtol=1e-4, atol=1e-4)
        changed = [
            replace(
                sample,
                images={
                    n: x.float() + 50 * (sample.dates[n] > end)[:, None, None, None] for n, x in sample.images.items()
                },
            )
            for sample, end in zip(samples, cuts, strict=True)
        ]
        again = model(collate([sample.hide(end + 1, inf) for sample, end in zip(changed, cuts, strict=True)]))
        torch.testing.assert_close(again, together, rtol=0, atol=0)
        if calendar is not None:
            masked = [
                replace(s, valid={n: mask & (s.dates[n] <= end)[:, None, None] for n, mask in s.valid.items()})
                for s, end in zip(changed, cuts, strict=True)
            ]
            torch.testing.assert_close(model(collate(masked)), together, rtol=1e-4, atol=1e-4)


def test_on_the_calendar_days_after_the_end_count_as_not_seen():
    days = torch.arange(0, 100, 10.0)[None]
    image, valid = days.view(1, 10, 1, 1, 1).clone(), torch.ones(1, 10, 1, 1, dtype=torch.bool)
    whole = resample_in_time(Series(image, valid, days), torch.zeros(1), 100.0, 10)
    cut = resample_in_time(Series(image[:, :4], valid[:, :4], days[:, :4]), torch.zeros(1), 100.0, 10)
    assert whole.valid.all()
    assert cut.valid.flatten().tolist() == [True] * 4 + [False] * 6  # the last image is of day 30, dates are 5, 15, ...
    assert torch.equal(cut.image[:, :3], whole.image[:, :3])
    assert cut.image[0, 3:].unique().tolist() == [30.0]


# Calendars


def test_calendars_cross_the_new_year_and_find_the_year_of_a_series():
    winter = GrowingSeason("10-01", "07-31")
    assert [str(date_of(x)) for x in winter.span(2017)] == ["2017-10-01", "2018-07-31"]
    series = torch.arange(day("2017-08-01"), day("2018-12-31"), 12)
    assert winter.of(series, "x") == winter.span(2017)
    assert winter.on("12-31", winter.span(2017)[0]) == day("2017-12-31")
    assert winter.on("03-31", winter.span(2017)[0]) == day("2018-03-31")
    assert winter.on("09-20", winter.span(2017)[0]) == day("2017-09-20")
    south = GrowingSeason("11-01", "05-31")
    assert south.of(torch.tensor([day("2020-12-24"), day("2021-02-28")]), "x")[0] == day("2020-11-01")


def test_a_sample_is_cut_to_its_season_and_two_a_year_are_told_apart_by_name():
    first, second = (
        GrowingSeason("03-01", "06-30", "first rice", "rice1*"),
        GrowingSeason("07-01", "11-30", "second rice", "rice2*"),
    )
    sample = dated("2023-02-01", 40, frames=8)
    assert growing_season_of([first, second], "rice2_r00c00") is second
    spans = [[str(date_of(x)) for x in calendar.cut(sample).span()] for calendar in (first, second)]
    assert spans == [["2023-03-13", "2023-06-01"], ["2023-07-11", "2023-11-08"]]
    with pytest.raises(InputError, match=r"maize7.*\n.*\n.*rice1\* or rice2\*"):
        growing_season_of([first, second], "maize7")


def test_a_calendar_without_images_is_refused_with_the_dates_found():
    with pytest.raises(InputError, match=r"'winter'\n.*2023-05-01 to 2023-06-30\n.*11-01 and 02-28"):
        GrowingSeason("11-01", "02-28", "winter").cut(dated("2023-05-01", 10, frames=7))
    experiment = {
        "data": {"sensors": ["S2"], "seasons": {"start": "13-01", "end": "02-28"}},
        "task": {"classes": ["a", "b"]},
    }
    with pytest.raises(InputError, match=r"a day of every year as MM-DD, e\.g\. 10-01; '13-01' is none"):
        parse(experiment)
    experiment["data"]["seasons"] = [{"start": "03-01", "end": "06-30"}, {"start": "07-01", "end": "11-30"}]
    with pytest.raises(InputError, match="a different name"):
        parse(experiment)


def test_chips_are_read_in_their_season(farm):
    listed = farm / "data_lists" / "test.txt"
    whole = ChipFolder.from_list(farm / "h5_samples", listed, [S2]).read(0)
    seasons = [GrowingSeason("05-01", "07-31")]
    source = ChipFolder.from_list(farm / "h5_samples", listed, [S2], seasons=seasons)
    inside = (whole.dates["S2"] >= day("2023-05-01")) & (whole.dates["S2"] <= day("2023-07-31"))
    assert 0 < inside.sum() < len(inside)
    assert torch.equal(source.read(0).dates["S2"], whole.dates["S2"][inside])
    assert len(source.read(0, lambda total: np.arange(1)).dates["S2"]) == 1


# Days that a command may name


def line(calendar=None, *samples):
    return SeasonSamples.of(Listed(*(samples or [dated("2023-04-05", 30)])), [calendar] if calendar else [])[0]


def test_days_of_the_season():
    winter = line(GrowingSeason("10-15", "03-10"), dated("2022-11-01", 20))
    assert winter.moments("monthly") == ["10-31", "11-30", "12-31", "01-31", "02-28", "03-10"]
    assert winter.moments("12-15:01-20:15") == ["12-15", "12-30", "01-14", "01-20"]
    assert winter.moments("2022-12-15:2023-02-10:monthly") == ["2022-12-31", "2023-01-31", "2023-02-10"]
    assert winter.moments("2022-12-15, 01-10") == ["2022-12-15", "01-10"]
    assert winter.last_days("01-10") == (day("2023-01-10"),)
    covered = line()
    assert (covered.growing_season.start, covered.growing_season.end) == ("04-05", "10-02")
    assert covered.images("05-31") == 6  # two of each of three sensors
    for text in ("05-32", "2023-05-01:06-01:5", "05-01:06-01:x", "05-01:06-01", "06-01:05-01:7", ""):
        with pytest.raises(InputError, match="expected: a day"):
            covered.moments(text)


def test_seasons_of_a_year_are_their_own_in_every_year():
    two = line(None, dated("2022-04-05", 30), dated("2024-04-01", 30, seed=1))
    assert two.last_days("06-30") == (day("2022-06-30"), day("2024-06-30"))
    assert two.last_days("2024-05-01") == (day("2024-05-01"),) * 2


def test_series_longer_than_a_year_need_days_with_their_year():
    long = line(None, dated("2022-04-05", 70, frames=8))
    with pytest.raises(InputError, match="2018-03-31:2018-10-31:monthly"):
        long.moments("monthly")
    assert long.moments("2022-05-01") == ["2022-05-01"]
    assert long.gaps(2)


def test_gaps_begin_in_every_month_and_hide_nothing_else():
    calm = line(GrowingSeason("04-01", "09-30"))
    gaps = calm.gaps(2)
    assert list(gaps) == ["04-01", "05-01", "06-01", "07-01", "08-01"]
    source = calm.source.read(0)
    for view in gaps.values():
        ((first, last),) = view.hidden
        left = view.read(0).dates["S2"].tolist()
        assert left == [x for x in source.dates["S2"].tolist() if not first <= x <= last]
    with pytest.raises(InputError, match="1 to 5 months"):
        calm.gaps(6)


def test_nothing_seen_and_no_dates_are_refused():
    with pytest.raises(InputError, match="images from 2023-04-05 to 2023-10-02"):
        as_of_day(Listed(dated("2023-04-05", 30)), (), "2023-04-01")
    with pytest.raises(InputError, match="S2, Landsat, Modis without dates"):
        SeasonSamples.of(Listed(random_sample(0)))


# Scores, by hand


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with random weights and a calendar."""
    values = {"data": {"sensors": [S2.name], "footprint": 480}, "model": {"size": TINY, "time_steps": 8}}
    experiment = parse(values | {"task": {"classes": NAMES}, "training": {"workers": 0}})
    experiment = experiment.with_sensors([unit(sensor) for sensor in (S2, LANDSAT)]).with_season(Season(60.0, 245.0))
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    Checkpoint(experiment, build(experiment).state_dict()).save(path)
    return path


def test_the_table_holds_what_evaluate_says_of_deleted_frames(model, farm):
    checkpoint = Checkpoint.load(model)
    source = ChipFolder.from_list(farm / "h5_samples", farm / "data_lists" / "test.txt", (S2, LANDSAT))
    table = early_season(checkpoint, source, "04-30,2023-07-31,11-30")
    assert [row["as of"] for row in table.rows] == ["04-30", "2023-07-31", "11-30"]
    assert [row["images"] for row in table.rows] == sorted(row["images"] for row in table.rows)
    for row, last in zip(table.rows, ("2023-04-30", "2023-07-31", "2023-11-30"), strict=True):
        deleted = Listed(*(source.read(i).hide(day(last) + 1, inf) for i in range(len(source))))
        scores = evaluate(checkpoint, deleted)
        assert row["mFscore"] == scores.summary["mFscore"]
        assert [row[f"F {entry.name}"] for entry in scores.classes] == pytest.approx(
            [entry.Fscore for entry in scores.classes], nan_ok=True
        )
    assert table.rows[-1]["aAcc"] == evaluate(checkpoint, source).summary["aAcc"]


def test_the_first_day_that_reaches_a_target():
    rows = [
        {"season": "s", "as of": at, "images": 1, "mFscore": a, "F x": b}
        for at, a, b in (("04-30", 0.2, float("nan")), ("05-31", 0.8, 0.1), ("06-30", 0.7, 0.9))
    ]
    table = ScoreTable(("season", "as of", "images"), tuple(rows))
    assert first_days(table, 0.8) == {"s": {"mFscore": "05-31", "F x": "06-30"}}
    assert first_days(table, 0.95) == {"s": {"mFscore": None, "F x": None}}


def test_each_season_has_its_own_curve(model, farm):
    names = (farm / "data_lists" / "test.txt").read_text().split()
    one, two = (GrowingSeason("04-01", "08-31", "west", names[0]), GrowingSeason("05-01", "09-30", "east"))
    experiment = Checkpoint.load(model).experiment
    data = experiment.data.model_copy(update={"seasons": (one, two)})
    checkpoint = replace(Checkpoint.load(model), experiment=experiment.model_copy(update={"data": data}))
    source = ChipFolder.from_list(
        farm / "h5_samples", farm / "data_lists" / "test.txt", (S2, LANDSAT), seasons=data.seasons
    )
    table = early_season(checkpoint, source, "monthly")
    assert len(names) > 1
    assert next(row["as of"] for row in table.rows if row["season"] == "west") == "04-30"
    assert [row["as of"] for row in table.rows if row["season"] == "east"][-1] == "09-30"
    assert set(first_days(table, 0.5)) == {"west", "east"}


def test_sensors_that_fail(model, farm):
    checkpoint = Checkpoint.load(model)
    source = ChipFolder.from_list(farm / "h5_samples", farm / "data_lists" / "test.txt", (S2, LANDSAT))
    table, runs = failures(checkpoint, source, gaps=[1, 2])
    assert [row["missing"] for row in table.rows][:3] == ["nothing", "Landsat", "S2"]
    without = Listed(*(source.read(i).without("S2") for i in range(len(source))))
    assert table.rows[2]["mFscore"] == evaluate(checkpoint, without).summary["mFscore"]
    ones = [row for row in runs.rows if row["missing"] == "1 month"]
    assert len(ones) == len(SeasonSamples.of(source)[0].gaps(1))
    worst = min(ones, key=lambda row: row["mFscore"])
    found = {row["missing"]: row["mFscore"] for row in table.rows}
    assert found[f"1 month, worst (from {worst['from']})"] == worst["mFscore"]
    assert found["1 month, mean"] == pytest.approx(np.mean([row["mFscore"] for row in ones]))


def test_a_chip_that_lacks_all_that_is_left_is_scored_as_unseen(model, farm):
    """Of a chip without Landsat, seen by Landsat alone, the model says what it expects of unseen ground."""
    checkpoint = Checkpoint.load(model)
    name = (farm / "data_lists" / "test.txt").read_text().split()[0]
    sample = ChipFolder(farm / "h5_samples", (name,), (S2, LANDSAT)).read(0).without("Landsat")
    other = replace(sample, images={"S2": sample.images["S2"].flip(-1) + 7})
    found = [evaluate(checkpoint, SampleSubset(Listed(one), (0,), (), ("Landsat",))) for one in (sample, other)]
    assert found[0] == found[1]
    assert sum(map(sum, found[0].confusion)) == 48 * 48


# The command


def agrifm(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    return result.output


def test_the_command_prints_and_writes_curves_and_tables(model, farm, tmp_path, monkeypatch):
    monkeypatch.setattr(shell.console, "_width", 160)
    text = agrifm("evaluate", model, "--root", farm, "--as-of", "monthly", "--target", "0.05", "--out", tmp_path)
    assert "05-31" in text
    assert "0.05 is first reached by" in text
    written = json.loads((tmp_path / "early_season.json").read_text())
    assert written["target"] == 0.05
    assert next(iter(written["reached"]["season"])) == "aAcc"
    lines = (tmp_path / "early_season.csv").read_text().splitlines()
    assert len(lines) == 1 + len(written["rows"])
    assert (tmp_path / "early_season.md").read_text().count("\n") == 2 + len(written["rows"])
    assert Image.open(tmp_path / "early_season.png").size[0] > 500
    text = agrifm("evaluate", model, "--root", farm, "--sensors", "--gaps", "1", "--out", tmp_path)
    assert "1 month, worst" in text
    assert "maize" in text
    monkeypatch.setattr(shell.console, "_width", 80)
    text = agrifm("evaluate", model, "--root", farm, "--sensors", "--gaps", "1", "--out", tmp_path)
    assert "1 month, worst" in text
    assert "maize" not in text
    assert "the window is too narrow" in " ".join(text.split())
    assert len(json.loads((tmp_path / "failures.json").read_text())["runs"]) > 4
    agrifm("evaluate", model, "--root", farm, "--as-of", "2023-06-30", "--out", tmp_path / "scores")
    assert (tmp_path / "scores_2023-06-30" / "scores.json").is_file()
    for words in (["--as-of", "monthly", "--sensors"], ["--gaps", "one"], ["--as-of", "2023-01-01"]):
        result = CliRunner().invoke(app, ["evaluate", str(model), "--root", str(farm), *words])
        assert isinstance(result.exception, InputError)


# Maps


@pytest.mark.parametrize("moment", ["2023-05-20", "2023-07-31", "2023-12-31"])
def test_map_and_evaluation_as_of_a_day_agree_pixel_for_pixel(model, tmp_path, moment):
    """One place as image files and as a chip: the map of the scene is the prediction of the chip and its score."""
    land = Landscape(rows=1, columns=1, size=48, frames=(("S2", 6), ("Landsat", 4)))
    folder = write_scene(tmp_path / "scene", land, rows=range(1), columns=range(1), sensors=(S2, LANDSAT))
    scene = open_scene(folder)
    map_scene(model, scene.until(dt.date.fromisoformat(moment)), tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        mapped = file.read(1)
    area = Area(0, 0, 48, 48)
    sample = replace(cut_sample(scene.read(area), area), label=land.sample(0, 0, (S2,)).label)
    write_chip(tmp_path / "chips" / "place.h5", sample, (S2, LANDSAT), scene.georeference(area))
    source = as_of_day(ChipFolder(tmp_path / "chips", ("place",), (S2, LANDSAT)), (), moment)
    checkpoint = Checkpoint.load(model)
    (path,) = predict(checkpoint, source, tmp_path / "predicted", force_png=True)
    predicted = np.asarray(Image.open(path))
    assert np.array_equal(mapped, predicted)
    assert len(np.unique(mapped)) > 1
    label, confusion = np.asarray(source.read(0).label), np.zeros((len(NAMES), len(NAMES)), int)
    seen = mapped != NODATA
    np.add.at(confusion, (label[seen], mapped[seen]), 1)
    scored = np.array(evaluate(checkpoint, source).confusion)
    assert (confusion <= scored).all()
    assert scored.sum() - confusion.sum() == (~seen).sum()


def test_a_scene_is_cut_to_its_season(model, tmp_path):
    land = Landscape(rows=1, columns=1, size=48, frames=(("S2", 6), ("Landsat", 4)))
    scene = open_scene(write_scene(tmp_path / "scene", land, rows=range(1), columns=range(1), sensors=(S2, LANDSAT)))
    checkpoint = Checkpoint.load(model)
    data = checkpoint.experiment.data.model_copy(update={"seasons": (GrowingSeason("03-01", "06-15", chips="sce*"),)})
    cut = replace(checkpoint, experiment=checkpoint.experiment.model_copy(update={"data": data}))
    cut.save(tmp_path / "cut.safetensors")
    map_scene(tmp_path / "cut.safetensors", scene, tmp_path / "season.tif")
    map_scene(model, scene.until(dt.date(2023, 6, 15)), tmp_path / "until.tif")
    with rasterio.open(tmp_path / "season.tif") as one, rasterio.open(tmp_path / "until.tif") as other:
        assert np.array_equal(one.read(), other.read())
    with pytest.raises(InputError, match=r"data\.seasons: other"):
        map_scene(tmp_path / "cut.safetensors", replace(scene, name="other"), tmp_path / "no.tif")
