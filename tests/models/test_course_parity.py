"""The course variant with the recorded random weights of the course network: same outputs, detections and losses."""

import json

import numpy as np
import pytest
import torch
from configs import COURSE, built
from torch import nn

from boxwright.structures import DetectSettings, ImageBatch, Targets

# the course's keys and ours; the rest of a key is the same
NAMES = {
    "backbone.backbone.": "backbone.body.",
    **{f"backbone.fpn_params.l{level}.": f"fpn.laterals.{level - 3}." for level in (3, 4, 5)},
    **{f"backbone.fpn_params.p{level}.": f"fpn.outputs.{level - 3}." for level in (3, 4, 5)},
    "pred_net.stem_cls.": "head.class_tower.",
    "pred_net.stem_box.": "head.box_tower.",
    "pred_net.pred_cls.": "head.class_logits.",
    "pred_net.pred_box.": "head.box_distances.",
    "pred_net.pred_ctr.": "head.centerness.",
}
OUTPUTS = {"class_logits": "class_logits", "distances": "boxreg_deltas", "centerness_logits": "centerness_logits"}


@pytest.fixture(scope="module")
def case(shared):
    folder = shared / "fixtures" / "course_fcos"
    arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "case.npz").items()}
    losses = json.loads((folder / "case.json").read_text())["losses"]
    return arrays, losses


@pytest.fixture(scope="module")
def model(shared):
    """Our course variant with the recorded weights; the recorded images are normalised already."""
    settings = {**COURSE, "backbone.pixel_mean": (0.0, 0.0, 0.0), "backbone.pixel_std": (1.0, 1.0, 1.0)}
    model = built("fcos", 20, settings)
    theirs = torch.load(shared / "fixtures" / "course_fcos" / "fcos_detector.pt", weights_only=True)
    state = {}
    for key, value in theirs.items():
        (prefix,) = (name for name in NAMES if key.startswith(name))
        state[NAMES[prefix] + key.removeprefix(prefix)] = value.float() if value.is_floating_point() else value
    state["mean_positives"] = torch.tensor(150.0)  # a Python number in the course, which does not save it
    model.load_state_dict(state)  # strict: nothing is left over on either side
    return model.eval()


@pytest.fixture(scope="module")
def outputs(model, case):
    with torch.no_grad():
        return model(ImageBatch.of(list(case[0]["images"])))


@pytest.mark.parametrize(("ours", "theirs"), OUTPUTS.items())
def test_raw_outputs_are_the_recorded_ones(outputs, case, ours, theirs):
    expected = torch.cat([case[0][f"{theirs}_p{level}"] for level in (3, 4, 5)], dim=1)
    got = getattr(outputs, ours)
    torch.testing.assert_close(got.reshape(expected.shape), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("image", [0, 1])
def test_detections_are_the_recorded_ones(model, outputs, case, image):
    settings = DetectSettings(score_threshold=0.3, nms_iou=0.5, candidates_per_level=10_000, max_detections=2000)
    found = model.detect(outputs, ImageBatch.of(list(case[0]["images"])), settings)[image]
    boxes, scores, classes = (case[0][f"{name}{image}"] for name in ("boxes", "scores", "classes"))
    assert len(found) == len(boxes) > 500
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-5)
    assert torch.equal(found.labels, classes)
    torch.testing.assert_close(found.boxes, boxes, rtol=0, atol=1e-3)


def losses_of(model, case):
    """Losses of the recorded batch in a training step whose BatchNorm is in evaluation mode."""
    boxes = case[0]["gt_boxes"]
    valid = boxes[..., 4] >= 0
    targets = Targets(boxes[..., :4], boxes[..., 4].long().clamp(min=0), torch.zeros_like(valid), valid)
    model.train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    with torch.no_grad():
        model.mean_positives.fill_(150.0)
        losses = model.loss(model(ImageBatch.of(list(case[0]["images"]))), targets)
    model.eval()
    return [float(losses[name]) for name in ("classification", "box", "centerness")], float(model.mean_positives)


def test_losses_are_the_recorded_ones_under_the_courses_open_ranges(model, case, monkeypatch):
    """The course's ranges exclude both ends; with the same rule the losses are the same."""
    assert model.ranges.tolist() == [[0.0, 64.0], [64.0, 128.0], [128.0, float("inf")]]
    monkeypatch.setitem(model._buffers, "ranges", model.ranges + torch.tensor([[0.0, 0], [1e-4, 0], [1e-4, 0]]))
    losses, _ = losses_of(model, case)
    assert losses == pytest.approx([case[1][name] for name in ("loss_cls", "loss_box", "loss_ctr")], rel=1e-4)


def test_our_ranges_give_one_more_location_its_box(model, case):
    """A location at 64 pixels from a side belongs to no level of the course, and to P4 here: the only difference."""
    losses, ours = losses_of(model, case)
    positives = (ours - 0.9 * 150) / 0.1 * 2
    assert positives == pytest.approx(135, abs=0.01)  # the course: 134
    expected = [case[1][name] for name in ("loss_cls", "loss_box", "loss_ctr")]
    assert losses == pytest.approx(expected, rel=1e-2)
    assert losses != pytest.approx(expected, rel=1e-4)
