"""Tables of labeled pixels: layouts, units, splits, refusals, and a map of a scene from a table alone."""

from __future__ import annotations

import csv
from dataclasses import replace

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import torch
from conftest import FEW_PIXELS
from made_maps import a_map
from rich.console import Console
from typer.testing import CliRunner

import agrifm
from agrifm.checkpoint import Checkpoint
from agrifm.cli import app
from agrifm.config import load, parse
from agrifm.data.chips import Georeference, read_block, write_chip
from agrifm.errors import InputError
from agrifm.evaluation.scoring import evaluate
from agrifm.sample import Sample
from agrifm.sample_tables.columns import TableOptions
from agrifm.sample_tables.offset import offset_warning
from agrifm.sample_tables.suggest import suggest
from agrifm.sample_tables.suspects.check import check_labels, open_experiment, write_suspects
from agrifm.sample_tables.suspects.confident import contradictions, thresholds
from agrifm.sample_tables.table import read_table
from agrifm.sample_tables.writer import SamplePlan, write_samples
from agrifm.sensors import LANDSAT, S2
from agrifm.statistics.interpretation import estimates, read_answers
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.training.fit import fit
from agrifm.training.pixel_stage import blocks_of

QUIET = Console(quiet=True)
DATES = ["2018-03-01", "2018-05-10", "2018-07-20"]
BANDS = ["B04", "B08"]
CROPS = ["wheat", "maize"]
RED_AND_INFRARED = replace(S2, bands=(S2.bands[2], S2.bands[3]), statistics=None)


def long_table(samples=20, dates=DATES, bands=BANDS, seed=0, darkest=800):
    """One row for each sample and date: digital numbers that tell two crops apart."""
    rng = np.random.default_rng(seed)
    rows = []
    for sample in range(samples):
        crop = CROPS[sample % 2]
        for number, date in enumerate(dates):
            green = 2000 if (crop == "wheat") == (number == 0) else 0
            values = {band: darkest + green * (band == "B08") + int(rng.integers(0, 200)) for band in bands}
            rows.append({"id": f"s{sample:02d}", "date": date, "crop": crop, **values})
    return pandas.DataFrame(rows)


def wide_table(pattern, **options):
    """The same values, one row for each sample."""
    frame = long_table(**options)
    names = {date: number for number, date in enumerate(DATES, 1)}
    rows = {}
    for row in frame.to_dict("records"):
        of_sample = rows.setdefault(row["id"], {"id": row["id"], "crop": row["crop"]})
        for band in BANDS:
            date = row["date"]
            name = pattern.format(band=band, date=date, plain=date.replace("-", ""), step=names[date])
            of_sample[name] = row[band]
    return pandas.DataFrame(rows.values())


def saved(frame, folder, name="table.csv"):
    path = folder / name
    frame.to_csv(path, index=False)
    return path


def refused(frame, folder, options=TableOptions(), plan=SamplePlan()):  # noqa: B008 (frozen)
    """The message with which a table is refused; nothing is written."""
    with pytest.raises(InputError) as caught:
        write_samples(saved(frame, folder), folder / "out", options, plan)
    assert not (folder / "out").exists()
    return str(caught.value)


def series(table):
    """Days and values of all samples by name."""
    found = {}
    for number, name in enumerate(table.ids):
        of_sample = table.sample == number
        found[name] = (table.days[of_sample].tolist(), table.values[of_sample].tolist())
    return found


# Layouts


@pytest.mark.parametrize(
    ("pattern", "dates"),
    [
        ("{band}_{date}", None),
        ("{date}_{band}", None),
        ("{band}_{plain}", None),
        ("{plain}T104021_{plain}T104022_T31TEJ_{band}", None),
        ("{band}_{step}", ",".join(DATES)),
        ("{step}_{band}", ",".join(DATES)),
    ],
)
def test_long_and_wide_tables_hold_the_same_samples(tmp_path, pattern, dates):
    long = read_table(saved(long_table(), tmp_path, "long.csv"))
    wide = read_table(saved(wide_table(pattern), tmp_path, "wide.csv"), TableOptions(dates=dates))
    assert series(long) == series(wide)
    assert long.notes[0].startswith("long")
    assert wide.notes[0].startswith("wide")
    assert long.sensor.band_ids == wide.sensor.band_ids == ("B04", "B08")


