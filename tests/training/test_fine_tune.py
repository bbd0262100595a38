"""Starting from another checkpoint: what fits is taken over, and classes are matched by name."""

import re
from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
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
    return load_weights(model, classes, load_checkpoint(path), str(path)), model.state_dict(), fresh


def test_the_same_classes_take_everything(tmp_path):
    path, theirs = saved(tmp_path / "a.pt", "abc")
    sentence, own, _ = loaded(path, "abc")
    assert all(torch.equal(own[key], theirs[key]) for key in theirs)
    assert re.fullmatch(
        rf"weights: {path} \(fcos-small\): kept backbone, pyramid and head \(\d+ tensors, \d+\.\d million numbers\)",
        sentence,
    )


def test_classes_are_matched_by_name_and_new_ones_start_anew(tmp_path):
    path, theirs = saved(tmp_path / "a.pt", "abc")
    sentence, own, fresh = loaded(path, "cxay")
    for kind in ("weight", "bias"):
        key = f"head.class_logits.{kind}"
        assert torch.equal(own[key][0], theirs[key][2])
        assert torch.equal(own[key][2], theirs[key][0])
        assert torch.equal(own[key][[1, 3]], fresh[key][[1, 3]])
    assert all(torch.equal(own[key], theirs[key]) for key in theirs if "class_logits" not in key)
    assert "kept backbone, pyramid and head (" in sentence
    assert sentence.endswith(" numbers); rows of classes kept by name: c, a; new: x, y")
    prior = -torch.tensor(99.0).log()
    torch.testing.assert_close(own["head.class_logits.bias"][[1, 3]], prior.expand(2))


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
    load_weights(other, Classes.named("xcay"), load_checkpoint(tmp_path / "a.pt"), "a.pt")
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
    assert re.search(r"kept backbone, pyramid and part of the head \(.*; new part of the head \(\d+ tensors", sentence)


def test_another_backbone_is_refused_by_name_since_nothing_would_be_kept(tmp_path):
    path, _ = saved(tmp_path / "a.pt", "ab", "model.backbone=mobilenet_v3_small")
    with pytest.raises(
        ValueError,
        match=r"a\.pt \(fcos-small\): nothing would be kept: its backbone is mobilenet_v3_small, the recipe's is "
        r"resnet18 \(\d+ of \d+ tensors do not fit\); leave out the recipe",
    ):
        loaded(path, "ab")


def between(recipe: str, names: str, other: str, *overrides: str):
    """What weights of a recipe for the classes of `names` leave in another for "ab": sentence, own, theirs, fresh."""
    classes = Classes.named(names)
    one = load_recipe(recipe, ["model.backbone=resnet18", "model.fpn.channels=16"])
    torch.manual_seed(0)
    checkpoint = Checkpoint(one, classes, one.build_model(len(classes)).state_dict())
    torch.manual_seed(1)
    model = load_recipe(other, ["model.backbone=resnet18", "model.fpn.channels=16", *overrides]).build_model(2)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    sentence = load_weights(model, Classes.named("ab"), checkpoint, "x")
    return sentence, model.state_dict(), checkpoint.weights, fresh


def test_another_kind_of_head_keeps_backbone_and_pyramid(tmp_path):
    sentence, own, theirs, fresh = between("fcos-small", "ab", "retinanet-small")
    assert re.search(r"kept backbone and pyramid \(.* numbers\); new head \(\d+ tensors, .* numbers\)$", sentence)
    assert torch.equal(own["fpn.laterals.1.weight"], theirs["fpn.laterals.1.weight"])
    assert torch.equal(own["head.class_tower.0.weight"], fresh["head.class_tower.0.weight"])


def test_levels_of_a_pyramid_are_found_by_their_stride(tmp_path):
    """FCOS stands on C3 to C5, this Mask R-CNN on C2 to C5."""
    sentence, own, theirs, fresh = between("fcos-small", "ab", "mask-rcnn-small")
    for theirs_index in range(3):
        for part in ("laterals", "outputs"):
            key = f"fpn.{part}.{theirs_index}.weight"
            mine = f"detector.trunk.fpn.{part}.{theirs_index + 1}.weight"
            assert torch.equal(own[mine], theirs[key])
    assert torch.equal(own["detector.trunk.fpn.laterals.0.weight"], fresh["detector.trunk.fpn.laterals.0.weight"])
    assert "kept backbone and part of the pyramid (" in sentence
    assert "; new part of the pyramid, proposal network, box branch and mask branch (" in sentence


def test_a_pyramid_of_another_width_leaves_the_backbone(tmp_path):
    sentence, own, theirs, _ = between("fcos-small", "ab", "fcos-small", "model.fpn.channels=24")
    key = "backbone.body.layer4.1.conv2.weight"
    assert torch.equal(own[key], theirs[key])
    assert "kept backbone (" in sentence
    assert "; new pyramid and head (" in sentence  # what reads another pyramid would know nothing of this one


def test_a_mask_model_keeps_the_detector_that_it_holds_and_its_classes(tmp_path):
    sentence, own, theirs, fresh = between("faster-rcnn-small", "xb", "mask-rcnn-small", "model.fpn.levels=[c3,c4,c5]",
                                           "model.rpn.anchor_sizes=[[16,24],[32,48],[64,96],[128,192]]")  # fmt: skip
    assert "new mask branch (" in sentence
    assert sentence.endswith("rows of classes kept by name: b; new: a")
    logits = "box.class_logits.weight"
    assert torch.equal(own[f"detector.{logits}"][1:], theirs[logits][1:])  # b, and background
    assert torch.equal(own[f"detector.{logits}"][0], fresh[f"detector.{logits}"][0])
    assert torch.equal(own["detector.rpn.offsets.weight"], theirs["rpn.offsets.weight"])
