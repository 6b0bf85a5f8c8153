"""The synthetic land of eight covers: deterministic, with exact shares, masks and seasons of either hemisphere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agrifm.errors import InputError
from agrifm.sensors import LANDSAT, MODIS, S2
from agrifm.synthetic.landcover import SyntheticLandCover
from agrifm.synthetic.varieties import VARIETIES
from agrifm.tasks.fractions import COVERS

LAND = SyntheticLandCover(seed=5)
ALL = (S2, LANDSAT, MODIS)


def same(one, other) -> bool:
    """Whether two records hold the same numbers."""
    return all(np.array_equal(getattr(one, x), getattr(other, x)) for x in ("image", "days", "clear", "fractions"))


@pytest.mark.parametrize("sensor", ["S2", "Landsat", "Modis"])
def test_seed_sensor_and_index_decide_and_the_order_does_not(sensor):
    forward = [LAND.record(sensor, index) for index in (0, 1, 2**39)]
    backward = [SyntheticLandCover(seed=5).record(sensor, index) for index in (2**39, 1, 0)][::-1]
    assert all(same(one, other) for one, other in zip(forward, backward, strict=True))
    assert not same(forward[0], forward[1])
    assert not same(forward[0], SyntheticLandCover(seed=6).record(sensor, 0))


@pytest.mark.parametrize(("index", "sensor", "shape"), [(0, S2, (24, 10, 48, 48)), (4, LANDSAT, (24, 6, 48, 48))])
def test_a_sample_holds_one_sensor_and_shares_that_sum_to_one(index, sensor, shape):
    sample = LAND.read(index)
    assert list(sample.images) == [sensor.name]
    assert tuple(sample.images[sensor.name].shape) == shape
    assert sample.label is not None
    assert sample.label.dtype == torch.float32
    torch.testing.assert_close(sample.label.sum(0), torch.ones(8, 8))
    assert (sample.days(sensor.name).diff() > 0).all()
    assert len(LAND.read(index, lambda t: np.arange(0, t, 4)).images[sensor.name]) == 6


@pytest.mark.parametrize("sensor", ["S2", "Landsat", "Modis"])
def test_shares_are_those_of_the_ground(sensor):
    land = SyntheticLandCover(seed=2, unknown=0.2)
    ground, record = land.ground(sensor, 7), land.record(sensor, 7)
    cover, side = ground.cover[ground.piece], len(ground.piece) // 8
    for row, column in ((0, 0), (3, 6), (7, 7)):
        cell = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        known = ~ground.hidden[cell]
        counts = np.array([(known & (cover[cell] == kind)).mean() for kind in range(8)])
        np.testing.assert_allclose(record.fractions[:, row, column], counts, atol=1e-6)
        np.testing.assert_allclose(record.unknown[row, column], 1 - known.mean(), atol=1e-6)
    assert ground.hidden.mean() == pytest.approx(0.2, abs=0.01)
    assert [VARIETIES[i].cover for i in ground.variety] == ground.cover.tolist()


@pytest.mark.parametrize("sensor", ALL, ids=lambda sensor: sensor.name)
def test_no_data_is_never_clear_and_clouds_are_bright(sensor):
    gaps, bright, dark = 0, [], []
    for index in range(12):
        record = LAND.record(sensor.name, index)
        missing = record.image == sensor.nodata
        assert np.array_equal(missing.any(1), missing.all(1))
        assert not record.clear[missing.any(1)].any()
        seen, blue = record.clear.astype(bool), record.image[:, sensor.index("blue")]
        gaps += missing.sum()
        bright.append(blue[~seen & ~missing.any(1)])
        dark.append(blue[seen])
        assert record.image.dtype == (np.uint16 if sensor is S2 else np.int16)
    assert gaps > 0
    assert np.median(np.concatenate(bright)) > 2 * np.median(np.concatenate(dark))


def test_all_eight_covers_have_reasonable_shares():
    shares = np.stack([LAND.ground(ALL[i % 3].name, i).shares(8)[0] for i in range(200)])
    assert shares.shape == (200, len(COVERS), 8, 8)
    mean = shares.mean((0, 2, 3))
    assert mean.min() > 0.04
    assert mean.max() < 0.3
    top = shares.max(1)
    assert (top > 0.95).mean() > 0.1
    assert (top < 0.6).mean() > 0.1


def test_green_comes_half_a_year_later_in_the_south():
    months = {True: np.zeros((2, 12)), False: np.zeros((2, 12))}
    for index in range(150):
        record = LAND.record("Modis", index)
        if abs(record.lat) < 30:
            continue
        red, nir = (record.image[:, band].astype(float) for band in (0, 1))
        seen, month = record.clear.astype(bool), (record.days % 365.25 // 30.44).astype(int)
        ndvi = np.where(seen, (nir - red) / np.where(seen, nir + red, 1), 0).sum((1, 2))
        np.add.at(months[record.lat > 0], (0, month), ndvi)
        np.add.at(months[record.lat > 0], (1, month), seen.sum((1, 2)))
    north, south = (months[side][0] / months[side][1] for side in (True, False))
    assert north[5:8].mean() > north[[11, 0, 1]].mean() + 0.1
    assert south[[11, 0, 1]].mean() > south[5:8].mean() + 0.1


BAD = {
    "size": (lambda: SyntheticLandCover(sizes={"S2": 50, "Landsat": 48, "Modis": 16}), "multiple of cells"),
    "no size": (lambda: SyntheticLandCover(sizes={"S2": 48}), "Landsat"),
    "frames": (lambda: SyntheticLandCover(frames=60), "1 to 45"),
    "unknown": (lambda: SyntheticLandCover(unknown=1.0), "below 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_drawn_is_refused(case):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make()


def test_an_unknown_sensor_is_refused():
    with pytest.raises(InputError, match="S2, Landsat, Modis"):
        LAND.record("Sentinel2", 0)
