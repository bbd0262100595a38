"""Each row of Detectron2's zoo has a recipe: the figures are the row's, and its file fits the recipe's network."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from boxwright.convert.export import export_state
from boxwright.convert.files import convert_state
from boxwright.recipes import dump_recipe, load_recipe, recipe_names
from boxwright.weights.zoo import DETECTRON2_ROWS, MILLIONS, recipe_of, zoo_entry

ROWS = {row: recipe_of(f"detectron2/{row}") for row in DETECTRON2_ROWS}
WITHOUT_A_PYRAMID = [row for row in ROWS if ("_C4_" in row or "_DC5_" in row) and "rcnn" in row]
# what a file of Detectron2 computes, which our recipes do not take over: strides and anchors of its own
THEIRS = ["backbone.stride_in_1x1=true", "backbone.widths=[8,8,8,1]", "rpn.anchor_grid=corner"]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_recipe_with_its_figures_and_its_length(row: str) -> None:
    assert ROWS[row] in recipe_names()
    recipe, entry = load_recipe(ROWS[row]), zoo_entry(f"detectron2/{row}")
    published = [entry.proposal_ar] if entry.ap is None else [entry.ap, entry.mask_ap, entry.keypoint_ap]
    assert all(f"{value:.1f} " in recipe.reference for value in published if value is not None)
    assert "model" not in recipe.reference or entry.model_id in recipe.reference
    assert recipe.optim.reference_batch == 16
    assert recipe.schedule.steps == {"1x": 90_000, "3x": 270_000}[entry.schedule]
    drops = [round(part * recipe.schedule.steps, -1) for part in recipe.schedule.milestones]
    assert drops == {"1x": [60_000, 80_000], "3x": [210_000, 250_000]}[entry.schedule]


@pytest.mark.parametrize("row", [row for row in ROWS if row.endswith("3x") and "_X_" not in row])
def test_a_row_of_three_times_the_length_differs_in_length_and_depth_alone(row: str) -> None:
    long, short = load_recipe(ROWS[row]), load_recipe(ROWS[row.replace("_101_", "_50_").replace("3x", "1x")])
    assert long.model.backbone.name == ("resnet101" if "_101_" in row else "resnet50")
    backbone = dataclasses.replace(long.model.backbone, name="resnet50")
    assert dataclasses.replace(long.model, backbone=backbone) == short.model
    assert (long.data, long.optim, long.detect) == (short.data, short.optim, short.detect)


@pytest.mark.parametrize("row", WITHOUT_A_PYRAMID)
def test_a_file_of_a_row_without_a_pyramid_is_of_its_recipes_network(row: str) -> None:
    """On narrow maps: the names are the zoo's, and what the file is taken for is what the recipe builds."""
    recipe = load_recipe(ROWS[row], [f"model.{key}" for key in THEIRS])
    torch.manual_seed(0)
    weights = recipe.build_model(3).state_dict()
    state = export_state(dump_recipe(recipe)["model"], 3, weights, "detectron2")
    blocks = {name.split(".")[2] for name in state if name.startswith("backbone.res4.")}
    assert len(blocks) == (23 if "_101_" in row else 6)
    stage = "roi_heads.res5." if "_C4_" in row else "backbone.res5."
    assert f"{stage}2.conv3.norm.running_var" in state
    assert ("roi_heads.box_head.fc2.weight" in state) == ("_DC5_" in row)
    assert ("roi_heads.mask_head.mask_fcn4.weight" in state) == (row.startswith("mask") and "_DC5_" in row)
    assert ("roi_heads.mask_head.deconv.weight" in state) == row.startswith("mask")
    again = convert_state(state, "here")
    kind = "C4" if "_C4_" in row else "DC5"
    assert again.origin is not None
    assert again.origin["architecture"] == f"{row.partition('_rcnn')[0]}_rcnn {kind}"
    found, asked = again.recipe.model, recipe.model
    (stem,) = [
        name for name in weights if name.endswith("body.conv1.weight")
    ]  # it holds the deviation of pixels, which the file cannot say
    assert all(torch.equal(again.weights[name], value) for name, value in weights.items() if name != stem)
    for model, stems in ((found, again.weights[stem]), (asked, weights[stem])):
        stems /= torch.tensor(model.backbone.pixel_std)[:, None, None]
    torch.testing.assert_close(again.weights[stem], weights[stem])
    assert (found.backbone.name, found.backbone.dilated_c5) == (asked.backbone.name, asked.backbone.dilated_c5)
    assert dataclasses.replace(found.rpn, normaliser=asked.rpn.normaliser) == asked.rpn
    assert found.box == asked.box
    assert getattr(found, "mask", None) == getattr(asked, "mask", None)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_the_zoo_counts_the_parameters_of_the_recipe(row: str) -> None:
    with torch.device("meta"):
        model = load_recipe(ROWS[row]).build_model(1 if row.startswith("keypoint") else 80)
    millions = sum(value.numel() for value in model.parameters()) / 1e6
    assert millions == pytest.approx(MILLIONS[row.rsplit("_", 1)[0]], abs=0.15)  # frozen norms are buffers
