import itertools
import math

import pytest
import torch

from boxwright.ops.points import (
    centerness,
    decode_ltrb,
    encode_ltrb,
    encode_ltrb_rows,
    grid_locations,
    level_ranges,
    pyramid_locations,
)


def test_cell_in_row_i_and_column_j_lies_at_its_centre():
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
    assert all(one[1] == next_[0] for one, next_ in itertools.pairwise(ranges))


def test_falling_bounds_are_refused_by_name():
    with pytest.raises(ValueError, match=r"rising numbers, got \[128, 64\]"):
        level_ranges((128, 64))


def case(count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    locations = torch.rand(count, 2, generator=generator) * 200
    sides = torch.rand(2, count, 4, generator=generator) * 80
    boxes = torch.cat([locations - sides[..., :2], locations + sides[..., 2:]], -1)  # (2, P, 4)
    strides = torch.tensor([8.0, 16.0, 32.0, 64.0]).repeat_interleave(count // 4)
    return locations, boxes, strides


def test_decoding_what_was_encoded_gives_the_box_back():
    locations, boxes, strides = case()
    for unit in (strides, 8.0, 1.0):
        back = decode_ltrb(locations, encode_ltrb(locations, boxes, unit), unit)
        torch.testing.assert_close(back, boxes, rtol=1e-5, atol=1e-4)


def test_encoding_what_was_decoded_gives_the_distances_back():
    locations, _, strides = case()
    distances = torch.rand(200, 4) * 9
    back = encode_ltrb(locations, decode_ltrb(locations, distances, strides), strides)
    torch.testing.assert_close(back, distances, rtol=1e-4, atol=1e-4)


def test_strides_of_each_location_divide_its_own_distances():
    locations, boxes, strides = case()
    pixels = encode_ltrb(locations, boxes)
    assert torch.equal(encode_ltrb(locations, boxes, strides), pixels / strides[:, None])


def test_a_decoded_box_always_holds_its_location():
    locations, _, strides = case()
    boxes = decode_ltrb(locations, torch.randn(200, 4), strides)
    assert (boxes[:, :2] <= locations).all()
    assert (boxes[:, 2:] >= locations).all()


class TestCenterness:
    def test_follows_equation_3(self):
        distances = (torch.rand(100, 4) + 0.01) * 50
        for (left, top, right, bottom), value in zip(distances.tolist(), centerness(distances).tolist(), strict=True):
            across = min(left, right) / max(left, right)
            down = min(top, bottom) / max(top, bottom)
            assert value == pytest.approx(math.sqrt(across * down), rel=1e-5)

    def test_does_not_depend_on_the_unit(self):
        distances = torch.rand(100, 4) + 0.01
        torch.testing.assert_close(centerness(distances * 32), centerness(distances))

    def test_lies_between_zero_and_one_inside(self):
        values = centerness(torch.rand(1000, 4) * 100)
        assert (values >= 0).all()
        assert (values <= 1).all()

    def test_of_a_box_without_width_is_zero_and_not_nan(self):
        assert centerness(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])).tolist() == [0.0, 0.0]


class TestMatchedRows:
    """Boxes with their class, as the course's matching gives them."""

    def test_background_is_told_by_the_class_and_not_by_the_coordinates(self):
        rows = torch.tensor(
            [[10.0, 15, 100, 115, 0], [10, 15, 100, 115, -1], [-1, -1, -1, -1, 3], [-1, -1, -1, -1, -1]]
        )
        found = encode_ltrb_rows(torch.tensor([[30.0, 40.0]] * 4), rows, 8.0)
        assert found[0].tolist() == [2.5, 3.125, 8.75, 9.375]
        assert (found[[1, 3]] == -1).all()
        assert found[2].tolist() == [31 / 8, 41 / 8, -31 / 8, -41 / 8]  # four numbers that add up to -4, and an object

    def test_rows_without_a_class_are_background_where_all_four_are_minus_one(self):
        """The course adds the four up: a box of [-3, 1, -1, -1] would be background too."""
        rows = torch.tensor([[-1.0, -1, -1, -1], [-3, 1, -1, -1], [10, 15, 100, 115]])
        found = encode_ltrb_rows(torch.tensor([[30.0, 40.0]] * 3), rows)
        assert (found == -1).all(1).tolist() == [True, False, False]

    def test_a_batch_with_a_stride_each_equals_the_plain_distances(self):
        locations, boxes, strides = case()
        rows = torch.cat([boxes, torch.zeros(2, len(locations), 1)], -1)
        assert torch.equal(encode_ltrb_rows(locations, rows, strides), encode_ltrb(locations, boxes, strides))

    def test_other_columns_are_refused(self):
        with pytest.raises(ValueError, match=r"expected 4 or 5 columns .* got 6"):
            encode_ltrb_rows(torch.zeros(1, 2), torch.zeros(1, 6))
