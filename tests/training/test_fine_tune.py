"""Starting from another checkpoint: what fits is taken over, and classes are matched by name."""

from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes
from boxwright.training.fine_tune import load_weights

TINY = ["model.backbone=resnet18", "model.fpn.channels=16", "model.head.stem_channels=[16]"]


def model_of(classes: Classes, *overrides: str, seed: int = 0, recipe: str = "fcos-small"):
    loaded = load_recipe(recipe, [*TINY, *overrides])
    torch.manual_seed(seed)
    return loaded, loaded.build_model(len(classes))


def saved(path: Path, names: str, *overrides: str):
    """A checkpoint of random weights for the classes named by the letters of `names`."""
    classes = Classes.named(names)
    recipe, model = model_of(classes, *overrides)
    save_checkpoint(Checkpoint(recipe, classes, model.state_dict()), path)
    return path, model.state_dict()


def loaded(path: Path, names: str, *overrides: str):
    classes = Classes.named(names)
    _, model = model_of(classes, *overrides, seed=1)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    return load_weights(model, classes, path), model.state_dict(), fresh


def test_the_same_classes_take_everything(tmp_path):
    path, theirs = saved(tmp_path / "a.pt", "abc")
    sentence, own, _ = loaded(path, "abc")
    assert all(torch.equal(own[key], theirs[key]) for key in theirs)
    assert sentence == f"weights: {path}"


def test_classes_are_matched_by_name_and_new_ones_start_anew(tmp_path):
    path, theirs = saved(tmp_path / "a.pt", "abc")
    sentence, own, fresh = loaded(path, "cxay")
    for kind in ("weight", "bias"):
        key = f"head.class_logits.{kind}"
        assert torch.equal(own[key][0], theirs[key][2])
        assert torch.equal(own[key][2], theirs[key][0])
        assert torch.equal(own[key][[1, 3]], fresh[key][[1, 3]])
    assert all(torch.equal(own[key], theirs[key]) for key in theirs if "class_logits" not in key)
    assert sentence == f"weights: {path}; classes kept by name: c, a"


@pytest.mark.parametrize(("old", "new"), [("abcd", "dcba"), ("abcd", "wxyz"), ("a", "b")])
def test_the_sides_of_boxes_are_not_taken_for_classes(tmp_path, old, new):
    """A box has four sides and one centerness: four classes, or one, must not mix with them."""
    path, theirs = saved(tmp_path / "a.pt", old)
    _, own, fresh = loaded(path, new)
    for key in theirs:
        if "class_logits" not in key:
            assert torch.equal(own[key], theirs[key]), key
    for place, name in enumerate(new):
        expected = theirs if name in old else fresh
        row = old.index(name) if name in old else place
        key = "head.class_logits.weight"
        assert torch.equal(own[key][place], expected[key][row])


def test_a_class_with_several_rows_keeps_them_together(tmp_path):
    """This RetinaNet has six anchors at a cell, and so six rows for each class."""
    classes = Classes.named("abc")
    recipe, model = model_of(classes, recipe="retinanet-small")
    save_checkpoint(Checkpoint(recipe, classes, model.state_dict()), tmp_path / "a.pt")
    theirs = {key: value.clone() for key, value in model.state_dict().items()}
    _, other = model_of(Classes.named("xcay"), recipe="retinanet-small", seed=1)
    fresh = {key: value.clone() for key, value in other.state_dict().items()}
    load_weights(other, Classes.named("xcay"), tmp_path / "a.pt")
    for kind in ("weight", "bias"):
        own, old, new = (state[f"head.class_logits.{kind}"] for state in (other.state_dict(), theirs, fresh))
        assert len(own) == 24
        assert torch.equal(own[6:12], old[12:])
        assert torch.equal(own[12:18], old[:6])
        assert torch.equal(own[:6], new[:6])
        assert torch.equal(own[18:], new[18:])


def test_another_width_takes_what_fits_and_says_so(tmp_path):
    path, theirs = saved(tmp_path / "a.pt", "ab")
    sentence, own, fresh = loaded(path, "ab", "model.head.stem_channels=[24]")
    assert torch.equal(own["fpn.outputs.0.weight"], theirs["fpn.outputs.0.weight"])
    assert torch.equal(own["head.class_tower.0.weight"], fresh["head.class_tower.0.weight"])
    assert "tensors start anew" in sentence


def test_another_detector_is_refused_by_name(tmp_path):
    path, _ = saved(tmp_path / "a.pt", "ab", "model.backbone=mobilenet_v3_small")
    with pytest.raises(ValueError, match=r"a\.pt holds another detector \(fcos, fcos-small\): \d+ of \d+ tensors"):
        loaded(path, "ab")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        loaded(tmp_path / "none.pt", "ab")
