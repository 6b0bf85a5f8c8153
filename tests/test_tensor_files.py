"""Damaged and hostile weights: one error that names the file, before memory is asked for and before a map is wrong."""

import io
import json
import pickle
import random
import resource
import struct
import zipfile
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import SENSORS

from agrifm.checkpoint import Checkpoint, build
from agrifm.config import parse
from agrifm.errors import InputError
from agrifm.tasks.calibration import Calibration
from agrifm.tensor_files import read_safetensors, read_torch, write_safetensors
from agrifm.weight_files.layouts import read_state
from agrifm.weight_files.start_weights import start_weights

SIZE = {"width": 8, "depths": [1, 1], "heads": [1, 2], "drop_path": 0.0, "window": [2, 2, 2]}


@pytest.fixture(scope="module")
def plan():
    values = {"data": {"sensors": ["S2"]}, "task": {"classes": ["a", "b"]}, "model": {"size": SIZE}}
    return parse(values).with_sensors(SENSORS[:1])


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    """The bytes of a small checkpoint."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whole") / "c.safetensors"
    calibration = Calibration(1.5, (0.1, 0.2), 0.9, True, (), "val", "chips", 3, 300, (0.2, 0.1))
    Checkpoint(plan, build(plan).state_dict(), {"mFscore": 0.5}, 4, calibration=calibration, flips=True).save(path)
    Checkpoint.load(path).model()
    return path.read_bytes()


def divided(content):
    """Header and numbers of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, numbers):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def with_metadata(content, **changes):
    """The same file with other metadata; None takes an entry out."""
    header, numbers = divided(content)
    metadata = {**header["__metadata__"], **changes}
    return joined({**header, "__metadata__": {k: v for k, v in metadata.items() if v is not None}}, numbers)


def with_experiment(content, key, value):
    header, _ = divided(content)
    values = json.loads(header["__metadata__"]["experiment"])
    inner = values
    *above, last = key.split(".")
    for part in above:
        inner = inner[int(part) if part.isdigit() else part]
    inner[last] = value
    return with_metadata(content, experiment=json.dumps(values))


def calibrated(content, **changes):
    header, _ = divided(content)
    return with_metadata(
        content, calibration=json.dumps({**json.loads(header["__metadata__"]["calibration"]), **changes})
    )


