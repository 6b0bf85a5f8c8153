"""Losses and scores against numbers computed by hand or by another library."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import cohen_kappa_score, f1_score, jaccard_score

from agrifm.tasks.losses import CrossEntropy, Dice, Focal
from agrifm.tasks.scores import scores
from agrifm.tasks.segmentation import PALETTE, CropClass, Segmentation


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    label = torch.randint(-1, 4, (3, 5, 6), generator=generator)
    return logits, label


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_pytorch(case, weights, smoothing):
    logits, label = case
    found = CrossEntropy(class_weights=weights, label_smoothing=smoothing)(logits, label, -1).mean
    tensor = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, label, tensor, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


def test_focal_without_focus_is_cross_entropy(case):
    torch.testing.assert_close(Focal(gamma=0.0)(*case, -1).mean, CrossEntropy()(*case, -1).mean)


def test_focal_by_hand():
    logits = torch.log(torch.tensor([0.2, 0.8])).view(1, 2, 1, 1)
    label = torch.ones(1, 1, 1, dtype=torch.long)
    assert float(Focal(gamma=2.0)(logits, label, -1).mean) == pytest.approx(0.2**2 * -math.log(0.8))


def test_dice_by_hand_and_at_its_ends(case):
    label = torch.tensor([[[0, 1], [1, -1]]])
    right = F.one_hot(label.clamp(min=0), 3).permute(0, 3, 1, 2) * 100.0
    assert float(Dice()(right, label, -1).mean) == pytest.approx(0, abs=1e-6)
    even = Dice(smooth=0.0)(torch.zeros(1, 2, 2, 2), label, -1).mean
    class_0, class_1 = 1 - 2 * 0.5 / (1.5 + 1), 1 - 2 * 1.0 / (1.5 + 2)
    assert float(even) == pytest.approx((class_0 + class_1) / 2)


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(), Dice()])
def test_ignored_pixels_have_no_say_and_nothing_labeled_is_zero(case, loss):
    logits, label = case
    changed = torch.where((label == -1).unsqueeze(1), torch.full_like(logits, 50.0), logits)
    torch.testing.assert_close(loss(logits, label, -1).mean, loss(changed, label, -1).mean)
    empty = loss(logits.requires_grad_(), torch.full_like(label, -1), -1)
    assert float(empty.mean.detach()) == 0
    assert float(empty.count) == 0


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(), Dice()])
def test_parts_of_a_batch_add_up_to_the_whole(case, loss):
    logits, label = case
    whole = loss(logits, label, -1)
    parts = [loss(logits[i : i + 1], label[i : i + 1], -1) for i in range(3)]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    torch.testing.assert_close(sum(part.count for part in parts), whole.count)


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    guess[:300] = truth[:300]
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (truth, guess), 1)
    result = scores(confusion, ("a", "b", "c", "d"))
    assert result.summary["aAcc"] == pytest.approx((truth == guess).mean())
    assert result.summary["kappa"] == pytest.approx(cohen_kappa_score(truth, guess))
    assert result.summary["mFscore"] == pytest.approx(f1_score(truth, guess, average="macro"), abs=1e-6)
    assert result.summary["mIoU"] == pytest.approx(jaccard_score(truth, guess, average="macro"))
    assert [entry.pixels for entry in result.classes] == np.bincount(truth).tolist()


def test_what_does_not_exist_is_left_out():
    result = scores(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert math.isnan(result.classes[2].IoU)
    assert math.isnan(result.classes[2].Recall)
    assert result.summary["mIoU"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert result.summary["mPrecision"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["classes"][2]["IoU"] is None
    nothing = scores(np.zeros((2, 2)), ("a", "b"))
    assert all(math.isnan(value) for key, value in nothing.summary.items() if key != "mPrecision")


def test_segmentation_knows_its_classes():
    task = Segmentation((CropClass("wheat", "#ffcc00"), CropClass("maize")))
    assert task.outputs == 2
    assert task.colors == ("#ffcc00", PALETTE[1])
    metric = task.metric()
    logits = torch.tensor([[[[2.0, 0.0, 5.0]], [[1.0, 1.0, 0.0]]]])
    task.update(metric, logits, torch.tensor([[[0, 0, -1]]]))
    assert task.scores(metric).confusion == ((1, 1), (0, 0))
    torch.testing.assert_close(task.probabilities(logits).sum(1), torch.ones(1, 1, 3))


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (("a",), {}, "2 to 254"),
        (("a", "a"), {}, "repeat"),
        (("a", "b"), {"ignore_index": 1}, "also a class"),
        (("a", "b"), {"loss": (CrossEntropy(class_weights=(1.0,)),)}, "1 class_weights for 2"),
    ],
)
def test_contradictions_are_refused(classes, options, message):
    with pytest.raises(ValueError, match=message):
        Segmentation(tuple(CropClass(name) for name in classes), **options)
    with pytest.raises(ValueError, match="#rrggbb"):
        CropClass("a", "red")
