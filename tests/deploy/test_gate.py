"""The gate: what counts as the same, and that a file which finds something else is refused."""

from dataclasses import replace

import pytest
import torch

from boxwright.checkpoint import Checkpoint
from boxwright.deploy.export.gate import TOLERANCES, agreement, gate_images, prove, synthetic_images
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, CroppedMask, Detections

FP32 = TOLERANCES["fp32"]


def found(boxes, scores, labels, masks=None):
    return Detections(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(scores).float().reshape(-1),
                      torch.tensor(labels).long().reshape(-1), (60, 80), masks=masks)  # fmt: skip


BOXES = [[0, 0, 10, 10], [20, 20, 40, 50], [50, 5, 70, 30]]
ALL = found(BOXES, [0.9, 0.8, 0.7], [0, 1, 2])


def share(one, other, least=0.05, most=100):
    return agreement([one], [other], FP32, least, most).share


def test_a_list_agrees_with_itself_and_nothing_with_nothing():
    assert share(ALL, ALL) == 1.0
    assert share(found([], [], []), found([], [], [])) == 1.0


@pytest.mark.parametrize(
    "other",
    [
        found(BOXES[:2], [0.9, 0.8], [0, 1]),  # one is missing
        found([], [], []),
        found([[1, 0, 11, 10], *BOXES[1:]], [0.9, 0.8, 0.7], [0, 1, 2]),  # one lies elsewhere
        found(BOXES, [0.9, 0.8, 0.7], [0, 1, 1]),  # another class
        found(BOXES, [0.9, 0.8, 0.6], [0, 1, 2]),  # another score
        found([*BOXES, BOXES[0]], [0.9, 0.8, 0.7, 0.9], [0, 1, 2, 0]),  # the same twice
    ],
)
def test_what_differs_counts_on_both_sides(other):
    assert share(ALL, other) < FP32.share
    assert share(other, ALL) < FP32.share


def test_nearly_equal_scores_may_change_places():
    other = found([BOXES[1], BOXES[0], BOXES[2]], [0.8999, 0.8998, 0.7], [1, 0, 2])
    assert share(found(BOXES, [0.8999, 0.8997, 0.7], [0, 1, 2]), other) == 1.0


def test_a_detection_at_the_end_of_the_list_may_come_or_go():
    other = found([*BOXES, [0, 40, 9, 55]], [0.9, 0.8, 0.7, 0.0505], [0, 1, 2, 0])
    assert share(ALL, other) == 1.0
    assert share(ALL, other, least=0.01) < FP32.share
    full = found([*BOXES[:2], [0, 40, 9, 55]], [0.9, 0.8, 0.7002], [0, 1, 0])
    assert share(ALL, full, most=3) == 1.0  # the third place of three: whichever of two nearly equal ones
    assert share(ALL, full) < FP32.share


def test_masks_are_compared():
    whole = CroppedMask(0, 0, torch.ones(10, 10, dtype=torch.bool))
    half = CroppedMask(0, 0, torch.ones(5, 10, dtype=torch.bool))
    one, same, other = (found(BOXES[:1], [0.9], [0], masks=(mask,)) for mask in (whole, whole, half))
    assert share(one, same) == 1.0
    assert share(one, other) < FP32.share
    assert share(one, found(BOXES[:1], [0.9], [0])) < FP32.share


@pytest.fixture(scope="module")
def images():
    return gate_images(synthetic_images())


def test_images_are_of_mixed_sizes(images):
    assert len(images) >= 6
    assert len({tuple(image.shape) for image in images}) >= 3


def test_a_detector_that_finds_something_else_is_refused(detector, checkpoint_file, images):
    same = prove(detector, Detector.load(checkpoint_file, "cpu"), images, "fp32")
    assert same.share == 1.0
    assert same.asked > 100
    assert same.box_pixels < 1e-3
    other = Detector.load(checkpoint_file, "cpu")
    with torch.no_grad():
        other.engine.model.head.class_logits.bias += 0.1
    with pytest.raises(ValueError, match="does not find what the checkpoint finds"):
        prove(detector, other, images, "fp32")


def test_labels_of_pixels_are_compared_and_others_are_refused(images):
    def semantic(row):
        classes = Classes((), (), stuff=("sky", "road"))
        torch.manual_seed(0)
        model = MODELS["semantic_fpn"]
        recipe = load_recipe("semantic-fpn-small", ["model.semantic.num_classes=2", "model.fpn.channels=8"])
        weights = model.build(recipe.model, 0).state_dict()
        key = next(name for name in weights if name.endswith("predictor.bias"))
        weights[key] = torch.tensor(row)
        return Detector(Checkpoint(recipe, classes, weights), "cpu", precision="fp32")

    sky = prove(semantic([100.0, 0.0]), semantic([100.0, 0.0]), images, "fp32")
    assert (sky.labels, sky.asked) == (1, 0)
    with pytest.raises(ValueError, match=r"does not label pixels as the checkpoint does: of an image 0.0% have the"):
        prove(semantic([100.0, 0.0]), semantic([0.0, 100.0]), images, "fp32")


def test_keypoints_are_compared_where_detections_match():
    points = torch.tensor([[[2.0, 3, 0.5], [8, 9, 0.5]], [[25, 30, 0.5], [35, 45, 0.5]], [[55, 9, 0.5], [65, 25, 0.5]]])
    one = replace(ALL, keypoints=points)
    same = agreement([one], [replace(ALL, keypoints=points + 0.5)], FP32, 0.05, 100)
    assert (same.share, same.keypoints, same.keypoint_share) == (1, 6, 1)
    shifted = agreement([one], [replace(ALL, keypoints=points + 2)], FP32, 0.05, 100)
    assert (shifted.share, shifted.keypoint_share) == (1, 0)
    swapped = agreement([one], [replace(ALL, keypoints=points.flip(1))], FP32, 0.05, 100)
    assert swapped.keypoint_share == 0
    assert agreement([one], [ALL], FP32, 0.05, 100).keypoint_share == 0
    assert agreement([ALL], [ALL], FP32, 0.05, 100).keypoint_share == 1
