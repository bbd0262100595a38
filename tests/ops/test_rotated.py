"""Rotated boxes: corners, hulls, moves with the image, and the smallest rectangle around four corners."""

import pytest
import torch
from rotated_boxes import random_rotated

from boxwright.ops.rotated import (
    clip_rotated,
    flip_rotated,
    resize_rotated,
    rotated_area,
    rotated_around,
    rotated_corners,
    rotated_hull,
    upright_rotated,
    wrap_angles,
)
from boxwright.ops.select import clip_boxes


def assert_same_rectangles(first, second, atol=2e-3):
    """Whatever corner each starts from: every corner of one is a corner of the other."""
    gap = torch.cdist(rotated_corners(first), rotated_corners(second)).amin(-1)
    assert gap.max() < atol


def test_angles_are_wrapped_to_half_open_half_turns():
    angles = torch.tensor([-180.0, 180, 179.5, -1e-9, 360, 539, -541])
    assert torch.allclose(wrap_angles(angles), torch.tensor([-180.0, -180, 179.5, 0, 0, 179, 179]))


def test_a_positive_angle_turns_counter_clockwise_as_it_is_seen():
    corners = rotated_corners(torch.tensor([0.0, 0, 10, 2, 30]))
    right_end = (corners[1] + corners[2]) / 2  # the middle of the side that is on the right at angle 0
    assert right_end[0] > 0
    assert right_end[1] < 0  # upwards, since y points down


def test_the_hull_holds_the_corners_and_no_more():
    boxes = random_rotated(50)
    corners = rotated_corners(boxes)
    torch.testing.assert_close(rotated_hull(boxes), torch.cat([corners.amin(1), corners.amax(1)], 1))


def test_upright_boxes_are_rotated_boxes_of_angle_0():
    boxes = torch.tensor([[1.0, 2, 4, 8], [0, 0, 3, 1]])
    torch.testing.assert_close(rotated_hull(upright_rotated(boxes)), boxes)
    assert rotated_area(upright_rotated(boxes)).tolist() == [18, 3]
    assert rotated_area(torch.tensor([0.0, 0, -3, -3, 5])) == 0


