"""Chips on disk: the original's layout, the extras, and every way in which a file can be wrong."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from conftest import FARM

from agrifm.checks.chips import splits_overlap
from agrifm.data.chips import Georeference, read_chip, read_georeference, write_chip
from agrifm.data.folder import ChipFolder, MappingDataset
from agrifm.data.growing_season import GrowingSeason
from agrifm.data.lists import read_names
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, S2


@pytest.fixture
def chip(tmp_path):
    """A chip in the original's bare layout: no dates, masks or attributes."""
    path = tmp_path / "bare.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["S2"] = rng.integers(1, 5000, (4, 10, 8, 8)).astype(np.uint16)
        file["label"] = rng.integers(0, 3, (8, 8)).astype(np.uint8)
    return path


def test_bare_layout_of_the_original_is_enough(chip):
    sample = read_chip(chip, [S2])
    assert sample.images["S2"].shape == (4, 10, 8, 8)
    assert sample.label.dtype == torch.int64
    assert sample.mask("S2").all()
    assert sample.days("S2").tolist() == pytest.approx([365.25 / 8 * n for n in (1, 3, 5, 7)])
    assert read_georeference(chip) is None


def test_everything_written_is_read_back(tmp_path):
    path = tmp_path / "full.h5"
    sample, place = FARM.sample(0, 1, [S2, LANDSAT]), FARM.place(0, 1)
    write_chip(path, sample, [S2, LANDSAT], place)
    found = read_chip(path, [S2, LANDSAT])
    for name in ("S2", "Landsat"):
        assert torch.equal(found.images[name].int(), sample.images[name].int())
        assert torch.equal(found.dates[name], sample.dates[name])
        assert torch.equal(found.valid[name], sample.valid[name] & (found.images[name] != 0).any(1))
    assert torch.equal(found.label, sample.label)
    assert read_georeference(path) == place
    assert list(tmp_path.glob("*.part")) == []


def test_only_chosen_frames_are_read(tmp_path):
    path = tmp_path / "full.h5"
    write_chip(path, FARM.sample(0, 1, [S2]), [S2])
    whole, part = read_chip(path, [S2]), read_chip(path, [S2], frames=lambda total: np.array([1, total - 1]))
    assert torch.equal(part.images["S2"], whole.images["S2"][[1, -1]])
    assert torch.equal(part.dates["S2"], whole.dates["S2"][[1, -1]])
    assert torch.equal(part.valid["S2"], whole.valid["S2"][[1, -1]])


def test_named_bands_are_put_in_order(chip):
    plain = read_chip(chip, [S2])
    order = [9, 0, 8, 1, 7, 2, 6, 3, 5, 4]
    with h5py.File(chip, "r+") as file:
        values = file["S2"][:][:, order]
        del file["S2"]
        file["S2"] = values
        file["S2"].attrs["bands"] = [S2.band_ids[i] for i in order]
    assert torch.equal(read_chip(chip, [S2]).images["S2"], plain.images["S2"])


def test_more_named_bands_than_needed_are_left_out(chip):
    plain = read_chip(chip, [S2])
    few = replace(S2, bands=(S2.bands[3], S2.bands[0]), statistics=None)
    with h5py.File(chip, "r+") as file:
        file["S2"].attrs["bands"] = list(S2.band_ids)
    assert torch.equal(read_chip(chip, [few]).images["S2"], plain.images["S2"][:, [3, 0]])


def test_no_data_is_invalid(chip):
    with h5py.File(chip, "r+") as file:
        file["S2"][2, :, 3, 4] = 0
    mask = read_chip(chip, [S2]).mask("S2")
    assert (~mask).nonzero().tolist() == [[2, 3, 4]]


def spoil(path, key, value, attrs=None):
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        if value is not None:
            file[key] = value
            file[key].attrs.update(attrs or {})


