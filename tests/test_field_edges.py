"""Fields without a network: gradients by hand, classes of pixels, the choice beside a network, checkpoints and maps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FARM, FEW_PIXELS, unit
from rich.console import Console
from safetensors.torch import load_file
from test_cli import agrifm
from test_fields import ideal, prepared, random_fields
from test_mapping import same
from test_pixels import damage

from agrifm.checkpoint import Checkpoint
from agrifm.config import load, parse
from agrifm.errors import InputError
from agrifm.maps.map_scene import map_scene
from agrifm.maps.options import MapOptions
from agrifm.nn.edges import EdgeRule, Edges, boundary_of, season_gradient
from agrifm.opening import open_scene
from agrifm.sample import Sample, collate
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.scenes import write_scene
from agrifm.tasks.edges import EdgeChoice, FieldEdges
from agrifm.tasks.field_scores import compare, score
from agrifm.tasks.fields import Fields, percent
from agrifm.tasks.segmentation import CropClass
from agrifm.training.field_stage import Candidate, clearly_best
from agrifm.training.fit import fit

CROPS = (CropClass("other"), CropClass("wheat"), CropClass("maize"))
QUIET = Console(quiet=True)
ONE = torch.ones(1)


def step(dates=1, size=9, height=1.0):
    """One band whose right part, from column 5 on, is higher."""
    image = torch.zeros(dates, 1, size, size)
    image[..., 5:] = height
    return image, torch.ones(dates, size, size, dtype=torch.bool)


# Gradients


def test_the_gradient_of_a_step_is_half_of_it_in_standard_deviations():
    image, valid = step(height=3.0)
    gradient = season_gradient(image, valid, torch.tensor([2.0]), 0, 0.5)
    assert gradient[4].tolist() == [0, 0, 0, 0, 0.75, 0.75, 0, 0, 0]
    assert torch.equal(season_gradient(image.mT, valid, torch.tensor([2.0]), 0, 0.5), gradient.T)
    blurred = season_gradient(image, valid, torch.tensor([2.0]), 1, 0.5)
    assert blurred[4].tolist() == pytest.approx([0, 0, 0, 0.1875, 0.5625, 0.5625, 0.1875, 0, 0])


def test_bands_count_equally():
    image, valid = step()
    two = torch.cat([100 * image, torch.zeros_like(image)], 1)
    gradient = season_gradient(two, valid, torch.tensor([100.0, 1.0]), 0, 0.5)
    assert gradient[4, 4] == 0.25


def test_a_quantile_of_the_clear_dates_counts_and_clouds_do_not():
    image, valid = step(dates=5)
    image *= torch.tensor([1.0, 2.0, 3.0, 4.0, 1000.0]).view(5, 1, 1, 1)
    valid[4, 4, 4] = False  # a cloud, whose neighborhood does not count either
    image[4, :, 4, 4] = torch.nan
    assert season_gradient(image, valid, ONE, 0, 0.0)[4, 4] == 0.5
    assert season_gradient(image, valid, ONE, 0, 1.0)[3, 4] == 2.0
    assert season_gradient(image, valid, ONE, 0, 1.0)[0, 4] == 500.0
    assert season_gradient(image[:3], valid[:3], ONE, 0, 0.5)[4, 4] == 1.0
    valid[:, :, :2] = False
    never = season_gradient(image, valid, ONE, 0, 0.5).isnan()
    assert never[:, :3].all()
    assert not never[:, 3:].any()


def test_a_boundary_is_as_likely_as_not_at_half_and_unseen_ground_has_none():
    gradient = torch.tensor([[0.0, 2.0, 4.0, torch.nan]])
    boundary = boundary_of({"S2": gradient}, {"S2": 2.0}, (1, 4))
    assert boundary.tolist() == [pytest.approx([0.0, 0.5, 0.8, 0.0])]


def test_the_finest_sensor_that_saw_the_ground_counts():
    fine = torch.full((6, 6), 1.0)
    fine[:, 3:] = torch.nan
    boundary = boundary_of({"Landsat": torch.full((2, 2), 3.0), "S2": fine}, {"Landsat": 1.0, "S2": 1.0}, (6, 6))
    assert (boundary[:, :3] == 0.5).all()
    torch.testing.assert_close(boundary[:, 3:], torch.full((6, 3), 0.9))
    sample = Sample({"Landsat": torch.randn(2, 6, 4, 4)})  # without the finer sensor, in a batch that has it
    both = Sample({"S2": torch.randn(2, 10, 12, 12), "Landsat": torch.randn(2, 6, 4, 4)})
    edges = Edges((unit(S2), unit(LANDSAT)), EdgeRule(0, 0.5, {"S2": 1.0, "Landsat": 1.0}))
    assert (edges(collate([both, sample]))[1] > 0).all()


@pytest.mark.parametrize("values", [(9, 0.5, {}), (0, 1.5, {}), (0, 0.5, {"S2": 0.0}), (0, 0.5, {"S2": float("inf")})])
def test_rules_that_make_no_sense_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        EdgeRule(*values)


# Fields of classifiers and edges


def test_classes_of_pixels_hold_extent_and_crop():
    task = Fields(classes=CROPS)
    fields, crops = random_fields(0), np.random.default_rng(0).integers(-1, 3, (60, 60))
    sample = Sample({}, label=torch.from_numpy(np.stack([fields, crops])))
    label = task.prepare(sample).label[None]
    classes = task.classes_of(label)[0]
    assert ((classes < 0) == (torch.from_numpy(fields) < 0)).all()
    certain = torch.nn.functional.one_hot(classes.clamp(min=0), task.pixel_classes).permute(2, 0, 1)[None].float()
    extent, logits = task.extent_and_crops(certain)
    known = torch.from_numpy((fields >= 0) & (crops >= 0))
    assert torch.equal(extent[0][known], torch.from_numpy(fields > 0).float()[known])
    assert torch.equal(logits[0].argmax(0)[known], torch.from_numpy(crops)[known])


def test_fields_alone_are_two_classes_and_partial_labels_know_one():
    label = torch.tensor([[-1, 0, 1, 2]]).view(1, 1, 2, 2).float()
    assert Fields().pixel_classes == 2
    assert Fields().classes_of(label).flatten().tolist() == [-1, 0, 1, 1]
    assert Fields(partial_labels=True).classes_of(label).flatten().tolist() == [-1, -1, 1, 1]


def patchwork(seed, noise=0.15):
    """A chip of fields that differ in their values, as a labeled sample."""
    rng = np.random.default_rng(seed)
    fields = np.maximum(random_fields(seed), 0)
    values = rng.normal(size=(fields.max() + 1, 3, 10))
    image = values[fields].transpose(2, 3, 0, 1) + noise * rng.normal(size=(3, 10, *fields.shape))
    return Sample({"S2": torch.from_numpy(image).float()}, label=torch.from_numpy(fields), name=f"{seed}")


def test_chosen_edges_find_fields_that_differ():
    task = Fields(pixel_size=10.0, partial_labels=True)
    choice = EdgeChoice(task, [unit(S2)])
    with torch.inference_mode():
        for seed in range(3):
            choice.add(collate([task.prepare(patchwork(seed))]), None)
        rule, best = choice.best()
        model = FieldEdges(task, Edges([unit(S2)], rule), None)
        output = model(collate([patchwork(5)]))
    assert best > 0.9
    layers = percent(task.layers(output))[0].numpy()
    assert (layers[0] == 100).all()
    assert np.abs(layers[1].astype(int) + layers[2] - 100).max() <= 1
    found = compare(task.watershed.find(layers), patchwork(5).label.numpy(), 10.0, 20.0, partial=True)
    assert score(found).summary["F1"] > 0.8


def test_the_mean_of_two_outputs_is_that_of_their_layers_and_crops():
    task = Fields(classes=CROPS)
    first, second = torch.randn(2, 2, 6, 4, 4)
    mean = task.mean(first, second, 0.25)
    expected = 0.75 * task.layers(first) + 0.25 * task.layers(second)
    torch.testing.assert_close(task.layers(mean), expected)
    expected = 0.75 * task.probabilities(first) + 0.25 * task.probabilities(second)
    torch.testing.assert_close(task.probabilities(mean), expected)


# The choice beside a network


def chips(task, *hits):
    """Sums of chips of which some are delineated, and others not at all."""
    label = prepared(task, random_fields(1))
    sums = []
    for hit in hits:
        metric = task.metric()
        task.update(metric, ideal(task, label, 20.0 if hit else -20.0), label)
        sums.append(metric.compute())
    return sums


@pytest.mark.parametrize(
    ("edges", "network", "chosen"),
    [
        ([1, 1, 0], [1, 1, 1], "edges"),  # one chip makes the difference
        ([1, 0, 0], [1, 1, 1], "network"),
        ([0], [1], "edges"),  # a single chip shows nothing clearly
        ([1, 1, 1], [1, 1, 1], "edges"),
        ([1, 1, 1], [0, 0, 0], "edges"),
    ],
)
def test_the_network_must_be_better_without_any_one_chip(edges, network, chosen):
    task = Fields(classes=CROPS, pixel_size=10.0)
    candidates = [
        Candidate("edges", 1.0, task, chips(task, *edges)),
        Candidate("network", 0.0, task, chips(task, *network)),
    ]
    assert clearly_best(candidates).name == chosen


class CountedChips(list):
    """Chips that count how often one of them is read."""

    def __init__(self, chips):
        super().__init__(chips)
        self.reads = 0

    def __iter__(self):
        for chip in super().__iter__():
            self.reads += 1
            yield chip

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_the_choice_reads_every_chip_a_few_times_however_many_there_are():
    task = Fields(classes=CROPS, pixel_size=10.0)
    found, missed = chips(task, 1, 0)
    reads = []
    for count in (10, 40):
        edges = CountedChips([missed] * count)
        network = CountedChips([found] * count)
        candidates = [Candidate("edges", 1.0, task, edges), Candidate("network", 0.0, task, network)]
        assert clearly_best(candidates).name == "network"
        reads.append(edges.reads + network.reads)
    assert reads[1] == 4 * reads[0]


def fields_of(settings, **changes):
    task = {"kind": "fields", **settings["task"]}
    data = {**settings["data"], "label_key": ["instances", "label"]}
    return parse({**settings, "task": task, "data": data, "pixels": FEW_PIXELS, **changes})


@pytest.fixture(scope="module")
def quick(farm, tmp_path_factory):
    """A run without a network, by the command."""
    folder = tmp_path_factory.mktemp("quick")
    config = folder / "fields.yaml"
    names = ["other", "winter wheat", "maize", "rapeseed", "sugar beet", "grassland"]
    values = {
        "data": {"root": str(farm), "sensors": ["S2", "Landsat"], "label_key": ["instances", "label"]},
        "task": {"kind": "fields", "classes": names},
        "pixels": FEW_PIXELS,
    }
    config.write_text(json.dumps(values))
    assert load(config).pixels is not None
    said = agrifm("train", config, "--out", folder / "run", "--quick")
    assert "edges:" in said
    return folder / "run" / "best.safetensors"


def test_without_a_network_fields_and_crops_are_found(quick):
    checkpoint = Checkpoint.load(quick)
    assert not checkpoint.weights
    assert not checkpoint.experiment.network
    assert set(checkpoint.edges.half) == {"S2", "Landsat"}
    assert checkpoint.scores["extent_IoU"] > 0.65
    assert checkpoint.scores["boundary_F1"] > 0.5
    assert checkpoint.scores["aAcc"] > 0.4
    assert "edges: " in agrifm("show", quick)
    assert "boundary_F1" in agrifm("evaluate", quick, "--out", quick.parent / "scores")


def test_a_checkpoint_with_edges_survives_the_disk(quick, tmp_path):
    checkpoint = Checkpoint.load(quick)
    checkpoint.save(tmp_path / "copy.safetensors")
    again = Checkpoint.load(tmp_path / "copy.safetensors")
    assert again.edges == checkpoint.edges
    batch = collate([checkpoint.experiment.data.split("test").read(0)])
    assert torch.equal(checkpoint.model()(batch), again.model()(batch))


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document.pop("edges"),
        lambda document: document["edges"]["half"].update(S2=-1.0),
        lambda document: document["edges"].update(blurs=10**6),
        lambda document: document["edges"].update(quantile=2),
        lambda document: document.update(description=None),
    ],
)
def test_damaged_edges_are_refused(quick, tmp_path, edit):
    def change(arrays, header):
        documents = json.loads(header["pixels"])
        edit(documents[0])
        header["pixels"] = json.dumps(documents)

    with pytest.raises(InputError):
        Checkpoint.load(damage(quick, tmp_path / "damaged.safetensors", change))


def test_a_run_with_a_network_compares_and_a_finished_one_changes_nothing(settings, tmp_path):
    settings["training"]["epochs"] = 1
    experiment = fields_of(settings)
    out = fit(experiment, tmp_path, console=QUIET)
    checkpoint = Checkpoint.load(out)
    assert set(checkpoint.compared) == {"edges", "mean of both", "network"}
    assert checkpoint.scores["overall"] in checkpoint.compared.values()
    assert checkpoint.pixel_share in (0.0, 0.5, 1.0)
    assert 30 <= checkpoint.experiment.task.watershed.boundary <= 50
    assert checkpoint.weights
    batch = collate([experiment.data.split("test").read(0)])
    outputs = [replace(checkpoint, pixel_share=share).model()(batch) for share in (0.0, 1.0, 0.5)]
    task = checkpoint.experiment.task
    torch.testing.assert_close(outputs[2], task.mean(outputs[0], outputs[1], 0.5))
    edges = Checkpoint.load(tmp_path / "pixels.safetensors")
    assert torch.equal(outputs[1], edges.model()(batch))
    before = load_file(out)
    fit(experiment, tmp_path, console=QUIET)
    after = load_file(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert Checkpoint.load(out).compared == checkpoint.compared


def test_without_the_section_the_network_is_alone(settings, tmp_path):
    settings["training"]["epochs"] = 1
    experiment = fields_of(settings, pixels=None)
    assert "pixels: null" in experiment.to_yaml()
    checkpoint = Checkpoint.load(fit(experiment, tmp_path, console=QUIET))
    assert not checkpoint.stands_beside
    assert not (tmp_path / "pixels.safetensors").exists()


def test_partial_labels_without_crops_need_no_classifier(settings, tmp_path):
    data = {**settings["data"], "label_key": "instances"}
    task = {"kind": "fields", "partial_labels": True, "watershed": {"reach": 3}}
    out = fit(fields_of(settings, task=task, data=data).quick(), tmp_path, console=QUIET)
    checkpoint = Checkpoint.load(out)
    assert checkpoint.pixels is None
    assert checkpoint.edges is not None
    batch = collate([checkpoint.experiment.data.split("test").read(0)])
    assert (checkpoint.experiment.task.layers(checkpoint.model()(batch))[:, 0] > 0.99).all()


# Maps


def test_tiles_leave_no_trace_in_a_map_of_edges(quick, tmp_path):
    folder = write_scene(tmp_path / "scene", FARM, rows=range(2), columns=range(3), sensors=(S2, LANDSAT))
    scene = open_scene(folder)
    assert Checkpoint.load(quick).sees_neighbors
    for name, memory in (("small", 0.1), ("large", 100.0)):
        (tmp_path / name).mkdir()
        map_scene(quick, scene, tmp_path / name / "map.tif", MapOptions(memory=memory))
    assert (tmp_path / "small" / "map_fields.tif").is_file()
    assert same(tmp_path / "small" / "map.tif", tmp_path / "large" / "map.tif")
    said = agrifm("parcels", tmp_path / "small" / "map.tif", tmp_path / "fields.gpkg")
    assert "fields," in said
