"""Training: exact resume, equal over processes, switches that do what they say."""

import csv
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from processes import Command
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint
from agrifm.cli import app
from agrifm.config import parse
from agrifm.data.folder import import_dataset
from agrifm.errors import InputError
from agrifm.evaluation.scoring import evaluate
from agrifm.nn.windows import relative_index
from agrifm.training.fit import fit
from agrifm.training.history import write_history
from agrifm.training.module import TrainingModule, parameter_groups, rate
from agrifm.training.resolve import resolve


def plan(settings, **training):
    return parse({**settings, "training": {**settings["training"], **training}})


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights_of(out: Path, name="last.safetensors"):
    return Checkpoint.load(out / name).weights


def assert_same_weights(left, right, **tolerance):
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(left[key], right[key], **tolerance)


def test_a_run_leaves_everything_behind(settings, tmp_path, monkeypatch):
    validation_step = TrainingModule.validation_step
    indices = []

    def look(self, *arguments):
        buffers = dict(self.model.named_buffers())
        indices.append([buffers[key].clone() for key in sorted(buffers) if key.endswith("relative_position_index")])
        return validation_step(self, *arguments)

    monkeypatch.setattr(TrainingModule, "validation_step", look)
    best = fit(plan(settings, ema_decay=0.9, patience=5, accumulate_grad_batches=2, layer_decay=0.8), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    expected = {
        "best.safetensors",
        "last.safetensors",
        "resume.ckpt",
        "history.csv",
        "experiment.yaml",
        "environment.json",
    }
    assert expected <= names
    assert any((tmp_path / "tensorboard").iterdir())
    assert not [name for name in names if name.endswith(".part")]
    checkpoint = Checkpoint.load(best)
    again = parse(yaml.safe_load((tmp_path / "experiment.yaml").read_text()))
    assert checkpoint.experiment == again
    assert again.data.statistics == "given"
    assert len(history(tmp_path)) == 2
    expected_index = relative_index(checkpoint.experiment.model.swin.window)
    assert all(torch.equal(index, expected_index) for epoch in indices for index in epoch), "averaged whole numbers"
    source = checkpoint.experiment.data.split("val")
    scores = evaluate(checkpoint, source)
    # Batches of another size round differently, so that one or two of 4,608 pixels may get another class.
    assert scores.summary["aAcc"] == pytest.approx(checkpoint.scores["aAcc"], abs=5e-4)


def test_the_same_seed_gives_the_same_run(settings, tmp_path):
    outs = [tmp_path / name for name in ("a", "b", "c")]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        fit(plan({**settings, "seed": seed}, epochs=1), out)
    assert history(outs[0]) == history(outs[1])
    assert history(outs[0]) != history(outs[2])


@pytest.mark.parametrize("ema", [None, 0.5])
def test_resuming_goes_on_exactly(settings, tmp_path, ema):
    """Stopped after an epoch and started again, a run ends as the one that was never stopped."""
    from lightning.pytorch import Callback

    from agrifm.training.fit import fit as module

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(plan(settings, epochs=3, ema_decay=ema), whole)

    class Killed(Exception):
        pass

    class Killer(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 1:
                raise Killed

    make = sys.modules[module.__module__].make_trainer

    def with_killer(*args):
        trainer = make(*args)
        trainer.callbacks.append(Killer())
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[module.__module__], "make_trainer", with_killer)
        with pytest.raises(Killed):
            fit(plan(settings, epochs=3, ema_decay=ema), parts)
    assert len(history(parts)) == 1
    fit(plan(settings, epochs=3, ema_decay=ema), parts)
    assert history(parts) == history(whole)
    assert_same_weights(weights_of(parts), weights_of(whole), rtol=0, atol=0)
    assert_same_weights(weights_of(parts, "best.safetensors"), weights_of(whole, "best.safetensors"), rtol=0, atol=0)


def test_a_killed_process_can_be_resumed(config_file, tmp_path):
    """SIGKILL at an arbitrary moment leaves only whole files, and the same command finishes the run."""
    out = tmp_path / "out"
    words = ["train", str(config_file), "--out", str(out), "--set", "training.epochs=3"]
    command = Command(words, tmp_path / "log")
    deadline = time.monotonic() + 120
    while not (out / "resume.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send(signal.SIGKILL)
    command.wait()
    for path in out.glob("*.safetensors"):
        Checkpoint.load(path)
    resumed = CliRunner().invoke(app, words)
    assert resumed.exit_code == 0, resumed.output
    assert [row["epoch"] for row in history(out)] == ["0", "1", "2"]


def test_a_changed_experiment_is_not_resumed(settings, tmp_path):
    fit(plan(settings, epochs=1), tmp_path)
    changed = plan({**settings, "augment": {"crop": 24, "flips": False}}, epochs=2)
    with pytest.raises(InputError, match="other values in augment"):
        fit(changed, tmp_path)
    fit(changed, tmp_path, resume=False)
    assert len(history(tmp_path)) == 2


def test_a_broken_state_is_refused(settings, tmp_path):
    fit(plan(settings, epochs=1), tmp_path)
    (tmp_path / "resume.ckpt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="--no-resume"):
        fit(plan(settings, epochs=2), tmp_path)


def test_two_processes_give_the_result_of_one(config_file, tmp_path):
    """Same global batches, no random depth: weights and scores agree to rounding."""
    outs = {n: tmp_path / str(n) for n in (1, 2)}
    words = ["train", str(config_file), "--set", "model.size.drop_path=0.0", "--set", "training.batch_size=4"]
    alone = CliRunner().invoke(app, [*words, "--out", str(outs[1])])
    assert alone.exit_code == 0, alone.output
    command = Command([*words, "--set", "training.devices=2", "--out", outs[2]], tmp_path / "log")
    assert command.wait() == 0, command.text()
    assert_same_weights(weights_of(outs[2]), weights_of(outs[1]), rtol=1e-3, atol=1e-4)
    for one, two in zip(history(outs[1]), history(outs[2]), strict=True):
        for key in one:
            assert float(two[key]) == pytest.approx(float(one[key]), abs=5e-3), key


def test_the_schedule_warms_up_and_comes_down(settings):
    config = plan(settings, warmup=0.1, learning_rate=1e-3, min_learning_rate=1e-5).training
    rates = [rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_layers_get_their_rates(settings):
    experiment = plan(settings, layer_decay=0.5, encoder_lr_scale=0.1, learning_rate=1.0)
    experiment = experiment.with_sensors([s for s in __import__("conftest").SENSORS if s.name != "Modis"])
    model = TrainingModule(experiment).model
    groups = parameter_groups(model, experiment.training)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(rates) == sum(1 for _ in model.parameters())
    named = dict(model.named_parameters())
    order = (
        "backbones.S2.norm.weight",
        "backbones.S2.layers.3.blocks.0.attn.qkv.weight",
        "backbones.S2.layers.2.downsample.reduction.weight",
        "backbones.S2.layers.2.blocks.0.attn.qkv.weight",
        "backbones.S2.layers.1.downsample.reduction.weight",
    )
    assert [rates[id(named[name])] for name in order] == pytest.approx([0.1 * 0.5**i for i in range(5)])
    assert rates[id(named["embeddings.S2.proj.weight"])] == min(rates.values())
    assert rates[id(named["head.weight"])] == 1.0
    assert decays[id(named["head.weight"])] == 0.05
    assert decays[id(named["head.bias"])] == 0
    assert decays[id(named["backbones.S2.layers.0.blocks.0.attn.relative_position_bias_table"])] == 0


def test_only_trainable_weights_are_optimized(settings, tmp_path):
    frozen = {**settings, "model": {**settings["model"], "freeze_encoder": True}}
    torch.manual_seed(settings["seed"])
    fit(plan(frozen, epochs=1), tmp_path)
    checkpoint = Checkpoint.load(tmp_path / "last.safetensors")
    fresh = TrainingModule(checkpoint.experiment).model.state_dict()
    moved = {key for key, value in checkpoint.weights.items() if not torch.equal(value, fresh[key])}
    assert any(key.startswith("decoder.") for key in moved)
    assert not any(key.startswith(("embeddings.", "backbones.")) for key in moved)


def test_a_loss_that_is_not_finite_stops_the_run(settings, tmp_path):
    with pytest.raises(InputError, match=r"training\.learning_rate"):
        fit(plan(settings, learning_rate=1e30, warmup=0.0, gradient_clip_val=0.0, epochs=3), tmp_path)


def test_given_statistics_are_kept(settings, farm):
    from rich.console import Console

    from agrifm.training.samples.sources import open_sources

    experiment = parse({**settings, "data": {"root": str(farm), "sensors": ["S2"], "statistics": "given"}})
    settled = resolve(experiment, open_sources(experiment), Console(quiet=True))
    assert settled == experiment.with_footprint(480.0)  # 48 pixels of 10 m
    lacking = parse({**settings, "data": {"root": str(farm), "sensors": ["Landsat"], "statistics": "given"}})
    with pytest.raises(InputError, match="statistics: data"):
        resolve(lacking, open_sources(lacking), Console(quiet=True))


def test_ones_own_dataset_by_name(settings, farm, tmp_path, monkeypatch):
    module = tmp_path / "my_fields.py"
    module.write_text(
        "from agrifm.data.folder import MappingDataset\n"
        "from agrifm.sensors import S2\n"
        f"ROOT = {str(farm)!r}\n"
        "class Half(MappingDataset):\n"
        "    def __getitem__(self, index):\n"
        "        item = super().__getitem__(index)\n"
        "        item['data'] = {'S2': item['data']['S2'][::2]}\n"
        "        del item['dates'], item['valid']\n"
        "        return item\n"
        "def make(split):\n"
        "    return Half(ROOT + '/h5_samples', f'{ROOT}/data_lists/{split}.txt', [S2])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {**settings, "data": {"dataset": "my_fields:make", "sensors": ["S2"]}}
    best = fit(plan(own, epochs=1), tmp_path / "out")
    assert Checkpoint.load(best).experiment.data.dataset == "my_fields:make"
    with pytest.raises(InputError, match="PYTHONPATH"):
        fit(plan({**own, "data": {"dataset": "no_such:thing", "sensors": ["S2"]}}), tmp_path / "no")


@pytest.mark.parametrize("name", ["os:system", "shutil:rmtree", "os.path:exists", "builtins:exec", "_my_own:rmtree"])
def test_a_checkpoint_does_not_name_a_part_of_python_as_data(tmp_path, monkeypatch, name):
    """It would be called with the name of the split."""
    (tmp_path / "_my_own.py").write_text("from shutil import rmtree")
    (tmp_path / "test").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a part of Python"):
        import_dataset(name)("test")
    assert (tmp_path / "test").is_dir()


def test_history_replaces_epochs_of_a_killed_run(tmp_path):
    path = tmp_path / "history.csv"
    for epoch, loss in ((0, 3.0), (1, 2.0), (2, 9.0), (1, 2.5)):
        write_history(path, epoch, {"loss": loss})
    with path.open(newline="") as file:
        assert [(row["epoch"], row["loss"]) for row in csv.DictReader(file)] == [("0", "3.0"), ("1", "2.5")]


def test_half_precision_and_a_calendar(settings, tmp_path):
    """bf16 autocast works without a GPU, and the season that the calendar needs comes from the training data."""
    model = {**settings["model"], "time_steps": 4}
    best = fit(plan({**settings, "model": model}, precision="bf16-mixed", epochs=1), tmp_path)
    checkpoint = Checkpoint.load(best)
    season = checkpoint.experiment.model.season
    assert 55 < season.start < 120
    assert 100 < season.length < 250
    assert all(value.dtype == torch.float32 for value in checkpoint.weights.values())
    assert evaluate(checkpoint, checkpoint.experiment.data.split("test")).summary["aAcc"] > 0
