"""Files as trainers write them: the detector is found under whatever stands around its names and beside its weights."""

import argparse
import functools

import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn

from boxwright.convert.files import convert_file, convert_state
from boxwright.inference.loading import open_checkpoint


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).half().state_dict()


def named(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture(scope="module")
def plain(state):
    return convert_state(state, "plain")


def same(found, plain):
    return found.recipe.model == plain.recipe.model and all(
        torch.equal(found.weights[name], value) for name, value in plain.weights.items()
    )


@pytest.mark.parametrize("prefix", ["model.", "detector.", "net.model.", "a.b.c."])
def test_a_detector_within_a_module_of_a_trainer_is_found(state, plain, prefix):
    beside = {"loss.weight": torch.ones(2), "loss.bias": torch.ones(2), "scale": torch.ones(1)}
    found = convert_state({**named(state, prefix), **beside}, "x")
    assert same(found, plain)
    assert found.skipped == (f"what is not below {prefix} (loss.weight, loss.bias, scale)",)
    assert convert_state(named(state, prefix), "x").skipped == ()


def test_what_is_left_over_within_the_detector_is_still_refused(state):
    with pytest.raises(ValueError, match=r"1 entry unused: more\.weight"):
        convert_state(named({**state, "more.weight": torch.ones(2)}, "model."), "x")


def test_two_detectors_in_a_file_are_named(state):
    with pytest.raises(ValueError, match=r"2 detectors, below student\. and teacher\.: save the one that is meant"):
        convert_state({**named(state, "student."), **named(state, "teacher.")}, "x")


class Schedule:
    """A class of a trainer, which no other program has."""

    def __init__(self):
        self.steps = [1, 2]


def reference_trainer(state):
    """What torchvision's references/detection/train.py saves, with what others put beside it."""
    return {
        "model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.02}]}, "lr_scheduler": Schedule(),
        "args": argparse.Namespace(data_path="/data", device="cuda", callback=functools.partial(print)), "epoch": 25,
    }  # fmt: skip


@pytest.mark.parametrize("new", [True, False])
def test_objects_beside_the_weights_are_left_out_and_named(tmp_path, state, plain, caplog, new):
    torch.save(reference_trainer(state), tmp_path / "model_25.pth", _use_new_zipfile_serialization=new)
    found = convert_file(tmp_path / "model_25.pth")
    assert same(found, plain)
    schedule = f"{Schedule.__module__}.Schedule"
    assert found.skipped == (f"lr_scheduler ({schedule})", "args (argparse.Namespace)")
    open_checkpoint(tmp_path / "model_25.pth")
    assert "model_25.pth: ignored, because no part of the network needs it: lr_scheduler" in caplog.text


def test_a_whole_pickled_model_is_refused_with_what_to_save(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(
        ValueError, match=r"whole\.pth.*it asks for torch\.nn\.modules\.linear\.Linear; .*state_dict\(\)"
    ):
        convert_file(tmp_path / "whole.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_do_not_convert(state, value):
    name = "head.classification_head.cls_logits.bias"
    with pytest.raises(ValueError, match=r"x: weights that are not finite numbers"):
        convert_state({**state, name: torch.full_like(state[name], value)}, "x")


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize(
    "name", ["backbone.body.conv1.weight", "backbone.body.layer1.0.conv2.weight",
             "head.classification_head.cls_logits.weight", "head.classification_head.conv.0.weight"]
)  # fmt: skip
def test_tensors_of_a_strange_shape_are_one_sentence(state, name, shape):
    with pytest.raises(ValueError, match=r"^(x: taken for torchvision, but|recipe x: model)"):
        convert_state({**state, name: torch.ones(shape)}, "x")
