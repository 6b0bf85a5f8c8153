"""Faults of single dates: each is named, and its printed repair works when it is followed literally."""

import re
import shlex

import numpy as np
import pytest
import rasterio
from farmland_series import CLOUD, DAYS, DESERT, FOREST, NODES, SEASON, SIZE, SNOW, SOIL, farmland
from rasterio.transform import from_origin

from agrifm.checks.date_faults import find_faults
from agrifm.checks.series import Series
from agrifm.errors import InputError
from agrifm.opening import open_scene
from agrifm.scenes.checks.units import check_units
from agrifm.sensors import LANDSAT, S2


def write(folder, sensor, images, days=DAYS, masks=None):
    """Plain band files without a baseline in their names."""
    profile = {"driver": "GTiff", "height": SIZE, "width": SIZE, "count": 1, "crs": "EPSG:32631"}
    profile["transform"] = from_origin(500_000, 4_800_000, sensor.gsd, sensor.gsd)
    folder.mkdir(exist_ok=True)
    for i, day in enumerate(days):
        for band, values in zip(sensor.band_ids, np.rint(images[i] * 1e4).clip(-9000, 65535), strict=True):
            kind = "uint16" if sensor is S2 else "int16"
            with rasterio.open(folder / f"{day:%Y%m%d}_{band}_10m.tif", "w", dtype=kind, **profile) as file:
                file.write(np.maximum(values, 1).astype(kind), 1)
        if masks is not None:
            with rasterio.open(folder / f"{day:%Y%m%d}_SCL_10m.tif", "w", dtype="uint8", **profile) as file:
                file.write(np.where(masks[i], 4, 9).astype(np.uint8), 1)
    return folder


def source_notes(scene):
    return [frame.units.source for layer in scene.layers for frame in layer.frames]


def options(repair):
    """The options that a repair prints, as a shell takes them: the first setting, and the one that leaves dates out."""
    return [shlex.split(found)[1] for found in re.findall(r"--set \w+='[^']*'", repair)]


def exchange(image, one, other):
    image[[one, other]] = image[[other, one]]


