"""Matching by COCO's rule, curves, the best threshold and the confusion matrix, on sets checked by eye."""

import numpy as np
import pytest
import torch

from boxwright.evaluation import matching
from boxwright.evaluation.bootstrap import bootstrap_ap
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.evaluation.curves import best_threshold, curves_of, mean_over_classes, score_curves
from boxwright.evaluation.matching import confusion_matrix, gather, match
from boxwright.structures import Classes, Detections, GroundTruth


def found(boxes, scores, labels):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores), torch.tensor(labels, dtype=torch.int64), (99, 99))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_equals_coco_at_every_overlap(random_set, seed, ties):
    detections, ground_truths = random_set(seed, ties=ties, crowd=0.2)
    for iou in (0.5, 0.75):
        expected = coco_ap(detections, ground_truths, Classes.named("abc"), iou_thresholds=[iou]).per_class
        got = score_curves(detections, ground_truths, 3, iou=iou).average_precision
        np.testing.assert_allclose(got, list(expected.values()), rtol=0, atol=1e-12)


def test_portions_do_not_change_the_pairs(random_set, monkeypatch):
    gathered = gather(*random_set(3, most=20))
    whole = matching.candidate_pairs(gathered, 0.3)
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 7)
    for ours, theirs in zip(matching.candidate_pairs(gathered, 0.3), whole, strict=True):
        assert sorted(ours.tolist()) == sorted(theirs.tolist())
    assert len(whole[0]) > 50


def test_second_best_object_is_taken_when_the_best_is_gone():
    ground_truth = GroundTruth.of([[0, 0, 10, 10], [0, 2, 10, 12]], [0, 0])
    matches = match(gather([found([[0, 0, 10, 10], [0, 0.5, 10, 10.5]], [0.9, 0.8], [0, 0])], [ground_truth]), 1)
    assert matches.ground_truth.tolist() == [0, 1]


def test_any_number_of_detections_may_lie_on_a_crowd():
    ground_truth = GroundTruth.of([[0, 0, 80, 80], [0, 0, 10, 10]], [0, 0], [True, False])
    matches = match(gather([found([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], [0.9, 0.8, 0.7], [0] * 3)],
                           [ground_truth]), 1)  # fmt: skip
    assert matches.hit.tolist() == [True, False, False]
    assert matches.ignored.tolist() == [False, True, True]
    assert matches.totals.tolist() == [1]


def test_labels_part_unless_class_agnostic():
    gathered = gather([found([[0, 0, 10, 10]], [0.9], [1])], [GroundTruth.of([[0, 0, 10, 10]], [0])])
    assert not match(gathered, 2).hit.any()
    assert match(gathered, 2, class_agnostic=True).hit.all()


def test_curves_by_hand():
    # Two objects; a hit at 0.9, a false alarm at 0.6, a hit at 0.3.
    ground_truth = GroundTruth.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])
    detections = [found([[0, 0, 10, 10], [30, 30, 40, 40], [50, 50, 60, 60]], [0.9, 0.6, 0.3], [0, 0, 0])]
    curves = score_curves(detections, [ground_truth], 2)
    at = {score: int(np.flatnonzero(np.isclose(curves.scores, score))[0]) for score in (0.2, 0.5, 0.8, 0.95)}
    assert [curves.precision[0, at[s]] for s in at] == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert [curves.recall[0, at[s]] for s in at] == pytest.approx([1, 1 / 2, 1 / 2, 0])
    assert [curves.f1[0, at[s]] for s in at] == pytest.approx([4 / 5, 1 / 2, 2 / 3, 0])
    assert np.isnan(curves.f1[1]).all()  # a class without ground truth has no curve
    best = best_threshold(curves)
    assert best.f1 == pytest.approx(4 / 5)
    assert 0 <= best.score <= 0.3
    assert len(detections[0].above(best.score)) == 3


def test_a_detection_at_the_threshold_is_kept():
    curves = score_curves([found([[0, 0, 10, 10]], [0.5], [0])], [GroundTruth.of([[0, 0, 10, 10]], [0])], 1)
    assert curves.recall[0, 500] == 1
    assert curves.recall[0, 501] == 0


def test_best_threshold_without_a_hit_is_none():
    assert best_threshold(score_curves([found([], [], [])], [GroundTruth.of([[0, 0, 9, 9]], [0])], 1)) is None
    assert best_threshold(score_curves([found([], [], [])], [GroundTruth.empty()], 1)) is None
    assert mean_over_classes(np.full((2, 3), np.nan)).tolist() == [0, 0, 0]


def test_confusion_matrix_by_hand():
    ground_truth = GroundTruth.of(
        [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 90, 90]], [0, 1, 1, 0], [False] * 3 + [True]
    )
    detections = found(
        # right; wrong class; on the ignored object; where nothing is; too unsure
        [[0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 90, 90], [0, 80, 9, 89], [40, 40, 50, 50]],
        [0.9, 0.8, 0.7, 0.6, 0.1],
        [0, 0, 1, 1, 1],
    )
    matrix = confusion_matrix([detections], [ground_truth], 2, score_threshold=0.25)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_confusion_of_one_box_with_two_labels_goes_to_the_surer():
    both = found([[0, 0, 10, 10], [0, 0, 10, 10]], [0.6, 0.9], [0, 1])
    matrix = confusion_matrix([both], [GroundTruth.of([[0, 0, 10, 10]], [1])], 2)
    assert matrix.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_confusion_counts_every_object_and_detection_once(random_set):
    detections, ground_truths = random_set(7, crowd=0)
    matrix = confusion_matrix(detections, ground_truths, 3, score_threshold=0)
    assert matrix[:-1].sum() == sum(len(d) for d in detections)
    assert matrix[:, :-1].sum() == sum(len(t) for t in ground_truths)


def test_bootstrap_interval_holds_the_figure_and_narrows_with_images(random_set):
    widths = []
    for images in (10, 160):
        matches = match(gather(*random_set(1, images=images)), 3)
        low, high = bootstrap_ap(matches)
        assert 0 <= low <= np.nanmean(curves_of(matches).average_precision) <= high <= 1
        assert bootstrap_ap(matches) == (low, high)  # the seed is fixed
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert bootstrap_ap(match(gather([found([], [], [])], [GroundTruth.empty()]), 1)) == (0.0, 0.0)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 detection with a score that is not a number"):
        gather([found([[0, 0, 9, 9]], [float("nan")], [0])], [GroundTruth.empty()])
