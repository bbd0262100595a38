"""`explain` for every detector and for recipes: owners are those of the loss, detections those of `predict`."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import BOXES, TINY, build, forward, image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.data.proposals import write_proposals
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.inference.explain_any import class_names, explain_any
from boxwright.inference.explain_keypoints import describe_keypoints, nearest_object
from boxwright.inference.explain_masks import mask_overlap
from boxwright.inference.owners import describe_batch, describe_owned_box, describe_owners, owners_of
from boxwright.inference.predictor import Detector
from boxwright.models.claims import assigned, held_detector, place_boxes, place_levels
from boxwright.ops.image import ResizePlan
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth, ImageBatch, Targets

CLASSES = Classes.named("abc")
HW = (64, 64)
PLAN = ResizePlan(HW, HW, (1.0, 1.0), (0.0, 0.0))

# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["retinanet", "rpn", "two_stage_course", "rotated_faster_rcnn"])
@pytest.mark.parametrize("objects", ["two", "region", "none"])
def test_owners_are_those_that_the_loss_asks_for(name, objects, monkeypatch):
    """The loss is given the same boxes, places and rule, and its assignment is recorded."""
    modules = {"retinanet": "retinanet", "rotated_faster_rcnn": "rotated_proposal_network"}
    module = modules.get(name, "proposal_network")
    path = f"boxwright.models.{module}.match_boxes"
    recorded = []
    match = sys.modules[f"boxwright.models.{module}"].match_boxes
    monkeypatch.setattr(
        path, lambda *given, **rule: recorded.append((given[0], match(*given, **rule))) or recorded[-1][1]
    )
    model, targets = build(name), Targets.of([BOXES[objects]])
    outputs = forward(model, ImageBatch.of([image(1)]), targets)
    if name == "retinanet":
        model.loss(outputs, targets)
    anchors, theirs = recorded[0]
    assert torch.equal(place_boxes(model.config, HW), anchors)
    ours = assigned(model.config, HW, targets)
    assert torch.equal(ours.owner, theirs.owner)
    assert torch.equal(ours.ignored, theirs.ignored)
    if name != "two_stage_course":  # whose rule leaves objects without an anchor
        assert (objects == "none") == (not bool((ours.owner >= 0).any()))


def test_the_detector_within_a_model_is_found():
    for name, kind in (("panoptic_fpn", "faster_rcnn"), ("keypoint_rcnn", "faster_rcnn"), ("fcos_mask", "fcos")):
        assert held_detector(build(name).config).name == kind
    assert held_detector(build("semantic_fpn").config) is None


def test_objects_of_a_panoptic_model_are_explained(tmp_path):
    classes = Classes(("a", "b", "c"), (0, 1, 2), stuff=("d", "e"))
    model = build("panoptic_fpn")
    recipe = load_recipe("panoptic-fpn-small")
    recipe = recipe.model_copy(update={"model": model.config})
    detector = Detector(Checkpoint(recipe, classes, model.state_dict()), "cpu")
    explained = explain_any(detector, (image(1) * 255).byte(), BOXES["two"], score=0.0)
    assert len(explained.found)
    lines = explained.lines(0, 0)
    figures = explained.maps.figures()
    assert any(line.startswith("Segments: ") and "of 4 in the ground truth" in line for line in lines)
    assert any(f"mIoU {figures.mean_iou:.2f}" in line for line in lines)
    names = {path.name for path in explained.write(tmp_path, box=0, detection=0, label=None)}
    assert {"3_owners.png", "6_regions.png", "9_masks.png", "9_segments.png"} <= names
    assert {f"9_semantic_{name}.png" for name in ("map", "confidence", "classes", "mistakes")} <= names
    assert class_names(detector) == ("things", "d", "e")


NO_PLACES = ("fast_rcnn", "semantic_fpn")
"""Whose regions are given, or who find no objects."""


@pytest.mark.parametrize("name", [name for name in TINY if name not in NO_PLACES])
def test_levels_are_those_of_the_network(name):
    model = build(name)
    outputs = forward(model, ImageBatch.of([image(1)]))
    outputs = getattr(outputs, "instances", outputs)  # of a panoptic model
    held = outputs.detector if hasattr(outputs, "detector") else outputs
    held = getattr(held, "anchors", held) if not isinstance(getattr(held, "anchors", None), torch.Tensor) else held
    config = getattr(model.config, "instances", model.config)
    config = getattr(config, "detector", config)
    levels = place_levels(config, HW)
    counts = [level.rows.stop - level.rows.start for level in levels]
    sizes = getattr(held, "level_counts", None) or [h * w for h, w in held.level_sizes]
    assert counts == list(sizes)
    assert levels[0].rows.start == 0
    assert all(level.each * level.size_hw[0] * level.size_hw[1] == n for level, n in zip(levels, counts, strict=True))


def test_padding_that_a_code_base_leaves_out_is_ignored():
    config = build("rpn").config
    config = replace(config, rpn=replace(config.rpn, padding="ignored"))
    ignored = assigned(config, HW, Targets.of([GroundTruth.empty()]), torch.tensor([[64, 32]])).ignored[0]
    centres = place_boxes(config, HW)
    right = (centres[:, 0] + centres[:, 2]) / 2 >= 32
    assert torch.equal(ignored, right)


def owners(name, boxes, labels, ignore=None):
    return owners_of(build(name).config, image(1), PLAN, CLASSES, GroundTruth.of(boxes, labels, ignore))


def test_words_on_objects_with_poor_anchors_and_without_any():
    made = owners(
        "two_stage_course", [[10, 10, 42, 42], [3, 3, 6, 60]], [0, 1]
    )  # each has only anchors from its IoU on
    assert made.unowned
    lines = describe_owners(made)
    (line,) = [line for line in lines if line.startswith("No anchor must learn these ground truth boxes: ")]
    assert "1 (b, 3 x 57)" in line
    assert "Ground truth: 2 objects." in lines
    low = describe_owners(owners("retinanet", [[3, 3, 6, 60]], [1]))  # has its best anchors, however poor
    assert any("No anchor overlaps these ground truth boxes by IoU 0.5 or more: 0;" in line for line in low)
    assert not any("must learn these" in line for line in low)


def test_words_on_a_box_and_an_ignored_region():
    made = owners("retinanet", [[8, 8, 40, 40], [44, 4, 60, 20]], [2, 0], [0, 1])
    own = describe_owned_box(made, 0)
    assert own[0] == "Ground truth box 0 (c, 32 x 32) network pixels."
    assert own[1] == "  Anchors that must learn it: " + ", ".join(
        f"{level.name} {int((made.owner[level.rows] == 0).sum())}" for level in made.levels
    ) + "."  # fmt: skip
    assert "It is an ignored region" in describe_owned_box(made, 1)[1]
    assert "Ground truth: 1 object and 1 ignored region." in describe_owners(made)


def test_statistics_of_a_batch_are_sums_over_its_images():
    batch = [
        owners("retinanet", [[8, 8, 40, 40]], [0]),
        owners("retinanet", [[4, 4, 12, 12], [30, 30, 60, 60]], [0, 1]),
    ]
    lines = describe_batch(batch)
    for index, level in enumerate(batch[0].levels):
        owned = sum(int((one.owner[one.levels[index].rows] >= 0).sum()) for one in batch)
        assert f"{level.name}: stride {level.stride}, " in lines[1 + index]
        assert f"; {owned} must learn " in lines[1 + index]
    assert "0 of 3 objects in these 2 images must be learnt by no anchor." in lines


def test_a_mask_is_compared_with_the_one_that_it_overlaps_most():
    square = torch.ones(4, 4, dtype=torch.bool)
    found = Detections(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0.9]), torch.tensor([0]), (8, 8),
                       masks=(CroppedMask(0, 0, square),))  # fmt: skip
    boxes = [[0, 2, 4, 6], [0, 1, 4, 5], [4, 4, 8, 8]]
    masks = [CroppedMask(x, y, square) for x, y, _, _ in boxes]
    assert mask_overlap(found, GroundTruth.of(boxes, [0, 0, 0], masks=masks), 0) == (1, 12 / 20)
    assert mask_overlap(found, GroundTruth.of(boxes[2:], [0], masks=masks[2:]), 0) is None


def test_keypoints_are_compared_with_those_of_the_object_whose_box_overlaps_most():
    found = Detections(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0.9]), torch.tensor([0]), (8, 8),
                       keypoints=torch.tensor([[[1.0, 1, 0.9], [3, 3, 0.4]]]))  # fmt: skip
    boxes, points = [[0, 2, 4, 6], [0, 1, 4, 5], [0, 0, 4, 4]], [[[4, 5, 2], [0, 0, 0]]] * 2 + [[[0, 0, 0]] * 2]
    ground_truth = GroundTruth.of(boxes, [0, 0, 0], keypoints=points)  # nothing is annotated of the nearest
    assert nearest_object(found, ground_truth, 0) == 1
    assert describe_keypoints(found, ground_truth, 0) == [
        "  Its 2 keypoints, beside those of ground truth box 1:",
        "    keypoint 0: score 0.90 at x 1.0, y 1.0; visible, 5.0 pixels away.",
        "    keypoint 1: score 0.40 at x 3.0, y 3.0; not annotated.",
    ]
    assert nearest_object(found, GroundTruth.of([[4, 4, 8, 8]], [0], keypoints=points[:1]), 0) is None
    assert describe_keypoints(found, None, 0)[0] == "  Its 2 keypoints:"


# ---- the command ----------------------------------------------------------------------------------------------------

SMALL = ["data.resize={mode: fixed, height: 64, width: 96}", "precision=fp32", "model.backbone=mobilenet_v3_small",
         "model.fpn.channels=16", "data.batch_size=2"]  # fmt: skip
OF_REGIONS = ["model.box.fc_channels=[16]"]
SETTINGS = {
    "retinanet": ["model.head.stem_channels=[16]"],
    "rpn": [],
    "fast-rcnn": OF_REGIONS,
    "faster-rcnn": OF_REGIONS,
    "mask-rcnn": [*OF_REGIONS, "model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8"],
    "keypoint-rcnn": [
        *OF_REGIONS,
        "model.keypoint.num_keypoints=5",
        "model.keypoint.conv_channels=[8]",
        "model.keypoint.pool_size=4",
        "model.backbone=resnet18",
        "model.backbone.widths=[8,8,8,1]",
    ],
    "fcos-mask": ["model.head.stem_channels=[16]", "model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8"],
    "fcos": ["model.head.stem_channels=[16]"],
}
DRAWN = {
    "retinanet": {"1_overview", "2_anchors", "3_owners", "4_scores", "7_box_0", "8_detection_0"},
    "rpn": {"1_overview", "2_anchors", "3_owners", "4_scores", "7_box_0", "8_detection_0"},
    "fast-rcnn": {"1_overview", "5_proposals", "6_regions", "8_detection_0"},
    "fcos-mask": {"1_overview", "2_locations", "3_owners", "4_centerness", "5_classes", "6_box_0", "7_detection_0",
                  "9_masks"},
}  # fmt: skip
DRAWN["faster-rcnn"] = DRAWN["retinanet"] | DRAWN["fast-rcnn"]
DRAWN["keypoint-rcnn"] = DRAWN["faster-rcnn"] | {"9_keypoints"}
DRAWN["mask-rcnn"] = DRAWN["faster-rcnn"] | {"9_masks"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shapes with masks: four images to train on, and two."""
    folder = tmp_path_factory.mktemp("explain") / "data"
    write_shapes(folder, 4, 2, "coco", ShapesConfig(size=96))
    return folder


