"""Shortcuts of the pixel classifiers change no probability: trees, kernels, and pixels in chunks."""

import numpy as np
import pytest
import torch

from agrifm.nn.probabilities import LEAST_OUTPUT
from agrifm.pixels import ensemble, members
from agrifm.pixels.ensemble import Fitted, PixelEnsemble
from agrifm.pixels.features import PixelFeatures, _median
from agrifm.pixels.learners import fit_member
from agrifm.pixels.members import TreesMember
from agrifm.sample import Sample, Season, collate
from agrifm.sensors import S2

BOUND = 1e-5  # of probabilities
YEAR = Season(0.0, 365.0)


def table(pixels=120, features=12, classes=3, gaps=0.1):
    rng = np.random.default_rng(0)
    truth = np.arange(pixels) % classes
    values = rng.normal(size=(pixels, features)).astype(np.float32)
    values[:, :classes] += np.eye(classes, dtype=np.float32)[truth]
    values[rng.random(values.shape) < gaps] = np.nan
    return values, truth


def walked(trees: TreesMember, pixel: torch.Tensor) -> torch.Tensor:
    """Probabilities of one pixel, which goes down every tree alone, node by node."""
    total = trees.bias.double()
    for root in trees.roots.tolist():
        node = root
        while int(trees.left[node]) != node:
            value = pixel[int(trees.feature[node])]
            left = bool(trees.missing_left[node]) if value.isnan() else bool(value <= trees.threshold[node])
            node = int(trees.left[node] if left else trees.right[node])
        total = total + trees.values[int(trees.leaf[node])]
    return total.softmax(0) if bool(trees.softmax) else total


@pytest.mark.parametrize("name", ["forest", "extra_trees", "boosting"])
@pytest.mark.parametrize("gaps", [0.0, 0.1])
def test_trees_end_where_single_steps_end(name, gaps):
    values, truth = table(gaps=gaps)
    trees = fit_member(name, values, truth, seed=0)
    pixels = torch.from_numpy(table(gaps=gaps)[0][:8])
    expected = torch.stack([walked(trees, pixel) for pixel in pixels]).float()
    torch.testing.assert_close(trees(pixels), expected, atol=BOUND, rtol=0)


@pytest.mark.parametrize(("trees_at_once", "levels_at_once"), [(1, 1), (7, 3), (1000, 1000)])
def test_probabilities_of_trees_do_not_depend_on_how_they_are_followed(monkeypatch, trees_at_once, levels_at_once):
    values, truth = table()
    trees = fit_member("extra_trees", values, truth, seed=0)
    pixels = torch.from_numpy(values)
    expected = trees(pixels)
    monkeypatch.setattr(members, "TREES_AT_ONCE", trees_at_once)
    monkeypatch.setattr(members, "LEVELS_AT_ONCE", levels_at_once)
    torch.testing.assert_close(trees(pixels), expected, atol=BOUND, rtol=0)


def test_trees_of_a_single_leaf_have_one_answer():
    leaf = torch.zeros(1, dtype=torch.long)
    trees = TreesMember(
        roots=leaf,
        feature=leaf,
        threshold=torch.zeros(1),
        left=leaf,
        right=leaf,
        missing_left=torch.zeros(1, dtype=torch.bool),
        leaf=leaf,
        values=torch.tensor([[0.25, 0.75]]),
        bias=torch.zeros(2),
        depth=torch.tensor(0),
        softmax=torch.tensor(False),
    )
    assert trees(torch.zeros(3, 1)).tolist() == [[0.25, 0.75]] * 3


@pytest.mark.parametrize("name", ["lda", "kernel", "lda_kernel"])
def test_members_with_a_standardization_follow_their_formula(name):
    values, truth = table()
    member = fit_member(name, values, truth, seed=0)
    pixels = torch.from_numpy(values)
    before = pixels.clone()
    x = ((pixels - member.standardize.mean) / member.standardize.std).nan_to_num(nan=0.0).double()
    if name == "lda_kernel":
        x = x @ member.axes.double().T
    if name != "lda":
        x = torch.exp(-member.gamma.double() * torch.cdist(x, member.landmarks.double()).square())
    expected = torch.softmax(x @ member.weight.double().T + member.bias, 1).float()
    torch.testing.assert_close(member(pixels), expected, atol=BOUND, rtol=0)
    assert torch.equal(pixels.nan_to_num(), before.nan_to_num())  # other members read the same features


def test_classes_have_unit_spread_on_the_axes_of_their_discriminants():
    rng = np.random.default_rng(0)
    truth = np.arange(6000) % 3
    centers = 3 * rng.normal(size=(3, 5))
    values = (centers[truth] + rng.normal(size=(6000, 5)) @ (np.eye(5) + 0.2)).astype(np.float32)
    member = fit_member("lda_kernel", values, truth, seed=0)
    coordinates = (member.standardize(torch.from_numpy(values)) @ member.axes.T).numpy()
    assert coordinates.shape == (6000, 2)
    within = np.mean([np.cov(coordinates[truth == number].T) for number in range(3)], 0)
    np.testing.assert_allclose(within, np.eye(2), atol=0.02)


@pytest.mark.parametrize("chunk", [7, 100, 10_000])
def test_maps_do_not_depend_on_how_pixels_are_divided(monkeypatch, chunk):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(1, 6000, (5, len(S2.bands), 20, 24), generator=generator).float()
    clear = torch.rand(5, 20, 24, generator=generator) < 0.6
    sample = Sample({"S2": image}, {"S2": torch.arange(5) * 60}, {"S2": clear}, name="x")
    batch = collate([sample])
    features = PixelFeatures((S2,), YEAR, steps=6)
    values = features.of_sample(batch, 0, ["S2"], (20, 24), torch.arange(480))
    fitted = []
    for name in ("lda", "extra_trees"):
        module = fit_member(name, values.numpy(), np.arange(480) % 3, seed=0)
        fitted.append(Fitted(name, ("S2",), 0.5, module))
    model = PixelEnsemble(features, 3, (0, 1, 2), fitted)
    expected = model.probabilities(values, ("S2",)).T.view(3, 20, 24)
    monkeypatch.setattr(ensemble, "CHUNK", chunk)
    torch.testing.assert_close(model(batch).exp()[0], expected.clamp(min=LEAST_OUTPUT), atol=BOUND, rtol=0)


def test_deviation_is_that_of_all_dates():
    series = torch.rand(50, 24, 10, generator=torch.Generator().manual_seed(0)) * 5000
    series[0] = torch.nan
    features = PixelFeatures((S2,), YEAR, indices=False)
    found = features.of_series(series, S2)
    place = features.names(["S2"]).index("S2 B02 deviation")
    expected = (series * S2.scale + S2.offset).double().std(1, correction=0).float()
    torch.testing.assert_close(found[:, place : place + 10], expected, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dates", [1, 2, 7, 8])
def test_the_median_of_a_season_is_that_of_torch(dates):
    channels = torch.rand(50, dates, 3, generator=torch.Generator().manual_seed(dates))
    channels[0] = 0.5  # ties
    assert torch.equal(_median(channels), channels.median(1).values)
