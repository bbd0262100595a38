"""Panoptic quality: hand-made cases of its definition, and what panopticapi says of made-up images."""

import numpy as np
import pytest
import torch

from boxwright.data.segments import Segments, segments_of
from boxwright.evaluation.panoptic_quality import PanopticCounts, panoptic_counts, panoptic_quality
from boxwright.evaluation.pixel_counts import pixel_counts
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth
from boxwright.structures.panoptic import Panoptic, PanopticSegment

CLASSES = Classes(("cat", "dog"), (17, 18), stuff=("sky", "road"))
CAT, DOG, SKY, ROAD = range(4)


def segments(rows, labels, crowd=()):
    """Segments of a map written as text: a digit is the number of a segment, a point is nothing."""
    plane = torch.tensor([[0 if cell == "." else int(cell) for cell in row] for row in rows.split()], dtype=torch.int32)
    return Segments(plane, tuple(labels), tuple(number in crowd for number in range(1, len(labels) + 1)))


def quality(found, truth):
    return panoptic_quality(panoptic_counts(found, truth, 4), CLASSES.names, CLASSES.stuff)


TRUTH = segments("1122 1122 3333 3333", [CAT, CAT, SKY])


def test_the_truth_itself_is_found_wholly_and_nothing_is_found_not_at_all():
    same = quality(TRUTH, TRUTH)
    assert (same.all.pq, same.things.pq, same.stuff.pq) == (1, 1, 1)
    assert same.per_class["dog"].pq is None
    assert same.segments == {"cat": 2, "dog": 0, "sky": 1, "road": 0}
    nothing = quality(segments(".... .... .... ....", []), TRUTH)
    assert (nothing.all.pq, nothing.all.sq, nothing.all.rq, nothing.all.num_classes) == (0, 0, 0, 2)


def test_the_sum_of_overlaps_is_divided_by_matches_and_half_of_what_is_wrong():
    # the first cat is 3 of 4 pixels; the second is called a dog; the sky has one pixel more
    found = segments("1322 1122 3333 3333", [CAT, DOG, SKY])
    result = quality(found, TRUTH)
    assert result.per_class["cat"].sq == pytest.approx(3 / 4)
    assert result.per_class["cat"].rq == pytest.approx(1 / (1 + 0.5))
    assert result.per_class["cat"].pq == pytest.approx(3 / 4 / 1.5)
    assert result.per_class["dog"].pq == 0
    assert result.per_class["sky"].pq == pytest.approx(8 / 9)
    assert result.things.pq == pytest.approx((0.5 + 0) / 2)
    assert result.all.pq == pytest.approx((0.5 + 0 + 8 / 9) / 3)


def test_half_is_no_match_and_a_little_more_is():
    truth = segments("1111", [CAT])
    half = panoptic_counts(segments("11..", [CAT]), truth, 4)
    assert (half.matched.sum(), half.false_positives.sum(), half.missed.sum()) == (0, 1, 1)
    more = panoptic_counts(segments("111.", [CAT]), truth, 4)
    assert (more.matched.sum(), more.false_positives.sum(), more.missed.sum()) == (1, 0, 0)
    assert more.iou[CAT] == 0.75


def test_pixels_of_nothing_in_the_truth_count_for_nothing():
    truth = segments("11....", [CAT])
    beyond = quality(segments("111111", [CAT]), truth)
    assert beyond.per_class["cat"].pq == 1  # its other pixels are left out of the union
    alone = panoptic_counts(segments("112222", [CAT, DOG]), truth, 4)
    assert alone.false_positives.sum() == 0
    mostly = panoptic_counts(segments("122222", [CAT, DOG]), segments("11111.", [CAT]), 4)
    assert mostly.false_positives.tolist() == [1, 1, 0, 0]


def test_a_crowd_need_not_be_found_and_excuses_its_own_class_only():
    truth = segments("1111222.", [CAT, SKY], crowd={1})
    found = panoptic_counts(segments("11332222", [CAT, SKY, DOG]), truth, 4)
    assert found.missed.sum() == 0
    assert found.false_positives.tolist() == [0, 1, 0, 0]
    assert found.matched.tolist() == [0, 0, 1, 0]


def test_images_add_up_and_maps_of_other_sizes_are_refused():
    one = panoptic_counts(segments("1322 1122 3333 3333", [CAT, DOG, SKY]), TRUTH, 4)
    twice = PanopticCounts.none(4) + one + one
    assert panoptic_quality(twice, CLASSES.names, CLASSES.stuff).all == panoptic_quality(one, *_names()).all
    with pytest.raises(ValueError, match=r"panoptic maps: predicted \(1, 4\), ground truth \(4, 4\)"):
        panoptic_counts(segments("1111", [CAT]), TRUTH, 4)


