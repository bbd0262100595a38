"""AP of rotated boxes: the overlap is theirs, everything else is COCO's."""

import pytest
import torch

from boxwright.evaluation.coco_ap import coco_ap
from boxwright.evaluation.matching import gather, match
from boxwright.evaluation.summary import evaluate_detections, headline
from boxwright.evaluation.voc_ap import voc_ap
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


def crossing():
    turned = LONG.clone()
    turned[:, 4] = -45
    return turned


def test_voc_ap_and_the_table_are_by_rotated_overlap_as_in_dota():
    for rotated, expected in ((LONG, 1.0), (crossing(), 0.0)):
        result = voc_ap([found(rotated)], [ground_truth(LONG)], CLASSES, plus_one=True)
        assert result.mean_ap == pytest.approx(expected)
        assert "The overlap is that of rotated boxes, as in DOTA." in result.notes
        assert match(gather([found(rotated)], [ground_truth(LONG)]), 1).hit.tolist() == [bool(expected)]
    evaluation = evaluate_detections([found(crossing())] * 2, [ground_truth(LONG)] * 2, CLASSES)
    assert (evaluation.figures["AP50"], evaluation.figures["rotated_AP50"]) == (1, 0)
    assert (evaluation.figures["AP50_interval"], evaluation.figures["rotated_AP50_interval"]) == ([1, 1], [0, 0])
    assert evaluation.figures["best_f1"] is None
    assert "by the overlap of rotated boxes" in evaluation.notes[-1]


def test_an_ignored_rotated_object_is_no_hit_and_no_miss_in_voc_ap():
    both = torch.cat([LONG, torch.tensor([[40.0, 40, 30, 10, 10]])])
    result = voc_ap([found(both)], [ground_truth(both, [True, False])], CLASSES)
    assert result.mean_ap == pytest.approx(1.0)
    assert result.classes["ship"].objects == 1


def test_sets_of_which_some_have_no_angles_are_matched_by_upright_boxes():
    upright = Detections(rotated_hull(crossing()), torch.tensor([0.9]), torch.tensor([0]), HW, CLASSES)
    assert gather([upright], [ground_truth(LONG)]).rotated is None
    assert match(gather([upright], [ground_truth(LONG)]), 1).hit.tolist() == [True]
    several = gather([found(torch.cat([LONG, crossing()]))], [ground_truth(LONG)]).above(0.8)
    assert len(several.rotated) == 1
    assert several.keeping(several.scores > 0, several.ground_truth_labels > 0).ground_truth_rotated.shape == (0, 5)


def test_boxes_without_angles_are_refused():
    upright = Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.5]), torch.tensor([0]), HW, CLASSES)
    with pytest.raises(ValueError, match="AP of rotated boxes needs them in the ground truth and in the detections"):
        ap(upright, ground_truth(LONG))
