"""Law: a move does to a box what its numbers say; what is left is decided at the threshold itself."""

from __future__ import annotations

import math

import pytest
import torch

from boxwright.ops.move_boxes import Move, move_boxes, to_the_front

BOXES = torch.tensor([[1.0, 2.0, 5.0, 10.0], [3.0, 3.0, 9.0, 4.0]])
NOT_IGNORED, IGNORED = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)


def moved(move, boxes=BOXES, ignore=NOT_IGNORED):
    return move_boxes(boxes, ignore, torch.tensor(move))


def test_the_default_changes_nothing():
    boxes, left = moved(Move())
    assert torch.equal(boxes, BOXES)
    assert left.all()


def test_a_negative_scale_mirrors():
    mirror = Move(scale_x=-1, corner_x=20)
    boxes, left = moved(mirror)
    assert boxes.tolist() == [[15, 2, 19, 10], [11, 3, 17, 4]]
    assert left.all()
    assert torch.equal(moved(mirror, boxes)[0], BOXES)
    assert moved(Move(scale_y=-1, corner_y=20))[0].tolist() == [[1, 10, 5, 18], [3, 16, 9, 17]]


def test_boxes_are_clipped_before_they_are_scaled():
    boxes, left = moved(Move(2, 2, 6, 8, 2, 2, 3, 0.5, 100, 200))
    assert boxes.tolist() == [[100, 200, 109, 203], [103, 200.5, 112, 201]]
    assert left.all()
    boxes, _ = moved(Move(20, 20, 30, 30, 20, 20))
    assert (boxes[:, 2:] == boxes[:, :2]).all()


@pytest.mark.parametrize(
    ("at", "beyond", "ignored"),
    [
        (Move(scale_x=0.25, scale_y=1, least_side=1), Move(scale_x=0.2499999, least_side=1), False),
        (Move(0, 0, 2, 99, least_visibility=0.25), Move(0, 0, 1.999999, 99, least_visibility=0.25), True),
        (Move(0, 0, 3.0000002, 99, centred=1), Move(0, 0, 3, 99, centred=1), True),
        (Move(2.9999998, 0, 99, 99, centred=1), Move(3, 0, 99, 99, centred=1), True),
        (Move(0, 0, 99, 6.0000005, centred=1), Move(0, 0, 99, 6, centred=1), True),
    ],
    ids=["side", "visible share", "centre right", "centre left", "centre below"],
)
def test_what_is_left_changes_at_the_threshold(at, beyond, ignored):
    """The first box is 4 wide with its centre at (3, 6); an ignored region only needs its side."""
    assert moved(at)[1][0]
    assert not moved(beyond)[1][0]
    assert moved(beyond, ignore=IGNORED)[1][0] == ignored


def test_each_box_may_have_a_move_of_its_own():
    moves = torch.tensor([[Move(corner_x=1)], [Move(corner_y=2)]])  # (2, 1, 13): one for each of two canvases
    boxes, left = move_boxes(BOXES.expand(2, 2, 4), NOT_IGNORED.expand(2, 2), moves)
    assert boxes[0].tolist() == [[2, 2, 6, 10], [4, 3, 10, 4]]
    assert boxes[1].tolist() == [[1, 4, 5, 12], [3, 5, 9, 6]]
    assert left.shape == (2, 2)


def test_what_is_left_goes_to_the_front_in_its_order_and_the_rest_becomes_zero():
    left = torch.tensor([[False, True, False, True, True], [False] * 5])
    rows = torch.tensor([[math.inf, 1, math.nan, 2, 3], [4, 5, 6, 7, 8]])
    first, values = to_the_front(left, torch.where(left, rows, 9))
    assert first.tolist() == [[True] * 3 + [False] * 2, [False] * 5]
    assert values.tolist() == [[1, 2, 3, 0, 0], [0] * 5]
