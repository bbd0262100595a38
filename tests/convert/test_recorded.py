"""The recorded cases of Detectron2 and AdelaiDet: same detections, batched and alone, and same training losses."""

from dataclasses import replace

import pytest
import torch

from boxwright.convert.export import export_state
from boxwright.convert.files import convert_state
from boxwright.recipes import dump_recipe
from boxwright.structures import ImageBatch
from boxwright.weights.backbone_files import read_tensors, state_of

LOSSES = {
    "detectron2/fcos": ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"],
    "adelaidet/fcos": ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"],
    "detectron2/retinanet": ["loss_cls", "loss_box_reg"],
    "detectron2/rpn_fpn": ["loss_rpn_cls", "loss_rpn_loc"],
    "detectron2/faster_rcnn_fpn": ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"],
    "detectron2/faster_rcnn_c4": ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"],
    "detectron2/mask_rcnn_fpn": ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"],
    "detectron2/keypoint_rcnn_fpn": ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_keypoint"],
    "detectron2/panoptic_fpn": [
        "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_sem_seg",
    ],
    "detectron2/semantic_fpn": ["loss_sem_seg"],
}  # fmt: skip


@pytest.fixture(params=[name for name in LOSSES if "semantic" not in name])
def case(request, case_of):
    return case_of(request.param)


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "alone"])
def test_detections_are_the_recorded_ones(case, alone, assert_matched):
    found = [case.detect([image])[0] for image in case.images] if alone else case.detect(case.images)
    for k, one in enumerate(found):
        expected = case.expected("single_" if alone else "", k)
        assert len(expected[0]) > 50
        assert_matched(one, expected, thresholds=(case.converted.score_threshold,))


@pytest.mark.parametrize("name", LOSSES)
def test_training_losses_are_the_recorded_ones(name, case_of):
    case = case_of(name)
    start = {key: value.clone() for key, value in case.model.state_dict().items()}
    with torch.no_grad():
        outputs = case.model.train()(ImageBatch.of(case.images), case.targets)
        losses = case.model.loss(outputs, case.targets)
    case.model.eval().load_state_dict(start)  # the running mean of the positives has moved
    ours = [float(value) for value in losses.values()]
    assert ours == pytest.approx([case.settings["losses"][key] for key in LOSSES[name]], rel=1e-4)


@pytest.mark.parametrize("prefix", ["", "single_", "resized_"])
def test_keypoints_are_the_recorded_ones(case_of, prefix):
    """But for points whose heatmap has two peaks within a rounding error: fewer than one in a thousand."""
    case = case_of("detectron2/keypoint_rcnn_fpn")
    if prefix == "resized_":
        images = replace(ImageBatch.of(case.images[:1]), original_hw=torch.tensor([[240, 320]]))
        images = replace(images, scale_xy=torch.tensor([[192 / 240, 256 / 320]]).flip(1))
        with torch.no_grad():
            found = case.model.detect(case.model(images), images, case.converted.recipe.detect.settings())
    else:
        found = [case.detect([image])[0] for image in case.images] if prefix else case.detect(case.images)
    far, compared = 0, 0
    for k, one in enumerate(found):
        boxes, scores, _ = case.expected(prefix, k)
        points = case.arrays[f"{prefix}keypoints{k}"]
        close = ((one.boxes[:, None] - boxes).abs().amax(-1) < 1e-3) & ((one.scores[:, None] - scores).abs() < 1e-5)
        mine, theirs = close.nonzero(as_tuple=True)
        assert len(mine) > 0.95 * len(boxes)
        difference = (one.keypoints[mine] - points[theirs]).abs()
        far += int((difference[..., :2].amax(-1) > 1e-2).sum())
        compared += difference[..., 0].numel()
        near = difference[..., :2].amax(-1) <= 1e-2
        assert (difference[..., 2][near] <= 1e-4 * points[theirs][..., 2][near] + 1e-6).all()
    assert compared > 1000
    assert far < compared / 1000


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "alone"])
def test_masks_are_the_recorded_ones(case_of, alone):
    """But for pixels whose probability is within 1e-4 of the threshold: fewer than one in ten thousand."""
    case = case_of("detectron2/mask_rcnn_fpn")
    found = [case.detect([image])[0] for image in case.images] if alone else case.detect(case.images)
    for k, one in enumerate(found):
        boxes, scores, labels = case.expected("single_" if alone else "", k)
        masks = case.masks("single_" if alone else "", k)
        planes, compared = one.whole_masks(), 0
        for row in range(len(one)):
            same = (labels == one.labels[row]) & ((scores - one.scores[row]).abs() < 1e-5)
            same &= (boxes - one.boxes[row]).abs().amax(1) < 1e-3
            for partner in same.nonzero()[:1, 0]:
                assert (masks[partner] != planes[row]).sum() <= 1
                compared += 1
        assert compared >= 99


def test_fast_rcnn_is_the_recorded_faster_rcnn_with_its_proposals_stored(case_of, build_converted, assert_matched):
    """A file without a proposal network is a Fast R-CNN; given the regions that the network found, it finds as much."""
    case = case_of("detectron2/faster_rcnn_fpn")
    state = state_of(read_tensors(case.path))
    found = convert_state({key: value for key, value in state.items() if "proposal_generator" not in key}, "x")
    assert found.origin["architecture"] == "fast_rcnn FPN"
    model = build_converted(found)
    images = ImageBatch.of(case.images)
    with torch.no_grad():
        proposals = case.model(images).proposals
        detected = model.detect(model(images, None, proposals), images, found.recipe.detect.settings())
    for k, one in enumerate(detected):
        assert_matched(one, case.expected("", k), thresholds=(case.converted.score_threshold,))
    back = export_state(dump_recipe(found.recipe)["model"], len(found.classes), found.weights, "detectron2",
                        found.origin["kept"])  # fmt: skip
    assert all(torch.equal(back[key], state[key]) for key in back)
    assert set(back) == {key for key in state if "proposal_generator" not in key}