def test_a_label_is_stated_once_or_on_each_row(tmp_path):
    frame = long_table()
    once = frame.copy()
    once.loc[once["date"] != DATES[1], "crop"] = ""
    tables = [read_table(saved(frame, tmp_path, "a.csv")), read_table(saved(once, tmp_path, "b.csv"))]
    assert tables[0].labels.tolist() == tables[1].labels.tolist() == CROPS * 10


def test_other_formats_hold_the_same_samples(tmp_path):
    frame = long_table()
    frame["lon"] = np.repeat(np.arange(20) / 10, 3)
    frame["lat"] = 45.0
    expected = read_table(saved(frame, tmp_path))
    frame.to_parquet(tmp_path / "table.parquet")
    frame.assign(date=pandas.to_datetime(frame["date"])).to_parquet(tmp_path / "times.parquet")
    points = geopandas.points_from_xy(frame["lon"], frame["lat"], crs="EPSG:4326")
    layer = geopandas.GeoDataFrame(frame.drop(columns=["lon", "lat"]), geometry=points).to_crs("EPSG:32631")
    layer.to_file(tmp_path / "table.gpkg")
    layer.to_parquet(tmp_path / "table.geoparquet")
    saved(frame, tmp_path, "semicolon.csv")
    text = (tmp_path / "semicolon.csv").read_text().replace(",", ";")
    (tmp_path / "semicolon.csv").write_text(text)
    for name in ("table.parquet", "times.parquet", "table.gpkg", "table.geoparquet", "semicolon.csv"):
        table = read_table(tmp_path / name)
        assert series(table) == series(expected), name
        np.testing.assert_allclose(table.places.lonlat, expected.places.lonlat, atol=1e-6)


def test_numbered_steps_take_a_first_day_and_an_interval(tmp_path):
    path = saved(wide_table("{band}_{step}"), tmp_path)
    table = read_table(path, TableOptions(dates="2018-01-01/16"))
    assert np.unique(table.days).tolist() == [17532, 17548, 17564]
    with pytest.raises(InputError, match="3 steps with numbers from 1 to 3, but no dates"):
        read_table(path)
    with pytest.raises(InputError, match="3, one for each step of the table"):
        read_table(path, TableOptions(dates="2018-01-01,2018-02-01"))
    with pytest.raises(InputError, match="3, one for each step of the table"):
        read_table(path, TableOptions(dates=",".join(["2018-01-01"] * 40)))  # longer than a file name
    (tmp_path / "dates.txt").write_text("2018-01-01\n2018-01-17\n\n2018-02\n")
    table = read_table(path, TableOptions(dates=str(tmp_path / "dates.txt")))
    assert np.unique(table.days).tolist() == [17532, 17548, 17577]
    with pytest.raises(InputError, match="no such file"):
        read_table(path, TableOptions(dates="steps.txt"))


# Sensors and units


def test_the_sensor_follows_from_the_columns(tmp_path):
    def sensor_of(columns, options=TableOptions()):  # noqa: B008 (frozen)
        frame = long_table()[["id", "date", "crop"]]
        values = {column: np.full(len(frame), 1234.0) for column in columns}
        return read_table(saved(frame.assign(**values), tmp_path), options).sensor

    assert sensor_of(S2.band_ids) == S2
    assert sensor_of([f"B{int(band[1:])}" if band[1:].isdigit() else band for band in S2.band_ids]) == S2
    assert sensor_of(LANDSAT.band_ids) == LANDSAT
    assert sensor_of(["blue", "green", "red", "nir08", "swir16", "swir22"]) == LANDSAT
    some = sensor_of(["B08", "B04", "ndvi"])
    assert (some.name, some.band_ids, some.scale) == ("S2", ("B04", "B08"), S2.scale)
    index = sensor_of(["NDVI"])
    assert (index.name, index.band_ids, index.scale) == ("Table", ("NDVI",), 1.0)
    assert sensor_of(["VV", "VH"], TableOptions(bands=("VV", "VH"))).band_ids == ("VV", "VH")
    with pytest.raises(InputError, match=r"bands that S2 and Landsat both have[\s\S]*--sensor S2"):
        sensor_of(["B02", "B03"])
    assert sensor_of(["B02", "B03"], TableOptions(sensor="Landsat")).name == "Landsat"