@pytest.fixture(scope="module")
def lattice(data, tmp_path_factory):
    """A proposal file: squares all over each image."""
    from boxwright.data.formats.folder import open_folder

    corners = [(x, y) for x in range(0, 80, 10) for y in range(0, 80, 10)]
    boxes = torch.tensor([[x, y, x + 24, y + 24] for x, y in corners]).float().clamp(max=96)
    rows = Detections(boxes, torch.rand(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64), (96, 96))
    paths = [record.path for split in open_folder(data).splits.values() for record in split.records]
    path = tmp_path_factory.mktemp("proposals") / "p.npz"
    write_proposals(
        path, [(str(one.relative_to(data)), replace(rows, size_hw=Image.open(one).size[::-1])) for one in paths]
    )
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def checkpoint_of(name, data, folder):
    """A checkpoint of random weights, for the classes of the data."""
    from boxwright.data.formats.folder import open_folder

    recipe = load_recipe(name, SMALL + SETTINGS[name])
    classes = Classes(("object",), (0,)) if name == "rpn" else open_folder(data).classes
    torch.manual_seed(0)
    path = folder / f"{name}.pt"
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(len(classes)).state_dict()), path)
    return path


def val_image(data) -> Path:
    from boxwright.data.formats.folder import open_folder

    return open_folder(data).splits["val"].records[0].path