DEEP = "[" * 100_000 + "]" * 100_000
METADATA = {
    "no experiment": {"experiment": None},
    "another format": {"format": "agrifm-checkpoint-9"},
    "an experiment that is no JSON": {"experiment": "{"},
    "an experiment that is a list": {"experiment": "[]"},
    "an endless experiment": {"experiment": DEEP},
    "an experiment of long numbers": {"experiment": '{"seed": ' + "9" * 5_000 + "}"},
    "scores that are a list": {"scores": "[1]"},
    "scores that are words": {"scores": '{"mFscore": "high"}'},
    "endless scores": {"scores": DEEP},
    "an epoch that is no number": {"epoch": "four"},
    "an epoch before the first": {"epoch": "-1"},
    "a long epoch": {"epoch": "9" * 5_000},
    "versions of another type": {"versions": '{"torch": 2}'},
    "versions that are null": {"versions": "null"},
    "flips of another type": {"flips": "[true]"},
    "others that are a mapping": {"others": "{}"},
    "others that are no experiments": {"others": '["{}"]'},
    "others that are not in the file": {"others": None},  # filled in below
    "a calibration of another type": {"calibration": "3"},
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_no_training_writes(whole, tmp_path, name):
    changes = METADATA[name]
    if name == "others that are not in the file":
        changes = {"others": json.dumps([divided(whole)[0]["__metadata__"]["experiment"]])}
    path = tmp_path / "c.safetensors"
    path.write_bytes(with_metadata(whole, **changes))
    with pytest.raises(InputError) as caught:
        Checkpoint.load(path)
    assert str(path) in caught.value.where


EXPERIMENTS = {
    "statistics of zero": ("data.sensors.0.statistics.std", [0.0] * 10),
    "statistics below zero": ("data.sensors.0.statistics.std", [-1.0] * 10),
    "statistics that are no numbers": ("data.sensors.0.statistics.mean", ["NaN"] * 10),
    "statistics of other bands": ("data.sensors.0.statistics.mean", [1.0] * 3),
    "no statistics": ("data.sensors.0.statistics", None),
    "another class": ("task.classes", [{"name": name} for name in "abc"]),
    "a model of terabytes": ("model.size.width", 8_192),
    "a model without heads": ("model.size.heads", [0, 0]),
    "a huge window": ("model.size.window", [256, 256, 256]),
    "another key": ("modle", {}),
    "a task of another kind": ("task.kind", "regression"),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_that_do_not_fit_their_weights(whole, tmp_path, name):
    path = tmp_path / "c.safetensors"
    path.write_bytes(with_experiment(whole, *EXPERIMENTS[name]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        Checkpoint.load(path)
    assert str(path) in caught.value.where
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": float("nan")},
        {"temperature": 0},
        {"temperature": -1},
        {"thresholds": [0.1]},
        {"thresholds": [0.1, float("inf")]},
        {"unit": "acres"},
    ],
    ids=str,
)
def test_calibrations_that_give_no_probabilities(whole, tmp_path, changes):
    path = tmp_path / "c.safetensors"
    path.write_bytes(calibrated(whole, **changes))
    with pytest.raises(InputError, match="calibration"):
        Checkpoint.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("key", ["head.bias", "normalize.S2.mean"])
def test_weights_that_are_not_finite_are_not_loaded(plan, tmp_path, key, value):
    weights = build(plan).state_dict()
    weights[key] = weights[key].double()
    weights[key][0] = value
    path = tmp_path / "c.safetensors"
    Checkpoint(plan, weights).save(path)
    with pytest.raises(InputError, match=f"numbers in {key} that are not finite"):
        Checkpoint.load(path)


def test_deviations_in_the_weights_are_positive(plan, tmp_path):
    weights = build(plan).state_dict()
    weights["normalize.S2.std"][2] = 0
    Checkpoint(plan, weights).save(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="standard deviations above 0"):
        Checkpoint.load(tmp_path / "c.safetensors")


@pytest.mark.parametrize("ours", [True, False])
def test_start_weights_that_are_not_finite_are_not_loaded(plan, tmp_path, ours):
    path = tmp_path / ("c.safetensors" if ours else "c.pth")
    weights = build(plan).state_dict()
    key = "backbones.S2.layers.0.blocks.0.norm1.bias"
    weights[key][0] = float("nan")
    if ours:
        Checkpoint(plan, weights).save(path)
    else:
        torch.save({"state_dict": weights}, path)
    with pytest.raises(InputError, match=f"numbers in {key} that are not finite"):
        start_weights(plan.model_copy(update={"start_from": path}))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_weights_of_another_kind_of_number(plan, tmp_path, dtype):
    weights = build(plan).state_dict()
    weights["head.bias"] = weights["head.bias"].to(dtype)
    Checkpoint(plan, weights).save(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=r"head\.bias: torch"):
        Checkpoint.load(tmp_path / "c.safetensors")


def test_weights_in_half_precision_still_load(plan, tmp_path):
    weights = {key: value.bfloat16() for key, value in build(plan).state_dict().items()}
    Checkpoint(plan, weights).save(tmp_path / "c.safetensors")
    model = Checkpoint.load(tmp_path / "c.safetensors").model()
    assert model.head.bias.dtype == torch.float32


OTHER_FILES = {
    "empty": (b"", "an empty file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "Git-LFS pointer"),
    "page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "short": (b"\x01\x02", "a file of 2 bytes|cannot be read"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(200), "should have|cannot be read"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_hold_no_weights_say_what_they_are(tmp_path, name, suffix):
    content, message = OTHER_FILES[name]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_state(path)
    assert caught.value.where == str(path)


def test_a_folder_and_names_that_no_file_can_have(tmp_path):
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(InputError, match="a folder"):
            read_state(tmp_path / f"folder{suffix}")
        with pytest.raises(InputError, match="no such file"):
            read_state(tmp_path / f"{'x' * 300}{suffix}")


def test_a_file_larger_than_memory_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(InputError, match="fits into the memory"):
        read_safetensors(path)


def entry(start, stop, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HEADERS = {
    "overlapping": {"a": entry(0, 4), "b": entry(2, 6)},
    "a gap": {"a": entry(0, 4), "b": entry(8, 12)},
    "beyond the end": {"a": entry(0, 1 << 40, (1 << 38,))},
    "reversed": {"a": entry(4, 0)},
    "another size": {"a": entry(0, 8, (3,))},
    "an endless shape": {"a": entry(0, 8, (1 << 62, 1 << 62))},
    "negative": {"a": entry(0, 8, (-2,))},
    "an unknown type": {"a": entry(0, 8, (2,), "F33")},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "a list": [],
    "a number": 3,
    "metadata that are no text": {"__metadata__": {"format": 3}, "a": entry(0, 8, (2,))},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_contradict_the_file(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(joined(HEADERS[name], bytes(8)))
    with pytest.raises(InputError):
        read_safetensors(path)


@pytest.mark.parametrize("length", [0, 7, 1 << 31, (1 << 64) - 1])
def test_headers_of_absurd_length(whole, tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + whole[8:])
    with pytest.raises(InputError):
        read_safetensors(path)


def repacked(path, change=None, compression=zipfile.ZIP_STORED):
    """The bytes of a PyTorch file with other content in its entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content if change is None else change(name, content))
    return buffer.getvalue()


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(4)}, path)

    def inflate(name, content):
        return bytes(200_000_000) if name.endswith("data/0") else content

    path.write_bytes(repacked(path, inflate, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"an archive of \d+ bytes that holds"):
        read_state(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_a_tensor_may_not_be_larger_than_its_file(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, path)
    with pytest.raises(InputError, match=r"tensors of \d+ bytes in a file of"):
        read_state(path)
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(InputError, match="neither sparse nor quantized"):
        read_state(path)
    shared = torch.ones(1_000)
    torch.save({"a": shared, "tied": shared}, path)
    assert read_state(path).keys() == {"a", "tied"}


class Runs:
    """Would call a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    path, mark = tmp_path / "x.pth", tmp_path / "mark"
    content = {"a": torch.zeros(1), "b": Runs(exec, f"open({str(mark)!r}, 'w')")}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with nullcontext() if zipped else pytest.raises(InputError):  # a zip names its classes before anything is built
        read_state(path)
    assert not mark.exists()


def mutated(content, rng):
    """Some bytes flipped, taken out, repeated or cut off."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place = rng.randrange(max(1, len(content)))
        length = rng.choice([1, 1, 1, 4, 30])
        kind = rng.randrange(5)
        if kind == 0:
            content[place : place + 1] = rng.randbytes(1)
        elif kind == 1:
            content[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            del content[place : place + length]
        elif kind == 3:
            content[place:place] = content[place : place + length]
        elif rng.random() < 0.3:
            del content[max(1, place) :]
    return bytes(content) or b"\x00"


@pytest.mark.parametrize("seed", range(3))
def test_mutated_checkpoints_load_in_full_or_are_refused(whole, tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "c.safetensors"
    header_only = len(whole) - len(divided(whole)[1])
    refused = 0
    for _ in range(100):
        if rng.random() < 0.8:  # most of the file are numbers, of which any are as good as others
            path.write_bytes(mutated(whole[:header_only], rng) + whole[header_only:])
        else:
            path.write_bytes(mutated(whole, rng))
        try:
            loaded = Checkpoint.load(path)
        except InputError as error:
            assert error.where.startswith(str(path))  # noqa: PT017 (it may load as well)
            refused += 1
            continue
        assert all(torch.isfinite(value).all() for value in loaded.model().state_dict().values())
        assert min(loaded.experiment.data.sensors[0].known_statistics().std) > 0
    assert refused > 50


@pytest.mark.parametrize("zipped", [True, False])
def test_mutated_torch_files_open_or_are_refused(tmp_path, zipped):
    rng = random.Random(zipped)
    path = tmp_path / "x.pth"
    state = {f"layer.{i}.weight": torch.randn(2, 3) for i in range(3)}
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, path, _use_new_zipfile_serialization=zipped)
    good = path.read_bytes()
    for _ in range(150):
        if zipped and rng.random() < 0.7:
            path.write_bytes(good)
            path.write_bytes(repacked(path, lambda name, old: mutated(old, rng) if name.endswith(".pkl") else old))
        else:
            path.write_bytes(mutated(good, rng))
        try:
            found = read_state(path)
        except InputError as error:
            assert error.where.startswith(str(path))  # noqa: PT017 (it may load as well)
            continue
        assert sum(value.numel() * value.element_size() for value in found.values()) < 4 * path.stat().st_size


def test_a_cut_pickle_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1)}, path)
    path.write_bytes(repacked(path, lambda name, old: old[:20] if name.endswith(".pkl") else old))
    with pytest.raises(InputError, match="cannot be read"):
        read_torch(path)


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.zeros(3)}, {})
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(InputError, match="no space left"):
            write_safetensors(path, {"a": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_several_models_in_a_file_must_all_be_there(plan, tmp_path):
    one = Checkpoint(plan, build(plan).state_dict())
    path = tmp_path / "c.safetensors"
    replace(one, others=(Checkpoint(plan, build(plan).state_dict()),)).save(path)
    assert len(Checkpoint.load(path).others) == 1
    content = path.read_bytes()
    for name in ("2/head.bias", "0/head.bias", "9" * 11):
        header, numbers = divided(content)
        header[name] = header.pop("1/head.bias")
        path.write_bytes(joined(header, numbers))
        with pytest.raises(InputError):
            Checkpoint.load(path)