def test_reflectance_and_digital_numbers_become_the_stored_numbers_of_the_sensor(tmp_path):
    frame = long_table()
    numbers = read_table(saved(frame, tmp_path))
    share = frame.assign(B04=frame["B04"] / 10_000, B08=frame["B08"] / 10_000)
    reflectance = read_table(saved(share, tmp_path))
    np.testing.assert_allclose(reflectance.values, numbers.values, rtol=1e-6)
    assert any(note.startswith("units: reflectance (") for note in reflectance.notes)
    shifted = frame.assign(B04=frame["B04"] + 1000, B08=frame["B08"] + 1000)
    table = read_table(saved(shifted, tmp_path), TableOptions(scale=1e-4, offset=-0.1))
    np.testing.assert_allclose(table.values, numbers.values, rtol=1e-6)


def test_units_that_cannot_be_recognized_are_refused(tmp_path):
    frame = long_table()
    message = refused(frame.assign(B04=frame["B04"] / 100, B08=frame["B08"] / 100), tmp_path)
    assert "values up to about" in message
    assert "--scale" in message


def test_missing_values_count_as_not_seen(tmp_path):
    frame = long_table()
    frame["B04"] = frame["B04"].astype(object)
    frame.loc[0, "B04"] = 65535
    frame.loc[4, "B04"] = ""
    frame.loc[8, ["B04", "B08"]] = 0
    table = read_table(saved(frame, tmp_path))
    assert [np.count_nonzero(table.sample == number) for number in range(4)] == [2, 2, 2, 3]
    assert "missing data: 65535" in table.notes
    custom = read_table(saved(long_table(), tmp_path), TableOptions(nodata=(float(long_table()["B04"][0]),)))
    assert np.count_nonzero(custom.sample == 0) == 2


# Splits and chips


def test_groups_stay_in_one_split_and_one_block(tmp_path):
    frame = long_table(samples=90)
    frame["village"] = [f"v{int(name[1:]) // 6}" for name in frame["id"]]
    report = write_samples(saved(frame, tmp_path), tmp_path / "out", TableOptions(group="village"))
    assert not report.warnings
    rows = list(csv.DictReader((tmp_path / "out" / "samples.csv").open()))
    assert [row["sample_id"] for row in rows] == list(dict.fromkeys(frame["id"]))
    blocks = {}
    for row in rows:
        block = read_block(tmp_path / "out" / "h5_samples" / f"{row['chip']}.h5")
        blocks.setdefault(row["group"], set()).add((row["split"], block))
    assert len(blocks) == 15
    assert all(len(found) == 1 for found in blocks.values())
    assert {row["split"] for row in rows} == {"train", "val", "test"}


def test_neighbors_stay_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    frame = long_table(samples=200)
    village = np.repeat(np.arange(100), 2 * len(DATES))
    frame["x"] = 500_000 + rng.uniform(0, 1e5, 100)[village]
    frame["y"] = 4_500_000 + rng.uniform(0, 1e5, 100)[village]
    frame["crs"] = "EPSG:32642"
    write_samples(saved(frame, tmp_path), tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "samples.csv").open()))
    splits = {}
    for row in rows:
        splits.setdefault((row["lon"], row["lat"]), set()).add(row["split"])
        assert 68 < float(row["lon"]) < 71
    assert len(splits) == 100
    assert all(len(found) == 1 for found in splits.values())


def test_without_places_and_groups_scores_come_with_a_warning(tmp_path):
    report = write_samples(saved(long_table(samples=50), tmp_path), tmp_path / "out")
    assert "scores are then too good" in report.warnings[0]
    assert report.data.counts.tolist() == [[15, 15], [5, 5], [5, 5]]


def test_chips_hold_what_the_table_holds(tmp_path):
    """Also where samples are observed on other dates, in other years, and not on all dates."""
    frame = long_table(samples=300)
    days = pandas.to_datetime(frame["date"])
    is_late = frame["id"].str[1:].astype(int) % 3 == 0
    days = days + pandas.to_timedelta(np.where(is_late, 365, 0) + frame["id"].str[1:].astype(int) % 4, unit="D")
    frame["date"] = days.dt.strftime("%Y-%m-%d")
    frame = frame.drop(index=[1, 40])
    path = saved(frame, tmp_path)
    write_samples(path, tmp_path / "out")
    expected = series(read_table(path))
    experiment = load(tmp_path / "out" / "crops.yaml")
    chips = {}
    for split in ("train", "val", "test"):
        source = experiment.data.split(split)
        chips |= {source.names[i]: source.read(i) for i in range(len(source))}
    for row in csv.DictReader((tmp_path / "out" / "samples.csv").open()):
        chip, place = chips[row["chip"]], (int(row["row"]), int(row["column"]))
        seen = chip.valid["S2"][:, *place]
        values = chip.images["S2"][:, :, *place][seen]
        assert (chip.dates["S2"][seen].tolist(), values.tolist()) == expected[row["sample_id"]]
        assert experiment.task.names[chip.label[place]] == row["class"]
        assert chip.dates["S2"].max() - chip.dates["S2"].min() < 200  # one season in each chip
    labeled = sum(int((chip.label >= 0).sum()) for chip in chips.values())
    assert labeled == 300
    assert len(chips) < 150


