"""The rules of the course that are settings here: what an IoU at a threshold means, and how far a side may grow."""

import math

import pytest
import torch
from configs import TWO_STAGE_COURSE, config_of

from boxwright.models import MODELS, box_branch, proposal_network, retinanet
from boxwright.structures import GroundTruth, ImageBatch, Targets

SMALL = {
    "backbone.name": "resnet50", "backbone.widths": (4, 8, 2, 1), "backbone.weights": None, "fpn.channels": 8,
}  # fmt: skip
HEADS = {"rpn.stem_channels": (8,), "box.fc_channels": (8,), "box.samples": 8, "rpn.train_proposals": 8}
TARGETS = Targets.of([GroundTruth.of([[4.0, 4.0, 40.0, 50.0]], [0])])
LN_28 = math.log(28)


@pytest.mark.parametrize(
    ("name", "module", "section"),
    [
        ("retinanet", retinanet, "assignment"),
        ("faster_rcnn", proposal_network, "rpn"),
        ("faster_rcnn", box_branch, "box"),
    ],
)
@pytest.mark.parametrize("asked", [(True, False), (False, True)])
def test_the_matcher_is_told_what_a_threshold_means(monkeypatch, name, module, section, asked):
    heads = HEADS if name == "faster_rcnn" else {"head.stem_channels": (8,)}
    rules = {f"{section}.low_inclusive": asked[0], f"{section}.high_inclusive": asked[1]}
    model = MODELS[name].build(config_of(name, {**SMALL, **heads, **rules}), 1)
    told = []
    real = module.match_boxes

    def spied(*arguments, **settings):
        told.append((settings["low_inclusive"], settings["high_inclusive"]))
        return real(*arguments, **settings)

    monkeypatch.setattr(module, "match_boxes", spied)
    model.loss(model(ImageBatch.of([torch.rand(3, 64, 64)]), TARGETS), TARGETS)
    assert told == [asked]


@pytest.mark.parametrize(
    ("name", "key", "part"),
    [
        ("retinanet", "compat.largest_log_ratio", lambda model: model),
        ("faster_rcnn", "rpn.largest_log_ratio", lambda model: model.rpn),
        ("faster_rcnn", "box.largest_log_ratio", lambda model: model.box),
    ],
)
def test_sides_grow_as_far_as_the_setting_says(name, key, part):
    """62.5-fold by default, 28-fold in the course."""
    heads = HEADS if name == "faster_rcnn" else {"head.stem_channels": (8,)}
    box, offsets = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.0, 0.0, 500.0, 500.0]])
    for settings, fold in (({}, 62.5), ({key: LN_28}, 28.0)):
        model = MODELS[name].build(config_of(name, {**SMALL, **heads, **settings}), 1)
        decoded = part(model)._decoded(box, offsets)[0]
        assert float(decoded[2] - decoded[0]) == pytest.approx(8 * fold, rel=1e-5)


def test_a_limit_of_growth_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="largest_log_ratio: expected above 0 and below 80, got 0"):
        config_of("faster_rcnn", {"rpn.largest_log_ratio": 0.0})


def test_the_recipe_has_the_courses_own_rules():
    """Background up to 0.3, positive from 0.6; in the second stage positive above 0.5; 8 pixels become 224 at most."""
    rpn = {key: TWO_STAGE_COURSE[f"rpn.{key}"] for key in ("low_inclusive", "high_inclusive")}
    box = {key: TWO_STAGE_COURSE[f"box.{key}"] for key in ("low_inclusive", "high_inclusive")}
    assert rpn == {"low_inclusive": True, "high_inclusive": True}
    assert box == {"low_inclusive": True, "high_inclusive": False}
    assert TWO_STAGE_COURSE["rpn.largest_log_ratio"] == pytest.approx(math.log(224 / 8), abs=1e-15)
