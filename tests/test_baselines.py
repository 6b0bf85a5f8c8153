"""The baselines, against counts by hand and on synthetic farmland."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agrifm.errors import InputError
from agrifm.evaluation.baselines import majority, random_forest
from agrifm.evaluation.series import SeriesFeatures
from agrifm.sample import Sample
from agrifm.sensors import LANDSAT, S2
from agrifm.synthetic.chips import Landscape


def tiny(label: list[list[int]], image: torch.Tensor | None = None, **more) -> Sample:
    """A sample whose only band repeats its label, three times a year, unless an image is given."""
    truth = torch.tensor(label)
    image = truth.float()[None, None].repeat(3, 1, 1, 1) * 100 if image is None else image
    return Sample(images={"S2": image}, label=truth, name="tiny", **more)


TRAIN = tiny([[0, 1], [1, 2]])
TEST = tiny([[0, 0, 1], [2, -1, 1]])


def test_majority_by_hand():
    np.testing.assert_array_equal(majority([TRAIN], [TEST], 3), [[0, 2, 0], [0, 2, 0], [0, 1, 0]])


def test_majority_counts_all_samples_and_respects_ignore_index():
    more = tiny([[0, 0], [0, 0]])
    assert majority([TRAIN, more], [TEST], 3)[:, 0].tolist() == [2, 2, 1]
    assert majority(iter([TRAIN, more]), iter([tiny([[9, 2]])]), 3, ignore_index=9).sum() == 1


def test_forest_by_hand():
    confusion = random_forest([TRAIN] * 4, [TEST], 3, sensors=["S2"], trees=10, jobs=1)
    np.testing.assert_array_equal(confusion, np.diag([2, 2, 1]))


def test_forest_reads_an_iterator_and_draws_few_pixels():
    confusion = random_forest(iter([TRAIN] * 40), iter([TEST]), 3, sensors=["S2"], pixels=30, trees=10, jobs=1)
    np.testing.assert_array_equal(confusion, np.diag([2, 2, 1]))


def test_interpolation_by_hand():
    days = torch.tensor([100, 120, 140, 160])
    image = torch.tensor([10.0, 999.0, 30.0, 50.0])[:, None, None, None].repeat(1, 1, 1, 3)
    valid = torch.ones(4, 1, 3, dtype=torch.bool)
    valid[1, 0, 0] = False  # a cloud between
    valid[:3, 0, 1] = False  # seen only at the end
    valid[:, 0, 2] = False  # never seen
    sample = tiny([[0, 0, 0]], image, dates={"S2": days}, valid={"S2": valid})
    season = SeriesFeatures.of([sample], ["S2"], 4)
    features = season.features(sample, np.zeros((1, 3), int), np.arange(3))
    np.testing.assert_allclose(features[0], [10, 20, 30, 50], rtol=1e-4)
    np.testing.assert_allclose(features[1], 50)
    assert np.isnan(features[2]).all()


def test_unsorted_dates_change_nothing():
    days, order = torch.tensor([100, 120, 140]), [2, 0, 1]
    image = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    one = tiny([[0, 1], [1, 0]], image, dates={"S2": days})
    other = tiny([[0, 1], [1, 0]], image[order], dates={"S2": days[order]})
    season, label = SeriesFeatures.of([one], ["S2"], 5), np.zeros((2, 2), int)
    a, b = (season.features(sample, label, np.arange(4)) for sample in (one, other))
    np.testing.assert_array_equal(a, b)
    assert not np.isnan(a).any()


def test_coarse_sensors_are_brought_to_the_grid_of_the_label():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    sample = tiny([[0] * 4] * 4, image)
    features = SeriesFeatures.of([sample], ["S2"], 1).features(sample, np.zeros((4, 4), int), np.arange(16))
    expected = np.repeat(np.repeat([[1, 2], [3, 4]], 2, 0), 2, 1)
    np.testing.assert_array_equal(features[:, 0].reshape(4, 4), expected)


@pytest.mark.parametrize(
    ("label", "words"), [([[0, 7]], r"values \[7\]"), (None, "no label"), ([[-1, -1]], "no labeled pixel")]
)
@pytest.mark.parametrize("baseline", [majority, lambda *a: random_forest(*a, sensors=["S2"], jobs=1, trees=2)])
def test_bad_labels_are_refused(baseline, label, words):
    sample = tiny(label) if label else Sample(images=TRAIN.images, name="bare")
    with pytest.raises(InputError, match=words):
        baseline([sample], [TEST], 3)


def test_a_sensor_no_one_has_is_refused():
    with pytest.raises(InputError, match="sensor Landsat"):
        random_forest([TRAIN], [TEST], 3, sensors=["S2", "Landsat"])


@pytest.fixture(scope="module")
def farmland() -> tuple[list[Sample], list[Sample]]:
    land = Landscape(rows=2, columns=5, frames=(("S2", 10), ("Landsat", 6)))
    sensors = (S2, LANDSAT)
    return [land.sample(r, c, sensors) for r in (0, 1) for c in (0, 1, 2)], [land.sample(1, 4, sensors)]


def accuracy(confusion: np.ndarray) -> float:
    """Share of the pixels on the diagonal."""
    return confusion.trace() / confusion.sum()


def test_forest_beats_majority_on_the_farmland(farmland):
    train, test = farmland
    options = {"sensors": ["S2", "Landsat"], "pixels": 3000, "trees": 20, "jobs": 1}
    forest = random_forest(train, test, 6, **options)
    assert forest.sum() == 96 * 96
    assert accuracy(forest) > accuracy(majority(train, test, 6)) + 0.15
    np.testing.assert_array_equal(forest, random_forest(train, test, 6, **options))


def test_samples_may_lack_a_sensor(farmland):
    train, test = farmland
    train, test = [train[0].without("S2"), *train[1:]], [test[0].without("Landsat")]
    forest = random_forest(train, test, 6, sensors=["S2", "Landsat"], pixels=2000, trees=10, jobs=1)
    assert forest.sum() == 96 * 96
    assert accuracy(forest) > accuracy(majority(train, test, 6))
