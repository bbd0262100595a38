"""Recipes that start from bundled weights: the detectors of the small ones, settings of fine-tuning, their bases."""

import dataclasses

import pytest
from configs import dotted

from boxwright.recipes import load_recipe, recipe_names
from boxwright.training.schedule import scaled

DETECTORS = ["fcos", "retinanet", "faster-rcnn", "mask-rcnn", "fcos-mask"]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_lite_recipe_is_the_small_one_with_another_backbone_and_schedule(detector):
    lite, small = load_recipe(f"{detector}-lite"), load_recipe(f"{detector}-small")
    one, other = (dotted(dataclasses.asdict(recipe.model)) for recipe in (lite, small))
    assert {key.partition(".")[0] for key in one if one[key] != other[key]} == {"backbone"}
    assert (lite.data, lite.detect) == (small.data, small.detect)


@pytest.mark.parametrize("detector", DETECTORS)
def test_what_was_learned_before_is_kept_or_moves_slowly(detector):
    lite = load_recipe(f"{detector}-lite")
    backbone = lite.model.backbone
    assert (backbone.weights, backbone.norm, backbone.frozen_stages) == ("bundled", "frozen_bn", 2)
    assert lite.optim.backbone_lr_factor < 1
    assert lite.validation.patience is not None
    model = lite.build_model(num_classes=2)
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert any("blocks.1" in name for name in still)
    assert not any("blocks.2" in name for name in still)


@pytest.mark.parametrize(("images", "steps"), [(50, 1000), (160, 1000), (400, 2000), (5000, 8000)])
def test_the_length_of_fine_tuning_follows_the_number_of_images(images, steps):
    recipe = load_recipe("fcos-lite")
    assert scaled(recipe, images, world=1).steps == steps
    doubled = load_recipe("fcos-lite", ["data.batch_size=16"])
    assert scaled(doubled, images, world=1).steps == steps // 2


def test_a_number_of_steps_takes_the_place_of_epochs_and_their_bounds():
    schedule = load_recipe("fcos-lite", ["schedule.steps=7"]).schedule
    assert (schedule.steps, schedule.epochs, schedule.step_bounds) == (7, None, None)


@pytest.mark.parametrize(
    "setting", ["schedule={steps: 9, step_bounds: [1, 2]}", "schedule={epochs: 9, step_bounds: [2, 1]}"]
)
def test_bounds_that_bind_nothing_are_refused(setting):
    with pytest.raises(ValueError, match=r"schedule\.step_bounds: expected the least and the most steps"):
        load_recipe("fcos-small", [setting])


def test_bases_are_no_recipes_but_any_recipe_may_lie_over_them(tmp_path):
    assert not [name for name in recipe_names() if name.startswith("base-")]
    own = tmp_path / "own.yaml"
    own.write_text("base: base-finetune\nmodel: {name: retinanet, backbone: {name: resnet18}}\n", encoding="utf-8")
    recipe = load_recipe(own)
    assert (recipe.model.name, recipe.model.backbone.frozen_stages) == ("retinanet", 2)
    assert recipe.optim == load_recipe("fcos-lite").optim
    with pytest.raises(ValueError, match="no recipe 'base-finetune'"):
        load_recipe("base-finetune")


def test_another_backbone_does_not_keep_what_only_one_network_has():
    backbone = load_recipe("fcos-lite", ["model.backbone=resnet18"]).model.backbone
    plain = load_recipe("fcos-small", ["model.backbone=resnet18"]).model.backbone
    assert (backbone.weights, backbone.pixel_mean, backbone.pixel_std) == (None, plain.pixel_mean, plain.pixel_std)
    same = load_recipe("fcos-lite", ["model.backbone=timm/tf_efficientnet_lite0"])
    assert same.model == load_recipe("fcos-lite").model
