"""Samples for area statistics: as many as the paper says, drawn by chance alone, with a record of it."""

import itertools
import json

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
from made_maps import COLORS, LABELS, NAMES, cut, grid_of, random_classes
from scipy.stats import chi2

from agrifm.errors import InputError
from agrifm.maps.files.cog import MapProduct, class_map, write_cog
from agrifm.maps.files.legend import NODATA, Legend
from agrifm.statistics import population
from agrifm.statistics.area_sample import Plan, draw, write_sample
from agrifm.statistics.design import Design, allocate, expected_accuracies, sample_size
from agrifm.statistics.population import Population
from agrifm.statistics.response import ResponseDesign

FOREST = (200_000, 150_000, 3_200_000, 6_450_000)


def raster(path, pixels, crs="EPSG:32631", transform=(10, 0, 480_000, 0, -10, 5_530_000), **more):
    """A GeoTIFF of one band."""
    shape = dict(height=pixels.shape[0], width=pixels.shape[1], count=1, dtype=pixels.dtype)
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=rasterio.Affine(*transform), **shape, **more
    ) as file:
        file.write(pixels, 1)
    return path


@pytest.fixture(scope="module")
def our_map(tmp_path_factory):
    """A map as 'agrifm map' writes it: 300 x 260 pixels in six classes, a corner without data."""
    path, pixels = tmp_path_factory.mktemp("map") / "crops.tif", random_classes(300, 260)
    write_cog(path, grid_of(300, 260), class_map(Legend(NAMES, COLORS)), cut(pixels, 300, 260))
    return path, pixels


def places(design):
    return [(unit.x, unit.y, unit.stratum, unit.map_class) for unit in design.units]


def test_sample_size_of_the_paper():
    """Olofsson et al. 2014, section 5.1.1: 641 pixels for a standard error of 0.01."""
    assert sample_size(FOREST, (0.70, 0.60, 0.90, 0.95), 0.01) == 641


def test_sample_size_of_a_small_population_is_smaller_and_never_all():
    assert sample_size((10**9,), (0.5,), 0.01) == 2500
    assert sample_size((2500,), (0.5,), 0.01) == 1250


@pytest.mark.parametrize(
    ("pixels", "size", "floor", "expected"),
    [
        ((1000, 3000), 40, 5, [10, 30]),
        ((100, 900, 9000), 100, 20, [20, 20, 60]),  # the second falls below the floor only after the first took its own
        ((3, 900, 9000), 103, 20, [3, 20, 80]),  # taken whole
        ((3, 7), 50, 5, [3, 7]),  # there are no more
        ((1000, 1000, 1000), 100, 2, [34, 33, 33]),
        ((500, 500), 10, 20, [20, 20]),
        (FOREST, 640, 75, [75, 75, 162, 328]),
    ],
)
def test_allocation(pixels, size, floor, expected):
    assert allocate(pixels, size, floor) == expected


def test_expected_accuracies_are_given_for_all_or_by_name():
    assert expected_accuracies(["a", "maize"], ["0.8", "maize=0.6"]) == [0.8, 0.6]
    for text, repair in (("maiz=0.6", "did you mean 'maize'"), ("80", "write 0.85"), ("maize=x", "write 0.85")):
        with pytest.raises(InputError, match=repair):
            expected_accuracies(["a", "maize"], ["0.8", text])