def drawn_in(folder):
    """The drawings in a folder; none is blank."""
    for path in folder.iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 150
        assert pixels.std() > 10
    return {path.stem for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name",
    ["mask-rcnn", *(pytest.param(n, marks=pytest.mark.slow) for n in DRAWN if n != "mask-rcnn")],
)
def test_every_detector_is_drawn(name, call, data, lattice, tmp_path):
    checkpoint, picked = checkpoint_of(name, data, tmp_path), val_image(data)
    proposals = ["--proposals", lattice] if name == "fast-rcnn" else []
    code, out, err = call(checkpoint, picked.name, "--data", data, "--score", 0, "--device", "cpu", *proposals)
    assert (code, err) == (0, "")
    assert drawn_in(tmp_path / "explained" / picked.stem) == DRAWN[name]
    assert "Ground truth box 0" in out
    assert "Detection 0: " in out
    if name in ("fast-rcnn", "faster-rcnn", "mask-rcnn"):
        assert "would be drawn to learn from" in out
        assert "It comes from proposal " in out
    if "mask" in name:
        assert "  Its mask has " in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "rpn", "faster-rcnn"])
def test_detections_are_those_of_predict_and_come_from_where_they_are_said_to(name, data, tmp_path):
    detector = Detector.load(checkpoint_of(name, data, tmp_path), "cpu")
    pixels = torch.from_numpy(np.array(Image.open(val_image(data)).convert("RGB"))).permute(2, 0, 1)
    made = explain_any(detector, pixels, score=0.0).made
    (found,) = detector.predict(pixels, score=0.0)
    torch.testing.assert_close(made.original(made.found.boxes), found.boxes, atol=1e-3, rtol=0)
    assert torch.equal(made.found.labels, found.labels)
    if made.regions is None:  # the anchor's own score and box
        rows, labels = made.source, made.found.labels
        torch.testing.assert_close(made.scores[rows, labels], made.found.scores)
        torch.testing.assert_close(made.boxes[rows], made.found.boxes)


