"""Pre-training on fractions: exact resume, equal over processes, a teacher that follows, weights that carry on."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY
from test_training import assert_same_weights, history, weights_of
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint
from agrifm.cli import app
from agrifm.compat.weights import describe_weights, released_layout, start_weights
from agrifm.config import load, parse
from agrifm.data.covers import Covers
from agrifm.data.shard_writer import ShardWriter
from agrifm.data.transforms import Augment
from agrifm.errors import InputError
from agrifm.sensors import LANDSAT, S2
from agrifm.tasks.fractions import COVERS, Fractions
from agrifm.training import evaluate, fit
from agrifm.training import pretrain as module
from agrifm.training.fit import open_sources
from agrifm.training.module import BAD
from agrifm.training.pretrain import Pairs, Views, follow, sureness

ROOT = Path(__file__).parents[1]


@pytest.fixture
def plan():
    """A small experiment as plain values: 16 samples an epoch."""
    return {
        "name": "pretrain",
        "data": {"sensors": ["S2", "Landsat"], "frames": 4, "shards": {"lap": 16, "val_samples": 4}},
        "task": {"kind": "fractions"},
        "teacher": {"ramp": 0.0},
        "augment": {"noise": 0.03, "hide": 0.2},
        "model": {"size": TINY, "shared_backbone": True},
        "training": {"epochs": 2, "batch_size": 4, "workers": 0, "accelerator": "cpu"},
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """24 samples of two sensors in shards of 4, for training and for scores."""
    root = tmp_path_factory.mktemp("shards")
    small = {"S2": 16, "Landsat": 16}
    for split, seed in (("train", 0), ("val", 1)):
        covers = Covers(seed=seed, sizes=small, frames=6, sensors=(S2, LANDSAT))
        with ShardWriter(root / split, size=4) as writer:
            for index in range(24):
                writer.add(covers.record(("S2", "Landsat")[index % 2], index))
    return root


def of_shards(plan, shards, **more):
    places = {"train": str(shards / "train"), "val": str(shards / "val"), "window": 8}
    return {**plan, "data": {**plan["data"], "shards": {**plan["data"]["shards"], **places, **more}}}


def test_the_shipped_experiment_trains_one_step(tmp_path):
    experiment = load(
        ROOT / "configs" / "pretrain.yaml",
        [
            "data.shards.lap=4",
            "data.shards.val_samples=3",
            "training.batch_size=4",
            "training.epochs=1",
            "training.workers=1",
        ],
    )
    best = Checkpoint.load(fit(experiment, tmp_path))
    assert {"overlap", "MAE", "mR2"} <= set(best.scores)
    result = evaluate(best, open_sources(best.experiment, ("val",))["val"], tmp_path / "scores")
    assert result.summary == pytest.approx(best.scores)
    assert [entry.name for entry in result.classes] == list(COVERS)
    assert (tmp_path / "scores" / "scores.json").is_file()


@pytest.mark.parametrize("place", ["synthetic", "shards"])
def test_killed_in_mid_epoch_it_goes_on_to_the_same_bits(plan, shards, place, tmp_path, monkeypatch):
    plan = plan if place == "synthetic" else of_shards(plan, shards)
    fit(parse(plan), tmp_path / "whole")
    step, steps = module.Pretrainer.training_step, []

    def killed(self, batch, number):
        steps.append(number)
        if len(steps) == 7:
            raise RuntimeError("killed")
        return step(self, batch, number)

    monkeypatch.setattr(module.Pretrainer, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        fit(parse(plan), tmp_path / "parts")
    fit(parse(plan), tmp_path / "parts")
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_same_weights(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"), rtol=0, atol=0)


def test_two_processes_give_the_result_of_one(plan, tmp_path):
    outs = {n: tmp_path / str(n) for n in (1, 2)}
    config = tmp_path / "pretrain.yaml"
    config.write_text(yaml.safe_dump(plan))
    for n, out in outs.items():
        words = [sys.executable, "-m", "agrifm.cli", "train", str(config), "--out", str(out)]
        for text in (f"training.devices={n}", "model.size.drop_path=0.0"):
            words += ["--set", text]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(words, capture_output=True, text=True, timeout=200, env=environment)
        assert finished.returncode == 0, finished.stderr
    assert_same_weights(weights_of(outs[2]), weights_of(outs[1]), rtol=1e-3, atol=1e-4)
    for one, two in zip(history(outs[1]), history(outs[2]), strict=True):
        for key in one:
            assert float(two[key]) == pytest.approx(float(one[key]), abs=5e-3), key


def test_both_views_show_the_same_ground():
    source = Covers(sizes={"S2": 16}, frames=12, sensors=(S2,))
    pairs = Pairs(source, 5, Augment(noise=0.05, hide=0.5), 0, 2)
    one, two = pairs[3, 3]
    torch.testing.assert_close(one.label, two.label)
    assert len(one.images["S2"]) == len(two.images["S2"]) == 5
    assert one.dates["S2"].tolist() != two.dates["S2"].tolist()
    assert not torch.equal(one.valid["S2"], two.valid["S2"])
    again = pairs[3, 3]
    torch.testing.assert_close(one.images["S2"], again[0].images["S2"], rtol=0, atol=0)
    assert pairs[4, 3][0].dates["S2"].tolist() != one.dates["S2"].tolist() or not torch.equal(
        pairs[4, 3][0].images["S2"], one.images["S2"]
    )


def test_the_teacher_follows_and_is_what_is_saved(plan, tmp_path):
    first, second = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    expected = 0.9 * first.weight + 0.1 * second.weight
    follow(first, second, 0.9)
    torch.testing.assert_close(first.weight, expected)
    fit(parse(plan), tmp_path)
    state = torch.load(tmp_path / "resume.ckpt", weights_only=True)["state_dict"]
    saved = weights_of(tmp_path)
    key = next(key for key in saved if key.endswith("qkv.weight"))
    torch.testing.assert_close(saved[key], state[f"teacher.{key}"], rtol=0, atol=0)
    assert not torch.equal(saved[key], state[f"model.{key}"])


def test_an_unsure_teacher_has_no_say():
    even, sure = torch.full((1, 8, 1, 1), 1 / 8), torch.eye(8)[:1].reshape(1, 8, 1, 1)
    assert float(sureness(even)) == pytest.approx(0, abs=1e-6)
    assert float(sureness(sure)) == pytest.approx(1, abs=1e-6)


def test_the_teacher_counts_in_the_loss_unless_it_agrees(plan):
    plan["teacher"]["trust"] = False
    experiment = parse(plan)
    sensors = [s.with_statistics(S2.statistics) if s is S2 else replace(s, statistics=None) for s in (S2,)]
    trained = module.Pretrainer(experiment.with_sensors(sensors))
    trained.log = lambda *args, **kwargs: None
    trained._ramp = lambda share: 1.0
    pairs = Pairs(Covers(sizes={"S2": 16}, frames=4, sensors=(S2,)), None, Augment(flips=False, turns=False), 0, 2)
    views = Views.of([pairs[0, 0], pairs[1, 1]])
    trained.eval()  # no dropped paths: student and teacher are the same function
    both = trained._loss(views)
    alone = trained._supervised(trained.model(views.student), views.student)
    torch.testing.assert_close(both, alone)
    torch.nn.init.constant_(trained.teacher.head.bias, 0)
    with torch.no_grad():
        trained.teacher.head.bias[0] = 5
    assert float(trained._loss(views)) > float(alone) + 0.1


def test_fractions_are_scored_where_they_are_known():
    task = Fractions()
    metric = task.metric()
    truth = torch.zeros(1, 8, 1, 3)
    truth[0, 0, 0, :2] = 1
    truth[..., 2] = torch.nan
    output = torch.zeros(1, 8, 1, 3)
    output[0, 0, 0, 0], output[0, 1, 0, 1] = 50, 50
    task.update(metric, output, truth)
    result = task.scores(metric)
    assert result.cells == 2
    assert result.summary["overlap"] == pytest.approx(0.5)
    assert pytest.approx(0.5) == result.classes[0].MAE
    assert np.isnan(result.classes[5].R2)
    ((weight, part),) = task.losses(output, truth)
    assert (weight, float(part.total), float(part.count)) == (1.0, pytest.approx(2.0), 2.0)


def test_a_spike_of_the_gradient_is_left_out(plan, tmp_path, monkeypatch):
    plan["training"] |= {"spike": 1.0001, "epochs": 1}
    usual = module.Pretrainer.on_before_optimizer_step
    before = {}

    def watch(self, optimizer):
        if self.global_step == 0:
            usual(self, optimizer)
            self.usual_norm.fill_(1e-6)  # from here on every gradient is a spike
            return
        usual(self, optimizer)
        before.setdefault("gradients", [x.grad.abs().max() for x in self.model.parameters() if x.grad is not None])

    monkeypatch.setattr(module.Pretrainer, "on_before_optimizer_step", watch)
    fit(parse(plan), tmp_path)
    assert max(before["gradients"]) == 0


def test_a_loss_that_is_not_finite_keeps_the_batch(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sureness", lambda shares: shares[:, :1] * torch.nan)
    with pytest.raises(InputError, match=BAD):
        fit(parse(plan), tmp_path)
    assert (tmp_path / BAD).is_file()


def test_other_shards_are_not_gone_on_with(plan, shards, tmp_path):
    """The folder has the same name, and other samples in it."""
    shutil.copytree(shards, tmp_path / "shards")
    fit(parse(of_shards(plan, tmp_path / "shards")), tmp_path / "run")
    covers = Covers(seed=5, sizes={"S2": 16, "Landsat": 16}, frames=6, sensors=(S2, LANDSAT))
    with ShardWriter(tmp_path / "shards" / "train", size=4, overwrite=True) as writer:
        for index in range(24):
            writer.add(covers.record(("S2", "Landsat")[index % 2], index))
    plan["training"]["epochs"] = 3
    with pytest.raises(InputError, match="the shards"):
        fit(parse(of_shards(plan, tmp_path / "shards")), tmp_path / "run")


def test_lost_shards_are_told(plan, shards, tmp_path, capsys):
    shutil.copytree(shards, tmp_path / "damaged")
    victim = sorted((tmp_path / "damaged" / "train").glob("S2-*.tar"))[0]
    victim.write_bytes(victim.read_bytes()[:-2000])
    with pytest.raises(InputError, match=victim.name):
        fit(parse(of_shards(plan, tmp_path / "damaged")), tmp_path / "refused")
    fit(parse(of_shards(plan, tmp_path / "damaged", lost="count")), tmp_path / "counted")
    told = " ".join(capsys.readouterr().out.split())
    assert f"lost: {victim.name} (4 samples" in told


def test_fine_tuning_begins_with_what_was_learned(plan, settings, tmp_path):
    plan["training"]["epochs"] = 1
    path = fit(parse(plan), tmp_path / "pretrained")
    learned = Checkpoint.load(path).weights
    experiment = parse({**settings, "start_from": str(path)})
    start = start_weights(experiment)
    for sensor in ("S2", "Landsat"):
        key = f"backbones.{sensor}.layers.0.blocks.0.attn.qkv.weight"
        torch.testing.assert_close(start[key], learned[key.replace(sensor, "shared")], rtol=0, atol=0)
    fit(experiment, tmp_path / "tuned", weights=start)
    with pytest.raises(InputError, match="pre-train with it"):
        start_weights(parse({**settings, "start_from": str(path), "data": {**settings["data"], "sensors": ["Modis"]}}))
    wider = {**settings["model"], "size": {**TINY, "width": 32}}
    with pytest.raises(InputError, match="width 32"):
        start_weights(parse({**settings, "start_from": str(path), "model": wider}))


def test_weights_go_out_in_the_published_layout_and_come_back(plan, tmp_path):
    plan["training"]["epochs"] = 1
    path = fit(parse(plan), tmp_path / "pretrained")
    learned, target = Checkpoint.load(path).weights, tmp_path / "AgriFM.pth"
    arguments = ["weights", "convert", str(path), str(target), "--layout", "released"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert describe_weights(target)["layout"].startswith("published AgriFM")
    assert "encoder.S2_patch_emd.weights" in torch.load(target, weights_only=True)
    back = start_weights(parse({**plan, "start_from": str(target)}))
    assert len(back) > 20
    for key, value in back.items():
        torch.testing.assert_close(value, learned[key], rtol=0, atol=0)
    with pytest.raises(InputError, match="shared_backbone"):
        released_layout(Checkpoint(parse({**plan, "model": {"size": TINY}}), {}), "own.safetensors")


def test_what_does_not_fit_together_is_refused(plan, settings):
    for change in ({"teacher": {}}, {"data": plan["data"]}):
        with pytest.raises(InputError, match="fractions"):
            parse({**settings, **change})
    with pytest.raises(InputError, match=r"training\.ema"):
        parse({**plan, "training": {**plan["training"], "ema": 0.9}})
    with pytest.raises(InputError, match="did you mean 'decay'"):
        parse({**plan, "teacher": {"decai": 0.9}})