def test_chips_of_one_block_stay_in_one_fold(tmp_path):
    frame = long_table(samples=60)
    frame["date"] = [
        date.replace("2018", str(2016 + int(name[1:]) % 3))
        for date, name in zip(frame["date"], frame["id"], strict=False)
    ]
    frame["village"] = [f"v{int(name[1:]) // 3}" for name in frame["id"]]
    write_samples(saved(frame, tmp_path), tmp_path / "out", TableOptions(group="village"))
    source = load(tmp_path / "out" / "crops.yaml").data.split("train")
    blocks = blocks_of(source, seed=0, folds=5)
    assert len(np.unique(blocks)) < len(source)  # a village has a chip for each year
    names = [name.rsplit("_", 2)[0] for name in source.names]
    assert len(set(zip(names, blocks, strict=False))) == len(set(names)) == len(set(blocks))


def test_a_data_set_is_replaced_only_when_asked(tmp_path):
    path = saved(long_table(samples=50), tmp_path)
    write_samples(path, tmp_path / "out")
    with pytest.raises(InputError, match="--overwrite"):
        write_samples(path, tmp_path / "out")
    write_samples(path, tmp_path / "out", plan=SamplePlan(seed=1), overwrite=True)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        write_samples(path, tmp_path / "out", overwrite=True)


# The offset of Sentinel-2


def numbers_of_crops(offset=0, count=100):
    """Red and infrared of vegetation and soil, as stored numbers, and the same days before and after 2022."""
    rng = np.random.default_rng(0)
    vegetation = np.stack([rng.uniform(200, 500, count), rng.uniform(2500, 4500, count)], 1)
    soil = np.stack([rng.uniform(1500, 2500, count), rng.uniform(2000, 3000, count)], 1)
    values = np.concatenate([vegetation, soil]) + offset
    days = np.tile([18600, 19500], count)  # December 2020 and May 2023
    return values, days


def test_an_offset_that_was_left_in_is_seen_where_vegetation_is_not_dark():
    values, days = numbers_of_crops()
    assert offset_warning(values, RED_AND_INFRARED, days) == ""
    shifted = offset_warning(values + 1000, RED_AND_INFRARED, days)
    assert "no band of Sentinel-2 is darker than 0.12" in shifted
    assert "--scale 1e-4 --offset -0.1" in shifted
    values[days == 19500] += 1000
    assert offset_warning(values, RED_AND_INFRARED) == ""
    late = offset_warning(values, RED_AND_INFRARED, days)
    assert late.startswith("from 2022-01-25 on, no band")
    assert "--offset" not in late


def test_no_offset_is_suspected_without_reason():
    values, days = numbers_of_crops(offset=1000)
    assert offset_warning(values[100:], RED_AND_INFRARED, days[100:]) == ""  # soil alone may be bright
    assert offset_warning(values[:20], RED_AND_INFRARED, days[:20]) == ""
    assert offset_warning(values, replace(RED_AND_INFRARED, name="Landsat"), days) == ""


def test_a_table_with_the_offset_is_written_with_a_warning_until_the_offset_is_given(tmp_path):
    path = saved(long_table(darkest=1400), tmp_path)
    report = write_samples(path, tmp_path / "out")
    assert any("is darker than 0.14" in warning for warning in report.warnings)
    options = TableOptions(scale=1e-4, offset=-0.1)
    report = write_samples(path, tmp_path / "out", options, overwrite=True)
    assert not any("is darker" in warning for warning in report.warnings)


# Refusals


def test_a_date_that_does_not_parse_is_named_with_its_row(tmp_path):
    frame = long_table()
    frame.loc[7, "date"] = "20.5.2018"
    message = refused(frame, tmp_path)
    assert "column 'date', row 8" in message
    assert "the text '20.5.2018'" in message


