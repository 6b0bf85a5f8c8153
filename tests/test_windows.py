"""Windows: weights sum to one everywhere for all sizes, and tiles do not influence the result."""

import numpy as np
import pytest

from agrifm.maps.windows import common_unit, lay_out

CASES = [
    (size, window, factors)
    for size in ((353, 232), (96, 96), (60, 500), (97, 1000))
    for window, factors in ((96, [1, 3]), (96, [1, 3, 50]), (48, [1]), (13, [1]))
]


def lay_out_both(size, window, factors):
    windows = lay_out(size, window, factors, pixel_bytes=240, budget=20e6)
    return [windows, windows.shifted(common_unit(window, factors))]


@pytest.mark.parametrize(("size", "window", "factors"), CASES)
def test_weights_sum_to_one_on_every_pixel(size, window, factors):
    for windows in lay_out_both(size, window, factors):
        total = np.zeros(size, np.float32)
        for i, row in enumerate(windows.rows.starts):
            for j, column in enumerate(windows.columns.starts):
                area = windows.area((i, j))
                top, left = max(row, 0), max(column, 0)
                bottom, right = min(row + area.height, size[0]), min(column + area.width, size[1])
                total[top:bottom, left:right] += windows.rows.weight(i, top, bottom)[:, None] * windows.columns.weight(
                    j, left, right
                )
        assert total.min() > 1 - 1e-5
        assert total.max() < 1 + 1e-5


@pytest.mark.parametrize(("size", "window", "factors"), CASES)
def test_windows_begin_on_whole_pixels_of_the_finer_sensors(size, window, factors):
    unit = common_unit(window, factors)
    for windows in lay_out_both(size, window, factors):
        starts = [*windows.rows.starts, *windows.columns.starts]
        assert all(start % unit == 0 for start in starts)
        assert windows.rows.window % unit == 0


@pytest.mark.parametrize(("size", "window", "factors"), CASES)
def test_tiles_cover_the_scene_once_and_know_their_windows(size, window, factors):
    windows = lay_out_both(size, window, factors)[0]
    covered = np.zeros(size, int)
    for tile in windows.tiles():
        covered[tile.row : tile.row + tile.height, tile.column : tile.column + tile.width] += 1
        reach = windows.reach(tile)
        assert reach.row <= tile.row
        assert reach.row + reach.height >= tile.row + tile.height
        near = {number for number in windows.over(tile)}
        for number in windows.over(windows.tiles()[0]):
            area = windows.area(number)
            touches = area.row < tile.row + tile.height and area.row + area.height > tile.row
            touches &= area.column < tile.column + tile.width and area.column + area.width > tile.column
            assert (number in near) == touches
    assert (covered == 1).all()


def test_a_weight_does_not_depend_on_the_tile():
    axis = lay_out_both((353, 232), 96, [1, 3])[0].rows
    whole = axis.weight(2, 0, 353)
    assert np.array_equal(axis.weight(2, 150, 200), whole[150:200])


def test_a_margin_is_read_but_belongs_to_no_tile():
    plain = lay_out((353, 232), 64, [1, 3], 240, 20e6, overlap=False)
    wide = lay_out((353, 232), 64, [1, 3], 240, 20e6, overlap=False, margin=2)
    assert wide.margin == 3  # whole pixels of 3 x 3
    assert (wide.rows, wide.columns) == (plain.rows, plain.columns)
    tile = plain.tiles()[0]
    inner, outer = plain.reach(tile), wide.reach(tile)
    assert (outer.row, outer.column) == (inner.row - 3, inner.column - 3)
    assert (outer.height, outer.width) == (inner.height + 6, inner.width + 6)
    assert wide.shifted(3).margin == 3


def test_a_smaller_budget_gives_smaller_tiles():
    sides = [lay_out((5000, 5000), 96, [1, 3], 240, budget).tile for budget in (1e6, 50e6, 1e9)]
    assert sides == sorted(sides)
    assert sides[0] == 2 * 72
    assert sides[2] == 12 * 72
