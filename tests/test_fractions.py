"""Samples with land-cover fractions: areas, crosswalks, filters, balance, and refusals."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rich.console import Console
from typer.testing import CliRunner

from agrifm.cli import app
from agrifm.errors import InputError
from agrifm.io import locked
from agrifm.opening import open_scene
from agrifm.pretraining.balance import apportion
from agrifm.pretraining.crosswalk import SHIPPED, UNKNOWN, Crosswalk
from agrifm.pretraining.fractions import build, records
from agrifm.pretraining.landcover import LandCover
from agrifm.pretraining.outcomes import Outcomes
from agrifm.pretraining.shards import Shards
from agrifm.pretraining.views import FractionPlan
from agrifm.scenes.cutting import cut_sample
from agrifm.scenes.scene import Area
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.tasks.fractions import COVERS

UTM = "EPSG:32631"
BOX = GeoBox((48, 48), Affine(10, 0, 500_000, 0, -10, 4_800_000), UTM)
CODES = np.array([40, 10, 30, 20, 90, 80, 50, 60], np.uint8)  # one for each of the eight covers, in order
WORLDCOVER = Crosswalk.read("worldcover")
FEW_DATES = Landscape(rows=2, columns=4, size=48, frames=(("S2", 8), ("Landsat", 6)), cloudiness=0.3)
PLAN = FractionPlan({"": 12}, cells=4)


def write_cover(path, codes, transform, crs=UTM, nodata=None):
    profile = {"driver": "GTiff", "count": 1, "height": codes.shape[0], "width": codes.shape[1], "nodata": nodata}
    with rasterio.open(path, "w", **profile, dtype=codes.dtype, crs=crs, transform=transform, tiled=True) as file:
        file.write(codes, 1)
    return str(path)


def shares(path, box=BOX, cells=4, **limits):
    with LandCover.open(path, WORLDCOVER) as ground:
        return ground.shares(box, cells, **limits)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = write_scene(
        tmp_path_factory.mktemp("scenes") / "farm",
        FEW_DATES,
        rows=slice(None),
        columns=slice(None),
        sensors=(S2, LANDSAT),
    )
    return open_scene(root)


@pytest.fixture(scope="module")
def cover(scene, tmp_path_factory):
    """Land cover of 10 m: one cover in each square of 120 m, mostly cropland, and unknown along the western edge."""
    rng, grid = np.random.default_rng(0), scene.grid
    height, width = (-(-length // 12) for length in grid.shape)
    codes = np.kron(CODES[rng.choice(8, (height, width), p=[0.44] + [0.08] * 7)], np.ones((12, 12), np.uint8))
    codes[:, :8] = 0
    return write_cover(tmp_path_factory.mktemp("cover") / "cover.tif", codes, grid.affine)


def build_records(scene, cover, plan=PLAN, scenes=None):
    outcomes = Outcomes()
    samples = list(records(scenes or [scene], cover, WORLDCOVER, plan, outcomes))
    return samples, outcomes


# Shares


def test_on_the_same_grid_shares_are_counts(tmp_path):
    codes = CODES[np.random.default_rng(0).integers(0, 8, (48, 48))]
    codes[:12, :12] = 0
    measured = shares(write_cover(tmp_path / "cover.tif", codes, BOX.affine))
    blocks = codes.reshape(4, 12, 4, 12).swapaxes(1, 2).reshape(4, 4, 144)
    counts = (blocks[None] == np.append(CODES, 0)[:, None, None, None]).mean(-1)
    np.testing.assert_allclose(measured, counts, rtol=0, atol=1e-12)
    assert measured[UNKNOWN, 0, 0] == 1


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1 / 2000, 0, 2.999, 0, -1 / 3000, 43.354)),
        ("EPSG:2154", Affine(37, 0, 699_800, 0, -37, 6_250_000)),
        (UTM, Affine.translation(500_200, 4_799_900) @ Affine.rotation(27) @ Affine.scale(31, -31)),
    ],
)
def test_shares_are_areas_whatever_the_projection(tmp_path, crs, transform):
    """Pixels as polygons, moved to the scene's grid and cut there with its square cells by shapely."""
    move = Transformer.from_crs(UTM, crs, always_xy=True).transform
    column, row = ~transform @ move(500_240.0, 4_799_760.0)
    transform = transform @ Affine.translation(round(column) - 20, round(row) - 20)
    codes = CODES[np.random.default_rng(1).integers(0, 8, (40, 40))]
    codes[18:22, 18:22] = 0
    measured = shares(write_cover(tmp_path / "cover.tif", codes, transform, crs, nodata=0))
    rows, columns = np.mgrid[:40, :40]
    corners = np.stack([np.stack([columns + x, rows + y], -1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))], -2)
    x, y = transform @ tuple(corners.reshape(-1, 2).T)
    back = Transformer.from_crs(crs, UTM, always_xy=True).transform
    pixels = shapely.polygons(np.stack(back(x, y), -1).reshape(1600, 4, 2))
    for (i, j), code_areas in np.ndenumerate(np.empty((4, 4))):
        cell = shapely.box(500_000 + 120 * j, 4_799_880 - 120 * i, 500_120 + 120 * j, 4_800_000 - 120 * i)
        area = shapely.area(shapely.intersection(pixels, cell)) / 120**2
        code_areas = [area[(codes == code).ravel()].sum() for code in (*CODES, 0)]
        code_areas[UNKNOWN] += 1 - sum(code_areas)
        np.testing.assert_allclose(measured[:, i, j], code_areas, atol=2e-5)
    np.testing.assert_allclose(measured.sum(0), 1, atol=1e-12)


