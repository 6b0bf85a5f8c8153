"""The order of training: whole passes, any slice, any number of processes, each shard fetched once."""

from itertools import product

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from agrifm.errors import InputError
from agrifm.pretraining.blend import BlendOrder, SequentialOrder
from agrifm.pretraining.stream import Stream, StreamBatches

GROUPS = {"S2": (0, (5, 7, 6, 4)), "Modis": (22, (3, 3, 2))}


@pytest.fixture
def stream():
    return Stream(GROUPS, {"S2": 3, "Modis": 1}, window=8, seed=4)


def test_slices_equal_the_walk_and_passes_are_whole(stream):
    walk = stream.order(0, 300)
    assert all(Stream(GROUPS, {"S2": 3, "Modis": 1}, 8, 4).order(s, 37) == walk[s : s + 37] for s in range(0, 260, 13))
    assert len(set(walk)) == 300
    for pass_number in range(5):
        assert sorted(index for number, index in walk if number == pass_number and index < 22) == list(range(22))


@pytest.mark.parametrize("weights", [(3, 1), (0.06, 0.94), (1, 1)])
def test_every_prefix_is_within_one_of_its_share(weights):
    order = Stream(GROUPS, dict(zip(GROUPS, weights, strict=True))).order(0, 500)
    drawn = np.cumsum([index < 22 for _, index in order])
    assert np.abs(drawn - np.arange(1, 501) * weights[0] / sum(weights)).max() < 1


def test_processes_share_the_same_batches(stream):
    def batches(rank, world):
        share = StreamBatches(stream, 40, 8, rank=rank, world=world)
        share.set_epoch(2)
        return list(share)

    alone, parts = batches(0, 1), [batches(rank, 3) for rank in range(3)]
    assert [sorted(pair for part in several for pair in part) for several in zip(*parts, strict=True)] == alone
    assert alone[0][0] == (80, stream.order(80, 1)[0][1])
    with pytest.raises(InputError, match="whole batches"):
        StreamBatches(stream, 41, 8)


EPOCH_SIZE, BATCH = 40, 8


def epoch(number, world, stop=EPOCH_SIZE // BATCH, start=0):
    """Keys (position, index) that all processes read from some batches of an epoch."""
    read = []
    for rank in range(world):
        share = StreamBatches(Stream(GROUPS, {"S2": 3, "Modis": 1}, 8, 4), EPOCH_SIZE, BATCH, rank=rank, world=world)
        share.set_epoch(number)
        read += [pair for batch in list(share)[start:stop] for pair in batch]
    return read


@pytest.mark.parametrize("worlds", list(product((1, 2, 3), repeat=3)))
def test_resumed_with_another_number_of_processes_nothing_is_lost_or_seen_twice(stream, worlds):
    """An epoch with each number of processes, one after another; the middle one changes in mid-epoch, too."""
    first, second, third = worlds
    read = epoch(0, first) + epoch(1, second, stop=2) + epoch(1, third, start=2) + epoch(2, third)
    assert sorted(read) == [(place, index) for place, (_, index) in enumerate(stream.order(0, 3 * EPOCH_SIZE))]
    passes = stream.order(0, 3 * EPOCH_SIZE)
    assert [sorted(i for number, i in passes if number == n and i < 22) for n in range(3)] == [list(range(22))] * 3


def test_each_process_gets_its_share_of_every_sensor_from_few_shards():
    """Sensors alternate with the same period as processes, which must not give a process only one of them."""
    groups = {sensor: (1024 * i, (32,) * 32) for i, sensor in enumerate(("Landsat", "Modis", "S2"))}
    stream, opened = Stream(groups, window=256), []
    for rank in range(3):
        pairs = [pair for batch in StreamBatches(stream, 720, 48, rank=rank, world=3) for pair in batch]
        counts = np.bincount([index // 1024 for _, index in pairs])
        assert abs(counts - 80).max() <= 15  # one in each batch
        opened.append(len({index // 32 for _, index in pairs}))
    everything = len({index // 32 for _, index in stream.order(0, 720)})
    assert sum(opened) < 2 * everything


def test_endless_samples_are_dealt_with_every_sensor():
    shares = [next(iter(StreamBatches(SequentialOrder(), 12, 12, rank=rank, world=3))) for rank in range(3)]
    assert all({index % 3 for _, index in share} == {0, 1, 2} for share in shares)
    assert sorted(pair for share in shares for pair in share) == [(i, i) for i in range(12)]


def test_every_window_is_spread_evenly_over_its_shards():
    stream = Stream({"S2": (0, (100,) * 4)}, window=400)
    counts = [np.bincount([i // 100 for _, i in stream.order(start, 40)], minlength=4) for start in range(0, 400, 40)]
    assert abs(np.array(counts) - 10).max() <= 2


def test_a_pass_opens_each_shard_once_when_windows_are_held(stream):
    ends = np.cumsum(GROUPS["S2"][1])
    order = stream.order(0, 300)
    shards = [int(np.searchsorted(ends, i, "right")) for number, i in order if i < 22 and number == 1]
    cached, fetched = [], []
    for shard in shards:
        if shard in cached:
            cached.remove(shard)
        else:
            fetched.append(shard)
        cached = [*cached, shard][-stream.shards_per_window :]
    assert sorted(fetched) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_what_is_read(stream, workers):
    loader = DataLoader(Keys(), batch_sampler=StreamBatches(stream, 24, 8), collate_fn=list, num_workers=workers)
    assert [pair for batch in loader for pair in batch] == [(n, i) for n, (_, i) in enumerate(stream.order(0, 24))]


class Keys(Dataset):
    """A data set whose samples are their keys."""

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("weights", [(float("nan"), 1), (float("inf"), 1), (-1, 2), (0, 0)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(InputError, match="for each of S2, Modis a weight"):
        Stream(GROUPS, dict(zip(GROUPS, weights, strict=True)))


def test_shares_whose_period_has_no_end_are_refused():
    order = BlendOrder((SequentialOrder(), SequentialOrder()), (1, 10**30))
    with pytest.raises(InputError, match="in smaller numbers"):
        order.order(0, 4)
