"""What version 0.1 wrote is read today and means the same: checkpoints, recipes and overrides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import load_checkpoint
from boxwright.data.proposals import read_proposals
from boxwright.inference.predictor import Detector
from boxwright.recipes import check_stored_recipe, dump_recipe, load_recipe
from boxwright.recipes.version1 import KEYS, MODEL, VALUES

FOLDER = Path(__file__).parent / "v0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
RECIPES = json.loads((FOLDER / "recipes.json").read_text())
OVERRIDES = json.loads((FOLDER / "overrides.json").read_text())
WORDS = ("description", "reference")
"""Text of a recipe that is for people, and was rewritten."""


CROPPED = {"data.resize.mode": "short_side"}
CHANGED = {
    "fcos-regnetx400mf-224": CROPPED,
    "fcos-regnetx400mf-224-overfit": CROPPED,
    "faster-rcnn-regnetx400mf-224": {
        **CROPPED,
        "model.rpn.low_inclusive": False,
        "model.rpn.largest_log_ratio": math.log(1000 / 16),
        "model.box.low_inclusive": False,
        "model.box.high_inclusive": True,
    },
}
"""Settings of version 0.1 that the recipe of that name no longer has: the course's own are there now."""


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dotted(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def renamed(key: str, value: Any) -> tuple[str, Any]:
    """A setting of version 0.1 by today's key and value."""
    key = KEYS.get(key, {"model.backbone": "model.backbone.name"}.get(key, key))
    return key, VALUES.get((key, value), value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", EXPECTED["files"])
def test_a_checkpoint_detects_what_it_detected(name: str, one_thread: None, tmp_path: Path) -> None:
    expected = EXPECTED["files"][name]
    detector = Detector.load(FOLDER / name, "cpu", precision="fp32")
    assert detector.recipe.model.name == expected["model"]
    assert detector.recipe.version == 2
    assert list(detector.classes.names) == expected["classes"]
    assert detector.score_threshold == expected["score_threshold"]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if "proposals" in expected:  # they are for files, known by their names
        image = tmp_path / expected["picture"]
        Image.fromarray(noise).save(image)
        proposals = read_proposals(FOLDER / expected["proposals"])
        (found,) = detector.predict([image], proposals=proposals, **EXPECTED["predict"])
    else:
        (found,) = detector.predict(noise, **EXPECTED["predict"])
    assert found.labels.tolist() == expected["labels"]
    torch.testing.assert_close(found.boxes, torch.tensor(expected["boxes"]), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, torch.tensor(expected["scores"]), rtol=0, atol=1e-4)
    if "mask_pixels" in expected:
        assert found.masks is not None
        pixels = torch.tensor([int(mask.sum()) for mask in found.masks])
        torch.testing.assert_close(pixels, torch.tensor(expected["mask_pixels"]), rtol=0, atol=2)


@pytest.mark.parametrize("name", [name for name, file in EXPECTED["files"].items() if "recipe" in file])
def test_a_checkpoints_recipe_is_that_of_its_overrides(name: str) -> None:
    expected = EXPECTED["files"][name]
    stored = dump_recipe(load_checkpoint(FOLDER / name).recipe)
    today = dump_recipe(load_recipe(expected["recipe"], expected["overrides"]))
    assert {key: stored[key] for key in stored if key not in WORDS} == {key: today[key] for key in stored
                                                                       if key not in WORDS}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_one_of_its_name(name: str) -> None:
    stored, shipped = dump_recipe(check_stored_recipe(RECIPES[name], name)), dump_recipe(load_recipe(name))
    for words in WORDS:
        stored.pop(words), shipped.pop(words)
    told = dotted(shipped)
    changed = {key: value for key, value in dotted(stored).items() if told[key] != value}
    assert changed == CHANGED.get(name, {})


@pytest.mark.parametrize("entry", OVERRIDES, ids=lambda entry: f"{entry['recipe']} {' '.join(entry['overrides'])}")
def test_an_override_changes_what_it_changed(entry: dict[str, Any]) -> None:
    before = dotted(dump_recipe(load_recipe(entry["recipe"])))
    after = dotted(dump_recipe(load_recipe(entry["recipe"], entry["overrides"])))
    changed = {key: after[key] for key in after if before[key] != after[key]}
    assert changed == dict(renamed(key, value) for key, value in entry["changed"].items())


def test_every_renamed_key_was_tried_and_none_stands_for_two() -> None:
    assert len(set(KEYS.values())) == len(KEYS)
    tried = {key for entry in OVERRIDES for key in entry["changed"]}
    assert {key for key in KEYS if key.startswith("model.")} <= tried
    stored = {key for recipe in RECIPES.values() for key in dotted(recipe) if key.count(".") == 1}
    assert {f"model.{key}" for key in MODEL} <= stored


@pytest.mark.parametrize(
    ("override", "note"),
    [
        (
            "model.fpn_channels=16",
            "old names of settings were understood: model.fpn_channels is now model.fpn.channels",
        ),
        ("validation.max_pictures=10", "validation.max_pictures is now validation.max_images"),
        ("model.backbone_variant={widths: [8, 8, 8, 1]}", "model.backbone_variant is now part of model.backbone"),
    ],
)
def test_an_old_key_is_read_with_a_note_that_names_the_new_one(
    override: str, note: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_recipe("fcos-small", [override])
    (record,) = caplog.records
    assert note in record.getMessage()
    caplog.clear()
    load_recipe("fcos-small", ["model.fpn.channels=16", "model.backbone=resnet18"])
    assert not caplog.records


def test_a_recipe_file_of_version_1_is_read_over_todays_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "version: 1\nbase: retinanet-small\nmodel: {backbone: resnet34, backbone_norm: gn, normaliser: picture}\n"
        "validation: {max_pictures: 7}\n"
    )
    recipe, base = load_recipe(path), load_recipe("retinanet-small")
    assert (recipe.model.backbone.name, recipe.model.backbone.norm) == ("resnet34", "gn")
    assert recipe.model.backbone.widths is None  # of the base, and for another network
    assert (recipe.model.loss.normaliser, recipe.validation.max_images) == ("image", 7)
    assert recipe.model.head == base.model.head
    assert "model.loss.normaliser=picture is now image" in caplog.text


def test_old_and_new_key_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: fcos-small\nmodel: {fpn_channels: 8, fpn: {channels: 16}}\n")
    with pytest.raises(ValueError, match=r"model\.fpn_channels is now model\.fpn\.channels, and both are given"):
        load_recipe(path)