@pytest.mark.parametrize(
    "name",
    ["retinanet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fcos", "rpn", "fast-rcnn", "faster-rcnn"))],
)
def test_a_recipe_is_explained_on_its_first_batch(name, call, data, lattice, tmp_path):
    proposals = ["--proposals", lattice] if name == "fast-rcnn" else []
    code, out, err = call(name, *SMALL, "--data", data, "--images", 1, *proposals)
    assert (code, err) == (0, "")
    (folder,) = (tmp_path / "explained").iterdir()
    unit = "location" if name == "fcos" else "anchor"
    first = set() if name == "fast-rcnn" else {f"2_{unit}s"}
    assert drawn_in(folder) == first | {"3_image_0"}
    assert "The first batch of " in out
    assert ": 2 images of 96 x 64 pixels" in out
    if name == "fast-rcnn":
        assert out.count("would be drawn to learn from") == 2
    else:
        assert f"must be learnt by no {unit}" in out


def test_a_recipe_is_explained_on_one_image_with_other_settings(call, data, tmp_path):
    picked = val_image(data)
    code, out, err = call("rpn", picked.name, *SMALL, "--data", data, "--box", 0, "--out", tmp_path / "o")
    assert (code, err) == (0, "")
    assert drawn_in(tmp_path / "o") == {"1_ground_truth", "2_anchors", "3_owners", "4_box_0"}
    assert "with rpn-small the network sees 96 x 64 pixels" in out
    assert "Ground truth box 0 (object, " in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fcos-smal", "--data", "DATA"), "no such checkpoint, and no recipe 'fcos-smal'; did you mean"),
        (("best.pt", "x.png"), "best.pt"),
        (("fcos",), "explain fcos: a recipe is explained by labelled images: give --data FOLDER"),
        (("fcos", "x.png", "y.png", "--data", "DATA"), "explain draws one image, got 2: x.png, y.png"),
        (("fcos", "--data", "DATA", "--score", 0.5), "--score: fcos is a recipe and predicts nothing; give a"),
        (("fcos", "--data", "DATA", "--box", 1), "--box is for one image: name it after the recipe"),
        (("fcos", "x.png", "--data", "DATA", "--seed", 1), "--seed: for the first batch of a recipe; leave the"),
        (("fcos", "x.png", "--data", "DATA"), "x.png: "),
        (("fcos", "optim.ls=1", "--data", "DATA"), "optim.ls: unknown key"),
        (("fcos", "--data", "nowhere"), "nowhere"),
        (("fcos", "--data", "DATA", "--proposals", "p.npz"), "finds its own regions; leave the file out"),
        (("fast-rcnn", "--data", "DATA"), "give it proposals with --proposals FILE"),
        (("CHECKPOINT", "--data", "DATA"), "which image? A checkpoint is explained by one: give IMAGE"),
        (("CHECKPOINT", "x.png", "optim.lr=1"), "optim.lr=1: a checkpoint has its settings"),
        (("CHECKPOINT", "x.png", "--images", 2), "--images: for the first batch of a recipe, and"),
        (("CHECKPOINT", "x.png", "--proposals", "p.npz"), "p.npz"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(call, checkpoint_file, data, tmp_path, words, sentence):
    given = [str(word).replace("DATA", str(data)).replace("CHECKPOINT", str(checkpoint_file)) for word in words]
    code, out, err = call(*given)
    assert (code, out) == (2, "")
    assert err.startswith("boxwright: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
