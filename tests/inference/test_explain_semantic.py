"""`explain` of models that label pixels: maps, confidence and mistakes are those of prediction and evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import ground_truth, image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.data.formats.folder import open_folder
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation.pixel_counts import pixel_counts
from boxwright.inference.explain_any import explain_any
from boxwright.inference.explain_semantic import (
    SemanticExplanation,
    compare_segments,
    describe_maps,
    describe_segments,
    label_shares,
)
from boxwright.inference.explain_semantic_drawing import semantic_figures
from boxwright.inference.predictor import Detector
from boxwright.ops.image import ResizePlan
from boxwright.ops.semantic import semantic_confidence, semantic_labels
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth, Panoptic, PanopticSegment

CLASSES = Classes(("cat",), (1,), stuff=("sky", "road"))  # labels: things, sky, road


def made_by_hand(wanted=None, labels=None, panoptic=None, known=None):
    """An explanation of an image of 4 x 8 pixels, whose cells of logits are single pixels."""
    labels = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 1]]).repeat_interleave(2, 0).repeat_interleave(2, 1)[:, :8]
    labels = labels.to(torch.uint8)
    found = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), (4, 8), CLASSES, semantic=labels,
                       panoptic=panoptic)  # fmt: skip
    if known is None and wanted is not None:
        known = replace(GroundTruth.empty(), semantic=wanted)
    plan = ResizePlan((4, 8), (4, 8), (1.0, 1.0), (0.0, 0.0))
    pixels = torch.zeros(3, 4, 8, dtype=torch.uint8)
    return SemanticExplanation(pixels, plan, CLASSES, torch.zeros(3, 1, 2), found, known)


def test_confidence_is_the_softmax_at_the_label_that_a_pixel_gets():
    logits = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    frame = (4, (18, 26), (40, 30), (0.8, 0.4), (1.0, 2.0))
    labels = semantic_labels(logits, *frame)
    each = torch.stack([semantic_confidence(logits, *frame, label) for label in range(4)])
    best = semantic_confidence(logits, *frame)
    seen = labels != 255
    torch.testing.assert_close(each.sum(0)[seen], torch.ones(int(seen.sum())))
    torch.testing.assert_close(each.gather(0, labels.clamp(max=3).long()[None])[0][seen], best[seen])
    assert float(best[~seen].sum()) == 0


def test_words_give_shares_iou_and_what_is_confused():
    wanted = torch.full((4, 8), 1, dtype=torch.uint8)
    wanted[:2, :4] = 0
    wanted[3, 7] = 255
    made = made_by_hand(wanted)
    lines = describe_maps(made)
    assert lines[0] == "Pixels by class, as predicted (and in the ground truth):"
    assert lines[1:4] == [
        "  sky: 37.5% (71.9%), IoU 0.48, mean confidence 0.33.",  # 11 pixels of 23
        "  things: 25.0% (25.0%), IoU 1.00, mean confidence 0.33.",
        "  road: 37.5% (none), mean confidence 0.33.",
    ]
    assert lines[4] == (
        "Of the pixels with a known label 61.3% get it; mIoU 0.74, the mean over 2 classes in this image's ground "
        "truth."
    )
    assert lines[5] == "Most confused, of all these pixels: sky taken for road (38.7%)."
    assert int(made.wrong.sum()) == 12
    assert describe_maps(made_by_hand(made.labels))[-1] == "No label is wrong."
    assert describe_maps(made_by_hand(torch.full((4, 8), 255, dtype=torch.uint8)))[-1].startswith("No pixel of the")
    assert describe_maps(made_by_hand())[0] == "Pixels by class, as predicted:"


def test_shares_of_labels_are_told_in_one_sentence():
    labels = torch.tensor([2, 2, 0, 255], dtype=torch.uint8)
    assert label_shares(labels, CLASSES) == "Pixels by class: road 50.0%, things 25.0%, without a label 25.0%."


def test_segments_are_compared_as_panoptic_quality_compares_them():
    map_ = torch.zeros(4, 8, dtype=torch.int32)
    map_[:2, :4], map_[2:, :6], map_[:, 6:] = 1, 2, 3
    segments = (PanopticSegment(1, 0, True, 0.9, 0, 8), PanopticSegment(2, 1, False, None, None, 12),
                PanopticSegment(3, 0, False, None, None, 8))  # fmt: skip
    masks = (
        CroppedMask(0, 0, torch.ones(2, 4, dtype=torch.bool)),
        CroppedMask(4, 0, torch.ones(2, 2, dtype=torch.bool)),
    )
    wanted = torch.full((4, 8), 2, dtype=torch.uint8)
    wanted[:2, :6] = 0
    known = GroundTruth.of([[0, 0, 4, 2], [4, 0, 6, 2]], [0, 0], masks=masks, semantic=wanted)
    made = made_by_hand(panoptic=Panoptic(map_, segments), known=known)
    compared = compare_segments(made)
    assert compared.matches.match.nonzero().tolist() == [[0, 0], [2, 1]]
    counts = pixel_counts(made.found, known, CLASSES)
    quality = counts.figures(CLASSES).panoptic.all.pq
    assert compared.quality == pytest.approx(quality)
    lines = describe_segments(made)
    assert lines == [
        "Segments: 3 predicted; of 3 in the ground truth 2 have one of their class with IoU above 0.5. PQ of this "
        f"image: {quality:.2f}.",
        "Missed: cat.",
        "Wrong: sky.",
    ]
    keys = [key for key, _ in semantic_figures(made)]
    assert keys == ["map", "confidence", "classes", "mistakes", "segments"]
    alone = made_by_hand(panoptic=Panoptic(map_, segments))
    assert describe_segments(alone) == ["Segments: 3 (cat, road, sky)."]
    assert describe_segments(made_by_hand()) == []


# ---- the model and the command --------------------------------------------------------------------------------------

SMALL = ["data.resize={mode: fixed, height: 64, width: 96}", "precision=fp32", "model.backbone=mobilenet_v3_small",
         "model.fpn.channels=16", "data.batch_size=2", "model.semantic.channels=16"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stuff") / "data"
    write_shapes(folder, 4, 2, "panoptic", ShapesConfig(size=96, stuff=True))
    return folder


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    classes = open_folder(data).classes
    recipe = load_recipe("semantic-fpn-small", [*SMALL, f"model.semantic.num_classes={len(classes.semantic_names)}"])
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(len(classes)).state_dict()), path)
    return path


def test_the_map_is_that_of_predict_and_its_figures_those_of_evaluation(checkpoint, data):
    detector = Detector.load(checkpoint, "cpu")
    names = [*detector.classes.semantic_names]
    pixels = image(3, 40, 72)
    known = ground_truth([[4, 4, 20, 30]], [0], size_hw=(40, 72))
    explained = explain_any(detector, pixels, known)
    (found,) = detector.predict(pixels)
    assert torch.equal(explained.made.labels, found.semantic)
    assert len(explained.found) == 0
    figures = pixel_counts(found, known, detector.classes).figures(detector.classes).semantic
    lines = explained.lines(None, None)
    assert any(f"mIoU {figures.mean_iou:.2f}, the mean over 3 classes" in line for line in lines)
    for name in names[:3]:
        assert any(f"  {name}: " in line and f"IoU {figures.per_class[name]:.2f}" in line for line in lines)
    with pytest.raises(ValueError, match="there is no box or detection to explain"):
        explained.lines(0, None)


def drawn_in(folder):
    for path in folder.iterdir():
        assert np.asarray(Image.open(path).convert("L")).std() > 10
    return {path.stem for path in folder.iterdir()}


def test_a_checkpoint_is_drawn_and_told(checkpoint, data, call, tmp_path):
    words = [checkpoint, "val_000000", "--data", data, "--device", "cpu"]
    code, out, err = call(*words, "--out", tmp_path / "a")
    assert (code, err) == (0, "")
    assert drawn_in(tmp_path / "a") == {"1_overview", "2_confidence", "3_classes", "4_mistakes"}
    assert "Of the pixels with a known label " in out
    code, _, err = call(*words, "--out", tmp_path / "b", "--class", "dots")
    assert (code, err) == (0, "")
    alone = data / "images" / "val_000000.jpg"
    code, out, err = call(checkpoint, alone, "--device", "cpu", "--out", tmp_path / "c")
    assert (code, err) == (0, "")
    assert drawn_in(tmp_path / "c") == {"1_overview", "2_confidence", "3_classes"}
    assert "known label" not in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("CHECKPOINT", "val_000000", "--data", "DATA", "--box", 0), "semantic_fpn labels pixels and finds no objects: "
         "leave out --box"),
        (("CHECKPOINT", "val_000000", "--detection", 0), "finds no objects: leave out --detection"),
        (("CHECKPOINT", "val_000000", "--score", 0.5), "finds no objects: leave out --score"),
        (("CHECKPOINT", "val_000000", "--class", "star"), "the model's classes are things, checks, dots, plain, strip"),
        (("semantic-fpn-small", "val_000000", "--data", "DATA", "--box", 0), "finds no objects: leave out --box"),
    ],
)  # fmt: skip
def test_what_is_about_objects_is_refused_in_a_sentence(words, sentence, checkpoint, data, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [str(word).replace("DATA", str(data)).replace("CHECKPOINT", str(checkpoint)) for word in words]
    code, out, err = call(*given)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "batch", "one"),
    [
        ("semantic-fpn-small", {"5_semantic_0"}, {"5_semantic"}),
        ("panoptic-fpn-small", {"2_anchors", "3_image_0", "5_semantic_0"},
         {"1_ground_truth", "2_anchors", "3_owners", "4_box_0", "5_semantic"}),
    ],
)  # fmt: skip
def test_a_recipe_is_explained_with_its_maps(name, batch, one, data, call, tmp_path):
    words = [name, *SMALL, "--data", data]
    code, out, err = call(*words, "--images", 1, "--out", tmp_path / "batch")
    assert (code, err) == (0, "")
    assert drawn_in(tmp_path / "batch") == batch
    assert out.count("Pixels by class: ") == 1
    code, out, err = call(*words, "val_000000", "--out", tmp_path / "one")
    assert (code, err) == (0, "")
    assert drawn_in(tmp_path / "one") == one
    assert out.count("Pixels by class: ") == 1


def test_data_without_maps_is_refused_by_a_recipe_of_them(call, tmp_path):
    write_shapes(tmp_path / "boxes", 1, 1, "coco", ShapesConfig(size=96))
    code, out, err = call("semantic-fpn-small", "val_000000", "--data", tmp_path / "boxes", "--out", tmp_path / "o")
    assert (code, out) == (2, "")
    assert "semantic-fpn-small learns the label of every pixel, but the data has none" in err
