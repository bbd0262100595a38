import pytest
import torch

from boxwright.ops.points import grid_locations, level_ranges, pyramid_locations


def test_cell_in_row_i_and_column_j_stands_at_its_centre():
    height, width, stride = 3, 5, 16
    grid = grid_locations((height, width), stride).view(height, width, 2)
    for row in range(height):
        for column in range(width):
            assert grid[row, column].tolist() == [(column + 0.5) * stride, (row + 0.5) * stride]


def test_locations_follow_the_order_of_a_flattened_feature_map():
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(7), indexing="ij")
    map_ = torch.stack([columns, rows])[None].float()  # (1, 2, 4, 7): each cell holds its own x, y
    flat = map_.permute(0, 2, 3, 1).reshape(-1, 2)
    assert torch.equal(grid_locations((4, 7), 8), (flat + 0.5) * 8)


def test_pyramid_puts_level_after_level_with_its_stride():
    locations, strides = pyramid_locations(((2, 3), (1, 2)), (8, 16))
    assert torch.equal(locations, torch.cat([grid_locations((2, 3), 8), grid_locations((1, 2), 16)]))
    assert strides.tolist() == [8.0] * 6 + [16.0] * 2


def test_pyramid_refuses_levels_without_a_stride():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        pyramid_locations(((2, 3),), (8, 16))


def test_ranges_touch_without_a_gap_and_are_open_at_the_ends():
    ranges = level_ranges((64, 128, 256, 512))
    assert len(ranges) == 5
    assert ranges[0][0] == 0
    assert ranges[-1][1] == float("inf")
    assert all(one[1] == next_[0] for one, next_ in zip(ranges[:-1], ranges[1:], strict=True))


def test_falling_bounds_are_refused_by_name():
    with pytest.raises(ValueError, match=r"rising numbers, got \[128, 64\]"):
        level_ranges((128, 64))