def test_unknown_bands_are_refused_with_the_known_ones(tmp_path):
    message = refused(long_table().rename(columns={"B04": "channel_a", "B08": "channel_b"}), tmp_path)
    assert "columns channel_a, channel_b" in message
    assert "B02, B03, B04, B08" in message
    assert "--bands channel_a,channel_b" in message
    assert "did you mean 'B08'" in refused(long_table(), tmp_path, TableOptions(bands=("B04", "B8")))


def test_a_table_without_labels_is_refused_with_its_columns(tmp_path):
    message = refused(long_table().rename(columns={"crop": "what"}), tmp_path)
    assert "columns id, date, what, B04, B08" in message
    assert "--label-column" in message


def test_one_class_is_refused(tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text("code,name\nwheat,crop\nrape,other\n")
    frame = long_table().assign(crop="wheat")
    assert "one class only, 'wheat'" in refused(frame, tmp_path)
    assert "found:    1 class" in refused(frame, tmp_path, plan=SamplePlan(classes=table))


def test_rare_classes_are_refused_or_left_out(tmp_path):
    frame = long_table(samples=40)
    frame.loc[frame["id"].isin(["s00", "s02", "s04", "s06"]), "crop"] = "oats"
    assert "fewer than 5 samples of class 'oats' (4)" in refused(frame, tmp_path)
    report = write_samples(saved(frame, tmp_path), tmp_path / "out", plan=SamplePlan(drop_rare=True))
    assert [entry.name for entry in report.data.classes] == ["maize", "wheat"]
    assert report.data.counts.sum() == 36


def test_repeated_rows_are_refused(tmp_path):
    frame = long_table()
    frame.loc[7, "date"] = frame.loc[6, "date"]
    assert "sample s02 twice on 2018-03-01, in row 7 and row 8" in refused(frame, tmp_path)
    wide = wide_table("{band}_{date}")
    wide.loc[3, "id"] = "s00"
    assert "sample s00 in 2 rows" in refused(wide, tmp_path)


def test_a_table_without_values_is_refused(tmp_path):
    assert "no sample with a date" in refused(long_table().assign(B04=65535, B08=65535), tmp_path)
    assert "no sample with a date" in refused(long_table().assign(B04=0, B08=0), tmp_path)
    assert "no rows" in refused(long_table().iloc[:0], tmp_path)


def test_a_label_that_changes_is_refused(tmp_path):
    frame = long_table()
    frame.loc[5, "crop"] = "rape"
    message = refused(frame, tmp_path)
    assert "row 6" in message
    assert "'rape' for sample s01, which has 'maize' above" in message


def test_text_in_a_band_is_refused(tmp_path):
    frame = long_table().astype({"B04": object})
    frame.loc[2, "B04"] = "cloudy"
    message = refused(frame, tmp_path)
    assert "column 'B04', row 3" in message
    assert "the text 'cloudy'" in message


@pytest.mark.parametrize(
    ("columns", "row", "pair", "words"),
    [
        (("lon", "lat"), 4, (3, "43.35'N"), ("lat, row 5", "the text '43.35'N'", "decimal degrees")),
        (("lon", "lat"), 4, (120, 91), ("lon 120 and lat 91 in row 5", "which are no degrees")),
        (("x", "y"), 3, (1e12, 5e6), ("row 4", "nowhere in the CRS 32631", "--crs")),
    ],
)
def test_coordinates_that_are_no_places_are_named_with_their_row(tmp_path, columns, row, pair, words):
    frame = long_table()
    valid = (3.5, 43.5) if columns == ("lon", "lat") else (500000, 4800000)
    for name, value, wrong in zip(columns, valid, pair, strict=True):
        frame[name] = pandas.Series([value] * len(frame), dtype=object)
        frame.loc[row, name] = wrong
    message = refused(frame, tmp_path, TableOptions(crs="32631"))
    for word in words:
        assert word in message


def test_a_long_table_needs_names_and_dates(tmp_path):
    assert "--id-column" in refused(long_table().drop(columns="id"), tmp_path)
    assert "bands without dates" in refused(long_table().drop(columns="date"), tmp_path)
    assert "did you mean 'crop'" in refused(long_table(), tmp_path, TableOptions(label="crp"))
    frame = long_table().assign(label="a")
    assert "columns label and crop" in refused(frame, tmp_path)


# From a table to a map

LAND = Landscape(rows=1, columns=3, size=24, frames=(("S2", 10),))


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    """A table of pixels of a synthetic farmland, as a user would have extracted it."""
    rng = np.random.default_rng(0)
    parts = []
    for column in range(LAND.columns):
        sample = LAND.sample(0, column, (S2,))
        image, valid = sample.images["S2"].numpy(), sample.mask("S2").numpy()
        dates = sample.dates["S2"].numpy().astype("datetime64[D]").astype(str)
        for row, col in rng.integers(0, LAND.size, (80, 2)):
            label = LAND.classes[int(sample.label[row, col])][0]
            rows = pandas.DataFrame(image[:, :, row, col], columns=list(S2.band_ids))
            rows.insert(0, "crop", label)
            rows.insert(0, "date", dates)
            rows.insert(0, "id", f"{column}_{row}_{col}")
            parts.append(rows[valid[:, row, col]])
    folder = tmp_path_factory.mktemp("surveyed")
    return saved(pandas.concat(parts).drop_duplicates(["id", "date"]), folder)


@pytest.fixture(scope="module")
def trained(surveyed, tmp_path_factory):
    """A data set from that table, and a model trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    write_samples(surveyed, folder / "data", plan=SamplePlan(drop_rare=True))
    experiment = load(folder / "data" / "crops.yaml", [f"pixels.{key}={value}" for key, value in FEW_PIXELS.items()])
    fit(experiment.quick(), folder / "run", console=QUIET)
    return folder


def test_a_model_from_a_table_maps_a_scene(trained, tmp_path):
    checkpoint = Checkpoint.load(trained / "run" / "best.safetensors")
    scores = evaluate(checkpoint, checkpoint.experiment.data.split("test"), tmp_path / "scores", console=QUIET)
    assert scores.summary["aAcc"] > 0.6
    scene = write_scene(tmp_path / "scene", LAND, rows=range(1), columns=range(3), sensors=(S2,))
    model = agrifm.load(trained / "run" / "best.safetensors")
    model.map(agrifm.open_scene(scene / "S2"), tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        mapped = file.read(1)
    with rasterio.open(scene / "truth.tif") as file:
        truth = file.read(1)
    names = np.array([*checkpoint.experiment.task.names, ""])
    true_names = np.array([name for name, _ in LAND.classes])[truth]
    is_mapped = mapped != 255
    assert is_mapped.mean() > 0.9
    assert (names[np.minimum(mapped, len(names) - 1)] == true_names)[is_mapped].mean() > 0.6


def test_one_index_is_enough(tmp_path):
    frame = wide_table("{band}_{date}", samples=60)
    columns = {"id": frame["id"], "crop": frame["crop"]}
    for date in DATES:
        red, infrared = frame[f"B04_{date}"], frame[f"B08_{date}"]
        columns[f"NDVI_{date}"] = (infrared - red) / (infrared + red)
    frame = pandas.DataFrame(columns)
    frame.loc[3, f"NDVI_{DATES[0]}"] = np.nan
    write_samples(saved(frame, tmp_path), tmp_path / "data")
    experiment = load(tmp_path / "data" / "crops.yaml")
    experiment = experiment.model_copy(update={"pixels": replace(experiment.pixels, members=("lda",), time_steps=4)})
    best = fit(experiment.quick(), tmp_path / "run", console=QUIET)
    scores = evaluate(Checkpoint.load(best), experiment.data.split("test"), tmp_path / "scores", console=QUIET)
    assert scores.summary["aAcc"] > 0.9


def test_the_command_says_what_it_found(tmp_path):
    path = saved(long_table(samples=50), tmp_path)
    result = CliRunner().invoke(app, ["samples", "make", str(path), str(tmp_path / "out"), "--bands", "B04,B08"])
    assert result.exit_code == 0, result.output
    assert "long: one row for each sample ('id') and date ('date')" in result.output
    assert "agrifm train" in result.output


# Suspect labels


def test_contradictions_by_hand():
    # Thresholds: mean probability of the own class, 0.6 for both.
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    given = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(thresholds(probabilities, given), [0.6, 2.05 / 3])
    found = contradictions(probabilities, given, fold=np.array([0, 1, 0, 0, 1, 1]))
    assert found.unit.tolist() == [2]  # the last one is below its threshold, but no other class reaches its own
    assert found.suggested.tolist() == [1]
    assert (found.given_confidence[0], found.suggested_confidence[0]) == (0.1, 0.9)


def test_classes_of_one_place_are_not_judged_there():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0]])
    found = contradictions(probabilities, np.array([0, 1, 0, 1, 2]), fold=np.array([0, 0, 1, 1, 1]))
    assert found.unit.tolist() == []


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A data set of 200 samples, of which eight have the label of the other class, and the names of these."""
    folder = tmp_path_factory.mktemp("noisy")
    frame = long_table(samples=200)
    wrong = [f"s{number:02d}" for number in (3, 10, 47, 60, 91, 130, 151, 188)]
    is_wrong = frame["id"].isin(wrong)
    frame.loc[is_wrong, "crop"] = frame.loc[is_wrong, "crop"].map({"wheat": "maize", "maize": "wheat"})
    frame["village"] = "v" + (frame["id"].str[1:].astype(int) // 4).astype(str)
    write_samples(saved(frame, folder), folder / "data", TableOptions(group="village"))
    return folder / "data", wrong


def test_wrong_labels_are_listed_and_drawn(noisy, tmp_path):
    folder, wrong = noisy
    words = ["samples", "check", str(folder), str(tmp_path / "suspects.csv"), "--set", "pixels.members=[lda,logistic]"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "suspect labels" in result.output
    assert "warning: no band" not in result.output
    rows = list(csv.DictReader((tmp_path / "suspects.csv").open()))
    assert {row["name"] for row in rows} <= set(wrong)
    assert len(rows) >= len(wrong) - 1
    assert all(row["label"] != row["suggested"] for row in rows)
    margins = [float(row["suggested_confidence"]) - float(row["label_confidence"]) for row in rows]
    assert margins == sorted(margins, reverse=True)
    assert (tmp_path / "suspects.png").stat().st_size > 10_000
    result = CliRunner().invoke(app, [*words[:3], str(tmp_path / "suspects.gpkg")])
    assert isinstance(result.exception, InputError)
    assert "samples without longitude and latitude" in str(result.exception)


def test_labels_without_contradictions_give_an_empty_list(tmp_path):
    frame = long_table(samples=120, darkest=1400)
    frame["lon"] = np.repeat(np.arange(120) % 40 / 10, 3)
    frame["lat"] = 45.0
    write_samples(saved(frame, tmp_path), tmp_path / "data")
    words = ["samples", "check", str(tmp_path / "data"), str(tmp_path / "suspects.gpkg"), "--set"]
    result = CliRunner().invoke(app, [*words, "pixels.members=[lda]"])
    assert result.exit_code == 0, result.output
    assert "0 suspect labels (0.0%)" in result.output
    assert "warning: no band of Sentinel-2 is darker than 0.14" in result.output
    assert len(geopandas.read_file(tmp_path / "suspects.gpkg")) == 0
    assert not (tmp_path / "suspects.png").exists()


def test_labels_of_one_place_or_class_cannot_be_checked(noisy, tmp_path):
    folder, _ = noisy
    lists = folder / "data_lists"
    (tmp_path / "train.txt").write_text((lists / "train.txt").read_text().split()[0])
    overrides = [f"data.{split}={tmp_path / 'train.txt'}" for split in ("train", "val", "test")]
    with pytest.raises(InputError, match=r"1 block of ground"):
        check_labels(open_experiment(folder, tuple(overrides)))
    with pytest.raises(InputError, match="a data set of your own"):
        open_experiment(folder, ("data.dataset=mine:data",))


def test_parcels_are_listed_by_number_with_their_place(tmp_path):
    """A parcel that reaches into two chips is one label."""
    rng = np.random.default_rng(0)
    instances = np.kron(np.arange(1, 17).reshape(2, 8), np.ones((4, 4), int))
    crop = np.arange(1, 17) % 2
    crop[5] = 1 - crop[5]
    names = []
    for column in range(0, 32, 6):
        fields = instances[:, column : column + 6]
        grows_late = np.arange(17)[fields] % 2 == 0
        image = np.full((2, 2, *fields.shape), 1000.0)
        image[0, 1] += 2000 * grows_late
        image[1, 1] += 2000 * ~grows_late
        image += rng.normal(0, 50, image.shape)
        sample = Sample(
            images={"S2": torch.from_numpy(image.astype(np.float32))},
            dates={"S2": torch.tensor([17600, 17700])},
            label=torch.from_numpy(crop[fields - 1]),
        )
        names.append(f"scene_r000_c{column // 6:03d}")
        place = Georeference("EPSG:32631", (10.0, 0.0, 500_000.0 + 10 * column, 0.0, -10.0, 5_000_000.0))
        write_chip(tmp_path / "h5_samples" / f"{names[-1]}.h5", sample, (RED_AND_INFRARED,), place, fields)
    (tmp_path / "data_lists").mkdir()
    for split, listed in (("train", names[:3]), ("val", names[3:])):
        (tmp_path / "data_lists" / f"{split}.txt").write_text("\n".join(listed))
    experiment = parse(
        {
            "data": {"root": str(tmp_path), "sensors": [RED_AND_INFRARED]},
            "task": {"classes": ["maize", "wheat"]},
            "pixels": {"members": ["lda"], "time_steps": 4, "folds": 3},
        },
        "test",
    )
    check = check_labels(experiment.quick())
    assert len(check.units) == 16
    write_suspects(check, tmp_path / "suspects.gpkg")
    suspects = geopandas.read_file(tmp_path / "suspects.gpkg")
    assert suspects["name"].tolist() == ["scene parcel 6"]
    assert suspects["pixels"].tolist() == [16]
    place = suspects.to_crs("EPSG:32631").geometry[0]
    assert (round(place.x), round(place.y)) == (500_205, 4_999_995)


# Suggestions


def a_mapped_field(folder):
    """A map of four classes with confidence, and an entropy that is large in one corner only."""
    files, _ = a_map(folder / "map.tif", size=(60, 80), extras=("confidence", "entropy"))
    entropy = np.zeros((60, 80), np.uint8)
    entropy[40:, 50:] = 80
    entropy[:5, 60:] = 40
    with rasterio.open(folder / "map_entropy.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(entropy, 1)
    return files[0]


def test_suggested_points_are_a_probability_sample(tmp_path):
    path = a_mapped_field(tmp_path)
    found = suggest(path, tmp_path / "next.gpkg", 80)
    points = geopandas.read_file(tmp_path / "next.gpkg")
    assert len(points) == len(found.design.units) == 80
    with rasterio.open(path) as file, rasterio.open(tmp_path / "map_confidence.tif") as confidence:
        places = list(zip(points["x"], points["y"], strict=False))
        assert [int(value[0]) for value in file.sample(places)] == points["map_class"].tolist()
        shares = np.array([value[0] for value in confidence.sample(places)]) / 100
        np.testing.assert_allclose(points["confidence"], shares)
        pixels = np.bincount(file.read(1).ravel(), minlength=256)
    drawn = points["map_class"].value_counts()
    expected = [drawn[code] / pixels[code] for code in points["map_class"]]
    np.testing.assert_allclose(points["inclusion_probability"], expected)
    # Filled in, it is what 'agrifm area estimate' takes.
    points["reference"] = points["map_class_name"]
    points.to_file(tmp_path / "next.gpkg", layer="sample", driver="GPKG")
    estimate = estimates(read_answers(tmp_path / "next.gpkg"), 0.95)[0]
    assert estimate.overall.value == 1


def test_uncertain_points_lie_where_the_entropy_is_large(tmp_path):
    path = a_mapped_field(tmp_path)
    found = suggest(path, tmp_path / "next.csv", 100, uncertain=0.3)
    assert len(found.design.units) == 70
    rows = pandas.read_csv(tmp_path / "next_uncertain.csv")
    assert len(rows) == found.uncertain == 30
    with rasterio.open(tmp_path / "map_entropy.tif") as file, rasterio.open(path) as classes:
        entropy = file.read(1) * (classes.read(1) != 255) / 100
        at_points = np.array([value[0] for value in file.sample(zip(rows["x"], rows["y"], strict=False))]) / 100
    np.testing.assert_allclose(rows["entropy"], at_points)
    assert (at_points > 0).all()
    np.testing.assert_allclose(rows["inclusion_probability"], 30 * at_points / entropy.sum(), rtol=1e-4)
    # The estimate of a total from these probabilities is near the truth: the number of pixels with entropy.
    assert (1 / rows["inclusion_probability"]).sum() == pytest.approx((entropy > 0).sum(), rel=0.1)


def test_suggestions_without_their_layers_or_with_few_points_are_refused(tmp_path):
    path = a_mapped_field(tmp_path)
    with pytest.raises(InputError, match=r"10 points at random for 6 classes\n  expected: at least 24"):
        suggest(path, tmp_path / "next.gpkg", 10)
    (tmp_path / "map_entropy.tif").unlink()
    with pytest.raises(InputError, match="--entropy"):
        suggest(path, tmp_path / "next.gpkg", 100, uncertain=0.5)
    (tmp_path / "map_confidence.tif").unlink()
    with pytest.raises(InputError, match="--confidence"):
        suggest(path, tmp_path / "next.gpkg", 100)
    assert not list(tmp_path.glob("next*"))
