"""`explain`: its owners are those of the loss, its detections those of `predict`; its words and images are there."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.inference.explain import (
    describe,
    describe_box,
    describe_detection,
    explain,
    most_central,
    nearest_ground_truth,
)
from boxwright.inference.explain_drawing import write_explanation
from boxwright.inference.labelled import labelled_image
from boxwright.inference.predictor import Detector, TorchEngine
from boxwright.models.fcos import FCOS, FCOSOutputs
from boxwright.ops.image import ResizeRule
from boxwright.structures import GroundTruth, Targets

# a disc, a large box around it, a box too thin to hold a location, an ignored region
GROUND_TRUTH = GroundTruth.of(
    [[30, 20, 60, 50], [4, 4, 120, 92], [80, 60, 81, 64], [90, 10, 126, 40]], [0, 1, 2, 0], [0, 0, 0, 1]
)


@pytest.fixture(scope="module")
def image(images):
    return torch.from_numpy(images[0]).permute(2, 0, 1)


@pytest.fixture(scope="module")
def explained(detector, image):
    return explain(detector, image, GROUND_TRUTH)


def sections(config, changes):
    """The sections of a config with some dotted settings changed."""
    changed = {}
    for key, value in changes.items():
        name, setting = key.split(".")
        changed[name] = replace(changed.get(name, getattr(config, name)), **{setting: value})
    return changed


def reconfigured(checkpoint_file, changes):
    """The detector with other settings of its model that no weight depends on."""
    detector = Detector.load(checkpoint_file, "cpu")
    model = FCOS(replace(detector.model.config, **sections(detector.model.config, changes)), 3).eval()
    model.load_state_dict(detector.model.state_dict())
    detector.model = detector.engine.model = model
    return detector


ANYWHERE = {"assignment.center_radius": None}

# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"assignment.center_radius": None},
        {"head.normalise_targets": False, "loss.box": "iou"},
        {**ANYWHERE, "assignment.level_bounds": (16, 32), "head.box_output": "clip", "loss.box": "l1"},
        {**ANYWHERE, "assignment.level_bounds": (24, 40), "compat.level_range_ends": "open"},  # of references
        {**ANYWHERE, "assignment.level_bounds": (24, 40), "compat.level_range_ends": "closed"},
    ],
)
def test_the_lesson_is_what_the_loss_asks(checkpoint_file, image, changes):
    """Predictions that say exactly what the lesson asks have no loss but the entropy floor; any other owner would."""
    detector = reconfigured(checkpoint_file, changes)
    made = explain(detector, image, GROUND_TRUTH)
    lesson, targets = made.lesson, Targets.of([made.lesson.ground_truth])
    owned = lesson.owner >= 0
    assert int(owned.sum()) > 5
    labels = torch.where(owned, lesson.ground_truth.labels[lesson.owner.clamp(min=0)], -1)
    logits = torch.where(labels[:, None] == torch.arange(3), 30.0, -30.0)
    units = made.strides[:, None] if detector.model.config.head.normalise_targets else 1.0
    central = torch.where(owned, lesson.centerness, 0.5)
    outputs = FCOSOutputs(
        class_logits=logits[None],
        distances=(lesson.distances / units)[None],
        centerness_logits=central.logit()[None],
        locations=made.locations,
        strides=made.strides,
        sizes_hw=torch.tensor([made.plan.size_hw]),
        level_sizes=tuple(level.size_hw for level in made.levels),
    )
    losses = detector.model.loss(outputs, targets)
    assert float(losses["classification"]) < 1e-6
    assert float(losses["box"]) < 1e-5
    torch.testing.assert_close(losses["centerness"], losses.floors["centerness"], atol=1e-4, rtol=0)
    # in an ignored region that no box owns any prediction is free, on background none
    free, background = int(lesson.ignored.nonzero()[0]), int((~owned & ~lesson.ignored).nonzero()[0])
    for location, least, most in ((free, 0.0, 1e-6), (background, 0.1, 1e9)):
        shouted = logits.clone()
        shouted[location, 0] = 30.0
        loss = float(detector.model.loss(outputs._replace(class_logits=shouted[None]), targets)["classification"])
        assert least <= loss < most


def test_every_detection_is_traced_to_the_location_that_made_it(detector, image, explained):
    found = explained.found
    assert len(found) > 3
    labels = found.labels
    torch.testing.assert_close(explained.boxes[explained.source], found.boxes)
    torch.testing.assert_close(explained.scores[explained.source, labels], found.scores)
    torch.testing.assert_close(
        explained.class_scores[explained.source, labels] * explained.centerness[explained.source], found.scores**2
    )
    points, distances = explained.locations[explained.source], explained.distances[explained.source]
    corners = torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)
    limits = torch.tensor([128.0, 96, 128, 96])
    torch.testing.assert_close(corners.clamp(min=0).minimum(limits), found.boxes)
    (predicted,) = detector.predict(image)
    torch.testing.assert_close(explained.original(found.boxes), predicted.boxes)
    assert torch.equal(labels, predicted.labels)


def test_a_network_with_more_channels_than_classes_is_told_by_class(checkpoint_file, image, explained):
    """As torchvision's, whose 91 channels hold 80 classes: channels 1, 2 and 4 are the three classes here."""
    detector = Detector.load(checkpoint_file, "cpu")
    weights = detector.model.state_dict()
    config = detector.model.config
    config = replace(config, **sections(config, {"compat.class_channels": (1, 2, 4)}))
    detector.model = FCOS(config, 3).eval()
    for name, value in detector.model.state_dict().items():
        if value.shape != weights[name].shape:
            wider = torch.full_like(value, 0.0 if "weight" in name else -20.0)  # what is no class is never found
            wider[[1, 2, 4]] = weights[name]
            weights[name] = wider
    detector.model.load_state_dict(weights)
    detector.engine.model = detector.model
    made = explain(detector, image, GROUND_TRUTH)
    assert made.class_scores.shape == explained.class_scores.shape
    torch.testing.assert_close(made.class_scores, explained.class_scores)
    assert torch.equal(made.source, explained.source)
    assert torch.equal(made.found.labels, explained.found.labels)


