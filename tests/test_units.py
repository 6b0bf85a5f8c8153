"""Units: what a baseline means, and numbers that contradict what is said of them."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from agrifm.errors import InputError
from agrifm.rasters.file_band import FileBand
from agrifm.scenes.checks.units import check_units
from agrifm.scenes.description import Source
from agrifm.scenes.quality import Quality
from agrifm.scenes.scene import Frame, Layer, Scene
from agrifm.scenes.units import HLS, LANDSAT_C2, MODIS, Units, refuse_unknown_offset, sentinel2
from agrifm.sensors import LANDSAT, S2
from agrifm.sensors import MODIS as MODIS_SENSOR

FRANCE = Path(__file__).parents[2] / "shared/data/france_parcels_2018/jp2"
SIZE = 40

# Reflectance by wavelength, from which the bands of every sensor follow.
NODES = (0.47, 0.49, 0.56, 0.66, 0.705, 0.74, 0.78, 0.865, 1.24, 1.61, 2.2)
GREEN = (0.028, 0.03, 0.06, 0.035, 0.10, 0.30, 0.38, 0.43, 0.36, 0.20, 0.10)
SOIL = (0.085, 0.09, 0.12, 0.16, 0.19, 0.21, 0.23, 0.26, 0.30, 0.33, 0.28)
WATER = (0.045, 0.04, 0.035, 0.02, 0.015, 0.012, 0.01, 0.008, 0.006, 0.005, 0.004)
CLOUD = (0.62, 0.62, 0.60, 0.60, 0.60, 0.61, 0.62, 0.63, 0.55, 0.45, 0.35)


def ground(sensor, *covers, seed=0):
    """Reflectance ``(c, h, w)`` of land covers side by side, with some variation."""
    waves = [band.wavelength for band in sensor.bands]
    spectra = [np.interp(waves, NODES, cover) for cover in covers]
    place = np.arange(SIZE) * len(covers) // SIZE
    image = np.stack([spectra[i] for i in place], axis=1)[:, None, :].repeat(SIZE, 1)
    return image * np.random.default_rng(seed).normal(1, 0.08, image.shape)


def scene(folder, sensor, images, units, day=dt.date(2023, 5, 1), masks=None):
    """A scene of images of stored numbers, ten days apart."""
    frames = []
    profile = {"driver": "GTiff", "height": SIZE, "width": SIZE, "crs": "EPSG:32631"}
    profile["transform"] = from_origin(500_000, 4_800_000, sensor.gsd, sensor.gsd)
    for number, stored in enumerate(images):
        path = folder / f"{number}.tif"
        kind = "float32" if np.abs(stored).max() < 20 else "int16" if stored.min() < 0 else "uint16"
        with rasterio.open(path, "w", count=len(stored), dtype=kind, **profile) as file:
            file.write((stored if kind == "float32" else np.rint(stored)).astype(kind))
        bands = {band: FileBand(str(path), i, sensor.nodata) for i, band in enumerate(sensor.band_ids, start=1)}
        quality = None
        if masks is not None:
            with rasterio.open(folder / f"{number}_mask.tif", "w", count=1, dtype="uint8", **profile) as file:
                file.write(masks[number].astype(np.uint8), 1)
            quality = Quality(FileBand(str(folder / f"{number}_mask.tif")), "mask")
        frames.append(Frame(f"look {number}", day + dt.timedelta(10 * number), bands, quality, units))
    return Scene((Layer(sensor, tuple(frames)),), frames[0].bands[sensor.band_ids[0]].grid(), "test")


def source(checked):
    return checked.layers[0].frames[0].units.source


@pytest.mark.parametrize(
    ("baseline", "offset"),
    [
        ("02.06", 0.0),
        ("0300", 0.0),
        ("N0301", 0.0),
        ("3.1", 0.0),
        (2.14, 0.0),
        ("04.00", -0.1),
        ("N0400", -0.1),
        ("0509", -0.1),
        ("05.11", -0.1),
        ("5.10", -0.1),
        (4.0, -0.1),
        (5.1, -0.1),
        (4, -0.1),
        (509, -0.1),
        ("10.00", -0.1),
    ],
)
def test_the_baseline_decides_the_offset(baseline, offset):
    units = sentinel2(baseline)
    assert (units.scale, units.offset) == (1e-4, offset)
    assert units.source.startswith("baseline ")


def test_an_offset_that_was_taken_out_is_not_taken_out_again():
    assert sentinel2("05.09", applied=True).offset == 0
    assert "taken out by the provider" in sentinel2("05.09", applied=True).source


def test_without_a_baseline_no_offset_is_assumed():
    assert sentinel2(None) == Units(1e-4, 0.0, "baseline unknown, no offset assumed")


@pytest.mark.parametrize("baseline", ["", "04.00.1", "Sen2Cor 02.08", "99", "N"])
def test_what_is_no_baseline_is_refused_only_where_it_is_needed(baseline):
    units = sentinel2(baseline)
    with pytest.raises(InputError, match="which is no version") as error:
        refuse_unknown_offset(units, "item a")
    assert "'--set offset=-0.1'" in error.value.repair
    refuse_unknown_offset(Source(path=Path(), offset=-0.1).override(units), "item a")
    assert "taken out by the provider" in sentinel2(baseline, applied=True).source


@pytest.mark.parametrize("units", [sentinel2("02.06"), sentinel2("05.09")])
def test_clean_scenes_of_both_baselines_pass(tmp_path, units):
    images = [(ground(S2, GREEN, SOIL, WATER, seed=i) - units.offset) * 1e4 for i in range(3)]
    checked = check_units(scene(tmp_path, S2, images, units))
    assert source(checked) == f"{units.source}; values agree"
    assert source(check_units(checked)) == source(checked)


@pytest.mark.parametrize(
    ("covers", "brightness"),
    [
        ((SOIL,), 1.0),
        ((WATER,), 1.0),
        ((CLOUD,), 1.0),
        ((GREEN, SOIL), 0.35),
        ((SOIL, WATER), 0.3),
        ((CLOUD, GREEN), 1.0),
    ],
    ids=["soil", "water", "cloud", "winter", "dark winter", "half cloud"],
)
def test_unusual_scenes_pass(tmp_path, covers, brightness):
    images = [ground(S2, *covers, seed=i) * brightness * 1e4 for i in range(3)]
    check_units(scene(tmp_path, S2, images, sentinel2("02.06")))


def test_a_scene_without_a_clear_pixel_passes_unchecked(tmp_path):
    images = [ground(S2, CLOUD) * 1e4]
    checked = check_units(scene(tmp_path, S2, images, sentinel2("02.06"), masks=[np.zeros((SIZE, SIZE))]))
    assert "too few clear pixels" in source(checked)


def test_clouded_pixels_say_nothing(tmp_path):
    """Shadows that were corrected too much look as if the offset had been taken out twice; the mask tells."""
    image = ground(S2, GREEN, SOIL)
    shadow = np.arange(SIZE) < SIZE * 2 // 3
    image[:, shadow] = -0.08 + 0.02 * image[:, shadow]
    stored = (image + 0.1) * 1e4
    units = sentinel2("05.09")
    check_units(scene(tmp_path, S2, [stored], units, masks=[np.tile(~shadow[:, None], SIZE)]))
    with pytest.raises(InputError, match="--set offset=0"):
        check_units(scene(tmp_path, S2, [stored], units))


@pytest.mark.parametrize("said", [sentinel2("02.06"), sentinel2(None), sentinel2("05.09", applied=True)])
def test_an_offset_left_in_the_numbers_is_refused(tmp_path, said):
    images = [(ground(S2, GREEN, SOIL, seed=i) + 0.1) * 1e4 for i in range(3)]
    with pytest.raises(InputError, match="no clear pixel darker than") as error:
        check_units(scene(tmp_path, S2, images, said))
    assert error.value.repair == "add '--set offset=-0.1'."
    assert said.source in error.value.found


def test_an_offset_taken_out_twice_is_refused(tmp_path):
    images = [ground(S2, GREEN, SOIL, seed=i) * 1e4 for i in range(3)]
    with pytest.raises(InputError, match=r"visible reflectance of -0\.0") as error:
        check_units(scene(tmp_path, S2, images, sentinel2("05.09")))
    assert error.value.repair == "add '--set offset=0'."


def test_the_suggested_offset_passes(tmp_path):
    images = [(ground(S2, GREEN, SOIL, seed=i) + 0.1) * 1e4 for i in range(2)]
    made = scene(tmp_path, S2, images, sentinel2(None))
    right = tuple(replace(frame, units=Units(1e-4, -0.1, "--set")) for frame in made.layers[0].frames)
    assert "values agree" in source(check_units(replace(made, layers=(Layer(S2, right),))))


def test_dates_with_different_units_are_judged_apart(tmp_path):
    """Before and after January 2022 in one series, and only the later ones have an offset left in."""
    images = [(ground(S2, GREEN, SOIL, seed=i) + 0.1 * (i > 1)) * 1e4 for i in range(4)]
    made = scene(tmp_path, S2, images, sentinel2(None), day=dt.date(2022, 1, 10))
    with pytest.raises(InputError, match=r"lies 0\.1 above") as error:
        check_units(made)
    assert "offsets='{2022-01-30: -0.1, 2022-02-09: -0.1}'" in error.value.repair
    early = replace(made, layers=(Layer(S2, made.layers[0].frames[:2]),))
    assert "values agree" in source(check_units(early))


def test_landsat_numbers_read_as_hls_are_refused(tmp_path):
    images = [(ground(LANDSAT, GREEN, SOIL, seed=i) + 0.2) / 2.75e-5 for i in range(2)]
    with pytest.raises(InputError, match="look like Landsat Collection 2") as error:
        check_units(scene(tmp_path, LANDSAT, images, HLS))
    assert "--set scale=2.75e-05 --set offset=-0.2" in error.value.repair
    check_units(scene(tmp_path, LANDSAT, images, LANDSAT_C2))


def test_hls_numbers_read_as_landsat_are_refused(tmp_path):
    images = [ground(LANDSAT, GREEN, SOIL, seed=i) * 1e4 for i in range(2)]
    with pytest.raises(InputError, match=r"--set scale=0\.0001 --set offset=0"):
        check_units(scene(tmp_path, LANDSAT, images, LANDSAT_C2))
    check_units(scene(tmp_path, LANDSAT, images, HLS))


@pytest.mark.parametrize(
    ("factor", "said", "right"), [(1.0, Units(1e-4), "scale=1 "), (1e4, Units(1.0), "scale=0.0001 ")]
)
def test_a_scale_wrong_by_ten_thousand_is_refused(tmp_path, factor, said, right):
    with pytest.raises(InputError, match="a reflectance between 0 and 1") as error:
        check_units(scene(tmp_path, S2, [ground(S2, GREEN, SOIL) * factor], said))
    assert f"--set {right}" in error.value.repair


@pytest.mark.parametrize(
    "order", [(0, 1, 3, 2, 4, 5, 6, 7, 8, 9), (0, 1, 2, 4, 5, 6, 3, 7, 8, 9), tuple(reversed(range(10)))]
)
def test_bands_in_another_order_are_refused(tmp_path, order):
    images = [ground(S2, GREEN, GREEN, SOIL, seed=i)[list(order)] * 1e4 for i in range(2)]
    with pytest.raises(InputError, match="bands in the order B02, B03, B04, B08") as error:
        check_units(scene(tmp_path, S2, images, sentinel2("02.06")))
    assert "agrifm scene show" in error.value.repair


def test_one_file_for_two_bands_is_refused(tmp_path):
    image = ground(S2, GREEN, SOIL) * 1e4
    image[2] = image[1]
    with pytest.raises(InputError, match="the same values in B03 and B04"):
        check_units(scene(tmp_path, S2, [image], sentinel2("02.06")))


def test_images_of_one_value_are_refused(tmp_path):
    with pytest.raises(InputError, match="one value everywhere"):
        check_units(scene(tmp_path, S2, [np.full((10, SIZE, SIZE), 1000.0)], sentinel2("02.06")))


def test_modis_passes(tmp_path):
    images = [ground(MODIS_SENSOR, GREEN, SOIL, seed=i) * 1e4 for i in range(2)]
    images[0][:, :3] = -28672
    assert source(check_units(scene(tmp_path, MODIS_SENSOR, images, MODIS))) == "MOD09A1; values agree"


@pytest.fixture(scope="module")
def france():
    """A real season of Sentinel-2, baselines 02.06 to 02.08."""
    if not FRANCE.is_dir():
        pytest.skip(f"needs {FRANCE.name} of france_parcels_2018")
    frames = []
    for day in sorted({path.name[:8] for path in FRANCE.glob("*_B02_10m.jp2")}):
        found = {path.name.split("_")[1]: FileBand(str(path), 1, 0) for path in FRANCE.glob(f"{day}_*.jp2")}
        bands = {band: found[band] for band in S2.band_ids}
        date = dt.datetime.strptime(day, "%Y%m%d").date()
        frames.append(Frame(day, date, bands, Quality(found["SCL"], "SCL"), sentinel2("02.06")))
    return Scene((Layer(S2, tuple(frames)),), frames[0].bands["B02"].grid(), "france")


def test_real_scenes_pass(france):
    assert source(check_units(france)) == "baseline 02.06; values agree"


def test_a_real_scene_with_the_wrong_offset_is_refused(france):
    layer = france.layers[0]
    wrong = tuple(replace(frame, units=sentinel2("05.00")) for frame in layer.frames)
    with pytest.raises(InputError, match="--set offset=0'"):
        check_units(replace(france, layers=(Layer(S2, wrong),)))