def _names():
    return CLASSES.names, CLASSES.stuff


def made_up(seed, height=40, width=50):
    """Segments of an image with nothing and, sometimes, a crowd of cats; and such as a model might find for it."""
    random = np.random.default_rng(seed)
    plane = np.zeros((height, width), np.int32)
    plane[: height // 2], plane[height // 2 :, : width * 3 // 4] = 1, 2
    labels = [SKY, ROAD]
    for _ in range(6):
        y, x, h, w = random.integers(0, height - 8), random.integers(0, width - 8), *random.integers(3, 16, 2)
        labels.append(int(random.integers(2)))
        plane[y : y + h, x : x + w] = len(labels)
    found, guesses = plane.copy(), [label if random.random() < 0.8 else (label + 1) % 4 for label in labels]
    found = np.roll(found, random.integers(-2, 3, 2), (0, 1))
    y, x = random.integers(0, height - 8), random.integers(0, width - 8)
    found[y : y + 8, x : x + 8] = len(guesses) + 1
    guesses.append(CAT)
    crowd = {labels.index(CAT) + 1} if CAT in labels and seed % 2 else set()
    return _dense(found, guesses, set()), _dense(plane, labels, crowd)


def _dense(plane, labels, crowd):
    """Segments numbered from 1 without those that have no pixel."""
    numbers = [number for number in np.unique(plane).tolist() if number]
    table = np.zeros(plane.max() + 1, np.int32)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return Segments(
        torch.from_numpy(table[plane]), tuple(labels[n - 1] for n in numbers), tuple(n in crowd for n in numbers)
    )


RECORDED = {
    "all": (0.3435814934130336, 0.7463289909185234, 0.4695463575326275),
    "things": (0.2017718188035787, 0.7659658510956673, 0.2698380566801619),
    "stuff": (0.48539116802248855, 0.7266921307413796, 0.6692546583850931),
}
"""What panopticapi's `pq_compute` gives for the made-up images of seeds 0 to 11: PQ, SQ, RQ of all, things, stuff."""


def test_made_up_images_have_the_figures_of_panopticapi():
    counts = PanopticCounts.none(4)
    for seed in range(12):
        counts = counts + panoptic_counts(*made_up(seed), 4)
    result = panoptic_quality(counts, *_names())
    for name, expected in RECORDED.items():
        one = getattr(result, name)
        assert (one.pq, one.sq, one.rq) == pytest.approx(expected, abs=1e-9), name
    assert {*RECORDED} == {"all", "things", "stuff"}


def test_detections_and_ground_truth_become_segments():
    semantic = torch.tensor([[1, 1, 1, 255], [0, 0, 1, 0], [2, 0, 2, 2]], dtype=torch.uint8)
    mask = CroppedMask(0, 1, torch.tensor([[True, True], [False, True]]))
    hidden = CroppedMask(0, 1, torch.tensor([[True]]))
    truth = GroundTruth.of([[0, 1, 1, 2], [0, 1, 2, 3]], [1, 0], masks=[hidden, mask], semantic=semantic)
    assert segments_of(truth, CLASSES).map.tolist() == [[2, 2, 2, 0], [1, 1, 2, 0], [3, 1, 3, 3]]
    assert segments_of(truth, CLASSES).labels == (CAT, SKY, ROAD)
    plane = torch.tensor([[5, 5, 5, 5], [2, 2, 5, 5], [9, 2, 9, 9]], dtype=torch.int32)
    parts = (
        PanopticSegment(2, 0, True, 0.9, 0, 3), PanopticSegment(5, 0, False, None, None, 6),
        PanopticSegment(9, 1, False, None, None, 3),
    )  # fmt: skip
    found = Detections(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (3, 4), CLASSES,
        semantic=semantic, panoptic=Panoptic(plane, parts),
    )  # fmt: skip
    figures = pixel_counts(found, truth, CLASSES).figures(CLASSES).figures()
    assert (figures["PQ"], figures["PQ_things"], figures["mIoU"]) == (1, 1, 1)
    assert pixel_counts(found, GroundTruth.of([], []), CLASSES) is None
    with pytest.raises(ValueError, match="expected ground truth with a semantic map and masks"):
        segments_of(GroundTruth.of([[0, 0, 2, 2]], [0], semantic=semantic), CLASSES)
