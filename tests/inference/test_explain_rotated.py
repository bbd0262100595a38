"""`explain` of rotated detectors: anchors and boxes are turned in what is asked of the loss, in words and drawings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import build, forward, image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.folder import open_folder
from boxwright.data.placed_rotated import resized_by
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.data.transforms import resize_ground_truth
from boxwright.inference import claims
from boxwright.inference.claims import _rotated, unclaimed, unclaimed_findings
from boxwright.inference.explain_any import explain_any
from boxwright.inference.owners import describe_owned_box, owners_of
from boxwright.inference.predictor import Detector
from boxwright.models.claims import assigned, held_detector, others
from boxwright.ops.box_kinds import around, corners_of, overlaps
from boxwright.ops.image import ResizePlan, ResizeRule, resize_plan
from boxwright.ops.rotated import rotated_hull
from boxwright.ops.rotated_iou import rotated_iou
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, GroundTruth, ImageBatch, Targets

CLASSES = Classes.named("abc")
HW = (64, 64)
PLAN = ResizePlan(HW, HW, (1.0, 1.0), (0.0, 0.0))
TURNED = torch.tensor([[24.0, 30, 40, 12, 30], [44, 20, 14, 22, -75], [12, 52, 6, 5, 10]])


def turned(rows=TURNED, ignore=None):
    return GroundTruth.of(rotated_hull(rows).clamp(0, 64), range(len(rows)), ignore, rotated=rows)


def test_the_anchors_that_the_loss_learns_from_are_owned_by_the_boxes_that_they_learn():
    model, targets = build("rotated_faster_rcnn"), Targets.of([turned()])
    outputs = forward(model, ImageBatch.of([image(1)]), targets)
    found = assigned(model.config, HW, targets)
    rows, positive, real, boxes = (part[0] for part in outputs.anchors.sampled)
    assert int(positive.sum()) == int((found.owner >= 0).sum()) > 0
    owner = found.owner[0, rows[positive]]
    assert torch.equal(boxes[positive], TURNED[owner])
    background = rows[real & ~positive]
    assert not bool(found.ignored[0, background].any())
    assert {*owner.tolist()} == {0, 1, 2}


def test_words_on_a_turned_box_name_the_anchor_that_overlaps_it_most_as_it_is_turned():
    config = build("rotated_faster_rcnn").config
    made = owners_of(config, image(1), PLAN, CLASSES, turned(ignore=[False, False, True]))
    iou = rotated_iou(made.places.double(), TURNED[:2].double())
    torch.testing.assert_close(made.overlap, iou.amax(1).float())
    lines = describe_owned_box(made, 0)
    assert lines[0] == "Ground truth box 0 (a, 40 x 12 turned by 30 degrees) network pixels."
    best = made.places[iou[:, 0].argmax()].tolist()
    assert (
        f"{best[2]:.0f} x {best[3]:.0f} pixels turned by {best[4]:.0f} degrees: IoU {float(iou[:, 0].max()):.2f}."
        in (lines[2])
    )
    assert "It is an ignored region" in describe_owned_box(made, 2)[1]
    assert torch.equal(made.points, made.places[:, :2])


def test_both_kinds_of_boxes_have_corners_a_hull_and_overlaps():
    upright = torch.tensor([[2.0, 4, 10, 8], [6, 4, 14, 8]])
    rotated = torch.tensor([[6.0, 6, 8, 4, 0], [10, 6, 4, 8, 90]])
    torch.testing.assert_close(overlaps(upright, upright), overlaps(rotated, rotated))
    assert float(overlaps(rotated, rotated)[0, 1]) == pytest.approx(1 / 3)
    assert torch.equal(corners_of(upright)[0], corners_of(rotated)[0])
    torch.testing.assert_close(around(rotated), around(upright))


@pytest.mark.parametrize(
    "rule", [ResizeRule("short_side", size=50, max_size=90), ResizeRule("letterbox", height=80, width=96),
             ResizeRule("fixed", height=40, width=96)]
)  # fmt: skip
def test_objects_are_counted_where_training_has_them(rule):
    hw = (64, 96)
    plan = resize_plan(hw, rule)
    expected = resize_ground_truth(turned(), hw, rule).rotated
    torch.testing.assert_close(_rotated(turned(), plan), expected)
    torch.testing.assert_close(resized_by(TURNED, plan.scale_xy, plan.offset_xy), expected)


def test_objects_that_no_rotated_anchor_can_claim_are_counted_with_what_helps():
    """A line of one pixel beside a large box of the same place: each anchor overlaps the large one more."""
    large, line = [50.0, 50, 60, 58, 40], [50.0, 50, 58, 0.5, 40]
    rows = torch.tensor([large, line])
    images = [(GroundTruth.of(rotated_hull(rows), [0, 1], rotated=rows), (100, 100))] * 3
    recipe = load_recipe("rotated-faster-rcnn-small", ["data.train_scales=[]", "data.resize={mode: none}"])
    found = unclaimed(images, recipe, CLASSES)
    assert found.unit == "anchor"
    assert found.lost == {"b": 3}
    assert found.objects == {"a": 3, "b": 3}
    apart = torch.tensor([large, [50.0, 5, 58, 4, 0]])  # alone it has its best anchors
    assert (
        unclaimed([(GroundTruth.of(rotated_hull(apart), [0, 1], rotated=apart), (100, 100))], recipe, CLASSES) is None
    )
    upright = [(GroundTruth.of(rotated_hull(apart), [0, 1]), (100, 100))]  # annotated without angles
    assert unclaimed(upright, recipe, CLASSES) is None


def test_settings_that_are_suggested_are_those_of_a_rotated_proposal_network():
    config = held_detector(load_recipe("rotated-faster-rcnn-small", ["model.rpn.anchor_angles=[-60,0,60]"]).model)
    suggested = {one.words.partition("=")[0]: one for one in others(config)}
    assert set(suggested) == {"model.rpn.anchor_sizes", "model.rpn.anchor_ratios", "model.rpn.anchor_angles"}
    angles = suggested["model.rpn.anchor_angles"]
    assert angles.config.rpn.anchor_angles == (-60, -30, 0, 30, 60, 90)
    settings = [one.words for one in suggested.values()]
    for words in settings:  # a recipe takes them as they are written
        assert load_recipe("rotated-faster-rcnn-small", [words])


# ---- the command ----------------------------------------------------------------------------------------------------

SMALL = ["data.resize={mode: fixed, height: 64, width: 96}", "precision=fp32", "model.backbone=mobilenet_v3_small",
         "model.fpn.channels=16", "data.batch_size=2", "model.rpn.stem_channels=[16]",
         "model.box.fc_channels=[16]"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turned") / "data"
    write_shapes(folder, 4, 2, "dota", ShapesConfig(size=96, rotated=True))
    return folder


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    recipe, classes = load_recipe("rotated-faster-rcnn-small", SMALL), open_folder(data).classes
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(len(classes)).state_dict()), path)
    return path


def test_detections_are_those_of_predict(checkpoint, data):
    detector = Detector.load(checkpoint, "cpu")
    path = sorted((data / "images" / "val").iterdir())[0]
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    made = explain_any(detector, pixels, score=0.0).made
    (found,) = detector.predict(pixels, score=0.0)
    assert len(found)
    torch.testing.assert_close(made.original(made.found.rotated), found.rotated, atol=1e-3, rtol=0)
    assert torch.equal(made.found.labels, found.labels)
    moved = replace(made, plan=made.plan._replace(offset_xy=(3.0, 5.0)))  # the image elsewhere in what is seen
    shifted = made.found.rotated + torch.tensor([3.0, 5, 0, 0, 0])
    torch.testing.assert_close(moved.original(shifted), found.rotated, atol=1e-3, rtol=0)


def test_a_checkpoint_is_drawn_and_told(checkpoint, data, call, tmp_path):
    code, out, err = call(checkpoint, "val_000000", "--data", data, "--score", 0, "--device", "cpu", "--out", tmp_path)
    assert (code, err) == (0, "")
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"1_overview", "2_anchors", "3_owners", "4_scores", "5_proposals", "6_regions", "7_box_0",
                     "8_detection_0"}  # fmt: skip
    assert "(cx, cy, w, h, degrees): " in out
    assert " degrees) network pixels." in out
    assert "would be drawn to learn from" in out


def test_a_recipe_is_explained_on_its_first_batch_and_on_an_image(data, call, tmp_path):
    words = ["rotated-faster-rcnn-small", *SMALL, "--data", data]
    code, out, err = call(*words, "--images", 1, "--out", tmp_path / "batch")
    assert (code, err) == (0, "")
    assert {path.stem for path in (tmp_path / "batch").iterdir()} == {"2_anchors", "3_image_0"}
    assert "must be learnt by no anchor" in out
    code, out, err = call(*words, "val_000000", "--out", tmp_path / "one")
    assert (code, err) == (0, "")
    assert {path.stem for path in (tmp_path / "one").iterdir()} == {
        "1_ground_truth",
        "2_anchors",
        "3_owners",
        "4_box_0",
    }
    assert "a checkpoint draws them" in out


def test_preflight_looks_at_rotated_boxes(data, monkeypatch):
    """The finding is asked for with the rotated boxes of the files."""
    seen = []
    monkeypatch.setattr(claims, "unclaimed", lambda images, *_: seen.extend(images))
    dataset = open_folder(data)
    unclaimed_findings(preflight(dataset).dataset, load_recipe("rotated-faster-rcnn-small"))
    assert len(seen) == 6
    assert all(one.rotated is not None for one, _ in seen)
    seen.clear()
    unclaimed_findings(preflight(dataset).dataset, load_recipe("faster-rcnn-small"))
    assert all(one.rotated is None for one, _ in seen)
