"""Scenes of the synthetic farmland: files equal to the chips, written whole, seamless, with the gaps of real data."""

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

from agrifm.errors import InputError
from agrifm.scenes.quality import RULES
from agrifm.sensors import LANDSAT, MODIS, S2
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.products import CLEAR, NOTHING, PRODUCTS, SHADOW, THICK, THIN
from agrifm.synthetic.scenes import LandscapeBlock, write_scene

LAND = Landscape(rows=4, columns=4, size=48, frames=(("S2", 5), ("Landsat", 4), ("Modis", 3)))
ROWS, COLUMNS = range(2, 4), range(1, 3)
CORNER = LAND.place(2, 1).transform
SIZE = {"10m": (96, 10), "20m": (48, 20), "Landsat": (32, 30), "Modis": (2, 480)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("farmland") / "scene"
    return write_scene(root, LAND, rows=ROWS, columns=COLUMNS, sensors=(S2, LANDSAT, MODIS))


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def days(sensor):
    new_year = np.datetime64(f"{LAND.year}-01-01")
    return [(new_year + int(day) - 1).item() for day in LAND.days(sensor, COLUMNS[0])]


def path_of(scene, sensor, step, band):
    meters = 20 if band in PRODUCTS[sensor.name].halved else 10
    return scene / PRODUCTS[sensor.name].path.format(day=days(sensor)[step], band=band, meters=meters)


def cell(values, row, column):
    """The pixels of one cell of a raster over the scene ``(h, w)``."""
    n = values.shape[-1] // 2
    return values[row * n : (row + 1) * n, column * n : (column + 1) * n]


def test_all_files_are_there(scene):
    names = sorted(str(path.relative_to(scene)) for path in scene.rglob("*") if path.is_file())
    assert len(names) == 5 * 11 + 4 * 7 + 3 * 8 + 2
    day = days(S2)[0]
    expected = [f"S2/{day:%Y%m%d}_{band}_10m.tif" for band in ("B02", "B03", "B04", "B08")]
    expected += [f"S2/{day:%Y%m%d}_{band}_20m.tif" for band in ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL")]
    day = days(LANDSAT)[0]
    expected += [f"Landsat/HLS.L30.T31UDR.{day:%Y%j}T104500.v2.0.{band}.tif" for band in ("B02", "B07", "Fmask")]
    day = days(MODIS)[0]
    expected += [f"Modis/MOD09A1.A{day:%Y%j}.h18v03.061.{band}.tif" for band in ("sur_refl_b07", "sur_refl_state_500m")]
    assert set(expected) < set(names)
    assert {"parcels.gpkg", "truth.tif"} < set(names)


def test_grids_and_types(scene):
    for path in scene.rglob("*.tif"):
        size, step = SIZE["10m"] if path.parent == scene else SIZE.get(path.stem.split("_")[-1]) or SIZE[path.parts[-2]]
        with rasterio.open(path) as file:
            assert file.crs.to_epsg() == 32631
            assert file.shape == (size, size)
            assert tuple(file.transform)[:6] == (step, 0, CORNER[2], 0, -step, CORNER[5])
            assert file.block_shapes == [(256, 256)]
            assert file.compression.name == "deflate"
    kinds = {"B02": ("uint16", 0), "SCL": ("uint8", 0)}
    for band, kind in kinds.items():
        with rasterio.open(path_of(scene, S2, 0, band)) as file:
            assert (file.dtypes[0], file.nodata) == kind
    with rasterio.open(path_of(scene, LANDSAT, 0, "Fmask")) as file:
        assert (file.dtypes[0], file.nodata) == ("uint8", 255)


def test_numbers_are_those_of_the_chips(scene):
    for (i, row), (j, column) in itertools.product(enumerate(ROWS), enumerate(COLUMNS)):
        sample = LAND.sample(row, column, (S2, LANDSAT, MODIS))
        for sensor, band, step in [(S2, "B08", 0), (S2, "B02", 4), (LANDSAT, "B06", 3), (MODIS, "sur_refl_b02", 1)]:
            expected = sample.images[sensor.name][step, sensor.band_ids.index(band)].numpy()
            np.testing.assert_array_equal(cell(read(path_of(scene, sensor, step, band)), i, j), expected)
        fine = sample.images["S2"][1, S2.band_ids.index("B11")].numpy().astype(float)
        mean = fine.reshape(24, 2, 24, 2).mean((1, 3))
        np.testing.assert_allclose(cell(read(path_of(scene, S2, 1, "B11")), i, j), mean, atol=0.5)
        np.testing.assert_array_equal(cell(read(scene / "truth.tif"), i, j), sample.label)


def test_masks_are_those_of_the_chips(scene):
    clear_shares = {"S2": [], "Landsat": [], "Modis": []}
    for (i, row), (j, column) in itertools.product(enumerate(ROWS), enumerate(COLUMNS)):
        sample = LAND.sample(row, column, (S2, LANDSAT, MODIS))
        for sensor, step in [(S2, 0), (S2, 3), (LANDSAT, 0), (LANDSAT, 2), (MODIS, 0), (MODIS, 2)]:
            quality = PRODUCTS[sensor.name].quality
            clear = RULES[quality](cell(read(path_of(scene, sensor, step, quality)), i, j))
            expected = sample.valid[sensor.name][step].numpy()
            if sensor is S2:
                expected = expected.reshape(24, 2, 24, 2).sum((1, 3)) >= 3
            np.testing.assert_array_equal(clear, expected)
            clear_shares[sensor.name].append(clear.mean())
    assert all(min(shares) < 0.5 < max(shares) for shares in (clear_shares["S2"], clear_shares["Landsat"]))


@pytest.mark.parametrize("name", PRODUCTS)
def test_codes_mean_what_the_products_say(name):
    product = PRODUCTS[name]
    rule, codes = RULES[product.quality], np.array(product.codes, product.dtype)
    assert rule(codes).tolist() == [True, False, False, False, False]
    assert codes[NOTHING] == rule.fill
    assert len({int(codes[state]) for state in (CLEAR, SHADOW, THICK, NOTHING)}) == 4


def test_a_cloud_is_told_from_its_shadow():
    overcast = LandscapeBlock(replace(LAND, cloudiness=1.0), ROWS, COLUMNS)
    series = overcast.series(S2)
    blue = series.images[:, 0].astype(float)
    nir = series.images[:, 3].astype(float)
    assert set(np.unique(series.state)) == {CLEAR, SHADOW, THIN, THICK}
    assert np.median(blue[series.state == THICK]) > 2 * np.median(blue[series.state == CLEAR])
    assert np.median(nir[series.state == SHADOW]) < np.median(nir[series.state == CLEAR])


def test_the_middle_date_of_sentinel_2_is_empty(scene):
    for step, band in itertools.product(range(5), ("B02", "B12", "SCL")):
        assert read(path_of(scene, S2, step, band)).any() == (step != 2)


def test_one_date_of_landsat_covers_half(scene):
    for step in range(4):
        image, quality = (read(path_of(scene, LANDSAT, step, band)) for band in ("B05", "Fmask"))
        valid = image != LANDSAT.nodata
        np.testing.assert_array_equal(valid, quality != 255)
        if step == 1:
            assert 0.45 < valid.mean() < 0.55
            assert valid[:, 0].all()
            assert not valid[:, -1].any()
        else:
            assert valid.all()


def test_averages_of_partly_missing_pixels_use_what_is_there():
    series = LandscapeBlock(LAND, range(2), range(2)).series(S2)
    covered = np.ones(series.state.shape, bool)
    covered[0, :2, :2] = False
    covered[0, 0, 2] = False
    band = next(raster for raster in series.where(covered).rasters() if "_B05_20m" in raster.name).values
    fine = series.images[0, S2.band_ids.index("B05")].astype(float)
    assert band[0, 0] == 0
    assert abs(band[0, 1] - (fine[0, 3] + fine[1, 2] + fine[1, 3]) / 3) <= 0.5


def test_nothing_jumps_at_the_border_of_two_cells():
    series = LandscapeBlock(replace(LAND, noise=0.0, cloudiness=1.0), ROWS, COLUMNS).series(S2)
    for axis in (-1, -2):
        steps = abs(np.diff(series.images.astype(float), axis=axis))
        jumps = steps.mean(tuple(i for i in range(4) if i != 4 + axis))
        middle = len(jumps) // 2
        assert jumps[middle] <= np.delete(jumps, middle).max()


@pytest.mark.parametrize("sensor", [S2, LANDSAT])
def test_four_cells_show_what_one_of_twice_the_size_shows(sensor):
    clean = replace(LAND, noise=0.0, cloudiness=1.0)
    four = LandscapeBlock(clean, range(2, 4), range(2, 4)).series(sensor).images.astype(int)
    one = LandscapeBlock(replace(clean, size=96), range(1, 2), range(1, 2)).series(sensor).images.astype(int)
    middle = four.shape[-1] // 2
    border = np.zeros(four.shape[-2:], bool)
    border[middle - 1 : middle + 1], border[:, middle - 1 : middle + 1] = True, True
    difference = abs(four - one)
    assert difference[..., ~border].max() <= 16  # one step of the stored numbers
    assert difference[..., border].mean() < 20  # a cell does not know the half pixel beyond its border
    assert one.std() > 500


def test_parcels_are_the_truth_as_polygons(scene):
    parcels, truth = geopandas.read_file(scene / "parcels.gpkg"), read(scene / "truth.tif")
    assert parcels.crs.to_epsg() == 4326
    assert parcels.is_valid.all()
    assert parcels["parcel"].tolist() == list(range(1, len(parcels) + 1))
    names = [name for name, _ in CLASSES]
    with rasterio.open(scene / "truth.tif") as file:
        local, grid = parcels.to_crs(file.crs), file.transform
    codes = [names.index(crop) for crop in parcels["crop"]]
    labels = rasterize(zip(local.geometry, codes, strict=True), truth.shape, transform=grid, fill=0)
    np.testing.assert_array_equal(labels, truth)
    numbers = rasterize(zip(local.geometry, parcels["parcel"], strict=True), truth.shape, transform=grid, fill=0)
    ground = np.block([[LAND.ground(row, column).parcel for column in COLUMNS] for row in ROWS])
    assert len(np.unique(np.stack([ground, numbers]).reshape(2, -1), axis=1).T) == len(np.unique(ground))


def test_about_two_thirds_of_the_parcels_are_surveyed():
    wide = Landscape(rows=4, columns=4)
    parcels = LandscapeBlock(wide, range(4), range(4)).parcels()
    assert 0.5 < parcels["surveyed"].mean() < 0.8
    again = LandscapeBlock(wide, range(1, 3), range(1, 3)).parcels()
    by_center = {
        _center(field): surveyed for field, surveyed in zip(parcels.geometry, parcels["surveyed"], strict=True)
    }
    inner = [pair for pair in zip(again.geometry, again["surveyed"], strict=True) if _inside(pair[0])]
    assert len(inner) > 5
    assert all(by_center[_center(field)] == surveyed for field, surveyed in inner)


def _center(field):
    return round(field.centroid.x), round(field.centroid.y)


def _inside(field):
    """Whether a field touches no border of the inner four cells."""
    (_, _, west, _, _, north), side = Landscape().place(1, 1).transform, 2 * 960
    left, low, right, high = field.bounds
    return left > west and high < north and right < west + side and low > north - side


def test_colors_stand_in_the_truth(scene):
    with rasterio.open(scene / "truth.tif") as file:
        colors = file.colormap(1)
    assert ["#{:02x}{:02x}{:02x}".format(*colors[i][:3]) for i in range(6)] == [color for _, color in CLASSES]


BAD = {
    "a gap": ({"rows": range(0, 4, 2)}, "rows=..."),
    "outside": ({"rows": range(3, 5)}, "adjoining ones among 0 to 3"),
    "nothing": ({"columns": slice(2, 2)}, "slice"),
    "two orbits": ({"landscape": replace(LAND, columns=9), "columns": range(2, 6)}, "choose among 0 to 3"),
    "pixels that do not fit": ({"landscape": replace(LAND, size=50)}, "set size to 48"),
    "sensor": ({"sensors": (replace(S2, name="Sentinel2"),)}, "S2"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, case):
    change, message = BAD[case]
    asked = {"landscape": LAND, "rows": ROWS, "columns": COLUMNS} | change
    with pytest.raises(InputError) as caught:
        write_scene(tmp_path / "scene", **asked)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_it_appears_whole_and_replaces_nothing(tmp_path):
    root, steps = tmp_path / "scene", []

    def interrupt(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(root, LAND, rows=slice(2), columns=slice(1, 2), sensors=(LANDSAT,), progress=interrupt)
    assert not root.exists()
    write_scene(root, LAND, rows=slice(2), columns=slice(1, 2), sensors=(LANDSAT,), progress=lambda *s: steps.append(s))
    assert steps == [(n, 30) for n in range(1, 31)]
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]
    with pytest.raises(InputError, match="does not exist yet"):
        write_scene(root, LAND, rows=slice(2), columns=slice(1, 2))


@pytest.fixture
def large(monkeypatch):
    """The script that writes the large scene, with a block of 96 pixels in place of 960."""
    path = Path(__file__).parents[1] / "benchmarks" / "make_scene.py"
    spec = importlib.util.spec_from_file_location("make_scene", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CELL", 24)
    monkeypatch.setattr(module, "STRIP", 64)
    return module


def test_the_large_scene_repeats_its_block_without_seams(large, tmp_path):
    folder = large.make(tmp_path / "large", size=250, dates=2)
    assert len(list(folder.glob("S2/*.tif"))) == 2 * 11
    assert len(list(folder.glob("Landsat/*.tif"))) == 2 * 7
    shapes = {"*_B08_10m.tif": (250, 96), "*_SCL_20m.tif": (125, 48), "*.B05.tif": (84, 32)}
    for pattern, (side, block) in shapes.items():
        values = read(sorted(folder.rglob(pattern))[0])
        assert values.shape == (side, side)
        np.testing.assert_array_equal(values[:block, block : 2 * block], values[:block, :block][:, ::-1])
        np.testing.assert_array_equal(values[block : 2 * block, :block], values[:block, :block][::-1])
        np.testing.assert_array_equal(values[2 * block :, 2 * block :], values[: side - 2 * block, : side - 2 * block])
    assert len(np.unique(read(sorted(folder.rglob("*_B08_10m.tif"))[0]))) > 20
