"""Cityscapes's AP: cases small enough to count by hand, by the rules of cityscapesScripts."""

import pytest
import torch

from boxwright.evaluation.cityscapes_ap import cityscapes_ap
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.evaluation.summary import evaluate_detections, headline
from boxwright.ops.masks import encode_rle
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth

NAMES = Classes(("person", "car"), (24, 26))
HW = (60, 100)
Box = tuple[int, int, int, int]
ONE: Box = (10, 10, 30, 30)
TWO: Box = (50, 10, 70, 30)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> CroppedMask:
    return CroppedMask(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool))


def truth(*rows: tuple[Box, int, bool]) -> GroundTruth:
    """Objects as box, label and whether it is a group."""
    return GroundTruth.of(
        [box for box, _, _ in rows], [label for _, label, _ in rows], [group for _, _, group in rows],
        [rectangle(*box) for box, _, _ in rows],
    )  # fmt: skip


def found(*rows: tuple[Box, float], label: int = 1) -> Detections:
    boxes = torch.tensor([box for box, _ in rows], dtype=torch.float32).reshape(-1, 4)
    scores, labels = torch.tensor([score for _, score in rows]), torch.full((len(rows),), label)
    return Detections(boxes, scores, labels, HW, NAMES, tuple(rectangle(*box) for box, _ in rows))


def ap50(detections: Detections, ground_truth: GroundTruth, void: CroppedMask | None = None) -> float | None:
    plane = torch.zeros(HW, dtype=torch.bool)
    if void is not None:
        void.draw(plane)
    return cityscapes_ap([detections], [ground_truth], NAMES, [encode_rle(plane)]).per_class_ap50["car"]


CARS = truth((ONE, 1, False), (TWO, 1, False))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(ONE, 0.9), (TWO, 0.8)], 1.0),
        ([], 0.0),
        ([((80, 40, 90, 50), 0.9)], 0.0),
        # the curve is (recall, precision) = (1/2, 1), from its artificial beginning (0, 1): a half
        ([(ONE, 0.9)], 0.5),
        # from the lowest score up: (1, 2/3), (1/2, 1/2), (0, 0), and at the beginning again 0; a point weighs half the
        # recall between its neighbours: 2/3 * 1/4 + 1/2 * 1/2 + 0
        ([((80, 40, 90, 50), 0.9), (ONE, 0.8), (TWO, 0.7)], 2 / 3 / 4 + 1 / 2 / 2),
        # a second detection of a car is wrong, whichever comes first: (1/2, 1/2), (1/2, 1), and (0, 1)
        ([(ONE, 0.8), (ONE, 0.9)], 1 / 2 * 0 + 1 * 1 / 4 + 1 * 1 / 4),
    ],
)
def test_the_area_under_the_curve_is_that_of_the_definition(rows: list[tuple[Box, float]], expected: float) -> None:
    assert ap50(found(*rows), CARS) == pytest.approx(expected)


def test_an_overlap_of_exactly_the_threshold_is_none() -> None:
    half = (10, 10, 30, 20)  # 200 of 400 pixels
    one = truth((ONE, 1, False))
    assert ap50(found((half, 0.9)), one) == 0
    assert coco_ap([found((half, 0.9))], [one], NAMES, kind="masks").per_class_ap50["car"] == pytest.approx(1)
    assert ap50(found(((10, 10, 30, 21), 0.9)), one) == pytest.approx(1)


WRONG: Box = (70, 34, 90, 54)


@pytest.mark.parametrize(
    ("group", "label", "counts"),
    [
        (WRONG, 1, False),
        ((70, 34, 90, 45), 1, False),
        ((70, 34, 90, 44), 1, True),  # half is not more than half
        ((70, 34, 74, 53), 1, True),
        ((70, 34, 74, 58), 1, True),
        ((70, 34, 83, 41), 1, True),  # below 100 pixels a group counts twice: 182 of 400
        (WRONG, 0, True),
    ],
)
def test_a_detection_mostly_on_a_group_of_its_class_does_not_count(group: Box, label: int, counts: bool) -> None:
    """Where the wrong one, which is the best, counts, the curve is (1, 1/2), (0, 0), (0, 0): a half of a half."""
    rows = truth((ONE, 1, False), (group, label, True))
    assert ap50(found((WRONG, 0.9), (ONE, 0.8)), rows) == pytest.approx(0.25 if counts else 1)


def test_a_detection_mostly_on_void_or_on_a_small_object_does_not_count() -> None:
    wrong, one = ((80, 40, 90, 50), 0.9), truth((ONE, 1, False))
    assert ap50(found(wrong, (ONE, 0.8)), one) == pytest.approx(0.25)
    assert ap50(found(wrong, (ONE, 0.8)), one, rectangle(80, 40, 90, 46)) == pytest.approx(1)
    assert ap50(found(wrong, (ONE, 0.8)), one, rectangle(80, 40, 90, 45)) == pytest.approx(0.25)  # half is not more
    small = truth((ONE, 1, False), ((80, 40, 89, 50), 1, False))  # 90 pixels
    assert ap50(found(wrong, (ONE, 0.8)), small) == pytest.approx(1)
    assert ap50(found((ONE, 0.8)), small) == pytest.approx(1)  # nor does it count as missed


def test_classes_without_an_object_are_undefined_and_figures_have_the_usual_names() -> None:
    result = evaluate_detections(
        [found((ONE, 0.9), (TWO, 0.8))], [CARS], NAMES, metric="cityscapes", voids=[None]
    )  # fmt: skip
    assert (result.figures["metric"], result.figures["AP"], result.figures["AP50"]) == ("cityscapes", 1, 1)
    assert result.figures["per_class"] == {"person": None, "car": 1}
    assert result.notes == ("Without an object of 100 pixels, so left out of the mean: person.",)
    assert headline(result)[0] == "AP 1.0000  AP50 1.0000 (masks, by Cityscapes's definition)"
    nothing = cityscapes_ap([found()], [GroundTruth.empty()], NAMES, [None])
    assert (nothing.ap, nothing.ap50) == (None, None)


def test_other_data_is_refused_with_one_sentence() -> None:
    with pytest.raises(ValueError, match="metric cityscapes is for masks on Cityscapes data"):
        evaluate_detections([found((ONE, 0.9))], [CARS], NAMES, metric="cityscapes")
    bare = GroundTruth.of([ONE], [1])
    with pytest.raises(ValueError, match="metric cityscapes is for masks on Cityscapes data"):
        evaluate_detections([found((ONE, 0.9))], [bare], NAMES, metric="cityscapes", voids=[None])
    with pytest.raises(ValueError, match="image 0: AP of Cityscapes needs masks"):
        cityscapes_ap([found((ONE, 0.9))], [bare], NAMES, [None])
    with pytest.raises(ValueError, match="detections of 1 images, ground truth of 1 and void pixels of 0"):
        cityscapes_ap([found((ONE, 0.9))], [CARS], NAMES, [])
