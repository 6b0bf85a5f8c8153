"""Area statistics: the papers' examples to their printed digits, intervals that cover, samples that are refused."""

import csv
import json

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
from PIL import Image
from scipy.ndimage import uniform_filter
from test_area_design import raster, zone
from typer.testing import CliRunner

from agrifm.cli import app
from agrifm.errors import InputError
from agrifm.statistics.area_sample import Plan, draw, write_sample
from agrifm.statistics.design import Design
from agrifm.statistics.estimates import Observed, estimate
from agrifm.statistics.interpretation import estimates, observe, read_answers

NAMES = ("other", "wheat", "maize", "Raps")

# Olofsson et al. 2014, Table 8: map along rows (deforestation, forest gain, stable forest, stable non-forest).
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])  # of 30 m

# Stehman 2014, Table 2: ten units from each of four strata.
MAPPED = "AAAAAAABBBABBBBBBBBBBBCCCCCCBBDDDDDDDDDD"
TRUE = "AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB"


@pytest.fixture(scope="module")
def forest():
    mapped, true = np.repeat(np.indices((4, 4)).reshape(2, -1), COUNTS.ravel(), axis=1)
    return estimate(Observed(mapped, mapped, true, np.full(640, 0.09), PIXELS, PIXELS * 0.09, False), "dgfn")


def printed(values, digits):
    return [round(float(value), digits) for value in values]


def test_olofsson_accuracies(forest):
    """Page 54: each +- 1.96 standard errors."""
    assert printed([forest.overall.value, 1.96 * forest.overall.se], 2) == [0.95, 0.02]
    users = [entry.user for entry in forest.classes]
    assert printed([value.value for value in users], 2) == [0.88, 0.73, 0.93, 0.96]
    assert printed([1.96 * value.se for value in users], 2) == [0.07, 0.10, 0.04, 0.02]
    producers = [entry.producer for entry in forest.classes]
    assert printed([value.value for value in producers], 2) == [0.75, 0.85, 0.93, 0.96]
    # For forest gain and stable non-forest the paper prints 0.23 and 0.01; its equation 7 gives 0.25 and 0.02.
    assert printed([1.96 * value.se for value in producers], 2) == [0.21, 0.25, 0.03, 0.02]


def test_olofsson_producers_by_equation_7(forest):
    """The equation as it stands in the paper, beside the ratio estimator that is used here."""
    n = COUNTS.sum(1)
    for j, entry in enumerate(forest.classes):
        user, true = COUNTS[j, j] / n[j], (PIXELS / n * COUNTS[:, j]).sum()
        p = PIXELS[j] * user / true
        rest = PIXELS**2 * COUNTS[:, j] / n * (1 - COUNTS[:, j] / n) / (n - 1)
        own = PIXELS[j] ** 2 * (1 - p) ** 2 * user * (1 - user) / (n[j] - 1)
        assert entry.producer.se == pytest.approx(np.sqrt(own + p**2 * (rest.sum() - rest[j])) / true)


