"""The task of fields: targets, losses, watershed and scores, on cases with known answers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from agrifm.data.transforms import crop
from agrifm.sample import Sample
from agrifm.tasks.field_scores import SUMS, borders, compare, score
from agrifm.tasks.fields import Fields
from agrifm.tasks.losses import CrossEntropy, Dice, LogCoshDice, Tversky
from agrifm.tasks.segmentation import CropClass
from agrifm.tasks.watershed import Watershed, targets

CROPS = (CropClass("other"), CropClass("wheat"), CropClass("maize"))


def two_fields(size=12):
    """Two fields side by side, 7 rows by 4 and 5 columns, away from the edge."""
    fields = np.zeros((size, size), int)
    fields[2:9, 2:6], fields[2:9, 6:11] = 1, 2
    return fields


def random_fields(seed, size=60, cells=12):
    """Cells around random points, some of them no field, some unknown."""
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(0, size, (2, cells, 1, 1))
    rows, columns = np.mgrid[:size, :size]
    nearest = np.argmin((rows - y) ** 2 + (columns - x) ** 2, 0)
    return np.where(nearest == 0, -1, np.maximum(nearest - 2, 0))


def layers_of(fields, width=2.0):
    boundary, distance = targets(fields, width)
    return (100 * np.stack([fields > 0, boundary == 1, distance.clip(0)])).round().astype(np.uint8)


# Targets


def test_a_boundary_is_as_wide_as_asked_and_never_thinner_than_the_pixels_that_touch_the_line():
    fields = np.ones((21, 40), int)
    fields[:, 20:] = 2
    for width, pixels in ((0.1, 2), (2, 2), (3, 4), (4, 4), (6, 6)):  # centers within width / 2 of the line
        assert (targets(fields, width)[0][10] == 1).sum() == pixels


def test_distance_grows_from_the_line_to_the_middle_of_each_field():
    _, distance = targets(two_fields(), 2)
    assert distance[5, 2:6].tolist() == pytest.approx([1 / 3, 1, 1, 1 / 3])  # 0.5 and 1.5 pixels from the line
    assert distance[5, 6:11].tolist() == pytest.approx([0.2, 0.6, 1, 0.6, 0.2])
    assert not distance[two_fields() == 0].any()


def test_the_edge_of_a_chip_is_no_boundary_and_what_lies_beyond_it_is_unknown():
    fields = np.ones((20, 20), int)
    fields[:, 12:] = 0
    boundary, distance = targets(fields, 4)
    assert (boundary[5, 10:14] == 1).all()
    assert (boundary[2:-2, 2:10] == 0).all()
    assert (boundary[:2, :10] == -1).all()
    assert (boundary[:10, :2] == -1).all()
    assert (distance[fields == 1] == -1).all()  # the field goes on beyond the edge


def test_targets_of_a_larger_raster_say_the_same_wherever_the_smaller_one_knows():
    for seed in range(4):
        fields = random_fields(seed)
        whole, part = targets(fields, 4), targets(fields[10:45, 15:50], 4)
        for large, small in zip(whole, part, strict=True):
            known = small >= 0
            assert known.any()
            assert np.allclose(large[10:45, 15:50][known], small[known])


def test_unknown_ground_makes_no_boundary():
    fields = two_fields()
    fields[fields == 2] = -1
    boundary, distance = targets(fields, 2)
    assert boundary[5, 5] == -1
    assert boundary[5, 2] == 1
    assert (distance[fields == 1] == -1).all()


def test_partial_labels_know_where_a_field_ends_but_not_what_lies_beyond():
    fields = two_fields()
    boundary, distance = targets(fields, 2, partial=True)
    assert boundary[5, 1] == boundary[5, 2] == 1
    assert boundary[5, 0] == distance[5, 0] == -1
    assert distance[5, 8] == 1


def test_a_crop_in_training_keeps_what_the_whole_chip_knows():
    task, label = Fields(pixel_size=10.0), torch.from_numpy(random_fields(1))
    sample = Sample({"S2": torch.zeros(1, 1, 60, 60)}, label=label)
    whole = task.prepare(sample)
    part = crop(whole, 20, np.random.default_rng(0))
    assert part.label.shape == (3, 20, 20)
    places = [(y, x) for y in range(41) for x in range(41)]
    assert any(torch.equal(part.label, whole.label[:, y : y + 20, x : x + 20]) for y, x in places)
    assert not torch.equal(task.prepare(replace(sample, label=part.label[0].long())).label, part.label)


def test_width_in_meters_follows_from_the_pixel():
    sample = Sample({"S2": torch.zeros(1, 1, 60, 60)}, label=torch.from_numpy(random_fields(2)))
    fine = Fields(boundary_width=40, pixel_size=10.0).prepare(sample).label
    assert torch.equal(fine, Fields(boundary_width=4, pixel_size=1.0).prepare(sample).label)
    assert not torch.equal(fine, Fields(boundary_width=10, pixel_size=10.0).prepare(sample).label)


# Losses


def binary(p):
    """Logits of two classes, of which the second has these probabilities."""
    p = torch.tensor(p, dtype=torch.float64)[None, None]
    return torch.cat([torch.zeros_like(p), torch.log(p / (1 - p))], 1)


def test_tversky_and_log_cosh_dice_by_hand():
    logits, label = binary([[0.8, 0.6, 0.2, 0.1]]), torch.tensor([[[1, 1, 1, -1]]])
    hit, guessed, true = 1.6, 1.6, 3.0  # only class 1 is there; the unknown pixel counts nowhere
    loss = Tversky(alpha=0.2, beta=0.8, smooth=0.5)(logits, label, -1)
    assert float(loss.total) == pytest.approx(1 - (hit + 0.5) / (hit + 0.2 * (guessed - hit) + 0.8 * 1.4 + 0.5))
    dice = 1 - (2 * hit + 1) / (guessed + true + 1)
    assert float(LogCoshDice()(logits, label, -1).total) == pytest.approx(math.log(math.cosh(dice)))
    assert float(Dice()(logits, label, -1).total) == pytest.approx(dice)
    half = Tversky(alpha=0.5, beta=0.5, smooth=0.5)(logits, label, -1)
    assert float(half.total) == pytest.approx(dice)


def ideal(task, label, strength=20.0):
    """The output of a model that knows the targets."""
    distance = label[:, 2].abs().clamp(1e-6, 1 - 1e-6)  # an unknown one, -1, as 1
    parts = [strength * (2 * (label[:, 0] > 0).float() - 1), strength * (2 * (label[:, 1] > 0).float() - 1)]
    crops = [strength * (label[:, 3] == i).float() for i in range(len(task.classes))]
    return torch.stack([*parts, torch.logit(distance), *crops], 1)


def prepared(task, *rasters):
    samples = []
    for fields in rasters:
        both = np.stack([fields, np.where(fields > 0, 1 + fields % 2, 0)]) if task.classes else fields
        samples.append(Sample({"S2": torch.zeros(1, 1, *fields.shape)}, label=torch.from_numpy(both)))
    return torch.stack([task.prepare(sample).label for sample in samples])


@pytest.mark.parametrize("classes", [(), CROPS])
def test_losses_vanish_for_the_truth_and_look_at_known_pixels_only(classes):
    task = Fields(classes=classes, pixel_size=10.0, loss=(CrossEntropy(), Tversky(), LogCoshDice()))
    label = prepared(task, random_fields(0), random_fields(1))
    output = ideal(task, label)
    found = task.losses(output, label)
    assert len(found) == 7 + bool(classes)
    assert all(float(part.mean) < 0.01 for _, part in found)
    before = [float(part.mean) for _, part in task.losses(0.1 * output, label)]
    unknown = torch.stack([label[:, 0] < 0, label[:, 1] < 0, label[:, 2] < 0, *[label[:, -1] < 0] * len(classes)], 1)
    after = [float(part.mean) for _, part in task.losses(torch.where(unknown, 7.0, 0.1 * output), label)]
    assert before == pytest.approx(after)
    assert min(before) > 0.01


def test_boundaries_weigh_more_in_extent():
    task = Fields(pixel_size=10.0, loss=(CrossEntropy(),), edge_weight=3.0)
    label = prepared(task, two_fields())
    output = torch.zeros(1, 3, 12, 12)
    _, part = task.losses(output, label)[0]
    boundary = int((label[:, 1] == 1).sum())
    assert float(part.count) == 144 + 2 * boundary
    assert float(part.mean) == pytest.approx(math.log(2))


# Watershed


def test_seeds_meet_on_the_boundary_and_holes_stay():
    fields = np.zeros((34, 56), int)
    fields[2:32, 2:28], fields[2:32, 28:54] = 1, 2
    fields[8:10, 45:48] = 0
    assert np.array_equal(Watershed().find(layers_of(fields, 1)), fields)


def test_a_field_goes_to_the_seed_with_the_cheapest_way_and_a_tie_to_the_smaller_number():
    layers = np.zeros((3, 1, 9), np.uint8)
    layers[0] = 100
    layers[1, 0] = [0, 60, 60, 60, 90, 60, 60, 60, 0]
    rule = Watershed()
    assert rule.find(layers)[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2]
    layers[1, 0] = [0, 60, 90, 60, 60, 60, 60, 60, 0]
    assert rule.find(layers)[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert Watershed(reach=2).find(layers)[0].tolist() == [1, 1, 1, 0, 0, 0, 2, 2, 2]


def test_a_gap_in_a_boundary_does_not_join_fields_that_are_wider_than_it():
    fields = np.zeros((30, 40), int)
    fields[3:27, 3:20], fields[3:27, 20:37] = 1, 2
    layers = layers_of(fields)
    layers[1, 14:16, 18:22] = 0  # the model missed a piece
    assert len(np.unique(Watershed().find(layers))) == 3
    assert len(np.unique(Watershed(waist=0.01).find(layers))) == 2
    layers[1, 9:21, 18:22] = 0  # half of the boundary: rather one field
    assert len(np.unique(Watershed().find(layers))) == 2


def test_a_field_may_bend_and_narrow():
    fields = np.zeros((60, 60), int)
    fields[5:55, 5:20], fields[40:55, 20:55], fields[5:20, 40:50], fields[20:40, 41:49] = 1, 1, 1, 1
    layers = layers_of(fields)
    assert set(np.unique(Watershed().find(layers))) == {0, 1}
    with pytest.raises(ValueError, match="waist must be between 0 and 1"):
        Watershed(waist=1.0)


def test_no_data_is_no_field():
    layers = layers_of(two_fields())
    layers[:, 4:6] = 255
    found = Watershed().find(layers)
    assert not found[4:6].any()
    assert found[3, 3] != found[7, 3]


# Scores


def test_scores_of_a_field_that_was_cut_in_two():
    truth, found = np.zeros((10, 12), int), np.zeros((10, 12), int)
    truth[1:5, 1:5], truth[1:5, 7:11] = 1, 2
    found[1:5, 1:5], found[1:3, 7:11], found[3:5, 7:11] = 7, 8, 9
    sums = compare(found, truth, 10.0, 5.0)
    assert set(sums) == set(SUMS)
    result = score(sums)
    assert result.summary["extent_IoU"] == 1
    assert (sums["fields_predicted"], sums["fields_true"], sums["hits_0.5"], sums["hits_0.55"]) == (3, 2, 2, 1)
    assert result.summary["F1"] == pytest.approx(2 * 2 / 5)
    assert result.summary["mF1"] == pytest.approx((2 * 2 / 5 + 9 * 2 * 1 / 5) / 10)
    assert result.summary["over"] == pytest.approx(0.25)  # of the second field, half lies outside its best match
    assert result.summary["under"] == 0
    # the false line between the halves: 8 border pixels, of which 4 are true ones as well
    assert sums["boundary_predicted"] - sums["boundary_correct"] == 4
    assert sums["boundary_recalled"] == sums["boundary_true"] == 24


def test_scores_of_two_fields_taken_for_one():
    truth, found = two_fields(), (two_fields() > 0).astype(int)
    result = score(compare(found, truth, 10.0, 5.0))
    assert result.summary["under"] == pytest.approx(((1 - 28 / 63) + (1 - 35 / 63)) / 2)
    assert result.summary["over"] == 0
    assert result.summary["F1"] == pytest.approx(2 / 3)  # 35 of 63 pixels are enough for IoU 0.5
    assert result.classes[1].Precision == 1
    assert result.classes[1].Recall < 1


def test_a_boundary_may_be_off_by_the_tolerance():
    truth, found = np.zeros((20, 20), int), np.zeros((20, 20), int)
    truth[2:12, 2:12], found[2:12, 4:14] = 1, 1
    assert score(compare(found, truth, 10.0, 20.0)).summary["boundary_F1"] == 1
    near = score(compare(found, truth, 10.0, 19.0))
    assert 0 < near.summary["boundary_F1"] < 1
    assert score(compare(truth, truth, 10.0, 1.0)).summary["boundary_distance"] == 0
    # by symmetry both directions are equal: of 36 border pixels the two columns at the far ends lie 20 m away,
    # as do 6 inner ones of the near column; the rest lies on the other outline or 10 m from it
    distances = near.summary["boundary_distance"]
    guess, true = borders(found), borders(truth)
    y, x = np.nonzero(true)
    by_hand = [10 * np.hypot(y - i, x - j).min() for i, j in zip(*np.nonzero(guess), strict=True)]
    assert distances == pytest.approx(np.mean(by_hand))


def test_unknown_ground_counts_nowhere_and_partial_truth_punishes_no_field_beyond_it():
    truth, found = two_fields(), two_fields()
    truth[truth == 2] = -1
    assert score(compare(found, truth, 10.0, 5.0)).summary["F1"] == 1
    truth[truth == -1] = 0
    assert score(compare(found, truth, 10.0, 5.0)).summary["F1"] == pytest.approx(2 / 3)
    partial = score(compare(found, truth, 10.0, 5.0, partial=True))
    assert partial.summary["F1"] == partial.summary["extent_IoU"] == partial.summary["boundary_F1"] == 1


def test_a_match_is_one_to_one_and_nothing_is_no_score():
    truth, found = np.zeros((4, 8), int), np.zeros((4, 8), int)
    truth[:, :4], found[:, :2], found[:, 2:4] = 1, 1, 2  # both halves reach IoU 0.5
    assert compare(found, truth, 1.0, 1.0)["hits_0.5"] == 1
    empty = score(compare(np.zeros((4, 4), int), np.zeros((4, 4), int), 1.0, 1.0))
    assert math.isnan(empty.summary["F1"])
    assert empty.summary["overall"] == 0
    assert empty.to_dict()["summary"]["F1"] is None


def test_sums_of_chips_are_sums_of_the_metric():
    task = Fields(classes=CROPS, pixel_size=10.0)
    rasters = [random_fields(seed) for seed in range(3)]
    label = prepared(task, *rasters)
    together, apart = task.metric(), task.metric()
    task.update(together, ideal(task, label), label)
    for i in range(3):
        task.update(apart, ideal(task, label[i : i + 1]), label[i : i + 1])
    one, other = task.scores(together), task.scores(apart)
    assert one.summary == pytest.approx(other.summary)
    assert one.summary["extent_IoU"] == one.summary["aAcc"] == 1
    assert one.summary["F1"] > 0.8
    assert [row.name for row in one.classes] == ["extent", "boundary", "fields at IoU 0.5", "other", "wheat", "maize"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": (CropClass("wheat"),)}, "at least two classes"),
        ({"boundary_width": 0.0}, "above 0"),
        ({"edge_weight": 0.5}, "at least 1"),
        ({"loss": (CrossEntropy(class_weights=(1.0, 2.0, 3.0)),)}, "2 numbers are needed here"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Fields(**wrong)
