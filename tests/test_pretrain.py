"""Pre-training on fractions: exact resume, equal results over processes, the mean teacher, weights for later use."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import SENSORS, TINY
from processes import second_dies_once, train_in_processes, train_with_restarts
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import assert_same_weights, history, weights_of
from typer.testing import CliRunner

from agrifm.checkpoint import Checkpoint
from agrifm.cli import app
from agrifm.cli.evaluate import refuse_split
from agrifm.compat.weights import describe_weights, released_layout
from agrifm.config import load, parse
from agrifm.data.transforms import Augment
from agrifm.errors import InputError
from agrifm.evaluation.scoring import evaluate
from agrifm.nn.model import CropModel, ModelConfig
from agrifm.nn.swin import SwinSize
from agrifm.pretraining.shard_writer import ShardWriter
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.landcover import SyntheticLandCover
from agrifm.tasks.fractions import COVERS, Fractions
from agrifm.training import mean_teacher, resolve
from agrifm.training.fit import fit
from agrifm.training.linear_probe import LinearProbe
from agrifm.training.mean_teacher import confidence, update_teacher
from agrifm.training.module import BAD
from agrifm.training.samples import pretraining_data
from agrifm.training.samples.pretraining_data import AugmentedViews, Views
from agrifm.training.samples.sources import open_sources
from agrifm.training.throughput import forward_flops, tokens
from agrifm.weight_files.start_weights import start_weights

ROOT = Path(__file__).parents[1]
EPOCHS = 2


@pytest.fixture
def few_statistics(monkeypatch):
    """Statistics of samples that are generated on the fly are computed on 12 of them."""
    monkeypatch.setattr(resolve.survey_covers, "__defaults__", (12,))


@pytest.fixture
def endless_plan(few_statistics):
    """A small experiment as plain values: 16 samples an epoch, generated on the fly."""
    return small_plan()


@pytest.fixture
def plan(shards):
    """The same on small samples in shards."""
    return of_shards(small_plan(), shards)


@pytest.fixture(scope="module")
def plan_file(shards, tmp_path_factory):
    """The same as a file, without dropped paths, which differ from process to process."""
    plan = of_shards(small_plan(), shards)
    path = tmp_path_factory.mktemp("plan") / "pretrain.yaml"
    path.write_text(yaml.safe_dump({**plan, "model": {**plan["model"], "size": {**TINY, "drop_path": 0.0}}}))
    return path


def small_plan():
    return {
        "name": "pretrain",
        "data": {"sensors": ["S2", "Landsat"], "frames": 4, "shards": {"epoch_size": 16, "val_samples": 4}},
        "task": {"kind": "fractions"},
        "teacher": {"ramp_up": 0.0},
        "augment": {"noise": 0.03, "mask_frames": 0.2},
        "model": {"size": TINY, "shared_backbone": True},
        "training": {"epochs": EPOCHS, "batch_size": 4, "workers": 0, "accelerator": "cpu"},
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """24 samples of two sensors in shards of 4, for training and for scores."""
    root = tmp_path_factory.mktemp("shards")
    small = {"S2": 16, "Landsat": 16}
    for split, seed in (("train", 0), ("val", 1)):
        covers = SyntheticLandCover(seed=seed, sizes=small, frames=6, sensors=(S2, LANDSAT))
        with ShardWriter(root / split, size=4) as writer:
            for index in range(24):
                writer.add(covers.record(("S2", "Landsat")[index % 2], index))
    return root


def of_shards(plan, shards, **more):
    places = {"train": str(shards / "train"), "val": str(shards / "val"), "shuffle_window": 8}
    return {**plan, "data": {**plan["data"], "shards": {**plan["data"]["shards"], **places, **more}}}


def test_the_shipped_experiment_trains_one_step(few_statistics, tmp_path):
    experiment = load(
        ROOT / "configs" / "pretrain.yaml",
        [
            "data.shards.epoch_size=4",
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
def test_killed_in_mid_epoch_it_goes_on_to_the_same_bits(plan, endless_plan, place, tmp_path, monkeypatch):
    plan = endless_plan if place == "synthetic" else plan
    fit(parse(plan), tmp_path / "whole")
    step, steps = mean_teacher.MeanTeacher.training_step, []

    def killed(self, batch, number):
        steps.append(number)
        if len(steps) == 7:
            raise RuntimeError("killed")
        return step(self, batch, number)

    monkeypatch.setattr(mean_teacher.MeanTeacher, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        fit(parse(plan), tmp_path / "parts")
    fit(parse(plan), tmp_path / "parts")
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_same_weights(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"), rtol=0, atol=0)


def trained(config, out, *settings):
    """Train by the command line, in two processes of their own."""
    words = [config, "--out", out]
    for text in settings:
        words += ["--set", text]
    train_in_processes(words, out.parent / "output")
    return out


@pytest.fixture(scope="module")
def by_two(plan_file, tmp_path_factory):
    """Result of two processes after all epochs of the plan."""
    return trained(plan_file, tmp_path_factory.mktemp("by_two"))


def assert_same_run(one, two):
    assert_same_weights(weights_of(two), weights_of(one), rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(history(one), history(two), strict=True):
        for key in mine:
            assert float(theirs[key]) == pytest.approx(float(mine[key]), abs=5e-3), key


def test_two_processes_give_the_result_of_one(plan_file, by_two, tmp_path):
    fit(load(plan_file), tmp_path)
    assert_same_run(tmp_path, by_two)


def test_two_processes_that_split_the_model_give_the_result_of_one_and_go_on_from_it(plan_file, tmp_path):
    """A batch of one process may miss a sensor, but all processes must take part in every collective operation."""
    one, split = tmp_path / "one", tmp_path / "split"
    trained(plan_file, split, "training.strategy=fsdp", "training.epochs=1")
    state = torch.load(split / "resume.ckpt", weights_only=True)["state_dict"]
    assert all(type(value) is torch.Tensor for value in state.values())  # complete tensors, not parts
    trained(plan_file, split, "training.strategy=fsdp")
    fit(load(plan_file, ["training.epochs=1"]), one)
    fit(load(plan_file), one)
    assert_same_run(one, split)


def test_a_process_that_dies_costs_an_epoch_and_no_bit(plan_file, by_two, tmp_path):
    """What torchrun does starts both again; they go on from the last whole epoch."""
    words = [plan_file, "--set", "training.devices=2", "--out", tmp_path / "out"]
    output = train_with_restarts(words, tmp_path / "output", before=second_dies_once)
    assert "resuming from" in output
    assert output.count("best checkpoint") == 1  # only one of the processes prints
    assert_same_weights(weights_of(tmp_path / "out"), weights_of(by_two), rtol=0, atol=0)
    for mine, theirs in zip(history(tmp_path / "out"), history(by_two), strict=True):
        # The logged loss is a sum in single precision, whose last bit differs from run to run; no weight depends on it.
        assert float(mine.pop("loss")) == pytest.approx(float(theirs.pop("loss")), rel=3e-7)
        assert mine == theirs


def test_a_split_model_has_no_second_average(settings):
    with pytest.raises(InputError, match=r"training\.ema"):
        parse({**settings, "training": {**settings["training"], "strategy": "fsdp", "ema_decay": 0.9}})


def test_several_sources_are_drawn_in_their_shares(endless_plan, shards, tmp_path):
    plan = endless_plan
    covers = SyntheticLandCover(frames=6, sensors=(S2, LANDSAT))
    with ShardWriter(tmp_path / "real", size=4) as writer:
        for index in range(8):
            writer.add(covers.record(("S2", "Landsat")[index % 2], index))
    places = {"train": ["synthetic", str(tmp_path / "real")], "sampling_weights": [3, 1], "val": str(shards / "val")}
    plan["data"]["shards"] |= places
    experiment = parse({**plan, "seed": 7})
    train = open_sources(experiment)["train"]
    order = pretraining_data.with_order(experiment, train)[1]
    names = [train.read(index).name for _, index in order.order(0, 16)]
    synthetic = [name for name in names if name.split("-")[1] == "7"]
    stored = {name for name in names if name.split("-")[1] == "0"}
    assert (len(synthetic), len(stored)) == (12, 4)
    assert stored < {train.sources[1].read(index).name for index in range(8)}
    assert order.order(0, 7) + order.order(7, 9) == order.order(0, 16)
    fit(experiment, tmp_path / "run")
    with pytest.raises(InputError, match="one for each"):
        parse({**plan, "data": {**plan["data"], "shards": {**plan["data"]["shards"], "sampling_weights": [1]}}})


def test_a_probe_scores_frozen_features(plan, settings, tmp_path):
    labeled = tmp_path / "labeled.yaml"
    labeled.write_text(yaml.safe_dump(settings))
    out = tmp_path / "probed"
    best = fit(parse({**plan, "probe": str(labeled)}), out)
    rows = history(out)
    assert 0.15 < float(rows[-1]["probe_aAcc"]) <= 1
    kept = max(rows, key=lambda row: float(row["overlap"]))  # after two epochs either may be the better one
    assert Checkpoint.load(best).scores["probe_aAcc"] == float(kept["probe_aAcc"])
    fit(parse(plan), tmp_path / "plain")
    assert_same_weights(weights_of(out), weights_of(tmp_path / "plain"), rtol=0, atol=0)
    labeled.write_text(yaml.safe_dump(plan))
    with pytest.raises(InputError, match="task 'fractions'"):
        fit(parse({**plan, "probe": str(labeled)}), tmp_path / "wrong")


def test_a_probe_learns_what_the_features_tell(settings):
    """Features that are the class itself are classified without error, constant ones are not."""
    experiment = parse(settings)
    sources = open_sources(experiment)
    probe = LinearProbe(experiment, sources["train"], sources["val"])

    class TrueLabels(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.head, self.factor = torch.nn.Identity(), factor

        def forward(self, batch):
            shown = torch.nn.functional.one_hot(batch.label.clamp(min=0), 6).permute(0, 3, 1, 2)
            return self.head(self.factor * shown.float())

    assert probe(TrueLabels(1.0), torch.device("cpu"))["probe_aAcc"] > 0.99
    assert probe(TrueLabels(0.0), torch.device("cpu"))["probe_aAcc"] < 0.9
    names = [{"name": "wheat", "codes": [1]}, {"name": "rest", "codes": [0, 2, 3, 4]}]
    coded = parse({**settings, "task": {"classes": names, "unlabeled": [5]}})
    assert (
        LinearProbe(coded, sources["train"], sources["val"])(TrueLabels(1.0), torch.device("cpu"))["probe_aAcc"] > 0.99
    )


def test_tokens_and_operations_are_counted():
    sensors = [replace(S2, statistics=S2.statistics)]
    model = CropModel(sensors, 8, ModelConfig(size=SwinSize(16, (1, 1, 1, 1), (1, 2, 4, 8))))
    batch = Views.of([(SyntheticLandCover(sizes={"S2": 16}, frames=n, sensors=(S2,)).read(0),) for n in (8, 5)]).student
    assert tokens(model, batch) == (2 + 2) * 8 * 8
    count = forward_flops(model, batch)
    linear = sum(2 * p.numel() for n, p in model.backbones.named_parameters() if "layers.0.blocks" in n and p.ndim == 2)
    assert count > linear * tokens(model, batch)
    one = Views.of([(SyntheticLandCover(sizes={"S2": 16}, frames=8, sensors=(S2,)).read(0),)]).student
    assert 1.8 < count / forward_flops(model, one) < 2.2


def test_throughput_is_logged(plan, tmp_path):
    fit(parse(plan), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for key in ("samples_per_second", "tokens_per_second", "flop_utilization"):
        assert all(point.value > 0 for point in events.Scalars(key)), key
        assert len(events.Scalars(key)) > 3


def test_both_views_show_the_same_ground():
    source = SyntheticLandCover(sizes={"S2": 16}, frames=12, sensors=(S2,))
    samples = AugmentedViews(source, 5, Augment(noise=0.05, mask_frames=0.5), 0, 2)
    one, two = samples[3, 3]
    torch.testing.assert_close(one.label, two.label)
    assert len(one.images["S2"]) == len(two.images["S2"]) == 5
    assert one.dates["S2"].tolist() != two.dates["S2"].tolist()
    assert not torch.equal(one.valid["S2"], two.valid["S2"])
    again = samples[3, 3]
    torch.testing.assert_close(one.images["S2"], again[0].images["S2"], rtol=0, atol=0)
    assert samples[4, 3][0].dates["S2"].tolist() != one.dates["S2"].tolist() or not torch.equal(
        samples[4, 3][0].images["S2"], one.images["S2"]
    )


def test_the_teacher_follows_and_is_what_is_saved(plan, tmp_path):
    first, second = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    expected = 0.9 * first.weight + 0.1 * second.weight
    update_teacher(first, second, 0.9)
    torch.testing.assert_close(first.weight, expected)
    fit(parse(plan), tmp_path)
    state = torch.load(tmp_path / "resume.ckpt", weights_only=True)["state_dict"]
    saved = weights_of(tmp_path)
    key = next(key for key in saved if key.endswith("qkv.weight"))
    torch.testing.assert_close(saved[key], state[f"teacher.{key}"], rtol=0, atol=0)
    assert not torch.equal(saved[key], state[f"model.{key}"])


def test_an_unsure_teacher_has_no_say():
    even, sure = torch.full((1, 8, 1, 1), 1 / 8), torch.eye(8)[:1].reshape(1, 8, 1, 1)
    assert float(confidence(even)) == pytest.approx(0, abs=1e-6)
    assert float(confidence(sure)) == pytest.approx(1, abs=1e-6)


def test_the_teacher_counts_in_the_loss_unless_it_agrees(plan):
    plan["teacher"]["confidence_weighting"] = False
    experiment = parse(plan)
    sensors = [s.with_statistics(S2.statistics) if s is S2 else replace(s, statistics=None) for s in (S2,)]
    trained = mean_teacher.MeanTeacher(experiment.with_sensors(sensors))
    trained.log = lambda *args, **kwargs: None
    trained._ramp = lambda share: 1.0
    samples = AugmentedViews(
        SyntheticLandCover(sizes={"S2": 16}, frames=4, sensors=(S2,)), None, Augment(flips=False, rot90=False), 0, 2
    )
    views = Views.of([samples[0, 0], samples[1, 1]])
    trained.eval()  # no dropped paths: student and teacher are the same function
    with_teacher = trained._loss(views)
    alone = trained._supervised(trained.model(views.student), views.student)
    torch.testing.assert_close(with_teacher, alone)
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


def stepping(plan, limit):
    """A student whose gradients are given, and its optimizer."""
    plan["training"]["gradient_spike_factor"] = limit
    student = mean_teacher.MeanTeacher(parse(plan).with_sensors(SENSORS[:2]))
    student.log = lambda *_, **__: None
    return student, torch.optim.AdamW(student.model.parameters(), lr=0.1, weight_decay=0.1)


def step(student, optimizer, norm):
    """One step with a gradient of this norm; returns whether any weight moved."""
    before = [parameter.detach().clone() for parameter in student.model.parameters()]
    count = sum(parameter.numel() for parameter in student.model.parameters())
    for parameter in student.model.parameters():
        parameter.grad = torch.full_like(parameter, norm / count**0.5)
    student.on_before_optimizer_step(optimizer)
    optimizer.step()
    return any(not torch.equal(one, two) for one, two in zip(before, student.model.parameters(), strict=True))


def test_a_step_with_a_spike_moves_no_weight(plan):
    """Neither momentum nor weight decay of AdamW moves them."""
    student, optimizer = stepping(plan, 5.0)
    assert all(step(student, optimizer, 1.0) for _ in range(3))
    for spike in (100.0, float("inf"), float("nan")):
        assert not step(student, optimizer, spike)
    assert step(student, optimizer, 1.0)


@pytest.mark.parametrize("norm", [float("inf"), float("nan")])
def test_a_first_gradient_that_is_not_finite_moves_no_weight(plan, norm):
    """It does not become the usual norm, against which no later spike would be seen."""
    student, optimizer = stepping(plan, 5.0)
    assert not step(student, optimizer, norm)
    assert step(student, optimizer, 1.0)
    assert float(student.usual_norm) == pytest.approx(1.0, rel=1e-4)  # summed in float32
    assert not step(student, optimizer, 100.0)


def test_after_a_lasting_rise_of_the_gradient_training_goes_on(plan):
    student, optimizer = stepping(plan, 5.0)
    step(student, optimizer, 1.0)
    moved = [step(student, optimizer, 100.0) for _ in range(40)]
    assert not moved[0]
    assert all(moved[-20:])
    usual = float(student.usual_norm)
    step(student, optimizer, 1e6)
    assert float(student.usual_norm) < 1.3 * usual  # a single spike hardly changes what is usual


def test_gradients_that_are_never_finite_stop_the_run(plan):
    student, optimizer = stepping(plan, 5.0)
    step(student, optimizer, 1.0)
    moved = [step(student, optimizer, float("nan")) for _ in range(mean_teacher.MAX_NOT_FINITE - 1)]
    assert not any(moved)
    with pytest.raises(InputError, match="in a row that are not finite"):
        step(student, optimizer, float("nan"))


def test_a_loss_that_is_not_finite_keeps_the_batch(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(mean_teacher, "confidence", lambda shares: shares[:, :1] * torch.nan)
    with pytest.raises(InputError, match=BAD):
        fit(parse(plan), tmp_path)
    assert (tmp_path / BAD).is_file()


def test_other_shards_are_not_gone_on_with(plan, shards, tmp_path):
    """The folder has the same name, and other samples in it."""
    shutil.copytree(shards, tmp_path / "shards")
    fit(parse(of_shards(plan, tmp_path / "shards")), tmp_path / "run")
    covers = SyntheticLandCover(seed=5, sizes={"S2": 16, "Landsat": 16}, frames=6, sensors=(S2, LANDSAT))
    with ShardWriter(tmp_path / "shards" / "train", size=4, overwrite=True) as writer:
        for index in range(24):
            writer.add(covers.record(("S2", "Landsat")[index % 2], index))
    plan["training"]["epochs"] = 3
    with pytest.raises(InputError, match="the shards"):
        fit(parse(of_shards(plan, tmp_path / "shards")), tmp_path / "run")


def test_swapped_bands_in_shards_are_refused(plan, tmp_path):
    covers = SyntheticLandCover(frames=6, sizes={"S2": 16}, sensors=(S2,))
    with ShardWriter(tmp_path / "swapped", size=4) as writer:
        for index in range(8):
            record = covers.record("S2", index)
            writer.add(replace(record, image=record.image[:, [0, 1, 2, 4, 5, 6, 3, 7, 8, 9]]))  # in order of wavelength
    plan["data"]["sensors"] = ["S2"]
    plan["data"]["shards"] |= {"train": str(tmp_path / "swapped"), "val": "synthetic"}
    with pytest.raises(InputError, match=r"swapped: S2\n.*B08 darker or steadier"):
        fit(parse(plan), tmp_path / "run")
    plan["data"]["check_bands"] = False
    fit(parse(plan), tmp_path / "run")


def test_lost_shards_are_reported(plan, shards, tmp_path, capsys):
    shutil.copytree(shards, tmp_path / "damaged")
    victim = sorted((tmp_path / "damaged" / "train").glob("S2-*.tar"))[0]
    victim.write_bytes(victim.read_bytes()[:-2000])
    with pytest.raises(InputError, match=victim.name):
        fit(parse(of_shards(plan, tmp_path / "damaged")), tmp_path / "refused")
    fit(parse(of_shards(plan, tmp_path / "damaged", damaged="skip")), tmp_path / "counted")
    output = " ".join(capsys.readouterr().out.split())
    assert f"lost: {victim.name} (4 samples" in output


def test_fine_tuning_begins_with_what_was_learned(plan, settings, tmp_path):
    plan["training"]["epochs"] = 1
    path = fit(parse(plan), tmp_path / "pretrained")
    learned = Checkpoint.load(path).weights
    experiment = parse({**settings, "start_from": str(path)})
    start = start_weights(experiment)
    for sensor in ("S2", "Landsat"):
        key = f"backbones.{sensor}.layers.0.blocks.0.attn.qkv.weight"
        torch.testing.assert_close(start[key], learned[key.replace(sensor, "shared")], rtol=0, atol=0)
        key = f"decoder.pools.{sensor}.0.value.weight"
        torch.testing.assert_close(start[key], learned[key], rtol=0, atol=0)
    one = start_weights(parse({**settings, "start_from": str(path), "data": {**settings["data"], "sensors": ["S2"]}}))
    assert not any("Landsat" in key for key in one)
    fit(experiment, tmp_path / "tuned")
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
        parse({**plan, "training": {**plan["training"], "ema_decay": 0.9}})
    with pytest.raises(InputError, match="did you mean 'decay'"):
        parse({**plan, "teacher": {"decai": 0.9}})


def test_checks_and_statistics_of_pre_training_end(tmp_path, monkeypatch):
    """Samples of pre-training have no end and no test split: some are read, and the rest is a sentence."""
    monkeypatch.setattr(resolve.survey_covers, "__defaults__", (6,))
    path = tmp_path / "pretrain.yaml"
    path.write_text("data: {sensors: [S2, Modis], shards: {}}\ntask: {kind: fractions}\n")
    checked = CliRunner().invoke(app, ["data", "check", str(path)])
    assert checked.exit_code == 0, checked.output
    assert "no problems found in these samples" in checked.output
    counted = CliRunner().invoke(app, ["data", "stats", str(path)])
    assert counted.exit_code == 0, counted.output
    assert "6 chips" in counted.output
    with pytest.raises(InputError, match="pre-training experiment"):
        open_sources(load(path), ("test",))
    with pytest.raises(InputError, match="has an end") as error:
        refuse_split("test", endless=True)
    assert error.value.repair == "add '--split val'."
    with pytest.raises(InputError, match="no split"):
        refuse_split("../../x", endless=False)
