"""The checks before training: they find what is wrong and leave what is right alone."""

import h5py
import numpy as np
import pytest
from farmland_series import DAYS, farmland

from agrifm.checks.band_order import check_band_order
from agrifm.checks.chips import splits_overlap, survey, values
from agrifm.checks.choice import evenly
from agrifm.checks.survey import Survey
from agrifm.config import parse
from agrifm.data.folder import ChipFolder
from agrifm.errors import InputError
from agrifm.sample import Sample, days_since_epoch
from agrifm.sensors import LANDSAT, MODIS, S2, Sensor
from agrifm.training.samples.data_checks import cautions, examine
from agrifm.training.samples.sources import open_sources


@pytest.fixture
def copy(farm, tmp_path):
    """A copy of the farm that may be spoiled, and an experiment that reads it."""
    import shutil

    root = tmp_path / "farm"
    shutil.copytree(farm, root)
    return root


def problems_of(root, **data):
    names = ["other", "winter wheat", "maize", "rapeseed", "sugar beet", "grassland"]
    values = {"data": {"root": str(root), "sensors": ["S2", "Landsat"], **data}, "task": {"classes": names}}
    experiment = parse(values)
    return examine(experiment, open_sources(experiment, ("train", "val", "test")), limit=0)


def first_chip(root):
    name = (root / "data_lists" / "train.txt").read_text().split()[0]
    return root / "h5_samples" / f"{name}.h5"


def change(path, key, function):
    with h5py.File(path, "r+") as file:
        values, attributes = function(file[key][:]), dict(file[key].attrs)
        del file[key]
        file[key] = values
        file[key].attrs.update(attributes)


def test_good_data_pass(farm):
    problems, seen = problems_of(farm)
    assert problems == []
    assert set(seen) == {"train", "val", "test"}
    assert seen["train"].labels.keys() <= set(range(6))
    assert 0.3 < np.mean(seen["train"].clear["S2"]) < 1