def test_levels_and_coordinates(checkpoint_file, scene):
    detector = Detector.load(checkpoint_file, "cpu")
    detector.resize = ResizeRule("letterbox", height=96, width=160)
    ground_truth = GroundTruth.of([[20, 30, 120, 160]], [2])
    made = explain(detector, torch.from_numpy(scene(192, 192, 3)).permute(2, 0, 1), ground_truth)
    assert [(x.name, x.stride, x.size_hw, x.low, x.high) for x in made.levels] == [
        ("P3", 8, (12, 20), 0.0, 64.0),
        ("P4", 16, (6, 10), 64.0, 128.0),
        ("P5", 32, (3, 5), 128.0, float("inf")),
    ]
    assert made.lesson.ground_truth.boxes.tolist() == [[10, 15, 60, 80]]
    assert made.original(made.lesson.ground_truth.boxes).tolist() == [[20, 30, 120, 160]]
    for level in made.levels:
        assert made.level_of(level.rows.start) is made.level_of(level.rows.stop - 1) is level
        assert made.locations[level.rows.start].tolist() == [level.stride / 2] * 2
    location = most_central(made.lesson, 0)
    assert made.locations[location].tolist() == [36.0, 44.0]
    assert made.lesson.distances[location].tolist() == [26, 29, 24, 36]


# ---- words ----------------------------------------------------------------------------------------------------------


def test_words_on_the_image(explained):
    lines = describe(explained)
    assert lines[0] == "The image has 128 x 96 pixels (width x height); the network sees 128 x 96."
    owned = int((explained.lesson.owner[explained.levels[0].rows] >= 0).sum())
    assert lines[1].startswith("P3: stride 8, 16 x 12 locations, for objects whose farthest side is 0 to 64 network")
    assert f"{owned} must learn " in lines[1]
    assert "Ground truth: 4 boxes (2 cell, 1 dot, 1 ring)." in lines
    assert "No location must learn these ground truth boxes: 2." in lines
    assert lines[-1].startswith(f"Detections: {len(explained.found)} from score 0.60 (")


def test_words_on_a_ground_truth_box(explained):
    lines = describe_box(explained, 0)
    owned = int((explained.lesson.owner == 0).sum())
    assert owned == int((explained.lesson.owner[explained.levels[0].rows] == 0).sum()) == 9
    assert lines[0] == "Ground truth box 0: cell, 30 x 30 pixels in the image, 30 x 30 as the network sees it."
    assert lines[1] == "  Locations that must learn it: P3 9, P4 0, P5 0."
    assert "P3 (stride 8), row 4, column 5, at pixel (44, 36)" in lines[2]
    assert "l 14.0, t 16.0, r 16.0, b 14.0 network pixels (1.75, 2.00, 2.00, 1.75 strides)" in lines[3]
    assert "centerness target 0.88" in lines[3]
    assert lines[4].startswith("  The model predicts there: cell 0.")
    assert lines[-1].startswith(("  Found: detection ", "  Not found: "))


def test_words_on_boxes_that_nobody_learns(checkpoint_file, detector, image, explained):
    assert "too small or too narrow: no location" in describe_box(explained, 2)[2]
    assert "an ignored region" in describe_box(explained, 3)[1]
    covered = GroundTruth.of([[30, 20, 61, 51], [31, 21, 60, 50]], [0, 1])
    lines = describe_box(explain(detector, image, covered), 0)
    assert "Smaller boxes own all of the 9 locations" in lines[2]


def test_words_on_a_detection(explained):
    lines = describe_detection(explained, 1)
    found, location = explained.found, int(explained.source[1])
    level = explained.level_of(location)
    assert lines[0].startswith(f"Detection 1: {found.names[1]}, score {float(found.scores[1]):.2f} = sqrt(class ")
    assert f"It comes from {level.name} (stride {level.stride}), row " in lines[1]
    assert ", ".join(f"{value:.1f}" for value in found.boxes[1].tolist()) in lines[3]
    nearest = nearest_ground_truth(explained, 1)
    assert ("No ground truth box" if nearest is None else f"overlaps most: {nearest[0]}") in lines[4]


