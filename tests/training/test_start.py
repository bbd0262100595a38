"""What a run starts from: the recipe that weights bring along, and what a recipe must take from them."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.convert.architecture import merged
from boxwright.recipes import check_recipe, dump_recipe, load_recipe
from boxwright.recipes.fine_tuning import fine_tuning_recipe
from boxwright.structures import Classes
from boxwright.training.start import open_start, source_of
from boxwright.weights.licences import NON_COMMERCIAL, licence_of


@pytest.fixture
def own(tmp_path):
    """A checkpoint of ours of a detector of odd settings."""
    overrides = ["model.backbone=resnet18", "model.fpn.channels=24", "data.resize.size=96", "detect.nms_iou=0.4",
                 "detect.score_threshold=0.3"]  # fmt: skip
    recipe = load_recipe("retinanet-small", overrides)
    torch.manual_seed(0)
    weights = recipe.build_model(2).state_dict()
    save_checkpoint(Checkpoint(recipe, Classes.named("ab"), weights), tmp_path / "own.pt")
    return tmp_path / "own.pt"


def test_without_a_recipe_the_network_is_that_of_the_weights_and_the_rest_is_for_fine_tuning(own):
    start = open_start(None, own)
    model = start.recipe.model
    assert (start.recipe.name, model.name, model.fpn.channels) == ("retinanet-small-tuned", "retinanet", 24)
    assert (start.recipe.data.resize.size, start.recipe.detect.nms_iou) == (96, 0.4)
    assert start.recipe.detect.score_threshold == 0.05  # validation sees weak detections too
    assert (model.backbone.norm, model.backbone.frozen_stages, model.backbone.weights) == ("frozen_bn", 1, None)
    assert start.recipe.optim.backbone_lr_factor < 1
    assert start.recipe.schedule.warmup_steps <= 0.1 * start.recipe.schedule.step_bounds[0]
    assert start.source == str(own)
    assert start.notes == (f"recipe: the network of {own}, the settings for fine-tuning",)


@pytest.mark.parametrize("weights", [False, True])
def test_the_log_begins_with_the_recipe_that_is_taken_and_why(own, weights):
    start = open_start("fcos" if weights else None, own if weights else None, device="cpu")
    assert start.recipe.name == "fcos-small"
    line = start.notes[0]
    assert re.fullmatch(
        r"recipe: fcos is fcos-small; fcos@auto would be (the same|fcos-lite) here \(no GPU; .+\)", line
    )


def test_overrides_change_the_fine_tuning_recipe(own):
    start = open_start(None, own, ["optim.lr=0.1", "model.backbone.frozen_stages=0", "schedule.epochs=3"])
    assert (start.recipe.optim.lr, start.recipe.model.backbone.frozen_stages) == (0.1, 0)
    assert (start.recipe.schedule.steps, start.recipe.schedule.epochs) == (None, 3)
    with pytest.raises(ValueError, match=r"recipe retinanet-small-tuned: optim\.ls: unknown key"):
        open_start(None, own, ["optim.ls=0.1"])


def test_a_frozen_stage_stays_frozen_a_group_norm_stays_and_spare_channels_go():
    data = dump_recipe(load_recipe("fcos-r50-fpn-1x"))
    changes = {"backbone": {"norm": "gn", "frozen_stages": 3}, "compat": {"class_channels": [1, 4], "pad_multiple": 32}}
    tuned = fine_tuning_recipe(check_recipe({**data, "model": merged(data["model"], changes)}, "x"))
    assert (tuned.model.backbone.norm, tuned.model.backbone.frozen_stages) == ("gn", 3)
    assert (tuned.model.compat.class_channels, tuned.model.compat.pad_multiple) == (None, 32)
    assert tuned.name == "fcos-r50-fpn-1x-tuned"


def test_a_recipe_takes_the_colours_and_strides_that_the_weights_need(tmp_path):
    there = load_recipe("fcos-small", ["model.backbone.pixel_std=[0.1,0.1,0.1]", "model.backbone.norm_eps=0.001"])
    save_checkpoint(
        Checkpoint(there, Classes.named("ab"), there.build_model(2).state_dict()), tmp_path / "a.pt"
    )  # fmt: skip
    start = open_start("fcos-small", tmp_path / "a.pt")
    assert start.recipe.model.backbone == there.model.backbone
    assert start.notes == ("weights: the backbone has their pixel_std, norm_eps, not the recipe's",)
    kept = open_start("fcos-small", tmp_path / "a.pt", ["model.backbone.pixel_std=[0.2,0.2,0.2]"]).recipe.model.backbone
    assert (kept.pixel_std, kept.norm_eps) == ((0.2, 0.2, 0.2), 0.001)
    other = open_start("fcos-small", tmp_path / "a.pt", ["model.backbone=resnet34"])  # which load_weights will refuse
    assert (other.recipe.model.backbone.norm_eps, other.notes) == (None, ())


def test_without_weights_the_recipe_is_fcos():
    start = open_start(None, None)
    assert (start.recipe.name, start.checkpoint, start.origin) == ("fcos-small", None, None)
    assert [note for note in start.notes if "fcos-lite" not in note and not note.startswith("recipe: fcos is")] == []


def test_names_and_addresses_stay_as_they_are_and_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("torchvision/fcos_resnet50_fpn", "mmdetection/x", "detectron2://a/b.pkl", "https://example.org/a.pth"):
        assert source_of(name) == name
    assert source_of(Path("https://example.org/a.pth")) == "https://example.org/a.pth"
    assert source_of("runs/mine") == str(tmp_path / "runs" / "mine")


def test_an_exported_file_is_refused_with_the_reason(tmp_path):
    (tmp_path / "best.onnx").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"best\.onnx: an exported file contains no torch network: give the checkpoint"
    ):
        open_start(None, tmp_path / "best.onnx")


@pytest.mark.parametrize("library", ["detectron2/fcos", "mmdetection/faster_rcnn_r50", "adelaidet/fcos"])
def test_files_of_other_libraries_bring_their_network_and_licence(shared, library):
    folder = shared / "fixtures" / library
    (path,) = (file for file in folder.iterdir() if file.name.startswith("model."))
    start = open_start(None, path)
    family = library.partition("/")[0]
    assert start.checkpoint.origin["family"] == family
    assert start.recipe.model.backbone.pixel_mean == start.checkpoint.recipe.model.backbone.pixel_mean
    licence = NON_COMMERCIAL.get(family)
    assert start.origin == {"started_from": str(path), "licence": licence}
    assert (f"weights: licence {licence}" in start.notes) == (licence is not None)


def test_a_licence_is_known_by_library_address_or_the_name_of_a_published_file():
    assert licence_of("adelaidet", "mine.pth").startswith("non-commercial use only")
    assert licence_of("detectron2", "https://dl.fbaipublicfiles.com/detectron2/x/model_final_1.pkl") == "CC-BY-SA-3.0"
    assert licence_of("detectron2", "model_final_bfca0b.pkl") == "CC-BY-SA-3.0"
    assert licence_of("torchvision", "fcos_resnet50_fpn_coco-99b0c9b7.pth") == "BSD-3-Clause"
    assert licence_of("torchvision", "https://example.org/fcos.pth") is licence_of("course", "mine.pt") is None


@pytest.mark.parametrize("shape", ["module", "half", "ema", "safetensors"])
def test_weights_of_any_shape_start_a_run(shared, tmp_path, shape):
    source = shared / "fixtures" / "mmdetection" / "retinanet_r50" / "model.pth"
    state = torch.load(source, weights_only=True)["state_dict"]
    path = tmp_path / ("a.safetensors" if shape == "safetensors" else "a.pth")
    if shape == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save({
            "module": {"model": {f"module.{name}": value for name, value in state.items()}, "optimizer": {"state": {}}},
            "half": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
            "ema": {"model": {name: value + 1 for name, value in state.items()}, "ema": {"module": state}},
        }[shape], path)  # fmt: skip
    found, plain = open_start(None, path).checkpoint, open_start(None, source).checkpoint
    assert dataclasses.asdict(found.recipe.model) == dataclasses.asdict(plain.recipe.model)
    assert all(torch.equal(found.weights[name], value) for name, value in plain.weights.items())
