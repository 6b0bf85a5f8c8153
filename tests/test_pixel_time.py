"""The branch of single pixels: gaps, missing sensors, batches, training, maps, checkpoints and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
import yaml
from conftest import FARM, SENSORS, TINY, random_sample, unequal_samples, unit

from agrifm.checkpoint import Checkpoint, build, describe
from agrifm.config import load, parse
from agrifm.errors import InputError
from agrifm.evaluation.scoring import evaluate
from agrifm.maps.in_memory import embed_scene, predict_scene
from agrifm.maps.map_scene import map_scene, plan
from agrifm.maps.options import MapOptions
from agrifm.nn.model import CropModel, ModelConfig
from agrifm.nn.pixel_time import CHANNELS, HIDDEN
from agrifm.nn.swin import SwinSize
from agrifm.opening import open_scene
from agrifm.sample import Sample, Season, collate
from agrifm.sensors import LANDSAT, S2, Statistics
from agrifm.synthetic.chips import CLASSES, Landscape
from agrifm.synthetic.scenes import write_scene
from agrifm.tasks.segmentation import CropClass, Segmentation
from agrifm.tensor_files import load_strict
from agrifm.training.fit import fit
from agrifm.training.module import TrainingModule

SMALL = SwinSize(width=16, depths=(1, 1), heads=(1, 2), window=(4, 3, 3))
YEAR = Season(0.0, 365.25)
NAMES = [name for name, _ in CLASSES]


def make(branch="pixel", seed=0, sensors=SENSORS, **options):
    torch.manual_seed(seed)
    config = ModelConfig(size=SMALL, branch=branch, season=YEAR, **options)
    model = CropModel(sensors, 5, config).eval()
    for encoder in model.pixel_time.encoders.values() if branch != "pyramid" else ():
        torch.nn.init.normal_(encoder.unseen)  # so that a missing sensor has an effect
    return model


@torch.no_grad()
def run(model, *samples):
    return model(collate(samples))


@pytest.mark.parametrize("branch", ["pixel", "both"])
@pytest.mark.parametrize("size", [(24, 24), (25, 31), (7, 50), (1, 1)])
def test_any_size_comes_back_at_its_own_size(branch, size):
    sample = random_sample(0, size=(max(size[0], 3), max(size[1], 3)))
    images = {name: image[..., : size[0], : size[1]] for name, image in sample.images.items()}
    valid = {name: mask[..., : size[0], : size[1]] for name, mask in sample.valid.items()}
    sample = replace(sample, images=images, valid=valid, label=torch.zeros(size, dtype=torch.long))
    assert run(make(branch), sample).shape == (1, 5, *size)


@pytest.mark.parametrize("options", [{}, {"time_steps": 8}, {"branch_steps": 5}])
@pytest.mark.parametrize("branch", ["pixel", "both"])
def test_a_sample_gets_the_same_map_alone_and_in_any_batch(branch, options):
    """Frames, sensors and pixels of other samples, and the padding that they cause, have no effect."""
    model = make(branch, **options)
    samples = unequal_samples()
    together = run(model, *samples)
    for sample, expected in zip(samples, together, strict=True):
        torch.testing.assert_close(run(model, sample)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_pixel_depends_on_no_other_pixel():
    model, sample = make(), random_sample(5).only(("S2",))
    image = sample.images["S2"].clone()
    image[..., 3, 4] += 10
    changed = (run(model, sample) != run(model, replace(sample, images={"S2": image}))).any(1)[0]
    assert changed.nonzero().tolist() == [[3, 4]]


def test_coarse_sensors_come_to_the_grid_of_the_output_by_nearest_neighbor():
    model, sample = make(), random_sample(6).only(("Modis",))
    whole = run(model, replace(sample, label=torch.zeros(24, 28, dtype=torch.long)))
    native = run(model, replace(sample, label=None))
    torch.testing.assert_close(whole, native.repeat_interleave(12, 2).repeat_interleave(14, 3))


def test_what_stands_under_invalid_pixels_never_matters():
    model, sample = make(), random_sample(7)
    corrupted = {}
    for name, image in sample.images.items():
        corrupted[name] = torch.where(sample.valid[name].unsqueeze(1), image, torch.tensor(float("nan")))
    torch.testing.assert_close(run(model, sample), run(model, replace(sample, images=corrupted)))


def test_a_gap_is_marked_although_its_values_are_interpolated():
    """A series that is constant in time has the same values with and without its middle."""
    model = make(sensors=SENSORS[:1], branch_steps=12)
    image = torch.randn(1, 10, 2, 2).expand(24, -1, -1, -1)
    days = torch.arange(24) * 15 + 5
    whole = Sample({"S2": image}, {"S2": days}, name="whole")
    gap = whole.hide(100, 250)
    assert not torch.allclose(run(model, whole), run(model, gap), atol=1e-3)
    short = whole.hide(140, 141)  # less than a step
    torch.testing.assert_close(run(model, whole), run(model, short), rtol=1e-4, atol=1e-4)


def test_a_sensor_without_any_valid_pixel_is_as_if_missing_and_a_pixel_never_seen_is_finite():
    model, sample = make(), random_sample(8)
    blind = replace(sample, valid={**sample.valid, "Landsat": torch.zeros_like(sample.valid["Landsat"])})
    torch.testing.assert_close(run(model, blind), run(model, sample.without("Landsat")))
    assert run(model, sample.only(("Radar",))).isfinite().all()
    for name in sample.images:
        assert not torch.allclose(run(model, sample.without(name)), run(model, sample), atol=1e-4)


def test_a_batch_of_unknown_sensors_is_refused():
    sample = random_sample(9)
    other = replace(sample, images={"Radar": torch.zeros(2, 3, 24, 28)}, valid={}, dates={})
    with pytest.raises(InputError, match="at least one of S2, Landsat, Modis"):
        run(make(), other)


@pytest.mark.parametrize("branch", ["pixel", "both"])
def test_outputs_of_the_wanted_pixels_do_not_depend_on_which_others_are_wanted(branch):
    model, batch = make(branch), collate([random_sample(10), random_sample(11)])
    wanted = torch.rand(2, 24, 28, generator=torch.Generator().manual_seed(0)) < 0.1
    with torch.no_grad():
        everywhere = model(batch).permute(0, 2, 3, 1)[wanted]
        torch.testing.assert_close(model(batch, wanted).permute(0, 2, 3, 1)[wanted], everywhere, rtol=1e-4, atol=1e-4)
        assert model(batch, torch.zeros_like(wanted)).isfinite().all()


def test_training_drops_sensors_and_all_weights_learn():
    model = make().train()
    output = model(collate([random_sample(i) for i in range(4)]))
    output.square().mean().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()
    single = make(sensors=SENSORS[:1]).train()
    single(collate([random_sample(12, clear=1.1).only(("S2",))])).square().mean().backward()
    assert not single.pixel_time.encoders["S2"].unseen.grad.any()  # nothing is dropped, and everything was seen


def test_unseen_pixels_and_pixels_that_no_loss_uses_change_no_running_statistics():
    batch = collate([random_sample(14), random_sample(15).without("S2")])
    wanted = torch.zeros(2, 24, 28, dtype=torch.bool)
    statistics = []
    for part in ("nothing", "first", "both"):
        model = make(sensors=SENSORS[:1]).train()
        wanted[0, 3:5] = part != "nothing"
        wanted[1] = part == "both"
        assert model(batch, wanted).isfinite().all()
        statistics.append(model.pixel_time.encoders["S2"].norms[0].running_mean.clone())
    assert not statistics[0].any()
    assert torch.equal(statistics[1], statistics[2])
    assert statistics[1].any()


def test_it_trains_in_mixed_precision():
    model, batch = make("both").train(), collate([random_sample(16), random_sample(17, without=("S2",))])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch, batch.label < 3)
    output.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_pyramid_is_the_same_with_and_without_the_branch():
    torch.manual_seed(0)
    default = CropModel(SENSORS, 5, ModelConfig(size=SMALL)).eval()
    pyramid, both, pixel = make("pyramid"), make("both"), make("pixel")
    assert default.state_dict().keys() == pyramid.state_dict().keys()
    for key, value in default.state_dict().items():
        assert torch.equal(pyramid.state_dict()[key], value)
        assert torch.equal(both.state_dict()[key], value)
    sample = random_sample(13)
    assert torch.equal(run(default, sample), run(pyramid, sample))
    assert {key.split(".")[0] for key in pixel.state_dict()} == {"normalize", "pixel_time", "head"}
    added = both.state_dict().keys() - pyramid.state_dict().keys()
    assert {key.split(".")[0] for key in added} == {"pixel_time", "pixel_head"}
    torch.nn.init.zeros_(both.pixel_head.weight)
    torch.nn.init.zeros_(both.pixel_head.bias)
    torch.testing.assert_close(run(both, sample), run(pyramid, sample))


def test_the_branch_takes_the_time_steps_of_the_model_or_its_own():
    assert make().config.pixel_steps == 24
    for options, steps in (({"time_steps": 8}, 8), ({"branch_steps": 5}, 5)):
        assert make(**options).pixel_time.encoders["S2"].unseen.shape == (CHANNELS * steps,)


# Training


def test_it_learns_farmland_from_few_labeled_pixels():
    """Some 500 labeled pixels, and chips that it did not see."""
    samples = [FARM.sample(row, column, (S2,)) for row in range(2) for column in range(7)]
    train, test = collate(samples[:10]), collate(samples[11:])
    image = train.images["S2"]
    statistics = Statistics(tuple(image.mean((0, 1, 3, 4)).tolist()), tuple(image.std((0, 1, 3, 4)).tolist()), "test")
    season = Season.of([sample.span() for sample in samples])
    torch.manual_seed(0)
    config = ModelConfig(branch="pixel", branch_steps=8, season=season)
    model = CropModel([S2.with_statistics(statistics)], len(NAMES), config).train()
    labeled = torch.rand(train.label.shape) < 0.02
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        loss = F.cross_entropy(model(train, labeled).permute(0, 2, 3, 1)[labeled], train.label[labeled])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        correct = model.eval()(test).argmax(1) == test.label
    most_frequent = test.label.flatten().bincount().max() / test.label.numel()
    assert correct.float().mean() > most_frequent + 0.15


def test_it_trains_at_labeled_pixels_from_an_experiment(settings, tmp_path):
    settings["training"]["epochs"] = 1
    experiment = parse(settings | {"model": {"branch": "pixel", "branch_steps": 8}})
    checkpoint = Checkpoint.load(fit(experiment, tmp_path))
    assert checkpoint.experiment.model.season is not None
    assert describe(checkpoint)["model"] == "series of single pixels at 8 dates"
    assert evaluate(checkpoint, experiment.data.split("val")).summary["aAcc"] == pytest.approx(
        checkpoint.scores["aAcc"]
    )


def test_both_branches_train_and_start_from_a_pyramid(settings, tmp_path):
    settings["training"] |= {"epochs": 1, "limit_train_batches": 1}
    first = fit(parse(settings), tmp_path / "pyramid")
    settings["model"] |= {"branch": "both", "branch_steps": 4}
    both = Checkpoint.load(fit(parse(settings | {"start_from": str(first)}), tmp_path / "both"))
    assert "pixel_head.weight" in both.weights
    settings["model"]["branch"] = "pixel"
    pixel = fit(parse(settings), tmp_path / "pixel")
    settings["model"]["branch"] = "both"
    with pytest.raises(InputError, match="'branch: pixel', which has no encoder"):
        fit(parse(settings | {"start_from": str(pixel)}), tmp_path / "refused")


def test_processes_average_their_running_statistics(settings, monkeypatch):
    experiment = parse(settings | {"model": {"branch": "pixel"}}).with_season(YEAR)
    module = TrainingModule(experiment.with_sensors([unit(sensor) for sensor in (S2, LANDSAT)]))
    before = {name: buffer.clone() for name, buffer in module.model.named_buffers()}
    module.on_validation_epoch_start()  # a single process has nothing to average
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(4))
    module.on_validation_epoch_start()
    for name, buffer in module.model.named_buffers():
        is_running = name.endswith(("running_mean", "running_var"))
        assert torch.equal(buffer, (before[name] + 4) / 2 if is_running else before[name])


def test_pixels_that_no_loss_uses_are_left_out():
    task = Segmentation((CropClass("a"), CropClass("b")), ignore_index=9)
    label = torch.tensor([[[0, 1, 9]]])
    assert task.labeled(label).tolist() == [[[True, True, False]]]


# Configuration


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"branch": "pixel"}, "start_from": "agrifm-tiny"}, "has no encoder that start_from could fill"),
        ({"model": {"branch": "pixel", "freeze_encoder": True}}, "leave out model.freeze_encoder"),
        (
            {"model": {"branch": "both"}, "data": {"sensors": ["S2"], "shards": {}}, "task": {"kind": "fractions"}},
            "has no pre-training: set model.branch 'pyramid'",
        ),
        ({"model": {"branch": "pixels"}}, "model.branch"),
        ({"model": {"branch_steps": 0}}, "a number from 1 to 10000"),
        ({"model": {"branch": "both", "time_steps": 1}}, "needs at least 2 dates of the season"),
    ],
)
def test_settings_that_contradict_the_branch_are_refused(changes, sentence):
    values = {"data": {"sensors": ["S2"]}, "task": {"classes": ["a", "b"]}} | changes
    with pytest.raises(InputError, match=sentence):
        parse(values)


def test_the_branch_alone_needs_no_fixed_number_of_frames(config_file):
    experiment = load(config_file, ["model.branch=pixel", "model.decoder=original"])
    assert not experiment.model.has_pyramid


# Checkpoints and maps


def checkpoint(path, branch="pixel", **data):
    values = {"data": {"sensors": [S2.name], "footprint": 10, **data}, "model": {"size": TINY, "branch": branch}}
    experiment = parse(values | {"task": {"classes": NAMES}}).with_season(YEAR)
    experiment = experiment.with_sensors([unit(sensor) for sensor in (S2, LANDSAT)])
    torch.manual_seed(1)
    Checkpoint(experiment, build(experiment).state_dict()).save(path)
    return path


def test_checkpoints_without_the_key_open_as_pyramids(tmp_path):
    experiment = parse({"data": {"sensors": [S2.name]}, "model": {"size": TINY}, "task": {"classes": NAMES}})
    experiment = experiment.with_sensors([unit(S2)])
    values = yaml.safe_load(experiment.to_yaml())
    assert values["model"].pop("branch") == "pyramid"
    assert values["model"].pop("branch_steps") == 24
    assert parse(values) == experiment
    model = build(experiment)
    load_strict(model, build(parse(values)).state_dict())


def test_a_map_equals_predictions_in_memory(tmp_path):
    """The windows of a model of single pixels neither overlap nor depend on the size of its training chips."""
    land = Landscape(rows=2, columns=2, size=48, frames=(("S2", 4), ("Landsat", 3)))
    scene = open_scene(write_scene(tmp_path / "scene", land, rows=range(2), columns=range(2), sensors=(S2, LANDSAT)))
    path = checkpoint(tmp_path / "pixel.safetensors")
    pixel = Checkpoint.load(path)
    options = MapOptions(extras=("probabilities",))
    job = plan(pixel, scene, options)
    assert (job.pitch, job.windows.rows.window, job.windows.rows.starts) == (1, 63, (0, 33))
    mapped = map_scene(path, scene, tmp_path / "map.tif", options)
    dataset = predict_scene(pixel, scene, options)
    with rasterio.open(mapped.files[0]) as file:
        assert np.array_equal(file.read(1), dataset["classes"].values)
    moved = predict_scene(pixel, scene, replace(options, window=21))
    assert (moved["classes"] == dataset["classes"]).mean() > 0.999
    assert mapped.seams.agreement > 0.999
    assert embed_scene(pixel, scene)["embedding"].shape == (HIDDEN, 96, 96)


def test_an_ensemble_with_a_pyramid_keeps_its_windows(tmp_path):
    land = Landscape(rows=2, columns=2, size=48, frames=(("S2", 2), ("Landsat", 2)))
    scene = open_scene(write_scene(tmp_path / "scene", land, rows=range(2), columns=range(2), sensors=(S2, LANDSAT)))
    pixel = Checkpoint.load(checkpoint(tmp_path / "pixel.safetensors", footprint=480))
    pyramid = checkpoint(tmp_path / "pyramid.safetensors", "pyramid", footprint=480)
    job = plan(pixel.averaging(others=[pyramid]), scene, MapOptions())
    assert (job.pitch, job.windows.rows.window) == (16, 48)
    assert predict_scene(pixel.averaging(others=[pyramid]), scene)["classes"].shape == (96, 96)