def test_a_number_that_is_not_there(detector, image, explained):
    with pytest.raises(ValueError, match="box 4: this image has 4 ground truth boxes, numbered from 0"):
        describe_box(explained, 4)
    with pytest.raises(ValueError, match="detection -1: this image has"):
        describe_detection(explained, -1)
    bare = explain(detector, image, score=1.0)
    with pytest.raises(ValueError, match=r"detection 0: this image has no detections from score 1\.00"):
        describe_detection(bare, 0)
    with pytest.raises(ValueError, match="give --data"):
        describe_box(bare, 0)
    assert describe(bare)[-1] == "Detections: 0 from score 1.00; a lower --score shows weaker ones."


def test_another_kind_of_detector_is_refused(detector, image):
    other = SimpleNamespace(engine=TorchEngine(torch.nn.Identity(), torch.device("cpu")))
    with pytest.raises(ValueError, match="locations of FCOS; this checkpoint is a Identity"):
        explain(other, image)


# ---- images -------------------------------------------------------------------------------------------------------


def test_images_with_ground_truth(explained, tmp_path):
    paths = write_explanation(explained, tmp_path, box=0, detection=1, label=2)
    assert [path.name for path in paths] == [
        "1_overview.png",
        "2_locations.png",
        "3_owners.png",
        "4_centerness.png",
        "5_classes.png",
        "6_box_0.png",
        "7_detection_1.png",
    ]
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 250
        assert pixels.std() > 20


def test_images_of_an_empty_tall_letterboxed_image(checkpoint_file, scene, tmp_path):
    detector = Detector.load(checkpoint_file, "cpu")
    detector.resize = ResizeRule("letterbox", height=96, width=160)
    made = explain(detector, torch.from_numpy(scene(200, 60, 3)).permute(2, 0, 1), GroundTruth.empty(), score=1.0)
    paths = write_explanation(made, tmp_path)
    assert [path.name[0] for path in paths] == ["1", "2", "3", "4", "5"]


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, images):
    """A VOC folder of three images with one object of each class; "same.png" stands in no list."""
    folder = tmp_path / "data"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number, (name, pixels) in enumerate(zip(("cell", "dot", "ring"), images, strict=True)):
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"p{number}.png")
        box = "<xmin>30</xmin><ymin>20</ymin><xmax>60</xmax><ymax>50</ymax>"
        (folder / "Annotations" / f"p{number}.xml").write_text(
            f"<annotation><filename>p{number}.png</filename><size><width>128</width><height>96</height></size>"
            f"<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        )
    (folder / "ImageSets/Main/train.txt").write_text("p0\np1\n")
    (folder / "ImageSets/Main/val.txt").write_text("p2\n")
    return folder


def test_command_with_ground_truth(call, checkpoint_file, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(str(path) for path in data.rglob("*"))
    code, out, err = call(checkpoint_file, "p2.png", "--data", data, "--score", 0.0, "--class", "ring")
    assert (code, err) == (0, "")
    assert "Ground truth box 0: ring, 30 x 30 pixels in the image" in out
    assert "Detection 0: " in out
    written = sorted(path.name for path in (tmp_path / "explained" / "p2").iterdir())
    assert len(written) == 7
    assert all(name in out for name in written)
    assert sorted(str(path) for path in data.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("p2.png", "--box", 0), "are about the ground truth: give --data FOLDER too"),
        (("p2.png", "--class", "cel", "--data", "DATA"), "--class cel: the model's classes are cell, dot, ring"),
        (("p2.png", "--data", "DATA", "--box", 5), "box 5: this image has 1 ground truth boxes"),
        (("p2.png", "--data", "DATA", "--split", "train"), "has no image of this name (split train, 2 images)"),
        (("p9.png", "--data", "DATA"), "has no image of this name (train, val, 3 images)"),
        (("p2.png", "--data", "DATA", "--out", "DATA/out"), "which is only read; choose another with --out"),
        (("p2.png", "--score", 7), "--score: expected 0 to 1"),
        (("nowhere.png",), "nowhere.png: there is no such image"),
    ],
)
def test_command_with_a_mistake(call, checkpoint_file, data, words, sentence):
    before = sorted(str(path) for path in data.parent.rglob("*"))
    code, out, err = call(checkpoint_file, *(str(word).replace("DATA", str(data)) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("boxwright: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(str(path) for path in data.parent.rglob("*")) == before


def test_an_image_is_found_by_path_name_or_stem(detector, data, images):
    expected = data / "JPEGImages" / "p1.png"
    for image in (expected, "p1.png", "p1", "elsewhere/p1.png"):
        path, ground_truth = labelled_image(image, data, detector.classes)
        assert path == expected
        assert ground_truth.labels.tolist() == [1]
    Image.fromarray(images[0]).save(data / "JPEGImages" / "p1.jpg")
    (data / "Annotations" / "extra.xml").write_text((data / "Annotations" / "p0.xml").read_text())
    with pytest.raises(ValueError, match="the classes differ"):
        labelled_image("p1", data, detector.classes, classes="cell,dot")
