"""Recorded references, and the one-to-one comparison of detections that issue 4 states."""

import json

import numpy as np
import pytest
import torch

from boxwright.convert.files import convert_file
from boxwright.models import MODELS
from boxwright.structures import ImageBatch, Targets, Truth


def build(converted):
    """The detector of a converted file, in evaluation mode."""
    model = MODELS[converted.recipe.model.name].build(converted.recipe.model_config_of(len(converted.classes)))
    model.load_state_dict(converted.weights)
    return model.eval()


class Case:
    """One recorded case: its pictures (RGB), truth, detections and losses, and our detector with its weights."""

    def __init__(self, folder):
        self.settings = json.loads((folder / "case.json").read_text())
        self.arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "case.npz").items()}
        (self.path,) = (file for file in folder.iterdir() if file.name.startswith("model."))
        self.converted = convert_file(self.path)
        self.model = build(self.converted)
        self.pictures = [self.arrays[f"image{k}"].flip(0).contiguous() for k in range(2)]
        self.targets = Targets.of([Truth.of(*self._truth(k)) for k in range(2)])

    def _truth(self, k):
        return self.arrays[f"gt_boxes{k}"], self.arrays[f"gt_classes{k}"]

    def expected(self, prefix, k):
        labels = self.arrays.get(f"{prefix}classes{k}", torch.zeros(len(self.arrays[f"{prefix}boxes{k}"]), dtype=int))
        return self.arrays[f"{prefix}boxes{k}"], self.arrays[f"{prefix}scores{k}"], labels

    def detect(self, pictures):
        images = ImageBatch.of(pictures)
        with torch.no_grad():
            return self.model.detect(self.model(images), images, self.converted.recipe.detect.settings())


@pytest.fixture
def assert_matched():
    """The comparison of issue 4, as a function."""
    return _assert_matched


def _assert_matched(found, expected, *, thresholds=(), box=1e-3, score=1e-5):
    """Detections matched one to one: boxes and scores within tolerance, labels equal; near a threshold they may differ.

    The lowest score counts as a threshold, since it is where the limit of detections fell.
    """
    boxes, scores, labels = expected
    close = (found.labels[:, None] == labels) & ((found.scores[:, None] - scores).abs() <= score)
    close &= (found.boxes[:, None] - boxes).abs().amax(-1) <= box
    taken = torch.zeros(len(labels), dtype=torch.bool)
    alone = []
    for row in range(len(found)):
        free = (close[row] & ~taken).nonzero()[:, 0]
        if len(free):
            taken[free[0]] = True
        else:
            alone.append(float(found.scores[row]))
    alone += scores[~taken].tolist()
    lowest = min([*scores.tolist(), *found.scores.tolist()], default=0.0)
    far = [value for value in alone if min(abs(value - t) for t in (*thresholds, lowest)) > score]
    assert not far, f"{len(far)} of {len(labels)} recorded and {len(found)} found detections have no partner: {far[:5]}"


@pytest.fixture(scope="session")
def case_of(shared):
    """A recorded case by its folder, such as "detectron2/fcos"; each is read once."""
    known = {}

    def read(name):
        if name not in known:
            known[name] = Case(shared / "fixtures" / name)
        return known[name]

    return read