def test_a_design_says_what_was_drawn_from_what(our_map):
    path, pixels = our_map
    design, census = draw(path, Plan(size=400, floor=30))
    known = pixels[pixels != NODATA]
    assert [part.pixels for part in design.strata] == np.bincount(known).tolist()
    assert sum(part.hectares for part in design.strata) == pytest.approx(len(known) / 100, rel=2e-3)
    assert [entry.name for entry in design.classes] == list(LABELS)
    assert census.empty == (pixels == NODATA).sum()
    assert len(design.units) == sum(part.drawn for part in design.strata) == 400
    assert min(part.drawn for part in design.strata) >= 30
    for unit in design.units:
        row, column = int((5_530_000 - unit.y) // 10), int((unit.x - 480_000) // 10)
        assert (unit.x % 10, unit.y % 10) == (5, 5)
        assert pixels[row, column] == unit.map_class == unit.stratum
    assert len(set(places(design))) == 400


def test_the_sample_depends_on_pixels_and_seed_alone(our_map, tmp_path, monkeypatch):
    path, pixels = our_map
    first = places(draw(path, Plan(size=400))[0])
    assert places(draw(path, Plan(size=400))[0]) == first
    assert places(draw(path, Plan(size=400, seed=1))[0]) != first
    stored = raster(tmp_path / "other.tif", pixels, nodata=NODATA, tiled=True, blockxsize=64, blockysize=64)
    monkeypatch.setattr(population, "PIXELS", 3000)
    assert places(draw(stored, Plan(size=400))[0]) == first


def test_a_map_is_read_a_few_rows_at_a_time(our_map, monkeypatch):
    monkeypatch.setattr(population, "PIXELS", 3000)
    with Population.open(our_map[0], None) as opened:
        shapes = [strip.mapped.shape for strip in opened.strips()]
    assert max(h * w for h, w in shapes) <= 3000
    assert sum(h for h, _ in shapes) == 300


def test_numbers_of_units_tell_nothing_about_strata(our_map):
    strata = [unit.stratum for unit in draw(our_map[0], Plan(size=400))[0].units]
    assert sum(a != b for a, b in itertools.pairwise(strata)) > 300


def test_every_pixel_of_a_stratum_has_the_same_chance(tmp_path):
    """Over 400 seeds; drawing without replacement makes counts less scattered than chi-square by 1 - n/N."""
    pixels = np.repeat(np.arange(3, dtype=np.uint8), (100, 200, 300)).reshape(30, 20)
    path, counts = raster(tmp_path / "map.tif", pixels), np.zeros((30, 20))
    for seed in range(400):
        for unit in draw(path, Plan(size=60, floor=20, seed=seed))[0].units:
            counts[int((5_530_000 - unit.y) // 10), int((unit.x - 480_000) // 10)] += 1
    for stratum, (n, size) in enumerate(((20, 100), (20, 200), (20, 300))):
        mine, expected = counts[pixels == stratum], 400 * n / size
        assert mine.sum() == 400 * n
        statistic = ((mine - expected) ** 2).sum() / expected / (1 - n / size) * (size - 1) / size
        assert 0.001 < chi2.cdf(statistic, size - 1) < 0.999


def test_strata_of_another_raster(our_map, tmp_path):
    path, pixels = our_map
    zones = np.repeat(np.array([7, -3], np.int16), (100, 200))[:, None] * np.ones((1, 260), np.int16)
    zones[:, 200:] = 99
    strata = raster(tmp_path / "zones.tif", zones, nodata=99)
    design, census = draw(path, Plan(size=120, floor=40), strata)
    inside = (zones != 99) & (pixels != NODATA)
    assert {part.code: part.pixels for part in design.strata} == {
        code: (inside & (zones == code)).sum() for code in (-3, 7)
    }
    assert census.no_stratum == ((zones == 99) & (pixels != NODATA)).sum()
    assert sum(entry.pixels for entry in design.classes) == inside.sum()
    for unit in design.units:
        row, column = int((5_530_000 - unit.y) // 10), int((unit.x - 480_000) // 10)
        assert (zones[row, column], pixels[row, column]) == (unit.stratum, unit.map_class)
    moved = raster(tmp_path / "moved.tif", zones, nodata=99, transform=(10, 0, 480_010, 0, -10, 5_530_000))
    with pytest.raises(InputError, match="another grid"):
        draw(path, Plan(), moved)


def zone(south, north, width):
    """Hectares between two parallels on the WGS 84 ellipsoid, by its closed formula, over ``width`` degrees."""
    a, e = 6_378_137.0, np.sqrt(0.006694379990141317)

    def up_to(latitude):
        s = np.sin(np.radians(latitude))
        return s / (1 - (e * s) ** 2) + np.arctanh(e * s) / e

    return np.radians(width) * a**2 * (1 - e**2) / 2 * (up_to(north) - up_to(south)) / 1e4


@pytest.mark.parametrize("west", [-180, 0, 170])  # the last one crosses the 180th meridian
def test_pixels_in_degrees_have_their_area_on_the_ellipsoid(tmp_path, west):
    pixels = np.repeat(np.arange(4, dtype=np.uint8), 30)[:, None] * np.ones((1, 40), np.uint8)
    path = raster(tmp_path / "map.tif", pixels, "EPSG:4326", (0.5, 0, west, 0, -0.5, 60))
    design, _ = draw(path, Plan(size=40, floor=10))
    for i, part in enumerate(design.strata):
        assert part.hectares == pytest.approx(zone(45 - 15 * i, 60 - 15 * i, 20), rel=1e-9)
    for unit in design.units:
        assert unit.hectares == pytest.approx(zone(unit.y - 0.25, unit.y + 0.25, 0.5), rel=1e-9)


def test_pixels_of_any_projection_have_their_area_on_the_ground(tmp_path):
    """Web Mercator shows land at 50 degrees north 2.4 times too large; UTM is right to 0.2 %."""
    pixels = np.ones((100, 100), np.uint8)
    areas = []
    for crs, corner in (("EPSG:3857", (333_958, 6_446_275)), ("EPSG:32631", (500_000, 5_538_630))):
        path = raster(tmp_path / "map.tif", pixels, crs, (100, 0, corner[0], 0, -100, corner[1]))
        areas.append(draw(path, Plan(size=10, floor=5))[0].strata[0].hectares)
    assert areas[0] == pytest.approx(10_000 * np.cos(np.radians(49.96)) ** 2, rel=5e-3)
    assert areas[1] == pytest.approx(10_000 / 0.9996**2, rel=1e-4)


def test_samples_are_written_for_interpreters(our_map, tmp_path):
    design, _ = draw(our_map[0], Plan(size=300))
    for name in ("sample.csv", "deep/sample.gpkg"):
        files = write_sample(tmp_path / name, design)
        sample = name.split("/")[-1]
        assert [path.name for path in files] == [sample, f"{sample}.design.json", f"{sample}.response.json"]
        assert Design.load(files[0]) == design
        files[1].unlink()
        response = ResponseDesign.load(files[0])
        assert (response.classes, response.pixel, response.design) == (tuple(LABELS), (10, 10), design.key)
        files[2].unlink()
        with pytest.raises(InputError, match=r"response\.json"):
            ResponseDesign.load(files[0])
    table = pandas.read_csv(tmp_path / "sample.csv", keep_default_na=False)
    assert list(table) == ["sample_id", "lon", "lat", "x", "y", "design", "reference"]
    assert (table.reference == "").all()
    points = geopandas.read_file(tmp_path / "deep/sample.gpkg")
    assert points.crs.to_epsg() == 32631
    np.testing.assert_allclose(points.geometry.x, table.x)
    back = points.to_crs(4326).geometry
    np.testing.assert_allclose((back.x, back.y), (table.lon, table.lat), atol=1e-7)
    assert not list(tmp_path.rglob("*.part*"))


def test_what_leads_interpreters_is_shown_only_on_request(our_map, tmp_path):
    design, _ = draw(our_map[0], Plan(size=300))
    write_sample(tmp_path / "open.csv", design, open_book=True)
    table = pandas.read_csv(tmp_path / "open.csv")
    strata = {part.code: part for part in design.strata}
    for row in table.itertuples():
        assert row.map_class_name == LABELS[row.map_class]
        assert row.inclusion_probability == pytest.approx(strata[row.stratum].drawn / strata[row.stratum].pixels)
    assert table.weight.sum() == pytest.approx(sum(part.pixels for part in design.strata))


def test_a_sample_is_not_written_over_another(our_map, tmp_path):
    design, _ = draw(our_map[0], Plan(size=300))
    write_sample(tmp_path / "a.csv", design)
    with pytest.raises(InputError, match="--overwrite"):
        write_sample(tmp_path / "a.csv", design)
    write_sample(tmp_path / "a.csv", design, overwrite=True)
    with pytest.raises(InputError, match=r"\.csv or \.gpkg"):
        write_sample(tmp_path / "a.shp", design)


def test_names_from_an_attribute_table_and_numbers_without_one(tmp_path):
    path = raster(tmp_path / "map.tif", np.array([[0, 2], [2, 2]], np.uint8))
    assert [entry.name for entry in draw(path, Plan(size=3, floor=2))[0].classes] == ["0", "2"]
    (tmp_path / "map.tif.aux.xml").write_text(Legend(("a", "b", "c"), ("#000000",) * 3).attribute_table())
    design, _ = draw(path, Plan(size=3, floor=2))
    assert [(entry.name, entry.pixels) for entry in design.classes] == [("a", 1), ("c", 3), ("b", 0)]
    assert [(part.name, part.drawn) for part in design.strata] == [("a", 1), ("c", 2)]
    (tmp_path / "map.tif.aux.xml").write_text(Legend(("a", "b", "A"), ("#000000",) * 3).attribute_table())
    assert [entry.name for entry in draw(path, Plan(size=3, floor=2))[0].classes] == ["a (0)", "A (2)", "b"]


def test_rasters_that_are_no_maps_of_classes_are_refused(tmp_path):
    floats = raster(tmp_path / "floats.tif", np.ones((4, 4), np.float32))
    nowhere = raster(tmp_path / "nowhere.tif", np.ones((4, 4), np.uint8), crs=None)
    empty = raster(tmp_path / "empty.tif", np.zeros((4, 4), np.uint8), nodata=0)
    many = raster(tmp_path / "many.tif", np.arange(400, dtype=np.uint16).reshape(20, 20))
    shares = tmp_path / "shares.tif"
    write_cog(
        shares, grid_of(4, 4), MapProduct("confidence", ("c",), "", scale=0.01), [(0, 0, np.ones((4, 4), np.uint8))]
    )
    (tmp_path / "text.tif").write_text("no raster")
    for path, message in (
        (floats, "1 band.* of float32"),
        (nowhere, "no CRS"),
        (empty, "no pixel with data"),
        (many, "more than 254 different values"),
        (shares, "scaled by 0.01"),
        (tmp_path / "text.tif", "a raster of classes"),
    ):
        with pytest.raises(InputError, match=message):
            draw(path, Plan(size=4, floor=2))


def test_a_size_below_the_floors_is_refused_with_one_that_works(our_map):
    with pytest.raises(InputError, match="--size 300"):
        draw(our_map[0], Plan(size=200))
    assert len(draw(our_map[0], Plan(target_se=0.1))[0].units) == 300  # the floors count where no size was asked for


def test_designs_are_plain_json(our_map, tmp_path):
    design, _ = draw(our_map[0], Plan(size=300, seed=5))
    path = write_sample(tmp_path / "a.csv", design)[1]
    values = json.loads(path.read_text())
    assert values["format"] == "agrifm-area-design-1"
    assert values["seed"] == 5
    assert len(values["map"]["sha256"]) == 64
    assert "300 as asked for" in values["sizing"]