FAULTS = {
    "offset left in on the last three": ([3, 4, 5], lambda image: image.__iadd__(0.1), "0.1 above", "offsets"),
    "offset left in on one": ([2], lambda image: image.__iadd__(0.1), "0.1 above", "offsets"),
    "offset left in on the first": ([0], lambda image: image.__iadd__(0.1), "0.1 above", "offsets"),
    "offset left in on four": ([1, 2, 4, 5], lambda image: image.__iadd__(0.1), "0.1 above", "offsets"),
    "divided by 100": ([2], lambda image: image.__imul__(0.01), "100 times smaller", "scales"),
    "three divided by 10": ([0, 1, 2], lambda image: image.__imul__(0.1), "10 times smaller", "scales"),
    "red and near infrared exchanged": ([3], lambda image: exchange(image, 2, 3), "B04", ""),
    "short waves exchanged with the near infrared": ([3], lambda image: exchange(image, 7, 8), "B8A", ""),
    "one image in two bands": ([4], lambda image: image.__setitem__(1, image[2]), "same values in B03 and B04", ""),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_single_dates_are_named_and_repaired(tmp_path, case):
    steps, spoil, words, key = FAULTS[case]
    masked = len(steps) > 1
    images = farmland(S2, seed=4)
    for step in steps:
        spoil(images[step])
    folder = write(tmp_path / "scene", S2, images, masks=np.ones((6, SIZE, SIZE), bool) if masked else None)
    with pytest.raises(InputError, match=words) as error:
        check_units(open_scene(folder))
    named = re.findall(r"2023-\d\d-\d\d", error.value.where)
    assert named == [str(DAYS[step]) for step in steps]
    given = options(error.value.repair)
    assert [option.partition("=")[0] for option in given] == [*([key] if key else []), "skip_dates"]
    for option in given:
        assert any("values agree" in note for note in source_notes(check_units(open_scene(folder, [option]))))


def series(images, masked):
    """The images as the check sees them, without files."""
    pixels = images.reshape(*images.shape[:2], -1).astype(np.float32)
    clear = np.ones((len(images), pixels.shape[-1]), bool)
    return Series(S2, pixels, clear, np.full(len(images), masked))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(
    ("ground", "season"),
    [(SOIL, SEASON), (DESERT, SEASON * 0), (SOIL, SEASON * 0), (FOREST, SEASON * 0), (SNOW, SEASON * 0)],
    ids=["farmland", "desert", "bare", "forest", "snow"],
)
def test_unusual_ground_passes(ground, season, masked):
    for seed in range(20):
        assert find_faults(series(farmland(S2, seed, ground, season), masked)) == []


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("event", ["snow", "flood", "harvest", "haze", "clouds", "shadow", "drought"])
def test_unusual_dates_pass(event, masked):
    """One date on which the ground, or the air, is as never else."""
    waves = [band.wavelength for band in S2.bands]
    soil, snow, cloud = (np.interp(waves, NODES, cover)[:, None, None] for cover in (SOIL, SNOW, CLOUD))
    water = np.interp(waves, (0.49, 0.56, 0.66, 0.86, 2.2), (0.07, 0.08, 0.07, 0.02, 0.005))[:, None, None]
    part = (np.arange(SIZE) < SIZE // 2)[None, None, :]
    for seed in range(12):
        images, step = farmland(S2, seed), seed % 6
        image = images[step]
        images[step] = {
            "snow": 0.2 * image + 0.8 * snow,
            "flood": np.where(part, water, image),
            "harvest": 0.1 * image + 0.9 * soil,
            "haze": 0.85 * image + 0.15 * cloud,
            "clouds": np.where(part, cloud, image),
            "shadow": 0.4 * image,
            "drought": 1.3 * image,
        }[event]
        assert not any(fault.sure for fault in find_faults(series(images, masked)))


def test_products_of_a_new_baseline_of_early_dates(tmp_path):
    """Reprocessed products hold the offset though their dates lie before 2022: the numbers decide, not the dates."""
    images = farmland(S2, 3)
    images[[0, 4]] += 0.1
    days = [day.replace(year=2019) for day in DAYS]
    folder = write(tmp_path / "scene", S2, images, days)
    with pytest.raises(InputError, match="2019-04-01, 2019-06-20") as error:
        check_units(open_scene(folder))
    check_units(open_scene(folder, options(error.value.repair)[:1]))


def test_the_check_can_be_left_out(tmp_path):
    images = farmland(S2, 3)
    images[2] += 0.1
    folder = write(tmp_path / "scene", S2, images)
    with pytest.raises(InputError, match="'--set check_units=false'"):
        check_units(open_scene(folder))
    notes = source_notes(check_units(open_scene(folder, ["check_units=false"])))
    assert all("not checked, on request" in note for note in notes)


def test_dates_of_one_of_two_sensors(tmp_path):
    """Both sensors saw the same days; only Sentinel-2 is wrong on one of them."""
    images = farmland(S2, 5)
    images[2] += 0.1
    write(tmp_path / "s2", S2, images)
    write(tmp_path / "l8", LANDSAT, farmland(LANDSAT, 5))
    scene = tmp_path / "scene.yaml"
    scene.write_text("sources: [{path: s2, sensor: S2}, {path: l8, sensor: Landsat}]")
    with pytest.raises(InputError, match="S2, 2023-05-11") as error:
        check_units(open_scene(scene))
    given = options(error.value.repair)
    assert given[0] == "offsets={S2 2023-05-11: -0.1}"
    for option in given:
        check_units(open_scene(scene, [option]))


def test_a_whole_sensor_of_two(tmp_path):
    """``--set offset`` would change both sensors of a folder; the repair names one."""
    write(tmp_path / "s2", S2, farmland(S2, 5) + 0.1)
    write(tmp_path / "l8", LANDSAT, farmland(LANDSAT, 5))
    scene = tmp_path / "scene.yaml"
    scene.write_text("sources: [{path: s2, sensor: S2}, {path: l8, sensor: Landsat}]")
    with pytest.raises(InputError, match="no clear pixel darker") as error:
        check_units(open_scene(scene))
    checked = check_units(open_scene(scene, options(error.value.repair)))
    assert {frame.units.offset for frame in checked.layers[0].frames} == {-0.1}
    assert {frame.units.offset for frame in checked.layers[1].frames} == {0.0}


@pytest.mark.parametrize(
    ("option", "left"),
    [
        ("skip_dates=[2023-05-11]", [0, 1, 3, 4, 5]),
        ("skip_dates=['S2 2023-05-11', 2023-04-01]", [1, 3, 4, 5]),
        ("skip_dates=[2023-04-15..2023-06-01]", [0, 4, 5]),
    ],
)
def test_dates_are_left_out(tmp_path, option, left):
    scene = open_scene(write(tmp_path / "scene", S2, farmland(S2, 1)), [option])
    assert list(scene.layers[0].days) == [DAYS[i] for i in left]
    assert len(scene.skipped) == 6 - len(left)


@pytest.mark.parametrize("option", ["offsets={2023-05-12: -0.1}", "skip_dates=[Landsat 2023-05-11]"])
def test_a_date_that_is_not_there_is_refused(tmp_path, option):
    folder = write(tmp_path / "scene", S2, farmland(S2, 1))
    with pytest.raises(InputError, match="of which there is no image") as error:
        open_scene(folder, [option])
    assert "did you mean '2023-05-" in error.value.repair


def test_the_most_exact_name_counts(tmp_path):
    folder = write(tmp_path / "scene", S2, farmland(S2, 1))
    given = "offsets={2023-04-01..2023-07-01: -0.3, 2023-05-11: -0.2, S2 2023-04-21: -0.1}"
    scene = open_scene(folder, [given])
    assert [frame.units.offset for frame in scene.layers[0].frames] == [-0.3, -0.1, -0.2, -0.3, -0.3, 0.0]


def test_impossible_numbers_under_a_clear_quality_layer_are_refused(tmp_path):
    """Rows of 64,500 where the quality layer says vegetation; a few rows are masked, most of a date is refused."""
    images, masks = farmland(S2, 4), np.ones((6, SIZE, SIZE), bool)
    images[2, :, :2] = 6.45
    check_units(open_scene(write(tmp_path / "few", S2, images, masks=masks)))
    images[2, :, :8] = 6.45
    with pytest.raises(InputError, match=r"outside -0\.2\.\.1\.6 on 33% of the clear pixels"):
        check_units(open_scene(write(tmp_path / "many", S2, images, masks=masks)))
