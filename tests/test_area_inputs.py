"""Samples and designs that were damaged, moved or written by other programs; maps and reports with odd names."""

import json

import geopandas
import numpy as np
import pandas
import pytest
import shapely
from test_area_design import raster

from agrifm.errors import InputError
from agrifm.evaluation.calibration import gather
from agrifm.products.page import facts, folded, table
from agrifm.statistics.area_sample import Plan, draw, write_sample
from agrifm.statistics.design import Design
from agrifm.statistics.interpretation import estimates, read_answers
from agrifm.statistics.population import class_names
from agrifm.statistics.tables import cell, write_estimates

NAMES = ("=HYPERLINK(1)", "$x_{", "maïs")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A design of 60 units in three classes, and their answers."""
    folder = tmp_path_factory.mktemp("area")
    pixels = np.random.default_rng(0).integers(0, 3, (60, 60)).astype(np.uint8)
    design, _ = draw(raster(folder / "map.tif", pixels, nodata=255), Plan(size=60, floor=10))
    named = [
        tuple(entry.model_copy(update={"name": name}) for entry, name in zip(part, NAMES, strict=True))
        for part in (design.classes, design.strata)
    ]
    design = design.model_copy(update={"classes": named[0], "strata": named[1]})
    return design, [NAMES[unit.map_class] for unit in design.units]


@pytest.fixture
def sample(drawn, tmp_path):
    """The sample as CSV, answered."""
    path = write_sample(tmp_path / "sample.csv", drawn[0])[0]
    pandas.read_csv(path).assign(reference=drawn[1]).to_csv(path, index=False)
    return path


# Samples


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spreadsheets_write_several_encodings(sample, encoding):
    first = read_answers(sample).observed.reference
    sample.write_text(sample.read_text(encoding="utf-8").replace(",", "\t"), encoding=encoding)
    np.testing.assert_array_equal(read_answers(sample).observed.reference, first)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 100, "sample_id,design,reference\n1,d,maïs\n".encode("latin-1"), b'a,"b\n', b"sample_id\n1,2,3\n4\n"],
    ids=["empty", "zeros", "Latin-1", "open quote", "ragged"],
)
def test_tables_that_cannot_be_read_are_refused(sample, data):
    sample.write_bytes(data)
    with pytest.raises(InputError, match=r"sample\.csv"):
        read_answers(sample)


@pytest.mark.parametrize("answer", ["nan", "inf", "1e9", "None", "maize; wheat"])
def test_answers_that_are_no_class_are_refused(sample, answer):
    rows = pandas.read_csv(sample)
    rows.loc[3, "reference"] = answer
    rows.to_csv(sample, index=False)
    with pytest.raises(InputError, match=f"(?s)reference.*'{answer}' in 1 row"):
        read_answers(sample)


def test_points_that_were_moved_are_refused(drawn, sample):
    design, answers = drawn
    rows = pandas.read_csv(sample)
    rows["x"] += 4  # less than half a pixel, as spreadsheets round
    rows.to_csv(sample, index=False)
    read_answers(sample)
    rows.loc[5, "y"] += 12
    rows.to_csv(sample, index=False)
    with pytest.raises(InputError, match=r"(?s)sample_id 6.*drawn at"):
        read_answers(sample)
    path = write_sample(sample.with_name("moved.gpkg"), design)[0]
    frame = geopandas.read_file(path).assign(reference=answers)
    frame.to_file(path, layer="sample", driver="GPKG")
    assert len(read_answers(path).rows) == 60
    frame.loc[7, "geometry"] = shapely.Point(frame.geometry[7].x + 12, frame.geometry[7].y)
    frame.to_file(path, layer="sample", driver="GPKG")
    with pytest.raises(InputError, match=r"(?s)sample_id 8.*drawn at"):
        read_answers(path)


# Designs


def test_designs_that_were_damaged_are_refused(sample):
    path = Design.beside(sample)
    text = path.read_text()
    changes = {
        "no numbers": lambda d: d["units"][0].update(x=float("nan")),
        "no area": lambda d: d["units"][0].update(hectares=-1),
        "infinite": lambda d: d["classes"][0].update(hectares=1e400),
        "negative": lambda d: d["strata"][0].update(hectares=-5.0),
        "a unit twice": lambda d: d["units"].append(d["units"][0]),
        "a class twice": lambda d: d["classes"].append(d["classes"][0]),
        "a name twice": lambda d: d["classes"][0].update(name="MAÏS "),
        "a stratum twice": lambda d: d["strata"].append(d["strata"][0]),
        "no CRS": lambda d: d.update(crs="EPSG:0"),
        "text": lambda d: d["units"][0].update(x="north"),
        "null": lambda d: d.update(units=None),
    }
    for name, change in changes.items():
        design = json.loads(text)
        change(design)
        path.write_text(json.dumps(design))
        with pytest.raises(InputError) as caught:
            read_answers(sample)
        assert path.name in caught.value.where, name
    for damaged in ("", "[]", text[:500], "[" * 100_000):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"design\.json"):
            read_answers(sample)


# Regions


def test_regions_that_cannot_be_used_are_refused(sample, tmp_path):
    answers = read_answers(sample)
    left, top = 480_000, 5_530_000
    outlines = [shapely.box(left, top - 600, left + 300, top), shapely.box(left + 300, top - 600, left + 600, top)]
    frame = geopandas.GeoDataFrame({"region": ["west", None]}, geometry=outlines, crs="EPSG:32631")
    frame.to_file(tmp_path / "regions.gpkg")
    assert [one.region for one in estimates(answers, 0.95, "region", tmp_path / "regions.gpkg")] == ["", "west"]
    with pytest.warns(UserWarning, match="crs"):
        frame.set_crs(None, allow_override=True).to_file(tmp_path / "bare.shp")
    (tmp_path / "regions.vrt").write_text("<OGRVRTDataSource></OGRVRTDataSource>")
    (tmp_path / "table.csv").write_text("region\nwest\n")
    for name in ("regions.vrt", "none.gpkg", "table.csv", "bare.shp"):
        with pytest.raises(InputError, match=name):
            estimates(answers, 0.95, "region", tmp_path / name)


# Names


def test_tables_hold_no_formulas_and_pictures_no_mathematics(sample, tmp_path):
    answers = read_answers(sample)
    write_estimates(tmp_path, estimates(answers), answers)
    for name in ("areas.csv", "confusion.csv"):
        first = {line.split(",")[1] for line in (tmp_path / name).read_text().splitlines()[1:]}
        assert first == {"'=HYPERLINK(1)", "$x_{", "maïs"}
    known = json.loads((tmp_path / "estimate.json").read_text())
    assert [entry["name"] for entry in known["design"]["classes"]] == list(NAMES)
    assert (tmp_path / "areas.png").stat().st_size > 1000
    assert [cell(value) for value in ("@a", "+1", "-2", -2.5, "a", "\x1b[1m")] == [
        *("'@a", "'+1", "'-2", -2.5, "a", "\\x1b[1m")
    ]


def test_pages_show_text_as_it_is():
    for made in (table(("a\x1b[1m",), [("<b>\x07",)]), facts([("\x1b", "<script>")]), folded("\x1b", "a\n\x1b<")):
        assert "\x1b" not in made
        assert "\x07" not in made
        assert "<script>" not in made
        assert "<b>" not in made
    assert folded("a", "b" * 5000).count("b") == 5000


def test_names_of_maps_are_cleaned():
    class Tags:
        name = "none"

        def tags(self, band):
            return {"class_1": "a\x1b\n b", "class_²": "x", "class_" + "9" * 5000: "y", "class_2": "\n"}

    assert class_names(Tags()) == {1: "a\\x1b b", 2: "2"}


# Calibration


def test_outputs_that_are_no_numbers_are_not_calibrated(monkeypatch):
    class Task:
        ignore_index = -1

        def probabilities(self, output):
            return output

        def classes_of(self, label):
            return label

    import torch

    from agrifm.evaluation import calibration

    class Batch:
        label = torch.zeros(1, 2, 2, dtype=torch.int64)

        def __len__(self):
            return 1

    chances = torch.full((1, 2, 2, 2), 0.5)
    monkeypatch.setattr(calibration, "Segmentation", Task)
    monkeypatch.setattr(calibration, "outputs", lambda *_, **__: iter([(Batch(), chances)]))
    checkpoint = type("C", (), {"experiment": type("E", (), {"task": Task()})})
    assert len(gather(checkpoint, None).truth) == 4
    chances[0, 1, 1, 1] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        gather(checkpoint, None)
    monkeypatch.setattr(calibration, "outputs", lambda *_, **__: iter([]))
    with pytest.raises(InputError, match="no labeled pixel"):
        gather(checkpoint, None)
