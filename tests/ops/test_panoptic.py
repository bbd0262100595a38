"""The panoptic merge: cases that are checked by eye."""

import torch

from boxwright.ops.mask_paste import Pasted
from boxwright.ops.panoptic import Segment, merge_segments


def strip(x1, x2):
    """Pixels from column x1 to x2 of the one row of the image."""
    return Pasted(x1, 0, torch.ones(1, x2 - x1, dtype=torch.bool))


def row(*labels):
    return torch.tensor([labels], dtype=torch.uint8)


STUFF = row(1, 1, 1, 1, 0, 0, 2, 2, 2, 1)


def test_things_come_first_by_score_and_stuff_takes_what_is_free():
    found, segments = merge_segments([strip(4, 6), strip(5, 8)], [0.6, 0.9], STUFF, min_stuff_area=1)
    assert found.tolist() == [[3, 3, 3, 3, 2, 1, 1, 1, 4, 3]]
    assert segments == [Segment(1, None, 3), Segment(0, None, 1), Segment(None, 1, 5), Segment(None, 2, 1)]
    assert found.dtype == torch.int32


def test_a_thing_of_which_more_than_half_is_taken_is_left_out():
    half, more = [strip(0, 4), strip(2, 6)], [strip(0, 4), strip(1, 6 - 1)]
    assert merge_segments(half, [0.9, 0.8], STUFF, min_stuff_area=99)[0].tolist() == [[1, 1, 1, 1, 2, 2, 0, 0, 0, 0]]
    assert merge_segments(more, [0.9, 0.8], STUFF, min_stuff_area=99)[0].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]]


def test_what_was_left_out_takes_nothing_from_those_behind_it():
    masks = [strip(0, 4), strip(1, 5), strip(4, 6)]
    assert merge_segments(masks, [0.9, 0.8, 0.7], STUFF, min_stuff_area=99)[0].tolist() == [
        [1, 1, 1, 1, 2, 2, 0, 0, 0, 0]
    ]


def test_scores_below_the_least_and_empty_masks_make_no_segment():
    empty = Pasted(0, 0, torch.zeros(1, 3, dtype=torch.bool))
    found, segments = merge_segments([empty, strip(0, 2)], [0.9, 0.49], STUFF, min_stuff_area=99)
    assert not found.any()
    assert segments == []
    assert len(merge_segments([strip(0, 2)], [0.5], STUFF, min_stuff_area=99)[1]) == 1


def test_small_stuff_things_and_unseen_pixels_stay_empty():
    found, segments = merge_segments([], [], row(1, 1, 1, 2, 0, 255), min_stuff_area=2)
    assert found.tolist() == [[1, 1, 1, 0, 0, 0]]
    assert segments == [Segment(None, 1, 3)]


def test_equal_scores_keep_their_order():
    found, _ = merge_segments([strip(0, 3), strip(2, 6)], [0.7, 0.7], STUFF, min_stuff_area=99)
    assert found.tolist() == [[1, 1, 1, 2, 2, 2, 0, 0, 0, 0]]