class TestMovesWithTheImage:
    def test_one_factor_for_both_sides_moves_every_corner(self):
        boxes = random_rotated(20)
        moved = resize_rotated(boxes, torch.tensor([0.5, 0.5]))
        torch.testing.assert_close(rotated_corners(moved), rotated_corners(boxes) * 0.5, atol=1e-3, rtol=0)

    def test_unequal_factors_follow_the_direction_of_side_h_and_the_lengths_of_both(self):
        boxes, factors = random_rotated(20), torch.tensor([0.5, 2.0])
        moved = rotated_corners(resize_rotated(boxes, factors))
        stretched = rotated_corners(boxes) * factors
        torch.testing.assert_close(moved.mean(1), stretched.mean(1))  # the centre
        down, stretched_down = moved[:, 3] - moved[:, 0], stretched[:, 3] - stretched[:, 0]
        torch.testing.assert_close(down, stretched_down, atol=1e-3, rtol=1e-4)
        along, stretched_along = moved[:, 1] - moved[:, 0], stretched[:, 1] - stretched[:, 0]
        torch.testing.assert_close(along.norm(dim=1), stretched_along.norm(dim=1), atol=1e-3, rtol=1e-4)

    @pytest.mark.parametrize("angle", [0.0, 90, -90, -180])
    def test_upright_boxes_are_resized_as_upright_boxes_are(self, angle):
        box, factors = torch.tensor([10.0, 20, 6, 4, angle]), torch.tensor([2.0, 0.5])
        expected = rotated_hull(box) * factors.repeat(2)
        torch.testing.assert_close(rotated_hull(resize_rotated(box, factors)), expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_a_mirror_moves_every_corner_and_twice_is_nothing(self, axis):
        boxes = random_rotated(20)
        mirrored = rotated_corners(boxes)
        mirrored[..., axis] = 70 - mirrored[..., axis]
        flipped = flip_rotated(boxes, 70, axis)
        assert torch.cdist(rotated_corners(flipped), mirrored).amin(-1).max() < 1e-3
        torch.testing.assert_close(flip_rotated(flipped, 70, axis), boxes)


class TestClipping:
    def test_boxes_within_a_degree_are_clipped_as_upright_ones_are(self):
        upright = torch.tensor([[[-5.0, -5, 50, 50], [3, 3, 9, 9], [-9, 2, -1, 8]]])
        boxes = upright_rotated(upright)
        boxes[..., 4] = torch.tensor([0.9, -1.0, 360.0])
        clipped = clip_rotated(boxes, torch.tensor([[20, 30]]))
        expected = clip_boxes(upright, torch.tensor([[20, 30]]))
        torch.testing.assert_close(rotated_hull(torch.cat([clipped[..., :4], torch.zeros(1, 3, 1)], -1)), expected)
        torch.testing.assert_close(clipped[..., 4], torch.tensor([[0.9, -1.0, 0.0]]))

    def test_turned_boxes_stay_as_they_are(self):
        boxes = torch.tensor([[[0.0, 0, 50, 20, 1.1], [0, 0, 50, 20, 180]]])
        expected = torch.tensor([[[0.0, 0, 50, 20, 1.1], [0, 0, 50, 20, -180]]])
        torch.testing.assert_close(clip_rotated(boxes, torch.tensor([[20, 30]])), expected)

    def test_sides_never_grow(self):
        boxes = random_rotated(100)[None]
        boxes[..., 4] = 0
        assert (clip_rotated(boxes, torch.tensor([[80, 80]]))[..., 2:4] <= boxes[..., 2:4]).all()


class TestTheRectangleAroundCorners:
    def test_a_rectangle_comes_back_with_its_first_side_as_w(self):
        boxes = random_rotated(200)
        found = rotated_around(rotated_corners(boxes))
        torch.testing.assert_close(found[:, :4], boxes[:, :4], atol=2e-3, rtol=1e-4)
        turned = wrap_angles(2 * (found[:, 4] - boxes[:, 4])) / 2  # equal up to half a turn
        assert turned.abs().max() < 0.05
        assert ((found[:, 4] >= -90) & (found[:, 4] < 90)).all()

    def test_the_order_of_the_corners_does_not_change_the_rectangle(self):
        boxes = random_rotated(50)
        corners = rotated_corners(boxes)
        for order in ([1, 2, 3, 0], [3, 2, 1, 0], [0, 2, 1, 3]):
            assert_same_rectangles(rotated_around(corners[:, order]), boxes)

    def test_it_is_the_smallest_of_all_angles_and_holds_all_corners(self):
        corners = torch.rand(40, 4, 2, generator=torch.Generator().manual_seed(1)) * 100
        found = rotated_around(corners)
        for angle in torch.arange(0, 180, 2.5):
            cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
            along, across = corners @ torch.stack([cos, -sin]), corners @ torch.stack([sin, cos])
            area = (along.amax(1) - along.amin(1)) * (across.amax(1) - across.amin(1))
            assert (rotated_area(found) <= area * (1 + 1e-3) + 1e-3).all()
        own = corners - found[:, None, :2]
        radians = torch.deg2rad(found[:, 4:])
        along, across = (
            own[..., 0] * radians.cos() - own[..., 1] * radians.sin(),
            (own[..., 0] * radians.sin() + own[..., 1] * radians.cos()),
        )
        assert (along.abs() <= found[:, 2:3] / 2 + 1e-3).all()
        assert (across.abs() <= found[:, 3:4] / 2 + 1e-3).all()

    def test_corners_on_one_line_or_in_one_point_have_a_side_of_0(self):
        line = torch.tensor([[0.0, 0], [2, 2], [6, 6], [4, 4]])
        point = torch.full((4, 2), 7.0)
        found = rotated_around(torch.stack([line, point]))
        assert found[:, 2:4].amin(1).abs().max() < 1e-5
        assert found[0, 2:4].amax() == pytest.approx(6 * 2**0.5)
        assert found[1, :2].tolist() == [7, 7]
