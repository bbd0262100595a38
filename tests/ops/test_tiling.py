"""Cutting into tiles: every pixel is in one, neighbours share what they should, and what cannot be is refused."""

from itertools import pairwise

import pytest
import torch

from boxwright.ops.tiling import Tiling, may_be_cut, same_objects


@pytest.mark.parametrize("hw", [(100, 100), (64, 64), (40, 300), (641, 65), (1000, 777)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
def test_tiles_of_one_size_cover_every_pixel_and_overlap_as_much_as_asked(hw, overlap):
    tiling = Tiling(64, overlap)
    windows = tiling.windows(hw)
    seen = torch.zeros(hw, dtype=torch.int64)
    for x1, y1, x2, y2 in windows:
        assert (y2 - y1, x2 - x1) == tiling.tile_hw(hw)
        seen[y1:y2, x1:x2] += 1
    assert (seen > 0).all()
    assert len(windows) == len(set(windows)) == tiling.count(hw)
    for low, high in ((0, 2), (1, 3)):
        ends = sorted({(window[low], window[high]) for window in windows})
        shared = [before[1] - after[0] for before, after in pairwise(ends)]
        assert all(pixels >= int(64 * overlap) for pixels in shared)


def test_an_image_no_larger_than_a_tile_is_one_tile():
    assert Tiling(64).windows((64, 30)) == [(0, 0, 30, 64)]


def test_no_more_tiles_than_needed():
    assert Tiling(100, 0.0).count((100, 300)) == 3
    assert Tiling(100, 0.2).count((100, 260)) == 3  # 100 + 2 * 80


@pytest.mark.parametrize(
    ("size", "overlap", "sentence"),
    [
        (8, 0.2, "tiles: expected a side of at least 16 pixels, got 8"),
        (640, -0.1, "overlap: expected a share of the tile from 0 to 0.9, got -0.1"),
        (640, 1.0, "from 0 to 0.9, got 1"),
        (640, float("nan"), "from 0 to 0.9, got nan"),
        (640, 128, "from 0 to 0.9, got 128; 128 of 640 pixels are 0.2"),
        (100, 200, "got 200, which in pixels would be more than the tile of 100"),
    ],
)
def test_tiles_that_cannot_be_are_refused_with_a_sentence(size, overlap, sentence):
    with pytest.raises(ValueError, match=sentence):
        Tiling(size, overlap)


def test_only_borders_inside_the_image_cut():
    windows = torch.tensor([[0, 0, 100, 100], [80, 0, 180, 100]])
    boxes = torch.tensor([[0.0, 0, 50, 50], [60, 0, 100, 50], [90, 0, 180, 100]])
    cut = may_be_cut(boxes.expand(2, 3, 4), windows, (100, 180))
    assert cut.tolist() == [[False, True, True], [True, True, False]]


def agree(one, two, labels=(0, 0), iou=0.6):
    """Whether a detection of the left tile and one of the right are one object; the tiles share x from 80 to 100."""
    windows = torch.tensor([[0, 0, 100, 100], [80, 0, 180, 100]])
    boxes = torch.tensor([[one], [two]], dtype=torch.float32)
    cut = may_be_cut(boxes, windows, (100, 180))
    pairs = same_objects(boxes, torch.ones(2, 1), torch.tensor([[labels[0]], [labels[1]]]), windows, cut, iou)
    assert len(pairs) <= 1
    return pairs.tolist() == [[0, 1]]


def test_what_two_tiles_see_whole_is_one_object_by_its_iou():
    assert agree([83, 10, 95, 40], [83, 10, 95, 40])
    assert not agree([83, 10, 90, 40], [88, 10, 95, 40])
    assert not agree([83, 10, 95, 40], [83, 10, 95, 40], labels=(0, 1))
    assert not agree([83, 10, 95, 40], [83, 10, 95, 40], labels=(-1, -1))


def test_parts_of_one_object_agree_in_the_area_that_their_tiles_share():
    assert agree([20, 10, 100, 60], [80, 10, 160, 60])  # longer than the overlap: cut in both, IoU 0.14
    assert agree([20, 10, 100, 60], [80, 11, 150, 58])
    assert not agree([20, 10, 100, 40], [80, 50, 160, 90])  # one above the other
    assert agree([95, 10, 100, 60], [95, 10, 160, 60])  # a sliver of what the other tile sees whole
    assert agree([92, 12, 100, 50], [86, 10, 160, 60])  # badly placed: more than half of it is inside


def test_a_whole_object_in_front_of_one_that_is_cut_stays():
    assert not agree([84, 20, 94, 30], [80, 10, 160, 60])
