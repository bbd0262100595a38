"""Intersection over union of labels: counted by hand, added up over images, undefined where there is nothing."""

import pytest
import torch

from boxwright.evaluation.semantic_iou import label_confusion, semantic_iou

NAMES = ("sky", "road", "wall")


def test_figures_are_those_counted_by_hand():
    truth = torch.tensor([[0, 0, 0, 0], [1, 1, 255, 255]])
    found = torch.tensor([[0, 0, 0, 1], [1, 2, 0, 1]])
    result = semantic_iou(label_confusion(found, truth, 3), NAMES)
    assert result.per_class == {"sky": 3 / 4, "road": pytest.approx(1 / 3), "wall": None}
    assert result.per_class_accuracy == {"sky": 3 / 4, "road": 1 / 2, "wall": None}
    assert result.mean_iou == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert result.pixel_accuracy == pytest.approx(4 / 6)
    assert result.mean_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert result.frequency_weighted == pytest.approx((4 * 3 / 4 + 2 / 3) / 6)
    assert result.pixels == {"sky": 4, "road": 2, "wall": 0}


def test_two_images_are_one_image_of_both_and_not_the_mean_of_two():
    draw = torch.Generator().manual_seed(0)
    truth, found = (torch.randint(0, 3, (2, 5, 7), generator=draw) for _ in range(2))
    parts = [label_confusion(one, other, 3) for one, other in zip(found, truth, strict=True)]
    whole = label_confusion(found.reshape(10, 7), truth.reshape(10, 7), 3)
    assert torch.equal(parts[0] + parts[1], whole)
    assert semantic_iou(whole, NAMES).mean_iou == pytest.approx(semantic_iou(whole * 5, NAMES).mean_iou)


def test_a_pixel_without_a_prediction_is_missed_and_nobody_is_charged_with_it():
    result = semantic_iou(label_confusion(torch.tensor([[0, 255]]), torch.tensor([[0, 0]]), 3), NAMES)
    assert result.per_class["sky"] == 1 / 2
    assert result.pixel_accuracy == 1 / 2


def test_equal_maps_are_perfect_and_nothing_is_undefined():
    truth = torch.tensor([[0, 1], [2, 255]])
    assert semantic_iou(label_confusion(truth, truth, 3), NAMES).mean_iou == 1
    nothing = semantic_iou(label_confusion(truth, torch.full((2, 2), 255), 3), NAMES)
    assert (nothing.mean_iou, nothing.pixel_accuracy, nothing.frequency_weighted) == (None, None, None)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"predicted \(1, 2\), ground truth \(2, 2\)"):
        label_confusion(torch.zeros(1, 2), torch.zeros(2, 2), 3)
    with pytest.raises(ValueError, match="true label 7, but the number of labels is 3"):
        label_confusion(torch.zeros(1, 1), torch.full((1, 1), 7), 3)
