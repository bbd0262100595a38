"""Training on tiles of rotated boxes: the share of each that a tile shows, and what is learnt, ignored or left out."""

from pathlib import Path

import pytest
import torch
from rotated_boxes import pixels, random_rotated

from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.records import Annotation, Record, Split
from boxwright.data.tiles import cut_ground_truth, cut_split, visible_rotated_shares
from boxwright.ops.rotated import rotated_hull
from boxwright.ops.tiling import Tiling
from boxwright.structures import Classes, GroundTruth

HW = (100, 180)
TILING = Tiling(100, 0.2)  # x from 0 to 100 and from 80 to 180


def split_of(*rotated, ignore=(), hw=HW):
    items = []
    for number, one in enumerate(rotated):
        hull = rotated_hull(torch.tensor(one).float()).tolist()
        items.append(Annotation(tuple(hull), 0, f"a.txt:{number}", ignore=number in ignore, rotated=tuple(one)))
    return Split("train", (Record(Path("a.png"), "a", hw, tuple(items), "a.txt"),), Classes.named(["ship"]))


def shown(split, **options):
    """The records of the tiles, and the ground truth of each."""
    cut, _ = cut_split(split, TILING, **{"min_visible": 0.3, "empty": 1.0, "rotated": True, **options})
    return cut.records, [ground_truth_of(record, record.stated_hw, rotated=True) for record in cut.records]


@pytest.mark.parametrize("seed", range(2))
def test_the_share_is_that_of_the_pixels_of_the_rectangle_within_the_image(seed):
    boxes = random_rotated(60, seed)
    boxes[:, 2:4] = boxes[:, 2:4].clamp(min=8)
    windows = Tiling(48, 0.2).windows((100, 100))
    shares = visible_rotated_shares(boxes, windows, (100, 100))
    own = pixels(boxes)  # of which there is nothing outside of the image
    seen = torch.stack([own[:, 4 * y1 : 4 * y2, 4 * x1 : 4 * x2].sum((1, 2)) for x1, y1, x2, y2 in windows])
    counted = seen / own.sum((1, 2))
    assert shares.shape == (9, 60)
    assert ((shares > 0.05) & (shares < 0.95)).sum() > 100
    large = own.sum((1, 2)) > 16 * 100
    assert (shares - counted)[:, large].abs().max() < 0.03
    assert (shares.amax(0) > 0).all()


def test_a_learnt_object_keeps_its_rectangle_and_its_hull_is_cut():
    bar = [90.0, 50, 120, 10, 30]  # 60 % of it lies to the left of x = 100
    records, (left, right) = shown(split_of(bar))
    assert [record.tile.window for record in records] == [(0, 0, 100, 100), (80, 0, 180, 100)]
    assert left.rotated.tolist() == [bar]
    assert right.rotated.tolist() == [[10, 50, 120, 10, 30]]
    assert not left.ignore.any()
    assert not right.ignore.any()
    for one in (left, right):
        torch.testing.assert_close(one.boxes, rotated_hull(one.rotated).clamp(0, 100))


def test_its_own_area_decides_not_that_of_its_hull():
    # two thin diagonals with the same hull, of which the last tile has 45 %: of one it shows a third, of one two thirds
    rising, falling = [90.0, 90, 80, 2, 45], [90.0, 90, 80, 2, -45]
    shares = visible_rotated_shares(torch.tensor([rising, falling]), [(80, 80, 180, 180)], (180, 180))[0]
    torch.testing.assert_close(shares, torch.tensor([0.354, 0.677]), atol=0.02, rtol=0)
    for one, share in ((rising, float(shares[0])), (falling, float(shares[1]))):
        whole = GroundTruth.of(rotated_hull(torch.tensor([one])), [0], rotated=[one])
        for least, ignored in ((share - 0.01, False), (share + 0.01, True)):
            assert cut_ground_truth(whole, (80, 80, 180, 180), (180, 180), least).ignore.tolist() == [ignored]
    split = split_of(falling, [150.0, 150, 20, 20, 0], hw=(180, 180))
    assert shown(split, min_visible=0.5)[1][-1].ignore.tolist() == [False, False]
    cut, _ = cut_split(split, TILING, min_visible=0.5, empty=1.0)  # a detector without angles goes by the hull
    assert ground_truth_of(cut.records[-1], (100, 100)).ignore.tolist() == [True, False]


def test_a_tile_in_a_corner_of_the_hull_shows_nothing():
    corner = [80.0, 80, 60, 4, 45]
    assert visible_rotated_shares(torch.tensor([corner]), [(50, 50, 70, 70)], (180, 180)).tolist() == [[0.0]]
    records, _ = shown(split_of([112.0, 92, 80, 2, 45], hw=(180, 180)), empty=9)  # past (100, 100)
    counts = {record.tile.window[:2]: len(record.annotations) for record in records}
    assert counts == {(0, 0): 0, (80, 0): 1, (0, 80): 1, (80, 80): 1}


def test_ignored_regions_and_tiles_without_an_object_are_counted_as_for_upright_boxes():
    records, truths = shown(split_of([90.0, 50, 120, 10, 30], [20.0, 80, 10, 5, 10], ignore=[0]), empty=0.0)
    assert [truth.ignore.tolist() for truth in truths] == [[True, False]]  # the right tile has none to learn
    records, truths = shown(split_of([90.0, 50, 120, 10, 30], [20.0, 80, 10, 5, 10], ignore=[0]))
    assert [truth.ignore.tolist() for truth in truths] == [[True, False], [True]]
    assert [len(record.annotations) for record in records] == [2, 1]


def test_corners_in_the_outline_and_upright_boxes_have_shares_too():
    outline = [[60.0, 20, 100, 20, 100, 40, 60, 40]]
    items = (
        Annotation((60.0, 20, 100, 40), 0, "a:1", segmentation=outline),
        Annotation((60.0, 60, 100, 80), 0, "a:2"),
        Annotation((30.0, 60, 90, 80), 0, "a:3"),
    )
    split = split_of()
    split = split.with_records((Record(Path("a.png"), "a", HW, items, "a"),))
    _, (left, right) = shown(split, min_visible=0.6)
    assert left.ignore.tolist() == [False, False, False]
    assert right.ignore.tolist() == [True, True, True]
    assert right.rotated.tolist() == [[0, 30, 40, 20, 0], [0, 70, 40, 20, 0], [-20, 70, 60, 20, 0]]


def test_an_object_at_the_border_of_the_image_counts_by_what_the_image_shows():
    half = [0.0, 50, 60, 20, 20]  # a half of it lies outside of the image
    whole = GroundTruth.of(rotated_hull(torch.tensor([half])).clamp(min=0), [0], rotated=[half])
    assert visible_rotated_shares(whole.rotated, [(0, 0, 100, 100)], HW).tolist() == [[1.0]]
    assert cut_ground_truth(whole, (0, 0, 100, 100), HW, min_visible=0.9).ignore.tolist() == [False]
