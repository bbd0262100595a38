"""AP of rotated boxes: the overlap is theirs, everything else is COCO's."""

import pytest
import torch

from boxwright.evaluation.coco_ap import coco_ap
from boxwright.evaluation.summary import evaluate_detections, headline
from boxwright.ops.rotated import rotated_hull
from boxwright.structures import Classes, Detections, GroundTruth

CLASSES = Classes.named(["ship"])
HW = (200, 200)
LONG = torch.tensor([[100.0, 100, 120, 20, 45]])


def found(rotated, scores=None):
    scores = torch.linspace(0.9, 0.5, len(rotated)) if scores is None else torch.tensor(scores)
    labels = torch.zeros(len(rotated), dtype=torch.int64)
    return Detections(rotated_hull(rotated), scores, labels, HW, CLASSES, rotated=rotated)


def ground_truth(rotated, ignore=None):
    return GroundTruth.of(rotated_hull(rotated), [0] * len(rotated), ignore, rotated=rotated)


def ap(one, other, **settings):
    return coco_ap([one], [other], CLASSES, kind="rotated", **settings)


def test_the_same_box_is_found_and_the_crossing_one_is_not():
    """Both have the same hull, so that AP of upright boxes is 1 in both cases."""
    crossing = LONG.clone()
    crossing[:, 4] = -45
    for rotated, expected in ((LONG, 1.0), (crossing, 0.0)):
        one = found(rotated)
        assert ap(one, ground_truth(LONG)).ap == pytest.approx(expected)
        assert coco_ap([one], [ground_truth(LONG)], CLASSES).ap == pytest.approx(1.0)


def test_the_overlap_decides_at_which_thresholds_it_counts():
    shorter = LONG.clone()
    shorter[:, 2] *= 0.72  # inside of the other: IoU 0.72, so found at 0.5 to 0.7
    result = ap(found(shorter), ground_truth(LONG))
    assert result.ap50 == pytest.approx(1.0)
    assert result.ap75 == pytest.approx(0.0)
    assert result.ap == pytest.approx(0.5)


def test_a_box_in_an_ignored_region_is_neither_hit_nor_miss():
    region = torch.tensor([[50.0, 50, 90, 90, 30]])
    inside = torch.tensor([[50.0, 50, 20, 10, 30]])
    both = torch.cat([inside, LONG])
    wanted = ground_truth(torch.cat([region, LONG]), [True, False])
    assert ap(found(both), wanted).ap == pytest.approx(1.0)
    assert ap(found(both), ground_truth(LONG)).ap < 1


def test_areas_are_those_of_the_rotated_boxes():
    thin = torch.tensor([[100.0, 100, 100, 5, 45]])  # 500 square pixels: small; its hull is large
    result = ap(found(thin), ground_truth(thin))
    assert result.ap_small == pytest.approx(1.0)
    assert result.ap_medium is None
    assert coco_ap([found(thin)], [ground_truth(thin)], CLASSES).ap_small is None


def test_it_stands_beside_ap_of_upright_boxes_in_every_report():
    evaluation = evaluate_detections([found(LONG)], [ground_truth(LONG)], CLASSES)
    assert evaluation.figures["rotated_AP"] == pytest.approx(1.0)
    assert any("rotated_AP 1.0000" in line for line in headline(evaluation))
    upright = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), HW, CLASSES)
    assert "rotated_AP" not in evaluate_detections([upright], [ground_truth(LONG)], CLASSES).figures


def test_boxes_without_angles_are_refused():
    upright = Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.5]), torch.tensor([0]), HW, CLASSES)
    with pytest.raises(ValueError, match="AP of rotated boxes needs them in the ground truth and in the detections"):
        ap(upright, ground_truth(LONG))