def test_olofsson_areas(forest):
    """Table 9 and page 54, in hectares."""
    areas = [entry.hectares for entry in forest.classes]
    assert printed([area.value for area in areas], 0) == [21_158, 11_686, 285_770, 581_386]
    assert printed([1.96 * area.se for area in areas], 0) == [6_158, 3_756, 15_510, 16_282]
    assert printed([areas[0].value / 0.09, 1.96 * areas[0].se / 0.09], 0) == [235_086, 68_418]
    table = [
        [0.0176, 0, 0.0013, 0.0011],
        [0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    assert [printed(row, 4) for row in forest.confusion] == table
    assert sum(entry.share.value for entry in forest.classes) == pytest.approx(1)


@pytest.fixture(scope="module")
def strata_apart():
    mapped, true = (np.array(["ABCD".index(letter) for letter in text]) for text in (MAPPED, TRUE))
    sizes = np.array([40_000, 30_000, 20_000, 10_000])
    return estimate(Observed(np.repeat(range(4), 10), mapped, true, np.ones(40), sizes, sizes * 1.0, True), "ABCD")


def test_stehman_estimates(strata_apart):
    a, b, c, _ = strata_apart.classes
    assert printed([strata_apart.overall.value, strata_apart.overall.se], 3) == [0.63, 0.085]
    assert printed([a.share.value, a.share.se], 3) == [0.35, 0.082]
    assert printed([c.share.value, c.share.se], 3) == [0.2, 0.064]
    assert printed([b.user.value, b.user.se], 3) == [0.574, 0.125]
    assert printed([strata_apart.confusion[1][2]], 2) == [0.08]
    assert printed([b.producer.value], 3) == [0.794]


def test_stehman_producers_error(strata_apart):
    """The paper prints 0.114, with a variance of 0 in the fourth stratum where its own Table 3 has 0.1."""
    se = strata_apart.classes[1].producer.se
    forgotten = (10_000 / 34_000 * 27 / 34) ** 2 * (1 - 10 / 10_000) * 0.1 / 10
    assert printed([se, np.sqrt(se**2 - forgotten)], 3) == [0.117, 0.114]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A made-up country of 160 x 160 pixels: truth, a map with errors, zones of an older map, two halves."""
    rng, folder = np.random.default_rng(4), tmp_path_factory.mktemp("world")
    noise = np.stack([uniform_filter(rng.normal(size=(160, 160)), 9) + b for b in (0.05, 0.06, 0.0, -0.02)])
    truth = noise.argmax(0).astype(np.uint8)
    paths = []
    for name, errors in (("map", 0.25), ("zones", 0.5)):
        wrong = rng.random(truth.shape) < errors
        made = np.where(wrong, rng.integers(0, 4, truth.shape), truth).astype(np.uint8)
        paths.append(raster(folder / f"{name}.tif", made))
    return truth, *paths


def rows_and_columns(units):
    x, y = np.array([(unit.x, unit.y) for unit in units]).T
    return ((5_530_000 - y) // 10).astype(int), ((x - 480_000) // 10).astype(int)


def facts(truth, mapped, inside):
    """What an estimate should find: shares, user's, producer's and overall accuracy."""
    right = (truth == mapped)[inside]
    truth, mapped = truth[inside], mapped[inside]
    return [
        right.mean(),
        *((truth == k).mean() for k in range(4)),
        *(right[mapped == k].mean() for k in range(4)),
        *(right[truth == k].mean() for k in range(4)),
    ]


def values(found):
    kinds = ("share", "user", "producer")
    return [found.overall, *(getattr(entry, kind) for kind in kinds for entry in found.classes)]


@pytest.mark.parametrize("apart", [False, True], ids=["strata are classes", "strata are zones"])
def test_intervals_of_95_percent_cover_95_percent(world, apart):
    """300 samples of 400 of 25,600 pixels; 13 numbers everywhere, and 9 of the western half.

    How many of 300 intervals cover has a binomial error of 0.0126; none may be off by more than 3 of them. The
    half's user's and producer's accuracies are left out: with 40 points of a class they cover 0.90, with 150 0.95.
    """
    truth, path, zones = world
    with rasterio.open(path) as file:
        mapped = file.read(1)
    west = np.arange(160)[None].repeat(160, 0) < 80
    everything = np.ones_like(west)
    wanted = [*facts(truth, mapped, everything), *facts(truth, mapped, west)[:5]]
    wanted += [(truth[west] == k).sum() / truth.size for k in range(4)]
    found = []
    for seed in range(300):
        design, _ = draw(path, Plan(size=400, floor=70, seed=seed), zones if apart else None)
        row, column = rows_and_columns(design.units)
        observed = observe(design, design.units, truth[row, column].astype(int))
        assert observed.corrected == apart
        whole, half = estimate(observed, NAMES), estimate(observed, NAMES, inside=west[row, column])
        areas = [entry.hectares.times(1 / observed.hectares.sum()) for entry in half.classes]
        found.append([(number.value, number.margin) for number in (*values(whole), *values(half)[:5], *areas)])
    value, margin = np.moveaxis(np.array(found), 2, 0)
    covered = (np.abs(value - wanted) <= margin).mean(0)
    assert np.abs(covered - 0.95).max() < 3 * np.sqrt(0.95 * 0.05 / 300)
    error = value.std(0) / np.sqrt(300)
    assert (np.abs(value.mean(0) - wanted) / error).max() < 4  # of the means; ratios have a bias that falls with n


def test_standard_errors_of_strata_counted_in_full_are_zero():
    stratum, reference = np.repeat([0, 1], (4, 50)), np.arange(54) % 2
    found = {}
    for corrected in (False, True):
        observed = Observed(
            stratum, stratum, reference, np.ones(54), np.array([4, 100]), np.array([4.0, 100]), corrected
        )
        found[corrected] = estimate(observed, "ab").classes[0].hectares
    assert found[False].value == found[True].value == pytest.approx(52)
    half = np.sqrt(0.25 * 50 / 49 / 50) * 100
    assert found[False].se == pytest.approx(half)  # Olofsson: large strata
    assert found[True].se == pytest.approx(half * np.sqrt(0.5))  # Stehman: half of them was seen


def test_classes_nobody_mapped_or_found_have_no_accuracy():
    observed = Observed(
        np.zeros(9, int), np.zeros(9, int), np.ones(9, int), np.ones(9), np.array([99]), np.array([9.9]), False
    )
    found = estimate(observed, ("mapped", "true", "neither"))
    assert [entry.hectares.value for entry in found.classes] == pytest.approx([0, 9.9, 0])
    assert [np.isnan(entry.user.value) for entry in found.classes] == [False, True, True]
    assert [np.isnan(entry.producer.value) for entry in found.classes] == [True, False, True]


def test_areas_in_degrees_are_areas_and_not_pixels(tmp_path):
    """From the equator to 60 degrees north; north of 30 all is wheat. By pixels that is half, by area 0.424."""
    path = raster(tmp_path / "map.tif", np.zeros((120, 40), np.uint8), "EPSG:4326", (0.5, 0, 0, 0, -0.5, 60))
    found = []
    for seed in range(100):
        design, _ = draw(path, Plan(size=200, seed=seed))
        reference = np.array([int(unit.y > 30) for unit in design.units])
        design = design.model_copy(update={"classes": (*design.classes, design.classes[0])})
        found.append(estimate(observe(design, design.units, reference), ("other", "wheat")).classes[1].share)
    mean, error = np.mean([share.value for share in found]), np.std([share.value for share in found])
    true = zone(30, 60, 20) / zone(0, 60, 20)
    assert true == pytest.approx(0.424, abs=1e-3)
    assert abs(mean - true) < 3 * error / 10
    assert np.mean([abs(share.value - true) < share.margin for share in found]) > 0.88  # 3 binomial errors of 100


# From here on: files, as an office would have them.


@pytest.fixture
def sampled(world, tmp_path):
    """A sample of 300 as CSV, answered with the truth, and what to do to its table."""
    truth, path, _ = world
    design, _ = draw(path, Plan(size=300))
    design = design.model_copy(
        update={
            "classes": tuple(c.model_copy(update={"name": n}) for c, n in zip(design.classes, NAMES, strict=True)),
            "strata": tuple(c.model_copy(update={"name": n}) for c, n in zip(design.strata, NAMES, strict=True)),
        }
    )
    sample = write_sample(tmp_path / "sample.csv", design)[0]
    row, column = rows_and_columns(design.units)
    table = pandas.read_csv(sample)
    table["reference"] = [NAMES[k] for k in truth[row, column]]
    table.to_csv(sample, index=False)
    return sample, table


def rewrite(sample, table, **more):
    table.to_csv(sample, index=False, **more)
    return sample


def test_answers_come_back_as_spreadsheets_write_them(sampled):
    sample, table = sampled
    first = read_answers(sample).observed
    shuffled = table.sample(frac=1, random_state=0).assign(reference=table.reference.str.upper() + " ")
    numbers = table.assign(sample_id=table.sample_id.astype(float), reference=table.reference.map(NAMES.index) * 1.0)
    for changed, more in (
        (shuffled, {"sep": ";", "encoding": "utf-8-sig"}),
        (numbers, {}),
        (table[["reference", "design", "sample_id"]].assign(x=table.x * 0), {}),
    ):
        again = read_answers(rewrite(sample, changed, **more)).observed
        np.testing.assert_array_equal(again.reference, first.reference)
        np.testing.assert_array_equal(again.mapped, first.mapped)


def test_a_geopackage_gives_what_a_csv_gives(sampled):
    sample, table = sampled
    other = sample.with_suffix(".gpkg")
    points = geopandas.points_from_xy(table.x, table.y)
    geopandas.GeoDataFrame(table, geometry=points, crs=32631).to_file(other, layer="sample", driver="GPKG")
    Design.beside(other).write_text(Design.beside(sample).read_text())
    assert estimates(read_answers(other)) == estimates(read_answers(sample))


def test_samples_not_drawn_by_chance_are_refused(sampled):
    sample, table = sampled
    rows = [(table[3:], r"3 missing \(1, 2, 3\)"), (pandas.concat([table, table[:1]]), r"1 twice \(1\)")]
    rows.append((table.assign(sample_id=table.sample_id + 7), r"7 not drawn \(301, 302, 303, 304, 305 and 2 more\)"))
    for changed, message in rows:
        with pytest.raises(InputError, match=message):
            read_answers(rewrite(sample, changed))
    with pytest.raises(InputError, match=r"rows of another draw \(d0; the design beside it is d\w{8}\)"):
        read_answers(rewrite(sample, table.assign(design="d0")))
    rewrite(sample, table)
    path = Design.beside(sample)
    good = json.loads(path.read_text())
    strata, (first, *units) = good["strata"], good["units"]
    for wrong, message in (
        ({"units": units}, r"'\w+'\n +found: +\d+ units, \d+ drawn"),
        ({"strata": [{**part, "pixels": part["pixels"] * 2} for part in strata]}, "inclusion probability 0.0"),
        ({"strata": [{**part, "pixels": 9} for part in strata]}, "of 9 pixels"),
        (
            {"strata": [{k: part[k] for k in part if k != "inclusion_probability"} for part in strata]},
            "key is required",
        ),
        ({"strata": strata[1:]}, "which has no size"),
        ({"units": [{**first, "map_class": 77}, *units]}, "class 77, which has no size"),
        ({"format": "other"}, r"format\n +found: +'other'\n.*agrifm-area-design-1"),
    ):
        path.write_text(json.dumps(good | wrong))
        with pytest.raises(InputError, match=message):
            read_answers(sample)
    path.unlink()
    with pytest.raises(InputError, match=r"no design beside it \(sample.csv.design.json\)(.|\n)*picked by hand"):
        read_answers(sample)


def test_references_that_cannot_be_used_are_refused(sampled):
    sample, table = sampled
    part = table.reference.where(table.sample_id > 20, "")
    lonely = table.reference.where(table.sample_id == 1, "")
    for changed, message in (
        (table.drop(columns="reference"), "restore the column reference"),
        (table.assign(reference=""), "nothing in 300 of 300 rows(.|\n)*names of classes, in QGIS"),
        (table.assign(reference=part), "nothing in 20 of 300 rows(.|\n)*--drop-unanswered"),
        (table.replace({"reference": {"maize": "maise"}}), r"'maise' in \d+ rows(.|\n)*did you mean 'maize'"),
        (table.replace({"reference": {"maize": "7", "Raps": "x"}}), "and [7x](.|\n)*add it to 'classes'"),
    ):
        with pytest.raises(InputError, match=message):
            read_answers(rewrite(sample, changed))
    with pytest.raises(InputError, match=r"fewer than 2 answers in (.|\n)*--floor"):
        read_answers(rewrite(sample, table.assign(reference=lonely)), drop_unanswered=True)


def test_unanswered_points_are_left_out_on_request_and_counted(sampled):
    sample, table = sampled
    answers = read_answers(
        rewrite(sample, table.assign(reference=table.reference.where(table.sample_id > 20, ""))), drop_unanswered=True
    )
    assert sum(answers.dropped.values()) == 20
    assert len(answers.observed.reference) == len(answers.rows) == len(answers.points) == 280
    total = sum(entry.hectares.value for entry in estimates(answers)[0].classes)
    assert total == pytest.approx(sum(part.hectares for part in answers.design.strata))  # they weigh for the others


def test_a_class_that_the_map_lacks_can_be_found(sampled):
    sample, table = sampled
    path = Design.beside(sample)
    design = json.loads(path.read_text())
    design["classes"].append({"code": 9, "name": "hops", "pixels": 0, "hectares": 0.0})
    path.write_text(json.dumps(design))
    rewrite(sample, table.assign(reference=table.reference.where(table.sample_id > 9, "hops")))
    hops = estimates(read_answers(sample))[0].classes[-1]
    assert hops.name == "hops"
    assert hops.hectares.value > 0
    assert np.isnan(hops.user.value)
    assert hops.producer.value == 0


def test_regions_of_a_column_and_of_outlines_agree(sampled, tmp_path):
    sample, table = sampled
    rewrite(sample, table.assign(half=np.where(table.x < 480_800, "west", "east")))
    answers = read_answers(sample)
    boxes = [shapely.box(480_000, 5_528_400, 480_800, 5_530_000), shapely.box(480_800, 5_528_400, 481_600, 5_530_000)]
    outlines = tmp_path / "regions.gpkg"
    regions = geopandas.GeoDataFrame({"half": ["west", "east"]}, geometry=boxes, crs=32631)
    regions.to_crs(4326).to_file(outlines)
    whole, east, west = estimates(answers, column="half")
    assert estimates(answers, column="half", outlines=outlines) == [whole, east, west]
    assert (east.region, west.region, east.units + west.units) == ("east", "west", 300)
    for all_, *parts in zip(whole.classes, east.classes, west.classes, strict=True):
        assert sum(part.hectares.value for part in parts) == pytest.approx(all_.hectares.value)
    for changed, column, message in (
        (None, "halve", "did you mean 'half'"),
        (regions.rename(columns={"half": "Halb"}), "half", "columns Halb"),
        (
            regions.set_geometry([boxes[0], shapely.box(*shapely.union_all(boxes).bounds)]),
            "half",
            "overlapping regions east and west",
        ),
    ):
        if changed is not None:
            changed.to_file(outlines)
        with pytest.raises(InputError, match=message):
            estimates(answers, column=column, outlines=None if changed is None else outlines)
    rewrite(sample, table.assign(half=""))
    with pytest.raises(InputError, match="nothing in 300 rows"):
        estimates(read_answers(sample), column="half")


def test_points_on_a_border_belong_to_one_region(sampled, tmp_path):
    sample, _ = sampled
    boxes = [shapely.box(480_000, 5_528_400, 480_805, 5_530_000), shapely.box(480_805, 5_528_400, 481_605, 5_530_000)]
    regions = geopandas.GeoDataFrame({"name": [2, 1]}, geometry=boxes, crs=32631)
    regions.to_file(tmp_path / "regions.gpkg")
    answers = read_answers(sample)
    whole, right, left = estimates(answers, column="name", outlines=tmp_path / "regions.gpkg")
    assert (right.region, left.region) == ("1", "2")
    assert left.units == (answers.points[:, 0] <= 480_805).sum()
    assert left.units + right.units == whole.units


def agrifm(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, f"{result.output}{result.exception}"
    return result.output


def test_the_commands_lead_from_a_map_to_a_table(world, tmp_path):
    truth, path, zones = world
    sample = tmp_path / "sample.gpkg"
    text = agrifm("area", "design", path, sample, "--user-accuracy", "0.7", "--target-se", "0.03", "--strata", zones)
    assert "232 for a standard error of overall accuracy of 0.03" in text
    assert "0 pixels without data" in text
    with pytest.raises(AssertionError, match="--overwrite"):
        agrifm("area", "design", path, sample)
    table = geopandas.read_file(sample)
    row, column = ((5_530_000 - table.y) // 10).astype(int), ((table.x - 480_000) // 10).astype(int)
    table["reference"] = truth[row, column].astype(str)
    table.loc[0, "reference"] = ""
    table["half"] = np.where(table.x < 480_800, "west [1]", "east")
    table.to_file(sample, layer="sample", driver="GPKG")
    text = agrifm("area", "estimate", sample, "--by", "half", "--level", "0.9", "--drop-unanswered")
    for part in ("region west [1]", "Stehman 2014", "intervals of 90 %", "left out without a reference: 1 of "):
        assert part in text
    out = tmp_path / "sample_estimate"
    record = json.loads((out / "estimate.json").read_text())
    assert record["design"]["strata_from"]["path"] == str(zones)
    assert [each["region"] for each in record["estimates"]] == ["", "east", "west [1]"]
    rows = list(csv.DictReader((out / "areas.csv").open()))
    assert len(rows) == 12
    assert sum(float(each["share_value"]) for each in rows[:4]) == pytest.approx(1)
    shares = [[float(each[f"true_{k}"]) for k in range(4)] for each in csv.DictReader((out / "confusion.csv").open())]
    assert np.sum(shares[:4]) == pytest.approx(1)
    assert Image.open(out / "areas.png").size[0] > 600
    agrifm("area", "estimate", sample, "--regions", path, code=2)
