"""Rotated boxes in tiles: parts in a window, which detections are one object, the box around several."""

import pytest
import torch
from rotated_boxes import pixels, random_rotated

from boxwright.ops.rotated import rotated_corners, rotated_hull, upright_rotated
from boxwright.ops.rotated_iou import rotated_intersection, shared_area, shared_with_polygon
from boxwright.ops.rotated_tiling import around_along, same_rotated, within
from boxwright.ops.tiling import Tiling, may_be_cut, same_objects

WINDOW = torch.tensor([20.0, 30, 70, 90])


@pytest.mark.parametrize("seed", range(3))
def test_what_two_boxes_share_in_a_window_is_what_the_pixels_say(seed):
    one, two = random_rotated(40, seed), random_rotated(40, seed + 10)
    two[:, :2] = one[:, :2] + (two[:, :2] - 50) / 5
    one[:4, 4], two[:4, 4] = torch.tensor([0.0, 90, -90, 45]), torch.tensor([0.0, 0, 180 - 360, -45])
    window = WINDOW.expand(40, 4)
    shared = shared_with_polygon(two.double(), within(rotated_corners(one.double()), window.double()))
    counted = (pixels(one) & pixels(two) & pixels(upright_rotated(WINDOW)[None])).sum((1, 2)) / 16
    assert (shared > 1).sum() > 10
    assert (shared - counted).abs().max() < 8  # of a perimeter of up to 200 pixels, a small pixel is a sixteenth
    assert (shared[counted == 0] < 1.5).all()
    assert (shared <= shared_area(one, two) + 1e-3).all()


def test_a_window_around_everything_takes_nothing_and_one_far_away_leaves_nothing():
    one, two = random_rotated(50, 1).double(), random_rotated(50, 2).double()
    around = torch.tensor([-500.0, -500, 500, 500]).double().expand(50, 4)
    shared = shared_with_polygon(two, within(rotated_corners(one), around))
    torch.testing.assert_close(shared, shared_area(one, two))
    away = torch.tensor([500.0, -500, 900, 500]).double().expand(50, 4)
    assert shared_with_polygon(two, within(rotated_corners(one), away)).max() < 1e-6


def agreeing(one, two, labels=(0, 0), iou=0.4):
    """Whether a detection of the left tile and one of the right are one object; the tiles share x from 80 to 100."""
    windows = torch.tensor([[0, 0, 100, 100], [80, 0, 180, 100]])
    boxes = torch.tensor([[one], [two]], dtype=torch.float32)
    hulls = rotated_hull(boxes).maximum(windows[:, None, [0, 1, 0, 1]]).minimum(windows[:, None, [2, 3, 2, 3]])
    cut = may_be_cut(hulls, windows, (100, 180))
    pairs = same_rotated(boxes, torch.ones(2, 1), torch.tensor([[labels[0]], [labels[1]]]), windows, cut, iou)
    assert len(pairs) <= 1
    return pairs.tolist() == [[0, 1]]


def test_what_two_tiles_see_whole_is_one_object_by_its_rotated_iou():
    assert agreeing([90, 50, 30, 4, 80], [90, 50, 4, 30, -10])  # another name of the same
    assert not agreeing([90, 50, 4, 40, 10], [90, 50, 4, 40, -10])  # their hulls are the same
    assert not agreeing([90, 50, 30, 4, 80], [90, 50, 30, 4, 80], labels=(0, 1))
    assert not agreeing([90, 50, 30, 4, 80], [90, 50, 30, 4, 80], labels=(-1, -1))


def test_parts_of_one_object_agree_in_the_area_that_their_tiles_share():
    # a bar of 140 x 10 through both tiles, of which each sees a half: their IoU is 0.2
    assert agreeing([60, 44.4, 80, 10, 15], [118, 28.8, 80, 10, 15])
    assert not agreeing([60, 44.4, 80, 10, 15], [118, 42.8, 80, 10, 15])  # beside it
    # each tile guesses how far the object goes on where it sees nothing
    assert agreeing([75, 50, 60, 12, 20], [85, 46.4, 90, 12, 20])


def test_neighbours_in_a_row_of_turned_objects_stay_apart_though_their_hulls_do_not():
    assert not agreeing([84, 50, 60, 10, 45], [96, 50, 60, 10, 45])


def test_of_upright_boxes_the_rules_are_those_of_upright_detections():
    generator = torch.Generator().manual_seed(0)
    windows = torch.tensor(Tiling(100, 0.4).windows((200, 200)))
    corners = torch.rand(len(windows), 30, 2, generator=generator) * 80
    sides = torch.rand(len(windows), 30, 2, generator=generator) * 40 + 4
    low = corners + windows[:, None, :2]
    boxes = torch.cat([low, (low + sides).minimum(windows[:, None, 2:])], -1)
    scores, labels = torch.rand(boxes.shape[:2], generator=generator), torch.zeros(boxes.shape[:2], dtype=torch.int64)
    cut = may_be_cut(boxes, windows, (200, 200))
    expected = same_objects(boxes, scores, labels, windows, cut, 0.4)
    found = same_rotated(upright_rotated(boxes), scores, labels, windows, cut, 0.4)
    assert len(expected) > 20
    assert found.tolist() == expected.tolist()


def test_pairs_are_the_same_however_many_are_compared_at_a_time(monkeypatch):
    windows = torch.tensor(Tiling(60, 0.5).windows((100, 100)))
    boxes = random_rotated(25 * len(windows)).reshape(len(windows), 25, 5)
    labels, cut = torch.zeros(boxes.shape[:2], dtype=torch.int64), torch.ones(boxes.shape[:2], dtype=torch.bool)
    scores = torch.rand(boxes.shape[:2], generator=torch.Generator().manual_seed(0))
    every = same_rotated(boxes, scores, labels, windows, cut, 0.4)
    monkeypatch.setattr("boxwright.ops.rotated_tiling.MEETING_AT_ONCE", 7)
    monkeypatch.setattr("boxwright.ops.tiling.PAIRS_AT_ONCE", 700)
    assert len(every) > 50
    assert torch.equal(same_rotated(boxes, scores, labels, windows, cut, 0.4), every)


def test_the_box_around_several_covers_them_and_touches_them_on_every_side():
    boxes = random_rotated(6, 3)
    around = around_along(boxes, torch.tensor(33.0))
    assert float(around[4]) == 33
    torch.testing.assert_close(
        rotated_intersection(around[None], boxes)[0], boxes[:, 2] * boxes[:, 3], rtol=1e-4, atol=0
    )
    for side in (2, 3):
        smaller = around.clone()
        smaller[side] -= 0.5
        lost = boxes[:, 2] * boxes[:, 3] - rotated_intersection(smaller[None], boxes)[0]
        assert lost.max() > 1e-3
    one = random_rotated(1, 5)
    torch.testing.assert_close(around_along(one, one[0, 4])[None], one, atol=1e-3, rtol=0)


def test_a_box_that_ends_where_the_shared_area_begins_is_no_part_of_another() -> None:
    """It has no part there but the rounding of 0, of which any share would be more than a half."""
    windows = torch.tensor([[0, 0, 100, 100], [80, 0, 180, 100]])
    ends_at_80 = torch.tensor([64.38392639160156, 69.2278060913086, 14.059072494506836, 31.23215103149414, 90.0])
    further = torch.tensor([89.68621063232422, 70.10801696777344, 25.1980037689209, 19.812625885009766, 135.04104614])
    boxes, some = torch.stack([ends_at_80, further])[:, None], torch.ones(2, 1)
    found = same_rotated(boxes, some, some.long(), windows, some.bool(), 0.4)
    assert found.tolist() == []
