"""Augmentations transform label, images and masks together; evaluated samples stay unchanged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_sample

from agrifm.data.folder import CachedDataset
from agrifm.data.loader import EpochBatches, Split
from agrifm.data.transforms import Augment, crop, drop_sensors, flip, pick_frames, resize, rotate, spread_frames
from agrifm.errors import InputError
from agrifm.sample import Batch, Sample, collate, days_since_epoch


def ramp(size=12):
    """Every layer says where it is: rows * 100 + columns, in its own pixels."""

    def layer(n):
        return torch.arange(n)[:, None] * 100 + torch.arange(n)

    return Sample(
        images={
            "S2": layer(size).float().expand(2, 3, -1, -1),
            "Landsat": layer(size // 3).float().expand(1, 1, -1, -1),
        },
        valid={"S2": layer(size).expand(2, -1, -1) % 2 == 0},
        label=layer(size),
        name="ramp",
    )


@pytest.mark.parametrize(
    "change", [lambda s: flip(s, True, False), lambda s: flip(s, True, True), lambda s: rotate(s, 3)]
)
def test_label_sensors_and_masks_move_together(change):
    moved = change(ramp())
    assert torch.equal(moved.images["S2"][0, 0].long(), moved.label)
    assert torch.equal(moved.valid["S2"][1], moved.label % 2 == 0)
    assert not torch.equal(moved.label, ramp().label)
    coarse = moved.images["Landsat"][0, 0]
    row, column = int(moved.label[0, 0]) // 100, int(moved.label[0, 0]) % 100
    assert coarse[0, 0] == row // 3 * 100 + column // 3


def test_crop_falls_on_whole_pixels_of_every_sensor():
    for seed in range(8):
        cut = crop(ramp(), 6, np.random.default_rng(seed))
        assert cut.label.shape == (6, 6)
        assert cut.images["Landsat"].shape[-2:] == (2, 2)
        assert torch.equal(cut.images["S2"][0, 0].long(), cut.label)
        row, column = int(cut.label[0, 0]) // 100, int(cut.label[0, 0]) % 100
        assert cut.images["Landsat"][0, 0, 0, 0] == row // 3 * 100 + column // 3


@pytest.mark.parametrize("side", [5, 15])
def test_a_crop_that_does_not_fit_is_refused(side):
    with pytest.raises(InputError, match="multiple of 3 up to 12"):
        crop(ramp(), side, np.random.default_rng(0))


def test_where_no_smaller_square_fits_the_error_says_so():
    with pytest.raises(InputError, match="leave 'crop' out"):
        crop(random_sample(0), 12, np.random.default_rng(0))


def test_steps_are_those_of_the_generator():
    augment, sample = Augment(crop=12, drop_sensors=0.4), random_sample(0, size=(24, 24))
    first, again, other = (augment(sample, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.label, again.label)
    assert first.images.keys() == again.images.keys()
    assert not torch.equal(first.label, other.label)


def test_a_sensor_always_stays():
    for seed in range(20):
        assert drop_sensors(random_sample(0), 0.99, np.random.default_rng(seed)).images


def test_frames_are_chosen_in_order():
    choose = Augment(drop_frames=0.5).frames(8, np.random.default_rng(0))
    counts = set()
    for total in (1, 4, 8, 20):
        chosen = choose(total)
        counts.add(len(chosen))
        assert 1 <= len(chosen) <= min(total, 8)
        assert (np.diff(chosen) > 0).all()
    assert spread_frames(4)(10).tolist() == [0, 3, 6, 9]
    assert spread_frames(None)(3).tolist() == [0, 1, 2]
    sample = pick_frames(random_sample(0), spread_frames(2))
    assert {len(image) for image in sample.images.values()} == {2}


def test_resize():
    found = resize(ramp(), {"S2": (6, 6), "label": (24, 24), "Modis": (2, 2)})
    assert found.images["S2"].shape == (2, 3, 6, 6)
    assert found.valid["S2"].shape == (2, 6, 6)
    assert found.label.shape == (24, 24)
    assert set(found.label.unique().tolist()) == set(ramp().label.unique().tolist())


@pytest.mark.parametrize("hidden", [-9999.0, 1e30, float("nan")])
@pytest.mark.parametrize("size", [(4, 4), (6, 6), (24, 24)])
def test_what_was_not_seen_has_no_part_in_a_resized_image(hidden, size):
    image, valid = torch.full((1, 2, 12, 12), 1500.0), torch.ones(1, 12, 12, dtype=torch.bool)
    valid[:, :5], image[:, :, :5] = False, hidden
    found = resize(Sample(images={"S2": image}, valid={"S2": valid}), {"S2": size})
    seen = found.valid["S2"][0]
    assert torch.allclose(found.images["S2"][0][:, seen], torch.tensor(1500.0))
    assert torch.isfinite(found.images["S2"]).all()
    assert seen.float().mean() == pytest.approx(7 / 12, abs=0.1)
    assert not seen[: size[0] * 4 // 12].any()


def test_resizing_far_from_unseen_pixels_keeps_every_bit():
    sample, sizes = random_sample(0, size=(24, 24)), {"S2": (9, 9)}
    whole = torch.ones(sample.images["S2"].shape[0], *sample.images["S2"].shape[-2:], dtype=torch.bool)
    plain = resize(replace(sample, valid={}), sizes).images["S2"]
    assert torch.equal(resize(replace(sample, valid={"S2": whole}), sizes).images["S2"], plain)
    whole[:, :4, :4] = False
    found = resize(replace(sample, valid={"S2": whole}), sizes)
    assert torch.equal(found.images["S2"][..., 4:, :], plain[..., 4:, :])
    assert found.valid["S2"][:, 4:].all()


class One:
    """A source of one sample."""

    def __len__(self):
        return 1

    def read(self, index, frames=None):
        sample = random_sample(index, size=(24, 24))
        return sample if frames is None else pick_frames(sample, frames)


def test_epochs_differ_and_repeat_exactly_and_evaluation_is_plain():
    split = Split(One(), frames=4, augment=Augment(crop=12), seed=5)
    assert torch.equal(split[(0, 0)].label, split[(0, 0)].label)
    assert any(not torch.equal(split[(0, 0)].label, split[(epoch, 0)].label) for epoch in range(1, 4))
    plain = Split(One())
    assert torch.equal(plain[(0, 0)].label, random_sample(0, size=(24, 24)).label)
    assert torch.equal(plain[(7, 0)].images["S2"], random_sample(0, size=(24, 24)).images["S2"])


@pytest.mark.parametrize("length", [7, 8, 9, 13])
def test_processes_share_the_batches_of_one(length):
    alone = list(EpochBatches(length, 4, shuffle=True, seed=1))
    shares = [list(EpochBatches(length, 4, shuffle=True, seed=1, rank=rank, world=2)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    for batch, left, right in zip(alone, *shares, strict=False):
        assert sorted(left + right) == sorted(batch)
    ordered = [list(EpochBatches(length, 4, shuffle=False, rank=rank, world=2)) for rank in (0, 1)]
    seen = sorted(index for share in ordered for batch in share for _, index in batch)
    assert seen == list(range(length))


def test_the_trainer_finds_the_epoch():
    batches = EpochBatches(6, 2, shuffle=True)
    first = list(batches)
    batches.sampler.set_epoch(1)
    assert [key for batch in batches for key in batch] != [key for batch in first for key in batch]
    assert {epoch for batch in batches for epoch, _ in batch} == {1}


def test_collate_pads_time_and_marks_what_is_missing():
    batch = collate([random_sample(0, frames=3), random_sample(1, frames=5, without=("Landsat",))])
    assert isinstance(batch, Batch)
    assert batch.images["S2"].shape[:2] == (2, 5)
    assert batch.frames["S2"].tolist() == [3, 5]
    assert batch.frames["Landsat"].tolist() == [5, 0]
    assert not batch.valid["S2"][0, 3:].any()
    assert not batch.valid["Landsat"][1].any()
    assert len(batch.to("cpu")) == 2


def test_collate_refuses_what_does_not_stack():
    with pytest.raises(InputError, match="one shape in a batch"):
        collate([replace(random_sample(0), label=None), replace(random_sample(1, size=(12, 12)), label=None)])
    with pytest.raises(InputError, match="1 of 2 labels"):
        collate([random_sample(0), replace(random_sample(1), label=None)])


def test_the_contract_is_checked():
    image = torch.zeros(2, 3, 4, 4)
    sample = Sample.from_item({"data": {"S2": image}, "label": torch.zeros(4, 4), "file_name": "a"})
    assert sample.label.dtype == torch.int64
    with pytest.raises(InputError, match="return that dictionary"):
        Sample.from_item({"image": image})
    with pytest.raises(InputError, match=r"\(T, C, H, W\)"):
        Sample.from_item({"data": {"S2": image[0]}})


def test_dates_in_any_spelling():
    days = [19723, 19724]
    for spelling in (
        ["2024-01-01", "2024-01-02"],
        np.array(["2024-01-01", "2024-01-02"], "datetime64[ns]"),
        np.array([b"2024-01-01", b"2024-01-02"]),
        days,
        torch.tensor(days),
    ):
        assert days_since_epoch(spelling).tolist() == days


def test_chips_that_are_not_square_keep_their_shape():
    shapes = {tuple(Augment()(random_sample(0), np.random.default_rng(seed)).label.shape) for seed in range(12)}
    assert shapes == {(24, 28)}


def test_a_cache_reads_once():
    class Counting(One):
        reads = 0

        def read(self, index, frames=None):
            self.reads += 1
            return super().read(index, frames)

    source = Counting()
    cached = CachedDataset(source)
    first = cached.read(0, spread_frames(2))
    assert len(first.images["S2"]) == 2
    assert torch.equal(cached.read(0).images["S2"], random_sample(0, size=(24, 24)).images["S2"])
    assert (source.reads, len(cached)) == (1, 1)
