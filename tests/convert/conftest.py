"""Recorded references, and the one-to-one comparison of detections that issue 4 states."""

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.convert.files import convert_file
from boxwright.models import MODELS
from boxwright.ops.boxes import pairwise_iou
from boxwright.structures import CroppedMask, GroundTruth, ImageBatch, Targets

EVERYTHING = 100_000
"""Samples an image, so many that none is left out: losses do not depend on chance."""


def build(converted, samples=None):
    """The detector of a converted file, in evaluation mode."""
    config = converted.recipe.model
    if samples is not None:
        parts = {name: dataclasses.replace(getattr(config, name), samples=samples)
                 for name in ("rpn", "box") if hasattr(config, name)}  # fmt: skip
        config = dataclasses.replace(config, **parts)
    model = MODELS[config.name].build(config, len(converted.classes))
    model.load_state_dict(converted.weights)
    return model.eval()


class Case:
    """One recorded case: its pixels (RGB), ground truth, detections and losses, and our detector with its weights."""

    def __init__(self, folder):
        self.settings = json.loads((folder / "case.json").read_text())
        self.arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "case.npz").items()}
        (self.path,) = (file for file in folder.iterdir() if file.name.startswith("model."))
        self.converted = convert_file(self.path)
        self.model = build(self.converted, EVERYTHING)
        self.images = [self.arrays[f"image{k}"].flip(0).contiguous() for k in range(2)]
        self.targets = Targets.of([GroundTruth.of(*self._ground_truth(k)) for k in range(2)])

    def _ground_truth(self, k):
        masks = None
        if f"gt_masks{k}" in self.arrays and self.arrays[f"gt_masks{k}"].numel():
            planes = self.masks("gt_", k)
            masks = [CroppedMask(0, 0, plane) for plane in planes]
        points = self.arrays.get(f"gt_keypoints{k}")
        boxes = self.arrays.get(f"gt_boxes{k}", torch.zeros(0, 4))  # a semantic model has none
        labels = self.arrays.get(f"gt_classes{k}", torch.zeros(0, dtype=torch.int64))
        return boxes, labels, None, masks, points, self.arrays.get(f"gt_sem_seg{k}")

    def expected(self, prefix, k):
        boxes, scores = self.arrays[f"{prefix}boxes{k}"], self.arrays[f"{prefix}scores{k}"]
        if f"{prefix}classes{k}" not in self.arrays:  # proposals: their scores are logits
            return boxes, scores.sigmoid(), torch.zeros(len(boxes), dtype=torch.int64)
        return boxes, scores, self.arrays[f"{prefix}classes{k}"]

    def masks(self, prefix, k):
        """Recorded masks (D, H, W) bool."""
        packed = self.arrays[f"{prefix}masks{k}"].numpy()
        return torch.from_numpy(np.unpackbits(packed, axis=2)).bool()

    def detect(self, pixels):
        images = ImageBatch.of(pixels)
        with torch.no_grad():
            return self.model.detect(self.model(images), images, self.converted.recipe.detect.settings())


@pytest.fixture(scope="session")
def build_converted():
    """Our detector of a converted file, as a function."""
    return build


@pytest.fixture
def assert_matched():
    """The comparison of issue 4, as a function."""
    return _assert_matched


def _assert_matched(found, expected, *, thresholds=(), box=1e-3, score=1e-5, swaps=0):
    """Detections matched one to one: boxes and scores within tolerance, labels equal; near a threshold they may differ.

    The lowest score counts as a threshold, since it is where the limit of detections fell. `swaps` is how many may be
    the other one of two overlapping boxes of one score and label, between which NMS decided by a rounding error.
    """
    boxes, scores, labels = expected
    close = (found.labels[:, None] == labels) & ((found.scores[:, None] - scores).abs() <= score)
    close &= (found.boxes[:, None] - boxes).abs().amax(-1) <= box
    taken = torch.zeros(len(labels), dtype=torch.bool)
    alone, swapped = [], 0
    for row in range(len(found)):
        free = (close[row] & ~taken).nonzero()[:, 0]
        if len(free):
            taken[free[0]] = True
            continue
        rival = (found.labels[row] == labels) & ((found.scores[row] - scores).abs() <= score) & ~taken
        rival = (rival & (pairwise_iou(found.boxes[row][None], boxes)[0] > 0.2)).nonzero()[:, 0]
        if len(rival) and swapped < swaps:
            taken[rival[0]] = True
            swapped += 1
        else:
            alone.append(float(found.scores[row]))
    alone += scores[~taken].tolist()
    lowest = min([*scores.tolist(), *found.scores.tolist()], default=0.0)
    far = [value for value in alone if min(abs(value - t) for t in (*thresholds, lowest)) > score]
    allowed = 2 * swapped  # the other winner suppresses others
    assert len(far) <= allowed, (
        f"{len(far)} of {len(labels)} recorded and {len(found)} found detections have no partner: {far[:5]}"
    )


@pytest.fixture(scope="session")
def case_of(shared):
    """A recorded case by its folder, such as "detectron2/fcos"; each is read once."""
    known = {}

    def read(name):
        if name not in known:
            known[name] = Case(shared / "fixtures" / name)
        return known[name]

    return read


@pytest.fixture(scope="session")
def torchvision_model():
    """Torchvision detectors with random weights that find something, by name and number of classes."""
    spec = importlib.util.spec_from_file_location("torchvision_models", Path(__file__).parent / "torchvision_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return functools.cache(module.random_model)
