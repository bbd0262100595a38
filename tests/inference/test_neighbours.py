"""What a detector finds in an image does not depend on the images that are predicted with it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.deploy.export.graph import detector_graph, record
from boxwright.deploy.export.onnx import write_onnx
from boxwright.deploy.export.program import write_program
from boxwright.evaluation.detect_split import SplitDetections, detect_split, evaluation_settings
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, ImageBatch

CLASSES = Classes.named(["cell", "dot", "ring"])
RECIPES = ("fcos-small", "retinanet-small", "rpn-small", "faster-rcnn-small", "mask-rcnn-small", "fcos-mask-small")
SHAPES = [(60, 180), (180, 60), (60, 180), (90, 120), (120, 90), (100, 100), (60, 175), (90, 120), (64, 64)]
"""Height and width: from 1:3 to 3:1, some of them twice."""
PIXELS, SCORE = 0.5, 0.005


def detector_of(name: str, *settings: str, precision: str = "fp32") -> Detector:
    """A small detector with random weights whose class scores differ from place to place."""
    torch.manual_seed(0)
    recipe = load_recipe(name, ["data.resize.size=96", "data.resize.max_size=200", "model.fpn.channels=32", *settings])
    classes = Classes.named(["object"]) if name.startswith("rpn") else CLASSES
    model: Any = recipe.build_model(len(classes))
    with torch.no_grad():
        for part, module in model.named_modules():
            if part.endswith(("class_logits", "objectness", "logits")) and hasattr(module, "weight"):
                module.weight.mul_(30)
                module.bias.zero_()
    return Detector(Checkpoint(recipe, classes, model.state_dict(), score_threshold=0.05), "cpu", precision=precision)


@pytest.fixture(scope="module")
def images(scene: Any) -> list[np.ndarray]:
    return [scene(height, width, seed) for seed, (height, width) in enumerate(SHAPES)]


def assert_alike(one: Detections, other: Detections) -> None:
    """Each has the other's detections, but for those at the score where a full list ends."""
    assert len(one) > 2
    for mine, theirs in ((one, other), (other, one)):
        end = float(theirs.scores[-1]) + 2 * SCORE
        apart = (mine.boxes[:, None] - theirs.boxes).abs().amax(-1)
        near = (apart <= PIXELS) & ((mine.scores[:, None] - theirs.scores).abs() <= SCORE)
        near &= mine.labels[:, None] == theirs.labels
        missing = ~near.any(1) & (mine.scores > end)
        assert not missing.any(), f"{int(missing.sum())} of {len(mine)}: {mine.boxes[missing][:2]}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_of_every_detector_alone_and_among_others(recipe: str, images: list[np.ndarray]) -> None:
    detector = detector_of(recipe)
    alone = [detector.predict(image)[0] for image in images]
    for batch in (2, 8):
        for one, other in zip(alone, detector.predict(images, batch=batch), strict=True):
            assert_alike(one, other)


@pytest.mark.parametrize("norm", ["none", "gn", "bn"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_of_every_norm_and_precision(norm: str, precision: str, images: list[np.ndarray]) -> None:
    detector = detector_of("fcos-small", f"model.head.norm={norm}", precision=precision)
    alone = [detector.predict(image)[0] for image in images]
    for one, other in zip(alone, detector.predict(images, batch=8), strict=True):
        assert_alike(one, other)


def test_a_backbone_that_averages_over_the_whole_image_too(images: list[np.ndarray]) -> None:
    """Squeeze and excitation."""
    detector = detector_of("fcos-small", "model.backbone=mobilenet_v3_small")
    alone = [detector.predict(image)[0] for image in images]
    for one, other in zip(alone, detector.predict(images, batch=8), strict=True):
        assert_alike(one, other)


@pytest.mark.parametrize("losses", [False, True], ids=["evaluate", "validation"])
def test_over_a_split(losses: bool, images: list[np.ndarray], tmp_path: Path) -> None:
    """The one way to figures, with and without the losses that validation computes beside."""
    (tmp_path / "data.yaml").write_text("names: [cell, dot, ring]\n")
    for number, pixels in enumerate(images):
        for kind in ("images", "labels"):
            (tmp_path / kind / "val").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / "val" / f"{number}.png")
        (tmp_path / "labels" / "val" / f"{number}.txt").write_text("1 0.5 0.5 0.4 0.4\n")
    detector = detector_of("fcos-small")
    split = DetectionDataset(open_folder(tmp_path).splits["val"], detector.resize)
    settings = evaluation_settings(detector.settings)
    alone, together = (
        SplitDetections.joined(list(detect_split(detector, split, settings, batch=batch, losses=losses))).images
        for batch in (1, 8)
    )
    assert len(alone) == len(images)
    for index, one in alone.items():
        assert_alike(one, together[index])


@pytest.mark.slow  # `tests/deploy/test_runtime.py` compares files with their checkpoint, alone and in batches
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_of_exported_files(suffix: str, images: list[np.ndarray], tmp_path: Path) -> None:
    """With group norm, whose statistics a padded batch would change."""
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        pytest.skip("the packages of boxwright[export] are not installed")
    recipe = ("model.head.norm=gn", "model.backbone=resnet18", "model.head.stem_channels=[32]")
    graph, description = detector_graph(detector_of("fcos-small", *recipe)._checkpoint)
    write = {"onnx": write_onnx, "pt2": write_program}[suffix]
    write(record(graph, description), tmp_path / f"file.{suffix}", description)
    file = Detector.load(tmp_path / f"file.{suffix}", "cpu")
    alone = [file.predict(image)[0] for image in images]
    for one, other in zip(alone, file.predict(images, batch=8), strict=True):
        assert_alike(one, other)


def test_a_padded_batch_would_find_something_else(images: list[np.ndarray]) -> None:
    """So the tests above can fail: group norm's statistics take in the padding."""
    detector = detector_of("fcos-small")
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images[:2]]
    settings = detector.settings_with()
    padded = detector.engine(ImageBatch.of(tensors), settings).restore(ImageBatch.of(tensors))
    alone = [detector.predict(tensor, resize=None)[0] for tensor in tensors]
    with pytest.raises(AssertionError):
        assert_alike(alone[0], padded[0])
