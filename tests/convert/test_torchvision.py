"""Torchvision's detectors with random weights: ours finds the same in pictures of five sizes, alone and batched."""

import pytest
import torch

from boxwright.inference.predictor import Detector
from boxwright.ops.image import ResizeRule
from boxwright.structures import ImageBatch

SIZES = [(97, 131), (150, 60), (64, 200), (33, 41), (240, 320)]
"""Odd, portrait, landscape, tiny, large."""
MODELS = [
    "fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2",
]  # fmt: skip
RULE = ResizeRule("short_side", size=96, max_size=160, filter="plain", rounding="down")


@pytest.fixture(scope="module", params=MODELS)
def pair(request, torchvision_model, tmp_path_factory):
    """Torchvision's model and our detector of its file."""
    name = request.param
    num_classes = 91 if name in ("fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn") else 6
    model = torchvision_model(name, num_classes)
    path = tmp_path_factory.mktemp("files") / f"{name}.pth"
    torch.save(model.state_dict(), path)
    return name, model, Detector.load(path, device="cpu")


def pictures():
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


def expected_of(output, detector):
    """Torchvision's answer in our labels; what it finds on channels that are no class is left out, as ours does."""
    known = torch.tensor([label in detector.classes.ids for label in output["labels"].tolist()], dtype=torch.bool)
    labels = torch.tensor([detector.classes.ids.index(label) for label in output["labels"][known].tolist()])
    return output["boxes"][known], output["scores"][known], labels.long()


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "alone"])
def test_detections_are_torchvisions(pair, alone, assert_matched):
    name, model, detector = pair
    with torch.no_grad():
        theirs = [model([p])[0] for p in pictures()] if alone else model(pictures())
    rows = [[p] for p in pictures()] if alone else [pictures()]
    ours = [one for row in rows for one in detect(detector, row)]
    least = detector.settings.score_threshold
    assert sum(len(one) for one in ours) > 100
    for found, output in zip(ours, theirs, strict=True):
        assert_matched(found, expected_of(output, detector), thresholds=(least,), box=1e-2)
        if name.startswith("mask"):
            assert_same_masks(found, output)


def detect(detector, row):
    """Our detections of one batch that holds all the pictures, resized as torchvision's model does."""
    from boxwright.ops.image import fit_image, resize_plan

    plans = [resize_plan((p.shape[1], p.shape[2]), RULE) for p in row]
    images = ImageBatch.of(
        [fit_image(p, plan) for p, plan in zip(row, plans, strict=True)],
        [(p.shape[1], p.shape[2]) for p in row], [plan.scale_xy for plan in plans],
    )  # fmt: skip
    with torch.no_grad():
        return detector.model.detect(detector.model(images), images, detector.settings)


def assert_same_masks(found, output):
    ours, theirs = found.whole_masks(), output["masks"][:, 0]
    for row in range(min(len(found), 20)):
        partner = (output["boxes"] - found.boxes[row]).abs().amax(1).argmin()
        clear = (theirs[partner] - 0.5).abs() > 1e-3
        assert torch.equal(ours[row] & clear, (theirs[partner] > 0.5) & clear)
