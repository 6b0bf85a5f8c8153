"""Runs that go on: on the same data or not at all, after a full disk, a damaged file or a signal."""

import csv
import json
import os
import resource
import shutil
import signal
import sys
from dataclasses import replace

import h5py
import pytest
import torch
from conftest import FEW_PIXELS, TINY
from lightning.pytorch import Callback
from rich.console import Console

from agrifm.checkpoint import Checkpoint
from agrifm.cli import shell
from agrifm.config import parse
from agrifm.errors import InputError, Terminated
from agrifm.evaluation.scoring import evaluate, outputs
from agrifm.io import locked
from agrifm.synthetic.chips import Landscape, write_example
from agrifm.training import parallel
from agrifm.training.callbacks import BEST, LAST, ScoreAndSave
from agrifm.training.fit import fit
from agrifm.training.history import HISTORY, read_history, write_history
from agrifm.training.module import TrainingModule
from agrifm.training.state import INPUTS, RESUME, with_sizes_of_run

FARM = Landscape(rows=1, columns=6, size=24, frames=(("S2", 5), ("Landsat", 3)))
NAMES = ["other", "winter wheat", "maize", "rapeseed", "sugar beet", "grassland"]
QUIET = Console(quiet=True)


def plan(root, epochs, **more):
    training = {"epochs": epochs, "batch_size": 2, "workers": 0, "accelerator": "cpu"}
    values = {
        "name": "test",
        "data": {"root": str(root), "sensors": ["S2"], "check_bands": False},
        "model": {"size": {**TINY, "depths": [1, 1], "heads": [1, 2]}},
        "pixels": FEW_PIXELS,
        "task": {"classes": NAMES},
        "training": training,
    }
    return parse({**values, **more})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A farm and a run of one epoch on it."""
    folder = tmp_path_factory.mktemp("done")
    write_example(folder / "farm", FARM)
    fit(plan(folder / "farm", 1), folder / "run", console=QUIET)
    return folder


@pytest.fixture
def run(done, tmp_path):
    """A copy of the run, whose farm may be changed: it is put back afterwards."""
    shutil.copytree(done / "farm", tmp_path / "farm")
    shutil.copytree(done / "run", tmp_path / "run")
    yield tmp_path / "run"
    shutil.rmtree(done / "farm")
    shutil.copytree(tmp_path / "farm", done / "farm")


def first_chip(done, split="train"):
    name = (done / "farm" / "data_lists" / f"{split}.txt").read_text().split()[0]
    return name.removesuffix(".h5"), done / "farm" / "h5_samples" / f"{name.removesuffix('.h5')}.h5"


@pytest.mark.parametrize(
    ("split", "key", "same_length"),
    [
        ("train", "S2", True),
        ("train", "label", True),
        ("val", "S2", True),
        ("val", "label", True),
        ("train", "S2", False),
    ],
)
def test_a_changed_chip_is_not_gone_on_with(done, run, split, key, same_length):
    name, path = first_chip(done, split)
    with h5py.File(path, "r+") as file:
        values = file[key][...]
        values.flat[0] += 1
        file[key][...] = values
        if not same_length:
            file.attrs["remark"] = "x" * 100
    with pytest.raises(InputError, match=rf"other chips in the {split} split: 1 changed, e\.g\. '{name}'"):
        fit(plan(done / "farm", 2), run, console=QUIET)
    (run / INPUTS).unlink()  # the state itself knows as well, though not which chip
    with pytest.raises(InputError, match=f"the {split} split|in data"):
        fit(plan(done / "farm", 2), run, console=QUIET)


@pytest.mark.parametrize("change", ["fewer", "order"])
def test_a_changed_list_is_not_gone_on_with(done, run, change):
    path = done / "farm" / "data_lists" / "train.txt"
    names = path.read_text().split()
    path.write_text("\n".join(names[:-1] if change == "fewer" else names[::-1]))
    with pytest.raises(InputError, match="1 removed" if change == "fewer" else "the train split"):
        fit(plan(done / "farm", 2), run, console=QUIET)


def test_changed_start_weights_are_not_gone_on_with(done, tmp_path):
    start = tmp_path / "start.safetensors"
    shutil.copy(done / "run" / LAST, start)
    config = plan(done / "farm", 1, start_from=str(start))
    fit(config, tmp_path / "run", console=QUIET)
    checkpoint = Checkpoint.load(start)
    checkpoint.weights["backbones.S2.norm.bias"][0] += 1
    checkpoint.save(start)
    config = plan(done / "farm", 2, start_from=str(start))
    with pytest.raises(InputError, match="the start weights"):
        fit(config, tmp_path / "run", console=QUIET)


def test_a_refused_run_leaves_everything_as_it_was(done, run):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="other values in augment"):
        fit(plan(done / "farm", 2, augment={"flips": False}), run, console=QUIET)
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert after == before


def test_files_that_were_only_touched_are_the_same(done, run):
    os.utime(first_chip(done)[1])
    (run / INPUTS).write_text("damaged")
    fit(plan(done / "farm", 2), run, console=QUIET)
    assert [row["epoch"] for row in read_history(run / HISTORY, 9)] == ["0", "1"]


def edit_experiment(state, **sections):
    """Change values of the experiment in a state, as if another version had derived them."""
    values = torch.load(state, weights_only=False)
    experiment = json.loads(values["experiment"])
    for section, changes in sections.items():
        experiment[section] |= changes
    values["experiment"] = json.dumps(experiment)
    torch.save(values, state)


def test_a_run_keeps_the_footprint_that_an_earlier_version_derived(done, run):
    edit_experiment(run / RESUME, data={"footprint": 170.0})
    fit(plan(done / "farm", 2), run, console=QUIET)
    assert Checkpoint.load(run / LAST).experiment.data.footprint == 170.0
    assert len(read_history(run / HISTORY, 9)) == 2


def test_a_footprint_that_the_user_changes_is_another_experiment(done, run):
    other = plan(done / "farm", 2).with_data(footprint=170.0)
    with pytest.raises(InputError, match="other values in data"):
        fit(other, run, console=QUIET)


@pytest.mark.parametrize(("stated", "kept"), [(None, 10.0), (20.0, 20.0)])
def test_fields_keep_the_pixel_size_of_their_run(tmp_path, stated, kept):
    task = {"kind": "fields", "pixel_size": stated}
    asked = parse({"data": {"root": "farm", "sensors": ["S2"], "label_key": "instances"}, "task": task})
    saved = asked.model_copy(update={"task": replace(asked.task, pixel_size=10.0)})
    state = {"experiment": saved.model_dump_json(), "state_dict": {}, "loops": {}, "callbacks": {}}
    torch.save(state, tmp_path / RESUME)
    assert with_sizes_of_run(asked, tmp_path / RESUME).task.pixel_size == kept


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "plain"])
def test_a_damaged_state_is_a_sentence(done, run, damage):
    content = (run / RESUME).read_bytes()
    if damage == "plain":
        torch.save({"epoch": 3}, run / RESUME)
    else:
        (run / RESUME).write_bytes({"empty": b"", "cut": content[: len(content) // 2], "other": b"\x80\x02}q"}[damage])
    with pytest.raises(InputError, match="start again with --no-resume") as caught:
        fit(plan(done / "farm", 2), run, console=QUIET)
    assert RESUME in caught.value.where


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe", b"epoch,loss\n0", b"epoch,loss\n0,1,2,3\n", b"loss\n1\n", b"epoch,loss\nx,1\n"],
    ids=range(6),
)
def test_a_damaged_history_begins_anew(tmp_path, content):
    path = tmp_path / HISTORY
    path.write_bytes(content)
    write_history(path, 1, {"loss": 0.5})
    with path.open(newline="") as file:
        assert list(csv.DictReader(file))[-1] == {"epoch": "1", "loss": "0.5"}


def test_a_damaged_history_keeps_what_is_whole(tmp_path):
    path = tmp_path / HISTORY
    path.write_bytes(b"epoch,loss\n0,3.0\nx,1\n1,2.0\n" + b"9" * 6_000 + b",1\n2,\x00")
    write_history(path, 3, {"loss": 0.5})
    assert [(row["epoch"], row["loss"]) for row in read_history(path, 9)][:2] == [("0", "3.0"), ("1", "2.0")]
    assert read_history(path, 9)[-1] == {"epoch": "3", "loss": "0.5"}


def test_a_place_that_cannot_be_written_is_refused_before_any_work(done, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("the data were looked at")

    monkeypatch.setattr(sys.modules[fit.__module__], "open_sources", never)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="choose another output folder"):
            fit(plan(done / "farm", 1), out, console=QUIET)
    assert (tmp_path / "file").read_text() == ""


def test_two_runs_in_one_folder(done, run):
    with locked(run / "training"), pytest.raises(InputError, match="another process that is writing it"):
        fit(plan(done / "farm", 2), run, console=QUIET)


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_later(done, run):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(InputError, match="no space left"):
            fit(plan(done / "farm", 2), run, console=QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(run.glob(".*part*"))
    fit(plan(done / "farm", 2), run, console=QUIET)
    assert len(read_history(run / HISTORY, 9)) == 2


def test_the_state_does_not_pass_through_the_folder_of_temporary_files(done, run, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    fit(plan(done / "farm", 2), run, console=QUIET)
    assert len(read_history(run / HISTORY, 9)) == 2


def stopped_by(number):
    """A callback that sends a signal to this process in the second epoch."""

    class Stopper(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            os.kill(os.getpid(), number)

    return Stopper()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_a_run_that_then_goes_on(done, run, monkeypatch, number):
    module = sys.modules[fit.__module__]
    make = module.make_trainer

    def with_stopper(*arguments):
        trainer = make(*arguments)
        trainer.callbacks.append(stopped_by(number))
        return trainer

    usual = signal.signal(signal.SIGTERM, shell._terminate)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(module, "make_trainer", with_stopper)
            with pytest.raises(KeyboardInterrupt) as caught:
                fit(plan(done / "farm", 2), run, console=QUIET)
    finally:
        signal.signal(signal.SIGTERM, usual)
        shell.Terminated.received = False
    assert isinstance(caught.value, Terminated) == (number == signal.SIGTERM)
    fit(plan(done / "farm", 2), run, console=QUIET)
    assert len(read_history(run / HISTORY, 9)) == 2


def test_states_of_older_versions_keep_their_best_score(done, run):
    """They hold the state of the callback under the name that it had."""
    state = torch.load(run / RESUME, weights_only=True)
    assert state["callbacks"]["Judge"]["best"] > 0
    state["callbacks"]["Judge"]["best"] = 2.0
    torch.save(state, run / RESUME)
    best = (run / BEST).read_bytes()
    fit(plan(done / "farm", 2), run, console=QUIET)
    assert (run / BEST).read_bytes() == best


def test_a_validation_that_is_not_finite_saves_nothing(done, run, monkeypatch):
    before = {name: (run / name).read_bytes() for name in (BEST, LAST)}
    forward = TrainingModule.judged.fget

    def broken(self):
        model = forward(self)
        return lambda batch: model(batch) * torch.nan

    monkeypatch.setattr(TrainingModule, "judged", property(broken))
    with pytest.raises(InputError, match="output of the model that is not finite"):
        fit(plan(done / "farm", 2), run, console=QUIET)
    assert {name: (run / name).read_bytes() for name in (BEST, LAST)} == before


def test_weights_that_are_not_finite_are_not_saved(done, run, monkeypatch):
    before = {name: (run / name).read_bytes() for name in (BEST, LAST)}
    callbacks = sys.modules[ScoreAndSave.__module__]
    state = callbacks.whole_state
    monkeypatch.setattr(callbacks, "whole_state", lambda model: {**state(model), "head.bias": torch.tensor(torch.nan)})
    with pytest.raises(InputError, match=r"epoch 2\n.*numbers in head\.bias that are not finite"):
        fit(plan(done / "farm", 2), run, console=QUIET)
    assert {name: (run / name).read_bytes() for name in (BEST, LAST)} == before


def test_evaluation_refuses_output_that_is_not_finite(done):
    checkpoint = Checkpoint.load(done / "run" / BEST)
    checkpoint.weights["head.weight"].fill_(3e38)  # finite, and its products are not
    with pytest.raises(InputError, match="output of the model that is not finite"):
        evaluate(checkpoint, checkpoint.experiment.data.split("val"))


def test_who_reads_outputs_is_not_in_inference_mode(done):
    checkpoint = Checkpoint.load(done / "run" / BEST)
    for _ in outputs(checkpoint, checkpoint.experiment.data.split("val"), device="cpu"):
        assert not torch.is_inference_mode_enabled()
        assert torch.ones(1, requires_grad=True).mul(2).requires_grad
    assert not torch.is_inference_mode_enabled()


def as_second(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")


def unexpected():
    raise AssertionError("the second process looked at the data")


@pytest.mark.parametrize("started_by", ["torchrun", "lightning"])
def test_only_the_first_process_looks_at_the_data(monkeypatch, started_by):
    store = torch.distributed.HashStore() if started_by == "torchrun" else None
    monkeypatch.setattr(parallel, "_store", lambda: store)
    monkeypatch.setenv(parallel.KEY, "")
    assert parallel.from_first(lambda: {"a": 1}) == {"a": 1}
    with monkeypatch.context() as second:
        as_second(second)
        assert parallel.from_first(unexpected) == {"a": 1}


@pytest.mark.parametrize("started_by", ["torchrun", "lightning"])
def test_what_the_first_process_refuses_the_others_refuse(monkeypatch, started_by):
    store = torch.distributed.HashStore() if started_by == "torchrun" else None
    monkeypatch.setattr(parallel, "_store", lambda: store)
    monkeypatch.setenv(parallel.KEY, "")

    def refuse():
        raise InputError("a.h5", found="x", expected="y", repair="z.")

    with pytest.raises(InputError) as first:
        parallel.from_first(refuse)
    as_second(monkeypatch)
    with pytest.raises(InputError) as second:
        parallel.from_first(unexpected)
    assert str(second.value) == str(first.value)


def test_processes_of_which_nothing_is_known_look_for_themselves(monkeypatch):
    monkeypatch.delenv(parallel.KEY, raising=False)
    as_second(monkeypatch)
    assert parallel.from_first(lambda: {"a": 1}) == {"a": 1}
