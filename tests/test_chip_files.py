"""Chips that lead elsewhere, are damaged or were made to do harm: refused by name, within limits of memory and time."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from conftest import FARM

from agrifm.checkpoint import Checkpoint, build
from agrifm.checks.child_process import TimeLimitExceeded, in_child_process
from agrifm.config import parse
from agrifm.data.checksums import changed, digest
from agrifm.data.chips import check_header, read_chip, write_chip
from agrifm.data.folder import ChipFolder
from agrifm.data.georeference import Georeference, read_georeference, read_grid
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, S2

IMAGE = np.random.default_rng(0).integers(1, 5000, (4, 10, 8, 8)).astype(np.uint16)
LABEL = np.random.default_rng(1).integers(0, 3, (8, 8)).astype(np.uint8)
DATES = np.array(["2023-03-01", "2023-04-01", "2023-05-01", "2023-06-01"], "S10")


@pytest.fixture
def chip(tmp_path):
    """A chip with dates."""
    path = tmp_path / "chip.h5"
    with h5py.File(path, "w") as file:
        file["S2"], file["label"], file["S2_dates"] = IMAGE, LABEL, DATES
    return path


def put(path, key, value, **options):
    """Replace a dataset or link."""
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        if options:
            file.create_dataset(key, data=value, **options)
        elif value is not None:
            file[key] = value


# Links


@pytest.fixture
def secret(tmp_path):
    """Another file with the same datasets."""
    folder = tmp_path / "private"
    folder.mkdir()
    with h5py.File(folder / "secret.h5", "w") as file:
        file["S2"], file["label"] = IMAGE + 1, LABEL
    (folder / "raw.bin").write_bytes((IMAGE + 1).tobytes())
    return folder / "secret.h5"


def external_link(path, secret):
    put(path, "S2", h5py.ExternalLink(str(secret), "/S2"))


def soft_link_to_external(path, secret):
    with h5py.File(path, "r+") as file:
        del file["S2"]
        file["elsewhere"] = h5py.ExternalLink(str(secret), "/")
        file["S2"] = h5py.SoftLink("/elsewhere/S2")


def external_storage(path, secret):
    parts = [(str(secret.with_name("raw.bin")), 0, IMAGE.nbytes)]
    with h5py.File(path, "r+") as file:
        del file["S2"]
        file.create_dataset("S2", IMAGE.shape, IMAGE.dtype, external=parts)


def virtual(path, secret):
    layout = h5py.VirtualLayout(IMAGE.shape, IMAGE.dtype)
    layout[...] = h5py.VirtualSource(str(secret), "S2", IMAGE.shape)
    with h5py.File(path, "r+") as file:
        del file["S2"]
        file.create_virtual_dataset("S2", layout, fillvalue=7)


LINKS = [external_link, soft_link_to_external, external_storage, virtual]


@pytest.mark.parametrize("make", LINKS)
def test_links_out_of_the_file_are_followed_on_request_only(chip, secret, make):
    make(chip, secret)
    for read in (read_chip, check_header):
        with pytest.raises(InputError, match=r"values in the file itself(.|\n)*allow_links: true") as caught:
            read(chip, [S2])
        assert caught.value.where == f"{chip}: S2"
    allowed = read_chip(chip, [S2], allow_links=True)
    assert np.array_equal(allowed.images["S2"].numpy(), IMAGE.astype(np.int32) + 1)


@pytest.mark.parametrize("make", LINKS)
def test_what_links_lead_to_must_be_there(chip, secret, make):
    """A virtual dataset without its source would read as its fill value."""
    make(chip, secret)
    secret.unlink()
    secret.with_name("raw.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="S2"):
        read_chip(chip, [S2], allow_links=True)


def test_no_checkpoint_gives_itself_the_right_to_follow_links(settings, tmp_path):
    settings["data"] |= {"sensors": ["S2"], "statistics": "given", "allow_links": True}
    experiment = parse(settings)
    assert experiment.data.allow_links
    assert "allow_links" not in experiment.to_yaml()
    path = tmp_path / "best.safetensors"
    Checkpoint(experiment, build(experiment).state_dict()).save(path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    values = json.loads(header["__metadata__"]["experiment"])
    values["data"]["allow_links"] = True
    header["__metadata__"]["experiment"] = json.dumps(values)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    loaded = Checkpoint.load(path)  # a file that was changed to grant itself the right
    assert not loaded.experiment.data.allow_links
    assert loaded.with_root(None, allow_links=True).experiment.data.split("train").allow_links


@pytest.mark.parametrize("target", ["/S2", "/nothing", "loop"])
def test_soft_links_within_the_file_are_followed_until_they_lead_nowhere(chip, target):
    with h5py.File(chip, "r+") as file:
        file["loop"], file["Landsat"] = h5py.SoftLink("/loop"), h5py.SoftLink(target)
    ten = replace(S2, name="Landsat")
    if target == "/S2":
        assert torch.equal(read_chip(chip, [ten]).images["Landsat"], read_chip(chip, [S2]).images["S2"])
        return
    with pytest.raises(InputError, match=r"leads? (nowhere|to each other)"):
        read_chip(chip, [S2, ten], allow_missing=True)


# Sizes


def shaped(shape, **options):
    """A dataset of this shape of which one value is written."""

    def make(path):
        with h5py.File(path, "r+") as file:
            del file["S2"]
            file.create_dataset("S2", shape, "u2", **options)[(0,) * len(shape)] = 5

    return make


def gigantic_chunk(path):
    """Of a small image, as libhdf5 allows it where an image may grow."""
    with h5py.File(path, "r+") as file:
        del file["S2"]
        more = {"maxshape": (4, 10, None, None), "chunks": (1, 10, 1 << 14, 1 << 14), "compression": "gzip"}
        file.create_dataset("S2", IMAGE.shape, "u2", **more).id.write_direct_chunk((0, 0, 0, 0), zlib.compress(b"x"))


def overfull_chunk(path):
    """A chunk of 1,280 bytes that unpacks to 300 MB."""
    with h5py.File(path, "r+") as file:
        del file["S2"]
        stored = file.create_dataset("S2", IMAGE.shape, "u2", chunks=(1, 10, 8, 8), compression="gzip")
        stored[...] = IMAGE
        stored.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(300 << 20), 9))


def packed_twice(path):
    """Deflated zeros deflate again, by a factor of a million in all."""
    with h5py.File(path, "r+") as file:
        del file["S2"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((4, 10, 8, 8))
        settings.set_deflate(9)
        settings.set_deflate(9)
        space = h5py.h5s.create_simple(IMAGE.shape)
        h5py.h5d.create(file.id, b"S2", h5py.h5t.NATIVE_UINT16, space, settings).write(
            h5py.h5s.ALL, h5py.h5s.ALL, IMAGE
        )


def never_written(path):
    with h5py.File(path, "r+") as file:
        del file["S2"]
        file.create_dataset("S2", IMAGE.shape, "u2")


SIZES = {
    "terabytes": (shaped((4, 10, 1 << 20, 1 << 18), chunks=(1, 1, 8, 8)), "at most 4.3 GB"),
    "a gigantic chunk": (gigantic_chunk, "at most 4.3 GB"),
    "zeros that were never written": (shaped((4, 10, 2048, 4096), chunks=(1, 1, 8, 8)), "0.671 GB in"),
    "a chunk of too many bytes": (overfull_chunk, "for 1280 bytes of values"),
    "compressed twice": (packed_twice, "compressed several times"),
    "an interrupted writer": (never_written, "never written"),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_are_checked_before_memory_is_asked_for(chip, case):
    make, message = SIZES[case]
    make(chip)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message) as caught:
        read_chip(chip, [S2])
    assert caught.value.where == f"{chip}: S2"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # KiB


def test_the_size_that_counts_is_that_of_the_frames_read(chip, monkeypatch):
    monkeypatch.setattr("agrifm.data.hdf5_limits.MOST_BYTES", IMAGE.nbytes // 2)
    with pytest.raises(InputError, match="smaller chips"):
        read_chip(chip, [S2])
    assert read_chip(chip, [S2], frames=lambda total: np.array([1, 2])).images["S2"].shape[0] == 2


def test_large_chunks_are_unpacked_piece_by_piece_before_libhdf5_does(chip, monkeypatch):
    good = np.random.default_rng(0).integers(1, 5000, (4, 10, 64, 64)).astype(np.uint16)
    put(chip, "S2", good, chunks=(1, 10, 64, 64), compression="gzip", shuffle=True, fletcher32=True)
    monkeypatch.setattr("agrifm.data.hdf5_limits.MOST_BYTES", good.nbytes)
    assert np.array_equal(read_chip(chip, [S2], label_key=None).images["S2"].numpy(), good)
    with h5py.File(chip, "r+") as file:
        file["S2"].id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(8 << 20), 1))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_chip(chip, [S2], label_key=None)


# Values


VALUES = {
    "text": ("S2", np.full(IMAGE.shape, b"x"), "numbers"),
    "objects": ("S2", np.full(IMAGE.shape, "x", h5py.string_dtype()), "numbers"),
    "compound": ("S2", np.zeros(IMAGE.shape, [("a", "u2"), ("b", "f4")]), "numbers"),
    "complex numbers": ("S2", IMAGE.astype(complex), "numbers"),
    "no values": ("S2", h5py.Empty("u2"), "numbers"),
    "a mask of text": ("S2_mask", np.full((4, 8, 8), b"1"), "true or false"),
    "numbers beyond float32": ("S2", IMAGE * 1e300, "NaN or infinite"),
    "an empty label": ("label", np.zeros((0, 8), np.uint8), "integer label"),
    "no label at all": ("label", h5py.Empty("u1"), "integer label"),
    "2^64-1": ("label", np.full((8, 8), 2**64 - 1, np.uint64), "18446744073709551615"),
    "a label of other ground": ("label", np.zeros((8, 4), np.uint8), "ratio of rows to columns"),
    "Landsat of other ground": ("Landsat", np.ones((4, 6, 9, 3), np.int16), "ratio of rows to columns"),
    "integer dates": ("S2_dates", np.array([20230301, 20230401, 20230501, 20230601]), "as text like 2023-05-14"),
    "not a date": ("S2_dates", np.array([*DATES[:3], b"NaT"]), "'NaT'"),
    "no such day": ("S2_dates", np.array([*DATES[:3], b"2023-02-30"]), "2023-02-30"),
    "the year 1677": ("S2_dates", np.array([*DATES[:3], b"1677-09-21"]), "1677-09-21"),
    "the year 9999": ("S2_dates", np.array([*DATES[:3], b"9999-12-31"]), "9999-12-31"),
    "bytes that are no text": ("S2_dates", np.array([*DATES[:3], b"\xff\xfe"]), "as text like"),
    "more dates than frames": ("S2_dates", np.array([*DATES, b"2023-07-01"]), "as many dates as frames"),
    "fewer dates than frames": ("S2_dates", DATES[:3], "as many dates as frames"),
    "one date": ("S2_dates", DATES[0], "as many dates as frames"),
    "dates of one sensor only": ("S2_dates", None, "dates of every sensor, or of none"),
}


@pytest.mark.parametrize("case", VALUES)
def test_nonsense_is_refused_by_the_name_of_its_dataset(chip, case):
    key, value, message = VALUES[case]
    with h5py.File(chip, "r+") as file:
        file["Landsat"] = np.ones((4, 6, 3, 3), np.int16)
        file["Landsat_dates"] = DATES
    put(chip, key, value)
    with pytest.raises(InputError, match=message) as caught:
        read_chip(chip, [S2, LANDSAT])
    assert caught.value.where == f"{chip}: {key}"


TYPES = ["u1", "i1", ">u2", "<i2", ">i4", "u4", "u8", ">f4", "f2", "f8", "g"]


@pytest.mark.parametrize("kind", TYPES)
def test_any_kind_of_number_is_read_as_it_is(chip, kind):
    image = (IMAGE % 100 + 1).astype(kind)
    put(chip, "S2", image)
    put(chip, "label", LABEL.astype(kind if np.dtype(kind).kind in "iu" else "u1"))
    sample = read_chip(chip, [S2])
    assert np.array_equal(sample.images["S2"].double().numpy(), image.astype(float))
    assert np.array_equal(sample.label.numpy(), LABEL)
    assert sample.mask("S2").all()


def test_frames_come_in_the_order_of_their_dates_and_two_of_one_day_stay(chip):
    order = [2, 0, 3, 1]
    mask = np.ones((4, 8, 8), bool)
    mask[2, 1, 1] = False
    put(chip, "S2", IMAGE[order])
    put(chip, "S2_dates", np.array([b"2023-05-01T10:50:31Z", b"20230301", b"2023-05-01", b"2023-04-01"]))
    put(chip, "S2_mask", mask[order])
    sample = read_chip(chip, [S2])
    days = [19417, 19448, 19478, 19478]
    assert sample.dates["S2"].tolist() == days
    assert np.array_equal(sample.images["S2"].numpy(), IMAGE[[0, 1, 2, 3]])
    assert (~sample.mask("S2")).nonzero().tolist() == [[2, 1, 1]]
    some = read_chip(chip, [S2], frames=lambda total: np.array([1, 2]))
    assert np.array_equal(some.images["S2"].numpy(), IMAGE[[1, 2]])
    assert some.dates["S2"].tolist() == days[1:3]
    few = replace(S2, bands=S2.bands[2:4], statistics=None)
    with h5py.File(chip, "r+") as file:
        file["S2"].attrs["bands"] = list(S2.band_ids)
    assert np.array_equal(read_chip(chip, [few]).images["S2"].numpy(), IMAGE[:, 2:4])


def test_one_missing_band_makes_a_pixel_unseen_but_a_dark_one_does_not(chip):
    """The rule of scenes: -9999 in one band is missing; 0, which is dark ground too, must be in all bands."""
    landsat = np.full((4, 6, 8, 8), 500, np.int16)
    landsat[1, 3, 2, 2] = -9999
    s2 = IMAGE.copy()
    s2[0, 4, 1, 1] = 0
    s2[3, :, 5, 5] = 0
    for key, value in {"S2": s2, "Landsat": landsat, "Landsat_dates": DATES}.items():
        put(chip, key, value)
    sample = read_chip(chip, [S2, LANDSAT])
    assert (~sample.mask("Landsat")).nonzero().tolist() == [[1, 2, 2]]
    assert (~sample.mask("S2")).nonzero().tolist() == [[3, 5, 5]]


BANDS = {
    "numbers": np.arange(10),
    "one text": "B02,B03,B04,B08,B05,B06,B07,B8A,B11,B12",
    "a number": 10,
    "one band twice": [*S2.band_ids[:9], "B02"],
    "too many": np.full(5000, b"B"),
    "none": np.zeros(0),
    "a table": np.array([S2.band_ids[:5], S2.band_ids[5:]], "S4"),
    "no text": np.array([b"\xff"] * 10),
    "empty": h5py.Empty("f4"),
}


@pytest.mark.parametrize("case", BANDS)
def test_odd_names_of_bands_are_refused(chip, case):
    with h5py.File(chip, "r+") as file:
        file["S2"].attrs["bands"] = BANDS[case]
    with pytest.raises(InputError, match=r"chip\.h5: S2"):
        read_chip(chip, [S2])


# Places


GOOD = (10.0, 0.0, 5e5, 0.0, -10.0, 5e6)
PLACES = {
    "no CRS": ("moon", GOOD, "attribute 'crs'"),
    "a number as CRS": (32631, GOOD, "attribute 'crs'"),
    "an empty CRS": ("", GOOD, "attribute 'crs'"),
    "a CRS in a file": ("+init=/etc/passwd:1", GOOD, "attribute 'crs'"),
    "text as transform": ("EPSG:32631", "10 0 0 0 -10 0", "attribute 'transform'"),
    "NaN": ("EPSG:32631", (np.nan, *GOOD[1:]), "attribute 'transform'"),
    "zero": ("EPSG:32631", (0.0,) * 6, "attribute 'transform'"),
    "five numbers": ("EPSG:32631", GOOD[:5], "attribute 'transform'"),
    "a perspective": ("EPSG:32631", (*GOOD, 1.0, 0.0, 1.0), "attribute 'transform'"),
    "a million numbers": ("EPSG:32631", np.zeros(8000), "attribute 'transform'"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_is_none_is_refused(chip, case):
    crs, transform, where = PLACES[case]
    with h5py.File(chip, "r+") as file:
        file.attrs["crs"], file.attrs["transform"] = crs, transform
    with pytest.raises(InputError) as caught:
        read_georeference(chip)
    assert caught.value.where == f"{chip}: {where}"


@pytest.mark.parametrize("crs", ["EPSG:32631", np.bytes_(b"EPSG:32631"), np.array(["EPSG:32631"], object)])
def test_places_are_read_however_the_text_is_stored(chip, crs):
    with h5py.File(chip, "r+") as file:
        file.attrs["crs"], file.attrs["transform"] = crs, (*GOOD, 0.0, 0.0, 1.0)
    assert read_georeference(chip) == Georeference("EPSG:32631", GOOD)
    assert read_grid(chip) == (Georeference("EPSG:32631", GOOD), (8, 8))
    assert Georeference("EPSG:32631", GOOD).resized((8, 8), 4, 2).transform == (40.0, 0.0, 5e5, 0.0, -20.0, 5e6)


# Files


def test_pipes_and_folders_are_no_chips_and_nothing_waits_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match="no regular file"):
            read_chip(tmp_path / f"{name}.h5", [S2])
    with pytest.raises(InputError, match="too long"):
        read_chip(tmp_path / f"{'x' * 300}.h5", [S2])


WRITE = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from agrifm.data.chips import write_chip
from agrifm.errors import InputError
from agrifm.sample import Sample
from agrifm.sensors import S2
image = torch.from_numpy(np.random.default_rng(0).integers(1, 60000, (8, 10, 64, 64)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_chip(Path(sys.argv[1]), Sample({"S2": image}), [S2])
except InputError as error:
    print("refused:", error.found)
"""


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    """libhdf5 itself crashes, often only when the process ends."""
    command = [sys.executable, "-c", WRITE, str(tmp_path / "chips" / "x.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "refused: no space left" in done.stdout
    assert list((tmp_path / "chips").iterdir()) == []


def test_labels_that_do_not_fit_into_16_bits_are_not_wrapped(tmp_path):
    sample = Sample({"S2": torch.from_numpy(IMAGE.astype(np.int32))}, label=torch.full((8, 8), 3_301_010_000))
    write_chip(tmp_path / "x.h5", sample, [S2])
    assert torch.equal(read_chip(tmp_path / "x.h5", [S2]).label, sample.label)


# Chips on which libhdf5 does not return


@pytest.mark.parametrize("far", [False, True])
def test_a_list_of_texts_on_which_libhdf5_never_ends_is_refused(chip, far):
    """Its free space, object 0, says that it takes no room."""
    if far:
        put(chip, "Landsat", np.random.default_rng(0).integers(1, 9, (4, 6, 48, 48)).astype(np.int16))
    put(chip, "S2_dates", [text.decode() for text in DATES])
    data = bytearray(chip.read_bytes())
    start = data.index(b"GCOL") + 16
    assert (start > 1 << 16) == far
    while data[start : start + 2] != b"\0\0":
        start += 16 + -(-int.from_bytes(data[start + 8 : start + 16], "little") // 8) * 8
    assert read_chip(chip, [S2]).dates["S2"][0] == 19417
    data[start + 8 : start + 16] = bytes(8)
    chip.write_bytes(data)
    with pytest.raises(InputError, match="damaged list of texts"):
        read_chip(chip, [S2])


def read_all(*paths):
    return [len(read_chip(path, [S2]).images["S2"]) for path in paths]


def test_a_chip_that_takes_for_ever_or_crashes_is_named(chip, tmp_path, monkeypatch):
    other = tmp_path / "other.h5"
    other.write_bytes(chip.read_bytes())
    assert in_child_process(lambda: read_all(chip, other), 20) == [4, 4]
    with pytest.raises(InputError, match="no such file"):
        in_child_process(lambda: read_all(chip, tmp_path / "none.h5"), 20)
    real = h5py.File

    def damaged(path, *args):
        if path == other:
            time.sleep(60) if hang else os.kill(os.getpid(), signal.SIGKILL)
        return real(path, *args)

    monkeypatch.setattr("agrifm.data.hdf5.h5py.File", damaged)
    for hang, found in ((True, "more than 0.3 seconds"), (False, "crashes")):
        with pytest.raises(TimeLimitExceeded, match=found) as caught:
            in_child_process(lambda: read_all(chip, other), 0.3 if hang else 20)
        assert caught.value.path == other


def test_data_check_goes_on_after_a_chip_that_takes_for_ever(farm, settings, monkeypatch):
    from agrifm.training.samples.data_checks import examine_watched
    from agrifm.training.samples.sources import open_sources

    experiment = parse(settings)
    sources = open_sources(experiment, ("train", "val"))
    sources = {split: replace(source, names=source.names[:2]) for split, source in sources.items()}
    stuck, real = sources["train"].path(1), h5py.File
    monkeypatch.setattr(
        "agrifm.data.hdf5.h5py.File", lambda path, *args: time.sleep(60) if path == stuck else real(path, *args)
    )
    problems, seen = examine_watched(experiment, sources, 0.5)
    assert [problem.where for problem in problems] == [str(stuck)]
    assert "--seconds" in problems[0].repair
    assert seen["train"].chips == len(sources["train"]) - 1


# Random damage


def damaged(data, number):
    """Bytes with damage that the number decides: flipped bits, another piece, an end that is cut off."""
    rng, data = np.random.default_rng(number), bytearray(data)
    place = int(rng.integers(min(len(data), 8192 if number % 2 else len(data))))
    if number % 5 == 0:
        return data[:place]
    if number % 5 == 1:
        other = int(rng.integers(len(data)))
        data[place : place + 64] = data[other : other + 64]
        return data
    for _ in range(2 ** (number % 5)):
        data[int(rng.integers(min(len(data), 8192)))] ^= 1 << int(rng.integers(8))
    return data


def test_damaged_chips_are_read_or_refused(tmp_path):
    """Nothing else: no other exception, no crash, no chip that takes for ever."""
    sample, paths = FARM.sample(0, 1, (S2, LANDSAT)), []
    write_chip(tmp_path / "good.h5", sample, (S2, LANDSAT), FARM.place(0, 1))
    good = (tmp_path / "good.h5").read_bytes()
    for number in range(150):
        paths.append(tmp_path / f"{number}.h5")
        paths[-1].write_bytes(damaged(good, number))

    def outcomes():
        refused = {}
        for path in paths:
            try:
                read_chip(path, (S2, LANDSAT), allow_missing=True)
                read_grid(path)
            except InputError as error:
                refused[path] = error.where
        return refused

    refused = in_child_process(outcomes, 20)
    assert all(where.startswith(str(path)) for path, where in refused.items())
    assert len(paths) > len(refused) > 50


# Checksums


def test_a_fingerprint_follows_the_content_of_chips_and_lists(chip, tmp_path):
    (tmp_path / "b.h5").write_bytes(chip.read_bytes())
    chips = ChipFolder(tmp_path, ("chip", "b"), (S2,))
    first, known = digest(chips.checksums()), chips.checksums()
    os.utime(chip)  # as a copy on another disk has another time
    assert digest(chips.checksums()) == first
    assert digest(replace(chips, names=("b", "chip")).checksums()) != first
    put(chip, "label", LABEL + 1)
    assert digest(chips.checksums()) != first
    assert changed(known, chips.checksums(known)) == {"changed": ["chip"]}
    other = replace(chips, names=("b", "c"))
    assert changed(known, other.checksums(known)) == {"added": ["c"], "removed": ["chip"]}


def test_files_of_the_same_size_and_time_are_not_read_again(chip, monkeypatch):
    chips = ChipFolder(chip.parent, ("chip",), (S2,))
    known = chips.checksums()
    monkeypatch.setattr("agrifm.data.checksums.sha256", None)
    assert chips.checksums(known) == known