def test_on_degrees_areas_are_those_on_the_sphere(tmp_path):
    """Two rows of pixels of 1 degree around 60.5 degrees north: the northern one is smaller."""
    codes = np.array([[10], [40]], np.uint8)
    path = write_cover(tmp_path / "cover.tif", codes, Affine(1, 0, 2, 0, -1, 61), "EPSG:4326")
    measured = shares(path, GeoBox((2, 1), Affine(1, 0, 2, 0, -1, 61), "EPSG:4326"), 1)[:, 0, 0]
    north, south = np.cos(np.radians([60.5, 59.5]))
    assert measured[COVERS.index("forest")] == pytest.approx(north / (north + south), abs=1e-6)


def test_what_lies_beyond_the_raster_is_unknown(tmp_path):
    path = write_cover(tmp_path / "cover.tif", np.full((48, 30), 40, np.uint8), BOX.affine)
    measured = shares(path)
    assert measured[0, 0].tolist() == [1, 1, 0.5, 0]
    assert measured[UNKNOWN, 0].tolist() == [0, 0, 0.5, 1]
    far = GeoBox((48, 48), Affine(10, 0, 900_000, 0, -10, 4_800_000), UTM)
    assert (shares(path, far)[UNKNOWN] == 1).all()


def test_little_is_read_at_a_time_and_the_shares_stay_the_same(tmp_path, monkeypatch):
    codes = CODES[np.random.default_rng(2).integers(0, 8, (480, 480))]
    path = write_cover(tmp_path / "cover.tif", codes, Affine(1.01, 0, 499_990, 0, -1.01, 4_800_005))
    whole, read, sizes = shares(path), LandCover.covers, []
    monkeypatch.setattr(
        LandCover, "covers", lambda self, *window: sizes.append(window[2] * window[3]) or read(self, *window)
    )
    np.testing.assert_allclose(shares(path, max_pixels=20_000), whole, atol=1e-6)
    assert max(sizes) <= 20_000
    assert len(sizes) > 10


# Crosswalks