BROKEN = {
    "rank": ("S2", np.ones((10, 8, 8), np.uint16), "S2", r"\(T, C, H, W\)"),
    "no frames": ("S2", np.ones((0, 10, 8, 8), np.uint16), "S2", "at least one"),
    "band count": ("S2", np.ones((4, 9, 8, 8), np.uint16), "S2", "9 bands"),
    "missing key": ("S2", None, "S2", "allow_missing"),
    "no label": ("label", None, "label", "agrifm predict"),
    "float label": ("label", np.ones((8, 8)), "label", "integer label"),
    "label rank": ("label", np.ones((1, 8, 8), np.uint8), "label", "integer label"),
    "mask shape": ("S2_mask", np.ones((4, 7, 8), np.uint8), "S2_mask", "1 where the ground was seen"),
    "nan": ("S2", np.full((4, 10, 8, 8), np.nan, np.float32), "S2", "NaN"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_what_is_wrong(chip, case):
    key, value, where, message = BROKEN[case]
    spoil(chip, key, value)
    with pytest.raises(InputError, match=message) as caught:
        read_chip(chip, [S2])
    assert str(chip) in caught.value.where
    assert where in caught.value.where
    assert caught.value.repair


def test_wrong_band_names_are_refused(chip):
    with h5py.File(chip, "r+") as file:
        file["S2"].attrs["bands"] = [f"B{i}" for i in range(10)]
    with pytest.raises(InputError, match="B02"):
        read_chip(chip, [S2])


def test_nan_is_fine_where_it_is_masked_or_means_no_data(chip):
    image = np.ones((4, 10, 8, 8), np.float32)
    image[1, 4, 2, 2] = np.inf
    spoil(chip, "S2", image)
    mask = np.ones((4, 8, 8), np.uint8)
    mask[1, 2, 2] = 0
    with pytest.raises(InputError, match="1 NaN or infinite"):
        read_chip(chip, [S2])
    as_gap = read_chip(chip, [replace(S2, nodata=float("nan"))])
    assert (~as_gap.mask("S2")).nonzero().tolist() == [[1, 2, 2]]
    spoil(chip, "S2_mask", mask)
    masked = read_chip(chip, [S2])
    assert masked.images["S2"].isfinite().all()


def test_truncated_and_missing_files(chip):
    data = chip.read_bytes()
    chip.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut off"):
        read_chip(chip, [S2])
    chip.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_chip(chip, [S2])


def test_a_missing_sensor_is_allowed_on_request(chip):
    sample = read_chip(chip, [S2, LANDSAT], allow_missing=True)
    assert list(sample.images) == ["S2"]
    with pytest.raises(InputError, match="Landsat"):
        read_chip(chip, [LANDSAT], allow_missing=True)


BAD_LISTS = {
    "empty": (b"", "no names"),
    "blank lines": (b"\n \n", "no names"),
    "a name twice": (b"a\nb\na\n", "a twice"),
    "a name in two ways": (b"a\n./a\n", "a twice"),
    "with and without its ending": (b"a/b\na//b.h5\n", "a/b twice"),
    "out of the folder": (b"../../etc/passwd\n", "out of the folder"),
    "out and in again": (b"a/../b\n", "out of the folder"),
    "absolute": (b"/etc/passwd\n", "out of the folder"),
    "behind a link": (b"link/a\n", "out of the folder"),
    "behind a link to itself": (b"loop/a\n", "out of the folder"),
    "the folder itself": (b".\n", "out of the folder"),
    "Latin-1": ("blé\n".encode("latin-1"), "no text in UTF-8"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "no text in UTF-8"),
    "NUL": (b"a\0b\n", "without control characters"),
    "an escape": (b"a\x1b[2Jb\n", "without control characters"),
    "a line of another kind": ("a\u2028b\n".encode(), "without control characters"),
    "very long": (b"x" * 300, "names of files"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_lists(tmp_path, case):
    data, message = BAD_LISTS[case]
    folder, path = tmp_path / "chips", tmp_path / "train.txt"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_names(path, folder)
    assert str(path) in caught.value.where


GOOD_LISTS = {
    "plain": "a\nnorth/b",
    "line ends of Windows": "a\r\nnorth/b\r\n",
    "line ends of old": "a\rnorth/b\r",
    "a mark of byte order": "\ufeffa\nnorth/b\n",
    "various ways": " ./a.h5 \n\nnorth//./b\n",
}


@pytest.mark.parametrize("case", GOOD_LISTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_good_lists_however_they_are_written(tmp_path, case, encoding):
    path = tmp_path / "train.txt"
    path.write_bytes(GOOD_LISTS[case].removeprefix("\ufeff" * (encoding == "utf-16")).encode(encoding))
    assert read_names(path, tmp_path) == ("a", "north/b")


def test_names_may_be_absolute_within_the_folder_and_hold_any_letters(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(f"{tmp_path}/blé.h5\nگندم\u200cزار\n", encoding="utf-8")
    assert read_names(path, tmp_path) == ("blé", "گندم\u200cزار")


@pytest.mark.parametrize(("kind", "found"), [("folder", "a folder"), ("pipe", "a pipe"), ("device", "a pipe")])
def test_lists_that_are_no_files_are_refused_without_waiting(tmp_path, kind, found):
    path = tmp_path / "train.txt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path)
    with pytest.raises(InputError, match=found):
        read_names(path, tmp_path)


def test_one_file_in_two_splits_is_found_under_any_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.h5").write_bytes(b"")
    (tmp_path / "c.h5").symlink_to(tmp_path / "a.h5")
    splits = {"train": ChipFolder(tmp_path, ("a",), (S2,)), "val": ChipFolder(tmp_path, ("b", "c"), (S2,))}
    assert [error.where for error in splits_overlap(splits)] == ["val list: c"]


def test_chips_of_one_name_in_two_folders_stay_apart(tmp_path, chip):
    for folder in ("east", "west"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.h5").write_bytes(chip.read_bytes())
    chips = ChipFolder(tmp_path, ("east/x", "west/x"), (S2,), seasons=(GrowingSeason("01-01", "12-31", chips="x*"),))
    assert [chips.read(i).name for i in range(2)] == ["east/x", "west/x"]


def test_a_chip_that_is_being_written_is_none(tmp_path, chip):
    (tmp_path / ".x.123.part.h5").write_bytes(b"")
    assert ChipFolder.in_folder(tmp_path, [S2]).names == ("bare",)


def test_missing_list_and_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_names(tmp_path / "train.txt", tmp_path)
    with pytest.raises(InputError, match=r"no \*.h5 files"):
        ChipFolder.in_folder(tmp_path, [S2])


def test_mapping_dataset_follows_the_contract(farm):
    dataset = MappingDataset(farm / "h5_samples", farm / "data_lists" / "train.txt", [S2])
    item = dataset[0]
    assert item["data"]["S2"].shape == (6, 10, 48, 48)
    assert item["label"].dtype == torch.int64
    assert item["file_name"] in (farm / "data_lists" / "train.txt").read_text()
    again = Sample.from_item(item)
    assert again.mask("S2").shape == (6, 48, 48)


def test_place_is_text_and_numbers():
    assert Georeference("EPSG:32631", (10.0, 0, 500000, 0, -10, 5e6)).crs == "EPSG:32631"
