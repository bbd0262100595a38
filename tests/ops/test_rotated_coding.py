"""Rotated boxes coded as offsets, and rotated anchors: round trips, Detectron2's order, and upright boxes as before."""

import math

import pytest
import torch
from rotated_boxes import random_rotated

from boxwright.ops.anchors import cell_anchors
from boxwright.ops.coding import encode_boxes
from boxwright.ops.rotated import rotated_hull, upright_rotated, wrap_angles
from boxwright.ops.rotated_anchors import rotated_cell_anchors, rotated_pyramid_anchors
from boxwright.ops.rotated_coding import decode_rotated, encode_rotated
from boxwright.ops.rotated_iou import rotated_iou

HEAD = (10.0, 10.0, 5.0, 5.0, 1.0)


def test_decoding_undoes_encoding():
    reference, boxes = random_rotated(50, 1), random_rotated(50, 2)
    found = decode_rotated(reference, encode_rotated(reference, boxes, HEAD), HEAD)
    torch.testing.assert_close(found[:, :4], boxes[:, :4], rtol=1e-4, atol=1e-3)
    assert wrap_angles(found[:, 4] - boxes[:, 4]).abs().max() < 1e-3
    assert ((found[:, 4] >= -180) & (found[:, 4] < 180)).all()


def test_upright_boxes_have_the_offsets_of_upright_boxes_and_no_turn():
    first = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 6]])
    second = first + torch.tensor([1.0, 2, 3, 5])
    found = encode_rotated(upright_rotated(first), upright_rotated(second), HEAD)
    torch.testing.assert_close(found[:, :4], encode_boxes(first, second, HEAD[:4]))
    assert not found[:, 4].any()


def test_the_shift_is_along_the_image_and_not_turned_into_the_box():
    reference = torch.tensor([0.0, 0, 10, 20, 90])
    assert encode_rotated(reference, torch.tensor([5.0, 0, 10, 20, 90])).tolist() == [0.5, 0, 0, 0, 0]


def test_a_turn_is_in_radians_and_takes_the_shorter_way():
    reference, box = torch.tensor([0.0, 0, 1, 1, 175]), torch.tensor([0.0, 0, 1, 1, -175])
    assert float(encode_rotated(reference, box)[4]) == pytest.approx(math.radians(10), rel=1e-5)


def test_sides_grow_by_no_more_than_the_limit_and_padding_rows_stay_finite():
    grown = decode_rotated(torch.tensor([0.0, 0, 1, 1, 0]), torch.tensor([0.0, 0, 99, -99, 0]))
    assert float(grown[2]) == pytest.approx(62.5, rel=1e-5)
    assert torch.isfinite(encode_rotated(torch.zeros(5), torch.zeros(5))).all()


def test_the_angle_of_anchors_changes_fastest_then_the_ratio():
    anchors = rotated_cell_anchors([32, 64], [0.5, 1.0], [-90, 0, 30])
    assert anchors.shape == (12, 5)
    assert anchors[:6, 4].tolist() == [-90, 0, 30] * 2
    assert (anchors[:3, 2] > anchors[:3, 3]).all()  # a ratio of 0.5 is wider than high
    torch.testing.assert_close(anchors[:, 2] * anchors[:, 3], torch.tensor([32.0**2] * 6 + [64.0**2] * 6))
    torch.testing.assert_close(rotated_hull(anchors[1::3]), cell_anchors([32, 64], [0.5, 1.0]))


def test_anchors_are_placed_cell_by_cell():
    placed = rotated_pyramid_anchors(
        [torch.tensor([[0.0, 0], [4, 0]]), torch.tensor([[8.0, 8]])],
        [rotated_cell_anchors([4], [1.0], [0, 45]), rotated_cell_anchors([8], [1.0], [0, 45])],
    )
    assert placed[:, 0].tolist() == [0, 0, 4, 4, 8, 8]
    assert placed[:, 4].tolist() == [0, 45] * 3


@pytest.mark.parametrize("wrong", [([], [1.0], [0]), ([32], [0.0], [0]), ([32], [1.0], [])])
def test_anchors_without_size_shape_or_angle_are_refused(wrong):
    with pytest.raises(ValueError, match="at least one angle"):
        rotated_cell_anchors(*wrong)


@pytest.mark.parametrize("period", [180, 90])
def test_with_a_period_the_offset_is_the_shortest_turn_and_leads_to_the_same_rectangle(period):
    anchors, boxes = random_rotated(40, 1), random_rotated(40, 2)
    for rows in (anchors, boxes):
        rows[:, 2:4] += 5  # no ratio that is clamped
    offsets = encode_rotated(anchors, boxes, period=period)
    assert offsets[:, 4].abs().max() <= math.radians(period / 2) + 1e-5
    assert rotated_iou(decode_rotated(anchors, offsets), boxes).diagonal().min() > 0.999
    torch.testing.assert_close(offsets[:, :2], encode_rotated(anchors, boxes)[:, :2])
    if period == 180:
        torch.testing.assert_close(offsets[:, 2:4], encode_rotated(anchors, boxes)[:, 2:4])


def test_with_a_quarter_as_period_all_four_names_of_a_rectangle_are_learnt_as_one():
    names = torch.tensor([[0.0, 0, 30, 10, 20], [0, 0, 10, 30, 110], [0, 0, 30, 10, -160], [0, 0, 10, 30, -70]])
    anchors = torch.tensor([[4.0, 2, 20, 20, 0], [4, 2, 12, 24, 90]])[:, None]
    offsets = encode_rotated(anchors, names, period=90)  # (2, 4, 5)
    torch.testing.assert_close(offsets, offsets[:, :1].expand(-1, 4, -1), atol=1e-6, rtol=1e-5)
    assert offsets[0, 0, 4].item() == pytest.approx(math.radians(20))
    assert offsets[1, 0, 2].item() == pytest.approx(math.log(10 / 12))  # that of w, at 110 degrees
    assert not torch.allclose(encode_rotated(anchors, names, period=180)[:, 1], offsets[:, 1])