@pytest.mark.parametrize(
    ("name", "codes", "count"),
    [
        ("worldcover", {40: "cropland", 10: "forest", 95: "wetland", 70: "bare", 50: "impervious"}, 11),
        ("glc_fcs30d", {12: "cropland", 92: "forest", 122: "shrubland", 187: "wetland", 153: "bare"}, 35),
        (
            "cdl",
            {1: "cropland", 254: "cropland", 176: "grassland", 152: "shrubland", 111: "water", 124: "impervious"},
            0,
        ),
        ("mcd12q1", {12: "cropland", 8: "forest", 11: "wetland", 15: "bare", 17: "water", 13: "impervious"}, 17),
    ],
)
def test_shipped_crosswalks(name, codes, count):
    table = Crosswalk.read(name)
    assert {code: COVERS[table.covers[code]] for code in codes} == codes
    assert set(table.covers.values()) == set(range(9))
    assert not count or sum(cover != UNKNOWN for cover in table.covers.values()) == count
    assert table.source
    assert name in SHIPPED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: x\ncovers: {cropland: [1], forrest: [2]}", "did you mean 'forest'"),
        ("source: x\ncovers: {cropland: [1], forest: [2, 1]}", "code 1, which is listed before"),
        ("source: x\ncovers: {cropland: [1]}\nunknown: [1]", "code 1, which is listed before"),
        ("covers: {cropland: [1]}", "source"),
        ("source: x\ncover: {cropland: [1]}", "did you mean 'covers'"),
        ("source: x\ncovers: {cropland: [1.5]}", r"covers.cropland.0\n.*1.5\n.*valid integer"),
        ("source: x\ncovers: {}", "covers"),
        ("source: [x", "a crosswalk"),
        ("source: x\ncovers: {cropland: [36893488147419103232]}", r"covers.cropland.0\n.*3689\d+\n.*less than"),
        ("source: x\ncovers: {cropland: [" + "9" * 5000 + "]}", "5000 characters"),
        ("[" * 100_000, "a crosswalk"),
        ("", "a crosswalk, source: TEXT"),
    ],
)
def test_bad_crosswalks(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Crosswalk.read(path)


def test_a_crosswalk_that_is_not_there():
    with pytest.raises(InputError, match="did you mean 'worldcover'"):
        Crosswalk.read("worldcovr")


# Samples


def test_samples_are_the_scenes_pixels(scene, cover):
    samples, outcomes = build_records(scene, cover)
    assert {record.sensor for record in samples} == {"S2", "Landsat"}
    assert len({record.name for record in samples}) == len(samples) == outcomes.biomes["temperate"]
    for record in samples[:: len(samples) // 8]:
        row, column = (int(part[1:]) * 12 for part in record.name.split("_")[-2:])
        area = Area(row, column, 12, 12)
        alone = scene.only((record.sensor,))
        expected = cut_sample(alone.read(area), area)
        sample, name = record.sample(), record.sensor
        kept = torch.isin(expected.dates[name], sample.dates[name])
        assert torch.equal(sample.images[name], expected.images[name][kept].int())
        assert torch.equal(sample.valid[name], expected.valid[name][kept])
        clear = expected.valid[name].float().mean((1, 2))
        assert (clear[~kept] < 0.05).all()
        assert (clear[kept] >= 0.05).all()
        assert len(sample.dates[name]) >= 4
        assert clear[kept].mean() >= 0.2
        assert record.image.dtype.name == ("uint16" if name == "S2" else "int16")
        np.testing.assert_allclose(record.fractions.sum(0) + record.unknown, 1, atol=1e-5)
        x, y = Transformer.from_crs("EPSG:4326", UTM, always_xy=True).transform(record.lon, record.lat)
        middle = alone.grid.affine @ (column + 6, row + 6)
        assert (x, y) == pytest.approx(middle, abs=0.01)
        assert record.year == 2023
        assert record.source == "cover.tif, worldcover"


def test_fractions_are_those_of_the_chip(scene, cover):
    """Chips of S2 lie on the squares of 120 m: one cover each, apart from the unknown strip."""
    samples, _ = build_records(scene, cover)
    with rasterio.open(cover) as file:
        codes = file.read(1)
    for record in (record for record in samples if record.sensor == "S2"):
        row, column = (int(part[1:]) for part in record.name.split("_")[-2:])
        code = codes[row * 12, column * 12 + 11]
        np.testing.assert_allclose(record.fractions[CODES.tolist().index(code)], 1 - record.unknown, atol=1e-6)
        assert record.unknown.mean() == pytest.approx(0 if column else 2 / 3, abs=1e-6)


def test_the_same_seed_draws_the_same_and_another_does_not(scene, cover):
    plan = FractionPlan({"": 12}, cells=4, samples=20, seed=3)
    first, again = ([record.to_bytes() for record in build_records(scene, cover, plan)[0]] for _ in range(2))
    other = [
        record.to_bytes()
        for record in build_records(scene, cover, FractionPlan({"": 12}, cells=4, samples=20, seed=4))[0]
    ]
    assert first == again
    assert len(first) == len(other) == 20
    assert first != other


def test_balance_makes_rare_covers_as_frequent_as_others(scene, cover):
    def spread(balance):
        plan = FractionPlan({"": 12}, cells=4, samples=16, balance=balance)
        samples, outcomes = build_records(scene.only(("S2",)), cover, plan)
        counts = outcomes.to_dict()["samples"]["S2"]
        assert sum(counts.values()) == len(samples) == 16
        return counts

    natural, even = spread(0), spread(1)
    assert even == dict.fromkeys(even, 2)
    assert len(even) == 8
    assert natural["cropland"] > 4


def test_sharing_out_respects_weights_what_is_left_and_what_was_taken():
    weights, nothing = np.array([0.5, 0.25, 0.25]), np.zeros(3, int)
    assert apportion(weights, nothing, np.array([100, 100, 100]), 40).tolist() == [20, 10, 10]
    assert apportion(weights, nothing, np.array([100, 100, 3]), 40).sum() == 40
    assert apportion(weights, nothing, np.array([5, 100, 3]), 40).tolist() == [5, 32, 3]
    assert apportion(weights, np.array([20, 8, 9]), np.array([80, 80, 0]), 3).tolist() == [1, 2, 0]
    assert apportion(weights, nothing, np.array([1, 2, 3]), 40).tolist() == [1, 2, 3]


def test_filters_count_what_they_take(scene, cover):
    rejected = build_records(scene, cover)[1].to_dict()["rejected"]
    assert rejected["S2"]["land cover unknown"] == scene.grid.shape[0] // 12
    kept, outcomes = build_records(scene, cover, FractionPlan({"": 12}, cells=4, max_unknown=0.7))
    assert "land cover unknown" not in outcomes.to_dict()["rejected"].get("S2", {})
    cloudy = build_records(scene, cover, FractionPlan({"": 12}, cells=4, max_unknown=0.7, min_clear=0.9))[1]
    assert cloudy.to_dict()["rejected"]["S2"]["too cloudy"] > 0
    assert sum(cloudy.chips.values()) == sum(outcomes.chips.values())
    assert len(kept) > cloudy.biomes.total()


def test_biomes_and_years(scene, cover):
    samples, _ = build_records(scene, cover, FractionPlan({"": 24}, cells=4, biome="loess", year=2023))
    assert {record.biome for record in samples} == {"loess"}
    assert build_records(scene, cover, FractionPlan({"": 24}, cells=4, year=2022))[0] == []


def test_chips_of_two_scenes_have_names_of_their_own(scene, cover):
    samples, _ = build_records(scene, cover, FractionPlan({"": 24}, cells=4), [scene, scene])
    assert len({record.name for record in samples}) == len(samples)


# Refusals


def refusal(scene, cover, out, plan=PLAN, table=WORLDCOVER):
    with pytest.raises(InputError) as caught:
        build([scene], cover, out, table, plan)
    assert not out.exists()
    return str(caught.value)


def test_land_cover_of_another_place(scene, tmp_path):
    path = write_cover(tmp_path / "far.tif", np.full((9, 9), 40, np.uint8), Affine(1, 0, 10, 0, -1, 10), "EPSG:4326")
    text = refusal(scene, path, tmp_path / "out")
    assert "longitude 10.0000 to 19.0000" in text
    assert "longitude 2.7" in text
    assert "latitude 49.9" in text


def test_codes_that_are_not_listed(scene, cover, tmp_path):
    with rasterio.open(cover) as file:
        codes, transform = file.read(1), file.transform
    codes[10:20, 20:40] = 77
    text = refusal(scene, write_cover(tmp_path / "cover.tif", codes, transform), tmp_path / "out")
    assert f"code 77 ({200 / codes.size:.3%} of the pixels)" in text
    assert "crosswalk worldcover: 0, 10, 20, 30" in text
    assert "unknown:" in text


def test_rasters_that_are_no_land_cover(scene, tmp_path):
    path = write_cover(tmp_path / "cover.tif", np.full((9, 9), 40, np.uint8), BOX.affine, crs=None)
    assert "no CRS" in refusal(scene, path, tmp_path / "out")
    assert "does not open" in refusal(scene, str(tmp_path / "none.tif"), tmp_path / "out")
    with rasterio.open(
        tmp_path / "two.tif", "w", driver="GTiff", count=2, height=9, width=9, dtype="uint8", crs=UTM
    ) as file:
        file.transform = BOX.affine
    assert "2 bands" in refusal(scene, str(tmp_path / "two.tif"), tmp_path / "out")


def test_nothing_left_says_which_filter_took_how_many(scene, cover, tmp_path):
    text = refusal(scene, cover, tmp_path / "out", FractionPlan({"": 12}, cells=4, year=2022))
    assert "S2: 120 fewer than 4 dates, 8 land cover unknown" in text
    assert "smaller --size" in refusal(scene, cover, tmp_path / "out", FractionPlan({"": 4800}))


def test_sizes_must_hold_whole_cells(scene, cover, tmp_path):
    assert "--size Landsat=8" in refusal(scene, cover, tmp_path / "out", FractionPlan({"": 12, "Landsat": 9}, cells=4))


# Shards


def test_from_scene_to_shards_and_back(scene, cover, tmp_path):
    plan = FractionPlan({"": 24}, cells=4)
    expected, _ = build_records(scene, cover, plan)
    for out in (tmp_path / "a", tmp_path / "b"):
        build([scene], cover, out, WORLDCOVER, plan, console=Console(quiet=True))
    source = Shards.open(tmp_path / "a")
    by_name = {record.name: record.sample() for record in expected}
    assert len(source) == len(expected)
    for i in range(len(source)):
        sample = source.read(i)
        twin = by_name.pop(sample.name)
        assert torch.equal(sample.label.nan_to_num(-1), twin.label.nan_to_num(-1))
        for key, image in sample.images.items():
            assert torch.equal(image.int(), twin.images[key].int())
    assert not by_name
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_the_command(scene, cover, tmp_path):
    root = next(iter(scene.layers[0].frames[0].hrefs)).rsplit("/", 2)[0]
    out = tmp_path / "out"
    words = ["fractions", "build", root, cover, str(out), "--size", "24", "--cells", "4", "--samples", "9"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "dominant cover" in result.output
    report = json.loads((out / "report.json").read_text())
    assert sum(sum(covers.values()) for covers in report["samples"].values()) == 9
    assert sum(report["shares"].values()) == pytest.approx(1, abs=1e-4)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.exit_code == 0
    assert "finished already" in " ".join(again.output.split())
    assert result.output in again.output  # the same report
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    with pytest.raises(InputError, match="--overwrite"):
        CliRunner().invoke(app, [*words, "--seed", "1"], catch_exceptions=False)
    assert CliRunner().invoke(app, [*words, "--overwrite"], catch_exceptions=False).exit_code == 0
    with pytest.raises(InputError, match="no number of pixels"):
        CliRunner().invoke(app, [*words, "--size", "big"], catch_exceptions=False)


def test_a_command_killed_right_after_its_last_rename_can_be_repeated(scene, cover, tmp_path, monkeypatch):
    out = tmp_path / "out"
    plan = FractionPlan({"": 12}, cells=4, samples=4)
    real = Path.replace

    def replace_and_die(self, target):
        real(self, target)
        if target == out:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        monkeypatch.setattr(Path, "replace", replace_and_die)
        build([scene], cover, out, WORLDCOVER, plan)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert build([scene], cover, out, WORLDCOVER, plan).biomes.total() == 4
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["out"]


@pytest.mark.parametrize("change", ["scenes", "land cover", "crosswalk", "plan", "a missing shard"])
def test_a_finished_folder_of_another_command_is_refused(scene, cover, tmp_path, change):
    out = tmp_path / "out"
    plan = FractionPlan({"": 24}, cells=4, samples=4)
    build([scene], cover, out, WORLDCOVER, plan)
    scenes, table = [scene], WORLDCOVER
    if change == "scenes":
        scenes = [scene, scene]
    elif change == "land cover":
        cover = shutil.copy(cover, tmp_path / "other.tif")
    elif change == "crosswalk":
        table = replace(WORLDCOVER, source="another guide")
    elif change == "plan":
        plan = replace(plan, seed=1)
    else:
        next(out.glob("*.tar")).unlink()
    with pytest.raises(InputError, match="--overwrite"):
        build(scenes, str(cover), out, table, plan)


def test_a_second_builder_is_refused_and_a_killed_one_replaced(scene, cover, tmp_path):
    out = tmp_path / "out"
    with locked(out.with_name("out.build")):
        assert "another process" in refusal(scene, cover, out)
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "S2-00000.tar").write_text("cut off")
    build([scene], cover, out, WORLDCOVER, FractionPlan({"": 12}, cells=4, samples=4))
    assert Shards.open(out).shards
    assert sum(json.loads((out / "report.json").read_text())["biomes"].values()) == 4
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