SPOILED = {
    "labels outside the classes": ("label", lambda x: x + 3, "task.classes"),
    "red and near infrared swapped": ("S2", lambda x: x[:, [0, 1, 3, 2, 4, 5, 6, 7, 8, 9]], "reorder the bands"),
    "alphabetical band order": ("S2", lambda x: x[:, [0, 1, 2, 4, 5, 6, 3, 7, 8, 9]], "reorder the bands"),
    "reflectance instead of digital numbers": ("S2", lambda x: x * 1e-4, "define a sensor with your scale"),
    "a factor too large": ("Landsat", lambda x: x.astype(float) * 1e4, "define a sensor with your scale"),
    "nan": ("Landsat", lambda x: np.where(x > 3000, np.nan, x), "mark the pixels"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_data_are_found_and_named(copy, case):
    key, function, repair = SPOILED[case]
    path = first_chip(copy)
    with h5py.File(path, "r+") as file:
        if "bands" in file[key].attrs:
            del file[key].attrs["bands"]
    change(path, key, function)
    problems, _ = problems_of(copy)
    assert problems, case
    assert repair in problems[0].repair
    assert path.stem in problems[0].where


def test_red_and_blue_swapped_everywhere_are_found(copy):
    for path in (copy / "h5_samples").glob("*.h5"):
        change(path, "S2", lambda x: x[:, [2, 1, 0, *range(3, 10)]])
    problems, _ = problems_of(copy)
    assert any("B04 darker or steadier than B02" in problem.found for problem in problems)
    assert problems_of(copy, check_bands=False)[0] == []


def test_structure_comes_first(copy):
    first_chip(copy).write_bytes(b"not hdf5")
    missing = next(iter((copy / "data_lists" / "test.txt").read_text().split()))
    (copy / "h5_samples" / f"{missing}.h5").unlink()
    problems, seen = problems_of(copy)
    assert len(problems) == 2
    assert seen == {}


def test_a_missing_sensor_is_found_in_the_header(copy):
    with h5py.File(first_chip(copy), "r+") as file:
        del file["Landsat"]
    problems, _ = problems_of(copy)
    assert "allow_missing" in problems[0].repair
    assert problems_of(copy, allow_missing=True)[0] == []


def test_the_same_name_in_two_splits(copy):
    val = copy / "data_lists" / "val.txt"
    val.write_text(val.read_text() + first_chip(copy).stem + "\n")
    problems, _ = problems_of(copy)
    assert "also in the train list" in problems[0].found


def test_training_on_test_samples_is_refused_before_it_starts(copy):
    test = copy / "data_lists" / "test.txt"
    test.write_text(first_chip(copy).stem + "\n")
    experiment = parse({"data": {"root": str(copy), "sensors": ["S2"]}, "task": {"classes": ["a", "b"]}})
    problems, _ = examine(experiment, open_sources(experiment))
    assert "also in the train list" in problems[0].found


def test_overlap_needs_the_same_folder(farm, tmp_path):
    one = ChipFolder(farm, ("a",), (S2,))
    assert list(splits_overlap({"train": one, "val": ChipFolder(tmp_path, ("a",), (S2,))})) == []


def test_statistics_are_those_of_valid_pixels(farm):
    source = open_sources(
        parse({"data": {"root": str(farm), "sensors": ["S2", "Modis"]}, "task": {"classes": ["a", "b"]}})
    )
    found = survey(source["train"], (S2, MODIS), range(len(source["train"]))).statistics(S2)
    pixels = []
    for i in range(len(source["train"])):
        sample = source["train"].read(i)
        pixels.append(sample.images["S2"].movedim(1, -1)[sample.mask("S2")].numpy())
    pixels = np.concatenate(pixels)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-4)


def test_no_valid_pixel_at_all():
    with pytest.raises(InputError, match="no valid pixel"):
        Survey().statistics(S2)


@pytest.mark.parametrize("sensor", [S2, LANDSAT, MODIS])
def test_water_snow_and_desert_are_not_called_swapped(sensor):
    """Scenes that a simple rule would refuse; shapes after common spectral libraries."""
    import torch

    wavelengths = np.array([band.wavelength for band in sensor.bands])
    scenes = {
        "water": np.interp(wavelengths, [0.45, 0.56, 0.7, 0.9, 2.2], [0.06, 0.05, 0.02, 0.01, 0.005]),
        "snow": np.interp(wavelengths, [0.45, 0.9, 1.2, 1.6, 2.2], [0.9, 0.8, 0.5, 0.1, 0.08]),
        "desert": np.interp(wavelengths, [0.45, 0.66, 0.86, 1.6, 2.2], [0.12, 0.28, 0.36, 0.5, 0.45]),
        "crop": np.interp(
            wavelengths, [0.45, 0.56, 0.66, 0.7, 0.78, 1.2, 1.6, 2.2], [0.03, 0.07, 0.04, 0.1, 0.4, 0.38, 0.22, 0.1]
        ),
    }
    for name, reflectance in scenes.items():
        noise = np.random.default_rng(0).normal(0, 1, (3, len(wavelengths), 9, 9)) * reflectance[:, None, None] * 0.1
        image = torch.as_tensor((reflectance[:, None, None] + noise) * 1e4)
        seen = Survey()
        seen.add(Sample({sensor.name: image}, name=name), [sensor])
        check_band_order(sensor, seen.pixels[sensor.name], name, single=True)


def test_evenly():
    assert evenly(5, 0) == [0, 1, 2, 3, 4]
    assert evenly(100, 3) == [0, 49, 99]


def test_a_survey_keeps_no_chip_in_memory():
    """A strided view would keep all pixels of every chip."""
    import torch

    seen = Survey()
    for i in range(4):
        image = torch.randint(1, 4000, (6, 10, 64, 64), generator=torch.Generator().manual_seed(i))
        seen.add(Sample({"S2": image}, name=str(i)), [S2])
    assert all(part.base is None for part in seen.pixels["S2"])
    assert sum(part.nbytes for part in seen.pixels["S2"]) < 4 * 4000 * 10 * 4


def test_a_survey_of_many_chips_stays_small(monkeypatch):
    import torch

    monkeypatch.setattr("agrifm.checks.survey.MAX_PIXELS", 1000)
    seen = Survey()
    for i in range(20):
        seen.add(Sample({"S2": torch.full((1, 10, 16, 16), i + 1)}, name=str(i)), [S2])
    assert sum(map(len, seen.pixels["S2"])) <= 1000
    assert seen.sums["S2"][0, 0] == 20 * 256


def test_every_sample_counts_once(farm):
    _, seen = problems_of(farm)
    train = open_sources(parse({"data": {"root": str(farm), "sensors": ["S2"]}, "task": {"classes": ["a", "b"]}}))[
        "train"
    ]
    assert seen["train"].chips == len(train) == len(seen["train"].spans)
    expected = survey(train, (S2,), range(len(train)))
    np.testing.assert_array_equal(seen["train"].sums["S2"], expected.sums["S2"])
    assert seen["train"].labels == expected.labels


def chips_of_one_ground(count=4):
    """Samples of fields on six days, each another field pattern."""
    import torch

    for seed in range(count):
        images = torch.tensor(farmland(S2, seed) * 1e4)
        days = days_since_epoch([day.isoformat() for day in DAYS])
        yield Sample({"S2": images}, {"S2": days}, label=torch.zeros(24, 24).long(), name=f"chip{seed}")


class Listed(list):
    def read(self, index, frames=None):
        return self[index]


@pytest.mark.parametrize("dated", [True, False])
def test_a_date_with_an_offset_left_in_is_named(dated):
    samples = Listed(chips_of_one_ground())
    for sample in samples:
        sample.images["S2"][2] += 1000
        if not dated:
            del sample.dates["S2"]
    [problem, seen] = values(samples, [S2], range(4), [0], -1, bands=True)
    name = str(DAYS[2]) if dated else "frame 3"
    assert problem.where == f"all chips: S2, {name}"
    assert "0.1 above" in problem.found
    assert "4 of 4 chips" in problem.found
    assert (f"offsets='{{{name}: -0.1}}'" in problem.repair) == dated
    assert seen.chips == 4
    assert len(list(values(samples, [S2], range(4), [0], -1, bands=False))) == 1


def test_right_dates_pass():
    [seen] = values(Listed(chips_of_one_ground()), [S2], range(4), [0], -1, bands=True)
    assert seen.warnings == []


def test_a_sensor_without_dates_beside_a_dated_one_is_refused(copy):
    """Its frames would lie in 1970, and the season would be 19,000 days long."""
    path = first_chip(copy)
    with h5py.File(path, "r+") as file:
        del file["Landsat_dates"]
    problems, _ = problems_of(copy)
    assert path.stem in problems[0].where
    assert "no dates of Landsat, but dates of S2" in problems[0].found
    assert "Landsat_dates" in problems[0].repair


def unlabel(copy, split):
    for name in (copy / "data_lists" / f"{split}.txt").read_text().split():
        change(copy / "h5_samples" / f"{name}.h5", "label", lambda x: np.full_like(x, -1))


def test_training_without_a_labeled_pixel_is_refused(copy):
    unlabel(copy, "train")
    problems, _ = problems_of(copy)
    assert [problem.where for problem in problems] == ["train split"]
    assert "no labeled pixel" in problems[0].found


def test_validation_without_a_labeled_pixel_is_told(copy):
    unlabel(copy, "val")
    problems, seen = problems_of(copy)
    assert problems == []
    assert "no labeled pixel" in seen["val"].warnings[0]


def test_a_labeled_pixel_beyond_the_sample_is_found(copy):
    """Only some chips are read before training; one that is not read may hold the only labels."""
    names = (copy / "data_lists" / "train.txt").read_text().split()
    for name in names[:1] + names[2:]:
        change(copy / "h5_samples" / f"{name}.h5", "label", lambda x: np.full_like(x, -1))
    classes = ["other", "winter wheat", "maize", "rapeseed", "sugar beet", "grassland"]
    experiment = parse({"data": {"root": str(copy), "sensors": ["S2"], "check_chips": 1}, "task": {"classes": classes}})
    assert examine(experiment, open_sources(experiment))[0] == []


def test_names_of_one_crop_are_told(farm):
    classes = ["maïs", "  MAÏS ", "wheat", "rice", "rye", "oats"]
    experiment = parse({"data": {"root": str(farm), "sensors": ["S2"]}, "task": {"classes": classes}})
    assert "'maïs' and '  MAÏS '" in cautions(experiment, {})[0]


def pixels(*spectra, seed=0):
    """Stored numbers of Sentinel-2 around some spectra, given by wavelength."""
    rng, waves = np.random.default_rng(seed), [band.wavelength for band in S2.bands]
    parts = [np.interp(waves, *spectrum) * rng.normal(1, 0.1, (400, 10)) for spectrum in spectra]
    return [np.concatenate(parts) * 1e4]


HAZY = ([0.45, 0.66, 0.86, 2.2], [0.24, 0.25, 0.22, 0.15])


def test_weak_evidence_is_a_warning_where_no_file_names_its_bands():
    [warning] = check_band_order(S2, pixels(HAZY), "all chips", single=False, named=False)
    assert "do not name their bands" in warning
    with pytest.raises(InputError, match="darker or steadier") as error:
        check_band_order(S2, pixels(HAZY), "all chips", single=False, named=True)
    assert "medians of 0.2" in error.value.found


def test_strong_evidence_is_refused_with_both_numbers():
    crop = ([0.45, 0.66, 0.70, 0.78, 2.2], [0.03, 0.04, 0.1, 0.4, 0.1])
    seen = pixels(crop)
    seen[0][:, [2, 3]] = seen[0][:, [3, 2]]
    with pytest.raises(InputError, match=r"medians of 0\.04\d and 0\.38") as error:
        check_band_order(S2, seen, "all chips", single=True, named=False)
    assert "check_bands: false" in error.value.repair


@pytest.mark.parametrize("seed", range(3))
def test_lakes_clouds_and_snow_do_not_decide(seed):
    lake = ([0.45, 0.56, 0.7, 0.9, 2.2], [0.14, 0.12, 0.08, 0.05, 0.02])
    snow = ([0.45, 0.9, 1.2, 1.6, 2.2], [0.9, 0.45, 0.3, 0.1, 0.08])
    assert check_band_order(S2, pixels(lake, snow, seed=seed), "all chips", single=False) == []


def test_a_sensor_without_infrared_bands_is_not_judged_by_dates():
    import torch

    sensor = Sensor("RGB", S2.bands[:3], gsd=10)
    image = torch.randint(1, 4000, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    [seen] = values(Listed([Sample({"RGB": image})]), [sensor], [0], [0], -1, bands=True)
    assert (seen.chips, seen.warnings) == (1, [])
